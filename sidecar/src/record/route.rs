//! Route templates and query strings.

/// Most path segments that are told apart: deeper trees are data.
const MAX_SEGMENTS: usize = 12;
/// Longest template.
const MAX_TEMPLATE: usize = 256;
/// From this length on a segment with digits is an identifier, whatever else it holds.
const LONG_WITH_DIGITS: usize = 16;
/// From this length on a segment is a title or a token.
const LONG: usize = 32;

/// Writes the route of a path: segments that look like data become `{id}`.
pub fn template(path: &str, route: &mut String) {
    route.clear();
    // The target of OPTIONS (RFC 9112, 3.2.4) is no path.
    if path == "*" {
        return route.push('*');
    }
    let mut index = 0;
    let mut rest = Some(path);
    while let Some(path) = rest {
        if index > 0 {
            route.push('/');
        }
        // Byte by byte: segments are shorter than what a search for one letter costs to set up.
        let end = path.bytes().position(|byte| byte == b'/');
        let segment = end.map_or(path, |end| &path[..end]);
        rest = end.map(|end| &path[end + 1..]);
        if index > MAX_SEGMENTS || route.len() + segment.len() > MAX_TEMPLATE {
            route.push('*');
            return;
        }
        push_segment(segment, route);
        index += 1;
    }
}

fn push_segment(segment: &str, route: &mut String) {
    // Matrix parameters (`;jsessionid=...`) are data.
    let segment = segment.bytes().position(|byte| byte == b';').map_or(segment, |end| &segment[..end]);
    let dot = segment.bytes().rposition(|byte| byte == b'.').map(|dot| (&segment[..dot], &segment[dot + 1..]));
    match dot.filter(|(stem, extension)| is_extension(stem, extension)) {
        Some((stem, extension)) if is_data(stem) => {
            route.push_str("{id}.");
            route.push_str(extension);
        }
        None if is_data(segment) => route.push_str("{id}"),
        _ => route.push_str(segment),
    }
}

fn is_extension(stem: &str, extension: &str) -> bool {
    let is_name = !stem.is_empty() && !stem.contains('@');
    is_name && (1..=5).contains(&extension.len()) && extension.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn is_data(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    if bytes.is_empty() {
        return false;
    }
    let mut digits = 0;
    let mut hexadecimal = 0;
    let mut separators = 0;
    let mut foreign = 0;
    for byte in bytes {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'a'..=b'f' | b'A'..=b'F' => hexadecimal += 1,
            b'-' | b'_' | b'.' | b':' | b',' | b'+' => separators += 1,
            b'@' | b'%' | b'=' | b'$' | b'!' | b'*' | 0x80.. => foreign += 1,
            _ => {}
        }
    }
    let length = bytes.len();
    if digits + separators == length && digits > 0 {
        // Numbers, dates, versions in pieces, coordinates.
        return true;
    }
    let all_hexadecimal = digits + hexadecimal + separators == length;
    foreign > 0
        || length >= LONG
        || digits > 0 && (length >= LONG_WITH_DIGITS || all_hexadecimal && length >= 6 || digits * 2 >= length && digits >= 3)
        || is_numbered_slug(segment)
}

/// `red-shoes-4711`, `order_991`: a name with a number of three digits or more behind it.
fn is_numbered_slug(segment: &str) -> bool {
    let tail = segment.bytes().rev().take_while(u8::is_ascii_digit).count();
    tail >= 3 && matches!(segment.len().checked_sub(tail + 1).and_then(|before| segment.as_bytes().get(before)), Some(b'-' | b'_'))
}

/// Writes a query string with `?` for every value.
pub fn mask_query(query: &str, masked: &mut String) {
    masked.clear();
    let whole = query.len();
    let mut rest = Some(query);
    while let Some(query) = rest {
        if query.len() < whole {
            masked.push('&');
        }
        let end = query.bytes().position(|byte| byte == b'&');
        let pair = end.map_or(query, |end| &query[..end]);
        rest = end.map(|end| &query[end + 1..]);
        match pair.bytes().position(|byte| byte == b'=') {
            Some(end) => {
                masked.push_str(&pair[..end]);
                masked.push_str("=?");
            }
            // A lone word is a value as often as it is a name.
            None if pair.is_empty() => {}
            None => masked.push('?'),
        }
    }
}

/// Writes a path with `?` for the values of its matrix parameters (`;jsessionid=...`), which are as good as a query string's.
pub fn mask_parameters(path: &str, masked: &mut String) {
    masked.clear();
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            masked.push('/');
        }
        let mut parts = segment.split(';');
        masked.push_str(parts.next().unwrap_or_default());
        for parameter in parts {
            masked.push(';');
            match parameter.split_once('=') {
                Some((name, _)) => {
                    masked.push_str(name);
                    masked.push_str("=?");
                }
                None if parameter.is_empty() => {}
                None => masked.push('?'),
            }
        }
    }
}
