//! What both logs do with a partition: fold, hand to the writer about every second, keep within the memory cap.
//!
//! At most one job of a partition is under way, so blocks are stored in order. The clock here only says when to write, never what.

use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::block::{Outcome, PartitionFold};
use super::writer::{Job, Written};
use crate::telemetry::Telemetry;

/// How often a filling block is written.
pub const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// What may wait to be stored of one log, over all its partitions, in memory, what the writer holds included; above it the log is not
/// read.
pub const MAX_PENDING_BYTES: usize = 128 << 20;
/// From here on a block is written without waiting for the interval.
const EAGER_BYTES: usize = 16 << 20;

/// A partition that this process reads.
#[derive(Debug)]
pub struct Partition {
    fold: PartitionFold,
    transport: &'static str,
    under_way: bool,
    /// Roughly what the job under way holds.
    under_way_bytes: usize,
    written_at: Option<Instant>,
}

impl Partition {
    /// Reads on with `fold`; `transport` is the label in metrics.
    pub fn new(fold: PartitionFold, transport: &'static str) -> Self {
        Self { fold, transport, under_way: false, under_way_bytes: 0, written_at: None }
    }

    /// The fold, to look at.
    pub fn fold(&self) -> &PartitionFold {
        &self.fold
    }

    /// Folds one message and counts what became of it.
    pub fn handle_message(&mut self, offset: u64, time_ns: u64, bytes: &[u8], telemetry: &Telemetry) {
        match self.fold.handle_message(offset, time_ns, bytes) {
            Outcome::Counted { records, missing, clamped, overflowed, sampled, late, start } => {
                telemetry.ingested(self.transport, records);
                telemetry.missing_batches.inc_by(missing);
                telemetry.clamped_records.inc_by(clamped);
                telemetry.overflowed_records.inc_by(overflowed);
                telemetry.sampled_requests.inc_by(sampled);
                telemetry.late_records.inc_by(late);
                if let Some(start) = start
                    && !telemetry.boot_starts.note(start)
                {
                    telemetry.unchecked_boot_starts.inc();
                }
            }
            Outcome::Duplicate => {
                telemetry.duplicate_batches.inc();
            }
            Outcome::Undecodable(reason) => telemetry.undecodable(reason),
            Outcome::Reread => {}
        }
    }

    /// True if something has to be sent now. With `flush` everything that waits is due.
    pub fn is_due(&self, now: Instant, flush: bool) -> bool {
        let interval_over = self.written_at.is_none_or(|at| now.duration_since(at) >= WRITE_INTERVAL);
        let due = flush || interval_over || self.fold.pending_bytes() >= EAGER_BYTES;
        !self.under_way && due && self.fold.has_pending()
    }

    /// Sends what is due.
    pub fn write_if_due(&mut self, now: Instant, flush: bool, jobs: &mpsc::Sender<Job>, done: &std_mpsc::Sender<Written>) {
        if !self.is_due(now, flush) {
            return;
        }
        // Only this many: the writer's queue is bounded, and a block taken from the fold must get into it.
        let Ok(slot) = jobs.try_reserve() else { return };
        let writes: Vec<_> = std::iter::from_fn(|| self.fold.take_write()).collect();
        if !writes.is_empty() {
            self.under_way_bytes = writes.iter().map(|write| write.bytes).sum();
            slot.send(Job { writes, done: done.clone() });
            self.under_way = true;
            self.written_at = Some(now);
        }
    }

    /// The job under way is stored.
    pub fn handle_written(&mut self) {
        (self.under_way, self.under_way_bytes) = (false, 0);
    }

    /// Roughly what is in memory and not stored yet, for the cap.
    pub fn pending_bytes(&self) -> usize {
        self.fold.pending_bytes() + self.under_way_bytes
    }

    /// True if all that was read is stored.
    pub fn is_clean(&self) -> bool {
        !self.under_way && !self.fold.has_pending()
    }
}
