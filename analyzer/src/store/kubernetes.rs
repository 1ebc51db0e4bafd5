//! Rows of what Kubernetes and its kubelets say: owners of addresses, samples of containers. Pure, like [`super::rows`].
//!
//! An interval that lasts ends on [`OPEN`]; its row is replaced when it is closed.

use super::native::{Column, Native};
use crate::ingest::cadvisor::samples::ContainerSample;
use crate::ingest::kubernetes::intervals::{Interval, Millis};

/// The end of an interval that lasts, 2100-01-01: far away, and the sum with a retention is still a date.
pub const OPEN: Millis = 4_102_444_800_000;

/// Columns of `address_owners`, in order.
pub const OWNER_COLUMNS: [Column; 13] = [
    ("address", "String"),
    ("kind", "LowCardinality(String)"),
    ("uid", "String"),
    ("ordinal", "UInt16"),
    ("k8s_namespace_name", "LowCardinality(String)"),
    ("name", "String"),
    ("k8s_workload_kind", "LowCardinality(String)"),
    ("k8s_workload_name", "LowCardinality(String)"),
    ("k8s_node_name", "LowCardinality(String)"),
    ("backends", "Array(Tuple(kind String, name String))"),
    ("valid_from", "DateTime64(3, 'UTC')"),
    ("valid_to", "DateTime64(3, 'UTC')"),
    ("version", "UInt64"),
];

/// Columns of `address_watches`, in order.
pub const WATCH_COLUMNS: [Column; 2] = [("kind", "LowCardinality(String)"), ("complete_to", "DateTime64(3, 'UTC')")];

/// Columns of `container_samples`, in order.
pub const SAMPLE_COLUMNS: [Column; 23] = [
    ("time", "DateTime64(3, 'UTC')"),
    ("k8s_node_name", "LowCardinality(String)"),
    ("k8s_namespace_name", "LowCardinality(String)"),
    ("k8s_workload_kind", "LowCardinality(String)"),
    ("k8s_workload_name", "LowCardinality(String)"),
    ("k8s_pod_name", "LowCardinality(String)"),
    ("k8s_pod_uid", "LowCardinality(String)"),
    ("k8s_container_name", "LowCardinality(String)"),
    ("container_id", "LowCardinality(String)"),
    ("start_time_seconds", "Float64"),
    ("cpu_usage_seconds_total", "Float64"),
    ("cpu_cfs_throttled_seconds_total", "Float64"),
    ("cpu_limit_cores", "Float64"),
    ("memory_working_set_bytes", "UInt64"),
    ("memory_rss_bytes", "UInt64"),
    ("memory_limit_bytes", "UInt64"),
    ("network_receive_bytes_total", "UInt64"),
    ("network_transmit_bytes_total", "UInt64"),
    ("network_receive_packets_total", "UInt64"),
    ("network_transmit_packets_total", "UInt64"),
    ("network_receive_errors_total", "UInt64"),
    ("network_transmit_errors_total", "UInt64"),
    ("fs_usage_bytes", "UInt64"),
];

/// Writes one row of `address_owners`.
pub fn owner(rows: &mut Native, interval: &Interval, version: u64) {
    rows.string(&interval.address.to_string());
    rows.string(interval.kind.as_str());
    rows.string(&interval.uid);
    rows.u16(interval.ordinal);
    rows.string(&interval.namespace);
    rows.string(&interval.name);
    rows.string(&interval.workload.kind);
    rows.string(&interval.workload.name);
    rows.string(&interval.node);
    rows.pairs(interval.backends.iter().map(|backend| (backend.kind.as_str(), backend.name.as_str())));
    rows.i64(interval.from.max(0));
    rows.i64(interval.to.map_or(OPEN, |to| to.max(0)));
    rows.u64(version);
}

/// Writes one row of `container_samples`.
pub fn sample(rows: &mut Native, sample: &ContainerSample) {
    rows.i64(sample.time_ms);
    rows.string(&sample.node);
    rows.string(&sample.namespace);
    rows.string(&sample.workload.kind);
    rows.string(&sample.workload.name);
    rows.string(&sample.pod);
    rows.string(&sample.pod_uid);
    rows.string(&sample.container);
    rows.string(&sample.container_id);
    rows.f64(sample.start_time_seconds);
    rows.f64(sample.cpu_usage_seconds);
    rows.f64(sample.cpu_throttled_seconds);
    rows.f64(sample.cpu_limit_cores);
    rows.u64(sample.memory_working_set_bytes);
    rows.u64(sample.memory_rss_bytes);
    rows.u64(sample.memory_limit_bytes);
    let network = &sample.network;
    rows.u64(network.receive_bytes);
    rows.u64(network.transmit_bytes);
    rows.u64(network.receive_packets);
    rows.u64(network.transmit_packets);
    rows.u64(network.receive_errors);
    rows.u64(network.transmit_errors);
    rows.u64(sample.fs_usage_bytes);
}
