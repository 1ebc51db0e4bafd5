//! Views over captured bytes: link layer, IP, TCP. Lengths are checked once; a [`Segment`] that exists is whole.
//!
//! Guarantee: any bytes give a segment or an [`Ignored`] with a bounded reason, never a panic. Misuse to avoid: checksums are
//! not verified, because offload leaves them unfilled on the very host that is captured.

mod captured;
mod ip;
mod link;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use etherparse::TcpHeaderSlice;

pub use captured::{CapturedPacket, LinkType, Skip};

/// Address and port of one end of a connection.
pub type Endpoint = (IpAddr, u16);

/// One TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Sender.
    pub source: Endpoint,
    /// Receiver.
    pub destination: Endpoint,
    /// Sequence number of the first payload byte, or of the SYN.
    pub sequence: u32,
    /// Acknowledgment number; `None` without the ACK flag.
    pub acknowledgment: Option<u32>,
    /// SYN flag.
    pub syn: bool,
    /// FIN flag.
    pub fin: bool,
    /// RST flag.
    pub rst: bool,
    /// Payload as far as it was captured.
    pub payload: &'a [u8],
    /// Payload on the wire; larger than `payload` when the packet was cut by the snap length.
    pub payload_length: u32,
}

/// Why a packet is no TCP segment that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// ARP, LLDP, ...: not IP.
    NotIp,
    /// UDP, ICMP, ...: not TCP.
    NotTcp,
    /// An IP fragment: TCP avoids them, so they are counted and not joined.
    Fragment,
    /// Headers contradict each other.
    Malformed,
    /// The snap length cut the packet inside its headers.
    HeaderCut,
}

impl Ignored {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::NotIp, Self::NotTcp, Self::Fragment, Self::Malformed, Self::HeaderCut];

    /// The label of the counter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::NotTcp => "not_tcp",
            Self::Fragment => "fragment",
            Self::Malformed => "malformed",
            Self::HeaderCut => "header_cut",
        }
    }
}

/// IP payload that holds TCP, with its length on the wire.
struct Datagram<'a> {
    source: IpAddr,
    destination: IpAddr,
    payload: &'a [u8],
    wire_length: usize,
}

/// Bytes of the headers of Ethernet, of IPv4 without options, and of TCP without options.
const PLAIN: usize = 14 + 20 + 20;

/// Reads one captured packet.
pub fn parse<'a>(packet: &CapturedPacket<'a>) -> Result<Segment<'a>, Ignored> {
    match plain(packet) {
        Some(segment) => Ok(segment),
        None => any(packet),
    }
}

/// The short way for nearly every packet: Ethernet, IPv4 without options or fragments, TCP, nothing cut off. `None` says nothing.
fn plain<'a>(packet: &CapturedPacket<'a>) -> Option<Segment<'a>> {
    let data = packet.data;
    let head: &[u8; PLAIN] = data.first_chunk()?;
    let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let is_whole = packet.link_type == LinkType::Ethernet && packet.original_length as usize <= data.len();
    // EtherType, version and header length, more fragments or an offset, protocol.
    if !is_whole || half(12) != 0x0800 || head[14] != 0x45 || half(20) & 0x3fff != 0 || head[23] != 6 {
        return None;
    }
    let payload_start = 14 + 20 + usize::from(head[46] >> 4) * 4;
    let payload = data.get(payload_start.max(PLAIN)..14 + usize::from(half(16)))?;
    if payload_start < PLAIN {
        return None;
    }
    let flags = head[47];
    Some(Segment {
        source: (IpAddr::from(word(26).to_be_bytes()), half(34)),
        destination: (IpAddr::from(word(30).to_be_bytes()), half(36)),
        sequence: word(38),
        acknowledgment: (flags & 0x10 != 0).then(|| word(42)),
        syn: flags & 0x02 != 0,
        fin: flags & 0x01 != 0,
        rst: flags & 0x04 != 0,
        payload,
        payload_length: payload.len() as u32,
    })
}

fn any<'a>(packet: &CapturedPacket<'a>) -> Result<Segment<'a>, Ignored> {
    let (ip, version) = link::strip(packet.link_type, packet.data)?;
    let headers = packet.data.len() - ip.len();
    let wire_length = (packet.original_length as usize).max(packet.data.len()) - headers;
    let datagram = match version {
        link::Version::V4 => ip::v4(ip, wire_length)?,
        link::Version::V6 => ip::v6(ip, wire_length)?,
    };
    segment(&datagram)
}

fn segment<'a>(datagram: &Datagram<'a>) -> Result<Segment<'a>, Ignored> {
    let tcp = TcpHeaderSlice::from_slice(datagram.payload).map_err(|error| match error {
        etherparse::err::tcp::HeaderSliceError::Len(_) if datagram.wire_length > datagram.payload.len() => Ignored::HeaderCut,
        _ => Ignored::Malformed,
    })?;
    let header = tcp.slice().len();
    let payload = datagram.payload.get(header..).unwrap_or_default();
    let payload_length = datagram.wire_length.saturating_sub(header).max(payload.len());
    Ok(Segment {
        source: (datagram.source, tcp.source_port()),
        destination: (datagram.destination, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        payload,
        payload_length: u32::try_from(payload_length).unwrap_or(u32::MAX),
    })
}
