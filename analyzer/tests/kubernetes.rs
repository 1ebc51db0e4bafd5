//! Who an address belonged to, who called whom, and what containers used, asked as people ask: records as sidecars send them,
//! intervals as the watch stores them, answers from the embedded engine.

// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stage;

use std::net::IpAddr;
use std::time::SystemTime;

use clickhouse::{Client, Row};
use podtap_analyzer::ingest::cadvisor::samples::{ContainerSample, Network};
use podtap_analyzer::ingest::kubernetes::intervals::{Interval, Kind, Workload};
use podtap_analyzer::store::clickhouse::{Access, ClickHouse};
use podtap_analyzer::store::cluster::Layout;
use podtap_analyzer::store::retention::Retention;
use podtap_wire::proto::Resource;
use podtap_wire::{BatchBuilder, EncodedBatch, Protocol, RequestRecord, Side, Status};
use serde::Deserialize;
use stage::{Bench, Ready, deliver, until};

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

fn store(url: &str) -> ClickHouse {
    ClickHouse::new(&Access {
        url: url.to_owned(),
        user: "default".to_owned(),
        password: String::new(),
        database: "podtap".to_owned(),
        layout: Layout::Single,
        retention: Retention::default(),
    })
}

fn workload(kind: &str, name: &str) -> Workload {
    Workload { kind: kind.to_owned(), name: name.to_owned() }
}

/// Ten minutes ago, at the start of ten seconds.
fn past() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    (now / SECOND - 600) / 10 * 10 * SECOND
}

fn pod(address: &str, owner: &Workload, name: &str, from_ns: u64, to_ns: Option<u64>) -> Interval {
    let millis = |time: u64| i64::try_from(time / MILLISECOND).unwrap();
    Interval {
        address: address.parse().unwrap(),
        kind: Kind::Pod,
        uid: format!("uid-{name}"),
        ordinal: 0,
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        workload: owner.clone(),
        node: "node1".to_owned(),
        backends: Vec::new(),
        from: millis(from_ns),
        to: to_ns.map(millis),
    }
}

fn service(address: &str, name: &str, backends: &[Workload], from_ns: u64) -> Interval {
    let of_pod = pod(address, &Workload::default(), name, from_ns, None);
    Interval { kind: Kind::Service, node: String::new(), backends: backends.to_vec(), ..of_pod }
}

/// A sidecar that sends what it saw in one batch.
struct Sidecar {
    name: &'static str,
    workload: &'static str,
    address: IpAddr,
    builder: BatchBuilder,
    sequence: u64,
}

impl Sidecar {
    fn new(number: u64, name: &'static str, workload: &'static str, address: &str) -> Self {
        let resource = Resource {
            k8s_namespace_name: "shop".to_owned(),
            k8s_pod_name: name.to_owned(),
            k8s_pod_uid: format!("uid-{name}"),
            k8s_node_name: "node1".to_owned(),
            k8s_workload_kind: "Deployment".to_owned(),
            k8s_workload_name: workload.to_owned(),
        };
        let builder = BatchBuilder::new(name.to_owned(), [number as u8; 16], resource);
        Self { name, workload, address: address.parse().unwrap(), builder, sequence: number }
    }

    fn saw(&mut self, side: Side, time: u64, other: &str, numbers: Option<(u64, u64)>, status: Status) {
        let numbers = (numbers.map(|(request, _)| request), numbers.map(|(_, response)| response));
        self.saw_bytes(side, time, other, numbers, status, (80, Some(5 * MILLISECOND)));
    }

    /// The same with one number alone, and other bytes of the request and latency.
    fn saw_bytes(
        &mut self,
        side: Side,
        time: u64,
        other: &str,
        numbers: (Option<u64>, Option<u64>),
        status: Status,
        more: (u64, Option<u64>),
    ) {
        let other: IpAddr = other.parse().unwrap();
        let (client, server) = if side == Side::Client { (self.address, other) } else { (other, self.address) };
        let service = format!("shop/{}", self.workload);
        self.builder.push(&RequestRecord {
            timestamp: time,
            network_protocol_name: Protocol::Http,
            client_address: client,
            server_address: server,
            server_port: 8_080,
            service_name: &service,
            side,
            status,
            tcp_request_sequence: numbers.0,
            tcp_response_sequence: numbers.1,
            request_bytes: more.0,
            response_bytes: if numbers.1.is_some() { 200 } else { 0 },
            http_request_method: "GET",
            url_template: "/items",
            time_to_last_byte_ns: more.1,
            k8s_pod_name: self.name,
            ..RequestRecord::default()
        });
    }

    fn batch(self, now: u64) -> EncodedBatch {
        let mut builder = self.builder;
        builder.finish(self.sequence, now, Vec::new())
    }
}

#[derive(Debug, Row, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    from: String,
    to: String,
    requests: u64,
    errors: u64,
    more: u64,
}

fn line(from: &str, to: &str, requests: u64, errors: u64, more: u64) -> Line {
    Line { from: from.to_owned(), to: to.to_owned(), requests, errors, more }
}

async fn lines(client: &Client, sql: &str) -> Vec<Line> {
    let mut lines = client.query_raw(sql).fetch_all::<Line>().await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    lines.sort();
    lines
}

async fn number(client: &Client, sql: &str) -> u64 {
    client.query_raw(sql).fetch_one::<u64>().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

const BACK_SERVICE: &str = "10.96.0.10";
const MIXED_SERVICE: &str = "10.96.0.11";
const REUSED: &str = "10.244.3.3";
const DATABASE: &str = "10.244.2.2";

fn owners(past: u64) -> Vec<Interval> {
    let before = past - 3_600 * SECOND;
    let (front, back) = (workload("Deployment", "front"), workload("Deployment", "back"));
    let database = workload("StatefulSet", "db");
    let (first, second) = (workload("Deployment", "first"), workload("Deployment", "second"));
    vec![
        pod("10.244.0.5", &front, "front-1", before, None),
        pod("10.244.1.7", &back, "back-1", before, None),
        pod(DATABASE, &database, "db-0", before, None),
        // Used again at once: nobody's for the second in which it changed hands.
        pod(REUSED, &first, "first-1", before, Some(past + 104 * SECOND)),
        pod(REUSED, &second, "second-1", past + 105 * SECOND, None),
        service(BACK_SERVICE, "back", std::slice::from_ref(&back), before),
        service(MIXED_SERVICE, "mixed", &[back, workload("Deployment", "other")], before),
    ]
}

/// What both sidecars saw.
fn traffic(past: u64) -> [EncodedBatch; 2] {
    let mut front = Sidecar::new(1, "front-1", "front", "10.244.0.5");
    let mut back = Sidecar::new(2, "back-1", "back", "10.244.1.7");
    let (to_back, to_front) = (BACK_SERVICE, "10.244.0.5");
    for number in 0..1_000u64 {
        let (time, numbers) = (past + number * 50 * MILLISECOND, Some((number * 4_001, number * 7_001)));
        let status = if number % 100 == 0 { Status::ServerError } else { Status::Ok };
        // The clocks of the nodes are two seconds apart.
        front.saw(Side::Client, time + 2 * SECOND, to_back, numbers, status);
        back.saw(Side::Server, time, to_front, numbers, status);
    }
    for number in 0..50u64 {
        front.saw(Side::Client, past + number * SECOND, to_back, Some((4_000_000_000 + number, 1)), Status::Ok);
    }
    for number in 0..30u64 {
        back.saw(Side::Server, past + number * SECOND, to_front, Some((4_100_000_000 + number, 1)), Status::Ok);
    }
    // The same numbers again a minute later are another exchange; without numbers nothing is joined.
    front.saw(Side::Client, past + 60 * SECOND, to_back, Some((4_200_000_000, 9)), Status::Ok);
    back.saw(Side::Server, past + 120 * SECOND, to_front, Some((4_200_000_000, 9)), Status::Ok);
    front.saw(Side::Client, past + 61 * SECOND, to_back, None, Status::NoResponse);
    back.saw(Side::Server, past + 61 * SECOND, to_front, None, Status::NoResponse);
    for number in 0..200u64 {
        back.saw(Side::Client, past + number * 100 * MILLISECOND, DATABASE, Some((number * 1_000 + 5, 5)), Status::Ok);
    }
    for number in 0..20u64 {
        front.saw(Side::Client, past + 80 * SECOND + number * SECOND, REUSED, Some((number + 1_000_000, 3)), Status::Ok);
    }
    // Within the ten seconds in which the address changed hands, on both sides of it.
    for number in [101, 102, 106, 107, 108] {
        front.saw(Side::Client, past + number * SECOND, REUSED, Some((number + 2_000_000, 3)), Status::Ok);
    }
    for number in 0..30u64 {
        front.saw(Side::Client, past + 150 * SECOND + number * SECOND, REUSED, Some((number + 3_000_000, 3)), Status::ServerError);
    }
    for number in 0..5u64 {
        front.saw(Side::Both, past + number * SECOND, "10.244.0.5", Some((number + 5_000_000, 3)), Status::Ok);
    }
    for number in 0..7u64 {
        front.saw(Side::Client, past + number * SECOND, "2001:db8::1", Some((number + 6_000_000, 3)), Status::Ok);
    }
    for number in 0..3u64 {
        front.saw(Side::Client, past + number * SECOND, MIXED_SERVICE, Some((number + 7_000_000, 3)), Status::Ok);
    }
    let now = past + 600 * SECOND;
    [front.batch(now), back.batch(now)]
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_once_and_named_by_who_had_the_address_then() {
    let Ready { bench: _bench, url, ports, client, .. } = Ready::start("kubernetes", &["--kubernetes=off"]).await;
    let past = past();
    store(&url).write_owners(owners(past).iter()).await.unwrap();
    deliver(&ports, &traffic(past)).await.expect("acknowledged");
    let total = 2_000 + 50 + 30 + 4 + 200 + 20 + 5 + 30 + 5 + 7 + 3;
    until("everything is stored", async || (number(&client, "SELECT sum(count) FROM red").await == total).then_some(())).await;
    let period = format!("from = toDateTime({}, 'UTC'), to = toDateTime({}, 'UTC')", past / SECOND, past / SECOND + 600);

    // 1,000 were seen at both ends, 52 at the client's only, 32 at the server's only.
    let calls = format!("SELECT client AS from, server AS to, requests, errors, seen_at_both_ends AS more FROM calls({period})");
    assert_eq!(
        lines(&client, &calls).await,
        [
            line("shop/back", "shop/db", 200, 0, 0),
            line("shop/front", "[2001:db8::1]:8080", 7, 0, 0),
            line("shop/front", "shop/back", 1_084, 12, 1_000),
            line("shop/front", "shop/first", 22, 0, 0),
            line("shop/front", "shop/front", 5, 0, 0),
            line("shop/front", "shop/mixed", 3, 0, 0),
            line("shop/front", "shop/second", 33, 30, 0),
        ]
    );
    let services = format!("SELECT toUInt64(called_services = ['shop/back']) FROM calls({period}) WHERE server = 'shop/back'");
    assert_eq!(number(&client, &services).await, 1, "it was called by the service's address");
    let kinds = format!(
        "SELECT server AS from, server_k8s_workload_kind AS to, requests, errors, 0::UInt64 AS more FROM calls({period}) \
         WHERE requests IN (3, 200)"
    );
    assert_eq!(lines(&client, &kinds).await, [line("shop/db", "StatefulSet", 200, 0, 0), line("shop/mixed", "Service", 3, 0, 0)]);
    let buckets = format!("SELECT arraySum(mapValues(sumMap(time_to_last_byte_ns_buckets))) FROM calls({period})");
    assert_eq!(number(&client, &buckets).await, 1_084 + 200 + 7 + 22 + 5 + 3 + 33);
    // Periods that follow each other share nothing and lose nothing, also where the ends' clocks lie on either side.
    let mut parts = 0;
    for start in (0..600).step_by(7) {
        let (from, to) = (past / SECOND + start, past / SECOND + (start + 7).min(600));
        let sql = format!("SELECT count() FROM exchanges(from = toDateTime({from}, 'UTC'), to = toDateTime({to}, 'UTC'))");
        parts += number(&client, &sql).await;
    }
    assert_eq!(parts, 1_084 + 200 + 7 + 22 + 5 + 3 + 33);

    // A workload's own server side counts; what callers saw only where it has none. `more`: whose side it is.
    let workloads = format!(
        "SELECT workload AS from, k8s_workload_kind AS to, requests, errors, toUInt64(counted_at = 'client') AS more \
         FROM workloads({period})"
    );
    assert_eq!(
        lines(&client, &workloads).await,
        [
            line("[2001:db8::1]:8080", "", 7, 0, 1),
            line("shop/back", "Deployment", 1_032, 11, 0),
            line("shop/db", "StatefulSet", 200, 0, 1),
            line("shop/first", "Deployment", 22, 0, 1),
            line("shop/front", "Deployment", 5, 0, 0),
            line("shop/second", "Deployment", 33, 30, 1),
        ]
    );
    let ambiguous = format!("SELECT toUInt64(sum(count)) FROM red_named({period}) WHERE changed_hands");
    assert_eq!(number(&client, &ambiguous).await, 5, "a window with two owners names none of them");
    let named =
        format!("SELECT count() FROM requests_named({period}) WHERE peer = 'shop/second' AND peer_k8s_workload_kind = 'Deployment'");
    assert_eq!(number(&client, &named).await, 33);
    // A period that ends between the two owners covers the whole ten seconds, however they are asked for.
    let (from, to) = (past / SECOND + 103, past / SECOND + 106);
    let hands = format!(
        "SELECT workload AS from, toString(covered_to - covered_from) AS to, requests, errors, \
         toUInt64(round(requests_per_second * 10)) AS more \
         FROM workloads(from = toDateTime({from}, 'UTC'), to = toDateTime({to}, 'UTC'))"
    );
    assert_eq!(lines(&client, &hands).await, [line("shop/first", "10", 2, 0, 2), line("shop/second", "10", 3, 0, 3)]);
}

#[derive(Debug, Row, Deserialize, PartialEq, Eq)]
struct Exchange {
    seen: String,
    status: String,
    client_status: String,
    latency: u64,
    client_latency: u64,
    response_bytes: u64,
}

const UNKNOWN: u64 = u64::MAX;

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_whose_answer_one_end_alone_saw_is_one() {
    let Ready { bench: _bench, url, ports, client, .. } = Ready::start("kubernetes-ends", &["--kubernetes=off"]).await;
    let past = past();
    store(&url).write_owners(owners(past).iter()).await.unwrap();
    let mut front = Sidecar::new(1, "front-1", "front", "10.244.0.5");
    let mut back = Sidecar::new(2, "back-1", "back", "10.244.1.7");
    let (answer, none) = ((80, Some(5 * MILLISECOND)), (80, None));
    let slow = (80, Some(7 * MILLISECOND));
    // Half a minute for each, so that nothing of one is near another; the clocks of the nodes are two seconds apart.
    let mut seen =
        |turn: u64, request: Option<u64>, called: (Option<u64>, (u64, Option<u64>)), served: (Option<u64>, (u64, Option<u64>))| {
            let status = |answer: Option<u64>| if answer.is_some() { Status::Ok } else { Status::NoResponse };
            let time = past + turn * 30 * SECOND + SECOND;
            front.saw_bytes(Side::Client, time + 2 * SECOND, BACK_SERVICE, (request, called.0), status(called.0), called.1);
            back.saw_bytes(Side::Server, time, "10.244.0.5", (request, served.0), status(served.0), served.1);
        };
    seen(0, Some(1_000), (None, none), (Some(9_000), answer));
    seen(1, Some(1_000), (Some(9_000), slow), (None, none));
    seen(2, Some(1_000), (None, none), (None, none));
    // Another answer, other bytes, or no number: they are two.
    seen(3, Some(1_000), (Some(9_000), slow), (Some(9_001), answer));
    seen(4, Some(1_000), (None, (81, None)), (Some(9_000), answer));
    seen(5, None, (None, none), (Some(9_000), answer));
    // Too far apart in time.
    front.saw_bytes(Side::Client, past + 211 * SECOND, BACK_SERVICE, (Some(2_000), None), Status::NoResponse, none);
    back.saw_bytes(Side::Server, past + 200 * SECOND - 1, "10.244.0.5", (Some(2_000), Some(1)), Status::Ok, answer);
    let now = past + 600 * SECOND;
    deliver(&ports, &[front.batch(now), back.batch(now)]).await.expect("acknowledged");
    until("everything is stored", async || (number(&client, "SELECT sum(count) FROM red").await == 14).then_some(())).await;

    let rows = |from: u64, to: u64| {
        format!(
            "SELECT seen, toString(status) AS status, client_status, time_to_last_byte_ns AS latency, \
             client_time_to_last_byte_ns AS client_latency, response_bytes \
             FROM exchanges(from = toDateTime({}, 'UTC'), to = toDateTime({}, 'UTC')) ORDER BY timestamp, seen DESC",
            past / SECOND + from,
            past / SECOND + to
        )
    };
    let expect = |seen: &str, status: &str, client_status: &str, latency: u64, client_latency: u64, response_bytes: u64| Exchange {
        seen: seen.to_owned(),
        status: status.to_owned(),
        client_status: client_status.to_owned(),
        latency,
        client_latency,
        response_bytes,
    };
    let (five, seven) = (5 * MILLISECOND, 7 * MILLISECOND);
    let all = [
        expect("both", "ok", "no_response", five, UNKNOWN, 200),
        expect("both", "ok", "ok", seven, seven, 200),
        expect("both", "no_response", "no_response", UNKNOWN, UNKNOWN, 0),
        expect("server", "ok", "", five, UNKNOWN, 200),
        expect("client", "ok", "ok", seven, seven, 200),
        expect("server", "ok", "", five, UNKNOWN, 200),
        expect("client", "no_response", "no_response", UNKNOWN, UNKNOWN, 0),
        expect("server", "ok", "", five, UNKNOWN, 200),
        expect("client", "no_response", "no_response", UNKNOWN, UNKNOWN, 0),
        expect("server", "ok", "", five, UNKNOWN, 200),
        expect("client", "no_response", "no_response", UNKNOWN, UNKNOWN, 0),
    ];
    assert_eq!(client.query_raw(&rows(0, 600)).fetch_all::<Exchange>().await.unwrap(), all);
    // Periods that part both ends' records of each exchange: it is in one of them.
    let mut parts = Vec::new();
    for turn in 0..8 {
        let (begin, between, end) = (turn * 30, turn * 30 + 2, turn * 30 + 30);
        for (from, to) in [(begin, between), (between, end)] {
            parts.extend(client.query_raw(&rows(from, to)).fetch_all::<Exchange>().await.unwrap());
        }
    }
    assert_eq!(parts.len(), all.len());
    assert!(all.iter().all(|exchange| parts.contains(exchange)), "{parts:?}");
    let calls = format!(
        "SELECT client AS from, server AS to, requests, errors, seen_at_both_ends AS more \
         FROM calls(from = toDateTime({}, 'UTC'), to = toDateTime({}, 'UTC'))",
        past / SECOND,
        past / SECOND + 600
    );
    assert_eq!(lines(&client, &calls).await, [line("shop/front", "shop/back", 11, 4, 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_covers_whole_tens_of_seconds() {
    let Ready { bench: _bench, url, ports, client, .. } = Ready::start("kubernetes-periods", &["--kubernetes=off"]).await;
    let past = past();
    store(&url).write_owners(owners(past).iter()).await.unwrap();
    let mut back = Sidecar::new(2, "back-1", "back", "10.244.1.7");
    for number in 0..600u64 {
        let time = past + number * 100 * MILLISECOND;
        back.saw(Side::Server, time, "10.244.0.5", Some((number, 1)), Status::Ok);
        back.saw(Side::Client, time, DATABASE, Some((number, 2)), Status::Ok);
    }
    // A second ago, and beside the wall clock's own ten seconds.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    back.saw(Side::Server, now - SECOND, "10.244.0.5", Some((9_000_000, 1)), Status::Ok);
    deliver(&ports, &[back.batch(now)]).await.expect("acknowledged");
    until("everything is stored", async || (number(&client, "SELECT sum(count) FROM red").await == 1_201).then_some(())).await;

    // What has not happened yet is not divided by: of the running ten seconds no more than until now.
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let from = now / SECOND / 10 * 10 - 30;
    let covered = async |to: u64| {
        let sql = format!(
            "SELECT toUInt64(toUnixTimestamp(covered_to)) FROM workloads(from = toDateTime({from}, 'UTC'), to = toDateTime({to}, 'UTC')) \
             WHERE workload = 'shop/back' AND toUnixTimestamp(covered_from) = {from} \
             AND requests_per_second = requests / (toUnixTimestamp(covered_to) - {from})"
        );
        number(&client, &sql).await
    };
    let to = clock();
    let found = covered(to).await;
    assert!(found >= to && found <= to.next_multiple_of(10).min(clock()), "{found} for {to}, at {}", clock());
    assert_eq!(covered(4_102_444_805).await, 4_102_444_805, "a period that has not ended is as long as it will be");

    // Ten requests a second, whatever the period's ends are. `more`: the rate, and what is covered of the past.
    for (from, to, covered_from, covered_to) in [(10, 40, 10, 40), (13, 34, 10, 40), (19, 21, 10, 30)] {
        let second = |second: u64| format!("toDateTime({}, 'UTC')", past / SECOND + second);
        let period = format!("(from = {}, to = {})", second(from), second(to));
        let requests = (covered_to - covered_from) * 10;
        let sql = format!(
            "SELECT workload AS from, \
             concat(toString(toUnixTimestamp(covered_from) - {0}), ' to ', toString(toUnixTimestamp(covered_to) - {0})) AS to, \
             requests, errors, toUInt64(requests_per_second * 1000) AS more FROM workloads{period}",
            past / SECOND
        );
        let covered = format!("{covered_from} to {covered_to}");
        let expect = ["shop/back", "shop/db"].map(|name| line(name, &covered, requests, 0, 10_000));
        assert_eq!(lines(&client, &sql).await, expect, "{from} to {to}");
        let named = format!("SELECT sum(count) FROM red_named{period} WHERE peer_kind = 'pod'");
        assert_eq!(number(&client, &named).await, 2 * requests, "{from} to {to}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_watch_stores_it_reads_back() {
    let mut bench = Bench::new("kubernetes-owners");
    let url = bench.clickhouse();
    bench.command(&url, &["migrate"]);
    let store = store(&url);
    let past = past();
    let now = i64::try_from(past / MILLISECOND).unwrap() + 600_000;
    let mut stored = owners(past);
    stored[4].ordinal = 3;
    store.write_owners(stored.iter()).await.unwrap();
    // Closed: its row replaces the open one. Closed long ago: no longer of interest to the watch.
    stored[0].to = Some(now - 1_000);
    let mut old = pod("10.244.9.9", &workload("Job", "old"), "old", past - 90_000 * SECOND, Some(past - 80_000 * SECOND));
    old.uid = "old".to_owned();
    store.write_owners([&stored[0], &old].into_iter()).await.unwrap();
    store.write_complete_to(&[(Kind::Pod, now - 20_000), (Kind::Node, now - 30_000)]).await.unwrap();
    store.write_complete_to(&[(Kind::Pod, now - 5_000)]).await.unwrap();
    let mut read = store.owners().await.unwrap();
    let key = |interval: &Interval| (interval.address, interval.uid.clone());
    read.intervals.sort_by_key(key);
    stored.sort_by_key(key);
    assert_eq!(read.intervals, stored);
    assert_eq!((read.complete_to[&Kind::Pod], read.complete_to[&Kind::Node], read.unreadable), (now - 5_000, now - 30_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_that_begin_anew_are_restarts() {
    let mut bench = Bench::new("kubernetes-usage");
    let url = bench.clickhouse();
    bench.command(&url, &["migrate"]);
    let past = past();
    let sample = |seconds: u64, id: &str, start: f64, cpu: f64, received: u64| ContainerSample {
        time_ms: i64::try_from(past / MILLISECOND + seconds * 1_000).unwrap(),
        node: "node1".to_owned(),
        namespace: "shop".to_owned(),
        workload: workload("Deployment", "back"),
        pod: "back-1".to_owned(),
        pod_uid: "uid-back-1".to_owned(),
        container: "app".to_owned(),
        container_id: id.to_owned(),
        start_time_seconds: start,
        cpu_usage_seconds: cpu,
        network: Network { receive_bytes: received, ..Network::default() },
        ..ContainerSample::default()
    };
    let samples = [
        sample(0, "a", 1.0, 100.0, 1_000),
        sample(10, "a", 1.0, 105.0, 3_000),
        // Told again: the same sample once.
        sample(10, "a", 1.0, 105.0, 3_000),
        sample(20, "a", 1.0, 110.0, 3_000),
        // Another container, whose counter is already higher; then a start anew; then a counter that is smaller.
        sample(30, "b", 25.0, 120.0, 10),
        sample(40, "b", 35.0, 130.0, 20),
        sample(50, "b", 35.0, 4.0, 30),
        sample(60, "b", 35.0, 5.0, 40),
    ];
    store(&url).write_samples(&samples).await.unwrap();
    #[derive(Debug, Row, Deserialize, PartialEq)]
    struct Usage {
        at: u64,
        restarted: u8,
        cpu: f64,
        received: f64,
    }
    let client = Client::default().with_url(&url).with_database("podtap");
    let (from, to) = (past / SECOND + 5, past / SECOND + 100);
    let sql = format!(
        "SELECT toUInt64(toUnixTimestamp(time) - {}) AS at, toUInt8(restarted) AS restarted, cpu_cores AS cpu, \
         network_receive_bytes_per_second AS received \
         FROM container_usage(from = toDateTime({from}, 'UTC'), to = toDateTime({to}, 'UTC')) ORDER BY time",
        past / SECOND
    );
    let rows = client.query_raw(&sql).fetch_all::<Usage>().await.unwrap();
    let usage = |at, restarted, cpu, received| Usage { at, restarted, cpu, received };
    assert_eq!(
        rows,
        [
            usage(10, 0, 0.5, 200.0),
            usage(20, 0, 0.5, 0.0),
            usage(30, 1, 12.0, 1.0),
            usage(40, 1, 13.0, 2.0),
            usage(50, 1, 0.4, 3.0),
            usage(60, 0, 0.1, 1.0),
        ]
    );
}
