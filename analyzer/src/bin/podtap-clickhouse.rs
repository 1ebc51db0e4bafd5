//! `podtap-clickhouse`: ClickHouse's HTTP interface over libchdb, on one path and one address.
//!
//! Guarantee: one line `listening on http://IP:PORT` on stderr when it is ready; SIGTERM and SIGINT answer what has begun and
//! end with exit code 0. The one misuse: an address that others reach without a password.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use podtap_analyzer::clickhouse_endpoint::engine::{Engine, EngineError};
use podtap_analyzer::clickhouse_endpoint::request::Credentials;
use podtap_analyzer::clickhouse_endpoint::server::{self, Endpoint};
use podtap_analyzer::clickhouse_endpoint::telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Exit codes of sysexits.h, as the other programs of Podtap use them.
const UNAVAILABLE: u8 = 69;
const NO_PERMISSION: u8 = 77;
const CONFIGURATION: u8 = 78;
/// How long a stop waits for queries that have begun.
const DRAIN: Duration = Duration::from_secs(20);

/// ClickHouse's HTTP interface over an embedded engine (libchdb).
///
/// Clients of a ClickHouse server use it as one: `curl 'http://127.0.0.1:8123/?query=SELECT%201'`. The data lives in --path.
#[derive(Parser)]
#[command(name = "podtap-clickhouse", version = podtap_analyzer::config::version())]
struct Arguments {
    /// Address to serve; port 0 takes a free one
    #[arg(long, env = "PODTAP_LISTEN", default_value = "127.0.0.1:8123", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Directory of the data; one process at a time uses it
    #[arg(long, env = "PODTAP_PATH", default_value = "podtap-clickhouse-data", value_name = "DIR")]
    path: PathBuf,
    /// libchdb.so [default: chdb-26.5.3/libchdb.so in the cache of tools]
    #[arg(long, env = "PODTAP_LIBCHDB", value_name = "FILE")]
    library: Option<PathBuf>,
    /// The one user
    #[arg(long, env = "PODTAP_USER", default_value = "default")]
    user: String,
    /// The user's password; empty lets everybody in who reaches the address
    #[arg(long, env = "PODTAP_PASSWORD", default_value = "", hide_env_values = true)]
    password: String,
    /// Queries that run at once; a quarter of them is kept for statements that write
    #[arg(long, env = "PODTAP_CONNECTIONS", default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(3..=512))]
    connections: u16,
    /// Time limit of a query that names none (the setting max_execution_time), in seconds; 0 is none
    #[arg(long, env = "PODTAP_MAX_EXECUTION_TIME", default_value_t = 600, value_name = "S")]
    max_execution_time: u64,
    /// Form of the log on stderr
    #[arg(long, env = "PODTAP_LOG_FORMAT", default_value = "auto", value_enum)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
    /// Text on a terminal, else JSON.
    Auto,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(podtap_analyzer::config::told(&error)),
    };
    start_log(arguments.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start the runtime: {error}"), 1),
    };
    let code = runtime.block_on(run(arguments));
    // What still runs has had its time.
    runtime.shutdown_background();
    code
}

async fn run(arguments: Arguments) -> ExitCode {
    // First the port: it is the cheaper thing to find taken.
    let listener = match TcpListener::bind(arguments.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            let code = if error.kind() == std::io::ErrorKind::PermissionDenied { NO_PERMISSION } else { UNAVAILABLE };
            return failed(&format!("cannot listen on {}: {error}", arguments.listen), code);
        }
    };
    let Some(library) = arguments.library.or_else(cached_library) else {
        return failed("neither --library nor PODTAP_LIBCHDB is set, and there is no home directory with a cache", CONFIGURATION);
    };
    let (connections, limit) = (usize::from(arguments.connections), arguments.max_execution_time);
    let path = arguments.path;
    let started = tokio::task::spawn_blocking(move || Engine::start(&library, &path, connections, limit)).await;
    let engine = match started {
        Ok(Ok(engine)) => Arc::new(engine),
        Ok(Err(error)) => {
            let code = match &error {
                EngineError::Path { reason, .. } if reason.kind() == std::io::ErrorKind::PermissionDenied => NO_PERMISSION,
                EngineError::Path { .. } => CONFIGURATION,
                EngineError::Library(_) | EngineError::InUse { .. } | EngineError::Start { .. } => UNAVAILABLE,
            };
            return failed(&error.to_string(), code);
        }
        Err(error) => return failed(&format!("the engine does not start: {error}"), 1),
    };
    let endpoint = Arc::new(Endpoint {
        telemetry: Telemetry::new(&engine.version),
        engine,
        sessions: Arc::default(),
        credentials: Credentials { user: arguments.user, password: arguments.password },
        display_name: "podtap-clickhouse".into(),
    });
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return failed(&format!("cannot wait for signals: {error}"), 1),
    };
    let (stopping, stop) = tokio::sync::oneshot::channel::<()>();
    match listener.local_addr() {
        Ok(address) => eprintln!("listening on http://{address}"),
        Err(error) => return failed(&format!("the listener has no address: {error}"), 1),
    }
    let serving = tokio::spawn(server::serve(listener, endpoint, async {
        // Also when the sender is gone: then the process is ending anyway.
        let _ = stop.await;
    }));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: queries that have begun are answered");
    if stopping.send(()).is_err() {
        return failed("the server ended by itself", 1);
    }
    match tokio::time::timeout(DRAIN, serving).await {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(error))) => failed(&format!("the server ended: {error}"), 1),
        Ok(Err(error)) => failed(&format!("the server ended: {error}"), 1),
        Err(_) => {
            tracing::warn!(seconds = DRAIN.as_secs(), "queries still run; they are cut off");
            ExitCode::SUCCESS
        }
    }
}

fn failed(message: &str, code: u8) -> ExitCode {
    eprintln!("podtap-clickhouse: {message}");
    ExitCode::from(code)
}

/// Where the tools' cache keeps the library.
fn cached_library() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
    Some(cache.join("podtap/chdb-26.5.3/libchdb.so"))
}

fn start_log(format: LogFormat) {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(terminal).init(),
        LogFormat::Auto if terminal => builder.init(),
        LogFormat::Json | LogFormat::Auto => builder.json().init(),
    }
}
