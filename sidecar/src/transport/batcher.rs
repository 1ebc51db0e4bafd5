//! Collects records into batches and says when one is due. Reads no clock: `now` is an argument.

use std::time::{Duration, Instant};

use podtap_wire::proto::{CounterSample, Resource};
use podtap_wire::{BatchBuilder, RequestRecord};

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

/// The batch that is being filled.
pub struct Batcher {
    builder: BatchBuilder,
    boot: [u8; 16],
    sequence: u64,
    limits: Limits,
    opened: Option<Instant>,
}

impl Batcher {
    /// A batcher of one boot; its batches are numbered from 1 without holes.
    pub fn new(sender_id: String, boot: [u8; 16], resource: Resource, limits: Limits) -> Self {
        Self { builder: BatchBuilder::new(sender_id, boot, resource), boot, sequence: 0, limits, opened: None }
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

    /// Closes the batch; `None` if it is empty.
    pub fn close(&mut self, closed_at_ns: u64, counters: Vec<CounterSample>) -> Option<Batch> {
        if self.builder.rows() == 0 {
            return None;
        }
        self.opened = None;
        self.sequence += 1;
        let encoded = self.builder.finish(self.sequence, closed_at_ns, counters);
        let id = BatchId { boot: self.boot, sequence: encoded.sequence };
        Some(Batch { id, rows: encoded.rows, bytes: encoded.bytes.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podtap_wire::DecodedBatch;

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
