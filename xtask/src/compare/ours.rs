//! What `podtap-sidecar print` reads from a capture.

use std::path::Path;
use std::process::{Command, Stdio};

use super::exchange::{Exchange, Protocol, stream};
use super::json::{self, Object};
use crate::run::{Doing, Failure, Result, spell};

/// Exit status of a capture that is cut; what could be read is compared all the same.
const CUT: i32 = 65;

/// Records of one capture.
pub struct Ours {
    pub records: Vec<Object>,
    pub cut: bool,
}

pub fn read(sidecar: &Path, capture: &Path) -> Result<Ours> {
    let mut command = Command::new(sidecar);
    command.args(["print", "--json", "--unmask", "--stats", "-r"]).arg(capture).stdin(Stdio::null());
    let output = command.output().doing(format_args!("starting `{}`", spell(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let cut = output.status.code() == Some(CUT);
    if !output.status.success() && !cut {
        return Err(Failure(format!("`{}` failed: {}", spell(&command), said.trim())));
    }
    if !said.lines().any(|line| line.contains("podtap_records_total")) {
        return Err(Failure(format!("`{}` gave no account: {}", spell(&command), said.trim())));
    }
    let text = String::from_utf8(output.stdout).doing("reading records")?;
    let mut records = Vec::new();
    for line in text.lines() {
        records.push(json::object(line).ok_or_else(|| Failure(format!("{}: not a record: {line}", capture.display())))?);
    }
    Ok(Ours { records, cut })
}

impl Ours {
    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Object> {
        self.records.iter().filter(move |record| text(record, "network_protocol_name") == name)
    }

    /// Records of a protocol in the order of their requests.
    pub fn exchanges(&self, protocol: Protocol) -> Vec<Exchange> {
        let mut records: Vec<&Object> = self.of(protocol.name()).collect();
        records.sort_by_key(|record| (text(record, "timestamp"), number(record, "exchange_index")));
        records.into_iter().map(|record| exchange(record, protocol)).collect()
    }

    /// Ports that a protocol was seen on.
    pub fn ports(&self, protocol: Protocol) -> Vec<u64> {
        let mut ports: Vec<u64> = self.of(protocol.name()).filter_map(|record| number(record, "server_port")).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

pub fn text<'a>(record: &'a Object, key: &str) -> &'a str {
    record.get(key).map_or("", String::as_str)
}

pub fn number(record: &Object, key: &str) -> Option<u64> {
    record.get(key)?.parse().ok()
}

/// Request target as it stood in the request line, without scheme and authority.
pub fn target(record: &Object) -> String {
    let (path, query) = (text(record, "url_path"), text(record, "url_query"));
    match (text(record, "http_request_method"), path, query) {
        ("CONNECT", _, _) => text(record, "http_request_header_host").to_owned(),
        (_, path, "") => path.to_owned(),
        (_, path, query) => format!("{path}?{query}"),
    }
}

fn exchange(record: &Object, protocol: Protocol) -> Exchange {
    let end = |who: &str| format!("{}:{}", text(record, &format!("{who}_address")), text(record, &format!("{who}_port")));
    let (what, status) = match protocol {
        Protocol::Http => {
            let status = text(record, "http_response_status_code").to_owned();
            (format!("{} {}", text(record, "http_request_method"), target(record)), status)
        }
        Protocol::Mysql => {
            let command = text(record, "mysql_command");
            let statement = if matches!(command, "COM_QUERY" | "COM_STMT_PREPARE") { text(record, "db_query_text") } else { "" };
            let who = if command == "CONNECT" { text(record, "db_user") } else { "" };
            (format!("{command} {statement}{who}"), text(record, "status").to_owned())
        }
        Protocol::Tls => (format!("hello {}", text(record, "tls_server_name")), text(record, "status").to_owned()),
    };
    let latency = number(record, "time_to_last_byte_ns").zip(number(record, "request_time_ns"));
    Exchange {
        stream: stream(&end("client"), &end("server")),
        what,
        status: Some(status),
        // An answer may be over before its request is.
        latency_ns: latency.and_then(|(last, request)| last.checked_sub(request)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_becomes_an_exchange() {
        let fields = [
            r#""timestamp":"2024-01-01T00:00:00.000000000Z","network_protocol_name":"http""#,
            r#""client_address":"10.0.0.2","client_port":4000,"server_address":"10.0.0.1","server_port":80"#,
            r#""time_to_last_byte_ns":9000,"request_time_ns":1000,"http_request_method":"GET""#,
            r#""url_path":"/a","url_query":"b=1","http_response_status_code":200"#,
        ];
        let line = format!("{{{}}}", fields.join(","));
        let ours = Ours { records: vec![json::object(&line).unwrap()], cut: false };
        let wanted = Exchange {
            stream: "10.0.0.1:80 10.0.0.2:4000".to_owned(),
            what: "GET /a?b=1".to_owned(),
            status: Some("200".to_owned()),
            latency_ns: Some(8000),
        };
        assert_eq!(ours.exchanges(Protocol::Http), [wanted]);
        assert_eq!(ours.ports(Protocol::Http), [80]);
        assert!(ours.exchanges(Protocol::Mysql).is_empty());
    }
}
