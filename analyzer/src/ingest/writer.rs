//! One task that carries blocks to the store, whichever log they come from, in inserts as large as what waits.
//!
//! Guarantee: a job's `done` is called only after all of it is stored, and jobs of one partition are stored in the order they were
//! sent. A store that is away is tried again until it is back; meanwhile jobs wait, their senders stop reading, and /readyz says
//! so. Never drop a job to get on: what it holds exists nowhere else until its log is read again.

use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::block::{BlockWrite, PartitionId};
use crate::store::Store;
use crate::telemetry::{Dependency, Telemetry};

/// Jobs that wait for the store; every partition has at most one under way.
const QUEUED_JOBS: usize = 1_024;
/// What one round of inserts takes together, roughly, in memory.
const MAX_ROUND_BYTES: usize = 64 << 20;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Blocks of one partition, in order.
#[derive(Debug)]
pub struct Job {
    /// What to store; never empty.
    pub writes: Vec<BlockWrite>,
    /// Told once all of it is stored.
    pub done: std_mpsc::Sender<Written>,
}

/// What was stored of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Which.
    pub partition: Arc<PartitionId>,
    /// End of the last complete block among it: everything below may be committed.
    pub complete_to: Option<u64>,
}

/// The channel to [`run`].
pub fn channel() -> (mpsc::Sender<Job>, mpsc::Receiver<Job>) {
    mpsc::channel(QUEUED_JOBS)
}

/// Stores jobs until all senders are gone, or `abandon` becomes true while the store is away.
pub async fn run(store: Arc<dyn Store>, mut jobs: mpsc::Receiver<Job>, telemetry: Arc<Telemetry>, mut abandon: watch::Receiver<bool>) {
    while let Some(first) = jobs.recv().await {
        let mut bytes = size(&first);
        let mut round = vec![first];
        while bytes < MAX_ROUND_BYTES {
            let Ok(job) = jobs.try_recv() else { break };
            bytes += size(&job);
            round.push(job);
        }
        let mut answers = Vec::with_capacity(round.len());
        let mut writes = Vec::new();
        for job in round {
            let Some(last) = job.writes.last() else { continue };
            let complete_to = job.writes.iter().rev().find(|write| write.manifest.complete).map(|write| write.manifest.end);
            answers.push((job.done, Written { partition: Arc::clone(&last.partition), complete_to }));
            writes.extend(job.writes);
        }
        if !store_round(&*store, &writes, &telemetry, &mut abandon).await {
            return;
        }
        for (done, written) in answers {
            if done.send(written).is_err() {
                // The partition was given up meanwhile; its next owner reads the manifest.
                tracing::debug!("nobody waits for a stored block");
            }
        }
    }
}

fn size(job: &Job) -> usize {
    job.writes.iter().map(|write| write.bytes).sum()
}

/// Returns false if it was told to give up before the store took the round.
async fn store_round(store: &dyn Store, writes: &[BlockWrite], telemetry: &Telemetry, abandon: &mut watch::Receiver<bool>) -> bool {
    let mut pause = FIRST_RETRY;
    loop {
        let started = Instant::now();
        match store.write_blocks(writes).await {
            Ok(()) => {
                telemetry.insert_seconds.observe(started.elapsed().as_secs_f64());
                let records = writes.iter().flat_map(|write| &write.batches).map(|placed| placed.batch.rows()).sum::<usize>();
                telemetry.insert_records.observe(records as f64);
                telemetry.set_dependency(Dependency::Store, Ok(()));
                return true;
            }
            Err(error) => {
                telemetry.store_error(&error);
                telemetry.set_dependency(Dependency::Store, Err(error.to_string()));
                tracing::warn!(%error, retry_in_ms = pause.as_millis() as u64, blocks = writes.len(), "cannot store blocks");
            }
        }
        if *abandon.borrow() {
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = abandon.changed() => {
                if changed.is_err() { return false; }
            }
        }
        pause = (pause * 2).min(LAST_RETRY);
    }
}
