//! Memory layout shared by the kernel program (`kernel/`) and its loader in the sidecar.
//!
//! Both are built together, so nothing here is versioned. Every type is plain memory without hidden padding: the kernel compares keys
//! byte by byte, and a padding byte that one side leaves uninitialised would make equal keys differ.
#![no_std]

/// Name of the program in the object.
pub const PROGRAM: &str = "podtap_filter";
/// Name of the map [`FlowKey`] -> sequence number (`u32`) of the first byte that is wanted again.
pub const SKIP_MAP: &str = "PODTAP_SKIP";
/// Name of the per-CPU array with one [`SkipCounters`].
pub const COUNTERS_MAP: &str = "PODTAP_COUNTERS";

/// Flows that can be skipping at the same time; the least recently used one is forgotten (and seen whole again) beyond.
pub const MAX_SKIPPING_FLOWS: u32 = 8192;

/// Farthest that a skip reaches ahead. Half of the distance at which sequence numbers become ambiguous, so that an entry that was left
/// behind can never swallow what a flow sends one turn of the numbers later.
pub const MAX_SKIP_DISTANCE: u32 = 1 << 30;

/// One direction of a TCP connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// Sender's address; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Receiver's address, likewise.
    pub destination: [u8; 16],
    /// Sender's port in network order.
    pub source_port: [u8; 2],
    /// Receiver's port in network order.
    pub destination_port: [u8; 2],
}

impl FlowKey {
    /// The form in which an IPv4 address stands in a key.
    pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
    }
}

/// What the program left out, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkipCounters {
    /// Packets that were not handed to the socket.
    pub packets: u64,
    /// Their TCP payload, bytes.
    pub payload_bytes: u64,
}
