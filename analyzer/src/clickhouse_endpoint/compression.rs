//! Compression of HTTP bodies: content encodings, and ClickHouse's own blocks (`compress=1`, `decompress=1`).
//!
//! A block is a 16-byte CityHash128 (version 1.0.2) of what follows, a method byte (0x82 LZ4, 0x90 ZSTD, 0x02 none), the
//! compressed size with these 9 bytes, the size of the data, and the data; see "Compression" in ClickHouse's native protocol.
//!
//! Guarantee: a wrong checksum, a size beyond [`MAX_BLOCK`] or a cut block is an error, never wrong data. The one misuse:
//! dropping an [`Encoder`] without [`Encoder::finish`], which loses the end of the stream.

use std::io::{self, Read, Write};

use super::exception::{CANNOT_DECOMPRESS, CHECKSUM_DOESNT_MATCH, Exception, NOT_IMPLEMENTED};

const LZ4: u8 = 0x82;
const ZSTD: u8 = 0x90;
const NONE: u8 = 0x02;
/// Checksum, method, two sizes.
const CHECKSUM: usize = 16;
const HEADER: usize = 9;
/// ClickHouse's DBMS_MAX_COMPRESSED_SIZE: no block is larger, on either side of compression.
const MAX_BLOCK: usize = 1 << 30;
/// Size of the blocks written: ClickHouse's max_compress_block_size.
const BLOCK: usize = 1 << 20;

/// A content encoding of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Gzip,
    Deflate,
    Zstd,
    Lz4,
}

impl Encoding {
    /// The encodings in the order they are preferred when a client takes several with equal weight.
    const PREFERRED: [Self; 4] = [Self::Zstd, Self::Lz4, Self::Gzip, Self::Deflate];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// The encoding of a request's `Content-Encoding`; none when the body is plain.
    pub fn of_request(value: &str) -> Result<Option<Self>, Exception> {
        let value = value.trim().to_ascii_lowercase();
        if value.is_empty() || value == "identity" {
            return Ok(None);
        }
        let known = Self::PREFERRED.into_iter().find(|encoding| value == encoding.name() || (value == "x-gzip" && *encoding == Self::Gzip));
        let unknown = || Exception::new(NOT_IMPLEMENTED, format!("Unknown compression method {value} (known: gzip, deflate, zstd, lz4)"));
        known.map(Some).ok_or_else(unknown)
    }

    /// The first preferred encoding that `Accept-Encoding` does not refuse.
    pub fn of_response(accept: &str) -> Option<Self> {
        let accepted: Vec<String> = accept
            .split(',')
            .filter(|entry| !entry.replace(' ', "").ends_with(";q=0"))
            .filter_map(|entry| entry.split(';').next())
            .map(|name| name.trim().to_ascii_lowercase())
            .collect();
        Self::PREFERRED.into_iter().find(|encoding| accepted.iter().any(|name| name == encoding.name()))
    }

    /// Reads the plain bytes of an encoded body.
    pub fn decoder<'a>(self, body: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(body)),
            Self::Deflate => Box::new(flate2::read::ZlibDecoder::new(body)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(body)?),
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(body)),
        })
    }
}

/// Compresses a response, chunk by chunk.
pub enum Encoder {
    Plain(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Lz4(lz4_flex::frame::FrameEncoder<Vec<u8>>),
    /// `compress=1`: blocks within the body, without a content encoding.
    Blocks {
        pending: Vec<u8>,
        output: Vec<u8>,
    },
}

impl Encoder {
    pub fn new(encoding: Option<Encoding>, blocks: bool) -> io::Result<Self> {
        // ClickHouse's http_zlib_compression_level and its levels for the others are low too: the answer is read soon.
        let level = flate2::Compression::new(3);
        Ok(match encoding {
            None if blocks => Self::Blocks { pending: Vec::new(), output: Vec::new() },
            None => Self::Plain(Vec::new()),
            Some(Encoding::Gzip) => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), level)),
            Some(Encoding::Deflate) => Self::Deflate(flate2::write::ZlibEncoder::new(Vec::new(), level)),
            Some(Encoding::Zstd) => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1)?),
            Some(Encoding::Lz4) => Self::Lz4(lz4_flex::frame::FrameEncoder::new(Vec::new())),
        })
    }

    /// Takes plain bytes; returns what can be sent.
    pub fn write(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(output) => output.extend_from_slice(plain),
            Self::Gzip(encoder) => encoder.write_all(plain)?,
            Self::Deflate(encoder) => encoder.write_all(plain)?,
            Self::Zstd(encoder) => encoder.write_all(plain)?,
            Self::Lz4(encoder) => encoder.write_all(plain)?,
            Self::Blocks { pending, output } => {
                pending.extend_from_slice(plain);
                while pending.len() >= BLOCK {
                    let rest = pending.split_off(BLOCK);
                    output.extend(lz4_block(pending));
                    *pending = rest;
                }
            }
        }
        Ok(self.take())
    }

    /// What was taken so far becomes readable for the client: its own block, or a flush of the compressor.
    pub fn flush(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(_) => {}
            Self::Gzip(encoder) => encoder.flush()?,
            Self::Deflate(encoder) => encoder.flush()?,
            Self::Zstd(encoder) => encoder.flush()?,
            Self::Lz4(encoder) => encoder.flush()?,
            Self::Blocks { pending, output } => {
                if !pending.is_empty() {
                    output.extend(lz4_block(pending));
                    pending.clear();
                }
            }
        }
        Ok(self.take())
    }

    /// The end of the stream.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(output) => Ok(output),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::other),
            Self::Blocks { .. } => self.flush(),
        }
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Self::Plain(output) | Self::Blocks { output, .. } => output,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Deflate(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Lz4(encoder) => encoder.get_mut(),
        })
    }
}

/// The checksum of a block as it stands in its first 16 bytes.
fn checksum(header_and_data: &[u8]) -> [u8; CHECKSUM] {
    // ClickHouse writes the two halves in the other order than the hash names them.
    cityhash_rs::cityhash_102_128(header_and_data).rotate_right(64).to_le_bytes()
}

fn lz4_block(plain: &[u8]) -> Vec<u8> {
    let data = lz4_flex::block::compress(plain);
    let mut block = vec![0; CHECKSUM];
    block.push(LZ4);
    // Both sizes are below 2^31: `plain` is at most BLOCK long, or one exception text.
    block.extend_from_slice(&((HEADER + data.len()) as u32).to_le_bytes());
    block.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    block.extend_from_slice(&data);
    let sum = checksum(&block[CHECKSUM..]);
    block[..CHECKSUM].copy_from_slice(&sum);
    block
}

/// Reads ClickHouse's blocks (`decompress=1`).
pub struct BlockReader<R> {
    body: R,
    plain: Vec<u8>,
    at: usize,
}

impl<R: Read> BlockReader<R> {
    pub fn new(body: R) -> Self {
        Self { body, plain: Vec::new(), at: 0 }
    }

    /// False at the end of the body.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut head = [0_u8; CHECKSUM + HEADER];
        let mut filled = 0;
        while filled < head.len() {
            match self.body.read(&mut head[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(decompression_error("the body ends inside the head of a compressed block")),
                length => filled += length,
            }
        }
        let size = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (method, compressed, plain) = (head[CHECKSUM], size(CHECKSUM + 1), size(CHECKSUM + 5));
        if !(HEADER..=MAX_BLOCK).contains(&compressed) || plain > MAX_BLOCK {
            return Err(decompression_error(format!("a compressed block of {compressed} bytes for {plain} bytes of data: not a block")));
        }
        let mut block = Vec::new();
        block.extend_from_slice(&head[CHECKSUM..]);
        let read = (&mut self.body).take((compressed - HEADER) as u64).read_to_end(&mut block)?;
        if read < compressed - HEADER {
            return Err(decompression_error("the body ends inside a compressed block"));
        }
        if checksum(&block) != head[..CHECKSUM] {
            return Err(io::Error::other(ReadError(Exception::new(CHECKSUM_DOESNT_MATCH, "Checksum doesn't match: corrupted data"))));
        }
        let data = &block[HEADER..];
        self.plain = match method {
            LZ4 => lz4_flex::block::decompress(data, plain).map_err(|error| decompression_error(error.to_string()))?,
            ZSTD => zstd::bulk::decompress(data, plain).map_err(|error| decompression_error(error.to_string()))?,
            NONE => data.to_vec(),
            other => return Err(decompression_error(format!("unknown compression method 0x{other:02x} in a block"))),
        };
        if self.plain.len() != plain {
            return Err(decompression_error(format!("a block has {} bytes where its head says {plain}", self.plain.len())));
        }
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let length = buffer.len().min(self.plain.len() - self.at);
        buffer[..length].copy_from_slice(&self.plain[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// An [`Exception`] on its way through `io::Read`.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ReadError(pub Exception);

fn decompression_error(message: impl std::fmt::Display) -> io::Error {
    io::Error::other(ReadError(Exception::new(CANNOT_DECOMPRESS, message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Vec<u8> {
        (0..3_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).take(2_500_000).collect()
    }

    fn encode(encoding: Option<Encoding>, blocks: bool) -> Vec<u8> {
        let mut encoder = Encoder::new(encoding, blocks).unwrap();
        let mut encoded = Vec::new();
        for chunk in plain().chunks(300_001) {
            encoded.extend(encoder.write(chunk).unwrap());
        }
        encoded.extend(encoder.flush().unwrap());
        encoded.extend(encoder.finish().unwrap());
        encoded
    }

    #[test]
    fn content_encodings_come_back() {
        for encoding in Encoding::PREFERRED {
            let encoded = encode(Some(encoding), false);
            assert!(encoded.len() < plain().len(), "{encoding:?} makes it smaller");
            let mut decoded = Vec::new();
            encoding.decoder(encoded.as_slice()).unwrap().read_to_end(&mut decoded).unwrap();
            assert!(decoded == plain(), "{encoding:?}");
        }
    }

    #[test]
    fn blocks_come_back_and_broken_ones_are_refused() {
        let encoded = encode(None, true);
        let mut decoded = Vec::new();
        BlockReader::new(encoded.as_slice()).read_to_end(&mut decoded).unwrap();
        assert!(decoded == plain());
        for (what, broken, expected) in [
            ("cut", encoded[..encoded.len() - 1].to_vec(), "ends inside a compressed block"),
            ("cut head", encoded[..10].to_vec(), "ends inside the head"),
            (
                "flipped",
                {
                    let mut flipped = encoded.clone();
                    flipped[40] ^= 1;
                    flipped
                },
                "Checksum doesn't match",
            ),
            ("random", vec![0xff; 100], "not a block"),
        ] {
            let error = BlockReader::new(broken.as_slice()).read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains(expected), "{what}: {error}");
        }
    }

    #[test]
    fn a_plain_and_a_zstd_block_are_read() {
        for (method, data) in [(NONE, b"hello".to_vec()), (ZSTD, zstd::bulk::compress(b"hello", 1).unwrap())] {
            let mut rest = vec![method];
            rest.extend(((HEADER + data.len()) as u32).to_le_bytes());
            rest.extend(5_u32.to_le_bytes());
            rest.extend(&data);
            let mut block = checksum(&rest).to_vec();
            block.extend(rest);
            let mut decoded = Vec::new();
            BlockReader::new(block.as_slice()).read_to_end(&mut decoded).unwrap();
            assert_eq!(decoded, b"hello");
        }
    }

    #[test]
    fn the_client_chooses_among_what_is_offered() {
        assert_eq!(Encoding::of_response("gzip, deflate, br, zstd"), Some(Encoding::Zstd));
        assert_eq!(Encoding::of_response("gzip;q=0.5, zstd;q=0"), Some(Encoding::Gzip));
        assert_eq!(Encoding::of_response("br"), None);
        assert_eq!(Encoding::of_request("GZIP").unwrap(), Some(Encoding::Gzip));
        assert_eq!(Encoding::of_request("identity").unwrap(), None);
        assert_eq!(Encoding::of_request("br").unwrap_err().code, 48);
    }
}
