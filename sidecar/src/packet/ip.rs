//! IPv4 (RFC 791) and IPv6 (RFC 8200) down to TCP.

use std::net::IpAddr;

use etherparse::{IpAuthHeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice};

use super::{Datagram, Ignored};

/// Most extension headers that are walked: more than any real stack sends, so a chain cannot cost time.
const MAX_EXTENSIONS: usize = 8;

/// Reads an IPv4 packet of which `wire_length` bytes were on the wire.
pub(super) fn v4(data: &[u8], wire_length: usize) -> Result<Datagram<'_>, Ignored> {
    let header = Ipv4HeaderSlice::from_slice(data).map_err(|error| match error {
        etherparse::err::ipv4::HeaderSliceError::Len(_) if wire_length > data.len() => Ignored::HeaderCut,
        _ => Ignored::Malformed,
    })?;
    let header_length = header.slice().len();
    if header.is_fragmenting_payload() {
        return Err(Ignored::Fragment);
    }
    if header.protocol() != IpNumber::TCP {
        return Err(Ignored::NotTcp);
    }
    // BIG TCP and some offloads leave the 16-bit length 0: then the packet is as long as what was captured says.
    let total = match usize::from(header.total_len()) {
        0 => wire_length,
        total if total < header_length => return Err(Ignored::Malformed),
        total => total,
    };
    let end = total.min(data.len());
    Ok(Datagram {
        source: IpAddr::V4(header.source_addr()),
        destination: IpAddr::V4(header.destination_addr()),
        payload: data.get(header_length..end).unwrap_or_default(),
        wire_length: total - header_length,
    })
}

/// Reads an IPv6 packet of which `wire_length` bytes were on the wire.
pub(super) fn v6(data: &[u8], wire_length: usize) -> Result<Datagram<'_>, Ignored> {
    let header = Ipv6HeaderSlice::from_slice(data).map_err(|error| match error {
        etherparse::err::ipv6::HeaderSliceError::Len(_) if wire_length > data.len() => Ignored::HeaderCut,
        _ => Ignored::Malformed,
    })?;
    let header_length = header.slice().len();
    // 0 is a jumbogram (RFC 2675), as BIG TCP sends.
    let wire_payload = match usize::from(header.payload_length()) {
        0 => wire_length.saturating_sub(header_length),
        length => length,
    };
    let end = (header_length + wire_payload).min(data.len());
    let mut payload = data.get(header_length..end).unwrap_or_default();
    let mut next = header.next_header();
    let mut left = wire_payload;
    for _ in 0..=MAX_EXTENSIONS {
        let length = match next {
            IpNumber::TCP => {
                return Ok(Datagram {
                    source: IpAddr::V6(header.source_addr()),
                    destination: IpAddr::V6(header.destination_addr()),
                    payload,
                    wire_length: left,
                });
            }
            IpNumber::IPV6_FRAGMENTATION_HEADER => {
                let fragment = Ipv6FragmentHeaderSlice::from_slice(payload).map_err(|_| Ignored::HeaderCut)?;
                if fragment.is_fragmenting_payload() {
                    return Err(Ignored::Fragment);
                }
                next = fragment.next_header();
                fragment.slice().len()
            }
            IpNumber::AUTHENTICATION_HEADER => {
                let authentication = IpAuthHeaderSlice::from_slice(payload).map_err(|_| Ignored::HeaderCut)?;
                next = authentication.next_header();
                authentication.slice().len()
            }
            number if Ipv6RawExtHeaderSlice::header_type_supported(number) => {
                let extension = Ipv6RawExtHeaderSlice::from_slice(payload).map_err(|_| Ignored::HeaderCut)?;
                next = extension.next_header();
                extension.slice().len()
            }
            _ => return Err(Ignored::NotTcp),
        };
        payload = payload.get(length..).unwrap_or_default();
        left = left.saturating_sub(length);
    }
    Err(Ignored::Malformed)
}
