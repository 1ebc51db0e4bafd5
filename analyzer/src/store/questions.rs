//! Questions as SQL over the documented views, and rows back as views.
//!
//! All texts go through the client's escaping (`bind`); only numbers and constants are written into a statement.

use clickhouse::Row;
use serde::Deserialize;

use crate::aggregate::window::WINDOW_SECONDS;
use crate::alarm::state::{Alarm, Notified, Phase, Target};
use crate::query::{AlarmsOf, EndpointScope, Figures, FiguresOf, Kind, MAX_LIMIT, Order, Period};

/// Protocols of databases.
const SQL_PROTOCOLS: &str = "('mysql', 'postgresql')";

/// A statement and the texts for its `?`, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// SQL.
    pub sql: String,
    /// Its parameters.
    pub texts: Vec<String>,
}

/// A row of the answer to [`figures`].
#[derive(Debug, Row, Deserialize)]
pub struct FiguresRow {
    service: String,
    endpoint: String,
    protocols: Vec<String>,
    called_by: Vec<String>,
    requests: u64,
    failed: u64,
    p50: u64,
    p95: u64,
    p99: u64,
    chosen: u64,
    longest: u64,
}

fn window_bounds(period: Period) -> String {
    // Windows that begin in the period; its first one belongs to it wholly.
    let from = crate::aggregate::window::start(period.from_ns);
    let to = u32::try_from(period.to_ns.div_ceil(1_000_000_000)).unwrap_or(u32::MAX);
    format!("window >= toDateTime({from}, 'UTC') AND window < toDateTime({to}, 'UTC')")
}

/// Figures by service, and endpoint where asked for.
pub fn figures(of: &FiguresOf) -> Statement {
    let bounds = window_bounds(of.period);
    let mut texts = Vec::new();
    let mut conditions = vec![bounds.clone()];
    match of.kind {
        Kind::Any => {}
        Kind::Requests => conditions.push(format!("network_protocol_name NOT IN {SQL_PROTOCOLS}")),
        Kind::Sql => conditions.push(format!("network_protocol_name IN {SQL_PROTOCOLS}")),
    }
    // Whoever is seen from its own side is not counted from its callers' side as well.
    conditions.push(format!(
        "(side != 'client' OR (server_address, server_port) NOT IN \
         (SELECT server_address, server_port FROM red WHERE {bounds} AND side IN ('server', 'both')))"
    ));
    if let Some(service) = &of.service {
        conditions.push("if(side = 'client', peer, service_name) = ?".to_owned());
        texts.push(service.clone());
    }
    if let EndpointScope::One(endpoint) = &of.endpoints {
        conditions.push("endpoint = ?".to_owned());
        texts.push(endpoint.clone());
    }
    let (shown, grouped) = match of.endpoints {
        EndpointScope::Whole => ("''", "of_service"),
        EndpointScope::Each | EndpointScope::One(_) => ("toString(endpoint)", "of_service, of_endpoint"),
    };
    let order = match of.order {
        Order::Slowest => "p99 DESC, service, endpoint",
        Order::MostFrequent => "requests DESC, service, endpoint",
        Order::Name => "service, endpoint",
    };
    let sql = format!(
        "SELECT of_service AS service, of_endpoint AS endpoint, of_protocols AS protocols, callers AS called_by, requests, failed, \
         podtap_quantile(0.5, buckets) AS p50, podtap_quantile(0.95, buckets) AS p95, podtap_quantile(0.99, buckets) AS p99, \
         podtap_quantile({quantile}, buckets) AS chosen, longest \
         FROM (SELECT toString(if(side = 'client', peer, service_name)) AS of_service, {shown} AS of_endpoint, \
         arraySort(groupUniqArray(10)(toString(network_protocol_name))) AS of_protocols, \
         arraySort(groupUniqArrayIf(10)(toString(service_name), side = 'client')) AS callers, \
         sum(count) AS requests, sum(errors) AS failed, max(time_to_last_byte_ns_max) AS longest, \
         sumMap(time_to_last_byte_ns_buckets) AS buckets \
         FROM red WHERE {conditions} GROUP BY {grouped}) \
         ORDER BY {order} LIMIT {limit}",
        quantile = of.quantile.clamp(0.0, 1.0),
        conditions = conditions.join(" AND "),
        limit = of.limit.min(MAX_LIMIT),
    );
    Statement { sql, texts }
}

/// Seconds that the rows of [`figures`] cover: whole windows, the running one up to now.
pub fn covered_seconds(period: Period, now_ns: u64) -> f64 {
    let (second, window) = (1_000_000_000, u64::from(WINDOW_SECONDS) * 1_000_000_000);
    let from_ns = u64::from(crate::aggregate::window::start(period.from_ns)) * second;
    let to_ns = period.to_ns.div_ceil(window).saturating_mul(window).min(period.to_ns.max(now_ns));
    Period { from_ns, to_ns }.seconds()
}

/// A row as a view.
pub fn figures_view(row: FiguresRow, seconds: f64) -> Figures {
    Figures {
        service: row.service,
        endpoint: row.endpoint,
        protocols: row.protocols,
        called_by: row.called_by,
        count: row.requests,
        rate: row.requests as f64 / seconds,
        errors: row.failed,
        error_share: if row.requests == 0 { 0.0 } else { row.failed as f64 / row.requests as f64 },
        p50_ns: row.p50,
        p95_ns: row.p95,
        p99_ns: row.p99,
        quantile_ns: row.chosen,
        max_ns: row.longest,
    }
}

/// A row of `alarms`.
#[derive(Debug, Row, Deserialize)]
pub struct AlarmRow {
    id: String,
    rule: String,
    service: String,
    endpoint: String,
    level: u8,
    indicator: String,
    comparison: String,
    threshold: f64,
    state: String,
    first_at_ns: i64,
    last_at_ns: i64,
    resolved_at_ns: i64,
    first_value: f64,
    last_value: f64,
    peak_value: f64,
    breaches: u64,
    notified: String,
    version: u64,
}

/// Alarms.
pub fn alarms(of: &AlarmsOf) -> Statement {
    let condition = match of {
        AlarmsOf::Unfinished => "state IN ('pending', 'open')".to_owned(),
        AlarmsOf::Period(period, _) => format!(
            "state IN ('open', 'resolved') AND toUnixTimestamp64Nano(first_at) < {to} AND \
             (state = 'open' OR toUnixTimestamp64Nano(resolved_at) >= {from})",
            from = i64::try_from(period.from_ns).unwrap_or(i64::MAX),
            to = i64::try_from(period.to_ns).unwrap_or(i64::MAX),
        ),
    };
    let limit = match of {
        AlarmsOf::Unfinished => MAX_LIMIT,
        AlarmsOf::Period(_, limit) => (*limit).min(MAX_LIMIT),
    };
    let sql = format!(
        "SELECT id, toString(rule) AS rule, toString(service) AS service, toString(endpoint) AS endpoint, level, \
         toString(indicator) AS indicator, toString(comparison) AS comparison, threshold, toString(state) AS state, \
         toUnixTimestamp64Nano(first_at) AS first_at_ns, toUnixTimestamp64Nano(last_at) AS last_at_ns, \
         toUnixTimestamp64Nano(resolved_at) AS resolved_at_ns, first_value, last_value, peak_value, breaches, \
         toString(notified) AS notified, version \
         FROM alarms FINAL WHERE {condition} ORDER BY first_at_ns DESC, id LIMIT {limit}"
    );
    Statement { sql, texts: Vec::new() }
}

/// A row as an alarm.
pub fn alarm_view(row: AlarmRow) -> Alarm {
    let time = |nanoseconds: i64| u64::try_from(nanoseconds).unwrap_or(0);
    Alarm {
        id: row.id,
        rule: row.rule,
        target: Target { service: row.service, endpoint: row.endpoint },
        level: row.level,
        indicator: row.indicator,
        comparison: row.comparison,
        threshold: row.threshold,
        phase: Phase::from_name(&row.state),
        first_at_ns: time(row.first_at_ns),
        last_at_ns: time(row.last_at_ns),
        resolved_at_ns: time(row.resolved_at_ns),
        first_value: row.first_value,
        last_value: row.last_value,
        peak_value: row.peak_value,
        breaches: row.breaches,
        notified: Notified::from_name(&row.notified),
        version: row.version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_by_whole_windows_and_the_running_one_up_to_now() {
        let check = |from: f64, to: f64, now: f64, expect: f64| {
            let ns = |seconds: f64| (1_700_000_000.0 + seconds) as u64 * 1_000_000_000;
            assert_eq!(covered_seconds(Period { from_ns: ns(from), to_ns: ns(to) }, ns(now)), expect, "{from} to {to} at {now}");
        };
        check(0.0, 60.0, 3_600.0, 60.0);
        check(7.0, 61.0, 3_600.0, 70.0);
        check(7.0, 8.0, 3_600.0, 10.0);
        check(7.0, 61.0, 61.0, 61.0);
        check(7.0, 61.0, 66.0, 66.0);
        // A period that has not ended is as long as it will be.
        check(0.0, 95.0, 61.0, 95.0);
        assert!(covered_seconds(Period { from_ns: 0, to_ns: u64::MAX }, 0) > 1e10);
    }
}
