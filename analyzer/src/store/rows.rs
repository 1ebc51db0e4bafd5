//! Rows of each table: the columns with their types, and how a row is written.
//!
//! The columns of `requests` are made from the table of names in `wire`, so a field added there is a column here (and a migration
//! that adds it: see `schema/`). Pure: gives bytes, sends nothing.

use std::ops::Range;

use podtap_wire::{Column, FIELDS, column};

use super::native::{self, Dictionary, Native};
use crate::aggregate::{Fate, SeriesRow};
use crate::alarm::state::Alarm;
use crate::ingest::block::{BlockWrite, CounterRow, Manifest, PartitionId, PlacedBatch};
use crate::ingest::marks::{Mark, SenderBoot};

/// Where a row comes from: the last columns of every table that blocks write.
const POSITION: [native::Column; 3] =
    [("topic", "LowCardinality(String)"), ("incarnation", "LowCardinality(String)"), ("partition", "UInt32")];

/// Columns of `requests` behind the record's own.
const REQUEST_POSITION: [native::Column; 4] = [("offset", "UInt64"), ("row", "UInt32"), ("version", "UInt64"), ("keep", "UInt8")];

/// What the documentation says about columns that are not fields of a record.
pub const POSITION_MEANING: [(&str, &str); 7] = [
    ("topic", "Kafka topic, or `grpc` for the analyzer's own log."),
    ("incarnation", "Tells a topic from one of the same name before it."),
    ("partition", "Partition of the topic."),
    ("offset", "Offset of the batch in the partition."),
    ("row", "Number of the record in its batch, from 0."),
    ("version", "First offset that was not read when the row was written; the highest wins."),
    ("keep", "1: kept longer, because it failed or was among the slowest of its series in its block; 0: ordinary."),
];

/// Columns of `requests`, in order.
pub fn request_columns() -> Vec<native::Column> {
    let fields = FIELDS.iter().map(|field| (field.name, field.clickhouse_type));
    fields.chain(POSITION).chain(REQUEST_POSITION).collect()
}

/// Columns of `request_histograms`, in order.
pub const HISTOGRAM_COLUMNS: [native::Column; 31] = [
    ("window", "DateTime('UTC')"),
    ("service_name", "LowCardinality(String)"),
    ("k8s_namespace_name", "LowCardinality(String)"),
    ("k8s_workload_kind", "LowCardinality(String)"),
    ("k8s_workload_name", "LowCardinality(String)"),
    ("k8s_pod_name", "LowCardinality(String)"),
    ("k8s_pod_uid", "LowCardinality(String)"),
    ("k8s_node_name", "LowCardinality(String)"),
    ("side", "LowCardinality(String)"),
    ("source", "LowCardinality(String)"),
    ("network_protocol_name", "LowCardinality(String)"),
    ("endpoint", "LowCardinality(String)"),
    ("status", "LowCardinality(String)"),
    ("error_type", "LowCardinality(String)"),
    ("server_address", "LowCardinality(String)"),
    ("server_port", "UInt16"),
    ("peer", "LowCardinality(String)"),
    ("count", "UInt64"),
    ("errors", "UInt64"),
    ("time_to_last_byte_ns_sum", "UInt64"),
    ("time_to_last_byte_ns_max", "UInt64"),
    ("request_bytes", "UInt64"),
    ("response_bytes", "UInt64"),
    ("time_to_last_byte_ns_buckets", "Map(UInt16, UInt64)"),
    ("time_to_first_byte_ns_buckets", "Map(UInt16, UInt64)"),
    POSITION[0],
    POSITION[1],
    POSITION[2],
    ("block", "UInt64"),
    ("classification", "UInt16"),
    ("version", "UInt64"),
];

/// What the columns of figures mean, in `red` and its longer steps: key, then counts.
pub const FIGURE_MEANING: [(&str, &str); 24] = [
    ("service_name", "The service whose sidecar saw the exchanges."),
    ("k8s_namespace_name", "Namespace of the sidecar's pod."),
    ("k8s_workload_kind", "Kind of the pod's owner."),
    ("k8s_workload_name", "Name of the pod's owner."),
    ("k8s_pod_name", "Name of the sidecar's pod."),
    ("k8s_pod_uid", "UID of the sidecar's pod."),
    ("k8s_node_name", "Node of the sidecar's pod."),
    ("side", "Which end is in the pod: server, client, both or unknown."),
    ("source", "What the records were made from."),
    ("network_protocol_name", "Protocol of the exchanges."),
    (
        "endpoint",
        "Method and route of HTTP, fingerprint of SQL (PREPARE and the fingerprint for preparing), else the command; \
         (overflow) beyond the caps.",
    ),
    ("status", "ok, client_error, server_error or no_response."),
    ("error_type", "What failed; empty on success."),
    ("server_address", "The server's end as seen on the wire."),
    ("server_port", "Its port."),
    ("peer", "The other end: the client's address seen from a server, address:port of the server seen from a client."),
    ("count", "Exchanges."),
    ("errors", "Of these with status server_error or no_response."),
    ("time_to_last_byte_ns_sum", "Sum of the known latencies, ns."),
    ("time_to_last_byte_ns_max", "The longest known latency, ns."),
    ("request_bytes", "Sum of the requests' sizes, bytes."),
    ("response_bytes", "Sum of the answers' sizes, bytes."),
    ("time_to_last_byte_ns_buckets", "Known latencies: bucket index to count; merge with sumMap."),
    ("time_to_first_byte_ns_buckets", "Known times to the first byte of the answer: bucket index to count; merge with sumMap."),
];

/// Columns of figures without the window and the place in the log: key, then counts.
pub fn figure_columns() -> &'static [native::Column] {
    &HISTOGRAM_COLUMNS[1..=FIGURE_MEANING.len()]
}

/// How many of [`figure_columns`] are the key.
pub const KEY_COLUMNS: usize = 16;

/// Columns of `ingest_blocks`, in order.
pub const BLOCK_COLUMNS: [native::Column; 24] = [
    POSITION[0],
    POSITION[1],
    POSITION[2],
    ("block", "UInt64"),
    ("block_end", "UInt64"),
    ("version", "UInt64"),
    ("complete", "UInt8"),
    ("classification", "UInt16"),
    ("batches", "UInt64"),
    ("records", "UInt64"),
    ("duplicate_batches", "UInt64"),
    ("missing_batches", "UInt64"),
    ("undecodable", "Map(String, UInt64)"),
    ("clamped_records", "UInt64"),
    ("overflowed_records", "UInt64"),
    ("dropped_counters", "UInt64"),
    ("first_message_time", "DateTime64(9, 'UTC')"),
    ("last_message_time", "DateTime64(9, 'UTC')"),
    ("received", "Array(Tuple(sender String, boot String, first UInt64, last UInt64))"),
    ("marks", "Array(Tuple(sender String, boot String, highest UInt64, seen_ns UInt64))"),
    ("holes", "Array(Tuple(sender String, boot String, first UInt64, last UInt64))"),
    ("hours", "Array(UInt32)"),
    ("sampled_requests", "UInt64"),
    ("late_records", "UInt64"),
];

/// Columns of `sidecar_counters`, in order.
pub const COUNTER_COLUMNS: [native::Column; 9] = [
    ("sender", "LowCardinality(String)"),
    ("boot", "LowCardinality(String)"),
    ("k8s_namespace_name", "LowCardinality(String)"),
    ("k8s_pod_name", "LowCardinality(String)"),
    ("name", "LowCardinality(String)"),
    ("reason", "LowCardinality(String)"),
    ("time", "DateTime64(9, 'UTC')"),
    ("sequence", "UInt64"),
    ("value", "UInt64"),
];

/// Columns of `alarms`, in order.
pub const ALARM_COLUMNS: [native::Column; 18] = [
    ("id", "String"),
    ("rule", "LowCardinality(String)"),
    ("service", "LowCardinality(String)"),
    ("endpoint", "LowCardinality(String)"),
    ("level", "UInt8"),
    ("indicator", "LowCardinality(String)"),
    ("comparison", "LowCardinality(String)"),
    ("threshold", "Float64"),
    ("state", "LowCardinality(String)"),
    ("first_at", "DateTime64(9, 'UTC')"),
    ("last_at", "DateTime64(9, 'UTC')"),
    ("resolved_at", "DateTime64(9, 'UTC')"),
    ("first_value", "Float64"),
    ("last_value", "Float64"),
    ("peak_value", "Float64"),
    ("breaches", "UInt64"),
    ("notified", "LowCardinality(String)"),
    ("version", "UInt64"),
];

/// `INSERT INTO table (columns) FORMAT ...`.
pub fn insert_statement(table: &str, columns: &[native::Column]) -> String {
    let names: Vec<_> = columns.iter().map(|(name, _)| format!("`{name}`")).collect();
    format!("INSERT INTO {table} ({}) FORMAT Native", names.join(", "))
}

/// Nanoseconds since the epoch as `DateTime64(9)` holds them: up to 2262.
fn date_time(nanoseconds: u64) -> i64 {
    i64::try_from(nanoseconds).unwrap_or(i64::MAX)
}

fn position(rows: &mut Native, partition: &PartitionId) {
    rows.string(&partition.topic);
    rows.string(&partition.incarnation);
    rows.u32(partition.partition);
}

/// Writes rows of `requests`: those of a batch's records, a column at a time, as the batch has them.
#[derive(Debug, Default)]
pub struct RequestWriter {
    dictionary: Dictionary,
    /// The batch's addresses as text.
    addresses: Vec<String>,
    /// The batch's rows that are written.
    kept: Vec<usize>,
}

impl RequestWriter {
    /// How many records of a batch go into `bytes` at least, whatever its texts are.
    pub fn rows_within(placed: &PlacedBatch, bytes: usize) -> usize {
        // Texts that are no keys are the ones that repeat; there are fewer of them than of these.
        const TEXTS: usize = 16;
        let longest = placed.batch.strings().iter().map(String::len).max().unwrap_or_default();
        (bytes / (longest * TEXTS + 512)).max(1)
    }

    /// Makes ready for the records of a batch.
    pub fn begin(&mut self, placed: &PlacedBatch) {
        self.dictionary.begin(placed.batch.strings().len());
        self.addresses.clear();
        // A batch without addresses has the first one all the same: none.
        let count = placed.batch.addresses().len().max(1) as u32;
        self.addresses.extend((0..count).map(|index| placed.batch.address(index).to_string()));
    }

    /// Writes some of the records of the batch that [`Self::begin`] was told.
    pub fn write(&mut self, out: &mut Native, partition: &PartitionId, placed: &PlacedBatch, rows: Range<usize>, version: u64) {
        let fate = |row: usize| placed.fates.get(row).copied().unwrap_or_default();
        self.kept.clear();
        self.kept.extend(rows.filter(|row| fate(*row) != Fate::LeftOut));
        let (batch, dictionary, addresses) = (&placed.batch, &mut self.dictionary, &self.addresses);
        let rows = || self.kept.iter().copied();
        let mut columns = out.columns(self.kept.len());
        batch.for_each_column(|_, column_of_field| match column_of_field {
            Column::Same(text) => columns.same_text(text),
            Column::Texts([]) => columns.same_text(""),
            Column::Texts(indices) => columns.texts(rows().map(|row| column(indices, row)), |index| batch.text(index), dictionary),
            Column::Names([], name) => columns.same_text(name(0)),
            Column::Names(numbers, name) => columns.texts(rows().map(|row| column(numbers, row)), name, dictionary),
            Column::Numbers([]) => columns.same_number(0),
            Column::Numbers(numbers) => columns.numbers(rows().map(|row| column(numbers, row))),
            // All ones stand for unknown, in whatever width: the largest real value gives way to that.
            Column::Optional([]) => columns.same_number(u64::MAX),
            Column::Optional(numbers) => columns.numbers(rows().map(|row| column(numbers, row).wrapping_sub(1))),
            Column::Timestamps(timestamps) => columns.numbers(rows().map(|row| {
                let clamped = placed.clamped.binary_search(&(row as u32)).is_ok();
                date_time(if clamped { placed.message_time_ns } else { column(timestamps, row) }) as u64
            })),
            Column::Addresses(indices) => {
                let text = |index: u32| addresses.get(index as usize).map_or("", String::as_str);
                columns.texts(rows().map(|row| column(indices, row)), text, dictionary);
            }
            Column::Lists(lists) => columns.lists(rows().map(|row| {
                let items = lists.get(row).map_or(&[][..], |list| list.item.as_slice());
                items.iter().map(|index| batch.text(*index))
            })),
        });
        columns.same_text(&partition.topic);
        columns.same_text(&partition.incarnation);
        columns.same_number(u64::from(partition.partition));
        columns.same_number(placed.offset);
        columns.numbers(rows().map(|row| row as u64));
        columns.same_number(version);
        columns.numbers(rows().map(|row| u64::from(fate(row) == Fate::Kept)));
    }
}

/// Writes one row of `request_histograms`.
pub fn series(rows: &mut Native, write: &BlockWrite, row: &SeriesRow) {
    let (key, figures) = (&*row.key, &row.figures);
    rows.u32(row.window);
    rows.string(&key.service_name);
    rows.string(&key.k8s_namespace_name);
    rows.string(&key.k8s_workload_kind);
    rows.string(&key.k8s_workload_name);
    rows.string(&key.k8s_pod_name);
    rows.string(&key.k8s_pod_uid);
    rows.string(&key.k8s_node_name);
    rows.string(key.side.as_str());
    rows.string(key.source.as_str());
    rows.string(key.network_protocol_name.as_str());
    rows.string(&key.endpoint);
    rows.string(key.status.as_str());
    rows.string(&key.error_type);
    rows.string(&key.server_address);
    rows.u16(key.server_port);
    rows.string(&key.peer);
    rows.u64(figures.count);
    rows.u64(figures.errors);
    rows.u64(figures.time_to_last_byte_ns_sum);
    rows.u64(figures.time_to_last_byte_ns_max);
    rows.u64(figures.request_bytes);
    rows.u64(figures.response_bytes);
    rows.buckets(figures.time_to_last_byte_ns.buckets());
    rows.buckets(figures.time_to_first_byte_ns.buckets());
    position(rows, &write.partition);
    rows.u64(write.manifest.block);
    rows.u16(write.manifest.classification);
    rows.u64(write.manifest.position);
}

/// Writes one row of `ingest_blocks`.
pub fn manifest(rows: &mut Native, partition: &PartitionId, manifest: &Manifest) {
    let counts = &manifest.counts;
    let (first, last) = manifest.message_time_ns.unwrap_or_default();
    position(rows, partition);
    rows.u64(manifest.block);
    rows.u64(manifest.end);
    rows.u64(manifest.position);
    rows.u8(u8::from(manifest.complete));
    rows.u16(manifest.classification);
    rows.u64(counts.batches);
    rows.u64(counts.records);
    rows.u64(counts.duplicates);
    rows.u64(counts.missing);
    rows.counts(counts.undecodable.iter().map(|(reason, count)| (*reason, *count)));
    rows.u64(counts.clamped);
    rows.u64(counts.overflowed);
    rows.u64(counts.counters_dropped);
    rows.i64(date_time(first));
    rows.i64(date_time(last));
    let received: Vec<_> = manifest.received.ranges().collect();
    tuples(rows, received.into_iter());
    tuples(rows, manifest.marks.entries().map(|(boot, mark)| (boot, mark.highest, mark.seen_ns)));
    let holes = |(boot, mark): (&'_ SenderBoot, &'_ Mark)| -> Vec<(SenderBoot, u64, u64)> {
        mark.holes.iter().map(|(from, to)| (boot.clone(), *from, *to)).collect()
    };
    let holes: Vec<_> = manifest.marks.entries().flat_map(holes).collect();
    tuples(rows, holes.iter().map(|(boot, from, to)| (boot, *from, *to)));
    rows.u32s(&manifest.hours);
    rows.u64(counts.sampled);
    rows.u64(counts.late);
}

fn tuples<'a>(rows: &mut Native, tuples: impl ExactSizeIterator<Item = (&'a SenderBoot, u64, u64)>) {
    rows.ranges(tuples.map(|(boot, first, second)| (boot.sender.as_str(), hexadecimal(&boot.boot), first, second)));
}

/// A boot id as text.
pub fn hexadecimal(boot: &[u8; 16]) -> String {
    boot.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The boot id of a text.
pub fn boot_id(text: &str) -> Option<[u8; 16]> {
    let number = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten()?;
    Some(number.to_be_bytes())
}

/// Writes one row of `sidecar_counters`.
pub fn counter(rows: &mut Native, row: &CounterRow) {
    rows.string(&row.boot.sender);
    rows.string(&hexadecimal(&row.boot.boot));
    rows.string(&row.k8s_namespace_name);
    rows.string(&row.k8s_pod_name);
    rows.string(&row.name);
    rows.string(&row.reason);
    rows.i64(date_time(row.time_ns));
    rows.u64(row.sequence);
    rows.u64(row.value);
}

/// Writes one row of `alarms`.
pub fn alarm(rows: &mut Native, alarm: &Alarm) {
    rows.string(&alarm.id);
    rows.string(&alarm.rule);
    rows.string(&alarm.target.service);
    rows.string(&alarm.target.endpoint);
    rows.u8(alarm.level);
    rows.string(&alarm.indicator);
    rows.string(&alarm.comparison);
    rows.f64(alarm.threshold);
    rows.string(alarm.phase.as_str());
    rows.i64(date_time(alarm.first_at_ns));
    rows.i64(date_time(alarm.last_at_ns));
    rows.i64(date_time(alarm.resolved_at_ns));
    rows.f64(alarm.first_value);
    rows.f64(alarm.last_value);
    rows.f64(alarm.peak_value);
    rows.u64(alarm.breaches);
    rows.string(alarm.notified.as_str());
    rows.u64(alarm.version);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_ids_round_trip() {
        let boot = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
        assert_eq!(boot_id(&hexadecimal(&boot)), Some(boot));
        assert_eq!(boot_id("zz"), None);
    }

    #[test]
    fn every_figure_has_a_meaning() {
        let names: Vec<_> = figure_columns().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, FIGURE_MEANING.map(|(name, _)| name));
        assert_eq!(names[KEY_COLUMNS], "count");
    }

    #[test]
    fn every_type_of_a_field_can_be_written() {
        let known = ["String", "LowCardinality(String)", "UInt8", "UInt16", "UInt32", "UInt64", "DateTime64(9, 'UTC')", "Array(String)"];
        for field in FIELDS {
            assert!(known.contains(&field.clickhouse_type), "{}: {}", field.name, field.clickhouse_type);
        }
    }
}
