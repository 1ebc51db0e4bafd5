//! `cargo xtask tidy`: limits of style and invariants of the architecture that a tool can check.
//!
//! Guarantee: fails with file, line and rule when one is broken; each rule is shown to fail and to pass by a test. The
//! compiler and clippy check the rest. A rule belongs here only if it can be decided from the text of the clone.

mod documents;
mod invariants;
mod lexer;
mod limits;
mod source;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run::{self, Doing, Failure, Result, say};
use source::Source;

/// A broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, rule: &'static str, what: String) -> Self {
        Finding { path: path.to_owned(), line, rule, what }
    }
}

type SourceRule = fn(&Source, &mut Vec<Finding>);

/// What holds for each Rust file by itself.
const SOURCE_RULES: &[SourceRule] = &[
    limits::file_length,
    limits::function_length,
    limits::module_names,
    invariants::purity,
    invariants::no_panics,
    invariants::no_ignored_tests,
    invariants::kafka_stays_in_its_files,
    invariants::json_stays_at_the_edge,
    invariants::sql_stays_in_store,
    invariants::five_traits,
    documents::header,
];

/// Lines of these have a limit; Markdown wraps where it is shown, scripts and schemas have rows that read better whole.
const LIMITED_LINES: &[&str] = &["rs", "proto"];
const PROTOCOL_TABLE: &str = "sidecar/src/protocol/mod.rs";

/// Checks the clone and prints what is broken.
pub fn check(root: &Path) -> Result<()> {
    let files = files(root)?;
    let mut found = Vec::new();
    let mut read = 0_usize;
    for path in &files {
        limits::file_names(path, &mut found);
        let bytes = fs::read(root.join(path)).doing(format_args!("reading {path}"))?;
        // Captures and golden bytes are not text.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        read += 1;
        check_text(path, text, &|p| root.join(p).exists(), &mut found);
    }
    check_protocols(root, &files, &mut found);
    found.sort();
    for f in &found {
        println!("{}:{}: {}: {}", f.path, f.line, f.rule, f.what);
    }
    if !found.is_empty() {
        return Err(Failure(format!("tidy: {} finding(s) in {read} files", found.len())));
    }
    say(format_args!("==> tidy: {read} files, nothing to say"));
    Ok(())
}

fn check_text(path: &str, text: String, exists: &dyn Fn(&Path) -> bool, found: &mut Vec<Finding>) {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    documents::machine_paths(path, &text, found);
    if LIMITED_LINES.contains(&extension) {
        limits::line_length(path, &text, found);
    }
    match extension {
        "rs" => {
            let source = Source::new(path, text);
            SOURCE_RULES.iter().for_each(|rule| rule(&source, found));
        }
        "md" => documents::links(path, &text, exists, found),
        _ => {}
    }
}

fn check_protocols(root: &Path, files: &[String], found: &mut Vec<Finding>) {
    // A file that is not there has no rows, which is a finding.
    let text = fs::read_to_string(root.join(PROTOCOL_TABLE)).unwrap_or_default();
    let docs = fs::read_to_string(root.join("docs/protocols.md")).unwrap_or_default();
    let captures: Vec<String> = files.iter().filter(|p| p.starts_with("tests/captures/")).cloned().collect();
    documents::protocols(&Source::new(PROTOCOL_TABLE, text), &captures, &docs, found);
}

/// What git knows or would add: build output and other ignored files are nobody's style.
fn files(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = run::capture(&mut git)?;
    let mut files: Vec<String> = listed.split('\0').filter(|p| root.join(p).is_file()).map(str::to_owned).collect();
    files.sort();
    files.dedup();
    Ok(files)
}
