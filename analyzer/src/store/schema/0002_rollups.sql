-- The hours that a block touches: what has to be rolled up again when the block changes.
ALTER TABLE {database}.ingest_blocks
    ADD COLUMN IF NOT EXISTS hours Array(UInt32) COMMENT 'Hours since the epoch that rows of the block lie in; empty in manifests of earlier programs.' CODEC(ZSTD(1));

ALTER TABLE {database}.ingest_blocks
    ADD COLUMN IF NOT EXISTS sampled_requests UInt64 DEFAULT 0 COMMENT 'Ordinary requests that sampling left out of requests; they count in the histograms.';

-- One row a series and minute: what all blocks add up to, as of the version. Read through red_1m.
CREATE TABLE IF NOT EXISTS {database}.request_histograms_1m
(
    window DateTime('UTC') COMMENT 'Start of the minute.' CODEC(Delta(4), ZSTD(1)),
{rollup_columns}
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(window)
PRIMARY KEY (service_name, window)
ORDER BY (service_name, window, endpoint, status, error_type, side, peer, server_address, server_port, k8s_pod_name, span, version)
TTL window + INTERVAL 100 DAY
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1;

-- The same by hour. Read through red_1h.
CREATE TABLE IF NOT EXISTS {database}.request_histograms_1h
(
    window DateTime('UTC') COMMENT 'Start of the hour.' CODEC(Delta(4), ZSTD(1)),
{rollup_columns}
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(window)
PRIMARY KEY (service_name, window)
ORDER BY (service_name, window, endpoint, status, error_type, side, peer, server_address, server_port, k8s_pod_name, span, version)
TTL window + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1;

-- The same by day (UTC). Read through red_1d.
CREATE TABLE IF NOT EXISTS {database}.request_histograms_1d
(
    window DateTime('UTC') COMMENT 'Start of the day, UTC.' CODEC(Delta(4), ZSTD(1)),
{rollup_columns}
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(window)
PRIMARY KEY (service_name, window)
ORDER BY (service_name, window, endpoint, status, error_type, side, peer, server_address, server_port, k8s_pod_name, span, version)
TTL window + INTERVAL 2000 DAY
SETTINGS ttl_only_drop_parts = 1, fsync_after_insert = 1;

-- Which version of each span is in force, and what it was computed from. Written after the span's rows.
CREATE TABLE IF NOT EXISTS {database}.rollup_spans
(
    step LowCardinality(String) COMMENT '1h: an hour, in request_histograms_1m and _1h. 1d: a day, in request_histograms_1d.',
    span UInt32 COMMENT 'Number of the hour or day since the epoch.',
    covered UInt64 COMMENT 'Fingerprint of the blocks, or hours, that it was computed from: another one means that it is out of date.',
    requests UInt64 COMMENT 'Exchanges in it.',
    computed_at DateTime64(3, 'UTC') COMMENT 'When.',
    version UInt64 COMMENT 'Version of the rows that count; the highest wins.'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (step, span)
SETTINGS fsync_after_insert = 1;

-- Rate, errors, duration by minute: hours that were rolled up, and ten-second rows for those that were not.
CREATE OR REPLACE VIEW {database}.red_1m AS
SELECT {figure_columns}
FROM {database}.request_histograms_1m
WHERE (span, version) GLOBAL IN (SELECT span, version FROM {database}.rollup_spans FINAL WHERE step = '1h')
UNION ALL
SELECT toStartOfMinute(fine.window) AS window, {figure_columns_of_fine}
FROM {database}.red AS fine
WHERE intDiv(toUnixTimestamp(fine.window), 3600) GLOBAL NOT IN (SELECT span FROM {database}.rollup_spans FINAL WHERE step = '1h');

-- The same by hour.
CREATE OR REPLACE VIEW {database}.red_1h AS
SELECT {figure_columns}
FROM {database}.request_histograms_1h
WHERE (span, version) GLOBAL IN (SELECT span, version FROM {database}.rollup_spans FINAL WHERE step = '1h')
UNION ALL
SELECT toStartOfHour(fine.window) AS window, {figure_columns_of_fine}
FROM {database}.red AS fine
WHERE intDiv(toUnixTimestamp(fine.window), 3600) GLOBAL NOT IN (SELECT span FROM {database}.rollup_spans FINAL WHERE step = '1h');

-- The same by day (UTC).
CREATE OR REPLACE VIEW {database}.red_1d AS
SELECT {figure_columns}
FROM {database}.request_histograms_1d
WHERE (span, version) GLOBAL IN (SELECT span, version FROM {database}.rollup_spans FINAL WHERE step = '1d')
UNION ALL
SELECT toStartOfDay(fine.window, 'UTC') AS window, {figure_columns_of_fine}
FROM {database}.red_1h AS fine
WHERE intDiv(toUnixTimestamp(fine.window), 86400) GLOBAL NOT IN (SELECT span FROM {database}.rollup_spans FINAL WHERE step = '1d');

-- Any quantiles of any period, by service: SELECT * FROM latency(from = '...', to = '...', service = '' for all, quantile = 0.99).
CREATE OR REPLACE VIEW {database}.latency AS
SELECT service_name, endpoint, sum(count) AS requests, sum(errors) AS failed,
    podtap_quantile({quantile:Float64}, sumMap(time_to_last_byte_ns_buckets)) AS quantile_ns,
    max(time_to_last_byte_ns_max) AS longest_ns
FROM {database}.red_1m
WHERE window >= {from:DateTime('UTC')} AND window < {to:DateTime('UTC')} AND ({service:String} = '' OR service_name = {service:String})
GROUP BY service_name, endpoint;

-- What share of each pod's traffic of a period was seen, decoded, delivered, stored: SELECT * FROM completeness(from = '...', to = '...').
-- Counters are those that came with batches closed in the period; what is stored, what began in it. A counter grew from its last sample of the
-- hour before; from 0 if its boot's first batch came since; else from its first sample.
CREATE OR REPLACE VIEW {database}.completeness AS
SELECT k8s_namespace_name, k8s_pod_name,
    sum(packets_seen) AS packets_seen, sum(packets_lost) AS packets_lost,
    if(packets_seen + packets_lost = 0, 1, packets_seen / (packets_seen + packets_lost)) AS seen_share,
    sum(bytes_decoded) AS bytes_decoded, sum(bytes_undecoded) AS bytes_undecoded,
    if(bytes_decoded + bytes_undecoded = 0, 1, bytes_decoded / (bytes_decoded + bytes_undecoded)) AS decoded_share,
    sum(records_stored) AS records_stored, sum(records_unanswered) AS records_unanswered,
    if(records_stored = 0, 1, 1 - records_unanswered / records_stored) AS paired_share,
    sum(records_made) AS records_made, sum(records_dropped) AS records_dropped,
    if(records_made = 0, 1, 1 - least(records_dropped, records_made) / records_made) AS delivered_share,
    if(records_made = 0, 1, least(records_stored, records_made) / records_made) AS stored_share,
    sum(batches_missing) AS batches_missing
FROM
(
    SELECT k8s_namespace_name, k8s_pod_name,
        sumIf(grown, name = 'podtap_packets_received_total') AS packets_seen, sumIf(grown, name = 'podtap_packets_dropped_total') AS packets_lost,
        toUInt64(0) AS bytes_decoded, sumIf(grown, name IN ('podtap_tcp_gap_bytes_total', 'podtap_discarded_bytes_total')) AS bytes_undecoded,
        toUInt64(0) AS records_stored, toUInt64(0) AS records_unanswered,
        sumIf(grown, name = 'podtap_records_total') AS records_made, sumIf(grown, name = 'podtap_records_dropped_total') AS records_dropped,
        toUInt64(0) AS batches_missing
    FROM
    (
        SELECT k8s_namespace_name, k8s_pod_name, sender, boot, name, reason,
            maxIf(value, time < {to:DateTime('UTC')}) AS last_value,
            multiIf(countIf(time < {from:DateTime('UTC')}) > 0, maxIf(value, time < {from:DateTime('UTC')}),
                boot GLOBAL IN (SELECT first_batch.2 FROM (SELECT arrayJoin(received) AS first_batch FROM {database}.ingest_blocks FINAL
                    WHERE last_message_time >= {from:DateTime('UTC')}) WHERE first_batch.3 = 1), 0, min(value)) AS first_value,
            toUInt64(last_value - first_value) AS grown
        FROM {database}.sidecar_counters FINAL
        WHERE time >= {from:DateTime('UTC')} - INTERVAL 1 HOUR AND time < {to:DateTime('UTC')}
        GROUP BY k8s_namespace_name, k8s_pod_name, sender, boot, name, reason
    )
    GROUP BY k8s_namespace_name, k8s_pod_name
    UNION ALL
    SELECT k8s_namespace_name, k8s_pod_name, 0, 0, sum(request_bytes + response_bytes), 0, sum(count), sumIf(count, status = 'no_response'), 0, 0, 0
    FROM {database}.red
    WHERE window >= {from:DateTime('UTC')} AND window < {to:DateTime('UTC')}
    GROUP BY k8s_namespace_name, k8s_pod_name
    UNION ALL
    SELECT k8s_namespace_name, k8s_pod_name, 0, 0, 0, 0, 0, 0, 0, 0, toUInt64(greatest(sum(missing), 0))
    FROM {database}.sender_sequences AS sequences
    INNER JOIN
    (
        SELECT sender, boot, any(k8s_namespace_name) AS k8s_namespace_name, any(k8s_pod_name) AS k8s_pod_name
        FROM {database}.sidecar_counters
        WHERE time >= {from:DateTime('UTC')} - INTERVAL 1 HOUR AND time < {to:DateTime('UTC')}
        GROUP BY sender, boot
    ) AS pods ON sequences.sender = pods.sender AND sequences.boot = pods.boot
    GROUP BY k8s_namespace_name, k8s_pod_name
)
GROUP BY k8s_namespace_name, k8s_pod_name;
