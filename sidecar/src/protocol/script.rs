//! Conversations for tests: what each end sends, as TCP segments that a test may drop, repeat, reorder or cut before they are read.

use std::net::{IpAddr, Ipv4Addr};

use podtap_wire::{RequestRecord, SourceKind};

use super::driver::Conversation;
use super::{Discard, Incident, Outbox};
use crate::packet::{Endpoint, Segment};
use crate::reassembly::{Event, FlowFacts, FlowTable, Limits};
use crate::record::{Identity, Recorder};

pub(crate) const CLIENT: Endpoint = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 40_000);
pub(crate) const SERVER: Endpoint = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 80);
const MILLISECOND: u64 = 1_000_000;

/// One segment.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub at_ns: u64,
    pub by_client: bool,
    pub sequence: u32,
    pub acknowledgment: Option<u32>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub bytes: Vec<u8>,
}

/// A conversation being written down; every segment comes a millisecond after the one before it.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub sent: Vec<Sent>,
    now_ns: u64,
    next: [u32; 2],
    seen: [u32; 2],
}

impl Script {
    /// After the handshake, close to the wrap of sequence numbers.
    pub fn opened() -> Self {
        let mut script = Self::joined();
        let (client, server) = (script.next[0].wrapping_sub(1), script.next[1].wrapping_sub(1));
        for (by_client, sequence, acknowledgment) in [(true, client, None), (false, server, Some(script.next[0]))] {
            script.push(Sent { at_ns: 0, by_client, sequence, acknowledgment, syn: true, fin: false, rst: false, bytes: Vec::new() });
        }
        script.acknowledge(true)
    }

    /// Without a handshake: joined in the middle.
    pub fn joined() -> Self {
        let next = [0xffff_ff00, 0xffff_fff0];
        Self { sent: Vec::new(), now_ns: 1_000_000_000 * 1_000_000_000, next, seen: [next[1], next[0]] }
    }

    fn push(&mut self, mut segment: Sent) {
        self.now_ns += MILLISECOND;
        segment.at_ns = self.now_ns;
        self.sent.push(segment);
    }

    fn send(mut self, by_client: bool, bytes: &[u8], fin: bool, rst: bool) -> Self {
        let me = usize::from(!by_client);
        let (sequence, acknowledgment) = (self.next[me], Some(self.seen[me]));
        self.next[me] = self.next[me].wrapping_add(bytes.len() as u32 + u32::from(fin));
        self.push(Sent { at_ns: 0, by_client, sequence, acknowledgment, syn: false, fin, rst, bytes: bytes.to_vec() });
        // The other end has received it by the time it sends again.
        self.seen[1 - me] = self.next[me];
        self
    }

    /// The client sends bytes in one segment.
    pub fn client(self, bytes: impl AsRef<[u8]>) -> Self {
        self.send(true, bytes.as_ref(), false, false)
    }

    /// The server sends bytes in one segment.
    pub fn server(self, bytes: impl AsRef<[u8]>) -> Self {
        self.send(false, bytes.as_ref(), false, false)
    }

    /// One end sends a segment without bytes.
    pub fn acknowledge(self, by_client: bool) -> Self {
        self.send(by_client, b"", false, false)
    }

    /// One end sends FIN.
    pub fn finish(self, by_client: bool) -> Self {
        self.send(by_client, b"", true, false)
    }

    /// One end sends RST.
    pub fn reset(self, by_client: bool) -> Self {
        self.send(by_client, b"", false, true)
    }

    /// Time passes.
    pub fn wait(mut self, milliseconds: u64) -> Self {
        self.now_ns += milliseconds * MILLISECOND;
        self
    }

    /// The last segment is lost on its way to the capture, not to its receiver.
    pub fn unseen(mut self) -> Self {
        self.sent.pop();
        self
    }
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub lines: Vec<String>,
    pub outbox: Outbox,
}

impl Outcome {
    pub fn discarded(&self, why: Discard) -> u64 {
        self.outbox.discarded[why as usize]
    }

    pub fn incidents(&self, incident: Incident) -> u64 {
        self.outbox.incidents[incident as usize]
    }
}

/// Reads segments, at the end the capture is over; `show` makes a line of each record.
pub(crate) fn read(sent: &[Sent], unmask: bool, show: fn(&RequestRecord<'_>) -> String) -> Outcome {
    let mut table: FlowTable<Conversation> = FlowTable::new(Limits::default());
    let mut outbox = Outbox { unmask, buffer_limit: 1 << 20, ..Outbox::default() };
    for segment in sent {
        let (source, destination) = if segment.by_client { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        let view = Segment {
            source,
            destination,
            sequence: segment.sequence,
            acknowledgment: segment.acknowledgment,
            syn: segment.syn,
            fin: segment.fin,
            rst: segment.rst,
            payload: &segment.bytes,
            payload_length: segment.bytes.len() as u32,
        };
        let mut emit =
            |conversation: &mut Conversation, facts: &FlowFacts, event: Event<'_>| conversation.handle(facts, event, &mut outbox);
        if table.poll_timeout() <= segment.at_ns {
            table.handle_timeout(segment.at_ns, &mut emit);
        }
        table.handle(&view, segment.at_ns, &mut emit);
    }
    table
        .finish(&mut |conversation: &mut Conversation, facts: &FlowFacts, event: Event<'_>| conversation.handle(facts, event, &mut outbox));
    let mut recorder = Recorder::new(SourceKind::File, unmask, Identity::default(), Vec::new());
    let mut lines = Vec::new();
    while let Some(exchange) = outbox.finished.pop_front() {
        lines.push(show(&recorder.record(&exchange)));
    }
    assert_eq!(outbox.buffered_bytes, 0, "bytes are left in an inbox");
    assert_eq!(outbox.open, 0, "an exchange was forgotten");
    Outcome { lines, outbox }
}

/// Milliseconds, or `?` where a time is unknown.
pub(crate) fn milliseconds(time_ns: Option<u64>) -> String {
    time_ns.map_or_else(|| "?".to_owned(), |time| (time / MILLISECOND).to_string())
}
