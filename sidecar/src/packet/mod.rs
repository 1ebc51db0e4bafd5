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

/// Reads one captured packet.
pub fn parse<'a>(packet: &CapturedPacket<'a>) -> Result<Segment<'a>, Ignored> {
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
