//! Route templates, and what is masked of targets.
//!
//! A segment of a path that looks like data (number, UUID, hash, date, token, e-mail address) is `{id}`. One that looks like a name stays,
//! until its place in the tree has had so many names that they must be data too (titles, users, tags): then new ones are `{name}`.
//! Guarantee: a sidecar makes at most `MAX_NAMES` names, whatever is asked for, and a name that was once kept stays. Do not expect two
//! sidecars to agree on which names of a full place are kept: those that each saw first.

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};
use std::hash::Hasher;

/// Most path segments that are told apart: deeper trees are data.
const MAX_SEGMENTS: usize = 12;
/// Longest template.
const MAX_TEMPLATE: usize = 256;
/// From this length on a segment with digits is an identifier, whatever else it holds.
const LONG_WITH_DIGITS: usize = 16;
/// From this length on a segment is a title or a token.
const LONG: usize = 32;
/// Names that one place may have: more than an application has endpoints beside each other, less than it has titles.
const NAMES_AT_A_PLACE: u16 = 64;
/// Of these, names that were not found (404): who tries names must not use them up.
const MISSING_AT_A_PLACE: u16 = 16;
/// Names of all places together; bounds the templates and, with 16 bytes each, the memory.
const MAX_NAMES: usize = 8192;

/// Learns which names a path's places have.
#[derive(Debug, Default)]
pub struct Routes {
    /// Hashes of place and name.
    names: FxHashSet<u64>,
    /// Names and missing names by place.
    places: FxHashMap<u64, (u16, u16)>,
    folded: u64,
}

impl Routes {
    /// Segments that became `{name}`.
    pub fn folded(&self) -> u64 {
        self.folded
    }

    /// Writes the route of a path; `missing`: nothing was found there.
    pub fn template(&mut self, path: &str, missing: bool, route: &mut String) {
        route.clear();
        // The target of OPTIONS (RFC 9112, 3.2.4) is no path.
        if path == "*" {
            return route.push('*');
        }
        let mut place = FxHasher::default();
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
            // Matrix parameters (`;jsessionid=...`) are data.
            let segment = segment.bytes().position(|byte| byte == b';').map_or(segment, |end| &segment[..end]);
            let start = route.len();
            self.segment(segment, place.finish(), missing, route);
            place.write(&route.as_bytes()[start..]);
            place.write_u8(b'/');
            index += 1;
        }
    }

    fn segment(&mut self, segment: &str, place: u64, missing: bool, route: &mut String) {
        let (stem, extension) = split_extension(segment);
        let start = route.len();
        match hashed(stem).filter(|_| !extension.is_empty()) {
            // A bundler's file: `app.9f8c2e71.js`.
            Some(name) => {
                route.push_str(name);
                route.push_str("{id}");
            }
            None if is_data(stem) => route.push_str("{id}"),
            None => route.push_str(stem),
        }
        let is_name = !segment.is_empty() && &route[start..] != "{id}";
        if is_name && !self.keeps(&route[start..], place, missing) {
            self.folded += 1;
            route.truncate(start);
            route.push_str("{name}");
        }
        route.push_str(extension);
    }

    /// Whether a name stays at this place.
    fn keeps(&mut self, name: &str, place: u64, missing: bool) -> bool {
        let mut hasher = FxHasher::default();
        hasher.write_u64(place);
        hasher.write(name.as_bytes());
        let key = hasher.finish();
        if self.names.contains(&key) {
            return true;
        }
        if self.names.len() >= MAX_NAMES {
            return false;
        }
        let (names, not_found) = self.places.entry(place).or_default();
        if *names >= NAMES_AT_A_PLACE || missing && *not_found >= MISSING_AT_A_PLACE {
            return false;
        }
        *names += 1;
        *not_found += u16::from(missing);
        self.names.insert(key)
    }
}

/// Stem and extension with its dot.
fn split_extension(segment: &str) -> (&str, &str) {
    let Some(dot) = segment.bytes().rposition(|byte| byte == b'.') else { return (segment, "") };
    let (stem, extension) = segment.split_at(dot);
    let letters = &extension[1..];
    let is_extension = !stem.is_empty()
        && !stem.contains(['@', '%'])
        && (1..=5).contains(&letters.len())
        && letters.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && letters.bytes().any(|byte| byte.is_ascii_alphabetic())
        // `v1.2b` has none.
        && (!letters.starts_with(|first: char| first.is_ascii_digit()) || matches!(letters, "7z" | "3gp"));
    if is_extension { (stem, extension) } else { (segment, "") }
}

/// The name before a hash that a bundler put behind it.
fn hashed(stem: &str) -> Option<&str> {
    let at = stem.rfind(['.', '-', '_'])? + 1;
    let (name, tail) = stem.split_at(at);
    let digits = tail.bytes().filter(u8::is_ascii_digit).count();
    let is_hash = tail.len() >= 8 && digits > 0 && digits < tail.len() && tail.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_hash && name.len() > 1 && !is_data(&name[..at - 1])).then_some(name)
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
    // Changes between letters and digits.
    let mut changes = 0;
    let mut previous = 0u8;
    for byte in bytes {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'a'..=b'f' | b'A'..=b'F' => hexadecimal += 1,
            b'-' | b'_' | b'.' | b':' | b',' | b'+' | b'~' => separators += 1,
            b'@' | b'%' | b'=' | b'$' | b'!' | b'*' | b'(' | b')' | b'\'' | 0x80.. => foreign += 1,
            _ => {}
        }
        changes +=
            usize::from(byte.is_ascii_digit() && previous.is_ascii_alphabetic() || byte.is_ascii_alphabetic() && previous.is_ascii_digit());
        previous = *byte;
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
        || changes >= 3 && length >= 8
        || is_numbered(segment)
}

/// `red-shoes-4711`, `order_991`, `4711-red-shoes`: a name with a number of three digits or more behind or before it.
fn is_numbered(segment: &str) -> bool {
    let is_separator = |byte: Option<&u8>| matches!(byte, Some(b'-' | b'_' | b'.' | b'~'));
    let bytes = segment.as_bytes();
    let before = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let behind = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    before >= 3 && is_separator(bytes.get(before))
        || behind >= 3 && is_separator(bytes.len().checked_sub(behind + 1).and_then(|at| bytes.get(at)))
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
