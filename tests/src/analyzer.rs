//! `podtap-analyzer run`, with its rules and its ways in.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::pod::free_port;
use crate::process::{Process, Spec};
use crate::run::{Run, binary};
use crate::{Context, Result, http};

/// How an analyzer is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where ClickHouse is.
    pub clickhouse_url: String,
    /// Address the gRPC endpoint listens on: one that the pod reaches.
    pub grpc_address: Ipv4Addr,
    /// Kafka's bootstrap server; `None` for the gRPC way alone.
    pub kafka: Option<SocketAddrV4>,
    /// Text of the rules file.
    pub rules: Option<String>,
}

/// The analyzer; dropped, it ends.
#[derive(Debug)]
pub struct Analyzer {
    process: Process,
    http: SocketAddrV4,
    grpc: SocketAddrV4,
}

impl Analyzer {
    /// Starts it and waits until it is ready.
    pub fn start(run: &Run, setup: &Setup) -> Result<Self> {
        let http = free_port(Ipv4Addr::LOCALHOST)?;
        let grpc = free_port(setup.grpc_address)?;
        let data: PathBuf = run.folder("analyzer")?;
        let mut spec = Spec::new(binary("podtap-analyzer")?, ["run", "--clickhouse-url", &setup.clickhouse_url])
            .argument(format!("--http-listen={http}"))
            .argument(format!("--grpc-listen={grpc}"))
            .argument(format!("--data-dir={}", data.display()))
            // Nobody who watches waits for the default of a minute.
            .argument("--evaluation-interval=5s")
            .folder(&data);
        if let Some(kafka) = setup.kafka {
            spec = spec.argument(format!("--kafka-brokers={kafka}"));
        }
        if let Some(rules) = &setup.rules {
            let file = data.join("rules.yaml");
            fs::write(&file, rules).context("writing the rules")?;
            spec = spec.argument(format!("--rules={}", file.display()));
        }
        let process = Process::start(run, "analyzer", &spec)?;
        process.until("the analyzer is ready", Duration::from_secs(60), || {
            let answer = http::get(http, "/readyz?verbose")?;
            if answer.status == 200 { Ok(Some(())) } else { Err(crate::Failure(format!("/readyz: {}", answer.body.trim()))) }
        })?;
        Ok(Self { process, http, grpc })
    }

    /// Its HTTP API, /readyz and /metrics.
    pub fn http(&self) -> SocketAddrV4 {
        self.http
    }

    /// Where sidecars deliver.
    pub fn grpc(&self) -> SocketAddrV4 {
        self.grpc
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its own figures.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::scrape(self.http)
    }

    /// Status and text of /readyz?verbose.
    pub fn readiness(&self) -> Result<http::Answer> {
        http::get(self.http, "/readyz?verbose")
    }
}

/// The rule of demo and tests: `GET /payments/{id}` fails more often than one time in five.
pub fn payments_rule(webhook: &str) -> String {
    format!(
        r#"receivers:
  - name: shop-team
    webhook: {{ url: "{webhook}" }}
rules:
  - name: PaymentsFailing
    target: {{ service: shop, endpoint: "GET /payments/{{id}}" }}
    indicator: error_share
    threshold: 20%
    window: 20s
    minimum_count: 10
    level: 1
    receivers: [shop-team]
    summary: Payments fail more often than one time in five.
"#
    )
}
