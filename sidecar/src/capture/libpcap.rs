//! Source `pcap`: libpcap on live interfaces. Needs CAP_NET_RAW and nothing else.
//!
//! libpcap itself drops the second sight of packets on `lo` and puts VLAN tags back. The user's filter runs in the kernel, so what it
//! excludes is not counted here.

use std::os::fd::AsRawFd;
use std::time::Duration;

use pcap::{Active, Capture, Precision};
use podtap_wire::SourceKind;

use super::filter::reason;
use super::interfaces::Interface;
use super::{CaptureError, CapturedPacket, LinkType, Source, SourceCounters, SourceState};
use crate::packet::Skip;

/// Most bytes of a packet; libpcap's own limit, which is above the largest GSO packet.
const SNAPLEN: i32 = 262_144;
/// Longest time that a packet waits in the kernel, milliseconds.
const LATENCY_MS: i32 = 50;
/// Packets taken from one interface before the next one has its turn.
const PACKETS_A_TURN: usize = 1024;

#[allow(non_camel_case_types)]
enum pcap_t {}
unsafe extern "C" {
    fn pcap_get_tstamp_precision(handle: *mut pcap_t) -> libc::c_int;
    fn pcap_lib_version() -> *const libc::c_char;
}

/// What libpcap calls itself.
pub fn library_version() -> String {
    // SAFETY: returns a static NUL-terminated text.
    unsafe { std::ffi::CStr::from_ptr(pcap_lib_version()) }.to_string_lossy().into_owned()
}

struct Handle {
    capture: Capture<Active>,
    link_type: LinkType,
    /// What one unit of a time stamp's fraction is, nanoseconds.
    fraction_ns: u64,
    last: [u32; 3],
    /// Received, dropped by the kernel, dropped by the interface; libpcap's own counters are 32 bits wide and wrap.
    totals: [u64; 3],
}

struct LibpcapSource {
    handles: Vec<Handle>,
}

fn refused(interface: &Interface, error: &pcap::Error) -> CaptureError {
    let reason = reason(error);
    // libpcap gives a text only; these are the ones of a missing CAP_NET_RAW (pcap-linux.c).
    if reason.contains("ermission") || reason.contains("not permitted") {
        let action = format!("capture on {} (needs CAP_NET_RAW)", interface.name);
        return CaptureError::NoPermission { action, reason: reason.lines().next().unwrap_or_default().to_owned() };
    }
    CaptureError::Unavailable(format!("cannot capture on {}: {reason}", interface.name))
}

/// Opens the source on these interfaces, with a kernel buffer of `ring_bytes` for each.
pub fn open(interfaces: &[Interface], filter: Option<&str>, ring_bytes: usize) -> Result<Box<dyn Source>, CaptureError> {
    let mut handles = Vec::with_capacity(interfaces.len());
    for interface in interfaces {
        let inactive = Capture::from_device(interface.name.as_str()).map_err(|error| refused(interface, &error))?;
        let mut capture = inactive
            .snaplen(SNAPLEN)
            .promisc(false)
            .timeout(LATENCY_MS)
            .buffer_size(i32::try_from(ring_bytes).unwrap_or(i32::MAX))
            .precision(Precision::Nano)
            .open()
            .and_then(Capture::setnonblock)
            .map_err(|error| refused(interface, &error))?;
        if let Some(filter) = filter {
            let bad = |error| CaptureError::Filter { filter: filter.to_owned(), reason: reason(&error) };
            capture.filter(filter, true).map_err(bad)?;
        }
        let number = capture.get_datalink().0;
        let unknown = || CaptureError::Unavailable(format!("interface {} has link type {number}, which is not known", interface.name));
        let link_type = LinkType::from_number(number).ok_or_else(unknown)?;
        // SAFETY: the handle is alive; asking for the precision changes nothing. 1 is PCAP_TSTAMP_PRECISION_NANO.
        let nano = unsafe { pcap_get_tstamp_precision(capture.as_ptr().cast()) } == 1;
        handles.push(Handle { capture, link_type, fraction_ns: if nano { 1 } else { 1000 }, last: [0; 3], totals: [0; 3] });
    }
    Ok(Box::new(LibpcapSource { handles }))
}

impl LibpcapSource {
    fn read_all(&mut self, handle: &mut dyn FnMut(CapturedPacket<'_>)) -> Result<bool, CaptureError> {
        let mut any = false;
        for (number, source) in self.handles.iter_mut().enumerate() {
            for _ in 0..PACKETS_A_TURN {
                match source.capture.next_packet() {
                    Ok(packet) => {
                        any = true;
                        let seconds = packet.header.ts.tv_sec as u64;
                        handle(CapturedPacket {
                            timestamp_ns: seconds * 1_000_000_000 + packet.header.ts.tv_usec as u64 * source.fraction_ns,
                            interface: number as u32,
                            link_type: source.link_type,
                            data: packet.data,
                            original_length: packet.header.len,
                        });
                    }
                    Err(pcap::Error::TimeoutExpired) => break,
                    Err(error) => {
                        let message = format!("the capture ended, an interface is gone or down: {}", reason(&error));
                        return Err(CaptureError::Unavailable(message));
                    }
                }
            }
        }
        Ok(any)
    }
}

impl Source for LibpcapSource {
    fn poll(&mut self, timeout: Duration, handle: &mut dyn FnMut(CapturedPacket<'_>)) -> Result<SourceState, CaptureError> {
        if !self.read_all(handle)? {
            let mut waits: Vec<libc::pollfd> = self
                .handles
                .iter()
                .map(|source| libc::pollfd { fd: source.capture.as_raw_fd(), events: libc::POLLIN, revents: 0 })
                .collect();
            let milliseconds = timeout.as_millis().min(i32::MAX as u128) as i32;
            // SAFETY: `waits` is a live array of the length given.
            let outcome = unsafe { libc::poll(waits.as_mut_ptr(), waits.len() as libc::nfds_t, milliseconds) };
            if outcome > 0 {
                self.read_all(handle)?;
            }
        }
        Ok(SourceState::Open)
    }

    fn counters(&mut self) -> SourceCounters {
        let mut sum = SourceCounters::default();
        for source in &mut self.handles {
            if let Ok(now) = source.capture.stats() {
                let now = [now.received, now.dropped, now.if_dropped];
                for (index, value) in now.into_iter().enumerate() {
                    source.totals[index] += u64::from(value.wrapping_sub(source.last[index]));
                }
                source.last = now;
            }
            sum.received += source.totals[0];
            sum.kernel_dropped += source.totals[1];
            sum.interface_dropped += source.totals[2];
        }
        sum
    }

    fn skip(&mut self, _skip: &Skip) {}

    fn kind(&self) -> SourceKind {
        SourceKind::Pcap
    }
}
