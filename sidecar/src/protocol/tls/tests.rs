use podtap_wire::RequestRecord;

use super::super::script::{Script, read};

fn show(record: &RequestRecord<'_>) -> String {
    format!(
        "{} {} {} {} {} {}+{}",
        record.tls_server_name,
        record.tls_alpn,
        record.tls_version,
        record.status,
        record.completeness,
        record.request_bytes,
        record.response_bytes
    )
}

/// A hello of the given kind with extensions.
fn hello(kind: u8, middle: &[u8], extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.push(0);
    body.extend_from_slice(middle);
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(number, data)| [&number.to_be_bytes()[..], &(data.len() as u16).to_be_bytes()[..], data].concat())
        .collect();
    body.extend_from_slice(&(list.len() as u16).to_be_bytes());
    body.extend_from_slice(&list);
    let message = [&[kind, 0, 0, body.len() as u8][..], &body].concat();
    [&[0x16, 3, 1, 0, message.len() as u8][..], &message].concat()
}

#[test]
fn hellos_are_labelled() {
    let client = hello(1, &[0, 2, 0x13, 1, 1, 0], &[(0, b"\0\x07\0\0\x04shop"), (16, b"\0\x03\x02h2"), (43, b"\x04\x1a\x1a\x03\x04")]);
    let server = hello(2, &[0x13, 1, 0], &[(43, b"\x03\x04")]);
    let sizes = (client.len() + 3, server.len());
    let script =
        Script::opened().client(&client[..20]).client(&client[20..]).server(&server).client("\x17\x03\x03").finish(true).finish(false);
    assert_eq!(read(&script.sent, false, show).lines, [format!("shop h2 1.3 ok complete {}+{}", sizes.0, sizes.1)]);
    let script = Script::opened().client(&client).reset(false);
    assert_eq!(read(&script.sent, false, show).lines, [format!("shop h2 1.3 no_response complete {}+0", client.len())]);
    let script = Script::joined().server(b"\x17\x03\x03\0\x02ab").client(b"\x17\x03\x03\0\x01a");
    assert_eq!(read(&script.sent, false, show).lines, ["   ok partial 6+7"]);
}

#[test]
fn what_comes_before_tls_is_no_part_of_it() {
    let client = hello(1, &[0, 2, 0x13, 1, 1, 0], &[(0, b"\0\x07\0\0\x04shop")]);
    let server = hello(2, &[0x13, 1, 0], &[(43, b"\x03\x04")]);
    // PostgreSQL: SSLRequest, and the `S` that agrees to it.
    let script =
        Script::opened().client(b"\0\0\0\x08\x04\xd2\x16\x2f").server("S").client(&client).server(&server).finish(true).finish(false);
    let outcome = read(&script.sent, false, show);
    assert_eq!(outcome.lines, [format!("shop  1.3 ok complete {}+{}", client.len(), server.len())]);
    assert_eq!(outcome.discarded(crate::protocol::Discard::UnknownProtocol), 9);
}

#[test]
fn a_server_that_speaks_first_begins_nothing() {
    let server = hello(2, &[0x13, 1, 0], &[(43, b"\x03\x04")]);
    let script = Script::opened().server(&server).client(b"\x17\x03\x03\0\x01a").server(b"\x17\x03\x03\0\x01b");
    let times = |record: &RequestRecord<'_>| {
        let known = (record.tcp_request_sequence, record.tcp_response_sequence, record.time_to_first_byte_ns);
        format!("{} {} {known:?}", record.tls_version, record.completeness)
    };
    assert_eq!(read(&script.sent, false, times).lines, ["1.3 partial (None, None, None)"]);
}
