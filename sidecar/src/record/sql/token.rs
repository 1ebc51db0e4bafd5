//! The pieces of a statement, as MySQL's lexer cuts it (MySQL manual, Literal Values, Schema Object Names, Comments).
//!
//! Guarantee: a quoted literal is one piece however it is escaped, and an open one reaches to the end. Not a parser: it does not know
//! the session's `sql_mode`; ANSI_QUOTES makes no difference here, since what is in double quotes is hidden either way.

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// White space.
    Space,
    /// A comment without the line break behind it.
    Comment,
    /// Quoted literal, with the letter before it (`x''`, `b''`, `n''`).
    Quoted,
    /// A number.
    Number,
    /// Identifier or keyword, also in backticks.
    Word,
    /// One other character, or the opening of `/*!`.
    Symbol,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Space,
    Quote,
    Backtick,
    Digit,
    Letter,
    Comment,
    Dot,
    Symbol,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Symbol; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0c => Class::Space,
            b'\'' | b'"' => Class::Quote,
            b'`' => Class::Backtick,
            b'0'..=b'9' => Class::Digit,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | b'@' | 0x80.. => Class::Letter,
            b'/' | b'-' | b'#' => Class::Comment,
            b'.' => Class::Dot,
            _ => Class::Symbol,
        };
        byte += 1;
    }
    classes
};

static IS_WORD: [bool; 256] = {
    let mut is = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        is[byte] = matches!(CLASSES[byte], Class::Letter | Class::Digit);
        byte += 1;
    }
    is
};

fn is_word(byte: u8) -> bool {
    IS_WORD[usize::from(byte)]
}

#[inline]
fn count(text: &[u8], is: impl Fn(u8) -> bool) -> usize {
    let mut length = 0;
    while length < text.len() && is(text[length]) {
        length += 1;
    }
    length
}

/// The piece at `position` and its length; `previous` is the one before it that is neither space nor comment.
#[inline]
pub fn next(text: &[u8], position: usize, previous: Token) -> (Token, usize) {
    let rest = &text[position..];
    let Some(first) = rest.first() else { return (Token::Symbol, 0) };
    match CLASSES[usize::from(*first)] {
        Class::Space => (Token::Space, 1 + count(&rest[1..], |byte| byte.is_ascii_whitespace())),
        Class::Letter => match (count(rest, is_word), rest) {
            (1, [b'x' | b'X' | b'b' | b'B' | b'n' | b'N', b'\'', ..]) => (Token::Quoted, 1 + quoted(&rest[1..])),
            (length, _) => (Token::Word, length),
        },
        Class::Symbol => (Token::Symbol, 1),
        Class::Quote => (Token::Quoted, quoted(rest)),
        Class::Digit => number(rest),
        Class::Dot if previous != Token::Word && rest.get(1).is_some_and(u8::is_ascii_digit) => number(rest),
        Class::Dot => (Token::Symbol, 1),
        Class::Backtick => backtick(rest),
        Class::Comment => comment(rest),
    }
}

fn find(text: &[u8], from: usize, end: &[u8]) -> Option<usize> {
    text.get(from..)?.windows(end.len()).position(|window| window == end).map(|found| from + found + end.len())
}

/// Length of a line without its break.
pub fn line(text: &[u8]) -> usize {
    count(text, |byte| byte != b'\n')
}

fn comment(text: &[u8]) -> (Token, usize) {
    match text {
        // Executed by servers, so it is part of the statement.
        [b'/', b'*', b'!', ..] => (Token::Symbol, 3),
        [b'/', b'*', ..] => (Token::Comment, find(text, 2, b"*/").unwrap_or(text.len())),
        [b'-', b'-', after, ..] if after.is_ascii_whitespace() || after.is_ascii_control() => (Token::Comment, line(text)),
        [b'-', b'-'] | [b'#', ..] => (Token::Comment, line(text)),
        _ => (Token::Symbol, 1),
    }
}

/// Whether two dashes begin what is a comment for pt-fingerprint alone: MySQL wants white space behind them. With how far that was
/// looked at: the rest of the line, or a quote in it.
pub fn bare_comment(text: &[u8]) -> (bool, usize) {
    let length = count(text, |byte| !matches!(byte, b'\r' | b'\n' | b'\'' | b'"'));
    (!matches!(text.get(length), Some(b'\'' | b'"')), length)
}

/// A quoted identifier. One that is not closed is no piece, and one that holds a quote is a statement that went wrong: what it seems to
/// quote may hold literals.
fn backtick(text: &[u8]) -> (Token, usize) {
    match find(text, 1, b"`") {
        None => (Token::Symbol, 1),
        Some(length) if text[..length].iter().any(|byte| matches!(byte, b'\'' | b'"')) => (Token::Quoted, length),
        Some(length) => (Token::Word, length),
    }
}

/// Length of a quoted string with backslashes and doubled quotes.
fn quoted(text: &[u8]) -> usize {
    let Some(quote) = text.first() else { return 0 };
    let mut position = 1;
    while let Some(byte) = text.get(position) {
        match byte {
            b'\\' => position += 2,
            byte if byte == quote => {
                if text.get(position + 1) != Some(quote) {
                    return position + 1;
                }
                position += 2;
            }
            _ => position += 1,
        }
    }
    text.len()
}

/// A number, or a name that begins with one (`1st_column`).
fn number(text: &[u8]) -> (Token, usize) {
    let (length, is_integer) = match text {
        [b'0', b'x' | b'X', ..] => (2 + count(&text[2..], |byte| byte.is_ascii_hexdigit()), true),
        [b'0', b'b' | b'B', b'0' | b'1', ..] => (2 + count(&text[2..], |byte| matches!(byte, b'0' | b'1')), true),
        _ => decimal(text),
    };
    // Behind a fraction or an exponent a name is a piece of its own.
    match is_integer.then(|| count(&text[length..], is_word)) {
        Some(tail @ 1..) => (Token::Word, length + tail),
        _ => (Token::Number, length),
    }
}

fn decimal(text: &[u8]) -> (usize, bool) {
    let digits = |from: usize| count(text.get(from..).unwrap_or_default(), |byte| byte.is_ascii_digit());
    let mut length = digits(0);
    let mut is_integer = true;
    if text.get(length) == Some(&b'.') {
        length += 1 + digits(length + 1);
        is_integer = false;
    }
    if let Some(b'e' | b'E') = text.get(length) {
        let sign = usize::from(matches!(text.get(length + 1), Some(b'+' | b'-')));
        let exponent = digits(length + 1 + sign);
        if exponent > 0 {
            length += 1 + sign + exponent;
            is_integer = false;
        }
    }
    (length, is_integer)
}
