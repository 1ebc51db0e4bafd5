//! What a source of packets and its reader have in common: a packet as it was captured, and the wish to leave some out.

use super::Endpoint;

/// What the first bytes of a packet are (numbers of the LINKTYPE registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// LINKTYPE_NULL (0): loopback with a 4-byte address family in the byte order of the capturing host.
    Null,
    /// LINKTYPE_ETHERNET (1).
    Ethernet,
    /// LINKTYPE_RAW (101), LINKTYPE_IPV4 (228), LINKTYPE_IPV6 (229): begins with the IP header.
    Raw,
    /// LINKTYPE_LOOP (108): like Null, network byte order.
    Loop,
    /// LINKTYPE_LINUX_SLL (113).
    LinuxSll,
    /// LINKTYPE_LINUX_SLL2 (276).
    LinuxSll2,
}

impl LinkType {
    /// The type with this number of the LINKTYPE registry, or of libpcap's DLT numbers on Linux where they differ (12 and 14 are DLT_RAW).
    pub const fn from_number(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::Null),
            1 => Some(Self::Ethernet),
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            108 => Some(Self::Loop),
            113 => Some(Self::LinuxSll),
            276 => Some(Self::LinuxSll2),
            _ => None,
        }
    }

    /// libpcap's DLT number on Linux, for compiling filters.
    pub const fn dlt(self) -> i32 {
        match self {
            Self::Null => 0,
            Self::Ethernet => 1,
            Self::Raw => 12,
            Self::Loop => 108,
            Self::LinuxSll => 113,
            Self::LinuxSll2 => 276,
        }
    }
}

/// One packet as its source lends it.
#[derive(Clone, Copy, Debug)]
pub struct CapturedPacket<'a> {
    /// Kernel (or file) time stamp, nanoseconds since the Unix epoch.
    pub timestamp_ns: u64,
    /// Small number of the interface within this run, the same for the whole run.
    pub interface: u32,
    /// How `data` begins.
    pub link_type: LinkType,
    /// Captured bytes.
    pub data: &'a [u8],
    /// Length on the wire; larger than `data` when the packet was cut.
    pub original_length: u32,
}

/// Ends of a TCP connection in the direction that carries the bytes to skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Skip {
    /// Sender of the bytes.
    pub source: Endpoint,
    /// Receiver of the bytes.
    pub destination: Endpoint,
    /// First TCP sequence number that is wanted again.
    pub until_sequence: u32,
}
