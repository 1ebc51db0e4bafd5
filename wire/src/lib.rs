//! The contract between sidecar and analyzer.
//!
//! [`record`] is the one table of names, [`batch`] the columnar form that travels, [`histogram`] the latency buckets. No IO, no
//! clock. Old bytes decode for ever: fields are added, never renumbered (golden bytes in `tests/golden` hold this).

pub mod batch;
pub mod histogram;
pub mod record;

pub use batch::{BatchBuilder, Column, DecodeError, DecodedBatch, EncodedBatch, column};
pub use record::{Completeness, FIELDS, Field, Protocol, RequestRecord, Scope, Side, SourceKind, Status, Transport, Value, opentelemetry};

/// The commit that the programs were built from, 12 hexadecimal digits, or `unknown`.
pub const REVISION: &str = env!("PODTAP_REVISION");

/// Messages generated from `proto/podtap/v1/ingest.proto`.
pub mod proto {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/podtap.v1.rs"));
}
