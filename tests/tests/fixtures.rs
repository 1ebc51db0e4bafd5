//! The fixtures themselves, on real servers: the load counts what it sent, two pods live side by side, nothing is left.

use std::time::Duration;

use podtap_tests::app::App;
use podtap_tests::clickhouse::ClickHouse;
use podtap_tests::kafka::Kafka;
use podtap_tests::load::Until;
use podtap_tests::load::http::{HttpLoad, Route};
use podtap_tests::load::sql::{SqlLoad, Statement};
use podtap_tests::mariadb::{MariaDb, Place};
use podtap_tests::nginx::Nginx;
use podtap_tests::pod::Pod;
use podtap_tests::run::Run;
use podtap_tests::{Result, http};

#[test]
fn a_pod_of_real_servers_counts_what_it_was_sent_and_leaves_nothing() -> Result<()> {
    let run = Run::start()?;
    let scratch = run.root().to_owned();
    let (pod, other) = (Pod::new(&run)?, Pod::new(&run)?);
    assert_ne!(pod.address(), other.address());
    let database = MariaDb::start(&run, Place::Inside(&pod))?;
    let app = App::start(&run, &pod, &database)?;
    let nginx = Nginx::start(&run, &pod, Some(app.address()), true)?;

    assert_eq!(http::get(nginx.address(), "/items/7")?.body, "{\"id\":7,\"name\":\"item 7\",\"price\":107}\n");
    assert_eq!(http::get(nginx.address(), "/payments/7")?.status, 200);
    database.forget_payments()?;
    assert_eq!(http::get(nginx.address(), "/payments/7")?.status, 500);
    database.restore_payments()?;
    assert_eq!(http::request(nginx.address(), "POST", "/orders/3", &[], "{}")?.status, 201);
    assert_eq!(http::request(nginx.address(), "POST", "/coupons", &[], "{}")?.status, 409);

    let routes = vec![
        Route::get(8, "/products/{}", "/products/{id}"),
        Route::get(1, "/missing/{}", "/missing/{id}"),
        Route::post(1, "/orders/{}", "/orders/{id}", "{\"quantity\":1}"),
    ];
    let load = HttpLoad { target: nginx.address(), connections: 8, rate: 2000, routes, until: Until::Count(1000) };
    let report = load.start().finish()?;
    let sent: Vec<_> = report.counts.iter().map(|((endpoint, status), count)| (endpoint.as_str(), status.as_str(), *count)).collect();
    assert_eq!(sent, [("/missing/{id}", "404", 100), ("/orders/{id}", "201", 100), ("/products/{id}", "200", 800)]);
    // All that went through nginx is in its log: five by hand, and the load.
    assert_eq!(nginx.access_log()?.len(), 1005);

    let statements = vec![
        Statement { sql: "SELECT name FROM items WHERE id = {}", fingerprint: "plain", prepared: false, numbers: 1000 },
        Statement { sql: "SELECT price FROM items WHERE id = ?", fingerprint: "prepared", prepared: true, numbers: 1000 },
        Statement { sql: "SELECT x FROM nowhere WHERE id = {}", fingerprint: "bad", prepared: false, numbers: 1000 },
    ];
    let load = SqlLoad { url: database.url(), connections: 4, rate: 2000, statements, until: Until::Count(900) };
    let report = load.start().finish()?;
    let sent: Vec<_> = report.counts.iter().map(|((name, code), count)| (name.as_str(), code.as_str(), *count)).collect();
    assert_eq!(sent, [("bad", "1146", 300), ("plain", "", 300), ("prepared", "", 300)]);

    let pids = [database.process().pid(), app.process().pid(), nginx.process().pid()];
    let namespace = format!("/run/netns/{}", pod.namespace());
    drop((nginx, app, database, other, pod, run));
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
    assert!(!std::path::Path::new(&namespace).exists() && !scratch.exists());
    Ok(())
}

#[test]
fn a_missing_server_is_named_with_the_line_to_run() {
    let error = podtap_tests::run::program("podtap-no-such-server", "no-such-package").expect_err("there is no such program");
    assert!(error.to_string().contains("apt-get install -y --no-install-recommends no-such-package"), "{error}");
    let waited = podtap_tests::wait::until_true("the impossible", Duration::from_millis(60), || Ok(false));
    assert!(waited.is_err());
}

#[test]
fn the_endpoint_keeps_its_data_when_it_is_killed() -> Result<()> {
    let run = Run::start()?;
    let mut clickhouse = ClickHouse::start(&run)?;
    assert_eq!(http::request(clickhouse.address(), "POST", "/", &[], "CREATE DATABASE podtap")?.status, 200);
    clickhouse.execute("CREATE TABLE t (n UInt64, s String) ENGINE = MergeTree ORDER BY n SETTINGS fsync_after_insert = 1")?;
    clickhouse.execute("INSERT INTO t SELECT number, 'x' FROM numbers(1000)")?;
    clickhouse.kill()?;
    assert!(http::get(clickhouse.address(), "/ping").is_err());
    clickhouse.launch(&run)?;
    assert_eq!(clickhouse.number("SELECT sum(n) FROM t")?, 499_500);
    let error = clickhouse.execute("SELECT no_such_column FROM t").expect_err("there is no such column");
    assert!(error.to_string().contains("no_such_column"), "{error}");
    Ok(())
}

#[test]
fn a_broker_comes_back_after_it_was_killed() -> Result<()> {
    let run = Run::start()?;
    let pod = Pod::new(&run)?;
    let mut kafka = Kafka::start(&run, pod.host_address())?;
    kafka.kill()?;
    assert!(std::net::TcpStream::connect(kafka.address()).is_err());
    kafka.launch(&run)
}
