//! Message framing: request line, body length, chunks (RFC 9112, sections 3, 6 and 7).

use super::MAX_METHOD;

/// Longest request target looked through to recognise a request line, and longest line of which the target holds spaces.
const MAX_TARGET: usize = 8 << 10;
/// Longest chunk-size line with extensions; servers refuse longer ones (CVE-2023-39326).
const MAX_CHUNK_LINE: usize = 4 << 10;
/// Longest trailer section.
const MAX_TRAILERS: usize = 64 << 10;

/// Whether bytes begin like a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestLine {
    Yes,
    Maybe,
    No,
}

/// Methods in IANA's registry (RFC 9110, 16.1).
const METHODS: [&str; 39] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// True if a request line's method is registered.
pub(super) fn begins_registered(line: &[u8]) -> bool {
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    METHODS.iter().any(|known| known.as_bytes() == method)
}

/// `method SP target SP HTTP/1.x` (RFC 9112, 3).
pub(super) fn request_line(data: &[u8]) -> RequestLine {
    let method = data.iter().take(MAX_METHOD + 1).take_while(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')).count();
    if method == data.len() {
        return if (1..=MAX_METHOD).contains(&method) { RequestLine::Maybe } else { RequestLine::No };
    }
    if !(3..=MAX_METHOD).contains(&method) || data[method] != b' ' {
        return RequestLine::No;
    }
    let target = &data[method + 1..];
    // No spaces or controls in a target; `*`, `/...`, `scheme://...` or `host:port`.
    let length = target.iter().take(MAX_TARGET).take_while(|byte| **byte > b' ' && **byte != 0x7f).count();
    match target.get(length) {
        None if length == target.len() => RequestLine::Maybe,
        Some(b' ') if length > 0 => {
            let version = &target[length + 1..];
            let wanted = b"HTTP/1.";
            let seen = version.len().min(wanted.len());
            if version[..seen] != wanted[..seen] {
                match spaced_request(data) {
                    Spaced::Yes(_) => RequestLine::Yes,
                    Spaced::Maybe => RequestLine::Maybe,
                    Spaced::No => RequestLine::No,
                }
            } else if version.len() <= wanted.len() {
                RequestLine::Maybe
            } else if matches!(version[wanted.len()], b'0' | b'1') {
                RequestLine::Yes
            } else {
                RequestLine::No
            }
        }
        _ => RequestLine::No,
    }
}

/// A request line whose target holds spaces, which clients must not send and servers answer with 400 (RFC 9112, 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpacedRequest<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub minor_version: u8,
    /// Length of the line.
    pub length: usize,
}

/// Whether bytes begin with such a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spaced<'a> {
    Yes(SpacedRequest<'a>),
    /// Its end is still to come.
    Maybe,
    No,
}

/// Reads such a line; only a whole one with a path is believed.
pub(super) fn spaced_request(data: &[u8]) -> Spaced<'_> {
    let within = data.get(..MAX_TARGET).unwrap_or(data);
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        let begun = data.len() < MAX_TARGET && begins_spaced(data);
        return if begun { Spaced::Maybe } else { Spaced::No };
    };
    whole_spaced(data, end).map_or(Spaced::No, Spaced::Yes)
}

fn is_known_method(method: &[u8]) -> bool {
    (3..=MAX_METHOD).contains(&method.len()) && method.iter().all(u8::is_ascii_uppercase)
}

fn begins_spaced(data: &[u8]) -> bool {
    let line = data.strip_suffix(b"\r").unwrap_or(data);
    let method = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let path = line.get(method..).unwrap_or_default().trim_ascii_start();
    let text = std::str::from_utf8(line).map_or_else(|error| error.error_len().is_none(), |_| true);
    text && is_known_method(&line[..method]) && path.first().is_none_or(|byte| *byte == b'/') && !line.iter().any(u8::is_ascii_control)
}

fn whole_spaced(data: &[u8], end: usize) -> Option<SpacedRequest<'_>> {
    let line = std::str::from_utf8(data.get(..end)?).ok()?;
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (method, rest) = line.split_once(' ')?;
    let (target, version) = rest.rsplit_once(' ')?;
    let minor_version = match version {
        "HTTP/1.0" => 0,
        "HTTP/1.1" => 1,
        _ => return None,
    };
    let target = target.trim_matches(' ');
    let believed = is_known_method(method.as_bytes())
        && target.starts_with('/')
        && target.contains(' ')
        && !target.bytes().any(|byte| byte.is_ascii_control());
    believed.then_some(SpacedRequest { method, target, minor_version, length: end + 1 })
}

/// How a message's body is delimited (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// That many bytes, also none.
    Length(u64),
    /// Chunked.
    Chunked,
    /// Up to the end of the connection.
    UntilClose,
}

/// Length fields of one head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LengthFields {
    content_length: Option<u64>,
    transfer_encoding: bool,
    chunked: bool,
    /// Two lengths, or one that implementations read differently.
    pub ambiguous: bool,
}

impl LengthFields {
    /// Takes a Content-Length value.
    pub fn content_length(&mut self, value: &[u8]) {
        // A list of equal numbers is allowed to be read as one (RFC 9112, 6.3), and exactly that is where parsers differ.
        let value = value.trim_ascii();
        let number = (!value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit))
            .then(|| value.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0')));
        match (number, self.content_length) {
            (None, _) => self.ambiguous = true,
            (Some(number), Some(other)) if number != other => self.ambiguous = true,
            (Some(number), _) => self.content_length = Some(number),
        }
    }

    /// Takes a Transfer-Encoding value.
    pub fn transfer_encoding(&mut self, value: &[u8]) {
        self.transfer_encoding = true;
        let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
        let exact = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        self.ambiguous |= self.chunked || (!exact && contains_ignore_case(value, b"chunked"));
        self.chunked = exact;
    }

    /// Body of a request.
    pub fn of_request(&mut self) -> Body {
        self.ambiguous |= self.transfer_encoding && (self.content_length.is_some() || !self.chunked);
        match (self.chunked, self.content_length) {
            (true, _) => Body::Chunked,
            (false, Some(length)) => Body::Length(length),
            (false, None) => Body::Length(0),
        }
    }

    /// Body of an answer that may have one.
    pub fn of_answer(&mut self) -> Body {
        self.ambiguous |= self.transfer_encoding && self.content_length.is_some();
        match (self.transfer_encoding, self.chunked, self.content_length) {
            (true, true, _) => Body::Chunked,
            (true, false, _) => Body::UntilClose,
            (false, _, Some(length)) => Body::Length(length),
            (false, _, None) => Body::UntilClose,
        }
    }
}

fn contains_ignore_case(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// Where a chunked body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In front of a size line.
    Size,
    /// Inside data.
    Data(u64),
    /// In front of the CR LF after data.
    DataEnd,
    /// In the trailer section, with what it has taken so far.
    Trailers(usize),
}

/// What a step through a chunked body did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Took bytes, of which `body` are body.
    Took { length: usize, body: usize, next: Chunk },
    /// Took bytes; the message is over.
    Over { length: usize },
    /// A line is incomplete.
    NeedMore,
    /// No chunked body.
    Malformed,
}

/// One step.
pub(super) fn chunk(state: Chunk, data: &[u8]) -> Step {
    match state {
        Chunk::Data(left) => {
            let taken = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - taken as u64;
            Step::Took { length: taken, body: taken, next: if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) } }
        }
        Chunk::DataEnd => match data {
            [b'\r', b'\n', ..] => Step::Took { length: 2, body: 0, next: Chunk::Size },
            [b'\r'] => Step::NeedMore,
            [b'\n', ..] => Step::Took { length: 1, body: 0, next: Chunk::Size },
            _ => Step::Malformed,
        },
        Chunk::Size => match line(data, MAX_CHUNK_LINE) {
            Line::Complete { length, text } => match size(text) {
                Some(0) => Step::Took { length, body: 0, next: Chunk::Trailers(0) },
                Some(size) => Step::Took { length, body: 0, next: Chunk::Data(size) },
                None => Step::Malformed,
            },
            Line::Partial => Step::NeedMore,
            Line::TooLong => Step::Malformed,
        },
        Chunk::Trailers(so_far) => match line(data, MAX_TRAILERS.saturating_sub(so_far)) {
            Line::Complete { length, text: [] } => Step::Over { length },
            Line::Complete { length, .. } => Step::Took { length, body: 0, next: Chunk::Trailers(so_far + length) },
            Line::Partial => Step::NeedMore,
            Line::TooLong => Step::Malformed,
        },
    }
}

enum Line<'a> {
    Complete { length: usize, text: &'a [u8] },
    Partial,
    TooLong,
}

fn line(data: &[u8], limit: usize) -> Line<'_> {
    match data.iter().take(limit).position(|byte| *byte == b'\n') {
        Some(end) => {
            let text = &data[..end];
            Line::Complete { length: end + 1, text: text.strip_suffix(b"\r").unwrap_or(text) }
        }
        None if data.len() >= limit => Line::TooLong,
        None => Line::Partial,
    }
}

/// `1*HEXDIG [chunk-ext]`.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let rest = line.get(digits..).unwrap_or_default().trim_ascii_start();
    if digits == 0 || digits > 15 || !(rest.is_empty() || rest[0] == b';') {
        return None;
    }
    line[..digits].iter().try_fold(0u64, |number, digit| Some(number * 16 + u64::from(char::from(*digit).to_digit(16)?)))
}

/// Length of the head with its empty line; `from` is how much was looked through before.
pub(super) fn head_end(data: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3);
    let mut position = start;
    while let Some(found) = data.get(position..)?.iter().position(|byte| *byte == b'\n') {
        let line_feed = position + found;
        match data.get(line_feed + 1..)? {
            [b'\n', ..] => return Some(line_feed + 2),
            [b'\r', b'\n', ..] => return Some(line_feed + 3),
            _ => position = line_feed + 1,
        }
    }
    None
}

/// A head that breaks off: its whole lines, closed by an empty one; `None` without a whole line.
pub(super) fn cut_head(data: &[u8]) -> Option<Vec<u8>> {
    let end = data.iter().rposition(|byte| *byte == b'\n')? + 1;
    let mut head = data.get(..end)?.to_vec();
    head.extend_from_slice(b"\r\n");
    Some(head)
}
