//! Turns request records into latency histograms in ClickHouse, alarms and notifications.
//!
//! The data's way: [`ingest`] -> [`aggregate`] -> [`store`] -> [`query`] -> [`alarm`] -> [`notify`], with [`api`] beside
//! [`query`]. [`aggregate`] and [`alarm`] do no IO and read no clock; only [`store`] knows SQL, only `ingest/kafka.rs` Kafka.

pub mod aggregate;
pub mod alarm;
pub mod api;
pub mod app;
pub mod clickhouse_endpoint;
pub mod config;
pub mod evaluation;
pub mod ingest;
pub mod inject;
pub mod metrics;
pub mod notify;
pub mod query;
pub mod rollup;
pub mod store;
pub mod telemetry;
