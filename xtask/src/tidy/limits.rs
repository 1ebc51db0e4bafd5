//! Limits of size and of names (STYLE.md, "Layout" and "Words").

use super::Finding;
use super::source::Source;

pub const FILE_LINES: usize = 600;
pub const FUNCTION_LINES: usize = 100;
pub const COLUMNS: usize = 140;
/// What a function that is one long table says instead of being short, with its reason.
const TABLE: &str = "tidy: table,";
const NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "core", "manager", "handler", "misc"];

pub fn file_length(source: &Source, found: &mut Vec<Finding>) {
    let lines = source.shipped_lines();
    if lines > FILE_LINES {
        let what = format!("{lines} lines without its tests, at most {FILE_LINES}: split it by what it is about");
        found.push(Finding::new(&source.path, 1, "file-length", what));
    }
}

pub fn function_length(source: &Source, found: &mut Vec<Finding>) {
    for function in source.functions() {
        let lines = function.last - function.first + 1;
        // The comment stands in the function, or right above it.
        let near = |line: usize| line + 3 >= function.first && line <= function.last;
        let excused = source.scan.comments.iter().any(|(line, text)| near(*line) && says_why(text));
        if lines > FUNCTION_LINES && !excused && !source.is_test(function.first) {
            let what = format!("`{}` has {lines} lines, at most {FUNCTION_LINES} (a table may say `{TABLE} REASON`)", function.name);
            found.push(Finding::new(&source.path, function.first, "function-length", what));
        }
    }
}

fn says_why(comment: &str) -> bool {
    comment.split_once(TABLE).is_some_and(|(_, reason)| reason.trim().len() >= 10)
}

pub fn line_length(path: &str, text: &str, found: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS {
            found.push(Finding::new(path, index + 1, "line-length", format!("{columns} columns, at most {COLUMNS}")));
        }
    }
}

/// Files and folders.
pub fn file_names(path: &str, found: &mut Vec<Finding>) {
    for part in path.split('/') {
        let stem = part.split('.').next().unwrap_or(part);
        if NAMES.contains(&stem) {
            found.push(Finding::new(path, 1, "name", format!("`{stem}` says nothing: name it after what it is about")));
        }
    }
}

/// Modules written inside a file.
pub fn module_names(source: &Source, found: &mut Vec<Finding>) {
    for (line, code) in source.code() {
        let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
        if words.any(|w| w == "mod") && words.next().is_some_and(|name| NAMES.contains(&name)) {
            found.push(Finding::new(&source.path, line, "name", "a module whose name says nothing".to_owned()));
        }
    }
}
