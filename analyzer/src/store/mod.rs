//! What the analyzer keeps and asks: [`Store`], ClickHouse ([`clickhouse`]) and a recording one for tests ([`recording`]).
//!
//! The only place that knows SQL and ClickHouse's formats. Guarantee: [`Store::write_blocks`] stores a block's rows before its
//! manifest and may be repeated with the same blocks at any time. Reads that count go through FINAL; a plain SELECT from these tables
//! counts rows that were written twice.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use crate::alarm::state::Alarm;
use crate::ingest::block::{BlockWrite, PartitionId, ResumePoint};
use crate::query::{Answer, Question};

pub mod clickhouse;
pub mod cluster;
pub mod kubernetes;
pub mod migrations;
pub mod native;
pub mod questions;
pub mod recording;
pub mod retention;
pub mod rollup;
pub mod rows;
pub mod views;

/// A boxed future, so that a store can be chosen at run time.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where blocks, alarms and answers live.
pub trait Store: Send + Sync {
    /// Stores blocks: all rows first, then their manifests. Blocks of a partition come in order.
    fn write_blocks<'a>(&'a self, writes: &'a [BlockWrite]) -> StoreFuture<'a, ()>;

    /// Where to go on reading a partition, `None` if nothing of it was stored. Call it only as the partition's owner: rows of its
    /// first incomplete block that were counted under another classification are deleted.
    fn resume_point<'a>(&'a self, partition: &'a PartitionId) -> StoreFuture<'a, Option<ResumePoint>>;

    /// Stores alarms as they are now.
    fn write_alarms<'a>(&'a self, alarms: &'a [Alarm]) -> StoreFuture<'a, ()>;

    /// Answers a question.
    fn ask<'a>(&'a self, question: &'a Question) -> StoreFuture<'a, Answer>;
}

/// The kind of a failure: bounded, for metrics and for whoever decides what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Wrong user, password or rights.
    Access,
    /// The disk is full.
    DiskFull,
    /// Tables are read-only.
    ReadOnly,
    /// Inserts come faster than merges.
    TooManyParts,
    /// A limit of memory, rows or time was met.
    Limit,
    /// A table or column is missing or different: migrate.
    Schema,
    /// Anything else that ClickHouse refused.
    Refused,
}

impl Reason {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Unreachable,
        Self::Timeout,
        Self::Access,
        Self::DiskFull,
        Self::ReadOnly,
        Self::TooManyParts,
        Self::Limit,
        Self::Schema,
        Self::Refused,
    ];

    /// Label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Access => "access",
            Self::DiskFull => "disk_full",
            Self::ReadOnly => "read_only",
            Self::TooManyParts => "too_many_parts",
            Self::Limit => "limit",
            Self::Schema => "schema",
            Self::Refused => "refused",
        }
    }
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError {
    /// What kind of failure.
    pub reason: Reason,
    /// What was being done.
    pub action: &'static str,
    /// What ClickHouse or the connection said.
    pub message: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.action, self.reason.as_str(), self.message)
    }
}

impl std::error::Error for StoreError {}
