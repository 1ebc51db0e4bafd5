//! The parts of the demo, in the order in which they start.

use std::time::Instant;

use podtap_tests::analyzer::{self, Analyzer};
use podtap_tests::app::App;
use podtap_tests::clickhouse::ClickHouse;
use podtap_tests::kafka::Kafka;
use podtap_tests::load::http::{HttpLoad, Route};
use podtap_tests::load::{Running, Stop, Until};
use podtap_tests::mariadb::{MariaDb, Place};
use podtap_tests::nginx::Nginx;
use podtap_tests::pod::Pod;
use podtap_tests::run::Run;
use podtap_tests::sidecar::{self, Sidecar, Way};
use podtap_tests::webhook::Webhook;
use podtap_tests::{Failure, Result, wait};

use super::Options;
use super::screen::Screen;

/// Name of the service and its deployment.
pub const SERVICE: &str = "shop";
/// Keep-alive connections of the traffic.
const CONNECTIONS: usize = 24;

/// What people ask of the shop.
pub const ROUTES: &[Route] = &[
    Route::get(40, "/items/{}", "GET /items/{id}"),
    Route::get(20, "/products/{}", "GET /products/{id}"),
    Route::get(14, "/orders/{}", "GET /orders/{id}"),
    Route::post(6, "/orders/{}", "POST /orders/{id}", "{\"quantity\":1}"),
    Route::get(8, "/search/{}", "GET /search/{id}"),
    Route::get(6, "/payments/{}", "GET /payments/{id}"),
    Route::get(3, "/missing/{}", "GET /missing/{id}"),
    Route::post(2, "/coupons", "POST /coupons", "{\"code\":\"WELCOME\"}"),
    Route::get(1, "/reports/daily", "GET /reports/daily"),
];

/// Everything that runs. Fields are dropped from top to bottom: traffic first, the pod and the scratch folder last.
pub struct Stage {
    traffic: Running,
    stop: Stop,
    pub sidecar: Sidecar,
    pub nginx: Nginx,
    app: App,
    pub database: MariaDb,
    pub analyzer: Analyzer,
    kafka: Option<Kafka>,
    pub clickhouse: ClickHouse,
    pub webhook: Webhook,
    pub pod: Pod,
    pub transport: &'static str,
    _run: Run,
}

impl Stage {
    /// Starts everything, with a line for each part.
    pub fn build(options: &Options, screen: &mut Screen) -> Result<Self> {
        let run = Run::start()?;
        screen.title("Podtap demo: a pod is watched from beside, its applications know nothing of it");
        let mut step = |what: &str, begun: Instant, detail: String| screen.step(what, begun.elapsed(), &detail);

        let begun = Instant::now();
        let pod = Pod::new(&run)?;
        step("pod", begun, format!("network namespace {} with lo and eth0 ({})", pod.namespace(), pod.address()));
        let begun = Instant::now();
        let clickhouse = ClickHouse::start(&run)?;
        step("ClickHouse", begun, format!("embedded engine behind its HTTP interface at {}", clickhouse.url()));
        let begun = Instant::now();
        let kafka = if options.kafka { Some(Kafka::start(&run, pod.host_address())?) } else { None };
        if let Some(kafka) = &kafka {
            step("Kafka", begun, format!("one broker, KRaft, at {}", kafka.address()));
        }
        let begun = Instant::now();
        let webhook = Webhook::start()?;
        let setup = analyzer::Setup {
            clickhouse_url: clickhouse.url(),
            grpc_address: pod.host_address(),
            kafka: kafka.as_ref().map(Kafka::address),
            rules: Some(analyzer::payments_rule(&webhook.url())),
        };
        let analyzer = Analyzer::start(&run, &setup)?;
        step("analyzer", begun, format!("API at http://{}, alarms go to {}", analyzer.http(), webhook.url()));
        let begun = Instant::now();
        let database = MariaDb::start(&run, Place::Outside(&pod))?;
        step("MariaDB", begun, format!("a real server at {}, outside the pod", database.address()));
        let begun = Instant::now();
        let app = App::start(&run, &pod, &database)?;
        let nginx = Nginx::start(&run, &pod, Some(app.address()), false)?;
        step("nginx, app", begun, format!("in the pod: http://{} and, behind it, {}", nginx.address(), app.address()));
        let begun = Instant::now();
        let way = kafka.as_ref().map_or(Way::Grpc(analyzer.grpc()), |kafka| Way::Kafka(kafka.address()));
        let setup = sidecar::Setup { source: &options.source, way, service: SERVICE, pod_name: "shop-7d9c6b5f4-x2v8k", interfaces: &[] };
        let sidecar = Sidecar::start(&run, &pod, &setup)?;
        let detail = format!("shares only the pod's namespace; source {}, records leave over {}", sidecar.source()?, way.name());
        step("sidecar", begun, detail);
        let stop = Stop::default();
        let load = HttpLoad {
            target: nginx.address(),
            connections: CONNECTIONS,
            rate: options.rate,
            routes: ROUTES.to_vec(),
            until: Until::Stopped(stop.clone()),
        };
        let traffic = load.start();
        if wait::interrupted() {
            return Err(Failure::new("interrupted"));
        }
        let transport = way.name();
        Ok(Self { traffic, stop, sidecar, nginx, app, database, analyzer, kafka, clickhouse, webhook, pod, transport, _run: run })
    }

    /// Fails, with what the part said last, when one has ended by itself.
    pub fn check_alive(&self) -> Result<()> {
        let parts = [self.sidecar.process(), self.nginx.process(), self.app.process(), self.database.process(), self.analyzer.process()];
        for part in parts {
            if let Some(status) = part.exited()? {
                return Err(Failure(format!("{} ended ({status}); it said:\n{}", part.name(), part.log_tail())));
            }
        }
        if self.traffic.is_finished() {
            return Err(Failure::new("the traffic has ended by itself"));
        }
        Ok(())
    }

    /// Ends the traffic, then everything else in order; how many requests were sent.
    pub fn finish(self) -> Result<u64> {
        self.stop.stop();
        let report = self.traffic.finish()?;
        drop(self.sidecar);
        drop((self.nginx, self.app, self.database, self.analyzer, self.kafka));
        Ok(report.total())
    }
}
