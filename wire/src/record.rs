//! The request record: one exchange, one record.
//!
//! One table, [`FIELDS`], holds every field with its unit, ClickHouse type and meaning; the struct, JSON keys, the columns of
//! the batch, ClickHouse columns and OpenTelemetry attributes (dots for underscores) are all made from it. Text is borrowed:
//! the sidecar lends it from its flow state, the analyzer from a decoded batch, so that a record never costs an allocation.
//! Keep no record across the next call to what lent it.

use std::net::{IpAddr, Ipv4Addr};

/// Declares an enumeration with a stable number (on the wire) and a stable name (in JSON and SQL).
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { #[default] $($(#[$vdoc])* $variant = $number),+ }

        impl $name {
            /// Every value, in the order of its number on the wire.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in JSON and SQL.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value with this number on the wire; `None` for a number that this version does not know.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownName;
            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err(UnknownName(text.to_owned())) }
            }
        }
    };
}

/// A name that is none of an enumeration's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown name {0:?}")]
pub struct UnknownName(pub String);

names! {
    /// Where the record was observed.
    SourceKind { Unknown = 0 "", Ebpf = 1 "ebpf", Pcap = 2 "pcap", File = 3 "file", AccessLog = 4 "accesslog" }
}
names! {
    /// Which end of the connection is in the sidecar's pod.
    Side { Unknown = 0 "unknown", Server = 1 "server", Client = 2 "client", Both = 3 "both" }
}
names! {
    /// The outcome of an exchange: whose fault it was, if anyone's.
    Status { Ok = 0 "ok", ClientError = 1 "client_error", ServerError = 2 "server_error", NoResponse = 3 "no_response" }
}
names! {
    /// Whether all bytes of the exchange were seen.
    Completeness { Complete = 0 "complete", Partial = 1 "partial" }
}
names! {
    /// The transport below the protocol.
    Transport { Tcp = 0 "tcp", Udp = 1 "udp" }
}
names! {
    /// `network.protocol.name`.
    Protocol {
        Unknown = 0 "", Http = 1 "http", Mysql = 2 "mysql", Postgresql = 3 "postgresql", Redis = 4 "redis",
        Mongodb = 5 "mongodb", Kafka = 6 "kafka", Dns = 7 "dns", Tls = 8 "tls",
    }
}

/// The value of one field, for whoever walks over a record ([`RequestRecord::for_each`]).
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text; `""` means that the field does not apply.
    Text(&'a str),
    /// A number whose 0 means "does not apply".
    Number(u64),
    /// A number for which 0 is a value of its own.
    OptionalNumber(Option<u64>),
    /// Nanoseconds since the Unix epoch.
    Timestamp(u64),
    /// An address as it was on the wire.
    Address(IpAddr),
    /// Texts in order; empty means that the field does not apply.
    List(&'a [&'a str]),
}

impl Value<'_> {
    /// True if the field does not apply to this record.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Number(number) => *number == 0,
            Self::OptionalNumber(number) => number.is_none(),
            Self::List(list) => list.is_empty(),
            Self::Timestamp(_) | Self::Address(_) => false,
        }
    }
}

/// Whether a field is stamped once on a batch or differs from record to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The same for all records of a sender: who the pod is.
    Resource,
    /// A column of the batch.
    Record,
}

/// One row of the table of names.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name in JSON, SQL and the .proto; [`opentelemetry`] says which attribute it is.
    pub name: &'static str,
    /// Where it is carried.
    pub scope: Scope,
    /// Unit, empty for text.
    pub unit: &'static str,
    /// Column type in the ClickHouse table `requests`.
    pub clickhouse_type: &'static str,
    /// One sentence for the documentation.
    pub meaning: &'static str,
}

/// OpenTelemetry attributes (semantic conventions 1.3x) whose name is not ours with dots for underscores.
const OTHER_ATTRIBUTES: [(&str, &str); 9] = [
    ("tls_server_name", "tls.client.server_name"),
    ("tls_alpn", "tls.next_protocol"),
    ("tls_version", "tls.protocol.version"),
    ("user_agent_original", "user_agent.original"),
    ("http_request_content_type", "http.request.header.content-type"),
    ("http_response_content_type", "http.response.header.content-type"),
    ("db_response_status_code", "db.response.status_code"),
    ("http_response_status_code", "http.response.status_code"),
    ("db_response_returned_rows", "db.response.returned_rows"),
];

/// Names that are ours with dots for underscores.
const SAME_ATTRIBUTES: [&str; 31] = [
    "network_protocol_name",
    "network_protocol_version",
    "network_transport",
    "client_address",
    "client_port",
    "server_address",
    "server_port",
    "service_name",
    "k8s_namespace_name",
    "k8s_pod_name",
    "k8s_pod_uid",
    "k8s_node_name",
    "k8s_container_name",
    "process_pid",
    "process_executable_name",
    "container_id",
    "error_type",
    "http_request_method",
    "url_path",
    "url_query",
    "url_template",
    "http_request_header_host",
    "http_request_body_size",
    "http_response_body_size",
    "db_system_name",
    "db_namespace",
    "db_operation_name",
    "db_query_text",
    "db_query_summary",
    "dns_question_name",
    "db_query_parameters",
];

/// The OpenTelemetry attribute that a column stands for; `None` where OpenTelemetry has none.
pub fn opentelemetry(column: &str) -> Option<String> {
    let other = OTHER_ATTRIBUTES.iter().find(|(name, _)| *name == column).map(|(_, attribute)| (*attribute).to_owned());
    let same = || SAME_ATTRIBUTES.contains(&column).then(|| column.replace('_', "."));
    // One attribute a parameter.
    if column == "db_query_parameters" { Some("db.query.parameter.<key>".to_owned()) } else { other.or_else(same) }
}

macro_rules! field_type {
    (text, $lt:lifetime) => { &$lt str };
    (number, $lt:lifetime) => { u64 };
    (optional, $lt:lifetime) => { Option<u64> };
    (timestamp, $lt:lifetime) => { u64 };
    (address, $lt:lifetime) => { IpAddr };
    (list, $lt:lifetime) => { Vec<&$lt str> };
    ((names $t:ident), $lt:lifetime) => { $t };
}
macro_rules! field_default {
    (text) => {
        ""
    };
    (number) => {
        0
    };
    (optional) => {
        None
    };
    (timestamp) => {
        0
    };
    (address) => {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    (list) => {
        Vec::new()
    };
    ((names $t:ident)) => {
        $t::default()
    };
}
macro_rules! field_value {
    (text, $e:expr) => {
        Value::Text($e)
    };
    (number, $e:expr) => {
        Value::Number($e)
    };
    (optional, $e:expr) => {
        Value::OptionalNumber($e)
    };
    (timestamp, $e:expr) => {
        Value::Timestamp($e)
    };
    (address, $e:expr) => {
        Value::Address($e)
    };
    (list, $e:expr) => {
        Value::List(&$e)
    };
    ((names $t:ident), $e:expr) => {
        Value::Text($e.as_str())
    };
}

/// Calls `$with!` with the table of record fields; each row is `scope kind name, unit, clickhouse type, meaning`.
macro_rules! with_fields {
    ($with:ident) => { $with! {
        Record timestamp timestamp, "ns", "DateTime64(9, 'UTC')", "Capture time of the packet with the request's first byte.";
        Record (names Protocol) network_protocol_name, "", "LowCardinality(String)",
            "Protocol of the exchange; `tls` is the record of a connection that could not be read.";
        Record text network_protocol_version, "", "LowCardinality(String)", "Version of the protocol, where it has one.";
        Record (names Transport) network_transport, "", "LowCardinality(String)", "`tcp` or `udp`.";
        Record address client_address, "", "String", "The end that opened the connection, as seen on the wire.";
        Record number client_port, "", "UInt16", "Port of the client's end.";
        Record address server_address, "", "String", "The end that was connected to (from the SYN, else from the bytes).";
        Record number server_port, "", "UInt16", "Port of the server's end.";
        Record number connection_id, "1", "UInt64", "The same for all exchanges of a connection within one sidecar run.";
        Record number exchange_index, "1", "UInt64", "Position of the exchange in its connection, from 0.";
        Record optional tcp_request_sequence, "", "UInt32",
            "TCP sequence number of the request's first byte; with tcp_response_sequence it joins both ends' records.";
        Record optional tcp_response_sequence, "", "UInt32", "TCP sequence number of the answer's first byte.";
        Record text service_name, "", "LowCardinality(String)",
            "The configured name, else the workload with its namespace, else the server's address and port.";
        Resource text k8s_namespace_name, "", "LowCardinality(String)", "Namespace of the sidecar's pod.";
        Resource text k8s_pod_name, "", "LowCardinality(String)", "Name of the sidecar's pod.";
        Resource text k8s_pod_uid, "", "LowCardinality(String)", "UID of the sidecar's pod.";
        Resource text k8s_node_name, "", "LowCardinality(String)", "Node of the sidecar's pod.";
        Record text k8s_container_name, "", "LowCardinality(String)", "Container that owns the socket, where known.";
        Resource text k8s_workload_kind, "", "LowCardinality(String)", "Kind of the pod's owner (Deployment, StatefulSet, ...).";
        Resource text k8s_workload_name, "", "LowCardinality(String)", "Name of the pod's owner.";
        Record number process_pid, "", "UInt32", "Process that owns the socket, where known.";
        Record text process_executable_name, "", "LowCardinality(String)", "Its executable, where known.";
        Record text container_id, "", "String", "Container that owns the socket, where known.";
        Record (names SourceKind) source, "", "LowCardinality(String)",
            "What the record was made from: `ebpf`, `pcap`, `file` or `accesslog`.";
        Record text tls_server_name, "", "LowCardinality(String)", "SNI of a TLS connection.";
        Record text tls_alpn, "", "LowCardinality(String)", "ALPN protocol of a TLS connection.";
        Record text tls_version, "", "LowCardinality(String)", "TLS version.";
        Record (names Side) side, "", "LowCardinality(String)", "Which end is in this pod: `server`, `client`, `both` or `unknown`.";
        Record optional time_to_first_byte_ns, "ns", "UInt64",
            "Request's first byte to first byte of the final answer; 18446744073709551615 stands for unknown.";
        Record optional time_to_last_byte_ns, "ns", "UInt64",
            "Request's first byte to last byte of the answer, the latency of the exchange; 18446744073709551615 stands for unknown.";
        Record optional request_time_ns, "ns", "UInt64", "Request's first byte to its last byte; 18446744073709551615 stands for unknown.";
        Record number request_bytes, "By", "UInt64", "TCP payload of the request.";
        Record number response_bytes, "By", "UInt64", "TCP payload of the answer.";
        Record (names Status) status, "", "LowCardinality(String)", "`ok`, `client_error`, `server_error` or `no_response`.";
        Record text error_type, "", "LowCardinality(String)",
            "HTTP status, error number or code, `timeout`, `connection_reset`, `connection_closed`; empty on success.";
        Record (names Completeness) completeness, "", "LowCardinality(String)", "`partial` where bytes of the exchange were not seen.";
        Record number lost_bytes, "By", "UInt64", "Bytes of the exchange that were not seen, where the numbering tells.";
        Record text trace_id, "", "String", "Trace id from W3C, B3, sw8 or Jaeger headers.";
        Record text span_id, "", "String", "Parent span id from the same headers.";
        Record text request_id, "", "String", "X-Request-Id.";
        Record text http_request_method, "", "LowCardinality(String)", "Request method (RFC 9110, 9).";
        Record text url_path, "", "String", "Path as requested.";
        Record text url_query, "", "String", "Query string; values masked by default.";
        Record text url_template, "", "LowCardinality(String)", "Our route template of the path.";
        Record text http_request_header_host, "", "LowCardinality(String)", "Host header.";
        Record text user_agent_original, "", "LowCardinality(String)", "User-Agent header.";
        Record text http_forwarded_client, "", "String", "Real client from Forwarded or X-Forwarded-For.";
        Record number http_response_status_code, "", "UInt16", "Status code of the final answer (RFC 9110, 15).";
        Record optional http_request_body_size, "By", "UInt64",
            "Request body as transferred, without chunk framing; 18446744073709551615 stands for unknown.";
        Record optional http_response_body_size, "By", "UInt64",
            "Response body as transferred, without chunk framing; 18446744073709551615 stands for unknown.";
        Record text http_request_content_type, "", "LowCardinality(String)", "Content-Type of the request.";
        Record text http_response_content_type, "", "LowCardinality(String)", "Content-Type of the answer.";
        Record text db_system_name, "", "LowCardinality(String)", "`mysql`, `mariadb`, ...";
        Record text db_namespace, "", "LowCardinality(String)", "Schema in use.";
        Record text db_user, "", "LowCardinality(String)", "User of the session.";
        Record text db_operation_name, "", "LowCardinality(String)", "`SELECT`, `INSERT`, ...; the command where there is no SQL.";
        Record text mysql_command, "", "LowCardinality(String)", "`COM_QUERY`, `COM_STMT_EXECUTE`, ...; `CONNECT` for the login.";
        Record text db_query_text, "", "String", "The statement, of an EXECUTE the text of its PREPARE; literals masked by default.";
        Record text dns_question_name, "", "String", "Name asked for.";
        Record text dns_question_type, "", "LowCardinality(String)", "Type asked for.";
        Record text dns_response_code, "", "LowCardinality(String)", "Response code of the answer.";
        Record list db_query_parameters, "", "Array(String)", "Bound parameters, only when unmasked.";
        Record text db_query_fingerprint, "", "String", "Normalised statement.";
        Record text db_query_summary, "", "LowCardinality(String)", "Operation and target, such as `SELECT orders`.";
        Record text db_response_status_code, "", "LowCardinality(String)", "Error number of the database.";
        Record text db_response_sqlstate, "", "LowCardinality(String)", "SQLSTATE of the error.";
        Record text db_response_message, "", "String", "Error message of the database.";
        Record optional db_response_returned_rows, "1", "UInt64", "Rows in the result sets; 18446744073709551615 stands for unknown.";
        Record optional db_response_affected_rows, "1", "UInt64", "Rows changed; 18446744073709551615 stands for unknown.";
        Record number db_response_warnings, "1", "UInt32", "Warnings counted by the server.";
    } };
}
pub(crate) use with_fields;

macro_rules! define_record {
    ($($scope:ident $kind:tt $name:ident, $unit:literal, $ch:literal, $meaning:literal;)*) => {
        /// One exchange. A field that does not apply holds its default (`""`, 0 or `None`).
        #[derive(Clone, Debug, PartialEq)]
        pub struct RequestRecord<'a> { $(#[doc = $meaning] pub $name: field_type!($kind, 'a),)* }

        impl Default for RequestRecord<'_> {
            fn default() -> Self { Self { $($name: field_default!($kind),)* } }
        }

        /// The table of names, in the order of JSON keys and ClickHouse columns.
        pub const FIELDS: &[Field] = &[$(Field {
            name: stringify!($name), scope: Scope::$scope, unit: $unit, clickhouse_type: $ch, meaning: $meaning,
        },)*];

        impl RequestRecord<'_> {
            /// Walks over all fields in the order of [`FIELDS`], absent ones included.
            pub fn for_each(&self, mut visit: impl FnMut(&'static Field, Value<'_>)) {
                let mut index = 0;
                $( visit(&FIELDS[index], field_value!($kind, self.$name)); index += 1; )*
                debug_assert_eq!(index, FIELDS.len());
            }
        }
    };
}
with_fields!(define_record);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::from_number(*protocol as u32), Some(*protocol));
            assert_eq!(protocol.as_str().parse(), Ok(*protocol));
        }
        assert_eq!("no such".parse::<Side>(), Err(UnknownName("no such".to_owned())));
    }

    #[test]
    fn attributes_belong_to_fields() {
        let names = SAME_ATTRIBUTES.into_iter().chain(OTHER_ATTRIBUTES.map(|(name, _)| name));
        for name in names {
            assert!(FIELDS.iter().any(|field| field.name == name), "{name}");
        }
        assert_eq!(opentelemetry("http_request_method").as_deref(), Some("http.request.method"));
        assert_eq!(opentelemetry("tls_alpn").as_deref(), Some("tls.next_protocol"));
        assert_eq!(opentelemetry("exchange_index"), None);
    }

    #[test]
    fn field_names_are_unique() {
        let mut names: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIELDS.len());
    }
}
