//! One connection: both streams, in causal order.

use super::limits::MAX_HELD_SEGMENTS;
use super::stream::{Held, Stream};
use super::{Close, Counters, End, Event, Limits, Mark, distance, is_far};
use crate::packet::{Endpoint, Segment};

/// What is known about a connection, for whoever reads its bytes.
#[derive(Clone, Copy, Debug)]
pub struct FlowFacts {
    /// Number of the connection within this run.
    pub id: u64,
    /// The two ends in a fixed order.
    pub ends: [Endpoint; 2],
    /// The end that opened it, where SYN or SYN-ACK was seen.
    pub client: Option<End>,
    /// Sequence numbers of offset 0 of each end's stream.
    pub base: [u32; 2],
}

/// One connection with the state `T` that its reader keeps.
#[derive(Debug)]
pub struct Flow<T> {
    /// Identity and numbering.
    pub facts: FlowFacts,
    /// Time of the last packet.
    pub last_seen_ns: u64,
    /// Over, and remembered only to catch late copies.
    pub closed: bool,
    /// Open exchanges were already told that they have no answer.
    pub timed_out: bool,
    /// The reader's state.
    pub state: T,
    streams: [Stream; 2],
    /// How often an acknowledgment went on so far, modulo 2^32: the pieces of a segment count as the segment.
    steps: u32,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Taken.
    Taken,
    /// It belongs to a later connection with the same addresses and ports.
    OtherConnection,
}

/// Budget and counters that all flows share.
pub(super) struct Shared<'a> {
    pub limits: &'a Limits,
    pub counters: &'a mut Counters,
    pub held_bytes: &'a mut usize,
}

impl<T> Flow<T> {
    /// A connection whose first packet has come.
    pub(super) fn new(id: u64, ends: [Endpoint; 2], state: T) -> Self {
        let facts = FlowFacts { id, ends, client: None, base: [0; 2] };
        let streams = [Stream { deadline: u64::MAX, ..Stream::default() }, Stream { deadline: u64::MAX, ..Stream::default() }];
        Self { facts, last_seen_ns: 0, closed: false, timed_out: false, state, streams, steps: 0 }
    }

    /// When a hole of this flow has to be believed.
    pub(super) fn deadline(&self) -> u64 {
        self.streams[0].deadline.min(self.streams[1].deadline)
    }

    /// Asks for a stream's bytes before `until` to be taken as left out on purpose when they do not come.
    pub(super) fn expect_skip(&mut self, sender: End, until: u32) {
        self.streams[sender].skip_until = Some(until);
    }

    /// Takes one segment that `sender` sent.
    pub(super) fn handle(
        &mut self,
        sender: End,
        segment: &Segment<'_>,
        time_ns: u64,
        shared: &mut Shared<'_>,
        emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>),
    ) -> Fate {
        let first_byte = segment.sequence.wrapping_add(u32::from(segment.syn));
        if !self.belongs(sender, segment, first_byte) {
            return Fate::OtherConnection;
        }
        self.last_seen_ns = time_ns;
        shared.counters.payload_bytes += segment.payload.len() as u64;
        if self.closed {
            shared.counters.after_close_bytes += segment.payload.len() as u64;
            return Fate::Taken;
        }
        self.timed_out = false;
        if segment.rst {
            // What a RST carries is a note about the reason (RFC 9293, 3.10.7.4), not part of the stream.
            shared.counters.after_close_bytes += segment.payload.len() as u64;
            self.reset(sender, segment, shared, emit);
            return Fate::Taken;
        }
        self.sync(sender, segment, first_byte);
        let peer = 1 - sender;
        if let Some(acknowledgment) = segment.acknowledgment {
            let stream = &mut self.streams[peer];
            if stream.synced && distance(stream.acked, acknowledgment) > 0 && !is_far(stream.next, acknowledgment) {
                stream.acked = acknowledgment;
                self.steps = self.steps.wrapping_add(1);
            }
        }
        if segment.payload_length > 0 || segment.fin {
            self.take(sender, segment, first_byte, time_ns, shared, emit);
        }
        if !self.is_quiet() {
            self.settle(time_ns, shared, emit);
        }
        self.close_when_finished(shared, emit);
        Fate::Taken
    }

    fn is_quiet(&self) -> bool {
        self.streams.iter().all(|stream| stream.held.is_empty() && !stream.acknowledged_beyond() && stream.deadline == u64::MAX)
    }

    /// False if the segment's numbers cannot be of this connection.
    fn belongs(&self, sender: End, segment: &Segment<'_>, first_byte: u32) -> bool {
        let stream = &self.streams[sender];
        if !stream.synced {
            return true;
        }
        if segment.syn {
            return stream.base == first_byte;
        }
        let far = match stream.skip_until {
            Some(until) => is_far(stream.next, first_byte) && is_far(until, first_byte),
            None => is_far(stream.next, first_byte),
        };
        !far || segment.rst || (segment.payload_length == 0 && !segment.fin)
    }

    fn sync(&mut self, sender: End, segment: &Segment<'_>, first_byte: u32) {
        let peer = 1 - sender;
        if segment.syn && self.facts.client.is_none() {
            self.facts.client = Some(if segment.acknowledgment.is_some() { peer } else { sender });
        }
        if !self.streams[sender].synced && (segment.syn || segment.fin || segment.payload_length > 0) {
            self.streams[sender].sync(first_byte);
            self.facts.base[sender] = first_byte;
        }
        if let Some(acknowledgment) = segment.acknowledgment
            && !self.streams[peer].synced
        {
            self.streams[peer].sync(acknowledgment);
            self.facts.base[peer] = acknowledgment;
        }
    }

    fn take(
        &mut self,
        sender: End,
        segment: &Segment<'_>,
        first_byte: u32,
        time_ns: u64,
        shared: &mut Shared<'_>,
        emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>),
    ) {
        if self.streams[sender].finished {
            self.streams[sender].pass(first_byte, segment.payload.len(), shared.counters);
            return;
        }
        let in_order = {
            let [stream, peer] = self.pair(sender);
            stream.held.is_empty() && distance(stream.next, first_byte) <= 0 && !stream.waits_for(peer, segment.acknowledgment)
        };
        let cut = segment.payload_length - segment.payload.len() as u32;
        if in_order {
            self.deliver(sender, first_byte, segment.payload, cut, segment.fin, segment.acknowledgment, time_ns, shared, emit);
            return;
        }
        // A copy of what is already there needs no room.
        let end = first_byte.wrapping_add(segment.payload_length);
        let stream = &mut self.streams[sender];
        if distance(stream.next, end) <= 0 && !segment.fin {
            shared.counters.duplicate_bytes += segment.payload.len() as u64;
            return;
        }
        let held = Held {
            sequence: first_byte,
            time_ns,
            acknowledgment: segment.acknowledgment,
            fin: segment.fin,
            cut,
            bytes: segment.payload.to_vec(),
        };
        *shared.held_bytes += held.cost();
        stream.hold(held);
    }

    fn pair(&self, sender: End) -> [&Stream; 2] {
        [&self.streams[sender], &self.streams[1 - sender]]
    }

    /// Hands out what is new in a segment that begins at or before the next byte.
    #[allow(clippy::too_many_arguments)] // the fields of a segment, held or fresh
    fn deliver(
        &mut self,
        sender: End,
        first_byte: u32,
        bytes: &[u8],
        cut: u32,
        fin: bool,
        acknowledgment: Option<u32>,
        time_ns: u64,
        shared: &mut Shared<'_>,
        emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>),
    ) {
        let [stream, peer] = if sender == 0 {
            let [a, b] = &mut self.streams;
            [a, b]
        } else {
            let [a, b] = &mut self.streams;
            [b, a]
        };
        let old = distance(first_byte, stream.next).max(0) as usize;
        let fresh = bytes.get(old..).unwrap_or_default();
        shared.counters.duplicate_bytes += (bytes.len() - fresh.len()) as u64;
        if !fresh.is_empty() {
            let acknowledged = acknowledgment.filter(|_| peer.synced).map(|number| peer.offset_of(number).min(peer.offset));
            let mark = Mark { offset: stream.offset, time_ns, acknowledged };
            stream.offset += fresh.len() as u64;
            stream.next = stream.next.wrapping_add(fresh.len() as u32);
            shared.counters.delivered_bytes += fresh.len() as u64;
            emit(&mut self.state, &self.facts, Event::Data { sender, mark, bytes: fresh });
        }
        let end = first_byte.wrapping_add(bytes.len() as u32).wrapping_add(cut);
        let missing = distance(stream.next, end);
        if missing > 0 {
            let (offset, length) = (stream.offset, missing as u64);
            stream.offset += length;
            stream.next = end;
            shared.counters.gap_bytes += length;
            emit(&mut self.state, &self.facts, Event::Gap { sender, offset, length, skipped: false });
        }
        if fin && stream.next == end {
            stream.finished = true;
            stream.next = end.wrapping_add(1);
            for held in std::mem::take(&mut stream.held) {
                *shared.held_bytes = shared.held_bytes.saturating_sub(held.cost());
                stream.pass(held.sequence, held.bytes.len(), shared.counters);
            }
            emit(&mut self.state, &self.facts, Event::Finished { sender, time_ns });
        }
    }

    /// Hands out what has become possible, believes holes whose time is over, and sets the deadlines anew.
    fn settle(&mut self, now_ns: u64, shared: &mut Shared<'_>, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        loop {
            self.drain(shared, emit);
            let over = self.over_budget(shared);
            let Some(sender) = self.first_hole(|flow, end| flow.must_believe(end, now_ns, over)) else { break };
            shared.counters.forced_gaps += u64::from(over && !self.streams[sender].is_due(now_ns));
            self.believe_hole(sender, shared, emit);
        }
        for stream in &mut self.streams {
            stream.set_deadline(now_ns, self.steps);
        }
    }

    fn over_budget(&self, shared: &Shared<'_>) -> bool {
        let held = |stream: &Stream| stream.held.iter().map(|held| held.bytes.len()).sum::<usize>();
        self.streams.iter().any(|stream| stream.held.len() > MAX_HELD_SEGMENTS)
            || *shared.held_bytes > shared.limits.total_buffer_bytes && self.streams.iter().any(|stream| !stream.held.is_empty())
            || self.streams.iter().map(held).sum::<usize>() > shared.limits.flow_buffer_bytes
    }

    /// Of both streams' holes the one whose time is over first: what was acknowledged first was sent first.
    fn first_hole(&self, is_meant: impl Fn(&Self, End) -> bool) -> Option<End> {
        let order = |end: &End| {
            let stream = &self.streams[*end];
            let (deadline, noticed) = match stream.hole_start == stream.next {
                true => (stream.deadline, stream.noticed),
                false => (u64::MAX, u32::MAX),
            };
            // Where nothing tells, a request stays uncertain rather than an answer be taken for its own.
            (deadline, noticed, self.facts.client == Some(*end))
        };
        (0..2).filter(|end| is_meant(self, *end)).min_by_key(order)
    }

    fn must_believe(&self, sender: End, now_ns: u64, over: bool) -> bool {
        let stream = &self.streams[sender];
        stream.has_hole() && (over || stream.is_due(now_ns) || stream.skip_until.is_some_and(|until| distance(stream.next, until) > 0))
    }

    fn drain(&mut self, shared: &mut Shared<'_>, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        let mut progressed = true;
        while progressed {
            progressed = false;
            for sender in 0..2 {
                while self.streams[sender].is_blocked() && (self.is_deadlocked() || self.is_answerable(sender)) {
                    let waits = !self.is_answerable(sender);
                    let stream = &mut self.streams[sender];
                    let held = stream.held.remove(0);
                    if waits {
                        stream.passed = held.acknowledgment;
                    }
                    *shared.held_bytes = shared.held_bytes.saturating_sub(held.cost());
                    self.deliver(sender, held.sequence, &held.bytes, held.cut, held.fin, held.acknowledgment, held.time_ns, shared, emit);
                    progressed = true;
                }
            }
        }
    }

    /// True if the first held segment of a stream acknowledges nothing that was not handed out.
    fn is_answerable(&self, sender: End) -> bool {
        let [stream, peer] = self.pair(sender);
        !stream.waits_for(peer, stream.held.first().and_then(|first| first.acknowledgment))
    }

    /// True if both streams wait for each other, which only forged acknowledgments can bring about.
    fn is_deadlocked(&self) -> bool {
        (0..2).all(|end| self.streams[end].is_blocked() && !self.is_answerable(end))
    }

    fn believe_hole(&mut self, sender: End, shared: &mut Shared<'_>, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        let stream = &mut self.streams[sender];
        let Some(mut end) = stream.hole_end() else { return };
        let skipped = match stream.skip_until {
            Some(until) if distance(stream.next, until) > 0 => {
                if distance(until, end) > 0 {
                    end = until;
                }
                true
            }
            _ => false,
        };
        let (offset, length) = (stream.offset, u64::from(end.wrapping_sub(stream.next)));
        stream.next = end;
        stream.offset += length;
        stream.deadline = u64::MAX;
        if stream.skip_until.is_some_and(|until| distance(until, end) >= 0) {
            stream.skip_until = None;
        }
        match skipped {
            true => shared.counters.skipped_bytes += length,
            false => shared.counters.gap_bytes += length,
        }
        emit(&mut self.state, &self.facts, Event::Gap { sender, offset, length, skipped });
    }

    fn reset(&mut self, sender: End, segment: &Segment<'_>, shared: &mut Shared<'_>, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        let stream = &self.streams[sender];
        if stream.synced && is_far(stream.next, segment.sequence) {
            shared.counters.stray_resets += 1;
            return;
        }
        self.close(Close::Reset, shared, emit);
    }

    /// Believes holes whose time is over.
    pub(super) fn handle_deadline(&mut self, now_ns: u64, shared: &mut Shared<'_>, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        if !self.closed {
            self.settle(now_ns, shared, emit);
            self.close_when_finished(shared, emit);
        }
    }

    fn close_when_finished(&mut self, shared: &mut Shared<'_>, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        if !self.closed && self.streams[0].finished && self.streams[1].finished {
            self.release(shared);
            emit(&mut self.state, &self.facts, Event::Closed(Close::Finished));
        }
    }

    /// Hands out everything that is held, then says why the connection is over.
    pub(super) fn close(&mut self, why: Close, shared: &mut Shared<'_>, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        if self.closed {
            return;
        }
        // Acknowledged bytes that never came are a hole too, and those must be believed before what was sent after them.
        loop {
            self.drain(shared, emit);
            let Some(sender) = self.first_hole(|flow, end| flow.streams[end].has_hole()) else { break };
            self.believe_hole(sender, shared, emit);
        }
        self.release(shared);
        emit(&mut self.state, &self.facts, Event::Closed(why));
    }

    /// From here on nothing is waited for: a deadline that stayed would be due for ever.
    fn release(&mut self, shared: &mut Shared<'_>) {
        self.closed = true;
        for stream in &mut self.streams {
            stream.deadline = u64::MAX;
            for held in std::mem::take(&mut stream.held) {
                *shared.held_bytes = shared.held_bytes.saturating_sub(held.cost());
                shared.counters.after_close_bytes += held.bytes.len() as u64;
            }
        }
    }
}
