//! Sources of packets. All give the same whole packets, so all give the same records.

pub mod ebpf;
pub mod filter;
pub mod interfaces;
pub mod libpcap;
pub mod own_traffic;
pub mod pcap_file;
pub mod ring;

use std::time::Duration;

use podtap_wire::SourceKind;

pub use crate::packet::{CapturedPacket, LinkType, Skip};

/// Totals of a source since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounters {
    /// Packets that reached the source's socket or were read from the file.
    pub received: u64,
    /// Packets that the kernel dropped because the ring was full.
    pub kernel_dropped: u64,
    /// Packets that the interface or its driver dropped.
    pub interface_dropped: u64,
    /// Packets left out on purpose by the kernel program because the decoder asked to skip them.
    pub skipped_packets: u64,
    /// Their TCP payload bytes.
    pub skipped_bytes: u64,
    /// Packets that the user's filter excluded.
    pub filtered: u64,
}

/// Whether more packets can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// More may come.
    Open,
    /// The capture file was read to its end.
    Ended,
}

/// A source of packets.
pub trait Source: Send {
    /// Hands the packets at hand to `handle`, waiting at most `timeout` for the first; returns after a bounded number.
    fn poll(&mut self, timeout: Duration, handle: &mut dyn FnMut(CapturedPacket<'_>)) -> Result<SourceState, CaptureError>;
    /// Totals so far.
    fn counters(&mut self) -> SourceCounters;
    /// Asks for a flow's bytes before a sequence number to be left out; sources that cannot do it ignore it.
    fn skip(&mut self, skip: &Skip);
    /// Which source this is.
    fn kind(&self) -> SourceKind;
}

/// Why a source cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {reason}")]
    CannotOpen { path: String, reason: String },
    /// The file is something else.
    #[error("{path} is not a capture file: {reason}")]
    NotACapture { path: String, reason: String },
    /// The file ends in the middle of something, or holds a block that cannot be; what came before it was delivered.
    #[error("{path} is cut or damaged at byte {position}: {reason}")]
    Cut { path: String, position: u64, reason: String },
    /// There is no such interface.
    #[error("no interface {name:?} in this network namespace; there are: {present}")]
    NoInterface { name: String, present: String },
    /// The kernel refused for want of a capability.
    #[error("no permission to {action}: {reason}")]
    NoPermission { action: String, reason: String },
    /// The user's filter is not a filter.
    #[error("filter {filter:?}: {reason}")]
    Filter { filter: String, reason: String },
    /// This kernel, build or moment does not offer it.
    #[error("{0}")]
    Unavailable(String),
}

impl CaptureError {
    /// The program's exit code for this error (sysexits.h).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Filter { .. } => 78,
            Self::NotACapture { .. } | Self::Cut { .. } => 65,
            Self::CannotOpen { .. } => 66,
            Self::NoInterface { .. } | Self::Unavailable(_) => 69,
            Self::NoPermission { .. } => 77,
        }
    }
}

/// What to capture.
#[derive(Clone, Debug)]
pub struct CaptureRequest {
    /// Which source; for a live one see [`open_live`].
    pub choice: crate::config::SourceChoice,
    /// Interfaces by name; none means all that are up.
    pub interfaces: Vec<String>,
    /// Filter in pcap-filter syntax.
    pub filter: Option<String>,
    /// Kernel buffer on each interface, bytes.
    pub ring_bytes: usize,
}

/// A live source that was opened.
pub struct LiveSource {
    /// The source.
    pub source: Box<dyn Source>,
    /// Where it listens.
    pub interfaces: Vec<interfaces::Interface>,
    /// Why eBPF, which was tried first, is not used.
    pub fallback: Option<String>,
}

/// How often opening is tried when interfaces come and go meanwhile.
const ATTEMPTS: usize = 6;

/// Opens `ebpf`, `pcap`, or for `auto` the first of them that the kernel and the capabilities allow.
pub fn open_live(request: &CaptureRequest) -> Result<LiveSource, CaptureError> {
    // A filter that is none is told before what else may be missing.
    request.filter.as_deref().map(filter::Filter::new).transpose()?;
    let mut interfaces = interfaces::select(&request.interfaces)?;
    for _ in 1..ATTEMPTS {
        let outcome = open_on(request, interfaces.clone());
        if !request.interfaces.is_empty() || !matches!(outcome, Err(CaptureError::Unavailable(_))) {
            return outcome;
        }
        let now = interfaces::select(&[])?;
        if now.iter().map(|interface| &interface.name).eq(interfaces.iter().map(|interface| &interface.name)) {
            return outcome;
        }
        // One that nobody asked for by name went away between looking and opening.
        interfaces = now;
    }
    open_on(request, interfaces)
}

fn open_on(request: &CaptureRequest, interfaces: Vec<interfaces::Interface>) -> Result<LiveSource, CaptureError> {
    use crate::config::SourceChoice;
    let filter = request.filter.as_deref();
    let mut fallback = None;
    if request.choice != SourceChoice::Pcap {
        match ebpf::open(&interfaces, filter.map(filter::Filter::new).transpose()?, request.ring_bytes) {
            Ok(source) => return Ok(LiveSource { source, interfaces, fallback: None }),
            Err(error) if request.choice == SourceChoice::Ebpf || matches!(error, CaptureError::Filter { .. }) => return Err(error),
            Err(error) => fallback = Some(error.to_string()),
        }
    }
    let source = libpcap::open(&interfaces, filter, request.ring_bytes)?;
    Ok(LiveSource { source, interfaces, fallback })
}
