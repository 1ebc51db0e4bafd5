//! End to end properties: whatever the network does to a capture, its exchanges stay the same, save those that touch a hole.
//!
//! The bytes are captures of real servers. An exchange is known by the sequence numbers of its request's and its answer's first
//! byte, and where the capture was made for it by what the answer repeats of the request, so a wrong pair shows itself. Times are
//! held against the packets: a reported time is that of a packet which carried that very byte. `PODTAP_TEST_SEED` and
//! `PODTAP_TEST_CASES` run other and more cases; a failure prints the seed.

mod network;

use std::collections::HashMap;

use podtap_wire::{Completeness, RequestRecord, SourceKind, Value};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use self::network::{LARGEST, Packet, capture, copied, cut, disordered, merged, renumbered, retransmitted, timed};
use super::*;
use crate::capture::LinkType;
use crate::packet::Endpoint;

/// One request at a time: what follows a hole is certain.
const SEQUENTIAL: &[&str] = &[
    "http1/echo",
    "http1/keep-alive",
    "http1/chunked",
    "http1/continue",
    "http1/head-and-not-modified",
    "http1/proxied",
    "mysql/identity",
    "mysql/pymysql",
    "mysql/client",
    "mysql/infile",
];
/// As above, but a connection whose login was lost is known to be compressed only by a command that was too short to be packed.
const COMPRESSED: &[&str] = &["mysql/compressed-client"];
/// Several requests under way, COM_STMT_CLOSE and the command behind it too: what was sent together with a lost one may be left out.
const PIPELINED: &[&str] =
    &["http1/echo-pipelined", "http1/pipelined", "mysql/identity-prepared", "mysql/prepared", "mysql/cursor", "mysql/direct"];
/// Ends that are not those of whole messages.
const OTHERS: &[&str] = &["http1/until-close", "http1/upgrade", "mysql/error-in-rows", "tls/tls12", "tls/tls13"];

/// A record with its texts.
#[derive(Clone, Debug)]
struct Found {
    ends: [Endpoint; 2],
    request: Option<u32>,
    response: Option<u32>,
    timestamp: u64,
    first_byte: Option<u64>,
    last_byte: Option<u64>,
    request_time: Option<u64>,
    partial: bool,
    answered: bool,
    /// What the client asked for: path or statement.
    asked: String,
    /// Everything else that does not depend on time or numbering.
    rest: Vec<(&'static str, String)>,
}

impl Found {
    /// True if the record has this field.
    fn is(&self, field: &str) -> bool {
        self.rest.iter().any(|(name, _)| *name == field)
    }

    fn is_tls(&self) -> bool {
        self.rest.contains(&("network_protocol_name", format!("{:?}", Value::Text("tls"))))
    }
}

fn found(record: &RequestRecord<'_>) -> Found {
    check_identity(record);
    let partial = record.completeness == Completeness::Partial;
    let mut rest = Vec::new();
    record.for_each(|field, value| {
        let numbering = ["connection_id", "exchange_index", "tcp_request_sequence", "tcp_response_sequence"];
        if field.unit != "ns" && !matches!(value, Value::Timestamp(_)) && !numbering.contains(&field.name) && !value.is_absent() {
            rest.push((field.name, format!("{value:?}")));
        }
    });
    Found {
        ends: [(record.client_address, record.client_port as u16), (record.server_address, record.server_port as u16)],
        request: record.tcp_request_sequence.map(|number| number as u32),
        response: record.tcp_response_sequence.map(|number| number as u32),
        timestamp: record.timestamp,
        first_byte: record.time_to_first_byte_ns,
        last_byte: record.time_to_last_byte_ns,
        request_time: record.request_time_ns,
        partial,
        answered: record.tcp_response_sequence.is_some(),
        asked: format!("{}{}", record.url_path, record.db_query_text),
        rest,
    }
}

/// Captures named `echo` and `identity` repeat the request in its answer.
#[track_caller]
fn check_identity(record: &RequestRecord<'_>) {
    if let Some(number) = record.url_path.strip_prefix("/echo/").filter(|_| record.http_response_status_code != 0) {
        let status = if number.parse::<u64>().unwrap() % 5 == 4 { 404 } else { 200 };
        assert_eq!(record.http_response_status_code, status, "the status of another: {record:?}");
        let kind = record.http_response_content_type;
        assert!(kind.is_empty() && record.completeness == Completeness::Partial || kind == format!("text/n-{number}"), "{record:?}");
        if record.completeness == Completeness::Complete {
            assert_eq!(record.http_response_body_size, Some(number.parse::<u64>().unwrap() * 37), "the body of another: {record:?}");
        }
    }
    let statement = record.db_query_text;
    let commented = statement.split_once("/*").and_then(|(_, rest)| rest.split_once("*/")).map(|(number, _)| number);
    let complete = record.completeness == Completeness::Complete;
    if let Some(number) = commented.filter(|number| number.parse::<u64>().is_ok()) {
        let error = record.db_response_message;
        assert!(error.is_empty() || error.contains(&format!("'wrong_{number}'")), "the error of another: {record:?}");
        for rows in [record.db_response_returned_rows, record.db_response_affected_rows].into_iter().flatten().filter(|_| complete) {
            assert_eq!(rows, number.parse::<u64>().unwrap(), "the rows of another: {record:?}");
        }
    }
    if record.mysql_command == "COM_STMT_EXECUTE" && statement == "SELECT id, name FROM items WHERE id <= ?" && complete {
        assert_eq!(record.db_query_parameters.first().copied(), record.db_response_returned_rows.map(|n| n.to_string()).as_deref());
    }
}

/// Reads packets as a capture would show them; the account has to add up at the end.
fn read(packets: &[Packet], link: LinkType) -> Vec<Found> {
    let mut pipeline = Pipeline::new(PipelineConfig { source: SourceKind::File, unmask: true, ..PipelineConfig::default() });
    let mut records = Vec::new();
    for packet in packets {
        let data = packet.bytes(link);
        let captured =
            CapturedPacket { timestamp_ns: packet.at_ns, interface: 0, link_type: link, data: &data, original_length: data.len() as u32 };
        pipeline.handle_packet(&captured);
        while let Some(record) = pipeline.next_record() {
            records.push(found(&record));
        }
    }
    pipeline.finish();
    while let Some(record) = pipeline.next_record() {
        records.push(found(&record));
    }
    let account = pipeline.account();
    let figure = |name: &str| account.iter().filter(|figure| figure.name == name).map(|figure| figure.value).sum::<u64>();
    assert_eq!(figure("podtap_packets_ignored_total"), 0);
    assert_eq!(figure("podtap_buffered_bytes"), 0);
    assert_eq!(
        figure("podtap_tcp_payload_bytes_total"),
        figure("podtap_tcp_delivered_bytes_total")
            + figure("podtap_tcp_duplicate_bytes_total")
            + figure("podtap_tcp_after_close_bytes_total"),
    );
    records
}

/// An exchange of the untouched capture.
#[derive(Debug)]
struct Clean {
    found: Found,
    /// First and last byte of the request, and of the final answer.
    request: [u32; 2],
    response: [u32; 2],
    /// From behind the answer before it to its own end: an interim answer and a greeting belong to it.
    response_with_interim: [u32; 2],
    /// Up to the request behind it: logins and files are sent in several parts.
    request_with_parts: [u32; 2],
}

#[derive(Debug)]
struct CleanCapture {
    packets: Vec<Packet>,
    exchanges: Vec<Clean>,
}

type Direction = (Endpoint, Endpoint);

/// Reads a capture byte by byte, a nanosecond each, so that every time tells which byte it is of.
fn clean(name: &str) -> CleanCapture {
    let packets = capture(name);
    let expected = read(&packets, LinkType::Raw);
    let bytes = timed(cut(packets.clone(), &[1]), 1);
    let start = bytes[0].at_ns;
    let byte_at = |time: u64| bytes[(time - start) as usize].sequence;
    let mut exchanges: Vec<Clean> = Vec::new();
    let mut behind: HashMap<Direction, u32> = HashMap::new();
    let again = read(&bytes, LinkType::Raw);
    assert_eq!(again.len(), expected.len(), "{name}, byte by byte");
    for (found, whole) in again.into_iter().zip(expected) {
        assert_eq!((&found.rest, found.request, found.response), (&whole.rest, whole.request, whole.response), "{name}, byte by byte");
        let [client, server] = found.ends;
        let request = found.request.unwrap();
        let response = found.response.unwrap_or_default();
        let last = found.last_byte.map_or(response, |time| byte_at(found.timestamp + time));
        assert_eq!(byte_at(found.timestamp), request);
        assert!(found.first_byte.is_none_or(|time| byte_at(found.timestamp + time) == response));
        let request_last = found.request_time.map_or(request, |time| byte_at(found.timestamp + time));
        let first = packets.iter().find(|packet| (packet.source, packet.destination) == (server, client)).unwrap();
        let interim = behind.insert((server, client), last.wrapping_add(1)).unwrap_or(first.sequence);
        exchanges.push(Clean {
            request: [request, request_last],
            response: [response, last],
            response_with_interim: [interim, last],
            request_with_parts: [request, request_last],
            found,
        });
    }
    for index in 0..exchanges.len() {
        let ends = exchanges[index].found.ends;
        let next = exchanges[index + 1..].iter().find(|other| other.found.ends == ends).map(|other| other.request[0].wrapping_sub(1));
        let last_sent = packets.iter().rfind(|packet| (packet.source, packet.destination) == (ends[0], ends[1])).map(|packet| packet.end());
        exchanges[index].request_with_parts[1] = next.or(last_sent).unwrap();
    }
    CleanCapture { packets, exchanges }
}

/// What happens on the way, all of it harmless.
#[derive(Clone, Debug)]
struct Way {
    renumber: [u32; 2],
    merge: usize,
    cuts: Vec<usize>,
    again: Vec<(usize, usize, usize)>,
    copies: Vec<(usize, usize)>,
    both_copies: bool,
    moves: Vec<(usize, usize)>,
    link: LinkType,
    step_ns: u64,
}

impl Way {
    fn apply(&self, packets: &[Packet]) -> Vec<Packet> {
        let mut packets = cut(merged(renumbered(packets.to_vec(), self.renumber), self.merge), &self.cuts);
        packets = copied(retransmitted(packets, &self.again), &self.copies);
        if self.both_copies {
            packets = packets.into_iter().flat_map(|packet| [packet.clone(), packet]).collect();
        }
        timed(disordered(packets, &self.moves), self.step_ns)
    }
}

fn ways() -> impl Strategy<Value = Way> {
    // Numbers near the wrap, and any.
    let number = || prop_oneof![any::<u32>(), (0..60_000u32).prop_map(|back| 0u32.wrapping_sub(back)), Just(0)];
    let sizes = prop_oneof![Just(vec![usize::MAX]), prop::collection::vec(1..3000usize, 1..6), prop::collection::vec(1..40usize, 1..6)];
    (
        [number(), number()],
        prop_oneof![Just(1448usize), Just(65_000), Just(LARGEST)],
        sizes,
        prop::collection::vec((any::<usize>(), 1..4000usize, 1..6000usize), 0..6),
        prop::collection::vec((any::<usize>(), 0..5usize), 0..8),
        any::<bool>(),
        prop::collection::vec((any::<usize>(), 1..6usize), 0..16),
        prop_oneof![Just(LinkType::Ethernet), Just(LinkType::Raw), Just(LinkType::LinuxSll2)],
        prop_oneof![Just(0u64), Just(1), Just(1000), Just(100_000)],
    )
        .prop_map(|(renumber, merge, cuts, again, copies, both_copies, moves, link, step_ns)| Way {
            renumber,
            merge,
            cuts,
            again,
            copies,
            both_copies,
            moves,
            link,
            step_ns,
        })
}

/// Sequence numbers as they are in the untouched capture.
fn original(found: &Found, by: [u32; 2]) -> (Option<u32>, Option<u32>) {
    let client = usize::from(found.ends[0] > found.ends[1]);
    (found.request.map(|number| number.wrapping_sub(by[client])), found.response.map(|number| number.wrapping_sub(by[1 - client])))
}

/// Times at which the byte was captured.
fn times(packets: &[Packet], (source, destination): Direction, sequence: u32) -> Vec<u64> {
    let carriers = packets.iter().filter(|packet| packet.source == source && packet.destination == destination && !packet.syn);
    carriers.filter(|packet| packet.carries(sequence)).map(|packet| packet.at_ns).collect()
}

/// A record's times are those of packets that carried the bytes in question. An answer that was captured before its request gives no
/// negative time, but none at all or 0.
fn check_times(found: &Found, clean: &Clean, packets: &[Packet], by: [u32; 2]) -> Result<(), TestCaseError> {
    let [client, server] = found.ends;
    let sender = usize::from(client > server);
    let request_at = |number: u32| times(packets, (client, server), number.wrapping_add(by[sender]));
    let response_at = |number: u32| times(packets, (server, client), number.wrapping_add(by[1 - sender]));
    if let Some(number) = found.request {
        prop_assert!(times(packets, (client, server), number).contains(&found.timestamp), "invented start: {found:?}");
    }
    if let Some(elapsed) = found.request_time {
        prop_assert!(request_at(clean.request[1]).contains(&(found.timestamp + elapsed)), "invented request time: {found:?}");
    }
    if let Some(elapsed) = found.first_byte {
        prop_assert!(response_at(clean.response[0]).contains(&(found.timestamp + elapsed)), "invented first byte: {found:?}");
    }
    if let Some(elapsed) = found.last_byte {
        let at = response_at(clean.response[1]);
        // The last byte may have been captured before the first.
        let by_first = found.first_byte == Some(elapsed) && at.iter().any(|time| *time <= found.timestamp + elapsed);
        prop_assert!(at.contains(&(found.timestamp + elapsed)) || by_first, "invented last byte: {found:?} {at:?}");
        prop_assert!(found.first_byte.is_none_or(|first| first <= elapsed));
    }
    Ok(())
}

fn config() -> ProptestConfig {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    ProptestConfig {
        cases: setting("PODTAP_TEST_CASES").map_or(12, |cases| cases as u32),
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(setting("PODTAP_TEST_SEED").unwrap_or(11)),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    }
}

/// Runs `check` for every capture; a failure names the capture, the seed and the smallest case found.
fn for_each<S: Strategy>(names: &[&str], strategy: &S, check: impl Fn(&CleanCapture, S::Value) -> Result<(), TestCaseError>) {
    for name in names {
        let clean = clean(name);
        let mut runner = proptest::test_runner::TestRunner::new(config());
        let result = runner.run(strategy, |case| check(&clean, case));
        assert!(result.is_ok(), "{name}, {:?}: {}", config().rng_seed, result.unwrap_err());
    }
}

fn unchanged(capture: &CleanCapture, way: &Way) -> Result<(), TestCaseError> {
    let packets = way.apply(&capture.packets);
    let mut records = read(&packets, way.link);
    prop_assert_eq!(records.len(), capture.exchanges.len());
    // Connections that run side by side may end in another order.
    records.sort_by_key(|found| capture.exchanges.iter().position(|clean| clean.found.request == original(found, way.renumber).0));
    for (found, clean) in records.iter().zip(&capture.exchanges) {
        prop_assert_eq!(original(found, way.renumber), (clean.found.request, clean.found.response), "a wrong pair");
        prop_assert_eq!(&found.rest, &clean.found.rest);
        check_times(found, clean, &packets, way.renumber)?;
    }
    Ok(())
}

#[test]
fn what_the_network_may_do_changes_no_exchange() {
    for_each(&[SEQUENTIAL, COMPRESSED, PIPELINED, OTHERS].concat(), &ways(), |capture, way| unchanged(capture, &way));
}

/// True if all bytes from the first to the last of a range were captured.
fn is_seen(packets: &[Packet], direction: Direction, [first, last]: [u32; 2]) -> bool {
    let carriers = || packets.iter().filter(|packet| (packet.source, packet.destination) == direction && !packet.syn);
    let mut next = first;
    while last.wrapping_sub(next) as i32 >= 0 {
        match carriers().filter(|packet| packet.carries(next)).map(Packet::end).max_by_key(|end| end.wrapping_sub(next)) {
            Some(end) => next = end,
            None => return false,
        }
    }
    true
}

/// Exchanges without a hole that are not there, or are not whole.
#[derive(Debug, Default)]
struct Missing {
    /// Nothing tells whether the request was sent together with a lost one, whose answer would be the next.
    uncertain: usize,
    needlessly: Vec<String>,
}

/// True if a request may have been sent together with the one before it as far as what was captured tells: nobody saw the end of that
/// one, nor a packet of the server that acknowledges it and was sent before all that this request acknowledges.
fn is_uncertain(packets: &[Packet], (client, server): Direction, start: u32) -> bool {
    let from = |source, destination| {
        packets.iter().filter(move |packet| (packet.source, packet.destination) == (source, destination) && !packet.syn)
    };
    let is_before = |one: u32, other: u32| (one.wrapping_sub(other) as i32) < 0;
    let floors = from(client, server).filter(|packet| packet.carries(start)).filter_map(|packet| packet.acknowledgment);
    let Some(floor) = floors.reduce(|one, other| if is_before(other, one) { other } else { one }) else { return false };
    let end_seen = from(client, server).any(|packet| packet.carries(start.wrapping_sub(1)));
    let told = from(server, client)
        .any(|packet| packet.acknowledgment.is_some_and(|number| !is_before(number, start)) && is_before(packet.sequence, floor));
    !end_seen && !told
}

/// Takes packets away behind the handshake and looks at what is left.
fn lossy(capture: &CleanCapture, way: &Way, losses: &[usize]) -> Result<Missing, TestCaseError> {
    let mut packets = way.apply(&capture.packets);
    for place in losses {
        let place = place % packets.len();
        if !packets[place].syn {
            packets.remove(place);
        }
    }
    let packets = timed(packets, way.step_ns);
    let by = way.renumber;
    let mut whole = std::collections::HashSet::new();
    for found in read(&packets, way.link) {
        let (request, response) = original(&found, by);
        let clean = capture.exchanges.iter().find(|clean| clean.found.ends == found.ends && clean.found.request == request);
        if clean.is_none() && found.partial && found.is_tls() {
            // A TLS connection without its beginning is still labelled, from where it was joined, and has no times.
            prop_assert_eq!((found.first_byte, found.last_byte, found.response), (None, None, None));
            continue;
        }
        let Some(clean) = clean else {
            return Err(TestCaseError::fail(format!("a request that was never sent: {found:?}")));
        };
        prop_assert!(response.is_none() || response == clean.found.response, "a wrong pair: {found:?}\n{clean:?}");
        check_times(&found, clean, &packets, by)?;
        prop_assert!(clean.found.asked.starts_with(&found.asked), "never asked: {found:?}\n{clean:?}");
        let sender = usize::from(found.ends[0] > found.ends[1]);
        let shifted = |range: [u32; 2], by: u32| range.map(|number| number.wrapping_add(by));
        let [client, server] = found.ends;
        let untouched = is_seen(&packets, (client, server), shifted(clean.request, by[sender]))
            && (!clean.found.answered || is_seen(&packets, (server, client), shifted(clean.response, by[1 - sender])));
        prop_assert!(found.partial || untouched, "a hole that is not marked: {found:?}");
        if !found.partial {
            prop_assert!(response == clean.found.response, "complete without its answer: {found:?}");
            check_rest(&found, clean)?;
            prop_assert!(whole.insert((found.ends, request)), "twice: {found:?}");
        }
    }
    let mut missing = Missing::default();
    for clean in &capture.exchanges {
        let [client, server] = clean.found.ends;
        let sender = usize::from(client > server);
        let shifted = |range: [u32; 2], by: u32| range.map(|number| number.wrapping_add(by));
        let untouched = is_seen(&packets, (client, server), shifted(clean.request_with_parts, by[sender]))
            && is_seen(&packets, (server, client), shifted(clean.response_with_interim, by[1 - sender]));
        if untouched && !clean.found.partial && !whole.contains(&(clean.found.ends, clean.found.request)) {
            match is_uncertain(&packets, (client, server), clean.request[0].wrapping_add(by[sender])) {
                true => missing.uncertain += 1,
                false => missing.needlessly.push(format!("{:?}", clean.found)),
            }
        }
    }
    Ok(missing)
}

/// A whole exchange says what the clean one says. What a MySQL session agreed on before (statement, schema, user, version) may lie in
/// a hole and then is missing.
fn check_rest(found: &Found, clean: &Clean) -> Result<(), TestCaseError> {
    if found.is("mysql_command") {
        let of_session = |name: &str| name == "network_protocol_version" || name.starts_with("db_") && !name.starts_with("db_response");
        let own = |found: &Found| found.rest.iter().filter(|(name, _)| !of_session(name)).cloned().collect::<Vec<_>>();
        prop_assert_eq!(own(found), own(&clean.found));
        prop_assert!(found.asked.is_empty() || found.asked == clean.found.asked, "never asked: {found:?}\n{clean:?}");
    } else {
        prop_assert_eq!(&found.rest, &clean.found.rest);
    }
    Ok(())
}

fn losses(most: usize) -> impl Strategy<Value = (Way, Vec<usize>)> {
    (ways(), prop::collection::vec(any::<usize>(), 1..=most), prop_oneof![Just(None), Just(Some(20_000_000u64))]).prop_map(
        |(way, losses, slow)| match slow {
            // Slow enough that holes are believed by the clock; then nothing may be late.
            Some(step_ns) => (Way { step_ns, moves: Vec::new(), copies: Vec::new(), ..way }, losses),
            None => (way, losses),
        },
    )
}

#[test]
fn a_lost_packet_costs_only_what_it_touches() {
    for_each(&[SEQUENTIAL, COMPRESSED].concat(), &losses(1), |capture, (way, losses)| {
        let missing = lossy(capture, &way, &losses)?;
        prop_assert!(missing.uncertain == 0 && missing.needlessly.is_empty(), "left out without need: {missing:?}");
        Ok(())
    });
}

/// A request that is lost with its answer leaves nothing that tells whether the next was sent together with it: two losses at least, and
/// nothing in between that tells.
#[test]
fn lost_packets_cost_a_neighbour_only_where_nothing_tells() {
    for_each(SEQUENTIAL, &losses(8), |capture, (way, losses)| {
        let missing = lossy(capture, &way, &losses)?;
        prop_assert!(missing.needlessly.is_empty(), "left out without need: {missing:?}");
        prop_assert!(missing.uncertain <= losses.len() / 2, "more than one for two losses: {missing:?}");
        Ok(())
    });
}

#[test]
fn holes_among_pipelined_requests_invent_nothing() {
    for_each(&[COMPRESSED, PIPELINED, OTHERS].concat(), &losses(8), |capture, (way, losses)| lossy(capture, &way, &losses).map(|_| ()));
}

#[test]
fn segments_of_256_kib_are_read_whole() {
    let client = ("10.0.0.1".parse().unwrap(), 40_000);
    let server = ("10.0.0.2".parse().unwrap(), 80);
    let (mut packets, mut sequence) = (Vec::new(), [0xffff_ff00u32, 0xfff0_0000]);
    for number in 0..6usize {
        let path = format!("/echo/{}", number * 9000);
        let body = number * 9000;
        let status = if body % 5 == 4 { "404 Not Found" } else { "200 OK" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/n-{body}\r\nContent-Length: {}\r\n\r\n", body * 37);
        let answer = [head.as_bytes(), &vec![b'b'; body * 37]].concat();
        for (sender, payload) in [(0, format!("GET {path} HTTP/1.1\r\n\r\n").into_bytes()), (1, answer)] {
            let (source, destination) = if sender == 0 { (client, server) } else { (server, client) };
            for piece in payload.chunks(1448) {
                let acknowledgment = Some(sequence[1 - sender]);
                let packet = Packet {
                    at_ns: 0,
                    source,
                    destination,
                    sequence: sequence[sender],
                    acknowledgment,
                    syn: false,
                    fin: false,
                    rst: false,
                    payload: piece.to_vec(),
                };
                sequence[sender] = packet.end();
                packets.push(packet);
            }
        }
    }
    for size in [1448, 65_535, 65_536, 200_000, LARGEST] {
        for link in [LinkType::Ethernet, LinkType::Raw] {
            let packets = timed(merged(packets.clone(), size), 1000);
            assert!(packets.iter().any(|packet| packet.payload.len() + 1448 > size));
            let records = read(&packets, link);
            assert_eq!(records.iter().filter(|found| !found.partial && found.answered).count(), 6, "{size} {records:?}");
            assert!(records.iter().all(|found| found.is("url_path")));
        }
    }
}
