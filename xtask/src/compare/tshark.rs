//! What tshark reads from a capture: the second opinion.
//!
//! Guarantee: its requests and answers are joined as it joined them (`http.request_in`), and in their order where it does not say
//! (of several answers in one packet it tells only the first one's request). Its `http.time` runs from the last packet of the
//! request to the last packet of the answer.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::exchange::{Exchange, Protocol, stream};
use super::ours::Ours;
use crate::run::{Doing, Failure, Result, spell};

const FIELDS: &[&str] = &[
    "frame.number",
    "ip.src",
    "ipv6.src",
    "ip.dst",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "http.request.method",
    "http.request.uri",
    "http.response.code",
    "http.time",
    "http.request_in",
    "mysql.command",
    "mysql.query",
    "mysql.user",
    "tls.handshake.type",
    "tls.handshake.extensions_server_name",
];

/// Between the values of a field that a frame has several times.
const BETWEEN: char = '\u{1e}';

/// Exchanges by protocol.
pub struct Read {
    pub http: Vec<Exchange>,
    pub mysql: Vec<Exchange>,
    pub tls: Vec<Exchange>,
}

/// `everything_is_mysql`: an expectation says that there is MySQL, and the port is not known.
pub fn read(capture: &Path, ours: &Ours, everything_is_mysql: bool) -> Result<Read> {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(capture).args(["-o", "tcp.reassemble_out_of_order:TRUE"]);
    for port in ours.ports(Protocol::Http) {
        command.arg("-d").arg(format!("tcp.port=={port},http"));
    }
    for port in ours.ports(Protocol::Mysql) {
        command.arg("-d").arg(format!("tcp.port=={port},mysql"));
    }
    if everything_is_mysql && ours.ports(Protocol::Mysql).is_empty() {
        command.args(["-d", "tcp.port==1-65535,mysql"]);
    }
    command.args([
        "-Y",
        "tcp and (http.request or http.response or mysql.command or mysql.user or tls.handshake.type == 1)",
        "-T",
        "fields",
    ]);
    command.arg("-E").arg(format!("aggregator={BETWEEN}")).args(["-E", "occurrence=a"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = command.stdin(Stdio::null()).output().doing(format_args!("starting `{}`", spell(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // tshark reads a cut capture to the cut, and ends with 2.
    if !output.status.success() && !said.contains("cut short") {
        return Err(Failure(format!("`{}` failed: {}", spell(&command), said.trim())));
    }
    Ok(join(&String::from_utf8_lossy(&output.stdout)))
}

#[derive(Default)]
struct Stream {
    /// Requests without an answer so far: frame, place in `http`.
    open: Vec<(String, usize)>,
}

fn join(text: &str) -> Read {
    let mut read = Read { http: Vec::new(), mysql: Vec::new(), tls: Vec::new() };
    let mut streams: HashMap<String, Stream> = HashMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let one = |name: &str| values(&fields, name).next().unwrap_or_default().to_owned();
        let address = |four: &str, six: &str| Some(one(four)).filter(|text| !text.is_empty()).unwrap_or_else(|| one(six));
        let source = format!("{}:{}", address("ip.src", "ipv6.src"), one("tcp.srcport"));
        let destination = format!("{}:{}", address("ip.dst", "ipv6.dst"), one("tcp.dstport"));
        let ends = stream(&source, &destination);
        http(&fields, &one("frame.number"), &ends, streams.entry(ends.clone()).or_default(), &mut read.http);
        mysql(&fields, &ends, &mut read.mysql);
        if values(&fields, "tls.handshake.type").any(|kind| kind == "1") {
            let what = format!("hello {}", one("tls.handshake.extensions_server_name"));
            read.tls.push(Exchange { stream: ends, what, status: None, latency_ns: None });
        }
    }
    read
}

fn values<'a>(fields: &[&'a str], name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let place = FIELDS.iter().position(|field| *field == name);
    let text = place.and_then(|place| fields.get(place)).copied().unwrap_or_default();
    text.split(BETWEEN).filter(|value| !value.is_empty())
}

fn http(fields: &[&str], frame: &str, ends: &str, stream: &mut Stream, exchanges: &mut Vec<Exchange>) {
    let mut targets = values(fields, "http.request.uri");
    for method in values(fields, "http.request.method") {
        let target = targets.next().unwrap_or_default();
        let what = format!("{method} {}", without_authority(method, target));
        stream.open.push((frame.to_owned(), exchanges.len()));
        exchanges.push(Exchange { stream: ends.to_owned(), what, status: Some(String::new()), latency_ns: None });
    }
    // Interim answers belong to the request of the final one; 101 is final.
    let codes: Vec<&str> = values(fields, "http.response.code").collect();
    let times: Vec<&str> = values(fields, "http.time").collect();
    let requests: Vec<&str> = values(fields, "http.request_in").collect();
    for (index, code) in codes.iter().enumerate().filter(|(_, code)| !code.starts_with('1') || **code == "101") {
        // Fewer values than answers: tshark does not say whose they are.
        let told = |values: &[&str]| (values.len() == codes.len()).then(|| values[index].to_owned());
        let place = match told(&requests) {
            Some(asked) => stream.open.iter().position(|(frame, _)| *frame == asked),
            None => (!stream.open.is_empty()).then_some(0),
        };
        if let Some(place) = place {
            let (_, exchange) = stream.open.remove(place);
            exchanges[exchange].status = Some((*code).to_owned());
            exchanges[exchange].latency_ns = told(&times).and_then(|time| nanoseconds(&time));
        }
    }
}

fn without_authority<'a>(method: &str, target: &'a str) -> &'a str {
    match target.split_once("://") {
        Some((scheme, rest)) if method != "CONNECT" && !scheme.contains(['/', '?']) => {
            rest.find(['/', '?']).map_or("", |slash| &rest[slash..])
        }
        _ => target,
    }
}

/// `0.000300000` seconds.
fn nanoseconds(time: &str) -> Option<u64> {
    let (whole, part) = time.split_once('.')?;
    let part: String = part.chars().chain("000000000".chars()).take(9).collect();
    Some(whole.parse::<u64>().ok()? * 1_000_000_000 + part.parse::<u64>().ok()?)
}

fn mysql(fields: &[&str], ends: &str, exchanges: &mut Vec<Exchange>) {
    let mut push = |what: String| exchanges.push(Exchange { stream: ends.to_owned(), what, status: None, latency_ns: None });
    let commands: Vec<&str> = values(fields, "mysql.command").collect();
    if commands.is_empty() {
        values(fields, "mysql.user").for_each(|user| push(format!("CONNECT {user}")));
    }
    let mut statements = values(fields, "mysql.query");
    for code in commands {
        let name = command(code.parse().unwrap_or(u8::MAX));
        let statement = if matches!(code, "3" | "22") { statements.next().unwrap_or_default() } else { "" };
        push(format!("{name} {statement}"));
    }
}

/// Name of a command (`enum_server_command`).
pub fn command(code: u8) -> &'static str {
    const NAMES: [&str; 33] = [
        "COM_SLEEP",
        "COM_QUIT",
        "COM_INIT_DB",
        "COM_QUERY",
        "COM_FIELD_LIST",
        "COM_CREATE_DB",
        "COM_DROP_DB",
        "COM_REFRESH",
        "COM_SHUTDOWN",
        "COM_STATISTICS",
        "COM_PROCESS_INFO",
        "COM_CONNECT",
        "COM_PROCESS_KILL",
        "COM_DEBUG",
        "COM_PING",
        "COM_TIME",
        "COM_DELAYED_INSERT",
        "COM_CHANGE_USER",
        "COM_BINLOG_DUMP",
        "COM_TABLE_DUMP",
        "COM_CONNECT_OUT",
        "COM_REGISTER_SLAVE",
        "COM_STMT_PREPARE",
        "COM_STMT_EXECUTE",
        "COM_STMT_SEND_LONG_DATA",
        "COM_STMT_CLOSE",
        "COM_STMT_RESET",
        "COM_SET_OPTION",
        "COM_STMT_FETCH",
        "COM_DAEMON",
        "COM_BINLOG_DUMP_GTID",
        "COM_RESET_CONNECTION",
        "COM_CLONE",
    ];
    match code {
        0xfa => "COM_STMT_BULK_EXECUTE",
        _ => NAMES.get(usize::from(code)).copied().unwrap_or("COM_?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[(&str, &str)]) -> String {
        let of = |name: &&str| values.iter().find(|(field, _)| field == name).map_or("", |(_, value)| *value);
        FIELDS.iter().map(of).collect::<Vec<_>>().join("\t")
    }

    #[test]
    fn pipelined_answers_go_where_tshark_put_them() {
        let ask = [("frame.number", "5"), ("ip.src", "b"), ("tcp.srcport", "2"), ("ip.dst", "a"), ("tcp.dstport", "80")];
        let mut ask = ask.to_vec();
        ask.extend([("http.request.method", "GET\u{1e}PUT"), ("http.request.uri", "/1\u{1e}http://h/2?x")]);
        let mut answer = vec![("frame.number", "6"), ("ip.src", "a"), ("tcp.srcport", "80"), ("ip.dst", "b"), ("tcp.dstport", "2")];
        answer.extend([("http.response.code", "200\u{1e}404"), ("http.time", "0.001000000\u{1e}0.002"), ("http.request_in", "5\u{1e}5")]);
        let read = join(&format!("{}\n{}\n", line(&ask), line(&answer)));
        let told: Vec<_> = read.http.iter().map(|e| (e.what.as_str(), e.status.as_deref().unwrap(), e.latency_ns)).collect();
        assert_eq!(told, [("GET /1", "200", Some(1_000_000)), ("PUT /2?x", "404", Some(2_000_000))]);
        assert_eq!(read.http[0].stream, "a:80 b:2");
    }

    #[test]
    fn commands_take_their_statements() {
        let read = join(&line(&[("mysql.command", "25\u{1e}22"), ("mysql.query", "select ?")]));
        let told: Vec<&str> = read.mysql.iter().map(|exchange| exchange.what.as_str()).collect();
        assert_eq!(told, ["COM_STMT_CLOSE ", "COM_STMT_PREPARE select ?"]);
        assert_eq!(command(0xfa), "COM_STMT_BULK_EXECUTE");
    }
}
