//! The sidecar's own figures: one table of names, shown at /metrics and sent with every batch.
//!
//! Figures are set, never incremented, by the thread that owns the count, a few times a second; reading them costs the capture nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use podtap_wire::proto::CounterSample;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name; `_total` makes it a counter, everything else is a gauge.
    pub name: &'static str,
    /// The name of its one label, `""` where it has none.
    pub label: &'static str,
    /// What it counts.
    pub help: &'static str,
}

const fn metric(name: &'static str, label: &'static str, help: &'static str) -> Metric {
    Metric { name, label, help }
}

/// Every metric of the sidecar. What the decoder counts beyond these is shown with label `reason`.
pub const METRICS: &[Metric] = &[
    metric("podtap_source_info", "source", "The source of packets in use is 1."),
    metric("podtap_transport_info", "transport", "The transport in use is 1."),
    metric("podtap_packets_received_total", "", "Packets that reached the source, or were read from the file."),
    metric("podtap_packets_dropped_total", "reason", "Packets lost before they could be read: by the kernel (ring full) or the interface."),
    metric("podtap_packets_filtered_total", "", "Packets that the user's filter excluded in user space."),
    metric("podtap_packets_own_total", "", "Packets of the sidecar's own connections, left out."),
    metric("podtap_skipped_packets_total", "", "Packets left out by the kernel program because the decoder did not need them."),
    metric("podtap_skipped_bytes_total", "", "Their TCP payload, bytes."),
    metric("podtap_records_total", "protocol", "Records made."),
    metric("podtap_records_sent_total", "", "Records that the far side acknowledged."),
    metric("podtap_records_dropped_total", "reason", "Records that were made but will not arrive."),
    metric("podtap_batches_sent_total", "", "Batches that the far side acknowledged."),
    metric("podtap_tcp_gap_bytes_total", "", "Bytes missing in TCP streams."),
    metric("podtap_discarded_bytes_total", "reason", "TCP payload that became no record."),
    metric("podtap_flows_active", "", "Connections being followed."),
    metric("podtap_queue_bytes", "", "Batches in memory that are not acknowledged."),
    metric("podtap_unspooled_bytes", "", "Of these, batches that are not on disk too: what a kill would lose."),
    metric("podtap_spool_bytes", "", "Files of batches on disk that are not acknowledged; those in memory may be among them."),
    metric("podtap_spooled_batches_total", "reason", "Batches written to disk: they waited (age), memory was full, or at the end."),
    metric("podtap_spool_missing_batches_total", "", "Batches that earlier runs are known to have made and were killed with."),
    metric("podtap_spool_damaged_bytes_total", "", "Bytes of spool files that could not be read back."),
    metric("podtap_transport_connected", "", "1 while the far side answers."),
    metric("podtap_transport_restarts_total", "", "Times that what was not acknowledged had to be sent again."),
    metric("process_start_time_seconds", "", "Start of the process, seconds since the Unix epoch."),
    metric(CPU, "", "User and system CPU time of the process, seconds."),
    metric("process_resident_memory_bytes", "", "Resident memory of the process."),
];

/// The one figure with a fraction; kept in milliseconds.
const CPU: &str = "process_cpu_seconds_total";

type Figures = BTreeMap<(&'static str, String), u64>;

/// The figures, shared by the threads.
#[derive(Debug, Default)]
pub struct Telemetry {
    figures: Mutex<Figures>,
    readiness: Mutex<BTreeMap<&'static str, Result<String, String>>>,
    last_capture: Mutex<Option<Instant>>,
}

impl Telemetry {
    /// All figures at 0.
    pub fn new() -> Self {
        let telemetry = Self::default();
        for metric in METRICS.iter().filter(|metric| metric.label.is_empty()) {
            telemetry.set(metric.name, "", 0);
        }
        telemetry
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        // A thread that panicked while it held the lock has left whole figures behind.
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a figure.
    pub fn set(&self, name: &'static str, label: &str, value: u64) {
        let mut figures = self.figures();
        match figures.get_mut(&(name, label.to_owned())) {
            Some(known) => *known = value,
            None => drop(figures.insert((name, label.to_owned()), value)),
        }
    }

    /// Adds to a figure.
    pub fn add(&self, name: &'static str, label: &str, value: u64) {
        *self.figures().entry((name, label.to_owned())).or_default() += value;
    }

    /// A figure's value.
    pub fn get(&self, name: &'static str, label: &str) -> u64 {
        self.figures().get(&(name, label.to_owned())).copied().unwrap_or_default()
    }

    /// The counters that travel with a batch.
    pub fn samples(&self) -> Vec<CounterSample> {
        let sample = |((name, label), value): (&(&'static str, String), &u64)| CounterSample {
            name: (*name).to_owned(),
            reason: label.clone(),
            value: *value,
        };
        self.figures().iter().filter(|((name, _), _)| name.starts_with("podtap_") && name.ends_with("_total")).map(sample).collect()
    }

    /// The podtap figures as one JSON object: `{"name": value, "name": {"label": value, ..}, ..}`.
    pub fn account(&self) -> serde_json::Value {
        let mut account = serde_json::Map::new();
        for ((name, label), value) in self.figures().iter().filter(|((name, _), _)| name.starts_with("podtap_")) {
            if label.is_empty() {
                account.insert((*name).to_owned(), (*value).into());
            } else if let Some(labels) =
                account.entry(*name).or_insert_with(|| serde_json::Value::Object(serde_json::Map::new())).as_object_mut()
            {
                labels.insert(label.clone(), (*value).into());
            }
        }
        serde_json::Value::Object(account)
    }

    /// Says how a part that the sidecar depends on is doing.
    pub fn set_ready(&self, part: &'static str, state: Result<String, String>) {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner).insert(part, state);
    }

    /// Says that the capture thread is alive.
    pub fn capture_turned(&self) {
        *self.last_capture.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether everything is in order, and a line for each part.
    pub fn readiness(&self) -> (bool, String) {
        let parts = self.readiness.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut text = String::new();
        let mut ready = !parts.is_empty();
        for (part, state) in &parts {
            let (mark, reason) = match state {
                Ok(reason) => ("[+]", reason),
                Err(reason) => {
                    ready = false;
                    ("[-]", reason)
                }
            };
            let _ = writeln!(text, "{mark}{part}: {reason}");
        }
        text.push_str(if ready { "ready\n" } else { "not ready\n" });
        (ready, text)
    }

    /// False when the capture thread has not turned for a while: then the process is no use alive.
    pub fn alive(&self) -> bool {
        let last = *self.last_capture.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_none_or(|last| last.elapsed().as_secs() < 30)
    }

    /// The text of /metrics (OpenMetrics, which Prometheus reads).
    pub fn render(self: &std::sync::Arc<Self>) -> Result<String, std::fmt::Error> {
        self.read_process();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Shown(std::sync::Arc::clone(self))));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn read_process(&self) {
        let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
        // The name, which may hold anything, ends at the last parenthesis; fields count from 3 behind it (proc(5)).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        // SAFETY: plain queries of constants.
        let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK).max(1), libc::sysconf(libc::_SC_PAGESIZE).max(1)) };
        self.set(CPU, "", (field(14) + field(15)) * 1000 / ticks as u64);
        self.set("process_resident_memory_bytes", "", field(24) * page as u64);
    }
}

#[derive(Debug)]
struct Shown(std::sync::Arc<Telemetry>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let info = [("version", env!("CARGO_PKG_VERSION")), ("revision", podtap_wire::REVISION)];
        let mut build = encoder.encode_descriptor("podtap_build_info", "The program that runs.", None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(build.encode_family(&info)?)?;
        let figures = self.0.figures();
        let mut names: Vec<&'static str> = figures.keys().map(|(name, _)| *name).collect();
        names.dedup();
        for name in names {
            let known = METRICS.iter().find(|metric| metric.name == name);
            let (label, help) = known.map_or(("reason", "Counted by the decoder."), |metric| (metric.label, metric.help));
            let counter = name.strip_suffix("_total");
            let kind = if counter.is_some() { MetricType::Counter } else { MetricType::Gauge };
            let mut metric = encoder.encode_descriptor(counter.unwrap_or(name), help, None, kind)?;
            let figures: Vec<_> = figures.range((name, String::new())..).take_while(|((found, _), _)| *found == name).collect();
            if let [((_, of_label), value)] = figures.as_slice()
                && of_label.is_empty()
            {
                match name {
                    CPU => ConstCounter::new(**value as f64 / 1000.0).encode(metric)?,
                    _ => encode(kind, **value, metric)?,
                }
                continue;
            }
            let label = if label.is_empty() { "reason" } else { label };
            for ((_, of_label), value) in figures {
                encode(kind, *value, metric.encode_family(&[(label, of_label.as_str())])?)?;
            }
        }
        Ok(())
    }
}

fn encode(kind: MetricType, value: u64, target: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(target),
        _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn figures_are_shown_by_name_and_label() {
        let telemetry = Arc::new(Telemetry::new());
        telemetry.set("podtap_packets_dropped_total", "kernel", 3);
        telemetry.set("podtap_packets_dropped_total", "interface", 4);
        telemetry.set("podtap_source_info", "ebpf", 1);
        telemetry.set("podtap_decoder_novelty_total", "odd", 5);
        let text = telemetry.render().unwrap();
        for line in [
            "podtap_packets_dropped_total{reason=\"kernel\"} 3",
            "podtap_packets_dropped_total{reason=\"interface\"} 4",
            "podtap_source_info{source=\"ebpf\"} 1",
            "podtap_decoder_novelty_total{reason=\"odd\"} 5",
            "podtap_packets_received_total 0",
            "podtap_queue_bytes 0",
            "# TYPE podtap_packets_received counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("podtap_build_info{version=\""), "{text}");
        assert!(telemetry.samples().iter().any(|sample| sample.reason == "kernel" && sample.value == 3));
    }

    #[test]
    fn ready_means_every_part_is() {
        let telemetry = Telemetry::new();
        assert!(!telemetry.readiness().0);
        telemetry.set_ready("source", Ok("ebpf".to_owned()));
        assert!(telemetry.readiness().0);
        telemetry.set_ready("transport", Err("broker is down".to_owned()));
        let (ready, text) = telemetry.readiness();
        assert!(!ready && text.contains("[-]transport: broker is down"), "{text}");
    }
}
