//! A file of the spool: batches of one boot in their order.
//!
//! Magic, boot, then frames of (length, checksum, sequence, rows, bytes), integers little-endian. A frame without bytes is a note: its
//! sequence is the highest that the boot had made by then. There is one at most, behind the last batch, and the next frame takes its
//! place. A frame whose checksum has every bit turned round is acknowledged. One that is cut or whose checksum is wrong ends its segment.
//! Not for two writers.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::transport::{Batch, BatchId};

const MAGIC: &[u8; 8] = b"PODTAPS1";
/// Bytes before the first frame.
pub const SEGMENT_HEADER_BYTES: u64 = 8 + 16;
/// Bytes of a frame before its batch.
pub const FRAME_HEADER_BYTES: usize = 4 + 4 + 8 + 4;
/// A segment is closed at this size: what is acknowledged gives its room back in such steps.
const SEGMENT_BYTES: u64 = 8 << 20;
/// Largest batch that is believed when a segment is read.
const MAX_BATCH_BYTES: usize = 64 << 20;

/// What stands in a segment.
pub enum Frame {
    /// A batch, and where it is.
    Batch(Batch, u64),
    /// One that was acknowledged.
    Released(Batch),
    /// The highest sequence that the boot had made.
    Made(u64),
}

/// A segment.
pub struct Segment {
    /// Tells it from the others of this run.
    pub number: u64,
    /// Its file.
    pub path: PathBuf,
    /// Whose batches it holds.
    pub boot: [u8; 16],
    /// Whether an earlier run left it.
    pub inherited: bool,
    /// Bytes of all that was written, a note at the end left out.
    pub bytes: u64,
    /// Where the next frame begins.
    pub read: u64,
    /// Frames that are in memory and not acknowledged.
    pub outstanding: usize,
    /// Nothing more can be read.
    pub exhausted: bool,
    /// Highest sequence that it holds or notes, of those written in this run.
    noted: u64,
    /// Open as long as it may grow.
    file: Option<File>,
}

impl Segment {
    /// A new file.
    pub fn create(path: PathBuf, boot: [u8; 16], number: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let header = [&MAGIC[..], &boot[..]].concat();
        if let Err(error) = file.write_all_at(&header, 0) {
            std::fs::remove_file(&path)?;
            return Err(error);
        }
        let (bytes, read) = (SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES);
        Ok(Self { number, path, boot, inherited: false, bytes, read, outstanding: 0, exhausted: false, noted: 0, file: Some(file) })
    }

    /// The file of an earlier run; `None` with its length if it is no segment.
    pub fn inherit(path: PathBuf, number: u64) -> io::Result<Result<Self, u64>> {
        let mut file = File::open(&path)?;
        let bytes = file.metadata()?.len();
        let mut header = [0u8; SEGMENT_HEADER_BYTES as usize];
        if !read_whole(&mut file, &mut header)? || !header.starts_with(MAGIC) {
            return Ok(Err(bytes));
        }
        let (boot, read) = (field(&header, MAGIC.len()), SEGMENT_HEADER_BYTES);
        Ok(Ok(Self { number, path, boot, inherited: true, bytes, read, outstanding: 0, exhausted: false, noted: 0, file: None }))
    }

    /// Whether another batch of the boot goes here.
    pub fn takes(&self, boot: [u8; 16]) -> bool {
        self.file.is_some() && self.boot == boot && self.bytes < SEGMENT_BYTES
    }

    /// Whether all that it holds was read, or was in memory when it was written.
    pub fn is_read(&self) -> bool {
        // Of an inherited one only reading tells where it ends.
        self.exhausted || (!self.inherited && self.read == self.bytes)
    }

    /// Writes a batch at the end. Handed to the kernel at once: a crash of the sidecar loses nothing that was
    /// appended.
    pub fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let Some(file) = &self.file else { return Err(io::Error::other("the segment is closed")) };
        let header = frame_header(batch.id.sequence, batch.rows, &batch.bytes);
        let written =
            file.write_all_at(&header, self.bytes).and_then(|()| file.write_all_at(&batch.bytes, self.bytes + header.len() as u64));
        if let Err(error) = written {
            // What was half written is overwritten by the next; cut off, nobody takes it for damage if there is none.
            file.set_len(self.bytes)?;
            self.noted = 0;
            return Err(error);
        }
        self.bytes += (header.len() + batch.bytes.len()) as u64;
        self.noted = batch.id.sequence;
        Ok(())
    }

    /// Notes, if it is open, that the boot has made batches up to `made`.
    pub fn note(&mut self, made: u64) -> io::Result<()> {
        if made <= self.noted {
            return Ok(());
        }
        let Some(file) = &self.file else { return Ok(()) };
        file.write_all_at(&frame_header(made, 0, &[]), self.bytes)?;
        self.noted = made;
        Ok(())
    }

    /// Marks the batch at `frame` as acknowledged, so that no later start sends it again.
    pub fn release(&self, frame: u64) -> io::Result<()> {
        let opened;
        let file = match &self.file {
            Some(file) => file,
            None => {
                opened = File::options().read(true).write(true).open(&self.path)?;
                &opened
            }
        };
        let mut checksum = [0; 4];
        file.read_exact_at(&mut checksum, frame + 4)?;
        file.write_all_at(&checksum.map(|byte| !byte), frame + 4)
    }

    /// Ends its growth.
    pub fn close(&mut self) -> io::Result<()> {
        self.file.take().map_or(Ok(()), |file| file.sync_data())
    }

    /// The next frame; `None` at the end of the segment or where it stops making sense.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read))?;
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
        if !read_whole(&mut file, &mut bytes)? {
            return Ok(None);
        }
        let (found, expected) = (u32::from_le_bytes(field(&header, 4)), checksum(sequence, rows, &bytes));
        if found != expected && found != !expected {
            return Ok(None);
        }
        let place = self.read;
        self.read += (FRAME_HEADER_BYTES + length) as u64;
        if length == 0 {
            return Ok(Some(Frame::Made(sequence)));
        }
        let batch = Batch { id: BatchId { boot: self.boot, sequence }, rows, bytes: bytes.into() };
        Ok(Some(if found == expected { Frame::Batch(batch, place) } else { Frame::Released(batch) }))
    }
}

fn checksum(sequence: u64, rows: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&rows.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn frame_header(sequence: u64, rows: u32, bytes: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    header[4..8].copy_from_slice(&checksum(sequence, rows, bytes).to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..].copy_from_slice(&rows.to_le_bytes());
    header
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

fn read_whole(file: &mut File, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
