use std::collections::BTreeMap;

use podtap_wire::proto::Resource;
use podtap_wire::{BatchBuilder, Protocol, RequestRecord};
use proptest::prelude::*;

use super::*;
use crate::aggregate::Figures;
use crate::store::recording::Tables;

const NOW: u64 = 1_700_000_000_000_000_000;

fn partition() -> PartitionId {
    PartitionId { topic: "t".to_owned(), incarnation: "i".to_owned(), partition: 0 }
}

/// One message of sender `sender`: `paths` are its records.
fn message(sender: usize, sequence: u64, paths: &[String]) -> Vec<u8> {
    let resource = Resource { k8s_pod_name: format!("pod-{sender}"), ..Resource::default() };
    let mut builder = BatchBuilder::new(format!("sender-{sender}"), [sender as u8; 16], resource);
    for (number, path) in paths.iter().enumerate() {
        builder.push(&RequestRecord {
            timestamp: NOW + sequence * 700_000_000 - (number as u64 % 3) * 20_000_000_000,
            network_protocol_name: Protocol::Http,
            http_request_method: "GET",
            url_template: path,
            time_to_last_byte_ns: Some(sequence * 1_000 + number as u64),
            ..RequestRecord::default()
        });
    }
    builder.finish(sequence, NOW, Vec::new()).bytes
}

fn time(offset: u64) -> u64 {
    NOW + 10_000_000_000_000 + offset * 1_000_000
}

#[test]
fn early_writes_then_the_complete_block() {
    let mut fold = PartitionFold::resume(partition(), ResumePoint::default());
    assert!(fold.take_write().is_none());
    fold.handle_message(0, time(0), &message(1, 1, &["/a".to_owned()]));
    let write = fold.take_write().unwrap();
    assert_eq!((write.manifest.block, write.manifest.end, write.manifest.position), (0, BLOCK_OFFSETS, 1));
    assert!(!write.manifest.complete);
    assert!(fold.take_write().is_none(), "nothing changed since");
    assert_eq!(fold.handle_message(0, time(0), b""), Outcome::Reread);
    fold.handle_message(BLOCK_OFFSETS - 1, time(1), &message(1, 2, &["/b".to_owned()]));
    let write = fold.take_write().unwrap();
    assert!(write.manifest.complete);
    assert_eq!((write.manifest.position, write.manifest.counts.records), (BLOCK_OFFSETS, 2));
    assert_eq!(write.series.len(), 1, "only what changed");
    assert!(fold.take_write().is_none());
}

#[test]
fn offsets_may_have_holes_over_whole_blocks() {
    let mut fold = PartitionFold::resume(partition(), ResumePoint { offset: 3, marks: Marks::default() });
    fold.handle_message(5, time(0), &message(1, 1, &["/a".to_owned()]));
    fold.handle_message(3 * BLOCK_OFFSETS + 7, time(1), &message(1, 2, &["/a".to_owned()]));
    let first = fold.take_write().unwrap();
    assert_eq!((first.manifest.block, first.manifest.position, first.manifest.complete), (3, BLOCK_OFFSETS, true));
    let second = fold.take_write().unwrap();
    assert_eq!((second.manifest.block, second.manifest.position), (3 * BLOCK_OFFSETS, 3 * BLOCK_OFFSETS + 8));
}

#[test]
fn what_is_no_batch_is_counted_and_passed() {
    let mut fold = PartitionFold::resume(partition(), ResumePoint::default());
    assert_eq!(fold.handle_message(0, time(0), &[0xff, 0xff]), Outcome::Undecodable("malformed"));
    assert_eq!(fold.handle_message(1, time(1), b""), Outcome::Undecodable("sender"));
    let outcome = fold.handle_message(2, time(2), &message(1, 4, &["/".to_owned()]));
    // What came before the fourth of a boot may lie elsewhere.
    let start = Some(BootStart { boot: SenderBoot { sender: "sender-1".to_owned(), boot: [1; 16] }, sequence: 4 });
    assert_eq!(outcome, Outcome::Counted { records: 1, missing: 0, clamped: 0, overflowed: 0, sampled: 0, late: 1, start });
    let counts = fold.take_write().unwrap().manifest.counts;
    assert_eq!(counts.undecodable, BTreeMap::from([("malformed", 1), ("sender", 1)]));
}

#[test]
fn twice_counts_once_and_holes_are_known_across_blocks() {
    let mut fold = PartitionFold::resume(partition(), ResumePoint::default());
    let batch = |sequence| message(1, sequence, &["/".to_owned()]);
    fold.handle_message(0, time(0), &batch(1));
    fold.handle_message(BLOCK_OFFSETS, time(1), &batch(1));
    fold.handle_message(BLOCK_OFFSETS + 1, time(2), &batch(4));
    let first = fold.take_write().unwrap().manifest;
    let second = fold.take_write().unwrap().manifest;
    assert_eq!((second.counts.duplicates, second.counts.missing, second.counts.batches), (1, 2, 1));
    let mut resumed = PartitionFold::resume(partition(), ResumePoint { offset: BLOCK_OFFSETS, marks: first.marks });
    assert_eq!(resumed.handle_message(BLOCK_OFFSETS, time(1), &batch(1)), Outcome::Duplicate);
}

#[test]
fn the_end_of_a_boot_names_what_is_missing_and_is_no_batch() {
    let mut fold = PartitionFold::resume(partition(), ResumePoint::default());
    let batch = |sequence| message(1, sequence, &["/".to_owned()]);
    let end = BatchBuilder::end_of_boot(&DecodedBatch::decode(&batch(2)).unwrap(), 5).bytes;
    fold.handle_message(0, time(0), &batch(1));
    fold.handle_message(1, time(1), &batch(2));
    let missing = |missing| Outcome::Counted { records: 0, missing, clamped: 0, overflowed: 0, sampled: 0, late: 0, start: None };
    assert_eq!(fold.handle_message(2, time(2), &end), missing(3));
    assert_eq!(fold.handle_message(3, time(3), &end), Outcome::Duplicate);
    let manifest = fold.take_write().unwrap().manifest;
    assert_eq!((manifest.counts.batches, manifest.counts.missing, manifest.counts.duplicates), (2, 3, 1));
    let ranges: Vec<_> = manifest.received.ranges().map(|(_, from, to)| (from, to)).collect();
    assert_eq!(ranges, [(1, 2), (6, 5)]);
}

/// What the log holds: messages with holes between offsets, some sent twice, some not batches at all.
#[derive(Clone, Debug)]
struct Log {
    messages: Vec<(u64, Vec<u8>)>,
    /// Records by endpoint, as the senders know them.
    sent: BTreeMap<String, u64>,
}

fn log() -> impl Strategy<Value = Log> {
    let step = (0usize..3, 0u8..10, prop::collection::vec(0u8..6, 0..4), 1u64..700);
    prop::collection::vec(step, 1..60).prop_map(|steps| {
        let mut sequences = [0u64; 3];
        let mut sent = BTreeMap::new();
        let mut messages: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut offset = 0;
        for (sender, kind, paths, gap) in steps {
            offset += gap;
            let paths: Vec<_> = paths.iter().map(|path| format!("/{path}")).collect();
            let bytes = match kind {
                0 => vec![0xff; 3],
                1 if sequences[sender] > 0 => message(sender, sequences[sender], &[]),
                _ => {
                    sequences[sender] += 1;
                    for path in &paths {
                        *sent.entry(format!("GET {path}")).or_default() += 1;
                    }
                    message(sender, sequences[sender], &paths)
                }
            };
            messages.push((offset, bytes));
        }
        Log { messages, sent }
    })
}

/// An owner of the partition: folds, and writes when told to.
struct Owner {
    fold: PartitionFold,
    waiting: VecDeque<BlockWrite>,
}

impl Owner {
    fn start(tables: &Tables) -> Self {
        let from = tables.resume_point(&partition()).unwrap_or_default();
        Self { fold: PartitionFold::resume(partition(), from), waiting: VecDeque::new() }
    }

    /// True while there is something left to read.
    fn read_one(&mut self, log: &Log) -> bool {
        let position = self.fold.position();
        let Some((offset, bytes)) = log.messages.iter().find(|(offset, _)| *offset >= position) else { return false };
        self.fold.handle_message(*offset, time(*offset), bytes);
        true
    }

    /// Carries out a part of a round of writes: everything, the rows only, or nothing.
    fn write(&mut self, tables: &mut Tables, part: u8) {
        while let Some(write) = self.fold.take_write() {
            self.waiting.push_back(write);
        }
        if part > 0 {
            self.waiting.iter().for_each(|write| tables.write_rows(write));
        }
        if part > 1 {
            self.waiting.drain(..).for_each(|write| tables.write_manifest(&write));
        }
    }
}

fn counted(tables: &Tables) -> BTreeMap<String, u64> {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for ((_, _, key, _), (_, figures)) in &tables.series {
        *counted.entry(key.endpoint.to_string()).or_default() += figures.count;
    }
    counted
}

fn figures_by_series(tables: &Tables) -> BTreeMap<(Arc<str>, Arc<str>, u32), Vec<Figures>> {
    let mut by_series: BTreeMap<_, Vec<Figures>> = BTreeMap::new();
    for ((_, _, key, window), (_, figures)) in &tables.series {
        by_series.entry((key.k8s_pod_name.clone(), key.endpoint.clone(), *window)).or_default().push(figures.clone());
    }
    by_series
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever dies, is replayed or wakes up late: what is stored is the plain sum of what was sent.
    #[test]
    fn the_fold_is_the_plain_sum(log in log(), schedule in prop::collection::vec((0usize..2, 0u8..8), 0..300)) {
        let mut tables = Tables::default();
        let mut owners = [Owner::start(&tables), Owner::start(&tables)];
        for (owner, step) in schedule {
            match step {
                0..=3 => { owners[owner].read_one(&log); }
                4 => owners[owner].write(&mut tables, 2),
                5 => owners[owner].write(&mut tables, 1),
                // Killed: what it read and did not store is gone, another starts in its place.
                6 => owners[owner] = Owner::start(&tables),
                // Killed between rows and manifest.
                _ => { owners[owner].write(&mut tables, 1); owners[owner] = Owner::start(&tables); }
            }
        }
        let mut last = Owner::start(&tables);
        while last.read_one(&log) {}
        last.write(&mut tables, 2);
        // The other one, which slept through all of it, writes what it had.
        owners[0].write(&mut tables, 2);
        prop_assert_eq!(counted(&tables), log.sent.clone());
        prop_assert_eq!(tables.requests.len() as u64, log.sent.values().sum::<u64>());

        let mut undisturbed = Tables::default();
        let mut only = Owner::start(&undisturbed);
        while only.read_one(&log) {}
        only.write(&mut undisturbed, 2);
        prop_assert_eq!(figures_by_series(&tables), figures_by_series(&undisturbed));
    }
}
