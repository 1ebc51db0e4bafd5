//! Two analyzers between a real Kafka and the embedded engine: killed, stopped, resumed, the topic made anew; SQL counts what was
//! sent.
#![cfg(feature = "kafka")]
// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stage;

use std::time::{Duration, SystemTime};

use clickhouse::Client;
use podtap_wire::proto::Resource;
use podtap_wire::{BatchBuilder, Protocol, RequestRecord};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use stage::{Bench, Ports, ready, until};

const TOPIC: &str = "podtap.requests";
const SENDERS: usize = 7;
const RECORDS: u64 = 10;

/// Senders that produce batches, some of them twice, and bytes that are no batch.
struct Senders {
    producer: FutureProducer,
    builders: Vec<BatchBuilder>,
    sequences: Vec<u64>,
    sent: u64,
}

impl Senders {
    fn new(brokers: &str) -> Self {
        let producer = ClientConfig::new().set("bootstrap.servers", brokers).set("enable.idempotence", "true").create().unwrap();
        let resource = |number| Resource { k8s_pod_name: format!("pod-{number}"), ..Resource::default() };
        let builder = |number: usize| BatchBuilder::new(format!("sender-{number}"), [number as u8; 16], resource(number));
        Self { producer, builders: (0..SENDERS).map(builder).collect(), sequences: vec![0; SENDERS], sent: 0 }
    }

    async fn send(&mut self, rounds: usize) {
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        for round in 0..rounds {
            for (number, builder) in self.builders.iter_mut().enumerate() {
                for record in 0..RECORDS {
                    builder.push(&RequestRecord {
                        timestamp: now(),
                        network_protocol_name: Protocol::Http,
                        service_name: "shop",
                        http_request_method: "GET",
                        url_template: ["/a", "/b"][record as usize % 2],
                        time_to_last_byte_ns: Some(1_000_000),
                        ..RequestRecord::default()
                    });
                }
                self.sequences[number] += 1;
                let batch = builder.finish(self.sequences[number], now(), Vec::new());
                self.sent += RECORDS;
                for _ in 0..=u32::from((round + number) % 5 == 0) {
                    let key = format!("sender-{number}");
                    self.producer.send(FutureRecord::to(TOPIC).key(&key).payload(&batch.bytes), Duration::from_secs(30)).await.unwrap();
                }
            }
            let garbage = FutureRecord::to(TOPIC).key("garbage").payload(b"\xff\xff".as_slice());
            self.producer.send(garbage, Duration::from_secs(30)).await.unwrap();
        }
    }
}

/// Waits until as much is stored as was sent, and a moment more, in case something is counted twice.
async fn check(client: &Client, senders: &Senders, bench: &Bench, what: &str) {
    let red = async || client.query("SELECT sum(count) FROM red").fetch_one::<u64>().await.ok();
    until(what, async || red().await.filter(|count| *count >= senders.sent)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = client.query("SELECT count() FROM requests FINAL").fetch_one::<u64>().await.unwrap();
    assert_eq!((red().await.unwrap(), requests), (senders.sent, senders.sent), "{what}\n{}", bench.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_produced_is_what_sql_counts() {
    let mut bench = Bench::new("kafka-to-clickhouse");
    let brokers = bench.kafka();
    let url = bench.clickhouse();
    let client = Client::default().with_url(&url).with_database("podtap");
    let flags = [format!("--kafka-brokers={brokers}"), "--kafka-partitions=4".to_owned(), "--kafka-replication=1".to_owned()];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let ports = [Ports::free(), Ports::free()];
    let mut analyzers = [0, 1].map(|number| bench.analyzer(&url, &ports[number], &flags));
    ready(&ports[0]).await;
    ready(&ports[1]).await;
    let mut senders = Senders::new(&brokers);
    senders.send(60).await;
    check(&client, &senders, &bench, "two analyzers stored everything").await;

    bench.kill(analyzers[0]);
    senders.send(40).await;
    analyzers[0] = bench.analyzer(&url, &ports[0], &flags);
    check(&client, &senders, &bench, "one was killed and came back").await;

    // Stopped for longer than the group waits: its partitions go to the other, and it wakes up late.
    bench.signal(analyzers[1], "STOP");
    senders.send(40).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    senders.send(20).await;
    check(&client, &senders, &bench, "one slept").await;
    bench.signal(analyzers[1], "CONT");
    senders.send(20).await;
    check(&client, &senders, &bench, "it woke up").await;

    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    admin.delete_topics(&[TOPIC], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    ready(&ports[0]).await;
    ready(&ports[1]).await;
    senders = Senders { sent: senders.sent, ..Senders::new(&brokers) };
    // Another boot of the same senders.
    senders.builders = (0..SENDERS).map(|number| BatchBuilder::new(format!("sender-{number}"), [99; 16], Resource::default())).collect();
    senders.send(30).await;
    check(&client, &senders, &bench, "the topic was made anew").await;

    let incarnations = client.query("SELECT uniqExact(incarnation) FROM ingest_blocks WHERE topic = ?").bind(TOPIC);
    assert_eq!(incarnations.fetch_one::<u64>().await.unwrap(), 2);
    let undecodable = client.query("SELECT sum(undecodable['malformed']) FROM ingest_blocks FINAL").fetch_one::<u64>().await.unwrap();
    assert!(undecodable >= 190, "{undecodable}");
    for analyzer in analyzers {
        bench.signal(analyzer, "TERM");
        let status = tokio::task::block_in_place(|| bench.processes[analyzer].wait()).unwrap();
        assert!(status.success(), "{status}: {}", bench.log());
    }
}
