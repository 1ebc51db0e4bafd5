//! SQL load over several connections, plain and prepared.

use std::collections::BTreeMap;
use std::sync::Arc;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Params, Row};

use super::{Report, Running, Timetable, Until, on_own_thread};
use crate::{Context, Failure, Result};

/// One kind of statement. `{}` in a plain one, `?` in a prepared one becomes a number that changes.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    /// The text.
    pub sql: &'static str,
    /// Name it is counted under: the fingerprint that Podtap should find.
    pub fingerprint: &'static str,
    /// Sent as COM_STMT_EXECUTE rather than COM_QUERY.
    pub prepared: bool,
    /// Numbers run from 1 to this.
    pub numbers: u64,
}

/// A generator.
#[derive(Clone, Debug)]
pub struct SqlLoad {
    /// `mysql://user:password@host:port/schema`.
    pub url: String,
    /// Connections.
    pub connections: usize,
    /// Statements a second, all together.
    pub rate: u32,
    /// What is asked, in turn.
    pub statements: Vec<Statement>,
    /// When it ends.
    pub until: Until,
}

impl SqlLoad {
    /// Starts it.
    pub fn start(self) -> Running {
        on_own_thread(self.run())
    }

    async fn run(self) -> Result<Report> {
        let options = Opts::from_url(&self.url).context("the database's address")?;
        let mut connections = Vec::new();
        for number in 0..self.connections {
            // Without these the client asks the server for both when it connects.
            let options =
                OptsBuilder::from_opts(options.clone()).prefer_socket(false).max_allowed_packet(Some(1 << 24)).wait_timeout(Some(3600));
            connections.push(Conn::new(options).await.context(format!("connection {number} to the database"))?);
        }
        let timetable = Timetable::new(self.rate, self.until);
        let statements = Arc::new(self.statements);
        let tasks: Vec<_> = connections
            .into_iter()
            .map(|connection| tokio::spawn(send_all(connection, Arc::clone(&timetable), Arc::clone(&statements))))
            .collect();
        for task in tasks {
            task.await.context("a connection's task")??;
        }
        Ok(timetable.report())
    }
}

async fn send_all(mut connection: Conn, timetable: Arc<Timetable>, statements: Arc<Vec<Statement>>) -> Result<()> {
    let mut counts: BTreeMap<(&'static str, u16), u64> = BTreeMap::new();
    while let Some(slot) = timetable.slot().await {
        let statement = &statements[slot as usize % statements.len()];
        let number = 1 + slot % statement.numbers;
        let outcome: std::result::Result<Vec<Row>, _> = if statement.prepared {
            let parameters = vec![number.into(); statement.sql.matches('?').count()];
            connection.exec(statement.sql, Params::Positional(parameters)).await
        } else {
            connection.query(statement.sql.replace("{}", &number.to_string())).await
        };
        let code = match outcome {
            Ok(_) => 0,
            Err(mysql_async::Error::Server(error)) => error.code,
            Err(error) => return Err(Failure(format!("{}: {error}", statement.sql))),
        };
        *counts.entry((statement.fingerprint, code)).or_default() += 1;
    }
    connection.disconnect().await.context("closing a connection to the database")?;
    let name = |code: u16| if code == 0 { String::new() } else { code.to_string() };
    timetable.add(counts.into_iter().map(|((fingerprint, code), count)| ((fingerprint.to_owned(), name(code)), count)).collect());
    Ok(())
}
