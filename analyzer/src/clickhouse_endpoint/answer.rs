//! The answer to a query on the blocking side: when its head goes out, how its body is encoded, and how an error is told
//! before and after that moment.
//!
//! Guarantee: an error that comes before [`Answer`] had to send its head gets its own HTTP status; a later one ends the body
//! with ClickHouse's exception block and breaks the connection, so that no client takes a cut result for a whole one. The one
//! misuse: taking `Err` from [`Answer::take`] for a failed query; it says that the client is gone.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::Instant;

use axum::body::Bytes;
use axum::http::StatusCode;
use tokio::sync::{mpsc, oneshot};

use super::compression::{Encoder, Encoding};
use super::exception::{self, Exception, STD_EXCEPTION};
use super::library::Statistics;

/// Chunks between the query and the network; with [`SLICE`] it bounds what waits in memory.
pub const CHUNKS: usize = 4;
/// Bytes moved at once.
const SLICE: usize = 256 << 10;
/// What `wait_end_of_query` keeps in memory before it goes to a file.
const SPOOL_MEMORY: usize = 8 << 20;

/// Status and headers of an answer; `whole` is its body if it is complete already.
pub struct Head {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub whole: Option<Vec<u8>>,
}

pub enum Chunk {
    Data(Bytes),
    /// The body ends here, unfinished.
    Broken,
}

/// The client went away.
#[derive(Debug)]
pub struct Gone;

/// Where the answer goes.
pub struct Reply {
    pub head: oneshot::Sender<Head>,
    pub chunks: mpsc::Sender<Chunk>,
}

/// What is known of the answer before the query runs.
pub struct Terms {
    pub headers: Vec<(&'static str, String)>,
    pub version: String,
    pub tag: String,
    pub encoding: Option<Encoding>,
    pub blocks: bool,
    pub held_back: usize,
    pub wait_end: bool,
    pub started: Instant,
}

/// How the answer ended, for the log and the counters.
pub struct Sent {
    pub status: StatusCode,
    pub code: i32,
    pub bytes: u64,
}

pub struct Answer<'a> {
    terms: Terms,
    spool_directory: &'a Path,
    head: Option<oneshot::Sender<Head>>,
    chunks: mpsc::Sender<Chunk>,
    encoder: Encoder,
    held: Vec<u8>,
    file: Option<File>,
    bytes: u64,
}

impl<'a> Answer<'a> {
    /// `encoder` is the one for what `terms` promise.
    pub fn new(reply: Reply, terms: Terms, encoder: Encoder, spool_directory: &'a Path) -> Self {
        let Reply { head, chunks } = reply;
        Self { terms, spool_directory, head: Some(head), chunks, encoder, held: Vec::new(), file: None, bytes: 0 }
    }

    /// Takes everything `source` gives, until its end or until the client is gone.
    pub fn take_all(&mut self, mut source: impl Read) -> Result<Result<(), Gone>, Exception> {
        let mut slice = vec![0; SLICE];
        loop {
            match source.read(&mut slice) {
                Ok(0) => return Ok(Ok(())),
                Ok(length) => {
                    if let Err(gone) = self.take(&slice[..length])? {
                        return Ok(Err(gone));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_exception("read the result", &error)),
            }
        }
    }

    /// Takes plain bytes of the result.
    pub fn take(&mut self, plain: &[u8]) -> Result<Result<(), Gone>, Exception> {
        if self.head.is_none() {
            let encoded = self.encoder.write(plain).map_err(|error| io_exception("compress the answer", &error))?;
            return Ok(self.send(encoded));
        }
        if self.head.as_ref().is_some_and(oneshot::Sender::is_closed) {
            return Ok(Err(Gone));
        }
        if let Some(file) = &mut self.file {
            file.write_all(plain).map_err(|error| io_exception("spool the answer", &error))?;
            return Ok(Ok(()));
        }
        self.held.extend_from_slice(plain);
        if self.terms.wait_end {
            if self.held.len() > SPOOL_MEMORY {
                self.spool().map_err(|error| io_exception("spool the answer", &error))?;
            }
            return Ok(Ok(()));
        }
        match self.held.len() > self.terms.held_back {
            true => self.start(None),
            false => Ok(Ok(())),
        }
    }

    fn spool(&mut self) -> io::Result<()> {
        let path = self.spool_directory.join(format!("answer-{}.tmp", self.terms.tag));
        let mut file = File::options().create_new(true).read(true).write(true).open(&path)?;
        // Without a name it cannot outlive the process.
        std::fs::remove_file(&path)?;
        file.write_all(&self.held)?;
        self.held = Vec::new();
        self.file = Some(file);
        Ok(())
    }

    /// Sends the head and what was held back.
    fn start(&mut self, statistics: Option<Statistics>) -> Result<Result<(), Gone>, Exception> {
        let held = std::mem::take(&mut self.held);
        let encoded = self.encoder.write(&held).map_err(|error| io_exception("compress the answer", &error))?;
        let head = Head { status: StatusCode::OK, headers: self.headers(statistics, true), whole: None };
        if self.head.take().is_some_and(|sender| sender.send(head).is_err()) {
            return Ok(Err(Gone));
        }
        Ok(self.send(encoded))
    }

    fn send(&mut self, encoded: Vec<u8>) -> Result<(), Gone> {
        if encoded.is_empty() {
            return Ok(());
        }
        self.bytes += encoded.len() as u64;
        self.chunks.blocking_send(Chunk::Data(encoded.into())).map_err(|_| Gone)
    }

    fn headers(&self, statistics: Option<Statistics>, encoded: bool) -> Vec<(&'static str, String)> {
        let mut headers = self.terms.headers.clone();
        if let Some(encoding) = self.terms.encoding.filter(|_| encoded) {
            headers.push(("content-encoding", encoding.name().into()));
        }
        if encoded {
            headers.push(("x-clickhouse-exception-tag", self.terms.tag.clone()));
        }
        headers.push(("x-clickhouse-summary", summary(statistics.unwrap_or_default(), self.terms.started)));
        headers
    }

    /// The query ended well.
    pub fn succeed(mut self, statistics: Statistics) -> Sent {
        if let Err(exception) = self.try_succeed(statistics) {
            return self.fail(&exception);
        }
        Sent { status: StatusCode::OK, code: 0, bytes: self.bytes }
    }

    fn try_succeed(&mut self, statistics: Statistics) -> Result<(), Exception> {
        let compress = |error: io::Error| io_exception("compress the answer", &error);
        if let Some(mut file) = self.file.take() {
            file.rewind().map_err(|error| io_exception("read the spooled answer", &error))?;
            if self.start(Some(statistics))?.is_err() || self.take_all(file)?.is_err() {
                return Ok(());
            }
        }
        let plain = Encoder::Plain(Vec::new());
        if let Some(head) = self.head.take() {
            let mut whole = self.encoder.write(&self.held).map_err(compress)?;
            whole.extend(std::mem::replace(&mut self.encoder, plain).finish().map_err(compress)?);
            self.bytes += whole.len() as u64;
            // A client that is gone needs no answer.
            let _ = head.send(Head { status: StatusCode::OK, headers: self.headers(Some(statistics), true), whole: Some(whole) });
            return Ok(());
        }
        let rest = std::mem::replace(&mut self.encoder, plain).finish().map_err(compress)?;
        // The same here.
        let _ = self.send(rest);
        Ok(())
    }

    /// The query failed.
    pub fn fail(mut self, exception: &Exception) -> Sent {
        let body = exception.body(&self.terms.version);
        let code = exception.code;
        if let Some(head) = self.head.take() {
            let mut headers = self.headers(None, false);
            headers.retain(|(name, _)| *name != "content-type" && *name != "x-clickhouse-format");
            return refuse_with(head, headers, exception, body);
        }
        let block = exception::trailer(&self.terms.tag, &body);
        let mut tell = || -> io::Result<()> {
            // Its own block, and its own chunk: clients look for it at the end of the last one.
            let before = self.encoder.flush()?;
            if self.send(before).is_err() {
                return Ok(());
            }
            let mut told = self.encoder.write(&block)?;
            told.extend(self.encoder.flush()?);
            // A client that is gone needs no exception.
            let _ = self.send(told);
            Ok(())
        };
        if let Err(error) = tell() {
            tracing::warn!(%error, "cannot compress an exception; the connection breaks without it");
        }
        // The same here.
        let _ = self.chunks.blocking_send(Chunk::Broken);
        Sent { status: StatusCode::OK, code, bytes: self.bytes }
    }
}

/// Answers with an error alone.
pub fn refuse(reply: Reply, headers: Vec<(&'static str, String)>, exception: &Exception, version: &str) -> Sent {
    refuse_with(reply.head, headers, exception, exception.body(version))
}

fn refuse_with(head: oneshot::Sender<Head>, mut headers: Vec<(&'static str, String)>, exception: &Exception, body: String) -> Sent {
    headers.push(("content-type", "text/plain; charset=UTF-8".into()));
    headers.push(("x-clickhouse-exception-code", exception.code.to_string()));
    if exception.code == exception::REQUIRED_PASSWORD.0 {
        headers.push(("www-authenticate", "Basic realm=\"ClickHouse server HTTP API\"".into()));
    }
    let (status, bytes) = (exception.status(), body.len() as u64);
    // A client that is gone needs no answer.
    let _ = head.send(Head { status, headers, whole: Some(body.into_bytes()) });
    Sent { status, code: exception.code, bytes }
}

fn summary(statistics: Statistics, started: Instant) -> String {
    let Statistics { read_rows, read_bytes, written_rows, written_bytes, result_rows } = statistics;
    format!(
        "{{\"read_rows\":\"{read_rows}\",\"read_bytes\":\"{read_bytes}\",\"written_rows\":\"{written_rows}\",\
         \"written_bytes\":\"{written_bytes}\",\"total_rows_to_read\":\"0\",\"result_rows\":\"{result_rows}\",\
         \"result_bytes\":\"0\",\"elapsed_ns\":\"{}\"}}",
        started.elapsed().as_nanos()
    )
}

fn io_exception(what: &str, error: &io::Error) -> Exception {
    Exception::new(STD_EXCEPTION, format!("Cannot {what}: {error}"))
}
