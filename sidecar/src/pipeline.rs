//! The pure core: packets and time in, records out. No IO, no clock, no randomness.
//!
//! ```text
//! loop {
//!     pipeline.handle_packet(&packet);                       // or handle_timeout(now) when poll_timeout() has passed
//!     while let Some(record) = pipeline.next_record() { .. } // lent until the next call
//!     while let Some(skip) = pipeline.next_skip() { .. }
//! }
//! pipeline.finish();                                         // end of capture: open exchanges are closed
//! ```

use std::net::IpAddr;

use podtap_wire::RequestRecord;

use crate::capture::CapturedPacket;

/// Ends of a TCP connection in the direction that carries the bytes to skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Skip {
    /// Sender of the bytes.
    pub source: (IpAddr, u16),
    /// Receiver of the bytes.
    pub destination: (IpAddr, u16),
    /// First TCP sequence number that is wanted again.
    pub until_sequence: u32,
}

/// Settings of the core; defaults are what a sidecar runs with.
#[derive(Clone, Debug, Default)]
pub struct PipelineConfig {}

/// The core.
#[derive(Debug)]
pub struct Pipeline {}

impl Pipeline {
    /// A core without flows.
    pub fn new(_config: PipelineConfig) -> Self {
        Self {}
    }

    /// Takes one packet.
    pub fn handle_packet(&mut self, _packet: &CapturedPacket<'_>) {}

    /// The next finished record, lent until the next call.
    pub fn next_record(&mut self) -> Option<RequestRecord<'_>> {
        None
    }

    /// The next request to leave bytes out.
    pub fn next_skip(&mut self) -> Option<Skip> {
        None
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next (nanoseconds since the Unix epoch).
    pub fn poll_timeout(&self) -> Option<u64> {
        None
    }

    /// Ends what has waited too long.
    pub fn handle_timeout(&mut self, _now_ns: u64) {}

    /// Ends everything: the capture is over.
    pub fn finish(&mut self) {}
}
