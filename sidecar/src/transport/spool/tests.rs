use super::*;
use podtap_wire::proto::Resource;
use podtap_wire::{BatchBuilder, DecodedBatch, RequestRecord};

/// A folder that is removed with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podtap-spool-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn batch(boot: u8, sequence: u64) -> Batch {
    Batch { id: BatchId { boot: [boot; 16], sequence }, rows: 10, bytes: vec![boot; 100].into() }
}

const SPOOL_AFTER: Duration = Duration::from_secs(1);

fn open(folder: Option<&Folder>, queue_bytes: usize, spool_bytes: u64, started_ns: u64) -> Spool {
    let directory = folder.map(|folder| folder.0.clone());
    Spool::open(SpoolConfig { queue_bytes, directory, spool_bytes, spool_after: SPOOL_AFTER, started_ns }).unwrap()
}

/// A batch as it travels.
fn real(boot: u8, sequence: u64) -> Batch {
    let mut builder =
        BatchBuilder::new("sender".to_owned(), [boot; 16], Resource { k8s_pod_name: "pod".to_owned(), ..Resource::default() });
    builder.push(&RequestRecord::default());
    let encoded = builder.finish(sequence, 5, Vec::new());
    Batch { id: BatchId { boot: [boot; 16], sequence }, rows: encoded.rows, bytes: encoded.bytes.into() }
}

/// Offers and acknowledges everything; the ids in the order of the offers.
fn drain(spool: &mut Spool) -> Vec<(u8, u64)> {
    let mut seen = Vec::new();
    loop {
        spool.refill().unwrap();
        let Some(next) = spool.next_to_offer().cloned() else { return seen };
        spool.offered();
        seen.push((next.id.boot[0], next.id.sequence));
        assert_eq!(spool.release(next.id).unwrap(), Some(10));
    }
}

#[test]
fn memory_then_disk_then_no_more_and_all_in_order() {
    let folder = Folder::new("order");
    let mut spool = open(Some(&folder), 300, 900, 1);
    let kept = (1..=20).take_while(|sequence| spool.push(batch(1, *sequence), Instant::now()).is_ok()).count() as u64;
    assert_eq!(kept, 7, "frames of 120 bytes and two headers; three batches are in memory too");
    assert_eq!(spool.sizes(), (300, 24 + 7 * 120));
    assert_eq!(spool.written(), [("age", 0), ("queue_full", 7), ("shutdown", 0)]);
    assert_eq!(drain(&mut spool), (1..=kept).map(|sequence| (1, sequence)).collect::<Vec<_>>());
    assert!(spool.is_empty());
    assert_eq!(spool.sizes(), (0, 0));
    assert!(folder.files().is_empty());
}

#[test]
fn while_the_disk_holds_some_newer_ones_follow_them() {
    let folder = Folder::new("follow");
    let mut spool = open(Some(&folder), 200, 10_000, 1);
    (1..=5).for_each(|sequence| spool.push(batch(1, sequence), Instant::now()).unwrap());
    spool.offered();
    spool.release(batch(1, 1).id).unwrap();
    spool.push(batch(1, 6), Instant::now()).unwrap();
    assert_eq!(drain(&mut spool), [(1, 2), (1, 3), (1, 4), (1, 5), (1, 6)]);
    spool.push(batch(1, 7), Instant::now()).unwrap();
    assert_eq!(drain(&mut spool), [(1, 7)]);
}

#[test]
fn without_a_folder_the_queue_is_all() {
    let mut spool = open(None, 250, 10_000, 1);
    assert_eq!(spool.unspooled_bytes(), 0);
    spool.push(batch(1, 1), Instant::now()).unwrap();
    spool.push(batch(1, 2), Instant::now()).unwrap();
    let (returned, error) = spool.push(batch(1, 3), Instant::now()).unwrap_err();
    assert_eq!(returned, batch(1, 3));
    assert!(error.is_none());
}

#[test]
fn a_restart_offers_everything_again_and_acknowledgements_may_come_in_any_order() {
    let mut spool = open(None, 10_000, 0, 1);
    (1..=3).for_each(|sequence| spool.push(batch(1, sequence), Instant::now()).unwrap());
    (0..3).for_each(|_| spool.offered());
    assert!(spool.next_to_offer().is_none());
    assert_eq!(spool.release(batch(1, 2).id).unwrap(), Some(10));
    assert_eq!(spool.release(batch(1, 2).id).unwrap(), None, "the second time counts nothing");
    spool.restart();
    assert_eq!(spool.next_to_offer().unwrap().id.sequence, 1);
    spool.offered();
    spool.release(batch(1, 1).id).unwrap();
    assert_eq!(spool.next_to_offer().unwrap().id.sequence, 3, "what was acknowledged out of order goes with what was before it");
}

#[test]
fn the_next_start_delivers_the_old_boot_first() {
    let folder = Folder::new("boots");
    let mut first = open(Some(&folder), 200, 10_000, 5);
    (1..=4).for_each(|sequence| first.push(batch(9, sequence), Instant::now()).unwrap());
    first.offered();
    first.release(batch(9, 1).id).unwrap();
    let (lost, outcome) = first.persist();
    assert_eq!(lost, 0);
    outcome.unwrap();
    let mut second = open(Some(&folder), 200, 10_000, 6);
    second.push(batch(2, 1), Instant::now()).unwrap();
    assert_eq!(drain(&mut second), [(9, 2), (9, 3), (9, 4), (2, 1)]);
    assert!(folder.files().is_empty());
}

#[test]
fn a_stop_without_a_folder_says_what_it_leaves_behind() {
    let mut spool = open(None, 1000, 0, 1);
    (1..=3).for_each(|sequence| spool.push(batch(1, sequence), Instant::now()).unwrap());
    let (lost, outcome) = spool.persist();
    assert_eq!(lost, 30);
    outcome.unwrap_err();
}

#[test]
fn after_a_crash_what_is_whole_is_delivered_and_the_rest_is_counted() {
    for (name, damage) in [("cut", 7usize), ("header", 110), ("flipped", 0)] {
        let folder = Folder::new(name);
        let mut spool = open(Some(&folder), 100, 10_000, 1);
        (1..=4).for_each(|sequence| spool.push(batch(1, sequence), Instant::now()).unwrap());
        drop(spool); // a crash: nothing is written that was not written before
        let path = folder.files().remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        if damage == 0 {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        } else {
            bytes.truncate(bytes.len() - damage);
        }
        std::fs::write(&path, &bytes).unwrap();
        let mut spool = open(Some(&folder), 100, 10_000, 2);
        assert_eq!(drain(&mut spool), [(1, 1), (1, 2), (1, 3)], "{name}");
        assert_eq!(spool.damaged_bytes(), 120 - damage as u64, "{name}");
        assert!(spool.is_empty() && folder.files().is_empty(), "{name}");
    }
}

#[test]
fn a_file_that_is_no_segment_is_counted_and_removed() {
    let folder = Folder::new("alien");
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::write(folder.0.join("x.spool"), b"what?").unwrap();
    std::fs::write(folder.0.join("notes.txt"), b"keep me").unwrap();
    let spool = open(Some(&folder), 100, 10_000, 2);
    assert_eq!(spool.damaged_bytes(), 5);
    assert_eq!(folder.files(), [folder.0.join("notes.txt")]);
}

#[test]
fn what_is_acknowledged_quickly_never_touches_the_disk() {
    let folder = Folder::new("quick");
    let mut spool = open(Some(&folder), 10_000, 10_000, 1);
    let start = Instant::now();
    for sequence in 1..=50 {
        let now = start + Duration::from_millis(300) * sequence as u32;
        spool.push(batch(1, sequence), now).unwrap();
        spool.spool_aged(now).unwrap();
        if sequence > 3 {
            spool.release(batch(1, sequence - 3).id).unwrap();
        }
        assert!(folder.files().is_empty(), "after batch {sequence}");
    }
    assert_eq!((spool.written()[0].1, spool.unspooled_bytes()), (0, 300));
}

#[test]
fn what_waits_is_on_disk_after_a_while_and_survives_a_crash() {
    let folder = Folder::new("age");
    let mut spool = open(Some(&folder), 10_000, 10_000, 1);
    let start = Instant::now();
    spool.push(batch(1, 1), start).unwrap();
    spool.push(batch(1, 2), start + SPOOL_AFTER / 2).unwrap();
    spool.spool_aged(start + SPOOL_AFTER - Duration::from_millis(1)).unwrap();
    assert!(folder.files().is_empty());
    spool.spool_aged(start + SPOOL_AFTER).unwrap();
    assert_eq!((spool.sizes(), spool.unspooled_bytes()), ((200, 24 + 120), 100));
    spool.push(batch(1, 3), start + SPOOL_AFTER).unwrap();
    spool.spool_aged(start + SPOOL_AFTER * 3 / 2).unwrap();
    assert_eq!(spool.written(), [("age", 2), ("queue_full", 0), ("shutdown", 0)]);
    drop(spool); // a crash: the third was younger
    let mut spool = open(Some(&folder), 10_000, 10_000, 2);
    assert_eq!(drain(&mut spool), [(1, 1), (1, 2)]);
    assert_eq!((spool.missing_batches(), spool.damaged_bytes()), (1, 0));
    assert!(spool.is_empty() && folder.files().is_empty());
}

#[test]
fn what_is_on_disk_too_is_offered_once_and_goes_when_it_is_acknowledged() {
    let folder = Folder::new("once");
    let mut spool = open(Some(&folder), 10_000, 10_000, 1);
    let start = Instant::now();
    (1..=3).for_each(|sequence| spool.push(batch(1, sequence), start).unwrap());
    spool.spool_aged(start + SPOOL_AFTER).unwrap();
    assert_eq!(folder.files().len(), 1);
    assert_eq!(drain(&mut spool), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!((spool.sizes(), spool.is_empty()), ((0, 0), true));
    assert!(folder.files().is_empty());
    // And the same again, in a file of its own.
    spool.push(batch(1, 4), start).unwrap();
    spool.spool_aged(start + SPOOL_AFTER).unwrap();
    assert_eq!(drain(&mut spool), [(1, 4)]);
    assert!(folder.files().is_empty());
}

#[test]
fn when_memory_is_full_the_disk_has_all_in_order() {
    for crash in [false, true] {
        let folder = Folder::new(&format!("full-{crash}"));
        let mut spool = open(Some(&folder), 300, 10_000, 1);
        let start = Instant::now();
        (1..=3).for_each(|sequence| spool.push(batch(1, sequence), start + SPOOL_AFTER * (sequence as u32)).unwrap());
        spool.spool_aged(start + SPOOL_AFTER * 3).unwrap();
        assert_eq!(spool.written()[0].1, 2);
        (4..=6).for_each(|sequence| spool.push(batch(1, sequence), start).unwrap());
        assert_eq!((spool.written()[1].1, spool.unspooled_bytes()), (4, 0));
        if crash {
            drop(spool);
            spool = open(Some(&folder), 300, 10_000, 2);
        }
        assert_eq!(drain(&mut spool), (1..=6).map(|sequence| (1, sequence)).collect::<Vec<_>>(), "crash: {crash}");
        assert!(folder.files().is_empty() && spool.missing_batches() == 0);
    }
}

#[test]
fn a_full_disk_takes_the_oldest_and_says_what_it_has_not() {
    let folder = Folder::new("full-disk");
    let mut spool = open(Some(&folder), 10_000, 300, 1);
    let start = Instant::now();
    (1..=5).for_each(|sequence| spool.push(batch(1, sequence), start).unwrap());
    spool.spool_aged(start + SPOOL_AFTER).unwrap();
    assert_eq!((spool.sizes(), spool.unspooled_bytes()), ((500, 264), 300));
    // Room again, and it goes on.
    assert!((1..=2).all(|sequence| spool.release(batch(1, sequence).id).unwrap().is_some()));
    spool.spool_aged(start + SPOOL_AFTER).unwrap();
    assert_eq!((spool.sizes(), spool.unspooled_bytes()), ((300, 264), 100));
}

#[test]
fn a_disk_that_refuses_is_tried_again_later() {
    let folder = Folder::new("refuses");
    let mut spool = open(Some(&folder), 10_000, 10_000, 1);
    let start = Instant::now();
    spool.push(batch(1, 1), start).unwrap();
    std::fs::remove_dir_all(&folder.0).unwrap();
    let aged = start + SPOOL_AFTER;
    assert_eq!(spool.spool_aged(aged).unwrap_err().kind(), io::ErrorKind::NotFound);
    spool.spool_aged(aged).unwrap();
    assert_eq!(spool.unspooled_bytes(), 100);
    std::fs::create_dir_all(&folder.0).unwrap();
    spool.spool_aged(aged + RETRY_AFTER).unwrap();
    assert_eq!(spool.unspooled_bytes(), 0);
    drop(spool);
    assert_eq!(drain(&mut open(Some(&folder), 10_000, 10_000, 2)), [(1, 1)]);
}

#[test]
fn the_next_start_says_how_far_a_killed_boot_had_come() {
    let folder = Folder::new("end");
    let mut spool = open(Some(&folder), 10_000, 10_000, 1);
    let start = Instant::now();
    (1..=2).for_each(|sequence| spool.push(real(1, sequence), start).unwrap());
    (3..=5).for_each(|sequence| spool.push(real(1, sequence), start + SPOOL_AFTER).unwrap());
    spool.spool_aged(start + SPOOL_AFTER).unwrap();
    drop(spool); // killed with 3 to 5 in memory only
    for started in [2, 3] {
        // Killed again before anything is acknowledged, all of it comes again.
        let mut spool = open(Some(&folder), 10_000, 10_000, started);
        spool.refill().unwrap();
        let mut seen = Vec::new();
        while let Some(batch) = spool.next_to_offer().cloned() {
            spool.offered();
            seen.push(batch);
        }
        let end = seen.pop().unwrap();
        assert_eq!(seen, [real(1, 1), real(1, 2)]);
        let decoded = DecodedBatch::decode(&end.bytes).unwrap();
        let sender = decoded.sender();
        assert_eq!(
            (sender.id.as_str(), sender.boot_id.as_slice(), decoded.resource().k8s_pod_name.as_str()),
            ("sender", &[1; 16][..], "pod")
        );
        assert_eq!((sender.sequence, sender.ends_boot, decoded.rows(), end.rows), (6, true, 0, 0));
        assert_eq!(end.id, BatchId { boot: [1; 16], sequence: 6 });
        assert_eq!(spool.missing_batches(), 3);
        if started == 3 {
            assert!(seen.iter().all(|batch| spool.release(batch.id).unwrap().is_some()));
            assert_eq!(folder.files().len(), 1, "the note is kept until its message is acknowledged");
            spool.release(end.id).unwrap();
            assert!(spool.is_empty() && folder.files().is_empty());
        }
    }
}

#[test]
fn a_boot_that_lost_nothing_needs_no_end() {
    let folder = Folder::new("no-end");
    let mut spool = open(Some(&folder), 10_000, 10_000, 1);
    let start = Instant::now();
    (1..=2).for_each(|sequence| spool.push(real(1, sequence), start).unwrap());
    spool.spool_aged(start + SPOOL_AFTER).unwrap();
    spool.push(real(1, 3), start + SPOOL_AFTER).unwrap();
    spool.spool_aged(start + SPOOL_AFTER).unwrap();
    let (lost, outcome) = spool.persist();
    outcome.unwrap();
    assert_eq!(lost, 0);
    let mut spool = open(Some(&folder), 10_000, 10_000, 2);
    spool.refill().unwrap();
    assert_eq!(
        std::iter::from_fn(|| {
            let id = spool.next_to_offer()?.id;
            spool.offered();
            Some(id.sequence)
        })
        .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(spool.missing_batches(), 0);
}

/// Random turns of a sender, with crashes: what waited for long enough is offered again by the next run, in order, and what was
/// acknowledged is not.
#[test]
fn nothing_that_waited_is_lost_whatever_comes() {
    for seed in 1..=150u64 {
        let folder = Folder::new(&format!("random-{seed}"));
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |limit: u64| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
        };
        let (mut now, mut boot, mut sequence) = (Instant::now(), 1u8, 0u64);
        let mut spool = open(Some(&folder), 450, 100_000, 1);
        let mut due: Vec<(u8, u64, Instant)> = Vec::new();
        let mut offered: Vec<BatchId> = Vec::new();
        for _ in 0..150 {
            now += Duration::from_millis(below(600));
            match below(12) {
                0..=5 => {
                    sequence += 1;
                    spool.push(batch(boot, sequence), now).unwrap();
                    due.push((boot, sequence, now));
                }
                6..=7 => {
                    for _ in 0..below(6) {
                        let Some(id) = spool.next_to_offer().map(|batch| batch.id) else { break };
                        assert!(offered.last().is_none_or(|last| *last != id), "seed {seed}");
                        spool.offered();
                        offered.push(id);
                    }
                }
                8..=9 => {
                    for id in offered.drain(..(below(4) as usize).min(offered.len())) {
                        assert!(spool.release(id).unwrap().is_some(), "seed {seed}");
                        let before = due.len();
                        due.retain(|(boot, sequence, _)| (id.boot[0], id.sequence) != (*boot, *sequence));
                        assert_eq!(due.len() + 1, before, "seed {seed}: {id:?} was acknowledged twice");
                    }
                }
                10 => {
                    spool.restart();
                    offered.clear();
                }
                _ => {
                    spool.spool_aged(now).unwrap();
                    drop(spool);
                    offered.clear();
                    (boot, sequence) = (boot + 1, 0);
                    spool = open(Some(&folder), 450, 100_000, u64::from(boot));
                    // What was younger may be there too: when memory overflows all of it is written.
                    due = everything(&folder, &due, now, seed);
                }
            }
            spool.spool_aged(now).unwrap();
            spool.refill().unwrap();
        }
        spool.restart();
        let rest: Vec<(u8, u64)> = drain(&mut spool);
        assert_eq!(rest, due.iter().map(|(boot, sequence, _)| (*boot, *sequence)).collect::<Vec<_>>(), "seed {seed}");
        assert!(spool.is_empty() && folder.files().is_empty() && spool.damaged_bytes() == 0, "seed {seed}");
    }
}

/// What lies in the folder: all that is old enough, nothing but what waits.
fn everything(folder: &Folder, waiting: &[(u8, u64, Instant)], now: Instant, seed: u64) -> Vec<(u8, u64, Instant)> {
    let due: Vec<_> = waiting.iter().filter(|(_, _, since)| now.duration_since(*since) >= SPOOL_AFTER).collect();
    let mut found = Vec::new();
    for path in folder.files() {
        let mut segment = Segment::inherit(path, 0).unwrap().unwrap();
        while let Some(frame) = segment.next_frame().unwrap() {
            if let Frame::Batch(batch, _) = frame {
                found.push((batch.id.boot[0], batch.id.sequence, now - SPOOL_AFTER));
            }
        }
    }
    let holds = |wanted: &&(u8, u64, Instant)| found.iter().any(|(boot, sequence, _)| (*boot, *sequence) == (wanted.0, wanted.1));
    assert!(due.iter().all(holds), "seed {seed}: {due:?} was due, {found:?} is there");
    for (boot, sequence, _) in &found {
        let waits = waiting.iter().any(|wanted| (wanted.0, wanted.1) == (*boot, *sequence));
        assert!(waits, "seed {seed}: {sequence} of boot {boot} was acknowledged and is there");
    }
    assert!(found.is_sorted_by_key(|(boot, sequence, _)| (*boot, *sequence)), "seed {seed}: {found:?}");
    found
}
