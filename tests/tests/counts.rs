//! What SQL returns from ClickHouse equals what the generators sent, exactly, at 5,000 a second and more of each kind.

use std::time::Duration;

use podtap_tests::clickhouse::number;
use podtap_tests::load::Until;
use podtap_tests::load::http::HttpLoad;
use podtap_tests::load::sql::SqlLoad;
use podtap_tests::process::{Process, Spec, run_to_end};
use podtap_tests::run::{binary, program};
use podtap_tests::system::{System, Wish, alone, load_routes, load_statements};
use podtap_tests::{Context, Failure, Result, wait};

/// Requests and the connections they share.
const HTTP_REQUESTS: u64 = 200_000;
const HTTP_CONNECTIONS: usize = 64;
const HTTP_RATE: u32 = 10_000;
/// Statements.
const SQL_STATEMENTS: u64 = 100_000;
const SQL_CONNECTIONS: usize = 16;
const SQL_RATE: u32 = 5_500;
/// The least that the generators must have reached together with everything else on the machine.
const LEAST_RATE: f64 = 5_000.0;

#[test]
fn pcap_over_grpc_and_the_same_from_a_capture_file() -> Result<()> {
    check("pcap", false, true)
}

#[test]
fn pcap_over_kafka() -> Result<()> {
    check("pcap", true, false)
}

#[test]
fn ebpf_over_grpc() -> Result<()> {
    check("ebpf", false, false)
}

#[test]
fn ebpf_over_kafka() -> Result<()> {
    check("ebpf", true, false)
}

fn check(source: &'static str, kafka: bool, record: bool) -> Result<()> {
    let _alone = alone();
    let system = System::start(Wish { source, kafka, application: false, rules: None })?;
    let recording = if record { Some(Recording::start(&system)?) } else { None };
    let http = HttpLoad {
        target: system.target(),
        connections: HTTP_CONNECTIONS,
        rate: HTTP_RATE,
        routes: load_routes(),
        until: Until::Count(HTTP_REQUESTS),
    };
    let sql = SqlLoad {
        url: system.database.url(),
        connections: SQL_CONNECTIONS,
        rate: SQL_RATE,
        statements: load_statements(),
        until: Until::Count(SQL_STATEMENTS),
    };
    let (http, sql) = (http.start(), sql.start());
    let (http, sql) = (http.finish()?, sql.finish()?);
    println!("{source}, kafka {kafka}: HTTP {:.0}/s, SQL {:.0}/s", http.rate(), sql.rate());
    assert_eq!((http.total(), sql.total()), (HTTP_REQUESTS, SQL_STATEMENTS));

    system.until_stored(&http, &sql, source, Duration::from_secs(120))?;
    system.must_be_lossless(source)?;
    system.must_equal(&http, &sql, source)?;
    if let Some(recording) = recording {
        let file = recording.stop()?;
        read_file(&system, &file)?;
        system.until_stored(&http, &sql, "file", Duration::from_secs(120))?;
        system.must_equal(&http, &sql, "file")?;
        must_be_the_same_records(&system, source)?;
    }
    // What is still under way after an orderly stop would be counted now, and must not change anything.
    assert_eq!(system.sidecar.process().stop()?.code(), Some(0), "sidecar:\n{}", system.sidecar.process().log_tail());
    assert_eq!(system.analyzer.process().stop()?.code(), Some(0), "analyzer:\n{}", system.analyzer.process().log_tail());
    system.must_equal(&http, &sql, source)?;
    let least = http.rate().min(sql.rate());
    assert!(least >= LEAST_RATE, "the generators reached only {least:.0}/s: is the machine busy with something else?");
    Ok(())
}

/// tcpdump beside the sidecar.
struct Recording {
    process: Process,
    file: std::path::PathBuf,
}

impl Recording {
    fn start(system: &System) -> Result<Self> {
        let file = system.run.folder("tcpdump")?.join("load.pcap");
        let options = ["-i", "eth0", "-s", "0", "-B", "262144", "-Z", "root", "--time-stamp-precision=nano", "-w"];
        let spec = Spec::new(program("tcpdump", "tcpdump")?, options).argument(&file);
        let spec = spec.argument(format!("tcp port {} or tcp port {}", system.target().port(), system.database.address().port()));
        let process = Process::start(&system.run, "tcpdump", &system.pod.enter(spec))?;
        process.until("tcpdump listens", Duration::from_secs(20), || Ok(process.log().contains("listening on").then_some(())))?;
        Ok(Self { process, file })
    }

    /// Ends it once it has read everything, and insists that it lost nothing.
    fn stop(self) -> Result<std::path::PathBuf> {
        let mut size = 0;
        wait::until_true("tcpdump has written all", Duration::from_secs(20), || {
            let before = std::mem::replace(&mut size, std::fs::metadata(&self.file).context("the capture file")?.len());
            std::thread::sleep(Duration::from_millis(300));
            Ok(before == size)
        })?;
        self.process.signal(libc::SIGINT);
        self.process.wait(Duration::from_secs(20))?;
        let log = self.process.log();
        if log.contains("\n0 packets dropped by kernel") { Ok(self.file) } else { Err(Failure(format!("tcpdump lost packets:\n{log}"))) }
    }
}

/// Sends the records of a capture file the same way.
fn read_file(system: &System, file: &std::path::Path) -> Result<()> {
    let spec = Spec::new(binary("podtap-sidecar")?, ["run", "--source", "file", "--transport", "grpc", "--service-name", "recorded", "-r"])
        .argument(file)
        .argument(format!("--grpc-endpoint=http://{}", system.analyzer.grpc()))
        .argument(format!("--spool-dir={}", system.run.folder("file-spool")?.display()))
        .argument("--admin-listen=127.0.0.1:0")
        .environment("PODTAP_POD_UID", format!("recorded-{}", system.run.name()));
    let output = run_to_end(&system.run, &spec, Duration::from_secs(180))?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    Ok(())
}

/// The records of the file are those of the live source in all that the bytes say; their times are as close as two taps are.
fn must_be_the_same_records(system: &System, source: &str) -> Result<()> {
    let ports = format!("server_port IN ({}, {})", system.target().port(), system.database.address().port());
    // What was connected before tcpdump listened is in the live records alone.
    let begin = format!("timestamp >= (SELECT min(timestamp) - INTERVAL 1 SECOND FROM requests WHERE source = 'file') AND {ports}");
    let columns = "client_address, client_port, exchange_index, tcp_request_sequence, tcp_response_sequence, status, error_type, \
                   http_request_method, url_path, http_response_status_code, http_response_body_size, mysql_command, db_query_text, \
                   db_query_fingerprint, db_response_returned_rows, request_bytes, response_bytes, completeness, lost_bytes";
    let records = |columns: &str, source: &str| format!("SELECT {columns} FROM requests FINAL WHERE source = '{source}' AND {begin}");
    for (one, other) in [(source, "file"), ("file", source)] {
        let difference = format!("{} EXCEPT {}", records(columns, one), records(columns, other));
        let rows = system.clickhouse.rows(&format!("SELECT * FROM ({difference}) LIMIT 3"))?;
        if !rows.is_empty() {
            let count = system.clickhouse.number(&format!("SELECT count() FROM ({difference})"))?;
            return Err(Failure(format!("{count} records of source {one} are not among those of {other}, such as {rows:#?}")));
        }
    }
    // Every tap of an interface reads the clock for itself, a moment after the one before it.
    let times = "client_port, tcp_request_sequence, tcp_response_sequence, timestamp, time_to_last_byte_ns";
    let rows = system.clickhouse.rows(&format!(
        "SELECT count() AS pairs, max(start) AS worst_start, max(latency) AS worst, quantileExact(0.999)(latency) AS most FROM ( \
         SELECT abs(toUnixTimestamp64Nano(live.timestamp) - toUnixTimestamp64Nano(recorded.timestamp)) AS start, \
         abs(toInt64(live.time_to_last_byte_ns) - toInt64(recorded.time_to_last_byte_ns)) AS latency \
         FROM ({}) AS live INNER JOIN ({}) AS recorded USING (client_port, tcp_request_sequence, tcp_response_sequence))",
        records(times, source),
        records(times, "file"),
    ))?;
    let row = rows.first().context("no pairs of records")?;
    println!("live and recorded: {row:?}");
    assert!(number(row, "pairs") as u64 >= HTTP_REQUESTS + SQL_STATEMENTS, "{row:?}");
    assert!(number(row, "most") < 100e3, "latencies of the two differ by more than 100 µs: {row:?}");
    assert!(number(row, "worst") < 20e6 && number(row, "worst_start") < 20e6, "a record's times differ by more than 20 ms: {row:?}");
    Ok(())
}
