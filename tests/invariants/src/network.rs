//! Segments that arrive in any order, with any numbers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use podtap_sidecar::packet::{Endpoint, Segment};
use podtap_sidecar::reassembly::{Close, Event, FlowFacts, FlowTable, Limits};

use crate::Bytes;

/// Fewer and smaller than in earnest, so that a fuzzer reaches them.
const LIMITS: Limits = Limits {
    max_flows: 3,
    flow_buffer_bytes: 4096,
    total_buffer_bytes: 6000,
    request_timeout_ns: 2_000_000_000,
    flow_idle_ns: 60_000_000_000,
};
const MAX_SEGMENTS: usize = 400;

/// What a fuzzer's bytes say.
struct Sent {
    at_ns: u64,
    source: Endpoint,
    destination: Endpoint,
    sequence: u32,
    acknowledgment: Option<u32>,
    syn: bool,
    fin: bool,
    rst: bool,
    length: u32,
    /// Bytes that the snap length cut off.
    cut: u32,
}

/// The byte that every sender sends under this number, so that an invented byte shows.
fn byte_at(sequence: u32) -> u8 {
    (sequence.wrapping_mul(0x9e37_79b1) >> 24) as u8
}

/// Seven bytes a segment: connection and sender; flags; sequence (around a base near the wrap); acknowledgment; length. Returns
/// whether all numbers stay near each other, too.
fn segments(data: &[u8]) -> (Vec<Sent>, bool) {
    let mut bytes = Bytes(data);
    let (mut sent, mut now, mut near) = (Vec::new(), 1_000_000_000u64, true);
    while !bytes.0.is_empty() && sent.len() < MAX_SEGMENTS {
        let (who, flags) = (bytes.u8(), bytes.u8());
        let (sequence, acknowledgment, length) = (bytes.u16(), bytes.u16(), bytes.u8());
        let client = (IpAddr::V4(Ipv4Addr::LOCALHOST), 1000 + u16::from(who & 7));
        let server = (IpAddr::V4(Ipv4Addr::LOCALHOST), 80);
        let by_client = who & 8 == 0;
        let (source, destination) = if by_client { (client, server) } else { (server, client) };
        now += [0, 1_000, 1_000_000, 11_000_000, 1_000_000_000, 3_000_000_000, 11_000_000_000, 61_000_000_000][usize::from(who >> 5)];
        // Streams begin near the wrap; the far half is for connections that take over the same ports.
        let far = if flags & 64 != 0 { 0x4000_0000 } else { 0 };
        near &= far == 0;
        let number = |base: u32, offset: u16| base.wrapping_add(u32::from(offset)).wrapping_add(far);
        let bases = if by_client { [0xffff_ff80, 0x7fff_ff00] } else { [0x7fff_ff00, 0xffff_ff80] };
        let cut = if flags & 32 != 0 { u32::from(length) / 2 } else { 0 };
        sent.push(Sent {
            at_ns: now,
            source,
            destination,
            sequence: number(bases[0], sequence),
            acknowledgment: (flags & 1 != 0).then(|| number(bases[1], acknowledgment)),
            syn: flags & 2 != 0,
            fin: flags & 4 != 0,
            rst: flags & 8 != 0,
            length: u32::from(length) * if flags & 16 != 0 { 8 } else { 1 } - cut,
            cut,
        });
    }
    (sent, near)
}

/// True if a segment goes on behind a FIN of its own stream. No sender does so: which of the two is believed may well depend on whether
/// the segment comes as one.
fn contradicts_a_fin(sent: &[Sent]) -> bool {
    let begin = |segment: &Sent| segment.sequence.wrapping_add(u32::from(segment.syn));
    let end = |segment: &Sent| begin(segment).wrapping_add(segment.length + segment.cut);
    let is_between =
        |place: u32, segment: &Sent| (place.wrapping_sub(begin(segment)) as i32) > 0 && (end(segment).wrapping_sub(place) as i32) > 0;
    sent.iter().filter(|segment| segment.fin).any(|fin| {
        let own = |other: &&Sent| (other.source, other.destination) == (fin.source, fin.destination);
        sent.iter().filter(own).any(|other| is_between(end(fin), other))
    })
}

/// True if a segment carries bytes that the snap length cut off another of its stream: what is cut off is a hole at once, so that what is
/// read depends on which of the two comes first.
fn fills_a_cut(sent: &[Sent]) -> bool {
    let seen = |segment: &Sent| segment.sequence.wrapping_add(u32::from(segment.syn) + segment.length);
    sent.iter().filter(|segment| segment.cut > 0).any(|cut| {
        let own = |other: &&Sent| (other.source, other.destination) == (cut.source, cut.destination) && other.length > 0;
        let reaches = |other: &Sent| (seen(other).wrapping_sub(seen(cut)) as i32) > 0;
        let begins_before = |other: &Sent| (seen(cut).wrapping_add(cut.cut).wrapping_sub(other.sequence) as i32) > 0;
        sent.iter().filter(own).any(|other| reaches(other) && begins_before(other))
    })
}

/// What came out of one stream: `(first offset, length, is a gap)`, neighbours of one kind joined.
type Ranges = Vec<(u64, u64, bool)>;

#[derive(Default)]
struct Seen {
    streams: HashMap<(u64, usize), Ranges>,
    closed: HashMap<u64, Close>,
    data_bytes: u64,
    gap_bytes: u64,
    last_ns: u64,
}

impl Seen {
    fn take(&mut self, facts: &FlowFacts, event: Event<'_>) {
        assert!(!self.closed.contains_key(&facts.id), "an event after the end");
        match event {
            Event::Data { sender, mark, bytes } => {
                assert!(!bytes.is_empty() && mark.time_ns <= self.last_ns);
                for (index, byte) in bytes.iter().enumerate() {
                    let sequence = facts.base[sender].wrapping_add(mark.offset as u32).wrapping_add(index as u32);
                    assert_eq!(*byte, byte_at(sequence), "an invented byte");
                }
                self.data_bytes += bytes.len() as u64;
                self.range(facts.id, sender, mark.offset, bytes.len() as u64, false);
            }
            Event::Gap { sender, offset, length, skipped } => {
                assert!(length > 0 && !skipped);
                self.gap_bytes += length;
                self.range(facts.id, sender, offset, length, true);
            }
            Event::Finished { time_ns, .. } => assert!(time_ns <= self.last_ns),
            Event::Closed(Close::RequestTimeout) => {}
            Event::Closed(why) => drop(self.closed.insert(facts.id, why)),
        }
    }

    fn range(&mut self, flow: u64, sender: usize, offset: u64, length: u64, gap: bool) {
        let ranges = self.streams.entry((flow, sender)).or_default();
        let next = ranges.last().map_or(0, |(first, length, _)| first + length);
        assert_eq!(offset, next, "twice, or left out without a word");
        match ranges.last_mut() {
            Some((_, last, of_gap)) if *of_gap == gap => *last += length,
            _ => ranges.push((offset, length, gap)),
        }
    }
}

/// Reads segments; `pieces` cuts each into two where it can.
fn read(sent: &[Sent], pieces: bool) -> (Seen, u64) {
    let mut table: FlowTable<()> = FlowTable::new(LIMITS);
    let mut seen = Seen::default();
    let mut payloads = 0;
    for segment in sent {
        seen.last_ns = segment.at_ns;
        if table.poll_timeout() <= segment.at_ns {
            table.handle_timeout(segment.at_ns, &mut |(), facts: &FlowFacts, event: Event<'_>| seen.take(facts, event));
        }
        let first = segment.sequence.wrapping_add(u32::from(segment.syn));
        let payload: Vec<u8> = (0..segment.length).map(|index| byte_at(first.wrapping_add(index))).collect();
        let at = if pieces && !segment.rst && payload.len() > 1 { payload.len() / 2 } else { payload.len() };
        let (head, tail) = payload.split_at(at);
        for (part, is_last) in [(head, tail.is_empty()), (tail, true)].into_iter().take(if tail.is_empty() { 1 } else { 2 }) {
            let is_first = part.as_ptr() == head.as_ptr();
            let view = Segment {
                source: segment.source,
                destination: segment.destination,
                sequence: if is_first { segment.sequence } else { first.wrapping_add(at as u32) },
                acknowledgment: segment.acknowledgment,
                syn: segment.syn && is_first,
                fin: segment.fin && is_last,
                rst: segment.rst,
                payload: part,
                payload_length: part.len() as u32 + if is_last { segment.cut } else { 0 },
            };
            payloads += part.len();
            table.handle(&view, segment.at_ns, &mut |(), facts: &FlowFacts, event: Event<'_>| seen.take(facts, event));
            assert!(table.len() <= LIMITS.max_flows);
            assert!(table.held_bytes() <= LIMITS.total_buffer_bytes, "{} bytes held", table.held_bytes());
        }
    }
    table.finish(&mut |(), facts: &FlowFacts, event: Event<'_>| seen.take(facts, event));
    assert_eq!((table.len(), table.held_bytes()), (0, 0));
    let counters = table.counters();
    assert_eq!(counters.delivered_bytes, seen.data_bytes);
    assert_eq!(counters.gap_bytes, seen.gap_bytes);
    assert_eq!(counters.payload_bytes, counters.delivered_bytes + counters.duplicate_bytes + counters.after_close_bytes);
    assert!(counters.payload_bytes <= payloads as u64);
    assert_eq!(seen.closed.len() as u64, counters.flows_opened, "a connection that never ends");
    (seen, counters.forced_gaps + counters.flows_evicted)
}

/// Segments of a few connections, see [`segments`].
///
/// Bytes are handed out once, in order, as they were sent; holes are counted; nothing comes after the end; the caps hold; what was
/// received is handed out, a copy, or too late; cutting segments changes nothing, as long as no cap was reached, no segment
/// contradicts a FIN, and none carries what the snap length cut off another.
pub fn reassembly(data: &[u8]) -> bool {
    let (sent, near) = segments(data);
    let (whole, forced) = read(&sent, false);
    let (cut, forced_in_pieces) = read(&sent, true);
    if near && forced == 0 && forced_in_pieces == 0 && !contradicts_a_fin(&sent) && !fills_a_cut(&sent) {
        assert_eq!(whole.streams, cut.streams, "cutting changes what is read");
        assert_eq!(whole.closed, cut.closed);
    }
    !sent.is_empty()
}
