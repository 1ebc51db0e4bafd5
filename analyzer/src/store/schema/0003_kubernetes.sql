-- Who had an address, and when: an interval is one row, replaced when it is closed. Read through addresses.
CREATE TABLE IF NOT EXISTS {database}.address_owners
(
    address String COMMENT 'IPv4 or IPv6 address.' CODEC(ZSTD(1)),
    kind LowCardinality(String) COMMENT 'pod, service or node.',
    uid String COMMENT 'UID of the object in Kubernetes.' CODEC(ZSTD(1)),
    ordinal UInt16 COMMENT 'Number of the interval, from 0: an object may lose an address and have it again.',
    k8s_namespace_name LowCardinality(String) COMMENT 'Namespace of the pod or service.',
    name String COMMENT 'Name of the object.' CODEC(ZSTD(1)),
    k8s_workload_kind LowCardinality(String) COMMENT 'Kind of the pod''s owner; Pod where it has none.',
    k8s_workload_name LowCardinality(String) COMMENT 'Name of the pod''s owner.',
    k8s_node_name LowCardinality(String) COMMENT 'Node of the pod, or the node itself.',
    backends Array(Tuple(kind String, name String)) COMMENT 'Workloads behind a service, by its EndpointSlices, in order.' CODEC(ZSTD(1)),
    valid_from DateTime64(3, 'UTC') COMMENT 'From when on the address was the object''s.',
    valid_to DateTime64(3, 'UTC') COMMENT 'Until when; 2100-01-01 while it is.',
    version UInt64 COMMENT 'When the row was written, ns since the epoch; the highest wins.'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (address, kind, uid, ordinal)
TTL toDateTime(valid_to) + INTERVAL 40 DAY DELETE WHERE valid_to < '2099-01-01 00:00:00'
SETTINGS fsync_after_insert = 1, min_age_to_force_merge_seconds = 3600;

-- Until when the addresses are known to be complete.
CREATE TABLE IF NOT EXISTS {database}.address_watches
(
    kind LowCardinality(String) COMMENT 'pod, service or node.',
    complete_to DateTime64(3, 'UTC') COMMENT 'The watch of this kind missed nothing before; the highest wins.'
)
ENGINE = ReplacingMergeTree(complete_to)
ORDER BY kind
SETTINGS fsync_after_insert = 1;

-- What the kubelets' cAdvisor said, counters as they are. Read through container_usage.
CREATE TABLE IF NOT EXISTS {database}.container_samples
(
    time DateTime64(3, 'UTC') COMMENT 'When cAdvisor took the sample, by the node''s clock.' CODEC(DoubleDelta, ZSTD(1)),
    k8s_node_name LowCardinality(String) COMMENT 'Node.',
    k8s_namespace_name LowCardinality(String) COMMENT 'Namespace of the pod; empty in the row of the node.',
    k8s_workload_kind LowCardinality(String) COMMENT 'Kind of the pod''s owner.',
    k8s_workload_name LowCardinality(String) COMMENT 'Name of the pod''s owner.',
    k8s_pod_name LowCardinality(String) COMMENT 'Name of the pod; empty in the row of the node.',
    k8s_pod_uid LowCardinality(String) COMMENT 'UID of the pod.',
    k8s_container_name LowCardinality(String) COMMENT 'Name of the container; empty in the row of a pod, which has its network, and of the node.',
    container_id LowCardinality(String) COMMENT 'Id of the container, or of the pod''s sandbox: another one is a restart.',
    start_time_seconds Float64 COMMENT 'When it started, seconds since the epoch; 0 when unknown.' CODEC(ZSTD(1)),
    cpu_usage_seconds_total Float64 COMMENT 'CPU time used.' CODEC(Gorilla, ZSTD(1)),
    cpu_cfs_throttled_seconds_total Float64 COMMENT 'Time during which it was not let run, because of its CPU limit.' CODEC(Gorilla, ZSTD(1)),
    cpu_limit_cores Float64 COMMENT 'CPU limit in cores; 0 when there is none. Of the node: its cores.' CODEC(Gorilla, ZSTD(1)),
    memory_working_set_bytes UInt64 COMMENT 'Memory that cannot be reclaimed at once; what the OOM killer goes by.' CODEC(T64, ZSTD(1)),
    memory_rss_bytes UInt64 COMMENT 'Anonymous memory.' CODEC(T64, ZSTD(1)),
    memory_limit_bytes UInt64 COMMENT 'Memory limit; 0 when there is none. Of the node: its memory.' CODEC(T64, ZSTD(1)),
    network_receive_bytes_total UInt64 COMMENT 'Bytes received on all interfaces but lo.' CODEC(T64, ZSTD(1)),
    network_transmit_bytes_total UInt64 COMMENT 'Bytes sent.' CODEC(T64, ZSTD(1)),
    network_receive_packets_total UInt64 COMMENT 'Packets received.' CODEC(T64, ZSTD(1)),
    network_transmit_packets_total UInt64 COMMENT 'Packets sent.' CODEC(T64, ZSTD(1)),
    network_receive_errors_total UInt64 COMMENT 'Errors of receiving.' CODEC(T64, ZSTD(1)),
    network_transmit_errors_total UInt64 COMMENT 'Errors of sending.' CODEC(T64, ZSTD(1)),
    fs_usage_bytes UInt64 COMMENT 'Bytes that its writable layer and logs take on disk, where cAdvisor knows.' CODEC(T64, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(time)
PRIMARY KEY (k8s_namespace_name, k8s_workload_name, k8s_pod_name, k8s_container_name)
ORDER BY (k8s_namespace_name, k8s_workload_name, k8s_pod_name, k8s_container_name, k8s_pod_uid, k8s_node_name, container_id, time)
TTL toDateTime(time) + INTERVAL 14 DAY
SETTINGS ttl_only_drop_parts = 1;

-- Bucket of a value, the inverse of podtap_bucket_value; exact below 2^53 ns, 104 days.
CREATE OR REPLACE FUNCTION podtap_bucket AS (value) ->
    if(value < 64, toUInt16(value), toUInt16(64 * greatest(toInt32(bitShiftRight(reinterpretAsUInt64(toFloat64(value)), 52)) - 1029, 0)
        + bitShiftRight(toUInt64(value), greatest(toInt32(bitShiftRight(reinterpretAsUInt64(toFloat64(value)), 52)) - 1029, 0))));

-- host:port, an IPv6 address in brackets.
CREATE OR REPLACE FUNCTION podtap_host_port AS (address, port) ->
    if(position(address, ':') > 0, concat('[', address, ']:', toString(port)), concat(address, ':', toString(port)));

-- Who had each address when, one owner at a time: join ASOF on address and valid_from, then look at valid_to.
CREATE OR REPLACE VIEW {database}.addresses AS
SELECT address, kind, k8s_namespace_name, name, uid,
    multiIf(kind = 'pod', toString(k8s_workload_kind), kind = 'node', 'Node', length(backends) = 1, backends[1].1, 'Service') AS workload_kind,
    multiIf(kind = 'pod', toString(k8s_workload_name), kind = 'service' AND length(backends) = 1, backends[1].2, name) AS workload_name,
    if(k8s_namespace_name = '', workload_name, concat(k8s_namespace_name, '/', workload_name)) AS owner,
    k8s_node_name, backends, valid_from, valid_to,
    lagInFrame(valid_to, 1, toDateTime64(0, 3, 'UTC')) OVER (PARTITION BY address ORDER BY valid_from ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS previous_valid_to
FROM {database}.address_owners FINAL
WHERE valid_from < valid_to;

-- The records of one end with what joining needs: use exchanges.
CREATE OR REPLACE VIEW {database}.exchange_ends AS
SELECT timestamp, side, network_protocol_name, tcp_request_sequence, tcp_response_sequence,
    multiIf(network_protocol_name = 'http', concat(http_request_method, if(http_request_method != '' AND url_template != '', ' ', ''), url_template),
        network_protocol_name = 'dns', concat(dns_question_type, if(dns_question_type != '' AND dns_question_name != '', ' ', ''), dns_question_name),
        network_protocol_name = 'tls', toString(tls_server_name),
        db_query_fingerprint != '', concat(if(mysql_command = 'COM_STMT_PREPARE', 'PREPARE ', ''), db_query_fingerprint),
        db_operation_name != '', toString(db_operation_name), toString(mysql_command)) AS endpoint,
    status, error_type, time_to_last_byte_ns, request_bytes, response_bytes, trace_id, request_id, client_address, server_address, server_port,
    -- Without any identity a sidecar names the server's address, which is not its own pod's name at the client's end.
    if(k8s_workload_name = '' AND service_name = podtap_host_port(server_address, server_port), '', toString(service_name)) AS own_name,
    k8s_namespace_name, k8s_workload_kind, k8s_workload_name, k8s_pod_name, k8s_pod_uid, k8s_node_name
FROM {database}.requests FINAL
WHERE timestamp >= {from:DateTime('UTC')} AND timestamp < {to:DateTime('UTC')} AND side IN ('server', 'client', 'both');

-- Exchanges, each once, whichever end's sidecar saw it: SELECT * FROM exchanges(from = '...', to = '...').
-- Both ends' records have the same two TCP sequence numbers, whatever translates addresses between them, and times at most ten seconds apart.
CREATE OR REPLACE VIEW {database}.exchanges AS
SELECT record.timestamp AS timestamp, record.seen AS seen, record.network_protocol_name AS network_protocol_name, record.endpoint AS endpoint,
    record.status AS status, record.error_type AS error_type, record.time_to_last_byte_ns AS time_to_last_byte_ns,
    record.client_time_to_last_byte_ns AS client_time_to_last_byte_ns, record.request_bytes AS request_bytes, record.response_bytes AS response_bytes,
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
        server.network_protocol_name AS network_protocol_name, server.endpoint AS endpoint, server.status AS status, server.error_type AS error_type,
        server.time_to_last_byte_ns AS time_to_last_byte_ns, if(joined, client.time_to_last_byte_ns, 18446744073709551615) AS client_time_to_last_byte_ns,
        server.request_bytes AS request_bytes, server.response_bytes AS response_bytes, server.trace_id AS trace_id, server.request_id AS request_id,
        server.client_address AS client_address, if(joined, client.server_address, server.server_address) AS called_address,
        if(joined, client.server_port, server.server_port) AS server_port,
        server.own_name != '' AS server_known, server.own_name AS server_name, server.k8s_namespace_name AS server_namespace,
        server.k8s_workload_kind AS server_workload_kind, server.k8s_workload_name AS server_workload_name, server.k8s_pod_name AS server_pod,
        server.k8s_node_name AS server_node,
        if(server.side = 'both', server.own_name != '', joined AND client.own_name != '') AS client_known,
        if(server.side = 'both', server.own_name, client.own_name) AS client_name,
        if(server.side = 'both', server.k8s_namespace_name, client.k8s_namespace_name) AS client_namespace,
        if(server.side = 'both', server.k8s_workload_kind, client.k8s_workload_kind) AS client_workload_kind,
        if(server.side = 'both', server.k8s_workload_name, client.k8s_workload_name) AS client_workload_name,
        if(server.side = 'both', server.k8s_pod_name, client.k8s_pod_name) AS client_pod,
        if(server.side = 'both', server.k8s_node_name, client.k8s_node_name) AS client_node,
        client.present = 1 AND client.timestamp >= server.timestamp - INTERVAL 10 SECOND AS joined
    FROM
    (
        SELECT *, timestamp + INTERVAL 10 SECOND AS latest
        FROM {database}.exchange_ends(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})
        WHERE side IN ('server', 'both')
    ) AS server
    GLOBAL ASOF LEFT JOIN
    (
        SELECT timestamp, network_protocol_name, tcp_request_sequence, tcp_response_sequence, time_to_last_byte_ns, server_address, server_port, own_name,
            k8s_namespace_name, k8s_workload_kind, k8s_workload_name, k8s_pod_name, k8s_node_name, toUInt8(1) AS present
        FROM {database}.exchange_ends(from = {from:DateTime('UTC')} - 10, to = {to:DateTime('UTC')} + 10)
        WHERE side = 'client' AND tcp_request_sequence != 4294967295
    ) AS client
    ON server.tcp_request_sequence = client.tcp_request_sequence AND server.tcp_response_sequence = client.tcp_response_sequence
        AND server.network_protocol_name = client.network_protocol_name AND server.latest >= client.timestamp
    UNION ALL
    SELECT client.timestamp, 'client', client.network_protocol_name, client.endpoint, client.status, client.error_type, client.time_to_last_byte_ns,
        client.time_to_last_byte_ns, client.request_bytes, client.response_bytes, client.trace_id, client.request_id, client.client_address,
        client.server_address, client.server_port, toUInt8(0), '', '', '', '', '', '',
        client.own_name != '', client.own_name, client.k8s_namespace_name, client.k8s_workload_kind, client.k8s_workload_name, client.k8s_pod_name,
        client.k8s_node_name, toUInt8(0)
    FROM
    (
        SELECT *, timestamp + INTERVAL 10 SECOND AS latest
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
    WHERE NOT (server.present = 1 AND server.timestamp >= client.timestamp - INTERVAL 10 SECOND)
) AS record
GLOBAL ASOF LEFT JOIN {database}.addresses AS from_owner ON record.client_address = from_owner.address AND record.timestamp >= from_owner.valid_from
GLOBAL ASOF LEFT JOIN {database}.addresses AS to_owner ON record.called_address = to_owner.address AND record.timestamp >= to_owner.valid_from;

-- Requests with the other end named by what its address was at that time: the client's seen from a server, the server's seen from a client.
CREATE OR REPLACE VIEW {database}.requests_named AS
SELECT record.*, if(peer_owner.valid_to > record.timestamp, peer_owner.owner, record.peer_text) AS peer,
    if(peer_owner.valid_to > record.timestamp, toString(peer_owner.kind), '') AS peer_kind,
    if(peer_owner.valid_to > record.timestamp, toString(peer_owner.k8s_namespace_name), '') AS peer_k8s_namespace_name,
    if(peer_owner.valid_to > record.timestamp, peer_owner.workload_kind, '') AS peer_k8s_workload_kind,
    if(peer_owner.valid_to > record.timestamp, peer_owner.workload_name, '') AS peer_k8s_workload_name,
    if(peer_owner.valid_to > record.timestamp, peer_owner.name, '') AS peer_name,
    if(peer_owner.valid_to > record.timestamp, peer_owner.uid, '') AS peer_uid,
    if(peer_owner.valid_to > record.timestamp, peer_owner.backends, []) AS peer_backends
FROM
(
    SELECT *, if(side = 'client', server_address, client_address) AS peer_address,
        if(side = 'client', podtap_host_port(server_address, server_port), client_address) AS peer_text
    FROM {database}.requests FINAL
    WHERE timestamp >= {from:DateTime('UTC')} AND timestamp < {to:DateTime('UTC')}
) AS record
GLOBAL ASOF LEFT JOIN {database}.addresses AS peer_owner ON record.peer_address = peer_owner.address AND record.timestamp >= peer_owner.valid_from;

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
    WHERE window >= {from:DateTime('UTC')} AND window < {to:DateTime('UTC')}
) AS figures
GLOBAL ASOF LEFT JOIN {database}.addresses AS peer_owner ON figures.peer_address = peer_owner.address AND figures.window_end > peer_owner.valid_from;

-- Who calls whom, from exchanges: SELECT * FROM calls(from = '...', to = '...').
CREATE OR REPLACE VIEW {database}.calls AS
SELECT argMax(exchange.client, seen != 'server') AS client, client_k8s_namespace_name, client_k8s_workload_kind, client_k8s_workload_name,
    argMax(exchange.server, seen != 'client') AS server, server_k8s_namespace_name, server_k8s_workload_kind, server_k8s_workload_name,
    network_protocol_name, arraySort(groupUniqArrayIf(called_service, called_service != '')) AS called_services, count() AS requests,
    requests / greatest(toUnixTimestamp({to:DateTime('UTC')}) - toUnixTimestamp({from:DateTime('UTC')}), 1) AS requests_per_second,
    countIf(status IN ('server_error', 'no_response')) AS errors, errors / requests AS error_share, countIf(seen = 'both') AS seen_at_both_ends,
    CAST(sumMapIf([podtap_bucket(time_to_last_byte_ns)], [toUInt64(1)], time_to_last_byte_ns != 18446744073709551615), 'Map(UInt16, UInt64)')
        AS time_to_last_byte_ns_buckets,
    maxIf(time_to_last_byte_ns, time_to_last_byte_ns != 18446744073709551615) AS time_to_last_byte_ns_max,
    podtap_quantile(0.5, time_to_last_byte_ns_buckets) AS p50_ns, podtap_quantile(0.95, time_to_last_byte_ns_buckets) AS p95_ns,
    podtap_quantile(0.99, time_to_last_byte_ns_buckets) AS p99_ns
FROM {database}.exchanges(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')}) AS exchange
GROUP BY client_k8s_namespace_name, client_k8s_workload_kind, client_k8s_workload_name, if(client_k8s_workload_name = '', exchange.client, ''),
    server_k8s_namespace_name, server_k8s_workload_kind, server_k8s_workload_name, if(server_k8s_workload_name = '', exchange.server, ''),
    network_protocol_name;

-- Workloads whose own pods' server side has figures in a period, and those pods.
CREATE OR REPLACE VIEW {database}.watched_workloads AS
SELECT DISTINCT k8s_namespace_name, workload_kind, workload_name
FROM
(
    SELECT toString(k8s_namespace_name) AS k8s_namespace_name, toString(k8s_workload_kind) AS workload_kind, toString(k8s_workload_name) AS workload_name
    FROM {database}.red
    WHERE window >= {from:DateTime('UTC')} AND window < {to:DateTime('UTC')} AND side IN ('server', 'both') AND k8s_workload_name != ''
    UNION ALL
    SELECT toString(k8s_namespace_name), workload_kind, workload_name
    FROM {database}.addresses
    WHERE kind = 'pod' AND uid GLOBAL IN
    (
        SELECT toString(k8s_pod_uid) FROM {database}.red
        WHERE window >= {from:DateTime('UTC')} AND window < {to:DateTime('UTC')} AND side IN ('server', 'both') AND k8s_pod_uid != ''
    )
);

-- Rate, errors, latency of each workload: the server side of its own pods; what its callers saw only where it has none.
-- SELECT * FROM workloads(from = '...', to = '...').
CREATE OR REPLACE VIEW {database}.workloads AS
SELECT argMax(text, counted_at = 'server') AS workload, k8s_namespace_name, k8s_workload_kind, k8s_workload_name, network_protocol_name, counted_at,
    sum(requests_counted) AS requests,
    requests / greatest(toUnixTimestamp({to:DateTime('UTC')}) - toUnixTimestamp({from:DateTime('UTC')}), 1) AS requests_per_second,
    sum(errors_counted) AS errors, errors / requests AS error_share, sumMap(buckets) AS time_to_last_byte_ns_buckets,
    max(longest) AS time_to_last_byte_ns_max, podtap_quantile(0.5, time_to_last_byte_ns_buckets) AS p50_ns,
    podtap_quantile(0.95, time_to_last_byte_ns_buckets) AS p95_ns, podtap_quantile(0.99, time_to_last_byte_ns_buckets) AS p99_ns
FROM
(
    SELECT toString(service_name) AS text, toString(k8s_namespace_name) AS k8s_namespace_name, toString(k8s_workload_kind) AS k8s_workload_kind,
        toString(k8s_workload_name) AS k8s_workload_name, network_protocol_name, 'server' AS counted_at, count AS requests_counted,
        errors AS errors_counted, time_to_last_byte_ns_buckets AS buckets, time_to_last_byte_ns_max AS longest
    FROM {database}.red
    WHERE window >= {from:DateTime('UTC')} AND window < {to:DateTime('UTC')} AND side IN ('server', 'both')
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
        to = {to:DateTime('UTC')})
    WHERE side = 'client' AND (server_address, toStartOfInterval(timestamp, INTERVAL 10 SECOND)) GLOBAL IN
        (
            SELECT peer_address, window FROM {database}.red_named(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})
            WHERE side = 'client' AND changed_hands
        )
        AND (peer_k8s_namespace_name, peer_k8s_workload_kind, peer_k8s_workload_name)
            GLOBAL NOT IN (SELECT * FROM {database}.watched_workloads(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')}))
)
GROUP BY k8s_namespace_name, k8s_workload_kind, k8s_workload_name, if(k8s_workload_name = '', text, ''), network_protocol_name, counted_at;

-- Rates of containers, pods' networks and nodes between two samples. A counter that is smaller, or another container id or start, is a restart:
-- then it grew from 0. SELECT * FROM container_usage(from = '...', to = '...').
CREATE OR REPLACE VIEW {database}.container_usage AS
SELECT time, k8s_node_name, k8s_namespace_name, k8s_workload_kind, k8s_workload_name, k8s_pod_name, k8s_pod_uid, k8s_container_name, restarted,
    interval_seconds,
    (cpu_usage_seconds_total - if(restarted, 0, before.2)) / interval_seconds AS cpu_cores,
    (cpu_cfs_throttled_seconds_total - if(restarted, 0, before.3)) / interval_seconds AS cpu_throttled_share,
    cpu_limit_cores, memory_working_set_bytes, memory_rss_bytes, memory_limit_bytes,
    (network_receive_bytes_total - if(restarted, 0, before.4)) / interval_seconds AS network_receive_bytes_per_second,
    (network_transmit_bytes_total - if(restarted, 0, before.5)) / interval_seconds AS network_transmit_bytes_per_second,
    (network_receive_packets_total - if(restarted, 0, before.6)) / interval_seconds AS network_receive_packets_per_second,
    (network_transmit_packets_total - if(restarted, 0, before.7)) / interval_seconds AS network_transmit_packets_per_second,
    (network_receive_errors_total - if(restarted, 0, before.8)) / interval_seconds AS network_receive_errors_per_second,
    (network_transmit_errors_total - if(restarted, 0, before.9)) / interval_seconds AS network_transmit_errors_per_second,
    fs_usage_bytes
FROM
(
    SELECT *, (toUnixTimestamp64Milli(time) - toUnixTimestamp64Milli(before.1)) / 1000 AS interval_seconds,
        before.10 != container_id OR before.11 != start_time_seconds OR cpu_usage_seconds_total < before.2
            OR cpu_cfs_throttled_seconds_total < before.3 OR network_receive_bytes_total < before.4 OR network_transmit_bytes_total < before.5
            OR network_receive_packets_total < before.6 OR network_transmit_packets_total < before.7
            OR network_receive_errors_total < before.8 OR network_transmit_errors_total < before.9 AS restarted
    FROM
    (
        SELECT *,
            lagInFrame((time, cpu_usage_seconds_total, cpu_cfs_throttled_seconds_total, network_receive_bytes_total, network_transmit_bytes_total,
                network_receive_packets_total, network_transmit_packets_total, network_receive_errors_total, network_transmit_errors_total,
                toString(container_id), start_time_seconds))
                OVER (PARTITION BY k8s_node_name, k8s_namespace_name, k8s_pod_name, k8s_pod_uid, k8s_container_name ORDER BY time
                    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS before
        FROM {database}.container_samples FINAL
        WHERE time >= {from:DateTime('UTC')} - INTERVAL 5 MINUTE AND time < {to:DateTime('UTC')}
    )
    WHERE toUnixTimestamp64Milli(before.1) > 0 AND time >= {from:DateTime('UTC')}
);
