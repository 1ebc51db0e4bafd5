//! All connections, found by their two ends.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::flow::{Fate, Shared};
use super::index::{Index, SPARE};
use super::limits::{CLOSED_LINGER_NS, SWEEP_INTERVAL_NS};
use super::{Close, Counters, End, Event, Flow, FlowFacts, Limits};
use crate::packet::{Endpoint, Segment};

/// Slots that are looked at to find the idlest connection when the table is full: bounds the cost of an eviction.
const EVICTION_SAMPLE: usize = 32;

/// The table. `T` is what the reader of the bytes keeps for each connection.
#[derive(Debug)]
pub struct FlowTable<T> {
    limits: Limits,
    index: Index,
    // Boxed: what a flood of connections took can be given back one by one.
    slots: Vec<Option<Box<Flow<T>>>>,
    free: Vec<u32>,
    /// (deadline, slot, connection id) of flows with a hole; an entry whose flow has moved on is ignored.
    holes: BinaryHeap<Reverse<(u64, u32, u64)>>,
    /// (time to forget it, slot, connection id) of flows that are over, in the order in which they ended.
    ended: VecDeque<(u64, u32, u64)>,
    next_id: u64,
    held_bytes: usize,
    next_sweep_ns: u64,
    hand: usize,
    counters: Counters,
}

impl<T: Default> FlowTable<T> {
    /// A table without connections.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            index: Index::default(),
            slots: Vec::new(),
            free: Vec::new(),
            holes: BinaryHeap::new(),
            ended: VecDeque::new(),
            next_id: 1,
            held_bytes: 0,
            next_sweep_ns: u64::MAX,
            hand: 0,
            counters: Counters::default(),
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections in the table, those that linger after their end included.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// True without connections.
    pub fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// Bytes held back.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> u64 {
        let hole = self.holes.peek().map_or(u64::MAX, |Reverse((deadline, _, _))| *deadline);
        let ended = self.ended.front().map_or(u64::MAX, |(time, _, _)| *time);
        hole.min(ended).min(self.next_sweep_ns)
    }

    /// Takes one segment.
    pub fn handle(&mut self, segment: &Segment<'_>, time_ns: u64, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        let (ends, sender) = ordered(segment);
        let mut slot = match self.index.get(&ends) {
            Some(slot) => slot,
            None => match self.open(ends, segment, emit) {
                Some(slot) => slot,
                None => return,
            },
        };
        if self.next_sweep_ns == u64::MAX {
            self.next_sweep_ns = time_ns.saturating_add(SWEEP_INTERVAL_NS);
        }
        if self.offer(slot, sender, segment, time_ns, emit) == Some(Fate::OtherConnection) {
            self.remove(slot, Close::Replaced, emit);
            match self.open(ends, segment, emit) {
                Some(fresh) => slot = fresh,
                None => return,
            }
            self.offer(slot, sender, segment, time_ns, emit);
        }
    }

    fn offer(
        &mut self,
        slot: u32,
        sender: End,
        segment: &Segment<'_>,
        time_ns: u64,
        emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>),
    ) -> Option<Fate> {
        let flow = self.slots.get_mut(slot as usize)?.as_deref_mut()?;
        let (before, was_closed) = (flow.deadline(), flow.closed);
        let mut shared = Shared { limits: &self.limits, counters: &mut self.counters, held_bytes: &mut self.held_bytes };
        let fate = flow.handle(sender, segment, time_ns, &mut shared, emit);
        let after = flow.deadline();
        if after < before || after != u64::MAX && after != before {
            self.holes.push(Reverse((after, slot, flow.facts.id)));
        }
        if flow.closed && !was_closed {
            self.ended.push_back((time_ns.saturating_add(CLOSED_LINGER_NS), slot, flow.facts.id));
        }
        Some(fate)
    }

    /// A slot for a new connection; `None` if the packet is no reason to open one.
    fn open(&mut self, ends: [Endpoint; 2], segment: &Segment<'_>, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) -> Option<u32> {
        if segment.rst {
            return None;
        }
        if self.index.len() >= self.limits.max_flows {
            self.evict(emit);
        }
        let flow = Box::new(Flow::new(self.next_id, ends, T::default()));
        self.next_id += 1;
        self.counters.flows_opened += 1;
        self.counters.flows_joined += u64::from(!segment.syn);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(flow);
                slot
            }
            None => {
                self.slots.push(Some(flow));
                self.slots.len() as u32 - 1
            }
        };
        self.index.insert(&ends, slot);
        Some(slot)
    }

    fn evict(&mut self, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        if let Some(slot) = self.next_ended(u64::MAX) {
            return self.remove(slot, Close::Evicted, emit);
        }
        let mut victim: Option<(bool, u64, u32)> = None;
        let mut looked_at = 0;
        for _ in 0..self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            if let Some(flow) = &self.slots[self.hand] {
                let candidate = (!flow.closed, flow.last_seen_ns, self.hand as u32);
                victim = Some(victim.map_or(candidate, |best| best.min(candidate)));
                looked_at += 1;
                if looked_at == EVICTION_SAMPLE {
                    break;
                }
            }
        }
        if let Some((open, _, slot)) = victim {
            self.counters.flows_evicted += u64::from(open);
            self.remove(slot, Close::Evicted, emit);
        }
    }

    /// The slot of the flow that ended first, if its time is over.
    fn next_ended(&mut self, now_ns: u64) -> Option<u32> {
        while let Some((time, slot, id)) = self.ended.front().copied()
            && time <= now_ns
        {
            self.ended.pop_front();
            let flow = self.slots.get(slot as usize).and_then(Option::as_deref);
            let Some(flow) = flow.filter(|flow| flow.facts.id == id) else { continue };
            let due = flow.last_seen_ns.saturating_add(CLOSED_LINGER_NS);
            if due <= now_ns {
                return Some(slot);
            }
            self.ended.push_back((due, slot, id));
        }
        None
    }

    fn remove(&mut self, slot: u32, why: Close, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        let Some(mut flow) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        let mut shared = Shared { limits: &self.limits, counters: &mut self.counters, held_bytes: &mut self.held_bytes };
        flow.close(why, &mut shared, emit);
        self.index.remove(&flow.facts.ends);
        self.free.push(slot);
    }

    /// Tells a connection that the source was asked to leave out a stream's bytes before `until`.
    pub fn expect_skip(&mut self, facts: &FlowFacts, sender: End, until: u32) {
        let slot = self.index.get(&facts.ends);
        let flow = slot.and_then(|slot| self.slots.get_mut(slot as usize)).and_then(Option::as_deref_mut);
        if let Some(flow) = flow
            && flow.facts.id == facts.id
        {
            flow.expect_skip(sender, until);
        }
    }

    /// Believes holes whose time is over and, once a second, ends what has waited too long.
    pub fn handle_timeout(&mut self, now_ns: u64, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        while let Some(Reverse((deadline, slot, id))) = self.holes.peek().copied()
            && deadline <= now_ns
        {
            self.holes.pop();
            let Some(flow) = self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut) else { continue };
            if flow.facts.id != id || flow.deadline() > now_ns {
                continue;
            }
            let mut shared = Shared { limits: &self.limits, counters: &mut self.counters, held_bytes: &mut self.held_bytes };
            flow.handle_deadline(now_ns, &mut shared, emit);
            if flow.deadline() != u64::MAX {
                let entry = Reverse((flow.deadline(), slot, id));
                self.holes.push(entry);
            }
            if flow.closed {
                self.ended.push_back((now_ns.saturating_add(CLOSED_LINGER_NS), slot, id));
            }
        }
        while let Some(slot) = self.next_ended(now_ns) {
            self.remove(slot, Close::Idle, emit);
        }
        if self.next_sweep_ns <= now_ns {
            self.next_sweep_ns = now_ns.saturating_add(SWEEP_INTERVAL_NS);
            self.sweep(now_ns, emit);
        }
    }

    fn sweep(&mut self, now_ns: u64, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        for slot in 0..self.slots.len() {
            let Some(flow) = &mut self.slots[slot] else { continue };
            let idle = now_ns.saturating_sub(flow.last_seen_ns);
            if idle >= self.limits.flow_idle_ns {
                self.remove(slot as u32, Close::Idle, emit);
            } else if !flow.closed && !flow.timed_out && idle >= self.limits.request_timeout_ns {
                flow.timed_out = true;
                emit(&mut flow.state, &flow.facts, Event::Closed(Close::RequestTimeout));
            }
        }
        self.index.shrink();
        if self.ended.capacity() > SPARE * self.ended.len().max(SPARE) {
            self.ended.shrink_to_fit();
        }
        if self.index.len() == 0 {
            self.next_sweep_ns = u64::MAX;
            (self.slots, self.free) = (Vec::new(), Vec::new());
        }
    }

    /// Ends all connections, in the order in which they were opened.
    pub fn finish(&mut self, emit: &mut impl FnMut(&mut T, &FlowFacts, Event<'_>)) {
        let mut open: Vec<(u64, u32)> =
            self.slots.iter().enumerate().filter_map(|(slot, flow)| flow.as_ref().map(|flow| (flow.facts.id, slot as u32))).collect();
        open.sort_unstable();
        for (_, slot) in open {
            self.remove(slot, Close::CaptureEnded, emit);
        }
        self.holes.clear();
        self.ended.clear();
        self.next_sweep_ns = u64::MAX;
    }
}

/// Both ends in a fixed order, and which of them sent the segment.
fn ordered(segment: &Segment<'_>) -> ([Endpoint; 2], End) {
    if segment.source <= segment.destination {
        ([segment.source, segment.destination], 0)
    } else {
        ([segment.destination, segment.source], 1)
    }
}
