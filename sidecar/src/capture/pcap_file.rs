//! Source `file`: pcap and pcapng, in either byte order, with micro- or nanosecond stamps, from a file or standard input.
//!
//! What can be read is delivered; an error comes after it and says at which byte the file stops making sense. Blocks are framed here, so
//! that the position is exact and a block's size is bounded; what stands inside pcapng blocks is parsed by `pcap-parser`.

use std::io::Read;
use std::time::Duration;

use pcap_parser::{Block, parse_block_be, parse_block_le};
use podtap_wire::SourceKind;

use super::filter::Filter;
use super::{CaptureError, CapturedPacket, LinkType, Source, SourceCounters, SourceState};
use crate::packet::Skip;

/// Bytes asked of the file at a time.
const READ_BYTES: usize = 1 << 20;
/// Largest packet or block that is believed; beyond it the file is damaged.
const MAX_BLOCK_BYTES: usize = 64 << 20;
/// Packets handed over in one poll.
const PACKETS_A_POLL: usize = 4096;

const PCAPNG_SECTION: u32 = 0x0a0d_0d0a;
const PCAPNG_BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// The obsolete Packet Block, which old captures still hold (pcapng draft, appendix A).
const PCAPNG_OBSOLETE_PACKET: u32 = 2;

/// A file's bytes with a window of whole blocks over them.
struct Window {
    input: Box<dyn Read + Send>,
    path: String,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset in the file of `buffer[start]`.
    position: u64,
    ended: bool,
}

impl Window {
    fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.position += bytes as u64;
    }

    /// Reads until `wanted` bytes are there or the file has ended; says whether they are there.
    fn fill(&mut self, wanted: usize) -> Result<bool, CaptureError> {
        while self.end - self.start < wanted {
            if self.ended {
                return Ok(false);
            }
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            // A length may lie: the room at most doubles with what the file really gives.
            let room = self.end + (wanted - self.end).min(self.end).max(READ_BYTES);
            if self.buffer.len() < room {
                self.buffer.resize(room, 0);
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(bytes) => self.end += bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CaptureError::CannotOpen { path: self.path.clone(), reason: error.to_string() }),
            }
        }
        Ok(true)
    }

    fn cut(&self, reason: impl Into<String>) -> CaptureError {
        CaptureError::Cut { path: self.path.clone(), position: self.position, reason: reason.into() }
    }

    fn ends_early(&self, wanted: usize, what: &str) -> CaptureError {
        self.cut(format!("the file ends in the middle of a {what} ({} of {wanted} bytes are there)", self.end - self.start))
    }
}

/// An interface of a pcapng section.
#[derive(Clone, Copy)]
struct SectionInterface {
    link_type: LinkType,
    number: u32,
    units_a_second: u64,
    offset_seconds: i64,
    snaplen: u32,
}

enum Format {
    Pcap { big_endian: bool, header: usize, fraction_ns: u64, link_type: LinkType },
    PcapNg { big_endian: bool, interfaces: Vec<SectionInterface>, interfaces_before: u32 },
}

struct PcapFile {
    window: Window,
    format: Format,
    filter: Option<Filter>,
    counters: SourceCounters,
}

/// Reads a capture from anything; errors call it `name`.
pub fn from_reader(input: Box<dyn Read + Send>, name: &str) -> Result<Box<dyn Source>, CaptureError> {
    Ok(Box::new(PcapFile::from_reader(input, name)?))
}

/// Opens a capture file; `-` is standard input.
pub fn open(path: &str, filter: Option<Filter>) -> Result<Box<dyn Source>, CaptureError> {
    let cannot = |error: std::io::Error| CaptureError::CannotOpen { path: path.to_owned(), reason: error.to_string() };
    let input: Box<dyn Read + Send> = if path == "-" {
        Box::new(std::io::stdin())
    } else {
        let file = std::fs::File::open(path).map_err(cannot)?;
        if file.metadata().map_err(cannot)?.is_dir() {
            return Err(CaptureError::CannotOpen { path: path.to_owned(), reason: "is a directory".to_owned() });
        }
        Box::new(file)
    };
    let name = if path == "-" { "standard input" } else { path };
    let mut file = PcapFile::from_reader(input, name)?;
    file.filter = filter;
    if let (Format::Pcap { link_type, .. }, Some(filter)) = (&file.format, &mut file.filter) {
        filter.compile(*link_type)?;
    }
    Ok(Box::new(file))
}

fn word(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let mut word = [0; 4];
    if let Some(found) = bytes.get(at..at + 4) {
        word.copy_from_slice(found);
    }
    if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}

impl PcapFile {
    fn from_reader(input: Box<dyn Read + Send>, path: &str) -> Result<Self, CaptureError> {
        let mut window = Window { input, path: path.to_owned(), buffer: Vec::new(), start: 0, end: 0, position: 0, ended: false };
        let not = |reason: String| CaptureError::NotACapture { path: path.to_owned(), reason };
        if !window.fill(4)? {
            return Err(not(if window.end == 0 { "it is empty".to_owned() } else { format!("it has only {} bytes", window.end) }));
        }
        let magic = word(window.data(), 0, true);
        let (big_endian, header, fraction_ns) = match magic {
            PCAPNG_SECTION => {
                let format = Format::PcapNg { big_endian: false, interfaces: Vec::new(), interfaces_before: 0 };
                let mut file = Self { window, format, filter: None, counters: SourceCounters::default() };
                // The first section header is read at once, so that a file that only begins like pcapng is told apart when it is opened.
                file.section_order().map_err(|error| not(error.to_string()))?;
                return Ok(file);
            }
            0xa1b2_c3d4 => (true, 16, 1000),
            0xa1b2_3c4d => (true, 16, 1),
            0xa1b2_cd34 => (true, 24, 1000),
            0xd4c3_b2a1 => (false, 16, 1000),
            0x4d3c_b2a1 => (false, 16, 1),
            0x34cd_b2a1 => (false, 24, 1000),
            _ if magic >> 16 == 0x1f8b => return Err(not("it is compressed with gzip; decompress it first".to_owned())),
            _ if magic == 0x28b5_2ffd => return Err(not("it is compressed with zstd; decompress it first".to_owned())),
            _ => return Err(not(format!("it begins with {magic:08x}, which is neither pcap nor pcapng"))),
        };
        if !window.fill(24)? {
            return Err(not(format!("its header is cut: 24 bytes are needed, {} are there", window.end)));
        }
        // The upper bits may hold the length of a frame check sequence (pcap draft, 4).
        let number = (word(window.data(), 20, big_endian) & 0x03ff_ffff) as i32;
        let link_type = LinkType::from_number(number)
            .ok_or_else(|| not(format!("its packets have link type {number}, which this version cannot read")))?;
        window.consume(24);
        let format = Format::Pcap { big_endian, header, fraction_ns, link_type };
        Ok(Self { window, format, filter: None, counters: SourceCounters::default() })
    }

    /// The byte order of the section header that stands next.
    fn section_order(&mut self) -> Result<bool, CaptureError> {
        if !self.window.fill(12)? {
            return Err(self.window.ends_early(12, "section header"));
        }
        match (word(self.window.data(), 8, true), word(self.window.data(), 8, false)) {
            (PCAPNG_BYTE_ORDER, _) => Ok(true),
            (_, PCAPNG_BYTE_ORDER) => Ok(false),
            (other, _) => Err(self.window.cut(format!("the section header's byte order mark is {other:08x}"))),
        }
    }

    /// Delivers the next packet or reads the next block; false at the end of the file.
    fn step(&mut self, handle: &mut dyn FnMut(CapturedPacket<'_>)) -> Result<bool, CaptureError> {
        match self.format {
            Format::Pcap { big_endian, header, fraction_ns, link_type } => {
                self.pcap_packet(big_endian, header, fraction_ns, link_type, handle)
            }
            Format::PcapNg { .. } => self.pcapng_block(handle),
        }
    }

    fn pcap_packet(
        &mut self,
        big_endian: bool,
        header: usize,
        fraction_ns: u64,
        link_type: LinkType,
        handle: &mut dyn FnMut(CapturedPacket<'_>),
    ) -> Result<bool, CaptureError> {
        if !self.window.fill(header)? {
            return if self.window.data().is_empty() { Ok(false) } else { Err(self.window.ends_early(header, "packet header")) };
        }
        let bytes = self.window.data();
        let field = |index: usize| word(bytes, index * 4, big_endian);
        let (seconds, fraction, length, original_length) = (field(0), field(1), field(2) as usize, field(3));
        if length > MAX_BLOCK_BYTES || u64::from(fraction) * fraction_ns >= 1_000_000_000 {
            return Err(self.window.cut(format!("no packet header can be here (length {length}, fraction {fraction})")));
        }
        let whole = header + length;
        if !self.window.fill(whole)? {
            return Err(self.window.ends_early(whole, "packet"));
        }
        let packet = CapturedPacket {
            timestamp_ns: u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * fraction_ns,
            interface: 0,
            link_type,
            data: &self.window.data()[header..whole],
            original_length,
        };
        deliver(&mut self.counters, self.filter.as_ref(), packet, handle);
        self.window.consume(whole);
        Ok(true)
    }

    fn pcapng_block(&mut self, handle: &mut dyn FnMut(CapturedPacket<'_>)) -> Result<bool, CaptureError> {
        if !self.window.fill(12)? {
            return if self.window.data().is_empty() { Ok(false) } else { Err(self.window.ends_early(12, "block")) };
        }
        if word(self.window.data(), 0, true) == PCAPNG_SECTION {
            let order = self.section_order()?;
            if let Format::PcapNg { big_endian, interfaces, interfaces_before } = &mut self.format {
                *big_endian = order;
                *interfaces_before += interfaces.len() as u32;
                interfaces.clear();
            }
        }
        let Format::PcapNg { big_endian, interfaces, interfaces_before } = &mut self.format else { return Ok(false) };
        let big_endian = *big_endian;
        let length = word(self.window.data(), 4, big_endian) as usize;
        if !(12..=MAX_BLOCK_BYTES).contains(&length) || !length.is_multiple_of(4) {
            return Err(self.window.cut(format!("no block can be {length} bytes long")));
        }
        if !self.window.fill(length)? {
            return Err(self.window.ends_early(length, "block"));
        }
        let bytes = &self.window.data()[..length];
        if word(bytes, length - 4, big_endian) as usize != length {
            return Err(self.window.cut("the two lengths of a block differ"));
        }
        if word(bytes, 0, big_endian) == PCAPNG_OBSOLETE_PACKET {
            let interface = obsolete_interface(bytes, big_endian);
            let stamp = u64::from(word(bytes, 12, big_endian)) << 32 | u64::from(word(bytes, 16, big_endian));
            let (captured, original) = (word(bytes, 20, big_endian) as usize, word(bytes, 24, big_endian));
            match (interfaces.get(interface), bytes.get(28..28 + captured)) {
                (Some(interface), Some(data)) => {
                    let packet = packet_of(interface, stamp, data, original);
                    deliver(&mut self.counters, self.filter.as_ref(), packet, handle);
                }
                _ => return Err(self.window.cut("a packet block names no interface or is too short")),
            }
            self.window.consume(length);
            return Ok(true);
        }
        let parsed = if big_endian { parse_block_be(bytes) } else { parse_block_le(bytes) };
        let block = match parsed {
            Ok((_, block)) => block,
            // The parser's own error holds the whole block and says no more than this.
            Err(_) => {
                return Err(self
                    .window
                    .cut(format!("the fields of a block of type {:#x} do not fit its length", word(bytes, 0, big_endian))));
            }
        };
        let delivered = match block {
            Block::InterfaceDescription(description) => {
                let number = description.linktype.0;
                let link_type = LinkType::from_number(number)
                    .ok_or_else(|| self.window.cut(format!("an interface has link type {number}, which this version cannot read")))?;
                let units_a_second = description
                    .ts_resolution()
                    .filter(|units| *units > 0)
                    .ok_or_else(|| self.window.cut("an interface has an impossible time resolution"))?;
                if let Some(filter) = &mut self.filter {
                    filter.compile(link_type)?;
                }
                let number = *interfaces_before + interfaces.len() as u32;
                let offset_seconds = description.ts_offset();
                interfaces.push(SectionInterface { link_type, number, units_a_second, offset_seconds, snaplen: description.snaplen });
                true
            }
            Block::EnhancedPacket(packet) => {
                let stamp = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                let data = packet.data.get(..packet.caplen as usize);
                match (interfaces.get(packet.if_id as usize), data) {
                    (Some(interface), Some(data)) => {
                        let packet = packet_of(interface, stamp, data, packet.origlen);
                        deliver(&mut self.counters, self.filter.as_ref(), packet, handle);
                        true
                    }
                    _ => false,
                }
            }
            Block::SimplePacket(packet) => match interfaces.first() {
                // A simple packet has no stamp of its own (pcapng draft, 4.4): it cannot give a latency, 0 says so.
                Some(interface) => {
                    let limit = if interface.snaplen == 0 { u32::MAX } else { interface.snaplen };
                    let captured = packet.origlen.min(limit) as usize;
                    let data = packet.data.get(..captured).unwrap_or(packet.data);
                    let packet = packet_of(interface, 0, data, packet.origlen);
                    deliver(&mut self.counters, self.filter.as_ref(), packet, handle);
                    true
                }
                None => false,
            },
            _ => true,
        };
        if !delivered {
            return Err(self.window.cut("a packet names an interface that the section does not describe"));
        }
        self.window.consume(length);
        Ok(true)
    }
}

fn obsolete_interface(bytes: &[u8], big_endian: bool) -> usize {
    let pair = [bytes.get(8).copied().unwrap_or(0), bytes.get(9).copied().unwrap_or(0)];
    usize::from(if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) })
}

fn packet_of<'a>(interface: &SectionInterface, stamp: u64, data: &'a [u8], original_length: u32) -> CapturedPacket<'a> {
    let nanoseconds = u128::from(stamp) * 1_000_000_000 / u128::from(interface.units_a_second);
    let offset = i128::from(interface.offset_seconds) * 1_000_000_000;
    let timestamp_ns = (nanoseconds as i128 + offset).clamp(0, i128::from(u64::MAX)) as u64;
    CapturedPacket { timestamp_ns, interface: interface.number, link_type: interface.link_type, data, original_length }
}

fn deliver(counters: &mut SourceCounters, filter: Option<&Filter>, packet: CapturedPacket<'_>, handle: &mut dyn FnMut(CapturedPacket<'_>)) {
    counters.received += 1;
    match filter {
        Some(filter) if !filter.matches(&packet) => counters.filtered += 1,
        _ => handle(packet),
    }
}

impl Source for PcapFile {
    fn poll(&mut self, _timeout: Duration, handle: &mut dyn FnMut(CapturedPacket<'_>)) -> Result<SourceState, CaptureError> {
        for _ in 0..PACKETS_A_POLL {
            if !self.step(handle)? {
                return Ok(SourceState::Ended);
            }
        }
        Ok(SourceState::Open)
    }

    fn counters(&mut self) -> SourceCounters {
        self.counters
    }

    fn skip(&mut self, _skip: &Skip) {}

    fn kind(&self) -> SourceKind {
        SourceKind::File
    }
}

#[cfg(test)]
mod tests;
