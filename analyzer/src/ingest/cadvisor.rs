//! Reads each node's kubelet, `/metrics/cadvisor`, and stores what containers use.
//!
//! With the rights that the watch connects with (a service account needs `nodes/metrics`); kubelets are asked themselves, not through
//! the API server, which would need `nodes/proxy`: that right is as good as root on every node. A kubelet that does not answer in
//! time, or too much, is counted and asked again the next time. The one misuse: an interval below cAdvisor's own (10 s and more),
//! which gives the same sample twice: it is stored once.

pub mod samples;
pub mod text;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{Request, StatusCode};
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::samples::{ContainerSample, Read};
use super::kubernetes::Directory;
use super::kubernetes::object::Kubelet;
use crate::store::clickhouse::ClickHouse;
use crate::telemetry::Telemetry;

/// Kubelets that are asked at once.
const PARALLEL: usize = 16;
/// How long one may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of an answer: a node with 110 pods gives one or two million.
const MAX_BODY: usize = 32 << 20;
/// Rows that wait while ClickHouse is away: half an hour of thirty full nodes.
const MAX_WAITING: usize = 200_000;

/// Why a kubelet could not be read: labels in metrics.
pub const SCRAPE_FAILURES: [&str; 9] =
    ["unreachable", "tls", "timeout", "unauthorized", "forbidden", "status", "too_large", "broken", "no_text"];

/// Reads kubelets.
pub struct Kubelets {
    /// How the API server is reached; kubelets are with the same certificates and token.
    pub config: kube::Config,
    /// Whether any certificate of a kubelet will do.
    pub insecure: bool,
    /// How often.
    pub interval: Duration,
    /// Where to store.
    pub clickhouse: ClickHouse,
    /// Which nodes there are, and whose pods are.
    pub directory: Arc<Directory>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
}

/// Why a kubelet could not be read.
#[derive(Debug)]
struct ScrapeError {
    reason: &'static str,
    message: String,
}

/// A node and what it gave.
type Scraped = (String, Result<Read, ScrapeError>);

fn failure(reason: &'static str, message: impl std::fmt::Display) -> ScrapeError {
    ScrapeError { reason, message: message.to_string() }
}

impl Kubelets {
    /// Runs until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut clients: HashMap<Kubelet, Client> = HashMap::new();
        let mut waiting: Vec<ContainerSample> = Vec::new();
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            tokio::select! {
                () = self.round(&mut clients, &mut waiting) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn round(&self, clients: &mut HashMap<Kubelet, Client>, waiting: &mut Vec<ContainerSample>) {
        let kubelets = self.directory.kubelets();
        clients.retain(|kubelet, _| kubelets.contains(kubelet));
        let mut scrapes: JoinSet<Scraped> = JoinSet::new();
        for kubelet in kubelets {
            let client = match clients.get(&kubelet) {
                Some(client) => client.clone(),
                None => match self.client(&kubelet) {
                    Ok(client) => clients.entry(kubelet.clone()).or_insert(client).clone(),
                    Err(error) => {
                        self.note_failure(&kubelet.node, &error);
                        continue;
                    }
                },
            };
            if scrapes.len() >= PARALLEL {
                self.take(scrapes.join_next().await, waiting);
            }
            scrapes.spawn(async move {
                let node = kubelet.node;
                let read = tokio::time::timeout(TIMEOUT, scrape(&client, &node)).await;
                let read = read.unwrap_or_else(|_| Err(failure("timeout", format!("no answer within {TIMEOUT:?}"))));
                (node, read)
            });
        }
        while !scrapes.is_empty() {
            self.take(scrapes.join_next().await, waiting);
        }
        self.store(waiting).await;
    }

    fn client(&self, kubelet: &Kubelet) -> Result<Client, ScrapeError> {
        let host = match kubelet.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let mut config = self.config.clone();
        config.cluster_url = format!("https://{host}:{}", kubelet.port).parse().map_err(|error| failure("unreachable", error))?;
        config.tls_server_name = None;
        config.proxy_url = None;
        config.accept_invalid_certs |= self.insecure;
        Client::try_from(config).map_err(|error| failure("tls", error))
    }

    fn note_failure(&self, node: &str, error: &ScrapeError) {
        self.telemetry.scrape_failed(error.reason);
        tracing::warn!(node, reason = error.reason, error = error.message, "cannot read the kubelet's cAdvisor");
    }

    fn take(&self, ended: Option<Result<Scraped, tokio::task::JoinError>>, waiting: &mut Vec<ContainerSample>) {
        match ended {
            None => {}
            Some(Err(error)) => self.note_failure("", &failure("broken", error)),
            Some(Ok((node, Err(error)))) => self.note_failure(&node, &error),
            Some(Ok((_, Ok(read)))) => {
                self.telemetry.scraped(read.malformed, read.overflowed);
                waiting.extend(read.samples.into_iter().map(|mut sample| {
                    sample.workload = self.directory.workload(&sample.namespace, &sample.pod).unwrap_or_default();
                    sample
                }));
            }
        }
    }

    async fn store(&self, waiting: &mut Vec<ContainerSample>) {
        if waiting.is_empty() {
            return;
        }
        match self.clickhouse.write_samples(waiting).await {
            Ok(()) => {
                self.telemetry.samples_stored(waiting.len());
                waiting.clear();
            }
            Err(error) => {
                self.telemetry.store_error(&error);
                tracing::warn!(%error, rows = waiting.len(), "cannot store samples of containers; they are tried again");
                let beyond = waiting.len().saturating_sub(MAX_WAITING);
                waiting.drain(..beyond);
                self.telemetry.samples_dropped(beyond);
            }
        }
    }
}

async fn scrape(client: &Client, node: &str) -> Result<Read, ScrapeError> {
    let request = Request::get("/metrics/cadvisor").body(kube::client::Body::empty()).map_err(|error| failure("broken", error))?;
    let response = client.send(request).await.map_err(|error| {
        let message = causes(&error);
        failure(if message.contains("certificate") { "tls" } else { "unreachable" }, message)
    })?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Err(failure("unauthorized", "401: the kubelet does not know the token")),
        StatusCode::FORBIDDEN => return Err(failure("forbidden", "403: the right to get nodes/metrics is missing")),
        other => return Err(failure("status", other)),
    }
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), MAX_BODY).await.map_err(|error| {
        let message = causes(&error);
        failure(if message.contains("length limit") { "too_large" } else { "broken" }, message)
    })?;
    let text = std::str::from_utf8(&body).map_err(|error| failure("no_text", error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    Ok(samples::read(text, node, i64::try_from(now).unwrap_or(i64::MAX)))
}

/// An error and what it comes from, on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
