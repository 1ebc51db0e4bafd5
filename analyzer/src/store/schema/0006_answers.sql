-- The engine spends on a question by the size of what the question is made of, and twice on a view with parameters for each level of them. So the
-- views below take what they need once: one scan, packed into tuples; views without parameters as the borders between their parts.

-- Who had each address when, with what he is called: join ASOF on address and valid_from, then look at valid_to. identities: himself, and the
-- workloads behind a service.
CREATE OR REPLACE VIEW {database}.owners AS
SELECT address, kind, uid, valid_from, valid_to, previous_valid_to, if(kind = 'service', concat(namespace, '/', name), '') AS service,
    (if(workload.1 = '', workload.3, concat(workload.1, '/', workload.3)), workload.1, workload.2, workload.3, if(kind = 'pod', name, ''), node) AS names,
    arrayPushFront(arrayMap(backend -> (namespace, backend.1, backend.2), backends), workload) AS identities
FROM
(
    SELECT address, kind, uid, toString(k8s_namespace_name) AS namespace, name, toString(k8s_node_name) AS node, backends, valid_from, valid_to,
        (namespace, multiIf(kind = 'pod', toString(k8s_workload_kind), kind = 'node', 'Node', length(backends) = 1, backends[1].1, 'Service'),
            multiIf(kind = 'pod', toString(k8s_workload_name), kind = 'service' AND length(backends) = 1, backends[1].2, name)) AS workload,
        lagInFrame(valid_to, 1, toDateTime64(0, 3, 'UTC')) OVER (PARTITION BY address ORDER BY valid_from ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS previous_valid_to
    FROM {database}.address_owners FINAL
    WHERE valid_from < valid_to
);

-- The records of one end with what joining needs: use exchanges. end: time in ns; which end (1 server, 2 client, 3 both); what it is called by whoever
-- has the same two numbers, and what it looks for then; the same for who has the request's number and its bytes alone, one of them without the answer;
-- number of the answer; what is the request's, the answer's, the called address; who the sidecar's pod is. A record without a number finds nobody.
CREATE OR REPLACE VIEW {database}.exchange_ends AS
SELECT timestamp, network_protocol_name, tcp_request_sequence, toUInt64(indexOf(['server', 'client', 'both'], side)) AS which,
    multiIf(tcp_request_sequence = 4294967295, 0, which = 2, 1, 2) AS sought, toUInt64(tcp_response_sequence = 4294967295) AS unanswered,
    (
        toUnixTimestamp64Nano(timestamp), which, tcp_response_sequence * 4 + which, tcp_response_sequence * 4 + sought,
        request_bytes * 8 + unanswered * 4 + which, request_bytes * 8 + (1 - unanswered) * 4 + sought, unanswered,
        (client_address, endpoint, request_bytes, trace_id, request_id),
        (status, error_type, time_to_last_byte_ns, response_bytes, time_to_last_byte_ns != 18446744073709551615, podtap_bucket(time_to_last_byte_ns) AS bucket,
            podtap_bucket_value(bucket), has(['server_error', 'no_response'], status)),
        (server_address, server_port),
        -- Without any identity a sidecar names the server's address, which is not its own pod's name at the client's end.
        (if(k8s_workload_name = '' AND service_name = podtap_host_port(server_address, server_port), '', toString(service_name)),
            k8s_namespace_name, k8s_workload_kind, k8s_workload_name, k8s_pod_name, k8s_node_name)
    ) AS end
FROM {database}.requests FINAL
WHERE side IN ('server', 'client', 'both')
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- Each record and its partner: use exchanges. The partner is the latest record of the other end within ten seconds that has the same two numbers, else
-- (half) the same number of the request, as many bytes of it, and the answer where this one has none or none where this one has it.
CREATE OR REPLACE VIEW {database}.exchange_pairs AS
SELECT network_protocol_name, arrayJoin(arrayMap((end, whole, half) -> (end, ends[if(whole > 0, whole, half)], whole + half > 0, whole = 0 AND half > 0), ends,
    arrayMap((time, sought) -> arrayLastIndex((time2, is2) -> is2 = sought AND abs(time2 - time) <= 10000000000, ends.1, ends.3), ends.1, ends.4),
    arrayMap((time, sought) -> arrayLastIndex((time2, is2) -> is2 = sought AND abs(time2 - time) <= 10000000000, ends.1, ends.5), ends.1, ends.6))) AS pair
FROM
(
    SELECT network_protocol_name, arraySort(end -> end.1, groupArray(end)) AS ends
    FROM {database}.exchange_ends
    WHERE timestamp >= {from:DateTime('UTC')} - 10 AND timestamp < {to:DateTime('UTC')} + 10
    GROUP BY network_protocol_name, tcp_request_sequence, if(tcp_request_sequence = 4294967295, timestamp, toDateTime64(0, 9, 'UTC'))
);

-- Exchanges, each once, whichever end's sidecar saw it: SELECT * FROM exchanges(from = '...', to = '...').
-- Both ends' records have the same two TCP sequence numbers, whatever translates addresses between them, and times at most ten seconds apart. One that
-- an end saw without its answer has one of the two: it is joined by that, the protocol and the request's bytes, and the end that has the answer counts.
CREATE OR REPLACE VIEW {database}.exchanges AS
SELECT timestamp, seen, toLowCardinality(network_protocol_name) AS network_protocol_name, request.2 AS endpoint,
    toLowCardinality(answer.1) AS status, toLowCardinality(answer.2) AS error_type, client_answer.1 AS client_status,
    answer.3 AS time_to_last_byte_ns, if(client_answer.1 = '', 18446744073709551615, client_answer.3) AS client_time_to_last_byte_ns,
    request.3 AS request_bytes, answer.4 AS response_bytes,
    client_named, client_end.1 AS client, client_end.2 AS client_k8s_namespace_name, client_end.3 AS client_k8s_workload_kind,
    client_end.4 AS client_k8s_workload_name, client_end.5 AS client_k8s_pod_name, client_end.6 AS client_k8s_node_name, request.1 AS client_address,
    server_named, server_end.1 AS server, server_end.2 AS server_k8s_namespace_name, server_end.3 AS server_k8s_workload_kind,
    server_end.4 AS server_k8s_workload_name, server_end.5 AS server_k8s_pod_name, server_end.6 AS server_k8s_node_name,
    called.1 AS called_address, called.2 AS server_port, called_service, request.4 AS trace_id, request.5 AS request_id
FROM
({named_exchanges});

-- Who calls whom, from exchanges: SELECT * FROM calls(from = '...', to = '...').
CREATE OR REPLACE VIEW {database}.calls AS
SELECT argMax(client_end.1, seen != 'server') AS client, client_end.2 AS client_k8s_namespace_name, client_end.3 AS client_k8s_workload_kind,
    client_end.4 AS client_k8s_workload_name, argMax(server_end.1, seen != 'client') AS server, server_end.2 AS server_k8s_namespace_name,
    server_end.3 AS server_k8s_workload_kind, server_end.4 AS server_k8s_workload_name, network_protocol_name,
    arraySort(groupUniqArrayIf(called_service, called_service != '')) AS called_services, count() AS requests,
    requests / greatest(toUnixTimestamp({to:DateTime('UTC')}) - toUnixTimestamp({from:DateTime('UTC')}), 1) AS requests_per_second,
    countIf(answer.8) AS errors, errors / requests AS error_share, countIf(seen = 'both') AS seen_at_both_ends,
    CAST(sumMapIf([answer.6], [toUInt64(1)], answer.5), 'Map(UInt16, UInt64)') AS time_to_last_byte_ns_buckets,
    maxIf(answer.3, answer.5) AS time_to_last_byte_ns_max, quantileExactWeightedIf(0.5)(answer.7, 1, answer.5) AS p50_ns,
    quantileExactWeightedIf(0.95)(answer.7, 1, answer.5) AS p95_ns, quantileExactWeightedIf(0.99)(answer.7, 1, answer.5) AS p99_ns
FROM
({named_exchanges})
GROUP BY client_k8s_namespace_name, client_k8s_workload_kind, client_k8s_workload_name, if(client_k8s_workload_name = '', client_end.1, ''),
    server_k8s_namespace_name, server_k8s_workload_kind, server_k8s_workload_name, if(server_k8s_workload_name = '', server_end.1, ''),
    network_protocol_name;

-- Rate, errors, latency of each workload: the server side of its own pods; what its callers saw only where it has none. Where an address changed hands
-- within ten seconds, the requests of these are looked at one by one. The rate is by what the rows cover: whole tens of seconds, the running ones up to
-- now. SELECT * FROM workloads(from = '...', to = '...').
CREATE OR REPLACE VIEW {database}.workloads AS
SELECT * EXCEPT (quantiles), quantiles[1] AS p50_ns, quantiles[2] AS p95_ns, quantiles[3] AS p99_ns,
    toStartOfInterval({from:DateTime('UTC')}, INTERVAL 10 SECOND) AS covered_from,
    least(toStartOfInterval({to:DateTime('UTC')} + 9, INTERVAL 10 SECOND), greatest({to:DateTime('UTC')}, now('UTC'))) AS covered_to
FROM
(
    SELECT argMax(end.1, counted_at = 'server') AS workload, end.2 AS k8s_namespace_name, end.3 AS k8s_workload_kind, end.4 AS k8s_workload_name,
        network_protocol_name, counted_at, sum(count) AS requests,
        requests / greatest(toUnixTimestamp(least(toStartOfInterval({to:DateTime('UTC')} + 9, INTERVAL 10 SECOND), greatest({to:DateTime('UTC')}, now('UTC'))))
            - toUnixTimestamp(toStartOfInterval({from:DateTime('UTC')}, INTERVAL 10 SECOND)), 1) AS requests_per_second,
        sum(failed) AS errors, errors / requests AS error_share, sumMap(buckets) AS time_to_last_byte_ns_buckets, max(longest) AS time_to_last_byte_ns_max,
        arrayMap(bucket -> podtap_bucket_value(bucket), quantilesExactWeightedArray(0.5, 0.95, 0.99)(mapKeys(buckets), mapValues(buckets))) AS quantiles
    FROM
    (
        SELECT counted_at, network_protocol_name, count, failed, buckets, longest, owner.valid_to > since AS held,
            multiIf(counted_at = 'server', own, held, owner.names, (peer, '', '', '', '', '')) AS end
        FROM
        (
            SELECT if(side = 'client', 'client', 'server') AS counted_at,
                (toString(service_name), toString(k8s_namespace_name), toString(k8s_workload_kind), toString(k8s_workload_name), '', '') AS own,
                network_protocol_name, if(side = 'client', toString(server_address), '') AS address, toString(peer) AS peer,
                toDateTime64(window, 9, 'UTC') AS since, toDateTime64(window + 10, 9, 'UTC') - INTERVAL 1 NANOSECOND AS at,
                count, errors AS failed, time_to_last_byte_ns_buckets AS buckets, time_to_last_byte_ns_max AS longest
            FROM {database}.red
            WHERE {windows_of_period} AND side IN ('server', 'both', 'client')
            UNION ALL
            SELECT 'client', ('', '', '', '', '', ''), network_protocol_name, server_address, peer, timestamp, timestamp,
                toUInt64(1), toUInt64(status IN ('server_error', 'no_response')),
                if(time_to_last_byte_ns = 18446744073709551615, map(), map(podtap_bucket(time_to_last_byte_ns), toUInt64(1))),
                if(time_to_last_byte_ns = 18446744073709551615, 0, time_to_last_byte_ns)
            FROM {database}.requests FINAL
            WHERE timestamp >= (SELECT if(count() = 0, {to:DateTime('UTC')} + 10, min(changed_in)) FROM ({changed_hands}))
                AND timestamp < toStartOfInterval({to:DateTime('UTC')} + 9, INTERVAL 10 SECOND)
                AND side = 'client' AND (server_address, toStartOfInterval(timestamp, INTERVAL 10 SECOND)) GLOBAL IN ({changed_hands})
        ) AS figures
        GLOBAL ASOF LEFT JOIN {database}.owners AS owner ON figures.address = owner.address AND figures.at >= owner.valid_from
        WHERE NOT (held AND (owner.previous_valid_to > since OR arrayExists(identity -> identity GLOBAL IN
            (
                SELECT (toString(k8s_namespace_name), toString(k8s_workload_kind), toString(k8s_workload_name)) FROM {database}.red
                WHERE {windows_of_period} AND side IN ('server', 'both') AND k8s_workload_name != ''
                UNION ALL
                SELECT (names.2, names.3, names.4) FROM {database}.owners
                WHERE kind = 'pod' AND uid GLOBAL IN
                (
                    SELECT toString(k8s_pod_uid) FROM {database}.red
                    WHERE {windows_of_period} AND side IN ('server', 'both') AND k8s_pod_uid != ''
                )
            ), owner.identities)))
    )
    GROUP BY k8s_namespace_name, k8s_workload_kind, k8s_workload_name, if(k8s_workload_name = '', end.1, ''), network_protocol_name, counted_at
);

DROP VIEW IF EXISTS {database}.watched_workloads;

-- Rows lie by sender and counter, those of one counter by time: most of them need not be read for a period.
ALTER TABLE {database}.sidecar_counters ADD INDEX IF NOT EXISTS by_time time TYPE minmax GRANULARITY 1;

-- What share of each pod's traffic of a period was seen, decoded, delivered, stored: SELECT * FROM completeness(from = '...', to = '...').
-- Counters are those that came with batches closed in the period; what is stored, what began in it. A counter grew from its last sample of the
-- hour before; from 0 if its boot began since, by the start that the sidecar tells, else because no mark knew the boot before; else from its first
-- sample. More may be stored than was made: then counters are missing, and the share says so.
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
    if(records_made = records_stored, 1, records_stored / records_made) AS stored_share,
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
        SELECT k8s_namespace_name, k8s_pod_name, name, max(if(name = 'process_start_time_seconds', highest, 0)) OVER (PARTITION BY sender, boot) AS started,
            toUInt64(highest - multiIf(known, before, started >= toUnixTimestamp({from:DateTime('UTC')}), 0, started > 0, lowest,
                (sender, boot) GLOBAL IN (SELECT sender, boot FROM {marks_of_before}), lowest, 0)) AS grown
        FROM
        (
            SELECT any(k8s_namespace_name) AS k8s_namespace_name, any(k8s_pod_name) AS k8s_pod_name, sender, boot, name, max(value) AS highest, min(value) AS lowest,
                maxIf(value, time < {from:DateTime('UTC')}) AS before, countIf(time < {from:DateTime('UTC')}) > 0 AS known
            -- Not FINAL: what is replaced is an earlier sample of the same ten seconds.
            FROM {database}.sidecar_counters
            WHERE time >= {from:DateTime('UTC')} - INTERVAL 1 HOUR AND time < {to:DateTime('UTC')}
                AND name IN ('process_start_time_seconds', 'podtap_packets_received_total', 'podtap_packets_dropped_total', 'podtap_tcp_gap_bytes_total',
                    'podtap_discarded_bytes_total', 'podtap_records_total', 'podtap_records_dropped_total')
            GROUP BY sender, boot, name, reason
        )
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
    WHERE window >= {from:DateTime('UTC')} AND window < {to:DateTime('UTC')}
        AND (window < toStartOfHour({from:DateTime('UTC')} + 3599) OR window >= toStartOfHour({to:DateTime('UTC')}))
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
        LEFT JOIN {marks_of_before} AS known ON arrived.range.1 = known.sender AND arrived.range.2 = known.boot
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

-- Views without parameters again, so that DESCRIBE says what their columns mean.
CREATE OR REPLACE VIEW {database}.red
(`window` DateTime('UTC') COMMENT 'Start of ten seconds that the requests began in.',
{described_figures}) AS
SELECT {figure_columns}
FROM {database}.request_histograms FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

CREATE OR REPLACE VIEW {database}.red_1m
(`window` DateTime('UTC') COMMENT 'Start of the minute.',
{described_figures}) AS
SELECT {figure_columns}
FROM {database}.request_histograms_1m
WHERE (span, version) GLOBAL IN (SELECT span, version FROM {database}.rollup_spans FINAL WHERE step = '1h')
UNION ALL
SELECT toStartOfMinute(fine.window) AS window, {figure_columns_of_fine}
FROM {database}.red AS fine
WHERE {not_rolled_up};

CREATE OR REPLACE VIEW {database}.red_1h
(`window` DateTime('UTC') COMMENT 'Start of the hour.',
{described_figures}) AS
SELECT {figure_columns}
FROM {database}.request_histograms_1h
WHERE (span, version) GLOBAL IN (SELECT span, version FROM {database}.rollup_spans FINAL WHERE step = '1h')
UNION ALL
SELECT toStartOfHour(fine.window) AS window, {figure_columns_of_fine}
FROM {database}.red AS fine
WHERE {not_rolled_up};

CREATE OR REPLACE VIEW {database}.red_1d
(`window` DateTime('UTC') COMMENT 'Start of the day, UTC.',
{described_figures}) AS
SELECT {figure_columns}
FROM {database}.request_histograms_1d
WHERE (span, version) GLOBAL IN (SELECT span, version FROM {database}.rollup_spans FINAL WHERE step = '1d')
UNION ALL
SELECT toStartOfDay(fine.window, 'UTC') AS window, {figure_columns_of_fine}
FROM {database}.red_1h AS fine
WHERE intDiv(toUnixTimestamp(fine.window), 86400) GLOBAL NOT IN (SELECT span FROM {database}.rollup_spans FINAL WHERE step = '1d');

{requests_once};

CREATE OR REPLACE VIEW {database}.sender_sequences
({described_sender_sequences}) AS
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

CREATE OR REPLACE VIEW {database}.addresses
(address String COMMENT 'IPv4 or IPv6 address.',
    kind LowCardinality(String) COMMENT 'pod, service or node.',
    k8s_namespace_name LowCardinality(String) COMMENT 'Namespace of the pod or service.',
    name String COMMENT 'Name of the object.',
    uid String COMMENT 'UID of the object in Kubernetes.',
    workload_kind String COMMENT 'Kind of the pod''s owner, or of the workload behind a service; Service or Node where it is one.',
    workload_name String COMMENT 'Name of that owner or workload, else of the service or node.',
    owner String COMMENT 'Namespace and workload_name.',
    k8s_node_name LowCardinality(String) COMMENT 'Node of the pod, or the node itself.',
    backends Array(Tuple(kind String, name String)) COMMENT 'Workloads behind a service, by its EndpointSlices, in order.',
    valid_from DateTime64(3, 'UTC') COMMENT 'From when on the address was the object''s.',
    valid_to DateTime64(3, 'UTC') COMMENT 'Until when; 2100-01-01 while it is.',
    previous_valid_to DateTime64(3, 'UTC') COMMENT 'Until when the address was another''s before; 1970-01-01 if it was nobody''s.') AS
SELECT address, kind, k8s_namespace_name, name, uid,
    multiIf(kind = 'pod', toString(k8s_workload_kind), kind = 'node', 'Node', length(backends) = 1, backends[1].1, 'Service') AS workload_kind,
    multiIf(kind = 'pod', toString(k8s_workload_name), kind = 'service' AND length(backends) = 1, backends[1].2, name) AS workload_name,
    if(k8s_namespace_name = '', workload_name, concat(k8s_namespace_name, '/', workload_name)) AS owner,
    k8s_node_name, backends, valid_from, valid_to,
    lagInFrame(valid_to, 1, toDateTime64(0, 3, 'UTC')) OVER (PARTITION BY address ORDER BY valid_from ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS previous_valid_to
FROM {database}.address_owners FINAL
WHERE valid_from < valid_to;
