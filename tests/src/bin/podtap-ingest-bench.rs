//! What counting costs: from Kafka to stored histograms with one analyzer, bytes on the wire and on disk, and the time of the
//! documented questions over months of data. Prints a section of Markdown; `cargo xtask bench --ingest` runs it with release binaries.
//!
//! The records are made up, with as many different paths as asked for, and sent by the sidecar's own transport before the clock starts. Not
//! a test: nothing here fails because it is slow.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use podtap_sidecar::telemetry::Telemetry;
use podtap_sidecar::transport::kafka::{KafkaConfig, KafkaSink};
use podtap_sidecar::transport::sender::{Sender, WhenFull};
use podtap_sidecar::transport::spool::{Spool, SpoolConfig};
use podtap_sidecar::transport::{Batch, BatchId};
use podtap_tests::analyzer::{Analyzer, Setup};
use podtap_tests::clickhouse::ClickHouse;
use podtap_tests::faults::chance::Chance;
use podtap_tests::kafka::Kafka;
use podtap_tests::metrics::Metrics;
use podtap_tests::process::{Spec, run_to_end};
use podtap_tests::run::{Run, binary};
use podtap_tests::{Context, Failure, Result, running, wait};
use podtap_wire::proto::{CounterSample, Resource};
use podtap_wire::{BatchBuilder, Protocol, RequestRecord, Side, SourceKind, Status};

const SECOND: u64 = 1_000_000_000;
/// A sidecar's batch at most; see its `transport/batcher.rs`.
const BATCH_ROWS: u32 = 4_096;
const BATCH_BYTES: usize = 384 * 1024;
/// Requests a second that a pod is made to have served.
const POD_RATE: u64 = 1_000;
/// Each question is asked so often; the median is shown.
const ASKED: usize = 5;
/// How long one statement may take.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Parser)]
struct Arguments {
    /// Records to send through Kafka; 0 leaves that out
    #[arg(long, default_value_t = 8_000_000)]
    records: u64,
    /// Different paths among them
    #[arg(long, default_value_t = 5_000)]
    paths: u64,
    /// Pods that send them
    #[arg(long, default_value_t = 12)]
    pods: u64,
    /// Hours of one pod whose stored size is shown; 0 leaves it out
    #[arg(long, default_value_t = 24)]
    pod_hours: u64,
    /// Its requests a second
    #[arg(long, default_value_t = 100)]
    pod_rate: u64,
    /// Its paths
    #[arg(long, default_value_t = 200)]
    pod_paths: u64,
    /// Requests in the table that is questioned; 0 leaves the questions out
    #[arg(long, default_value_t = 100_000_000)]
    stored: u64,
    /// Days of histograms that are questioned
    #[arg(long, default_value_t = 30)]
    days: u64,
    /// Series in each ten seconds of these
    #[arg(long, default_value_t = 100)]
    series: u64,
    /// Folder that keeps what is questioned; if it holds as much already, it is only questioned
    #[arg(long)]
    history_in: Option<PathBuf>,
}

fn main() -> ExitCode {
    wait::interrupt_on_signals();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("podtap-ingest-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.records > 0 {
        println!("## From Kafka to stored histograms\n");
        ingest(arguments)?;
    }
    if arguments.pod_hours > 0 {
        println!("\n## One pod\n");
        one_pod(arguments)?;
    }
    if arguments.stored > 0 {
        println!("\n## Questions over what is stored\n");
        questions(arguments)?;
    }
    Ok(())
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn folder_bytes(folder: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => folder_bytes(&entry.path()),
        Ok(data) if entry.path().extension().is_some_and(|extension| extension == "log") => data.len(),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

fn ingest(arguments: &Arguments) -> Result<()> {
    let run = Run::start()?;
    let clickhouse = ClickHouse::start(&run)?;
    let kafka = Kafka::start(&run, Ipv4Addr::LOCALHOST)?;
    let setup = Setup { clickhouse_url: clickhouse.url(), grpc_address: Ipv4Addr::LOCALHOST, kafka: Some(kafka.address()), rules: None };
    // The first start makes the topic and the tables.
    drop(Analyzer::start(&run, &setup)?);
    let began = now_ns();
    let batches: u64 = std::thread::scope(|scope| {
        let broker = &kafka;
        let load = Load {
            records: arguments.records / arguments.pods,
            rate: POD_RATE,
            paths: arguments.paths,
            batch_rows: BATCH_ROWS,
            counters: false,
        };
        let pods: Vec<_> = (0..arguments.pods).map(|pod| scope.spawn(move || produce(load, pod, began, broker))).collect();
        let sent = pods.into_iter().map(|pod| pod.join().unwrap_or_else(|_| Err(Failure::new("a sender panicked"))));
        sent.sum::<Result<u64>>()
    })?;
    let wire = folder_bytes(&run.root().join("kafka/log"));
    let records = arguments.records / arguments.pods * arguments.pods;

    let engine = running::cpu_seconds(clickhouse.pid()?)?;
    let started = Instant::now();
    let analyzer = Analyzer::start(&run, &setup)?;
    let ingested = |metrics: &Metrics| metrics.sum("podtap_ingest_records_total") as u64;
    wait::until_stepwise("all records are read", Duration::from_secs(1_800), Duration::from_millis(100), || {
        Ok((ingested(&analyzer.metrics()?) >= records).then_some(()))
    })?;
    let read = started.elapsed().as_secs_f64();
    wait::until_stepwise("all records are stored", Duration::from_secs(1_800), Duration::from_millis(200), || {
        Ok((clickhouse.number("SELECT sum(records) FROM ingest_blocks FINAL")? >= records).then_some(()))
    })?;
    let stored = started.elapsed().as_secs_f64();
    let own = running::cpu_seconds(analyzer.process().pid())?;
    let engine = running::cpu_seconds(clickhouse.pid()?)? - engine;
    let counted = clickhouse.number("SELECT sum(count) FROM red")?;
    if counted != records {
        return Err(Failure(format!("{records} records were sent, {counted} are counted")));
    }
    let resident = running::memory_bytes(analyzer.process().pid(), "VmHWM")? as f64;
    let n = records as f64;
    let (paths, pods) = (arguments.paths, arguments.pods);
    println!("{records} records in {batches} batches, {paths} paths, {pods} pods, one analyzer; every record counted once.\n");
    println!("| figure | value |\n|---|---|");
    println!("| records/s, start of the analyzer to stored, engine and broker beside it | {:.0} |", n / stored);
    println!("| records/s until all were read | {:.0} |", n / read);
    println!("| records per second of the analyzer's own CPU | {:.0} |", n / own);
    println!("| CPU seconds of the analyzer / of the engine | {own:.1} / {engine:.1} |");
    println!("| peak resident memory of the analyzer | {:.0} MB |", resident / 1e6);
    println!("| bytes a record in Kafka's log (zstd) | {:.1} |", wire as f64 / n);
    for table in ["requests", "request_histograms"] {
        let before = disk_bytes(&clickhouse, table)?;
        clickhouse.execute_within(PATIENCE, &format!("OPTIMIZE TABLE {table} FINAL"))?;
        let after = disk_bytes(&clickhouse, table)?;
        println!("| bytes a record on disk, {table}, as inserted / merged | {:.1} / {:.1} |", before / n, after / n);
    }
    Ok(())
}

fn disk_bytes(clickhouse: &ClickHouse, table: &str) -> Result<f64> {
    let sql = format!("SELECT sum(bytes_on_disk) FROM system.parts WHERE database = 'podtap' AND table = '{table}' AND active");
    Ok(clickhouse.number(&sql)? as f64)
}

/// A pod's day, or a part of it, sent as its sidecar would have: a batch at most every 300 ms, with the counters that changed.
fn one_pod(arguments: &Arguments) -> Result<()> {
    let run = Run::start()?;
    let clickhouse = ClickHouse::start(&run)?;
    let kafka = Kafka::start(&run, Ipv4Addr::LOCALHOST)?;
    let setup = Setup { clickhouse_url: clickhouse.url(), grpc_address: Ipv4Addr::LOCALHOST, kafka: Some(kafka.address()), rules: None };
    let analyzer = Analyzer::start(&run, &setup)?;
    let records = arguments.pod_hours * 3_600 * arguments.pod_rate;
    let batch_rows = u32::try_from(arguments.pod_rate * 3 / 10).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS);
    let load = Load { records, rate: arguments.pod_rate, paths: arguments.pod_paths, batch_rows, counters: true };
    let batches = produce(load, 0, now_ns(), &kafka)?;
    wait::until_stepwise("all records are stored", Duration::from_secs(3_600), Duration::from_millis(500), || {
        Ok((clickhouse.number("SELECT sum(records) FROM ingest_blocks FINAL")? >= records).then_some(()))
    })?;
    drop(analyzer);
    roll_up(&run, &clickhouse)?;
    println!(
        "{} hours of one pod at {} requests/s, {} paths: {records} records in {batches} batches; merged and rolled up.\n",
        arguments.pod_hours, arguments.pod_rate, arguments.pod_paths
    );
    println!("| table | MB | bytes a record |\n|---|---|---|");
    let mut all = 0.0;
    for table in STORED {
        clickhouse.execute_within(PATIENCE, &format!("OPTIMIZE TABLE {table} FINAL"))?;
        let bytes = disk_bytes(&clickhouse, table)?;
        all += bytes;
        println!("| `{table}` | {:.1} | {:.2} |", bytes / 1e6, bytes / records as f64);
    }
    println!("| all | {:.1} | {:.2} |", all / 1e6, all / records as f64);
    let wire = folder_bytes(&run.root().join("kafka/log")) as f64;
    println!("| Kafka's log (zstd) | {:.1} | {:.2} |", wire / 1e6, wire / records as f64);
    Ok(())
}

/// Rolls up everything; returns what the analyzer says of it.
fn roll_up(run: &Run, clickhouse: &ClickHouse) -> Result<String> {
    let spec = Spec::new(binary("podtap-analyzer")?, ["rollup", "--clickhouse-url", &clickhouse.url()]).folder(run.root());
    let output = run_to_end(run, &spec, Duration::from_secs(3_600))?;
    if output.code == 0 { Ok(output.stdout.trim().to_owned()) } else { Err(Failure(format!("rollup: {}{}", output.stdout, output.stderr))) }
}

/// What a pod sends.
#[derive(Clone, Copy, Debug)]
struct Load {
    records: u64,
    /// Requests a second that it is made to have served.
    rate: u64,
    paths: u64,
    batch_rows: u32,
    /// Counters as a sidecar sends them, or none.
    counters: bool,
}

/// Counters that change with every batch of a busy sidecar, and others that stay.
fn counters(sent: u64, sequence: u64) -> Vec<CounterSample> {
    let sample = |name: String, value| CounterSample { name, reason: String::new(), value };
    let changed = (0..12u64).map(|number| sample(format!("podtap_measured_{number}_total"), sent * (number + 1)));
    let all = if sequence % 33 == 1 { 40 } else { 0 };
    changed.chain((0..all).map(|number| sample(format!("podtap_resting_{number}_total"), number))).collect()
}

/// One pod's share, over the sidecar's transport; says how many batches it was.
fn produce(load: Load, pod: u64, began: u64, kafka: &Kafka) -> Result<u64> {
    let name = format!("shop-{pod}");
    let config = KafkaConfig {
        brokers: kafka.address().to_string(),
        topic: "podtap.requests".to_owned(),
        sender_id: name.clone(),
        directory: None,
        options: Vec::new(),
    };
    let sink = KafkaSink::new(config).map_err(Failure)?;
    let spool = SpoolConfig { queue_bytes: 16 << 20, directory: None, spool_bytes: 0, spool_after: Duration::ZERO, started_ns: began };
    let spool = Spool::open(spool).context("opening a spool")?;
    let (batches, queue) = sync_channel(8);
    let sender = Sender::new(spool, Box::new(sink), queue, Arc::new(Telemetry::new()), WhenFull::Wait);
    let thread = std::thread::spawn(move || sender.run(|| false, Duration::from_secs(3_600)));
    let boot = u128::from(pod + 1).to_be_bytes();
    let resource = Resource {
        k8s_namespace_name: "shop".to_owned(),
        k8s_pod_name: name.clone(),
        k8s_pod_uid: format!("0c9f0f5e-{pod}"),
        k8s_node_name: "node-1".to_owned(),
        k8s_workload_kind: "Deployment".to_owned(),
        k8s_workload_name: "shop".to_owned(),
    };
    let mut builder = BatchBuilder::new(name, boot, resource);
    let path = |path: u64| format!("/catalog/{}/article-{path}", ["books", "music", "toys"][path as usize % 3]);
    let paths: Vec<String> = (0..load.paths).map(path).collect();
    let mut chance = Chance::new(&[pod, 7]);
    let count = load.records;
    let first = began - count * SECOND / load.rate;
    let mut sequence = 0;
    for number in 0..count {
        push(&mut builder, &mut chance, &paths, first + number * SECOND / load.rate, number);
        if builder.rows() == load.batch_rows || builder.approximate_bytes() >= BATCH_BYTES || number + 1 == count {
            sequence += 1;
            // As if it had been closed right behind its last record.
            let closed = first + (number + 1) * SECOND / load.rate;
            let counters = if load.counters { counters(number, sequence) } else { Vec::new() };
            let batch = builder.finish(sequence, closed, counters);
            let batch = Batch { id: BatchId { boot, sequence }, rows: batch.rows, bytes: batch.bytes.into() };
            batches.send(batch).context("handing over a batch")?;
        }
    }
    drop(batches);
    thread.join().map_err(|_| Failure::new("a sender's thread panicked"))?;
    Ok(sequence)
}

fn push(builder: &mut BatchBuilder, chance: &mut Chance, paths: &[String], timestamp: u64, number: u64) {
    // Some paths are asked for far more often than others.
    let skewed = (chance.unit() * chance.unit() * paths.len() as f64) as usize;
    let path = &paths[skewed.min(paths.len() - 1)];
    let failed = chance.percent(1);
    let latency = 200_000 + (-chance.unit().max(1e-9).ln() * 3e6) as u64;
    let length = 300 + chance.below(4_000);
    builder.push(&RequestRecord {
        timestamp: timestamp + chance.below(900_000),
        network_protocol_name: Protocol::Http,
        network_protocol_version: "1.1",
        client_address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, chance.below(20) as u8)),
        client_port: 32_768 + chance.below(200),
        server_address: IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1)),
        server_port: 8080,
        connection_id: chance.below(200),
        exchange_index: number / 200,
        tcp_request_sequence: Some(chance.below(1 << 32)),
        tcp_response_sequence: Some(chance.below(1 << 32)),
        service_name: "shop",
        source: SourceKind::Pcap,
        side: Side::Server,
        status: if failed { Status::ServerError } else { Status::Ok },
        error_type: if failed { "500" } else { "" },
        time_to_first_byte_ns: Some(latency - 50_000),
        time_to_last_byte_ns: Some(latency),
        request_time_ns: Some(20_000),
        request_bytes: 180 + path.len() as u64,
        response_bytes: length + 160,
        http_request_method: "GET",
        url_path: path,
        url_template: path,
        http_request_header_host: "shop.example.org",
        user_agent_original: ["Mozilla/5.0 (X11; Linux x86_64)", "okhttp/4.12.0", "curl/7.88.1"][chance.below(3) as usize],
        http_response_status_code: if failed { 500 } else { 200 },
        http_response_body_size: Some(length),
        http_response_content_type: "application/json",
        ..RequestRecord::default()
    });
}

/// Tables that grow with traffic.
const STORED: [&str; 7] = [
    "requests",
    "request_histograms",
    "request_histograms_1m",
    "request_histograms_1h",
    "request_histograms_1d",
    "sidecar_counters",
    "ingest_blocks",
];

/// What a person asks first of each documented view, at the time when what is stored ends.
fn documented(days: u64, end: &str) -> Vec<(&'static str, String)> {
    let merged = "sum(count) AS requests, podtap_quantile(0.99, sumMap(time_to_last_byte_ns_buckets)) AS p99";
    let ago = |interval: &str| format!("{end} - INTERVAL {interval}");
    let period = |interval: &str| format!("from = {}, to = {end}", ago(interval));
    let all = format!("{days} DAY");
    let endpoints = |view: &str, interval: &str| {
        let since = ago(interval);
        format!("SELECT service_name, endpoint, {merged} FROM {view} WHERE window >= {since} GROUP BY ALL ORDER BY p99 DESC LIMIT 5")
    };
    let line = |view: &str, interval: &str| {
        let condition = format!("window >= {} AND service_name = 'shop/service-1'", ago(interval));
        format!("SELECT window, {merged} FROM {view} WHERE {condition} GROUP BY window ORDER BY window")
    };
    let requests = |columns: &str, interval: &str, rest: &str| {
        format!("SELECT timestamp, url_path, {columns} FROM requests_once WHERE timestamp >= {} {rest}", ago(interval))
    };
    let failed = "AND service_name = 'shop/service-1' AND status = 'server_error' ORDER BY timestamp DESC LIMIT 20";
    let endpoint = "AND service_name = 'shop/service-1' AND endpoint = 'GET /articles/{id}' ORDER BY timestamp DESC LIMIT 20";
    let slow =
        "AND service_name = 'shop/service-1' AND time_to_last_byte_ns BETWEEN 30000000 AND 1000000000000 ORDER BY timestamp DESC LIMIT 20";
    let statement = "AND lower(db_query_text) LIKE '%warehouse_4711%' LIMIT 20";
    vec![
        ("red: endpoints, 15 minutes", endpoints("red", "15 MINUTE")),
        ("red_1m: a service by minute, 6 hours", line("red_1m", "6 HOUR")),
        ("red_1h: a service by hour, all days", line("red_1h", &all)),
        ("red_1h: endpoints, all days", endpoints("red_1h", &all)),
        ("red_1d: endpoints, all days", endpoints("red_1d", &all)),
        (
            "latency: a service, 24 hours",
            format!("SELECT * FROM latency({}, service = 'shop/service-1', quantile = 0.99)", period("1 DAY")),
        ),
        ("latency: everything, all days", format!("SELECT * FROM latency({}, service = '', quantile = 0.99)", period(&all))),
        ("requests_once: slowest, 15 minutes", requests("time_to_last_byte_ns", "15 MINUTE", "ORDER BY time_to_last_byte_ns DESC LIMIT 5")),
        ("requests_once: failed ones of a service, 1 hour", requests("error_type", "1 HOUR", failed)),
        ("requests_once: an endpoint of a service, 24 hours", requests("status", "1 DAY", endpoint)),
        ("requests_once: slower than 30 ms, of a service, 24 hours", requests("status", "1 DAY", slow)),
        ("requests_once: a peer, 1 hour", requests("status", "1 HOUR", "AND client_address = '10.0.0.7' ORDER BY timestamp DESC LIMIT 20")),
        ("requests_once: a word in SQL, 24 hours", requests("db_query_text", "1 DAY", statement)),
        ("requests_once: one trace, all days", "SELECT * FROM requests_once WHERE trace_id = lower(hex(MD5('777777')))".to_owned()),
        ("completeness: 24 hours", format!("SELECT * FROM completeness({})", period("1 DAY"))),
        ("completeness: 1 hour", format!("SELECT * FROM completeness({})", period("1 HOUR"))),
        ("sender_sequences: what is missing", "SELECT sender, boot, missing FROM sender_sequences WHERE missing > 0".to_owned()),
        (
            "calls: who calls whom, 15 minutes",
            format!("SELECT client, server, requests, p99_ns FROM calls({}) ORDER BY requests DESC LIMIT 20", period("15 MINUTE")),
        ),
        (
            "exchanges: failed ones, 15 minutes",
            format!(
                "SELECT timestamp, client, server, endpoint FROM exchanges({}) WHERE status = 'server_error' \
                 ORDER BY timestamp DESC LIMIT 20",
                period("15 MINUTE")
            ),
        ),
        (
            "workloads: 15 minutes",
            format!("SELECT workload, requests_per_second, error_share, p99_ns FROM workloads({}) ORDER BY ALL", period("15 MINUTE")),
        ),
        (
            "requests_named: those of a peer, 15 minutes",
            format!(
                "SELECT timestamp, url_path, status FROM requests_named({}) WHERE peer = 'shop/service-3' ORDER BY timestamp DESC LIMIT 20",
                period("15 MINUTE")
            ),
        ),
        (
            "red_named: who calls a service, 15 minutes",
            format!(
                "SELECT peer_owner_name, sum(count) FROM red_named({}) WHERE service_name = 'shop/service-1' GROUP BY ALL",
                period("15 MINUTE")
            ),
        ),
        (
            "container_usage: CPU by workload, 1 hour",
            format!("SELECT k8s_workload_name, avg(cpu_cores) FROM container_usage({}) GROUP BY ALL", period("1 HOUR")),
        ),
        ("addresses: who had one", "SELECT * FROM addresses WHERE address = '10.0.0.7'".to_owned()),
    ]
}

fn questions(arguments: &Arguments) -> Result<()> {
    let run = Run::start()?;
    let folder = match &arguments.history_in {
        Some(folder) => folder.clone(),
        None => run.folder("clickhouse")?,
    };
    std::fs::create_dir_all(&folder).context(format!("making {}", folder.display()))?;
    let clickhouse = ClickHouse::start_at(&run, folder.join("data"))?;
    let setup = Setup { clickhouse_url: clickhouse.url(), grpc_address: Ipv4Addr::LOCALHOST, kafka: None, rules: None };
    drop(Analyzer::start(&run, &setup)?);
    let end = history(arguments, &run, &clickhouse, &folder.join("filled"))?;
    println!("| question | median ms | first ms |\n|---|---|---|");
    for (name, sql) in documented(arguments.days, &end) {
        let mut times = Vec::new();
        for _ in 0..ASKED {
            let started = Instant::now();
            clickhouse.execute_within(PATIENCE, &format!("{sql} FORMAT Null")).context(name)?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let first = times[0];
        times.sort_by(f64::total_cmp);
        println!("| {name} | {:.0} | {first:.0} |", times[ASKED / 2]);
    }
    println!("\n| table | MB on disk |\n|---|---|");
    for table in STORED {
        println!("| `{table}` | {:.0} |", disk_bytes(&clickhouse, table)? / 1e6);
    }
    Ok(())
}

/// Fills the tables unless `note` says that they are full, and gives the time at which what is stored ends.
fn history(arguments: &Arguments, run: &Run, clickhouse: &ClickHouse, note: &Path) -> Result<String> {
    let size = format!(
        "{} requests over a week, {} days of histograms with {} series in each ten seconds",
        arguments.stored, arguments.days, arguments.series
    );
    let noted = match std::fs::read_to_string(note) {
        Ok(noted) => noted,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let started = Instant::now();
            // Filling takes a while; what is stored ends when it began.
            let end = format!("toDateTime({}, 'UTC')", now_ns() / SECOND);
            fill(arguments, clickhouse, &end)?;
            let filled = started.elapsed().as_secs_f64();
            let started = Instant::now();
            let rolled = roll_up(run, clickhouse)?;
            let took = format!("filled in {filled:.0} s, rolled up in {:.0} s ({rolled})", started.elapsed().as_secs_f64());
            let text = format!("{size}\n{end}\n{took}\n");
            std::fs::write(note, &text).context(format!("writing {}", note.display()))?;
            text
        }
        Err(error) => return Err(Failure(format!("reading {}: {error}", note.display()))),
    };
    let mut lines = noted.lines();
    let (found, end, took) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if found != size {
        return Err(Failure(format!("{} has {found}, not {size}: choose another folder", note.display())));
    }
    println!("{size}; {took}. Median of {ASKED}, the first answer of each beside it.\n");
    Ok(end.to_owned())
}

/// Rows as blocks would have written them, made by the engine itself: of each exchange both ends' records.
fn fill(arguments: &Arguments, clickhouse: &ClickHouse, end: &str) -> Result<()> {
    const PIECE: u64 = 1_000_000;
    const WEEK_MS: u64 = 7 * 86_400_000;
    for start in (0..arguments.stored).step_by(PIECE as usize) {
        let (total, count) = (arguments.stored, PIECE.min(arguments.stored - start));
        let sql = format!(
            "INSERT INTO requests (timestamp, network_protocol_name, client_address, server_address, server_port, service_name, \
             k8s_namespace_name, k8s_workload_kind, k8s_workload_name, k8s_pod_name, side, tcp_request_sequence, tcp_response_sequence, \
             time_to_last_byte_ns, time_to_first_byte_ns, request_bytes, response_bytes, status, error_type, trace_id, \
             http_request_method, url_path, url_template, http_response_status_code, topic, incarnation, partition, offset, row, \
             version, keep, db_query_text) SELECT {end} - toIntervalMillisecond(intDiv(pair * {WEEK_MS} * 2, {total})), 'http', \
             concat('10.0.0.', toString(caller)), concat('10.0.1.', toString(callee)), 8080, concat('shop/', workload), \
             'shop', 'Deployment', concat('service-', toString(if(serves, callee, caller) % 20)) AS workload, \
             concat('pod-', toString(if(serves, callee, caller))), if(serves, 'server', 'client'), toUInt32(cityHash64(pair, 3)), \
             toUInt32(cityHash64(pair, 4)), 200000 + cityHash64(pair) % 30000000 + if(serves, 0, 40000), \
             100000 + cityHash64(pair) % 20000000, 200, 1000 + pair % 5000, \
             if(pair % 100 = 0, 'server_error', 'ok'), if(pair % 100 = 0, '500', ''), lower(hex(MD5(toString(pair)))), 'GET', \
             concat('/articles/', toString(cityHash64(pair, 1) % 5000)), '/articles/{{id}}', if(pair % 100 = 0, 500, 200), \
             'podtap.requests', 'bench', toUInt32(number % 12), intDiv(number, 4096), number % 4096, intDiv(number, 4096) + 1, \
             pair % 100 = 0, \
             if(pair % 4 = 0, concat('select name from warehouse_', toString(cityHash64(pair, 2) % 10000), ' where id = ?'), '') \
             FROM (SELECT number, intDiv(number, 2) AS pair, number % 2 = 0 AS serves, pair % 100 AS callee, \
             (pair + 7 * intDiv(pair, 100)) % 100 AS caller FROM numbers({start}, {count}))"
        );
        clickhouse.execute_within(PATIENCE, &sql).context("filling requests")?;
    }
    for day in 0..arguments.days {
        let series = arguments.series;
        let sql = format!(
            "INSERT INTO request_histograms (window, service_name, k8s_pod_name, side, source, network_protocol_name, endpoint, status, \
             server_address, server_port, peer, count, time_to_last_byte_ns_sum, time_to_last_byte_ns_max, request_bytes, response_bytes, \
             time_to_last_byte_ns_buckets, time_to_first_byte_ns_buckets, topic, incarnation, partition, block, classification, version) \
             SELECT toDateTime(toUInt32(intDiv(toUnixTimestamp({end}), 10) * 10 - {day} * 86400 - 10 * intDiv(number, {series})), 'UTC'), \
             concat('shop/service-', toString(number % 20)), concat('pod-', toString(number % 100)), 'server', 'pcap', 'http', \
             concat('GET /', toString(number % {series})), 'ok', '10.0.1.1', 8080, '10.0.0.1', 20, 20000000, 9000000, 4000, 40000, \
             map(toUInt16(1000 + number % 7), toUInt64(5), toUInt16(1020 + number % 11), toUInt64(10), \
             toUInt16(1050 + cityHash64(number) % 100), toUInt64(5)), map(toUInt16(980 + number % 7), toUInt64(20)), \
             'podtap.requests', 'bench', 0, {day} * 100000 + intDiv(number, 100000), 1, 1 FROM numbers(8640 * {series})"
        );
        clickhouse.execute_within(PATIENCE, &sql).context("filling histograms")?;
    }
    // A day of the counters of as many pods as there are.
    let counters = format!(
        "INSERT INTO sidecar_counters (sender, boot, k8s_namespace_name, k8s_pod_name, name, reason, time, sequence, value) \
         SELECT concat('pod-', toString(pod)), concat('boot-', toString(pod)), 'shop', concat('pod-', toString(pod)), \
         ['podtap_packets_received_total', 'podtap_records_total', 'podtap_packets_dropped_total'][1 + number % 3], '', \
         {end} - toIntervalSecond(10 * intDiv(number, 3)), 10000 - intDiv(number, 3), 1000 * (10000 - intDiv(number, 3)) \
         FROM numbers(3 * 8640) AS ticks CROSS JOIN (SELECT number AS pod FROM numbers(100)) AS pods"
    );
    clickhouse.execute_within(PATIENCE, &counters).context("filling counters")?;
    // Who has which address, and a day of what the kubelets say.
    let owners = format!(
        "INSERT INTO address_owners (address, kind, uid, k8s_namespace_name, name, k8s_workload_kind, k8s_workload_name, \
         valid_from, valid_to, version) SELECT concat(network, toString(number)), 'pod', concat(network, toString(number)), 'shop', \
         concat('pod-', toString(number)), 'Deployment', concat('service-', toString(number % 20)), {end} - INTERVAL 40 DAY, \
         toDateTime64('2100-01-01 00:00:00', 3, 'UTC'), 1 FROM numbers(100) AS pods \
         CROSS JOIN (SELECT '10.0.' || toString(number) || '.' AS network FROM numbers(2)) AS networks"
    );
    clickhouse.execute_within(PATIENCE, &owners).context("filling addresses")?;
    let samples = format!(
        "INSERT INTO container_samples (time, k8s_node_name, k8s_namespace_name, k8s_workload_kind, k8s_workload_name, \
         k8s_pod_name, k8s_pod_uid, k8s_container_name, container_id, start_time_seconds, cpu_usage_seconds_total, \
         memory_working_set_bytes) \
         SELECT {end} - toIntervalSecond(15 * number), 'node-1', 'shop', 'Deployment', concat('service-', toString(pod % 20)), \
         concat('pod-', toString(pod)), concat('uid-', toString(pod)), 'app', concat('container-', toString(pod)), 1, \
         (100000 - number) * (1 + pod % 5), 100000000 + cityHash64(number, pod) % 1000000 \
         FROM numbers(5760) AS ticks CROSS JOIN (SELECT number AS pod FROM numbers(100)) AS pods"
    );
    clickhouse.execute_within(PATIENCE, &samples).context("filling samples")?;
    // Manifests that name the hours, or nothing would be rolled up.
    let manifests = "INSERT INTO ingest_blocks (topic, incarnation, partition, block, block_end, version, complete, classification, \
                     batches, records, hours, first_message_time, last_message_time) SELECT 'podtap.requests', 'bench', 0, block, \
                     block + 1, 1, 1, 1, 1, sum(count), arraySort(groupUniqArray(toUInt32(intDiv(toUnixTimestamp(window), 3600)))), \
                     min(window), max(window) \
                     FROM request_histograms GROUP BY block";
    clickhouse.execute_within(PATIENCE, manifests).context("filling manifests").map(drop)
}
