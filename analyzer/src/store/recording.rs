//! A store in memory that keeps the newest version of every row, as ClickHouse's ReplacingMergeTree read with FINAL does.
//!
//! For tests and dry runs: it forgets everything at the end, and it can be told to fail between rows and manifests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Reason, Store, StoreError, StoreFuture};
use crate::aggregate::{Figures, SeriesKey};
use crate::alarm::state::{Alarm, Phase};
use crate::ingest::block::{BlockWrite, Manifest, PartitionId, ResumePoint};
use crate::query::{AlarmsOf, Answer, Question};

/// Key of a request: partition, offset, row.
pub type RequestKey = (Arc<PartitionId>, u64, u32);
/// Key of a row of histograms: partition, block, series, window.
pub type SeriesRowKey = (Arc<PartitionId>, u64, Arc<SeriesKey>, u32);

/// What is stored.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// `requests`: version and time stamp.
    pub requests: BTreeMap<RequestKey, (u64, u64)>,
    /// `request_histograms`: version and figures.
    pub series: BTreeMap<SeriesRowKey, (u64, Figures)>,
    /// `ingest_blocks`.
    pub manifests: BTreeMap<(Arc<PartitionId>, u64), Manifest>,
    /// `alarms`.
    pub alarms: BTreeMap<String, Alarm>,
}

fn replace<K: Ord, V>(table: &mut BTreeMap<K, (u64, V)>, key: K, version: u64, value: V) {
    match table.get_mut(&key) {
        Some(row) if row.0 > version => {}
        Some(row) => *row = (version, value),
        None => {
            table.insert(key, (version, value));
        }
    }
}

impl Tables {
    /// Stores a block's rows.
    pub fn write_rows(&mut self, write: &BlockWrite) {
        let (version, partition) = (write.manifest.position, &write.partition);
        for placed in &write.batches {
            for (row, record) in placed.batch.records().enumerate() {
                let key = (Arc::clone(partition), placed.offset, row as u32);
                replace(&mut self.requests, key, version, record.timestamp);
            }
        }
        for row in &write.series {
            let key = (Arc::clone(partition), write.manifest.block, Arc::clone(&row.key), row.window);
            replace(&mut self.series, key, version, row.figures.clone());
        }
    }

    /// Stores a block's manifest.
    pub fn write_manifest(&mut self, write: &BlockWrite) {
        let key = (Arc::clone(&write.partition), write.manifest.block);
        match self.manifests.get_mut(&key) {
            Some(manifest) if manifest.position > write.manifest.position => {}
            Some(manifest) => *manifest = write.manifest.clone(),
            None => {
                self.manifests.insert(key, write.manifest.clone());
            }
        }
    }

    /// See [`Store::resume_point`].
    pub fn resume_point(&self, partition: &PartitionId) -> Option<ResumePoint> {
        let of_partition = || self.manifests.iter().filter(|((of, _), _)| **of == *partition).map(|(_, manifest)| manifest);
        let incomplete = of_partition().filter(|manifest| !manifest.complete).map(|manifest| manifest.block).min();
        let offset = incomplete.or_else(|| of_partition().map(|manifest| manifest.end).max())?;
        let before = of_partition().filter(|manifest| manifest.complete && manifest.block < offset).max_by_key(|manifest| manifest.block);
        Some(ResumePoint { offset, marks: before.map(|manifest| manifest.marks.clone()).unwrap_or_default() })
    }
}

/// A store in memory.
#[derive(Debug, Default)]
pub struct RecordingStore {
    tables: Mutex<Tables>,
    failures: Mutex<Vec<Failure>>,
}

/// How the next write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing is stored.
    BeforeRows,
    /// Rows are stored, their manifests are not.
    BeforeManifests,
}

impl RecordingStore {
    /// The tables, locked.
    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next writes fail like this, in the given order.
    pub fn fail(&self, failures: impl IntoIterator<Item = Failure>) {
        let mut queue = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        queue.extend(failures);
        queue.reverse();
    }

    fn next_failure(&self) -> Option<Failure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn failed() -> StoreError {
        StoreError { reason: Reason::Unreachable, action: "store rows", message: "told to fail".to_owned() }
    }

    fn write(&self, writes: &[BlockWrite]) -> Result<(), StoreError> {
        let failure = self.next_failure();
        if failure == Some(Failure::BeforeRows) {
            return Err(Self::failed());
        }
        let mut tables = self.tables();
        writes.iter().for_each(|write| tables.write_rows(write));
        if failure == Some(Failure::BeforeManifests) {
            return Err(Self::failed());
        }
        writes.iter().for_each(|write| tables.write_manifest(write));
        Ok(())
    }

    fn answer(&self, question: &Question) -> Answer {
        match question {
            Question::Version => Answer::Version("recording".to_owned()),
            Question::Figures(_) => Answer::Figures(Vec::new()),
            Question::Alarms(of) => {
                let unfinished = |alarm: &&Alarm| *of != AlarmsOf::Unfinished || matches!(alarm.phase, Phase::Pending | Phase::Open);
                Answer::Alarms(self.tables().alarms.values().filter(unfinished).cloned().collect())
            }
        }
    }
}

impl Store for RecordingStore {
    fn write_blocks<'a>(&'a self, writes: &'a [BlockWrite]) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.write(writes) })
    }

    fn resume_point<'a>(&'a self, partition: &'a PartitionId) -> StoreFuture<'a, Option<ResumePoint>> {
        Box::pin(async move { Ok(self.tables().resume_point(partition)) })
    }

    fn write_alarms<'a>(&'a self, alarms: &'a [Alarm]) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let mut tables = self.tables();
            for alarm in alarms {
                let newer = tables.alarms.get(&alarm.id).is_some_and(|stored| stored.version > alarm.version);
                if !newer {
                    tables.alarms.insert(alarm.id.clone(), alarm.clone());
                }
            }
            Ok(())
        })
    }

    fn ask<'a>(&'a self, question: &'a Question) -> StoreFuture<'a, Answer> {
        Box::pin(async move { Ok(self.answer(question)) })
    }
}
