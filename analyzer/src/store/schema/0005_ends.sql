-- Exchanges, each once, whichever end's sidecar saw it: SELECT * FROM exchanges(from = '...', to = '...').
-- Both ends' records have the same two TCP sequence numbers, whatever translates addresses between them, and times at most ten seconds apart. One that
-- an end saw without its answer has one of the two: it is joined by that, the protocol and the request's bytes, and the end that has the answer counts.
CREATE OR REPLACE VIEW {database}.exchanges AS
SELECT record.timestamp AS timestamp, record.seen AS seen, record.network_protocol_name AS network_protocol_name, record.endpoint AS endpoint,
    record.status AS status, record.error_type AS error_type, record.client_status AS client_status,
    record.time_to_last_byte_ns AS time_to_last_byte_ns, record.client_time_to_last_byte_ns AS client_time_to_last_byte_ns, record.request_bytes AS request_bytes, record.response_bytes AS response_bytes,
    record.client_known OR from_owner.valid_to > record.timestamp AS client_named,
    multiIf(record.client_known, record.client_name, from_owner.valid_to > record.timestamp, from_owner.owner, record.client_address) AS client,
    multiIf(record.client_known, toString(record.client_namespace), from_owner.valid_to > record.timestamp, toString(from_owner.k8s_namespace_name), '') AS client_k8s_namespace_name,
    multiIf(record.client_known, toString(record.client_workload_kind), from_owner.valid_to > record.timestamp, from_owner.workload_kind, '') AS client_k8s_workload_kind,
    multiIf(record.client_known, toString(record.client_workload_name), from_owner.valid_to > record.timestamp, from_owner.workload_name, '') AS client_k8s_workload_name,
    multiIf(record.client_known, toString(record.client_pod), from_owner.valid_to > record.timestamp AND from_owner.kind = 'pod', from_owner.name, '') AS client_k8s_pod_name,
    multiIf(record.client_known, toString(record.client_node), from_owner.valid_to > record.timestamp, toString(from_owner.k8s_node_name), '') AS client_k8s_node_name,
    record.client_address AS client_address,
    record.server_known OR to_owner.valid_to > record.timestamp AS server_named,
    multiIf(record.server_known, record.server_name, to_owner.valid_to > record.timestamp, to_owner.owner, podtap_host_port(record.called_address, record.server_port)) AS server,
    multiIf(record.server_known, toString(record.server_namespace), to_owner.valid_to > record.timestamp, toString(to_owner.k8s_namespace_name), '') AS server_k8s_namespace_name,
    multiIf(record.server_known, toString(record.server_workload_kind), to_owner.valid_to > record.timestamp, to_owner.workload_kind, '') AS server_k8s_workload_kind,
    multiIf(record.server_known, toString(record.server_workload_name), to_owner.valid_to > record.timestamp, to_owner.workload_name, '') AS server_k8s_workload_name,
    multiIf(record.server_known, toString(record.server_pod), to_owner.valid_to > record.timestamp AND to_owner.kind = 'pod', to_owner.name, '') AS server_k8s_pod_name,
    multiIf(record.server_known, toString(record.server_node), to_owner.valid_to > record.timestamp, toString(to_owner.k8s_node_name), '') AS server_k8s_node_name,
    record.called_address AS called_address, record.server_port AS server_port,
    if(to_owner.valid_to > record.timestamp AND to_owner.kind = 'service', concat(to_owner.k8s_namespace_name, '/', to_owner.name), '') AS called_service,
    record.trace_id AS trace_id, record.request_id AS request_id
FROM
(
    SELECT server.timestamp AS timestamp, multiIf(server.side = 'both', 'inside', joined, 'both', 'server') AS seen,
        server.network_protocol_name AS network_protocol_name, server.endpoint AS endpoint, toLowCardinality(if(answered_for, half.status, server.status)) AS status,
        toLowCardinality(if(answered_for, half.error_type, server.error_type)) AS error_type,
        multiIf(whole_joined, toString(client.status), half_joined, toString(half.status), '') AS client_status,
        if(answered_for, half.time_to_last_byte_ns, server.time_to_last_byte_ns) AS time_to_last_byte_ns,
        multiIf(whole_joined, client.time_to_last_byte_ns, half_joined, half.time_to_last_byte_ns, 18446744073709551615) AS client_time_to_last_byte_ns,
        server.request_bytes AS request_bytes, if(answered_for, half.response_bytes, server.response_bytes) AS response_bytes,
        server.trace_id AS trace_id, server.request_id AS request_id, server.client_address AS client_address,
        multiIf(whole_joined, client.server_address, half_joined, half.server_address, server.server_address) AS called_address,
        multiIf(whole_joined, client.server_port, half_joined, half.server_port, server.server_port) AS server_port,
        server.own_name != '' AS server_known, server.own_name AS server_name, server.k8s_namespace_name AS server_namespace,
        server.k8s_workload_kind AS server_workload_kind, server.k8s_workload_name AS server_workload_name, server.k8s_pod_name AS server_pod,
        server.k8s_node_name AS server_node,
        if(server.side = 'both', server.own_name != '', joined AND client_name != '') AS client_known,
        multiIf(server.side = 'both', server.own_name, whole_joined, client.own_name, half.own_name) AS client_name,
        multiIf(server.side = 'both', server.k8s_namespace_name, whole_joined, client.k8s_namespace_name, half.k8s_namespace_name) AS client_namespace,
        multiIf(server.side = 'both', server.k8s_workload_kind, whole_joined, client.k8s_workload_kind, half.k8s_workload_kind) AS client_workload_kind,
        multiIf(server.side = 'both', server.k8s_workload_name, whole_joined, client.k8s_workload_name, half.k8s_workload_name) AS client_workload_name,
        multiIf(server.side = 'both', server.k8s_pod_name, whole_joined, client.k8s_pod_name, half.k8s_pod_name) AS client_pod,
        multiIf(server.side = 'both', server.k8s_node_name, whole_joined, client.k8s_node_name, half.k8s_node_name) AS client_node,
        client.present = 1 AND client.timestamp >= server.timestamp - INTERVAL 10 SECOND AS whole_joined,
        NOT whole_joined AND half.present = 1 AND half.timestamp >= server.timestamp - INTERVAL 10 SECOND AS half_joined,
        whole_joined OR half_joined AS joined, half_joined AND server.unanswered AS answered_for
    FROM
    (
        SELECT *, tcp_response_sequence = 4294967295 AS unanswered, timestamp + INTERVAL 10 SECOND AS latest
        FROM {database}.exchange_ends(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})
        WHERE side IN ('server', 'both')
    ) AS server
    GLOBAL ASOF LEFT JOIN
    (
        SELECT timestamp, network_protocol_name, tcp_request_sequence, tcp_response_sequence, status, time_to_last_byte_ns, server_address, server_port, own_name,
            k8s_namespace_name, k8s_workload_kind, k8s_workload_name, k8s_pod_name, k8s_node_name, toUInt8(1) AS present
        FROM {database}.exchange_ends(from = {from:DateTime('UTC')} - 10, to = {to:DateTime('UTC')} + 10)
        WHERE side = 'client' AND tcp_request_sequence != 4294967295
    ) AS client
    ON server.tcp_request_sequence = client.tcp_request_sequence AND server.tcp_response_sequence = client.tcp_response_sequence
        AND server.network_protocol_name = client.network_protocol_name AND server.latest >= client.timestamp
    GLOBAL ASOF LEFT JOIN
    (
        SELECT timestamp, network_protocol_name, tcp_request_sequence, request_bytes, tcp_response_sequence != 4294967295 AS answered, status, error_type,
            time_to_last_byte_ns, response_bytes, server_address, server_port, own_name,
            k8s_namespace_name, k8s_workload_kind, k8s_workload_name, k8s_pod_name, k8s_node_name, toUInt8(1) AS present
        FROM {database}.exchange_ends(from = {from:DateTime('UTC')} - 10, to = {to:DateTime('UTC')} + 10)
        WHERE side = 'client' AND tcp_request_sequence != 4294967295
            AND (tcp_response_sequence = 4294967295 OR tcp_request_sequence GLOBAL IN
            (
                SELECT tcp_request_sequence FROM {database}.exchange_ends(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})
                WHERE side = 'server' AND tcp_response_sequence = 4294967295
            ))
    ) AS half
    ON server.tcp_request_sequence = half.tcp_request_sequence AND server.network_protocol_name = half.network_protocol_name
        AND server.request_bytes = half.request_bytes AND server.unanswered = half.answered AND server.latest >= half.timestamp
    UNION ALL
    SELECT client.timestamp, 'client', client.network_protocol_name, client.endpoint, client.status, client.error_type, toString(client.status),
        client.time_to_last_byte_ns, client.time_to_last_byte_ns, client.request_bytes, client.response_bytes, client.trace_id, client.request_id, client.client_address,
        client.server_address, client.server_port, toUInt8(0), '', '', '', '', '', '',
        client.own_name != '', client.own_name, client.k8s_namespace_name, client.k8s_workload_kind, client.k8s_workload_name, client.k8s_pod_name,
        client.k8s_node_name, toUInt8(0), toUInt8(0), toUInt8(0), toUInt8(0)
    FROM
    (
        SELECT *, tcp_response_sequence = 4294967295 AS unanswered, timestamp + INTERVAL 10 SECOND AS latest
        FROM {database}.exchange_ends(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})
        WHERE side = 'client'
    ) AS client
    GLOBAL ASOF LEFT JOIN
    (
        SELECT timestamp, network_protocol_name, tcp_request_sequence, tcp_response_sequence, toUInt8(1) AS present
        FROM {database}.exchange_ends(from = {from:DateTime('UTC')} - 10, to = {to:DateTime('UTC')} + 10)
        WHERE side = 'server' AND tcp_request_sequence != 4294967295
    ) AS server
    ON client.tcp_request_sequence = server.tcp_request_sequence AND client.tcp_response_sequence = server.tcp_response_sequence
        AND client.network_protocol_name = server.network_protocol_name AND client.latest >= server.timestamp
    GLOBAL ASOF LEFT JOIN
    (
        SELECT timestamp, network_protocol_name, tcp_request_sequence, request_bytes, tcp_response_sequence != 4294967295 AS answered, toUInt8(1) AS present
        FROM {database}.exchange_ends(from = {from:DateTime('UTC')} - 10, to = {to:DateTime('UTC')} + 10)
        WHERE side = 'server' AND tcp_request_sequence != 4294967295
            AND (tcp_response_sequence = 4294967295 OR tcp_request_sequence GLOBAL IN
            (
                SELECT tcp_request_sequence FROM {database}.exchange_ends(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})
                WHERE side = 'client' AND tcp_response_sequence = 4294967295
            ))
    ) AS half
    ON client.tcp_request_sequence = half.tcp_request_sequence AND client.network_protocol_name = half.network_protocol_name
        AND client.request_bytes = half.request_bytes AND client.unanswered = half.answered AND client.latest >= half.timestamp
    WHERE NOT (server.present = 1 AND server.timestamp >= client.timestamp - INTERVAL 10 SECOND)
        AND NOT (half.present = 1 AND half.timestamp >= client.timestamp - INTERVAL 10 SECOND)
) AS record
GLOBAL ASOF LEFT JOIN {database}.addresses AS from_owner ON record.client_address = from_owner.address AND record.timestamp >= from_owner.valid_from
GLOBAL ASOF LEFT JOIN {database}.addresses AS to_owner ON record.called_address = to_owner.address AND record.timestamp >= to_owner.valid_from;

-- Figures are kept in rows of ten seconds: a period covers each of them that it touches.
-- red with the peer named, where one owner alone had its address in the ten seconds; changed_hands says where more did: ask requests_named.
CREATE OR REPLACE VIEW {database}.red_named AS
SELECT figures.*, peer_owner.valid_to > figures.window AS held, held AND peer_owner.previous_valid_to > figures.window AS changed_hands,
    held AND NOT changed_hands AS owned,
    if(owned, peer_owner.owner, toString(figures.peer)) AS peer_owner_name, if(owned, toString(peer_owner.kind), '') AS peer_kind,
    if(owned, toString(peer_owner.k8s_namespace_name), '') AS peer_k8s_namespace_name,
    if(owned, peer_owner.workload_kind, '') AS peer_k8s_workload_kind, if(owned, peer_owner.workload_name, '') AS peer_k8s_workload_name,
    if(owned, peer_owner.name, '') AS peer_name, if(owned, peer_owner.uid, '') AS peer_uid, if(owned, peer_owner.backends, []) AS peer_backends
FROM
(
    SELECT *, if(side = 'client', toString(server_address), toString(peer)) AS peer_address, toDateTime64(window + 10, 3, 'UTC') AS window_end
    FROM {database}.red
    WHERE window >= toStartOfInterval({from:DateTime('UTC')}, INTERVAL 10 SECOND) AND window < {to:DateTime('UTC')}
) AS figures
GLOBAL ASOF LEFT JOIN {database}.addresses AS peer_owner ON figures.peer_address = peer_owner.address AND figures.window_end > peer_owner.valid_from;

-- Workloads whose own pods' server side has figures in a period, and those pods.
CREATE OR REPLACE VIEW {database}.watched_workloads AS
SELECT DISTINCT k8s_namespace_name, workload_kind, workload_name
FROM
(
    SELECT toString(k8s_namespace_name) AS k8s_namespace_name, toString(k8s_workload_kind) AS workload_kind, toString(k8s_workload_name) AS workload_name
    FROM {database}.red
    WHERE window >= toStartOfInterval({from:DateTime('UTC')}, INTERVAL 10 SECOND) AND window < {to:DateTime('UTC')} AND side IN ('server', 'both') AND k8s_workload_name != ''
    UNION ALL
    SELECT toString(k8s_namespace_name), workload_kind, workload_name
    FROM {database}.addresses
    WHERE kind = 'pod' AND uid GLOBAL IN
    (
        SELECT toString(k8s_pod_uid) FROM {database}.red
        WHERE window >= toStartOfInterval({from:DateTime('UTC')}, INTERVAL 10 SECOND) AND window < {to:DateTime('UTC')} AND side IN ('server', 'both') AND k8s_pod_uid != ''
    )
);

-- Rate, errors, latency of each workload: the server side of its own pods; what its callers saw only where it has none. The rate is by what the rows
-- cover: whole tens of seconds, the running ones up to now. SELECT * FROM workloads(from = '...', to = '...').
CREATE OR REPLACE VIEW {database}.workloads AS
SELECT argMax(text, counted_at = 'server') AS workload, k8s_namespace_name, k8s_workload_kind, k8s_workload_name, network_protocol_name, counted_at,
    sum(requests_counted) AS requests,
    requests / greatest(toUnixTimestamp(covered_to) - toUnixTimestamp(covered_from), 1) AS requests_per_second,
    sum(errors_counted) AS errors, errors / requests AS error_share, sumMap(buckets) AS time_to_last_byte_ns_buckets,
    max(longest) AS time_to_last_byte_ns_max, podtap_quantile(0.5, time_to_last_byte_ns_buckets) AS p50_ns,
    podtap_quantile(0.95, time_to_last_byte_ns_buckets) AS p95_ns, podtap_quantile(0.99, time_to_last_byte_ns_buckets) AS p99_ns,
    toStartOfInterval({from:DateTime('UTC')}, INTERVAL 10 SECOND) AS covered_from,
    least(toStartOfInterval({to:DateTime('UTC')} + 9, INTERVAL 10 SECOND), greatest({to:DateTime('UTC')}, now('UTC'))) AS covered_to
FROM
(
    SELECT toString(service_name) AS text, toString(k8s_namespace_name) AS k8s_namespace_name, toString(k8s_workload_kind) AS k8s_workload_kind,
        toString(k8s_workload_name) AS k8s_workload_name, network_protocol_name, 'server' AS counted_at, count AS requests_counted,
        errors AS errors_counted, time_to_last_byte_ns_buckets AS buckets, time_to_last_byte_ns_max AS longest
    FROM {database}.red
    WHERE window >= toStartOfInterval({from:DateTime('UTC')}, INTERVAL 10 SECOND) AND window < {to:DateTime('UTC')} AND side IN ('server', 'both')
    UNION ALL
    SELECT peer_owner_name, peer_k8s_namespace_name, peer_k8s_workload_kind, peer_k8s_workload_name, network_protocol_name, 'client', count, errors,
        time_to_last_byte_ns_buckets, time_to_last_byte_ns_max
    FROM {database}.red_named(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})
    WHERE side = 'client' AND NOT changed_hands
        AND (peer_k8s_namespace_name, peer_k8s_workload_kind, peer_k8s_workload_name)
            GLOBAL NOT IN (SELECT * FROM {database}.watched_workloads(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')}))
        AND NOT hasAny(arrayMap(backend -> (peer_k8s_namespace_name, backend.1, backend.2), peer_backends),
            (SELECT groupArray((k8s_namespace_name, workload_kind, workload_name)) FROM {database}.watched_workloads(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})))
    UNION ALL
    SELECT peer, peer_k8s_namespace_name, peer_k8s_workload_kind, peer_k8s_workload_name, network_protocol_name, 'client', toUInt64(1),
        toUInt64(status IN ('server_error', 'no_response')),
        if(time_to_last_byte_ns = 18446744073709551615, map(), map(podtap_bucket(time_to_last_byte_ns), toUInt64(1))),
        if(time_to_last_byte_ns = 18446744073709551615, 0, time_to_last_byte_ns)
    FROM {database}.requests_named(
        from = (SELECT if(count() = 0, {to:DateTime('UTC')}, min(window)) FROM {database}.red_named(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')}) WHERE side = 'client' AND changed_hands),
        to = toStartOfInterval({to:DateTime('UTC')} + 9, INTERVAL 10 SECOND))
    WHERE side = 'client' AND (server_address, toStartOfInterval(timestamp, INTERVAL 10 SECOND)) GLOBAL IN
        (
            SELECT peer_address, window FROM {database}.red_named(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})
            WHERE side = 'client' AND changed_hands
        )
        AND (peer_k8s_namespace_name, peer_k8s_workload_kind, peer_k8s_workload_name)
            GLOBAL NOT IN (SELECT * FROM {database}.watched_workloads(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')}))
)
GROUP BY k8s_namespace_name, k8s_workload_kind, k8s_workload_name, if(k8s_workload_name = '', text, ''), network_protocol_name, counted_at;
