//! A broker that is down for a minute, then a ClickHouse that is down for a minute, under load: nothing lost, nothing twice. And a sidecar
//! that is killed while its broker is away: lost is what it saw in its last moment, and that is named.

use std::time::{Duration, Instant};

use podtap_tests::faults::traffic::{Gap, Traffic, UNSAFE, compare, now_ns};
use podtap_tests::load::http::HttpLoad;
use podtap_tests::load::sql::SqlLoad;
use podtap_tests::load::{Stop, Until};
use podtap_tests::system::{System, Wish, alone, load_routes, load_statements};
use podtap_tests::{Failure, Result, http, wait};

/// How long each of the two is away.
const OUTAGE: Duration = Duration::from_secs(60);

#[test]
fn a_minute_without_broker_and_a_minute_without_clickhouse_lose_nothing() -> Result<()> {
    let _alone = alone();
    let mut system = System::start(Wish { source: "pcap", kafka: true, application: false, rules: None })?;
    let stop = Stop::default();
    let until = Until::Stopped(stop.clone());
    let http = HttpLoad { target: system.target(), connections: 64, rate: 3_000, routes: load_routes(), until: until.clone() };
    let sql = SqlLoad { url: system.database.url(), connections: 16, rate: 2_500, statements: load_statements(), until };
    let (http, sql) = (http.start(), sql.start());
    stored_more_than(&system, 10_000)?;

    let broker = system.kafka.as_mut().ok_or_else(|| Failure::new("no broker"))?;
    broker.kill()?;
    let begun = Instant::now();
    must_become(503, "brokers are down", "the sidecar without its broker", || system.sidecar.readiness())?;
    must_become(503, "kafka", "the analyzer without its broker", || system.analyzer.readiness())?;
    std::thread::sleep(OUTAGE.saturating_sub(begun.elapsed()));
    assert_eq!(system.sidecar.readiness()?.status, 503);
    system.kafka.as_mut().ok_or_else(|| Failure::new("no broker"))?.launch(&system.run)?;
    must_become(200, "", "the sidecar with its broker again", || system.sidecar.readiness())?;
    must_become(200, "", "the analyzer with its broker again", || system.analyzer.readiness())?;

    system.clickhouse.kill()?;
    let begun = Instant::now();
    must_become(503, "clickhouse", "the analyzer without ClickHouse", || system.analyzer.readiness())?;
    assert_eq!(system.sidecar.readiness()?.status, 200, "the sidecar does not need ClickHouse");
    std::thread::sleep(OUTAGE.saturating_sub(begun.elapsed()));
    assert_eq!(system.analyzer.readiness()?.status, 503);
    system.clickhouse.launch(&system.run)?;
    must_become(200, "", "the analyzer with ClickHouse again", || system.analyzer.readiness())?;

    stop.stop();
    let (http, sql) = (http.finish()?, sql.finish()?);
    println!("{} requests and {} statements, {:.0}/s", http.total(), sql.total(), http.rate() + sql.rate());
    assert!(http.rate() + sql.rate() >= 5_000.0, "the generators reached only {:.0}/s", http.rate() + sql.rate());
    system.until_stored(&http, &sql, "pcap", Duration::from_secs(180))?;
    system.must_be_lossless("pcap")?;
    assert_eq!(system.sidecar.process().stop()?.code(), Some(0));
    assert_eq!(system.analyzer.process().stop()?.code(), Some(0));
    system.must_equal(&http, &sql, "pcap")
}

#[test]
fn a_sidecar_killed_during_an_outage_loses_its_last_moment_only() -> Result<()> {
    let _alone = alone();
    let mut system = System::start(Wish { source: "pcap", kafka: true, application: false, rules: None })?;
    let traffic = Traffic::start(system.target(), Duration::from_millis(10));
    stored_more_than(&system, 100)?;
    let spooled = |system: &System| Ok::<_, Failure>(system.sidecar.metrics()?.sum("podtap_spooled_batches_total"));
    assert_eq!(spooled(&system)?, 0.0, "while the broker answers nothing goes to disk");

    system.kafka.as_mut().ok_or_else(|| Failure::new("no broker"))?.kill()?;
    let away_ns = now_ns();
    std::thread::sleep(UNSAFE + Duration::from_secs(5));
    let metrics = system.sidecar.metrics()?;
    assert!(metrics.sum("podtap_spooled_batches_total") >= 10.0, "{metrics:?}");
    assert!(metrics.sum("podtap_queue_bytes") < 1e6, "the queue is far from full");
    assert!(metrics.sum("podtap_unspooled_bytes") < metrics.sum("podtap_queue_bytes") / 2.0, "{metrics:?}");
    let killed_ns = now_ns();
    system.sidecar.process().kill()?;
    system.kafka.as_mut().ok_or_else(|| Failure::new("no broker"))?.launch(&system.run)?;
    system.restart_sidecar("pcap")?;
    let gaps = [Gap { killed_ns, ready_ns: now_ns() }];
    std::thread::sleep(Duration::from_secs(3));
    let asked = traffic.finish()?;

    let found = wait::until_stepwise("all but the last moment", Duration::from_secs(90), Duration::from_secs(1), || {
        compare(&system.clickhouse, &asked, &gaps).map(Some)
    })?;
    println!("{found:?}, away for {} ms before the kill", (killed_ns - away_ns) / 1_000_000);
    std::thread::sleep(Duration::from_secs(2));
    compare(&system.clickhouse, &asked, &gaps)?;
    // The next start knows how far the one before had come, and the analyzer names it.
    let missing = system.sidecar.metrics()?.sum("podtap_spool_missing_batches_total");
    assert!(missing > 0.0, "batches were waiting in memory when it was killed");
    let named = "SELECT sum(missing) FROM sender_sequences WHERE missing_ranges[-1].2 = last";
    assert_eq!(system.clickhouse.number(named)? as f64, missing);
    assert_eq!(system.clickhouse.number("SELECT sum(missing) FROM sender_sequences")? as f64, missing);
    assert_eq!(system.sidecar.process().stop()?.code(), Some(0));
    Ok(())
}

/// The way works before it is cut.
fn stored_more_than(system: &System, records: u64) -> Result<()> {
    wait::until_stepwise("first records in ClickHouse", Duration::from_secs(60), Duration::from_secs(1), || {
        Ok((system.clickhouse.number("SELECT count() FROM requests")? > records).then_some(()))
    })
}

/// Waits until /readyz answers so, and names the dependency.
fn must_become(status: u16, names: &str, what: &str, readiness: impl Fn() -> Result<http::Answer>) -> Result<()> {
    wait::until_true(&format!("{what}: /readyz {status}"), Duration::from_secs(45), || {
        let answer = readiness()?;
        if answer.status == status && answer.body.to_lowercase().contains(names) {
            return Ok(true);
        }
        Err(Failure(format!("{}: {}", answer.status, answer.body.trim())))
    })
}
