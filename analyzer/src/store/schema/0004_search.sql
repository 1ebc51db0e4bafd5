-- Single requests are found by what they are called, not only by service and time. Parts that are there learn it when they are merged.
ALTER TABLE {database}.requests
    ADD COLUMN IF NOT EXISTS endpoint String ALIAS multiIf(
        network_protocol_name = 'http', trimRight(concat(http_request_method, ' ', url_template)),
        network_protocol_name = 'dns', trimBoth(concat(dns_question_type, ' ', dns_question_name)),
        network_protocol_name = 'tls', tls_server_name,
        db_query_fingerprint != '' AND mysql_command = 'COM_STMT_PREPARE', concat('PREPARE ', db_query_fingerprint),
        db_query_fingerprint != '', db_query_fingerprint,
        db_operation_name != '', db_operation_name,
        mysql_command) COMMENT 'The endpoint that the row counts for in red, unless that is (overflow).';

ALTER TABLE {database}.requests
    ADD COLUMN IF NOT EXISTS peer String ALIAS if(side != 'client', client_address,
        concat(if(position(server_address, ':') > 0, concat('[', server_address, ']'), server_address), ':', toString(server_port)))
        COMMENT 'The other end, as in red: the client''s address seen from a server, address:port of the server seen from a client.';

ALTER TABLE {database}.requests ADD INDEX IF NOT EXISTS by_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 4;

ALTER TABLE {database}.requests ADD INDEX IF NOT EXISTS by_request_id request_id TYPE bloom_filter(0.001) GRANULARITY 4;

ALTER TABLE {database}.requests ADD INDEX IF NOT EXISTS by_client_address client_address TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE {database}.requests ADD INDEX IF NOT EXISTS by_server_address server_address TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE {database}.requests ADD INDEX IF NOT EXISTS by_query_text lower(db_query_text) TYPE ngrambf_v1(3, 4096, 3, 0) GRANULARITY 1;

ALTER TABLE {database}.requests ADD INDEX IF NOT EXISTS by_latency time_to_last_byte_ns TYPE minmax GRANULARITY 1;

{requests_once};

-- Which manifests lie in a period, without reading all of them.
ALTER TABLE {database}.ingest_blocks ADD INDEX IF NOT EXISTS by_message_time (first_message_time, last_message_time) TYPE minmax GRANULARITY 1;

ALTER TABLE {database}.ingest_blocks
    ADD COLUMN IF NOT EXISTS late_records UInt64 COMMENT 'Records that began more than five minutes before their message; they count in their own window.';

-- Rows that replace each other lie in the same day, so days need not be merged with each other to be read.
CREATE OR REPLACE VIEW {database}.red AS
SELECT {figure_columns}
FROM {database}.request_histograms FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- Ten-second rows are looked at before the first hour that was rolled up and from the first one that was not.
CREATE OR REPLACE VIEW {database}.red_1m AS
SELECT {figure_columns}
FROM {database}.request_histograms_1m
WHERE (span, version) GLOBAL IN (SELECT span, version FROM {database}.rollup_spans FINAL WHERE step = '1h')
UNION ALL
SELECT toStartOfMinute(fine.window) AS window, {figure_columns_of_fine}
FROM {database}.red AS fine
WHERE {not_rolled_up};

CREATE OR REPLACE VIEW {database}.red_1h AS
SELECT {figure_columns}
FROM {database}.request_histograms_1h
WHERE (span, version) GLOBAL IN (SELECT span, version FROM {database}.rollup_spans FINAL WHERE step = '1h')
UNION ALL
SELECT toStartOfHour(fine.window) AS window, {figure_columns_of_fine}
FROM {database}.red AS fine
WHERE {not_rolled_up};

-- Any quantile of any period, by service and endpoint: days and hours where they lie wholly within it, minutes at its ends.
-- SELECT * FROM latency(from = '...', to = '...', service = '' for all, quantile = 0.99).
CREATE OR REPLACE VIEW {database}.latency AS
SELECT service_name, endpoint, sum(requests) AS requests, sum(failed) AS failed,
    podtap_quantile({quantile:Float64}, sumMap(buckets)) AS quantile_ns, max(longest_ns) AS longest_ns
FROM
(
    SELECT service_name, endpoint, sum(count) AS requests, sum(errors) AS failed, sumMap(time_to_last_byte_ns_buckets) AS buckets,
        max(time_to_last_byte_ns_max) AS longest_ns
    FROM {database}.red_1h
    WHERE window >= toStartOfHour({from:DateTime('UTC')} + 3599) AND window < toStartOfHour({to:DateTime('UTC')})
        AND ({service:String} = '' OR service_name = {service:String})
    GROUP BY service_name, endpoint
    UNION ALL
    SELECT service_name, endpoint, sum(count), sum(errors), sumMap(time_to_last_byte_ns_buckets), max(time_to_last_byte_ns_max)
    FROM {database}.red_1m
    WHERE window >= {from:DateTime('UTC')} AND window < least(toStartOfHour({from:DateTime('UTC')} + 3599), {to:DateTime('UTC')})
        AND ({service:String} = '' OR service_name = {service:String})
    GROUP BY service_name, endpoint
    UNION ALL
    SELECT service_name, endpoint, sum(count), sum(errors), sumMap(time_to_last_byte_ns_buckets), max(time_to_last_byte_ns_max)
    FROM {database}.red_1m
    WHERE window >= greatest(toStartOfHour({from:DateTime('UTC')} + 3599), toStartOfHour({to:DateTime('UTC')}))
        AND window < {to:DateTime('UTC')} AND ({service:String} = '' OR service_name = {service:String})
    GROUP BY service_name, endpoint
)
GROUP BY service_name, endpoint;

-- What arrived of each sender's boot, over all partitions, and which ranges of sequences did not. What came before the oldest manifest that
-- is kept of a partition is not called missing.
CREATE OR REPLACE VIEW {database}.sender_sequences AS
SELECT range.1 AS sender, range.2 AS boot, min(range.3) AS first, max(range.4) AS last, sum(range.4 - range.3 + 1) AS received,
    last - if(argMin(is_oldest, range.3), toUInt64(first - 1), toUInt64(0)) - received AS missing,
    arraySort(groupArray((range.3, range.4))) AS ranges,
    arrayFilter(gap -> gap.1 <= gap.2, arrayMap((before, next) -> (toUInt64(before.2 + 1), toUInt64(next.1 - 1)),
        arrayPushFront(arrayPopBack(ranges), (toUInt64(0), if(argMin(is_oldest, range.3), toUInt64(first - 1), toUInt64(0)))), ranges)) AS missing_ranges
FROM
(
    SELECT arrayJoin(received) AS range,
        (topic, incarnation, partition, block) GLOBAL IN
        (
            SELECT topic, incarnation, partition, min(block) AS oldest FROM {database}.ingest_blocks
            GROUP BY topic, incarnation, partition HAVING oldest > 0
        ) AS is_oldest
    FROM {database}.ingest_blocks FINAL
)
GROUP BY sender, boot;

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
            AND name IN ('podtap_packets_received_total', 'podtap_packets_dropped_total', 'podtap_tcp_gap_bytes_total', 'podtap_discarded_bytes_total',
                'podtap_records_total', 'podtap_records_dropped_total')
        GROUP BY k8s_namespace_name, k8s_pod_name, sender, boot, name, reason
    )
    GROUP BY k8s_namespace_name, k8s_pod_name
    UNION ALL
    SELECT k8s_namespace_name, k8s_pod_name, 0, 0, sum(request_bytes + response_bytes), 0, sum(count), sumIf(count, status = 'no_response'), 0, 0, 0
    FROM {database}.red_1h
    WHERE window >= toStartOfHour({from:DateTime('UTC')} + 3599) AND window < toStartOfHour({to:DateTime('UTC')})
    GROUP BY k8s_namespace_name, k8s_pod_name
    UNION ALL
    SELECT k8s_namespace_name, k8s_pod_name, 0, 0, sum(request_bytes + response_bytes), 0, sum(count), sumIf(count, status = 'no_response'), 0, 0, 0
    FROM {database}.red_1m
    WHERE window >= {from:DateTime('UTC')} AND window < least(toStartOfHour({from:DateTime('UTC')} + 3599), {to:DateTime('UTC')})
    GROUP BY k8s_namespace_name, k8s_pod_name
    UNION ALL
    SELECT k8s_namespace_name, k8s_pod_name, 0, 0, sum(request_bytes + response_bytes), 0, sum(count), sumIf(count, status = 'no_response'), 0, 0, 0
    FROM {database}.red_1m
    WHERE window >= greatest(toStartOfHour({from:DateTime('UTC')} + 3599), toStartOfHour({to:DateTime('UTC')}))
        AND window < {to:DateTime('UTC')}
    GROUP BY k8s_namespace_name, k8s_pod_name
    UNION ALL
    SELECT k8s_namespace_name, k8s_pod_name, 0, 0, 0, 0, 0, 0, 0, 0, sum(missing)
    FROM
    (
        -- Gaps before ranges that came in the period, behind what came in the hour before and what was the highest then.
        SELECT range.1 AS sender, range.2 AS boot, arraySort(groupArray((range.3, range.4, in_period))) AS ranges,
            arraySum((before, next) -> if(next.3 AND next.1 > greatest(before.2, any(highest)) + 1,
                toUInt64(next.1 - greatest(before.2, any(highest)) - 1), toUInt64(0)),
                arrayPushFront(arrayPopBack(ranges), (toUInt64(0), toUInt64(0), false)), ranges) AS missing
        FROM
        (
            SELECT arrayJoin(received) AS range, last_message_time >= {from:DateTime('UTC')} AS in_period
            FROM {database}.ingest_blocks FINAL
            WHERE last_message_time >= {from:DateTime('UTC')} - INTERVAL 1 HOUR AND first_message_time < {to:DateTime('UTC')}
        ) AS arrived
        LEFT JOIN
        (
            SELECT mark.1 AS sender, mark.2 AS boot, max(mark.3) AS highest
            FROM
            (
                SELECT arrayJoin(marks) AS mark FROM {database}.ingest_blocks FINAL
                WHERE (topic, incarnation, partition, block) GLOBAL IN
                (
                    SELECT topic, incarnation, partition, max(block) FROM {database}.ingest_blocks
                    WHERE complete = 1 AND last_message_time < {from:DateTime('UTC')} - INTERVAL 1 HOUR
                    GROUP BY topic, incarnation, partition
                )
            )
            GROUP BY sender, boot
        ) AS known ON arrived.range.1 = known.sender AND arrived.range.2 = known.boot
        GROUP BY sender, boot
    ) AS sequences
    INNER JOIN
    (
        SELECT sender, boot, any(k8s_namespace_name) AS k8s_namespace_name, any(k8s_pod_name) AS k8s_pod_name
        FROM {database}.sidecar_counters
        WHERE time >= {from:DateTime('UTC')} - INTERVAL 1 HOUR AND time < {to:DateTime('UTC')} AND name = 'podtap_records_total'
        GROUP BY sender, boot
    ) AS pods ON sequences.sender = pods.sender AND sequences.boot = pods.boot
    GROUP BY k8s_namespace_name, k8s_pod_name
)
GROUP BY k8s_namespace_name, k8s_pod_name;
