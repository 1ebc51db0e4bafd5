//! Analyzer.

pub mod clickhouse_endpoint;
