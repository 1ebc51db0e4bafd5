//! What is kept and for how long: quantiles against exact ones, roll-ups that equal what they are made from, an older schema brought
//! up to date, sampling that leaves the histograms alone, completeness.

// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stage;

use std::collections::BTreeMap;
use std::time::SystemTime;

use clickhouse::{Client, Row};
use podtap_analyzer::store::migrations::{MIGRATIONS, preamble};
use podtap_analyzer::store::views::VIEWS;
use podtap_wire::proto::{CounterSample, Resource};
use podtap_wire::{BatchBuilder, EncodedBatch, Protocol, RequestRecord, Side, Status};
use serde::Deserialize;
use stage::{Bench, Ports, Ready, deliver, metric, ready, until};

const SECOND: u64 = 1_000_000_000;
const PODS: u64 = 1_000;
const SAMPLES_A_POD: u64 = 40;

fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Random numbers from a seed, from 0 to 1, 0 excluded (xorshift64*).
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.next().ln()).sqrt() * (std::f64::consts::TAU * self.next()).cos()
    }
}

type Shape = fn(&mut Uniform) -> f64;

/// Ten shapes of latency, in nanoseconds.
const SHAPES: [(&str, Shape); 10] = [
    ("/uniform", |u| 1e6 + 99e6 * u.next()),
    ("/exponential", |u| -20e6 * u.next().ln()),
    ("/lognormal", |u| (17.0 + 1.2 * u.normal()).exp()),
    ("/normal", |u| (50e6 + 5e6 * u.normal()).max(1.0)),
    ("/pareto", |u| 2e6 / u.next().powf(1.0 / 1.1)),
    ("/two-peaks", |u| if u.next() < 0.9 { 3e6 + 1e5 * u.normal() } else { 800e6 + 1e7 * u.normal() }),
    ("/constant", |_| 12_345_678.0),
    ("/weibull", |u| 30e6 * (-u.next().ln()).powf(2.0)),
    ("/microseconds", |u| 200.0 + 9_000.0 * u.next()),
    ("/steps", |u| 10f64.powf((u.next() * 7.0).floor() + 3.0)),
];

/// A batch of each pod; every record in one of a few minutes.
fn pods(now: u64, exact: &mut BTreeMap<&'static str, Vec<u64>>) -> Vec<EncodedBatch> {
    let mut uniform = Uniform(42);
    let batch = |pod: u64| {
        let resource = Resource { k8s_pod_name: format!("pod-{pod}"), ..Resource::default() };
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&pod.to_be_bytes());
        let mut builder = BatchBuilder::new(format!("sender-{pod}"), boot, resource);
        for (path, shape) in SHAPES {
            for number in 0..SAMPLES_A_POD {
                let latency = shape(&mut uniform).round() as u64;
                exact.entry(path).or_default().push(latency);
                builder.push(&record(now - number % 4 * 20 * SECOND, path, Some(latency), Status::Ok));
            }
        }
        // The stream's acknowledgements go by this number, so it ascends over the pods.
        builder.finish(pod, now, Vec::new())
    };
    (1..=PODS).map(batch).collect()
}

fn record(timestamp: u64, path: &str, latency: Option<u64>, status: Status) -> RequestRecord<'_> {
    RequestRecord {
        timestamp,
        network_protocol_name: Protocol::Http,
        client_address: "10.0.0.1".parse().unwrap(),
        server_address: "10.0.0.2".parse().unwrap(),
        server_port: 80,
        service_name: "shop",
        side: Side::Server,
        status,
        http_request_method: "GET",
        url_template: path,
        time_to_last_byte_ns: latency,
        time_to_first_byte_ns: latency,
        request_bytes: 100,
        response_bytes: 1_000,
        ..RequestRecord::default()
    }
}

async fn number(client: &Client, sql: &str) -> u64 {
    client.query_raw(sql).fetch_one::<u64>().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

#[derive(Row, Deserialize)]
struct Quantile {
    endpoint: String,
    value: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn quantiles_of_a_thousand_pods_are_within_one_percent_at_every_step() {
    let Ready { bench, url, ports, client, .. } = Ready::start("quantiles", &[]).await;
    let mut exact = BTreeMap::new();
    let sent = pods(now_ns(), &mut exact);
    deliver(&ports, &sent).await.expect("acknowledged");
    exact.values_mut().for_each(|samples| samples.sort_unstable());
    let total = PODS * SAMPLES_A_POD * SHAPES.len() as u64;
    stored(&client, total).await;
    bench.command(&url, &["rollup"]);
    let mut worst = 0f64;
    for view in ["red", "red_1m", "red_1h", "red_1d"] {
        for q in [0.01, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
            let sql = format!(
                "SELECT toString(endpoint) AS endpoint, podtap_quantile({q}, sumMap(time_to_last_byte_ns_buckets)) AS value \
                 FROM {view} GROUP BY endpoint"
            );
            let rows = client.query_raw(&sql).fetch_all::<Quantile>().await.unwrap();
            assert_eq!(rows.len(), SHAPES.len());
            for row in rows {
                let samples = &exact[row.endpoint.strip_prefix("GET ").unwrap()];
                let rank = ((q * samples.len() as f64).ceil() as usize).max(1);
                let truth = samples[rank - 1];
                let error = row.value.abs_diff(truth) as f64 / truth as f64;
                assert!(error <= 0.01, "{view} {} q {q}: {} instead of {truth}", row.endpoint, row.value);
                worst = worst.max(error);
            }
        }
    }
    println!("{total} samples of {PODS} pods, {} shapes: off by at most {:.3} %", SHAPES.len(), worst * 100.0);
    let sql = "SELECT toString(endpoint) AS endpoint, quantile_ns AS value FROM latency(from = toDateTime(0, 'UTC'), \
               to = now() + 60, service = 'shop', quantile = 0.5) WHERE endpoint = 'GET /uniform'";
    let row = client.query_raw(sql).fetch_one::<Quantile>().await.unwrap();
    let truth = exact["/uniform"][exact["/uniform"].len() / 2 - 1];
    assert!(row.value.abs_diff(truth) as f64 / truth as f64 <= 0.01, "{} instead of {truth}", row.value);
}

/// A batch of a sender with records at these times.
fn batch(sequence: u64, times: &[u64], counters: Vec<CounterSample>) -> EncodedBatch {
    let resource = Resource { k8s_pod_name: "shop-1".to_owned(), k8s_namespace_name: "shop".to_owned(), ..Resource::default() };
    let mut builder = BatchBuilder::new("sender".to_owned(), [3; 16], resource);
    for (number, time) in times.iter().enumerate() {
        let status = if number % 10 == 0 { Status::ServerError } else { Status::Ok };
        let path = ["/a", "/b", "/c"][number % 3];
        builder.push(&record(*time, path, Some(1_000_000 + number as u64 * 7_919 % 5_003 * 1_000), status));
    }
    builder.finish(sequence, now_ns(), counters)
}

/// Everything that a view says, without its windows: equal at every step.
async fn summed(client: &Client, view: &str) -> Vec<String> {
    let sql = format!(
        "SELECT toString((toString(service_name), toString(k8s_pod_name), toString(endpoint), toString(status), toString(peer), \
         sum(count), sum(errors), sum(time_to_last_byte_ns_sum), max(time_to_last_byte_ns_max), sum(request_bytes), sum(response_bytes), \
         mapSort(sumMap(time_to_last_byte_ns_buckets)), mapSort(sumMap(time_to_first_byte_ns_buckets)))) AS line \
         FROM {view} GROUP BY service_name, k8s_pod_name, endpoint, status, peer ORDER BY line"
    );
    client.query_raw(&sql).fetch_all::<String>().await.unwrap_or_else(|error| panic!("{view}: {error}"))
}

async fn all_steps_agree(client: &Client, requests: u64, what: &str) {
    assert_eq!(number(client, "SELECT sum(count) FROM red").await, requests, "{what}");
    let fine = summed(client, "red").await;
    for view in ["red_1m", "red_1h", "red_1d"] {
        assert_eq!(summed(client, view).await, fine, "{what}: {view}");
    }
}

/// Waits until so many records are stored, and manifests say so: they come last, and what is due goes by them.
async fn stored(client: &Client, records: u64) {
    until("everything is stored, with its manifests", async || {
        (number(client, "SELECT sum(records) FROM ingest_blocks FINAL").await == records).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roll_ups_equal_what_they_are_made_from() {
    let Ready { bench, url, ports, client, .. } = Ready::start("rollups", &["--rollup-interval=1s"]).await;
    let now = now_ns();
    // Thirty hours and this one: what has ended is rolled up by itself, the rest on demand.
    let times: Vec<u64> = (0..4_000u64).map(|number| now - (number * 67 % 108_000) * SECOND).collect();
    deliver(&ports, &[batch(1, &times, Vec::new())]).await.expect("acknowledged");
    stored(&client, 4_000).await;
    until("hours and days are rolled up by themselves", async || {
        let spans = "SELECT toUInt64(countIf(step = '1h') >= 29 AND countIf(step = '1d') >= 1) FROM rollup_spans FINAL";
        (number(&client, spans).await == 1).then_some(())
    })
    .await;
    all_steps_agree(&client, 4_000, "rolled up but for the running hour").await;
    let raw = "SELECT count() FROM red WHERE intDiv(toUnixTimestamp(window), 3600) NOT IN \
               (SELECT span FROM rollup_spans FINAL WHERE step = '1h')";
    assert!(number(&client, raw).await > 0, "the running hour is left to its ten-second rows");
    bench.command(&url, &["rollup"]);
    assert_eq!(number(&client, raw).await, 0);
    all_steps_agree(&client, 4_000, "everything rolled up").await;
    let before = number(&client, "SELECT count() FROM rollup_spans FINAL").await;
    assert!(bench.command(&url, &["rollup"]).starts_with("hours: 0, days: 0"), "nothing is due twice");

    // Late records, of hours and days that were rolled up, and of one that had nothing.
    let late: Vec<u64> = (0..300u64).map(|number| now - (number * 997 % 180_000) * SECOND).collect();
    deliver(&ports, &[batch(2, &late, Vec::new())]).await.expect("acknowledged");
    stored(&client, 4_300).await;
    bench.command(&url, &["rollup"]);
    all_steps_agree(&client, 4_300, "after late records").await;
    assert!(number(&client, "SELECT count() FROM rollup_spans FINAL").await > before);
    for table in ["1m", "1h", "1d"] {
        let sql = format!("SELECT uniqExact(version) FROM request_histograms_{table} GROUP BY span ORDER BY 1 DESC LIMIT 1");
        // The one in force, the one before, and what an analyzer that computed at the same time may have left of either.
        assert!(number(&client, &sql).await <= 4, "superseded versions are removed from {table}");
    }
}

/// A service that has more endpoints, clients, servers and errors than a span keeps apart: the rare ones become one, nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn roll_ups_bound_what_a_service_keeps_apart() {
    let Ready { bench, url, ports, client, .. } = Ready::start("bounds", &[]).await;
    let now = now_ns();
    let (paths, errors): (Vec<_>, Vec<_>) = (0..4_500).map(|number| (format!("/page-{number:04}"), format!("E{}", number % 600))).unzip();
    let mut builder = BatchBuilder::new("sender".to_owned(), [3; 16], Resource::default());
    for number in 0..4_500usize {
        let ip = |net: u8| std::net::Ipv4Addr::new(net, 0, (number / 250) as u8, (number % 250) as u8).into();
        let status = if number % 2 == 0 { Status::ServerError } else { Status::Ok };
        let served = RequestRecord {
            client_address: ip(198),
            error_type: if number % 2 == 0 { &errors[number] } else { "" },
            ..record(now, &paths[number], Some(5_000_000), status)
        };
        let called = RequestRecord { side: Side::Client, server_address: ip(203), url_template: "/", ..record(now, "/", None, Status::Ok) };
        // The first ones are frequent.
        for _ in 0..if number < 700 { 3 } else { 1 } {
            builder.push(&served);
            builder.push(&called);
        }
    }
    let total = 2 * (4_500 + 2 * 700);
    deliver(&ports, &[builder.finish(1, now, Vec::new())]).await.expect("acknowledged");
    stored(&client, total).await;
    bench.command(&url, &["rollup"]);
    let figures =
        "sum(count), sum(errors), sum(time_to_last_byte_ns_sum), sum(request_bytes), mapSort(sumMap(time_to_last_byte_ns_buckets))";
    let totals =
        async |view: &str| client.query_raw(&format!("SELECT toString(({figures})) FROM {view}")).fetch_one::<String>().await.unwrap();
    let fine = totals("red").await;
    assert_eq!(number(&client, "SELECT uniqExact(endpoint) + uniqExact(peer) FROM red").await, 4_501 + 9_000);
    for view in ["red_1m", "red_1h", "red_1d"] {
        assert_eq!(totals(view).await, fine, "{view}");
        let of = |what: &str| format!("SELECT toUInt64({what}) FROM {view}");
        let check = async |what: &str, expect: u64| assert_eq!(number(&client, &of(what)).await, expect, "{view}: {what}");
        check("uniqExact(endpoint)", 4_001).await;
        check("uniqExact(peer)", 1_001).await;
        check("uniqExact(error_type)", 202).await;
        check("uniqExact(server_address) <= 1_000 + 2", 1).await;
        let rarest = format!("SELECT min(n) FROM (SELECT sum(count) AS n FROM {view} WHERE peer != '(overflow)' GROUP BY peer)");
        assert_eq!(number(&client, &rarest).await, 3, "{view}: those with most exchanges stay");
        check("sumIf(count, endpoint = 'GET /page-0699')", 3).await;
        check("uniqExactIf((server_address, server_port), peer = '(overflow)' AND side = 'client')", 1).await;
    }
    let told = "SELECT sum(overflowed_requests) FROM rollup_spans FINAL WHERE step = '1d'";
    let counted = "SELECT sum(count) FROM red_1d WHERE endpoint = '(overflow)' OR peer = '(overflow)' OR error_type = '(overflow)'";
    let overflowed = number(&client, told).await;
    assert_eq!(overflowed, number(&client, counted).await);
    assert!(overflowed > 0 && overflowed < total, "{overflowed} of {total}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_the_first_schema_is_brought_up_to_date() {
    let mut bench = Bench::new("upgrade");
    let url = bench.clickhouse();
    let bare = Client::default().with_url(&url);
    let first = &MIGRATIONS[0];
    let statements = preamble("podtap").into_iter().chain(first.statements("podtap")).chain([first.record("podtap")]);
    for statement in statements {
        bare.query_raw(&statement).execute().await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let client = bare.clone().with_database("podtap");
    // As the first schema had it, with what an analyzer of that time left: a complete block and one that is not.
    client.query_raw("ALTER TABLE requests DROP COLUMN keep").execute().await.unwrap();
    let old = "INSERT INTO request_histograms (window, service_name, endpoint, status, side, count, time_to_last_byte_ns_buckets, topic, \
               incarnation, partition, block, classification, version) SELECT toDateTime(now() - 7200 - number * 10), 'shop', 'GET /old', \
               'ok', 'server', 5, map(700, 5), 'grpc', 'old', 0, 0, 1, 2000 FROM numbers(400)";
    client.query_raw(old).execute().await.unwrap();
    let manifest = "INSERT INTO ingest_blocks (topic, incarnation, partition, block, block_end, version, complete, classification, \
                    batches, records, first_message_time, last_message_time) VALUES \
                    ('grpc', 'old', 0, 0, 2000, 2000, 1, 1, 2000, 2000, now64(9) - 11300, now64(9) - 7200)";
    client.query_raw(manifest).execute().await.unwrap();
    client
        .query_raw("INSERT INTO requests (timestamp, service_name, topic, version) VALUES (now64(9), 'shop', 'grpc', 1)")
        .execute()
        .await
        .unwrap();

    let pending = bench.command(&url, &["migrate", "--dry-run"]);
    assert!(pending.contains("request_histograms_1m") && pending.contains("ADD COLUMN IF NOT EXISTS `keep`"), "{pending}");
    let ports = Ports::free();
    let analyzer = bench.analyzer(&url, &ports, &["--retention=requests=3,request_histograms_1h=900"]);
    ready(&ports).await;
    assert_eq!(
        bench.command(&url, &["migrate", "--dry-run", "--retention=requests=3,request_histograms_1h=900"]),
        "",
        "nothing is left to do"
    );
    assert_eq!(number(&client, "SELECT count() FROM requests FINAL WHERE keep = 0").await, 1);
    deliver(&ports, &[batch(1, &[now_ns(); 20], Vec::new())]).await.expect("acknowledged");
    stored(&client, 2_020).await;
    bench.command(&url, &["rollup", "--retention=requests=3,request_histograms_1h=900"]);
    all_steps_agree(&client, 2_020, "old and new").await;
    let ttl = "SELECT count() FROM system.tables WHERE database = 'podtap' AND \
               (name = 'requests' AND engine_full LIKE '%toIntervalDay(3) WHERE keep = 0%' \
               OR name = 'request_histograms_1h' AND engine_full LIKE '%toIntervalDay(900)%')";
    assert_eq!(number(&client, ttl).await, 2);
    // The same again, and with other settings back: both are done while it stands.
    bench.kill(analyzer);
    bench.analyzer(&url, &ports, &[]);
    ready(&ports).await;
    all_steps_agree(&client, 2_020, "after another start").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_manifests_are_removed_but_the_youngest_of_each_partition() {
    let mut bench = Bench::new("manifests");
    let url = bench.clickhouse();
    bench.command(&url, &["migrate"]);
    let client = Client::default().with_url(&url).with_database("podtap");
    let written = "INSERT INTO ingest_blocks \
                   (topic, incarnation, partition, block, block_end, version, complete, received, last_message_time) \
                   SELECT 'silent', 'x', number % 2, intDiv(number, 2) * 2000, intDiv(number, 2) * 2000 + 2000, 1, number < 8, \
                   [('s', lower(hex(toFixedString('boot-of-a-sender', 16))), number + 1, number + 1)], \
                   now64(9) - toIntervalDay(100 - number) FROM numbers(10)";
    client.query_raw(written).execute().await.unwrap();
    let ports = Ports::free();
    bench.analyzer(&url, &ports, &["--rollup-interval=1s"]);
    until("they are removed", async || (number(&client, "SELECT count() FROM ingest_blocks FINAL").await == 4).then_some(())).await;
    let left = "SELECT count() FROM ingest_blocks FINAL WHERE (complete = 1 AND block = 6000) OR (complete = 0 AND block = 8000)";
    assert_eq!(number(&client, left).await, 4, "the youngest complete one, from which reading goes on, and the open one");
    assert_eq!(number(&client, "SELECT toUInt64(missing) FROM sender_sequences").await, 0, "what is removed is not missing");
}

/// No cluster can run here; that the engine understands every statement is what can be tried.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_gets_is_sql_to_the_engine() {
    let mut bench = Bench::new("cluster-sql");
    let url = bench.clickhouse();
    let client = Client::default().with_url(&url);
    let text = bench.command(&url, &["migrate", "--print", "--clickhouse-cluster", "shards"]);
    let statements: Vec<_> = text.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()).collect();
    assert!(statements.len() > 40, "{text}");
    for statement in statements {
        let parsed = client.query("SELECT length(formatQuery(?))").bind(statement.trim_end_matches(';')).fetch_one::<u64>().await;
        assert!(parsed.is_ok(), "{statement}: {parsed:?}");
    }
    assert!(client.query_raw("SELECT length(formatQuery('CREATE TABEL x'))").fetch_one::<u64>().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn views_have_the_columns_that_the_documentation_says() {
    let mut bench = Bench::new("views");
    let url = bench.clickhouse();
    bench.command(&url, &["migrate"]);
    for (view, question, columns) in VIEWS {
        let sql = format!("DESCRIBE (SELECT * FROM {question}) FORMAT TSV");
        let answer = reqwest::Client::new().post(format!("{url}/?database=podtap")).body(sql).send().await.unwrap();
        let text = answer.text().await.unwrap().replace("\\'", "'");
        let found: Vec<_> = text.lines().map(|line| line.split('\t').take(2).collect::<Vec<_>>().join(" ")).collect();
        let expect: Vec<_> = columns.iter().map(|(name, kind, _, _)| format!("{name} {kind}")).collect();
        assert_eq!(found, expect, "{view}");
    }
    // Views without parameters say what their columns mean, as tables do.
    let described = "SELECT table, countIf(comment != '') AS said, count() AS all FROM system.columns WHERE database = 'podtap' \
                     AND table IN ('red', 'red_1m', 'red_1h', 'red_1d', 'requests_once', 'sender_sequences', 'addresses') \
                     GROUP BY table ORDER BY table FORMAT TSV";
    let answer = reqwest::Client::new().post(format!("{url}/?database=podtap")).body(described).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert_eq!(text.lines().count(), 7, "{text}");
    assert!(text.lines().all(|line| line.split('\t').nth(1) == line.split('\t').nth(2)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sampling_leaves_the_histograms_alone_and_completeness_adds_up() {
    let Ready { bench: _bench, ports, client, .. } = Ready::start("sampling", &["--request-sampling=0.1"]).await;
    let counters = |factor: u64| {
        let sample = |name: &str, reason: &str, value| CounterSample { name: name.to_owned(), reason: reason.to_owned(), value };
        vec![
            sample("podtap_packets_received_total", "", 90_000 * factor),
            sample("podtap_packets_dropped_total", "kernel", 10_000 * factor),
            sample("podtap_records_total", "http", 6_000 * factor),
            sample("podtap_records_dropped_total", "queue_full", 1_000 * factor),
        ]
    };
    // 10,000 of 12,000 records arrive; batch 2 never does.
    let first = batch(1, &[now_ns(); 5_000], counters(1));
    let third = batch(3, &[now_ns(); 5_000], counters(2));
    deliver(&ports, &[first, third]).await.expect("acknowledged");
    stored(&client, 10_000).await;
    until("and its manifest", async || (number(&client, "SELECT sum(records) FROM ingest_blocks FINAL").await == 10_000).then_some(()))
        .await;
    let ordinary = number(&client, "SELECT count() FROM requests FINAL WHERE keep = 0").await;
    let failed = number(&client, "SELECT count() FROM requests FINAL WHERE keep = 1 AND status != 'ok'").await;
    let slow = number(&client, "SELECT count() FROM requests FINAL WHERE keep = 1 AND status = 'ok'").await;
    assert_eq!(failed, 1_000, "every failed one");
    assert!((600..1_200).contains(&ordinary), "a tenth of the rest: {ordinary}");
    assert!(slow > 0, "and the slowest");
    let left_out = number(&client, "SELECT sum(sampled_requests) FROM ingest_blocks FINAL").await;
    assert_eq!(left_out + ordinary + failed + slow, 10_000, "what is left out is counted");
    let buckets = "SELECT arraySum(mapValues(sumMap(time_to_last_byte_ns_buckets))) FROM red";
    assert_eq!(number(&client, buckets).await, 10_000, "histograms count everything");

    #[derive(Debug, Row, Deserialize, PartialEq)]
    struct Complete {
        pod: String,
        seen: f64,
        delivered: f64,
        stored: f64,
        missing: u64,
    }
    let sql = "SELECT toString(k8s_pod_name) AS pod, seen_share AS seen, delivered_share AS delivered, stored_share AS stored, \
               toUInt64(batches_missing) AS missing FROM completeness(from = now() - 600, to = now() + 60)";
    let rows = client.query_raw(sql).fetch_all::<Complete>().await.unwrap();
    let share = |of: f64| (of * 1e6).round() / 1e6;
    let found: Vec<_> =
        rows.iter().map(|row| (row.pod.as_str(), share(row.seen), share(row.delivered), share(row.stored), row.missing)).collect();
    assert_eq!(found, [("shop-1", 0.9, share(10.0 / 12.0), share(10.0 / 12.0), 1)]);
}

/// A batch with as many records, and what the sidecar of that pod has counted by then.
fn counted(pod: &str, boot: u8, sequence: u64, records: usize, counters: &[(&str, u64)]) -> EncodedBatch {
    counted_at(now_ns(), pod, boot, sequence, records, counters)
}

/// The same, of a batch that was closed at that time.
fn counted_at(closed_ns: u64, pod: &str, boot: u8, sequence: u64, records: usize, counters: &[(&str, u64)]) -> EncodedBatch {
    let resource = Resource { k8s_pod_name: pod.to_owned(), k8s_namespace_name: "shop".to_owned(), ..Resource::default() };
    let mut builder = BatchBuilder::new(pod.to_owned(), [boot; 16], resource);
    for _ in 0..records {
        builder.push(&record(now_ns(), "/a", Some(1_000_000), Status::Ok));
    }
    let sample = |(name, value): &(&str, u64)| CounterSample { name: (*name).to_owned(), reason: String::new(), value: *value };
    builder.finish(sequence, closed_ns, counters.iter().map(sample).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn completeness_counts_a_boot_from_its_start_though_its_first_batch_was_lost() {
    let Ready { bench: _bench, ports, client, .. } = Ready::start("completeness", &["--rollup-interval=1s"]).await;
    let made = |count| ("podtap_records_total", count);
    let started = |seconds_ago: u64| ("process_start_time_seconds", now_ns() / SECOND - seconds_ago);
    // Of 4,000 records the first batch's thousand is lost; nothing says when the boot began, but nobody knew it before.
    let lost = [counted("lost", 1, 2, 1_500, &[made(2_500)]), counted("lost", 1, 3, 1_500, &[made(4_000)])];
    deliver(&ports, &lost).await.expect("acknowledged");
    // The same, in a boot that says that it began a minute ago.
    deliver(&ports, &[counted("told", 2, 2, 300, &[made(400), started(60)])]).await.expect("acknowledged");
    // One that began long before the period made only what its counter grew by in it, for all that is known.
    let earlier = counted_at(now_ns() - 60 * SECOND, "old", 3, 700, 100, &[made(90_000), started(7_200)]);
    deliver(&ports, &[earlier, counted("old", 3, 701, 200, &[made(90_200)])]).await.expect("acknowledged");
    // Counters that say less than what is stored are not complete, and must not look so.
    deliver(&ports, &[counted("more", 4, 1, 500, &[made(400)])]).await.expect("acknowledged");
    deliver(&ports, &[counted("silent", 5, 1, 50, &[("podtap_packets_received_total", 7)])]).await.expect("acknowledged");
    let stored = 3_000 + 300 + 300 + 500 + 50;
    until("everything is stored", async || (number(&client, "SELECT sum(records) FROM ingest_blocks FINAL").await == stored).then_some(()))
        .await;

    #[derive(Debug, Row, Deserialize)]
    struct Complete {
        pod: String,
        made: u64,
        stored: u64,
        share: f64,
        missing: u64,
    }
    let sql = "SELECT toString(k8s_pod_name) AS pod, toUInt64(records_made) AS made, toUInt64(records_stored) AS stored, \
               stored_share AS share, toUInt64(batches_missing) AS missing \
               FROM completeness(from = now() - 600, to = now() + 60) ORDER BY pod";
    let rows = client.query_raw(sql).fetch_all::<Complete>().await.unwrap();
    let found: Vec<_> = rows.iter().map(|row| (row.pod.as_str(), row.made, row.stored, row.share)).collect();
    let expect = [
        ("lost", 4_000, 3_000, 0.75),
        ("more", 400, 500, 1.25),
        ("old", 200, 300, 1.5),
        ("silent", 0, 50, f64::INFINITY),
        ("told", 400, 300, 0.75),
    ];
    assert_eq!(found, expect);
    let missing: Vec<_> = rows.iter().map(|row| row.missing).collect();
    assert_eq!(missing, [1, 0, 699, 0, 1]);
    // The view and the metric agree, also about what is missing before the first that came.
    assert_eq!(number(&client, "SELECT toUInt64(sum(missing)) FROM sender_sequences").await, 701);
    until("the metric says so", async || (metric(&ports, "podtap_ingest_missing_batches_total").await == 701.0).then_some(())).await;
}
