//! What is kept of a request: target and header fields.

use super::super::Exchange;
use super::super::exchange::{Head, Header, HttpDetail, Span};
use super::frame::LengthFields;

/// Longest value of a header that is kept.
pub(super) const MAX_VALUE: usize = 1024;
/// Longest path or query that is kept.
const MAX_TARGET: usize = 4096;

/// At most the first `limit` bytes.
pub(super) fn cut(value: &[u8], limit: usize) -> &[u8] {
    value.get(..limit).unwrap_or(value)
}

/// Splits a request target (RFC 9112, 3.2) into what is kept.
pub(super) fn target(exchange: &mut Exchange, head: &Head, detail: &mut HttpDetail, target: &[u8]) {
    let (authority, rest) = match target {
        _ if detail.is_connect => (target, &[][..]),
        [b'/', ..] => (&[][..], target),
        _ => match target.windows(3).position(|window| window == b"://") {
            Some(scheme) => {
                let after = &target[scheme + 3..];
                after.split_at(find(after, |byte| matches!(byte, b'/' | b'?')).unwrap_or(after.len()))
            }
            None => (&[][..], target),
        },
    };
    let (path, query) = match find(rest, |byte| byte == b'?') {
        Some(mark) => (&rest[..mark], &rest[mark + 1..]),
        None => (rest, &[][..]),
    };
    // User and password in an authority are credentials.
    let authority = match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => &authority[at + 1..],
        None => authority,
    };
    detail.authority = keep(exchange, head, cut(authority, MAX_VALUE));
    detail.path = keep(exchange, head, cut(path, MAX_TARGET));
    detail.query = keep(exchange, head, cut(query, MAX_TARGET));
}

fn find(bytes: &[u8], is: impl Fn(u8) -> bool) -> Option<usize> {
    bytes.iter().position(|byte| is(*byte))
}

fn keep(exchange: &mut Exchange, head: &Head, part: &[u8]) -> Span {
    if part.is_empty() { Span::default() } else { exchange.part(head, part) }
}

/// Whether a field name is this one, which is given in small letters. Of the letters, digits and hyphens of names only capitals change with
/// the bit that makes letters small, and no other character of a token becomes one of these (RFC 9110, 5.6.2).
pub(super) fn is_name(name: &str, wanted: &str) -> bool {
    name.len() == wanted.len() && name.bytes().zip(wanted.bytes()).all(|(byte, wanted)| byte | 0x20 == wanted)
}

/// Keeps one header field, or takes note of the length it tells.
pub(super) fn request_header(
    exchange: &mut Exchange,
    head: &Head,
    detail: &mut HttpDetail,
    lengths: &mut LengthFields,
    header: &httparse::Header<'_>,
) {
    let (name, value) = (header.name, header.value);
    let is = |wanted: &str| is_name(name, wanted);
    let kept = match name.len() {
        2 if is("b3") => Header::B3,
        3 if is("sw8") => Header::Sw8,
        4 if is("host") => Header::Host,
        9 if is("forwarded") => Header::Forwarded,
        9 if is("x-real-ip") => Header::XRealIp,
        10 if is("user-agent") => Header::UserAgent,
        11 if is("traceparent") => Header::Traceparent,
        11 if is("x-b3-spanid") => Header::B3SpanId,
        12 if is("content-type") => Header::ContentType,
        12 if is("x-b3-traceid") => Header::B3TraceId,
        12 if is("x-request-id") => Header::XRequestId,
        13 if is("uber-trace-id") => Header::UberTraceId,
        14 if is("content-length") => return lengths.content_length(value),
        15 if is("x-forwarded-for") => Header::XForwardedFor,
        17 if is("transfer-encoding") => return lengths.transfer_encoding(value),
        _ => return,
    };
    // Of repeated headers the first counts, as with most servers.
    if detail.headers[kept as usize] == Default::default() {
        detail.headers[kept as usize] = exchange.part(head, cut(value, MAX_VALUE));
    }
}
