use super::*;

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

fn open(folder: Option<&Folder>, queue_bytes: usize, spool_bytes: u64, started_ns: u64) -> Spool {
    Spool::open(SpoolConfig { queue_bytes, directory: folder.map(|folder| folder.0.clone()), spool_bytes, started_ns }).unwrap()
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
    let mut spool = open(Some(&folder), 300, 600, 1);
    let kept = (1..=20).take_while(|sequence| spool.push(batch(1, *sequence)).is_ok()).count() as u64;
    assert_eq!(kept, 7, "three in memory, four frames of 120 bytes and two headers on disk");
    assert_eq!(spool.sizes(), (300, 24 + 4 * 120));
    assert_eq!(drain(&mut spool), (1..=kept).map(|sequence| (1, sequence)).collect::<Vec<_>>());
    assert!(spool.is_empty());
    assert_eq!(spool.sizes(), (0, 0));
    assert!(folder.files().is_empty());
}

#[test]
fn while_the_disk_holds_some_newer_ones_follow_them() {
    let folder = Folder::new("follow");
    let mut spool = open(Some(&folder), 200, 10_000, 1);
    (1..=5).for_each(|sequence| spool.push(batch(1, sequence)).unwrap());
    spool.offered();
    spool.release(batch(1, 1).id).unwrap();
    spool.push(batch(1, 6)).unwrap();
    assert_eq!(drain(&mut spool), [(1, 2), (1, 3), (1, 4), (1, 5), (1, 6)]);
    spool.push(batch(1, 7)).unwrap();
    assert_eq!(drain(&mut spool), [(1, 7)]);
}

#[test]
fn without_a_folder_the_queue_is_all() {
    let mut spool = open(None, 250, 10_000, 1);
    spool.push(batch(1, 1)).unwrap();
    spool.push(batch(1, 2)).unwrap();
    let (returned, error) = spool.push(batch(1, 3)).unwrap_err();
    assert_eq!(returned, batch(1, 3));
    assert!(error.is_none());
}

#[test]
fn a_restart_offers_everything_again_and_acknowledgements_may_come_in_any_order() {
    let mut spool = open(None, 10_000, 0, 1);
    (1..=3).for_each(|sequence| spool.push(batch(1, sequence)).unwrap());
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
    (1..=4).for_each(|sequence| first.push(batch(9, sequence)).unwrap());
    first.offered();
    first.release(batch(9, 1).id).unwrap();
    let (lost, outcome) = first.persist();
    assert_eq!(lost, 0);
    outcome.unwrap();
    let mut second = open(Some(&folder), 200, 10_000, 6);
    second.push(batch(2, 1)).unwrap();
    assert_eq!(drain(&mut second), [(9, 2), (9, 3), (9, 4), (2, 1)]);
    assert!(folder.files().is_empty());
}

#[test]
fn a_stop_without_a_folder_says_what_it_leaves_behind() {
    let mut spool = open(None, 1000, 0, 1);
    (1..=3).for_each(|sequence| spool.push(batch(1, sequence)).unwrap());
    let (lost, outcome) = spool.persist();
    assert_eq!(lost, 30);
    outcome.unwrap_err();
}

#[test]
fn after_a_crash_what_is_whole_is_delivered_and_the_rest_is_counted() {
    for (name, damage) in [("cut", 7usize), ("header", 110), ("flipped", 0)] {
        let folder = Folder::new(name);
        let mut spool = open(Some(&folder), 100, 10_000, 1);
        (1..=4).for_each(|sequence| spool.push(batch(1, sequence)).unwrap());
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
        assert_eq!(drain(&mut spool), [(1, 2), (1, 3)], "{name}");
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
