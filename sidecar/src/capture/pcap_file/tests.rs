use super::*;

/// A packet as the tests compare it: stamp, interface, data, original length.
type Seen = (u64, u32, Vec<u8>, u32);

fn read(bytes: Vec<u8>) -> (Vec<Seen>, Result<(), CaptureError>) {
    let mut seen = Vec::new();
    let mut file = match PcapFile::from_reader(Box::new(std::io::Cursor::new(bytes)), "test") {
        Ok(file) => file,
        Err(error) => return (seen, Err(error)),
    };
    loop {
        let outcome = file.poll(Duration::ZERO, &mut |packet| {
            assert_eq!(packet.link_type, LinkType::Ethernet);
            seen.push((packet.timestamp_ns, packet.interface, packet.data.to_vec(), packet.original_length));
        });
        match outcome {
            Ok(SourceState::Open) => {}
            Ok(SourceState::Ended) => return (seen, Ok(())),
            Err(error) => return (seen, Err(error)),
        }
    }
}

fn number(value: u32, big_endian: bool) -> [u8; 4] {
    if big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
}

fn pcap(magic: u32, big_endian: bool, extra: usize) -> Vec<u8> {
    let mut bytes = number(magic, big_endian).to_vec();
    bytes.extend_from_slice(&if big_endian { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
    for value in [0, 0, 65535, 1, 7, 500, 3, 60] {
        bytes.extend_from_slice(&number(value, big_endian));
    }
    bytes.extend(std::iter::repeat_n(0, extra));
    bytes.extend_from_slice(b"abc");
    bytes
}

#[test]
fn pcap_in_every_dress() {
    for (magic, extra, nanoseconds) in
        [(0xa1b2_c3d4, 0, 7_000_500_000), (0xa1b2_3c4d, 0, 7_000_000_500), (0xa1b2_cd34, 8, 7_000_500_000u64)]
    {
        for big_endian in [false, true] {
            let (seen, outcome) = read(pcap(magic, big_endian, extra));
            assert!(outcome.is_ok(), "{magic:x} {big_endian}: {outcome:?}");
            assert_eq!(seen, [(nanoseconds, 0, b"abc".to_vec(), 60)]);
        }
    }
}

#[test]
fn a_cut_file_gives_what_it_has_and_says_where_it_stops() {
    let mut bytes = pcap(0xa1b2_c3d4, false, 0);
    let whole = bytes.len();
    let packet = bytes[24..].to_vec();
    bytes.extend_from_slice(&packet);
    for length in whole + 1..bytes.len() {
        let (seen, outcome) = read(bytes[..length].to_vec());
        assert_eq!(seen.len(), 1, "{length}");
        let error = outcome.unwrap_err();
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains(&format!("at byte {whole}")), "{error}");
    }
    assert_eq!(read(bytes).0.len(), 2);
}

#[test]
fn what_is_no_capture_is_told_apart() {
    let check = |bytes: &[u8], expected: &str| {
        let error = read(bytes.to_vec()).1.unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(b"", "empty");
    check(b"ab", "only 2 bytes");
    check(b"hello, world, this is text", "neither pcap nor pcapng");
    check(&[0x1f, 0x8b, 8, 0], "gzip");
    check(&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0], "header is cut");
    check(&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 1, 2, 3, 4], "byte order mark");
    let mut unknown = pcap(0xa1b2_c3d4, false, 0);
    unknown[20] = 147;
    check(&unknown, "link type 147");
}

fn block(kind: u32, body: &[u8], big_endian: bool) -> Vec<u8> {
    let length = 12 + body.len().next_multiple_of(4) as u32;
    let mut bytes = number(kind, big_endian).to_vec();
    bytes.extend_from_slice(&number(length, big_endian));
    bytes.extend_from_slice(body);
    bytes.resize(length as usize - 4, 0);
    bytes.extend_from_slice(&number(length, big_endian));
    bytes
}

fn words(values: &[u32], big_endian: bool) -> Vec<u8> {
    values.iter().flat_map(|value| number(*value, big_endian)).collect()
}

fn section(big_endian: bool) -> Vec<u8> {
    let version = if big_endian { 0x0001_0000 } else { 0x0000_0001 };
    block(PCAPNG_SECTION, &words(&[PCAPNG_BYTE_ORDER, version, u32::MAX, u32::MAX], big_endian), big_endian)
}

/// An interface of Ethernet; `resolution` is the option if_tsresol.
fn interface(resolution: Option<u8>, big_endian: bool) -> Vec<u8> {
    let pair = |a: u16, b: u16| {
        let mut bytes = if big_endian { a.to_be_bytes() } else { a.to_le_bytes() }.to_vec();
        bytes.extend_from_slice(&if big_endian { b.to_be_bytes() } else { b.to_le_bytes() });
        bytes
    };
    let mut body = pair(1, 0);
    body.extend_from_slice(&number(0, big_endian));
    if let Some(resolution) = resolution {
        body.extend_from_slice(&pair(9, 1));
        body.extend_from_slice(&[resolution, 0, 0, 0]);
        body.extend_from_slice(&pair(0, 0));
    }
    block(1, &body, big_endian)
}

fn enhanced(interface: u32, stamp: u64, big_endian: bool) -> Vec<u8> {
    let mut body = words(&[interface, (stamp >> 32) as u32, stamp as u32, 3, 60], big_endian);
    body.extend_from_slice(b"abc");
    block(6, &body, big_endian)
}

#[test]
fn pcapng_with_sections_of_both_byte_orders_and_their_own_interfaces() {
    let mut bytes = Vec::new();
    for big_endian in [false, true] {
        bytes.extend(section(big_endian));
        bytes.extend(interface(None, big_endian));
        bytes.extend(interface(Some(9), big_endian));
        bytes.extend(enhanced(0, 7_000_500, big_endian));
        bytes.extend(enhanced(1, 7_000_000_500, big_endian));
        let mut old = if big_endian { vec![0, 1, 0, 0] } else { vec![1, 0, 0, 0] };
        old.extend(words(&[1, 2_705_033_204, 3, 60], big_endian));
        old.extend_from_slice(b"abc");
        bytes.extend(block(PCAPNG_OBSOLETE_PACKET, &old, big_endian));
        bytes.extend(block(0x0bad_0bad, b"who knows", big_endian));
    }
    let (seen, outcome) = read(bytes);
    assert!(outcome.is_ok(), "{outcome:?}");
    let expected: Vec<(u64, u32)> = (0..2)
        .flat_map(|section| [(7_000_500_000, section * 2), (7_000_000_500, section * 2 + 1), (7_000_000_500, section * 2 + 1)])
        .collect();
    assert_eq!(seen.iter().map(|(stamp, interface, ..)| (*stamp, *interface)).collect::<Vec<_>>(), expected);
    assert!(seen.iter().all(|(_, _, data, original)| data == b"abc" && *original == 60));
}

#[test]
fn damaged_pcapng_stops_at_the_block() {
    let mut good = section(false);
    good.extend(interface(None, false));
    good.extend(enhanced(0, 1, false));
    let at = good.len();
    for (tail, expected) in [
        (enhanced(5, 1, false), "interface"),
        (words(&[6, 13, 0], false), "13 bytes"),
        (words(&[6, 16, 0, 20], false), "two lengths"),
        (words(&[6, 100, 0, 20], false), "ends in the middle"),
    ] {
        let mut bytes = good.clone();
        bytes.extend(tail);
        let (seen, outcome) = read(bytes);
        assert_eq!(seen.len(), 1);
        let error = outcome.unwrap_err();
        assert_eq!(error.exit_code(), 65);
        assert!(error.to_string().contains(&format!("at byte {at}")) && error.to_string().contains(expected), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_bring_it_down(
        big_endian in proptest::bool::ANY,
        next_generation in proptest::bool::ANY,
        body in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
        kind in proptest::sample::select(vec![1u32, 2, 3, 4, 5, 6, 10, 0x0a0d_0d0a, 0xbad]),
    ) {
        let mut bytes = if next_generation { section(big_endian) } else { pcap(0xa1b2_c3d4, big_endian, 0) };
        if next_generation {
            bytes.extend(interface(Some(9), big_endian));
            bytes.extend(block(kind, &body, big_endian));
        }
        bytes.extend(body);
        if let Err(error) = read(bytes).1 {
            proptest::prop_assert!([2, 65].contains(&error.exit_code()), "{}", error);
        }
    }
}
