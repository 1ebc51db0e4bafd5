//! One query from its body to its answer, on a blocking thread: find out what it is, take a place and a connection, connect
//! the pipes, run it.
//!
//! Guarantee: what a request sets is gone when it ends (a fresh connection, or for sessions the earlier values again); an
//! INSERT whose body is cut or cannot be decoded commits no more than the blocks that were already whole. The one misuse:
//! running it on an async thread.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::runtime::Handle;

use super::answer::{self, Answer, Gone, Reply, Sent, Terms};
use super::body::{self, RequestBody};
use super::compression::Encoder;
use super::engine::{Access, Cancellation, Engine};
use super::exception::{BAD_ARGUMENTS, Exception, NETWORK_ERROR, READONLY, STD_EXCEPTION};
use super::format::content_type;
use super::library::{Connection, Outcome, Statistics};
use super::request::{ExternalTable, Request, SessionName};
use super::session::Sessions;
use super::settings;
use super::statement::{self, Source, Statement};

/// Bytes of a request's body moved at once.
const SLICE: usize = 256 << 10;

pub struct Exchange {
    pub engine: Arc<Engine>,
    pub sessions: Arc<Sessions>,
    pub cancellation: Arc<Cancellation>,
    pub request: Request,
    pub body: RequestBody,
    pub exception_tag: String,
    pub started: Instant,
}

/// A statement that is ready to run.
struct Prepared {
    statement: Statement,
    /// The first bytes of an INSERT's data.
    data: Vec<u8>,
    format: String,
}

/// A connection on loan: from a session, or for this request alone.
struct Lease {
    sessions: Arc<Sessions>,
    name: Option<SessionName>,
    connection: Option<Connection>,
    close: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let connection = self.connection.take().filter(|_| !self.close);
            self.sessions.put(name, connection, Instant::now());
        }
    }
}

impl Exchange {
    /// Runs the query and answers. `runtime` is where it waits for a place.
    pub fn run(mut self, runtime: &Handle, reply: Reply) -> Sent {
        let prepared = match self.prepare() {
            Ok(prepared) => prepared,
            Err(exception) => return answer::refuse(reply, self.base_headers(), &exception, &self.engine.version),
        };
        let access = match &prepared.statement {
            Statement::Rows { .. } | Statement::Other { reads_only: true, .. } => Access::Read,
            Statement::Insert { .. } | Statement::Other { .. } => Access::Write,
        };
        let place = runtime.block_on(self.engine.admit(access));
        let ready = place.and_then(|place| Ok((place, self.lease()?, self.encoder()?)));
        let (_place, mut lease, encoder) = match ready {
            Ok(ready) => ready,
            Err(exception) => return answer::refuse(reply, self.base_headers(), &exception, &self.engine.version),
        };
        let engine = self.engine.clone();
        let mut answer = Answer::new(reply, self.terms(&prepared), encoder, engine.spool_directory());
        let outcome = self.on_connection(&mut lease, prepared, &mut answer);
        self.cancellation.finish();
        // Before the answer ends: a client may use its session again the moment it has it.
        drop(lease);
        match outcome {
            Ok(statistics) => answer.succeed(statistics),
            Err(exception) => answer.fail(&exception),
        }
    }

    /// Runs the statement between setting what the request sets and, in a session, taking it back.
    fn on_connection(&mut self, lease: &mut Lease, prepared: Prepared, answer: &mut Answer<'_>) -> Result<Statistics, Exception> {
        let Some(connection) = lease.connection.as_mut() else {
            return Err(Exception::new(STD_EXCEPTION, "the session has no connection"));
        };
        let session = self.request.session.is_some();
        let applied = settings::Applied::apply(connection, &self.request, session)?;
        let outcome = self.execute(connection, prepared, answer);
        if session && let Err(exception) = applied.restore(connection) {
            tracing::warn!(code = exception.code, error = %exception.message, "a session's settings are not as before; it ends");
            lease.close = true;
        }
        outcome
    }

    /// Reads as much of the body as the statement takes, and finds out what the statement is.
    fn prepare(&mut self) -> Result<Prepared, Exception> {
        let limit = self.request.max_query_size;
        let (text, complete) = if self.request.form_boundary.is_some() {
            let form = self.body.form()?;
            self.request.take_form(&form)?;
            (std::mem::take(&mut self.request.query), true)
        } else {
            let (head, complete) = self.body.head(limit)?;
            let mut text = std::mem::take(&mut self.request.query);
            if !text.is_empty() && !head.is_empty() {
                text.push(b'\n');
            }
            text.extend_from_slice(&head);
            (text, complete)
        };
        let statement = statement::parse(&text, complete)?;
        let reads_only = matches!(statement, Statement::Rows { .. } | Statement::Other { reads_only: true, .. });
        // Outside of sessions the engine checks this itself, and knows more; within one, readonly could not be taken back.
        if self.request.read_only && self.request.session.is_some() && !reads_only {
            let what =
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. You should use method POST";
            return Err(Exception::new(READONLY, what));
        }
        let data = match &statement {
            Statement::Insert { data, .. } => text.get(*data..).unwrap_or_default().to_vec(),
            _ => Vec::new(),
        };
        let default = self.request.default_format.as_deref().unwrap_or("TabSeparated");
        let named = match &statement {
            Statement::Rows { format: Some(format), .. } => format.as_str(),
            _ => default,
        };
        let format = self.engine.format_name(named).to_owned();
        Ok(Prepared { statement, data, format })
    }

    /// A connection for this request: its session's, or a fresh one.
    fn lease(&self) -> Result<Lease, Exception> {
        let name = self.request.session.clone();
        let connection = match &name {
            Some(name) => self.sessions.take(&self.engine, name, Instant::now())?,
            None => self.engine.connect()?,
        };
        Ok(Lease { sessions: self.sessions.clone(), name, connection: Some(connection), close: self.request.close_session })
    }

    fn encoder(&self) -> Result<Encoder, Exception> {
        let encoder = Encoder::new(self.request.response_encoding, self.request.compress);
        encoder.map_err(|error| Exception::new(STD_EXCEPTION, format!("Cannot compress the answer: {error}")))
    }

    fn base_headers(&self) -> Vec<(&'static str, String)> {
        vec![("x-clickhouse-query-id", self.request.query_id.clone()), ("x-clickhouse-timezone", self.engine.timezone.clone())]
    }

    fn terms(&self, prepared: &Prepared) -> Terms {
        let mut headers = self.base_headers();
        headers.push(("content-type", content_type(&prepared.format).to_owned()));
        headers.push(("x-clickhouse-format", prepared.format.clone()));
        Terms {
            headers,
            version: self.engine.version.clone(),
            tag: self.exception_tag.clone(),
            encoding: self.request.response_encoding,
            blocks: self.request.compress,
            held_back: self.request.held_back,
            wait_end: self.request.wait_end_of_query,
            started: self.started,
        }
    }

    fn execute(&mut self, connection: &mut Connection, prepared: Prepared, answer: &mut Answer<'_>) -> Result<Statistics, Exception> {
        for table in std::mem::take(&mut self.request.external) {
            self.load_external(connection, &table)?;
        }
        settings::read_only(connection, &self.request)?;
        let format = self.request.default_format.clone().unwrap_or_else(|| "TabSeparated".into());
        let outcome = match prepared.statement {
            Statement::Rows { before, after, .. } => return self.rows(connection, &before, &after, &format, answer),
            Statement::Insert { before, source, after, .. } => self.insert(connection, &before, &source, &after, &prepared.data)?,
            Statement::Other { mut sql, .. } => {
                self.mark(&mut sql);
                connection.execute(&sql, &format, &self.request.params)?
            }
        };
        match answer.take(&outcome.output)? {
            Ok(()) => Ok(outcome.statistics),
            Err(Gone) => Err(gone()),
        }
    }

    fn mark(&self, sql: &mut Vec<u8>) {
        sql.push(b'\n');
        sql.extend_from_slice(self.cancellation.mark.as_bytes());
    }

    /// A statement with rows: the engine writes them into a pipe, formatted; here they are read and sent.
    fn rows(
        &self,
        connection: &mut Connection,
        before: &[u8],
        after: &[u8],
        format: &str,
        answer: &mut Answer<'_>,
    ) -> Result<Statistics, Exception> {
        let (reader, writer) = io::pipe().map_err(|error| pipe_exception(&error))?;
        let mut sql = before.to_vec();
        sql.extend_from_slice(format!("\nINTO OUTFILE '{}' APPEND COMPRESSION 'none'\n", path_of(&writer)).as_bytes());
        sql.extend_from_slice(after);
        self.mark(&mut sql);
        let params = &self.request.params;
        thread::scope(|scope| {
            let query = move || {
                let outcome = connection.execute(&sql, format, params);
                // The last writer's end is the end of the result.
                drop(writer);
                outcome
            };
            let query = thread::Builder::new().name("query".into()).spawn_scoped(scope, query);
            let query = query.map_err(|error| pipe_exception(&error))?;
            let taken = answer.take_all(&reader);
            if !matches!(taken, Ok(Ok(()))) {
                self.cancellation.request();
            }
            // A query that still writes gets an error at once.
            drop(reader);
            let outcome = joined(query.join());
            match taken? {
                Ok(()) => outcome.map(|outcome| outcome.statistics),
                Err(Gone) => Err(gone()),
            }
        })
    }

    /// An INSERT with data: the engine reads it from a pipe that is fed with the body.
    fn insert(
        &mut self,
        connection: &mut Connection,
        before: &[u8],
        source: &Source,
        after: &[u8],
        first: &[u8],
    ) -> Result<Outcome, Exception> {
        let (reader, writer) = io::pipe().map_err(|error| pipe_exception(&error))?;
        let path = path_of(&reader);
        let mut sql = before.to_vec();
        match source {
            Source::Infile => sql.extend_from_slice(format!("\nFROM INFILE '{path}' COMPRESSION 'none'\n").as_bytes()),
            Source::TableFunction { format } => sql.extend_from_slice(format!("file('{path}', {format}, ").as_bytes()),
        }
        sql.extend_from_slice(after);
        self.mark(&mut sql);
        let (params, cancellation, body) = (&self.request.params, &self.cancellation, &mut self.body);
        thread::scope(|scope| {
            let query = thread::Builder::new()
                .name("insert".into())
                .spawn_scoped(scope, move || run_insert(connection, &sql, params, reader))
                .map_err(|error| pipe_exception(&error))?;
            let fed = feed(&writer, first, body);
            if let Err(exception) = &fed {
                tracing::debug!(code = exception.code, "an INSERT's body is cut; the INSERT is stopped");
                // The end of the pipe must not look like the end of the data: first the engine knows, then the pipe closes.
                cancellation.stop_before(|| query.is_finished());
            }
            drop(writer);
            let outcome = joined(query.join());
            fed.and(outcome)
        })
    }

    /// A table that came with the request becomes a temporary one.
    fn load_external(&self, connection: &mut Connection, table: &ExternalTable) -> Result<(), Exception> {
        let name = settings::quoted_name(&table.name);
        let Some(structure) = &table.structure else {
            let what = format!("The external table {name} has no structure ({}_structure)", table.name);
            return Err(Exception::new(BAD_ARGUMENTS, what));
        };
        let format = table.format.as_deref().unwrap_or("TabSeparated");
        if !format.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Exception::new(BAD_ARGUMENTS, format!("'{format}' is not a format")));
        }
        connection.execute(format!("DROP TEMPORARY TABLE IF EXISTS {name}").as_bytes(), "Null", &[])?;
        connection.execute(format!("CREATE TEMPORARY TABLE {name} ({structure})").as_bytes(), "Null", &[])?;
        let (reader, writer) = io::pipe().map_err(|error| pipe_exception(&error))?;
        let sql = format!("INSERT INTO {name} FROM INFILE '{}' COMPRESSION 'none' FORMAT {format}", path_of(&reader));
        thread::scope(|scope| {
            let query = scope.spawn(move || run_insert(connection, sql.as_bytes(), &[], reader));
            let fed = (&writer).write_all(&table.data);
            drop(writer);
            let outcome = joined(query.join());
            match (outcome, fed) {
                (Ok(_), Err(error)) => Err(pipe_exception(&error)),
                (outcome, _) => outcome.map(drop),
            }
        })
    }
}

fn run_insert(connection: &mut Connection, sql: &[u8], params: &[(String, Vec<u8>)], reader: PipeReader) -> Result<Outcome, Exception> {
    let outcome = connection.execute(sql, "TabSeparated", params);
    // Whoever still feeds the pipe gets an error instead of waiting.
    drop(reader);
    outcome
}

/// Writes the data into the pipe; a pipe that the engine has closed is no error here, the engine says why.
fn feed(mut writer: &PipeWriter, first: &[u8], body: &mut RequestBody) -> Result<(), Exception> {
    if writer.write_all(first).is_err() {
        return Ok(());
    }
    let mut slice = vec![0; SLICE];
    loop {
        match body.read(&mut slice) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                if writer.write_all(&slice[..length]).is_err() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(body::exception(&error)),
        }
    }
}

fn gone() -> Exception {
    Exception::new(NETWORK_ERROR, "The client is gone")
}

fn joined(outcome: thread::Result<Result<Outcome, Exception>>) -> Result<Outcome, Exception> {
    outcome.unwrap_or_else(|_| Err(Exception::new(STD_EXCEPTION, "the thread of the query panicked")))
}

fn path_of(pipe: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", pipe.as_raw_fd())
}

fn pipe_exception(error: &io::Error) -> Exception {
    Exception::new(STD_EXCEPTION, format!("Cannot make what the query needs (a pipe and a thread): {error}"))
}
