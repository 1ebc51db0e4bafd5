//! The sum of one block: rows by series and window, with the caps that keep a block bounded whatever is sent.

use std::collections::BTreeSet;
use std::sync::Arc;

use podtap_wire::{DecodedBatch, Status, column};
use rustc_hash::{FxHashMap, FxHashSet};

use super::histogram::SparseHistogram;
use super::keep::{Fate, Sampling, Slowest};
use super::key::{Numbers, Room, SeriesKey, SeriesTable, status};
use super::window;

/// Series that a block keeps apart; further ones lose their endpoint, error and peer.
pub const MAX_SERIES_PER_BLOCK: usize = 20_000;
/// Series more that may arise from that; further ones keep only their outcome.
const MAX_LUMPED_SERIES_PER_BLOCK: usize = 2_000;
/// Rows (a series in a window) that a block keeps apart; further ones keep only their outcome.
pub const MAX_ROWS_PER_BLOCK: usize = 100_000;
/// Days before the message's own that a block's records may lie in: bounds the partitions that one insert can touch. Beyond it
/// a record counts at its message's time.
pub const MAX_LATE_DAYS_PER_BLOCK: usize = 100;

const HOUR_SECONDS: u32 = 3_600;

/// One row of `request_histograms`: a series in a window, as far as the block was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesRow {
    /// What it counts.
    pub key: Arc<SeriesKey>,
    /// Start of the window, seconds since the epoch.
    pub window: u32,
    /// The figures.
    pub figures: Figures,
}

/// The figures of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Exchanges.
    pub count: u64,
    /// Of these with status `server_error` or `no_response`.
    pub errors: u64,
    /// Sum of the known latencies, saturating.
    pub time_to_last_byte_ns_sum: u64,
    /// The longest known latency.
    pub time_to_last_byte_ns_max: u64,
    /// Sum of the requests' sizes.
    pub request_bytes: u64,
    /// Sum of the answers' sizes.
    pub response_bytes: u64,
    /// Known latencies.
    pub time_to_last_byte_ns: SparseHistogram,
    /// Known times to the first byte of the answer.
    pub time_to_first_byte_ns: SparseHistogram,
}

/// What a record adds to its row.
struct Measured {
    status: Status,
    request_bytes: u64,
    response_bytes: u64,
    time_to_last_byte_ns: Option<u64>,
    time_to_first_byte_ns: Option<u64>,
}

impl Measured {
    fn of(batch: &DecodedBatch, row: usize) -> Self {
        let columns = batch.columns();
        Self {
            status: status(batch, row),
            request_bytes: column(&columns.request_bytes, row),
            response_bytes: column(&columns.response_bytes, row),
            time_to_last_byte_ns: column(&columns.time_to_last_byte_ns, row).checked_sub(1),
            time_to_first_byte_ns: column(&columns.time_to_first_byte_ns, row).checked_sub(1),
        }
    }
}

impl Figures {
    fn add(&mut self, measured: &Measured) {
        self.count += 1;
        self.errors += u64::from(matches!(measured.status, Status::ServerError | Status::NoResponse));
        self.request_bytes = self.request_bytes.saturating_add(measured.request_bytes);
        self.response_bytes = self.response_bytes.saturating_add(measured.response_bytes);
        if let Some(latency) = measured.time_to_last_byte_ns {
            self.time_to_last_byte_ns_sum = self.time_to_last_byte_ns_sum.saturating_add(latency);
            self.time_to_last_byte_ns_max = self.time_to_last_byte_ns_max.max(latency);
            self.time_to_last_byte_ns.record(latency);
        }
        if let Some(latency) = measured.time_to_first_byte_ns {
            self.time_to_first_byte_ns.record(latency);
        }
    }
}

#[derive(Debug)]
struct Row {
    series: u32,
    window: u32,
    figures: Figures,
    dirty: bool,
}

/// What adding a batch did beside counting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Rows whose time was ahead of the message's, or in one day too many: they count at the message's time.
    pub clamped: Vec<u32>,
    /// Records that went to an overflow series.
    pub overflowed: u64,
    /// Records that came late; see [`window::LATE_NS`].
    pub late: u64,
    /// What becomes of each record as a row of its own.
    pub fates: Vec<Fate>,
}

/// The sum of a block so far.
#[derive(Debug, Default)]
pub struct BlockAggregate {
    table: SeriesTable,
    rows: Vec<Row>,
    index: FxHashMap<(u32, u32), u32>,
    dirty: Vec<u32>,
    late_days: FxHashSet<u32>,
    /// By series.
    slowest: Vec<Slowest>,
    hours: BTreeSet<u32>,
}

impl BlockAggregate {
    /// Counts all records of a batch. `message_time_ns` is the time stamp of the message in the log.
    pub fn add(&mut self, batch: &DecodedBatch, message_time_ns: u64, sampling: Sampling) -> Added {
        let mut added = Added { fates: Vec::with_capacity(batch.rows()), ..Added::default() };
        let resource = self.table.begin(batch);
        for number in 0..batch.rows() {
            let mut timestamp_ns = column(batch.timestamps(), number);
            if window::is_ahead(timestamp_ns, message_time_ns) || !self.admits_day(timestamp_ns, message_time_ns) {
                added.clamped.push(number as u32);
                timestamp_ns = message_time_ns;
            }
            added.late += u64::from(window::is_late(timestamp_ns, message_time_ns));
            let measured = Measured::of(batch, number);
            let (series, overflowed) = self.count(batch, number, resource, &measured, window::start(timestamp_ns));
            added.overflowed += u64::from(overflowed);
            let series = series as usize;
            if self.slowest.len() <= series {
                self.slowest.resize(series + 1, Slowest::default());
            }
            let kept = || sampling.keeps(batch, number);
            added.fates.push(self.slowest[series].fate(measured.time_to_last_byte_ns, measured.status, kept));
        }
        added
    }

    /// Hours since the epoch that rows lie in, ascending.
    pub fn hours(&self) -> impl Iterator<Item = u32> + '_ {
        self.hours.iter().copied()
    }

    fn admits_day(&mut self, timestamp_ns: u64, message_time_ns: u64) -> bool {
        let (day, today) = (window::day(timestamp_ns), window::day(message_time_ns));
        if day >= today.saturating_sub(1) || self.late_days.contains(&day) {
            return true;
        }
        self.late_days.len() < MAX_LATE_DAYS_PER_BLOCK && self.late_days.insert(day)
    }

    /// Returns the series, and whether the record had to go to an overflow series.
    fn count(&mut self, batch: &DecodedBatch, row: usize, resource: u32, measured: &Measured, window: u32) -> (u32, bool) {
        let room = if self.table.len() < MAX_SERIES_PER_BLOCK { Room::New } else { Room::Known };
        let numbers = self.table.numbers(batch, row, resource, room);
        let found = numbers.and_then(|numbers| self.found_or_inserted(numbers, room));
        let mut overflowed = found.is_none();
        let mut series = found.unwrap_or_else(|| self.lumped(batch, row, resource, measured.status));
        if self.rows.len() >= MAX_ROWS_PER_BLOCK && !self.index.contains_key(&(series, window)) {
            series = self.of_outcome(measured.status);
            overflowed = true;
        }
        let (rows, hours) = (&mut self.rows, &mut self.hours);
        let at = *self.index.entry((series, window)).or_insert_with(|| {
            hours.insert(window / HOUR_SECONDS);
            rows.push(Row { series, window, figures: Figures::default(), dirty: false });
            rows.len() as u32 - 1
        });
        if let Some(row) = self.rows.get_mut(at as usize) {
            row.figures.add(measured);
            if !row.dirty {
                row.dirty = true;
                self.dirty.push(at);
            }
        }
        (series, overflowed)
    }

    fn found_or_inserted(&mut self, numbers: Numbers, room: Room) -> Option<u32> {
        let found = self.table.find(&numbers);
        found.or_else(|| (room == Room::New).then(|| self.table.insert(numbers)))
    }

    fn lumped(&mut self, batch: &DecodedBatch, row: usize, resource: u32, status: Status) -> u32 {
        let room = if self.table.len() < MAX_SERIES_PER_BLOCK + MAX_LUMPED_SERIES_PER_BLOCK { Room::New } else { Room::Known };
        let numbers = self.table.numbers_without_details(batch, row, resource, room);
        let found = numbers.and_then(|numbers| self.found_or_inserted(numbers, room));
        found.unwrap_or_else(|| self.of_outcome(status))
    }

    /// There are as many of these as outcomes, so there is always room for them.
    fn of_outcome(&mut self, status: Status) -> u32 {
        let numbers = Numbers::of_outcome(status);
        self.table.find(&numbers).unwrap_or_else(|| self.table.insert(numbers))
    }

    /// Rows that changed since the last call, whole.
    pub fn take_changed(&mut self) -> Vec<SeriesRow> {
        let mut changed = Vec::with_capacity(self.dirty.len());
        for at in self.dirty.drain(..) {
            let Some(row) = self.rows.get_mut(at as usize) else { continue };
            row.dirty = false;
            if let Some(key) = self.table.key(row.series) {
                changed.push(SeriesRow { key: Arc::clone(key), window: row.window, figures: row.figures.clone() });
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use podtap_wire::proto::Resource;
    use podtap_wire::{BatchBuilder, Protocol, RequestRecord};

    use super::*;

    const NOW: u64 = 1_700_000_000_000_000_000;

    fn batch<'a>(records: impl IntoIterator<Item = RequestRecord<'a>>) -> DecodedBatch {
        let mut builder = BatchBuilder::new("sender".to_owned(), [1; 16], Resource::default());
        for record in records {
            builder.push(&record);
        }
        DecodedBatch::decode(&builder.finish(1, NOW, Vec::new()).bytes).unwrap()
    }

    fn record<'a>(timestamp: u64, path: &'a str) -> RequestRecord<'a> {
        RequestRecord {
            timestamp,
            network_protocol_name: Protocol::Http,
            http_request_method: "GET",
            url_template: path,
            time_to_last_byte_ns: Some(1_000),
            ..RequestRecord::default()
        }
    }

    fn total(aggregate: &mut BlockAggregate) -> u64 {
        aggregate.take_changed().iter().map(|row| row.figures.count).sum()
    }

    #[test]
    fn rows_by_series_and_window() {
        let mut aggregate = BlockAggregate::default();
        let second = 1_000_000_000;
        aggregate.add(
            &batch([record(NOW, "/a"), record(NOW, "/a"), record(NOW - 11 * second, "/a"), record(NOW, "/b")]),
            NOW,
            Sampling::default(),
        );
        assert_eq!(aggregate.hours().count(), 1);
        assert_eq!(BlockAggregate::default().add(&batch([record(NOW - 301 * second, "/a")]), NOW, Sampling::default()).late, 1);
        let mut rows: Vec<_> =
            aggregate.take_changed().into_iter().map(|row| (row.key.endpoint.to_string(), row.window, row.figures.count)).collect();
        rows.sort();
        let (now, before) = (1_700_000_000, 1_699_999_980);
        assert_eq!(rows, [("GET /a".to_owned(), before, 1), ("GET /a".to_owned(), now, 2), ("GET /b".to_owned(), now, 1)]);
        assert_eq!(aggregate.take_changed(), []);
        aggregate.add(&batch([record(NOW, "/b")]), NOW, Sampling::default());
        let changed = aggregate.take_changed();
        assert_eq!(changed.len(), 1, "only what changed is written again");
        assert_eq!(changed[0].figures.count, 2, "and whole");
    }

    #[test]
    fn a_clock_ahead_is_clamped() {
        let mut aggregate = BlockAggregate::default();
        let added = aggregate.add(&batch([record(NOW, "/"), record(NOW + 3_600_000_000_000, "/")]), NOW, Sampling::default());
        assert_eq!(added.clamped, [1]);
        let rows = aggregate.take_changed();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].figures.count, 2);
    }

    #[test]
    fn too_many_series_keep_the_total() {
        let mut aggregate = BlockAggregate::default();
        let paths: Vec<_> = (0..MAX_SERIES_PER_BLOCK + 1_000).map(|number| format!("/{number}")).collect();
        let mut overflowed = 0;
        for chunk in paths.chunks(10_000) {
            overflowed += aggregate.add(&batch(chunk.iter().map(|path| record(NOW, path))), NOW, Sampling::default()).overflowed;
        }
        assert_eq!(overflowed, 1_000);
        assert_eq!(total(&mut aggregate), paths.len() as u64);
    }

    #[test]
    fn too_many_rows_and_days_keep_the_total() {
        let mut aggregate = BlockAggregate::default();
        let second = 1_000_000_000;
        let rows = MAX_ROWS_PER_BLOCK + 500;
        let mut clamped = 0;
        for start in (0..rows).step_by(1_000) {
            let records = (start..(start + 1_000).min(rows)).map(|number| record(NOW - number as u64 * 100 * second, "/"));
            clamped += aggregate.add(&batch(records), NOW, Sampling::default()).clamped.len();
        }
        assert!(clamped > 0, "more days than a block may touch");
        assert_eq!(total(&mut aggregate), rows as u64);
        assert!(aggregate.rows.len() <= MAX_ROWS_PER_BLOCK + 10_000);
    }
}
