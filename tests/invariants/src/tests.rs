//! The corpus and the captures, replayed. `UPDATE_GOLDEN=1` writes what the captures give into the corpus; `cargo xtask fuzz --keep`
//! minimises it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podtap_sidecar::capture::{LinkType, SourceState, pcap_file as source};
use podtap_sidecar::packet;
use podtap_sidecar::pipeline::{Pipeline, PipelineConfig};
use podtap_wire::BatchBuilder;
use podtap_wire::proto::Resource;

use super::TARGETS;

/// All of the corpus, in the repository for ever.
const MAX_CORPUS_BYTES: u64 = 1 << 20;
/// Longest seed: a fuzzer works best on short ones.
const MAX_SEED_BYTES: usize = 4 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// What once broke an invariant; `--keep` leaves it alone.
fn regressions(target: &str) -> Vec<PathBuf> {
    let folder = root().join("fuzz/regressions").join(target);
    if folder.exists() { files(&folder) } else { Vec::new() }
}

#[test]
fn the_corpus_breaks_no_invariant() {
    let mut total = 0;
    for target in TARGETS {
        let inputs = files(&root().join("fuzz/corpus").join(target.name));
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for path in inputs.into_iter().chain(regressions(target.name)) {
            let input = std::fs::read(&path).unwrap();
            total += input.len() as u64;
            let held = std::panic::catch_unwind(|| (target.check)(&input));
            assert!(held.is_ok(), "{}", path.display());
        }
    }
    assert!(total <= MAX_CORPUS_BYTES, "{total} bytes");
}

#[test]
fn every_target_has_its_program() {
    let programs: Vec<String> =
        files(&root().join("fuzz/fuzz_targets")).iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    let mut names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    names.sort_unstable();
    assert_eq!(programs, names);
}

#[test]
fn captures_break_no_invariant() {
    let seeds = seeds();
    for target in TARGETS {
        let inputs = &seeds[target.name];
        assert!(!inputs.is_empty(), "{}", target.name);
        let mut kept = 0;
        for (name, input) in inputs {
            let held = std::panic::catch_unwind(|| (target.check)(input));
            assert!(held.is_ok(), "{} {name}", target.name);
            kept += usize::from(held.is_ok_and(|kept| kept));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                let folder = root().join("fuzz/corpus").join(target.name);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(name), input).unwrap();
            }
        }
        assert!(kept > 0, "no seed is about {}", target.name);
    }
}

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// An input with a few bytes or ranges changed, left out, repeated, or taken from another.
fn mutated(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = inputs[random.below(inputs.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len());
        let length = random.below(32.min(input.len() - at + 1));
        match random.below(7) {
            0 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
            1 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            2 => drop(input.drain(at..at + length)),
            3 => drop(input.splice(at..at, (0..random.below(8)).map(|_| random.next() as u8).collect::<Vec<_>>())),
            4 => drop(input.splice(at..at, input[at..at + length].to_vec())),
            5 => input.truncate(at + length),
            _ => {
                let other = &inputs[random.below(inputs.len())];
                let from = random.below(other.len());
                let to = other.len().min(from + random.below(64));
                drop(input.splice(at..at, other[from..to].iter().copied()));
            }
        }
    }
    input
}

/// What a fuzzer without eyes finds: `PODTAP_TEST_SEED` and `PODTAP_TEST_CASES` try other and more; a failure writes the input into
/// the folder for temporary files and says the seed.
#[test]
fn changed_inputs_break_no_invariant() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, cases) = (setting("PODTAP_TEST_SEED").unwrap_or(3), setting("PODTAP_TEST_CASES").unwrap_or(400));
    let mut seeds = seeds();
    for target in TARGETS {
        let committed = files(&root().join("fuzz/corpus").join(target.name)).into_iter().chain(regressions(target.name));
        let committed = committed.map(|path| std::fs::read(path).unwrap());
        let own = seeds.remove(target.name).unwrap().into_iter().map(|(_, input)| input);
        let inputs: Vec<Vec<u8>> = committed.chain(own).collect();
        let mut random = Random(seed);
        for case in 0..cases {
            let input = mutated(&inputs, &mut random);
            let held = std::panic::catch_unwind(|| (target.check)(&input));
            if held.is_err() {
                let path = std::env::temp_dir().join(format!("podtap-{}-{seed}-{case}", target.name));
                std::fs::write(&path, &input).unwrap();
                panic!("{}, seed {seed}: {}", target.name, path.display());
            }
        }
    }
}

type Seeds = BTreeMap<&'static str, Vec<(String, Vec<u8>)>>;

/// What the captures give for each target, in the form that it reads.
fn seeds() -> Seeds {
    let mut seeds: Seeds = TARGETS.iter().map(|target| (target.name, Vec::new())).collect();
    let mut add = |target: &str, name: String, mut input: Vec<u8>| {
        input.truncate(MAX_SEED_BYTES);
        seeds.get_mut(target).unwrap().push((name, input));
    };
    for path in files(&root().join("tests/captures")).iter().filter(|path| path.extension().is_some_and(|extension| extension == "pcap")) {
        let folder = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let name = format!("{folder}-{}", path.file_stem().unwrap().to_string_lossy());
        let file = std::fs::read(path).unwrap();
        if file.len() < MAX_SEED_BYTES {
            add("pcap_file", name.clone(), [&[6], &file[..]].concat());
        }
        let captured = captured(path);
        for (index, (data, _)) in captured.iter().enumerate().take(4).skip(2) {
            add("packet", format!("{name}-{index}"), [&[0, 0, 60][..], data].concat());
        }
        let protocol = if folder == "http1" { "http1" } else { folder.as_str() };
        add(protocol, name.clone(), turns(&captured));
        let (statements, batch) = records(&captured);
        for (index, statement) in statements.into_iter().enumerate() {
            add("sql", format!("{name}-{index}"), statement);
        }
        if batch.len() < MAX_SEED_BYTES {
            add("wire", name, batch);
        }
    }
    for path in files(&root().join("wire/tests/golden")) {
        add("wire", path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap());
    }
    // Opened, in order, out of order, twice, with a hole, ended; then the same ports anew.
    let opening: &[u8] = &[0, 2, 0, 0, 0, 0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 1, 0];
    let late: &[u8] = &[0, 1, 0, 20, 0, 1, 10, 0, 1, 0, 1, 0, 1, 19, 8, 17, 0, 1, 0, 30, 200];
    let hole: &[u8] = &[96, 1, 0, 50, 0, 1, 10, 8, 1, 6, 65, 0, 60, 5];
    let end: &[u8] = &[0, 5, 0, 60, 0, 1, 0, 8, 5, 6, 70, 0, 61, 0];
    add("reassembly", "ordered".to_owned(), [opening, end].concat());
    add("reassembly", "late".to_owned(), [opening, late].concat());
    add("reassembly", "hole".to_owned(), [opening, late, hole, end].concat());
    add("reassembly", "again".to_owned(), [opening, hole, &[0, 66, 0, 0, 0, 0, 0, 0, 65, 0, 1, 0, 1, 9]].concat());
    seeds
}

/// Packets with their times.
fn captured(path: &Path) -> Vec<(Vec<u8>, u64)> {
    let mut file = source::open(path.to_str().unwrap(), None).unwrap();
    let mut packets = Vec::new();
    let mut state = SourceState::Open;
    while state == SourceState::Open {
        state = file.poll(Duration::ZERO, &mut |packet| packets.push((packet.data.to_vec(), packet.timestamp_ns))).unwrap();
    }
    packets
}

fn view(data: &[u8], timestamp_ns: u64) -> podtap_sidecar::capture::CapturedPacket<'_> {
    podtap_sidecar::capture::CapturedPacket {
        timestamp_ns,
        interface: 0,
        link_type: LinkType::Ethernet,
        data,
        original_length: data.len() as u32,
    }
}

/// The first connection as turns, long payloads shortened to what a head needs.
fn turns(captured: &[(Vec<u8>, u64)]) -> Vec<u8> {
    let mut turns = vec![0];
    let mut client = None;
    for (data, time) in captured {
        let Ok(segment) = packet::parse(&view(data, *time)) else { continue };
        let first = *client.get_or_insert((segment.source, segment.destination));
        let by_client = (segment.source, segment.destination) == first;
        if !by_client && (segment.destination, segment.source) != first {
            continue;
        }
        let sender = u8::from(!by_client);
        if !segment.payload.is_empty() && turns.len() + segment.payload.len() < MAX_SEED_BYTES {
            turns.push(sender);
            turns.extend_from_slice(&(segment.payload.len() as u16).to_be_bytes());
            turns.extend_from_slice(segment.payload);
        }
        if segment.fin {
            turns.extend_from_slice(&[sender | 16, 0, 0]);
        }
    }
    turns
}

/// Different statements of a capture, and all its records as a batch.
fn records(captured: &[(Vec<u8>, u64)]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut pipeline = Pipeline::new(PipelineConfig { unmask: true, ..PipelineConfig::default() });
    let mut builder = BatchBuilder::new("pod".to_owned(), [7; 16], Resource::default());
    let mut statements: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut drain = |pipeline: &mut Pipeline| {
        while let Some(record) = pipeline.next_record() {
            builder.push(&record);
            if !record.db_query_text.is_empty() && record.db_query_text.len() < 400 {
                statements.insert(record.db_query_fingerprint.to_owned(), record.db_query_text.as_bytes().to_vec());
            }
        }
    };
    for (data, time) in captured {
        pipeline.handle_packet(&view(data, *time));
        drain(&mut pipeline);
    }
    pipeline.finish();
    drain(&mut pipeline);
    (statements.into_values().collect(), builder.finish(1, 2, Vec::new()).bytes)
}
