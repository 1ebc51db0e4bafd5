use podtap_wire::RequestRecord;

use super::super::script::{Script, milliseconds, read};
use super::super::{Discard, Incident};

fn show(record: &RequestRecord<'_>) -> String {
    let code = match record.http_response_status_code {
        0 => record.status.as_str().to_owned(),
        code => code.to_string(),
    };
    format!(
        "{} {} {code} {}+{} {}{}{}",
        record.http_request_method,
        record.url_path,
        milliseconds(record.time_to_first_byte_ns),
        milliseconds(record.time_to_last_byte_ns),
        record.completeness,
        if record.error_type.is_empty() || record.error_type == code { "" } else { " " },
        if record.error_type == code { "" } else { record.error_type },
    )
}

#[track_caller]
fn check(script: Script, expect: &[&str]) {
    assert_eq!(read(&script.sent, false, show).lines, expect);
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn keep_alive() {
    let script = Script::opened().client(get("/a")).server(OK).client(get("/b")).wait(50).server(OK);
    check(script, &["GET /a 200 1+1 complete", "GET /b 200 51+51 complete"]);
}

#[test]
fn pieces() {
    let mut script = Script::opened();
    for byte in get("/a").as_bytes() {
        script = script.client([*byte]);
    }
    for byte in OK.as_bytes() {
        script = script.server([*byte]);
    }
    let length = (get("/a").len(), OK.len());
    check(script, &[&format!("GET /a 200 {}+{} complete", length.0, length.0 + length.1 - 1)]);
}

#[test]
fn pipelined() {
    let script = Script::opened().client(get("/a") + &get("/b") + &get("/c")).server(OK.repeat(2)).server(OK);
    check(script, &["GET /a 200 1+1 complete", "GET /b 200 1+1 complete", "GET /c 200 2+2 complete"]);
}

#[test]
fn bodies() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let script = Script::opened()
        .client("POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")
        .client("56789")
        .server("HTTP/1.1 100 Continue\r\n\r\n")
        .server(format!("{chunked}5;name=value\r\nhello\r\n"))
        .server("A\r\n0123456789\r\n0\r\nX-Trailer: x\r\n")
        .server("\r\n")
        .client("PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .server("HTTP/1.1 204 No Content\r\n\r\n")
        .client("HEAD /c HTTP/1.1\r\n\r\n")
        .server("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        .client(get("/d"))
        .server("HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n")
        .client(get("/e"))
        .server("HTTP/1.0 200 OK\r\n\r\nuntil")
        .server("the end")
        .finish(false)
        .finish(true);
    let expect = [
        "POST /a 200 3+5 complete",
        "PUT /b 204 1+1 complete",
        "HEAD /c 200 1+1 complete",
        "GET /d 304 1+1 complete",
        "GET /e 200 1+2 complete",
    ];
    check(script.clone(), &expect);
    let sizes = |record: &RequestRecord<'_>| {
        format!("{:?} {:?}", record.http_request_body_size.unwrap_or(999), record.http_response_body_size.unwrap_or(999))
    };
    assert_eq!(read(&script.sent, false, sizes).lines, ["10 15", "3 0", "0 0", "0 0", "0 12"]);
}

#[test]
fn errors() {
    check(Script::opened().client(get("/a")).finish(false).finish(true), &["GET /a no_response ?+? complete connection_closed"]);
    check(Script::opened().client(get("/a")).reset(false), &["GET /a no_response ?+? complete connection_reset"]);
    check(Script::opened().client(get("/a")), &["GET /a no_response ?+? partial"]);
    check(
        Script::opened().client(get("/a")).wait(301_000).acknowledge(false).wait(2000).acknowledge(false).server(OK),
        &["GET /a no_response ?+? complete timeout"],
    );
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nok";
    check(Script::opened().client(get("/a")).server(cut).reset(false), &["GET /a 200 1+? complete connection_reset"]);
    check(Script::opened().client(get("/a")).server("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), &["GET /a 503 1+1 complete"]);
}

#[test]
fn early_answer() {
    let script = Script::opened()
        .client("POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234")
        .server("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        .client("56789")
        .client(get("/b"))
        .server(OK);
    check(script, &["POST /a 413 1+1 complete", "GET /b 200 1+1 complete"]);
}

#[test]
fn tunnels() {
    let script = Script::opened()
        .client("GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        .server("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x01\x02")
        .client(get("/in-the-tunnel"));
    let outcome = read(&script.sent, false, show);
    assert_eq!(outcome.lines, ["GET /ws 101 1+1 complete"]);
    assert_eq!(outcome.discarded(Discard::Opaque), 2 + get("/in-the-tunnel").len() as u64);
    let script = Script::opened()
        .client("CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n")
        .server("HTTP/1.1 200 Connection established\r\n\r\n")
        .client("\x16\x03\x01");
    check(script, &["CONNECT  200 1+1 complete"]);
}

#[test]
fn what_a_tunnel_carries() {
    let connect = "CONNECT shop:443 HTTP/1.1\r\nHost: shop:443\r\n\r\n";
    let open = "HTTP/1.1 200 Connection established\r\n\r\n";
    let script = Script::opened().client(connect).server(open).client("GE").client("T /a HTTP/1.1\r\n\r\n").server(OK);
    check(script, &["CONNECT  200 1+1 complete", "GET /a 200 2+2 complete"]);
    // A hello whose rest is missing is a hello all the same.
    let short = |record: &RequestRecord<'_>| format!("{} {}", record.network_protocol_name, record.request_bytes);
    let hello = [&[0x16, 3, 1, 0, 9, 1, 0, 0, 5][..], b"hello"].concat();
    let script = Script::opened().client(connect).server(open).client(hello).finish(true).finish(false);
    assert_eq!(read(&script.sent, false, short).lines, [format!("http {}", connect.len()), "tls 14".to_owned()]);
    let outcome = read(&Script::opened().client(connect).server(open).server("220 mail").client("HELO me").sent, false, show);
    assert_eq!(outcome.lines, ["CONNECT  200 1+1 complete"]);
    assert_eq!(outcome.discarded(Discard::Opaque), 15);
}

#[test]
fn spaces_in_a_target_are_answered_like_any_other() {
    let bad = "GET /a b?c d HTTP/1.1\r\nHost: shop\r\n\r\n";
    let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let script = Script::opened().client(&bad[..30]).client(&bad[30..]).server(answer).client(get("/b")).server(OK);
    let outcome = read(&script.sent, false, show);
    assert_eq!(outcome.lines, ["GET /a b 400 2+2 complete", "GET /b 200 1+1 complete"]);
    assert_eq!(outcome.incidents(Incident::RequestLineInvalid), 1);
}

#[test]
fn a_head_that_the_end_cuts_still_tells_its_status() {
    let script = Script::opened().client(get("/a")).server("HTTP/1.0 200 OK\r\nServer: x\r\n").finish(false).finish(true);
    check(script, &["GET /a 200 1+? partial"]);
}

#[test]
fn gaps_in_bodies_of_known_length() {
    let script = Script::opened()
        .client(get("/a"))
        .server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        .server("def")
        .unseen()
        .server("ghi")
        .client(get("/b"))
        .server(OK);
    check(script, &["GET /a 200 1+3 partial", "GET /b 200 1+1 complete"]);
}

#[test]
fn a_hole_costs_what_it_touches() {
    let exchange = |script: Script, path: &str| script.client(get(path)).server(OK);
    // A whole answer.
    let script = exchange(exchange(Script::opened(), "/a").client(get("/b")).server(OK).unseen(), "/c").client(get("/d")).server(OK);
    let outcome = read(&script.sent, false, show);
    assert_eq!(outcome.lines, ["GET /a 200 1+1 complete", "GET /c 200 1+1 complete", "GET /d 200 1+1 complete"]);
    assert_eq!(outcome.incidents(Incident::AnswerLost), 1);
    // A whole request: its answer belongs to nobody.
    let script = exchange(exchange(Script::opened(), "/a").client(get("/b")).unseen().server(OK), "/c");
    let outcome = read(&script.sent, false, show);
    assert_eq!(outcome.lines, ["GET /a 200 1+1 complete", "GET /c 200 1+1 complete"]);
    assert_eq!(outcome.incidents(Incident::AnswerWithoutRequest), 1);
    // The end of a chunked body.
    let script = exchange(Script::opened(), "/a").client(get("/b")).server("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe");
    let script = exchange(script.server("llo\r\n0\r\n\r\n").unseen(), "/c");
    check(script, &["GET /a 200 1+1 complete", "GET /b 200 1+? partial", "GET /c 200 1+1 complete"]);
    // The end of a request's head.
    let script = exchange(Script::opened(), "/a").client("GET /b HTTP/1.1\r\nHost: sh").client("op\r\n\r\n").unseen().server(OK);
    check(exchange(script, "/c"), &["GET /a 200 1+1 complete", "GET /b 200 2+2 partial", "GET /c 200 1+1 complete"]);
}

#[test]
fn joined_in_the_middle() {
    let script = Script::joined().server("the rest of a body").client(get("/a")).server(OK).client(get("/b")).server(OK);
    check(script, &["GET /a 200 1+1 complete", "GET /b 200 1+1 complete"]);
    let script = Script::joined().client("ody=1").server(OK).client(get("/a")).server(OK);
    check(script, &["GET /a 200 1+1 complete"]);
}

#[test]
fn pipelining_behind_a_hole_is_never_paired_by_luck() {
    // /a is lost, so the first answer is not that of /b.
    let script = Script::opened().client(get("/a")).unseen().client(get("/b")).client(get("/c")).server(OK).server(OK).server(OK);
    let script = script.client(get("/d")).client(get("/e")).server(OK).server(OK);
    let outcome = read(&script.sent, false, show);
    assert_eq!(outcome.lines, ["GET /d 200 2+2 complete", "GET /e 200 2+2 complete"]);
}

#[test]
fn doubtful_framing_is_not_believed() {
    let script = Script::opened()
        .client("POST /a HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
        .server(OK)
        .client(get("/b"))
        .server(OK);
    let outcome = read(&script.sent, false, show);
    assert_eq!(outcome.lines, ["POST /a 200 1+1 partial", "GET /b 200 1+1 complete"]);
    assert_eq!(outcome.incidents(Incident::AmbiguousFraming), 1);
}

#[test]
fn other_protocols_are_not_http() {
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"GET /only-http-0.9\r\n",
        b"\0\0\0\x01GET / HTTP/1.1\r\n",
    ] {
        check(Script::opened().client(bytes).server("HTTP").client("more"), &[]);
    }
}

#[test]
fn headers() {
    let script = Script::opened()
        .client(
            "GET http://user:secret@shop.example/items/4711?token=secret&b HTTP/1.1\r\nHost: other\r\nUser-Agent: curl/8\r\n\
             X-Forwarded-For: 203.0.113.9, 10.0.0.1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
             x-request-id: r1\r\nContent-Type: text/xml\r\n\r\n",
        )
        .server("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n");
    let fields = |record: &RequestRecord<'_>| {
        [
            record.http_request_header_host,
            record.url_template,
            record.url_query,
            record.user_agent_original,
            record.http_forwarded_client,
            record.trace_id,
            record.span_id,
            record.request_id,
            record.http_request_content_type,
            record.http_response_content_type,
        ]
        .join(" ")
    };
    let expect = "shop.example /items/{id} token=?&? curl/8 203.0.113.9 0af7651916cd43dd8448eb211c80319c b7ad6b7169203331 r1 \
                  text/xml application/json";
    assert_eq!(read(&script.sent, false, fields).lines, [expect]);
}

#[test]
fn where_a_request_line_is_cut_changes_nothing() {
    let spaced = "GET /a b?c d HTTP/1.1\r\nHost: shop\r\n\r\n".to_owned();
    let long = get(&format!("/{}", "a".repeat(3000)));
    for line in [spaced, long] {
        let whole = read(&Script::opened().client("").client(&line).server(OK).sent, false, show).lines;
        assert_eq!(whole.len(), 1);
        for at in (1..line.len()).step_by(1 + line.len() / 60) {
            let script = Script::opened().client(&line[..at]).client(&line[at..]).server(OK);
            let pieces = read(&script.sent, false, show).lines;
            assert_eq!(pieces, [whole[0].replace("1+1", "2+2")], "cut at {at}");
        }
    }
}

#[test]
fn the_end_of_a_body_is_no_part_of_a_method() {
    for answer in ["the rest of an answer", OK] {
        check(Script::joined().client("AB").server(answer).client(get("/b")).server(OK), &["GET /b 200 1+1 complete"]);
    }
    let script = Script::opened().client(get("/a")).server(OK).client("POST /x HTTP/1.1\r\nContent-Length: 2\r\n\r\n").unseen();
    let script = script.client("AB").server(OK).client(get("/b")).server(OK);
    check(script, &["GET /a 200 1+1 complete", "GET /b 200 1+1 complete"]);
    // A method that nobody registered is one where a segment has all of it.
    check(Script::opened().client(get("/a").replace("GET", "SPACEJUMP")).server(OK), &["SPACEJUMP /a 200 1+1 complete"]);
}
