//! Load with exact counts: what was sent, by endpoint and status or by statement and error, is known to the last request.
//!
//! Connections are kept; each sends in its own slots of a common timetable, so the rate holds as long as the machine keeps
//! up, and the counts hold in any case. A connection that breaks is a failure of the run, never a request sent again.

pub mod http;
pub mod sql;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Context, Failure, Result};

/// When a generator stops.
#[derive(Clone, Debug)]
pub enum Until {
    /// After exactly so many.
    Count(u64),
    /// When told.
    Stopped(Stop),
}

/// Tells generators to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was said.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What was sent and answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Exact count by (endpoint or statement, status or error number; "" for success of a statement).
    pub counts: BTreeMap<(String, String), u64>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// What each HTTP request took, nanoseconds, in no order.
    pub latencies: Vec<u64>,
}

impl Report {
    /// All together.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The latency that this share of the HTTP requests stayed below; 0 without any.
    pub fn quantile(&self, share: f64) -> u64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Per second.
    pub fn rate(&self) -> f64 {
        self.total() as f64 / self.elapsed.as_secs_f64()
    }
}

/// A generator at work on threads of its own.
#[derive(Debug)]
pub struct Running(std::thread::JoinHandle<Result<Report>>);

impl Running {
    /// Waits for its end.
    pub fn finish(self) -> Result<Report> {
        self.0.join().map_err(|_| Failure::new("the load generator panicked"))?
    }

    /// Whether it has ended, well or not.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Runs a future on a thread with a runtime of its own.
fn on_own_thread<F>(work: F) -> Running
where
    F: Future<Output = Result<Report>> + Send + 'static,
{
    Running(std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the load's runtime")?;
        runtime.block_on(work)
    }))
}

/// The common timetable: slot n is due at start + n / rate.
#[derive(Debug)]
struct Timetable {
    start: tokio::time::Instant,
    interval: Duration,
    until: Until,
    next: AtomicU64,
    counts: Mutex<BTreeMap<(String, String), u64>>,
    latencies: Mutex<Vec<u64>>,
}

impl Timetable {
    fn new(rate: u32, until: Until) -> Arc<Self> {
        let interval = Duration::from_secs(1) / rate.max(1);
        let start = tokio::time::Instant::now();
        Arc::new(Self { start, interval, until, next: AtomicU64::new(0), counts: Mutex::default(), latencies: Mutex::default() })
    }

    /// Waits for the next free slot; its number, or `None` when all is sent.
    async fn slot(&self) -> Option<u64> {
        let slot = self.next.fetch_add(1, Ordering::Relaxed);
        if let Until::Count(count) = self.until
            && slot >= count
        {
            return None;
        }
        let due = self.start + Duration::from_nanos(self.interval.as_nanos() as u64 * slot);
        if due > tokio::time::Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        match &self.until {
            Until::Stopped(stop) if stop.is_stopped() => None,
            _ => Some(slot),
        }
    }

    /// Adds what one connection has sent.
    fn add(&self, counts: BTreeMap<(String, String), u64>) {
        let mut all = self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (key, count) in counts {
            *all.entry(key).or_default() += count;
        }
    }

    /// Adds what the requests of one connection took.
    fn add_latencies(&self, latencies: &[u64]) {
        self.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(latencies);
    }

    fn report(&self) -> Report {
        let counts = self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let latencies = std::mem::take(&mut *self.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        Report { counts, elapsed: self.start.elapsed(), latencies }
    }
}
