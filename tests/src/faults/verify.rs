//! The comparison: every bucket of every series, read through the documented views, with what the senders' content adds up to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::content::{Behaviour, Buckets, Expected, Figures, Key, add, keys, records};
use super::journal::{BatchName, boot_text, read};
use crate::clickhouse::{ClickHouse, Row, text};
use crate::{Context, Failure, Result};

const SECOND: u64 = 1_000_000_000;
/// Step of the shortest view, seconds.
const SHORTEST: u32 = 10;

/// A view that shows figures, and its step in seconds.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Name.
    pub name: &'static str,
    /// Length of its windows.
    pub step_seconds: u32,
}

/// What [`Truth::compare`] found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    /// Batches that arrived.
    pub batches: usize,
    /// Batches that were in a killed sender's memory only and did not arrive.
    pub lost_in_memory: usize,
    /// Records in those that arrived.
    pub records: u64,
    /// Keys (series and window) that were compared, over all views.
    pub keys: usize,
    /// Occupied buckets that were compared, over all views.
    pub buckets: usize,
}

/// What the senders noted.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    seed: u64,
    made: Vec<BatchName>,
    /// Batches that must have arrived: acknowledged, or on disk when their sender was killed, or of a boot that ended well.
    due: BTreeSet<([u8; 16], u64)>,
    /// When they were acknowledged.
    acknowledged: BTreeMap<([u8; 16], u64), u64>,
}

/// Batches that are called missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named {
    /// All of them.
    pub all: usize,
    /// Those behind the last batch of their boot that arrived.
    pub at_ends: usize,
}

impl Truth {
    /// Reads the journals. Batches of `killed` boots are due only if they were acknowledged or are in `on_disk`; those of `lost` are not.
    pub fn read(
        root: &Path,
        senders: u32,
        seed: u64,
        killed: &BTreeSet<[u8; 16]>,
        on_disk: &BTreeSet<([u8; 16], u64)>,
        lost: &BTreeSet<([u8; 16], u64)>,
    ) -> Result<Self> {
        let mut truth = Self { seed, made: Vec::new(), due: on_disk.clone(), acknowledged: BTreeMap::new() };
        for sender in 0..senders {
            let notes = read(root, sender)?;
            truth.due.extend(notes.acknowledged.keys());
            let ended_well = notes.made.iter().filter(|name| !killed.contains(&name.boot));
            truth.due.extend(ended_well.map(|name| (name.boot, name.sequence)));
            truth.made.extend(notes.made);
            truth.acknowledged.extend(notes.acknowledged);
        }
        truth.due.retain(|batch| !lost.contains(batch));
        Ok(truth)
    }

    /// Batches that must have arrived and did not.
    pub fn absent(&self, clickhouse: &ClickHouse) -> Result<BTreeSet<([u8; 16], u64)>> {
        let received = received(clickhouse)?;
        Ok(self.due.difference(&received).copied().collect())
    }

    /// When a batch was acknowledged for the first time.
    pub fn acknowledged_at(&self, batch: &([u8; 16], u64)) -> Option<u64> {
        self.acknowledged.get(batch).copied()
    }

    /// How many records the batches hold.
    pub fn records(&self, batches: &BTreeSet<([u8; 16], u64)>) -> u64 {
        let of = self.made.iter().filter(|name| batches.contains(&(name.boot, name.sequence)));
        of.map(|name| records(self.seed, name).len() as u64).sum()
    }

    /// How many batches must have arrived at least.
    pub fn due(&self) -> usize {
        self.due.len()
    }

    /// Batches that did not arrive, and the records in them.
    pub fn not_received(&self, clickhouse: &ClickHouse) -> Result<(u64, u64)> {
        let received = received(clickhouse)?;
        let missing = self.made.iter().filter(|name| !received.contains(&(name.boot, name.sequence)));
        let rows = missing.map(|name| records(self.seed, name).len() as u64).collect::<Vec<_>>();
        Ok((rows.len() as u64, rows.iter().sum()))
    }

    /// Compares the ranges that `sender_sequences` calls missing with the batches that did not arrive, of each boot up to its last one that
    /// did, or up to its end where its spool kept one when it was killed: of what came after that nobody can know.
    pub fn missing_are_named(&self, clickhouse: &ClickHouse, ends: &BTreeMap<[u8; 16], u64>) -> Result<Named> {
        let received = received(clickhouse)?;
        let last = |boot: &[u8; 16]| received.range((*boot, 0)..=(*boot, u64::MAX)).next_back().map_or(0, |(_, sequence)| *sequence);
        let end = |boot: &[u8; 16]| last(boot).max(ends.get(boot).copied().unwrap_or_default());
        let missing = self.made.iter().map(|name| (name.boot, name.sequence)).filter(|batch| !received.contains(batch));
        let missing: BTreeSet<_> = missing.filter(|(boot, sequence)| *sequence <= end(boot)).collect();
        let named = sequences(clickhouse, "missing_ranges")?;
        match named.symmetric_difference(&missing).next() {
            None => Ok(Named { all: named.len(), at_ends: named.iter().filter(|(boot, sequence)| *sequence > last(boot)).count() }),
            Some((boot, sequence)) => {
                let (named, missing, boot) = (named.len(), missing.len(), boot_text(boot));
                Err(Failure(format!("{named} batches are called missing, {missing} are; they differ in {sequence} of {boot}")))
            }
        }
    }

    /// Compares everything, through each of the views.
    pub fn compare(&self, clickhouse: &ClickHouse, views: &[View]) -> Result<Compared> {
        let received = received(clickhouse)?;
        let arrived = |name: &&BatchName| received.contains(&(name.boot, name.sequence));
        let made: BTreeSet<_> = self.made.iter().map(|name| (name.boot, name.sequence)).collect();
        if let Some((boot, sequence)) = received.difference(&made).next() {
            return Err(Failure(format!("sender_sequences has batch {sequence} of {}, which nobody made", boot_text(boot))));
        }
        let missing: Vec<_> = self.due.difference(&received).collect();
        if let Some((boot, sequence)) = missing.first() {
            let count = missing.len();
            return Err(Failure(format!("{count} batches are missing that must have arrived, such as {sequence} of {}", boot_text(boot))));
        }
        let mut compared = Compared { batches: received.len(), lost_in_memory: made.len() - received.len(), ..Compared::default() };
        for view in views {
            let mut expected = Expected::new();
            self.made.iter().filter(arrived).for_each(|name| add(&mut expected, self.seed, name, view.step_seconds));
            let mut stored = stored(clickhouse, view)?;
            if view.step_seconds == SHORTEST {
                let ahead = stored.iter().filter(|(key, _)| is_ahead(key)).map(|(key, figures)| (key.clone(), figures.count));
                self.clamped_are_in_time(view, &received, ahead.collect())?;
            }
            stored = without_windows_of_clamped(stored);
            differences(view.name, &expected, &stored)?;
            compared.keys += expected.len();
            compared.buckets += expected.values().map(|figures| figures.last_byte.len() + figures.first_byte.len()).sum::<usize>();
            compared.records = expected.values().map(|figures| figures.count).sum();
        }
        let requests = clickhouse.number("SELECT count() FROM requests FINAL")?;
        if requests != compared.records {
            return Err(Failure(format!("requests has {requests} rows, {} were made", compared.records)));
        }
        let clamped = clickhouse.number("SELECT sum(clamped_records) FROM ingest_blocks FINAL")?;
        let ahead = self.made.iter().filter(arrived).filter(|name| Behaviour::of(name.sender) == Behaviour::Ahead);
        let ahead: u64 = ahead.map(|name| records(self.seed, name).len() as u64).sum();
        if clamped != ahead {
            return Err(Failure(format!("{clamped} records are called clamped, {ahead} were made by a clock that is ahead")));
        }
        Ok(compared)
    }

    /// What comes from a clock that is ahead counts at its message's time, which is not before the batch was made and not behind its
    /// acknowledgement. So up to the end of any window no series may have more than was made by then, nor less than was acknowledged.
    fn clamped_are_in_time(&self, view: &View, received: &BTreeSet<([u8; 16], u64)>, stored: BTreeMap<Key, u64>) -> Result<()> {
        let mut series: BTreeMap<Key, Times> = BTreeMap::new();
        for (mut key, count) in stored {
            let window = std::mem::take(&mut key.window);
            series.entry(key).or_default().stored.push((window, count));
        }
        let arrived = self.made.iter().filter(|name| received.contains(&(name.boot, name.sequence)));
        for name in arrived.filter(|name| Behaviour::of(name.sender) == Behaviour::Ahead) {
            let acknowledged = self.acknowledged.get(&(name.boot, name.sequence));
            for key in keys(self.seed, name, view.step_seconds) {
                let times = series.entry(key).or_default();
                times.made.push(name.time_ns);
                times.acknowledged.extend(acknowledged);
            }
        }
        for (key, times) in &series {
            let ends = times.acknowledged.iter().map(|at| (at / SECOND) as u32).chain(times.stored.iter().map(|(window, _)| *window));
            let ends: BTreeSet<u32> =
                ends.flat_map(|at| [at - at % view.step_seconds, at - at % view.step_seconds + view.step_seconds]).collect();
            for end in ends {
                let before = |times: &[u64]| times.iter().filter(|at| **at < u64::from(end) * SECOND).count() as u64;
                let (least, most) = (before(&times.acknowledged), before(&times.made));
                let count: u64 = times.stored.iter().filter(|(window, _)| *window < end).map(|(_, count)| count).sum();
                if !(least..=most).contains(&count) {
                    let name = view.name;
                    return Err(Failure(format!(
                        "{name}: {count} of a clock ahead count before {end}, by when {least} were acknowledged and {most} made: {key:?}"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Of a series from a clock that is ahead, nanoseconds since the Unix epoch.
#[derive(Default)]
struct Times {
    made: Vec<u64>,
    acknowledged: Vec<u64>,
    /// Window, in seconds, and count.
    stored: Vec<(u32, u64)>,
}

fn is_ahead(key: &Key) -> bool {
    let sender = key.pod.strip_prefix("pod-").and_then(|number| number.parse().ok());
    sender.is_some_and(|sender| Behaviour::of(sender) == Behaviour::Ahead)
}

/// The sums of what nobody knows the exact window of.
fn without_windows_of_clamped(stored: Expected) -> Expected {
    let mut sums = Expected::new();
    for (mut key, figures) in stored {
        if is_ahead(&key) {
            key.window = 0;
        }
        let sum = sums.entry(key).or_default();
        sum.count += figures.count;
        sum.errors += figures.errors;
        sum.sum += figures.sum;
        sum.max = sum.max.max(figures.max);
        sum.request_bytes += figures.request_bytes;
        sum.response_bytes += figures.response_bytes;
        for (into, from) in [(&mut sum.last_byte, figures.last_byte), (&mut sum.first_byte, figures.first_byte)] {
            from.into_iter().for_each(|(index, count)| *into.entry(index).or_default() += count);
        }
    }
    sums
}

/// Batches that `sender_sequences` says arrived.
fn received(clickhouse: &ClickHouse) -> Result<BTreeSet<([u8; 16], u64)>> {
    sequences(clickhouse, "ranges")
}

/// All sequences in a column of ranges of `sender_sequences`.
fn sequences(clickhouse: &ClickHouse, column: &str) -> Result<BTreeSet<([u8; 16], u64)>> {
    let mut received = BTreeSet::new();
    for row in clickhouse.rows(&format!("SELECT boot, arrayMap(range -> [range.1, range.2], {column}) AS ranges FROM sender_sequences"))? {
        let boot = u128::from_str_radix(text(&row, "boot"), 16).context("a boot in sender_sequences")?.to_be_bytes();
        for range in row.get("ranges").and_then(Value::as_array).context("no ranges in sender_sequences")? {
            let bound = |at: usize| range.get(at).and_then(Value::as_u64).context("a range in sender_sequences");
            for sequence in bound(0)?..=bound(1)? {
                if !received.insert((boot, sequence)) {
                    return Err(Failure(format!("batch {sequence} of {} was counted twice", boot_text(&boot))));
                }
            }
        }
    }
    Ok(received)
}

/// Everything that a view shows of the senders, in one question.
fn stored(clickhouse: &ClickHouse, view: &View) -> Result<Expected> {
    let sql = format!(
        "SELECT toUnixTimestamp(window) AS at, toString(k8s_pod_name) AS pod, toString(service_name) AS service, \
         toString(endpoint) AS of_endpoint, toString(status) AS outcome, toString(error_type) AS error, toString(side) AS of_side, \
         toString(peer) AS other, sum(count) AS requests, sum(errors) AS failed, sum(time_to_last_byte_ns_sum) AS total, \
         max(time_to_last_byte_ns_max) AS longest, sum(request_bytes) AS sent, sum(response_bytes) AS answered, \
         sumMap(time_to_last_byte_ns_buckets) AS last_byte, sumMap(time_to_first_byte_ns_buckets) AS first_byte FROM {} GROUP BY ALL",
        view.name
    );
    let mut stored = Expected::new();
    for row in clickhouse.rows(&sql)? {
        let key = Key {
            window: u32::try_from(number(&row, "at")?).context("a window")?,
            pod: text(&row, "pod").to_owned(),
            service: text(&row, "service").to_owned(),
            endpoint: text(&row, "of_endpoint").to_owned(),
            status: text(&row, "outcome").to_owned(),
            error: text(&row, "error").to_owned(),
            side: text(&row, "of_side").to_owned(),
            peer: text(&row, "other").to_owned(),
        };
        let figures = stored.entry(key).or_default();
        figures.count += number(&row, "requests")?;
        figures.errors += number(&row, "failed")?;
        figures.sum += number(&row, "total")?;
        figures.max = figures.max.max(number(&row, "longest")?);
        figures.request_bytes += number(&row, "sent")?;
        figures.response_bytes += number(&row, "answered")?;
        add_buckets(&mut figures.last_byte, &row, "last_byte")?;
        add_buckets(&mut figures.first_byte, &row, "first_byte")?;
    }
    Ok(stored)
}

fn number(row: &Row, column: &str) -> Result<u64> {
    row.get(column).and_then(Value::as_u64).context(format!("no number in column {column}"))
}

fn add_buckets(buckets: &mut Buckets, row: &Row, column: &str) -> Result<()> {
    let map = row.get(column).and_then(Value::as_object).context(format!("no map in column {column}"))?;
    for (index, count) in map {
        let index: u16 = index.parse().context("the index of a bucket")?;
        *buckets.entry(index).or_default() += count.as_u64().context("the count of a bucket")?;
    }
    Ok(())
}

fn differences(view: &str, expected: &Expected, stored: &Expected) -> Result<()> {
    let none = Figures::default();
    let keys: BTreeSet<&Key> = expected.keys().chain(stored.keys()).collect();
    let of = |figures: &BTreeMap<Key, Figures>, key: &Key| figures.get(key).cloned().unwrap_or_else(|| none.clone());
    let different: Vec<&Key> = keys.into_iter().filter(|key| of(expected, key) != of(stored, key)).collect();
    if different.is_empty() {
        return Ok(());
    }
    let (made, have): (u64, u64) =
        (expected.values().map(|figures| figures.count).sum(), stored.values().map(|figures| figures.count).sum());
    let mut message =
        format!("{view}: {} of {} keys differ; {made} records were made, {have} are counted", different.len(), expected.len());
    for key in different.into_iter().take(3) {
        message.push_str(&format!("\n{key:?}\n  made   {:?}\n  stored {:?}", of(expected, key), of(stored, key)));
    }
    Err(Failure(message))
}
