//! Tokens of ClickHouse SQL: enough to find the clauses the endpoint has to see, never the whole grammar.
//!
//! Guarantee: total on any bytes; text in strings, quoted names, heredocs and comments is never taken for a keyword. The one
//! misuse: lexing the data behind an INSERT (it may be binary); [`super::statement`] stops before it.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An unquoted name or keyword.
    Word,
    Number,
    /// `'...'` or a heredoc.
    String,
    /// `` `...` `` or `"..."`.
    QuotedName,
    Punctuation(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
    /// Parentheses, brackets and braces open before this token.
    pub depth: u32,
}

impl Token {
    pub fn text<'a>(&self, sql: &'a [u8]) -> &'a [u8] {
        sql.get(self.start..self.end).unwrap_or_default()
    }

    pub fn is(&self, sql: &[u8], keyword: &str) -> bool {
        self.kind == Kind::Word && self.text(sql).eq_ignore_ascii_case(keyword.as_bytes())
    }
}

pub struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Lexer<'a> {
    pub fn new(sql: &'a [u8]) -> Self {
        Self { sql, at: 0, depth: 0 }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.sql.get(at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.sql.get(self.at..).unwrap_or_default()
    }

    /// The position behind the next `needle`, or the end of the text.
    fn behind(&self, from: usize, needle: &[u8]) -> usize {
        let text = self.sql.get(from..).unwrap_or_default();
        text.windows(needle.len()).position(|window| window == needle).map_or(self.sql.len(), |found| from + found + needle.len())
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            match rest.first() {
                Some(byte) if byte.is_ascii_whitespace() || *byte == 0x0b => self.at += 1,
                Some(b'-') if rest.starts_with(b"--") => self.at = self.behind(self.at, b"\n"),
                Some(b'#') if rest.starts_with(b"# ") || rest.starts_with(b"#!") => self.at = self.behind(self.at, b"\n"),
                Some(b'/') if rest.starts_with(b"/*") => self.at = self.behind(self.at + 2, b"*/"),
                _ => return,
            }
        }
    }

    /// The end of a quoted run that starts at `self.at`; backslash and the doubled quote escape.
    fn quoted_end(&self, quote: u8) -> usize {
        let mut at = self.at + 1;
        while let Some(byte) = self.byte(at) {
            match byte {
                b'\\' => at += 2,
                _ if byte == quote && self.byte(at + 1) == Some(quote) => at += 2,
                _ if byte == quote => return at + 1,
                _ => at += 1,
            }
        }
        self.sql.len()
    }

    /// The end of `$tag$ ... $tag$`, if a heredoc starts here.
    fn heredoc_end(&self) -> Option<usize> {
        let rest = self.rest();
        let tag = rest.iter().skip(1).position(|byte| *byte == b'$')? + 2;
        let delimiter = rest.get(..tag)?;
        let named = delimiter.get(1..tag - 1)?.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        named.then(|| self.behind(self.at + tag, delimiter))
    }

    fn run_end(&self, accept: impl Fn(u8) -> bool) -> usize {
        self.rest().iter().position(|byte| !accept(*byte)).map_or(self.sql.len(), |length| self.at + length)
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let first = self.byte(self.at)?;
        let start = self.at;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
        let (kind, end) = match first {
            b'\'' => (Kind::String, self.quoted_end(first)),
            b'`' | b'"' => (Kind::QuotedName, self.quoted_end(first)),
            b'$' => match self.heredoc_end() {
                Some(end) => (Kind::String, end),
                None => (Kind::Punctuation(first), start + 1),
            },
            b'0'..=b'9' => (Kind::Number, self.run_end(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_')),
            _ if is_name(first) => (Kind::Word, self.run_end(is_name)),
            _ => (Kind::Punctuation(first), start + 1),
        };
        if matches!(first, b')' | b']' | b'}') {
            self.depth = self.depth.saturating_sub(1);
        }
        let token = Token { kind, start, end, depth: self.depth };
        if kind == Kind::Punctuation(first) && matches!(first, b'(' | b'[' | b'{') {
            self.depth += 1;
        }
        self.at = end;
        Some(token)
    }
}
