//! `podtap-sidecar print`: what other tools rely on. The capture is made here by tcpdump, from real servers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use podtap_tests::load::Until;
use podtap_tests::load::http::{HttpLoad, Route};
use podtap_tests::load::sql::{SqlLoad, Statement};
use podtap_tests::mariadb::{MariaDb, Place};
use podtap_tests::nginx::Nginx;
use podtap_tests::pod::Pod;
use podtap_tests::process::{Output, Process, Spec, run_to_end};
use podtap_tests::run::{Run, binary, program};
use podtap_tests::{Context, Result};
use podtap_wire::{FIELDS, Value as FieldValue};
use serde_json::{Map, Value};

const HTTP_REQUESTS: u64 = 100;
const STATEMENTS: u64 = 90;

/// A run with a capture of HTTP (80 fine, 10 of 404, 10 of 500) and SQL (30 plain, 30 prepared, 30 that fail).
struct Capture {
    run: Run,
    file: PathBuf,
}

impl Capture {
    fn make() -> Result<Self> {
        let run = Run::start()?;
        let pod = Pod::new(&run)?;
        let database = MariaDb::start(&run, Place::Inside(&pod))?;
        let nginx = Nginx::start(&run, &pod, None, false)?;
        let file = run.folder("captures")?.join("small.pcap");
        let spec = Spec::new(program("tcpdump", "tcpdump")?, ["-i", "eth0", "-U", "-Z", "root", "-w"]).argument(&file);
        let tcpdump = Process::start(&run, "tcpdump", &pod.enter(spec.argument("tcp port 80 or tcp port 3306")))?;
        tcpdump.until("tcpdump listens", Duration::from_secs(20), || Ok(tcpdump.log().contains("listening on").then_some(())))?;
        let routes = vec![
            Route::get(8, "/products/{}?token=secret-{}", "products"),
            Route::get(1, "/missing/{}", "missing"),
            Route::get(1, "/broken/{}", "broken"),
        ];
        let load = HttpLoad { target: nginx.address(), connections: 4, rate: 500, routes, until: Until::Count(HTTP_REQUESTS) };
        assert_eq!(load.start().finish()?.total(), HTTP_REQUESTS);
        let statement = |sql, prepared| Statement { sql, fingerprint: sql, prepared, numbers: 1000 };
        let statements = vec![
            statement("SELECT name FROM items WHERE id = {}", false),
            statement("SELECT price FROM items WHERE id = ?", true),
            statement("SELECT a FROM no_such_table WHERE id = {}", false),
        ];
        let load = SqlLoad { url: database.url(), connections: 2, rate: 500, statements, until: Until::Count(STATEMENTS) };
        assert_eq!(load.start().finish()?.total(), STATEMENTS);
        let mut size = 0;
        tcpdump.until("tcpdump has written all", Duration::from_secs(20), || {
            let before = std::mem::replace(&mut size, std::fs::metadata(&file).context("the capture")?.len());
            std::thread::sleep(Duration::from_millis(300));
            Ok((before == size && size > 0).then_some(()))
        })?;
        tcpdump.signal(libc::SIGINT);
        tcpdump.wait(Duration::from_secs(20))?;
        drop((tcpdump, nginx, database, pod));
        Ok(Self { run, file })
    }

    fn print(&self, flags: &[&str]) -> Result<Output> {
        let spec = Spec::new(binary("podtap-sidecar")?, ["print", "-r"]).argument(&self.file);
        let spec = flags.iter().fold(spec, |spec, flag| spec.argument(flag));
        run_to_end(&self.run, &spec, Duration::from_secs(60))
    }

    fn records(&self, flags: &[&str]) -> Result<Vec<Map<String, Value>>> {
        let output = self.print(&[flags, &["--json"]].concat())?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        output.stdout.lines().map(|line| serde_json::from_str(line).context(format!("a line of --json: {line}"))).collect()
    }
}

/// How many records each outcome has.
fn outcomes(records: &[Map<String, Value>]) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for record in records {
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = match text("network_protocol_name").as_str() {
            "http" => record.get("http_response_status_code").map(Value::to_string).unwrap_or_default(),
            _ => format!("{} {}", text("mysql_command"), text("error_type")).trim().to_owned(),
        };
        *outcomes.entry(name).or_default() += 1;
    }
    outcomes
}

/// Every key is a field of the contract, in its order, with its type; what does not apply is absent.
fn must_keep_the_contract(record: &Map<String, Value>) {
    let mut visited = BTreeMap::new();
    podtap_wire::RequestRecord::default().for_each(|field, value| {
        let kind = match value {
            FieldValue::Text(_) | FieldValue::Address(_) | FieldValue::Timestamp(_) => "text",
            FieldValue::Number(_) | FieldValue::OptionalNumber(_) => "number",
            FieldValue::List(_) => "list",
        };
        visited.insert(field.name, kind);
    });
    assert_eq!(visited.len(), FIELDS.len());
    for (name, value) in record {
        let kind = visited.get(name.as_str()).unwrap_or_else(|| panic!("{name} is no field of the record"));
        match *kind {
            "text" => assert!(value.as_str().is_some_and(|text| !text.is_empty()), "{name}: {value}"),
            "number" => assert!(value.is_u64(), "{name}: {value}"),
            _ => assert!(value.as_array().is_some_and(|list| !list.is_empty()), "{name}: {value}"),
        }
    }
    for name in [
        "timestamp",
        "network_protocol_name",
        "network_transport",
        "client_address",
        "client_port",
        "server_address",
        "server_port",
        "connection_id",
        "exchange_index",
        "tcp_request_sequence",
        "source",
        "side",
        "request_bytes",
        "response_bytes",
        "status",
        "completeness",
    ] {
        assert!(record.contains_key(name), "{name} is missing in {record:?}");
    }
    // A command that has no answer has nothing to measure (MySQL manual, COM_QUIT).
    if record.get("mysql_command") != Some(&Value::from("COM_QUIT")) {
        for name in ["tcp_response_sequence", "time_to_first_byte_ns", "time_to_last_byte_ns"] {
            assert!(record.contains_key(name), "{name} is missing in {record:?}");
        }
        assert!(record["time_to_first_byte_ns"].as_u64() <= record["time_to_last_byte_ns"].as_u64(), "{record:?}");
    }
    let timestamp = record["timestamp"].as_str().unwrap_or_default();
    assert!(timestamp.len() == 30 && timestamp.ends_with('Z') && timestamp.as_bytes()[19] == b'.', "{timestamp}");
    assert_eq!((&record["source"], &record["network_transport"]), (&Value::from("file"), &Value::from("tcp")));
}

#[test]
fn records_of_a_capture_as_json_text_and_selected() -> Result<()> {
    let capture = Capture::make()?;
    let records = capture.records(&[])?;
    for record in &records {
        must_keep_the_contract(record);
    }
    let all = outcomes(&records);
    for (outcome, count) in
        [("200", 80), ("404", 10), ("500", 10), ("COM_QUERY", 30), ("COM_STMT_EXECUTE", 30), ("COM_QUERY 1146", 30), ("CONNECT", 2)]
    {
        assert_eq!(all.get(outcome), Some(&count), "{outcome} in {all:?}");
    }

    let prepared = records.iter().find(|record| record.get("mysql_command") == Some(&Value::from("COM_STMT_EXECUTE")));
    let prepared = prepared.context("no prepared statement")?;
    assert_eq!(prepared["db_query_text"], "SELECT price FROM items WHERE id = ?");
    assert_eq!((&prepared["db_user"], &prepared["db_namespace"]), (&Value::from("shop"), &Value::from("shop")));
    assert_eq!(prepared["db_response_returned_rows"], 1);

    // Masked unless asked otherwise.
    let text = capture.print(&["--json"])?.stdout;
    assert!(!text.contains("secret-"), "a query string's value is shown");
    let text = capture.print(&["--json", "--unmask"])?.stdout;
    assert!(text.contains("secret-") && text.contains("SELECT name FROM items WHERE id = 1\""), "--unmask keeps values");

    // By field, and by packets.
    let failed = outcomes(&capture.records(&["--where", "status=server_error"])?);
    assert_eq!(failed.get("500"), Some(&10), "{failed:?}");
    assert!(!failed.contains_key("200") && !failed.contains_key("404"), "{failed:?}");
    let http = capture.records(&["-f", "tcp port 80"])?;
    assert_eq!(http.len() as u64, HTTP_REQUESTS);
    let both = capture.records(&["--where", "network_protocol_name=http", "--where", "http_response_status_code=404"])?;
    assert_eq!(outcomes(&both), BTreeMap::from([("404".to_owned(), 10)]));
    assert_eq!(capture.print(&["--where", "no_such_field=1"])?.code, 78);

    // For people: a line a request, no escape sequences where there is no terminal.
    let output = capture.print(&[])?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.stdout.lines().count(), records.len());
    assert!(!output.stdout.contains('\x1b'), "{}", output.stdout);
    assert!(output.stdout.contains("/products/") && output.stdout.contains("no_such_table"), "{}", output.stdout);

    // The account of completeness comes last on standard error, as one JSON object.
    let output = capture.print(&["--json", "--stats"])?;
    let account: Value =
        serde_json::from_str(output.stderr.lines().last().unwrap_or_default()).context(format!("the account: {}", output.stderr))?;
    assert!(account.is_object() && account.to_string().contains("podtap_records_total"), "{account}");
    Ok(())
}
