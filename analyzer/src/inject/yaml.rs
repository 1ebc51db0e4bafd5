//! YAML (and JSON, which is a part of it) with the place of each node in its text, so that a text can be changed where it has to be and
//! nowhere else: order, comments and style of the rest stay byte for byte.
//!
//! Guarantee: values are what kubectl reads, which takes `yes` and `on` for booleans as YAML 1.1 does. One misuse: they are for looking;
//! numbers beyond f64 and timestamps are texts or approximations here.

mod edit;

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

pub use self::edit::{Change, edit};
use super::patch::unescape;

/// Most nodes of a document when its aliases are written out.
const MOST_NODES: usize = 200_000;
/// May stand at a text's beginning, and takes no column.
pub const BYTE_ORDER_MARK: char = '\u{feff}';
/// What Helm's and other templates are told; the parser sees mappings in braces.
const TEMPLATE: &str = "{{ ... }} is a template, which has to be rendered first (helm template)";

/// Where a text is no YAML, or no manifest.
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

/// A document of a text.
#[derive(Debug)]
pub struct Document {
    /// Which of its text, from 1.
    pub number: usize,
    root: Node,
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

/// The documents of a text; those without content are left out. JSON values may follow each other, as kubectl takes them too.
pub fn parse(text: &str) -> Result<Vec<Document>, ParseError> {
    let mut documents = Vec::new();
    let mut number = 0;
    for (start, part) in parts(text) {
        let parser = Parser::new_from_str(part);
        let mut reader = Reader { parser, text, start, number, document_start: start, is_open: false, anchors: HashMap::new() };
        reader.read(&mut documents)?;
        number = reader.number;
    }
    Ok(documents)
}

/// A text that begins with several JSON values, cut between them; the rest is the last part. Any other text is one part.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut starts = vec![0];
    if !text.trim_start().starts_with('{') {
        return vec![(0, text)];
    }
    while let Some(Ok(_)) = values.next() {
        starts.push(values.byte_offset());
    }
    if starts.len() <= 2 {
        return vec![(0, text)];
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let parts = starts.iter().copied().zip(ends).map(|(start, end)| (start, &text[start..end]));
    parts.filter(|(_, part)| !part.trim().is_empty()).collect()
}

/// Whether a text is JSON values alone.
pub fn is_json(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    text.trim_start().starts_with('{') && values.all(|value| value.is_ok())
}

/// A text whose JSON values are documents of YAML, if there are several.
pub fn separated(text: &str) -> String {
    match parts(text).as_slice() {
        [_] | [] => text.to_owned(),
        parts => parts.iter().map(|(_, part)| format!("{}\n", part.trim())).collect::<Vec<_>>().join("---\n"),
    }
}

/// Line and column of a byte, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let breaks =
        before.bytes().enumerate().filter(|(at, byte)| *byte == b'\n' || *byte == b'\r' && text.as_bytes().get(at + 1) != Some(&b'\n'));
    let (mut line, mut start) = (1, 0);
    breaks.for_each(|(at, _)| (line, start) = (line + 1, at + 1));
    (line, before[start..].trim_start_matches(BYTE_ORDER_MARK).chars().count() + 1)
}

struct Reader<'t> {
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    /// The whole text, and where this part of it starts.
    text: &'t str,
    start: usize,
    /// Documents so far, where the last one starts, and whether it goes on.
    number: usize,
    document_start: usize,
    is_open: bool,
    /// Nodes that an anchor's node has, aliases written out.
    anchors: HashMap<usize, usize>,
}

impl<'t> Reader<'t> {
    fn read(&mut self, documents: &mut Vec<Document>) -> Result<(), ParseError> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(..) => {
                    self.number += 1;
                    self.is_open = true;
                    self.document_start = self.range(&span).start;
                }
                Event::StreamStart => {}
                Event::DocumentEnd => self.is_open = false,
                event => {
                    let root = self.node(event, span)?;
                    if !root.value().is_null() {
                        documents.push(Document { number: self.number, root });
                    }
                }
            }
        }
    }

    /// The bytes of a span in the whole text.
    fn range(&self, span: &Span) -> std::ops::Range<usize> {
        let range = span.byte_range().unwrap_or_default();
        self.start + range.start..self.start + range.end
    }

    fn error_at(&self, at: usize, problem: impl Into<String>) -> ParseError {
        let (line, column) = place(self.text, at);
        // The parser looks ahead: between two documents it is about the next.
        ParseError { document: self.number + usize::from(!self.is_open), line, column, problem: problem.into() }
    }

    fn error(&self, span: &Span, problem: impl Into<String>) -> ParseError {
        self.error_at(self.range(span).start, problem)
    }

    /// What the parser refuses; templates are mostly no YAML.
    fn refused(&self, at: usize, problem: String) -> ParseError {
        let error = self.error_at(at, problem);
        let (begin, _) = place(self.text, self.document_start);
        let is_template = |line: &str| line.trim_start().starts_with("{{") || [": {{", "- {{"].iter().any(|begin| line.contains(begin));
        let mut lines = self.text.lines().enumerate().take(error.line).skip(begin - 1);
        let Some((index, line)) = lines.find(|(_, line)| is_template(line)) else { return error };
        let column = line.find("{{").map_or(1, |at| line[..at].chars().count() + 1);
        let problem = format!("{TEMPLATE}; line {}, column {}: {}", error.line, error.column, error.problem);
        ParseError { line: index + 1, column, problem, ..error }
    }

    /// The next event that is no comment.
    fn next(&mut self) -> Result<(Event<'t>, Span), ParseError> {
        loop {
            match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => {
                    let at = error.marker().byte_offset().unwrap_or_default();
                    return Err(self.refused(self.start + at, error.info()));
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
        let range = self.range(&span);
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
                        end = self.range(&span).end;
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
                        end = self.range(&span).end;
                        break;
                    }
                    let key = self.sized_node(event, span, size)?;
                    if matches!(key.content, Content::Mapping { .. } | Content::Sequence { .. }) {
                        let template = self.text[..key.start].ends_with('{') && self.text[key.start..].starts_with('{');
                        let problem = if template { TEMPLATE } else { "a key is not a mapping or a list to Kubernetes" };
                        return Err(self.error_at(key.start - usize::from(template), problem));
                    }
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

impl Document {
    /// Its value, aliases written out.
    pub fn value(&self) -> Value {
        self.root.value()
    }

    /// Whether it is a mapping, as all objects are.
    pub fn is_mapping(&self) -> bool {
        matches!(self.root.content, Content::Mapping { .. })
    }

    /// Something wrong at the node at a JSON pointer, or at the last one on the way there.
    pub fn error(&self, text: &str, pointer: &str, problem: impl Into<String>) -> ParseError {
        let (line, column) = place(text, self.root.nearest(pointer).start);
        ParseError { document: self.number, line, column, problem: problem.into() }
    }

    /// How the node at a JSON pointer is written, if it is a scalar on one line.
    pub fn source<'t>(&self, text: &'t str, pointer: &str) -> Option<&'t str> {
        let node = self.root.at(pointer).filter(|node| node.scalar().is_some())?;
        Some(text[node.start..node.end.max(node.start)].trim()).filter(|source| !source.contains(['\n', '\r']))
    }

    /// Whether nodes are shared by aliases at a JSON pointer or on the way there.
    pub fn is_shared(&self, pointer: &str) -> bool {
        self.root.at(pointer).is_none_or(Node::is_shared)
    }
}

impl Node {
    fn is_shared(&self) -> bool {
        self.anchor != 0
            || match &self.content {
                Content::Alias(_) => true,
                Content::Scalar { .. } => false,
                Content::Sequence { items, .. } => items.iter().any(Self::is_shared),
                Content::Mapping { entries, .. } => entries.iter().any(|(key, value)| key.is_shared() || value.is_shared()),
            }
    }

    fn scalar(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The node at a JSON pointer.
    fn at(&self, pointer: &str) -> Option<&Self> {
        let mut parts = pointer.split('/').skip(1);
        parts.try_fold(self, |node, part| node.child(&unescape(part)))
    }

    /// The node at a JSON pointer, or the last one on the way there.
    fn nearest(&self, pointer: &str) -> &Self {
        let mut node = self;
        for part in pointer.split('/').skip(1) {
            let Some(child) = node.child(&unescape(part)) else { break };
            node = child;
        }
        node
    }

    fn child(&self, name: &str) -> Option<&Self> {
        match &self.content {
            Content::Mapping { entries, .. } => entries.iter().find(|(key, _)| key.scalar() == Some(name)).map(|(_, value)| value),
            Content::Sequence { items, .. } => items.get(name.parse::<usize>().ok()?),
            _ => None,
        }
    }

    fn value(&self) -> Value {
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
}

/// As kubectl resolves it: YAML 1.2's core schema, with the booleans and octal numbers of YAML 1.1 (go-yaml 2).
fn scalar_value(text: &str, plain: bool, tag: Option<&str>) -> Value {
    if !plain || tag == Some("str") {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Value::Bool(false),
        _ => number(text).unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

fn number(text: &str) -> Option<Value> {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.strip_prefix('+').unwrap_or(text)), |digits| ("-", digits));
    digits.bytes().next().filter(|first| first.is_ascii_digit() || *first == b'.')?;
    let digits = digits.replace('_', "");
    let prefixes = [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)];
    let (digits, radix) = match prefixes.into_iter().find_map(|(prefix, radix)| Some((digits.strip_prefix(prefix)?, radix))) {
        Some((rest, radix)) => (rest, radix),
        None if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| (b'0'..=b'7').contains(&b)) => (&digits[1..], 8),
        None => (digits.as_str(), 10),
    };
    if !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) {
        let unsigned = || u64::from_str_radix(digits, radix).ok().filter(|_| sign.is_empty()).map(Value::from);
        if let Some(number) = i64::from_str_radix(&format!("{sign}{digits}"), radix).ok().map(Value::from).or_else(unsigned) {
            return Some(number);
        }
    }
    let numeric = radix == 10 && digits.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let number: f64 = format!("{sign}{digits}").parse().ok().filter(|_| numeric)?;
    number.is_finite().then(|| Value::from(number))
}

#[cfg(test)]
mod tests;
