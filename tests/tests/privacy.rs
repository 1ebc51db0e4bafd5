//! Masking, end to end: what people's requests carry as data shows in nothing that Podtap writes, unless it is asked for.
//!
//! Each secret goes over the wire once in a place of its own, to a real nginx and a real MariaDB. Then all there is to read is searched:
//! every table, the API, /metrics, the logs, the spool of a sidecar whose analyzer is away, the analyzer's segment log, and what `print`
//! says.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use podtap_tests::clickhouse::text;
use podtap_tests::process::{Process, Spec, run_to_end};
use podtap_tests::run::{binary, program};
use podtap_tests::system::{System, Wish, alone};
use podtap_tests::{Context, Failure, Result, http, wait};

/// Shows that a place is read at all: it stands beside the secrets where nothing is masked.
const CANARY: &str = "canary-shop-agent";
/// The same in SQL, a name.
const CANARY_COLUMN: &str = "canary_column";

/// A secret, made so that no other text holds it; `number` where only digits may stand.
fn secret(name: &str) -> String {
    format!("zq{name}zq")
}

/// All that went over the wire.
fn secrets() -> Vec<String> {
    let names = [
        "query",
        "query2",
        "bearer",
        "basic",
        "cookie",
        "body",
        "pathparam",
        "fragmentlike",
        "literal",
        "double",
        "escaped",
        "like",
        "inlist",
        "comment",
        "duplicate",
        "parameter",
        "password",
        "insert",
        "json",
        "setvar",
        "backslash",
    ];
    names.iter().map(|name| secret(name)).chain(["887766554433221", "0x7a71686578", "zqüñïzq"].map(str::to_owned)).collect()
}

fn send_http(system: &System) -> Result<()> {
    let target = system.target();
    let path = format!(
        "/products/7;jsessionid={}?token={}&next=%2Fa%3Fb%3D{}&empty#{}",
        secret("pathparam"),
        secret("query"),
        secret("query2"),
        secret("fragmentlike")
    );
    let bearer = format!("Bearer {}", secret("bearer"));
    let cookie = format!("session={}", secret("cookie"));
    let basic = format!("Basic {}", secret("basic"));
    let body = format!("user=a&password={}", secret("body"));
    for (method, authorization) in [("GET", &bearer), ("POST", &basic)] {
        let headers = [("User-Agent", CANARY), ("Authorization", authorization.as_str()), ("Cookie", cookie.as_str())];
        http::request(target, method, &path, &headers, &body)?;
    }
    Ok(())
}

async fn send_sql(url: &str) -> std::result::Result<(), mysql_async::Error> {
    let mut connection = mysql_async::Conn::from_url(url).await?;
    let statements = [
        format!("SELECT '{}' AS {CANARY_COLUMN}", secret("literal")),
        format!("SELECT \"{}\", 'it''s \\'{}\\''", secret("double"), secret("escaped")),
        format!("SELECT name FROM items WHERE name LIKE '%{}%' AND price IN (1, 887766554433221)", secret("like")),
        format!("SELECT 1 FROM items WHERE name IN ('a', '{}') AND name <> 0x7a71686578 /* {} */", secret("inlist"), secret("comment")),
        format!("SELECT 'zqüñïzq' -- {}", secret("comment")),
        "DELETE FROM coupons WHERE used = 1".to_owned(),
        format!("INSERT INTO coupons VALUES ('{}', 1)", secret("duplicate")),
        format!("SELECT JSON_EXTRACT('{{\"a\": \"{}\"}}', '$.a')", secret("json")),
        format!("SET @secret = '{}'", secret("setvar")),
        // Here a backslash escapes nothing: the first literal ends behind it.
        "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'".to_owned(),
        format!("SELECT 'a\\', '{}'", secret("backslash")),
        "SET SESSION sql_mode = DEFAULT".to_owned(),
    ];
    for statement in statements {
        connection.query_drop(statement).await?;
    }
    // Errors quote what was sent: a duplicate, a value that does not fit, SQL that is none.
    for wrong in [
        format!("INSERT INTO coupons VALUES ('{}', 2)", secret("duplicate")),
        format!("INSERT INTO items VALUES ('{}', 'x', 1)", secret("insert")),
        format!("SELECT nothing FRM '{}'", secret("literal")),
        format!("SET PASSWORD = PASSWORD('{}') X", secret("password")),
    ] {
        if connection.query_drop(&wrong).await.is_ok() {
            return Err(mysql_async::Error::Other(format!("{wrong} should have failed").into()));
        }
    }
    connection.exec_drop("SELECT name FROM items WHERE name = ?", (secret("parameter"),)).await?;
    connection.disconnect().await
}

fn send(system: &System) -> Result<()> {
    send_http(system)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    runtime.block_on(send_sql(&system.database.url())).context("the statements")
}

/// Records of one [`send`].
const STATEMENTS: u64 = 17;

/// Every file below a folder, as text as far as it is.
fn files(folder: &Path, out: &mut Vec<(String, String)>) -> Result<()> {
    for entry in fs::read_dir(folder).context(format!("reading {}", folder.display()))? {
        let path = entry.context("a folder's entry")?.path();
        if path.is_dir() {
            files(&path, out)?;
        } else if path.is_file() {
            let bytes = fs::read(&path).context(format!("reading {}", path.display()))?;
            out.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    Ok(())
}

/// Every table and view of the database, whole.
fn tables(system: &System) -> Result<Vec<(String, String)>> {
    let names = system.clickhouse.rows("SELECT name, create_table_query FROM system.tables WHERE database = 'podtap'")?;
    let plain: Vec<&str> = names.iter().filter(|row| !text(row, "create_table_query").contains("{")).map(|row| text(row, "name")).collect();
    if plain.len() < 8 {
        return Err(Failure(format!("only {plain:?} are there")));
    }
    plain
        .iter()
        .map(|name| Ok(((*name).to_owned(), system.clickhouse.execute(&format!("SELECT * FROM podtap.`{name}` FORMAT JSONEachRow"))?)))
        .collect()
}

/// Fails for every secret that shows anywhere.
fn must_show_nothing(places: &[(String, String)]) {
    for (place, text) in places {
        for secret in secrets() {
            if let Some(at) = text.find(&secret) {
                let from = text[..at].char_indices().rev().nth(80).map_or(0, |(index, _)| index);
                panic!("{secret} shows in {place}: ...{}", &text[from..at + secret.len()]);
            }
        }
    }
}

#[test]
fn secrets_show_in_nothing_that_is_written() -> Result<()> {
    let _alone = alone();
    let mut system = System::start(Wish { source: "pcap", kafka: false, application: false, rules: None })?;
    let capture = system.run.folder("capture")?.join("secrets.pcap");
    let spec = Spec::new(program("tcpdump", "tcpdump")?, ["-i", "eth0", "-U", "-Z", "root", "-w"]).argument(&capture);
    let tcpdump = Process::start(&system.run, "tcpdump", &system.pod.enter(spec.argument("tcp port 80 or tcp port 3306")))?;
    tcpdump.until("tcpdump listens", Duration::from_secs(20), || Ok(tcpdump.log().contains("listening on").then_some(())))?;
    send(&system)?;

    // What is stored, asked and logged.
    let stored = "SELECT countIf(user_agent_original = 'canary-shop-agent') * 1000 \
                  + countIf(mysql_command IN ('COM_QUERY', 'COM_STMT_EXECUTE') AND db_user = 'shop') AS n FROM requests FINAL";
    wait::until_stepwise("all records in ClickHouse", Duration::from_secs(60), Duration::from_secs(1), || {
        match system.clickhouse.number(stored)? {
            n if n >= 2000 + STATEMENTS => Ok(Some(())),
            n => Err(Failure(format!("{n} of {} are there", 2000 + STATEMENTS))),
        }
    })?;
    let mut places = tables(&system)?;
    let requests = places.iter().find(|(name, _)| name == "requests").map(|(_, text)| text.clone()).unwrap_or_default();
    assert!(requests.contains(CANARY) && requests.contains(CANARY_COLUMN), "the tables were not read");
    assert!(requests.contains("Duplicate entry"), "no error text was stored");
    for (name, address, path) in [
        ("the analyzer's /metrics", system.analyzer.http(), "/metrics"),
        ("the analyzer's /api/v1/alarms", system.analyzer.http(), "/api/v1/alarms"),
        ("the sidecar's /metrics", system.sidecar.admin(), "/metrics"),
    ] {
        let answer = http::get(address, path)?;
        assert_eq!(answer.status, 200, "{name}");
        places.push((name.to_owned(), answer.body));
    }

    // The spool of a sidecar whose analyzer is away, and what the analyzer keeps as its log.
    system.analyzer.process().stop()?;
    send(&system)?;
    std::thread::sleep(Duration::from_secs(3));
    system.sidecar.process().signal(libc::SIGTERM);
    system.sidecar.process().wait(Duration::from_secs(40))?;
    let mut written = Vec::new();
    files(&system.run.folder("sidecar")?, &mut written)?;
    files(&system.run.folder("analyzer")?, &mut written)?;
    for part in ["/sidecar/", "/analyzer/"] {
        let readable = written.iter().any(|(path, text)| path.contains(part) && text.contains(CANARY));
        assert!(readable, "nothing below {part} holds the canary: {:?}", written.iter().map(|(path, _)| path).collect::<Vec<_>>());
    }
    places.extend(written);
    places.push(("the sidecar's log".to_owned(), system.sidecar.process().log()));
    places.push(("the analyzer's log".to_owned(), system.analyzer.process().log()));

    // What print says of the same packets; unmasked, the secrets are there: they were on the wire, and the search finds them.
    tcpdump.signal(libc::SIGINT);
    tcpdump.wait(Duration::from_secs(20))?;
    let print = |flags: &[&str]| -> Result<String> {
        let spec = Spec::new(binary("podtap-sidecar")?, ["print", "-r"]).argument(&capture);
        let output = run_to_end(&system.run, &flags.iter().fold(spec, |spec, flag| spec.argument(flag)), Duration::from_secs(60))?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        Ok(output.stdout + &output.stderr)
    };
    for flags in [&["--stats"][..], &["--json", "--stats"]] {
        let said = print(flags)?;
        assert!(said.contains(CANARY_COLUMN), "{said}");
        places.push((format!("print {flags:?}"), said));
    }
    must_show_nothing(&places);

    let unmasked = print(&["--json", "--unmask"])?;
    // Credentials and bodies are not kept even then.
    let never = ["bearer", "basic", "cookie", "body"].map(secret);
    for secret in secrets() {
        assert_eq!(unmasked.contains(&secret), !never.contains(&secret), "{secret} in print --unmask");
    }
    system.clickhouse.kill()
}
