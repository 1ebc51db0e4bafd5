//! Source `ebpf`: packet rings behind a kernel program that leaves out bytes the decoder does not need.
//!
//! Without skips the program passes every packet, so the records are those of the other sources. Opening needs CAP_NET_RAW for the
//! socket and CAP_BPF for the program; every refusal says which of the two failed, so that `auto` can give the reason in one line.

/// The object that `cargo xtask ebpf` built, if the build found one.
#[cfg(podtap_ebpf_object)]
pub const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("PODTAP_EBPF_OBJECT_PATH")));
/// The object that `cargo xtask ebpf` built, if the build found one.
#[cfg(not(podtap_ebpf_object))]
pub const OBJECT: Option<&[u8]> = None;

/// Why there is no eBPF in this binary.
pub const WITHOUT_OBJECT: &str = "built without the eBPF object (run `cargo xtask ebpf`, then build again)";

#[cfg(not(feature = "ebpf"))]
mod absent {
    use super::super::{CaptureError, Source, filter::Filter, interfaces::Interface};

    /// Says that this binary has no eBPF.
    pub fn open(_: &[Interface], _: Option<Filter>, _: usize) -> Result<Box<dyn Source>, CaptureError> {
        Err(CaptureError::Unavailable("built without feature `ebpf`".to_owned()))
    }

    /// Says that this binary has no eBPF.
    pub fn probe(_: &Interface) -> Result<(), CaptureError> {
        Err(CaptureError::Unavailable("built without feature `ebpf`".to_owned()))
    }
}
#[cfg(not(feature = "ebpf"))]
pub use absent::{open, probe};

#[cfg(feature = "ebpf")]
mod loaded {
    use std::io;
    use std::net::IpAddr;
    use std::time::Duration;

    use aya::maps::{HashMap, MapData, PerCpuArray};
    use aya::programs::SocketFilter;
    use podtap_sidecar_ebpf as layout;
    use podtap_wire::SourceKind;

    use super::super::filter::Filter;
    use super::super::interfaces::Interface;
    use super::super::ring::{self, Ring};
    use super::super::{CaptureError, CapturedPacket, Source, SourceCounters, SourceState};
    use crate::packet::Skip;

    /// The layout's types, made plain memory in the eyes of aya. Both crates are foreign to each other, so they are wrapped here.
    #[repr(transparent)]
    #[derive(Clone, Copy)]
    struct Key(layout::FlowKey);
    #[repr(transparent)]
    #[derive(Clone, Copy)]
    struct Counters(layout::SkipCounters);
    // SAFETY: repr(C) of bytes only, no padding, every bit pattern valid.
    unsafe impl aya::Pod for Key {}
    // SAFETY: repr(C) of two u64, no padding, every bit pattern valid.
    unsafe impl aya::Pod for Counters {}

    struct EbpfSource {
        rings: Vec<Ring>,
        filter: Option<Filter>,
        filtered: u64,
        skips: HashMap<MapData, Key, u32>,
        counters: PerCpuArray<MapData, Counters>,
        /// Keeps the program's descriptors; the sockets hold the program itself.
        _program: aya::Ebpf,
    }

    fn permission(action: &str, error: &io::Error) -> CaptureError {
        let reason = error.to_string();
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => CaptureError::NoPermission { action: action.to_owned(), reason },
            _ => CaptureError::Unavailable(format!("cannot {action}: {reason}")),
        }
    }

    /// The innermost system error of an aya error: what the kernel said.
    fn kernel_says(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
        let mut cause = Some(error);
        let mut code = None;
        while let Some(error) = cause {
            code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).or(code);
            cause = error.source();
        }
        code
    }

    fn refused(action: &str, error: &(dyn std::error::Error + 'static)) -> CaptureError {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            // The verifier's log is pages long; its first line says enough here.
            let text = inner.to_string();
            let line = text.lines().next().unwrap_or_default();
            // Several of aya's errors have their cause's text in their own.
            if !reason.contains(line) {
                reason = format!("{reason}: {line}");
            }
            cause = inner.source();
        }
        match kernel_says(error) {
            Some(libc::EPERM | libc::EACCES) => CaptureError::NoPermission { action: format!("{action} (needs CAP_BPF)"), reason },
            _ => CaptureError::Unavailable(format!("cannot {action}: {reason}")),
        }
    }

    /// Loads the program, without attaching it.
    pub fn load() -> Result<aya::Ebpf, CaptureError> {
        let object = super::OBJECT.ok_or_else(|| CaptureError::Unavailable(super::WITHOUT_OBJECT.to_owned()))?;
        let mut ebpf = aya::EbpfLoader::new().load(object).map_err(|error| refused("load the eBPF maps", &error))?;
        program(&mut ebpf)?.load().map_err(|error| refused("load the eBPF program", &error))?;
        Ok(ebpf)
    }

    fn program(ebpf: &mut aya::Ebpf) -> Result<&mut SocketFilter, CaptureError> {
        let missing = || CaptureError::Unavailable(format!("the eBPF object has no socket filter {:?}", layout::PROGRAM));
        ebpf.program_mut(layout::PROGRAM).ok_or_else(missing)?.try_into().map_err(|_| missing())
    }

    fn take_map(ebpf: &mut aya::Ebpf, name: &str) -> Result<aya::maps::Map, CaptureError> {
        ebpf.take_map(name).ok_or_else(|| CaptureError::Unavailable(format!("the eBPF object has no map {name:?}")))
    }

    /// Attaches the program to a packet socket that sees nothing: what `doctor` tries.
    pub fn probe(interface: &Interface) -> Result<(), CaptureError> {
        let mut ebpf = load()?;
        let ring = open_ring(interface, 0, 0)?;
        program(&mut ebpf)?.attach(ring.socket()).map_err(|error| refused("attach the eBPF program", &error))
    }

    fn open_ring(interface: &Interface, number: u32, ring_bytes: usize) -> Result<Ring, CaptureError> {
        let link_type = interface
            .link_type()
            .ok_or_else(|| CaptureError::Unavailable(format!("interface {} has packets of an unknown kind", interface.name)))?;
        Ring::open(interface, number, link_type, ring_bytes)
            .map_err(|error| permission(&format!("open a packet socket on {} (needs CAP_NET_RAW)", interface.name), &error))
    }

    /// Opens the source on these interfaces, with a ring of `ring_bytes` on each.
    pub fn open(interfaces: &[Interface], mut filter: Option<Filter>, ring_bytes: usize) -> Result<Box<dyn Source>, CaptureError> {
        let mut ebpf = load()?;
        let mut rings = Vec::with_capacity(interfaces.len());
        for (number, interface) in interfaces.iter().enumerate() {
            let ring = open_ring(interface, number as u32, ring_bytes)?;
            if let (Some(filter), Some(link_type)) = (&mut filter, interface.link_type()) {
                filter.compile(link_type)?;
            }
            // Attached before it is bound: no packet arrives that the program has not seen.
            program(&mut ebpf)?.attach(ring.socket()).map_err(|error| refused("attach the eBPF program", &error))?;
            ring.bind(interface).map_err(|error| permission(&format!("listen on {}", interface.name), &error))?;
            rings.push(ring);
        }
        let map = |error: aya::maps::MapError| refused("use the eBPF maps", &error);
        let skips = HashMap::try_from(take_map(&mut ebpf, layout::SKIP_MAP)?).map_err(map)?;
        let counters = PerCpuArray::try_from(take_map(&mut ebpf, layout::COUNTERS_MAP)?).map_err(map)?;
        Ok(Box::new(EbpfSource { rings, filter, filtered: 0, skips, counters, _program: ebpf }))
    }

    fn octets(address: IpAddr) -> [u8; 16] {
        match address {
            IpAddr::V4(v4) => layout::FlowKey::mapped(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        }
    }

    impl Source for EbpfSource {
        fn poll(&mut self, timeout: Duration, handle: &mut dyn FnMut(CapturedPacket<'_>)) -> Result<SourceState, CaptureError> {
            let Self { rings, filter, filtered, .. } = self;
            let mut read_all = || {
                let mut any = false;
                for ring in rings.iter_mut() {
                    any |= ring.read_block(&mut |packet| match filter {
                        Some(filter) if !filter.matches(&packet) => *filtered += 1,
                        _ => handle(packet),
                    });
                }
                any
            };
            if !read_all() {
                ring::wait(&self.rings, timeout)
                    .map_err(|error| CaptureError::Unavailable(format!("the capture ended, an interface is gone or down: {error}")))?;
            }
            Ok(SourceState::Open)
        }

        fn counters(&mut self) -> SourceCounters {
            let mut counters = SourceCounters { filtered: self.filtered, ..SourceCounters::default() };
            for ring in &mut self.rings {
                let (received, dropped) = ring.statistics();
                counters.received += received;
                counters.kernel_dropped += dropped;
            }
            if let Ok(values) = self.counters.get(&0, 0) {
                for Counters(cpu) in values.iter() {
                    counters.skipped_packets += cpu.packets;
                    counters.skipped_bytes += cpu.payload_bytes;
                }
            }
            counters
        }

        fn skip(&mut self, skip: &Skip) {
            let key = layout::FlowKey {
                source: octets(skip.source.0),
                destination: octets(skip.destination.0),
                source_port: skip.source.1.to_be_bytes(),
                destination_port: skip.destination.1.to_be_bytes(),
            };
            // A skip that cannot be entered costs nothing but the skipping: the bytes arrive and are decoded.
            let _ = self.skips.insert(Key(key), skip.until_sequence, 0);
        }

        fn kind(&self) -> SourceKind {
            SourceKind::Ebpf
        }
    }
}
#[cfg(feature = "ebpf")]
pub use loaded::{open, probe};
