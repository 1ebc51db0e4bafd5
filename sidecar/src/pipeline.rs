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

use podtap_wire::{RequestRecord, SourceKind};

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

/// Who the sidecar's pod is; a text is empty where it is not known. Stamped on every record, see `record`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name configured for the sidecar; the first choice for `service_name`.
    pub service_name: String,
    /// `k8s_namespace_name`.
    pub namespace: String,
    /// `k8s_pod_name`.
    pub pod_name: String,
    /// `k8s_pod_uid`.
    pub pod_uid: String,
    /// `k8s_node_name`.
    pub node_name: String,
    /// `k8s_container_name`.
    pub container_name: String,
    /// `k8s_workload_kind`.
    pub workload_kind: String,
    /// `k8s_workload_name`.
    pub workload_name: String,
}

/// Settings of the core; defaults are what a sidecar runs with.
#[derive(Clone, Debug, Default)]
pub struct PipelineConfig {
    /// Which source feeds it; stamped on every record.
    pub source: SourceKind,
    /// Keep literals, query strings and parameters instead of masking them.
    pub unmask: bool,
    /// Who the pod is.
    pub identity: Identity,
    /// Addresses of the pod's interfaces: they decide `side`. Empty when a file is read (then `side` is `unknown`).
    pub local_addresses: Vec<IpAddr>,
}

/// One of the core's own figures, named as in /metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Metric name, such as `podtap_discarded_bytes_total`; names that do not end in `_total` are gauges.
    pub name: &'static str,
    /// The one label's value (`reason`, or `protocol` of `podtap_records_total`); `""` where the metric has no label.
    pub label: &'static str,
    /// Value since the core was made.
    pub value: u64,
}

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

    /// Everything the core counts, in a fixed order, with every name present also while it is 0.
    pub fn account(&self) -> Vec<Figure> {
        Vec::new()
    }
}
