//! The engine of the process: its connections, who may use how many of them, and how a running query is stopped.
//!
//! Guarantee: a query runs on a connection of its own, so no setting, database or temporary table leaks into another one;
//! statements that change data have places of their own, so that an insert passes beside any number of long selects. The one
//! misuse: two processes on one path (the lock file makes the second one fail with a message that says so).

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::exception::{Exception, STD_EXCEPTION, TOO_MANY_SIMULTANEOUS_QUERIES};
use super::library::{Connection, Library, LibraryError};

/// How long a request waits for a free place before it is refused.
const ADMISSION_WAIT: Duration = Duration::from_secs(30);
/// How often a query that must stop is told so; a query is not yet known to the engine in its first milliseconds.
const KILL_INTERVAL: Duration = Duration::from_millis(50);
/// Longest time a query is told to stop; what does not stop then runs into its max_execution_time.
const KILL_ATTEMPTS: u32 = 1200;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error("cannot use {path} for data: {reason}")]
    Path { path: PathBuf, reason: std::io::Error },
    #[error("{path} is in use by another process (it holds the lock on podtap-clickhouse.lock in it); one engine a path")]
    InUse { path: PathBuf },
    #[error("the engine does not start on {path}: {reason}")]
    Start { path: PathBuf, reason: String },
}

/// What a statement does, as far as admission goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

pub struct Engine {
    library: &'static Library,
    path: PathBuf,
    max_execution_time: u64,
    /// Held open so that the engine outlives the connections of requests.
    root: Mutex<Connection>,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    pub version: String,
    pub timezone: String,
    /// Lower-case name to the name the engine writes.
    formats: HashMap<String, String>,
    _lock: File,
}

impl Engine {
    /// Starts the engine. `connections` is how many queries run at once; a quarter of them, at least two, is kept for writes.
    /// `max_execution_time` is the limit, in seconds, of queries that name none; 0 is none.
    pub fn start(library: &Path, path: &Path, connections: usize, max_execution_time: u64) -> Result<Self, EngineError> {
        let library = Library::open(library)?;
        let path_error = |reason| EngineError::Path { path: path.to_owned(), reason };
        std::fs::create_dir_all(path).map_err(path_error)?;
        let path = path.canonicalize().map_err(path_error)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("podtap-clickhouse.lock"));
        let lock = lock.map_err(path_error)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => EngineError::InUse { path: path.clone() },
            TryLockError::Error(reason) => EngineError::Path { path: path.clone(), reason },
        })?;
        let start_error = |error: Exception| EngineError::Start { path: path.clone(), reason: error.message };
        let mut root = library.connect(&path).map_err(start_error)?;
        let mut ask = |sql: &str| {
            let outcome = root.execute(sql.as_bytes(), "TabSeparated", &[]).map_err(start_error)?;
            Ok::<_, EngineError>(String::from_utf8_lossy(&outcome.output).trim_end().to_owned())
        };
        let (version, timezone) = (ask("SELECT version()")?, ask("SELECT timezone()")?);
        let formats = ask("SELECT name FROM system.formats")?;
        let formats = formats.lines().map(|name| (name.to_ascii_lowercase(), name.to_owned())).collect();
        let writes = (connections / 4).max(2);
        let reads = connections.saturating_sub(writes).max(1);
        Ok(Self {
            library,
            root: Mutex::new(root),
            reads: Arc::new(Semaphore::new(reads)),
            writes: Arc::new(Semaphore::new(writes)),
            version,
            timezone,
            formats,
            _lock: lock,
            max_execution_time,
            path,
        })
    }

    /// The name of a format as the engine spells it; an unknown name comes back as it is.
    pub fn format_name<'a>(&'a self, name: &'a str) -> &'a str {
        self.formats.get(&name.to_ascii_lowercase()).map_or(name, String::as_str)
    }

    /// Where temporary files of requests go: beside the data, so on a disk that is meant to hold it.
    pub fn spool_directory(&self) -> &Path {
        &self.path
    }

    /// Waits for a place among the queries that run at once.
    pub async fn admit(&self, access: Access) -> Result<OwnedSemaphorePermit, Exception> {
        let (places, what) = match access {
            Access::Read => (&self.reads, "queries"),
            Access::Write => (&self.writes, "statements that write"),
        };
        match tokio::time::timeout(ADMISSION_WAIT, places.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Exception::new(STD_EXCEPTION, "the endpoint is shutting down")),
            Err(_) => {
                let text = format!("Too many {what} at once: waited {} s for a place", ADMISSION_WAIT.as_secs());
                Err(Exception::new(TOO_MANY_SIMULTANEOUS_QUERIES, text))
            }
        }
    }

    /// A fresh connection. The engine is made as a client's (`implicit_select`) and defers small inserts (`async_insert`); a
    /// server over HTTP does neither, and an acknowledged insert shall be in the table. Formatting in parallel makes a large
    /// result quicker on many cores for 600 MB of buffers; beside an analyzer the memory counts.
    pub fn connect(&self) -> Result<Connection, Exception> {
        let mut connection = self.library.connect(&self.path)?;
        let sql = format!(
            "SET implicit_select = 0, async_insert = 0, output_format_parallel_formatting = 0, max_execution_time = {}",
            self.max_execution_time
        );
        connection.execute(sql.as_bytes(), "Null", &[])?;
        Ok(connection)
    }

    /// Whether the engine answers.
    pub fn check(&self) -> Result<(), Exception> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner).execute(b"SELECT 1", "Null", &[]).map(drop)
    }

    /// Asks the engine to stop the query whose text ends in `mark`; false if it runs none.
    fn kill(&self, mark: &str) -> Result<bool, Exception> {
        let sql = format!("KILL QUERY WHERE endsWith(query, '{mark}') ASYNC");
        let outcome = self.connect()?.execute(sql.as_bytes(), "TabSeparated", &[])?;
        Ok(!outcome.output.is_empty())
    }
}

/// Stops one running query when its client goes away.
pub struct Cancellation {
    engine: Arc<Engine>,
    /// The comment at the end of the query's text, unique to it.
    pub mark: String,
    requested: AtomicBool,
    finished: AtomicBool,
}

impl Cancellation {
    pub fn new(engine: Arc<Engine>, mark: String) -> Arc<Self> {
        Arc::new(Self { engine, mark, requested: AtomicBool::new(false), finished: AtomicBool::new(false) })
    }

    /// The query has ended; nothing is left to stop.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::Release);
    }

    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Returns when the engine knows that the query shall stop, or when it has ended.
    pub fn stop_before(&self, ended: impl Fn() -> bool) {
        for _ in 0..KILL_ATTEMPTS {
            if ended() {
                return;
            }
            match self.engine.kill(&self.mark) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(code = error.code, error = %error.message, "cannot stop an insert"),
            }
            thread::sleep(KILL_INTERVAL);
        }
    }

    /// Tells the engine to stop the query, until it has. Returns at once.
    pub fn request(self: &Arc<Self>) {
        if self.finished.load(Ordering::Acquire) || self.requested.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        let spawned = thread::Builder::new().name("kill-query".into()).spawn(move || {
            for _ in 0..KILL_ATTEMPTS {
                if this.finished.load(Ordering::Acquire) {
                    return;
                }
                if let Err(error) = this.engine.kill(&this.mark) {
                    tracing::warn!(code = error.code, error = %error.message, "cannot stop a query");
                }
                thread::sleep(KILL_INTERVAL);
            }
            tracing::warn!(mark = %this.mark, "a query does not stop");
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot start the thread that stops a query");
        }
    }
}
