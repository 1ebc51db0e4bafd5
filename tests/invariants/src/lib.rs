//! What must hold for any bytes: one function for each reader of bytes that others wrote.
//!
//! Guarantee: a function panics if and only if an invariant is broken; it says `false` for bytes that are of no interest to its
//! subject, which a fuzzer then does not keep. `cargo xtask fuzz` calls them with bytes that a fuzzer thinks up, the tests here with
//! the corpus in `fuzz/corpus`. Misuse to avoid: an invariant that holds only for bytes that real peers send.

mod captured;
mod conversation;
mod network;
#[cfg(test)]
mod tests;
mod text;

pub use captured::{packet, pcap_file};
pub use conversation::{http1, mysql, tls};
pub use network::reassembly;
pub use text::{sql, wire};

/// A reader of foreign bytes and what checks it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The fuzz target and the folder of its corpus.
    pub name: &'static str,
    /// Panics if an invariant is broken.
    pub check: fn(&[u8]) -> bool,
}

/// All of them, in the order of the data's way.
pub const TARGETS: &[Target] = &[
    Target { name: "pcap_file", check: pcap_file },
    Target { name: "packet", check: packet },
    Target { name: "reassembly", check: reassembly },
    Target { name: "http1", check: http1 },
    Target { name: "tls", check: tls },
    Target { name: "mysql", check: mysql },
    Target { name: "sql", check: sql },
    Target { name: "wire", check: wire },
];

/// Takes numbers off the front of a fuzzer's bytes; what is not there is 0.
pub(crate) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        self.take(2).iter().fold(0, |number, byte| number << 8 | u16::from(*byte))
    }
}
