//! Golden records: every capture below `tests/captures` gives the lines beside it, as `print --json --unmask` writes them.
//!
//! `UPDATE_GOLDEN=1` writes them anew; look at the difference before you commit it.

// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use podtap_sidecar::capture::{SourceState, pcap_file};
use podtap_sidecar::pipeline::{Figure, Pipeline, PipelineConfig};
use podtap_sidecar::print::json::JsonLines;
use podtap_wire::SourceKind;

fn run(path: &Path, unmask: bool) -> (String, Vec<Figure>) {
    let mut pipeline = Pipeline::new(PipelineConfig { source: SourceKind::File, unmask, ..PipelineConfig::default() });
    let mut source = pcap_file::open(path.to_str().unwrap(), None).unwrap();
    let mut json = JsonLines::default();
    let mut text = String::new();
    let mut drain = |pipeline: &mut Pipeline| {
        while let Some(record) = pipeline.next_record() {
            text.push_str(std::str::from_utf8(json.line(&record)).unwrap().trim_end());
            text.push('\n');
        }
    };
    let mut state = SourceState::Open;
    while state == SourceState::Open {
        state = source
            .poll(Duration::ZERO, &mut |packet| {
                pipeline.handle_packet(&packet);
                drain(&mut pipeline);
            })
            .unwrap();
    }
    pipeline.finish();
    drain(&mut pipeline);
    (text, pipeline.account())
}

fn captures(folder: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths.extend(captures(&path));
        } else if path.extension().is_some_and(|extension| extension == "pcap") {
            paths.push(path);
        }
    }
    paths.sort();
    paths
}

fn all() -> Vec<PathBuf> {
    let paths = captures(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures"));
    assert!(paths.len() > 10, "{paths:?}");
    paths
}

#[test]
fn captures_give_their_golden_records() {
    for path in all() {
        let golden = path.with_extension("jsonl");
        let (found, _) = run(&path, true);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_else(|error| panic!("{}: {error}", golden.display()));
        for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
            assert_eq!(found, expected, "{} line {}", golden.display(), number + 1);
        }
        assert_eq!(found.lines().count(), expected.lines().count(), "{}", golden.display());
    }
}

#[test]
fn what_is_masked_does_not_show() {
    for path in all() {
        let (text, _) = run(&path, false);
        assert!(!text.contains("secret"), "{}", path.display());
        assert!(!text.contains("db_query_parameters"), "{}", path.display());
    }
}

#[test]
fn no_byte_is_lost_without_a_count() {
    for path in all() {
        let (_, figures) = run(&path, false);
        let figure = |name: &str| figures.iter().filter(|figure| figure.name == name).map(|figure| figure.value).sum::<u64>();
        let handed_out = figure("podtap_tcp_delivered_bytes_total");
        let copies = figure("podtap_tcp_duplicate_bytes_total") + figure("podtap_tcp_after_close_bytes_total");
        assert_eq!(handed_out + copies, figure("podtap_tcp_payload_bytes_total"), "{}", path.display());
    }
}
