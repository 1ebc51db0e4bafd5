//! Properties that hold for every protocol: what the network does to segments changes no exchange, save those a hole touches.

use std::collections::HashSet;

use podtap_wire::{Completeness, RequestRecord};
use proptest::prelude::*;

use super::script::{Script, Sent, read};

fn show(record: &RequestRecord<'_>) -> String {
    let partial = if record.completeness == Completeness::Partial { "partial " } else { "" };
    // The answer repeats the path as its content type, so a wrong pair shows itself.
    format!("{partial}{} {} {}", record.url_path, record.http_response_content_type, record.http_response_status_code)
}

fn conversation(exchanges: usize, pipelined: usize) -> Script {
    let mut script = Script::opened();
    for batch in 0..exchanges.div_ceil(pipelined) {
        let paths: Vec<_> = (batch * pipelined..exchanges.min((batch + 1) * pipelined)).map(|index| format!("/{index}")).collect();
        for path in &paths {
            let body = "b".repeat(path.len() * 7);
            script = script.client(format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
        for (index, path) in paths.iter().enumerate() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {path}\r\n");
            script = match index % 2 {
                0 => script.server(format!("{head}Content-Length: 40\r\n\r\n{}", "x".repeat(40))),
                _ => script.server(format!("{head}Transfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n0\r\n\r\n")),
            };
        }
    }
    script
}

fn clean(exchanges: usize) -> Vec<String> {
    (0..exchanges).map(|index| format!("/{index} /{index} 200")).collect()
}

/// Cuts segments at the given places; a part keeps time and acknowledgment.
fn cut(sent: Vec<Sent>, cuts: &[usize]) -> Vec<Sent> {
    let mut parts = Vec::new();
    for (index, segment) in sent.into_iter().enumerate() {
        let at = cuts.get(index % cuts.len().max(1)).copied().unwrap_or(0);
        if at == 0 || at >= segment.bytes.len() || segment.syn {
            parts.push(segment);
            continue;
        }
        let mut tail = segment.clone();
        tail.bytes = segment.bytes[at..].to_vec();
        tail.sequence = segment.sequence.wrapping_add(at as u32);
        parts.push(Sent { bytes: segment.bytes[..at].to_vec(), ..segment });
        parts.push(tail);
    }
    parts
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]

    #[test]
    fn order_copies_and_cuts_change_nothing(
        exchanges in 1..12usize,
        pipelined in 1..5usize,
        cuts in prop::collection::vec(0..60usize, 1..8),
        swaps in prop::collection::vec((0..200usize, 1..4usize), 0..12),
        copies in prop::collection::vec((0..200usize, 0..3usize), 0..12),
    ) {
        let mut sent = cut(conversation(exchanges, pipelined).sent, &cuts);
        // Segments behind the handshake change places with near ones, as they do between CPUs; times stay in the order of capture.
        let times: Vec<u64> = sent.iter().map(|segment| segment.at_ns / 1000).collect();
        for (place, distance) in swaps {
            let first = 3 + place % (sent.len() - 3);
            let second = (first + distance).min(sent.len() - 1);
            sent.swap(first, second);
        }
        for (segment, time) in sent.iter_mut().zip(&times) {
            segment.at_ns = *time;
        }
        for (place, distance) in copies {
            let index = place % sent.len();
            let copy = Sent { at_ns: sent[(index + distance).min(sent.len() - 1)].at_ns, ..sent[index].clone() };
            sent.insert((index + 1 + distance).min(sent.len()), copy);
        }
        prop_assert_eq!(read(&sent, false, show).lines, clean(exchanges));
    }

    #[test]
    fn losses_cost_only_what_they_touch(
        exchanges in 1..14usize,
        pipelined in 1..5usize,
        cuts in prop::collection::vec(0..60usize, 1..8),
        lost in prop::collection::hash_set(3..200usize, 1..5),
        wait in prop::bool::ANY,
    ) {
        let mut sent = cut(conversation(exchanges, pipelined).sent, &cuts);
        if wait {
            for (index, segment) in sent.iter_mut().enumerate() {
                segment.at_ns += index as u64 * 20_000_000;
            }
        }
        let kept: Vec<Sent> = sent.into_iter().enumerate().filter(|(index, _)| !lost.contains(index)).map(|(_, segment)| segment).collect();
        let expected: HashSet<String> = clean(exchanges).into_iter().collect();
        for line in read(&kept, false, show).lines {
            let whole = line.strip_prefix("partial ").unwrap_or(&line);
            let answered = !whole.ends_with(" 0");
            prop_assert!(expected.contains(whole) || !answered || whole.contains("  "), "invented: {line}");
            prop_assert!(answered || line.starts_with("partial "), "unanswered but not marked: {line}");
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec((prop::bool::ANY, prop::collection::vec(any::<u8>(), 1..40)), 1..20)) {
        let http = Script::joined().client("GET / HTTP/1.1\r\n\r\n");
        let mysql = Script::joined().client(b"\x09\0\0\0\x03select 1");
        for mut script in [Script::opened(), http, mysql] {
            for (by_client, bytes) in &bytes {
                script = if *by_client { script.client(bytes) } else { script.server(bytes) };
            }
            read(&script.sent, true, show);
        }
    }
}

#[test]
fn one_lost_segment_costs_one_exchange() {
    let sent = conversation(40, 1).sent;
    for lost in 3..sent.len() {
        let kept: Vec<Sent> = sent.iter().enumerate().filter(|(index, _)| *index != lost).map(|(_, segment)| segment.clone()).collect();
        let lines = read(&kept, false, show).lines;
        let whole = lines.iter().filter(|line| !line.starts_with("partial")).count();
        assert!(whole >= 39, "lost segment {lost}: {whole} of 40");
    }
}
