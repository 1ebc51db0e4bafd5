//! A directory that an earlier build wrote, killed in the middle of a block: this build brings it up to date, reads its log on and shows
//! the same figures. How it was made: `data/README.md`.

// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stage;

use std::process::Command;
use std::time::SystemTime;

use clickhouse::Client;
use podtap_wire::proto::Resource;
use podtap_wire::{BatchBuilder, Protocol, RequestRecord, Side};
use stage::{Bench, Ports, deliver, ready, until};

const KEPT: &str = "--retention=requests=10000,kept_requests=10000,request_histograms=9900,request_histograms_1m=10000,\
                    request_histograms_1h=10000,request_histograms_1d=10000,sidecar_counters=10000,ingest_blocks=10000";
/// Records, failed ones, and a fingerprint of all buckets, as the build that wrote the directory said them of its `red`.
const WRITTEN: (u64, u64, u64) = (1_354, 140, 3_101_974_853_962_811_979);

async fn figures(client: &Client, view: &str, condition: &str) -> (u64, u64, u64) {
    let sql = format!(
        "SELECT sum(count), sum(errors), cityHash64(toString(mapSort(sumMap(time_to_last_byte_ns_buckets)))) FROM {view} WHERE {condition}"
    );
    client.query_raw(&sql).fetch_one::<(u64, u64, u64)>().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn number(client: &Client, sql: &str) -> u64 {
    client.query_raw(sql).fetch_one::<u64>().await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_an_earlier_build_wrote_is_brought_up_to_date() {
    let mut bench = Bench::new("earlier");
    let archive = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/schema-0002.tar.gz");
    let unpacked = Command::new("tar").args(["-xzf", archive, "-C"]).arg(&bench.directory).status().unwrap();
    assert!(unpacked.success());
    let ports = Ports::free();
    std::fs::rename(bench.directory.join("data"), bench.directory.join(format!("data-{}", ports.grpc.port()))).unwrap();
    let url = bench.clickhouse();
    let client = Client::default().with_url(&url).with_database("podtap");
    assert_eq!(figures(&client, "red", "1").await, WRITTEN, "as it was written");

    let pending = bench.command(&url, &["migrate", "--dry-run", KEPT]);
    assert!(
        pending.contains("VIEW `podtap`.requests_once") && !pending.contains("CREATE TABLE IF NOT EXISTS `podtap`.requests\n"),
        "{pending}"
    );
    let analyzer = bench.analyzer(&url, &ports, &[KEPT]);
    ready(&ports).await;
    assert_eq!(bench.command(&url, &["migrate", "--dry-run", KEPT]), "", "nothing is left to do");
    // The open block is read again from the log and goes on with what comes now.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut builder = BatchBuilder::new("young".to_owned(), [4; 16], Resource::default());
    for port in 0..20 {
        builder.push(&RequestRecord {
            timestamp: now,
            network_protocol_name: Protocol::Http,
            service_name: "young",
            client_port: port,
            side: Side::Client,
            http_request_method: "GET",
            url_template: "/young",
            server_address: "::1".parse().unwrap(),
            server_port: 80,
            ..RequestRecord::default()
        });
    }
    deliver(&ports, &[builder.finish(1, now, Vec::new())]).await.expect("acknowledged");
    until("new records beside old ones", async || (number(&client, "SELECT sum(count) FROM red").await == WRITTEN.0 + 20).then_some(()))
        .await;
    for round in ["before it is rolled up", "rolled up", "after another start"] {
        for view in ["red", "red_1m", "red_1h", "red_1d"] {
            assert_eq!(figures(&client, view, "service_name != 'young'").await, WRITTEN, "{view} {round}");
            // An hour that was rolled up lacks what is new until it is rolled up again.
            if view == "red" || round != "before it is rolled up" {
                assert_eq!(figures(&client, view, "service_name = 'young'").await.0, 20, "{view} {round}");
            }
        }
        match round {
            "before it is rolled up" => drop(bench.command(&url, &["rollup", KEPT])),
            "rolled up" => {
                bench.kill(analyzer);
                bench.analyzer(&url, &ports, &[KEPT]);
                ready(&ports).await;
            }
            _ => {}
        }
    }
    assert_eq!(number(&client, "SELECT count() FROM requests_once").await, WRITTEN.0 + 20);
    assert_eq!(number(&client, "SELECT sum(toUInt64(missing)) FROM sender_sequences").await, 0);
    // What a request is called is what it counts for.
    let called = "service_name, endpoint, peer, toString(status) AS outcome";
    let differ = format!(
        "SELECT count() FROM (SELECT {called}, sum(count) AS counted FROM red GROUP BY ALL) AS counted FULL JOIN \
         (SELECT {called}, count() AS stored FROM requests_once GROUP BY ALL) AS stored USING (service_name, endpoint, peer, outcome) \
         WHERE counted != stored"
    );
    assert_eq!(number(&client, &differ).await, 0);
    assert!(number(&client, "SELECT uniqExact(endpoint, peer) FROM requests_once").await > 10);
}
