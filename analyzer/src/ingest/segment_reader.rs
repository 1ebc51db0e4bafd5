//! Reads the analyzer's own log and folds it: the way of the batches that came over gRPC.
//!
//! Reads only what is on the disk for sure, so an offset never changes its bytes after it was counted. Segments are deleted behind
//! complete blocks. The one misuse: reading past [`LogState::durable`].

use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::block::{PartitionFold, PartitionId, ResumePoint};
use super::partition::{MAX_PENDING_BYTES, Partition};
use super::segment_log::{LogState, MAGIC, read_entry};
use super::writer::{Job, Written};
use crate::aggregate::Sampling;
use crate::telemetry::{Dependency, LagLabel, Telemetry};

/// Topic name of the analyzer's own log in the store.
pub const TOPIC: &str = "grpc";
/// Entries folded before the loop looks at its other duties.
const ENTRIES_PER_TURN: usize = 256;
const IDLE: Duration = Duration::from_millis(20);
/// How long a stop waits for what was folded to be stored; what is not stays in the log.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// The key of the log in the store.
pub fn partition_id(state: &LogState) -> PartitionId {
    PartitionId { topic: TOPIC.to_owned(), incarnation: state.incarnation().to_owned(), partition: 0 }
}

/// Walks over the segments.
#[derive(Debug)]
pub struct SegmentReader {
    state: Arc<LogState>,
    file: Option<BufReader<File>>,
    /// First offset of the open segment.
    segment: u64,
    /// Offset of the entry that is read next.
    next: u64,
    payload: Vec<u8>,
    /// Offsets that were passed over because their segment is gone or damaged.
    lost: u64,
}

impl SegmentReader {
    /// Reads from the entry at `offset`.
    pub fn new(state: Arc<LogState>, offset: u64) -> Self {
        Self { state, file: None, segment: 0, next: offset, payload: Vec::new(), lost: 0 }
    }

    /// First offset that was not read.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Offsets lost since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// The next durable entry: offset, time stamp, bytes. `None` when there is none yet.
    pub fn next_entry(&mut self) -> std::io::Result<Option<(u64, u64, &[u8])>> {
        while self.next < self.state.durable() {
            if self.file.is_none() && !self.open()? {
                return Ok(None);
            }
            let Some(file) = &mut self.file else { return Ok(None) };
            if let Some(time_ns) = read_entry(file, &mut self.payload)? {
                self.next += 1;
                return Ok(Some((self.next - 1, time_ns, &self.payload)));
            }
            self.leave_segment()?;
        }
        Ok(None)
    }

    /// Opens the segment that holds `next`, or the first behind it; false if there is none.
    fn open(&mut self) -> std::io::Result<bool> {
        let segments = self.state.list();
        let at = segments.partition_point(|segment| segment.first <= self.next).saturating_sub(1);
        let Some(segment) = segments.get(at) else { return Ok(false) };
        let mut file = BufReader::with_capacity(1 << 20, File::open(self.state.path(segment.first))?);
        let mut magic = [0; MAGIC.len()];
        if segment.bytes > 0 {
            file.read_exact(&mut magic)?;
        }
        self.lost += segment.first.saturating_sub(self.next);
        self.next = self.next.max(segment.first);
        let mut skipped = segment.first;
        while skipped < self.next && read_entry(&mut file, &mut self.payload)?.is_some() {
            skipped += 1;
        }
        self.segment = segment.first;
        self.file = Some(file);
        Ok(true)
    }

    /// At the end of a segment that is not the last, goes on with the next one; offsets between them are not in use unless the
    /// segment is damaged, which is then the only trace of it.
    fn leave_segment(&mut self) -> std::io::Result<()> {
        self.file = None;
        let segments = self.state.list();
        let Some(next) = segments.iter().find(|segment| segment.first > self.segment) else {
            let path = self.state.path(self.segment);
            let message = format!("{}: entry {} is damaged", path.display(), self.next);
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
        };
        self.next = self.next.max(next.first);
        Ok(())
    }
}

/// What the reading loop needs.
#[derive(Debug)]
pub struct Reading {
    /// The log.
    pub state: Arc<LogState>,
    /// Where in it to begin.
    pub resume: Option<ResumePoint>,
    /// The writer's queue.
    pub jobs: mpsc::Sender<Job>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// Becomes true when it is time to stop.
    pub stop: watch::Receiver<bool>,
    /// Of rows in `requests`.
    pub sampling: Sampling,
}

impl Reading {
    /// Reads until told to stop, then waits until what was read is stored. Runs on a thread of its own.
    pub fn run(self) -> std::io::Result<()> {
        let (done, written) = std_mpsc::channel();
        let partition = partition_id(&self.state);
        let lag = self.telemetry.lag.get_or_create(&LagLabel { topic: TOPIC.to_owned(), partition: "0".to_owned() }).clone();
        let mut from = self.resume.clone().unwrap_or_default();
        let first = self.state.list().first().map_or(0, |segment| segment.first);
        if from.offset < first {
            tracing::warn!(expected = from.offset, first, "the log begins later than the store's last complete block");
            self.telemetry.lost_messages.inc_by(if self.resume.is_some() { first - from.offset } else { 0 });
            from.offset = first;
        }
        let mut reader = SegmentReader::new(Arc::clone(&self.state), from.offset);
        let mut partition = Partition::new(PartitionFold::resume(partition, from).with_sampling(self.sampling), "grpc");
        let mut deadline: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if deadline.is_none() && *self.stop.borrow() {
                deadline = Some(now + DRAIN_LIMIT);
            }
            let mut idle = true;
            let pending = partition.pending_bytes();
            self.telemetry.set_pending("grpc", pending);
            if deadline.is_none() && pending < MAX_PENDING_BYTES {
                idle = !self.fold_some(&mut reader, &mut partition)?;
            }
            partition.write_if_due(now, deadline.is_some(), &self.jobs, &done);
            if idle {
                match written.recv_timeout(IDLE) {
                    Ok(written) => self.handle_written(&mut partition, &written),
                    Err(_timeout) => {}
                }
            }
            while let Ok(written) = written.try_recv() {
                self.handle_written(&mut partition, &written);
            }
            lag.set(i64::try_from(self.state.durable().saturating_sub(reader.position())).unwrap_or(i64::MAX));
            self.telemetry.segment_log_bytes.set(self.state.total_bytes());
            self.telemetry.set_dependency(Dependency::SegmentLog, self.state.failure().map_or(Ok(()), Err));
            if deadline.is_some_and(|deadline| partition.is_clean() || now >= deadline) {
                return Ok(());
            }
        }
    }

    /// Returns whether there was anything to fold.
    fn fold_some(&self, reader: &mut SegmentReader, partition: &mut Partition) -> std::io::Result<bool> {
        let mut any = false;
        for _ in 0..ENTRIES_PER_TURN {
            let Some((offset, time_ns, bytes)) = reader.next_entry()? else { break };
            partition.handle_message(offset, time_ns, bytes, &self.telemetry);
            any = true;
        }
        self.telemetry.lost_messages.inc_by(reader.take_lost());
        Ok(any)
    }

    fn handle_written(&self, partition: &mut Partition, written: &Written) {
        partition.handle_written();
        let Some(offset) = written.complete_to else { return };
        if let Err(error) = self.state.delete_below(offset) {
            tracing::warn!(%error, "cannot delete a segment that is stored");
        }
    }
}
