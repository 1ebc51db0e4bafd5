//! The whole way, for tests: a pod with nginx and MariaDB in it, a sidecar beside them, the endpoint and the analyzer outside.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::analyzer::{self, Analyzer};
use crate::app::App;
use crate::clickhouse::{ClickHouse, number, text};
use crate::kafka::Kafka;
use crate::load::Report;
use crate::load::http::Route;
use crate::load::sql::Statement;
use crate::mariadb::{MariaDb, Place};
use crate::nginx::Nginx;
use crate::pod::Pod;
use crate::run::Run;
use crate::sidecar::{self, Sidecar, Way};
use crate::{Failure, Result, wait};

/// Service name of the pod.
pub const SERVICE: &str = "shop";

/// Exact counts by (endpoint or fingerprint, status code or error).
pub type Counts = BTreeMap<(String, String), u64>;

/// Holds the machine: tests that measure or load it run one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    // A test that failed while it held the machine has cleaned up all the same.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a test wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Capture source.
    pub source: &'static str,
    /// Over Kafka instead of gRPC.
    pub kafka: bool,
    /// The application behind nginx, and nginx's access log.
    pub application: bool,
    /// Rules file, given the analyzer knows where alarms go.
    pub rules: Option<String>,
}

/// Everything that runs; dropped from top to bottom.
#[derive(Debug)]
pub struct System {
    /// The sidecar in the pod.
    pub sidecar: Sidecar,
    /// nginx in the pod.
    pub nginx: Nginx,
    /// The application in the pod.
    pub app: Option<App>,
    /// MariaDB in the pod.
    pub database: MariaDb,
    /// The analyzer.
    pub analyzer: Analyzer,
    /// The broker.
    pub kafka: Option<Kafka>,
    /// The endpoint.
    pub clickhouse: ClickHouse,
    /// The namespace.
    pub pod: Pod,
    /// The scratch folder.
    pub run: Run,
}

impl System {
    /// Starts it all.
    pub fn start(wish: Wish) -> Result<Self> {
        let run = Run::start()?;
        let pod = Pod::new(&run)?;
        let clickhouse = ClickHouse::start(&run)?;
        let kafka = if wish.kafka { Some(Kafka::start(&run, pod.host_address())?) } else { None };
        let broker = kafka.as_ref().map(Kafka::address);
        let setup =
            analyzer::Setup { clickhouse_url: clickhouse.url(), grpc_address: pod.host_address(), kafka: broker, rules: wish.rules };
        let analyzer = Analyzer::start(&run, &setup)?;
        let database = MariaDb::start(&run, Place::Inside(&pod))?;
        let app = if wish.application { Some(App::start(&run, &pod, &database)?) } else { None };
        let nginx = Nginx::start(&run, &pod, app.as_ref().map(App::address), wish.application)?;
        let way = broker.map_or(Way::Grpc(analyzer.grpc()), Way::Kafka);
        let setup = sidecar::Setup { source: wish.source, way, service: SERVICE, pod_name: "shop-0", interfaces: &[] };
        let sidecar = Sidecar::start(&run, &pod, &setup)?;
        Ok(Self { sidecar, nginx, app, database, analyzer, kafka, clickhouse, pod, run })
    }

    /// Starts another sidecar in the place of one that ended; waits until it is ready.
    pub fn restart_sidecar(&mut self, source: &str) -> Result<()> {
        let way = self.kafka.as_ref().map_or(Way::Grpc(self.analyzer.grpc()), |kafka| Way::Kafka(kafka.address()));
        let setup = sidecar::Setup { source, way, service: SERVICE, pod_name: "shop-0", interfaces: &[] };
        self.sidecar = Sidecar::start(&self.run, &self.pod, &setup)?;
        Ok(())
    }

    /// Starts another analyzer in the place of one that ended, without rules; waits until it is ready.
    pub fn restart_analyzer(&mut self) -> Result<()> {
        let kafka = self.kafka.as_ref().map(Kafka::address);
        let setup = analyzer::Setup { clickhouse_url: self.clickhouse.url(), grpc_address: self.pod.host_address(), kafka, rules: None };
        self.analyzer = Analyzer::start(&self.run, &setup)?;
        Ok(())
    }

    /// Where nginx answers.
    pub fn target(&self) -> SocketAddrV4 {
        self.nginx.address()
    }

    /// HTTP records in `requests` by (method and template, status code).
    pub fn http_requests(&self, source: &str) -> Result<Counts> {
        self.counts(&format!(
            "SELECT concat(http_request_method, ' ', url_template) AS name, toString(http_response_status_code) AS outcome, count() AS n \
             FROM requests FINAL WHERE network_protocol_name = 'http' AND server_port = {} AND source = '{source}' GROUP BY name, outcome",
            self.target().port()
        ))
    }

    /// HTTP exchanges in `red` by (endpoint, error).
    pub fn http_red(&self, source: &str) -> Result<Counts> {
        self.counts(&format!(
            "SELECT endpoint AS name, error_type AS outcome, sum(count) AS n FROM red \
             WHERE network_protocol_name = 'http' AND server_port = {} AND source = '{source}' GROUP BY name, outcome",
            self.target().port()
        ))
    }

    /// Statements in `requests` by (fingerprint, error), as they were run (not prepared).
    pub fn sql_requests(&self, source: &str) -> Result<Counts> {
        self.counts(&format!(
            "SELECT db_query_fingerprint AS name, error_type AS outcome, count() AS n FROM requests FINAL \
             WHERE mysql_command IN ('COM_QUERY', 'COM_STMT_EXECUTE') AND source = '{source}' GROUP BY name, outcome"
        ))
    }

    /// Statements in `red` by (fingerprint, error).
    pub fn sql_red(&self, source: &str) -> Result<Counts> {
        self.counts(&format!(
            "SELECT endpoint AS name, error_type AS outcome, sum(count) AS n FROM red \
             WHERE network_protocol_name = 'mysql' AND source = '{source}' GROUP BY name, outcome"
        ))
    }

    fn counts(&self, sql: &str) -> Result<Counts> {
        let rows = self.clickhouse.rows(sql)?;
        let count = |row| ((text(row, "name").to_owned(), text(row, "outcome").to_owned()), number(row, "n") as u64);
        Ok(rows.iter().map(count).collect())
    }

    /// Waits until the records of a whole load have arrived, and fails when they have not in time.
    pub fn until_stored(&self, http: &Report, sql: &Report, source: &str, limit: Duration) -> Result<()> {
        wait::until_stepwise("all records in ClickHouse", limit, Duration::from_secs(1), || {
            let stored = total(&self.http_requests(source)?) + total(&self.sql_requests(source)?);
            let expected = http.total() + sql.total();
            if stored < expected {
                return Err(Failure(format!("{stored} of {expected} are there")));
            }
            Ok(Some(()))
        })
    }

    /// Fails unless what ClickHouse gives back is what was sent, exactly, in table `requests` and in view `red`.
    pub fn must_equal(&self, http: &Report, sql: &Report, source: &str) -> Result<()> {
        let without_success = |counts: &Counts| {
            let mut merged = Counts::new();
            for ((name, status), count) in counts {
                let error = if status.as_str() >= "400" { status.clone() } else { String::new() };
                *merged.entry((name.clone(), error)).or_default() += count;
            }
            merged
        };
        let checks = [
            ("HTTP in requests", self.http_requests(source)?, http.counts.clone()),
            ("HTTP in red", self.http_red(source)?, without_success(&http.counts)),
            ("SQL in requests", self.sql_requests(source)?, sql.counts.clone()),
            ("SQL in red", only(&self.sql_red(source)?, sql), sql.counts.clone()),
        ];
        for (what, stored, sent) in checks {
            if stored != sent {
                return Err(Failure(format!("{what}: ClickHouse has {stored:#?}, the generator sent {sent:#?}")));
            }
        }
        Ok(())
    }

    /// Fails unless the sidecar's /metrics name the source and show nothing lost.
    pub fn must_be_lossless(&self, source: &str) -> Result<()> {
        let metrics = self.sidecar.metrics()?;
        let named = self.sidecar.source()?;
        if named != source {
            return Err(Failure(format!("/metrics name source {named:?}, asked for was {source:?}")));
        }
        for name in ["podtap_packets_dropped_total", "podtap_tcp_gap_bytes_total", "podtap_records_dropped_total"] {
            if !metrics.has(name) {
                return Err(Failure(format!("/metrics have no {name}")));
            }
            if metrics.sum(name) != 0.0 {
                let samples: Vec<_> = metrics.of(name).filter(|sample| sample.value != 0.0).collect();
                return Err(Failure(format!("{name} is not 0: {samples:?}")));
            }
        }
        Ok(())
    }
}

/// Of the series, those that a load sent: logins and preparing are series too.
fn only(stored: &Counts, sent: &Report) -> Counts {
    let is_sent = |name: &String| sent.counts.keys().any(|(endpoint, _)| endpoint == name);
    stored.iter().filter(|((name, _), _)| is_sent(name)).map(|(key, count)| (key.clone(), *count)).collect()
}

fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// HTTP of the load tests: mostly small answers, some files, some errors.
pub fn load_routes() -> Vec<Route> {
    vec![
        Route::get(60, "/products/{}", "GET /products/{id}"),
        Route::get(14, "/files/small.bin", "GET /files/small.bin"),
        Route::get(7, "/files/medium.bin", "GET /files/medium.bin"),
        Route::get(1, "/files/large.bin", "GET /files/large.bin"),
        Route::post(8, "/products/{}", "POST /products/{id}", "{\"name\":\"another product\",\"price\":1999}"),
        Route::get(6, "/missing/{}", "GET /missing/{id}"),
        Route::get(2, "/broken/{}", "GET /broken/{id}"),
        Route::get(2, "/busy/{}", "GET /busy/{id}"),
    ]
}

/// SQL of the load tests: plain and prepared, reading and writing, and two that fail.
pub fn load_statements() -> Vec<Statement> {
    let statement = |sql, fingerprint, prepared| Statement { sql, fingerprint, prepared, numbers: 1000 };
    vec![
        statement("SELECT name, price FROM items WHERE id = {}", "select name, price from items where id = ?", false),
        statement("SELECT id, quantity FROM orders WHERE item_id = ?", "select id, quantity from orders where item_id = ?", true),
        statement("UPDATE items SET price = 1999 WHERE id = {}", "update items set price = ? where id = ?", false),
        statement("SELECT id, name FROM items WHERE id > ? LIMIT 20", "select id, name from items where id > ? limit ?", true),
        statement("SELECT price FROM items WHERE id = ?", "select price from items where id = ?", true),
        statement("SELECT colour FROM items WHERE id = {}", "select colour from items where id = ?", false),
        statement("SELECT a FROM no_such_table WHERE id = {}", "select a from no_such_table where id = ?", false),
        statement("SELECT COUNT(*) FROM items WHERE price < {}", "select count(*) from items where price < ?", false),
    ]
}
