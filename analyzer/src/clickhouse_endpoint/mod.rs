//! ClickHouse's HTTP interface over libchdb: the embedded default behind the analyzer, and a database of its own for anyone
//! who speaks that interface.
//!
//! The way of a query: [`server`] (routes, answer) -> [`request`] (parameters) -> [`exchange`] (one query on a blocking
//! thread) -> [`statement`] (what it is; pipes for data and result) -> [`engine`] and [`library`] (libchdb) -> [`answer`].
//!
//! Guarantee: what clients of a ClickHouse server send is understood or refused with a ClickHouse error; memory is bounded for
//! results and inserts of any size. The one misuse: taking it for a server with users and limits of its own: it has one user,
//! and that user may do what the process may.

pub mod answer;
pub mod body;
pub mod compression;
pub mod engine;
pub mod exception;
pub mod exchange;
pub mod format;
pub mod lexer;
pub mod library;
pub mod random;
pub mod request;
pub mod server;
pub mod session;
pub mod settings;
pub mod statement;
pub mod telemetry;
