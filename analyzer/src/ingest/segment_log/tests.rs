use std::sync::atomic::AtomicU32;

use super::*;
use crate::ingest::segment_reader::SegmentReader;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A directory that is gone at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("podtap-segment-log-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> SegmentLog {
        // The thread of a log that was dropped a moment ago may still hold the lock's last reference.
        SegmentLog::open(&self.0, 1 << 30).unwrap()
    }

    fn last_segment(&self) -> PathBuf {
        let mut paths: Vec<_> = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
        paths.sort();
        paths.pop().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn append(log: &SegmentLog, text: &str) -> u64 {
    log.append(Bytes::copy_from_slice(text.as_bytes())).await.unwrap().await.unwrap().unwrap()
}

fn read(log: &SegmentLog, from: u64) -> Vec<(u64, String)> {
    let mut reader = SegmentReader::new(Arc::clone(log.state()), from);
    let mut entries = Vec::new();
    while let Some((offset, _, bytes)) = reader.next_entry().unwrap() {
        entries.push((offset, String::from_utf8(bytes.to_vec()).unwrap()));
    }
    entries
}

fn expect(entries: &[(u64, &str)]) -> Vec<(u64, String)> {
    entries.iter().map(|(offset, text)| (*offset, (*text).to_owned())).collect()
}

#[tokio::test]
async fn what_is_acknowledged_is_there_after_a_restart() {
    let directory = Directory::new();
    let log = directory.open();
    let incarnation = log.state().incarnation().to_owned();
    assert_eq!(append(&log, "one").await, 0);
    assert_eq!(append(&log, "two").await, 1);
    assert!(matches!(SegmentLog::open(&directory.0, 1), Err(LogError::Locked(_))));
    drop(log);
    let log = directory.open();
    assert_eq!(log.state().incarnation(), incarnation);
    assert_eq!(append(&log, "three").await, 2);
    assert_eq!(read(&log, 0), expect(&[(0, "one"), (1, "two"), (2, "three")]));
    assert_eq!(read(&log, 2), expect(&[(2, "three")]));
}

/// Cuts or damages the end of the log in a way, opens it again, and expects the entries that were whole; new ones get new offsets.
async fn check(damage: impl FnOnce(&Path), whole: usize) {
    let directory = Directory::new();
    let log = directory.open();
    let texts = ["one", "two", "three"];
    for text in texts {
        append(&log, text).await;
    }
    drop(log);
    damage(&directory.last_segment());
    let log = directory.open();
    let next = append(&log, "new").await;
    assert!(next >= 3 || whole == next as usize, "offset {next} was used before");
    let mut entries: Vec<_> = texts[..whole].iter().enumerate().map(|(offset, text)| (offset as u64, *text)).collect();
    entries.push((next, "new"));
    assert_eq!(read(&log, 0), expect(&entries));
}

fn cut(path: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - bytes).unwrap();
}

#[tokio::test]
async fn a_cut_end_is_healed() {
    check(|_| {}, 3).await;
    for bytes in 1..21 {
        check(|path| cut(path, bytes), 2).await;
    }
}

#[tokio::test]
async fn a_segment_that_was_only_begun_is_healed() {
    let directory = Directory::new();
    std::fs::write(directory.0.join(format!("{:020}.segment", 0)), b"POD").unwrap();
    let log = directory.open();
    let next = append(&log, "new").await;
    assert_eq!(read(&log, 0), expect(&[(next, "new")]));
}

#[tokio::test]
async fn a_damaged_end_is_healed_and_its_offsets_are_not_used_again() {
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    check(flip, 2).await;
    let garbage = |path: &Path| OpenOptions::new().append(true).open(path).unwrap().write_all(&[0xff; 100]).unwrap();
    check(garbage, 3).await;
}

#[tokio::test]
async fn a_foreign_file_is_refused() {
    let directory = Directory::new();
    std::fs::write(directory.0.join(format!("{:020}.segment", 0)), [7; 64]).unwrap();
    assert!(matches!(SegmentLog::open(&directory.0, 1 << 30), Err(LogError::NotASegment(_))));
}

#[tokio::test]
async fn segments_behind_complete_blocks_are_deleted() {
    let directory = Directory::new();
    let log = directory.open();
    let large = "x".repeat(12 << 20);
    for _ in 0..12 {
        append(&log, &large).await;
    }
    let before = log.state().list();
    assert!(before.len() > 1, "{before:?}");
    log.state().delete_below(before[1].first - 1).unwrap();
    assert_eq!(log.state().list(), before);
    log.state().delete_below(u64::MAX).unwrap();
    assert_eq!(log.state().list().len(), 1, "the last stays");
    assert_eq!(append(&log, "more").await, 12);
}

#[tokio::test]
async fn many_wait_for_one_fsync() {
    let directory = Directory::new();
    let log = directory.open();
    let mut waiting = Vec::new();
    for number in 0..500u64 {
        waiting.push((number, log.append(Bytes::from(number.to_string())).await.unwrap()));
    }
    for (number, offset) in waiting {
        assert_eq!(offset.await.unwrap(), Ok(number));
    }
    assert_eq!(read(&log, 0).len(), 500);
}
