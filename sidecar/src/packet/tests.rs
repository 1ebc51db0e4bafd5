use etherparse::{EtherType, IpFragOffset, IpNumber, PacketBuilder, SingleVlanHeader, VlanHeader, VlanId};

use super::*;

const PAYLOAD: &[u8] = b"payload";

fn ethernet() -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1000, 80, 7, 512).ack(9);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, PAYLOAD).unwrap();
    bytes
}

fn read(link_type: LinkType, data: &[u8], original_length: usize) -> Result<(String, u32), Ignored> {
    let packet = CapturedPacket { timestamp_ns: 0, interface: 0, link_type, data, original_length: original_length as u32 };
    parse(&packet).map(|segment| (String::from_utf8_lossy(segment.payload).into_owned(), segment.payload_length))
}

#[track_caller]
fn check(link_type: LinkType, data: &[u8], expect: Result<(&str, u32), Ignored>) {
    assert_eq!(read(link_type, data, data.len()), expect.map(|(text, length)| (text.to_owned(), length)));
}

#[test]
fn link_layers() {
    let ethernet = ethernet();
    let ip = &ethernet[14..];
    let with = |header: &[u8]| [header, ip].concat();
    let whole = Ok(("payload", 7));
    check(LinkType::Ethernet, &ethernet, whole);
    check(LinkType::Ethernet, &[&ethernet, &[0; 20][..]].concat(), whole);
    check(LinkType::Raw, ip, whole);
    check(LinkType::Null, &with(&[2, 0, 0, 0]), whole);
    check(LinkType::Null, &with(&[0, 0, 0, 2]), whole);
    check(LinkType::Loop, &with(&[0, 0, 0, 2]), whole);
    check(LinkType::LinuxSll, &with(&[0, 0, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]), whole);
    check(LinkType::LinuxSll2, &with(&[8, 0, 0, 0, 0, 0, 0, 1, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), whole);
    check(LinkType::Ethernet, &[&ethernet[..12], &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 8, 0], ip].concat(), whole);
    check(LinkType::Ethernet, &[&ethernet[..12], &[0x08, 0x06], ip].concat(), Err(Ignored::NotIp));
    let tag = SingleVlanHeader { vlan_id: VlanId::ZERO, ether_type: EtherType::IPV6, ..SingleVlanHeader::default() };
    let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).vlan(VlanHeader::Single(tag)).ipv6([1; 16], [2; 16], 64).tcp(1, 2, 3, 4);
    let mut six = Vec::new();
    builder.write(&mut six, PAYLOAD).unwrap();
    check(LinkType::Ethernet, &six, whole);
}

#[test]
fn the_short_way_and_the_long_one_read_the_same() {
    let show = |found: Result<Segment<'_>, Ignored>| format!("{found:?}");
    let whole = ethernet();
    for position in 0..whole.len() {
        for value in [0, 1, 0x0f, 0x45, 0x60, 0xff] {
            let mut data = whole.clone();
            data[position] = value;
            for length in [data.len(), data.len() - 3, 54, 40] {
                let data = &data[..length];
                let original_length = whole.len() as u32;
                let packet = CapturedPacket { timestamp_ns: 0, interface: 0, link_type: LinkType::Ethernet, data, original_length };
                let exact = CapturedPacket { original_length: length as u32, ..packet };
                assert_eq!(show(parse(&packet)), show(any(&packet)), "byte {position} is {value}, {length} bytes");
                assert_eq!(show(parse(&exact)), show(any(&exact)), "byte {position} is {value}, {length} bytes are all");
            }
        }
    }
}

#[test]
fn lengths() {
    let mut packet = ethernet();
    // BIG TCP: no length in the header.
    packet[16..18].fill(0);
    check(LinkType::Ethernet, &packet, Ok(("payload", 7)));
    // Cut by the snap length inside the payload, then inside the headers.
    let packet = ethernet();
    let cut = |length: usize| read(LinkType::Ethernet, &packet[..length], packet.len());
    assert_eq!(cut(packet.len() - 4), Ok(("pay".to_owned(), 7)));
    assert_eq!(cut(40), Err(Ignored::HeaderCut));
    assert_eq!(cut(20), Err(Ignored::HeaderCut));
    assert_eq!(cut(5), Err(Ignored::HeaderCut));
}

#[test]
fn not_tcp() {
    let mut packet = ethernet();
    packet[20] = 0x20;
    check(LinkType::Ethernet, &packet, Err(Ignored::Fragment));
    packet[20..22].copy_from_slice(&IpFragOffset::try_new(8).unwrap().value().to_be_bytes());
    check(LinkType::Ethernet, &packet, Err(Ignored::Fragment));
    let mut packet = ethernet();
    packet[23] = IpNumber::UDP.0;
    check(LinkType::Ethernet, &packet, Err(Ignored::NotTcp));
    let mut packet = ethernet();
    packet[14] = 0x41;
    check(LinkType::Ethernet, &packet, Err(Ignored::Malformed));
}

#[test]
fn any_bytes_and_any_cut_are_read() {
    let packet = ethernet();
    for link_type in [LinkType::Ethernet, LinkType::Raw, LinkType::Null, LinkType::LinuxSll, LinkType::LinuxSll2] {
        for length in 0..packet.len() {
            for position in 0..length {
                let mut changed = packet[..length].to_vec();
                changed[position] ^= 0xff;
                let _ = read(link_type, &changed, length);
            }
        }
    }
}
