//! Puts the parts together, serves until told to stop, then drains: what was read is stored, then the process ends.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::server::TcpIncoming;

use crate::api::http::{ApiState, router};
use crate::config::Config;
use crate::evaluation::{Evaluation, RuleBoard};
use crate::ingest::block::ResumePoint;
use crate::ingest::cadvisor::Kubelets;
use crate::ingest::grpc::IngestService;
use crate::ingest::kubernetes::{Directory, Watch};
use crate::ingest::segment_log::{LogError, SegmentLog};
use crate::ingest::segment_reader::{Reading, partition_id};
use crate::ingest::writer::{self, Job};
use crate::notify::webhook::Webhook;
use crate::notify::{Dispatcher, Notifier};
use crate::query;
use crate::rollup::Rollups;
use crate::store::Store;
use crate::store::clickhouse::ClickHouse;
use crate::telemetry::{Dependency, Telemetry};

const RETRY: Duration = Duration::from_secs(1);
const PROBE: Duration = Duration::from_secs(5);
/// How long the end waits for blocks to be stored before it gives up; their log still has them.
const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// Why it could not run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({setting}): {source}")]
    Listen { setting: &'static str, address: SocketAddr, source: std::io::Error },
    /// The log cannot be used.
    #[error("data directory: {0}")]
    Log(#[from] LogError),
    /// A signal handler, thread or client could not be made.
    #[error("{action}: {message}")]
    Start { action: &'static str, message: String },
    /// A part ended that should not have.
    #[error("{part} ended: {message}")]
    Ended { part: &'static str, message: String },
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { setting, address, source })
}

fn start_error(action: &'static str) -> impl FnOnce(std::io::Error) -> AppError {
    move |error| AppError::Start { action, message: error.to_string() }
}

/// Parts that may end the whole by ending themselves.
type Parts = JoinSet<Result<(), AppError>>;

/// A part that was started.
type Ending = Pin<Box<dyn Future<Output = Result<(), AppError>> + Send>>;

/// Runs until SIGTERM or SIGINT, or until a part fails.
pub async fn run(config: Config) -> Result<(), AppError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(start_error("watch for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(start_error("watch for SIGINT"))?;
    let telemetry = Arc::new(Telemetry::new());
    config.rules.receivers.iter().for_each(|receiver| telemetry.knows_receiver(&receiver.name));
    let clickhouse = ClickHouse::new(&config.clickhouse);
    let store: Arc<dyn Store> = Arc::new(clickhouse.clone());
    let kubernetes = match &config.kubernetes {
        None => None,
        Some(access) => {
            let read = access.config().await;
            Some(read.map_err(|message| AppError::Start { action: "connect to Kubernetes (kubernetes)", message })?)
        }
    };
    let (stop_sender, stop) = watch::channel(false);
    let (abandon_sender, abandon) = watch::channel(false);
    let http = listen("http-listen", config.http_listen).await?;
    let grpc = listen("grpc-listen", config.grpc_listen).await?;
    let log = Arc::new(SegmentLog::open(&config.data_dir.join("segment-log"), config.data_bytes)?);
    telemetry.set_dependency(Dependency::Store, Err("not reached yet".to_owned()));
    telemetry.set_dependency(Dependency::Schema, Err("not looked at yet".to_owned()));
    telemetry.set_dependency(Dependency::SegmentLog, Err("not read yet".to_owned()));
    if config.kafka.is_some() {
        telemetry.set_dependency(Dependency::Kafka, Err("not joined yet".to_owned()));
    }
    if !config.rules.rules.is_empty() {
        telemetry.set_dependency(Dependency::Alarms, Err("not evaluated yet".to_owned()));
    }
    tracing::info!(http = %config.http_listen, grpc = %config.grpc_listen, clickhouse = config.clickhouse.url, "listening");

    let mut parts = Parts::new();
    let board = Arc::new(RuleBoard::new(&config.rules.rules));
    let api = ApiState { store: Arc::clone(&store), telemetry: Arc::clone(&telemetry), rules: Arc::clone(&board) };
    // The API is served to the end, so that a drain can be watched.
    let api = tokio::spawn(async move { axum::serve(http, router(api)).await });
    parts.spawn(serve_grpc(grpc, Arc::clone(&log), stop.clone()));
    parts.spawn(probe(Arc::clone(&store), Arc::clone(&telemetry), stop.clone()));
    let (jobs, queue) = writer::channel();
    let writer = tokio::spawn(writer::run(Arc::clone(&store), queue, Arc::clone(&telemetry), abandon));
    let work = Work { config, kubernetes, clickhouse, store, telemetry, log, jobs, board, stop };
    parts.spawn(work.run());

    let mut outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = next_failure(&mut parts) => ended,
    };
    tracing::info!("stopping: storing what was read");
    // Nobody listening any more is as good as told.
    let _ = stop_sender.send(true);
    let drained = tokio::time::timeout(DRAIN_LIMIT, drain(parts, writer)).await;
    if drained.is_err() {
        tracing::warn!("ClickHouse did not take everything in time; the rest stays in its log");
    }
    let _ = abandon_sender.send(true);
    if let Ok(Err(error)) = drained {
        outcome = outcome.and(Err(error));
    }
    api.abort();
    outcome
}

/// Waits for the first part that fails; parts that are done are fine.
async fn next_failure(parts: &mut Parts) -> Result<(), AppError> {
    while let Some(ended) = parts.join_next().await {
        flatten(ended)?;
    }
    std::future::pending().await
}

fn flatten(ended: Result<Result<(), AppError>, tokio::task::JoinError>) -> Result<(), AppError> {
    ended.unwrap_or_else(|error| Err(AppError::Ended { part: "a task", message: error.to_string() }))
}

async fn drain(mut parts: Parts, writer: JoinHandle<()>) -> Result<(), AppError> {
    while let Some(ended) = parts.join_next().await {
        flatten(ended)?;
    }
    // All senders of jobs are gone now, so it ends when all is stored.
    writer.await.map_err(|error| AppError::Ended { part: "the writer", message: error.to_string() })
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // Fails only when the sender is gone, which is the end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve_grpc(listener: TcpListener, log: Arc<SegmentLog>, stop: watch::Receiver<bool>) -> Result<(), AppError> {
    let server =
        tonic::transport::Server::builder().http2_keepalive_interval(Some(Duration::from_secs(20))).add_service(IngestService::server(log));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    // Streams of sidecars never end by themselves: they are cut at the stop, what was not acknowledged comes again.
    tokio::select! {
        served = server.serve_with_incoming(incoming) => {
            served.map_err(|error| AppError::Ended { part: "gRPC", message: error.to_string() })
        }
        () = stopped(stop) => Ok(()),
    }
}

/// Asks for the store's version now and then, so that /readyz knows of a store that nobody else asks.
async fn probe(store: Arc<dyn Store>, telemetry: Arc<Telemetry>, stop: watch::Receiver<bool>) -> Result<(), AppError> {
    let probing = async {
        loop {
            let state = query::version(&*store).await.map(|_version| ()).map_err(|error| error.to_string());
            telemetry.set_dependency(Dependency::Store, state);
            tokio::time::sleep(PROBE).await;
        }
    };
    tokio::select! {
        () = probing => Ok(()),
        () = stopped(stop) => Ok(()),
    }
}

/// What needs the schema.
struct Work {
    config: Config,
    kubernetes: Option<kube::Config>,
    clickhouse: ClickHouse,
    store: Arc<dyn Store>,
    telemetry: Arc<Telemetry>,
    log: Arc<SegmentLog>,
    jobs: mpsc::Sender<Job>,
    board: Arc<RuleBoard>,
    stop: watch::Receiver<bool>,
}

impl Work {
    async fn run(self) -> Result<(), AppError> {
        if !self.migrate().await {
            return Ok(());
        }
        let mut parts = Parts::new();
        parts.spawn(self.roll_up());
        if let Some(kubernetes) = &self.kubernetes {
            self.watch_kubernetes(kubernetes, &mut parts);
        }
        if let Some(resume) = self.resume_segment_log().await {
            parts.spawn(self.read_segment_log(resume)?);
        }
        #[cfg(feature = "kafka")]
        if let Some(kafka) = self.config.kafka.clone() {
            let reading = crate::ingest::kafka::KafkaReading {
                config: kafka,
                store: Arc::clone(&self.store),
                jobs: self.jobs.clone(),
                telemetry: Arc::clone(&self.telemetry),
                stop: self.stop.clone(),
                runtime: tokio::runtime::Handle::current(),
                sampling: self.config.sampling,
            };
            parts.spawn(thread("kafka", move || reading.run())?);
        }
        if !self.config.rules.rules.is_empty() {
            parts.spawn(self.evaluate()?);
        }
        // The readers hold senders of their own.
        drop(self.jobs);
        while let Some(ended) = parts.join_next().await {
            flatten(ended)?;
        }
        Ok(())
    }

    /// Tries until the schema is there; false if told to stop before.
    async fn migrate(&self) -> bool {
        loop {
            match self.clickhouse.migrate().await {
                Ok(statements) => {
                    tracing::info!(statements = statements.len(), "the schema is up to date");
                    self.telemetry.set_dependency(Dependency::Schema, Ok(()));
                    return true;
                }
                Err(error) => {
                    self.telemetry.store_error(&error);
                    self.telemetry.set_dependency(Dependency::Schema, Err(error.to_string()));
                    tracing::warn!(%error, "cannot bring the schema up to date");
                }
            }
            if self.pause().await {
                return false;
            }
        }
    }

    async fn resume_segment_log(&self) -> Option<Option<ResumePoint>> {
        let partition = partition_id(self.log.state());
        loop {
            match self.store.resume_point(&partition).await {
                Ok(resume) => return Some(resume),
                Err(error) => {
                    self.telemetry.store_error(&error);
                    self.telemetry.set_dependency(Dependency::SegmentLog, Err(format!("cannot go on: {error}")));
                    tracing::warn!(%error, "cannot read where to go on");
                }
            }
            if self.pause().await {
                return None;
            }
        }
    }

    /// Waits a moment; true if told to stop.
    async fn pause(&self) -> bool {
        tokio::select! {
            () = tokio::time::sleep(RETRY) => false,
            () = stopped(self.stop.clone()) => true,
        }
    }

    fn read_segment_log(&self, resume: Option<ResumePoint>) -> Result<Ending, AppError> {
        let reading = Reading {
            state: Arc::clone(self.log.state()),
            resume,
            jobs: self.jobs.clone(),
            telemetry: Arc::clone(&self.telemetry),
            stop: self.stop.clone(),
            sampling: self.config.sampling,
        };
        thread("segment-reader", move || reading.run().map_err(|error| error.to_string()))
    }

    fn roll_up(&self) -> impl Future<Output = Result<(), AppError>> + Send + 'static {
        let rollups = Rollups {
            clickhouse: self.clickhouse.clone(),
            telemetry: Arc::clone(&self.telemetry),
            interval: self.config.rollup_interval,
            delay: self.config.rollup_delay,
        };
        let stop = self.stop.clone();
        async move {
            rollups.run(stop).await;
            Ok(())
        }
    }

    /// Who has which address, and what containers use. Nothing else waits for either.
    fn watch_kubernetes(&self, config: &kube::Config, parts: &mut Parts) {
        let directory = Arc::new(Directory::default());
        let watch = Watch {
            config: config.clone(),
            clickhouse: self.clickhouse.clone(),
            directory: Arc::clone(&directory),
            telemetry: Arc::clone(&self.telemetry),
        };
        let stop = self.stop.clone();
        parts.spawn(async move { watch.run(stop).await.map_err(|message| AppError::Ended { part: "the watch of Kubernetes", message }) });
        let Some(interval) = self.config.kubelet_interval else { return };
        let kubelets = Kubelets {
            config: config.clone(),
            insecure: self.config.kubelet_insecure_tls,
            interval,
            clickhouse: self.clickhouse.clone(),
            directory,
            telemetry: Arc::clone(&self.telemetry),
        };
        let stop = self.stop.clone();
        parts.spawn(async move {
            kubelets.run(stop).await;
            Ok(())
        });
    }

    fn evaluate(&self) -> Result<Ending, AppError> {
        let (reports, deliveries) = mpsc::unbounded_channel();
        let mut notifiers: Vec<(String, Arc<dyn Notifier>)> = Vec::new();
        for receiver in &self.config.rules.receivers {
            let webhook = Webhook::new(&receiver.webhook.url, &self.config.external_url)
                .map_err(|error| AppError::Start { action: "make a webhook's client", message: error.to_string() })?;
            notifiers.push((receiver.name.clone(), Arc::new(webhook)));
        }
        let evaluation = Evaluation {
            rules: self.config.rules.rules.clone(),
            interval: self.config.evaluation_interval,
            store: Arc::clone(&self.store),
            dispatcher: Dispatcher::start(notifiers, &self.telemetry, &reports),
            deliveries,
            telemetry: Arc::clone(&self.telemetry),
            board: Arc::clone(&self.board),
        };
        let stop = self.stop.clone();
        Ok(Box::pin(async move {
            evaluation.run(stop).await;
            Ok(())
        }))
    }
}

/// Runs blocking work on a thread of its own; the future ends with it.
fn thread(part: &'static str, work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<Ending, AppError> {
    let (ended, end) = tokio::sync::oneshot::channel();
    // Nobody waits for the end once the process is given up.
    let body = move || drop(ended.send(work()));
    std::thread::Builder::new().name(part.to_owned()).spawn(body).map_err(start_error("start a thread"))?;
    Ok(Box::pin(async move {
        match end.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(message)) => Err(AppError::Ended { part, message }),
            Err(_panicked) => Err(AppError::Ended { part, message: "its thread panicked".to_owned() }),
        }
    }))
}
