//! What the columns of views say that are not columns of a table: for docs/schema.md, which is made from it.
//!
//! Tests compare names and types with what the engine says of the views.

/// Name, ClickHouse type, unit and meaning of a column.
pub type ViewColumn = (&'static str, &'static str, &'static str, &'static str);

/// Views with columns of their own, and how a test asks for all of them.
pub const VIEWS: [(&str, &str, &[ViewColumn]); 7] = [
    ("latency", "latency(from = now() - 60, to = now(), service = '', quantile = 0.5)", &LATENCY),
    ("completeness", "completeness(from = now() - 60, to = now())", &COMPLETENESS),
    ("sender_sequences", "sender_sequences", &SENDER_SEQUENCES),
    ("calls", "calls(from = now() - 60, to = now())", &CALLS),
    ("exchanges", "exchanges(from = now() - 60, to = now())", &EXCHANGES),
    ("workloads", "workloads(from = now() - 60, to = now())", &WORKLOADS),
    ("container_usage", "container_usage(from = now() - 60, to = now())", &CONTAINER_USAGE),
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
    ("stored_share", "Float64", "1", "Exchanges stored of records made; above 1 where counters are missing."),
    ("batches_missing", "UInt64", "1", "Batches that were found missing in the period; sender_sequences names them."),
];

/// Of `sender_sequences`.
pub const SENDER_SEQUENCES: [ViewColumn; 8] = [
    ("sender", "String", "", "Sender id of the sidecar."),
    ("boot", "String", "", "Boot id, new at each start of the sidecar, which numbers its batches from 1."),
    ("first", "UInt64", "1", "Lowest sequence that arrived."),
    ("last", "UInt64", "1", "Highest sequence that arrived, or that the sidecar had made when it was killed, where its next start knows."),
    ("received", "Int64", "1", "Batches that arrived."),
    ("missing", "Int64", "1", "Batches up to last that did not."),
    (
        "ranges",
        "Array(Tuple(UInt64, UInt64))",
        "",
        "First and last sequence of each range that arrived, ascending; two may touch. (n + 1, n) is a boot's end: nothing, behind n.",
    ),
    ("missing_ranges", "Array(Tuple(UInt64, UInt64))", "", "First and last sequence of each range that did not."),
];

const CALLS: [ViewColumn; 20] = [
    ("client", "String", "", "Who called: the service that its sidecar names, else namespace and workload, else its address."),
    ("client_k8s_namespace_name", "String", "", "Namespace of the caller."),
    (
        "client_k8s_workload_kind",
        "String",
        "",
        "Kind of its owner; Service or Node where it is one; empty where nothing is known of the address.",
    ),
    ("client_k8s_workload_name", "String", "", "Name of its owner."),
    ("server", "String", "", "Who was called, in the same manner; without a name address and port."),
    ("server_k8s_namespace_name", "String", "", "Namespace of the callee."),
    (
        "server_k8s_workload_kind",
        "String",
        "",
        "Kind of its owner; Service or Node where it is one; empty where nothing is known of the address.",
    ),
    ("server_k8s_workload_name", "String", "", "Name of its owner."),
    ("network_protocol_name", "LowCardinality(String)", "", "Protocol of the exchanges."),
    ("called_services", "Array(String)", "", "Services, with namespace, whose addresses were called."),
    ("requests", "UInt64", "1", "Exchanges that began in the period."),
    ("requests_per_second", "Float64", "1/s", "By the length of the period."),
    ("errors", "UInt64", "1", "Of these with status server_error or no_response."),
    ("error_share", "Float64", "1", "errors of requests."),
    ("seen_at_both_ends", "UInt64", "1", "Of requests those of which both ends' records were joined."),
    ("time_to_last_byte_ns_buckets", "Map(UInt16, UInt64)", "1", "Known latencies: bucket index to count; merge with sumMap."),
    ("time_to_last_byte_ns_max", "UInt64", "ns", "The longest known latency."),
    ("p50_ns", "UInt64", "ns", "Half of the known latencies are at most that."),
    ("p95_ns", "UInt64", "ns", "95 % of them."),
    ("p99_ns", "UInt64", "ns", "99 % of them."),
];

const EXCHANGES: [ViewColumn; 31] = [
    ("timestamp", "DateTime64(9, 'UTC')", "ns", "When the request began, by the server's sidecar if it saw it, else by the client's."),
    ("seen", "String", "", "both: at both ends; server, client: at one; inside: over lo, one record for both."),
    ("network_protocol_name", "LowCardinality(String)", "", "Protocol."),
    ("endpoint", "String", "", "As in red."),
    ("status", "LowCardinality(String)", "", "As in requests, at the end whose record counts."),
    ("error_type", "LowCardinality(String)", "", "As in requests."),
    ("client_status", "String", "", "Status as the client's sidecar saw it; empty where it saw nothing, and over lo."),
    ("time_to_last_byte_ns", "UInt64", "ns", "Latency at the end whose record counts; 18446744073709551615 stands for unknown."),
    ("client_time_to_last_byte_ns", "UInt64", "ns", "Latency as the client's sidecar saw it; 18446744073709551615 stands for unknown."),
    ("request_bytes", "UInt64", "By", "TCP payload of the request."),
    ("response_bytes", "UInt64", "By", "TCP payload of the answer."),
    ("client_named", "UInt8", "", "1 if the client's end is known by more than its address."),
    ("client", "String", "", "As in calls."),
    ("client_k8s_namespace_name", "String", "", "Namespace of the client."),
    (
        "client_k8s_workload_kind",
        "String",
        "",
        "Kind of its owner; Service or Node where it is one; empty where nothing is known of the address.",
    ),
    ("client_k8s_workload_name", "String", "", "Name of its owner."),
    ("client_k8s_pod_name", "String", "", "Pod of the client; empty where a service or node is all that is known."),
    ("client_k8s_node_name", "String", "", "Its node."),
    ("client_address", "String", "", "The client's address as the end whose record counts saw it."),
    ("server_named", "UInt8", "", "1 if the server's end is known by more than its address."),
    ("server", "String", "", "As in calls."),
    ("server_k8s_namespace_name", "String", "", "Namespace of the server."),
    (
        "server_k8s_workload_kind",
        "String",
        "",
        "Kind of its owner; Service or Node where it is one; empty where nothing is known of the address.",
    ),
    ("server_k8s_workload_name", "String", "", "Name of its owner."),
    ("server_k8s_pod_name", "String", "", "Pod of the server; empty where a service or node is all that is known."),
    ("server_k8s_node_name", "String", "", "Its node."),
    ("called_address", "String", "", "The address that the client called, where its sidecar saw it, else the server's."),
    ("server_port", "UInt16", "", "Its port."),
    ("called_service", "String", "", "The service, with namespace, that had the called address."),
    ("trace_id", "String", "", "As in requests."),
    ("request_id", "String", "", "As in requests."),
];

const WORKLOADS: [ViewColumn; 17] = [
    ("workload", "String", "", "The service that its sidecar names, else namespace and workload, else address and port."),
    ("k8s_namespace_name", "String", "", "Its namespace."),
    ("k8s_workload_kind", "String", "", "Its kind; Service or Node where it is one; empty where nothing is known of the address."),
    ("k8s_workload_name", "String", "", "Its name."),
    ("network_protocol_name", "LowCardinality(String)", "", "Protocol of the exchanges."),
    ("counted_at", "String", "", "server: by its own pods' sidecars; client: by its callers', because it has none."),
    ("requests", "UInt64", "1", "Exchanges that began in what is covered."),
    ("requests_per_second", "Float64", "1/s", "By the length of what is covered."),
    ("errors", "UInt64", "1", "Of these with status server_error or no_response."),
    ("error_share", "Float64", "1", "errors of requests."),
    ("time_to_last_byte_ns_buckets", "Map(UInt16, UInt64)", "1", "Known latencies: bucket index to count; merge with sumMap."),
    ("time_to_last_byte_ns_max", "UInt64", "ns", "The longest known latency."),
    ("p50_ns", "UInt64", "ns", "Half of the known latencies are at most that."),
    ("p95_ns", "UInt64", "ns", "95 % of them."),
    ("p99_ns", "UInt64", "ns", "99 % of them."),
    ("covered_from", "DateTime('UTC')", "s", "Begin of the first ten seconds that count: from, rounded down."),
    ("covered_to", "DateTime('UTC')", "s", "End of the last ones: to, rounded up, but not beyond now if to is not."),
];

const CONTAINER_USAGE: [ViewColumn; 23] = [
    ("time", "DateTime64(3, 'UTC')", "ms", "When the later of two samples was taken, by the node's clock."),
    ("k8s_node_name", "LowCardinality(String)", "", "Node."),
    ("k8s_namespace_name", "LowCardinality(String)", "", "Namespace; empty in rows of nodes."),
    ("k8s_workload_kind", "LowCardinality(String)", "", "Kind of the pod's owner."),
    ("k8s_workload_name", "LowCardinality(String)", "", "Name of the pod's owner."),
    ("k8s_pod_name", "LowCardinality(String)", "", "Pod; empty in rows of nodes."),
    ("k8s_pod_uid", "LowCardinality(String)", "", "UID of the pod, as its cgroup has it."),
    ("k8s_container_name", "LowCardinality(String)", "", "Container; empty in the row of a pod's network, and of nodes."),
    ("restarted", "UInt8", "", "1 if it began anew between the two samples: then counters grew from 0."),
    ("interval_seconds", "Float64", "s", "Time between the two samples."),
    ("cpu_cores", "Float64", "1", "CPU time by time."),
    ("cpu_throttled_share", "Float64", "1", "Time throttled by time; of several threads together it may be above 1."),
    ("cpu_limit_cores", "Float64", "1", "CPU limit; 0 when there is none. Of a node: its cores."),
    ("memory_working_set_bytes", "UInt64", "By", "Working set."),
    ("memory_rss_bytes", "UInt64", "By", "Anonymous memory."),
    ("memory_limit_bytes", "UInt64", "By", "Memory limit; 0 when there is none. Of a node: its memory."),
    ("network_receive_bytes_per_second", "Float64", "By/s", "Received, of pods."),
    ("network_transmit_bytes_per_second", "Float64", "By/s", "Sent."),
    ("network_receive_packets_per_second", "Float64", "1/s", "Packets received."),
    ("network_transmit_packets_per_second", "Float64", "1/s", "Packets sent."),
    ("network_receive_errors_per_second", "Float64", "1/s", "Errors of receiving."),
    ("network_transmit_errors_per_second", "Float64", "1/s", "Errors of sending."),
    ("fs_usage_bytes", "UInt64", "By", "What its writable layer and logs take on disk, where cAdvisor knows."),
];
