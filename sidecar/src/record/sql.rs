//! One pass over a statement: literals masked, and the fingerprint as pt-fingerprint (percona-toolkit) writes it.
//!
//! Guarantee: no literal of the statement is in any of the results, also when the statement is cut or malformed (an open quote
//! hides the rest).

use rustc_hash::FxHasher;
use std::hash::Hasher;

/// Longest fingerprint.
const MAX_FINGERPRINT: usize = 2048;
/// Longest summary, as OpenTelemetry advises.
const MAX_SUMMARY: usize = 255;
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

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Space,
    Comment,
    /// Literal: string, number, NULL and the like come as words.
    Literal,
    /// Identifier or keyword, also in backticks.
    Word,
    /// One other character.
    Symbol,
}

/// The next token and its length.
fn token(text: &[u8], position: usize, previous: Option<Token>) -> (Token, usize) {
    let rest = &text[position..];
    let length = match rest {
        [byte, ..] if byte.is_ascii_whitespace() => {
            return (Token::Space, rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count());
        }
        // `/*!` is executed by servers, so it is part of the statement.
        [b'/', b'*', b'!', ..] => return (Token::Symbol, 3),
        [b'/', b'*', ..] => return (Token::Comment, find(rest, 2, b"*/").unwrap_or(rest.len())),
        [b'-', b'-', after, ..] if after.is_ascii_whitespace() => return (Token::Comment, line(rest)),
        [b'-', b'-'] | [b'#', ..] => return (Token::Comment, line(rest)),
        [b'\'' | b'"', ..] => return (Token::Literal, quoted(rest)),
        [b'x' | b'X' | b'b' | b'B' | b'n' | b'N', b'\'', ..] => return (Token::Literal, 1 + quoted(&rest[1..])),
        [b'`', ..] => return (Token::Word, find(rest, 1, b"`").unwrap_or(rest.len())),
        [b'0'..=b'9', ..] => number(rest),
        [b'.', b'0'..=b'9', ..] if !matches!(previous, Some(Token::Word)) => number(rest),
        [byte, ..] if is_word(*byte) => return (Token::Word, rest.iter().take_while(|byte| is_word(**byte)).count()),
        _ => return (Token::Symbol, 1),
    };
    // `1st_column` is a name.
    let tail = rest[length..].iter().take_while(|byte| is_word(**byte)).count();
    if tail > 0 && !matches!(rest, [b'.', ..]) { (Token::Word, length + tail) } else { (Token::Literal, length) }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'@' | 0x80..)
}

fn find(text: &[u8], from: usize, end: &[u8]) -> Option<usize> {
    text.get(from..)?.windows(end.len()).position(|window| window == end).map(|found| from + found + end.len())
}

fn line(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1)
}

/// Length of a quoted string with backslashes and doubled quotes.
fn quoted(text: &[u8]) -> usize {
    let quote = text[0];
    let mut position = 1;
    while let Some(byte) = text.get(position) {
        match byte {
            b'\\' => position += 2,
            byte if *byte == quote => {
                if text.get(position + 1) != Some(&quote) {
                    return position + 1;
                }
                position += 2;
            }
            _ => position += 1,
        }
    }
    text.len()
}

fn number(text: &[u8]) -> usize {
    if let [b'0', b'x' | b'X', ..] = text {
        return 2 + text[2..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    }
    if let [b'0', b'b' | b'B', b'0' | b'1', ..] = text {
        return 2 + text[2..].iter().take_while(|byte| matches!(byte, b'0' | b'1')).count();
    }
    let digits = |from: usize| text.get(from..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut length = digits(0);
    if text.get(length) == Some(&b'.') {
        length += 1 + digits(length + 1);
    }
    if let Some(b'e' | b'E') = text.get(length) {
        let sign = usize::from(matches!(text.get(length + 1), Some(b'+' | b'-')));
        let exponent = digits(length + 1 + sign);
        if exponent > 0 {
            length += 1 + sign + exponent;
        }
    }
    length
}

/// A list of placeholders that is being collapsed: `in (?, ?)`, `values (?), (?)`.
struct List {
    /// Where the keyword ends in the fingerprint.
    start: usize,
    /// Behind the last closed parenthesis.
    closed: usize,
    depth: usize,
}

/// Builds the fingerprint token by token.
struct Fingerprint<'a> {
    text: &'a mut String,
    list: Option<List>,
    space: bool,
}

impl Fingerprint<'_> {
    fn full(&self) -> bool {
        self.text.len() >= MAX_FINGERPRINT && self.list.is_none()
    }

    fn push_space(&mut self) {
        if self.space && !self.text.is_empty() {
            self.text.push(' ');
        }
        self.space = false;
    }

    fn literal(&mut self) {
        // A sign in front of a number belongs to it.
        if matches!(self.text.as_bytes(), [.., b' ' | b'(' | b',' | b'=', b'-' | b'+']) {
            self.text.pop();
        }
        if self.list.as_ref().is_some_and(|list| list.depth == 0) {
            self.end_list();
        }
        self.push_space();
        self.text.push('?');
    }

    fn word(&mut self, word: &str) {
        self.end_list();
        self.push_space();
        let start = self.text.len();
        self.text.push_str(word);
        if !word.starts_with('`') {
            self.text[start..].make_ascii_lowercase();
        }
        if matches!(&self.text[start..], "in" | "values" | "value") {
            self.list = Some(List { start: self.text.len(), closed: 0, depth: 0 });
        }
    }

    fn symbol(&mut self, symbol: &str) {
        let outside = match (&mut self.list, symbol) {
            (Some(list), "(") => {
                list.depth += 1;
                false
            }
            (Some(list), ")") if list.depth > 0 => {
                list.depth -= 1;
                false
            }
            (Some(list), ",") => list.depth == 0 && list.closed == 0,
            (Some(_), "?" | "-" | "+") => false,
            _ => true,
        };
        if outside {
            self.end_list();
        }
        self.push_space();
        self.text.push_str(symbol);
        if let Some(list) = &mut self.list
            && symbol == ")"
            && list.depth == 0
        {
            list.closed = self.text.len();
        }
    }

    fn end_list(&mut self) {
        if let Some(list) = self.list.take()
            && list.closed > 0
        {
            self.text.replace_range(list.start..list.closed, "(?+)");
        }
    }
}

/// Derives everything from a statement.
pub fn normalise(statement: &str, into: &mut Normalised) {
    let Normalised { masked, fingerprint, summary, operation } = into;
    for text in [&mut *masked, &mut *fingerprint, &mut *summary, &mut *operation] {
        text.clear();
    }
    let bytes = statement.as_bytes();
    let mut builder = Fingerprint { text: fingerprint, list: None, space: false };
    let mut tables = Tables::default();
    let mut position = 0;
    let mut previous = None;
    while position < bytes.len() {
        let (kind, length) = token(bytes, position, previous);
        let end = ceil_boundary(statement, position + length);
        let text = &statement[position..end];
        position = end;
        let kind = if kind == Token::Word && is_literal_word(text) { Token::Literal } else { kind };
        match kind {
            Token::Space => masked.push_str(text),
            // Comments may hold anything, also what a program put there by mistake.
            Token::Comment => masked.push(' '),
            Token::Literal => masked.push('?'),
            Token::Word | Token::Symbol => masked.push_str(text),
        }
        if !builder.full() {
            match kind {
                Token::Space | Token::Comment => builder.space = true,
                Token::Literal => builder.literal(),
                Token::Word => builder.word(text),
                Token::Symbol => builder.symbol(text),
            }
        }
        if !matches!(kind, Token::Space | Token::Comment) {
            tables.take(kind, text, operation, summary);
            previous = Some(kind);
        }
    }
    builder.end_list();
    finish(fingerprint, operation);
    if summary.is_empty() {
        operation.clone_into(summary);
    }
}

fn ceil_boundary(text: &str, mut position: usize) -> usize {
    position = position.min(text.len());
    while !text.is_char_boundary(position) {
        position += 1;
    }
    position
}

fn is_literal_word(word: &str) -> bool {
    ["null", "true", "false"].iter().any(|literal| word.eq_ignore_ascii_case(literal))
}

/// Rules for whole statements (pt-fingerprint: USE, CALL, administrator commands), and the end.
fn finish(fingerprint: &mut String, operation: &str) {
    let trimmed = fingerprint.trim_end_matches([' ', ';']).len();
    fingerprint.truncate(trimmed);
    match operation {
        "USE" => {
            fingerprint.clear();
            fingerprint.push_str("use ?");
        }
        "CALL" => {
            if let Some(parenthesis) = fingerprint.find('(') {
                fingerprint.truncate(parenthesis);
            }
        }
        _ => {}
    }
    let mut end = fingerprint.len().min(MAX_FINGERPRINT);
    while !fingerprint.is_char_boundary(end) {
        end -= 1;
    }
    fingerprint.truncate(end);
}

/// Finds operation and tables.
#[derive(Default)]
struct Tables {
    /// The next word is a table.
    expected: bool,
    /// The word before was a table, so a dot continues it and a comma brings another.
    after_table: bool,
    dot: bool,
}

impl Tables {
    fn take(&mut self, kind: Token, text: &str, operation: &mut String, summary: &mut String) {
        match kind {
            Token::Word => self.word(text, operation, summary),
            Token::Symbol => match text {
                "." if self.after_table => self.dot = true,
                "," if self.after_table => (self.expected, self.after_table) = (true, false),
                _ => (self.expected, self.after_table, self.dot) = (false, false, false),
            },
            _ => (self.expected, self.after_table, self.dot) = (false, false, false),
        }
    }

    fn word(&mut self, word: &str, operation: &mut String, summary: &mut String) {
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
        if operation.is_empty() {
            operation.push_str(word);
            operation.make_ascii_uppercase();
            operation.clone_into(summary);
            self.expected = is("update") || is("truncate") || is("describe") || is("desc");
            return;
        }
        let limit = MAX_SUMMARY.saturating_sub(word.len() + 1);
        if self.dot && self.after_table {
            self.dot = false;
            if summary.len() < limit {
                summary.push('.');
                summary.push_str(word.trim_matches('`'));
            }
            return;
        }
        if is("from") || is("into") || is("join") || is("update") || is("table") {
            (self.expected, self.after_table) = (true, false);
            return;
        }
        let modifier = ["if", "not", "exists", "only", "ignore", "low_priority", "delayed", "quick", "lateral", "table"];
        if self.expected && modifier.iter().any(|keyword| is(keyword)) {
            return;
        }
        if self.expected {
            (self.expected, self.after_table) = (false, true);
            if summary.len() < limit {
                summary.push(' ');
                summary.push_str(word.trim_matches('`'));
            }
            return;
        }
        // An alias keeps a comma meaning "another table"; clauses end the list.
        let clause = ["where", "set", "values", "value", "select", "on", "group", "order", "limit", "having", "using", "for"];
        if clause.iter().any(|keyword| is(keyword)) {
            self.after_table = false;
        }
    }
}
