//! Longer steps, computed anew from the shorter ones: never added to, so that they may be computed again at any time, by anybody.
//!
//! A span (an hour, a day) is computed whole, under a version of its own, and counts once `rollup_spans` names that version together
//! with a fingerprint of what it was computed from. Manifests say which hours a block touches; a fingerprint that differs makes
//! the span due again. Two analyzers that compute the same span write two versions, of which one counts. The one misuse: computing an
//! hour again whose ten-second rows have expired in part; [`Bounds::oldest_hour`] is there to prevent it.

use crate::aggregate::key::OVERFLOW;

use super::rows::{KEY_COLUMNS, figure_columns};

const HOUR_SECONDS: u64 = 3_600;
const DAY_HOURS: u64 = 24;

/// How many different ones of a kind a service keeps apart in a span: those with most exchanges. The others count as [`OVERFLOW`], so
/// that months of a service with public clients, or of paths that no template fits, stay as small as they are useful.
pub const MAX_DETAILS: [(&str, u64); 3] = [("endpoint", 4_000), ("peer", 1_000), ("error_type", 200)];

/// Two kinds of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `request_histograms_1m` and `_1h`.
    Hour,
    /// `request_histograms_1d`.
    Day,
}

impl Step {
    /// Its name in `rollup_spans` and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }
}

/// For how many days there is what spans are computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptDays {
    /// Ten-second rows.
    pub histograms: u64,
    /// Manifests.
    pub manifests: u64,
}

/// Which spans may be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Hours from here on are left to the ten-second rows, unless they were computed before.
    pub open_hour: u64,
    /// Hours before this one may have lost rows to their TTL.
    pub oldest_hour: u64,
    /// Manifests that touch hours before this one may be gone.
    pub manifests_hour: u64,
    /// At most so many spans of a kind at once.
    pub limit: u64,
}

impl Bounds {
    /// Hours that ended at least `delay_seconds` ago, within the life of ten-second rows.
    pub fn of(now_seconds: u64, delay_seconds: u64, kept: KeptDays) -> Self {
        let hour = |seconds: u64| seconds / HOUR_SECONDS;
        let days_ago = |days: u64| hour(now_seconds.saturating_sub(days * DAY_HOURS * HOUR_SECONDS));
        Self {
            open_hour: hour(now_seconds.saturating_sub(delay_seconds)),
            oldest_hour: days_ago(kept.histograms.saturating_sub(1)),
            manifests_hour: days_ago(kept.manifests.saturating_sub(1)),
            limit: 48,
        }
    }

    /// Every hour that has rows, the running one included.
    pub fn everything(now_seconds: u64, kept: KeptDays) -> Self {
        Self { open_hour: u64::from(u32::MAX), limit: 100_000, ..Self::of(now_seconds, 0, kept) }
    }
}

/// A span that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Number of the hour or day.
    pub span: u32,
    /// What it will be computed from.
    pub covered: u64,
    /// The version in force, 0 if it was never computed.
    pub before: u64,
}

/// Hours to compute: those that changed, and those without any record between two that have some, so that the views can tell an hour
/// that is empty from one that was not rolled up. Columns `span`, `covered`, `before`.
pub fn due_hours(bounds: &Bounds) -> String {
    let (open, oldest) = (bounds.open_hour, bounds.oldest_hour);
    let known = "SELECT span FROM rollup_spans WHERE step = '1h'";
    format!(
        "SELECT span, covered, before FROM (SELECT span, covered, before FROM ({}) UNION ALL \
         SELECT span, toUInt64(0) AS covered, toUInt64(0) AS before FROM (SELECT toUInt32(arrayJoin(range(min(span), max(span)))) AS span \
         FROM ({known} UNION ALL SELECT span FROM ({HOURS}) WHERE span >= {oldest} AND span < {open})) \
         WHERE span GLOBAL NOT IN ({known}) AND span GLOBAL NOT IN (SELECT span FROM ({HOURS}))) ORDER BY span LIMIT {}",
        changed_hours(bounds),
        bounds.limit
    )
}

/// Hours whose blocks are not those that they were computed from: columns `span`, `covered`, `before`.
fn changed_hours(bounds: &Bounds) -> String {
    format!(
        "SELECT {DUE_COLUMNS} FROM ({HOURS}) AS found LEFT JOIN ({}) AS known ON found.span = known.span \
         WHERE (known.version = 0 OR known.covered != found.covered) AND (found.span < {} OR known.version > 0) AND found.span >= {} \
         ORDER BY span LIMIT {}",
        known(Step::Hour),
        bounds.open_hour,
        bounds.oldest_hour,
        bounds.limit
    )
}

/// How many changed hours are too old to be computed again.
pub fn expired_hours(bounds: &Bounds) -> String {
    format!(
        "SELECT count() FROM ({HOURS}) AS found INNER JOIN ({}) AS known ON found.span = known.span \
         WHERE known.covered != found.covered AND found.span < {} AND found.span > {}",
        known(Step::Hour),
        bounds.oldest_hour,
        bounds.manifests_hour
    )
}

/// Days all of whose hours are computed, from other versions than they were before: columns as of [`due_hours`]. A day with an
/// hour that waits is left to its hours.
pub fn due_days(bounds: &Bounds) -> String {
    format!(
        "SELECT {DUE_COLUMNS} FROM (SELECT day AS span, sum(part) AS covered FROM \
         (SELECT toUInt32(intDiv(span, {DAY_HOURS})) AS day, cityHash64(span, version) AS part FROM rollup_spans FINAL WHERE step = '1h') \
         GROUP BY day) AS found LEFT JOIN ({}) AS known ON found.span = known.span \
         WHERE (known.version = 0 OR known.covered != found.covered) AND (found.span < {} OR known.version > 0) AND found.span > {} \
         AND found.span GLOBAL NOT IN (SELECT toUInt32(intDiv(waiting.span, {DAY_HOURS})) FROM ({}) AS waiting) \
         ORDER BY span LIMIT {}",
        known(Step::Day),
        bounds.open_hour / DAY_HOURS,
        bounds.oldest_hour / DAY_HOURS,
        // Of the hours every one that differs counts, whether it may be computed yet or not.
        changed_hours(&Bounds { open_hour: u64::from(u32::MAX), oldest_hour: 0, limit: 1_000_000, ..*bounds }),
        bounds.limit
    )
}

const DUE_COLUMNS: &str = "found.span AS span, found.covered AS covered, known.version AS before";

/// Every hour that a block touches, with the fingerprint of the blocks that do. Manifests of earlier programs do not name their hours:
/// those of their messages stand for them.
const HOURS: &str = "SELECT hour AS span, sum(cityHash64(topic, incarnation, partition, block, version, classification)) AS covered FROM \
     (SELECT topic, incarnation, partition, block, version, classification, arrayJoin(if(empty(hours) AND records > 0, \
     range(toUInt32(intDiv(toUnixTimestamp(first_message_time), 3600)), \
     toUInt32(intDiv(toUnixTimestamp(last_message_time), 3600) + 1)), hours)) \
     AS hour FROM ingest_blocks FINAL) GROUP BY hour";

fn known(step: Step) -> String {
    format!("SELECT span, covered, version FROM rollup_spans FINAL WHERE step = '{}'", step.as_str())
}

/// The statements that compute a span under `version`, in order; the last one makes it count.
pub fn compute(step: Step, due: &Due, version: u64) -> Vec<String> {
    let span = u64::from(due.span);
    let mut statements = match step {
        Step::Hour => {
            let from = span * HOUR_SECONDS;
            let fine = format!(
                "request_histograms FINAL WHERE request_histograms.window >= toDateTime({from}, 'UTC') \
                 AND request_histograms.window < toDateTime({}, 'UTC')",
                from + HOUR_SECONDS
            );
            let minutes = format!("request_histograms_1m WHERE span = {span} AND version = {version} AND {}", window_of("1m", from));
            vec![
                insert(
                    "1m",
                    "request_histograms",
                    "toStartOfMinute(request_histograms.window)",
                    due.span,
                    version,
                    &bounded("request_histograms", &fine),
                ),
                insert("1h", "request_histograms_1m", "toStartOfHour(request_histograms_1m.window)", due.span, version, &minutes),
            ]
        }
        Step::Day => {
            let (first, end) = (span * DAY_HOURS, (span + 1) * DAY_HOURS);
            let hours = format!(
                "request_histograms_1h WHERE (span, version) GLOBAL IN (SELECT span, version FROM rollup_spans FINAL WHERE step = '1h' \
                 AND span >= {first} AND span < {end})"
            );
            vec![insert(
                "1d",
                "request_histograms_1h",
                "toStartOfDay(request_histograms_1h.window, 'UTC')",
                due.span,
                version,
                &bounded("request_histograms_1h", &hours),
            )]
        }
    };
    let coarsest = step.as_str();
    let overflowed = MAX_DETAILS.map(|(column, _)| format!("{column} = '{OVERFLOW}'")).join(" OR ");
    statements.push(format!(
        "INSERT INTO rollup_spans (step, span, covered, requests, overflowed_requests, computed_at, version) \
         SELECT '{coarsest}', {span}, {}, sum(count), sumIf(count, {overflowed}), now64(3), {version} FROM request_histograms_{coarsest} \
         WHERE span = {span} AND version = {version}",
        due.covered
    ));
    statements
}

/// Rows of a minute lie within their hour: lets the primary key and the partitions help.
fn window_of(step: &str, from: u64) -> String {
    let window = format!("request_histograms_{step}.window");
    format!("{window} >= toDateTime({from}, 'UTC') AND {window} < toDateTime({}, 'UTC')", from + HOUR_SECONDS)
}

/// The rows of `source`, whose details beyond [`MAX_DETAILS`] are overflow: a sub-query that has the name of `table`.
fn bounded(table: &str, source: &str) -> String {
    let kept = MAX_DETAILS.map(|(column, most)| {
        let settled = format!("{column} IN ('', '{OVERFLOW}')");
        format!(
            "{settled} OR (service_name, {column}) GLOBAL IN (SELECT service_name, {column} FROM {source} GROUP BY service_name, {column} \
             HAVING NOT ({settled}) ORDER BY sum(count) DESC, {column} LIMIT {most} BY service_name) AS keeps_{column}"
        )
    });
    // Where the peer is the server, its address and port are the peer again.
    let replaced = [
        format!("if(keeps_endpoint, {table}.endpoint, '{OVERFLOW}') AS endpoint"),
        format!("if(keeps_peer, {table}.peer, '{OVERFLOW}') AS peer"),
        format!("if(keeps_error_type, {table}.error_type, '{OVERFLOW}') AS error_type"),
        format!("if(keeps_peer OR {table}.side = 'server', {table}.server_address, '{OVERFLOW}') AS server_address"),
        format!("if(keeps_peer OR {table}.side = 'server', {table}.server_port, 0) AS server_port"),
    ];
    let marked = format!("SELECT *, {} FROM {source}", kept.join(", "));
    format!("(SELECT * REPLACE ({}) FROM ({marked}) AS {table}) AS {table}", replaced.join(", "))
}

/// Rows of `source`, whose columns go by the name of `table`, added up by `window`.
fn insert(step: &str, table: &str, window: &str, span: u32, version: u64, source: &str) -> String {
    let (key, figures) = figure_columns().split_at(KEY_COLUMNS);
    let names = |columns: &[(&str, &str)]| columns.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>().join(", ");
    let merged: Vec<_> = figures
        .iter()
        .map(|(name, kind)| match (*kind, name.ends_with("_max")) {
            ("UInt64", true) => format!("max({table}.{name})"),
            ("UInt64", false) => format!("sum({table}.{name})"),
            _ => format!("sumMap({table}.{name})"),
        })
        .collect();
    format!(
        "INSERT INTO request_histograms_{step} (window, {key}, {figures}, span, version) \
         SELECT {window} AS rolled, {key}, {merged}, {span}, {version} FROM {source} GROUP BY rolled, {key}",
        key = names(key),
        figures = names(figures),
        merged = merged.join(", "),
    )
}

/// Statements that remove versions before the one that was in force until now: nobody reads them any more.
pub fn clean(step: Step, due: &Due) -> Vec<String> {
    let tables: &[&str] = match step {
        Step::Hour => &["1m", "1h"],
        Step::Day => &["1d"],
    };
    if due.before == 0 {
        return Vec::new();
    }
    let condition = format!("span = {} AND version < {}", due.span, due.before);
    tables.iter().map(|table| format!("DELETE FROM request_histograms_{table} WHERE {condition}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_leave_the_running_hour_and_what_may_have_expired() {
        let now = 1_000 * HOUR_SECONDS * DAY_HOURS + 10 * HOUR_SECONDS + 120;
        let kept = KeptDays { histograms: 40, manifests: 60 };
        let bounds = Bounds::of(now, 900, kept);
        assert_eq!(bounds.open_hour, 1_000 * 24 + 9, "the hour before is not settled yet");
        assert_eq!(Bounds::of(now + 900, 900, kept).open_hour, 1_000 * 24 + 10);
        assert_eq!(bounds.oldest_hour, (1_000 - 39) * 24 + 10);
        assert_eq!(bounds.manifests_hour, (1_000 - 59) * 24 + 10);
    }

    #[test]
    fn the_span_counts_last_and_the_version_in_force_is_not_removed() {
        let due = Due { span: 5, covered: 7, before: 40 };
        for step in [Step::Hour, Step::Day] {
            let statements = compute(step, &due, 41);
            assert!(statements.last().unwrap().starts_with("INSERT INTO rollup_spans"), "{statements:?}");
            assert!(clean(step, &due).iter().all(|statement| statement.ends_with("version < 40")));
        }
        assert!(clean(Step::Hour, &Due { before: 0, ..due }).is_empty());
    }
}
