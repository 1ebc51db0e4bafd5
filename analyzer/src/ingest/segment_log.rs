//! The analyzer's own log, for batches that come over gRPC: appended with one fsync for all that wait, acknowledged after it.
//!
//! A directory of segments, each named after its first offset: 8 bytes of magic, then entries of length, CRC-32, time stamp and
//! bytes. Guarantee: an offset that was acknowledged or read keeps its bytes for ever. What a crash cut off at the end is
//! removed at the start, and offsets go on behind everything that may have stood there. The one misuse: a second process on the
//! same directory, which the lock file refuses.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prost::bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

/// First bytes of a segment; the last one is the format.
pub const MAGIC: [u8; 8] = *b"PODTAPL\x01";
/// Bytes of an entry before its payload: length, checksum, time stamp.
pub const ENTRY_HEADER: usize = 16;
/// The largest batch that is accepted.
pub const MAX_ENTRY_BYTES: usize = 16 << 20;
/// A segment is closed beyond this size.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Entries that wait for the disk.
const QUEUED_APPENDS: usize = 1_024;
/// What one fsync takes together.
const GROUP_BYTES: usize = 8 << 20;
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// Why the log cannot be opened or appended to.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk said no.
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// Another process has it open.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// A file that is none of ours, or from a newer version.
    #[error("{0} is not a segment of this version")]
    NotASegment(PathBuf),
    /// An earlier fsync failed, so nothing more can be promised.
    #[error("the log failed earlier and takes no more entries")]
    Failed,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { action, path, source }
}

/// A segment's first offset and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First offset in it.
    pub first: u64,
    /// Bytes that are known to be whole.
    pub bytes: u64,
}

#[derive(Debug)]
struct Append {
    payload: Bytes,
    done: oneshot::Sender<Result<u64, String>>,
}

/// What the appending thread, readers and retention share.
#[derive(Debug)]
pub struct LogState {
    directory: PathBuf,
    incarnation: String,
    segments: Mutex<Vec<Segment>>,
    total_bytes: AtomicU64,
    max_bytes: u64,
    durable: watch::Sender<u64>,
    failure: Mutex<Option<String>>,
}

impl LogState {
    fn segments(&self) -> MutexGuard<'_, Vec<Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Segments in order.
    pub fn list(&self) -> Vec<Segment> {
        self.segments().clone()
    }

    /// Where the segment that starts at `first` lies.
    pub fn path(&self, first: u64) -> PathBuf {
        self.directory.join(format!("{first:020}.segment"))
    }

    /// Unique to this log, made when its directory was.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// First offset that is not on the disk for sure; readers stop here.
    pub fn durable(&self) -> u64 {
        *self.durable.borrow()
    }

    /// Bytes in all segments.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Why the log takes nothing at the moment.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_failure(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Deletes segments that lie wholly below `offset`; the last one stays.
    pub fn delete_below(&self, offset: u64) -> Result<(), LogError> {
        loop {
            let doomed = match self.segments().as_slice() {
                [first, second, ..] if second.first <= offset => *first,
                _ => return Ok(()),
            };
            let path = self.path(doomed.first);
            std::fs::remove_file(&path).map_err(io_error("delete", &path))?;
            self.segments().remove(0);
            self.total_bytes.fetch_sub(doomed.bytes, Ordering::Relaxed);
        }
    }
}

/// The log, open for appending. Dropping it ends the appending thread after what waits is written.
#[derive(Debug)]
pub struct SegmentLog {
    state: Arc<LogState>,
    appends: mpsc::Sender<Append>,
    _lock: File,
}

impl SegmentLog {
    /// Opens or makes the log in `directory`; beyond `max_bytes` appending waits until segments are deleted.
    pub fn open(directory: &Path, max_bytes: u64) -> Result<Self, LogError> {
        std::fs::create_dir_all(directory).map_err(io_error("create", directory))?;
        let lock_path = directory.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(io_error("open", &lock_path))?;
        lock.try_lock().map_err(|_| LogError::Locked(directory.to_owned()))?;
        let incarnation = read_incarnation(directory)?;
        let (segments, next) = recover(directory)?;
        let total = segments.iter().map(|segment| segment.bytes).sum();
        let state = Arc::new(LogState {
            directory: directory.to_owned(),
            incarnation,
            segments: Mutex::new(segments),
            total_bytes: AtomicU64::new(total),
            max_bytes,
            durable: watch::Sender::new(next),
            failure: Mutex::default(),
        });
        let appender = Appender::open(Arc::clone(&state), next)?;
        let (appends, queue) = mpsc::channel(QUEUED_APPENDS);
        std::thread::Builder::new()
            .name("segment-log".to_owned())
            .spawn(move || appender.run(queue))
            .map_err(io_error("start a thread for", directory))?;
        Ok(Self { state, appends, _lock: lock })
    }

    /// What readers and retention use.
    pub fn state(&self) -> &Arc<LogState> {
        &self.state
    }

    /// Queues an entry; the receiver gets its offset once it is on the disk.
    pub async fn append(&self, payload: Bytes) -> Result<oneshot::Receiver<Result<u64, String>>, LogError> {
        let (done, receiver) = oneshot::channel();
        self.appends.send(Append { payload, done }).await.map_err(|_| LogError::Failed)?;
        Ok(receiver)
    }
}

/// The thread that writes.
struct Appender {
    state: Arc<LogState>,
    file: File,
    path: PathBuf,
    /// Size of the segment as far as it is whole.
    bytes: u64,
    next: u64,
    last_time_ns: u64,
}

impl Appender {
    fn open(state: Arc<LogState>, next: u64) -> Result<Self, LogError> {
        let last = state.segments().last().copied();
        let (path, bytes, new) = match last {
            Some(segment) if segment.bytes > 0 => (state.path(segment.first), segment.bytes, false),
            _ => (state.path(next), 0, true),
        };
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io_error("open", &path))?;
        let mut appender = Self { state, file, path, bytes, next, last_time_ns: 0 };
        if new {
            appender.begin_segment()?;
        }
        Ok(appender)
    }

    fn begin_segment(&mut self) -> Result<(), LogError> {
        let path = self.state.path(self.next);
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(io_error("create", &path))?;
        file.set_len(0).and_then(|()| file.write_all(&MAGIC)).and_then(|()| file.sync_all()).map_err(io_error("write", &path))?;
        sync_directory(&self.state.directory)?;
        let bytes = MAGIC.len() as u64;
        let mut segments = self.state.segments();
        segments.retain(|segment| segment.first != self.next);
        segments.push(Segment { first: self.next, bytes });
        drop(segments);
        self.state.total_bytes.fetch_add(bytes, Ordering::Relaxed);
        (self.file, self.path, self.bytes) = (file, path, bytes);
        Ok(())
    }

    fn run(mut self, mut queue: mpsc::Receiver<Append>) {
        let mut buffer = Vec::new();
        let mut group = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            while self.state.total_bytes() >= self.state.max_bytes && !queue.is_closed() {
                self.state
                    .set_failure(Some(format!("the log is full ({} bytes), nothing is taken until it is stored", self.state.max_bytes)));
                std::thread::sleep(FULL_PAUSE);
            }
            buffer.clear();
            self.encode(&first.payload, &mut buffer);
            group.push(first.done);
            while buffer.len() < GROUP_BYTES {
                let Ok(more) = queue.try_recv() else { break };
                self.encode(&more.payload, &mut buffer);
                group.push(more.done);
            }
            let outcome = self.commit(&buffer, group.len() as u64);
            let first_offset = self.next - if outcome.is_ok() { group.len() as u64 } else { 0 };
            self.state.set_failure(outcome.as_ref().err().map(ToString::to_string));
            for (number, done) in group.drain(..).enumerate() {
                // A sender that went away asks again after it has connected.
                let _ = done.send(outcome.as_ref().map(|()| first_offset + number as u64).map_err(ToString::to_string));
            }
            if matches!(outcome, Err(LogError::Failed)) {
                return;
            }
        }
    }

    fn encode(&mut self, payload: &[u8], buffer: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        self.last_time_ns = self.last_time_ns.max(now);
        encode_entry(self.last_time_ns, payload, buffer);
    }

    fn commit(&mut self, buffer: &[u8], entries: u64) -> Result<(), LogError> {
        if self.bytes >= SEGMENT_BYTES {
            self.begin_segment()?;
        }
        if let Err(source) = self.file.write_all(buffer) {
            // Usually a full disk: take back the part that was written, so that the next attempt starts at a whole entry.
            self.file.set_len(self.bytes).map_err(|_| LogError::Failed)?;
            return Err(io_error("append to", &self.path)(source));
        }
        // After a failed fsync the kernel may have dropped the pages: no later fsync proves anything about them.
        if let Err(error) = self.file.sync_data() {
            tracing::error!(%error, path = %self.path.display(), "fsync failed, the log takes no more entries");
            return Err(LogError::Failed);
        }
        self.bytes += buffer.len() as u64;
        self.next += entries;
        if let Some(segment) = self.state.segments().last_mut() {
            segment.bytes = self.bytes;
        }
        self.state.total_bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.state.durable.send_replace(self.next);
        Ok(())
    }
}

/// Appends one entry to `buffer`.
pub fn encode_entry(time_ns: u64, payload: &[u8], buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&checksum(time_ns, payload).to_le_bytes());
    buffer.extend_from_slice(&time_ns.to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// CRC-32 of an entry.
pub fn checksum(time_ns: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(&time_ns.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Reads one entry's payload into `payload`; `None` at the end or where no whole entry follows.
pub fn read_entry(reader: &mut impl Read, payload: &mut Vec<u8>) -> std::io::Result<Option<u64>> {
    let mut header = [0; ENTRY_HEADER];
    if !read_whole(reader, &mut header)? {
        return Ok(None);
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3, time @ ..] = header;
    let (length, stored) = (u32::from_le_bytes([l0, l1, l2, l3]) as usize, u32::from_le_bytes([c0, c1, c2, c3]));
    let time_ns = u64::from_le_bytes(time);
    if length > MAX_ENTRY_BYTES {
        return Ok(None);
    }
    payload.resize(length, 0);
    Ok((read_whole(reader, payload)? && checksum(time_ns, payload) == stored).then_some(time_ns))
}

fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn sync_directory(directory: &Path) -> Result<(), LogError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error("sync", directory))
}

fn read_incarnation(directory: &Path) -> Result<String, LogError> {
    let path = directory.join("incarnation");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("read", &path)(error)),
    }
    let mut random = [0u8; 16];
    let source = Path::new("/dev/urandom");
    File::open(source).and_then(|mut file| file.read_exact(&mut random)).map_err(io_error("read", source))?;
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut file = File::create(&path).map_err(io_error("create", &path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error("write", &path))?;
    sync_directory(directory)?;
    Ok(text)
}

/// Lists the segments, removes what a crash left at the end of the last, and says which offset comes next.
fn recover(directory: &Path) -> Result<(Vec<Segment>, u64), LogError> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io_error("list", directory))? {
        let entry = entry.map_err(io_error("list", directory))?;
        let name = entry.file_name();
        let Some(first) = name.to_str().and_then(|name| name.strip_suffix(".segment")).and_then(|first| first.parse().ok()) else {
            continue;
        };
        let bytes = entry.metadata().map_err(io_error("look at", &entry.path()))?.len();
        segments.push(Segment { first, bytes });
    }
    segments.sort_unstable_by_key(|segment| segment.first);
    let Some(last) = segments.last_mut() else { return Ok((segments, 0)) };
    let path = directory.join(format!("{:020}.segment", last.first));
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error("open", &path))?;
    let (entries, whole) = scan(&file, &path)?;
    let cut = last.bytes - whole;
    let mut next = last.first + entries;
    file.set_len(whole).and_then(|()| file.sync_all()).map_err(io_error("heal", &path))?;
    last.bytes = whole;
    if cut > 0 {
        tracing::warn!(path = %path.display(), cut, "removed what was cut off at the end of the log");
        // Whatever stood in those bytes, no offset of it is used again: the next segment starts behind them.
        next += cut / ENTRY_HEADER as u64 + 1;
        segments.push(Segment { first: next, bytes: 0 });
    }
    Ok((segments, next))
}

/// How many whole entries a segment has, and where they end.
fn scan(file: &File, path: &Path) -> Result<(u64, u64), LogError> {
    let mut reader = std::io::BufReader::new(file);
    let mut magic = [0; MAGIC.len()];
    if !read_whole(&mut reader, &mut magic).map_err(io_error("read", path))? {
        return Ok((0, 0));
    }
    if magic != MAGIC {
        return Err(LogError::NotASegment(path.to_owned()));
    }
    let (mut entries, mut whole) = (0, MAGIC.len() as u64);
    let mut payload = Vec::new();
    while read_entry(&mut reader, &mut payload).map_err(io_error("read", path))?.is_some() {
        entries += 1;
        whole += (ENTRY_HEADER + payload.len()) as u64;
    }
    Ok((entries, whole))
}

#[cfg(test)]
#[path = "segment_log/tests.rs"]
mod tests;
