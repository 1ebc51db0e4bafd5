use std::collections::HashMap;
use std::path::Path;

use pcap_parser::traits::PcapReaderIterator;
use pcap_parser::{LegacyPcapReader, PcapBlockOwned, PcapError};
use podtap_wire::{Completeness, RequestRecord};

use super::super::script::{Script, milliseconds, read};
use super::super::{Discard, Incident};
use super::command;
use super::frame::{Fields, Header};
use super::session::Session;
use crate::packet::{CapturedPacket, LinkType};
use crate::pipeline::{Pipeline, PipelineConfig};

fn show(record: &RequestRecord<'_>) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    format!(
        "{} [{}] {}{} rows {} affected {} {}+{}{}",
        record.mysql_command,
        record.db_query_text,
        record.status,
        if record.error_type.is_empty() { String::new() } else { format!(" {}", record.error_type) },
        number(record.db_response_returned_rows),
        number(record.db_response_affected_rows),
        milliseconds(record.time_to_first_byte_ns),
        milliseconds(record.time_to_last_byte_ns),
        if record.completeness == Completeness::Partial { " partial" } else { "" },
    )
}

#[track_caller]
fn check(script: Script, expect: &[&str]) {
    assert_eq!(read(&script.sent, true, show).lines, expect);
}

/// A packet.
fn packet(sequence: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = (payload.len() as u32).to_le_bytes()[..3].to_vec();
    bytes.push(sequence);
    bytes.extend_from_slice(payload);
    bytes
}

/// Packets numbered from `sequence` on.
fn packets<const N: usize>(sequence: u8, payloads: [&[u8]; N]) -> Vec<u8> {
    payloads.iter().enumerate().flat_map(|(index, payload)| packet(sequence.wrapping_add(index as u8), payload)).collect()
}

fn query(text: &str) -> Vec<u8> {
    packet(0, [b"\x03", text.as_bytes()].concat())
}

const OK: &[u8] = &[0, 1, 0, 2, 0, 0, 0];
const EOF: &[u8] = &[0xfe, 0, 0, 2, 0];
const EOF_MORE: &[u8] = &[0xfe, 0, 0, 10, 0];
/// An OK in the place of an EOF.
const OK_EOF: &[u8] = &[0xfe, 0, 0, 2, 0, 0, 0];
const COLUMN: &[u8] = b"\x03def\0\0\0\x01a\0\x0c\x3f\0\x0b\0\0\0\x08\x81\0\0\0\0";
const ERR: &[u8] = b"\xff\x28\x04#42000wrong";

fn classic(sequence: u8) -> Vec<u8> {
    packets(sequence, [b"\x01", COLUMN, EOF, b"\x011", b"\x012", EOF])
}

#[test]
fn joined_in_the_middle_with_either_style() {
    let modern = packets(1, [b"\x01", COLUMN, b"\x011", b"\x012", OK_EOF]);
    for answer in [classic(1), modern] {
        let script = Script::joined().client(query("select a from t")).server(&answer).client(query("select 1")).wait(4).server(&answer);
        check(script, &["COM_QUERY [select a from t] ok rows 2 affected - 1+1", "COM_QUERY [select 1] ok rows 2 affected - 5+5"]);
    }
}

#[test]
fn byte_by_byte() {
    let mut script = Script::joined().client(query("select a from t"));
    let answer = classic(1);
    for byte in &answer {
        script = script.server([*byte]);
    }
    check(script, &[&format!("COM_QUERY [select a from t] ok rows 2 affected - 1+{}", answer.len())]);
}

#[test]
fn several_results() {
    let answer = packets(1, [b"\x01", COLUMN, EOF, b"\x011", EOF_MORE, &[0, 3, 0, 10, 0, 0, 0], b"\x01", COLUMN, EOF, b"\x012", EOF]);
    let script = Script::joined().client(query("call p()")).server(&answer[..20]).server(&answer[20..]);
    check(script, &["COM_QUERY [call p()] ok rows 2 affected 3 1+2"]);
}

#[test]
fn error_after_rows() {
    let answer = packets(1, [b"\x01", COLUMN, EOF, b"\x011", ERR]);
    let script = Script::joined().client(query("select a from t")).server(answer).client(query("select 2")).server(packet(1, OK));
    check(
        script,
        &["COM_QUERY [select a from t] client_error 1064 rows 1 affected - 1+1", "COM_QUERY [select 2] ok rows - affected 1 1+1"],
    );
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let prepare = packet(0, b"\x16select ?");
    let execute = packet(0, b"\x17\xff\xff\xff\xff\0\x01\0\0\0");
    let prepared = packets(1, [&[0, 7, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0], COLUMN, EOF, COLUMN, EOF]);
    let script = Script::joined()
        .client(query("begin"))
        .server(packet(1, OK))
        .client([prepare, execute].concat())
        .server(prepared)
        .wait(9)
        .server(classic(1))
        .client(packet(0, b"\x17\x07\0\0\0\0\x01\0\0\0"))
        .server(classic(1))
        .client(packet(0, b"\x19\x07\0\0\0"))
        .client(packet(0, b"\x17\x07\0\0\0\0\x01\0\0\0"))
        .server(packet(1, ERR));
    let outcome = read(&script.sent, true, show);
    assert_eq!(
        outcome.lines,
        [
            "COM_QUERY [begin] ok rows - affected 1 1+1",
            "COM_STMT_PREPARE [select ?] ok rows - affected - 1+1",
            "COM_STMT_EXECUTE [select ?] ok rows 2 affected - 11+11",
            "COM_STMT_EXECUTE [select ?] ok rows 2 affected - 1+1",
            "COM_STMT_CLOSE [] ok rows - affected - ?+?",
            "COM_STMT_EXECUTE [] client_error 1064 rows - affected - 1+1",
        ]
    );
    assert_eq!(outcome.incidents(Incident::StatementUnknown), 1);
}

#[test]
fn style_unknown_and_nothing_but_parameters() {
    // Whether an EOF follows the parameters' definitions shows only when it comes.
    let prepared = |eof: bool| {
        let mut bytes = packets(1, [&[0, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], COLUMN]);
        bytes.extend(if eof { packet(3, EOF) } else { Vec::new() });
        bytes
    };
    for eof in [true, false] {
        let script = Script::joined()
            .client(packet(0, b"\x16delete from t where a = ?"))
            .server(prepared(eof))
            .client(packet(0, b"\x16delete from u where a = ?"))
            .server(prepared(eof))
            .finish(false);
        let lines = ["t", "u"].map(|table| format!("COM_STMT_PREPARE [delete from {table} where a = ?] ok rows - affected - 1+1"));
        assert_eq!(read(&script.sent, true, show).lines, lines, "EOF {eof}");
    }
}

/// The EOF comes with a time of its own, is lost, or is awaited when the capture ends: no end is made up.
#[test]
fn style_unknown_and_the_end_of_a_prepare() {
    let begin = || {
        let definitions = packets(1, [&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], COLUMN]);
        Script::joined().client(packet(0, b"\x16select 7")).server(definitions)
    };
    let execute = || packet(0, b"\x17\x07\0\0\0\0\x01\0\0\0");
    let executed = "COM_STMT_EXECUTE [select 7] ok rows 2 affected - 1+1";
    let late = begin().wait(6).server(packet(3, EOF)).client(execute()).server(classic(1));
    check(late, &["COM_STMT_PREPARE [select 7] ok rows - affected - 1+8", executed]);
    let lost = begin().wait(6).server(packet(3, EOF)).unseen().client(execute()).server(classic(1));
    check(lost, &["COM_STMT_PREPARE [select 7] ok rows - affected - 1+? partial", executed]);
    check(begin(), &["COM_STMT_PREPARE [select 7] ok rows - affected - 1+? partial"]);
    check(begin().reset(true), &["COM_STMT_PREPARE [select 7] ok rows - affected - 1+? partial"]);
    check(begin().finish(false), &["COM_STMT_PREPARE [select 7] ok rows - affected - 1+1"]);
    let modern = packets(1, [b"\x01", COLUMN, b"\x011", b"\x012", OK_EOF]);
    check(begin().wait(6).client(execute()).server(&modern), &["COM_STMT_PREPARE [select 7] ok rows - affected - 1+1", executed]);
}

#[test]
fn style_unknown_and_commands_sent_ahead() {
    for eof in [true, false] {
        let mut prepared = packets(1, [&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], COLUMN]);
        prepared.extend(if eof { packet(3, EOF) } else { Vec::new() });
        let rows = if eof { classic(1) } else { packets(1, [b"\x01", COLUMN, b"\x011", b"\x012", OK_EOF]) };
        let script = Script::joined()
            .client(query("begin"))
            .server(packet(1, OK))
            .client([packet(0, b"\x16select 7"), packet(0, b"\x17\xff\xff\xff\xff\0\x01\0\0\0")].concat())
            .server(prepared)
            .wait(9)
            .server(rows);
        let lines = [
            "COM_QUERY [begin] ok rows - affected 1 1+1",
            "COM_STMT_PREPARE [select 7] ok rows - affected - 1+1",
            "COM_STMT_EXECUTE [select 7] ok rows 2 affected - 11+11",
        ];
        check(script, &lines);
    }
}

/// An EXECUTE of the statement that was prepared last has no text where a piece of the PREPARE, all of it, or its answer lies in a hole.
#[test]
fn a_hole_in_a_prepare_gives_its_execute_no_other_statement() {
    let execute = packet(0, b"\x17\xff\xff\xff\xff\0\x01\0\0\0");
    let prepared = packet(1, [0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let older = || {
        let script = Script::joined().client(packet(0, b"\x16delete from t")).server(packet(1, [0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        script.client(&execute).server(packet(1, OK))
    };
    let newer = packet(0, b"\x16delete from t where a = 1");
    let piece =
        older().client(&newer[..18]).client(&newer[18..]).unseen().client(&execute).server([&prepared[..], &packet(1, OK)].concat());
    let all = older().client(&newer).unseen().server(&prepared).client(&execute).server(packet(1, OK));
    let answer = older().client(&newer).server(&prepared).unseen().client(&execute).server(packet(1, OK));
    for script in [piece, all, answer] {
        let lines = read(&script.sent, true, show).lines;
        assert_eq!(lines[1], "COM_STMT_EXECUTE [delete from t] ok rows - affected 1 1+1");
        let of_the_newer = lines.iter().skip(2).filter(|line| line.starts_with("COM_STMT_EXECUTE")).collect::<Vec<_>>();
        assert!(of_the_newer.iter().all(|line| line.starts_with("COM_STMT_EXECUTE [] ok")) && of_the_newer.len() == 1, "{lines:?}");
    }
}

#[test]
fn error_behind_the_last_definition_of_a_prepare() {
    // The rows say that EOFs are sent.
    let script = Script::joined()
        .client(query("select a from t"))
        .server(classic(1))
        .client(packet(0, b"\x16select 7"))
        .server(packets(1, [&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], COLUMN, ERR]));
    check(
        script,
        &["COM_QUERY [select a from t] ok rows 2 affected - 1+1", "COM_STMT_PREPARE [select 7] client_error 1064 rows - affected - 1+1"],
    );
}

#[test]
fn row_of_more_than_16_mib() {
    let mut row = packet(4, vec![0xfd; super::frame::FULL]);
    row.extend(packet(5, vec![b'x'; 1000]));
    let mut script = Script::joined().client(query("select a from t")).server(packets(1, [b"\x01", COLUMN, EOF]));
    for piece in row.chunks(60_000) {
        script = script.server(piece);
    }
    let pieces = row.chunks(60_000).count();
    script = script.server(packets(6, [b"\x011", EOF]));
    check(script, &[&format!("COM_QUERY [select a from t] ok rows 2 affected - 1+{}", pieces + 2)]);
}

#[test]
fn hole_inside_a_row_keeps_the_framing() {
    let answer = packets(1, [b"\x01", COLUMN, EOF, &[b'x'; 3000], b"\x012", EOF]);
    let script = Script::joined()
        .client(query("select a from t"))
        .server(&answer[..1000])
        .server(&answer[1000..2000])
        .unseen()
        .server(&answer[2000..])
        .client(query("select 1"))
        .server(packet(1, OK));
    check(script, &["COM_QUERY [select a from t] ok rows 2 affected - 1+3 partial", "COM_QUERY [select 1] ok rows - affected 1 1+1"]);
}

#[test]
fn lost_answer_is_left_out() {
    let script = Script::joined()
        .client(query("select 1"))
        .server(packet(1, OK))
        .client(query("select 2"))
        .server(classic(1))
        .unseen()
        .client(query("select 3"))
        .server(packet(1, OK));
    let outcome = read(&script.sent, true, show);
    assert_eq!(outcome.lines, ["COM_QUERY [select 1] ok rows - affected 1 1+1", "COM_QUERY [select 3] ok rows - affected 1 1+1"]);
    assert_eq!(outcome.incidents(Incident::AnswerLost), 1);
}

#[test]
fn refused_before_the_greeting() {
    let refusal = packet(0, b"\xff\x10\x04Too many connections");
    let outcome = read(&Script::opened().server(refusal).finish(false).sent, true, show);
    assert_eq!(outcome.lines, ["CONNECT [] server_error 1040 rows - affected - ?+?"]);
    assert_eq!(outcome.discarded(Discard::Unpaired), 0);
}

#[test]
fn length_encoded_integers() {
    let cases: [(&[u8], Option<u64>); 7] = [
        (&[0xfa], Some(250)),
        (&[0xfc, 0xfb, 0], Some(251)),
        (&[0xfd, 1, 2, 3], Some(0x03_0201)),
        (&[0xfe, 1, 0, 0, 0, 0, 0, 0, 0x80], Some(0x8000_0000_0000_0001)),
        (&[0xfb], None),
        (&[0xff], None),
        (&[0xfc, 1], None),
    ];
    for (bytes, value) in cases {
        assert_eq!(Fields(bytes).length_encoded(), value, "{bytes:?}");
    }
    assert_eq!(Fields(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).text(), None);
    assert_eq!(Header::parse(&[1, 2, 3]), None);
}

#[test]
fn query_attributes_are_passed_over() {
    let named = b"\x01\x01\0\x01\xfe\0\x05trace\x03abcselect 1";
    for capabilities in [None, Some(u64::MAX)] {
        assert_eq!(command::statement(named, capabilities).map(|found| found.statement), Some(&b"select 1"[..]));
        assert_eq!(command::statement(b"\0\x01select 1", capabilities).map(|found| found.statement), Some(&b"select 1"[..]));
    }
    assert_eq!(command::statement(b"select 1", None).map(|found| found.statement), Some(&b"select 1"[..]));
}

#[test]
fn the_statement_used_longest_ago_goes_first() {
    let mut session = Session::default();
    for id in 1..=1024 {
        let mut statement = session.blank_statement();
        statement.text.push_str("select 1");
        session.prepare(id, statement);
    }
    assert!(session.statement(1).is_some());
    let statement = session.blank_statement();
    session.prepare(5000, statement);
    assert_eq!(session.evicted, 1);
    assert!(session.statement(1).is_some() && session.statement(5000).is_some() && session.statement(2).is_none());
}

#[test]
fn session_follows_statements() {
    let mut session = Session::default();
    for (statement, schema) in [("USE shop", "shop"), ("use `other`;", "other"), ("useful", "other"), ("SELECT 1", "other")] {
        session.follow(statement);
        assert_eq!(session.schema, schema, "{statement}");
    }
}

/// A greeting of a server that compresses, and a login that asks for it.
fn compressing() -> Script {
    let capabilities: u32 = 0x0000_8220 | 1 << 24;
    let mut greeting = b"\x0a8.4.0\0\x07\0\0\0aaaaaaaa\0".to_vec();
    greeting.extend_from_slice(&(capabilities as u16).to_le_bytes());
    greeting.extend_from_slice(b"\xff\x02\0");
    greeting.extend_from_slice(&((capabilities >> 16) as u16).to_le_bytes());
    greeting.extend_from_slice(b"\x15\0\0\0\0\0\0\0\0\0\0aaaaaaaaaaaa\0");
    let mut login = capabilities.to_le_bytes().to_vec();
    login.extend_from_slice(b"\0\0\0\x01\xff");
    login.extend_from_slice(&[0; 23]);
    login.extend_from_slice(b"pt\0\0");
    Script::opened().server(packet(0, greeting)).client(packet(1, login)).server(packet(2, OK))
}

/// A compressed packet; `algorithm` packs, or leaves as it is.
fn wrapped(sequence: u8, bytes: &[u8], algorithm: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let inside = algorithm(bytes);
    let unpacked = if inside == bytes { 0 } else { bytes.len() as u32 };
    [&(inside.len() as u32).to_le_bytes()[..3], &[sequence], &unpacked.to_le_bytes()[..3], &inside].concat()
}

fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packer, bytes).unwrap();
    packer.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

const LOGIN: &str = "CONNECT [] ok rows - affected - 1+1";

#[test]
fn compressed_in_every_way_and_cut_anywhere() {
    let rows: Vec<Vec<u8>> = (0..200).map(|row| packet((3 + row) as u8, format!("\x0arow {row:06}"))).collect();
    let answer = [packets(1, [b"\x01", COLUMN]), rows.concat(), packet(203, OK_EOF)].concat();
    for algorithm in [plain, zlib, zstd] {
        // The answer in two packets whose border lies within a row.
        let (first, second) = answer.split_at(1000);
        let wire = [wrapped(1, first, algorithm), wrapped(2, second, algorithm)].concat();
        let ask = wrapped(0, &query("select a from t"), algorithm);
        for cut in 0..wire.len() {
            let (first, second) = wire.split_at(cut);
            let mut script = compressing().client(&ask);
            script = if first.is_empty() { script } else { script.server(first) };
            let outcome = read(&script.server(second).client(wrapped(0, &query("select 2"), algorithm)).sent, true, show);
            assert_eq!(outcome.lines.len(), 3, "{:?}", outcome.lines);
            assert_eq!(outcome.lines[0], LOGIN);
            assert!(outcome.lines[1].starts_with("COM_QUERY [select a from t] ok rows 200 affected -"), "{cut}: {:?}", outcome.lines);
            assert!(outcome.lines[2].starts_with("COM_QUERY [select 2] no_response"), "{:?}", outcome.lines);
            assert_eq!(outcome.outbox.unpackers.reserved(), 0);
        }
    }
}

#[test]
fn sizes_of_a_compressed_connection_are_those_on_the_wire() {
    let text = format!("select {}", "a".repeat(5000));
    let (ask, answer) = (wrapped(0, &query(&text), zlib), wrapped(1, &packet(1, OK), plain));
    let sizes = |record: &RequestRecord<'_>| format!("{} {}", record.request_bytes, record.response_bytes);
    let outcome = read(&compressing().client(&ask).server(&answer).sent, true, sizes);
    assert_eq!(outcome.lines[1], format!("{} {}", ask.len(), answer.len()));
}

#[test]
fn what_cannot_be_unpacked_is_a_hole() {
    let lie = |mut packet: Vec<u8>| {
        packet[4] = packet[4].wrapping_add(1);
        packet
    };
    let spoil = |mut packet: Vec<u8>| {
        packet[9] ^= 0xff;
        packet
    };
    let answer = wrapped(1, &packets(1, [b"\x01", COLUMN, b"\x011", b"\x012", OK_EOF]), zlib);
    // Where one byte too few comes, all of the answer was there.
    for (broken, whole) in [(lie(answer.clone()), true), (spoil(answer.clone()), false)] {
        let script = compressing()
            .client(wrapped(0, &query("select a from t"), plain))
            .server(broken)
            .client(wrapped(0, &query("select 2"), plain))
            .server(wrapped(1, &packet(1, OK), plain));
        let outcome = read(&script.sent, true, show);
        assert_eq!(outcome.lines.last().map(String::as_str), Some("COM_QUERY [select 2] ok rows - affected 1 1+1"));
        let first = outcome.lines.iter().find(|line| line.contains("select a"));
        assert_eq!(first.is_some_and(|line| line.contains("rows 2") && !line.ends_with("partial")), whole, "{:?}", outcome.lines);
        assert!(whole || outcome.discarded(Discard::Malformed) > 0);
    }
}

#[test]
fn a_packet_that_claims_too_much_beside_others_is_not_unpacked() {
    let script = compressing().client([&[0, 1, 0, 0, 0xff, 0xff, 0xff][..], &[0x78; 256]].concat());
    let outcome = read(&script.sent, true, show);
    assert_eq!(outcome.lines, [LOGIN]);
    assert!(outcome.discarded(Discard::Malformed) > 0);
}

// The rest reads captures of real servers and clients (tests/captures/mysql, see make.sh there).

type Seen = (String, String, Option<u64>, Option<u64>, Option<u64>, Option<u64>, String);

/// Packets of a capture with their times.
fn capture(name: &str) -> Vec<(u64, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures/mysql").join(name);
    let mut reader = LegacyPcapReader::new(1 << 20, std::fs::File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                if let PcapBlockOwned::Legacy(packet) = block {
                    packets.push((u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_usec) * 1000, packet.data.to_vec()));
                }
                reader.consume(offset);
            }
            Err(PcapError::Eof) => return packets,
            Err(PcapError::Incomplete(_)) => reader.refill().map(|_| ()).unwrap(),
            Err(error) => panic!("{name}: {error:?}"),
        }
    }
}

/// Every record of every capture, as in `records.txt` beside them; `UPDATE_GOLDEN=1` writes it anew, for `git diff` to show.
#[test]
fn captures_give_their_records() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures/mysql");
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".pcap"));
    names.sort();
    let mut found = String::new();
    for name in names {
        let mut pipeline = Pipeline::new(PipelineConfig { unmask: true, ..PipelineConfig::default() });
        found += &format!("# {name}\n");
        for (timestamp_ns, data) in capture(&name) {
            pipeline.handle_packet(&packet_of(timestamp_ns, &data));
            drain(&mut pipeline, &mut found);
        }
        pipeline.finish();
        drain(&mut pipeline, &mut found);
        for figure in pipeline.account() {
            if figure.value > 0 && ["podtap_discarded_bytes_total", "podtap_incidents_total"].contains(&figure.name) {
                found += &format!("{} {} {}\n", figure.name, figure.label, figure.value);
            }
        }
    }
    let golden = folder.join("records.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap();
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}

fn drain(pipeline: &mut Pipeline, lines: &mut String) {
    while let Some(record) = pipeline.next_record() {
        let text: String = record.db_query_text.chars().take(120).collect();
        let record = RequestRecord { db_query_text: &text, ..record };
        let line = format!(
            "{} | {} {} {} | {}+{} bytes | {} {} {}",
            show(&record),
            record.db_system_name,
            record.db_user,
            record.db_namespace,
            record.request_bytes,
            record.response_bytes,
            record.db_response_sqlstate,
            record.db_response_message,
            record.db_query_parameters.join(","),
        );
        *lines += line.trim_end_matches([' ', '|']);
        lines.push('\n');
    }
}

fn packet_of(timestamp_ns: u64, data: &[u8]) -> CapturedPacket<'_> {
    CapturedPacket { timestamp_ns, interface: 0, link_type: LinkType::Ethernet, data, original_length: data.len() as u32 }
}

/// Records by time; a partial one has no key of its own to compare.
fn records<'a>(packets: impl Iterator<Item = &'a (u64, Vec<u8>)>) -> (HashMap<(u64, u64), Seen>, usize) {
    let mut pipeline = Pipeline::new(PipelineConfig { unmask: true, ..PipelineConfig::default() });
    let (mut whole, mut partial) = (HashMap::new(), 0);
    let mut take = |pipeline: &mut Pipeline| {
        while let Some(record) = pipeline.next_record() {
            if record.completeness == Completeness::Partial {
                partial += 1;
                continue;
            }
            let key = (record.timestamp, record.tcp_request_sequence.unwrap_or(0));
            let seen = (
                record.mysql_command.to_owned(),
                record.status.to_string(),
                record.time_to_first_byte_ns,
                record.time_to_last_byte_ns,
                record.db_response_returned_rows,
                record.db_response_affected_rows,
                record.db_query_text.to_owned(),
            );
            whole.insert(key, seen);
        }
    };
    for (timestamp_ns, data) in packets {
        pipeline.handle_packet(&packet_of(*timestamp_ns, data));
        take(&mut pipeline);
    }
    pipeline.finish();
    take(&mut pipeline);
    (whole, partial)
}

const CAPTURES: [&str; 12] = [
    "bulk.pcap",
    "client.pcap",
    "compressed-client.pcap",
    "cursor.pcap",
    "direct.pcap",
    "error-in-rows.pcap",
    "gbk.pcap",
    "infile.pcap",
    "latin1.pcap",
    "prepared.pcap",
    "pymysql.pcap",
    "sjis.pcap",
];

/// True if a record is one of those that the whole capture gives, save for a statement whose PREPARE was not seen, or letters in a
/// character set that was agreed on before.
fn is_known(known: &HashMap<(u64, u64), Seen>, key: &(u64, u64), seen: &Seen) -> bool {
    known.get(key).is_some_and(|known| {
        let text = seen.6.is_empty() || seen.6 == known.6 || seen.6.contains('\u{fffd}');
        text && (&seen.0, &seen.1, seen.2, seen.3, seen.4, seen.5) == (&known.0, &known.1, known.2, known.3, known.4, known.5)
    })
}

/// True if another packet carries the same bytes again: without the first one, the copy's time is all there is to know.
fn is_copied(packets: &[(u64, Vec<u8>)], index: usize) -> bool {
    // Ethernet, IPv4 without options; behind a TCP header with time stamps come the bytes.
    const SEQUENCE: std::ops::Range<usize> = 38..42;
    const HEADERS: usize = 14 + 20 + 32;
    let one = &packets[index].1;
    let same = |other: &Vec<u8>| other.get(SEQUENCE) == one.get(SEQUENCE) && other.get(HEADERS..) == one.get(HEADERS..);
    one.len() > HEADERS && packets.iter().filter(|(_, other)| same(other)).count() > 1
}

#[test]
fn a_lost_packet_never_makes_a_false_record() {
    for name in CAPTURES {
        let packets = capture(name);
        let (known, partial) = records(packets.iter());
        assert!(partial == 0 && known.len() >= 6, "{name}: {} records, {partial} partial", known.len());
        for lost in (0..packets.len()).filter(|lost| !is_copied(&packets, *lost)) {
            let (whole, _) = records(packets.iter().enumerate().filter(|(index, _)| *index != lost).map(|(_, packet)| packet));
            for (key, seen) in &whole {
                assert!(is_known(&known, key, seen), "{name} without packet {lost}: {seen:?} instead of {:?}", known.get(key));
            }
            // What the packet touched, and a pipelined batch that it belonged to; behind a greeting that was lost, the login.
            assert!(whole.len() + 4 >= known.len(), "{name} without packet {lost}: {} of {}", whole.len(), known.len());
        }
    }
}

#[test]
fn joined_anywhere_only_true_records_are_made() {
    for name in CAPTURES {
        let packets = capture(name);
        let (known, _) = records(packets.iter());
        for start in 1..packets.len() {
            let (whole, _) = records(packets.iter().skip(start));
            for (key, seen) in &whole {
                assert!(is_known(&known, key, seen), "{name} from packet {start}: {seen:?} instead of {:?}", known.get(key));
            }
        }
    }
}

#[test]
fn where_a_row_is_cut_changes_nothing() {
    let row = packet(4, b"\x0211");
    let script = Script::joined().client(query("select a from t")).server(packets(1, [b"\x01", COLUMN, EOF]));
    let whole = read(&script.clone().server(&row[..6]).reset(false).sent, true, show).lines;
    assert_eq!(whole, ["COM_QUERY [select a from t] ok connection_reset rows 1 affected - 1+?"]);
    for at in 1..6 {
        let script = script.clone().server(&row[..at]).server(&row[at..6]).reset(false);
        assert_eq!(read(&script.sent, true, show).lines, whole, "cut at {at}");
    }
}

#[test]
fn behind_a_hole_a_command_may_begin_in_any_segment() {
    let (insert, select) = (query("insert into t values (1)"), query("select 2"));
    let (lost, tail) = insert.split_at(insert.len() - 2);
    let script = Script::joined().client(query("select 0")).server(packet(1, OK)).client(lost).unseen().client(tail).server(packet(1, OK));
    let script = script.client(&select[..4]).client(&select[4..]).server(packet(1, OK));
    let expect = ["COM_QUERY [select 0] ok rows - affected 1 1+1", "COM_QUERY [select 2] ok rows - affected 1 2+2"];
    check(script, &expect);
}
