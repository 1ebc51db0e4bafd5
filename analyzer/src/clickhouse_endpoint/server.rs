//! The HTTP side: routes, who may ask, and the way of a query's answer from its blocking thread to the connection.
//!
//! Guarantee: a client that goes away stops its query; a panic in one query costs its own answer only. The one misuse:
//! serving it on an address that others reach without a password (the engine reads any file its process may read).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Method, Request as HttpRequest, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;

use super::answer::{self, Chunk, Head, Reply, Sent};
use super::body::RequestBody;
use super::engine::{Cancellation, Engine};
use super::exception::{Exception, STD_EXCEPTION};
use super::exchange::Exchange;
use super::random;
use super::request::{Credentials, Request, is_true};
use super::session::Sessions;
use super::telemetry::Telemetry;

/// Time between the last bytes of a broken answer and the end of its connection. The HTTP library drops what it has not
/// written yet when a body fails, and the last bytes say what went wrong.
const BREAK_DELAY: Duration = Duration::from_millis(100);

pub struct Endpoint {
    pub engine: Arc<Engine>,
    pub sessions: Arc<Sessions>,
    pub credentials: Credentials,
    pub telemetry: Telemetry,
    pub display_name: String,
}

pub fn router(endpoint: Arc<Endpoint>) -> Router {
    Router::new()
        .route("/ping", get(async || "Ok.\n"))
        .route("/replicas_status", get(async || "Ok.\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(any)
        .with_state(endpoint)
}

async fn metrics(State(endpoint): State<Arc<Endpoint>>) -> impl IntoResponse {
    endpoint.sessions.expire(Instant::now());
    endpoint.telemetry.sessions.set(i64::try_from(endpoint.sessions.count()).unwrap_or(i64::MAX));
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], endpoint.telemetry.text())
}

async fn ready(State(endpoint): State<Arc<Endpoint>>) -> impl IntoResponse {
    let engine = endpoint.engine.clone();
    match tokio::task::spawn_blocking(move || engine.check()).await {
        Ok(Ok(())) => (StatusCode::OK, "engine: ok\nready\n".to_owned()),
        Ok(Err(exception)) => (StatusCode::SERVICE_UNAVAILABLE, format!("engine: {}\nnot ready\n", exception.message)),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("engine: {error}\nnot ready\n")),
    }
}

/// Everything that is not a fixed page: queries, and the answers around them.
async fn any(State(endpoint): State<Arc<Endpoint>>, request: HttpRequest<Body>) -> Response<Body> {
    let url_query = request.uri().query().unwrap_or_default().to_owned();
    let cors = request.headers().contains_key(header::ORIGIN)
        && form_urlencoded::parse(url_query.as_bytes()).any(|(name, value)| name == "add_http_cors_header" && is_true(&value));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match (&method, path.as_str()) {
        (&Method::OPTIONS, _) => preflight(),
        (&Method::GET | &Method::HEAD, "/") if url_query.is_empty() => "Ok.\n".into_response(),
        (&Method::GET | &Method::HEAD | &Method::POST | &Method::PUT, "/" | "/query") => query(endpoint.clone(), url_query, request).await,
        (_, "/" | "/query") => (StatusCode::METHOD_NOT_ALLOWED, format!("Method {method} is not supported\n")).into_response(),
        _ => {
            let text = format!(
                "There is no handle {path}\n\nUse / or /ping for health checks.\n\
                 Or /replicas_status for more sophisticated health checks.\n\
                 Send queries from your program with POST method or GET /?query=...\n"
            );
            (StatusCode::NOT_FOUND, text).into_response()
        }
    };
    let headers = response.headers_mut();
    if let Ok(name) = HeaderValue::from_str(&endpoint.display_name) {
        headers.insert(HeaderName::from_static("x-clickhouse-server-display-name"), name);
    }
    if cors {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    }
    let exposed = "X-ClickHouse-Query-Id,X-ClickHouse-Summary,X-ClickHouse-Server-Display-Name,X-ClickHouse-Format,\
                   X-ClickHouse-Timezone,X-ClickHouse-Exception-Code,X-ClickHouse-Exception-Tag";
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
    response
}

fn preflight() -> Response<Body> {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "origin, x-requested-with, x-clickhouse-format, x-clickhouse-user, x-clickhouse-key, Authorization",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

async fn query(endpoint: Arc<Endpoint>, url_query: String, http: HttpRequest<Body>) -> Response<Body> {
    let started = Instant::now();
    let (parts, body) = http.into_parts();
    let tag: String = random::letters(16);
    let request = endpoint
        .credentials
        .check(&url_query, &parts.headers)
        .and_then(|()| Request::read(&parts.method, &url_query, &parts.headers, random::uuid()));
    let received = request.map(|request| {
        let blocks = request.decompress && request.form_boundary.is_none();
        let body = RequestBody::receive(body, request.request_encoding, blocks);
        (request, body)
    });
    let (head, answered) = oneshot::channel();
    let (chunks, received_chunks) = mpsc::channel(answer::CHUNKS);
    let reply = Reply { head, chunks };
    let (request, body) = match received {
        Ok(received) => received,
        Err(exception) => {
            let sent = answer::refuse(reply, Vec::new(), &exception, &endpoint.engine.version);
            endpoint.telemetry.count(&sent, started.elapsed());
            return respond(answered.await, received_chunks, None);
        }
    };
    let mark = format!("/* query_id={} {tag} */", printable(&request.query_id));
    let cancellation = Cancellation::new(endpoint.engine.clone(), mark);
    let guard = Guard(cancellation.clone());
    endpoint.telemetry.in_flight.inc();
    let query_id = request.query_id.clone();
    let exchange = Exchange {
        engine: endpoint.engine.clone(),
        sessions: endpoint.sessions.clone(),
        cancellation: cancellation.clone(),
        request,
        body,
        exception_tag: tag,
        started,
    };
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let in_flight = InFlight(&endpoint, cancellation);
        let sent = exchange.run(&runtime, reply);
        endpoint.telemetry.count(&sent, started.elapsed());
        let Sent { status, code, bytes } = sent;
        tracing::debug!(query_id, status = status.as_u16(), code, bytes, seconds = started.elapsed().as_secs_f64(), "query");
        drop(in_flight);
    });
    respond(answered.await, received_chunks, Some(guard))
}

/// Counts a query out, also when it panics.
struct InFlight<'a>(&'a Endpoint, Arc<Cancellation>);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.1.finish();
        self.0.telemetry.in_flight.dec();
    }
}

/// Stops the query when the connection drops what waits for its answer.
struct Guard(Arc<Cancellation>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.request();
    }
}

fn respond(answered: Result<Head, oneshot::error::RecvError>, chunks: mpsc::Receiver<Chunk>, guard: Option<Guard>) -> Response<Body> {
    let head = answered.unwrap_or_else(|_| {
        let exception = Exception::new(STD_EXCEPTION, "the query ended without an answer");
        let headers = vec![("x-clickhouse-exception-code", exception.code.to_string())];
        Head { status: exception.status(), headers, whole: Some(exception.body("").into_bytes()) }
    });
    let body = match head.whole {
        Some(whole) => Body::from(whole),
        None => Body::from_stream(Chunks { chunks, breaking: None, _guard: guard }),
    };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    for (name, value) in head.headers {
        // A value that HTTP cannot carry (a query id with a line break) is left out.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// The chunks of an answer as HTTP takes them.
struct Chunks {
    chunks: mpsc::Receiver<Chunk>,
    breaking: Option<Pin<Box<tokio::time::Sleep>>>,
    _guard: Option<Guard>,
}

#[derive(Debug, thiserror::Error)]
#[error("the query failed after a part of its answer was sent")]
struct BrokenAnswer;

impl Stream for Chunks {
    type Item = Result<Bytes, BrokenAnswer>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.breaking.is_none() {
            match self.chunks.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Chunk::Data(bytes))) => return Poll::Ready(Some(Ok(bytes))),
                Poll::Ready(Some(Chunk::Broken)) => self.breaking = Some(Box::pin(tokio::time::sleep(BREAK_DELAY))),
            }
        }
        match self.breaking.as_mut() {
            Some(delay) => delay.as_mut().poll(context).map(|()| Some(Err(BrokenAnswer))),
            None => Poll::Ready(None),
        }
    }
}

/// What may stand in a comment at the end of a query.
fn printable(query_id: &str) -> String {
    query_id.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-_.:".contains(*letter)).take(100).collect()
}

/// Serves until `stop` ends, then answers what has begun.
pub async fn serve(
    listener: tokio::net::TcpListener,
    endpoint: Arc<Endpoint>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    use axum::serve::ListenerExt;
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    axum::serve(listener, router(endpoint)).with_graceful_shutdown(stop).await
}
