//! Builds a fingerprint byte by byte, as pt-fingerprint 3.2.1 (percona-toolkit) writes it.
//!
//! pt-fingerprint is a chain of substitutions over the whole text; here each is a state of one pass, and the three that look far
//! (UNION, LIMIT, ORDER BY) run at the end over the result when their word was seen. Feed it with pieces in order; it takes what
//! it is given for code, so never give it a quoted literal as bytes.

/// Longest fingerprint.
pub const MAX_FINGERPRINT: usize = 2048;
/// Longest text that is being built: the repeats of a UNION are folded at the end. Also bounds the time of that.
const MAX_TEXT: usize = 8 << 10;

/// Where a list behind `in` or `values` stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    /// There is none.
    None,
    /// Behind the keyword or a parenthesis that was closed.
    Between,
    /// Within parentheses.
    Inside,
}

/// The text so far and what the next byte depends on.
pub struct Fingerprint<'a> {
    result: &'a mut String,
    text: Vec<u8>,
    /// Where the current word begins, given there is one.
    word: Option<usize>,
    /// The last byte of the source, given it was written as it is.
    last: u8,
    /// Within a number, or what passes for one.
    number: bool,
    list: List,
    /// Where the keyword of the list ends.
    list_start: usize,
    /// A dot in a list: a number may swallow it.
    list_dot: bool,
    /// Bytes of the list were left out for want of room.
    list_cut: bool,
    full: bool,
    /// White space of the statement, as far as `use NAME` cares.
    spaces: usize,
    union: bool,
    limit: bool,
    order: bool,
    toolkit: bool,
}

/// What a byte means outside numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Word,
    Number,
    Placeholder,
    Space,
    Other,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => Class::Word,
            b'0'..=b'9' | b'+' | b'-' => Class::Number,
            b'?' => Class::Placeholder,
            b' ' | b'\t' | b'\n' | b'\r' | 0x0c => Class::Space,
            _ => Class::Other,
        };
        byte += 1;
    }
    classes
};

static LOWER: [u8; 256] = {
    let mut lower = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        lower[byte] = (byte as u8).to_ascii_lowercase();
        byte += 1;
    }
    lower
};

/// What continues a number once it has begun.
fn in_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'.' | b'x' | b'+' | b'-')
}

impl<'a> Fingerprint<'a> {
    /// Builds into `result`, whose room is used.
    pub fn new(result: &'a mut String) -> Self {
        let mut text = std::mem::take(result).into_bytes();
        text.clear();
        Self {
            result,
            text,
            word: None,
            last: 0,
            number: false,
            list: List::None,
            list_start: 0,
            list_dot: false,
            list_cut: false,
            full: false,
            spaces: 0,
            union: false,
            limit: false,
            order: false,
            toolkit: false,
        }
    }

    /// White space.
    pub fn space(&mut self, text: &[u8]) {
        // Any but one plain space counts for more than one.
        self.spaces += if text == b" " { 1 } else { 2 };
        self.number = false;
        self.end_word();
        self.last = 0;
        if self.list != List::None {
            self.list_dot_stays();
        }
        if !matches!(self.text.last(), None | Some(b' ')) {
            self.write(b' ');
        }
    }

    /// A comment: gone without a trace, but those of percona-toolkit's own statements name them (`/*schema.table:1/5*/`).
    pub fn comment(&mut self, text: &[u8]) {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let Some(rest) = text.strip_prefix(b"/*") else { return };
        let schema = rest.iter().take_while(|byte| is_word(byte)).count();
        let Some(rest) = rest[schema..].strip_prefix(b".") else { return };
        let table = rest.iter().take_while(|byte| is_word(byte)).count();
        if let [b':', b'0'..=b'9', b'/', b'0'..=b'9', b'*', b'/'] = rest[table..] {
            self.toolkit |= schema > 0 && table > 0;
        }
    }

    /// A quoted literal; the letter before the quote still counts.
    pub fn quoted(&mut self, text: &[u8]) {
        if let Some(prefix @ (b'a'..=b'z' | b'A'..=b'Z')) = text.first() {
            self.bytes(std::slice::from_ref(prefix));
        }
        self.number = false;
        self.placeholder();
    }

    /// A number. pt-fingerprint leaves the capital digits of a hexadecimal one; they are hidden here.
    pub fn number(&mut self, text: &[u8]) {
        if !matches!(text, [b'0', b'x' | b'X', ..]) {
            return self.bytes(text);
        }
        if !self.number {
            self.placeholder();
        }
        self.number = true;
    }

    /// Anything else.
    pub fn bytes(&mut self, text: &[u8]) {
        if self.full {
            return;
        }
        let mut rest = &text[..text.len().min(MAX_TEXT)];
        while let Some((first, tail)) = rest.split_first() {
            if self.number {
                if in_number(*first) {
                    rest = tail;
                    continue;
                }
                self.number = false;
            }
            match CLASSES[usize::from(*first)] {
                Class::Word => {
                    let mut length = 1;
                    while length < rest.len() && CLASSES[usize::from(rest[length])] == Class::Word {
                        length += 1;
                    }
                    let (letters, tail) = rest.split_at(length);
                    self.letters(letters);
                    rest = tail;
                    continue;
                }
                Class::Number => {
                    self.placeholder();
                    self.number = true;
                }
                Class::Placeholder => self.placeholder(),
                // In a quoted identifier.
                Class::Space => self.space(&rest[..1]),
                Class::Other => self.symbol(*first),
            }
            rest = tail;
        }
        self.full = self.full || self.text.len() >= MAX_TEXT && self.list != List::Inside;
    }

    fn write(&mut self, byte: u8) {
        if self.text.len() < MAX_TEXT {
            self.text.push(byte);
        } else {
            self.list_cut = true;
        }
    }

    fn letters(&mut self, letters: &[u8]) {
        let start = self.text.len();
        if start >= MAX_TEXT {
            self.list_cut = true;
            return self.end_list();
        }
        self.word.get_or_insert(start);
        self.text.extend(letters.iter().map(|letter| LOWER[usize::from(*letter)]));
        self.last = letters.last().copied().unwrap_or(0);
    }

    /// A literal, or a placeholder of the statement's own.
    fn placeholder(&mut self) {
        // Of `x'..'`, `b'..'` and `.5` the byte before goes too.
        if matches!(self.last, b'x' | b'b' | b'.') {
            self.text.pop();
            self.list_dot = false;
            if self.word == Some(self.text.len()) {
                self.word = None;
            }
        }
        self.end_word();
        self.last = 0;
        if self.list != List::None {
            self.list_dot_stays();
            if self.list == List::Between {
                self.end_list();
            }
        }
        self.write(b'?');
    }

    fn symbol(&mut self, symbol: u8) {
        self.end_word();
        self.last = symbol;
        if self.list != List::None {
            self.list_dot_stays();
            match (self.list, symbol) {
                (List::Between | List::Inside, b',') => {}
                (List::Between, b'(') => self.list = List::Inside,
                (List::Inside, b'.') => self.list_dot = true,
                (List::Inside, b')') => {
                    self.text.truncate(self.list_start);
                    self.text.extend_from_slice(b"(?+)");
                    self.list = List::Between;
                    self.list_cut = false;
                    return;
                }
                _ => self.end_list(),
            }
        }
        self.write(symbol);
    }

    fn end_list(&mut self) {
        self.full |= self.list_cut;
        self.list = List::None;
        self.list_dot = false;
    }

    /// The byte behind a dot is no number.
    fn list_dot_stays(&mut self) {
        if self.list_dot {
            self.end_list();
        }
    }

    #[inline]
    fn end_word(&mut self) {
        if let Some(start) = self.word.take() {
            self.word_from(start);
        }
    }

    fn word_from(&mut self, start: usize) {
        let word = &self.text[start..];
        if word == b"null" {
            self.text.truncate(start);
            if self.list != List::None {
                self.list_dot_stays();
                if self.list == List::Between {
                    self.end_list();
                }
            }
            return self.write(b'?');
        }
        let is_list = match word.len() {
            2 => word == b"in",
            5 => {
                self.union |= word == b"union";
                self.limit |= word == b"limit";
                self.order |= word == b"order";
                word == b"value"
            }
            6 => word == b"values",
            _ => false,
        };
        if self.list != List::None {
            self.end_list();
        }
        if is_list {
            self.list = List::Between;
            self.list_start = self.text.len();
        }
    }

    /// Ends the fingerprint of this statement.
    pub fn finish(mut self, statement: &[u8]) {
        self.end_word();
        if self.union {
            fold_unions(&mut self.text);
        }
        if self.limit {
            fold_limit(&mut self.text);
        }
        if self.order {
            drop_ascending(&mut self.text);
        }
        while let Some(b' ' | b';') = self.text.last() {
            self.text.pop();
        }
        let is_use = self.spaces == 1 && self.text.len() > 4 && self.text.starts_with(b"use ");
        let whole = if self.toolkit { Some(&b"percona-toolkit"[..]) } else { is_use.then_some(&b"use ?"[..]) };
        if let Some(whole) = whole {
            self.text.clear();
            self.text.extend_from_slice(whole);
        } else {
            special(statement, &mut self.text);
        }
        let mut end = self.text.len().min(MAX_FINGERPRINT);
        while self.text.get(end).is_some_and(|byte| *byte & 0xc0 == 0x80) {
            end -= 1;
        }
        self.text.truncate(end);
        // Only ASCII bytes and whole pieces were left out, so it is UTF-8 as the statement was.
        *self.result = String::from_utf8(self.text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    }
}

/// Statements that have a fingerprint of their own.
fn special(statement: &[u8], text: &mut Vec<u8>) {
    const DUMP: &[u8] = b"SELECT /*!40001 SQL_NO_CACHE */ * FROM `";
    const ADMINISTRATOR: &[u8] = b"administrator command: ";
    match statement.first() {
        Some(b'S') if statement.starts_with(DUMP) => {
            text.clear();
            text.extend_from_slice(b"mysqldump");
        }
        // Left as it is where it is words alone, which the commands' names are.
        Some(b'a') if statement.starts_with(ADMINISTRATOR) && statement.iter().all(|byte| is_of_command(*byte)) => {
            text.clear();
            text.extend_from_slice(statement);
        }
        Some(b'c' | b'C') => call(statement, text),
        _ => {}
    }
}

fn is_of_command(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b' ' | b':' | b'_')
}

/// `call name(...` is `call name`.
fn call(statement: &[u8], text: &mut Vec<u8>) {
    let Some((verb, rest)) = statement.split_at_checked(4) else { return };
    let name = rest.trim_ascii_start();
    if !verb.eq_ignore_ascii_case(b"call") || name.len() == rest.len() {
        return;
    }
    let length = name.iter().position(|byte| *byte == b'(' || byte.is_ascii_whitespace());
    let Some(name) = length.filter(|length| *length > 0 && name[*length] == b'(').map(|length| &name[..length]) else { return };
    // A literal or a comment in place of a name.
    let is_name = |pair: &[u8]| !matches!(pair, b"/*" | b"--") && !matches!(pair, [b'\'' | b'"' | b'#', ..]);
    if is_name(&name[..1]) && is_name(&name[name.len() - 1..]) && name.windows(2).all(is_name) {
        text.clear();
        text.extend_from_slice(b"call ");
        text.extend(name.iter().take(MAX_FINGERPRINT).map(u8::to_ascii_lowercase));
    }
}

fn find(text: &[u8], from: usize, pattern: &[u8]) -> Option<usize> {
    text.get(from..)?.windows(pattern.len()).position(|window| window == pattern).map(|found| from + found)
}

/// Where the word that a pattern begins with begins too.
fn find_word(text: &[u8], mut from: usize, pattern: &[u8]) -> Option<usize> {
    loop {
        let found = find(text, from, pattern)?;
        if found == 0 || !(text[found - 1].is_ascii_alphanumeric() || text[found - 1] == b'_') {
            return Some(found);
        }
        from = found + 1;
    }
}

/// `select ... union select ...` of the same becomes `select ... /*repeat union*/`.
fn fold_unions(text: &mut Vec<u8>) {
    const SELECT: &[u8] = b"select ";
    const UNION: &[u8] = b" union";
    let mut from = 0;
    while let Some(start) = find_word(text, from, SELECT) {
        let mut union = start + SELECT.len();
        from = union;
        while let Some(end) = find(text, union, UNION) {
            if let Some((repeats_end, kind)) = repeats(text, start, end) {
                let folded = [&b" /*repeat"[..], kind, b"*/"].concat();
                from = end + folded.len();
                text.splice(end..repeats_end, folded);
                break;
            }
            union = end + 1;
        }
    }
}

/// How far ` union <text[start..end]>` is repeated at `end`, and what joins the last one.
fn repeats(text: &[u8], start: usize, end: usize) -> Option<(usize, &'static [u8])> {
    let select = &text[start..end];
    let mut found = None;
    let mut at = end;
    loop {
        let rest = &text[at..];
        let kind = [&b" union all"[..], b" union"].into_iter().find(|kind| {
            let tail = rest.strip_prefix(*kind).and_then(|tail| tail.strip_prefix(b" "));
            tail.is_some_and(|tail| tail.starts_with(select))
        });
        let Some(kind) = kind else { return found };
        at += kind.len() + 1 + select.len();
        found = Some((at, kind));
    }
}

/// The first `limit ?, ?` or `limit ? offset ?` is `limit ?`.
fn fold_limit(text: &mut Vec<u8>) {
    const LIMIT: &[u8] = b"limit ?";
    let Some(start) = find_word(text, 0, LIMIT) else { return };
    let end = start + LIMIT.len();
    let tail = [&b", ?"[..], b",?", b" offset ?"].into_iter().find(|tail| text[end..].starts_with(tail));
    if let Some(tail) = tail {
        text.drain(end..end + tail.len());
    }
}

/// Behind the first `order by` ascending is the default.
fn drop_ascending(text: &mut Vec<u8>) {
    const ORDER: &[u8] = b"order by ";
    const ASCENDING: &[u8] = b" asc";
    let Some(start) = find_word(text, 0, ORDER) else { return };
    // There is at least one byte before each.
    let mut from = start + ORDER.len() + 1;
    while let Some(found) = find(text, from, ASCENDING) {
        text.drain(found..found + ASCENDING.len());
        from = found + 1;
    }
}
