//! HTTP/1.0 and 1.1 (RFC 9110, RFC 9112).
//!
//! [`frame`] knows lengths and chunks, [`decoder`] reads requests and pairs, [`answers`] reads answers. Bodies are counted and never kept.

mod answers;
mod decoder;
mod fields;
mod frame;
#[cfg(test)]
mod tests;

use super::{Decoder, Probe, Sender, Start, Verdict};

/// Longest method that is taken for one when a connection is recognised: registered ones have up to 17 letters.
const MAX_METHOD: usize = 24;
/// Longest start of an answer that has to be seen: `HTTP/1.1 200`.
const STATUS_START: usize = 12;

/// Recognises a request line or a status line at the beginning of a segment.
pub fn detect(probe: &Probe<'_>) -> Verdict {
    let data = probe.data;
    if let Some(rest) = data.strip_prefix(b"HTTP/1.") {
        return match rest {
            [b'0' | b'1', b' ', b'1'..=b'9', b'0'..=b'9', b'0'..=b'9', ..] => Verdict::Yes(Sender::Server),
            _ if data.len() < STATUS_START => Verdict::Maybe,
            _ => Verdict::No,
        };
    }
    if data.len() < STATUS_START && b"HTTP/1.".starts_with(data) {
        return Verdict::Maybe;
    }
    match frame::request_line(data) {
        // In the middle, unknown words may be the end of a body and the beginning of a request in one.
        frame::RequestLine::Yes if !probe.from_start && !frame::begins_registered(data) => Verdict::No,
        frame::RequestLine::Yes => Verdict::Yes(Sender::Client),
        frame::RequestLine::Maybe => Verdict::Maybe,
        frame::RequestLine::No => Verdict::No,
    }
}

/// A reader of one connection.
pub fn decoder(start: Start) -> Box<dyn Decoder> {
    Box::new(decoder::Http1::new(start))
}
