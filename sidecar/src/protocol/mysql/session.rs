//! What a connection has established: login, schema, prepared statements.

use rustc_hash::FxHashMap;

use super::super::Exchange;
use super::super::exchange::{MysqlDetail, Span};
use super::handshake::{CLIENT_COMPRESS, CLIENT_DEPRECATE_EOF, CLIENT_ZSTD_COMPRESSION};

/// Most prepared statements remembered for one connection: connectors cache 25 (Connector/J) to 1,000 or so.
const MAX_STATEMENTS: usize = 1024;
/// Most bytes of statements remembered for one connection.
const MAX_STATEMENT_BYTES: usize = 512 << 10;

/// A prepared statement.
#[derive(Debug, Default)]
pub(super) struct Statement {
    pub text: String,
    pub cut: bool,
    pub parameters: usize,
    /// Types of the last EXECUTE that sent them.
    pub kinds: Vec<u16>,
}

/// The session.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub mariadb: bool,
    pub version: String,
    pub user: String,
    pub schema: String,
    /// What both sides agreed on; `None` when the login was not seen.
    pub capabilities: Option<u64>,
    server_capabilities: u64,
    /// Whether definitions are followed by an EOF, as learnt from the bytes.
    classic_eof: Option<bool>,
    statements: FxHashMap<u32, Statement>,
    statement_bytes: usize,
    last_prepared: u32,
}

impl Session {
    /// The greeting's part of the agreement.
    pub fn greet(&mut self, version: &[u8], capabilities: u64, mariadb: bool) {
        self.version = String::from_utf8_lossy(version).into_owned();
        self.server_capabilities = capabilities;
        self.mariadb = mariadb;
    }

    /// The client's part.
    pub fn agree(&mut self, capabilities: u64) {
        let server = if self.server_capabilities == 0 { u64::MAX } else { self.server_capabilities };
        let agreed = capabilities & server;
        self.capabilities = Some(agreed);
        self.classic_eof = Some(agreed & CLIENT_DEPRECATE_EOF == 0);
    }

    /// True if both sides agreed on a capability.
    pub fn has(&self, capability: u64) -> bool {
        self.capabilities.is_some_and(|capabilities| capabilities & capability != 0)
    }

    /// True if everything after the login is compressed.
    pub fn is_compressed(&self) -> bool {
        self.has(CLIENT_COMPRESS) || self.has(CLIENT_ZSTD_COMPRESSION)
    }

    /// Whether an EOF follows definitions; `None` when that is not known yet.
    pub fn classic_eof(&self) -> Option<bool> {
        self.classic_eof
    }

    /// Learns the style from an answer.
    pub fn learn_classic_eof(&mut self, classic: bool) {
        self.classic_eof.get_or_insert(classic);
    }

    /// `db_system_name`.
    pub fn system(&self) -> &'static str {
        if self.mariadb { "mariadb" } else { "mysql" }
    }

    /// Stamps who asks.
    pub fn stamp(&self, exchange: &mut Exchange, detail: &mut MysqlDetail) {
        detail.system = self.system();
        detail.user = put(exchange, &self.user);
        detail.schema = put(exchange, &self.schema);
        detail.version = put(exchange, &self.version);
    }

    /// Remembers a statement; at the cap all are forgotten, which costs their text and is counted where it is missed.
    pub fn prepare(&mut self, id: u32, statement: Statement) {
        if self.statements.len() >= MAX_STATEMENTS || self.statement_bytes + statement.text.len() > MAX_STATEMENT_BYTES {
            self.forget_statements();
        }
        self.statement_bytes += statement.text.len();
        self.last_prepared = id;
        if let Some(old) = self.statements.insert(id, statement) {
            self.statement_bytes -= old.text.len();
        }
    }

    /// The statement with this id; MariaDB clients say -1 for the one they prepared last.
    pub fn statement(&mut self, id: u32) -> Option<&mut Statement> {
        let id = if id == u32::MAX { self.last_prepared } else { id };
        self.statements.get_mut(&id)
    }

    /// Forgets one statement.
    pub fn close_statement(&mut self, id: u32) {
        if let Some(statement) = self.statements.remove(&id) {
            self.statement_bytes -= statement.text.len();
        }
    }

    /// Forgets all statements.
    pub fn forget_statements(&mut self) {
        self.statements.clear();
        self.statement_bytes = 0;
    }
}

fn put(exchange: &mut Exchange, text: &str) -> Span {
    if text.is_empty() { Span::default() } else { exchange.put(text.as_bytes()) }
}
