//! A rule over stored figures opens an alarm, a receiver is told once, also after a restart, and is told when it is over.
// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stage;

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use clickhouse::Client;
use podtap_wire::proto::ingest_client::IngestClient;
use podtap_wire::proto::{Envelope, Resource};
use podtap_wire::{BatchBuilder, Protocol, RequestRecord, Side, Status};
use serde_json::Value;
use stage::{Bench, Ports, get, ready, until};

type Bodies = Arc<Mutex<Vec<Value>>>;

async fn receiver() -> (String, Bodies) {
    let bodies = Bodies::default();
    let take = async |State(bodies): State<Bodies>, text: String| bodies.lock().unwrap().push(serde_json::from_str(&text).unwrap());
    let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&bodies));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, bodies)
}

/// Twenty requests of now, half of them failed.
async fn send_failures(ports: &Ports) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut builder = BatchBuilder::new("sender".to_owned(), [1; 16], Resource::default());
    for number in 0..20 {
        builder.push(&RequestRecord {
            timestamp: now,
            network_protocol_name: Protocol::Http,
            service_name: "shop",
            side: Side::Server,
            http_request_method: "GET",
            url_template: "/fails",
            status: if number % 2 == 0 { Status::ServerError } else { Status::Ok },
            time_to_last_byte_ns: Some(1_000_000),
            ..RequestRecord::default()
        });
    }
    let batch = builder.finish(1, now, Vec::new());
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", ports.grpc)).unwrap();
    let mut client = IngestClient::new(endpoint.connect().await.unwrap());
    let envelopes = tokio_stream::iter([Envelope { batch: batch.bytes.into(), sequence: 1 }]);
    client.deliver(envelopes).await.unwrap().into_inner().message().await.unwrap().expect("acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_endpoint_reaches_the_receiver_once() {
    let mut bench = Bench::new("alarm-to-webhook");
    let url = bench.clickhouse();
    let (hook, bodies) = receiver().await;
    let rules = bench.directory.join("rules.yaml");
    let text = format!(
        "receivers: [{{ name: ops, webhook: {{ url: \"{hook}\" }} }}]\nrules:\n  - name: endpoint fails\n    \
         target: {{ service: shop, endpoint: \"*\" }}\n    indicator: error_share\n    threshold: 20%\n    window: 20s\n    \
         minimum_count: 10\n    level: 1\n  - name: slow\n    indicator: p99\n    threshold: 10s\n    window: 20s\n"
    );
    std::fs::write(&rules, text).unwrap();
    let flags = [format!("--rules={}", rules.display()), "--evaluation-interval=1s".to_owned()];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let ports = Ports::free();
    let analyzer = bench.analyzer(&url, &ports, &flags);
    ready(&ports).await;
    send_failures(&ports).await;
    let received = |count: usize| {
        let bodies = Arc::clone(&bodies);
        async move || Some(bodies.lock().unwrap().clone()).filter(|bodies| bodies.len() >= count)
    };
    let first = until("the receiver is told", received(1)).await;
    assert_eq!((first[0]["status"].as_str(), first[0]["version"].as_str()), (Some("firing"), Some("4")));
    let labels = &first[0]["alerts"][0]["labels"];
    assert_eq!((labels["service"].as_str(), labels["endpoint"].as_str()), (Some("shop"), Some("GET /fails")));

    // Told is told, also by the next process.
    let client = Client::default().with_url(&url).with_database("podtap");
    let told = "SELECT count() FROM alarms FINAL WHERE state = 'open' AND notified = 'firing'";
    until("it is known to be told", async || (client.query(told).fetch_one::<u64>().await.unwrap() == 1).then_some(())).await;
    bench.kill(analyzer);
    bench.analyzer(&url, &ports, &flags);
    ready(&ports).await;
    let (_, alarms) = get(ports.http, "/api/v1/alarms").await.unwrap();
    let alarms: Value = serde_json::from_str(&alarms).unwrap();
    assert_eq!((alarms["alarms"][0]["rule"].as_str(), alarms["alarms"][0]["peak_value"].as_f64()), (Some("endpoint fails"), Some(0.5)));

    let all = until("the receiver is told that it is over", received(2)).await;
    let statuses: Vec<_> = all.iter().map(|body| body["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["firing", "resolved"], "{all:?}\n{}", bench.log());
    let (_, rules) = get(ports.http, "/api/v1/rules").await.unwrap();
    let rules: Value = serde_json::from_str(&rules).unwrap();
    assert_eq!(rules["rules"].as_array().unwrap().iter().filter(|rule| rule["error"].is_null()).count(), 2, "{rules}");
}
