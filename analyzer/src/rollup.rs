//! The clock of roll-ups: looks every now and then which hours and days are due and has them computed.
//!
//! Every analyzer does it; who comes second finds nothing due. A failure is counted and tried again the next time: until then the views
//! read ten-second rows. What is computed, and why it may be computed twice, is in `store::rollup`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::ingest::starts::BootStart;
use crate::store::StoreError;
use crate::store::clickhouse::{ClickHouse, RolledUp};
use crate::store::rollup::{Bounds, Step};
use crate::telemetry::{StepLabel, Telemetry};

/// How often manifests beyond their retention are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3_600);

/// Computes roll-ups until stopped.
pub struct Rollups {
    /// Where.
    pub clickhouse: ClickHouse,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// How often to look.
    pub interval: Duration,
    /// How long after its end an hour is first computed.
    pub delay: Duration,
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Everything that is due, the running hour included.
pub async fn everything(clickhouse: &ClickHouse) -> Result<RolledUp, StoreError> {
    clickhouse.roll_up(&Bounds::everything(now_seconds(), clickhouse.kept_days())).await
}

impl Rollups {
    /// Runs until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut pruned: Option<Instant> = None;
        let mut starts = Vec::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let bounds = Bounds::of(now_seconds(), self.delay.as_secs(), self.clickhouse.kept_days());
            tokio::select! {
                rolled = self.clickhouse.roll_up(&bounds) => self.note(rolled),
                // What is half computed does not count and is computed again.
                _ = stop.wait_for(|stop| *stop) => return,
            }
            tokio::select! {
                () = self.count_missing(&mut starts) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            if pruned.is_none_or(|at| at.elapsed() >= PRUNE_INTERVAL) {
                pruned = Some(Instant::now());
                tokio::select! {
                    outcome = self.clickhouse.prune_manifests(now_seconds()) => self.note_pruned(outcome),
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        }
    }

    /// Counts what is missing before boots that began in the middle: an interval after they did, so that what came elsewhere is known.
    async fn count_missing(&self, starts: &mut Vec<BootStart>) {
        match self.clickhouse.missing_before(starts).await {
            Ok(missing) => {
                self.telemetry.missing_batches.inc_by(missing);
                *starts = self.telemetry.boot_starts.take();
            }
            Err(error) => {
                self.telemetry.store_error(&error);
                tracing::warn!(%error, "cannot look for what is missing before the boots of senders; tried again");
            }
        }
    }

    fn note_pruned(&self, outcome: Result<u64, StoreError>) {
        match outcome {
            Ok(0) => {}
            Ok(partitions) => tracing::info!(partitions, "removed manifests that are older than their retention"),
            Err(error) => {
                self.telemetry.store_error(&error);
                tracing::warn!(%error, "cannot remove old manifests; tried again in an hour");
            }
        }
    }

    fn note(&self, rolled: Result<RolledUp, StoreError>) {
        let label = |step: Step| StepLabel { step: step.as_str().to_owned() };
        match rolled {
            Ok(rolled) => {
                self.telemetry.rolled_up.get_or_create(&label(Step::Hour)).inc_by(rolled.hours);
                self.telemetry.rolled_up.get_or_create(&label(Step::Day)).inc_by(rolled.days);
                let waiting = i64::try_from(rolled.hours_waiting).unwrap_or(i64::MAX);
                self.telemetry.rollups_due.get_or_create(&label(Step::Hour)).set(waiting);
                self.telemetry.rollups_expired.set(i64::try_from(rolled.expired).unwrap_or(i64::MAX));
            }
            Err(error) => {
                self.telemetry.store_error(&error);
                self.telemetry.rollup_failures.inc();
                tracing::warn!(%error, "cannot roll up");
            }
        }
    }
}
