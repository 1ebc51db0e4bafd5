//! The generic webhook: Alertmanager's body, version 4.
//!
//! What to try again is decided here: no connection and 5xx are, any other answer is final
//! (<https://prometheus.io/docs/alerting/latest/configuration/#webhook_config>).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Notification, Notifier, NotifyError, NotifyFuture};
use crate::alarm::fingerprint::of_labels;
use crate::alarm::state::{Alarm, Phase};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Go's zero time, which stands for "has not ended".
const NOT_ENDED: &str = "0001-01-01T00:00:00Z";
const SEVERITIES: [&str; 4] = ["critical", "error", "warning", "info"];

type Labels = BTreeMap<String, String>;

/// The body. Fields in the order in which Alertmanager sends them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Body {
    receiver: String,
    status: &'static str,
    alerts: Vec<Alert>,
    group_labels: Labels,
    common_labels: Labels,
    common_annotations: Labels,
    #[serde(rename = "externalURL")]
    external_url: String,
    version: &'static str,
    group_key: String,
    truncated_alerts: u64,
}

/// One alert.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// `firing` or `resolved`.
    pub status: &'static str,
    /// Identity.
    pub labels: Labels,
    /// For people.
    pub annotations: Labels,
    /// RFC 3339.
    pub starts_at: String,
    /// RFC 3339.
    pub ends_at: String,
    /// Link.
    #[serde(rename = "generatorURL")]
    pub generator_url: String,
    /// Hash of the labels.
    pub fingerprint: String,
}

fn time_text(nanoseconds: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).map(|timestamp| timestamp.to_string()).unwrap_or_default()
}

fn value_text(alarm: &Alarm, value: f64) -> String {
    if alarm.indicator == "error_share" { format!("{:.2} %", value * 100.0) } else { format!("{:.3} ms", value / 1e6) }
}

/// An alarm as an alert. `rule_summary` replaces the generated one.
pub fn alert(alarm: &Alarm, rule_summary: &str, external_url: &str) -> Alert {
    let mut labels = Labels::from([
        ("alertname".to_owned(), alarm.rule.clone()),
        ("service".to_owned(), alarm.target.service.clone()),
        ("severity".to_owned(), SEVERITIES.get(usize::from(alarm.level)).copied().unwrap_or("info").to_owned()),
        ("level".to_owned(), alarm.level.to_string()),
    ]);
    if !alarm.target.endpoint.is_empty() {
        labels.insert("endpoint".to_owned(), alarm.target.endpoint.clone());
    }
    let target = if alarm.target.endpoint.is_empty() {
        alarm.target.service.clone()
    } else {
        format!("{} of {}", alarm.target.endpoint, alarm.target.service)
    };
    let description = format!(
        "{} of {target} is {}, {} {} is a breach; worst {}, {} breaches",
        alarm.indicator,
        value_text(alarm, alarm.last_value),
        alarm.comparison,
        value_text(alarm, alarm.threshold),
        value_text(alarm, alarm.peak_value),
        alarm.breaches,
    );
    let summary = if rule_summary.is_empty() { format!("{}: {target}", alarm.rule) } else { rule_summary.to_owned() };
    let resolved = alarm.phase == Phase::Resolved;
    Alert {
        status: if resolved { "resolved" } else { "firing" },
        fingerprint: of_labels(&labels),
        labels,
        annotations: Labels::from([("description".to_owned(), description), ("summary".to_owned(), summary)]),
        starts_at: time_text(alarm.first_at_ns),
        ends_at: if resolved { time_text(alarm.resolved_at_ns) } else { NOT_ENDED.to_owned() },
        generator_url: format!("{external_url}/api/v1/alarms"),
    }
}

fn common(maps: &[&Labels]) -> Labels {
    let Some((first, others)) = maps.split_first() else { return Labels::new() };
    let everywhere = |(name, value): &(&String, &String)| others.iter().all(|map| map.get(*name) == Some(*value));
    first.iter().filter(everywhere).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Escapes as Go's `regexp.QuoteMeta` does, which Alertmanager applies to the receiver's name.
fn quote_meta(text: &str) -> String {
    text.chars().flat_map(|c| ["\\", ""][usize::from(!r"\.+*?()|[]{}^$".contains(c))].chars().chain([c])).collect()
}

/// The body of alerts that are grouped by the names in `group_labels`.
pub fn body(receiver: &str, mut alerts: Vec<Alert>, group_labels: Labels, external_url: &str) -> Body {
    alerts.sort_by(|left, right| {
        let key = |alert: &Alert| (alert.labels.get("job").cloned(), alert.labels.get("instance").cloned());
        (key(left), &left.labels).cmp(&(key(right), &right.labels))
    });
    let group: Vec<_> = group_labels.iter().map(|(name, value)| format!("{name}={}", go_quoted(value))).collect();
    let labels: Vec<_> = alerts.iter().map(|alert| &alert.labels).collect();
    let annotations: Vec<_> = alerts.iter().map(|alert| &alert.annotations).collect();
    Body {
        receiver: quote_meta(receiver),
        status: if alerts.iter().all(|alert| alert.status == "resolved") { "resolved" } else { "firing" },
        common_labels: common(&labels),
        common_annotations: common(&annotations),
        group_key: format!("{{}}:{{{}}}", group.join(", ")),
        group_labels,
        external_url: external_url.to_owned(),
        version: "4",
        truncated_alerts: 0,
        alerts,
    }
}

fn go_quoted(text: &str) -> String {
    // Go's %q and JSON agree on everything that a name holds, save control characters.
    serde_json::to_string(text).unwrap_or_default()
}

/// A webhook.
#[derive(Debug)]
pub struct Webhook {
    url: String,
    external_url: String,
    client: reqwest::Client,
}

impl Webhook {
    /// Delivers to `url`.
    pub fn new(url: &str, external_url: &str) -> Result<Self, NotifyError> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("podtap/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| NotifyError { retriable: false, message: error.to_string() })?;
        Ok(Self { url: url.to_owned(), external_url: external_url.to_owned(), client })
    }

    async fn post(&self, notification: &Notification) -> Result<(), NotifyError> {
        let alerts = notification.alarms.iter().map(|alarm| alert(alarm, &notification.summary, &self.external_url)).collect();
        let group = Labels::from([("alertname".to_owned(), notification.rule.clone())]);
        let body = body(&notification.receiver, alerts, group, &self.external_url);
        let body = serde_json::to_vec(&body).map_err(|error| NotifyError { retriable: false, message: error.to_string() })?;
        let request = self.client.post(&self.url).header("content-type", "application/json").body(body);
        // A URL may hold a token: it is left out of what is logged.
        let response = request.send().await.map_err(|error| NotifyError { retriable: true, message: chain(&error.without_url()) })?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        Err(NotifyError { retriable: status.is_server_error(), message: format!("the receiver answered {status}") })
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Notifier for Webhook {
    fn deliver<'a>(&'a self, notification: &'a Notification) -> NotifyFuture<'a> {
        Box::pin(self.post(notification))
    }
}

#[cfg(test)]
#[path = "webhook/tests.rs"]
mod tests;
