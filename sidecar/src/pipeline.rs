//! The pure core: packets and time in, records out. No IO, no clock, no randomness.
//!
//! ```text
//! loop {
//!     pipeline.handle_packet(&packet);                       // or handle_timeout(now) when poll_timeout() has passed
//!     while let Some(record) = pipeline.next_record() { .. } // lent until the next call
//!     while let Some(skip) = pipeline.next_skip() { .. }
//! }
//! pipeline.finish();                                         // end of capture: open exchanges are closed
//! ```

use std::collections::VecDeque;
use std::net::IpAddr;

use podtap_wire::{Protocol, RequestRecord, SourceKind};

pub use crate::packet::Skip;
use crate::packet::{self, CapturedPacket, Ignored};
use crate::protocol::driver::Conversation;
use crate::protocol::{Discard, Exchange, Incident, Outbox, PROTOCOLS};
use crate::reassembly::{End, Event, FlowFacts, FlowTable, Limits};
pub use crate::record::Identity;
use crate::record::Recorder;

/// Settings of the core; defaults are what a sidecar runs with.
#[derive(Clone, Debug, Default)]
pub struct PipelineConfig {
    /// Which source feeds it; stamped on every record.
    pub source: SourceKind,
    /// Keep literals, query strings and parameters instead of masking them.
    pub unmask: bool,
    /// Who the pod is.
    pub identity: Identity,
    /// Addresses of the pod's interfaces: they decide `side`. Empty when a file is read (then `side` is `unknown`).
    pub local_addresses: Vec<IpAddr>,
    /// The sidecar's own far ends (broker, analyzer): their connections are left out and counted.
    pub own_endpoints: Vec<(IpAddr, u16)>,
    /// Caps and timeouts of the flow table.
    pub limits: Limits,
}

/// One of the core's own figures, named as in /metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Metric name, such as `podtap_discarded_bytes_total`; names that do not end in `_total` are gauges.
    pub name: &'static str,
    /// The one label's value (`reason`, or `protocol` of `podtap_records_total`); `""` where the metric has no label.
    pub label: &'static str,
    /// Value since the core was made.
    pub value: u64,
}

/// Most wishes to skip that wait for the source: it is asked after every packet.
const MAX_SKIPS: usize = 1024;

/// The core.
#[derive(Debug)]
pub struct Pipeline {
    flows: FlowTable<Conversation>,
    outbox: Outbox,
    recorder: Recorder,
    /// The exchange whose record is lent.
    lent: Option<Box<Exchange>>,
    skips: VecDeque<Skip>,
    own_endpoints: Vec<(IpAddr, u16)>,
    packets: u64,
    segments: u64,
    own: u64,
    ignored: [u64; Ignored::ALL.len()],
    records: [u64; Protocol::ALL.len()],
    partial: u64,
    last_packet_ns: u64,
}

impl Pipeline {
    /// A core without flows.
    pub fn new(config: PipelineConfig) -> Self {
        let outbox = Outbox { unmask: config.unmask, buffer_limit: config.limits.total_buffer_bytes, ..Outbox::default() };
        Self {
            flows: FlowTable::new(config.limits),
            outbox,
            recorder: Recorder::new(config.source, config.unmask, config.identity, config.local_addresses),
            lent: None,
            skips: VecDeque::new(),
            own_endpoints: config.own_endpoints,
            packets: 0,
            segments: 0,
            own: 0,
            ignored: [0; Ignored::ALL.len()],
            records: [0; Protocol::ALL.len()],
            partial: 0,
            last_packet_ns: 0,
        }
    }

    /// Takes one packet.
    pub fn handle_packet(&mut self, packet: &CapturedPacket<'_>) {
        self.packets += 1;
        self.last_packet_ns = packet.timestamp_ns;
        if self.flows.poll_timeout() <= packet.timestamp_ns {
            self.handle_timeout(packet.timestamp_ns);
        }
        let segment = match packet::parse(packet) {
            Ok(segment) => segment,
            Err(why) => {
                self.ignored[why as usize] += 1;
                return;
            }
        };
        if !self.own_endpoints.is_empty() && self.own_endpoints.iter().any(|own| *own == segment.source || *own == segment.destination) {
            self.own += 1;
            return;
        }
        self.segments += 1;
        let mut wish = None;
        let outbox = &mut self.outbox;
        self.flows.handle(&segment, packet.timestamp_ns, &mut |conversation: &mut Conversation, facts: &FlowFacts, event: Event<'_>| {
            conversation.handle(facts, event, outbox);
            if let Some((sender, until)) = outbox.unwanted.take() {
                wish = Some((*facts, sender, until));
            }
        });
        if let Some((facts, sender, until)) = wish {
            self.skip(&facts, sender, until);
        }
    }

    fn skip(&mut self, facts: &FlowFacts, sender: End, until: u64) {
        if self.skips.len() >= MAX_SKIPS {
            self.skips.pop_front();
        }
        let until_sequence = facts.base[sender].wrapping_add(until as u32);
        self.flows.expect_skip(facts, sender, until_sequence);
        self.skips.push_back(Skip { source: facts.ends[sender], destination: facts.ends[1 - sender], until_sequence });
    }

    /// The next finished record, lent until the next call.
    pub fn next_record(&mut self) -> Option<RequestRecord<'_>> {
        if let Some(used) = self.lent.take() {
            self.outbox.pool.give(used);
        }
        let exchange = self.outbox.finished.pop_front()?;
        self.records[exchange.protocol as usize] += 1;
        self.partial += u64::from(exchange.partial);
        Some(self.recorder.record(self.lent.insert(exchange)))
    }

    /// The next request to leave bytes out.
    pub fn next_skip(&mut self) -> Option<Skip> {
        self.skips.pop_front()
    }

    /// Connections that are followed.
    pub fn connections(&self) -> usize {
        self.flows.len()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next (nanoseconds since the Unix epoch).
    pub fn poll_timeout(&self) -> Option<u64> {
        Some(self.flows.poll_timeout()).filter(|deadline| *deadline != u64::MAX)
    }

    /// Ends what has waited too long.
    pub fn handle_timeout(&mut self, now_ns: u64) {
        let outbox = &mut self.outbox;
        self.flows.handle_timeout(now_ns, &mut |conversation: &mut Conversation, facts: &FlowFacts, event: Event<'_>| {
            conversation.handle(facts, event, outbox);
        });
    }

    /// Ends everything: the capture is over.
    pub fn finish(&mut self) {
        let outbox = &mut self.outbox;
        self.flows.finish(&mut |conversation: &mut Conversation, facts: &FlowFacts, event: Event<'_>| {
            conversation.handle(facts, event, outbox);
        });
    }

    /// Everything the core counts, in a fixed order, with every name present also while it is 0.
    pub fn account(&self) -> Vec<Figure> {
        let mut figures = Vec::with_capacity(64);
        let mut add = |name, label, value| figures.push(Figure { name, label, value });
        add("podtap_packets_seen_total", "", self.packets);
        add("podtap_segments_total", "", self.segments);
        for why in Ignored::ALL {
            add("podtap_packets_ignored_total", why.as_str(), self.ignored[why as usize]);
        }
        add("podtap_packets_ignored_total", "own", self.own);
        for row in PROTOCOLS {
            add("podtap_records_total", row.protocol.as_str(), self.records[row.protocol as usize]);
        }
        add("podtap_records_partial_total", "", self.partial);
        for (incident, label) in Incident::ALL {
            let value = match incident {
                Incident::NegativeTime => self.recorder.negative_times(),
                Incident::NameFolded => self.recorder.folded_names(),
                _ => self.outbox.incidents[incident as usize],
            };
            add("podtap_incidents_total", label, value);
        }
        for (why, label) in Discard::ALL {
            add("podtap_discarded_bytes_total", label, self.outbox.discarded[why as usize]);
        }
        let flows = self.flows.counters();
        add("podtap_flows_active", "", self.flows.len() as u64);
        add("podtap_flows_opened_total", "", flows.flows_opened);
        add("podtap_flows_joined_total", "", flows.flows_joined);
        add("podtap_flows_evicted_total", "", flows.flows_evicted);
        add("podtap_tcp_payload_bytes_total", "", flows.payload_bytes);
        add("podtap_tcp_delivered_bytes_total", "", flows.delivered_bytes);
        add("podtap_tcp_duplicate_bytes_total", "", flows.duplicate_bytes);
        add("podtap_tcp_gap_bytes_total", "", flows.gap_bytes);
        add("podtap_tcp_skipped_bytes_total", "", flows.skipped_bytes);
        add("podtap_tcp_after_close_bytes_total", "", flows.after_close_bytes);
        add("podtap_tcp_stray_resets_total", "", flows.stray_resets);
        add("podtap_tcp_forced_gaps_total", "", flows.forced_gaps);
        add("podtap_buffered_bytes", "", (self.flows.held_bytes() + self.outbox.buffered_bytes) as u64);
        figures
    }
}

#[cfg(test)]
mod tests;
