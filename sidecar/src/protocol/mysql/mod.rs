//! MySQL 4.1 to 9.x and MariaDB (MySQL "Client/Server Protocol" in the source documentation; MariaDB "Clientserver Protocol").
//!
//! [`frame`] knows packets and integers, [`compression`] unpacks them, [`handshake`] is the login, [`command`] what clients send,
//! [`answer`] what servers send, [`decoder`] joins them. Capabilities that were not seen are inferred from the bytes, which a
//! capture that starts in the middle of a connection needs.

mod answer;
mod charset;
mod command;
mod compression;
mod decoder;
mod frame;
mod handshake;
mod parameters;
mod prepare;
mod results;
mod scale;
mod session;
#[cfg(test)]
mod tests;

use super::{Decoder, Probe, Sender, Start, Verdict};

/// Recognises the server's greeting, or a command that ends where a segment ends.
pub fn detect(probe: &Probe<'_>) -> Verdict {
    let data = probe.data;
    // The server speaks first, so what it sends before anything else may be the beginning of a greeting or of a refusal.
    let first_word = probe.from_start && probe.sender == Some(Sender::Server);
    // A client's segment may end within a command.
    let may_be_command = probe.sender == Some(Sender::Client) && !probe.from_start;
    let Some(packet) = frame::Header::parse(data) else {
        return if first_word || may_be_command && command::may_begin(data) { Verdict::Maybe } else { Verdict::No };
    };
    let payload = data.get(frame::HEADER..).unwrap_or_default();
    if packet.sequence != 0 || packet.length == 0 {
        return Verdict::No;
    }
    if probe.sender != Some(Sender::Client) && handshake::is_greeting(payload, packet.length) {
        return Verdict::Yes(Sender::Server);
    }
    let refused = first_word && payload.len() == packet.length && answer::is_refusal(payload);
    if refused {
        return Verdict::Yes(Sender::Server);
    }
    let compressed = compression::begins(data);
    let certain = command::is_certain(payload, packet.length) || compressed == Some(true);
    if probe.sender != Some(Sender::Server) && !probe.from_start && certain {
        return Verdict::Yes(Sender::Client);
    }
    if may_be_command && (command::may_begin(data) || compressed.is_none()) {
        return Verdict::Maybe;
    }
    if first_word && payload.len() < packet.length && handshake::may_become_first_packet(payload, packet.length) {
        return Verdict::Maybe;
    }
    Verdict::No
}

/// A reader of one connection.
pub fn decoder(start: Start) -> Box<dyn Decoder> {
    Box::new(compression::Envelope::new(start))
}
