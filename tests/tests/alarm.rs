//! A failing and a slow endpoint fire their rules, the webhook gets Alertmanager's v4 body, and the alarm resolves when it is mended.

use std::time::Duration;

use podtap_tests::analyzer::payments_rule;
use podtap_tests::clickhouse::text;
use podtap_tests::load::http::{HttpLoad, Route};
use podtap_tests::load::{Stop, Until};
use podtap_tests::system::{SERVICE, System, Wish, alone};
use podtap_tests::webhook::{Notification, Webhook};
use podtap_tests::{Context, Failure, Result, wait};
use serde_json::Value;

#[test]
fn a_failing_endpoint_fires_and_resolves() -> Result<()> {
    let _alone = alone();
    let webhook = Webhook::start()?;
    let rules = Some(payments_rule(&webhook.url()));
    let system = System::start(Wish { source: "pcap", kafka: false, application: true, rules })?;
    let stop = Stop::default();
    let routes = vec![Route::get(1, "/payments/{}", "GET /payments/{id}"), Route::get(3, "/items/{}", "GET /items/{id}")];
    let load = HttpLoad { target: system.target(), connections: 8, rate: 80, routes, until: Until::Stopped(stop.clone()) };
    let load = load.start();
    let healthy = "SELECT sum(count) FROM red WHERE endpoint = 'GET /payments/{id}' AND side = 'server' AND status = 'ok'";
    wait::until_true("payments that succeed", Duration::from_secs(60), || Ok(system.clickhouse.number(healthy)? > 100))?;
    assert!(webhook.received().is_empty(), "an alarm without a reason: {:?}", webhook.received());

    system.database.forget_payments()?;
    let firing = notification(&webhook, "firing")?;
    let body = must_be_v4(&firing)?;
    let alert = &body["alerts"][0];
    assert_eq!(alert["status"], "firing");
    assert_eq!(alert["endsAt"], "0001-01-01T00:00:00Z");
    assert_eq!(alert["labels"]["alertname"], "PaymentsFailing");
    let labels = alert["labels"].to_string();
    assert!(labels.contains(SERVICE) && labels.contains("GET /payments/{id}"), "{labels}");
    let open = system.clickhouse.rows("SELECT * FROM alarms FINAL WHERE state = 'open'")?;
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!((text(&open[0], "rule"), text(&open[0], "endpoint")), ("PaymentsFailing", "GET /payments/{id}"));
    assert_eq!(system.analyzer.metrics()?.sum("podtap_alarms_open"), 1.0);

    system.database.restore_payments()?;
    let resolved = notification(&webhook, "resolved")?;
    let body = must_be_v4(&resolved)?;
    let alert = &body["alerts"][0];
    assert_eq!(alert["status"], "resolved");
    assert_ne!(alert["endsAt"], "0001-01-01T00:00:00Z");
    assert_eq!(webhook.received().len(), 2, "each state is told once: {:#?}", webhook.received());
    wait::until_true("the alarm is resolved in ClickHouse", Duration::from_secs(30), || {
        Ok(system.clickhouse.number("SELECT countIf(state = 'open') FROM alarms FINAL")? == 0)
    })?;
    stop.stop();
    load.finish().map(|_| ())
}

/// The rule of [`a_slow_endpoint_fires_and_resolves`].
fn slow_rule(webhook: &str) -> String {
    format!(
        r#"receivers:
  - name: shop-team
    webhook: {{ url: "{webhook}" }}
rules:
  - name: SlowPages
    target: {{ service: shop, endpoint: "GET /slow/{{id}}" }}
    indicator: p99
    threshold: 200ms
    window: 10s
    minimum_count: 10
    level: 2
    summary: One page in a hundred takes longer than 200 ms.
"#
    )
}

#[test]
fn a_slow_endpoint_fires_and_resolves() -> Result<()> {
    let _alone = alone();
    let webhook = Webhook::start()?;
    let rules = Some(slow_rule(&webhook.url()));
    let system = System::start(Wish { source: "pcap", kafka: false, application: true, rules })?;
    let pages = |path: &'static str| {
        let stop = Stop::default();
        let routes = vec![Route::get(1, path, "GET /slow/{id}")];
        let load = HttpLoad { target: system.target(), connections: 16, rate: 20, routes, until: Until::Stopped(stop.clone()) };
        (load.start(), stop)
    };
    let stored = "SELECT sum(count) FROM red WHERE endpoint = 'GET /slow/{id}' AND side = 'server'";

    // Fast enough: no alarm, although the endpoint is judged.
    let (load, stop) = pages("/slow/50");
    wait::until_true("pages that are fast enough", Duration::from_secs(60), || Ok(system.clickhouse.number(stored)? > 300))?;
    assert!(webhook.received().is_empty(), "an alarm without a reason: {:?}", webhook.received());
    stop.stop();
    load.finish()?;

    let (load, stop) = pages("/slow/500");
    let firing = notification(&webhook, "firing")?;
    let alert = must_be_v4(&firing)?["alerts"][0].clone();
    assert_eq!(alert["labels"]["alertname"], "SlowPages");
    let open = system.clickhouse.rows("SELECT rule, endpoint, indicator, last_value FROM alarms FINAL WHERE state = 'open'")?;
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!((text(&open[0], "rule"), text(&open[0], "endpoint"), text(&open[0], "indicator")), ("SlowPages", "GET /slow/{id}", "p99"));
    let value = open[0]["last_value"].as_f64().context("last_value")?;
    assert!((450e6..650e6).contains(&value), "p99 of pages that take 500 ms: {value} ns");
    stop.stop();
    load.finish()?;

    let (load, stop) = pages("/slow/50");
    let resolved = notification(&webhook, "resolved")?;
    assert_eq!(must_be_v4(&resolved)?["alerts"][0]["labels"]["alertname"], "SlowPages");
    assert_eq!(webhook.received().len(), 2, "each state is told once: {:#?}", webhook.received());
    stop.stop();
    load.finish().map(|_| ())
}

fn notification(webhook: &Webhook, status: &str) -> Result<Notification> {
    wait::until(&format!("a notification that is {status}"), Duration::from_secs(90), || {
        let found = webhook.received().into_iter().find(|notification| {
            let body: Value = serde_json::from_str(&notification.body).unwrap_or_default();
            body["status"] == status
        });
        if found.is_none() {
            return Err(Failure(format!("{} notifications so far", webhook.received().len())));
        }
        Ok(found)
    })
}

/// The shape that every bridge behind an Alertmanager reads.
fn must_be_v4(notification: &Notification) -> Result<Value> {
    let json = notification.headers.iter().any(|header| {
        let header = header.to_lowercase();
        header.starts_with("content-type:") && header.contains("application/json")
    });
    assert!(json, "{:?}", notification.headers);
    let body: Value = serde_json::from_str(&notification.body).context("the webhook's body")?;
    assert_eq!(body["version"], "4");
    assert!(body["truncatedAlerts"].is_u64(), "{body}");
    for name in ["receiver", "status", "groupKey", "externalURL"] {
        assert!(body[name].is_string(), "{name} in {body}");
    }
    for name in ["groupLabels", "commonLabels", "commonAnnotations"] {
        assert!(body[name].is_object(), "{name} in {body}");
    }
    let alerts = body["alerts"].as_array().context("no alerts")?;
    assert_eq!(alerts.len(), 1, "{body}");
    for name in ["status", "startsAt", "endsAt", "generatorURL", "fingerprint"] {
        assert!(alerts[0][name].is_string(), "{name} in {body}");
    }
    let fingerprint = alerts[0]["fingerprint"].as_str().unwrap_or_default();
    assert!(fingerprint.len() == 16 && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()), "{fingerprint}");
    assert!(alerts[0]["labels"].is_object() && alerts[0]["annotations"].is_object(), "{body}");
    Ok(body)
}
