use super::*;
use crate::alarm::state::{Notified, Target};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The body that Alertmanager itself sent for the same alert.
#[test]
fn as_alertmanager_sends_it() {
    let labels = labels(&[("alertname", "PgDown"), ("instance", "pg1"), ("team", "db")]);
    let alert = Alert {
        status: "firing",
        fingerprint: of_labels(&labels),
        labels,
        annotations: Labels::from([("summary".to_owned(), "pg down".to_owned())]),
        starts_at: "2026-11-20T18:21:32.786097417Z".to_owned(),
        ends_at: NOT_ENDED.to_owned(),
        generator_url: String::new(),
    };
    let group = Labels::from([("alertname".to_owned(), "PgDown".to_owned())]);
    let mut body = body("pg (x)", vec![alert], group, "http://host:9093");
    // There the alert had gone through a route of its own.
    body.group_key = body.group_key.replacen("{}", "{}/{team=\"db\"}", 1);
    let golden = concat!(
        r#"{"receiver":"pg \\(x\\)","status":"firing","#,
        r#""alerts":[{"status":"firing","labels":{"alertname":"PgDown","instance":"pg1","team":"db"},"#,
        r#""annotations":{"summary":"pg down"},"startsAt":"2026-11-20T18:21:32.786097417Z","#,
        r#""endsAt":"0001-01-01T00:00:00Z","generatorURL":"","fingerprint":"b56a03450a9ef961"}],"#,
        r#""groupLabels":{"alertname":"PgDown"},"commonLabels":{"alertname":"PgDown","instance":"pg1","team":"db"},"#,
        r#""commonAnnotations":{"summary":"pg down"},"externalURL":"http://host:9093","version":"4","#,
        r#""groupKey":"{}/{team=\"db\"}:{alertname=\"PgDown\"}","truncatedAlerts":0}"#,
    );
    assert_eq!(serde_json::to_string(&body).unwrap(), golden);
}

fn alarm(endpoint: &str, phase: Phase) -> Alarm {
    Alarm {
        id: "1".to_owned(),
        rule: "endpoint fails".to_owned(),
        target: Target { service: "shop".to_owned(), endpoint: endpoint.to_owned() },
        level: 1,
        indicator: "error_share".to_owned(),
        comparison: ">".to_owned(),
        threshold: 0.05,
        phase,
        first_at_ns: 1_700_000_000_000_000_001,
        last_at_ns: 1_700_000_005_000_000_000,
        resolved_at_ns: if phase == Phase::Resolved { 1_700_000_010_000_000_000 } else { 0 },
        first_value: 0.1,
        last_value: 0.2,
        peak_value: 0.5,
        breaches: 3,
        notified: Notified::Nothing,
        version: 1,
    }
}

#[test]
fn alarms_of_a_rule_are_one_group() {
    let alerts = vec![alert(&alarm("GET /b", Phase::Open), "", "http://x"), alert(&alarm("GET /a", Phase::Resolved), "", "http://x")];
    let group = labels(&[("alertname", "endpoint fails")]);
    let body = body("ops", alerts, group, "http://x");
    assert_eq!(body.status, "firing");
    let statuses: Vec<_> = body.alerts.iter().map(|alert| (alert.labels["endpoint"].as_str(), alert.status)).collect();
    assert_eq!(statuses, [("GET /a", "resolved"), ("GET /b", "firing")]);
    assert_eq!(body.alerts[0].starts_at, "2023-11-14T22:13:20.000000001Z");
    assert_eq!(body.alerts[0].ends_at, "2023-11-14T22:13:30Z");
    assert_eq!(body.common_labels, labels(&[("alertname", "endpoint fails"), ("level", "1"), ("service", "shop"), ("severity", "error")]));
    assert_eq!(
        body.alerts[0].annotations["description"],
        "error_share of GET /a of shop is 20.00 %, > 5.00 % is a breach; worst 50.00 %, 3 breaches"
    );
}

#[test]
fn only_resolved_alerts_make_a_resolved_group() {
    let resolved = alert(&alarm("", Phase::Resolved), "", "");
    assert_eq!(body("ops", vec![resolved], Labels::new(), "").status, "resolved");
}

/// A receiver that answers with these statuses in turn.
async fn receiver(statuses: Vec<u16>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut requests = Vec::new();
        for status in statuses {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"\"truncatedAlerts\":0}") {
                let mut chunk = [0; 4096];
                let count = connection.read(&mut chunk).await.unwrap();
                assert!(count > 0, "the request was cut");
                bytes.extend_from_slice(&chunk[..count]);
            }
            requests.push(String::from_utf8(bytes).unwrap());
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (url, task)
}

fn notification() -> Notification {
    Notification {
        receiver: "ops".to_owned(),
        rule: "endpoint fails".to_owned(),
        summary: String::new(),
        alarms: vec![alarm("GET /a", Phase::Open)],
    }
}

async fn check(status: u16, expect: Option<bool>) {
    let (url, task) = receiver(vec![status]).await;
    let outcome = Webhook::new(&url, "").unwrap().deliver(&notification()).await;
    assert_eq!(outcome.err().map(|error| error.retriable), expect, "{status}");
    let requests = task.await.unwrap();
    assert!(requests[0].starts_with("POST /hook HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains("content-type: application/json\r\n"), "{}", requests[0]);
}

#[tokio::test]
async fn what_is_tried_again() {
    check(200, None).await;
    check(500, Some(true)).await;
    check(400, Some(false)).await;
    check(302, Some(false)).await;
    let unreachable = Webhook::new("http://127.0.0.1:1/", "").unwrap().deliver(&notification()).await;
    assert_eq!(unreachable.map_err(|error| error.retriable), Err(true));
}

#[tokio::test]
async fn a_notification_is_tried_until_it_is_taken() {
    let (url, task) = receiver(vec![503, 200]).await;
    let telemetry = std::sync::Arc::new(crate::telemetry::Telemetry::new());
    let (reports, mut delivered) = tokio::sync::mpsc::unbounded_channel();
    let webhook: std::sync::Arc<dyn Notifier> = std::sync::Arc::new(Webhook::new(&url, "").unwrap());
    let dispatcher = super::super::Dispatcher::start([("ops".to_owned(), webhook)], &telemetry, &reports);
    assert!(dispatcher.send(notification()));
    assert!(!dispatcher.send(Notification { receiver: "nobody".to_owned(), ..notification() }));
    assert!(delivered.recv().await.unwrap().finished);
    assert_eq!(task.await.unwrap().len(), 2);
    let metrics = telemetry.render().unwrap();
    assert!(metrics.contains("podtap_notifications_total{receiver=\"ops\",outcome=\"delivered\"} 1"), "{metrics}");
}
