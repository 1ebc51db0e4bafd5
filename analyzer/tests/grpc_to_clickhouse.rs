//! The analyzer as a process in front of the embedded engine: batches over gRPC become rows that SQL counts, also when the
//! analyzer is killed in between and when batches come twice.

// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stage;

use std::collections::BTreeMap;
use std::time::SystemTime;

use clickhouse::{Client, Row};
use podtap_wire::proto::{CounterSample, Resource};
use podtap_wire::{BatchBuilder, DecodedBatch, EncodedBatch, Protocol, RequestRecord, Side, Status};
use serde::Deserialize;
use stage::{Bench, Ports, Ready, deliver, get, ready, until};

/// Batches of HTTP and SQL records, and what they add up to.
struct Sent {
    batches: Vec<EncodedBatch>,
    by_endpoint: BTreeMap<(String, String), u64>,
}

fn batches(count: u64, records: u64) -> Sent {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let resource = Resource { k8s_pod_name: "shop-1".to_owned(), k8s_namespace_name: "it's".to_owned(), ..Resource::default() };
    let mut builder = BatchBuilder::new("sender".to_owned(), [9; 16], resource);
    let mut sent = Sent { batches: Vec::new(), by_endpoint: BTreeMap::new() };
    for sequence in 1..=count {
        for number in 0..records {
            let http = number % 2 == 0;
            let status = if number % 10 == 0 { Status::ServerError } else { Status::Ok };
            let (template, fingerprint) = if http { ("/items/{id}", "") } else { ("", "select name from items where id = ?") };
            builder.push(&RequestRecord {
                timestamp: now - (number % 7) * 1_000_000_000,
                network_protocol_name: if http { Protocol::Http } else { Protocol::Mysql },
                client_address: "10.0.0.1".parse().unwrap(),
                server_address: "fd00::2".parse().unwrap(),
                server_port: if http { 80 } else { 3306 },
                service_name: "shop",
                side: if http { Side::Server } else { Side::Client },
                status,
                error_type: if status == Status::Ok { "" } else { "500" },
                http_request_method: if http { "GET" } else { "" },
                url_template: template,
                url_path: "/items/1?",
                db_query_fingerprint: fingerprint,
                db_query_parameters: vec!["a", "b"],
                time_to_first_byte_ns: Some(1_000_000),
                time_to_last_byte_ns: Some(50_000_000 + number * 1_000),
                ..RequestRecord::default()
            });
            let endpoint = if http { "GET /items/{id}" } else { fingerprint };
            *sent.by_endpoint.entry((endpoint.to_owned(), status.as_str().to_owned())).or_default() += 1;
        }
        let counters = vec![CounterSample { name: "podtap_records_total".to_owned(), reason: String::new(), value: sequence * records }];
        sent.batches.push(builder.finish(sequence, now, counters));
    }
    sent
}

#[derive(Row, Deserialize)]
struct Counted {
    endpoint: String,
    status: String,
    count: u64,
}

async fn counted(client: &Client, sql: &str) -> BTreeMap<(String, String), u64> {
    let rows = client.query(sql).fetch_all::<Counted>().await.unwrap();
    rows.into_iter().map(|row| ((row.endpoint, row.status), row.count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_is_what_sql_counts() {
    let Ready { mut bench, url, ports, client, mut analyzer } = Ready::start("grpc-to-clickhouse", &[]).await;
    let sent = batches(60, 100);
    deliver(&ports, &sent.batches[..20]).await.expect("acknowledged");
    // Killed in the middle, and everything is sent again.
    for end in [40, 60] {
        bench.kill(analyzer);
        analyzer = bench.analyzer(&url, &ports, &[]);
        until("the analyzer takes batches", async || deliver(&ports, &sent.batches[..end]).await).await;
    }
    let red = "SELECT toString(endpoint) AS endpoint, toString(status) AS status, sum(count) AS count FROM red GROUP BY endpoint, status";
    let total: u64 = sent.by_endpoint.values().sum();
    let stored = until("everything is stored", async || {
        let stored = counted(&client, red).await;
        (stored.values().sum::<u64>() >= total).then_some(stored)
    })
    .await;
    assert_eq!(stored, sent.by_endpoint, "{}", bench.log());
    let requests = "SELECT if(db_query_fingerprint = '', \
                    concat(http_request_method, ' ', url_template), db_query_fingerprint) AS endpoint, \
                    toString(status) AS status, count() AS count FROM requests FINAL GROUP BY endpoint, status";
    assert_eq!(counted(&client, requests).await, sent.by_endpoint);

    check_values(&client).await;
    check_api(&ports).await;
    // It stops when told to, with everything stored.
    bench.signal(analyzer, "TERM");
    let status = tokio::task::block_in_place(|| bench.processes[analyzer].wait()).unwrap();
    assert!(status.success(), "{status}: {}", bench.log());
}

/// Blocks are complete by then: the new process goes on behind them, with the marks of their senders.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_behind_complete_blocks() {
    let mut bench = Bench::new("grpc-restart");
    let url = bench.clickhouse();
    let ports = Ports::free();
    let client = Client::default().with_url(&url).with_database("podtap");
    let sent = batches(4_500, 2);
    let analyzer = bench.analyzer(&url, &ports, &[]);
    ready(&ports).await;
    deliver(&ports, &sent.batches[..2_500]).await.expect("acknowledged");
    let count = async |sql: &str| client.query(sql).fetch_one::<u64>().await.unwrap();
    let red = "SELECT sum(count) FROM red";
    until("the first blocks are stored", async || (count(red).await == 5_000).then_some(())).await;
    bench.kill(analyzer);
    bench.analyzer(&url, &ports, &[]);
    ready(&ports).await;
    // The last hundred come twice.
    deliver(&ports, &sent.batches[2_400..]).await.expect("acknowledged");
    until("all is stored", async || (count(red).await >= 9_000).then_some(())).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!((count(red).await, count("SELECT count() FROM requests FINAL").await), (9_000, 9_000));
    assert_eq!(count("SELECT sum(duplicate_batches) FROM ingest_blocks FINAL").await, 100);
    assert_eq!(count("SELECT sum(missing_batches) FROM ingest_blocks FINAL").await, 0);
    assert_eq!(count("SELECT count() FROM ingest_blocks FINAL WHERE complete = 1").await, 2);
}

/// A sidecar was killed, and its next start says how far it had come: the view names what is missing at the end.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_at_the_end_of_a_boot_is_named() {
    let Ready { bench, ports, client, .. } = Ready::start("grpc-end-of-boot", &[]).await;
    let sent = batches(6, 10).batches;
    let last = DecodedBatch::decode(&sent[5].bytes).unwrap();
    let end = BatchBuilder::end_of_boot(&last, 9);
    deliver(&ports, &[&sent[..2], &sent[4..], &[end.clone(), end]].concat()).await.expect("acknowledged");
    let text = async |sql: &str| client.query(sql).fetch_one::<String>().await.unwrap();
    until("all is stored", async || {
        let records = client.query("SELECT sum(duplicate_batches) FROM ingest_blocks FINAL").fetch_one::<u64>().await.unwrap();
        (records > 0).then_some(())
    })
    .await;
    let sequences = "SELECT concat(toString(first), ' ', toString(last), ' ', toString(received), ' ', toString(missing), ' ', \
                     toString(ranges), ' ', toString(missing_ranges)) FROM sender_sequences";
    assert_eq!(text(sequences).await, "1 9 4 5 [(1,2),(5,6),(10,9)] [(3,4),(7,9)]", "{}", bench.log());
    let counts = "SELECT concat(toString(sum(batches)), ' ', toString(sum(missing_batches))) FROM ingest_blocks FINAL";
    assert_eq!(text(counts).await, "4 5");
    assert_eq!(client.query("SELECT sum(count) FROM red").fetch_one::<u64>().await.unwrap(), 40);
}

async fn check_values(client: &Client) {
    let text = async |sql: &str| client.query(sql).fetch_one::<String>().await.unwrap();
    let record = "SELECT concat(client_address, ' ', server_address, ' ', toString(server_port), ' ', \
                  url_path, ' ', k8s_namespace_name, ' ', \
                  arrayStringConcat(db_query_parameters, ','), ' ', toString(request_time_ns)) FROM requests FINAL \
                  WHERE network_protocol_name = 'http' LIMIT 1";
    // An escaped question mark is the client's own; the value has one.
    assert_eq!(text(record).await, "10.0.0.1 fd00::2 80 /items/1? it's a,b 18446744073709551615");
    let p50 = client.query("SELECT podtap_quantile(0.5, sumMap(time_to_last_byte_ns_buckets)) FROM red").fetch_one::<u64>().await.unwrap();
    assert!(p50.abs_diff(50_050_000) <= 50_050_000 / 100, "{p50}");
    let peers = "SELECT arrayStringConcat(arraySort(groupUniqArray(toString(peer))), ' ') FROM red";
    assert_eq!(text(peers).await, "10.0.0.1 [fd00::2]:3306");
    let sequences =
        "SELECT concat(toString(first), ' ', toString(last), ' ', toString(received), ' ', toString(missing)) FROM sender_sequences";
    assert_eq!(text(sequences).await, "1 60 60 0");
    let duplicates = client.query("SELECT sum(duplicate_batches) FROM ingest_blocks FINAL").fetch_one::<u64>().await.unwrap();
    assert!(duplicates >= 60, "{duplicates}");
    let counters = client.query("SELECT max(value) FROM sidecar_counters FINAL").fetch_one::<u64>().await.unwrap();
    assert_eq!(counters, 6_000);
}

async fn check_api(ports: &Ports) {
    let json = async |path: &str, status: u16| -> serde_json::Value {
        let (found, text) = get(ports.http, path).await.unwrap();
        assert_eq!(found, status, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    };
    let services = json("/api/v1/services", 200).await;
    let names: Vec<_> = services["services"].as_array().unwrap().iter().map(|row| row["service"].as_str().unwrap()).collect();
    assert_eq!(names, ["[fd00::2]:3306", "shop"], "what was seen from its caller only goes by its address");
    let sql = json("/api/v1/sql/slowest", 200).await;
    assert_eq!(sql["sql"][0]["endpoint"], "select name from items where id = ?");
    assert_eq!(sql["sql"][0]["called_by"][0], "shop");
    assert_eq!(sql["sql"][0]["count"], 3_000);
    let requests = json("/api/v1/requests/slowest?service=shop&limit=1", 200).await;
    assert_eq!(requests["requests"][0]["errors"], 600);
    for path in ["/api/v1/services?limit=0", "/api/v1/services?from=yesterday", "/api/v1/services?form=1h"] {
        let problem = json(path, 400).await;
        assert!(problem["error"]["where"].is_string() && problem["error"]["what"].is_string(), "{problem}");
    }
    json("/api/v1/nothing", 404).await;
    assert_eq!(json("/api/v1/alarms", 200).await["alarms"], serde_json::json!([]));
    let (_, metrics) = get(ports.http, "/metrics").await.unwrap();
    assert!(metrics.contains("podtap_ingest_records_total{transport=\"grpc\"}"), "{metrics}");
}
