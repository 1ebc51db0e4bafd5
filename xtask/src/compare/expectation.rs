//! Expectations that other projects keep beside captures: deepflow's `NAME.result`, suricata-verify's `test.yaml`.
//!
//! Guarantee: only what speaks of HTTP/1, MySQL or TLS as decoded is compared; what it leaves out is counted by the caller as
//! not told, never as equal.

use std::path::{Path, PathBuf};

use super::exchange::Exchange;
use super::json::{self, Object};
use super::ours::{number, target, text};
use super::tshark;

/// What a `NAME.result` tells, a line a packet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Deepflow {
    pub http: Vec<Exchange>,
    pub mysql: Vec<Exchange>,
}

/// Reads the lines; answers belong to requests in order, as that agent decodes one flow.
pub fn deepflow(result: &str) -> Deepflow {
    let mut found = Deepflow::default();
    let (mut http_open, mut mysql_open) = (0, 0);
    for line in result.lines() {
        if line.starts_with("HttpInfo") && line.contains("proto: Http1") {
            if line.contains("msg_type: Request") {
                let what = format!("{} {}", between(line, " method: ", ",").to_uppercase(), unquoted(line, " path: \""));
                found.http.push(Exchange { what, status: Some(String::new()), ..Exchange::default() });
            }
            let status = between(line, "status_code: Some(", ")");
            if line.contains("msg_type: Response") && !status.is_empty() && http_open < found.http.len() {
                found.http[http_open].status = Some(status.to_owned());
                http_open += 1;
            }
        } else if let Some(object) = json::object(line).filter(|_| line.contains("is_mysql:")) {
            mysql(&object, &mut found.mysql, &mut mysql_open);
        }
    }
    found
}

fn mysql(object: &Object, exchanges: &mut Vec<Exchange>, open: &mut usize) {
    match text(object, "msg_type") {
        "Request" => {
            let resource = text(object, "request_resource");
            let code = number(object, "request_type").and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX);
            let what = match (code, resource.strip_prefix("Login username: ")) {
                (0, Some(who)) => format!("CONNECT {}", who.split(" db: ").next().unwrap_or_default()),
                (3 | 22, _) => format!("{} {resource}", tshark::command(code)),
                _ => format!("{} ", tshark::command(code)),
            };
            exchanges.push(Exchange { what, ..Exchange::default() });
        }
        "Response" => {
            // No answer is told for a command that has none; each answer belongs to the newest command.
            *open = exchanges.len();
            if let Some(exchange) = exchanges.last_mut() {
                exchange.status = Some(text(object, "response_status").to_owned());
            }
        }
        _ => {}
    }
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> &'a str {
    let Some((_, rest)) = line.split_once(before) else { return "" };
    rest.split_once(after).map_or("", |(value, _)| value)
}

/// A text in quotes with backslashes.
fn unquoted(line: &str, before: &str) -> String {
    let Some((_, rest)) = line.split_once(before) else { return String::new() };
    let mut value = String::new();
    let mut letters = rest.chars();
    while let Some(letter) = letters.next().filter(|letter| *letter != '"') {
        value.push(if letter == '\\' { letters.next().unwrap_or_default() } else { letter });
    }
    value
}

/// One check of a `test.yaml`: so many events match all of these.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Check {
    pub count: usize,
    pub conditions: Vec<(String, String)>,
}

/// Checks of a `test.yaml`, and the capture it names instead of the one beside it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Suricata {
    pub capture: Option<PathBuf>,
    pub checks: Vec<Check>,
}

/// Reads the part of YAML that these files are written in.
pub fn suricata(yaml: &str) -> Suricata {
    let mut read = Suricata::default();
    let mut inside: Option<usize> = None;
    let mut in_filter = false;
    for line in yaml.lines() {
        let trimmed = line.trim();
        let depth = line.len() - line.trim_start().len();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let (key, value) = trimmed.trim_start_matches("- ").split_once(':').unwrap_or((trimmed, ""));
        let value = value.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
        if inside.is_some_and(|outer| depth <= outer) {
            inside = None;
        }
        if let (Some(_), Some(check)) = (inside, read.checks.last_mut()) {
            check.conditions.push((key.trim().to_owned(), value.to_owned()));
            continue;
        }
        match key.trim() {
            "pcap" if depth == 0 => read.capture = Some(PathBuf::from(value)),
            "filter" => {
                read.checks.push(Check::default());
                in_filter = true;
            }
            "shell" | "stats" => in_filter = false,
            "count" if in_filter => {
                if let Some(check) = read.checks.last_mut() {
                    check.count = value.parse().unwrap_or(0);
                }
            }
            "match" if in_filter => inside = Some(depth),
            "not-has-key" | "has-key" if in_filter => {
                if let Some(check) = read.checks.last_mut() {
                    check.conditions.push((key.trim().to_owned(), value.to_owned()));
                }
            }
            _ => {}
        }
    }
    read
}

/// The capture of a `test.yaml`.
pub fn capture_of(yaml: &Path, read: &Suricata) -> Option<PathBuf> {
    let folder = yaml.parent()?;
    if let Some(named) = &read.capture {
        return folder.join(named).canonicalize().ok();
    }
    let paths = folder.read_dir().ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut captures: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "pcap")).collect();
    captures.sort();
    captures.into_iter().next()
}

impl Check {
    /// How many records match; `None` where the check speaks of something that is no decoding of these protocols.
    pub fn matching(&self, records: &[Object]) -> Option<usize> {
        let mut matching: Vec<&Object> = records.iter().collect();
        let mut event = false;
        for (key, value) in &self.conditions {
            let fits: Box<dyn Fn(&Object) -> bool> = match (key.as_str(), value.as_str()) {
                ("event_type", "http") => {
                    event = true;
                    Box::new(|record| text(record, "network_protocol_name") == "http")
                }
                ("event_type", "tls") => {
                    event = true;
                    Box::new(|record| text(record, "network_protocol_name") == "tls")
                }
                ("http.url", _) => Box::new(|record| target(record) == *value),
                ("http.status", _) => Box::new(|record| text(record, "http_response_status_code") == value),
                ("http.http_method", _) => Box::new(|record| text(record, "http_request_method") == value),
                ("http.hostname", _) => Box::new(|record| without_port(text(record, "http_request_header_host")) == value),
                ("http.http_user_agent", _) => Box::new(|record| text(record, "user_agent_original") == value),
                ("http.protocol", version) => {
                    let version = version.strip_prefix("HTTP/").unwrap_or(version).to_owned();
                    Box::new(move |record| text(record, "network_protocol_version") == version)
                }
                ("http.length", _) => Box::new(|record| text(record, "http_response_body_size") == value),
                ("tx_id", _) => Box::new(|record| text(record, "exchange_index") == value),
                ("dest_port", _) => Box::new(|record| text(record, "server_port") == value),
                ("src_port", _) => Box::new(|record| text(record, "client_port") == value),
                ("tls.sni", _) => Box::new(|record| text(record, "tls_server_name") == value),
                // The number of the packet that the other program was at; which program, not which exchange.
                ("pcap_cnt", _) => Box::new(|_| true),
                _ => return None,
            };
            matching.retain(|record| fits(record));
        }
        event.then_some(matching.len())
    }

    /// The check names what only HTTP/1 has.
    pub fn is_of_http1(&self) -> bool {
        let only = [("http.status", "101"), ("http.protocol", "HTTP/1.1"), ("http.protocol", "HTTP/1.0")];
        self.conditions.iter().any(|(key, value)| only.contains(&(key.as_str(), value.as_str())))
    }

    pub fn describe(&self) -> String {
        self.conditions.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_agent_become_exchanges() {
        let http = [
            r#"HttpInfo { proto: Http1, msg_type: Request, method: Post, path: "/a?\"b", host: "h", status_code: None }"#,
            r#"HttpInfo { proto: Http1, msg_type: Response, method: None, path: "", status_code: Some(200), status: Ok }"#,
            r#"HttpInfo { proto: Grpc, msg_type: Request, method: Post, path: "/x" }"#,
        ];
        let found = deepflow(&http.join("\n"));
        assert_eq!(found.http, [Exchange { what: "POST /a?\"b".to_owned(), status: Some("200".to_owned()), ..Exchange::default() }]);
        let mysql = r#"{"msg_type":"Request","request_type":0,"request_resource":"Login username: root db: x"} is_mysql: true
{"msg_type":"Response","request_type":0,"response_status":"ok"} is_mysql: false
{"msg_type":"Request","request_type":25,"request_resource":""} is_mysql: true
{"msg_type":"Request","request_type":3,"request_resource":"select 1"} is_mysql: true
{"msg_type":"Response","request_type":0,"response_status":"server_error"} is_mysql: false"#;
        let told: Vec<_> = deepflow(mysql).mysql.into_iter().map(|exchange| (exchange.what, exchange.status)).collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            told,
            [
                ("CONNECT root".to_owned(), some("ok")),
                ("COM_STMT_CLOSE ".to_owned(), None),
                ("COM_QUERY select 1".to_owned(), some("server_error")),
            ]
        );
    }

    #[test]
    fn checks_are_read_and_counted() {
        let yaml = [
            "pcap: ../x/input.pcap",
            "checks:",
            "  # a comment",
            "  - filter:",
            "      count: 2",
            "      match:",
            "        event_type: http",
            "        http.url: \"/1\" # why",
            "  - filter:",
            "      count: 1",
            "      match:",
            "        event_type: alert",
        ];
        let read = suricata(&yaml.join("\n"));
        assert_eq!(read.capture, Some(PathBuf::from("../x/input.pcap")));
        assert_eq!(read.checks.len(), 2);
        let record = |path: &str| json::object(&format!(r#"{{"network_protocol_name":"http","url_path":"{path}"}}"#)).unwrap();
        let records = [record("/1"), record("/2"), record("/1")];
        assert_eq!((read.checks[0].count, read.checks[0].matching(&records)), (2, Some(2)));
        assert_eq!(read.checks[1].matching(&records), None);
        assert_eq!(read.checks[0].describe(), "event_type=http http.url=/1");
    }
}
