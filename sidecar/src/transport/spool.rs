//! Batches that are not acknowledged: in memory up to a budget, on disk up to another, handed out in order.
//!
//! What waits longer than `spool_after` is written to segment files ([`segment`]) and stays in memory; when memory is full, newer batches
//! go to disk alone and come to memory in their turn. So the oldest are in memory, and the disk has them in their order. A crash loses
//! what waited for less; what reached the disk is delivered by the next start, before its own batches and under its own boot, unless it was
//! acknowledged meanwhile. A segment is deleted when all its batches are; while the far side is quick nothing is written at all. Beyond the
//! budgets [`Spool::push`] gives the batch back.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::batcher::end_of_boot;
use super::{Batch, BatchId};

mod segment;

use segment::{FRAME_HEADER_BYTES, Frame, SEGMENT_HEADER_BYTES, Segment};

const SUFFIX: &str = "spool";
/// After the disk refused, until it is tried again with what waits in memory.
const RETRY_AFTER: Duration = Duration::from_secs(1);

struct Entry {
    batch: Batch,
    acknowledged: bool,
    /// When it came, if it came from the sidecar.
    since: Option<Instant>,
    /// Where it is on disk.
    place: Option<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    /// Number of the segment.
    segment: u64,
    /// Where its frame begins; a boot's end has none.
    frame: Option<u64>,
}

/// Why a batch was written to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Age,
    QueueFull,
    Shutdown,
}

/// The end of what an earlier boot left: its last batch on disk, and the highest sequence that it noted.
struct Tail {
    last: Batch,
    made: u64,
}

/// Budgets and place.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Bytes of batches in memory.
    pub queue_bytes: usize,
    /// Folder of the segments; without one nothing goes to disk.
    pub directory: Option<PathBuf>,
    /// Bytes of segments on disk.
    pub spool_bytes: u64,
    /// How long a batch waits in memory only.
    pub spool_after: Duration,
    /// When this boot began, nanoseconds since the Unix epoch: segments of earlier boots come first.
    pub started_ns: u64,
}

/// The batches that wait. Used by one thread.
pub struct Spool {
    config: SpoolConfig,
    memory: VecDeque<Entry>,
    memory_bytes: usize,
    /// Of these, in memory only.
    unspooled_bytes: usize,
    /// Index in `memory` of the next batch to offer.
    cursor: usize,
    /// Index in `memory` of the first batch that is in memory only.
    spooled: usize,
    segments: VecDeque<Segment>,
    disk_bytes: u64,
    next_number: u64,
    damaged_bytes: u64,
    written: [u64; 3],
    /// The last batch that came, kept or not.
    made: Option<BatchId>,
    retry_at: Option<Instant>,
    tail: Option<Tail>,
    missing_batches: u64,
}

impl Spool {
    /// Opens the spool and takes up what an earlier run left in its folder.
    pub fn open(config: SpoolConfig) -> io::Result<Self> {
        let mut spool = Self {
            config,
            memory: VecDeque::new(),
            memory_bytes: 0,
            unspooled_bytes: 0,
            cursor: 0,
            spooled: 0,
            segments: VecDeque::new(),
            disk_bytes: 0,
            next_number: 0,
            damaged_bytes: 0,
            written: [0; 3],
            made: None,
            retry_at: None,
            tail: None,
            missing_batches: 0,
        };
        if let Some(directory) = spool.config.directory.clone() {
            std::fs::create_dir_all(&directory)?;
            spool.take_up(&directory)?;
        }
        Ok(spool)
    }

    fn take_up(&mut self, directory: &Path) -> io::Result<()> {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?.iter().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == SUFFIX));
        // Names begin with the boot's start and the first sequence, both of fixed width, so their order is the order of the batches.
        paths.sort();
        for path in paths {
            match Segment::inherit(path.clone(), self.next_number)? {
                Ok(segment) => self.add_segment(segment),
                Err(bytes) => {
                    self.damaged_bytes += bytes;
                    std::fs::remove_file(&path)?;
                }
            }
        }
        Ok(())
    }

    fn add_segment(&mut self, segment: Segment) {
        self.next_number += 1;
        self.disk_bytes += segment.bytes;
        self.segments.push_back(segment);
    }

    /// Keeps a batch, or gives it back when the budgets are used up or the disk refuses.
    pub fn push(&mut self, batch: Batch, now: Instant) -> Result<(), (Batch, Option<io::Error>)> {
        self.made = Some(batch.id);
        let unread = self.segments.iter().any(|segment| !segment.is_read());
        if !unread && (self.memory_bytes + batch.bytes.len() <= self.config.queue_bytes || self.memory.is_empty()) {
            self.unspooled_bytes += batch.bytes.len();
            self.remember(batch, Some(now), None);
            return Ok(());
        }
        // What is in memory only is older and goes before it.
        let older = self.unspooled_bytes + (self.memory.len() - self.spooled) * FRAME_HEADER_BYTES;
        if self.config.directory.is_none() || !self.has_room(older + FRAME_HEADER_BYTES + batch.bytes.len()) {
            return Err((batch, None));
        }
        while self.spooled < self.memory.len() {
            if let Err(error) = self.spool_next(Cause::QueueFull) {
                return Err((batch, Some(error)));
            }
        }
        match self.append(&batch, Cause::QueueFull) {
            Ok(_) => Ok(()),
            Err(error) => Err((batch, Some(error))),
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.disk_bytes + bytes as u64 + SEGMENT_HEADER_BYTES <= self.config.spool_bytes
    }

    fn remember(&mut self, batch: Batch, since: Option<Instant>, place: Option<Place>) {
        self.memory_bytes += batch.bytes.len();
        self.memory.push_back(Entry { batch, acknowledged: false, since, place });
        if place.is_some() {
            self.spooled = self.memory.len();
        }
    }

    /// Writes to disk what waited in memory for longer than `spool_after`, as far as there is room, and notes how far this boot has come if
    /// any of it is on disk. To be called every turn, after the batches that came were pushed.
    pub fn spool_aged(&mut self, now: Instant) -> io::Result<()> {
        if self.config.directory.is_none() || self.retry_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        self.retry_at = None;
        let outcome = self.spool_due(now).and_then(|()| self.note_made());
        if outcome.is_err() {
            self.retry_at = Some(now + RETRY_AFTER);
        }
        outcome
    }

    fn spool_due(&mut self, now: Instant) -> io::Result<()> {
        while let Some(entry) = self.memory.get(self.spooled) {
            let due = entry.since.is_none_or(|since| now.saturating_duration_since(since) >= self.config.spool_after);
            if !due || !self.has_room(FRAME_HEADER_BYTES + entry.batch.bytes.len()) {
                return Ok(());
            }
            self.spool_next(Cause::Age)?;
        }
        Ok(())
    }

    /// Writes the first batch that is in memory only.
    fn spool_next(&mut self, cause: Cause) -> io::Result<()> {
        let Some(entry) = self.memory.get(self.spooled) else { return Ok(()) };
        if !entry.acknowledged {
            let batch = entry.batch.clone();
            let place = self.append(&batch, cause)?;
            self.unspooled_bytes -= batch.bytes.len();
            if let Some(segment) = self.segments.back_mut() {
                // It is in memory already.
                segment.read = segment.bytes;
                segment.outstanding += 1;
            }
            if let Some(entry) = self.memory.get_mut(self.spooled) {
                entry.place = Some(place);
            }
        }
        self.spooled += 1;
        Ok(())
    }

    fn append(&mut self, batch: &Batch, cause: Cause) -> io::Result<Place> {
        let Some(directory) = &self.config.directory else { return Err(io::Error::other("no spool folder")) };
        if !self.segments.back().is_some_and(|segment| segment.takes(batch.id.boot)) {
            self.segments.back_mut().map_or(Ok(()), Segment::close)?;
            let boot: String = batch.id.boot.iter().map(|byte| format!("{byte:02x}")).collect();
            let name = format!("{:020}-{boot}-{:020}.{SUFFIX}", self.config.started_ns, batch.id.sequence);
            let segment = Segment::create(directory.join(name), batch.id.boot, self.next_number)?;
            self.add_segment(segment);
        }
        let Some(segment) = self.segments.back_mut() else { return Err(io::Error::other("no segment")) };
        let frame = segment.bytes;
        segment.append(batch)?;
        self.disk_bytes += segment.bytes - frame;
        self.written[cause as usize] += 1;
        Ok(Place { segment: segment.number, frame: Some(frame) })
    }

    fn note_made(&mut self) -> io::Result<()> {
        let Some(made) = self.made else { return Ok(()) };
        let last = self.segments.back_mut().filter(|segment| segment.boot == made.boot);
        last.map_or(Ok(()), |segment| segment.note(made.sequence))
    }

    /// Fetches batches from disk while memory is less than half full.
    pub fn refill(&mut self) -> io::Result<()> {
        while self.memory_bytes < self.config.queue_bytes / 2 {
            let Some(index) = self.segments.iter().position(|segment| !segment.is_read()) else { return Ok(()) };
            let segment = &mut self.segments[index];
            let number = segment.number;
            match segment.next_frame() {
                Ok(Some(Frame::Batch(batch, frame))) => {
                    segment.outstanding += 1;
                    if segment.inherited {
                        self.tail = Some(Tail { made: batch.id.sequence, last: batch.clone() });
                    }
                    self.remember(batch, None, Some(Place { segment: number, frame: Some(frame) }));
                }
                Ok(Some(Frame::Released(batch))) => self.tail = Some(Tail { made: batch.id.sequence, last: batch }),
                Ok(Some(Frame::Made(made))) => {
                    let boot = segment.boot;
                    if let Some(tail) = self.tail.as_mut().filter(|tail| tail.last.id.boot == boot) {
                        tail.made = tail.made.max(made);
                    }
                }
                Ok(None) => {
                    self.damaged_bytes += segment.bytes - segment.read.min(segment.bytes);
                    segment.exhausted = true;
                    self.end_boot(index);
                    self.delete_finished()?;
                }
                Err(error) => {
                    let context = format!("{}: {error}", segment.path.display());
                    return Err(io::Error::new(error.kind(), context));
                }
            }
        }
        Ok(())
    }

    /// If the last segment of an earlier boot has been read, and the boot had made more than it holds: that was lost with it, and the
    /// analyzer is to know.
    fn end_boot(&mut self, index: usize) {
        let next = self.segments.get(index + 1).map(|segment| segment.boot);
        let Some(segment) = self.segments.get_mut(index).filter(|segment| segment.inherited && next != Some(segment.boot)) else { return };
        let Some(tail) = self.tail.take().filter(|tail| tail.last.id.boot == segment.boot) else { return };
        if tail.made > tail.last.id.sequence {
            self.missing_batches += tail.made - tail.last.id.sequence;
            if let Some(end) = end_of_boot(&tail.last, tail.made) {
                // As long as it is not acknowledged its segment stays, and with it the note that it was made from.
                segment.outstanding += 1;
                let place = Place { segment: segment.number, frame: None };
                self.remember(end, None, Some(place));
            }
        }
    }

    fn delete_finished(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut freed = 0;
        self.segments.retain(|segment| {
            let finished = segment.is_read() && segment.outstanding == 0;
            if finished {
                freed += segment.bytes;
                if let Err(error) = std::fs::remove_file(&segment.path) {
                    outcome = Err(error);
                }
            }
            !finished
        });
        self.disk_bytes -= freed;
        outcome
    }

    /// The next batch to offer, in order.
    pub fn next_to_offer(&mut self) -> Option<&Batch> {
        while self.memory.get(self.cursor).is_some_and(|entry| entry.acknowledged) {
            self.cursor += 1;
        }
        self.memory.get(self.cursor).map(|entry| &entry.batch)
    }

    /// The batch was taken; the next one is due.
    pub fn offered(&mut self) {
        self.cursor += 1;
    }

    /// Everything that is not acknowledged is to be offered again.
    pub fn restart(&mut self) {
        self.cursor = 0;
    }

    /// The batch is stored, or given up: it needs no keeping. Says how many records it held, `None` if it was not here.
    pub fn release(&mut self, id: BatchId) -> io::Result<Option<u32>> {
        let Some(index) = self.memory.iter().position(|entry| entry.batch.id == id && !entry.acknowledged) else { return Ok(None) };
        let entry = &mut self.memory[index];
        entry.acknowledged = true;
        let (rows, place) = (entry.batch.rows, entry.place);
        if index >= self.spooled {
            self.unspooled_bytes -= entry.batch.bytes.len();
        }
        while self.memory.front().is_some_and(|entry| entry.acknowledged) {
            let Some(entry) = self.memory.pop_front() else { break };
            self.memory_bytes -= entry.batch.bytes.len();
            self.cursor = self.cursor.saturating_sub(1);
            self.spooled = self.spooled.saturating_sub(1);
            if let Some(segment) = entry.place.and_then(|place| self.segments.iter_mut().find(|segment| segment.number == place.segment)) {
                segment.outstanding -= 1;
            }
        }
        self.delete_finished()?;
        if let Some(Place { segment, frame: Some(frame) }) = place
            && let Some(segment) = self.segments.iter().find(|kept| kept.number == segment)
        {
            segment.release(frame)?;
        }
        Ok(Some(rows))
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.segments.iter().all(Segment::is_read)
    }

    /// Bytes in memory, bytes on disk.
    pub fn sizes(&self) -> (u64, u64) {
        (self.memory_bytes as u64, self.disk_bytes)
    }

    /// Bytes that are in memory only: what a kill would lose.
    pub fn unspooled_bytes(&self) -> u64 {
        self.unspooled_bytes as u64
    }

    /// Batches that were written to disk, by cause.
    pub fn written(&self) -> [(&'static str, u64); 3] {
        [Cause::Age, Cause::QueueFull, Cause::Shutdown].map(|cause| (cause.name(), self.written[cause as usize]))
    }

    /// Bytes of segments that could not be read back.
    pub fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    /// Batches that earlier boots made, as far as their notes tell, and that were lost with them.
    pub fn missing_batches(&self) -> u64 {
        self.missing_batches
    }

    /// Writes what is only in memory to disk, for the next start; says how many records had to be left behind.
    pub fn persist(mut self) -> (u64, io::Result<()>) {
        let mut outcome = Ok(());
        let mut lost = 0;
        while let Some(rows) = self.memory.get(self.spooled).map(|entry| entry.batch.rows) {
            // An orderly stop may go beyond the disk's budget by what fits into memory: it is one stop's worth.
            if let Err(error) = self.spool_next(Cause::Shutdown) {
                lost += u64::from(rows);
                self.spooled += 1;
                outcome = Err(error);
            }
        }
        let noted = self.note_made();
        let closed = self.segments.back_mut().map_or(Ok(()), Segment::close);
        (lost, outcome.and(noted).and(closed))
    }
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::QueueFull => "queue_full",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Whether [`Spool::open`] takes a folder, and the spool could write there; changes nothing.
pub fn examine(directory: &Path) -> io::Result<bool> {
    use rustix::fs::Access;
    // A folder that is not there is made below the nearest that is.
    let there = directory.ancestors().find(|folder| folder.symlink_metadata().is_ok()).unwrap_or(Path::new("."));
    let is_made = there == directory;
    for entry in std::fs::read_dir(there)?.filter(|_| is_made) {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == SUFFIX) {
            File::open(&path)?;
        }
    }
    match rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK) {
        Err(error) if !is_made => Err(error.into()),
        outcome => Ok(outcome.is_ok()),
    }
}

#[cfg(test)]
mod tests;
