//! Changes a text where it has to be changed and nowhere else.
//!
//! Guarantee: the text that comes out has the values that the operations give, and what an addition put in, a removal takes out to the
//! byte; or it is said that it cannot be done in place. One misuse: taking the paths of several operations for relative to each other; they
//! are relative to the text before all of them.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::super::patch::{Nulls, Operation, apply, unescape};
use super::{BYTE_ORDER_MARK, Content, Document, Node, parse};

/// Ways to write that there is no value.
const NO_VALUE: [&str; 5] = ["", "~", "null", "Null", "NULL"];

/// Operations below a node of a document.
pub struct Change {
    /// The document among those of [`parse`].
    pub document: usize,
    /// JSON pointer to what the operations' paths are relative to.
    pub base: String,
    /// What to do.
    pub operations: Vec<Operation>,
    /// How what gets no value is written, by its path.
    pub nulls: Nulls,
}

/// Bytes to take out and what to put there.
#[derive(Debug)]
struct Edit {
    start: usize,
    end: usize,
    text: String,
}

/// Changes a text; returns it with a word for each change whether it could be made (a text that shares nodes by aliases cannot be changed
/// in one place).
pub fn edit(text: &str, documents: &[Document], changes: &[Change]) -> (String, Vec<bool>) {
    let mut made: Vec<bool> = vec![true; changes.len()];
    loop {
        let mut edits = Vec::new();
        for (change, made) in changes.iter().zip(&mut made) {
            if *made {
                let node = documents.get(change.document).and_then(|document| document.root.at(&change.base));
                let found = node.and_then(|node| edits_of(text, node, change));
                match found {
                    Some(found) => edits.extend(found),
                    None => *made = false,
                }
            }
        }
        let edited = carry_out(text, edits);
        let after: Option<Vec<Value>> = parse(&edited).ok().map(|documents| documents.iter().map(Document::value).collect());
        let wrong = changes.iter().zip(&made).position(|(change, made)| {
            *made && after.as_ref().and_then(|after| after.get(change.document)) != expected(documents, changes, change.document).as_ref()
        });
        match wrong {
            None => return (edited, made),
            Some(wrong) => {
                // All changes of that document: which of them it was cannot be told.
                let document = changes[wrong].document;
                changes.iter().zip(&mut made).filter(|(change, _)| change.document == document).for_each(|(_, made)| *made = false);
            }
        }
    }
}

fn expected(documents: &[Document], changes: &[Change], document: usize) -> Option<Value> {
    let mut value = documents.get(document)?.value();
    for change in changes.iter().filter(|change| change.document == document) {
        if !apply(value.pointer_mut(&change.base)?, &change.operations) {
            return None;
        }
    }
    Some(value)
}

fn carry_out(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.start);
    let mut out = String::with_capacity(text.len() + 4096);
    let mut at = 0;
    for edit in edits {
        if edit.start > at {
            out.push_str(&text[at..edit.start]);
        }
        out.push_str(&edit.text);
        at = at.max(edit.end);
    }
    out.push_str(&text[at..]);
    out
}

fn edits_of(text: &str, node: &Node, change: &Change) -> Option<Vec<Edit>> {
    let mut edits = Vec::new();
    let mut removed: Vec<(&str, Vec<usize>)> = Vec::new();
    let mut before = HashMap::new();
    for operation in &change.operations {
        let (Operation::Add { path, .. } | Operation::Remove { path }) = operation;
        let (parent, last) = path.rsplit_once('/')?;
        match operation {
            Operation::Add { value, .. } => {
                let before: &mut usize = before.entry(parent).or_default();
                let to = Place { parent: node.at(parent)?, last: &unescape(last), before: *before };
                let null = change.nulls.get(path).map_or("null", String::as_str);
                edits.push(addition(text, &to, value, null)?);
                *before += 1;
            }
            Operation::Remove { .. } => {
                let index = node.at(parent)?.position(&unescape(last))?;
                match removed.iter_mut().find(|(other, _)| *other == parent) {
                    Some((_, indexes)) => indexes.push(index),
                    None => removed.push((parent, vec![index])),
                }
            }
        }
    }
    for (parent, mut indexes) in removed {
        indexes.sort_unstable();
        edits.extend(removals(text, node.at(parent)?, &indexes)?);
    }
    Some(edits)
}

impl Node {
    fn position(&self, last: &str) -> Option<usize> {
        match &self.content {
            Content::Mapping { entries, .. } => entries.iter().position(|(key, _)| key.scalar() == Some(last)),
            Content::Sequence { items, .. } => last.parse().ok().filter(|index| *index < items.len()),
            _ => None,
        }
    }

    /// Bytes of each child, with a block sequence's dash.
    fn children(&self, text: &str) -> Option<Vec<(usize, usize)>> {
        match &self.content {
            Content::Mapping { entries, .. } => Some(entries.iter().map(|(key, value)| (key.start, value.end.max(key.end))).collect()),
            Content::Sequence { flow: true, items } => Some(items.iter().map(|item| (item.start, item.end)).collect()),
            Content::Sequence { flow: false, items } => {
                let mut from = self.start;
                let mut children = Vec::with_capacity(items.len());
                for item in items {
                    children.push((dash_before(text, from, item.start)?, item.end));
                    from = item.end;
                }
                Some(children)
            }
            _ => None,
        }
    }

    fn is_flow(&self) -> bool {
        matches!(&self.content, Content::Mapping { flow: true, .. } | Content::Sequence { flow: true, .. })
    }
}

/// The dash of a block sequence's item; comments, an anchor or a tag may stand between.
fn dash_before(text: &str, from: usize, item: usize) -> Option<usize> {
    let mut before = text[..item].trim_end();
    while let Some((token, _)) = before.rsplit_once(char::is_whitespace).filter(|(_, last)| last.starts_with(['&', '!'])) {
        before = token.trim_end();
    }
    if before.ends_with('-') {
        return Some(before.len() - 1);
    }
    let mut rest = text.get(from..item)?;
    loop {
        rest = rest.trim_start();
        if rest.starts_with('#') {
            rest = &rest[rest.find('\n')?..];
        } else {
            let is_dash = rest.starts_with('-') && rest[1..].starts_with(char::is_whitespace);
            return is_dash.then(|| item - rest.len());
        }
    }
}

/// How far a byte is from its line's beginning, in characters.
fn column(text: &str, at: usize) -> usize {
    text[line_start(text, at)..at].trim_start_matches(BYTE_ORDER_MARK).chars().count()
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// How the lines there end.
fn line_end(text: &str, at: usize) -> &'static str {
    let newline = text[at..].find('\n').map(|found| at + found).or_else(|| text[..at].rfind('\n'));
    if newline.is_some_and(|newline| text[..newline].ends_with('\r')) { "\r\n" } else { "\n" }
}

/// Where something is added: a member of that name, or in front of what so many were added to.
struct Place<'a> {
    parent: &'a Node,
    last: &'a str,
    before: usize,
}

fn addition(text: &str, to: &Place<'_>, value: &Value, null: &str) -> Option<Edit> {
    let Place { parent, last, before } = to;
    if let Content::Mapping { entries, .. } = &parent.content
        && let Some((key, there)) = entries.iter().find(|(key, _)| key.scalar() == Some(last))
    {
        return replacement(text, key, there, value, null);
    }
    let children = parent.children(text)?;
    let is_mapping = matches!(parent.content, Content::Mapping { .. });
    if !is_mapping && last.parse() != Ok(*before) {
        return None;
    }
    if parent.is_flow() {
        // Before the first one, so that what is between the bracket and it stays between the bracket and the new one.
        let at = children.first().map_or(parent.start + 1, |(first, _)| *first);
        let mut new = if is_mapping { format!("{}: {value}", Value::from(*last)) } else { value.to_string() };
        if !children.is_empty() {
            new.push_str(", ");
        } else if *before > 0 {
            new.insert_str(0, ", ");
        }
        return Some(Edit { start: at, end: at, text: new });
    }
    let (first, _) = *children.first()?;
    let indent = column(text, first);
    let mut new = String::new();
    if is_mapping {
        new.push_str(&plain_or_quoted(last));
        new.push(':');
        write_value(&mut new, value, indent, true);
    } else {
        new.push('-');
        write_value(&mut new, value, indent, false);
    }
    new.push('\n');
    new.push_str(&" ".repeat(indent));
    // Texts have their own line ends escaped.
    Some(Edit { start: first, end: first, text: new.replace('\n', line_end(text, first)) })
}

/// For a key that is there: with no value, with another, or with one that it gets no more.
fn replacement(text: &str, key: &Node, there: &Node, value: &Value, null: &str) -> Option<Edit> {
    let colon = key.end + text[key.end..].find(':').filter(|at| text[key.end..key.end + at].trim().is_empty())? + 1;
    let end = there.start + text.get(there.start..there.end)?.trim_end().len();
    let is_empty = there.start == end;
    // An anchor or a tag would be the new value's, an alias is elsewhere too.
    let before = if is_empty { text[colon..].trim_start() } else { text.get(colon..end)?.trim_start() };
    if there.anchor != 0 || before.starts_with(['&', '*', '!']) {
        return None;
    }
    match (value, NO_VALUE.iter().find(|known| **known == null).copied().unwrap_or("null")) {
        (Value::Null, "") => Some(Edit { start: colon, end, text: String::new() }),
        (Value::Null, null) => Some(Edit { start: there.start, end, text: null.to_owned() }),
        (value, _) if is_empty => Some(Edit { start: colon, end: colon, text: format!(" {value}") }),
        (value, _) => Some(Edit { start: there.start, end, text: value.to_string() }),
    }
}

/// Takes runs of children out.
fn removals(text: &str, parent: &Node, indexes: &[usize]) -> Option<Vec<Edit>> {
    let children = parent.children(text)?;
    let mut edits = Vec::new();
    let mut rest = indexes;
    while let Some((&first, _)) = rest.split_first() {
        let length = rest.iter().enumerate().take_while(|(step, index)| **index == first + step).count();
        let after = first + length;
        let (start, end) = match (children.get(after), first.checked_sub(1)) {
            (Some((next, _)), _) => (children.get(first)?.0, *next),
            (None, Some(before)) if parent.is_flow() => (children.get(before)?.1, children.get(after - 1)?.1),
            (None, Some(_)) => {
                let content = text[..children.get(after - 1)?.1].trim_end().len();
                let end = text[content..].find('\n').map_or(text.len(), |newline| content + newline + 1);
                (line_start(text, children.get(first)?.0), end)
            }
            (None, None) if parent.is_flow() => (children.get(first)?.0, children.get(after - 1)?.1),
            (None, None) => return None,
        };
        edits.push(Edit { start, end, text: String::new() });
        rest = &rest[length..];
    }
    Some(edits)
}

/// Writes a value behind a key or a dash that stands at a column.
pub(super) fn write_value(out: &mut String, value: &Value, indent: usize, newline: bool) {
    let pad = |out: &mut String, first: bool| {
        // Behind a dash the first line goes on, behind a key there is a new one.
        if first && !newline {
            out.push(' ');
        } else {
            out.push('\n');
            out.push_str(&" ".repeat(indent + 2));
        }
    };
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (number, (key, value)) in in_order(members).enumerate() {
                pad(out, number == 0);
                out.push_str(&plain_or_quoted(key));
                out.push(':');
                write_value(out, value, indent + 2, true);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (number, item) in items.iter().enumerate() {
                pad(out, number == 0);
                out.push('-');
                write_value(out, item, indent + 2, false);
            }
        }
        Value::String(text) => {
            out.push(' ');
            out.push_str(&plain_or_quoted(text));
        }
        other => {
            out.push(' ');
            out.push_str(&other.to_string());
        }
    }
}

/// Members as people write them: the name first.
fn in_order(members: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let leading = ["name", "image"];
    let first = leading.into_iter().filter_map(|key| members.get_key_value(key));
    first.chain(members.iter().filter(move |(key, _)| !leading.contains(&key.as_str())))
}

/// A text without quotes only where no reader, old or new, takes it for something else.
pub(super) fn plain_or_quoted(text: &str) -> String {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let harmless = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let word = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"].contains(&text.to_ascii_lowercase().as_str());
    if begins && harmless && !word { text.to_owned() } else { Value::from(text).to_string() }
}
