//! `podtap-clickhouse` before clients that nobody here wrote: curl, clickhouse-connect, @clickhouse/client, clickhouse-jdbc
//! (the programs in tests/clients, installed by its install.sh) and the Rust crate `clickhouse`; and what only its own
//! process can show: memory, restarts, a cut insert.
//!
//! With PODTAP_TEST_CLICKHOUSE_URL the clients run against that server instead; what needs the process is then left to the
//! run without it.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clickhouse::{Client, Compression, Row};
use podtap_tests::clickhouse::ClickHouse;
use podtap_tests::process::{Spec, run_to_end};
use podtap_tests::run::{Run, binary, program};
use podtap_tests::{Context, Failure, Result, http, running, wait};
use serde::{Deserialize, Serialize};

/// Longest time a client's program may take.
const CLIENT: Duration = Duration::from_secs(180);

/// The server under test: an endpoint of its own, or the one that the environment names.
struct Server {
    url: String,
    own: Option<ClickHouse>,
}

impl Server {
    fn start(run: &Run) -> Result<Self> {
        if let Ok(url) = std::env::var("PODTAP_TEST_CLICKHOUSE_URL") {
            return Ok(Self { url, own: None });
        }
        let own = ClickHouse::start(run)?;
        Ok(Self { url: own.url(), own: Some(own) })
    }
}

/// A database nobody else uses, also on a server that stays.
fn database(run: &Run, client: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{client}_{}_{}", run.name().replace('-', "_"), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn clients_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// Where install.sh puts the clients; fails with the line to run if they are not there.
fn installed() -> Result<PathBuf> {
    let install = clients_folder().join("install.sh");
    let output = Command::new(&install).arg("--where").output().context("asking install.sh where the clients are")?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    match folder.join("complete").is_file() {
        true => Ok(folder),
        false => {
            Err(Failure(format!("the clients of ClickHouse are not installed; run: {} (cargo xtask test does it)", install.display())))
        }
    }
}

/// Runs one client's program; it prints a line for each check and fails at the first that does not hold.
fn conforms(client: &str, spec: impl FnOnce(&str) -> Result<Spec>) -> Result<()> {
    let run = Run::start()?;
    let server = Server::start(&run)?;
    let spec = spec(&database(&run, client))?.environment("PODTAP_TEST_CLICKHOUSE_URL", &server.url);
    let output = run_to_end(&run, &spec, CLIENT)?;
    let checks = output.stdout.lines().filter(|line| line.starts_with("ok ")).count();
    if output.code != 0 || checks < 10 {
        let said = format!("{}{}", output.stdout, output.stderr);
        return Err(Failure(format!("{client} ended with {} after {checks} checks:\n{said}", output.code)));
    }
    Ok(())
}

#[test]
fn curl() -> Result<()> {
    program("curl", "curl")?;
    conforms("curl", |database| Ok(Spec::new(clients_folder().join("curl/conformance.sh"), [database])))
}

#[test]
fn clickhouse_connect() -> Result<()> {
    let clients = installed()?;
    conforms("python", |database| {
        Ok(Spec::new(clients.join("venv/bin/python"), ["-u".into(), clients_folder().join("python/conformance.py")]).argument(database))
    })
}

#[test]
fn node_client() -> Result<()> {
    let clients = installed()?;
    conforms("node", |database| {
        let spec = Spec::new(clients.join("node/node"), [clients_folder().join("node/conformance.mjs")]).argument(database);
        Ok(spec.environment("PODTAP_TEST_CLIENTS", clients.to_string_lossy()))
    })
}

#[test]
fn jdbc() -> Result<()> {
    let clients = installed()?;
    let classes = format!("{0}/classes:{0}/*", clients.join("java").display());
    let java = program("java", "openjdk-17-jre-headless")?;
    conforms("java", |database| Ok(Spec::new(java, ["-Xmx512m", "-cp", &classes, "Conformance", database])))
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Row)]
struct Item {
    id: u64,
    name: String,
    tags: Vec<String>,
}

fn item(id: u64) -> Item {
    Item { id, name: format!("it's \\ row {id}"), tags: vec!["a".into(), id.to_string()] }
}

#[tokio::test]
async fn rust_crate() -> Result<()> {
    let run = Run::start()?;
    let server = Server::start(&run)?;
    let database = database(&run, "rust");
    let plain = Client::default().with_url(&server.url);
    plain.query(&format!("CREATE DATABASE {database}")).execute().await.context("CREATE DATABASE")?;
    for (name, compression) in [("none", Compression::None), ("lz4", Compression::Lz4)] {
        let client = plain.clone().with_database(&database).with_compression(compression);
        let create = "CREATE OR REPLACE TABLE items (id UInt64, name String, tags Array(String)) ENGINE = MergeTree ORDER BY id";
        client.query(create).execute().await.context("CREATE TABLE")?;
        let mut insert = client.insert::<Item>("items").await.context("the DESCRIBE before an insert")?;
        for id in 0..100_000 {
            insert.write(&item(id)).await.context("writing a row")?;
        }
        insert.end().await.context("the end of the insert")?;
        let all = client.query("SELECT ?fields FROM items ORDER BY id").fetch_all::<Item>().await.context("reading them back")?;
        assert_eq!((all.len(), &all[99_999]), (100_000, &item(99_999)), "compression {name}");
        let bound = client.query("SELECT {n: UInt64} + 1, {s: String}").param("n", 41).param("s", "it's \\ \t ü");
        assert_eq!(bound.fetch_one::<(u64, String)>().await.context("parameters")?, (42, "it's \\ \t ü".into()), "compression {name}");

        let unknown = client.query("SELECT name FROM nowhere").fetch_all::<String>().await.err().context("an unknown table is read")?;
        assert!(unknown.to_string().contains("Code: 60") || unknown.to_string().contains("UNKNOWN_TABLE"), "{unknown}");
        let failing = "SELECT number + throwIf(number = 4000000) FROM numbers(5000000)";
        let mut cursor = client.query(failing).fetch::<u64>().context("a query that fails late")?;
        let mut rows = 0_u64;
        let error = loop {
            match cursor.next().await {
                Ok(Some(_)) => rows += 1,
                Ok(None) => panic!("the error in the middle of the stream was not noticed, compression {name}"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(rows > 0 && error.contains("395"), "compression {name}, after {rows} rows: {error}");

        let mut cursor = client.query("SELECT number FROM numbers(1000000)").fetch::<u64>().context("a million rows")?;
        let mut sum = 0;
        while let Some(number) = cursor.next().await.context("a row of a million")? {
            sum += number;
        }
        assert_eq!(sum, 499_999_500_000, "compression {name}");
    }
    let client = plain.clone().with_database(&database);
    let other = client.clone();
    let long =
        tokio::spawn(
            async move { other.query("SELECT sleepEachRow(1) FROM numbers(3) SETTINGS max_block_size = 1").fetch_all::<u8>().await },
        );
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    client.query("SELECT 1").fetch_one::<u8>().await.context("a short query")?;
    let mut insert = client.insert::<Item>("items").await.context("an insert beside it")?;
    insert.write(&item(1)).await.context("writing a row")?;
    insert.end().await.context("the end of the insert")?;
    assert!(begun.elapsed() < Duration::from_secs(1) && !long.is_finished(), "they waited {:?} for a long query", begun.elapsed());
    long.await.context("the long query's task")?.context("the long query")?;
    plain.query(&format!("DROP DATABASE {database}")).execute().await.context("DROP DATABASE")
}

/// One plain request; its answer's bytes are counted, not kept.
fn drain(address: SocketAddrV4, sql: &str) -> Result<u64> {
    let mut stream = TcpStream::connect(address).context("connecting")?;
    write!(stream, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{sql}", sql.len()).context("asking")?;
    std::io::copy(&mut stream, &mut std::io::sink()).context("reading the answer")
}

#[test]
fn a_big_result_and_a_big_insert_take_little_memory() -> Result<()> {
    let run = Run::start()?;
    let server = Server::start(&run)?;
    let Some(endpoint) = server.own.as_ref() else { return Ok(()) };
    let pid = endpoint.pid()?;
    http::request(endpoint.address(), "POST", "/", &[], "CREATE TABLE big (n UInt64, s String) ENGINE = Null")?;
    drain(endpoint.address(), "SELECT number FROM numbers(100000)")?;
    let peak = || running::memory_bytes(pid, "VmHWM").map(|bytes| bytes / 1024);
    let before = peak()?;
    let bytes = drain(endpoint.address(), "SELECT number, repeat('x', 1000) FROM numbers(1000000)")?;
    assert!(bytes > 1_000_000_000, "{bytes} bytes of a million rows");
    let grown = peak()? - before;
    eprintln!("1 GB out: {grown} kB above {before} kB");
    assert!(grown < 200_000, "1 GB out made the process {grown} kB larger");

    let mut stream = TcpStream::connect(endpoint.address()).context("connecting")?;
    let rows = 400_000_u64;
    let row = format!("1\t{}\n", "y".repeat(997));
    let head = "POST /?query=INSERT%20INTO%20big%20FORMAT%20TSV HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n", rows * row.len() as u64).context("asking")?;
    for _ in 0..rows / 1000 {
        stream.write_all(row.repeat(1000).as_bytes()).context("sending rows")?;
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the answer to the insert")?;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&format!("\"written_rows\":\"{rows}\"")), "{answer}");
    let grown = peak()? - before;
    eprintln!("400 MB in: {grown} kB above {before} kB");
    // The engine cuts inserts into blocks of a million rows, and this one is smaller: it holds it once, and its growth.
    assert!(grown < 1_000_000, "400 MB in made the process {grown} kB larger");
    Ok(())
}

#[test]
fn what_is_acknowledged_survives_a_kill() -> Result<()> {
    let run = Run::start()?;
    let mut server = Server::start(&run)?;
    let Some(endpoint) = server.own.as_mut() else { return Ok(()) };
    let post = |endpoint: &ClickHouse, sql: &str| http::request(endpoint.address(), "POST", "/", &[], sql).map(|answer| answer.body);
    post(endpoint, "CREATE DATABASE kept")?;
    post(endpoint, "CREATE TABLE kept.t (n UInt64) ENGINE = MergeTree ORDER BY n")?;
    for round in 1..=3_u64 {
        for n in 0..20 {
            assert_eq!(post(endpoint, &format!("INSERT INTO kept.t VALUES ({n})"))?, "");
        }
        endpoint.kill()?;
        endpoint.launch(&run)?;
        assert_eq!(post(endpoint, "SELECT count() FROM kept.t")?, format!("{}\n", 20 * round));
    }
    Ok(())
}

#[test]
fn a_cut_insert_stores_nothing_and_a_gone_client_stops_its_query() -> Result<()> {
    let run = Run::start()?;
    let server = Server::start(&run)?;
    let Some(endpoint) = server.own.as_ref() else { return Ok(()) };
    let address = endpoint.address();
    let count = |sql: &str| -> Result<String> { Ok(http::request(address, "POST", "/", &[], sql)?.body) };
    count("CREATE TABLE cut (n UInt64) ENGINE = MergeTree ORDER BY n")?;
    for chunked in [false, true] {
        let mut stream = TcpStream::connect(address).context("connecting")?;
        let rows = "1\n".repeat(200_000);
        let head = "POST /?query=INSERT%20INTO%20cut%20FORMAT%20TSV HTTP/1.1\r\nHost: x\r\n";
        match chunked {
            false => write!(stream, "{head}Content-Length: {}\r\n\r\n{rows}", rows.len() + 2),
            true => write!(stream, "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{rows}\r\n", rows.len()),
        }
        .context("sending a part")?;
        wait::until_true("the insert runs", Duration::from_secs(20), || {
            Ok(count("SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO cut%'")? == "1\n")
        })?;
        drop(stream);
        wait::until_true("the insert ends", Duration::from_secs(20), || {
            Ok(count("SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO cut%'")? == "0\n")
        })?;
        assert_eq!(count("SELECT count() FROM cut")?, "0\n", "chunked: {chunked}");
    }
    for endless in ["SELECT number FROM system.numbers", "SELECT count() FROM system.numbers"] {
        let mut stream = TcpStream::connect(address).context("connecting")?;
        write!(stream, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{endless}", endless.len()).context("asking")?;
        let running = format!("SELECT count() FROM system.processes WHERE startsWith(query, '{endless}')");
        wait::until_true("the query runs", Duration::from_secs(20), || Ok(count(&running)? == "1\n"))?;
        drop(stream);
        wait::until_true("the query of a client that is gone ends", Duration::from_secs(20), || Ok(count(&running)? == "0\n"))?;
    }
    Ok(())
}

#[test]
fn what_keeps_it_from_starting_is_said() -> Result<()> {
    let run = Run::start()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").context("taking a port")?;
    let port = taken.local_addr().context("its address")?.to_string();
    let first = ClickHouse::start(&run)?;
    let in_use = run.root().join("clickhouse").display().to_string();
    let fresh = run.root().join("fresh").display().to_string();
    for (arguments, code, words) in [
        (vec!["--listen", &port, "--path", &fresh], 69, "cannot listen on"),
        (vec!["--listen", "127.0.0.1:0", "--path", &in_use], 69, "is in use by another process"),
        (vec!["--listen", "127.0.0.1:0", "--path", &fresh, "--library", "/nowhere/libchdb.so"], 69, "npm pack @chdb/lib-linux-x64-gnu"),
        (vec!["--listen", "127.0.0.1:0", "--path", "/proc/nowhere"], 78, "cannot use /proc/nowhere for data"),
        (vec!["--listen", "here"], 78, "invalid value 'here'"),
        (vec!["--no-such-flag"], 2, "unexpected argument"),
    ] {
        let output = run_to_end(&run, &Spec::new(binary("podtap-clickhouse")?, &arguments), Duration::from_secs(30))?;
        let said = output.stderr;
        assert_eq!((output.code, said.contains(words)), (code, true), "{arguments:?}: {said}");
    }
    drop(first);
    Ok(())
}
