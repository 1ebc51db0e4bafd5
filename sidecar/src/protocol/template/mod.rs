//! A protocol to copy: one line asks, one line answers. Compiled and run under test only; docs/adding-a-protocol.md walks through it.
//!
//! `ASK text` is answered by `OK text` or `ERR number`. [`frame`] finds lines and what they say, [`decoder`] pairs them.

mod decoder;
mod frame;
#[cfg(test)]
mod tests;

use podtap_wire::Protocol;

use super::{Decoder, Probe, ProtocolRow, Sender, Start, Verdict};

/// What stands in [`super::PROTOCOLS`]. A real protocol writes its row there, and has a value of its own in `wire`.
pub(super) const ROW: ProtocolRow = ProtocolRow { name: "line", protocol: Protocol::Unknown, detect, decoder };

/// Recognises a request at the beginning of a segment. Answers look like those of other protocols, so they are no proof.
fn detect(probe: &Probe<'_>) -> Verdict {
    match frame::begins_like_request(probe.data) {
        Some(true) => Verdict::Yes(Sender::Client),
        Some(false) => Verdict::Maybe,
        None => Verdict::No,
    }
}

fn decoder(start: Start) -> Box<dyn Decoder> {
    Box::new(decoder::Line::new(start))
}
