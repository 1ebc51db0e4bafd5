//! YAML (and JSON, which is a part of it) with the place of each node in its text, so that a text can be changed where it has to be and
//! nowhere else: order, comments and style of the rest stay byte for byte.
//!
//! Guarantee: [`edit`] gives a text whose values are those that the operations give, or says that it cannot. One misuse: values are for
//! looking; numbers beyond f64 and timestamps are texts or approximations here.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};
use serde_json::{Map, Value};

use super::patch::{Operation, apply, unescape};

/// Most nodes of a document when its aliases are written out.
const MOST_NODES: usize = 200_000;

/// Where a text is no YAML.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("document {document}, line {line}, column {column}: {problem}")]
pub struct ParseError {
    /// The document in its text, from 1.
    pub document: usize,
    /// Line in the text, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub problem: String,
}

/// A node and the bytes that it takes.
#[derive(Debug)]
pub struct Node {
    content: Content,
    start: usize,
    end: usize,
    anchor: usize,
}

#[derive(Debug)]
enum Content {
    Scalar { text: String, plain: bool, tag: Option<String> },
    Sequence { flow: bool, items: Vec<Node> },
    Mapping { flow: bool, entries: Vec<(Node, Node)> },
    Alias(usize),
}

/// The nodes of a text's documents; those without content are left out.
pub fn parse(text: &str) -> Result<Vec<Node>, ParseError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), document: 0, anchors: HashMap::new() };
    let mut documents = Vec::new();
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(..) => reader.document += 1,
            Event::StreamStart | Event::DocumentEnd => {}
            event => {
                let root = reader.node(event, span)?;
                if !root.value().is_null() {
                    documents.push(root);
                }
            }
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    document: usize,
    /// Nodes that an anchor's node has, aliases written out.
    anchors: HashMap<usize, usize>,
}

impl<'t> Reader<'t> {
    fn error(&self, span: &Span, problem: impl Into<String>) -> ParseError {
        ParseError { document: self.document.max(1), line: span.start.line(), column: span.start.col() + 1, problem: problem.into() }
    }

    /// The next event that is no comment.
    fn next(&mut self) -> Result<(Event<'t>, Span), ParseError> {
        loop {
            match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => {
                    let at = error.marker();
                    let (line, column) = (at.line(), at.col() + 1);
                    return Err(ParseError { document: self.document.max(1), line, column, problem: error.info() });
                }
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, ParseError> {
        let mut size = 0;
        self.sized_node(event, span, &mut size)
    }

    fn sized_node(&mut self, event: Event<'t>, span: Span, size: &mut usize) -> Result<Node, ParseError> {
        let range = span.byte_range().unwrap_or_default();
        let anchor = event.anchor_id().unwrap_or_default();
        let before = *size;
        *size += 1;
        let mut end = range.end;
        let content = match event {
            Event::Scalar(text, style, _, tag) => Content::Scalar {
                text: text.into_owned(),
                plain: style == ScalarStyle::Plain,
                tag: tag.and_then(|tag| tag.core_suffix().map(str::to_owned)),
            },
            Event::SequenceStart(style, ..) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        end = span.byte_range().unwrap_or_default().end;
                        break;
                    }
                    items.push(self.sized_node(event, span, size)?);
                }
                Content::Sequence { flow: style == StructureStyle::Flow, items }
            }
            Event::MappingStart(style, ..) => {
                let mut entries: Vec<(Node, Node)> = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if matches!(event, Event::MappingEnd) {
                        end = span.byte_range().unwrap_or_default().end;
                        break;
                    }
                    let key = self.sized_node(event, span, size)?;
                    if let Some(name) = key.scalar()
                        && entries.iter().any(|(other, _)| other.scalar() == Some(name))
                    {
                        return Err(self.error(&span, format!("the key {name:?} is there twice")));
                    }
                    let (event, span) = self.next()?;
                    entries.push((key, self.sized_node(event, span, size)?));
                }
                Content::Mapping { flow: style == StructureStyle::Flow, entries }
            }
            Event::Alias(id) => {
                *size += self.anchors.get(&id).copied().unwrap_or_default();
                Content::Alias(id)
            }
            other => return Err(self.error(&span, format!("unexpected {other:?}"))),
        };
        if *size > MOST_NODES {
            return Err(self.error(&span, format!("the document has more than {MOST_NODES} nodes, aliases written out")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, *size - before);
        }
        Ok(Node { content, start: range.start, end, anchor })
    }
}

impl Node {
    fn scalar(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The node at a JSON pointer.
    fn at(&self, pointer: &str) -> Option<&Self> {
        let Some(rest) = pointer.strip_prefix('/') else { return Some(self) };
        let (part, rest) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let part = unescape(part);
        let child = match &self.content {
            Content::Mapping { entries, .. } => entries.iter().find(|(key, _)| key.scalar() == Some(&part)).map(|(_, value)| value),
            Content::Sequence { items, .. } => items.get(part.parse::<usize>().ok()?),
            _ => None,
        };
        child?.at(rest)
    }

    /// The value of a document's root, aliases written out.
    pub fn value(&self) -> Value {
        self.value_with(&mut HashMap::new())
    }

    fn value_with(&self, anchors: &mut HashMap<usize, Value>) -> Value {
        let value = match &self.content {
            Content::Scalar { text, plain, tag } => scalar_value(text, *plain, tag.as_deref()),
            Content::Sequence { items, .. } => Value::Array(items.iter().map(|item| item.value_with(anchors)).collect()),
            Content::Mapping { entries, .. } => {
                let mut members = Map::new();
                for (key, value) in entries {
                    let name = key.scalar().map_or_else(|| key.value_with(anchors).to_string(), str::to_owned);
                    members.insert(name, value.value_with(anchors));
                }
                Value::Object(members)
            }
            Content::Alias(id) => anchors.get(id).cloned().unwrap_or(Value::Null),
        };
        if self.anchor != 0 {
            anchors.insert(self.anchor, value.clone());
        }
        value
    }

    /// Whether there is a merge key (`<<`) in it, whose members the value does not show.
    pub fn has_merge_key(&self) -> bool {
        match &self.content {
            Content::Mapping { entries, .. } => entries.iter().any(|(key, value)| key.scalar() == Some("<<") || value.has_merge_key()),
            Content::Sequence { items, .. } => items.iter().any(Self::has_merge_key),
            _ => false,
        }
    }
}

/// By YAML 1.2's core schema.
fn scalar_value(text: &str, plain: bool, tag: Option<&str>) -> Value {
    if !plain || tag == Some("str") {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::from(number);
    }
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) && text.bytes().any(|b| b.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(number) if numeric && number.is_finite() => Value::from(number),
        _ => Value::String(text.to_owned()),
    }
}

/// Operations below a node of a document.
pub struct Change {
    /// The document among those of [`parse`].
    pub document: usize,
    /// JSON pointer to what the operations' paths are relative to.
    pub base: String,
    /// What to do.
    pub operations: Vec<Operation>,
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
pub fn edit(text: &str, documents: &[Node], changes: &[Change]) -> (String, Vec<bool>) {
    let mut made: Vec<bool> = vec![true; changes.len()];
    loop {
        let mut edits = Vec::new();
        for (change, made) in changes.iter().zip(&mut made) {
            if *made {
                let found =
                    documents.get(change.document).and_then(|root| root.at(&change.base)).and_then(|node| edits_of(text, node, change));
                match found {
                    Some(found) => edits.extend(found),
                    None => *made = false,
                }
            }
        }
        let edited = carry_out(text, edits);
        let after: Option<Vec<Value>> = parse(&edited).ok().map(|documents| documents.iter().map(Node::value).collect());
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

fn expected(documents: &[Node], changes: &[Change], document: usize) -> Option<Value> {
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
                edits.push(addition(text, node.at(parent)?, &unescape(last), value, *before)?);
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
            Content::Sequence { flow: false, items } => items.iter().map(|item| Some((dash_before(text, item.start)?, item.end))).collect(),
            _ => None,
        }
    }

    fn is_flow(&self) -> bool {
        matches!(&self.content, Content::Mapping { flow: true, .. } | Content::Sequence { flow: true, .. })
    }
}

fn dash_before(text: &str, at: usize) -> Option<usize> {
    let before = text[..at].trim_end();
    before.ends_with('-').then(|| before.len() - 1)
}

/// How far a byte is from its line's beginning, in characters.
fn column(text: &str, at: usize) -> usize {
    text[line_start(text, at)..at].chars().count()
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Adds to the front of a parent that so many were added to.
fn addition(text: &str, parent: &Node, last: &str, value: &Value, before: usize) -> Option<Edit> {
    if let Content::Mapping { entries, .. } = &parent.content
        && let Some((key, there)) = entries.iter().find(|(key, _)| key.scalar() == Some(last))
    {
        return Some(replacement(text, key, there, value));
    }
    let children = parent.children(text)?;
    let is_mapping = matches!(parent.content, Content::Mapping { .. });
    if !is_mapping && last.parse() != Ok(before) {
        return None;
    }
    if parent.is_flow() {
        // Before the first one, so that what is between the bracket and it stays between the bracket and the new one.
        let at = children.first().map_or(parent.start + 1, |(first, _)| *first);
        let mut new = if is_mapping { format!("{}: {value}", Value::from(last)) } else { value.to_string() };
        if !children.is_empty() {
            new.push_str(", ");
        } else if before > 0 {
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
    Some(Edit { start: first, end: first, text: new })
}

/// For a key that is there, with nothing or with another value.
fn replacement(text: &str, key: &Node, there: &Node, value: &Value) -> Edit {
    if text[there.start.min(there.end)..there.end].trim().is_empty() {
        let colon = text[key.end..].find(':').map_or(key.end, |at| key.end + at + 1);
        return Edit { start: colon, end: colon, text: format!(" {value}") };
    }
    let end = there.start + text[there.start..there.end].trim_end().len();
    Edit { start: there.start, end, text: value.to_string() }
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
fn write_value(out: &mut String, value: &Value, indent: usize, newline: bool) {
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
fn plain_or_quoted(text: &str) -> String {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let harmless = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let word = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"].contains(&text.to_ascii_lowercase().as_str());
    if begins && harmless && !word { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests;
