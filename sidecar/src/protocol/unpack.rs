//! Unpacking of what protocols compress: zlib (RFC 1950) and zstd (RFC 8878), piece by piece and within a cap.
//!
//! Guarantee: at most [`MAX_BYTES`] are held for what is being unpacked at one moment, however many connections compress. What the
//! bytes are is told by their first ones. Misuse to avoid: keeping an [`Unpacker`] when its packet is over; give it back.

use std::fmt;

use flate2::{Decompress, FlushDecompress};
use zstd::stream::raw::{DParameter, Decoder as Zstd, InBuffer, Operation, OutBuffer};

/// Bytes handed on at a time.
pub const PIECE: usize = 16 << 10;
/// Cap of the memory of all unpackers in use.
const MAX_BYTES: usize = 16 << 20;
/// What an unpacker takes at least: zlib's window and tables, zstd's are of the same size.
const STATE_BYTES: usize = 96 << 10;
/// zstd frames with a larger window (16 MiB, what a packet can hold) are refused.
const MAX_WINDOW_LOG: u32 = 24;
/// Unpackers kept for the next packet.
const SPARE: usize = 4;
/// First byte of a zstd frame (RFC 8878, 3.1.1); zlib's is 0x78 where its window is 32 KiB (RFC 1950, 2.2).
const ZSTD_FIRST: u8 = 0x28;

/// Why something cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not what it should be.
    Malformed,
    /// Too much is being unpacked already.
    Full,
}

enum Method {
    /// Nothing was seen yet.
    Unknown,
    Zlib(Decompress),
    Zstd(Zstd<'static>),
}

/// One packet being unpacked.
pub struct Unpacker {
    method: Method,
    reserved: usize,
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Unknown => "unknown",
            Method::Zlib(_) => "zlib",
            Method::Zstd(_) => "zstd",
        };
        f.debug_struct("Unpacker").field("method", &method).field("reserved", &self.reserved).finish()
    }
}

/// What all connections share.
#[derive(Default)]
pub struct Unpackers {
    spare: Vec<Method>,
    reserved: usize,
    piece: Vec<u8>,
}

impl fmt::Debug for Unpackers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpackers").field("spare", &self.spare.len()).field("reserved", &self.reserved).finish_non_exhaustive()
    }
}

impl Unpackers {
    /// Begins a packet that says it has `length` bytes when unpacked.
    pub fn lend(&mut self, length: usize) -> Result<Box<Unpacker>, Refusal> {
        let reserved = STATE_BYTES + length.min(MAX_BYTES);
        if self.reserved + reserved > MAX_BYTES + STATE_BYTES {
            return Err(Refusal::Full);
        }
        self.reserved += reserved;
        Ok(Box::new(Unpacker { method: Method::Unknown, reserved }))
    }

    /// Ends a packet.
    pub fn give_back(&mut self, unpacker: Unpacker) {
        self.reserved -= unpacker.reserved;
        // One that held a large window would keep it.
        let small = unpacker.reserved <= STATE_BYTES + (64 << 10);
        if small && self.spare.len() < SPARE && !matches!(unpacker.method, Method::Unknown) {
            self.spare.push(unpacker.method);
        }
    }

    /// Room for one piece, to be handed back by [`Unpackers::keep_piece`].
    pub fn take_piece(&mut self) -> Vec<u8> {
        let mut piece = std::mem::take(&mut self.piece);
        piece.resize(PIECE, 0);
        piece
    }

    /// Takes the room back.
    pub fn keep_piece(&mut self, piece: Vec<u8>) {
        self.piece = piece;
    }

    /// Memory that is promised to unpackers in use.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    fn method(&mut self, zstd: bool) -> Result<Method, Refusal> {
        if let Some(at) = self.spare.iter().position(|method| matches!(method, Method::Zstd(_)) == zstd) {
            let mut method = self.spare.swap_remove(at);
            match &mut method {
                Method::Zlib(zlib) => zlib.reset(true),
                Method::Zstd(decoder) => decoder.reinit().map_err(|_| Refusal::Malformed)?,
                Method::Unknown => {}
            }
            return Ok(method);
        }
        if !zstd {
            return Ok(Method::Zlib(Decompress::new(true)));
        }
        let mut decoder = Zstd::new().map_err(|_| Refusal::Full)?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(|_| Refusal::Full)?;
        Ok(Method::Zstd(decoder))
    }

    /// Unpacks some of `input` into `output`; tells how many bytes were read and written. Nothing read and nothing written means
    /// that more input is needed.
    pub fn run(&mut self, unpacker: &mut Unpacker, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), Refusal> {
        if !matches!(unpacker.method, Method::Unknown) {
            return unpacker.method.run(input, output);
        }
        let Some(first) = input.first() else { return Ok((0, 0)) };
        unpacker.method = self.method(*first == ZSTD_FIRST)?;
        unpacker.method.run(input, output)
    }
}

impl Method {
    fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), Refusal> {
        match self {
            Method::Unknown => Ok((0, 0)),
            Method::Zlib(zlib) => {
                let (read, written) = (zlib.total_in(), zlib.total_out());
                zlib.decompress(input, output, FlushDecompress::None).map_err(|_| Refusal::Malformed)?;
                Ok(((zlib.total_in() - read) as usize, (zlib.total_out() - written) as usize))
            }
            Method::Zstd(decoder) => {
                let mut from = InBuffer::around(input);
                let mut to = OutBuffer::around(output);
                decoder.run(&mut from, &mut to).map_err(|_| Refusal::Malformed)?;
                Ok((from.pos(), to.pos()))
            }
        }
    }
}
