//! Packets and capture files.

use std::io::Read;
use std::time::Duration;

use podtap_sidecar::capture::{CapturedPacket, LinkType, SourceState, pcap_file as source};
use podtap_sidecar::packet::{self as view, Ignored, Segment};

use crate::Bytes;

const LINK_TYPES: [LinkType; 6] =
    [LinkType::Ethernet, LinkType::Raw, LinkType::Null, LinkType::Loop, LinkType::LinuxSll, LinkType::LinuxSll2];

/// One packet: link type, two bytes that say where a snap length cuts it, then what was captured.
///
/// A segment's payload is a part of the packet; the same packet cut shorter gives the same numbers with less payload, or says that its
/// headers are cut.
pub fn packet(data: &[u8]) -> bool {
    let mut bytes = Bytes(data);
    let link_type = LINK_TYPES[usize::from(bytes.u8()) % LINK_TYPES.len()];
    let cut = usize::from(bytes.u16());
    let data = bytes.0;
    let length = data.len() as u32;
    let read = |data| view::parse(&CapturedPacket { timestamp_ns: 1, interface: 0, link_type, data, original_length: length });
    let Ok(whole) = read(data) else {
        // What is cut of no segment is no segment either, whatever it is called.
        return data.len() < 200;
    };
    // An IP header may claim more than the wire had, though never more than it can say.
    assert!(is_within(whole.payload, data) && whole.payload_length as usize <= data.len().max(1 << 16));
    assert!(whole.payload.len() <= whole.payload_length as usize);
    let shorter = data.get(..cut).unwrap_or(data);
    match read(shorter) {
        Ok(part) => {
            assert!(is_within(part.payload, shorter) && whole.payload.starts_with(part.payload));
            assert_eq!(numbers(&part), numbers(&whole));
        }
        Err(why) => assert_eq!(why, Ignored::HeaderCut),
    }
    true
}

fn numbers(segment: &Segment<'_>) -> String {
    format!("{:?}", Segment { payload: &[], ..*segment })
}

fn is_within(part: &[u8], whole: &[u8]) -> bool {
    part.is_empty() || whole.as_ptr_range().start <= part.as_ptr_range().start && part.as_ptr_range().end <= whole.as_ptr_range().end
}

/// Lends a file in pieces, as a pipe does.
struct Pipe {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let rest = &self.bytes[self.at..];
        let length = rest.len().min(into.len()).min(self.piece);
        into[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}

/// A capture file: the size of the pieces it is read in, then the file.
///
/// Packets lie within the file's size, are counted, and are the same whether the file comes at once or in pieces; so is the error.
pub fn pcap_file(data: &[u8]) -> bool {
    let mut bytes = Bytes(data);
    let piece = 1 + usize::from(bytes.u8());
    let whole = read_file(bytes.0, usize::MAX);
    assert_eq!(whole, read_file(bytes.0, piece));
    let captured: usize = whole.packets.iter().map(|packet| packet.2).sum();
    assert!(captured <= bytes.0.len(), "more bytes than the file has");
    assert_eq!(whole.received, whole.packets.len() as u64);
    !whole.packets.is_empty() || bytes.0.len() < 64
}

#[derive(Debug, PartialEq, Eq)]
struct Contents {
    /// Time, interface, captured length, length on the wire, sum of the bytes.
    packets: Vec<(u64, u32, usize, u32, u64)>,
    received: u64,
    error: String,
}

fn read_file(file: &[u8], piece: usize) -> Contents {
    let mut read = Contents { packets: Vec::new(), received: 0, error: String::new() };
    let mut source = match source::from_reader(Box::new(Pipe { bytes: file.to_vec(), at: 0, piece }), "file") {
        Ok(source) => source,
        Err(error) => return Contents { error: error.to_string(), ..read },
    };
    loop {
        let state = source.poll(Duration::ZERO, &mut |packet| {
            let sum = packet.data.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            read.packets.push((packet.timestamp_ns, packet.interface, packet.data.len(), packet.original_length, sum));
        });
        match state {
            Ok(SourceState::Open) => {}
            Ok(SourceState::Ended) => break,
            Err(error) => {
                read.error = error.to_string();
                break;
            }
        }
    }
    read.received = source.counters().received;
    read
}
