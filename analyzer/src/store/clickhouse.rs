//! ClickHouse over HTTP, a server's or the embedded endpoint's: the same dialect, the same code.
//!
//! Rows are sent as Native blocks with names and types, which ClickHouse checks; `async_insert` is off, so an answer means stored.

use std::time::Duration;

use ::clickhouse::error::Error;
use ::clickhouse::insert_formatted::InsertFormatted;
use ::clickhouse::{Client, Compression, Row};
use prost::bytes::Bytes;
use serde::Deserialize;

use super::cluster::Layout;
use super::migrations::{self, Applied, preamble, quoted};
use super::native::{Column, Native};
use super::questions::{self, AlarmRow, FiguresRow, Statement};
use super::retention::{self, KEPT, Retention};
use super::rollup::{self, Bounds, Due, KeptDays, Step};
use super::rows::{
    self, ALARM_COLUMNS, BLOCK_COLUMNS, COUNTER_COLUMNS, HISTOGRAM_COLUMNS, RequestWriter, hexadecimal, insert_statement, request_columns,
};
use super::{Reason, Store, StoreError, StoreFuture};
use crate::alarm::state::Alarm;
use crate::ingest::block::{BlockWrite, CLASSIFICATION, PartitionId, ResumePoint};
use crate::ingest::marks::{Mark, Marks, SenderBoot};
use crate::ingest::starts::BootStart;
use crate::query::{Answer, Question};

mod kubernetes;

/// Rows go out in blocks of about so many bytes; a block brings its own dictionaries, so small ones cost more.
const CHUNK_BYTES: usize = 4 << 20;
/// Boots in one statement.
const STARTS_A_QUESTION: usize = 500;
/// The client does not read tuples with names.
const TUPLES: &str = "Array(Tuple(String, String, UInt64, UInt64))";
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// How to reach ClickHouse.
#[derive(Clone, Debug)]
pub struct Access {
    /// `http://host:port`.
    pub url: String,
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
    /// Database of all tables.
    pub database: String,
    /// One server or a cluster.
    pub layout: Layout,
    /// How long tables keep their rows.
    pub retention: Retention,
}

/// A ClickHouse.
#[derive(Clone)]
pub struct ClickHouse {
    client: Client,
    /// Knows no database, for statements that make it.
    bare: Client,
    database: String,
    layout: Layout,
    retention: Retention,
}

/// What [`ClickHouse::roll_up`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RolledUp {
    /// Hours that were computed.
    pub hours: u64,
    /// Days that were computed.
    pub days: u64,
    /// Hours that were due and are left for the next time.
    pub hours_waiting: u64,
    /// Changed hours too old to be computed again.
    pub expired: u64,
}

fn failed(action: &'static str) -> impl Fn(Error) -> StoreError {
    move |error| StoreError { reason: reason(&error), action, message: describe(&error) }
}

fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.chars().take(2_000).collect()
}

/// The kind of a failure, by ClickHouse's error codes (src/Common/ErrorCodes.cpp).
fn reason(error: &Error) -> Reason {
    match error {
        Error::Network(_) => Reason::Unreachable,
        Error::TimedOut => Reason::Timeout,
        Error::SchemaMismatch(_) | Error::InvalidColumnsHeader(_) | Error::NotEnoughData => Reason::Schema,
        Error::BadResponse(text) => reason_of_code(text),
        _ => Reason::Refused,
    }
}

fn reason_of_code(text: &str) -> Reason {
    let digits = text.split_once("Code: ").map_or("", |(_, rest)| rest);
    let code: u32 = digits.split(|c: char| !c.is_ascii_digit()).next().and_then(|code| code.parse().ok()).unwrap_or(0);
    match code {
        16 | 47 | 53 | 60 | 81 | 46 => Reason::Schema,
        159 | 209 => Reason::Timeout,
        192 | 193 | 194 | 497 | 516 => Reason::Access,
        243 => Reason::DiskFull,
        // The disk was filled by others between reserving and writing.
        _ if text.contains("No space left on device") => Reason::DiskFull,
        242 | 164 => Reason::ReadOnly,
        252 => Reason::TooManyParts,
        158 | 241 | 202 | 307 => Reason::Limit,
        210 | 279 => Reason::Unreachable,
        _ => Reason::Refused,
    }
}

#[derive(Row, Deserialize)]
struct AppliedRow {
    number: u32,
    checksum: String,
}

#[derive(Row, Deserialize)]
struct ColumnRow {
    name: String,
    kind: String,
}

#[derive(Row, Deserialize)]
struct DueRow {
    span: u32,
    covered: u64,
    before: u64,
}

#[derive(Row, Deserialize)]
struct OldManifestsRow {
    topic: String,
    incarnation: String,
    partition: u32,
    youngest: u64,
}

#[derive(Row, Deserialize)]
struct StartRow {
    blocks: u64,
    incomplete: u64,
    first_incomplete: u64,
    last_end: u64,
}

#[derive(Row, Deserialize)]
struct MarksRow {
    marks: Vec<(String, String, u64, u64)>,
    holes: Vec<(String, String, u64, u64)>,
}

impl ClickHouse {
    /// A client; nothing is sent yet.
    pub fn new(access: &Access) -> Self {
        let bare = Client::default()
            .with_url(&access.url)
            .with_user(&access.user)
            .with_password(&access.password)
            .with_product_info("podtap-analyzer", env!("CARGO_PKG_VERSION"))
            .with_compression(Compression::None);
        let client = bare.clone().with_database(&access.database);
        let (layout, retention) = (access.layout.clone(), access.retention.clone());
        Self { client, bare, database: access.database.clone(), layout, retention }
    }

    fn table(&self, name: &str) -> String {
        format!("{}.{name}", quoted(&self.database))
    }

    /// Statements that bring the database up to this program's schema, without running any but the preamble.
    pub async fn pending_statements(&self) -> Result<Vec<String>, StoreError> {
        const ACTION: &str = "read the schema";
        let exists: u64 = self
            .bare
            .query("SELECT count() FROM system.tables WHERE database = ? AND name = 'schema_migrations'")
            .bind(self.database.as_str())
            .fetch_one()
            .await
            .map_err(failed(ACTION))?;
        let mut statements = Vec::new();
        let mut applied = Vec::new();
        if exists == 0 {
            statements.extend(preamble(&self.database));
        } else {
            let sql = format!("SELECT number, checksum FROM {} FINAL ORDER BY number", self.table("schema_migrations"));
            let rows = self.bare.query(&sql).fetch_all::<AppliedRow>().await.map_err(failed(ACTION))?;
            applied = rows.into_iter().map(|row| Applied { number: row.number, checksum: row.checksum }).collect();
        }
        let refused = |error: migrations::MigrationError| StoreError { reason: Reason::Schema, action: ACTION, message: error.to_string() };
        for migration in migrations::missing(&applied).map_err(refused)? {
            statements.extend(migration.statements(&self.database));
            statements.push(migration.record(&self.database));
        }
        let columns = self
            .bare
            .query("SELECT name, type AS kind FROM system.columns WHERE database = ? AND table = 'requests'")
            .bind(self.database.as_str())
            .fetch_all::<ColumnRow>()
            .await
            .map_err(failed(ACTION))?;
        if !columns.is_empty() {
            let present: Vec<_> = columns.into_iter().map(|column| (column.name, column.kind)).collect();
            statements.extend(migrations::missing_columns(&self.database, &present).map_err(refused)?);
        }
        Ok(statements.iter().flat_map(|statement| self.layout.expand(statement)).collect())
    }

    /// Statements that bring the tables' TTL in line with the settings.
    pub async fn retention_statements(&self) -> Result<Vec<String>, StoreError> {
        let tables = self
            .bare
            .query("SELECT name, engine_full AS kind FROM system.tables WHERE database = ?")
            .bind(self.database.as_str())
            .fetch_all::<ColumnRow>()
            .await
            .map_err(failed("read the tables' retention"))?;
        let of =
            |table: &str| tables.iter().find(|row| row.name == self.layout.stored(table)).map(|row| (table.to_owned(), row.kind.clone()));
        let present: Vec<_> = KEPT.iter().map(|kept| kept.name).chain(["rollup_spans"]).filter_map(of).collect();
        let statements = self.retention.statements(&quoted(&self.database), &present);
        Ok(statements.iter().flat_map(|statement| self.layout.expand(statement)).collect())
    }

    /// All statements from nothing, for a person to read or to run elsewhere; asks no server.
    pub fn all_statements(&self) -> Vec<String> {
        let files = migrations::MIGRATIONS.iter().flat_map(|migration| migration.statements(&self.database));
        let recorded = migrations::MIGRATIONS.iter().map(|migration| migration.record(&self.database));
        let statements = preamble(&self.database).into_iter().chain(files).chain(recorded);
        statements.flat_map(|statement| self.layout.expand(&statement)).collect()
    }

    /// What [`Self::migrate`] would run, as far as it can be known before the tables are there.
    pub async fn dry_run(&self) -> Result<Vec<String>, StoreError> {
        let mut statements = self.pending_statements().await?;
        statements.extend(self.retention_statements().await?);
        Ok(statements)
    }

    /// Brings the database up to this program's schema; returns what was run.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        let mut statements = self.pending_statements().await?;
        self.run_all(&statements).await?;
        let retention = self.retention_statements().await?;
        self.run_all(&retention).await?;
        statements.extend(retention);
        Ok(statements)
    }

    async fn run_all(&self, statements: &[String]) -> Result<(), StoreError> {
        for statement in statements {
            self.bare.query_raw(statement).execute().await.map_err(failed("apply a migration"))?;
        }
        Ok(())
    }

    /// How long roll-ups have what they are computed from.
    pub fn kept_days(&self) -> KeptDays {
        let days = |name| u64::from(self.retention.days(name));
        KeptDays { histograms: days("request_histograms"), manifests: days("ingest_blocks") }
    }

    /// Removes manifests that are older than their retention, but the youngest of each partition: reading goes on from it.
    pub async fn prune_manifests(&self, now_seconds: u64) -> Result<u64, StoreError> {
        const ACTION: &str = "remove old manifests";
        // Whole days, so that there is something to remove once a day.
        let before = now_seconds.saturating_sub(self.kept_days().manifests * 86_400) / 86_400 * 86_400;
        let old = self
            .client
            .query(retention::OLD_MANIFESTS)
            .bind(before)
            .bind(before)
            .fetch_all::<OldManifestsRow>()
            .await
            .map_err(failed(ACTION))?;
        for row in &old {
            for sql in self.layout.expand(&retention::prune_manifests(row.partition, row.youngest)) {
                let query = self.client.query(&sql).bind(row.topic.as_str()).bind(row.incarnation.as_str()).bind(before);
                query.execute().await.map_err(failed(ACTION))?;
            }
        }
        Ok(old.len() as u64)
    }

    /// Batches missing before boots that a partition saw first in the middle, as `sender_sequences` says.
    pub async fn missing_before(&self, starts: &[BootStart]) -> Result<u64, StoreError> {
        let mut missing = 0;
        for some in starts.chunks(STARTS_A_QUESTION) {
            let sql = format!(
                "SELECT toUInt64(sum(first - 1)) FROM sender_sequences WHERE (sender, boot, first) IN ({}) AND missing_ranges[1].1 = 1",
                vec!["(?, ?, ?)"; some.len()].join(", ")
            );
            let query = some.iter().fold(self.client.query(&sql), |query, start| {
                query.bind(start.boot.sender.as_str()).bind(hexadecimal(&start.boot.boot)).bind(start.sequence)
            });
            missing += query.fetch_one::<u64>().await.map_err(failed("look for missing batches"))?;
        }
        Ok(missing)
    }

    /// Computes the hours and days that are due. May run anywhere, at any time, together with others.
    pub async fn roll_up(&self, bounds: &Bounds) -> Result<RolledUp, StoreError> {
        let failed = || failed("roll up");
        let mut rolled = RolledUp::default();
        for step in [Step::Hour, Step::Day] {
            let sql = if step == Step::Hour { rollup::due_hours(bounds) } else { rollup::due_days(bounds) };
            let due = self.client.query_raw(&sql).fetch_all::<DueRow>().await.map_err(failed())?;
            for row in due {
                let due = Due { span: row.span, covered: row.covered, before: row.before };
                for statement in rollup::compute(step, &due, new_version(due.before)) {
                    self.client.query_raw(&statement).execute().await.map_err(failed())?;
                }
                for statement in rollup::clean(step, &due).iter().flat_map(|statement| self.layout.expand(statement)) {
                    self.client.query_raw(&statement).execute().await.map_err(failed())?;
                }
                *(if step == Step::Hour { &mut rolled.hours } else { &mut rolled.days }) += 1;
            }
        }
        rolled.hours_waiting =
            self.client.query_raw(&rollup::due_hours(bounds)).fetch_all::<DueRow>().await.map_err(failed())?.len() as u64;
        rolled.expired = self.client.query_raw(&rollup::expired_hours(bounds)).fetch_one().await.map_err(failed())?;
        Ok(rolled)
    }

    fn insert(&self, table: &str, columns: &[Column]) -> Insert {
        let mut client = self.client.clone().with_setting("async_insert", "0").with_setting("max_partitions_per_insert_block", "0");
        if self.layout != Layout::Single {
            // An answer has to mean: stored, on its shard, by more than one replica.
            client = client.with_setting("distributed_foreground_insert", "1").with_setting("insert_quorum", "auto");
        }
        let insert = client.insert_formatted_with(insert_statement(&self.table(table), columns));
        let insert = insert.with_timeouts(Some(SEND_TIMEOUT), Some(ANSWER_TIMEOUT));
        Insert { insert, rows: Native::new(columns), started: false }
    }

    async fn write_rows(&self, writes: &[BlockWrite]) -> Result<(), Error> {
        let columns = request_columns();
        let mut requests = self.insert("requests", &columns);
        let mut writer = RequestWriter::default();
        for write in writes {
            for placed in &write.batches {
                let step = RequestWriter::rows_within(placed, CHUNK_BYTES);
                writer.begin(placed);
                for first in (0..placed.batch.rows()).step_by(step) {
                    let some = first..(first + step).min(placed.batch.rows());
                    writer.write(&mut requests.rows, &write.partition, placed, some, write.manifest.position);
                    requests.send_full().await?;
                }
            }
        }
        requests.end().await?;
        let mut series = self.insert("request_histograms", &HISTOGRAM_COLUMNS);
        let mut counters = self.insert("sidecar_counters", &COUNTER_COLUMNS);
        for write in writes {
            for row in &write.series {
                rows::series(&mut series.rows, write, row);
                series.send_full().await?;
            }
            for row in &write.counters {
                rows::counter(&mut counters.rows, row);
                counters.send_full().await?;
            }
        }
        series.end().await?;
        counters.end().await
    }

    async fn write_manifests(&self, writes: &[BlockWrite]) -> Result<(), Error> {
        let mut manifests = self.insert("ingest_blocks", &BLOCK_COLUMNS);
        for write in writes {
            rows::manifest(&mut manifests.rows, &write.partition, &write.manifest);
            manifests.send_full().await?;
        }
        manifests.end().await
    }

    fn of_partition(&self, sql: &str, partition: &PartitionId) -> ::clickhouse::query::Query {
        let condition = "topic = ? AND incarnation = ? AND partition = ?";
        let sql = sql.replace("{partition}", condition);
        self.client.query(&sql).bind(partition.topic.as_str()).bind(partition.incarnation.as_str()).bind(partition.partition)
    }

    async fn read_resume_point(&self, partition: &PartitionId) -> Result<Option<ResumePoint>, Error> {
        let sql = "SELECT count() AS blocks, countIf(complete = 0) AS incomplete, minIf(block, complete = 0) AS first_incomplete, \
                   max(block_end) AS last_end FROM ingest_blocks FINAL WHERE {partition}";
        let start: StartRow = self.of_partition(sql, partition).fetch_one().await?;
        let offset = if start.incomplete > 0 { start.first_incomplete } else { start.last_end };
        self.delete_other_classification(partition, offset).await?;
        if start.blocks == 0 {
            return Ok(None);
        }
        let sql = format!(
            "SELECT CAST(marks, '{TUPLES}') AS marks, CAST(holes, '{TUPLES}') AS holes FROM ingest_blocks FINAL \
             WHERE {{partition}} AND complete = 1 AND block < {offset} ORDER BY block DESC LIMIT 1"
        );
        let row: Option<MarksRow> = self.of_partition(&sql, partition).fetch_optional().await?;
        Ok(Some(ResumePoint { offset, marks: row.map(read_marks).unwrap_or_default() }))
    }

    /// Rows from `offset` on are written again; those counted under other rules would stay beside the new ones.
    async fn delete_other_classification(&self, partition: &PartitionId, offset: u64) -> Result<(), Error> {
        let condition = format!("{{partition}} AND block >= {offset} AND classification != {CLASSIFICATION}");
        let sql = format!("SELECT count() FROM request_histograms WHERE {condition}");
        let foreign: u64 = self.of_partition(&sql, partition).fetch_one().await?;
        if foreign > 0 {
            tracing::info!(
                rows = foreign,
                topic = partition.topic,
                partition = partition.partition,
                "deleting rows of another classification"
            );
            let sql = format!("ALTER TABLE request_histograms DELETE WHERE {condition} SETTINGS mutations_sync = 2");
            for sql in self.layout.expand(&sql) {
                self.of_partition(&sql, partition).execute().await?;
            }
        }
        Ok(())
    }

    fn query(&self, statement: &Statement) -> ::clickhouse::query::Query {
        statement.texts.iter().fold(self.client.query(&statement.sql), |query, text| query.bind(text.as_str()))
    }

    async fn answer(&self, question: &Question) -> Result<Answer, Error> {
        match question {
            Question::Version => Ok(Answer::Version(self.bare.query("SELECT version()").fetch_one().await?)),
            Question::Figures(of) => {
                let rows = self.query(&questions::figures(of)).fetch_all::<FiguresRow>().await?;
                let seconds = questions::covered_seconds(of.period, now_ns());
                Ok(Answer::Figures(rows.into_iter().map(|row| questions::figures_view(row, seconds)).collect()))
            }
            Question::Alarms(of) => {
                let rows = self.query(&questions::alarms(of)).fetch_all::<AlarmRow>().await?;
                Ok(Answer::Alarms(rows.into_iter().map(questions::alarm_view).collect()))
            }
        }
    }
}

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    u64::try_from(now).unwrap_or(u64::MAX)
}

/// A version that nobody else computes with: the time, its lowest bits random, and above the one before in any case.
fn new_version(before: u64) -> u64 {
    let now = now_ns().max(before.saturating_add(1 << 20));
    // Without randomness two analyzers would have to begin within the same nanosecond to meet.
    let random = getrandom::u32().unwrap_or(now as u32);
    now & !0xf_ffff | u64::from(random & 0xf_ffff)
}

fn read_marks(row: MarksRow) -> Marks {
    let boot = |sender: &str, boot: &str| Some(SenderBoot { sender: sender.to_owned(), boot: rows::boot_id(boot)? });
    let mut entries: Vec<(SenderBoot, Mark)> = row
        .marks
        .iter()
        .filter_map(|(sender, id, highest, seen_ns)| {
            Some((boot(sender, id)?, Mark { highest: *highest, holes: Vec::new(), seen_ns: *seen_ns }))
        })
        .collect();
    for (sender, id, from, to) in &row.holes {
        let Some(boot) = boot(sender, id) else { continue };
        if let Some((_, mark)) = entries.iter_mut().find(|(known, _)| *known == boot) {
            mark.holes.push((*from, *to));
        }
    }
    Marks::from_entries(entries)
}

/// An insert that is only begun when there is a row.
struct Insert {
    insert: InsertFormatted,
    rows: Native,
    started: bool,
}

impl Insert {
    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        self.started = true;
        self.insert.send(Bytes::from(bytes)).await
    }

    async fn send_full(&mut self) -> Result<(), Error> {
        if self.rows.len() < CHUNK_BYTES {
            return Ok(());
        }
        let bytes = self.rows.take();
        self.send(bytes).await
    }

    async fn end(mut self) -> Result<(), Error> {
        if !self.rows.is_empty() {
            let bytes = self.rows.take();
            self.send(bytes).await?;
        }
        if self.started { self.insert.end().await } else { Ok(()) }
    }
}

impl Store for ClickHouse {
    fn write_blocks<'a>(&'a self, writes: &'a [BlockWrite]) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            self.write_rows(writes).await.map_err(failed("store rows"))?;
            self.write_manifests(writes).await.map_err(failed("store manifests"))
        })
    }

    fn resume_point<'a>(&'a self, partition: &'a PartitionId) -> StoreFuture<'a, Option<ResumePoint>> {
        Box::pin(async move { self.read_resume_point(partition).await.map_err(failed("read manifests")) })
    }

    fn write_alarms<'a>(&'a self, alarms: &'a [Alarm]) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut insert = self.insert("alarms", &ALARM_COLUMNS);
            alarms.iter().for_each(|alarm| rows::alarm(&mut insert.rows, alarm));
            insert.end().await.map_err(failed("store alarms"))
        })
    }

    fn ask<'a>(&'a self, question: &'a Question) -> StoreFuture<'a, Answer> {
        Box::pin(async move { self.answer(question).await.map_err(failed("query")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        for (text, expect) in [
            ("Code: 243. DB::Exception: Cannot reserve", Reason::DiskFull),
            ("Code: 242. DB::Exception: Table is in readonly mode", Reason::ReadOnly),
            ("Code: 252. DB::Exception: Too many parts", Reason::TooManyParts),
            ("Code: 60. DB::Exception: Table does not exist", Reason::Schema),
            ("something else", Reason::Refused),
        ] {
            assert_eq!(reason(&Error::BadResponse(text.to_owned())), expect, "{text}");
        }
    }
}
