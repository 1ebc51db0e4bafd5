//! Collects records into batches and says when one is due. Reads no clock: `now` is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use podtap_wire::proto::{CounterSample, Resource};
use podtap_wire::{BatchBuilder, DecodedBatch, RequestRecord};

use super::{Batch, BatchId};

/// When a batch is closed, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records.
    pub rows: u32,
    /// Bytes, roughly; well below what brokers and gRPC servers take in one message (1 MB and 4 MB).
    pub bytes: usize,
    /// Age of its first record.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 4096, bytes: 384 * 1024, age: Duration::from_millis(300) }
    }
}

/// How often all counters travel, so that what was in a lost batch is made good.
const ALL_COUNTERS_NS: u64 = 10_000_000_000;

/// Which counters travel with a batch: those that changed since the one before, and every ten seconds all of them.
#[derive(Debug, Default)]
struct ChangedCounters {
    sent: BTreeMap<(String, String), u64>,
    all_at_ns: Option<u64>,
}

impl ChangedCounters {
    fn of(&mut self, mut counters: Vec<CounterSample>, closed_at_ns: u64) -> Vec<CounterSample> {
        if self.all_at_ns.is_none_or(|at| closed_at_ns.abs_diff(at) >= ALL_COUNTERS_NS) {
            self.all_at_ns = Some(closed_at_ns);
            self.sent.clear();
        }
        counters.retain(|sample| {
            let before = self.sent.insert((sample.name.clone(), sample.reason.clone()), sample.value);
            before != Some(sample.value)
        });
        counters
    }
}

/// The batch that is being filled.
pub struct Batcher {
    builder: BatchBuilder,
    boot: [u8; 16],
    sequence: u64,
    limits: Limits,
    opened: Option<Instant>,
    counters: ChangedCounters,
}

impl Batcher {
    /// A batcher of one boot; its batches are numbered from 1 without holes.
    pub fn new(sender_id: String, boot: [u8; 16], resource: Resource, limits: Limits) -> Self {
        let builder = BatchBuilder::new(sender_id, boot, resource);
        Self { builder, boot, sequence: 0, limits, opened: None, counters: ChangedCounters::default() }
    }

    /// Adds a record.
    pub fn push(&mut self, record: &RequestRecord<'_>, now: Instant) {
        self.opened.get_or_insert(now);
        self.builder.push(record);
    }

    /// Whether the batch has to be closed now.
    pub fn is_due(&self, now: Instant) -> bool {
        let aged = self.opened.is_some_and(|opened| now.duration_since(opened) >= self.limits.age);
        aged || self.builder.rows() >= self.limits.rows || self.builder.approximate_bytes() >= self.limits.bytes
    }

    /// When the batch will be due by its age; `None` while it is empty.
    pub fn deadline(&self) -> Option<Instant> {
        self.opened.map(|opened| opened + self.limits.age)
    }

    /// Closes the batch; `None` if it is empty. Of all counters it takes those that have to travel with it.
    pub fn close(&mut self, closed_at_ns: u64, counters: Vec<CounterSample>) -> Option<Batch> {
        if self.builder.rows() == 0 {
            return None;
        }
        self.opened = None;
        self.sequence += 1;
        let counters = self.counters.of(counters, closed_at_ns);
        let encoded = self.builder.finish(self.sequence, closed_at_ns, counters);
        let id = BatchId { boot: self.boot, sequence: encoded.sequence };
        Some(Batch { id, rows: encoded.rows, bytes: encoded.bytes.into() })
    }
}

/// What tells the analyzer that the boot of `last` had made `made` batches; `None` if `last` is no batch.
pub fn end_of_boot(last: &Batch, made: u64) -> Option<Batch> {
    let encoded = BatchBuilder::end_of_boot(&DecodedBatch::decode(&last.bytes).ok()?, made);
    let id = BatchId { boot: last.id.boot, sequence: encoded.sequence };
    Some(Batch { id, rows: encoded.rows, bytes: encoded.bytes.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_travel_when_they_changed_and_now_and_then_all_of_them() {
        let sample = |name: &str, value| CounterSample { name: name.to_owned(), reason: String::new(), value };
        let mut counters = ChangedCounters::default();
        let mut of = |a, b, at_ns| counters.of(vec![sample("a", a), sample("b", b)], at_ns).len();
        assert_eq!(of(1, 5, 1_000), 2, "the first batch of a boot has all");
        assert_eq!(of(2, 5, 2_000), 1);
        assert_eq!(of(2, 5, 3_000), 0);
        assert_eq!(of(2, 5, 1_000 + ALL_COUNTERS_NS), 2);
        assert_eq!(of(2, 6, 1_001 + ALL_COUNTERS_NS), 1);
    }

    #[test]
    fn closes_by_rows_and_by_age_and_numbers_without_holes() {
        let limits = Limits { rows: 2, ..Limits::default() };
        let mut batcher = Batcher::new("s".to_owned(), [7; 16], Resource::default(), limits);
        let start = Instant::now();
        assert!(batcher.close(0, Vec::new()).is_none());
        for (sequence, rows) in [(1, 2), (2, 1)] {
            assert!(!batcher.is_due(start + Duration::from_secs(9)));
            (0..rows).for_each(|_| batcher.push(&RequestRecord::default(), start));
            assert_eq!(batcher.is_due(start), rows == 2);
            assert!(batcher.is_due(start + limits.age));
            assert_eq!(batcher.deadline(), Some(start + limits.age));
            let batch = batcher.close(5, Vec::new()).unwrap();
            assert_eq!((batch.id.sequence, batch.rows), (sequence, rows));
            let decoded = DecodedBatch::decode(&batch.bytes).unwrap();
            assert_eq!((decoded.sender().sequence, decoded.rows() as u32), (sequence, rows));
        }
    }
}
