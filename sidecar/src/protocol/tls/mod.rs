//! TLS, as a label: one record a connection with SNI, ALPN and version (RFC 8446, RFC 5246, RFC 6066, RFC 7301).
//!
//! What is encrypted stays closed; it is counted, so that it is never silently absent.

mod decoder;
mod frame;
#[cfg(test)]
mod tests;

use super::{Decoder, Probe, Sender, Start, Verdict};

/// Recognises hellos, and records of a connection that is already encrypted.
pub fn detect(probe: &Probe<'_>) -> Verdict {
    let data = probe.data;
    match data {
        [0x16, 3, 0..=4, _, _, 1, 0, ..] => Verdict::Yes(Sender::Client),
        [0x16, 3, 0..=4, _, _, 2, 0, ..] => Verdict::Yes(Sender::Server),
        [0x16, 3, ..] | [0x16] if data.len() < 7 => Verdict::Maybe,
        [0x17, 3, 3, ..] if !probe.from_start && frame::is_record_chain(data) => Verdict::Yes(probe.sender.unwrap_or(probe.likely)),
        _ => Verdict::No,
    }
}

/// A reader of one connection.
pub fn decoder(start: Start) -> Box<dyn Decoder> {
    Box::new(decoder::Tls::new(start))
}
