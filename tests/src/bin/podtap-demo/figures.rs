//! What is shown, read from where a user would read it: ClickHouse by SQL, the sidecar's /metrics, the webhook's receiver.

use std::time::Duration;

use podtap_tests::clickhouse::{Row, number, text};
use podtap_tests::webhook::Notification;
use podtap_tests::{Result, clickhouse::ClickHouse};

use podtap_tests::sidecar::ADMIN_PORT;

use super::stage::Stage;

/// How far back the table looks.
pub const PERIOD: Duration = Duration::from_secs(30);

/// One row of the table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    pub service: String,
    pub protocol: String,
    pub endpoint: String,
    pub rate: f64,
    pub requests: u64,
    pub errors: u64,
    /// p50, p95, p99, maximum, in nanoseconds.
    pub latency: [f64; 4],
}

impl Line {
    /// Share of requests that failed.
    pub fn error_share(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.errors as f64 / self.requests as f64 }
    }
}

/// What the sidecar counts.
#[derive(Clone, Debug, Default)]
pub struct SidecarFigures {
    pub source: String,
    pub packets: f64,
    pub kernel_drops: f64,
    pub gap_bytes: f64,
    pub records: f64,
    pub sent: f64,
    pub dropped: f64,
}

/// All that one frame shows.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub lines: Vec<Line>,
    pub sidecar: SidecarFigures,
    pub alarms: Vec<Row>,
    pub notifications: Vec<Notification>,
    /// Statements by command of the MySQL protocol, and those that ended in an error.
    pub commands: Vec<(String, u64, u64)>,
    /// Why the figures are old.
    pub trouble: Option<String>,
}

/// The SQL of the table. What a client did wrong is an error of the client, not of the server that tells it so (OpenTelemetry's
/// rule for `error.type`). Shown is what the pod serves to others and asks of others, without the demo's own look at the sidecar.
fn table_sql(period: Duration) -> String {
    format!(
        "SELECT service_name, network_protocol_name, endpoint, sum(count) AS requests, \
         sumIf(count, status != 'ok' AND NOT (side = 'server' AND status = 'client_error')) AS failed, \
         podtap_quantile(0.5, sumMap(time_to_last_byte_ns_buckets)) AS p50, \
         podtap_quantile(0.95, sumMap(time_to_last_byte_ns_buckets)) AS p95, \
         podtap_quantile(0.99, sumMap(time_to_last_byte_ns_buckets)) AS p99, \
         max(time_to_last_byte_ns_max) AS longest \
         FROM podtap.red WHERE window > now() - INTERVAL {} SECOND AND side IN ('server', 'client') \
         AND server_port != {ADMIN_PORT} GROUP BY service_name, network_protocol_name, endpoint \
         ORDER BY network_protocol_name, requests DESC LIMIT 40",
        period.as_secs()
    )
}

/// Reads everything once.
pub fn read(stage: &Stage, elapsed: Duration) -> Result<Figures> {
    let covered = elapsed.min(PERIOD).as_secs_f64().max(1.0);
    let rows = stage.clickhouse.rows(&table_sql(PERIOD))?;
    let metrics = stage.sidecar.metrics()?;
    let source = metrics.of("podtap_source_info").find(|sample| sample.value == 1.0);
    let sidecar = SidecarFigures {
        source: source.and_then(|sample| sample.labels.get("source").cloned()).unwrap_or_default(),
        packets: metrics.sum("podtap_packets_received_total"),
        kernel_drops: metrics.sum_where("podtap_packets_dropped_total", "reason", "kernel"),
        gap_bytes: metrics.sum("podtap_tcp_gap_bytes_total"),
        records: metrics.sum("podtap_records_total"),
        sent: metrics.sum("podtap_records_sent_total"),
        dropped: metrics.sum("podtap_records_dropped_total"),
    };
    Ok(Figures {
        lines: rows.iter().map(|row| line(row, covered)).collect(),
        sidecar,
        alarms: stage.clickhouse.rows("SELECT * FROM podtap.alarms FINAL WHERE state != 'cleared' ORDER BY first_at DESC LIMIT 3")?,
        notifications: stage.webhook.received(),
        commands: commands(&stage.clickhouse)?,
        trouble: None,
    })
}

fn line(row: &Row, covered: f64) -> Line {
    let requests = number(row, "requests");
    Line {
        service: text(row, "service_name").to_owned(),
        protocol: text(row, "network_protocol_name").to_owned(),
        endpoint: text(row, "endpoint").to_owned(),
        rate: requests / covered,
        requests: requests as u64,
        errors: number(row, "failed") as u64,
        // A quantile stands for its bucket's middle, which may lie beyond the longest.
        latency: ["p50", "p95", "p99", "longest"].map(|column| number(row, column).min(number(row, "longest"))),
    }
}

fn commands(clickhouse: &ClickHouse) -> Result<Vec<(String, u64, u64)>> {
    let rows = clickhouse.rows(
        "SELECT mysql_command, count() AS statements, countIf(error_type != '') AS failed FROM podtap.requests FINAL \
         WHERE mysql_command != '' AND timestamp > now() - INTERVAL 5 MINUTE GROUP BY mysql_command ORDER BY mysql_command",
    )?;
    let command = |row: &Row| (text(row, "mysql_command").to_owned(), number(row, "statements") as u64, number(row, "failed") as u64);
    Ok(rows.iter().map(command).collect())
}
