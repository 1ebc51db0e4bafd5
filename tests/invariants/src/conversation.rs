//! Whole conversations: what decoders make of bytes, holes and ends.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use podtap_sidecar::packet::{Endpoint, Segment};
use podtap_sidecar::pipeline::Identity;
use podtap_sidecar::protocol::driver::Conversation;
use podtap_sidecar::protocol::{Discard, Incident, Outbox};
use podtap_sidecar::reassembly::{Event, FlowFacts, FlowTable, Limits};
use podtap_sidecar::record::Recorder;
use podtap_wire::{Completeness, Protocol, RequestRecord, SourceKind};

use crate::Bytes;

const CLIENT: Endpoint = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 40_000);
const SERVER: Endpoint = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 80);
/// What may wait in all inboxes: small, so that a fuzzer reaches it.
const BUFFER_LIMIT: usize = 64 << 10;
const MAX_TURNS: usize = 300;

/// What one end does next.
enum Act<'a> {
    Bytes(&'a [u8]),
    /// Bytes that the capture lacks.
    Hole(u16),
    Fin,
    Rst,
}

struct Turn<'a> {
    by_client: bool,
    /// Longer than a hole is waited for.
    waits: bool,
    /// It has received everything that the other end sent; else what it had received before.
    acknowledges: bool,
    act: Act<'a>,
}

/// Sizes of the pieces that segments are cut into; 0 cuts each in the middle.
const PIECES: [usize; 8] = [0, 1, 2, 3, 5, 7, 11, 64];
/// Most pieces of one segment: more would reach a cap of reassembly.
const MAX_PIECES: usize = 500;

/// What the network does to a segment.
#[derive(Clone, Copy)]
struct Way {
    /// See [`PIECES`].
    piece: usize,
    /// Each piece comes twice.
    twice: bool,
    /// The last piece comes first.
    backwards: bool,
}

impl Way {
    /// From the bits of a script's first byte.
    fn new(bits: u8) -> Self {
        Self { piece: PIECES[usize::from(bits >> 1 & 7)], twice: bits & 16 != 0, backwards: bits & 32 != 0 }
    }

    /// The pieces of a segment in the order in which they come, each with its place.
    fn pieces(self, bytes: &[u8]) -> Vec<(usize, &[u8])> {
        let size = match self.piece {
            size if size > 0 && bytes.len() / size < MAX_PIECES => size,
            _ => bytes.len().div_ceil(2),
        };
        let mut pieces: Vec<(usize, &[u8])> = bytes.chunks(size.max(1)).enumerate().map(|(index, piece)| (index * size, piece)).collect();
        if self.backwards {
            pieces.reverse();
        }
        let times = 1 + usize::from(self.twice);
        pieces.into_iter().flat_map(|piece| std::iter::repeat_n(piece, times)).collect()
    }
}

/// The first byte: 1, the handshake was not seen; the rest see [`Way`]. Then for each turn a byte (1 server, 2 waits, 4
/// acknowledges nothing new, 24 what it does), a length in two bytes, and that many bytes.
fn turns<'a>(bytes: &mut Bytes<'a>) -> Vec<Turn<'a>> {
    let mut turns = Vec::new();
    while !bytes.0.is_empty() && turns.len() < MAX_TURNS {
        let (control, length) = (bytes.u8(), bytes.u16());
        let act = match control >> 3 & 3 {
            0 => Act::Bytes(bytes.take(usize::from(length))),
            1 => Act::Hole(length),
            2 => Act::Fin,
            _ => Act::Rst,
        };
        turns.push(Turn { by_client: control & 1 == 0, waits: control & 2 != 0, acknowledges: control & 4 == 0, act });
    }
    turns
}

/// What came out.
struct Outcome {
    lines: Vec<String>,
    protocols: HashSet<Protocol>,
    /// Nothing was discarded, missing or doubtful.
    clean: bool,
}

struct Reader {
    table: FlowTable<Conversation>,
    outbox: Outbox,
    recorder: Recorder,
    now_ns: u64,
    lines: Vec<String>,
    protocols: HashSet<Protocol>,
    indices: HashSet<(u64, u64)>,
    partial: bool,
    record_bytes: u64,
}

impl Reader {
    fn new(unmask: bool) -> Self {
        Self {
            table: FlowTable::new(Limits::default()),
            outbox: Outbox { unmask, buffer_limit: BUFFER_LIMIT, ..Outbox::default() },
            recorder: Recorder::new(SourceKind::File, unmask, Identity::default(), Vec::new()),
            now_ns: 1_000_000_000,
            lines: Vec::new(),
            protocols: HashSet::new(),
            indices: HashSet::new(),
            partial: false,
            record_bytes: 0,
        }
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        let outbox = &mut self.outbox;
        let mut emit = |conversation: &mut Conversation, facts: &FlowFacts, event: Event<'_>| conversation.handle(facts, event, outbox);
        if self.table.poll_timeout() <= self.now_ns {
            self.table.handle_timeout(self.now_ns, &mut emit);
        }
        self.table.handle(segment, self.now_ns, &mut emit);
        assert!(self.outbox.buffered_bytes <= BUFFER_LIMIT + segment.payload.len(), "{} bytes wait", self.outbox.buffered_bytes);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(exchange) = self.outbox.finished.pop_front() {
            let record = self.recorder.record(&exchange);
            check(&record, self.now_ns);
            assert!(self.indices.insert((record.connection_id, record.exchange_index)), "twice: {record:?}");
            self.partial |= record.completeness == Completeness::Partial;
            self.record_bytes += record.request_bytes + record.response_bytes;
            self.protocols.insert(record.network_protocol_name);
            self.lines.push(format!("{record:?}"));
        }
    }

    fn finish(mut self) -> Outcome {
        let outbox = &mut self.outbox;
        self.table
            .finish(&mut |conversation: &mut Conversation, facts: &FlowFacts, event: Event<'_>| conversation.handle(facts, event, outbox));
        self.drain();
        assert_eq!((self.outbox.buffered_bytes, self.outbox.open), (0, 0), "bytes or exchanges are left");
        let discarded: u64 = self.outbox.discarded.iter().sum();
        let counters = self.table.counters();
        // Nothing is counted that was not there. Less may be: exchanges that are left out are counted as such, without their bytes.
        let (counted, there) = (self.record_bytes + discarded, counters.delivered_bytes + counters.gap_bytes);
        assert!(counted <= there, "invented bytes: {counted} of {there}");
        let doubtful =
            self.outbox.incidents.iter().enumerate().any(|(index, count)| *count > 0 && index != Incident::StatementUnknown as usize);
        let opaque = self.outbox.discarded[Discard::Opaque as usize];
        // Joined in the middle, a protocol is recognised at the beginning of a segment, so there cutting may well change what is found.
        let certain = counters.gap_bytes == 0 && counters.forced_gaps == 0 && counters.flows_joined == 0;
        let clean = certain && !doubtful && !self.partial && discarded == opaque;
        Outcome { lines: self.lines, protocols: self.protocols, clean }
    }
}

/// What holds for every record.
fn check(record: &RequestRecord<'_>, now_ns: u64) {
    assert!(record.timestamp <= now_ns);
    for elapsed in [record.time_to_first_byte_ns, record.time_to_last_byte_ns, record.request_time_ns].into_iter().flatten() {
        assert!(record.timestamp + elapsed <= now_ns, "a time ahead: {record:?}");
    }
    if let (Some(first), Some(last)) = (record.time_to_first_byte_ns, record.time_to_last_byte_ns) {
        assert!(first <= last, "the last byte before the first: {record:?}");
    }
    assert!(record.lost_bytes <= record.request_bytes + record.response_bytes, "more lost than there was: {record:?}");
    assert!(record.lost_bytes == 0 || record.completeness == Completeness::Partial, "a hole that is not marked: {record:?}");
    assert!(record.url_template.len() <= 256, "{} bytes of route", record.url_template.len());
}

/// Reads turns; segments come whole, or as the network has it.
fn read(opened: bool, turns: &[Turn<'_>], unmask: bool, way: Option<Way>) -> Outcome {
    let mut reader = Reader::new(unmask);
    let mut next = [0xffff_ff00u32, 0xffff_fff0];
    let mut acknowledged = [next[1], next[0]];
    let ends = [CLIENT, SERVER];
    let segment = |me: usize, sequence: u32, acknowledgment: u32| Segment {
        source: ends[me],
        destination: ends[1 - me],
        sequence,
        acknowledgment: Some(acknowledgment),
        syn: false,
        fin: false,
        rst: false,
        payload: &[],
        payload_length: 0,
    };
    if opened {
        for (me, acknowledgment) in [(0, None), (1, Some(next[0]))] {
            reader.segment(&Segment { syn: true, acknowledgment, ..segment(me, next[me].wrapping_sub(1), 0) });
        }
    }
    for turn in turns {
        let me = usize::from(!turn.by_client);
        reader.now_ns += if turn.waits { 20_000_000_000 } else { 1_000_000 };
        if turn.acknowledges {
            acknowledged[me] = next[1 - me];
        }
        let plain = segment(me, next[me], acknowledged[me]);
        match turn.act {
            Act::Bytes(bytes) => {
                let pieces = way.map_or_else(|| vec![(0, bytes)], |way| way.pieces(bytes));
                for (at, piece) in pieces.into_iter().filter(|(_, piece)| !piece.is_empty()) {
                    let sequence = next[me].wrapping_add(at as u32);
                    reader.segment(&Segment { sequence, payload: piece, payload_length: piece.len() as u32, ..plain });
                }
                next[me] = next[me].wrapping_add(bytes.len() as u32);
            }
            Act::Hole(length) => next[me] = next[me].wrapping_add(u32::from(length)),
            Act::Fin => {
                reader.segment(&Segment { fin: true, ..plain });
                next[me] = next[me].wrapping_add(1);
            }
            Act::Rst => reader.segment(&Segment { rst: true, ..plain }),
        }
    }
    reader.finish()
}

/// A conversation, see [`turns`].
///
/// Times are in order and of the past, nothing is counted that was not there, caps hold; masking changes no number of records; what
/// is read without any doubt is read the same when every segment comes in pieces, twice and in another order.
fn conversation(data: &[u8], protocol: Protocol) -> bool {
    let mut bytes = Bytes(data);
    let bits = bytes.u8();
    let opened = bits & 1 == 0;
    let turns = turns(&mut bytes);
    let whole = read(opened, &turns, true, None);
    let masked = read(opened, &turns, false, None);
    assert_eq!(whole.lines.len(), masked.lines.len());
    if whole.clean {
        let cut = read(opened, &turns, true, Some(Way::new(bits)));
        assert_eq!(whole.lines, cut.lines, "what the network does changes what is read");
    }
    whole.protocols.contains(&protocol) || data.len() < 16
}

/// HTTP/1, see [`conversation`].
pub fn http1(data: &[u8]) -> bool {
    conversation(data, Protocol::Http)
}

/// MySQL, see [`conversation`].
pub fn mysql(data: &[u8]) -> bool {
    conversation(data, Protocol::Mysql)
}

/// TLS, see [`conversation`].
pub fn tls(data: &[u8]) -> bool {
    conversation(data, Protocol::Tls)
}
