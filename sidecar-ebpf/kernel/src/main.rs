//! A socket filter that hands whole packets to the sidecar, except those that lie wholly inside a range of bytes that the decoder asked
//! to skip.
//!
//! It knows nothing of streams: the decoder, which does, writes "first byte wanted again" for one direction of a connection into the
//! map. Whatever the program does not understand (fragments, extension headers, jumbograms) passes. Packets that carry SYN, FIN or RST,
//! and packets without payload, always pass, so the flow table sees every change of state.
#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    helpers::generated::bpf_skb_load_bytes_relative,
    macros::{map, socket_filter},
    maps::{LruHashMap, PerCpuArray},
    programs::SkBuffContext,
};
use podtap_sidecar_ebpf::{FlowKey, MAX_SKIP_DISTANCE, MAX_SKIPPING_FLOWS, SkipCounters};

/// The filter's answer "the whole packet".
const PASS: i64 = 0xffff_ffff;
/// The filter's answer "nothing of it".
const DROP: i64 = 0;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const IPPROTO_TCP: u8 = 6;
/// FIN, SYN and RST of the TCP flags byte (RFC 9293, 3.1).
const STATE_FLAGS: u8 = 0x07;

#[map]
static PODTAP_SKIP: LruHashMap<FlowKey, u32> = LruHashMap::with_max_entries(MAX_SKIPPING_FLOWS, 0);
#[map]
static PODTAP_COUNTERS: PerCpuArray<SkipCounters> = PerCpuArray::with_max_entries(1, 0);

#[socket_filter]
pub fn podtap_filter(ctx: SkBuffContext) -> i64 {
    match skipped_payload(&ctx) {
        None => PASS,
        Some(bytes) => {
            if let Some(counters) = PODTAP_COUNTERS.get_ptr_mut(0) {
                // SAFETY: the pointer is this CPU's own slot, and a program is not interrupted by another run on the same CPU's slot
                // in a way that could tear a 64-bit add.
                unsafe {
                    (*counters).packets += 1;
                    (*counters).payload_bytes += u64::from(bytes);
                }
            }
            DROP
        }
    }
}

/// Bytes at `offset` from the start of the network header, whatever link layer lies before it.
#[inline(always)]
fn load<const N: usize>(ctx: &SkBuffContext, offset: u32) -> Option<[u8; N]> {
    // Not zeroed before: that is a loop over the stack, which the verifier refuses to whom CAP_BPF is granted and CAP_PERFMON is not.
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper writes exactly N bytes into a buffer of N bytes, or fails.
    let outcome = unsafe { bpf_skb_load_bytes_relative(ctx.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as u32, BPF_HDR_START_NET) };
    // SAFETY: on success all N bytes were written.
    (outcome == 0).then(|| unsafe { bytes.assume_init() })
}

/// The TCP payload's length if the packet is to be left out.
#[inline(always)]
fn skipped_payload(ctx: &SkBuffContext) -> Option<u32> {
    // SAFETY: the context of a socket filter is a valid __sk_buff for the whole run.
    let protocol = u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16);
    let (source, destination, tcp_offset, ip_payload) = match protocol {
        ETH_P_IP => {
            let header: [u8; 20] = load(ctx, 0)?;
            let header_length = u32::from(header[0] & 0x0f) * 4;
            let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
            if header[9] != IPPROTO_TCP || fragment != 0 || header_length < 20 || total < header_length {
                return None;
            }
            let source = FlowKey::mapped([header[12], header[13], header[14], header[15]]);
            let destination = FlowKey::mapped([header[16], header[17], header[18], header[19]]);
            (source, destination, header_length, total - header_length)
        }
        ETH_P_IPV6 => {
            let header: [u8; 40] = load(ctx, 0)?;
            if header[6] != IPPROTO_TCP {
                return None;
            }
            let mut source = [0u8; 16];
            let mut destination = [0u8; 16];
            source.copy_from_slice(&header[8..24]);
            destination.copy_from_slice(&header[24..40]);
            (source, destination, 40, u32::from(u16::from_be_bytes([header[4], header[5]])))
        }
        _ => return None,
    };
    let tcp: [u8; 14] = load(ctx, tcp_offset)?;
    let key = FlowKey { source, destination, source_port: [tcp[0], tcp[1]], destination_port: [tcp[2], tcp[3]] };
    // SAFETY: the value is copied at once; a concurrent write of an aligned u32 is seen whole.
    let until = unsafe { *PODTAP_SKIP.get(&key)? };
    let header_length = u32::from(tcp[12] >> 4) * 4;
    if tcp[13] & STATE_FLAGS != 0 {
        // A SYN or RST ends the range for good, a FIN is its end anyway.
        let _ = PODTAP_SKIP.remove(&key);
        return None;
    }
    if ip_payload <= header_length {
        return None;
    }
    let payload = ip_payload - header_length;
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let left = until.wrapping_sub(sequence.wrapping_add(payload));
    if left <= MAX_SKIP_DISTANCE {
        return Some(payload);
    }
    let past = sequence.wrapping_sub(until);
    if past <= MAX_SKIP_DISTANCE {
        let _ = PODTAP_SKIP.remove(&key);
    }
    None
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
