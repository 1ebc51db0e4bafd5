//! Cuts a partition's offsets into blocks and folds each into rows: the pure heart of counting.
//!
//! [`PartitionFold::handle_message`] takes messages in the order of their offsets; [`PartitionFold::take_write`] gives what has
//! to be stored next, a block as far as it was read or a complete one. Versions are positions in the log, so what is written
//! later replaces what was written earlier, whoever wrote it. Guarantee: given the same marks at a block's start and the
//! same bytes, the same rows at the same versions. The one misuse: resuming at anything but a block's start.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use podtap_wire::batch::MAX_ROWS;
use podtap_wire::{DecodeError, DecodedBatch};

use super::marks::{Marks, Received, SenderBoot, Sighting};
use super::starts::BootStart;
use crate::aggregate::{BlockAggregate, Fate, Sampling, SeriesRow};

/// Offsets in a block. Fixed for ever: a block's number of offsets is part of what its rows mean.
pub const BLOCK_OFFSETS: u64 = 2_000;
/// What a bucket of a block's histograms can count.
const _: () = assert!(BLOCK_OFFSETS * MAX_ROWS as u64 <= u32::MAX as u64);

/// Raised when a change of the program makes the same bytes count for other series: blocks that were begun under another number are
/// deleted before they are written again.
pub const CLASSIFICATION: u16 = 1;

/// Samples of the sender's own counters that are kept of one batch.
pub const MAX_COUNTERS_PER_BATCH: usize = 256;

/// A log that offsets belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId {
    /// Kafka topic, or `grpc` for the analyzer's own log.
    pub topic: String,
    /// Tells a topic from one of the same name before it: offsets start again there.
    pub incarnation: String,
    /// Partition of the topic.
    pub partition: u32,
}

/// A batch and where it lies.
#[derive(Debug)]
pub struct PlacedBatch {
    /// Offset of its message.
    pub offset: u64,
    /// Time stamp of its message.
    pub message_time_ns: u64,
    /// Rows that count at the message's time instead of their own, ascending.
    pub clamped: Vec<u32>,
    /// What becomes of each record as a row of its own.
    pub fates: Vec<Fate>,
    /// The records.
    pub batch: DecodedBatch,
}

/// One sample of a sender's own counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterRow {
    /// Who counted.
    pub boot: SenderBoot,
    /// Namespace of the sender's pod.
    pub k8s_namespace_name: String,
    /// Pod of the sender.
    pub k8s_pod_name: String,
    /// Name of the counter.
    pub name: String,
    /// Its reason label.
    pub reason: String,
    /// When the batch was closed.
    pub time_ns: u64,
    /// The batch: the higher, the younger.
    pub sequence: u64,
    /// Value since the sender started.
    pub value: u64,
}

/// Counts of what a block held, kept in its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Batches that count.
    pub batches: u64,
    /// Their records.
    pub records: u64,
    /// Batches that were there before.
    pub duplicates: u64,
    /// Batches found missing between two of the same boot.
    pub missing: u64,
    /// Messages that are no batch, by reason.
    pub undecodable: BTreeMap<&'static str, u64>,
    /// Records with a time that could not be: see `aggregate::window`.
    pub clamped: u64,
    /// Records in an overflow series.
    pub overflowed: u64,
    /// Records that came late.
    pub late: u64,
    /// Ordinary requests that sampling left out.
    pub sampled: u64,
    /// Samples of counters beyond the cap.
    pub counters_dropped: u64,
}

/// The row of `ingest_blocks`: what is known of a block, written after its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// First offset.
    pub block: u64,
    /// First offset behind it.
    pub end: u64,
    /// First offset that was not read; the version of everything written with it.
    pub position: u64,
    /// True once the whole block was read.
    pub complete: bool,
    /// See [`CLASSIFICATION`].
    pub classification: u16,
    /// What the block held.
    pub counts: BlockCounts,
    /// Time stamps of its first and last message.
    pub message_time_ns: Option<(u64, u64)>,
    /// Sequences that count.
    pub received: Received,
    /// Marks at the block's end; empty until it is complete.
    pub marks: Marks,
    /// Hours since the epoch that its rows lie in, ascending.
    pub hours: Vec<u32>,
}

/// What has to be stored next of a partition.
#[derive(Debug)]
pub struct BlockWrite {
    /// Whose block it is.
    pub partition: Arc<PartitionId>,
    /// Batches since the last write.
    pub batches: Vec<PlacedBatch>,
    /// Rows that changed since the last write, whole.
    pub series: Vec<SeriesRow>,
    /// Samples since the last write.
    pub counters: Vec<CounterRow>,
    /// Written last.
    pub manifest: Manifest,
    /// Roughly what it holds in memory.
    pub bytes: usize,
}

/// Where to start, from the manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumePoint {
    /// Start of the first block that is not complete.
    pub offset: u64,
    /// Marks at that place.
    pub marks: Marks,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A batch that counts; `start` if it is its boot's first in this partition, though not the boot's first.
    Counted { records: u64, missing: u64, clamped: u64, overflowed: u64, sampled: u64, late: u64, start: Option<BootStart> },
    /// A batch that was there before.
    Duplicate,
    /// No batch.
    Undecodable(&'static str),
    /// Its offset was read before.
    Reread,
}

/// All of [`undecodable_reason`]'s labels.
pub const UNDECODABLE: &[&str] = &["malformed", "format", "too_many_rows", "sender", "column_length", "index", "address", "first_string"];

/// The reason label of bytes that are no batch.
pub const fn undecodable_reason(error: &DecodeError) -> &'static str {
    match error {
        DecodeError::Malformed(_) => "malformed",
        DecodeError::Format(_) => "format",
        DecodeError::TooManyRows(_) => "too_many_rows",
        DecodeError::Sender => "sender",
        DecodeError::ColumnLength { .. } => "column_length",
        DecodeError::Index { .. } => "index",
        DecodeError::Address { .. } => "address",
        DecodeError::FirstString => "first_string",
    }
}

#[derive(Debug)]
struct OpenBlock {
    block: u64,
    end: u64,
    aggregate: BlockAggregate,
    counts: BlockCounts,
    message_time_ns: Option<(u64, u64)>,
    received: Received,
    batches: Vec<PlacedBatch>,
    counters: Vec<CounterRow>,
    bytes: usize,
    changed: bool,
}

impl OpenBlock {
    fn at(start: u64) -> Self {
        Self {
            block: start,
            end: (start / BLOCK_OFFSETS + 1).saturating_mul(BLOCK_OFFSETS),
            aggregate: BlockAggregate::default(),
            counts: BlockCounts::default(),
            message_time_ns: None,
            received: Received::default(),
            batches: Vec::new(),
            counters: Vec::new(),
            bytes: 0,
            changed: false,
        }
    }

    fn take_write(&mut self, partition: &Arc<PartitionId>, position: u64, marks: Option<&Marks>) -> BlockWrite {
        self.changed = false;
        let series = self.aggregate.take_changed();
        let manifest = Manifest {
            block: self.block,
            end: self.end,
            position,
            complete: marks.is_some(),
            classification: CLASSIFICATION,
            counts: self.counts.clone(),
            message_time_ns: self.message_time_ns,
            received: self.received.clone(),
            marks: marks.cloned().unwrap_or_default(),
            hours: self.aggregate.hours().collect(),
        };
        BlockWrite {
            partition: Arc::clone(partition),
            batches: std::mem::take(&mut self.batches),
            counters: std::mem::take(&mut self.counters),
            bytes: std::mem::take(&mut self.bytes) + series.len() * 512,
            series,
            manifest,
        }
    }
}

/// The fold over one partition.
#[derive(Debug)]
pub struct PartitionFold {
    partition: Arc<PartitionId>,
    position: u64,
    open: OpenBlock,
    marks: Marks,
    closed: VecDeque<BlockWrite>,
    sampling: Sampling,
}

impl PartitionFold {
    /// Starts where [`ResumePoint`] says. Where the log begins later than that (it was cut behind the analyzer), give the log's
    /// beginning as its offset: the block that starts there has a key of its own.
    pub fn resume(partition: PartitionId, from: ResumePoint) -> Self {
        let open = OpenBlock::at(from.offset);
        let sampling = Sampling::default();
        Self { partition: Arc::new(partition), position: from.offset, open, marks: from.marks, closed: VecDeque::new(), sampling }
    }

    /// The same, with a share of the ordinary requests as rows of their own. What counts in histograms is not touched.
    pub fn with_sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// Which partition this is.
    pub fn partition(&self) -> &Arc<PartitionId> {
        &self.partition
    }

    /// First offset that was not read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Roughly what waits to be taken, in bytes, for the caller's cap.
    pub fn pending_bytes(&self) -> usize {
        self.open.bytes + self.closed.iter().map(|write| write.bytes).sum::<usize>()
    }

    /// True if [`Self::take_write`] has something to give, changed by [`Self::handle_message`] only.
    pub fn has_pending(&self) -> bool {
        self.open.changed || !self.closed.is_empty()
    }

    /// True if a complete block waits.
    pub fn has_complete(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Folds one message in. Offsets may have holes, they never go back.
    pub fn handle_message(&mut self, offset: u64, message_time_ns: u64, bytes: &[u8]) -> Outcome {
        if offset < self.position {
            return Outcome::Reread;
        }
        if offset >= self.open.end {
            self.close(offset - offset % BLOCK_OFFSETS);
        }
        self.position = offset.saturating_add(1);
        let open = &mut self.open;
        open.changed = true;
        let first = open.message_time_ns.map_or(message_time_ns, |(first, _)| first);
        open.message_time_ns = Some((first, message_time_ns));
        let outcome = match DecodedBatch::decode(bytes) {
            Ok(batch) => {
                let placed = PlacedBatch { offset, message_time_ns, clamped: Vec::new(), fates: Vec::new(), batch };
                Self::count(open, &mut self.marks, placed, bytes.len(), self.sampling)
            }
            Err(error) => {
                let reason = undecodable_reason(&error);
                *open.counts.undecodable.entry(reason).or_default() += 1;
                Outcome::Undecodable(reason)
            }
        };
        if self.position >= self.open.end {
            self.close(self.open.end);
        }
        outcome
    }

    fn count(open: &mut OpenBlock, marks: &mut Marks, mut placed: PlacedBatch, bytes: usize, sampling: Sampling) -> Outcome {
        let sender = placed.batch.sender();
        // A decoded batch has a boot of 16 bytes.
        let boot = <[u8; 16]>::try_from(sender.boot_id.as_slice()).unwrap_or_default();
        let boot = SenderBoot { sender: sender.id.clone(), boot };
        if sender.ends_boot {
            return Self::end_boot(open, marks, &boot, sender.sequence.saturating_sub(1), placed.message_time_ns);
        }
        let sighting = marks.observe(&boot, sender.sequence, placed.message_time_ns);
        let missing = match sighting {
            Sighting::New { missing } => missing,
            Sighting::First | Sighting::Late => 0,
            Sighting::Duplicate => {
                open.counts.duplicates += 1;
                return Outcome::Duplicate;
            }
        };
        open.received.add(&boot, sender.sequence);
        let is_start = sighting == Sighting::First && sender.sequence > 1;
        let start = is_start.then(|| BootStart { boot: boot.clone(), sequence: sender.sequence });
        let records = placed.batch.rows() as u64;
        open.counts.batches += 1;
        open.counts.records += records;
        open.counts.missing = open.counts.missing.saturating_add(missing);
        open.count_counters(&placed.batch, &boot);
        let added = open.aggregate.add(&placed.batch, placed.message_time_ns, sampling);
        let (clamped, overflowed) = (added.clamped.len() as u64, added.overflowed);
        let sampled = added.fates.iter().filter(|fate| **fate == Fate::LeftOut).count() as u64;
        open.counts.sampled += sampled;
        open.counts.clamped += clamped;
        open.counts.overflowed += overflowed;
        let late = added.late;
        open.counts.late += late;
        placed.clamped = added.clamped;
        placed.fates = added.fates;
        if records > 0 {
            // A batch decodes to a few times its size.
            open.bytes += bytes * 4;
            open.batches.push(placed);
        }
        Outcome::Counted { records, missing, clamped, overflowed, sampled, late, start }
    }

    /// Takes notice of how far a boot had come when it was killed.
    fn end_boot(open: &mut OpenBlock, marks: &mut Marks, boot: &SenderBoot, last: u64, message_time_ns: u64) -> Outcome {
        let sighting = marks.end(boot, last, message_time_ns);
        let missing = match sighting {
            Sighting::New { missing } => missing,
            Sighting::First => 0,
            Sighting::Late | Sighting::Duplicate => {
                open.counts.duplicates += 1;
                return Outcome::Duplicate;
            }
        };
        open.received.end(boot, last);
        open.counts.missing = open.counts.missing.saturating_add(missing);
        let start = (sighting == Sighting::First).then(|| BootStart { boot: boot.clone(), sequence: last.saturating_add(1) });
        Outcome::Counted { records: 0, missing, clamped: 0, overflowed: 0, sampled: 0, late: 0, start }
    }

    /// Ends the open block as complete and opens the one that starts at `next`.
    fn close(&mut self, next: u64) {
        self.marks.prune();
        let mut open = std::mem::replace(&mut self.open, OpenBlock::at(next));
        let end = open.end;
        self.closed.push_back(open.take_write(&self.partition, end, Some(&self.marks)));
    }

    /// The next thing to store; each must be stored before the one after it.
    pub fn take_write(&mut self) -> Option<BlockWrite> {
        if let Some(write) = self.closed.pop_front() {
            return Some(write);
        }
        self.open.changed.then(|| self.open.take_write(&self.partition, self.position, None))
    }
}

impl OpenBlock {
    fn count_counters(&mut self, batch: &DecodedBatch, boot: &SenderBoot) {
        let samples = batch.counters();
        self.counts.counters_dropped += samples.len().saturating_sub(MAX_COUNTERS_PER_BATCH) as u64;
        let (sender, resource) = (batch.sender(), batch.resource());
        for sample in samples.iter().take(MAX_COUNTERS_PER_BATCH) {
            self.counters.push(CounterRow {
                boot: boot.clone(),
                k8s_namespace_name: resource.k8s_namespace_name.clone(),
                k8s_pod_name: resource.k8s_pod_name.clone(),
                name: sample.name.clone(),
                reason: sample.reason.clone(),
                time_ns: sender.closed_at_ns,
                sequence: sender.sequence,
                value: sample.value,
            });
        }
        self.bytes += samples.len().min(MAX_COUNTERS_PER_BATCH) * 200;
    }
}

#[cfg(test)]
#[path = "block/tests.rs"]
mod tests;
