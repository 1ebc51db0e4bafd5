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
