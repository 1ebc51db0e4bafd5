//! One record as one line for the eye.

use std::fmt::Write as _;

use podtap_wire::{Completeness, Protocol, RequestRecord, Status};

use super::Seconds;

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";
/// Longest statement or path shown.
const MAX_SHOWN: usize = 200;

/// Renders lines into a buffer that is used again.
#[derive(Debug)]
pub struct Lines {
    buffer: String,
    seconds: Seconds,
    colour: bool,
}

impl Lines {
    /// With or without colours.
    pub fn new(colour: bool) -> Self {
        Self { buffer: String::new(), seconds: Seconds::default(), colour }
    }

    fn put(&mut self, colour: &str, text: std::fmt::Arguments<'_>) {
        let colour = if self.colour { colour } else { "" };
        self.buffer.push_str(colour);
        // Writing to a String cannot fail.
        let _ = self.buffer.write_fmt(text);
        if !colour.is_empty() {
            self.buffer.push_str(RESET);
        }
    }

    /// The record's line, with its line end.
    pub fn line(&mut self, record: &RequestRecord<'_>) -> &str {
        self.buffer.clear();
        let time = self.seconds.text(record.timestamp / 1_000_000_000);
        let time = time.split_once('T').map_or(time, |(_, time)| time).to_owned();
        self.put(DIM, format_args!("{time}.{:06}", record.timestamp % 1_000_000_000 / 1000));
        let client = std::net::SocketAddr::new(record.client_address, record.client_port as u16);
        let server = std::net::SocketAddr::new(record.server_address, record.server_port as u16);
        self.put("", format_args!(" {client} -> {server} "));
        self.put(CYAN, format_args!("{:<5} ", protocol(record)));
        self.request(record);
        self.answer(record);
        let unknown = "-".to_owned();
        let first = record.time_to_first_byte_ns.map_or_else(|| unknown.clone(), duration);
        let last = record.time_to_last_byte_ns.map_or(unknown, duration);
        self.put(DIM, format_args!("  ttfb "));
        self.put("", format_args!("{first}"));
        self.put(DIM, format_args!(" ttlb "));
        self.put(BOLD, format_args!("{last}"));
        self.put(DIM, format_args!("  {} > {} B", record.request_bytes, record.response_bytes));
        if record.completeness == Completeness::Partial {
            self.put(YELLOW, format_args!("  partial"));
            if record.lost_bytes > 0 {
                self.put(YELLOW, format_args!(" ({} B lost)", record.lost_bytes));
            }
        }
        self.buffer.push('\n');
        &self.buffer
    }

    fn request(&mut self, record: &RequestRecord<'_>) {
        match record.network_protocol_name {
            Protocol::Http => {
                self.put(BOLD, format_args!("{} ", clean(record.http_request_method)));
                self.put("", format_args!("{}", clean(record.url_path)));
                if !record.url_query.is_empty() {
                    self.put(DIM, format_args!("?{}", clean(record.url_query)));
                }
            }
            Protocol::Tls => {
                self.put(BOLD, format_args!("{} ", if record.tls_version.is_empty() { "connection" } else { record.tls_version }));
                self.put("", format_args!("{} {}", clean(record.tls_server_name), clean(record.tls_alpn)));
            }
            _ => {
                if record.db_query_text.is_empty() {
                    let command = if record.mysql_command.is_empty() { record.db_operation_name } else { record.mysql_command };
                    self.put(BOLD, format_args!("{}", clean(command)));
                } else {
                    self.put(BOLD, format_args!("{}", clean(record.db_query_text)));
                }
                if !record.db_query_parameters.is_empty() {
                    let parameters: Vec<String> = record.db_query_parameters.iter().map(|text| clean(text)).collect();
                    self.put(DIM, format_args!(" [{}]", parameters.join(", ")));
                }
            }
        }
    }

    fn answer(&mut self, record: &RequestRecord<'_>) {
        let colour = match record.status {
            Status::Ok => GREEN,
            Status::ClientError => YELLOW,
            Status::ServerError | Status::NoResponse => RED,
        };
        if record.http_response_status_code != 0 {
            self.put(colour, format_args!("  {}", record.http_response_status_code));
        } else if record.error_type.is_empty() {
            self.put(colour, format_args!("  {}", record.status));
        } else {
            self.put(colour, format_args!("  {} {}", record.status, clean(record.error_type)));
        }
        if !record.db_response_message.is_empty() {
            self.put(colour, format_args!(" {}", clean(record.db_response_message)));
        }
        if let Some(rows) = record.db_response_returned_rows {
            self.put(DIM, format_args!(" {rows} rows"));
        }
    }
}

fn protocol<'a>(record: &RequestRecord<'a>) -> &'a str {
    match record.network_protocol_name {
        Protocol::Mysql if !record.db_system_name.is_empty() => record.db_system_name,
        other => other.as_str(),
    }
}

/// What came over the network never moves the cursor or changes colours: control characters become spaces, and long texts are cut.
fn clean(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Three digits and a unit.
fn duration(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    let (value, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds}ns"),
        1_000..1_000_000 => (value / 1e3, "us"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RequestRecord<'static> {
        RequestRecord {
            timestamp: 1_700_000_000_123_456_789,
            network_protocol_name: Protocol::Http,
            http_request_method: "GET",
            url_path: "/a\x1b[31m",
            http_response_status_code: 503,
            status: Status::ServerError,
            time_to_last_byte_ns: Some(1_234_567),
            ..RequestRecord::default()
        }
    }

    #[test]
    fn a_line_without_colours_has_no_escape_whatever_the_network_says() {
        let mut lines = Lines::new(false);
        let line = lines.line(&record()).to_owned();
        assert_eq!(line, "22:13:20.123456 0.0.0.0:0 -> 0.0.0.0:0 http  GET /a [31m  503  ttfb - ttlb 1.23ms  0 > 0 B\n");
        assert!(Lines::new(true).line(&record()).contains("\x1b[31m  503\x1b[0m"));
    }

    #[test]
    fn durations_have_three_digits() {
        for (nanoseconds, text) in
            [(0, "0ns"), (999, "999ns"), (1500, "1.50us"), (50_100_000, "50.1ms"), (123_400_000, "123ms"), (2_000_000_000, "2.00s")]
        {
            assert_eq!(duration(nanoseconds), text);
        }
    }
}
