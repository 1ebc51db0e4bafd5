//! What a connection has established: login, schema, prepared statements.

use rustc_hash::FxHashMap;

use super::super::Exchange;
use super::super::exchange::MysqlDetail;
use super::answer::{Change, SERVER_STATUS_NO_BACKSLASH_ESCAPES};
use super::charset::{self, Charset};
use super::handshake::{CLIENT_COMPRESS, CLIENT_DEPRECATE_EOF, CLIENT_ZSTD_COMPRESSION};

/// Most prepared statements remembered for one connection: connectors cache 25 (Connector/J) to 1,000 or so.
const MAX_STATEMENTS: usize = 1024;
/// Most bytes of statements remembered for one connection.
const MAX_STATEMENT_BYTES: usize = 512 << 10;

/// A prepared statement.
#[derive(Debug, Default)]
pub(super) struct Statement {
    /// When it was used last, counted in uses of this session's statements.
    used: u64,
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
    last_prepared: Option<u32>,
    /// Uses of statements so far: the clock of `Statement::used`.
    uses: u64,
    /// Statements that were thrown out to make room, not yet reported.
    pub evicted: u64,
    /// A closed statement whose memory serves the next one.
    spare: Option<Statement>,
    /// Of what the client sends and errors say.
    pub charset: Charset,
    /// The server takes a backslash in a literal for a character (sql_mode NO_BACKSLASH_ESCAPES), as its last status said.
    no_backslash_escapes: bool,
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
        detail.no_backslash_escapes = self.no_backslash_escapes;
        [detail.user, detail.schema, detail.version] = exchange.put_each([&self.user, &self.schema, &self.version]);
    }

    /// An empty statement.
    pub fn blank_statement(&mut self) -> Statement {
        let mut statement = self.spare.take().unwrap_or_default();
        statement.text.clear();
        statement.kinds.clear();
        statement.cut = false;
        statement
    }

    /// Remembers a statement; at the cap the one that was not used for longest goes.
    pub fn prepare(&mut self, id: u32, mut statement: Statement) {
        self.close_statement(id);
        while self.statements.len() >= MAX_STATEMENTS || self.statement_bytes + statement.text.len() > MAX_STATEMENT_BYTES {
            let Some(oldest) = self.statements.iter().min_by_key(|(_, statement)| statement.used).map(|(id, _)| *id) else { break };
            self.close_statement(oldest);
            self.evicted += 1;
        }
        self.uses += 1;
        statement.used = self.uses;
        self.statement_bytes += statement.text.len();
        self.last_prepared = Some(id);
        self.statements.insert(id, statement);
    }

    /// The statement with this id; MariaDB clients say -1 for the one they prepared last.
    pub fn statement(&mut self, id: u32) -> Option<&mut Statement> {
        let id = if id == u32::MAX { self.last_prepared? } else { id };
        self.uses += 1;
        let statement = self.statements.get_mut(&id)?;
        statement.used = self.uses;
        Some(statement)
    }

    /// Which statement was prepared last is not known: it may lie in a hole.
    pub fn lose_last_prepared(&mut self) {
        self.last_prepared = None;
    }

    /// Forgets one statement.
    pub fn close_statement(&mut self, id: u32) {
        if let Some(statement) = self.statements.remove(&id) {
            self.statement_bytes -= statement.text.len();
            self.spare = Some(statement);
        }
    }

    /// Follows a statement that succeeded: `USE`, `SET NAMES`. Servers that track the session's state say the same again.
    pub fn follow(&mut self, statement: &str) {
        let Some((word, rest)) = statement.trim_start().split_at_checked(3) else { return };
        if word.eq_ignore_ascii_case("use") {
            if let Some(schema) = used_schema(rest) {
                schema.clone_into(&mut self.schema);
            }
        } else if word.eq_ignore_ascii_case("set")
            && rest.starts_with(|letter: char| letter.is_whitespace() || letter == '@')
            && let Some(charset) = charset::set_by(rest)
        {
            self.charset = charset;
        }
    }

    /// Follows what the server says about the session.
    pub fn change(&mut self, change: Change<'_>) {
        match change {
            Change::Schema(schema) => self.schema = String::from_utf8_lossy(schema).into_owned(),
            Change::Charset(name) => self.charset = Charset::named(&String::from_utf8_lossy(name)),
        }
    }

    /// Follows a server's status.
    pub fn status(&mut self, status: u16) {
        self.no_backslash_escapes = status & SERVER_STATUS_NO_BACKSLASH_ESCAPES != 0;
    }

    /// Forgets all statements.
    pub fn forget_statements(&mut self) {
        self.statements.clear();
        self.statement_bytes = 0;
    }
}

/// The schema of a `USE schema` statement, given what follows `USE`.
fn used_schema(rest: &str) -> Option<&str> {
    if !rest.starts_with(|letter: char| letter.is_whitespace() || letter == '`') {
        return None;
    }
    let name = rest.trim().trim_end_matches(';').trim_end().trim_matches('`');
    (!name.is_empty() && name.len() <= 64).then_some(name)
}
