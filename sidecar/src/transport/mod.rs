//! The way of batches to the far side: [`batcher`] closes them, [`spool`] keeps them until they are acknowledged, a [`Sink`] carries them.
//!
//! A batch leaves the spool only when the far side has said that it is stored. Whatever goes wrong in between is answered by sending
//! again from the oldest one, in order; the analyzer drops what came twice by the sender's sequence.

pub mod batcher;
pub mod grpc;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod print;
pub mod sender;
pub mod spool;

use std::time::Duration;

/// Which batch: 16 bytes of the boot that made it, and its number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchId {
    /// The sender's boot.
    pub boot: [u8; 16],
    /// Number within the boot, from 1.
    pub sequence: u64,
}

/// A batch on its way. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Which one.
    pub id: BatchId,
    /// How many records it holds.
    pub rows: u32,
    /// The encoded `podtap.v1.RecordBatch`.
    pub bytes: prost::bytes::Bytes,
}

/// What became of a batch that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Taken; an event will say what became of it.
    Taken,
    /// Not now.
    Busy,
    /// Never: this batch cannot be sent, for this reason (a label of `podtap_records_dropped_total`).
    Refused(&'static str),
}

/// What a sink has to say about batches that it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkEvent {
    /// Stored for good by the far side.
    Acknowledged(BatchId),
    /// Will never be stored, for this reason (a label of `podtap_records_dropped_total`).
    Refused(BatchId, &'static str),
    /// Everything that is not acknowledged has to be offered again, the oldest first.
    Restart,
    /// Nobody listens any more and nobody will: the run is over, in good order.
    Closed,
}

/// Whether the far side answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// It does.
    Up,
    /// It does not, for this reason.
    Down(String),
}

/// Carries batches to the far side. Used by one thread; must not block longer than the time-out it is given.
pub trait Sink: Send {
    /// Takes a batch or says why not. Batches are offered in order.
    fn offer(&mut self, batch: &Batch) -> Offer;
    /// Works for about `timeout` and says what happened.
    fn poll(&mut self, timeout: Duration, events: &mut Vec<SinkEvent>);
    /// Whether the far side answers.
    fn state(&self) -> LinkState;
}
