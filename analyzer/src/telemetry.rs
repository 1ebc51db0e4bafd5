//! The analyzer's own counters, one list of names, and what /readyz says about each dependency.
//!
//! Labels are bounded: reasons are constants, partitions are the broker's, receivers and rules the configuration's.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::ingest::block::UNDECODABLE;
use crate::ingest::cadvisor::SCRAPE_FAILURES;
use crate::ingest::kubernetes::{Resource, WATCH_FAILURES};
use crate::ingest::starts::BootStarts;
use crate::metrics::Metrics;
use crate::notify;
use crate::store::rollup::Step;
use crate::store::{Reason, StoreError};

/// Upper bounds of `podtap_store_insert_seconds`.
const INSERT_SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Upper bounds of `podtap_store_insert_records`.
const INSERT_RECORDS: [f64; 7] = [10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7];

/// What the analyzer cannot do its work without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependency {
    /// ClickHouse.
    Store,
    /// Its tables, as this program needs them.
    Schema,
    /// The Kafka brokers.
    Kafka,
    /// The analyzer's own log.
    SegmentLog,
    /// The rules' figures.
    Alarms,
}

impl Dependency {
    /// The name that /readyz shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "clickhouse",
            Self::Schema => "schema",
            Self::Kafka => "kafka",
            Self::SegmentLog => "segment_log",
            Self::Alarms => "alarms",
        }
    }
}

macro_rules! labels {
    ($name:ident { $($field:ident),+ }) => {
        #[doc = "Labels."]
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub struct $name { $(#[doc = "Label."] pub $field: String),+ }
    };
}
labels!(TransportLabel { transport });
labels!(ReasonLabel { reason });
labels!(LagLabel { topic, partition });
labels!(LevelLabel { level });
labels!(NotificationLabel { receiver, outcome });
labels!(RuleLabel { rule });
labels!(StepLabel { step });
labels!(ResourceLabel { resource });
labels!(WatchLabel { resource, reason });

/// All metrics and the state of the dependencies.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    batches: Family<TransportLabel, Counter>,
    records: Family<TransportLabel, Counter>,
    /// Batches that came again.
    pub duplicate_batches: Counter,
    /// Batches that never came, between two of the same boot or before the first of them.
    pub missing_batches: Counter,
    /// Boots that wait for a look at what is missing before them.
    pub boot_starts: BootStarts,
    /// Boots for which nobody will look.
    pub unchecked_boot_starts: Counter,
    undecodable: Family<ReasonLabel, Counter>,
    /// Records whose time was impossible.
    pub clamped_records: Counter,
    /// Records in an overflow series.
    pub overflowed_records: Counter,
    /// Records that began more than five minutes before their message.
    pub late_records: Counter,
    pending_bytes: Family<TransportLabel, Gauge>,
    /// Ordinary requests that sampling left out of `requests`.
    pub sampled_requests: Counter,
    /// Messages that the log had dropped before they were read.
    pub lost_messages: Counter,
    /// Messages that wait in the log.
    pub lag: Family<LagLabel, Gauge>,
    /// Bytes in the analyzer's own log.
    pub segment_log_bytes: Gauge<u64, AtomicU64>,
    /// Time of a round of inserts.
    pub insert_seconds: Histogram,
    /// Records of a round of inserts.
    pub insert_records: Histogram,
    store_errors: Family<ReasonLabel, Counter>,
    /// Hours and days that were rolled up.
    pub rolled_up: Family<StepLabel, Counter>,
    /// Rolled-up spans that wait, because what they are made of changed or is new.
    pub rollups_due: Family<StepLabel, Gauge>,
    /// Changed hours that cannot be rolled up again, because their ten-second rows may be gone.
    pub rollups_expired: Gauge,
    /// Roll-ups that failed.
    pub rollup_failures: Counter,
    /// Open alarms.
    pub alarms_open: Family<LevelLabel, Gauge>,
    /// Rules' evaluations that failed.
    pub rule_failures: Family<RuleLabel, Counter>,
    /// Notifications by receiver and outcome.
    pub notifications: Family<NotificationLabel, Counter>,
    kubernetes: KubernetesMetrics,
    dependencies: Mutex<BTreeMap<Dependency, Result<(), String>>>,
}

/// What the watch of Kubernetes and the reading of kubelets count.
#[derive(Debug)]
struct KubernetesMetrics {
    events: Family<ResourceLabel, Counter>,
    lists: Family<ResourceLabel, Counter>,
    watch_failures: Family<WatchLabel, Counter>,
    lag_seconds: Family<ResourceLabel, Gauge>,
    objects: Gauge,
    rows_waiting: Gauge,
    rows: Counter,
    dropped: Family<ReasonLabel, Counter>,
    scrapes: Counter,
    scrape_failures: Family<ReasonLabel, Counter>,
    samples: Counter,
    samples_dropped: Family<ReasonLabel, Counter>,
}

impl KubernetesMetrics {
    fn registered(metrics: &mut Metrics) -> Self {
        let registered = Self {
            events: metrics.registered(Family::default(), "kubernetes_events", "Objects that were listed, changed or deleted"),
            lists: metrics.registered(
                Family::default(),
                "kubernetes_lists",
                "Times that everything was listed: at the start, and where a watch was cut",
            ),
            watch_failures: metrics.registered(Family::default(), "kubernetes_watch_failures", "Lists and watches that failed"),
            lag_seconds: metrics.registered(
                Family::default(),
                "kubernetes_watch_lag_seconds",
                "How long ago the watch was last complete; -1 before",
            ),
            objects: metrics.registered(Gauge::default(), "kubernetes_objects", "Pods, services and nodes that are followed"),
            rows_waiting: metrics.registered(
                Gauge::default(),
                "kubernetes_rows_waiting",
                "Changed owners of addresses that are not stored yet",
            ),
            rows: metrics.registered(Counter::default(), "kubernetes_rows", "Changed owners of addresses that were stored"),
            dropped: metrics.registered(Family::default(), "kubernetes_dropped", "Objects and rows that were not followed"),
            scrapes: metrics.registered(Counter::default(), "kubelet_scrapes", "Times that a kubelet's cAdvisor was read"),
            scrape_failures: metrics.registered(Family::default(), "kubelet_scrape_failures", "Times that it could not be read"),
            samples: metrics.registered(Counter::default(), "kubelet_samples", "Samples of containers that were stored"),
            samples_dropped: metrics.registered(Family::default(), "kubelet_samples_dropped", "Lines and samples that were not stored"),
        };
        // An alert on the first of them needs a 0 before it.
        for resource in Resource::ALL {
            registered.events.get_or_create(&resource_label(resource)).inc_by(0);
            registered.lists.get_or_create(&resource_label(resource)).inc_by(0);
            for reason in WATCH_FAILURES {
                let label = WatchLabel { resource: resource.as_str().to_owned(), reason: reason.to_owned() };
                registered.watch_failures.get_or_create(&label).inc_by(0);
            }
        }
        for reason in SCRAPE_FAILURES {
            registered.scrape_failures.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc_by(0);
        }
        registered
    }
}

fn resource_label(resource: Resource) -> ResourceLabel {
    ResourceLabel { resource: resource.as_str().to_owned() }
}

impl Telemetry {
    /// Counts an object of a list or watch.
    pub fn kubernetes_event(&self, resource: Resource) {
        self.kubernetes.events.get_or_create(&resource_label(resource)).inc();
    }

    /// Counts a list.
    pub fn kubernetes_listed(&self, resource: Resource) {
        self.kubernetes.lists.get_or_create(&resource_label(resource)).inc();
    }

    /// Counts a list or watch that failed.
    pub fn kubernetes_watch_failed(&self, resource: Resource, reason: &'static str) {
        let label = WatchLabel { resource: resource.as_str().to_owned(), reason: reason.to_owned() };
        self.kubernetes.watch_failures.get_or_create(&label).inc();
    }

    /// Says how far behind a watch is; `None` before its first list.
    pub fn kubernetes_lag(&self, resource: Resource, seconds: Option<i64>) {
        self.kubernetes.lag_seconds.get_or_create(&resource_label(resource)).set(seconds.unwrap_or(-1));
    }

    /// Says how many objects are followed and how many rows wait.
    pub fn kubernetes_objects(&self, objects: usize, rows_waiting: usize) {
        self.kubernetes.objects.set(i64::try_from(objects).unwrap_or(i64::MAX));
        self.kubernetes.rows_waiting.set(i64::try_from(rows_waiting).unwrap_or(i64::MAX));
    }

    /// Counts rows that were stored.
    pub fn kubernetes_rows(&self, rows: usize) {
        self.kubernetes.rows.inc_by(rows as u64);
        self.kubernetes.rows_waiting.set(0);
    }

    /// Counts what is not followed.
    pub fn kubernetes_dropped(&self, reason: &'static str, count: u64) {
        self.kubernetes.dropped.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc_by(count);
    }

    /// Counts a kubelet that was read, and what of it was no use.
    pub fn scraped(&self, malformed: u64, overflowed: u64) {
        self.kubernetes.scrapes.inc();
        for (reason, count) in [("malformed", malformed), ("too_many", overflowed)] {
            self.kubernetes.samples_dropped.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc_by(count);
        }
    }

    /// Counts a kubelet that could not be read.
    pub fn scrape_failed(&self, reason: &'static str) {
        self.kubernetes.scrape_failures.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    /// Counts samples that were stored.
    pub fn samples_stored(&self, samples: usize) {
        self.kubernetes.samples.inc_by(samples as u64);
    }

    /// Counts samples that waited too long for ClickHouse.
    pub fn samples_dropped(&self, samples: usize) {
        self.kubernetes.samples_dropped.get_or_create(&ReasonLabel { reason: "store_away".to_owned() }).inc_by(samples as u64);
    }
}

impl Telemetry {
    /// Registers everything under the prefix `podtap`.
    pub fn new() -> Self {
        let mut metrics = Metrics::new("podtap");
        let telemetry = Self {
            batches: metrics.registered(Family::default(), "ingest_batches", "Batches that count"),
            records: metrics.registered(Family::default(), "ingest_records", "Records in batches that count"),
            duplicate_batches: metrics.registered(
                Counter::default(),
                "ingest_duplicate_batches",
                "Batches dropped because they came before",
            ),
            missing_batches: metrics.registered(
                Counter::default(),
                "ingest_missing_batches",
                "Batches found missing between two of a sender's boot, and a minute later before the first",
            ),
            boot_starts: BootStarts::default(),
            unchecked_boot_starts: metrics.registered(
                Counter::default(),
                "ingest_unchecked_boot_starts",
                "Boots that began in the middle, too many to look for what is missing before them",
            ),
            undecodable: metrics.registered(Family::default(), "ingest_undecodable", "Messages that are no batch"),
            clamped_records: metrics.registered(Counter::default(), "ingest_clamped_records", "Records with an impossible time"),
            overflowed_records: metrics.registered(
                Counter::default(),
                "ingest_overflowed_records",
                "Records counted in an overflow series",
            ),
            late_records: metrics.registered(
                Counter::default(),
                "ingest_late_records",
                "Records that began more than five minutes before their message",
            ),
            pending_bytes: metrics.registered(
                Family::default(),
                "ingest_pending_bytes",
                "What was read and is not stored yet, in memory, roughly; from 134217728 on the log is not read",
            ),
            sampled_requests: metrics.registered(
                Counter::default(),
                "ingest_sampled_requests",
                "Ordinary requests that sampling left out of the table requests",
            ),
            lost_messages: metrics.registered(Counter::default(), "ingest_lost_messages", "Messages the log dropped before they were read"),
            lag: metrics.registered(Family::default(), "ingest_lag", "Messages in the log that were not read yet"),
            segment_log_bytes: metrics.registered(Gauge::default(), "segment_log_bytes", "Size of the analyzer's own log"),
            insert_seconds: metrics.registered(Histogram::new(INSERT_SECONDS), "store_insert_seconds", "Time of a round of inserts"),
            insert_records: metrics.registered(Histogram::new(INSERT_RECORDS), "store_insert_records", "Records of a round of inserts"),
            store_errors: metrics.registered(Family::default(), "store_errors", "Requests to ClickHouse that failed"),
            rolled_up: metrics.registered(Family::default(), "rollup_spans", "Hours and days that were rolled up"),
            rollups_due: metrics.registered(Family::default(), "rollup_spans_due", "Hours and days that wait to be rolled up"),
            rollups_expired: metrics.registered(
                Gauge::default(),
                "rollup_hours_expired",
                "Changed hours that cannot be rolled up again because their ten-second rows may be gone",
            ),
            rollup_failures: metrics.registered(Counter::default(), "rollup_failures", "Roll-ups that failed"),
            alarms_open: metrics.registered(Family::default(), "alarms_open", "Open alarms"),
            rule_failures: metrics.registered(Family::default(), "rule_evaluation_failures", "Evaluations of rules that failed"),
            notifications: metrics.registered(Family::default(), "notifications", "Notifications by outcome"),
            kubernetes: KubernetesMetrics::registered(&mut metrics),
            dependencies: Mutex::default(),
            metrics,
        };
        for transport in ["kafka", "grpc"] {
            telemetry.ingested_batches(transport, 0, 0);
        }
        // An alert on the first of them needs a 0 before it.
        for step in [Step::Hour, Step::Day] {
            telemetry.rolled_up.get_or_create(&StepLabel { step: step.as_str().to_owned() }).inc_by(0);
        }
        telemetry.rollups_due.get_or_create(&StepLabel { step: Step::Hour.as_str().to_owned() }).set(0);
        for reason in UNDECODABLE {
            telemetry.undecodable.get_or_create(&ReasonLabel { reason: (*reason).to_owned() }).inc_by(0);
        }
        for reason in Reason::ALL {
            telemetry.store_errors.get_or_create(&ReasonLabel { reason: reason.as_str().to_owned() }).inc_by(0);
        }
        telemetry
    }

    fn ingested_batches(&self, transport: &'static str, batches: u64, records: u64) {
        let label = TransportLabel { transport: transport.to_owned() };
        self.batches.get_or_create(&label).inc_by(batches);
        self.records.get_or_create(&label).inc_by(records);
    }

    /// Counts a batch.
    pub fn ingested(&self, transport: &'static str, records: u64) {
        self.ingested_batches(transport, 1, records);
    }

    /// Says what is in memory and not stored yet.
    pub fn set_pending(&self, transport: &'static str, bytes: usize) {
        let label = TransportLabel { transport: transport.to_owned() };
        self.pending_bytes.get_or_create(&label).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts a message that is no batch.
    pub fn undecodable(&self, reason: &'static str) {
        self.undecodable.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc();
    }

    /// Counts a failed request to the store.
    pub fn store_error(&self, error: &StoreError) {
        self.store_errors.get_or_create(&ReasonLabel { reason: error.reason.as_str().to_owned() }).inc();
    }

    /// Shows this receiver's notifications from 0 on.
    pub fn knows_receiver(&self, receiver: &str) {
        for outcome in notify::OUTCOMES {
            let label = NotificationLabel { receiver: receiver.to_owned(), outcome: (*outcome).to_owned() };
            self.notifications.get_or_create(&label).inc_by(0);
        }
    }

    /// Counts a notification.
    pub fn notified(&self, receiver: &str, outcome: &'static str) {
        let label = NotificationLabel { receiver: receiver.to_owned(), outcome: outcome.to_owned() };
        self.notifications.get_or_create(&label).inc();
    }

    /// Says whether a dependency works, and why not.
    pub fn set_dependency(&self, dependency: Dependency, state: Result<(), String>) {
        self.dependencies.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(dependency, state);
    }

    /// All dependencies that were heard of.
    pub fn dependencies(&self) -> Vec<(Dependency, Result<(), String>)> {
        let dependencies = self.dependencies.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        dependencies.iter().map(|(dependency, state)| (*dependency, state.clone())).collect()
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        self.metrics.render()
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
