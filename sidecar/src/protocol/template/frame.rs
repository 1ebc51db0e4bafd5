//! Lines, and what they say. No state, no pairing: bytes in, meaning out.

/// Longest line that is waited for. Every wait has a bound, or a peer could fill the buffers.
pub(super) const MAX_LINE: usize = 1024;
const ASK: &[u8] = b"ASK ";

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Fine,
    Failed(u32),
}

/// Length of the first line with its line feed.
pub(super) fn line(data: &[u8]) -> Option<usize> {
    data.iter().take(MAX_LINE).position(|byte| *byte == b'\n').map(|end| end + 1)
}

/// `Some(true)` for a whole request, `Some(false)` for what may become one, `None` for anything else.
pub(super) fn begins_like_request(data: &[u8]) -> Option<bool> {
    match line(data) {
        Some(_) => data.starts_with(ASK).then_some(true),
        None if data.len() >= MAX_LINE => None,
        None => (ASK.starts_with(data) || data.starts_with(ASK)).then_some(false),
    }
}

/// Whether a whole line is a request.
pub(super) fn is_request(line: &[u8]) -> bool {
    line.starts_with(ASK)
}

/// Reads a whole line as an answer.
pub(super) fn answer(line: &[u8]) -> Option<Answer> {
    if line.starts_with(b"OK ") {
        return Some(Answer::Fine);
    }
    let number = std::str::from_utf8(line.strip_prefix(b"ERR ")?.trim_ascii_end()).ok()?;
    number.parse().ok().map(Answer::Failed)
}
