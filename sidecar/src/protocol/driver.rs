//! Between reassembly and decoders: detection, inboxes for incomplete messages, caps.
//!
//! Guarantee: bytes that arrive in order and complete are lent to the decoder straight from the packet; only the rest of an
//! incomplete message is copied. Detection looks at a bounded number of segments of a connection and then never again.

use super::{
    Connection, Decoder, Discard, Ending, Gap, Incident, Input, Outbox, Output, PROTOCOLS, Probe, Progress, Sender, Start, Unwanted,
    Verdict,
};
use crate::reassembly::{Close, End, Event, FlowFacts, Mark};

/// Bytes that detection may look at, and wait for: a request line with the longest target that is looked through, for where segments cut it
/// is not the sender's to say.
pub const PROBE_BYTES: usize = 9 << 10;
/// Segments of one connection that detection looks at before it gives the connection up for good: enough to find the next
/// message boundary behind a large body that the capture started in.
const MAX_PROBES: u32 = 4096;
/// As above for a connection whose first byte was seen: what is not recognised at once rarely is later.
const MAX_PROBES_FROM_START: u32 = 32;
/// Bytes of both ends that are looked at in any case, however small the segments are: more than a login has.
const MIN_PROBED_BYTES: u32 = 2 << 10;
/// Largest message head that is buffered; decoders read bodies as they come.
pub const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// Buffers for incomplete messages that are kept for the next ones, and how large such a buffer may be.
const SPARE_BUFFERS: usize = 64;
const SPARE_BYTES: usize = 64 << 10;
/// Stands for "no byte went by unread".
const NEVER: u64 = u64::MAX;

/// The bytes of an incomplete message.
#[derive(Debug, Default)]
pub struct Kept {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    need: usize,
}

impl Kept {
    fn offset(&self) -> Option<u64> {
        self.marks.first().map(|mark| mark.offset)
    }
}

/// Incomplete bytes of one stream. Nearly always empty, so what they need is made when they come.
#[derive(Debug, Default)]
struct Inbox(Option<Box<Kept>>);

impl Inbox {
    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |kept| kept.bytes.len())
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Stream offset of the first byte.
    fn offset(&self) -> Option<u64> {
        self.0.as_ref().and_then(|kept| kept.offset())
    }

    /// Takes everything out; it no longer counts as buffered.
    fn take(&mut self, outbox: &mut Outbox) -> Option<Box<Kept>> {
        let kept = self.0.take()?;
        outbox.buffered_bytes -= kept.bytes.len();
        Some(kept)
    }

    /// Puts back what was taken out, without its first `taken` bytes.
    fn restore(&mut self, mut kept: Box<Kept>, taken: usize, outbox: &mut Outbox) {
        if taken >= kept.bytes.len() {
            return spare(kept, outbox);
        }
        if taken > 0 {
            kept.bytes.drain(..taken);
            let Some(first) = kept.offset().map(|offset| offset + taken as u64) else { return };
            Mark::begin_at(&mut kept.marks, first);
        }
        outbox.buffered_bytes += kept.bytes.len();
        self.0 = Some(kept);
    }

    fn clear(&mut self, outbox: &mut Outbox) -> usize {
        let Some(kept) = self.take(outbox) else { return 0 };
        let length = kept.bytes.len();
        spare(kept, outbox);
        length
    }

    fn push(&mut self, mark: Mark, bytes: &[u8], outbox: &mut Outbox) {
        outbox.buffered_bytes += bytes.len();
        let kept = self.0.get_or_insert_with(|| outbox.spare.pop().unwrap_or_default());
        kept.bytes.extend_from_slice(bytes);
        kept.marks.push(mark);
    }
}

/// Keeps a buffer for the next incomplete message.
fn spare(mut kept: Box<Kept>, outbox: &mut Outbox) {
    if outbox.spare.len() < SPARE_BUFFERS && kept.bytes.capacity() <= SPARE_BYTES {
        kept.bytes.clear();
        kept.marks.clear();
        kept.need = 0;
        outbox.spare.push(kept);
    }
}

#[derive(Debug)]
enum Phase {
    Undecided { probes: u32, bytes: u32 },
    Decoding { decoder: Box<dyn Decoder>, client: End },
    Opaque,
}

/// What is kept for each connection.
#[derive(Debug)]
pub struct Conversation {
    phase: Phase,
    inboxes: [Inbox; 2],
    /// Offset behind the last byte or gap of each stream.
    offsets: [u64; 2],
    /// How much of the other stream each end had received when the last of its bytes went by unread, or [`NEVER`].
    missed_at: [u64; 2],
    next_index: u64,
}

impl Default for Conversation {
    fn default() -> Self {
        Self {
            phase: Phase::Undecided { probes: 0, bytes: 0 },
            inboxes: Default::default(),
            offsets: [0; 2],
            missed_at: [NEVER; 2],
            next_index: 0,
        }
    }
}

impl Conversation {
    /// Takes what reassembly hands out.
    pub fn handle(&mut self, facts: &FlowFacts, event: Event<'_>, outbox: &mut Outbox) {
        match event {
            Event::Data { sender, mark, bytes } => {
                self.offsets[sender] = mark.offset + bytes.len() as u64;
                self.data(facts, sender, mark, bytes, outbox);
            }
            Event::Gap { sender, offset, length, skipped } => {
                self.offsets[sender] = offset + length;
                self.gap(facts, sender, offset, length, skipped, outbox);
            }
            Event::Finished { sender, .. } => {
                // What is incomplete now stays so: it is offered a last time before the stream ends.
                if !self.inboxes[sender].is_empty() && matches!(self.phase, Phase::Decoding { .. }) {
                    self.gap(facts, sender, self.offsets[sender], 0, false, outbox);
                }
                if let Phase::Decoding { client, .. } = &self.phase {
                    let ending = Ending::Finished(role(*client, sender));
                    self.end(facts, ending, outbox);
                }
            }
            Event::Closed(why) => self.close(facts, why, outbox),
        }
    }

    fn data(&mut self, facts: &FlowFacts, sender: End, mark: Mark, bytes: &[u8], outbox: &mut Outbox) {
        match &mut self.phase {
            Phase::Opaque => outbox.discarded[Discard::UnknownProtocol as usize] += bytes.len() as u64,
            Phase::Undecided { .. } => self.probe(facts, sender, mark, bytes, outbox),
            Phase::Decoding { .. } if self.inboxes[sender].is_empty() => self.feed_segment(facts, sender, mark, bytes, outbox),
            Phase::Decoding { .. } => {
                self.keep(facts, sender, mark, bytes, outbox);
                self.feed_inbox(facts, sender, outbox);
            }
        }
    }

    /// Lends a segment to the decoder where nothing waits in front of it, and keeps what the decoder leaves.
    fn feed_segment(&mut self, facts: &FlowFacts, sender: End, mark: Mark, bytes: &[u8], outbox: &mut Outbox) {
        let (taken, need) = self.feed(facts, sender, bytes, &[mark], outbox);
        let rest = bytes.get(taken..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        self.keep(facts, sender, Mark { offset: mark.offset + taken as u64, ..mark }, rest, outbox);
        if let Some(kept) = &mut self.inboxes[sender].0 {
            kept.need = need;
        }
    }

    /// Keeps bytes for later, within the caps.
    fn keep(&mut self, facts: &FlowFacts, sender: End, mark: Mark, bytes: &[u8], outbox: &mut Outbox) {
        if bytes.is_empty() {
            return;
        }
        if !matches!(self.phase, Phase::Decoding { .. } | Phase::Undecided { .. }) {
            outbox.discarded[Discard::UnknownProtocol as usize] += bytes.len() as u64;
            return;
        }
        let waiting = self.inboxes[sender].len();
        let why = if waiting + bytes.len() > MAX_MESSAGE_BYTES + PROBE_BYTES && waiting >= MAX_MESSAGE_BYTES {
            Some(Discard::TooLarge)
        } else if outbox.buffered_bytes + bytes.len() > outbox.buffer_limit {
            Some(Discard::BufferFull)
        } else {
            None
        };
        let Some(why) = why else {
            self.inboxes[sender].push(mark, bytes, outbox);
            return;
        };
        // What cannot be kept becomes a hole, which decoders know how to live with.
        let offset = self.inboxes[sender].offset().unwrap_or(mark.offset);
        let length = self.inboxes[sender].clear(outbox) + bytes.len();
        outbox.discarded[why as usize] += length as u64;
        self.gap(facts, sender, offset, length as u64, false, outbox);
    }

    fn feed_inbox(&mut self, facts: &FlowFacts, sender: End, outbox: &mut Outbox) {
        if self.inboxes[sender].0.as_ref().is_none_or(|kept| kept.bytes.len() < kept.need) {
            return;
        }
        // The inbox is lent to the decoder while the conversation stays usable.
        let Some(mut kept) = self.inboxes[sender].take(outbox) else { return };
        let (taken, need) = self.feed(facts, sender, &kept.bytes, &kept.marks, outbox);
        kept.need = need;
        if matches!(self.phase, Phase::Decoding { .. }) {
            self.inboxes[sender].restore(kept, taken, outbox);
        } else {
            outbox.discarded[Discard::UnknownProtocol as usize] += (kept.bytes.len() - taken) as u64;
            spare(kept, outbox);
        }
    }

    /// Lends bytes to the decoder; returns how many it took, and how many it needs to go on.
    fn feed(&mut self, facts: &FlowFacts, sender: End, bytes: &[u8], marks: &[Mark], outbox: &mut Outbox) -> (usize, usize) {
        let Phase::Decoding { decoder, client } = &mut self.phase else { return (0, 0) };
        let client = *client;
        let connection = connection(facts, client);
        let mut unwanted = None;
        let mut out = Output { connection: &connection, next_index: &mut self.next_index, outbox, unwanted: &mut unwanted };
        let offset = marks.first().map_or(0, |mark| mark.offset);
        let mut input = Input { sender: role(client, sender), data: bytes, offset, marks, base: facts.base[sender] };
        let mut rejected = false;
        let mut need = 0;
        while !input.data.is_empty() {
            match decoder.data(&input, &mut out) {
                Progress::Consumed(length) if length > 0 => input = input.after(length),
                Progress::Consumed(_) => break,
                Progress::Need(length) => {
                    need = length.min(MAX_MESSAGE_BYTES);
                    break;
                }
                Progress::Reject => {
                    rejected = true;
                    break;
                }
            }
        }
        if rejected {
            out.count(Incident::Rejected);
            // What it had begun is of no protocol that is known.
            decoder.end(Ending::Closed(Close::Evicted), &mut out);
            self.phase = Phase::Opaque;
        }
        let taken = bytes.len() - input.data.len();
        if let Some(Unwanted { sender, until }) = unwanted {
            outbox.unwanted = Some((if sender == Sender::Client { client } else { 1 - client }, until));
        }
        (taken, need)
    }

    fn probe(&mut self, facts: &FlowFacts, sender: End, mark: Mark, bytes: &[u8], outbox: &mut Outbox) {
        let Phase::Undecided { probes, bytes: probed } = &mut self.phase else { return };
        // A beginning that comes in small pieces is one probe: PROBE_BYTES bounds it.
        *probes += u32::from(self.inboxes[sender].is_empty());
        *probed = probed.saturating_add(bytes.len() as u32);
        let limit = if facts.client.is_some() { MAX_PROBES_FROM_START } else { MAX_PROBES };
        let exhausted = *probes > limit && *probed > MIN_PROBED_BYTES;
        if !self.inboxes[sender].is_empty() {
            let waiting = self.inboxes[sender].len();
            let passed = self.inboxes[sender].0.as_ref().and_then(|kept| kept.marks.last()).and_then(|mark| mark.acknowledged);
            self.inboxes[sender].push(mark, bytes, outbox);
            let Some(kept) = self.inboxes[sender].0.take() else { return };
            let verdict = self.judge(facts, sender, kept.offset().unwrap_or(mark.offset), &kept.bytes, outbox);
            self.inboxes[sender].0 = Some(kept);
            match verdict {
                Verdict::Yes(_) => {}
                Verdict::Maybe if !exhausted => {}
                _ => {
                    self.inboxes[sender].clear(outbox);
                    self.miss(sender, waiting, passed, outbox);
                    // What waited was no beginning; this segment may be one.
                    return self.probe(facts, sender, mark, bytes, outbox);
                }
            }
        } else {
            match self.judge(facts, sender, mark.offset, bytes, outbox) {
                Verdict::Yes(_) => {
                    self.feed_segment(facts, sender, mark, bytes, outbox);
                    self.feed_inbox(facts, 1 - sender, outbox);
                    return;
                }
                Verdict::Maybe if !exhausted => self.inboxes[sender].push(mark, bytes, outbox),
                _ => self.miss(sender, bytes.len(), mark.acknowledged, outbox),
            }
        }
        if matches!(self.phase, Phase::Decoding { .. }) {
            self.feed_inbox(facts, sender, outbox);
            self.feed_inbox(facts, 1 - sender, outbox);
        } else if exhausted {
            self.phase = Phase::Opaque;
            for inbox in &mut self.inboxes {
                let length = inbox.clear(outbox);
                outbox.discarded[Discard::UnknownProtocol as usize] += length as u64;
            }
        }
    }

    /// Bytes of an end went by unread, whose sender had received so much of the other stream.
    fn miss(&mut self, sender: End, length: usize, acknowledged: Option<u64>, outbox: &mut Outbox) {
        outbox.discarded[Discard::UnknownProtocol as usize] += length as u64;
        self.missed_at[sender] = acknowledged.unwrap_or(self.offsets[1 - sender]);
    }

    /// Asks all protocols; on a yes the decoder is there.
    fn judge(&mut self, facts: &FlowFacts, sender: End, offset: u64, bytes: &[u8], outbox: &Outbox) -> Verdict {
        let from_start = facts.client.is_some() && offset == 0;
        let likely = if facts.ends[sender].1 < facts.ends[1 - sender].1 { Sender::Server } else { Sender::Client };
        let probe = Probe { data: bytes, from_start, sender: facts.client.map(|client| role(client, sender)), likely };
        let mut verdict = Verdict::No;
        for row in PROTOCOLS {
            match (row.detect)(&probe) {
                Verdict::No => {}
                Verdict::Maybe if bytes.len() < PROBE_BYTES && outbox.buffered_bytes + PROBE_BYTES < outbox.buffer_limit => {
                    verdict = Verdict::Maybe;
                }
                Verdict::Maybe => {}
                Verdict::Yes(found) => {
                    let client = if found == Sender::Client { sender } else { 1 - sender };
                    let server = 1 - client;
                    let waiting = self.inboxes[server].offset();
                    let server_offset = if server == sender { offset } else { waiting.unwrap_or(self.offsets[server]) };
                    // Of the other end too nothing went by unread.
                    let untouched = from_start && (self.inboxes[1 - sender].offset() == Some(0) || self.offsets[1 - sender] == 0);
                    let missed_at = Some(self.missed_at[client]).filter(|offset| *offset != NEVER);
                    let start = Start { from_start: untouched, server_offset, missed_at };
                    self.phase = Phase::Decoding { decoder: (row.decoder)(start), client };
                    return Verdict::Yes(found);
                }
            }
        }
        verdict
    }

    fn gap(&mut self, facts: &FlowFacts, sender: End, offset: u64, length: u64, skipped: bool, outbox: &mut Outbox) {
        let kept = self.inboxes[sender].take(outbox);
        let Phase::Decoding { decoder, client } = &mut self.phase else {
            return self.miss(sender, kept.map_or(0, |kept| kept.bytes.len()), None, outbox);
        };
        let connection = connection(facts, *client);
        let role = role(*client, sender);
        let before = kept.as_ref().map(|kept| Input {
            sender: role,
            data: &kept.bytes,
            offset: kept.offset().unwrap_or(offset),
            marks: &kept.marks,
            base: facts.base[sender],
        });
        let gap = Gap { sender: role, before, offset, length, skipped };
        let mut out = Output { connection: &connection, next_index: &mut self.next_index, outbox, unwanted: &mut None };
        decoder.gap(&gap, &mut out);
        if let Some(kept) = kept {
            spare(kept, outbox);
        }
    }

    fn end(&mut self, facts: &FlowFacts, ending: Ending, outbox: &mut Outbox) {
        if let Phase::Decoding { decoder, client } = &mut self.phase {
            let connection = connection(facts, *client);
            let mut out = Output { connection: &connection, next_index: &mut self.next_index, outbox, unwanted: &mut None };
            decoder.end(ending, &mut out);
        }
    }

    fn close(&mut self, facts: &FlowFacts, why: Close, outbox: &mut Outbox) {
        for sender in 0..self.inboxes.len() {
            if why != Close::RequestTimeout && !self.inboxes[sender].is_empty() {
                self.gap(facts, sender, self.offsets[sender], 0, false, outbox);
            }
        }
        self.end(facts, Ending::Closed(why), outbox);
        if why == Close::RequestTimeout {
            return;
        }
        self.inboxes = Default::default();
        self.phase = Phase::Opaque;
    }
}

fn role(client: End, sender: End) -> Sender {
    if client == sender { Sender::Client } else { Sender::Server }
}

fn connection(facts: &FlowFacts, client: End) -> Connection {
    Connection { id: facts.id, client: facts.ends[client], server: facts.ends[1 - client] }
}
