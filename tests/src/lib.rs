//! Fixtures shared by the demo and the end-to-end tests: a pod, real servers in and around it, load with exact counts.
//!
//! Every process is started by [`process`], every namespace by [`pod`], every file lies in the [`run`] folder; so a run
//! leaves nothing behind when it ends, and what a killed run could not remove is removed by the next one. Do not spawn
//! processes or make namespaces any other way.

pub mod analyzer;
pub mod app;
pub mod clickhouse;
pub mod cluster;
pub mod failure;
pub mod faults;
pub mod http;
pub mod kafka;
pub mod load;
pub mod mariadb;
pub mod metrics;
pub mod nginx;
pub mod pod;
pub mod process;
pub mod proxy;
pub mod random;
pub mod run;
pub mod running;
pub mod sidecar;
pub mod system;
pub mod wait;
pub mod webhook;

pub use failure::{Context, Failure, Result};
