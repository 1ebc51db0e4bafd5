-- One row a record. ReplacingMergeTree: a block that is read again writes the same rows again; read with FINAL.
CREATE TABLE IF NOT EXISTS {database}.requests
(
{request_columns}
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMMDD(timestamp)
PRIMARY KEY (service_name, toStartOfHour(timestamp))
ORDER BY (service_name, toStartOfHour(timestamp), timestamp, topic, incarnation, partition, offset, row)
TTL toDateTime(timestamp) + INTERVAL 7 DAY
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1;

-- One row a series, window of ten seconds and block of the log: what that block adds to the series in the window.
CREATE TABLE IF NOT EXISTS {database}.request_histograms
(
    window DateTime('UTC') COMMENT 'Start of ten seconds that the requests began in.' CODEC(Delta(4), ZSTD(1)),
    service_name LowCardinality(String) COMMENT 'The service whose sidecar saw the exchanges.',
    k8s_namespace_name LowCardinality(String) COMMENT 'Namespace of the sidecar''s pod.',
    k8s_workload_kind LowCardinality(String) COMMENT 'Kind of the pod''s owner.',
    k8s_workload_name LowCardinality(String) COMMENT 'Name of the pod''s owner.',
    k8s_pod_name LowCardinality(String) COMMENT 'Name of the sidecar''s pod.',
    k8s_pod_uid LowCardinality(String) COMMENT 'UID of the sidecar''s pod.',
    k8s_node_name LowCardinality(String) COMMENT 'Node of the sidecar''s pod.',
    side LowCardinality(String) COMMENT 'Which end is in the pod: server, client, both or unknown.',
    source LowCardinality(String) COMMENT 'What the records were made from.',
    network_protocol_name LowCardinality(String) COMMENT 'Protocol of the exchanges.',
    endpoint LowCardinality(String) COMMENT 'Method and route of HTTP, fingerprint of SQL (PREPARE and the fingerprint for preparing), else the command.',
    status LowCardinality(String) COMMENT 'ok, client_error, server_error or no_response.',
    error_type LowCardinality(String) COMMENT 'What failed; empty on success.',
    server_address LowCardinality(String) COMMENT 'The server''s end as seen on the wire.',
    server_port UInt16 COMMENT 'Its port.',
    peer LowCardinality(String) COMMENT 'The other end: the client''s address seen from a server, address:port of the server seen from a client.',
    count UInt64 COMMENT 'Exchanges.' CODEC(T64, ZSTD(1)),
    errors UInt64 COMMENT 'Of these with status server_error or no_response.' CODEC(T64, ZSTD(1)),
    time_to_last_byte_ns_sum UInt64 COMMENT 'Sum of the known latencies, ns.' CODEC(T64, ZSTD(1)),
    time_to_last_byte_ns_max UInt64 COMMENT 'The longest known latency, ns.' CODEC(T64, ZSTD(1)),
    request_bytes UInt64 COMMENT 'Sum of the requests'' sizes, bytes.' CODEC(T64, ZSTD(1)),
    response_bytes UInt64 COMMENT 'Sum of the answers'' sizes, bytes.' CODEC(T64, ZSTD(1)),
    time_to_last_byte_ns_buckets Map(UInt16, UInt64) COMMENT 'Known latencies: bucket index to count; merge with sumMap.' CODEC(ZSTD(1)),
    time_to_first_byte_ns_buckets Map(UInt16, UInt64) COMMENT 'Known times to the first byte of the answer: bucket index to count; merge with sumMap.' CODEC(ZSTD(1)),
    topic LowCardinality(String) COMMENT 'Kafka topic, or grpc for the analyzer''s own log.',
    incarnation LowCardinality(String) COMMENT 'Tells a topic from one of the same name before it.',
    partition UInt32 COMMENT 'Partition of the topic.',
    block UInt64 COMMENT 'First offset of the block that the row sums up.' CODEC(T64, ZSTD(1)),
    classification UInt16 COMMENT 'Revision of the rules that made series of records.' CODEC(T64, ZSTD(1)),
    version UInt64 COMMENT 'First offset that was not read when the row was written; the highest wins.' CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMMDD(window)
PRIMARY KEY (service_name, window)
ORDER BY (service_name, window, endpoint, status, error_type, side, peer, server_address, server_port, network_protocol_name, source,
    k8s_pod_uid, k8s_pod_name, k8s_namespace_name, k8s_workload_kind, k8s_workload_name, k8s_node_name, topic, incarnation, partition, block)
TTL window + INTERVAL 40 DAY
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1;

-- The manifest of every block, written after its rows.
CREATE TABLE IF NOT EXISTS {database}.ingest_blocks
(
    topic LowCardinality(String) COMMENT 'Kafka topic, or grpc for the analyzer''s own log.',
    incarnation LowCardinality(String) COMMENT 'Tells a topic from one of the same name before it.',
    partition UInt32 COMMENT 'Partition of the topic.',
    block UInt64 COMMENT 'First offset of the block.',
    block_end UInt64 COMMENT 'First offset behind it.',
    version UInt64 COMMENT 'First offset that was not read when the row was written; the highest wins.',
    complete UInt8 COMMENT '1 once the whole block was read and stored; offsets are committed only behind such blocks.',
    classification UInt16 COMMENT 'Revision of the rules that made series of records.',
    batches UInt64 COMMENT 'Batches that count.',
    records UInt64 COMMENT 'Records in them.',
    duplicate_batches UInt64 COMMENT 'Batches that came before and do not count.',
    missing_batches UInt64 COMMENT 'Batches found missing between two of the same sender and boot.',
    undecodable Map(String, UInt64) COMMENT 'Messages that are no batch, by reason.',
    clamped_records UInt64 COMMENT 'Records with an impossible time; they count at their message''s.',
    overflowed_records UInt64 COMMENT 'Records counted in an overflow series.',
    dropped_counters UInt64 COMMENT 'Samples of sidecars'' counters beyond the cap.',
    first_message_time DateTime64(9, 'UTC') COMMENT 'Time stamp of the block''s first message.',
    last_message_time DateTime64(9, 'UTC') COMMENT 'Time stamp of the last message read.',
    received Array(Tuple(sender String, boot String, first UInt64, last UInt64)) COMMENT 'Ranges of sequences that count.' CODEC(ZSTD(1)),
    marks Array(Tuple(sender String, boot String, highest UInt64, seen_ns UInt64)) COMMENT 'At the end of a complete block: highest sequence of each sender''s boot.' CODEC(ZSTD(1)),
    holes Array(Tuple(sender String, boot String, first UInt64, last UInt64)) COMMENT 'Sequences below the marks that were not seen.' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (topic, incarnation, partition, block)
SETTINGS fsync_after_insert = 1;

-- The sidecars' own counters, the last sample of each ten seconds.
CREATE TABLE IF NOT EXISTS {database}.sidecar_counters
(
    sender LowCardinality(String) COMMENT 'Sender id of the sidecar.',
    boot LowCardinality(String) COMMENT 'Boot id, new at each start of the sidecar.',
    k8s_namespace_name LowCardinality(String) COMMENT 'Namespace of the sidecar''s pod.',
    k8s_pod_name LowCardinality(String) COMMENT 'Name of the sidecar''s pod.',
    name LowCardinality(String) COMMENT 'Name as in the sidecar''s /metrics.',
    reason LowCardinality(String) COMMENT 'Value of its reason label.',
    time DateTime64(9, 'UTC') COMMENT 'When the batch with the sample was closed.' CODEC(DoubleDelta, ZSTD(1)),
    sequence UInt64 COMMENT 'Sequence of that batch.' CODEC(DoubleDelta, ZSTD(1)),
    value UInt64 COMMENT 'Value since the sidecar started.' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(sequence)
PARTITION BY toYYYYMM(time)
ORDER BY (sender, boot, name, reason, intDiv(toUnixTimestamp64Nano(time), 10000000000))
TTL toDateTime(time) + INTERVAL 40 DAY
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1;

-- Alarms as they were last.
CREATE TABLE IF NOT EXISTS {database}.alarms
(
    id String COMMENT 'Unique to one opening of one alarm.',
    rule LowCardinality(String) COMMENT 'Name of the rule.',
    service LowCardinality(String) COMMENT 'Service that the alarm is about.',
    endpoint LowCardinality(String) COMMENT 'Its endpoint; empty if the alarm is about the whole service.',
    level UInt8 COMMENT '0 urgent, 1 important, 2 ordinary, 3 watch.',
    indicator LowCardinality(String) COMMENT 'What was measured: error_share, or a latency such as p99.',
    comparison LowCardinality(String) COMMENT 'How the value is compared with the threshold.',
    threshold Float64 COMMENT 'Share from 0 to 1, or nanoseconds.',
    state LowCardinality(String) COMMENT 'pending, open, resolved, or cleared (pending that never opened).',
    first_at DateTime64(9, 'UTC') COMMENT 'First breach.',
    last_at DateTime64(9, 'UTC') COMMENT 'Last breach.',
    resolved_at DateTime64(9, 'UTC') COMMENT 'When it was resolved; 1970 while it is not.',
    first_value Float64 COMMENT 'Value at the first breach.',
    last_value Float64 COMMENT 'Value at the last breach.',
    peak_value Float64 COMMENT 'The worst value.',
    breaches UInt64 COMMENT 'Evaluations that found a breach.',
    notified LowCardinality(String) COMMENT 'What receivers were told: nothing, firing or resolved.',
    version UInt64 COMMENT 'The highest wins.'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY id
SETTINGS fsync_after_insert = 1;

-- The value that stands for a bucket: its middle.
CREATE OR REPLACE FUNCTION podtap_bucket_value AS (bucket) ->
    if(bucket < 128, toUInt64(bucket),
        toUInt64(bitShiftLeft(toUInt64(64 + bucket % 64), greatest(toInt32(intDiv(bucket, 64)) - 1, 0))
            + intDiv(bitShiftLeft(toUInt64(1), greatest(toInt32(intDiv(bucket, 64)) - 1, 0)), 2)));

-- Quantile q (0 to 1) of merged buckets; 0 when there are none.
CREATE OR REPLACE FUNCTION podtap_quantile AS (q, buckets) ->
    if(empty(mapKeys(buckets)), toUInt64(0), podtap_bucket_value(arrayElement(mapKeys(mapSort(buckets)),
        arrayFirstIndex(seen -> seen >= greatest(1, ceil(q * arraySum(mapValues(buckets)))), arrayCumSum(mapValues(mapSort(buckets)))))));

-- Rate, errors, duration: read this, not the table.
CREATE OR REPLACE VIEW {database}.red AS
SELECT window, service_name, k8s_namespace_name, k8s_workload_kind, k8s_workload_name, k8s_pod_name, k8s_pod_uid, k8s_node_name, side, source,
    network_protocol_name, endpoint, status, error_type, server_address, server_port, peer, count, errors, time_to_last_byte_ns_sum,
    time_to_last_byte_ns_max, request_bytes, response_bytes, time_to_last_byte_ns_buckets, time_to_first_byte_ns_buckets
FROM {database}.request_histograms FINAL;

-- What arrived of each sender's boot, over all partitions, and how much of it is missing.
CREATE OR REPLACE VIEW {database}.sender_sequences AS
SELECT range.1 AS sender, range.2 AS boot, min(range.3) AS first, max(range.4) AS last, sum(range.4 - range.3 + 1) AS received,
    last - received AS missing, arraySort(groupArray((range.3, range.4))) AS ranges
FROM (SELECT arrayJoin(received) AS range FROM {database}.ingest_blocks FINAL)
GROUP BY sender, boot;
