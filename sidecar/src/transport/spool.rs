//! Batches that are not acknowledged: in memory up to a budget, then on disk up to another, handed out in order.
//!
//! The oldest are in memory, the newer in segment files, so that order is kept without sorting. A segment is deleted when all its batches
//! are acknowledged; what a crash left behind is delivered by the next start, before its own batches and under their own boot. A batch
//! in memory survives an orderly stop ([`Spool::persist`]), not a crash. Beyond both budgets [`Spool::push`] gives the batch back.
//!
//! Segment: magic, boot, then frames of (length, checksum, sequence, rows, bytes), integers little-endian. A frame that is cut or whose
//! checksum is wrong ends its segment; the rest of that file is counted as damaged.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Batch, BatchId};

const MAGIC: &[u8; 8] = b"PODTAPS1";
const SEGMENT_HEADER_BYTES: u64 = 8 + 16;
const FRAME_HEADER_BYTES: usize = 4 + 4 + 8 + 4;
/// A segment is closed at this size: what is acknowledged gives its room back in such steps.
const SEGMENT_BYTES: u64 = 8 << 20;
/// Largest batch that is believed when a segment is read.
const MAX_BATCH_BYTES: usize = 64 << 20;
const SUFFIX: &str = "spool";

struct Entry {
    batch: Batch,
    acknowledged: bool,
    /// The segment it was read from.
    segment: Option<u64>,
}

struct Segment {
    number: u64,
    path: PathBuf,
    boot: [u8; 16],
    bytes: u64,
    /// Where the next frame begins.
    read: u64,
    /// Frames that were read and are not acknowledged.
    outstanding: usize,
    exhausted: bool,
}

struct Writer {
    file: BufWriter<File>,
    number: u64,
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
    /// When this boot began, nanoseconds since the Unix epoch: segments of earlier boots come first.
    pub started_ns: u64,
}

/// The batches that wait. Used by one thread.
pub struct Spool {
    config: SpoolConfig,
    memory: VecDeque<Entry>,
    memory_bytes: usize,
    /// Index in `memory` of the next batch to offer.
    cursor: usize,
    segments: VecDeque<Segment>,
    disk_bytes: u64,
    writer: Option<Writer>,
    next_number: u64,
    damaged_bytes: u64,
}

impl Spool {
    /// Opens the spool and takes up what an earlier run left in its folder.
    pub fn open(config: SpoolConfig) -> io::Result<Self> {
        let mut spool = Self {
            config,
            memory: VecDeque::new(),
            memory_bytes: 0,
            cursor: 0,
            segments: VecDeque::new(),
            disk_bytes: 0,
            writer: None,
            next_number: 0,
            damaged_bytes: 0,
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
            let mut file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            let mut header = [0u8; SEGMENT_HEADER_BYTES as usize];
            let mut boot = [0u8; 16];
            if file.read_exact(&mut header).is_ok() && header.starts_with(MAGIC) {
                boot.copy_from_slice(&header[8..]);
                self.add_segment(path, boot, bytes);
            } else {
                self.damaged_bytes += bytes;
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn add_segment(&mut self, path: PathBuf, boot: [u8; 16], bytes: u64) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.disk_bytes += bytes;
        self.segments.push_back(Segment { number, path, boot, bytes, read: SEGMENT_HEADER_BYTES, outstanding: 0, exhausted: false });
        number
    }

    /// Keeps a batch, or gives it back when both budgets are used up or the disk refuses.
    pub fn push(&mut self, batch: Batch) -> Result<(), (Batch, Option<io::Error>)> {
        let unread = self.segments.iter().any(|segment| !segment.exhausted);
        if !unread && (self.memory_bytes + batch.bytes.len() <= self.config.queue_bytes || self.memory.is_empty()) {
            self.remember(batch, None);
            return Ok(());
        }
        let room = self.disk_bytes + batch.bytes.len() as u64 + FRAME_HEADER_BYTES as u64 + SEGMENT_HEADER_BYTES <= self.config.spool_bytes;
        if self.config.directory.is_none() || !room {
            return Err((batch, None));
        }
        match self.append(&batch) {
            Ok(()) => Ok(()),
            Err(error) => Err((batch, Some(error))),
        }
    }

    fn remember(&mut self, batch: Batch, segment: Option<u64>) {
        self.memory_bytes += batch.bytes.len();
        self.memory.push_back(Entry { batch, acknowledged: false, segment });
    }

    fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let full = |segment: &Segment| segment.bytes >= SEGMENT_BYTES || segment.boot != batch.id.boot;
        if self.writer.is_some() && self.segments.back().is_none_or(full) {
            self.close_writer()?;
        }
        if self.writer.is_none() {
            let path = self.segment_path(batch.id);
            let mut file = BufWriter::new(File::create_new(&path)?);
            file.write_all(MAGIC)?;
            file.write_all(&batch.id.boot)?;
            let number = self.add_segment(path, batch.id.boot, SEGMENT_HEADER_BYTES);
            self.writer = Some(Writer { file, number });
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let frame = frame_header(batch);
        writer.file.write_all(&frame)?;
        writer.file.write_all(&batch.bytes)?;
        // Handed to the kernel at once: a crash of the sidecar loses nothing that was appended.
        writer.file.flush()?;
        let bytes = (frame.len() + batch.bytes.len()) as u64;
        self.disk_bytes += bytes;
        let number = writer.number;
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == number) {
            segment.bytes += bytes;
        }
        Ok(())
    }

    fn segment_path(&self, first: BatchId) -> PathBuf {
        let boot: String = first.boot.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{:020}-{boot}-{:020}.{SUFFIX}", self.config.started_ns, first.sequence);
        self.config.directory.clone().unwrap_or_default().join(name)
    }

    fn close_writer(&mut self) -> io::Result<()> {
        match self.writer.take() {
            Some(mut writer) => {
                writer.file.flush()?;
                writer.file.get_ref().sync_data()
            }
            None => Ok(()),
        }
    }

    /// Fetches batches from disk while memory is less than half full.
    pub fn refill(&mut self) -> io::Result<()> {
        while self.memory_bytes < self.config.queue_bytes / 2 {
            let Some(index) = self.segments.iter().position(|segment| !segment.exhausted) else { return Ok(()) };
            let number = self.segments[index].number;
            if self.writer.as_ref().is_some_and(|writer| writer.number == number) {
                self.close_writer()?;
            }
            let segment = &mut self.segments[index];
            match read_frame(segment) {
                Ok(Some(batch)) => {
                    segment.outstanding += 1;
                    self.remember(batch, Some(number));
                }
                Ok(None) => {
                    self.damaged_bytes += segment.bytes - segment.read.min(segment.bytes);
                    segment.exhausted = true;
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

    fn delete_finished(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut freed = 0;
        self.segments.retain(|segment| {
            let finished = segment.exhausted && segment.outstanding == 0;
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
        let Some(entry) = self.memory.iter_mut().find(|entry| entry.batch.id == id && !entry.acknowledged) else { return Ok(None) };
        entry.acknowledged = true;
        let rows = entry.batch.rows;
        while self.memory.front().is_some_and(|entry| entry.acknowledged) {
            let Some(entry) = self.memory.pop_front() else { break };
            self.memory_bytes -= entry.batch.bytes.len();
            self.cursor = self.cursor.saturating_sub(1);
            if let Some(segment) = entry.segment.and_then(|number| self.segments.iter_mut().find(|segment| segment.number == number)) {
                segment.outstanding -= 1;
            }
        }
        self.delete_finished()?;
        Ok(Some(rows))
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.segments.iter().all(|segment| segment.exhausted)
    }

    /// Bytes in memory, bytes on disk.
    pub fn sizes(&self) -> (u64, u64) {
        (self.memory_bytes as u64, self.disk_bytes)
    }

    /// Bytes of segments that could not be read back.
    pub fn damaged_bytes(&self) -> u64 {
        self.damaged_bytes
    }

    /// Writes what is only in memory to disk, for the next start; says how many records had to be left behind.
    pub fn persist(mut self) -> (u64, io::Result<()>) {
        let mut outcome = self.close_writer();
        let pending: Vec<Batch> =
            self.memory.iter().filter(|entry| !entry.acknowledged && entry.segment.is_none()).map(|entry| entry.batch.clone()).collect();
        let mut lost = 0;
        for batch in pending {
            // An orderly stop may go beyond the disk's budget by what fits into memory: it is one stop's worth.
            let written = if self.config.directory.is_some() { self.append(&batch) } else { Err(io::Error::other("no spool folder")) };
            if let Err(error) = written {
                lost += u64::from(batch.rows);
                outcome = Err(error);
            }
        }
        let closed = self.close_writer();
        (lost, outcome.and(closed))
    }
}

fn checksum(sequence: u64, rows: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&rows.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn frame_header(batch: &Batch) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES);
    frame.extend_from_slice(&(batch.bytes.len() as u32).to_le_bytes());
    frame.extend_from_slice(&checksum(batch.id.sequence, batch.rows, &batch.bytes).to_le_bytes());
    frame.extend_from_slice(&batch.id.sequence.to_le_bytes());
    frame.extend_from_slice(&batch.rows.to_le_bytes());
    frame
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// The next frame; `None` at the end of the segment or where it stops making sense.
fn read_frame(segment: &mut Segment) -> io::Result<Option<Batch>> {
    let mut file = File::open(&segment.path)?;
    file.seek(SeekFrom::Start(segment.read))?;
    let mut header = [0u8; FRAME_HEADER_BYTES];
    if !read_whole(&mut file, &mut header)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(field(&header, 0)) as usize;
    let sequence = u64::from_le_bytes(field(&header, 8));
    let rows = u32::from_le_bytes(field(&header, 16));
    if length > MAX_BATCH_BYTES {
        return Ok(None);
    }
    let mut bytes = vec![0u8; length];
    if !read_whole(&mut file, &mut bytes)? || checksum(sequence, rows, &bytes) != u32::from_le_bytes(field(&header, 4)) {
        return Ok(None);
    }
    segment.read += (FRAME_HEADER_BYTES + length) as u64;
    Ok(Some(Batch { id: BatchId { boot: segment.boot, sequence }, rows, bytes: bytes.into() }))
}

fn read_whole(file: &mut File, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
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
