use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::packet::Segment;

/// Reads `(by client, sequence, acknowledgment, bytes)`, one a millisecond, and writes down the events.
fn events(limits: Limits, segments: &[(bool, u32, u32, &str)]) -> (Vec<String>, Counters) {
    let ends = [(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 1000), (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 80)];
    let mut table: FlowTable<()> = FlowTable::new(limits);
    let mut seen = Vec::new();
    let mut emit = |_: &mut (), _: &FlowFacts, event: Event<'_>| {
        seen.push(match event {
            Event::Data { sender, mark, bytes } => {
                format!("{sender}@{} {} {}", mark.offset, mark.time_ns / 1_000_000, String::from_utf8_lossy(bytes))
            }
            Event::Gap { sender, offset, length, .. } => format!("{sender}@{offset} gap {length}"),
            Event::Finished { sender, .. } => format!("{sender} finished"),
            Event::Closed(why) => format!("{why:?}"),
        });
    };
    for (index, (by_client, sequence, acknowledgment, text)) in segments.iter().enumerate() {
        let (source, destination) = if *by_client { (ends[0], ends[1]) } else { (ends[1], ends[0]) };
        let bytes = text.trim_matches(|flag: char| "SFR".contains(flag)).as_bytes();
        let segment = Segment {
            source,
            destination,
            sequence: *sequence,
            acknowledgment: Some(*acknowledgment).filter(|number| *number != 0),
            syn: text.contains('S'),
            fin: text.contains('F'),
            rst: text.contains('R'),
            payload: bytes,
            payload_length: bytes.len() as u32,
        };
        table.handle(&segment, (index as u64 + 1) * 1_000_000, &mut emit);
    }
    table.finish(&mut emit);
    assert_eq!(table.held_bytes(), 0);
    let counters = *table.counters();
    (seen, counters)
}

#[track_caller]
fn check(segments: &[(bool, u32, u32, &str)], expect: &[&str]) {
    assert_eq!(events(Limits::default(), segments).0, expect);
}

const SYN: (bool, u32, u32, &str) = (true, u32::MAX - 1, 0, "S");
const SYN_ACK: (bool, u32, u32, &str) = (false, 499, u32::MAX, "S");

#[test]
fn order_overlap_and_wrap() {
    check(
        &[SYN, SYN_ACK, (true, 1, 500, "cd"), (true, u32::MAX, 500, "ab"), (true, 0, 500, "bcdef"), (true, 1, 500, "cd")],
        &["0@0 4 ab", "0@2 3 cd", "0@4 5 ef", "CaptureEnded"],
    );
}

#[test]
fn an_answer_waits_for_its_request() {
    check(&[SYN, SYN_ACK, (false, 500, 1, "answer"), (true, u32::MAX, 500, "as")], &["0@0 4 as", "1@0 3 answer", "CaptureEnded"]);
}

#[test]
fn a_hole_is_believed_when_the_peer_has_the_bytes() {
    let late: Vec<_> = (0..20).map(|_| (false, 500, 3, "")).collect();
    let start = [SYN, SYN_ACK, (true, u32::MAX, 500, "ab"), (true, 3, 500, "ef")];
    check(&[&start[..], &late].concat(), &["0@0 3 ab", "0@2 gap 2", "0@4 4 ef", "CaptureEnded"]);
}

#[test]
fn ends() {
    let open = [SYN, SYN_ACK];
    check(
        &[&open[..], &[(true, u32::MAX, 500, "F"), (false, 500, 0, "xF"), (false, 500, 0, "xF")]].concat(),
        &["0 finished", "1@0 4 x", "1 finished", "Finished"],
    );
    check(&[&open[..], &[(false, 500, 0, "R"), (true, u32::MAX, 500, "late")]].concat(), &["Reset"]);
    let again = (true, 90_000, 0, "S");
    check(&[SYN, SYN_ACK, (true, u32::MAX, 500, "a"), again, (true, 90_001, 0, "b")], &["0@0 3 a", "Replaced", "0@0 5 b", "CaptureEnded"]);
}

#[test]
fn both_interfaces_are_counted_once() {
    let once = [SYN, SYN_ACK, (true, u32::MAX, 500, "ab"), (false, 500, 1, "cd")];
    let twice: Vec<_> = once.iter().flat_map(|segment| [*segment, *segment]).collect();
    let (seen, counters) = events(Limits::default(), &twice);
    assert_eq!(seen, ["0@0 5 ab", "1@0 7 cd", "CaptureEnded"]);
    assert_eq!((counters.flows_opened, counters.duplicate_bytes, counters.delivered_bytes), (1, 4, 4));
}

#[test]
fn a_full_buffer_gives_up_the_hole() {
    let limits = Limits { flow_buffer_bytes: 5, ..Limits::default() };
    let (seen, counters) = events(limits, &[SYN, SYN_ACK, (true, 9, 500, "abc"), (true, 12, 500, "def"), (true, 15, 500, "g")]);
    assert_eq!(seen, ["0@0 gap 10", "0@10 3 abc", "0@13 4 def", "0@16 5 g", "CaptureEnded"]);
    assert_eq!((counters.forced_gaps, counters.gap_bytes), (1, 10));
}

#[test]
fn the_table_is_bounded() {
    let limits = Limits { max_flows: 10, ..Limits::default() };
    let mut table: FlowTable<()> = FlowTable::new(limits);
    let mut evicted = 0;
    for port in 1..=100u16 {
        let end = |port| (IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let segment = Segment {
            source: end(port),
            destination: end(60_000),
            sequence: 1,
            acknowledgment: None,
            syn: true,
            fin: false,
            rst: false,
            payload: b"",
            payload_length: 0,
        };
        table.handle(&segment, u64::from(port), &mut |_, _, event| evicted += u64::from(matches!(event, Event::Closed(Close::Evicted))));
    }
    assert_eq!((table.len(), evicted, table.counters().flows_evicted), (10, 90, 90));
}

#[test]
fn what_has_ended_makes_room_first() {
    let limits = Limits { max_flows: 10, ..Limits::default() };
    let mut table: FlowTable<()> = FlowTable::new(limits);
    let send = |table: &mut FlowTable<()>, port: u16, syn: bool, rst: bool, time_ns: u64| {
        let end = |port| (IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let segment = Segment {
            source: end(port),
            destination: end(60_000),
            sequence: if syn { 1 } else { 2 },
            acknowledgment: None,
            syn,
            fin: false,
            rst,
            payload: b"",
            payload_length: 0,
        };
        table.handle(&segment, time_ns, &mut |_, _, _| {});
    };
    (1..=10).for_each(|port| send(&mut table, port, true, false, 1));
    send(&mut table, 7, false, true, 2);
    send(&mut table, 11, true, false, 3);
    assert_eq!((table.len(), table.counters().flows_evicted), (10, 0));
    send(&mut table, 12, true, false, 4);
    assert_eq!((table.len(), table.counters().flows_evicted), (10, 1));
    send(&mut table, 12, false, true, 5);
    table.handle_timeout(limits::CLOSED_LINGER_NS + 4, &mut |_, _, _| {});
    assert_eq!(table.len(), 10);
    table.handle_timeout(limits::CLOSED_LINGER_NS + 5, &mut |_, _, _| {});
    assert_eq!(table.len(), 9);
}

#[test]
fn an_acknowledgment_of_what_was_never_sent_outlives_no_connection() {
    let ends = [(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 1000), (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 80)];
    let mut table: FlowTable<()> = FlowTable::new(Limits::default());
    let mut closed = 0;
    // The server acknowledges beyond the client's FIN, then ends with an older acknowledgment: the hole is still waited for at the end.
    let said =
        [(0, 1, None, true, false), (1, 500, Some(2), true, false), (0, 2, Some(501), false, true), (1, 501, Some(50), false, false)];
    for (index, (sender, sequence, acknowledgment, syn, fin)) in said.into_iter().chain([(1, 501, Some(3), false, true)]).enumerate() {
        let (source, destination): (crate::packet::Endpoint, crate::packet::Endpoint) = (ends[sender], ends[1 - sender]);
        let segment = Segment { source, destination, sequence, acknowledgment, syn, fin, rst: false, payload: b"", payload_length: 0 };
        table.handle(&segment, index as u64 + 1, &mut |_, _, event| closed += u32::from(event_closes(&event)));
    }
    assert_eq!((closed, table.held_bytes()), (1, 0));
    table.handle_timeout(60_000_000_000, &mut |_, _, _| ());
    assert!(table.is_empty());
}

fn event_closes(event: &Event<'_>) -> bool {
    matches!(event, Event::Closed(_))
}

#[test]
fn each_hole_has_a_time_of_its_own() {
    let acknowledged = |count: usize| vec![(false, 500, 4, ""); count];
    // `b` comes late; the hole behind `c` is only then the next one, and `d` comes within its time.
    let start = [SYN, SYN_ACK, (true, u32::MAX, 500, "a"), (true, 1, 500, "c"), (true, 3, 500, "e")];
    let segments = [&start[..], &acknowledged(8), &[(true, 0, 500, "b")], &acknowledged(3), &[(true, 2, 500, "d")]].concat();
    check(&segments, &["0@0 3 a", "0@1 14 b", "0@2 4 c", "0@3 18 d", "0@4 5 e", "CaptureEnded"]);
}

#[test]
fn behind_a_fin_nothing_is_missing() {
    let segments = [SYN, SYN_ACK, (true, 4, 500, "more"), (true, u32::MAX, 500, "aF"), (true, 9, 500, "late"), (false, 500, 20, "x")];
    let (seen, counters) = events(Limits::default(), &segments);
    assert_eq!(seen, ["0@0 4 a", "0 finished", "1@0 6 x", "CaptureEnded"]);
    assert_eq!((counters.after_close_bytes, counters.gap_bytes, counters.payload_bytes), (8, 0, 10));
}
