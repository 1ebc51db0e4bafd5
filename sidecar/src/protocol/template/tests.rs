use std::path::Path;

use podtap_wire::RequestRecord;

use super::super::script::{Outcome, Script, milliseconds, read};
use super::super::{Discard, Incident, PROTOCOLS};
use super::*;

fn show(record: &RequestRecord<'_>) -> String {
    let times = (milliseconds(record.time_to_first_byte_ns), milliseconds(record.time_to_last_byte_ns));
    format!("{} {} {}+{} {} {}", record.status, record.error_type, record.request_bytes, record.response_bytes, times.0, times.1)
}

#[track_caller]
fn check(script: Script, expect: &[&str]) -> Outcome {
    let outcome = read(&script.sent, false, show);
    assert_eq!(outcome.lines, expect);
    outcome
}

#[test]
fn lines_are_paired_in_order() {
    let script = Script::opened().client("ASK 1\nASK 22\n").server("OK one\n").server("ERR 42\n").client("ASK 3\n").server("OK three\n");
    check(script, &["ok  6+7 1 1", "server_error 42 7+7 2 2", "ok  6+9 1 1"]);
}

#[test]
fn pieces_are_put_together() {
    let script =
        Script::opened().client("AS").client("K 1").client("\nASK").client(" 2\n").server("O").server("K one\nOK ").server("two\n");
    check(script, &["ok  6+7 4 5", "ok  6+7 3 4"]);
}

#[test]
fn a_hole_costs_what_it_touches() {
    // The second answer is lost; the third request has received it, so its own begins right behind.
    let script = Script::opened().client("ASK 1\n").server("OK 1\n").client("ASK 2\n").server("OK 2\n").unseen();
    let outcome = check(script.client("ASK 3\n").wait(20).server("OK 3\n"), &["ok  6+5 1 1", "ok  6+5 21 21"]);
    assert_eq!(outcome.incidents(Incident::AnswerLost), 1);
    // The second request is lost.
    let script = Script::opened().client("ASK 1\n").server("OK 1\n").client("ASK 2\n").unseen().server("OK 2\n").wait(20);
    let outcome = check(script.client("ASK 3\n").server("OK 3\n"), &["ok  6+5 1 1", "ok  6+5 1 1"]);
    assert_eq!(outcome.discarded(Discard::Unpaired) + outcome.discarded(Discard::Resync), 5);
}

#[test]
fn joined_in_the_middle() {
    check(Script::joined().client("ASK 1\n").server("OK 1\n"), &["ok  6+5 1 1"]);
    check(Script::joined().server("OK 0\n").client("ASK 1\n").server("OK 1\n"), &["ok  6+5 1 1"]);
}

#[test]
fn what_is_no_line_of_ours_is_counted() {
    let script = Script::opened().client("ASK 1\n").server("OK 1\n").client("TELL 2\n").client(vec![b'x'; 3000]);
    let outcome = check(script, &["ok  6+5 1 1"]);
    assert_eq!((outcome.discarded(Discard::Malformed), outcome.discarded(Discard::TooLarge)), (7, 3000));
    check(Script::opened().client("ASK 1\n").reset(false), &["no_response connection_reset 6+0 ? ?"]);
}

/// A folder and a row: nothing else in the program names a protocol's folder.
#[test]
fn a_folder_and_a_row_are_all_it_takes() {
    assert_eq!(PROTOCOLS.iter().filter(|row| row.name == ROW.name).count(), 1);
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut naming = Vec::new();
    let mut folders = vec![here.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                None if !path.ends_with("protocol/template") => folders.push(path),
                Some(extension) if extension == "rs" => {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let name = path.strip_prefix(&here).unwrap().display().to_string();
                    naming.extend(
                        text.lines()
                            .filter(|line| line.contains("template::") || line.contains("mod template"))
                            .map(|line| format!("{name}: {}", line.trim())),
                    );
                }
                _ => {}
            }
        }
    }
    assert_eq!(naming, ["protocol/mod.rs: mod template;", "protocol/mod.rs: template::ROW,"]);
    let mut files: Vec<_> = std::fs::read_dir(here.join("protocol/template")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["decoder.rs", "frame.rs", "mod.rs", "tests.rs"]);
}
