//! What ClickHouse and the machine refuse: a full disk, a table that may not be written, too many parts, a store that stands still. Each
//! is told as what it is, nothing is lost, nothing counts twice, and memory stays within its cap.

// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stage;

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use clickhouse::Client;
use podtap_wire::proto::Resource;
use podtap_wire::{BatchBuilder, EncodedBatch, Protocol, RequestRecord, Side};
use stage::{Bench, Ports, Ready, deliver, get, metric, ready, until};

/// The cap of what waits in memory; see `ingest/partition.rs`.
const MAX_PENDING_BYTES: f64 = 134_217_728.0;
/// What one more turn of the reading loop may add to it.
const ONE_TURN_BYTES: f64 = 67_108_864.0;

fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn batch(sequence: u64, records: u64) -> EncodedBatch {
    let resource = Resource { k8s_pod_name: "shop-1".to_owned(), ..Resource::default() };
    let mut builder = BatchBuilder::new("sender".to_owned(), [9; 16], resource);
    let paths: Vec<_> = (0..200).map(|number| format!("/articles/{number}")).collect();
    for number in 0..records {
        let path = &paths[(number * 7_919 % 200) as usize];
        builder.push(&RequestRecord {
            timestamp: now_ns() - number * 1_000,
            network_protocol_name: Protocol::Http,
            client_address: "10.0.0.1".parse().unwrap(),
            client_port: 30_000 + number % 1_000,
            server_address: "10.0.0.2".parse().unwrap(),
            server_port: 80,
            service_name: "shop",
            side: Side::Server,
            http_request_method: "GET",
            url_path: path,
            url_template: "/articles/{id}",
            time_to_last_byte_ns: Some(1_000_000 + number * 104_729 % 9_000_000),
            ..RequestRecord::default()
        });
    }
    builder.finish(sequence, now_ns(), Vec::new())
}

async fn number(client: &Client, sql: &str) -> u64 {
    client.query_raw(sql).fetch_one::<u64>().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// ClickHouse refuses for this reason from `refuse` on, until `relent`; meanwhile it is told, and afterwards every record counts once.
async fn refused_and_then_taken(client: &Client, ports: &Ports, reason: &str, first: u64, refuse: impl Fn(), relent: impl AsyncFn()) {
    let before = number(client, "SELECT sum(count) FROM red").await;
    refuse();
    let label = format!("podtap_store_errors_total{{reason=\"{reason}\"}}");
    let mut sequence = first;
    until(&format!("ClickHouse refuses: {reason}"), async || {
        deliver(ports, &[batch(sequence, 100)]).await.expect("acknowledged: the log has it");
        sequence += 1;
        (metric(ports, &label).await > 0.0).then_some(())
    })
    .await;
    let (status, text) = get(ports.http, "/readyz?verbose").await.unwrap();
    assert_eq!(status, 503, "{text}");
    assert!(text.contains(reason), "/readyz names the reason: {text}");
    relent().await;
    let sent = (sequence - first) * 100;
    until("what was refused is stored", async || (number(client, "SELECT sum(count) FROM red").await == before + sent).then_some(())).await;
    ready(ports).await;
    until("each request once", async || (number(client, "SELECT count() FROM requests_once").await == before + sent).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_refuse_are_told_apart_and_nothing_is_lost() {
    let Ready { bench: _bench, ports, client, .. } = Ready::start("refused", &[]).await;
    let run = async |sql: &str| client.query_raw(sql).execute().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    run("ALTER TABLE requests MODIFY SETTING table_readonly = 1").await;
    let relent = async || run("ALTER TABLE requests MODIFY SETTING table_readonly = 0").await;
    refused_and_then_taken(&client, &ports, "read_only", 1, || {}, relent).await;
    run("SYSTEM STOP MERGES requests").await;
    run("ALTER TABLE requests MODIFY SETTING parts_to_throw_insert = 2, parts_to_delay_insert = 1").await;
    let relent = async || {
        run("ALTER TABLE requests RESET SETTING parts_to_throw_insert, parts_to_delay_insert").await;
        run("SYSTEM START MERGES requests").await;
    };
    refused_and_then_taken(&client, &ports, "too_many_parts", 1_000, || {}, relent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_nothing_is_lost() {
    let mut bench = Bench::new("full-disk");
    // A disk of its own, that only the endpoint sees.
    let disk = bench.directory.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let (url, pid) = bench.clickhouse_on_small_disk(&disk, "100m");
    let ports = Ports::free();
    let client = Client::default().with_url(&url).with_database("podtap");
    bench.analyzer(&url, &ports, &[]);
    ready(&ports).await;
    deliver(&ports, &[batch(1, 100)]).await.expect("acknowledged");
    until("it is stored", async || (number(&client, "SELECT sum(count) FROM red").await == 100).then_some(())).await;
    let ballast = PathBuf::from(format!("/proc/{pid}/root{}", disk.join("ballast").display()));
    let fill = || {
        let mut file = std::fs::File::create(&ballast).unwrap();
        let full = std::iter::repeat_with(|| file.write_all(&[7; 1 << 16])).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    };
    refused_and_then_taken(&client, &ports, "disk_full", 2, fill, async || std::fs::remove_file(&ballast).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stands_still_costs_no_more_memory_than_the_cap() {
    const RECORDS: u64 = 4_096;
    const AT_ONCE: u64 = 50;
    let Ready { bench, ports, client, analyzer, .. } = Ready::start("memory", &[]).await;
    bench.signal(0, "STOP");
    let pending = async || metric(&ports, "podtap_ingest_pending_bytes{transport=\"grpc\"}").await;
    let lag = async || metric(&ports, "podtap_ingest_lag{topic=\"grpc\",partition=\"0\"}").await;
    let mut batches = 0;
    until("no more is read, and what is sent waits in the log", async || {
        let some: Vec<_> = (1..=AT_ONCE).map(|number| batch(batches + number, RECORDS)).collect();
        deliver(&ports, &some).await.expect("acknowledged: the log has it");
        batches += AT_ONCE;
        (pending().await >= MAX_PENDING_BYTES && lag().await > 0.0).then_some(())
    })
    .await;
    let lag = lag().await;
    assert!(pending().await < MAX_PENDING_BYTES + ONE_TURN_BYTES);
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.processes[analyzer].id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap();
    assert!(peak * 1024.0 < 3.0 * MAX_PENDING_BYTES, "peak {peak} kB with {lag} batches not read");
    bench.signal(0, "CONT");
    let total = batches * RECORDS;
    until("all of it is stored", async || (number(&client, "SELECT sum(count) FROM red").await == total).then_some(())).await;
    assert_eq!(number(&client, "SELECT uniqExact(topic, partition, offset, row) FROM requests").await, total);
}
