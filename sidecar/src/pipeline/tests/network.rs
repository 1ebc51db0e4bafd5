//! What lies between two hosts and a capture: cuts, merges, copies, retransmissions, disorder and loss, done to real captures.
//!
//! Guarantee: every function gives packets that a capture of the same conversation could hold. Misuse to avoid: [`timed`] comes
//! last, because the time of a capture is the order in which it was taken.

use std::path::Path;
use std::time::Duration;

use crate::capture::{CapturedPacket, LinkType, SourceState, pcap_file};
use crate::packet::{self, Endpoint};

/// A TCP segment on its way.
#[derive(Clone, Debug)]
pub struct Packet {
    pub at_ns: u64,
    pub source: Endpoint,
    pub destination: Endpoint,
    pub sequence: u32,
    pub acknowledgment: Option<u32>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub payload: Vec<u8>,
}

/// Largest segment that GSO, GRO and BIG TCP are told to make.
pub const LARGEST: usize = 256 << 10;

impl Packet {
    /// First sequence number behind the payload.
    pub fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.payload.len() as u32)
    }

    fn same_direction(&self, other: &Self) -> bool {
        self.source == other.source && self.destination == other.destination
    }

    fn same_connection(&self, other: &Self) -> bool {
        self.same_direction(other) || self.source == other.destination && self.destination == other.source
    }

    fn is_plain(&self) -> bool {
        !self.syn && !self.fin && !self.rst
    }

    /// True if it carries the byte with this sequence number.
    pub fn carries(&self, sequence: u32) -> bool {
        (sequence.wrapping_sub(self.sequence) as usize) < self.payload.len()
    }

    /// The packet's bytes as an interface shows them.
    pub fn bytes(&self, link: LinkType) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(20 + self.payload.len());
        tcp.extend_from_slice(&self.source.1.to_be_bytes());
        tcp.extend_from_slice(&self.destination.1.to_be_bytes());
        tcp.extend_from_slice(&self.sequence.to_be_bytes());
        tcp.extend_from_slice(&self.acknowledgment.unwrap_or(0).to_be_bytes());
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        tcp.extend_from_slice(&[5 << 4, bit(self.fin, 1) | bit(self.syn, 2) | bit(self.rst, 4) | bit(self.acknowledgment.is_some(), 16)]);
        // Window, a checksum that offload has not filled in yet, urgent pointer.
        tcp.extend_from_slice(&[0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend_from_slice(&self.payload);
        let mut bytes = match link {
            LinkType::Raw => Vec::new(),
            LinkType::LinuxSll2 => vec![0; 20],
            _ => vec![0; 14],
        };
        let ether_type = if self.source.0.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        match link {
            LinkType::Raw => {}
            LinkType::LinuxSll2 => bytes[..2].copy_from_slice(&ether_type),
            _ => bytes[12..].copy_from_slice(&ether_type),
        }
        // A packet that its length field cannot hold has 0 there, as BIG TCP leaves it.
        let length = |length: usize| u16::try_from(length).unwrap_or(0).to_be_bytes();
        match (self.source.0, self.destination.0) {
            (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) => {
                bytes.extend_from_slice(&[0x45, 0]);
                bytes.extend_from_slice(&length(20 + tcp.len()));
                bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0]);
                bytes.extend_from_slice(&source.octets());
                bytes.extend_from_slice(&destination.octets());
            }
            (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
                bytes.extend_from_slice(&[0x60, 0, 0, 0]);
                bytes.extend_from_slice(&length(tcp.len()));
                bytes.extend_from_slice(&[6, 64]);
                bytes.extend_from_slice(&source.octets());
                bytes.extend_from_slice(&destination.octets());
            }
            mixed => panic!("{mixed:?}: both ends have addresses of one family"),
        }
        bytes.extend_from_slice(&tcp);
        bytes
    }
}

/// The TCP segments of a capture below `tests/captures`.
pub fn capture(name: &str) -> Vec<Packet> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures").join(name).with_extension("pcap");
    let mut source = pcap_file::open(path.to_str().unwrap(), None).unwrap();
    let mut packets = Vec::new();
    let mut state = SourceState::Open;
    while state == SourceState::Open {
        state = source.poll(Duration::ZERO, &mut |captured| packets.extend(read(&captured))).unwrap();
    }
    assert!(!packets.is_empty(), "{name} holds no TCP");
    packets
}

fn read(captured: &CapturedPacket<'_>) -> Option<Packet> {
    let segment = packet::parse(captured).ok()?;
    Some(Packet {
        at_ns: captured.timestamp_ns,
        source: segment.source,
        destination: segment.destination,
        sequence: segment.sequence,
        acknowledgment: segment.acknowledgment,
        syn: segment.syn,
        fin: segment.fin,
        rst: segment.rst,
        payload: segment.payload.to_vec(),
    })
}

/// Other initial sequence numbers: `by[0]` for the ends that are first in order, `by[1]` for the others.
pub fn renumbered(mut packets: Vec<Packet>, by: [u32; 2]) -> Vec<Packet> {
    for packet in &mut packets {
        let sender = usize::from(packet.source > packet.destination);
        packet.sequence = packet.sequence.wrapping_add(by[sender]);
        packet.acknowledgment = packet.acknowledgment.map(|number| number.wrapping_add(by[1 - sender]));
    }
    packets
}

/// Cuts payloads into pieces of the given sizes, again and again.
pub fn cut(packets: Vec<Packet>, sizes: &[usize]) -> Vec<Packet> {
    let mut sizes = sizes.iter().copied().cycle();
    let mut pieces = Vec::new();
    for packet in packets {
        let mut rest = packet;
        while let Some(size) = sizes.next().filter(|size| *size < rest.payload.len()) {
            let tail = rest.payload.split_off(size);
            let next = Packet { sequence: rest.end(), payload: tail, ..rest.clone() };
            pieces.push(Packet { fin: false, ..std::mem::replace(&mut rest, next) });
        }
        pieces.push(rest);
    }
    pieces
}

/// Joins what one end sends without a word of the other in between into segments of at most `size` bytes.
pub fn merged(packets: Vec<Packet>, size: usize) -> Vec<Packet> {
    let mut joined: Vec<Packet> = Vec::new();
    for packet in packets {
        let same = joined.iter_mut().rev().find(|other| other.same_connection(&packet));
        match same {
            Some(last)
                if last.same_direction(&packet)
                    && last.is_plain()
                    && !packet.syn
                    && !packet.rst
                    && !last.payload.is_empty()
                    && !packet.payload.is_empty()
                    && last.end() == packet.sequence
                    && last.payload.len() + packet.payload.len() <= size =>
            {
                last.payload.extend_from_slice(&packet.payload);
                last.acknowledgment = packet.acknowledgment;
                last.fin = packet.fin;
            }
            _ => joined.push(packet),
        }
    }
    joined
}

/// Copies packets: `(place, distance)` puts a copy of the packet at `place` behind the `distance` packets after it.
pub fn copied(mut packets: Vec<Packet>, copies: &[(usize, usize)]) -> Vec<Packet> {
    for (place, distance) in copies {
        let place = place % packets.len();
        let copy = packets[place].clone();
        packets.insert((place + 1 + distance).min(packets.len()), copy);
    }
    packets
}

/// Sends bytes again with other boundaries: `(place, back, length)` repeats, right behind the packet at `place`, the `length` bytes
/// of its stream that begin `back` bytes before its end, as far as they were sent and the other end has not acknowledged them: what is
/// acknowledged is not sent again.
pub fn retransmitted(mut packets: Vec<Packet>, again: &[(usize, usize, usize)]) -> Vec<Packet> {
    for (place, back, length) in again {
        let place = place % packets.len();
        let last = packets[place].clone();
        if !last.is_plain() || last.payload.is_empty() {
            continue;
        }
        let acknowledged = packets[..=place].iter().filter(|packet| packet.same_connection(&last) && !packet.same_direction(&last));
        let unacknowledged = acknowledged.filter_map(|packet| packet.acknowledgment).map(|number| last.end().wrapping_sub(number));
        let back = unacknowledged.chain([*back as u32]).min_by_key(|length| *length as i32).unwrap_or_default();
        let first = last.end().wrapping_sub(back);
        let sent = |sequence: u32| {
            let carrier =
                packets[..=place].iter().find(|packet| packet.same_direction(&last) && !packet.syn && packet.carries(sequence))?;
            carrier.payload.get(sequence.wrapping_sub(carrier.sequence) as usize).copied()
        };
        let payload: Vec<u8> = (0..(*length as u32).min(back)).map_while(|index| sent(first.wrapping_add(index))).collect();
        if !payload.is_empty() {
            packets.insert(place + 1, Packet { sequence: first, payload, ..last });
        }
    }
    packets
}

/// Lets packets overtake: `(place, distance)` moves the packet at `place` behind the `distance` packets after it. A connection's
/// handshake and RST stay where they are.
pub fn disordered(mut packets: Vec<Packet>, moves: &[(usize, usize)]) -> Vec<Packet> {
    let movable = |packet: &Packet| !packet.syn && !packet.rst;
    for (place, distance) in moves {
        let place = place % packets.len();
        let stop = packets[place + 1..].iter().take(*distance).take_while(|packet| movable(packet)).count();
        if movable(&packets[place]) {
            packets[place..=place + stop].rotate_left(1);
        }
    }
    packets
}

/// Stamps packets in the order of capture, `step_ns` apart.
pub fn timed(mut packets: Vec<Packet>, step_ns: u64) -> Vec<Packet> {
    let start = 1_700_000_000_000_000_000;
    for (index, packet) in packets.iter_mut().enumerate() {
        packet.at_ns = start + index as u64 * step_ns;
    }
    packets
}
