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
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            route.push('/');
        }
        if index > MAX_SEGMENTS || route.len() + segment.len() > MAX_TEMPLATE {
            route.push('*');
            return;
        }
        // Matrix parameters (`;jsessionid=...`) are data.
        let segment = segment.split(';').next().unwrap_or_default();
        match segment.rsplit_once('.').filter(|(stem, extension)| is_extension(stem, extension)) {
            Some((stem, extension)) if is_data(stem) => {
                route.push_str("{id}.");
                route.push_str(extension);
            }
            None if is_data(segment) => route.push_str("{id}"),
            _ => route.push_str(segment),
        }
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
    let tail = segment.rsplit(['-', '_']).next().unwrap_or_default();
    tail.len() < segment.len() && tail.len() >= 3 && tail.bytes().all(|byte| byte.is_ascii_digit())
}

/// Writes a query string with `?` for every value.
pub fn mask_query(query: &str, masked: &mut String) {
    masked.clear();
    for (index, pair) in query.split('&').enumerate() {
        if index > 0 {
            masked.push('&');
        }
        match pair.split_once('=') {
            Some((name, _)) => {
                masked.push_str(name);
                masked.push_str("=?");
            }
            // A lone word is a value as often as it is a name.
            None if pair.is_empty() => {}
            None => masked.push('?'),
        }
    }
}
