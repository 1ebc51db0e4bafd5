//! From a log of batches to the store: Kafka (`kafka`), or the analyzer's own log that the gRPC endpoint appends to
//! ([`grpc`], [`segment_log`]); both are cut into blocks ([`block`]) and written by [`writer`].
//!
//! Beside the log: who had which address ([`kubernetes`]), and what containers use ([`cadvisor`]).
//!
//! Guarantee: what a block contributes is a pure function of the sender marks before it and its bytes, so a crash, a replay or a
//! second owner rewrites the same rows. An offset is committed only behind a block whose manifest is stored complete. Never
//! start reading anywhere but at a block's start with that block's marks ([`block::PartitionFold::resume`]).

pub mod block;
pub mod cadvisor;
pub mod grpc;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod kubernetes;
pub mod marks;
pub mod partition;
pub mod segment_log;
pub mod segment_reader;
pub mod starts;
pub mod writer;
