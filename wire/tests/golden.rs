//! Old bytes decode for ever: each file in `golden/` was written by the version that introduced its format and is never
//! rewritten. A new format adds a file (`PODTAP_BLESS=1 cargo test -p podtap-wire --test golden` writes missing ones only).

// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use podtap_wire::{
    BatchBuilder, Completeness, DecodedBatch, FIELDS, Protocol, RequestRecord, Side, SourceKind, Status, Transport, Value, proto,
};

/// A record with a value of its own in every field.
fn full() -> RequestRecord<'static> {
    RequestRecord {
        timestamp: 1_763_683_200_123_456_789,
        network_protocol_name: Protocol::Mysql,
        network_protocol_version: "10",
        network_transport: Transport::Udp,
        client_address: "10.0.0.1".parse().unwrap(),
        client_port: 40_001,
        server_address: "fd00::2".parse().unwrap(),
        server_port: 3306,
        connection_id: 11,
        exchange_index: 12,
        tcp_request_sequence: Some(4_294_967_295),
        tcp_response_sequence: Some(0),
        service_name: "shop",
        k8s_namespace_name: "prod",
        k8s_pod_name: "shop-1",
        k8s_pod_uid: "7c1f",
        k8s_node_name: "node1",
        k8s_container_name: "web",
        k8s_workload_kind: "Deployment",
        k8s_workload_name: "shop",
        process_pid: 77,
        process_executable_name: "nginx",
        container_id: "c0ffee",
        source: SourceKind::Ebpf,
        tls_server_name: "shop.example",
        tls_alpn: "h2",
        tls_version: "1.3",
        side: Side::Both,
        time_to_first_byte_ns: Some(0),
        time_to_last_byte_ns: Some(u64::MAX - 1),
        request_time_ns: Some(5),
        request_bytes: 100,
        response_bytes: 200,
        status: Status::NoResponse,
        error_type: "timeout",
        completeness: Completeness::Partial,
        lost_bytes: 9,
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
        span_id: "00f067aa0ba902b7",
        request_id: "r-1",
        http_request_method: "GET",
        url_path: "/items/1",
        url_query: "page=?",
        url_template: "/items/{id}",
        http_request_header_host: "shop.example",
        user_agent_original: "curl/8",
        http_forwarded_client: "192.0.2.9",
        http_response_status_code: 503,
        http_request_body_size: Some(0),
        http_response_body_size: Some(1),
        http_request_content_type: "text/plain",
        http_response_content_type: "application/json",
        db_system_name: "mariadb",
        db_namespace: "shop",
        db_user: "app",
        db_operation_name: "SELECT",
        mysql_command: "COM_QUERY",
        db_query_text: "select * from orders where note = 'ü'",
        dns_question_name: "example",
        dns_question_type: "A",
        dns_response_code: "NOERROR",
        db_query_parameters: vec!["1", "", "zwei"],
        db_query_fingerprint: "select * from orders where note = ?",
        db_query_summary: "SELECT orders",
        db_response_status_code: "1064",
        db_response_sqlstate: "42000",
        db_response_message: "You have an error",
        db_response_returned_rows: Some(3),
        db_response_affected_rows: Some(0),
        db_response_warnings: 2,
    }
}

fn encode() -> Vec<u8> {
    let record = full();
    let resource = proto::Resource {
        k8s_namespace_name: record.k8s_namespace_name.to_owned(),
        k8s_pod_name: record.k8s_pod_name.to_owned(),
        k8s_pod_uid: record.k8s_pod_uid.to_owned(),
        k8s_node_name: record.k8s_node_name.to_owned(),
        k8s_workload_kind: record.k8s_workload_kind.to_owned(),
        k8s_workload_name: record.k8s_workload_name.to_owned(),
    };
    let mut builder = BatchBuilder::new("7c1f".to_owned(), [9; 16], resource);
    builder.push(&record);
    builder.push(&record);
    let counters = vec![proto::CounterSample { name: "podtap_records_total".to_owned(), reason: String::new(), value: 2 }];
    builder.finish(42, 1_763_683_201_000_000_000, counters).bytes
}

#[test]
fn old_bytes_decode() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/batch-format-1.bin");
    if std::env::var_os("PODTAP_BLESS").is_some() && !path.exists() {
        std::fs::write(&path, encode()).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    let batch = DecodedBatch::decode(&bytes).unwrap();
    assert_eq!(batch.records().collect::<Vec<_>>(), vec![full(), full()]);
    assert_eq!((batch.sender().id.as_str(), batch.sender().sequence), ("7c1f", 42));
    assert_eq!(batch.counters()[0].value, 2);
}

#[test]
fn every_field_travels() {
    full().for_each(|field, value| assert!(!value.is_absent() && value != Value::Number(0), "{} is not covered", field.name));
}

#[test]
fn the_proto_file_names_every_field() {
    let proto = include_str!("../proto/podtap/v1/ingest.proto");
    for field in FIELDS {
        assert!(proto.contains(&format!(" {} = ", field.name)), "{} is missing in ingest.proto", field.name);
    }
}
