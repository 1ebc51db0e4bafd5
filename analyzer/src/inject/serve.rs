//! `inject serve`: the webhook over TLS, health and metrics beside it, and the round that keeps certificate and webhook configuration
//! right.
//!
//! Guarantee: a review is answered with leave to go on, whatever happens here. One misuse: only the API server should reach the webhook;
//! it asks nobody who they are, and tells nothing that the asker did not send.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::admission;
use super::certificate::{self, CertificateError};
use super::cluster::{Cluster, ClusterError};
use super::manifest;
use super::patch::{self, Asked, Namespace, Nulls, Outcome};
use super::settings::ServeConfig;
use super::telemetry::{Request, Reviewed, Telemetry};
use super::tuning::Sidecar;
use super::workload::Workload;

/// Between looks at the Secret and the webhook configuration. Who overwrites them has injection back after at most this and a request.
const ROUND: Duration = Duration::from_secs(10);
/// The same while something is missing.
const RETRY: Duration = Duration::from_secs(1);
/// Largest review: two objects of etcd's limit, in JSON, with room.
const MOST_REVIEW_BYTES: usize = 8 << 20;
/// Connections at once; an API server has a few.
const MOST_CONNECTIONS: usize = 512;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long a namespace's labels are taken as read: a rollout asks once, people do not wait.
const NAMESPACE_AGE: Duration = Duration::from_secs(1);
/// Namespaces whose labels are kept.
const MOST_NAMESPACES: usize = 1024;
/// After SIGTERM new reviews are answered for this long: the API server learns of the end a little later.
const LINGER: Duration = Duration::from_secs(3);
/// And then reviews that are being answered, for this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Why it could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({setting}): {source}")]
    Listen {
        /// Which.
        setting: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The API server's address and credentials are not known.
    #[error("kubernetes: {0}")]
    Cluster(#[from] ClusterError),
    /// TLS or signals cannot be used.
    #[error("{0}")]
    Start(String),
}

/// Everything that answers share.
struct Shared {
    cluster: Cluster,
    config: ServeConfig,
    telemetry: Telemetry,
    namespaces: Mutex<HashMap<String, (Instant, Namespace)>>,
    /// The settings with what the server's version decides.
    sidecar: RwLock<Sidecar>,
    shown: Arc<Shown>,
    provider: Arc<CryptoProvider>,
}

/// The certificate that is shown.
#[derive(Debug, Default)]
struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { setting, address, source })
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(config: ServeConfig) -> Result<(), ServeError> {
    let watch_for = |kind| signal(kind).map_err(|error| ServeError::Start(format!("cannot watch for a signal: {error}")));
    let (mut terminate, mut interrupt) = (watch_for(SignalKind::terminate())?, watch_for(SignalKind::interrupt())?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // The client of the API server takes the default; that it is set already is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cluster = Cluster::new(&config).await?;
    let webhook = listen("webhook-listen", config.webhook_listen).await?;
    let health = listen("http-listen", config.http_listen).await?;
    tracing::info!(webhook = %config.webhook_listen, http = %config.http_listen, "listening");
    let shared = Arc::new(Shared {
        cluster,
        telemetry: Telemetry::new(),
        namespaces: Mutex::default(),
        sidecar: RwLock::new(config.sidecar.clone()),
        shown: Arc::default(),
        provider,
        config,
    });
    let (stop_sender, stop) = watch::channel(false);
    let listener = tls_listener(webhook, &shared)?;
    let routes =
        Router::new().route("/mutate", post(mutate)).layer(DefaultBodyLimit::max(MOST_REVIEW_BYTES)).with_state(Arc::clone(&shared));
    let serving = tokio::spawn(axum::serve(listener, routes).with_graceful_shutdown(stopped(stop.clone())).into_future());
    let health_routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(&shared));
    // Served to the end, so that the end can be watched.
    let health = tokio::spawn(axum::serve(health, health_routes).into_future());
    let rounds = tokio::spawn(rounds(Arc::clone(&shared)));

    tokio::select! {
        _ = terminate.recv() => {
            tracing::info!("stopping: answering for {LINGER:?} more");
            // A second signal is somebody in a hurry.
            tokio::select! {
                () = tokio::time::sleep(LINGER) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ = interrupt.recv() => {}
    }
    rounds.abort();
    // Nobody listening any more is as good as told.
    let _ = stop_sender.send(true);
    if tokio::time::timeout(DRAIN_LIMIT, serving).await.is_err() {
        tracing::warn!("connections were still open after {DRAIN_LIMIT:?}");
    }
    health.abort();
    Ok(())
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // Fails only when the sender is gone, which is the end as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Keeps everything right that is outside of this process.
async fn rounds(shared: Arc<Shared>) {
    let mut version_known = false;
    loop {
        if !version_known {
            version_known = learn_version(&shared).await;
        }
        let kept = keep_certificate(&shared).await;
        tokio::time::sleep(if kept && version_known { ROUND } else { RETRY }).await;
    }
}

async fn learn_version(shared: &Shared) -> bool {
    let native = match shared.config.native {
        Some(native) => Ok(native),
        None => shared.cluster.has_native_sidecars().await,
    };
    let told = native.as_ref().map(|_| ());
    shared.telemetry.asked(Request::Version, told);
    match native {
        Ok(native) => {
            shared.sidecar.write().unwrap_or_else(|poisoned| poisoned.into_inner()).native = native;
            tracing::info!(native, "sidecars are init containers that restart always, or else ordinary ones");
            true
        }
        Err(error) => {
            tracing::warn!("{error}");
            false
        }
    }
}

/// Failures of a round, by what failed.
enum RoundError {
    Cluster(ClusterError),
    Certificate(CertificateError),
}

impl std::fmt::Display for RoundError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(error) => error.fmt(f),
            Self::Certificate(error) => error.fmt(f),
        }
    }
}

impl From<ClusterError> for RoundError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(error)
    }
}

impl From<CertificateError> for RoundError {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error)
    }
}

async fn keep_certificate(shared: &Shared) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let bundle = current_bundle(shared, now).await;
    shared.telemetry.asked(Request::Secret, bundle.as_ref().map(|_| ()));
    let bundle = match bundle {
        Ok(bundle) => bundle,
        Err(error) => {
            tracing::warn!("{error}");
            return false;
        }
    };
    // First the API server believes the authority, then what it signed is shown.
    let believed = shared.cluster.believe(&bundle.authorities).await;
    shared.telemetry.asked(Request::WebhookConfiguration, believed.as_ref().map(|_| ()));
    match &believed {
        Ok(true) => {
            shared.telemetry.bundles.inc();
            tracing::info!("caBundle of the webhook configuration is written");
        }
        Ok(false) => {}
        Err(error) => tracing::warn!("{error}"),
    }
    match bundle.certified_key(&shared.provider) {
        Ok(key) => {
            let mut shown = shared.shown.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            // Whoever believed the old certificate may not believe the new one yet.
            if believed.is_ok() || shown.is_none() {
                *shown = Some(key);
                shared.telemetry.certificate_expiry.set(i64::try_from(bundle.expires).unwrap_or(i64::MAX));
            }
        }
        Err(error) => {
            tracing::warn!("{error}");
            return false;
        }
    }
    believed.is_ok()
}

/// What the Secret holds, made anew where it is due.
async fn current_bundle(shared: &Shared, now: u64) -> Result<certificate::Bundle, RoundError> {
    loop {
        let (secret, bundle) = shared.cluster.secret().await?;
        let Some(renewed) = certificate::renewed(bundle.as_ref(), &shared.config.certificate_names, now, &shared.provider)? else {
            if let Some(bundle) = bundle {
                return Ok(bundle);
            }
            continue;
        };
        match shared.cluster.write_secret(secret, &renewed).await {
            Ok(()) => {
                shared.telemetry.certificates.inc();
                tracing::info!("a new certificate is in the Secret");
                return Ok(renewed);
            }
            // Another replica was faster: its certificate is as good.
            Err(error) if error.is_conflict() => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Answers a review.
async fn mutate(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let begin = Instant::now();
    let request = match admission::read(&body) {
        Ok(request) => request,
        Err(problem) => {
            shared.telemetry.reviewed(Reviewed::NoReview);
            return (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response();
        }
    };
    let (reviewed, outcome) = review(&shared, &request).await;
    shared.telemetry.reviewed(reviewed);
    for warning in &outcome.warnings {
        tracing::info!(namespace = request.namespace, kind = request.kind.kind, "{warning}");
    }
    let operations = outcome.decision.unwrap_or_default();
    let answer = admission::answer(&request.uid, &operations, &outcome.warnings);
    shared.telemetry.review_seconds.observe(begin.elapsed().as_secs_f64());
    ([("content-type", "application/json")], answer.to_string()).into_response()
}

async fn review(shared: &Shared, request: &admission::Request) -> (Reviewed, Outcome) {
    let nothing = |warnings: Vec<String>| Outcome { decision: Ok(Vec::new()), warnings };
    let is_pod = request.kind.kind == "Pod" && request.kind.group.is_empty();
    let template = manifest::template(&request.kind.api_version(), &request.kind.kind);
    let pod = template.and_then(|template| request.object.pointer(template));
    let wanted = request.sub_resource.is_empty() && (request.operation == "CREATE" || !is_pod && request.operation == "UPDATE");
    let Some(pod) = pod.filter(|pod| wanted && pod.is_object()) else { return (Reviewed::Passed, nothing(Vec::new())) };
    let namespace = match namespace(shared, &request.namespace).await {
        Ok(namespace) => namespace,
        Err(error) => {
            let warning = format!("podtap: no sidecar: namespace {:?} cannot be read", request.namespace);
            tracing::warn!("{error}");
            return (Reviewed::NamespaceUnreadable, nothing(vec![warning]));
        }
    };
    let name = request.object.pointer("/metadata/name").and_then(|name| name.as_str()).unwrap_or_default();
    let asked = Asked {
        namespace: &namespace.name,
        labels: Some(&namespace.labels),
        own_namespace: &shared.config.namespace,
        default_enforce: &shared.config.pod_security_default,
        workload: (!is_pod).then(|| Workload { kind: request.kind.kind.clone(), name: name.to_owned() }),
        nulls: Nulls::new(),
    };
    let sidecar = shared.sidecar.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    let outcome = patch::decide(pod, &asked, &sidecar);
    if !is_pod {
        // Its author is told now what its pods will be told where nobody reads it.
        return (Reviewed::Looked, nothing(outcome.warnings));
    }
    let reviewed = outcome.decision.as_ref().map_or_else(|reason| Reviewed::Skipped(*reason), |_| Reviewed::Injected);
    (reviewed, outcome)
}

/// A namespace's labels, perhaps a second old.
async fn namespace(shared: &Shared, name: &str) -> Result<Namespace, ClusterError> {
    {
        let known = shared.namespaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((_, namespace)) = known.get(name).filter(|(at, _)| at.elapsed() < NAMESPACE_AGE) {
            return Ok(namespace.clone());
        }
    }
    let asked = Instant::now();
    let namespace = shared.cluster.namespace(name).await;
    shared.telemetry.asked(Request::Namespace, namespace.as_ref().map(|_| ()));
    let namespace = namespace?;
    let mut known = shared.namespaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if known.len() >= MOST_NAMESPACES {
        known.retain(|_, (at, _)| at.elapsed() < NAMESPACE_AGE);
    }
    if known.len() < MOST_NAMESPACES {
        known.insert(name.to_owned(), (asked, namespace.clone()));
    }
    Ok(namespace)
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let (ready, mut lines) = shared.telemetry.readiness();
    lines.push(if ready { "ready" } else { "not ready" }.to_owned());
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, format!("{}\n", lines.join("\n"))).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match shared.telemetry.render() {
        Ok(text) => ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A connection that counts among those at once.
struct Connection {
    stream: TlsStream<TcpStream>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Connections whose handshake is done.
struct TlsListener {
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
    address: SocketAddr,
}

impl axum::serve::Listener for TlsListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // Only when the accepting task is gone, at the end.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

fn tls_listener(listener: TcpListener, shared: &Arc<Shared>) -> Result<TlsListener, ServeError> {
    let tls = ServerConfig::builder_with_provider(Arc::clone(&shared.provider)).with_safe_default_protocol_versions();
    let tls = tls.map_err(|error| ServeError::Start(format!("TLS: {error}")))?;
    let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&shared.shown) as _;
    let mut tls = tls.with_no_client_auth().with_cert_resolver(resolver);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let address = listener.local_addr().map_err(|error| ServeError::Start(format!("TLS: {error}")))?;
    let (sender, ready) = mpsc::channel(1);
    tokio::spawn(accept(listener, acceptor, sender, Arc::clone(shared)));
    Ok(TlsListener { ready, address })
}

/// Takes connections; handshakes are done beside each other.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ready: mpsc::Sender<(Connection, SocketAddr)>, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Such as too many open files: it passes, or not, but not faster by asking at once.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            shared.telemetry.refused_connections.inc();
            continue;
        };
        let (acceptor, ready, shared) = (acceptor.clone(), ready.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                // Fails at the end, when nobody takes it any more.
                Ok(Ok(stream)) => drop(ready.send((Connection { stream, _place: place }, address)).await),
                Ok(Err(error)) => {
                    shared.telemetry.handshake_failures.inc();
                    tracing::debug!(%address, "TLS: {error}");
                }
                Err(_) => drop(shared.telemetry.handshake_failures.inc()),
            }
        });
    }
}
