//! Link layers (numbers of the LINKTYPE registry, tcpdump.org/linktypes.html) down to the IP header.

use etherparse::{EtherType, Ethernet2HeaderSlice, SingleVlanHeaderSlice};

use super::Ignored;
use super::captured::LinkType;

/// Most VLAN tags that are stripped: 802.1ad uses two, some switches add one more.
const MAX_VLAN_TAGS: usize = 3;
/// Bytes of an SLL header (LINKTYPE_LINUX_SLL), protocol in its last two.
const SLL_HEADER: usize = 16;
/// Bytes of an SLL2 header (LINKTYPE_LINUX_SLL2), protocol in its first two.
const SLL2_HEADER: usize = 20;
/// Address family of IPv4 on every system.
const AF_INET: u32 = 2;
/// Address families of IPv6: Linux, NetBSD and OpenBSD, FreeBSD, macOS.
const AF_INET6: [u32; 4] = [10, 24, 28, 30];

/// Version of the IP header that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

/// Strips the link layer; the rest begins with the IP header.
pub(super) fn strip(link: LinkType, data: &[u8]) -> Result<(&[u8], Version), Ignored> {
    match link {
        LinkType::Ethernet => {
            let header = Ethernet2HeaderSlice::from_slice(data).map_err(|_| Ignored::HeaderCut)?;
            tagged(header.ether_type(), &data[header.slice().len()..])
        }
        LinkType::LinuxSll => match data.split_at_checked(SLL_HEADER) {
            Some((header, rest)) => tagged(EtherType(u16::from_be_bytes([header[14], header[15]])), rest),
            None => Err(Ignored::HeaderCut),
        },
        LinkType::LinuxSll2 => match data.split_at_checked(SLL2_HEADER) {
            Some((header, rest)) => tagged(EtherType(u16::from_be_bytes([header[0], header[1]])), rest),
            None => Err(Ignored::HeaderCut),
        },
        LinkType::Raw => raw(data),
        LinkType::Null | LinkType::Loop => match data.split_first_chunk::<4>() {
            // LINKTYPE_NULL has the byte order of the host that captured, which the file does not tell: families are small
            // numbers, so exactly one reading is known.
            Some((family, rest)) => family_of(*family).map(|version| (rest, version)),
            None => Err(Ignored::HeaderCut),
        },
    }
}

fn raw(data: &[u8]) -> Result<(&[u8], Version), Ignored> {
    match data.first().map(|first| first >> 4) {
        Some(4) => Ok((data, Version::V4)),
        Some(6) => Ok((data, Version::V6)),
        Some(_) => Err(Ignored::NotIp),
        None => Err(Ignored::HeaderCut),
    }
}

fn family_of(bytes: [u8; 4]) -> Result<Version, Ignored> {
    [u32::from_be_bytes(bytes), u32::from_le_bytes(bytes)]
        .into_iter()
        .find_map(|family| match family {
            AF_INET => Some(Version::V4),
            family if AF_INET6.contains(&family) => Some(Version::V6),
            _ => None,
        })
        .ok_or(Ignored::NotIp)
}

fn tagged(mut ether_type: EtherType, mut rest: &[u8]) -> Result<(&[u8], Version), Ignored> {
    for _ in 0..=MAX_VLAN_TAGS {
        match ether_type {
            EtherType::IPV4 => return Ok((rest, Version::V4)),
            EtherType::IPV6 => return Ok((rest, Version::V6)),
            EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING | EtherType::VLAN_DOUBLE_TAGGED_FRAME => {
                let tag = SingleVlanHeaderSlice::from_slice(rest).map_err(|_| Ignored::HeaderCut)?;
                ether_type = tag.ether_type();
                rest = &rest[tag.slice().len()..];
            }
            _ => return Err(Ignored::NotIp),
        }
    }
    Err(Ignored::Malformed)
}
