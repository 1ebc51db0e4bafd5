//! One record as one line of JSON: keys and order of the table `FIELDS`, absent fields left out.

use std::fmt::Write as _;

use podtap_wire::{RequestRecord, Value};

use super::Seconds;

/// Numbers for which 0 is a value of its own, though the wire does not tell it from "absent".
const ZERO_IS_A_VALUE: &[&str] = &["exchange_index", "request_bytes", "response_bytes"];

/// Renders lines into a buffer that is used again.
#[derive(Debug, Default)]
pub struct JsonLines {
    buffer: Vec<u8>,
    number: String,
    seconds: Seconds,
}

impl JsonLines {
    /// The record's line, with its line end.
    pub fn line(&mut self, record: &RequestRecord<'_>) -> &[u8] {
        self.buffer.clear();
        self.buffer.push(b'{');
        record.for_each(|field, value| {
            if value.is_absent() && !ZERO_IS_A_VALUE.contains(&field.name) {
                return;
            }
            if self.buffer.len() > 1 {
                self.buffer.push(b',');
            }
            self.buffer.push(b'"');
            self.buffer.extend_from_slice(field.name.as_bytes());
            self.buffer.extend_from_slice(b"\":");
            self.value(value);
        });
        self.buffer.extend_from_slice(b"}\n");
        &self.buffer
    }

    fn value(&mut self, value: Value<'_>) {
        self.number.clear();
        // Writing to a String cannot fail.
        let _ = match value {
            Value::Text(text) => return string(&mut self.buffer, text),
            Value::Number(number) | Value::OptionalNumber(Some(number)) => write!(self.number, "{number}"),
            Value::OptionalNumber(None) => write!(self.number, "null"),
            Value::Address(address) => write!(self.number, "\"{address}\""),
            Value::Timestamp(nanoseconds) => {
                let seconds = self.seconds.text(nanoseconds / 1_000_000_000);
                write!(self.number, "\"{seconds}.{:09}Z\"", nanoseconds % 1_000_000_000)
            }
            Value::List(texts) => {
                self.buffer.push(b'[');
                for (index, text) in texts.iter().enumerate() {
                    if index > 0 {
                        self.buffer.push(b',');
                    }
                    string(&mut self.buffer, text);
                }
                return self.buffer.push(b']');
            }
        };
        self.buffer.extend_from_slice(self.number.as_bytes());
    }
}

/// A JSON string (RFC 8259, 7).
fn string(buffer: &mut Vec<u8>, text: &str) {
    buffer.push(b'"');
    let mut plain = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        buffer.extend_from_slice(&text.as_bytes()[plain..at]);
        if escape.is_empty() {
            buffer.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            buffer.extend_from_slice(escape.as_bytes());
        }
        plain = at + 1;
    }
    buffer.extend_from_slice(&text.as_bytes()[plain..]);
    buffer.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use podtap_wire::{FIELDS, Protocol};

    #[test]
    fn keys_are_those_of_the_table_and_absent_ones_are_left_out() {
        let record = RequestRecord {
            timestamp: 1_700_000_000_000_000_001,
            network_protocol_name: Protocol::Http,
            client_port: 5,
            time_to_last_byte_ns: Some(0),
            url_path: "/a\"b\\\u{1}\n\u{fc}",
            db_query_parameters: vec!["x", "'y'"],
            ..RequestRecord::default()
        };
        let mut lines = JsonLines::default();
        let line = String::from_utf8(lines.line(&record).to_vec()).unwrap();
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["timestamp"], "2023-11-14T22:13:20.000000001Z");
        assert_eq!(read["network_protocol_name"], "http");
        assert_eq!(read["client_port"], 5);
        assert_eq!(read["time_to_last_byte_ns"], 0);
        assert_eq!(read["exchange_index"], 0);
        assert_eq!(read["url_path"], "/a\"b\\\u{1}\n\u{fc}");
        assert_eq!(read["db_query_parameters"], serde_json::json!(["x", "'y'"]));
        let object = read.as_object().unwrap();
        assert!(!object.contains_key("url_query") && !object.contains_key("tcp_request_sequence") && !object.contains_key("server_port"));
        assert!(object.keys().all(|key| FIELDS.iter().any(|field| field.name == key)));
        assert!(line.ends_with("}\n") && line.lines().count() == 1);
    }
}
