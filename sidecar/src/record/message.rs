//! Error texts of MySQL servers without the values that they quote.
//!
//! Guarantee: of a message that can quote a value, nothing between its first and its last quote is left, but the key's name of a
//! duplicate. What an application writes into its own errors (SIGNAL) without quotes stays: it is the error's text.

/// Errors whose quotes hold names alone: schemas, tables, columns, keys, users, hosts (MySQL manual, Server Error Message Reference).
const NAMES_ALONE: &[u16] = &[
    1007, 1008, 1044, 1045, 1046, 1048, 1049, 1050, 1051, 1052, 1054, 1060, 1061, 1066, 1068, 1072, 1091, 1109, 1110, 1130, 1142, 1143,
    1146, 1176, 1227, 1264, 1265, 1304, 1305, 1359, 1360, 1364, 1370, 1406,
];
/// A value is already there: message and quoted value, then the key's name.
const DUPLICATES: &[u16] = &[1062, 1586];
const KEY: &str = "' for key '";

/// Writes the message with `?` for what it quotes.
pub fn mask(code: u16, message: &str, masked: &mut String) {
    masked.clear();
    if NAMES_ALONE.contains(&code) {
        return masked.push_str(message);
    }
    let Some(first) = opening(message) else { return masked.push_str(message) };
    let (before, quoted) = message.split_at(first);
    masked.push_str(before);
    masked.push_str("'?'");
    let end = match quoted.rfind(KEY) {
        Some(key) if DUPLICATES.contains(&code) => key + 1,
        // Not closed: the server cut it.
        _ => quoted.rfind(['\'', '"']).filter(|last| *last > 0).map_or(quoted.len(), |last| last + 1),
    };
    masked.push_str(quoted.get(end..).unwrap_or_default());
}

/// The first quote that is no apostrophe (`doesn't`).
fn opening(message: &str) -> Option<usize> {
    let bytes = message.as_bytes();
    (0..bytes.len()).find(|at| match bytes[*at] {
        b'"' => true,
        b'\'' => !at.checked_sub(1).is_some_and(|before| bytes[before].is_ascii_alphanumeric()),
        _ => false,
    })
}
