//! One pass over a statement: literals masked, the fingerprint as pt-fingerprint (percona-toolkit) writes it, operation and tables.
//!
//! Guarantee: no literal of the statement is in any of the results, also when the statement is cut or malformed (an open quote
//! hides the rest). Where that and pt-fingerprint contradict each other, the literal is hidden; docs/protocols.md lists these cases.

mod fingerprint;
mod summary;
#[cfg(test)]
mod tests;
mod token;

use rustc_hash::FxHasher;
use std::hash::Hasher;

use fingerprint::Fingerprint;
use summary::Summary;
use token::Token;

/// Slots of the memo: statements that a pod repeats literally, which prepared ones are.
const MEMO_SLOTS: usize = 512;
/// Longest statement in the memo.
const MEMO_TEXT: usize = 4 << 10;

/// What is derived from a statement.
#[derive(Debug, Default)]
pub struct Normalised {
    /// The statement with `?` for literals.
    pub masked: String,
    /// Normalised statement: one for all that differ in literals, spaces, letter case, lengths of lists.
    pub fingerprint: String,
    /// Operation and tables.
    pub summary: String,
    /// First word in capitals.
    pub operation: String,
}

/// Remembers statements that come again. Direct-mapped: a slot holds the last statement that hashed to it, so it is bounded and
/// never allocates once its strings have grown.
#[derive(Debug, Default)]
pub struct Memo {
    slots: Vec<(String, Normalised)>,
    long: Normalised,
}

impl Memo {
    /// What is derived from this statement.
    pub fn normalise(&mut self, statement: &str) -> &Normalised {
        if statement.len() > MEMO_TEXT {
            normalise(statement, &mut self.long);
            return &self.long;
        }
        if self.slots.is_empty() {
            self.slots.resize_with(MEMO_SLOTS, Default::default);
        }
        let mut hasher = FxHasher::default();
        hasher.write(statement.as_bytes());
        let (text, normalised) = &mut self.slots[hasher.finish() as usize % MEMO_SLOTS];
        if text != statement {
            statement.clone_into(text);
            normalise(statement, normalised);
        }
        normalised
    }
}

/// Derives everything from a statement.
pub fn normalise(statement: &str, into: &mut Normalised) {
    let Normalised { masked, fingerprint, summary, operation } = into;
    masked.clear();
    // White space around a statement and the terminator behind it are no part of it.
    let source = statement.trim_ascii_start().trim_end_matches(|c: char| c.is_ascii_whitespace() || c == ';');
    let bytes = source.as_bytes();
    let mut builder = Fingerprint::new(fingerprint);
    let mut summary = Summary::new(operation, summary);
    let mut rows = Rows::new(bytes);
    // Up to where the statement is in `masked`, is hidden from the fingerprint, was looked through for comments of two bare dashes.
    let (mut copied, mut muted, mut looked) = (0, 0, 0);
    let mut position = 0;
    let mut previous = Token::Symbol;
    while position < bytes.len() {
        let start = position;
        let (kind, length) = token::next(bytes, start, previous);
        let end = start + length;
        position = end;
        let text = &bytes[start..end];
        let hidden = match kind {
            Token::Quoted | Token::Number => "?",
            // Comments may hold anything, also what a program put there by mistake.
            Token::Comment => " ",
            Token::Word if is_literal_word(text) => "?",
            _ => "",
        };
        if !hidden.is_empty() {
            masked.push_str(source.get(copied..start).unwrap_or_default());
            masked.push_str(hidden);
            copied = end;
        }
        match kind {
            Token::Space => {
                if start >= muted {
                    builder.space(text);
                }
                continue;
            }
            Token::Comment => {
                builder.comment(text);
                continue;
            }
            _ => {}
        }
        summary.take(kind, text);
        previous = kind;
        if start < muted {
            continue;
        }
        match kind {
            Token::Quoted => builder.quoted(text),
            Token::Number => builder.number(text),
            Token::Word => {
                builder.bytes(text);
                rows.word(bytes, end);
            }
            _ => {
                if start >= looked && bytes[start..].starts_with(b"--") {
                    let (is_comment, length) = token::bare_comment(&bytes[start..]);
                    looked = start + length;
                    if is_comment {
                        muted = looked;
                        continue;
                    }
                }
                builder.bytes(text);
                if text == b")" && rows.end(&bytes[end..]) {
                    muted = usize::MAX;
                }
            }
        }
    }
    masked.push_str(source.get(copied..).unwrap_or_default());
    summary.finish();
    builder.finish(bytes);
}

/// Words that stand for a value.
fn is_literal_word(word: &[u8]) -> bool {
    match word.len() {
        4 => word.eq_ignore_ascii_case(b"null") || word.eq_ignore_ascii_case(b"true"),
        5 => word.eq_ignore_ascii_case(b"false"),
        _ => false,
    }
}

/// Finds the end of the first row of an INSERT or REPLACE of several: the fingerprint ends there.
struct Rows {
    /// Where the table's name can begin; `None` in other statements.
    table: Option<usize>,
    values: bool,
}

impl Rows {
    fn new(statement: &[u8]) -> Self {
        let starts = |from: usize, word: &[u8]| statement.get(from..from + word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word));
        let verb = [&b"insert"[..], b"replace"].into_iter().find(|verb| starts(0, verb));
        let table = verb.and_then(|verb| {
            let from = verb.len() + if starts(verb.len(), b" ignore") { b" ignore".len() } else { 0 };
            let space = space(&statement[from..]);
            (space > 0 && starts(from + space, b"into")).then_some(from + space + b"into".len())
        });
        Self { table, values: false }
    }

    fn word(&mut self, statement: &[u8], end: usize) {
        const VALUES: &[u8] = b"values";
        if let Some(table) = self.table
            && !self.values
            && end > table + VALUES.len()
            && statement[end - VALUES.len()..end].eq_ignore_ascii_case(VALUES)
        {
            self.values = statement[end + space(&statement[end..])..].first() == Some(&b'(');
        }
    }

    /// Whether the parenthesis before `rest` ends the first row.
    fn end(&self, rest: &[u8]) -> bool {
        if !self.values {
            return false;
        }
        let Some((b',', next)) = rest[space(rest)..].split_first() else { return false };
        next.get(space(next)) == Some(&b'(')
    }
}

fn space(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}
