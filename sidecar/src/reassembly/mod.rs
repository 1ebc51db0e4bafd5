//! TCP reassembly: two byte streams per connection, in order, once, with holes as ordinary events.
//!
//! Guarantees: every byte is handed out at most once and in order, with the time stamp of the packet that carried it; bytes are
//! handed out only after all the peer's bytes that their sender had acknowledged (so an answer never overtakes its request);
//! nothing is copied while segments arrive in order. Misuse to avoid: a gap is no error and no end, the stream goes on after it.

mod flow;
mod index;
pub mod limits;
mod stream;
mod table;
#[cfg(test)]
mod tests;

pub use flow::{Flow, FlowFacts};
pub use limits::Limits;
pub use table::FlowTable;

/// Which end of a flow sent something: an index into [`FlowFacts::ends`].
pub type End = usize;

/// What is known about the bytes of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Offset in its stream of the first byte that the rest applies to.
    pub offset: u64,
    /// Capture time of the packet.
    pub time_ns: u64,
    /// How much of the peer's stream the sender had received by then, as an offset in that stream.
    pub acknowledged: Option<u64>,
}

impl Mark {
    /// Forgets what is known about bytes in front of an offset.
    pub fn begin_at(marks: &mut Vec<Self>, offset: u64) {
        let passed = marks.partition_point(|mark| mark.offset <= offset).saturating_sub(1);
        marks.drain(..passed);
        if let Some(mark) = marks.first_mut() {
            mark.offset = offset;
        }
    }
}

/// What reassembly hands out.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The next bytes of a stream.
    Data {
        /// Who sent them.
        sender: End,
        /// Offset and time of the first byte.
        mark: Mark,
        /// At least one byte.
        bytes: &'a [u8],
    },
    /// Bytes that were not seen.
    Gap {
        /// Who sent them.
        sender: End,
        /// Offset of the first missing byte.
        offset: u64,
        /// How many.
        length: u64,
        /// True if they were left out on purpose.
        skipped: bool,
    },
    /// The stream is over (FIN).
    Finished {
        /// Whose stream.
        sender: End,
        /// Capture time of the packet that carried the FIN.
        time_ns: u64,
    },
    /// The connection is over.
    Closed(Close),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Both ends sent FIN.
    Finished,
    /// RST.
    Reset,
    /// Another connection took over the same addresses and ports.
    Replaced,
    /// No packet for [`Limits::request_timeout_ns`]: what is open has no answer. The connection goes on.
    RequestTimeout,
    /// No packet for [`Limits::flow_idle_ns`].
    Idle,
    /// The table was full.
    Evicted,
    /// The capture is over.
    CaptureEnded,
}

/// What reassembly counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections seen since the start.
    pub flows_opened: u64,
    /// Of these, joined in the middle.
    pub flows_joined: u64,
    /// Forgotten because the table was full.
    pub flows_evicted: u64,
    /// Payload bytes in packets, all copies.
    pub payload_bytes: u64,
    /// Payload bytes handed out.
    pub delivered_bytes: u64,
    /// Copies of bytes that were already handed out: retransmissions, the second interface.
    pub duplicate_bytes: u64,
    /// Bytes that were never seen.
    pub gap_bytes: u64,
    /// Bytes left out on purpose.
    pub skipped_bytes: u64,
    /// Payload of segments that came after the end of their connection, or with its RST.
    pub after_close_bytes: u64,
    /// RST segments whose sequence number does not fit their connection.
    pub stray_resets: u64,
    /// Held-back bytes that had to be released early because a buffer was full.
    pub forced_gaps: u64,
}

/// Signed distance from `from` to `to` in sequence space (RFC 9293, 3.4).
pub(crate) fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

/// True if two sequence numbers are too far apart to be of one connection.
fn is_far(from: u32, to: u32) -> bool {
    distance(from, to).unsigned_abs() > limits::MAX_DISTANCE
}
