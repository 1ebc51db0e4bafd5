//! The embedded ClickHouse endpoint (`podtap-clickhouse`), and SQL over its HTTP interface as curl would send it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::pod::free_port;
use crate::process::{Process, Spec};
use crate::run::{Run, binary};
use crate::{Context, Failure, Result, http};

/// A row as `FORMAT JSONEachRow` gives it.
pub type Row = Map<String, Value>;

/// The endpoint; dropped, it ends.
#[derive(Debug)]
pub struct ClickHouse {
    process: Option<Process>,
    address: SocketAddrV4,
    data: PathBuf,
}

impl ClickHouse {
    /// Starts it on a free port of loopback.
    pub fn start(run: &Run) -> Result<Self> {
        Self::start_at(run, run.folder("clickhouse")?)
    }

    /// The same on data that may be there already, and stay.
    pub fn start_at(run: &Run, data: PathBuf) -> Result<Self> {
        let mut endpoint = Self { process: None, address: free_port(Ipv4Addr::LOCALHOST)?, data };
        endpoint.launch(run)?;
        Ok(endpoint)
    }

    /// Starts it again, on the same address and data.
    pub fn launch(&mut self, run: &Run) -> Result<()> {
        let listen = self.address.to_string();
        let spec = Spec::new(binary("podtap-clickhouse")?, ["--listen", &listen, "--path"]).argument(&self.data).folder(run.root());
        let process = Process::start(run, "clickhouse", &spec)?;
        let address = self.address;
        process.until("the ClickHouse endpoint answers", Duration::from_secs(60), || {
            Ok((http::get(address, "/ping")?.body == "Ok.\n").then_some(()))
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it; its data stay for [`ClickHouse::launch`].
    pub fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Process::pid).context("the ClickHouse endpoint does not run")
    }

    /// For `--clickhouse-url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Runs a statement and gives the body of the answer.
    pub fn execute(&self, sql: &str) -> Result<String> {
        self.execute_within(Duration::from_secs(30), sql)
    }

    /// The same of a statement that takes its time.
    pub fn execute_within(&self, limit: Duration, sql: &str) -> Result<String> {
        let path = "/?database=podtap&output_format_json_quote_64bit_integers=0";
        let answer = http::request_within(limit, self.address, "POST", path, &[], sql)?;
        if answer.status == 200 {
            return Ok(answer.body);
        }
        Err(Failure(format!("{} for {sql}: {}", answer.status, answer.body.trim())))
    }

    /// Rows of a SELECT.
    pub fn rows(&self, sql: &str) -> Result<Vec<Row>> {
        let body = self.execute(&format!("{sql} FORMAT JSONEachRow"))?;
        body.lines().map(|line| serde_json::from_str(line).context(format!("a row of {sql}: {line}"))).collect()
    }

    /// The number in the first column of the first row.
    pub fn number(&self, sql: &str) -> Result<u64> {
        let rows = self.rows(sql)?;
        let value = rows.first().and_then(|row| row.values().next()).and_then(Value::as_u64);
        value.context(format!("no number as the answer to {sql}"))
    }
}

/// Text of a column; empty where there is none.
pub fn text<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).and_then(Value::as_str).unwrap_or_default()
}

/// Number of a column; 0 where there is none.
pub fn number(row: &Row, column: &str) -> f64 {
    row.get(column).and_then(Value::as_f64).unwrap_or_default()
}
