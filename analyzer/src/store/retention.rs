//! How long each table keeps its rows: the tables' TTL, brought in line with the settings at every start.
//!
//! Only days; ClickHouse removes in steps of its merges. The one misuse: a roll-up that lives shorter than what it is made from.

use std::collections::BTreeMap;

/// A table with a retention setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Name of the setting, and of the table but for `kept_requests`.
    pub name: &'static str,
    /// Days without a setting.
    pub days: u32,
    /// What it holds.
    pub meaning: &'static str,
}

const fn kept(name: &'static str, days: u32, meaning: &'static str) -> Kept {
    Kept { name, days, meaning }
}

/// ClickHouse's `DateTime` ends in 2106; a TTL beyond it would wrap around, and what is young would be removed at once.
const MAX_DAYS: u32 = 10_000;

/// All of them.
pub const KEPT: [Kept; 11] = [
    kept("requests", 7, "ordinary requests"),
    kept("kept_requests", 30, "requests that failed or were slow, in the same table"),
    kept("request_histograms", 40, "ten-second rows"),
    kept("request_histograms_1m", 100, "minutes"),
    kept("request_histograms_1h", 400, "hours"),
    kept("request_histograms_1d", 2_000, "days"),
    kept("sidecar_counters", 40, "the sidecars' counters"),
    kept("address_owners", 40, "who had an address, since it was given back"),
    kept("container_samples", 14, "what containers used"),
    kept("ingest_blocks", 60, "manifests; the youngest complete one of each partition stays"),
    kept("alarms", 400, "alarms that are resolved"),
];

/// Days by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention(BTreeMap<&'static str, u32>);

impl Default for Retention {
    fn default() -> Self {
        Self(KEPT.iter().map(|kept| (kept.name, kept.days)).collect())
    }
}

impl Retention {
    /// From `NAME=DAYS` items; the rest keeps its defaults.
    pub fn parse(items: &[String]) -> Result<Self, String> {
        let mut retention = Self::default();
        for item in items.iter().filter(|item| !item.is_empty()) {
            let (name, days) = item.split_once('=').ok_or_else(|| format!("{item:?} is not NAME=DAYS"))?;
            let known = KEPT.iter().find(|kept| kept.name == name);
            let Some(kept) = known else {
                let names: Vec<_> = KEPT.iter().map(|kept| kept.name).collect();
                return Err(format!("{name:?} is none of {}", names.join(", ")));
            };
            let days: u32 = days.trim_end_matches('d').parse().map_err(|_| format!("{days:?} is not a number of days"))?;
            if !(1..=MAX_DAYS).contains(&days) {
                return Err(format!("{name}: {days} days are not from 1 to {MAX_DAYS}"));
            }
            retention.0.insert(kept.name, days);
        }
        if retention.days("kept_requests") < retention.days("requests") {
            return Err("kept_requests must not be shorter than requests".to_owned());
        }
        if retention.days("ingest_blocks") < retention.days("request_histograms").saturating_add(7) {
            return Err("ingest_blocks must be at least a week longer than request_histograms: roll-ups compare the two".to_owned());
        }
        Ok(retention)
    }

    /// Days of a name in [`KEPT`].
    pub fn days(&self, name: &str) -> u32 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// The TTL that a table should have, as ClickHouse writes it, and the statements that give it.
    fn wanted(&self, table: &str) -> (String, &'static str) {
        let days = self.days(table);
        match table {
            "requests" => {
                let kept = self.days("kept_requests");
                let ttl =
                    format!("toDateTime(timestamp) + toIntervalDay({days}) WHERE keep = 0, toDateTime(timestamp) + toIntervalDay({kept})");
                (ttl, "ttl_only_drop_parts = 0")
            }
            "sidecar_counters" => (format!("toDateTime(time) + toIntervalDay({days})"), "ttl_only_drop_parts = 1"),
            // One that lasts stays. Merging everything soon keeps a row that is over from going before the one that it replaces.
            "address_owners" => {
                let ttl = format!("toDateTime(valid_to) + toIntervalDay({days}) WHERE valid_to < '2099-01-01 00:00:00'");
                (ttl, "min_age_to_force_merge_seconds = 3600")
            }
            "container_samples" => (format!("toDateTime(time) + toIntervalDay({days})"), "ttl_only_drop_parts = 1"),
            "alarms" => {
                let ttl = format!("toDateTime(last_at) + toIntervalDay({days}) WHERE state IN ('resolved', 'cleared')");
                (ttl, "ttl_only_drop_parts = 0")
            }
            // As long as the rows that they name; a day longer, so that no row is without its span.
            "rollup_spans" => {
                let (hours, days) = (self.days("request_histograms_1h") + 1, self.days("request_histograms_1d") + 1);
                let ttl = format!(
                    "toDateTime(span * 3600, 'UTC') + toIntervalDay({hours}) WHERE step = '1h', \
                     toDateTime(span * 86400, 'UTC') + toIntervalDay({days}) WHERE step = '1d'"
                );
                (ttl, "ttl_only_drop_parts = 0")
            }
            _ => (format!("window + toIntervalDay({days})"), "ttl_only_drop_parts = 1"),
        }
    }

    /// Statements for tables whose TTL is another; `present` is table and `engine_full` of what there is.
    pub fn statements(&self, database: &str, present: &[(String, String)]) -> Vec<String> {
        let mut statements = Vec::new();
        // Manifests have no TTL: which one is the youngest of its partition is nothing that a row knows of itself.
        let names = KEPT.iter().map(|kept| kept.name).filter(|name| !["kept_requests", "ingest_blocks"].contains(name));
        for name in names.chain(["rollup_spans"]) {
            let Some((table, engine)) = present.iter().find(|(table, _)| table == name) else { continue };
            let (ttl, setting) = self.wanted(table);
            if engine.contains(&format!("TTL {ttl}")) && engine.contains(setting) {
                continue;
            }
            statements.push(format!("ALTER TABLE {database}.{table} MODIFY SETTING {setting}"));
            // Parts learn it when they are merged next: a start must not rewrite months of data.
            statements.push(format!("ALTER TABLE {database}.{table} MODIFY TTL {ttl} SETTINGS materialize_ttl_after_modify = 0"));
        }
        statements
    }
}

/// Partitions with manifests that are older than the retention, and the block that the statements of [`prune_manifests`] stop at.
pub const OLD_MANIFESTS: &str = "SELECT toString(topic) AS topic, toString(incarnation) AS incarnation, partition, youngest FROM \
     (SELECT topic, incarnation, partition, maxIf(block, complete = 1) AS youngest, \
     minIf(block, last_message_time < toDateTime(?, 'UTC')) AS oldest, \
     countIf(last_message_time < toDateTime(?, 'UTC')) AS old FROM ingest_blocks FINAL \
     GROUP BY topic, incarnation, partition) WHERE old > 0 AND oldest < youngest";

/// Removes a partition's manifests below a block, if they are older than a time; `?` are topic, incarnation and time.
pub fn prune_manifests(partition: u32, youngest: u64) -> String {
    format!(
        "DELETE FROM ingest_blocks WHERE topic = ? AND incarnation = ? AND partition = {partition} AND block < {youngest} \
         AND last_message_time < toDateTime(?, 'UTC')"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(items: &[&str]) -> Result<Retention, String> {
        Retention::parse(&items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn settings() {
        let retention = parse(&["requests=3", "request_histograms_1h=900d"]).unwrap();
        assert_eq!((retention.days("requests"), retention.days("request_histograms_1h")), (3, 900));
        assert_eq!(retention.days("kept_requests"), 30);
        for wrong in [
            "requests",
            "nothing=3",
            "requests=x",
            "requests=0",
            "requests=31",
            "requests=10001",
            "ingest_blocks=46",
            "request_histograms=54",
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_what_differs_is_altered() {
        let retention = Retention::default();
        let right = "ReplacingMergeTree(version) TTL window + toIntervalDay(40) SETTINGS ttl_only_drop_parts = 1, index_granularity = 8192";
        let present = |engine: &str| vec![("request_histograms".to_owned(), engine.to_owned())];
        assert_eq!(retention.statements("d", &present(right)), Vec::<String>::new());
        assert_eq!(retention.statements("d", &present(&right.replace("40", "41"))).len(), 2);
        assert_eq!(retention.statements("d", &[]), Vec::<String>::new());
    }
}
