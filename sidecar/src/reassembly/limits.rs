//! Every cap of the flow table, with its reason.

/// Most connections that are followed at once; one that has ended goes when one more comes, else the idlest. 64,000 of about 550 bytes,
/// decoders included, stay below the 64 MiB that a sidecar is given.
pub const MAX_FLOWS: usize = 64_000;
/// Most bytes one connection may hold back because earlier ones are missing: a receive window of a fast local link.
pub const FLOW_BUFFER_BYTES: usize = 1 << 20;
/// Most bytes all connections together may hold back, messages in progress included.
pub const TOTAL_BUFFER_BYTES: usize = 24 << 20;
/// Most segments one connection may hold back: bounds the insertion cost when tiny segments arrive backwards.
pub const MAX_HELD_SEGMENTS: usize = 1024;
/// How long bytes that the receiver has acknowledged may still turn up: packets of one connection reach a capture through
/// several CPUs' queues and overtake each other by much less than this.
pub const REORDER_WINDOW_NS: u64 = 10_000_000;
/// How long bytes nobody acknowledged are waited for: the sender retransmits within this unless the connection is dead.
pub const HOLE_TIMEOUT_NS: u64 = 10_000_000_000;
/// How long a closed connection is remembered, so that a late copy of its last packets does not open another.
pub const CLOSED_LINGER_NS: u64 = 1_000_000_000;
/// A request without any packet on its connection for this long has no answer.
pub const REQUEST_TIMEOUT_NS: u64 = 300_000_000_000;
/// A connection without a packet for this long is forgotten: MySQL's `wait_timeout`, the longest usual idle limit.
pub const FLOW_IDLE_NS: u64 = 8 * 3_600_000_000_000;
/// How often all flows are looked at for the limits above.
pub const SWEEP_INTERVAL_NS: u64 = 1_000_000_000;
/// A segment further away than this belongs to another connection whose SYN was missed: twice the largest window that
/// systems use by default.
pub const MAX_DISTANCE: u32 = 64 << 20;

/// The caps that are settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See [`MAX_FLOWS`].
    pub max_flows: usize,
    /// See [`FLOW_BUFFER_BYTES`].
    pub flow_buffer_bytes: usize,
    /// See [`TOTAL_BUFFER_BYTES`].
    pub total_buffer_bytes: usize,
    /// See [`REQUEST_TIMEOUT_NS`].
    pub request_timeout_ns: u64,
    /// See [`FLOW_IDLE_NS`].
    pub flow_idle_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_flows: MAX_FLOWS,
            flow_buffer_bytes: FLOW_BUFFER_BYTES,
            total_buffer_bytes: TOTAL_BUFFER_BYTES,
            request_timeout_ns: REQUEST_TIMEOUT_NS,
            flow_idle_ns: FLOW_IDLE_NS,
        }
    }
}
