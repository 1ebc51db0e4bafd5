//! What the endpoint counts about itself, as Prometheus text.
//!
//! Guarantee: labels are bounded (error codes are ClickHouse's own list). The one misuse: counting a request twice; each one
//! passes [`Telemetry::count`] once, when its answer is decided.

use std::fmt::Write;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::answer::Sent;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: i32,
}

pub struct Telemetry {
    registry: Registry,
    queries: Counter,
    errors: Family<CodeLabel, Counter>,
    seconds: Histogram,
    pub in_flight: Gauge,
    pub sessions: Gauge,
    response_bytes: Counter,
}

impl Telemetry {
    pub fn new(engine_version: &str) -> Self {
        let mut registry = Registry::with_prefix("podtap_clickhouse");
        let (queries, errors, in_flight, sessions, response_bytes) = Default::default();
        let seconds = Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]);
        let info = Info::new(vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("revision", podtap_wire::REVISION.to_owned()),
            ("engine", engine_version.to_owned()),
        ]);
        let this = Self { registry: Registry::default(), queries, errors, seconds, in_flight, sessions, response_bytes };
        registry.register("build", "This program and the engine it serves", info);
        registry.register("queries", "Requests with a query", this.queries.clone());
        registry.register("errors", "Requests that ended with this ClickHouse error code", this.errors.clone());
        registry.register_with_unit(
            "query_duration",
            "From the request's head to the end of its answer",
            Unit::Seconds,
            this.seconds.clone(),
        );
        registry.register("queries_in_flight", "Requests being answered", this.in_flight.clone());
        registry.register("sessions", "Sessions open", this.sessions.clone());
        registry.register_with_unit("response", "Bodies of answers, as sent", Unit::Bytes, this.response_bytes.clone());
        Self { registry, ..this }
    }

    pub fn count(&self, sent: &Sent, elapsed: Duration) {
        self.queries.inc();
        self.seconds.observe(elapsed.as_secs_f64());
        self.response_bytes.inc_by(sent.bytes);
        if sent.code != 0 {
            self.errors.get_or_create(&CodeLabel { code: sent.code }).inc();
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            // Writing to a String fails only if an encoder says so; the scrape then shows why.
            text.clear();
            let _ = writeln!(text, "# {error}");
        }
        text
    }
}
