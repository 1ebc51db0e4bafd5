//! The schema's numbered files and how a database is brought up to them: forward only, every statement repeatable.
//!
//! `schema_migrations` keeps number, name and checksum of what was applied. A file that was released is never edited (the
//! checksum says so); the columns of `requests` are made from the table of names and added where they are missing.
//! Never run a program on a schema newer than it knows: it refuses.

use podtap_wire::FIELDS;

use super::rows::{FIGURE_MEANING, POSITION_MEANING, figure_columns, request_columns};
use super::views::SENDER_SEQUENCES;

/// A schema file.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// Its text, with `{database}` and `{request_columns}` to be filled in.
    pub text: &'static str,
}

/// All files, in order.
pub const MIGRATIONS: [Migration; 7] = [
    Migration { number: 1, name: "initial", text: include_str!("schema/0001_initial.sql") },
    Migration { number: 2, name: "rollups", text: include_str!("schema/0002_rollups.sql") },
    Migration { number: 3, name: "kubernetes", text: include_str!("schema/0003_kubernetes.sql") },
    Migration { number: 4, name: "search", text: include_str!("schema/0004_search.sql") },
    Migration { number: 5, name: "ends", text: include_str!("schema/0005_ends.sql") },
    Migration { number: 6, name: "answers", text: include_str!("schema/0006_answers.sql") },
    Migration { number: 7, name: "bounds", text: include_str!("schema/0007_bounds.sql") },
];

/// Which rows of `red AS fine` no roll-up holds. The second condition says nothing new, but lets the partitions and the primary key
/// help: before the first hour that was rolled up, and from the first one on that was not.
const NOT_ROLLED_UP: &str =
    "intDiv(toUnixTimestamp(fine.window), 3600) GLOBAL NOT IN (SELECT span FROM {database}.rollup_spans WHERE step = '1h')
    AND (fine.window < (SELECT toDateTime(toUInt32(3600 * min(span)), 'UTC') FROM {database}.rollup_spans WHERE step = '1h')
        OR fine.window >= (SELECT toDateTime(toUInt32(3600 * min(span + 1)), 'UTC') FROM {database}.rollup_spans
            WHERE step = '1h' AND span + 1 GLOBAL NOT IN (SELECT span FROM {database}.rollup_spans WHERE step = '1h')))";

/// Each request once, with what it is called in `red`. Rows that replace each other differ in nothing that is searched for and lie in
/// the same day, so indexes may leave out one of them, and days need not be merged with each other.
fn requests_once() -> String {
    let own = [
        ("endpoint", "String", "The endpoint that the row counts for in red, unless that is (overflow)."),
        (
            "peer",
            "String",
            "The other end, as in red: the client's address seen from a server, address:port of the server seen from a client.",
        ),
    ];
    let columns = request_columns().into_iter().map(|(name, kind)| (name, kind, meaning(name))).chain(own);
    format!(
        "CREATE OR REPLACE VIEW {{database}}.requests_once\n({}) AS\nSELECT *, endpoint, peer FROM {{database}}.requests FINAL\n\
         SETTINGS use_skip_indexes_if_final_exact_mode = 0, do_not_merge_across_partitions_select_final = 1",
        described(columns)
    )
}

/// Exchanges out of their pairs of records, with both ends named; a client's record that has a partner is in its partner's exchange.
/// The answer is that of the end that has it; where nobody's sidecar names an end, who had its address then does, else the address.
const NAMED_EXCHANGES: &str = "
        SELECT network_protocol_name, exchange.timestamp AS timestamp, seen, request, answer, client_answer, called,
            client_names.1 != '' OR client_owner.valid_to > exchange.timestamp AS client_named,
            server_names.1 != '' OR server_owner.valid_to > exchange.timestamp AS server_named,
            multiIf(client_names.1 != '', client_names, client_named, client_owner.names, (request.1, '', '', '', '', '')) AS client_end,
            multiIf(server_names.1 != '', server_names, server_named, server_owner.names,
                (podtap_host_port(called.1, called.2), '', '', '', '', '')) AS server_end,
            if(server_owner.valid_to > exchange.timestamp, server_owner.service, '') AS called_service
        FROM
        (
            SELECT network_protocol_name, fromUnixTimestamp64Nano(pair.1.1, 'UTC') AS timestamp, pair.1.2 AS which, pair.3 AS joined,
                multiIf(which = 3, 'inside', which = 2, 'client', joined, 'both', 'server') AS seen,
                pair.1.8 AS request, if(pair.4 AND pair.1.7 = 1, pair.2.9, pair.1.9) AS answer,
                if(which = 2, pair.1.9, pair.2.9) AS client_answer,
                if(joined, pair.2.10, pair.1.10) AS called, if(which = 1, pair.2.11, pair.1.11) AS client_names,
                if(which = 2, ('', '', '', '', '', ''), pair.1.11) AS server_names
            FROM {database}.exchange_pairs(from = {from:DateTime('UTC')}, to = {to:DateTime('UTC')})
            WHERE timestamp >= {from:DateTime('UTC')} AND timestamp < {to:DateTime('UTC')} AND NOT (which = 2 AND joined)
        ) AS exchange
        GLOBAL ASOF LEFT JOIN {database}.owners AS client_owner
            ON exchange.request.1 = client_owner.address AND exchange.timestamp >= client_owner.valid_from
        GLOBAL ASOF LEFT JOIN {database}.owners AS server_owner
            ON exchange.called.1 = server_owner.address AND exchange.timestamp >= server_owner.valid_from
    ";

/// Which rows of `red` a period touches.
const WINDOWS_OF_PERIOD: &str = "window >= toStartOfInterval({from:DateTime('UTC')}, INTERVAL 10 SECOND) AND window < {to:DateTime('UTC')}";

/// Addresses and the tens of seconds of a period in which they changed hands.
const CHANGED_HANDS: &str = "
                SELECT address, toStartOfInterval(valid_from, INTERVAL 10 SECOND) AS changed_in FROM {database}.owners
                WHERE valid_from >= toStartOfInterval({from:DateTime('UTC')}, INTERVAL 10 SECOND) AND valid_from < {to:DateTime('UTC')} + 10
                    AND previous_valid_to > changed_in
            ";

/// The highest sequence of each sender's boot, as of an hour before a period.
const MARKS_OF_BEFORE: &str = "(
            SELECT mark.1 AS sender, mark.2 AS boot, max(mark.3) AS highest
            FROM
            (
                SELECT arrayJoin(marks) AS mark FROM {database}.ingest_blocks FINAL
                WHERE (topic, incarnation, partition, block) GLOBAL IN
                (
                    SELECT topic, incarnation, partition, max(block) FROM {database}.ingest_blocks
                    WHERE complete = 1 AND last_message_time < {from:DateTime('UTC')} - INTERVAL 1 HOUR
                    GROUP BY topic, incarnation, partition
                )
            )
            GROUP BY sender, boot
        )";

/// A migration that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its number.
    pub number: u32,
    /// Checksum of its text.
    pub checksum: String,
}

/// Why a database cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigrationError {
    /// Written by a later version.
    #[error("the database has schema {found}, this program knows up to {known}: use a newer program")]
    Newer { found: u32, known: u32 },
    /// A released file was edited.
    #[error("schema file {number} differs from the one that was applied (checksum {found}, expected {expected})")]
    Edited { number: u32, found: String, expected: String },
    /// A column has another type.
    #[error("column requests.{column} has type {found}, expected {expected}")]
    ColumnType { column: String, found: String, expected: String },
}

impl Migration {
    /// FNV-1a of the text.
    pub fn checksum(&self) -> String {
        format!("{:016x}", crate::alarm::fingerprint::fnv1a(self.text.as_bytes()))
    }

    /// Statements with everything filled in, without comments.
    pub fn statements(&self, database: &str) -> Vec<String> {
        let text: Vec<_> = self.text.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
        let names = |prefix: &str| figure_columns().iter().map(|(name, _)| format!("{prefix}{name}")).collect::<Vec<_>>().join(", ");
        let text = text
            .join("\n")
            .replace("{requests_once}", &requests_once())
            .replace("{described_figures}", &described_figures())
            .replace("{described_sender_sequences}", &described(SENDER_SEQUENCES.map(|(name, kind, _, meaning)| (name, kind, meaning))))
            .replace("{not_rolled_up}", NOT_ROLLED_UP)
            .replace("{named_exchanges}", NAMED_EXCHANGES)
            .replace("{marks_of_before}", MARKS_OF_BEFORE)
            .replace("{changed_hands}", CHANGED_HANDS)
            .replace("{windows_of_period}", WINDOWS_OF_PERIOD)
            .replace("{database}", &quoted(database))
            .replace("{request_columns}", &request_column_list())
            .replace("{rollup_columns}", &rollup_column_list())
            .replace("{figure_columns}", &format!("window, {}", names("")))
            .replace("{figure_columns_of_fine}", &names("fine."));
        text.split(";\n")
            .map(|statement| statement.trim().trim_end_matches(';').to_owned())
            .filter(|statement| !statement.is_empty())
            .collect()
    }
}

impl Migration {
    /// The statement that says that it was applied.
    pub fn record(&self, database: &str) -> String {
        format!(
            "INSERT INTO {}.schema_migrations (number, name, checksum, applied_at) SETTINGS async_insert = 0 \
             VALUES ({}, '{}', '{}', now64(3))",
            quoted(database),
            self.number,
            self.name,
            self.checksum(),
        )
    }
}

/// A name as SQL writes it.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// What has to exist before anything can be recorded.
pub fn preamble(database: &str) -> [String; 2] {
    let database = quoted(database);
    [
        format!("CREATE DATABASE IF NOT EXISTS {database}"),
        format!(
            "CREATE TABLE IF NOT EXISTS {database}.schema_migrations \
             (number UInt32, name String, checksum String, applied_at DateTime64(3, 'UTC')) \
             ENGINE = ReplacingMergeTree(applied_at) ORDER BY number"
        ),
    ]
}

/// The migrations to apply, given those that were.
pub fn missing(applied: &[Applied]) -> Result<Vec<Migration>, MigrationError> {
    let known = MIGRATIONS.last().map_or(0, |migration| migration.number);
    if let Some(newer) = applied.iter().map(|applied| applied.number).filter(|number| *number > known).max() {
        return Err(MigrationError::Newer { found: newer, known });
    }
    let mut missing = Vec::new();
    for migration in MIGRATIONS {
        match applied.iter().find(|applied| applied.number == migration.number) {
            None => missing.push(migration),
            Some(found) if found.checksum == migration.checksum() => {}
            Some(found) => {
                let (number, found, expected) = (migration.number, found.checksum.clone(), migration.checksum());
                return Err(MigrationError::Edited { number, found, expected });
            }
        }
    }
    Ok(missing)
}

/// Statements that add the columns of `requests` that a database lacks; `present` is name and type of what it has.
pub fn missing_columns(database: &str, present: &[(String, String)]) -> Result<Vec<String>, MigrationError> {
    let mut statements = Vec::new();
    for (name, kind) in request_columns() {
        match present.iter().find(|(present, _)| present == name) {
            None => statements.push(format!("ALTER TABLE {}.requests ADD COLUMN IF NOT EXISTS {}", quoted(database), column(name, kind))),
            Some((_, found)) if found == kind => {}
            Some((_, found)) => {
                return Err(MigrationError::ColumnType { column: name.to_owned(), found: found.clone(), expected: kind.to_owned() });
            }
        }
    }
    if !statements.is_empty() {
        // Its asterisk stands for the columns of the time when it was made.
        statements.push(requests_once().replace("{database}", &quoted(database)));
    }
    Ok(statements)
}

fn request_column_list() -> String {
    let columns: Vec<_> = request_columns().into_iter().map(|(name, kind)| format!("    {}", column(name, kind))).collect();
    columns.join(",\n")
}

/// Columns of a roll-up behind its window.
fn rollup_column_list() -> String {
    let column = |((name, kind), (_, meaning)): (&(&str, &str), &(&str, &str))| {
        let codec = match *kind {
            "UInt64" => " CODEC(T64, ZSTD(1))",
            "Map(UInt16, UInt64)" => " CODEC(ZSTD(1))",
            _ => "",
        };
        format!("    {name} {kind} COMMENT '{}'{codec}", escaped(meaning))
    };
    let mut columns: Vec<_> = figure_columns().iter().zip(&FIGURE_MEANING).map(column).collect();
    columns.push(
        "    span UInt32 COMMENT 'Number of the hour or day since the epoch that the row was computed with.' CODEC(Delta(4), ZSTD(1))"
            .to_owned(),
    );
    columns.push("    version UInt64 COMMENT 'The computation; rollup_spans says which one counts.' CODEC(ZSTD(1))".to_owned());
    columns.join(",\n")
}

/// A text between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

/// Columns of a view with what they mean. A view with parameters has none to describe.
fn described<'a>(columns: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>) -> String {
    let column = |(name, kind, meaning): (&str, &str, &str)| format!("{} {kind} COMMENT '{}'", quoted(name), escaped(meaning));
    columns.into_iter().map(column).collect::<Vec<_>>().join(",\n")
}

/// Those of `red` and its longer steps behind the window.
fn described_figures() -> String {
    described(figure_columns().iter().zip(&FIGURE_MEANING).map(|((name, kind), (_, meaning))| (*name, *kind, *meaning)))
}

fn column(name: &str, kind: &str) -> String {
    let codec = match kind {
        "DateTime64(9, 'UTC')" => " CODEC(Delta(8), ZSTD(1))",
        "String" | "UInt16" | "UInt32" | "UInt64" => " CODEC(ZSTD(1))",
        _ => "",
    };
    format!("{} {kind} COMMENT '{}'{codec}", quoted(name), escaped(meaning(name)))
}

/// What a column of `requests` means.
pub fn meaning(name: &str) -> &'static str {
    let field = FIELDS.iter().find(|field| field.name == name).map(|field| field.meaning);
    field.or_else(|| POSITION_MEANING.iter().find(|(column, _)| *column == name).map(|(_, meaning)| *meaning)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(number: u32, checksum: &str) -> Applied {
        Applied { number, checksum: checksum.to_owned() }
    }

    #[test]
    fn what_is_missing() {
        let first = MIGRATIONS[0].checksum();
        assert_eq!(missing(&[]).unwrap().len(), MIGRATIONS.len());
        assert_eq!(missing(&[applied(1, &first)]).unwrap().len(), MIGRATIONS.len() - 1);
        assert!(matches!(missing(&[applied(1, "x")]), Err(MigrationError::Edited { number: 1, .. })));
        assert!(matches!(missing(&[applied(9_999, "x")]), Err(MigrationError::Newer { found: 9_999, .. })));
    }

    #[test]
    fn numbers_ascend() {
        assert!(MIGRATIONS.windows(2).all(|pair| pair[0].number < pair[1].number));
    }

    #[test]
    fn columns_come_from_the_table_of_names() {
        let statements = MIGRATIONS[0].statements("podtap");
        let requests = statements.iter().find(|statement| statement.contains("`podtap`.requests")).unwrap();
        for field in FIELDS {
            assert!(requests.contains(&format!("`{}` {}", field.name, field.clickhouse_type)), "{}", field.name);
        }
        let present: Vec<_> = request_columns().into_iter().map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        assert_eq!(missing_columns("podtap", &present).unwrap(), Vec::<String>::new());
        assert_eq!(missing_columns("podtap", &present[1..]).unwrap().len(), 2, "the column, and the view over all");
        let mut other = present;
        other[0].1 = "String".to_owned();
        assert!(missing_columns("podtap", &other).is_err());
    }
}
