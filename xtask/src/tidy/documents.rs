//! What is written beside the code: headers, links, protocols' papers, paths of one machine.

use std::path::{Component, Path, PathBuf};

use super::Finding;
use super::source::Source;

pub fn header(source: &Source, found: &mut Vec<Finding>) {
    // A module's tests beside it are under the module's own header.
    if source.path.ends_with("/tests.rs") || source.path.ends_with("_tests.rs") {
        return;
    }
    let first = source.text.lines().find(|l| !l.trim().is_empty() && !l.starts_with("#!"));
    if !first.is_some_and(|l| l.starts_with("//!") && l.trim().len() > 10) {
        let what = "the file begins without a header (`//! purpose, guarantee, the one misuse`)".to_owned();
        found.push(Finding::new(&source.path, 1, "header", what));
    }
}

/// Relative links of a Markdown file lead to something; `exists` is asked for paths relative to the root.
pub fn links(path: &str, text: &str, exists: &dyn Fn(&Path) -> bool, found: &mut Vec<Finding>) {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in link_targets(line) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            if file.starts_with('/') || !normal(&folder.join(file)).is_some_and(|p| exists(&p)) {
                found.push(Finding::new(path, index + 1, "link", format!("`{file}` is not there")));
            }
        }
    }
}

/// Targets of `[text](target)` on a line, outside of code spans.
fn link_targets(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    for (index, span) in line.split('`').enumerate() {
        // Odd pieces are code; a link's text may be code, so the bracket is looked for in what follows.
        if index % 2 == 1 {
            continue;
        }
        let mut rest = span;
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            targets.push(rest[..end].split_whitespace().next().unwrap_or_default());
            rest = &rest[end..];
        }
    }
    targets
}

/// Without `.` and `..`; `None` when it leaves the clone.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// Folders that exist on one person's machine only.
pub fn machine_paths(path: &str, text: &str, found: &mut Vec<Finding>) {
    // Put together here, so that this file does not break its own rule.
    let banned = ["home", "Users", "root", "work"].map(|folder| format!("/{folder}/"));
    for (index, line) in text.lines().enumerate() {
        for b in &banned {
            // At the beginning of a path only: `a/work/b` is somebody's relative path, `~/` is everybody's.
            let begins = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~/}".contains(c));
            if line.match_indices(b.as_str()).any(|(at, _)| begins(at)) {
                found.push(Finding::new(path, index + 1, "machine-path", format!("an absolute path below `{b}`")));
            }
        }
    }
}

/// Each row of PROTOCOLS has a golden capture and a section in docs/protocols.md.
pub fn protocols(table: &Source, captures: &[String], docs: &str, found: &mut Vec<Finding>) {
    let rows = protocol_rows(table);
    if rows.is_empty() {
        let what = "no rows found in PROTOCOLS: the table moved, or tidy cannot read it".to_owned();
        found.push(Finding::new(&table.path, 1, "protocol", what));
    }
    for (line, name) in rows {
        let plain = letters(&name);
        // Its own folder: another protocol's capture may have its name in a file's.
        let folder = |path: &str| path.trim_start_matches("tests/captures/").split_once('/').map(|(folder, _)| letters(folder));
        let about = |path: &&String| folder(path).is_some_and(|folder| folder.contains(&plain));
        let is_capture = |path: &&String| path.ends_with(".pcap") || path.ends_with(".pcapng");
        let golden = |capture: &String| {
            let stem = capture.rsplit_once('.').map_or(capture.as_str(), |(stem, _)| stem);
            captures.iter().any(|c| c.strip_prefix(stem) == Some(".jsonl"))
        };
        if !captures.iter().filter(about).filter(is_capture).any(golden) {
            let what = format!("protocol `{name}` has no capture with its expected records in tests/captures");
            found.push(Finding::new(&table.path, line, "protocol", what));
        }
        if !docs.lines().any(|l| l.starts_with('#') && letters(l).contains(&plain)) {
            let what = format!("protocol `{name}` has no section in docs/protocols.md");
            found.push(Finding::new(&table.path, line, "protocol", what));
        }
    }
}

/// `HTTP/1.1` and `http1` are about the same.
fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn protocol_rows(table: &Source) -> Vec<(usize, String)> {
    let lines: Vec<&str> = table.scan.code.lines().collect();
    let Some(first) = lines.iter().position(|l| l.contains("const PROTOCOLS")) else { return Vec::new() };
    let last = lines.iter().skip(first).position(|l| l.trim_end().ends_with("];")).map_or(first, |n| first + n);
    let inside = |line: usize| line > first && line <= last + 1;
    table.scan.strings.iter().filter(|(line, _)| inside(*line)).map(|(line, name)| (*line, name.clone())).collect()
}
