//! What the columns of views say that are not columns of a table: for docs/schema.md, which is made from it.
//!
//! Tests compare names and types with what the engine says of the views.

/// Name, ClickHouse type, unit and meaning of a column.
pub type ViewColumn = (&'static str, &'static str, &'static str, &'static str);

/// Views with columns of their own, and how a test asks for all of them.
pub const VIEWS: [(&str, &str, &[ViewColumn]); 3] = [
    ("latency", "latency(from = now() - 60, to = now(), service = '', quantile = 0.5)", &LATENCY),
    ("completeness", "completeness(from = now() - 60, to = now())", &COMPLETENESS),
    ("sender_sequences", "sender_sequences", &SENDER_SEQUENCES),
];

const LATENCY: [ViewColumn; 6] = [
    ("service_name", "LowCardinality(String)", "", "The service whose sidecar saw the exchanges."),
    ("endpoint", "LowCardinality(String)", "", "As in red."),
    ("requests", "UInt64", "1", "Exchanges that began in the period."),
    ("failed", "UInt64", "1", "Of these with status server_error or no_response."),
    ("quantile_ns", "UInt64", "ns", "The quantile of the known latencies, off by at most 0.79 %; 0 if none is known."),
    ("longest_ns", "UInt64", "ns", "The longest known latency."),
];

const COMPLETENESS: [ViewColumn; 16] = [
    ("k8s_namespace_name", "String", "", "Namespace of the sidecar's pod."),
    ("k8s_pod_name", "String", "", "Name of the sidecar's pod."),
    ("packets_seen", "UInt64", "1", "Packets that the sidecar received."),
    ("packets_lost", "UInt64", "1", "Packets that the kernel or the interface dropped before it."),
    ("seen_share", "Float64", "1", "packets_seen of both."),
    ("bytes_decoded", "UInt64", "By", "TCP payload of the exchanges."),
    ("bytes_undecoded", "UInt64", "By", "TCP payload that was missed or belongs to no exchange."),
    ("decoded_share", "Float64", "1", "bytes_decoded of both."),
    ("records_stored", "UInt64", "1", "Exchanges that are stored."),
    ("records_unanswered", "UInt64", "1", "Of these without an answer."),
    ("paired_share", "Float64", "1", "Stored exchanges that have an answer, of all of them."),
    ("records_made", "UInt64", "1", "Records that the sidecar made."),
    ("records_dropped", "UInt64", "1", "Records that it had to drop."),
    ("delivered_share", "Float64", "1", "Records that no sidecar dropped, of those made."),
    ("stored_share", "Float64", "1", "Exchanges stored of records made."),
    ("batches_missing", "UInt64", "1", "Batches that were found missing in the period; sender_sequences names them."),
];

const SENDER_SEQUENCES: [ViewColumn; 8] = [
    ("sender", "String", "", "Sender id of the sidecar."),
    ("boot", "String", "", "Boot id, new at each start of the sidecar, which numbers its batches from 1."),
    ("first", "UInt64", "1", "Lowest sequence that arrived."),
    ("last", "UInt64", "1", "Highest sequence that arrived."),
    ("received", "Int64", "1", "Batches that arrived."),
    ("missing", "Int64", "1", "Batches up to last that did not."),
    ("ranges", "Array(Tuple(UInt64, UInt64))", "", "First and last sequence of each range that arrived, ascending; two may touch."),
    ("missing_ranges", "Array(Tuple(UInt64, UInt64))", "", "First and last sequence of each range that did not."),
];
