//! Whatever dies in between, what SQL answers equals what the senders made, bucket by bucket.
//!
//! The short form runs with the other tests, always with the same seed. The long one: `cargo xtask faults --kills 100 --seed 7`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use podtap_tests::faults::chance::Chance;
use podtap_tests::faults::stage::{Stage, Wish};
use podtap_tests::faults::traffic::{self, Gap, Traffic, now_ns};
use podtap_tests::faults::verify::View;
use podtap_tests::proxy::Moment;
use podtap_tests::system::{self, System, alone};
use podtap_tests::{Context, Failure, Result, wait};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;

const TOPIC: &str = "podtap.requests";
const VIEWS: [View; 4] = [
    View { name: "red", step_seconds: 10 },
    View { name: "red_1m", step_seconds: 60 },
    View { name: "red_1h", step_seconds: 3_600 },
    View { name: "red_1d", step_seconds: 86_400 },
];
/// The request that stores manifests, and those that store rows.
const MANIFESTS: [&str; 2] = ["INSERT", "ingest_blocks"];
const HISTOGRAMS: [&str; 2] = ["INSERT", "request_histograms"];

/// How far an analyzer may be behind when the topic is deleted: a second until it writes, and what a busy machine adds.
const MOST_LAG: Duration = Duration::from_secs(15);

/// How cruel the run is.
struct Cruelty {
    seed: u64,
    /// Random kills, over all of a test's phases.
    kills: usize,
    /// How long an owner is stopped.
    stopped: Duration,
    rate: u32,
    /// How long the group waits for a silent member.
    session: Duration,
    /// Budget of each sender's spool.
    spool_bytes: u64,
}

impl Cruelty {
    fn of_environment() -> Result<Self> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().context(format!("{name}={text}")),
            Err(_) => Ok(default),
        };
        let kills = number("PODTAP_FAULTS_KILLS", 0)?;
        let long = kills > 0;
        Ok(Self {
            seed: number("PODTAP_FAULTS_SEED", 1)?,
            kills: if long { kills as usize } else { 9 },
            stopped: Duration::from_secs(if long { 60 } else { 5 }),
            rate: number("PODTAP_FAULTS_RATE", 40)? as u32,
            // Most of the time of a kill is that until the group believes it; never longer than an owner is stopped.
            session: Duration::from_secs(if long { 6 } else { 2 }),
            spool_bytes: if long { 256 << 10 } else { 96 << 10 },
        })
    }

    fn wish(&self, kafka: bool) -> Wish {
        Wish {
            seed: self.seed,
            kafka,
            sender_processes: 2,
            rate: self.rate,
            spool_bytes: self.spool_bytes,
            shed: false,
            forget: 1,
            session: self.session,
        }
    }
}

fn with_seed(what: &str, body: impl FnOnce(&Cruelty) -> Result<()>) -> Result<()> {
    let _alone = alone();
    let cruelty = Cruelty::of_environment()?;
    let started = Instant::now();
    let outcome = body(&cruelty).map_err(|failure| Failure(format!("seed {}: {failure}", cruelty.seed)));
    println!("{what}: seed {}, {:.0} s", cruelty.seed, started.elapsed().as_secs_f64());
    outcome
}

#[test]
fn kafka_with_one_two_and_three_analyzers() -> Result<()> {
    with_seed("kafka", |cruelty| {
        let mut chance = Chance::new(&[cruelty.seed, 1]);
        let mut stage = Stage::start(cruelty.wish(true))?;
        stage.add_analyzer()?;
        (0..2).try_for_each(|process| stage.launch_senders(process))?;
        until_stored(&stage, 1_000)?;
        stage.reached("the first records are stored");
        killed_at_exact_requests(&mut stage)?;
        stage.reached("killed at exact requests");
        stage.kill_at_random(&mut chance, cruelty.kills / 3)?;
        stage.add_analyzer()?;
        stage.reached("two analyzers");
        stage.kill_at_random(&mut chance, cruelty.kills / 3)?;
        stage.add_analyzer()?;
        stage.reached("three analyzers");
        an_owner_sleeps(&mut stage, cruelty.stopped)?;
        stage.reached("an owner slept");
        add_partitions(&stage, 6)?;
        senders_restart_with_full_spools(&mut stage, cruelty.spool_bytes)?;
        stage.reached("partitions added, senders started with full spools");
        stage.kill_at_random(&mut chance, cruelty.kills - cruelty.kills / 3 * 2)?;
        stage.finish_senders()?;
        stage.reached("the last batch is acknowledged");
        let compared = stage.must_equal("after all kills", &VIEWS)?;
        stage.missing_must_be_named()?;
        stage.roll_up()?;
        stage.must_equal("after everything was rolled up", &VIEWS)?;
        must_have_seen_what_it_is_about(&stage, compared.records)?;

        topic_deleted_under_load(&mut stage, compared.records)?;
        (0..3).try_for_each(|number| stage.stop_analyzer(number))?;
        stage.roll_up()?;
        stage.must_equal("after an orderly stop and another roll-up", &VIEWS).map(drop)
    })
}

#[test]
fn grpc_with_the_segment_log() -> Result<()> {
    with_seed("grpc", |cruelty| {
        let mut chance = Chance::new(&[cruelty.seed, 2]);
        let mut stage = Stage::start(cruelty.wish(false))?;
        stage.add_analyzer()?;
        (0..2).try_for_each(|process| stage.launch_senders(process))?;
        until_stored(&stage, 1_000)?;
        killed_at_exact_requests(&mut stage)?;
        acknowledged_too_late(&mut stage)?;
        stage.kill_at_random(&mut chance, cruelty.kills / 2)?;
        stage.finish_senders()?;
        stage.must_equal("over gRPC", &VIEWS)?;
        let duplicates = stage.clickhouse.number("SELECT sum(duplicate_batches) FROM ingest_blocks FINAL")?;
        if duplicates == 0 {
            return Err(Failure::new("nothing came twice, so nothing was tried"));
        }
        another_classification(&mut stage)?;
        stage.must_equal("after an upgrade of the classification", &VIEWS)?;
        stage.roll_up()?;
        stage.must_equal("and after everything was rolled up", &VIEWS)?;
        stage.stop_analyzer(0)
    })
}

/// The program itself: packets of real traffic, killed at random, alone or while one that it depends on is dead.
#[test]
fn the_real_sidecar_loses_its_last_moment_only() -> Result<()> {
    with_seed("sidecar", |cruelty| {
        let mut chance = Chance::new(&[cruelty.seed, 3]);
        let mut system = System::start(system::Wish { source: "pcap", kafka: true, application: false, rules: None })?;
        let traffic = Traffic::start(system.target(), Duration::from_millis(10));
        let mut gaps = Vec::new();
        for round in 0..(cruelty.kills / 2).max(3) {
            std::thread::sleep(Duration::from_millis(1_000 + chance.below(2_000)));
            let outage = Duration::from_millis(chance.below(6_000));
            let killed_ns = match (round + chance.below(2) as usize) % 4 {
                0 => {
                    let killed_ns = now_ns();
                    system.sidecar.process().kill()?;
                    killed_ns
                }
                1 => {
                    system.kafka.as_mut().context("no broker")?.kill()?;
                    std::thread::sleep(outage);
                    let killed_ns = now_ns();
                    system.sidecar.process().kill()?;
                    system.kafka.as_mut().context("no broker")?.launch(&system.run)?;
                    killed_ns
                }
                2 => {
                    system.analyzer.process().kill()?;
                    let killed_ns = now_ns();
                    system.sidecar.process().kill()?;
                    system.restart_analyzer()?;
                    killed_ns
                }
                _ => {
                    system.clickhouse.kill()?;
                    let killed_ns = now_ns();
                    system.sidecar.process().kill()?;
                    std::thread::sleep(outage);
                    system.clickhouse.launch(&system.run)?;
                    killed_ns
                }
            };
            system.restart_sidecar("pcap")?;
            gaps.push(Gap { killed_ns, ready_ns: now_ns() });
        }
        std::thread::sleep(traffic::UNSAFE);
        let asked = traffic.finish()?;
        let found = wait::until_stepwise("what the sidecars saw", Duration::from_secs(120), Duration::from_secs(1), || {
            traffic::compare(&system.clickhouse, &asked, &gaps).map(Some)
        })?;
        println!("{} kills: {found:?}", gaps.len());
        std::thread::sleep(Duration::from_secs(2));
        traffic::compare(&system.clickhouse, &asked, &gaps)?;
        if found.due < 100 {
            return Err(Failure(format!("only {} of {} requests had to be there", found.due, asked.len())));
        }
        Ok(())
    })
}

/// Beside the rows of the open block lie others, as a program with other rules would have left them.
fn another_classification(stage: &mut Stage) -> Result<()> {
    stage.stop_analyzer(0)?;
    let open = "(SELECT min(block) FROM ingest_blocks FINAL WHERE complete = 0)";
    let rows = format!(
        "INSERT INTO request_histograms SELECT * REPLACE (concat('old ', endpoint) AS endpoint, toUInt16(0) AS classification) \
         FROM request_histograms FINAL WHERE block >= {open}"
    );
    stage.clickhouse.execute(&rows)?;
    if stage.clickhouse.number("SELECT count() FROM red WHERE startsWith(endpoint, 'old ')")? == 0 {
        return Err(Failure::new("no row of another classification, so nothing is tried"));
    }
    stage.launch_analyzer(0)?;
    stage.until_ready(0)
}

#[test]
fn what_does_not_fit_is_counted_and_named() -> Result<()> {
    with_seed("shed", |cruelty| {
        let wish = Wish { sender_processes: 1, spool_bytes: 96 << 10, shed: true, forget: 0, rate: 200, ..cruelty.wish(false) };
        let mut stage = Stage::start(wish)?;
        stage.add_analyzer()?;
        stage.launch_senders(0)?;
        until_stored(&stage, 200)?;
        stage.kill_analyzer(0)?;
        // Both budgets of all four senders have to be used up, and something more has to be made then.
        wait::until_true("full spools", Duration::from_secs(60), || Ok(stage.spool_bytes()? > 4 * (90 << 10)))?;
        std::thread::sleep(Duration::from_secs(2));
        stage.launch_analyzer(0)?;
        stage.until_ready(0)?;
        let before = stage.clickhouse.number("SELECT sum(count) FROM red")?;
        until_stored(&stage, before + 500)?;
        let shed = stage.finish_senders()?;
        if shed == 0 {
            return Err(Failure::new("nothing was shed, so nothing was tried"));
        }
        wait::until_stepwise("the shed batches are named", Duration::from_secs(60), Duration::from_secs(1), || {
            let named = stage.clickhouse.number("SELECT sum(missing) FROM sender_sequences")?;
            let truth = stage.truth()?;
            let (batches, records) = truth.not_received(&stage.clickhouse)?;
            if (batches, records) == (named, shed) {
                return truth.missing_are_named(&stage.clickhouse, &BTreeMap::new()).map(|_| Some(()));
            }
            Err(Failure(format!("{batches} batches with {records} records did not arrive; named are {named}, shed were {shed} records")))
        })
    })
}

fn until_stored(stage: &Stage, records: u64) -> Result<()> {
    wait::until_stepwise("records in ClickHouse", Duration::from_secs(120), Duration::from_millis(500), || {
        let stored = stage.clickhouse.number("SELECT sum(count) FROM red")?;
        if stored >= records { Ok(Some(())) } else { Err(Failure(format!("{stored} of {records}"))) }
    })
}

/// Between requests and histograms, between rows and manifest, and between the manifest and the commit.
fn killed_at_exact_requests(stage: &mut Stage) -> Result<()> {
    for (words, moment) in [(HISTOGRAMS, Moment::BeforeRequest), (MANIFESTS, Moment::BeforeRequest), (MANIFESTS, Moment::BeforeAnswer)] {
        stage.kill_analyzer_at(0, &words, moment)?;
        stage.until_ready(0)?;
    }
    Ok(())
}

/// SIGSTOP until its partitions have gone to another and were worked on there, then it wakes up with what it had in hand.
fn an_owner_sleeps(stage: &mut Stage, time: Duration) -> Result<()> {
    let ingested = |stage: &Stage, number| Ok(stage.metrics(number)?.sum("podtap_ingest_records_total") as u64);
    let busy = |stage: &Stage| {
        let mut busiest = (0, 0);
        for number in 0..stage.seats.len() {
            busiest = busiest.max((ingested(stage, number)?, number));
        }
        Ok::<_, Failure>(busiest)
    };
    let (_, owner) = wait::until("an owner that has read something", Duration::from_secs(60), || {
        let busiest = busy(stage)?;
        Ok((busiest.0 > 500).then_some(busiest))
    })?;
    stage.analyzer(owner)?.signal(libc::SIGSTOP);
    std::thread::sleep(time);
    let others = |stage: &Stage| -> Result<u64> {
        (0..stage.seats.len()).filter(|number| *number != owner).map(|number| ingested(stage, number)).sum()
    };
    let before = others(stage)?;
    wait::until_true("the others read on", Duration::from_secs(60), || Ok(others(stage)? > before + 200))?;
    stage.analyzer(owner)?.signal(libc::SIGCONT);
    Ok(())
}

fn admin(stage: &Stage) -> Result<AdminClient<DefaultClientContext>> {
    let brokers = stage.kafka.as_ref().context("no broker")?.address().to_string();
    ClientConfig::new().set("bootstrap.servers", brokers).create().context("an admin client")
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    Ok(runtime.block_on(future))
}

fn add_partitions(stage: &Stage, count: usize) -> Result<()> {
    let admin = admin(stage)?;
    let answers = block_on(async { admin.create_partitions([&NewPartitions::new(TOPIC, count)], &AdminOptions::new()).await })?;
    answers.context("adding partitions")?.remove(0).map(drop).map_err(|(_, code)| Failure(format!("adding partitions: {code}")))
}

fn delete_topic(stage: &Stage) -> Result<()> {
    let admin = admin(stage)?;
    let answers = block_on(async { admin.delete_topics(&[TOPIC], &AdminOptions::new()).await })?;
    answers.context("deleting the topic")?.remove(0).map(drop).map_err(|(_, code)| Failure(format!("deleting the topic: {code}")))
}

/// The topic is deleted while senders send. What they were told is stored, and no analyzer had read yet, is gone with it: that cannot be
/// had back, so it is counted, has to be of the right time, and the analyzer has to name it to the last batch. All else is equal.
fn topic_deleted_under_load(stage: &mut Stage, stored: u64) -> Result<()> {
    // One that was stored in the old topic and forgotten would be sent to the new one, where nobody knows it.
    stage.forget_nothing();
    (0..2).try_for_each(|process| stage.launch_senders(process))?;
    until_stored(stage, stored + 1_000)?;
    let before = (0..stage.seats.len()).map(|number| Ok(stage.analyzer(number)?.log().len())).collect::<Result<Vec<_>>>()?;
    let deleted_ns = now_ns();
    delete_topic(stage)?;
    until_made_anew(stage, &before)?;
    let anew_ns = now_ns();
    stage.reached("the topic was deleted under load and made anew");
    let stored = stage.clickhouse.number("SELECT sum(count) FROM red")?;
    until_stored(stage, stored + 1_000)?;
    stage.finish_senders()?;
    let (batches, records) = stage.lose_with_topic(deleted_ns - MOST_LAG.as_nanos() as u64, anew_ns)?;
    stage.reached(&format!("{batches} batches with {records} records were acknowledged, not read, and gone with the topic"));
    stage.must_equal("after the topic was made anew", &VIEWS)?;
    stage.missing_must_be_named()
}

/// The analyzers make the topic anew, which they say in what they log beyond `before`; senders do not.
fn until_made_anew(stage: &Stage, before: &[usize]) -> Result<()> {
    wait::until_true("every analyzer reads the new topic", Duration::from_secs(120), || {
        for (seat, before) in stage.seats.iter().zip(before) {
            let log = stage.analyzer(seat.number())?.log();
            let log = log.get(*before..).unwrap_or_default();
            let Some((_, after)) = log.rsplit_once("deleted and made anew").or_else(|| log.rsplit_once("cannot read from Kafka")) else {
                return Ok(false);
            };
            if !after.contains("partitions assigned") {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    (0..stage.seats.len()).try_for_each(|number| stage.until_ready(number))
}

/// The broker is away until the spools are full; the senders die, and start again while it is still away.
fn senders_restart_with_full_spools(stage: &mut Stage, spool_bytes: u64) -> Result<()> {
    stage.kill_kafka()?;
    let full = u64::from(stage.sender_count()) * spool_bytes * 85 / 100;
    wait::until_true("full spools", Duration::from_secs(120), || Ok(stage.spool_bytes()? > full))?;
    (0..2).try_for_each(|process| stage.kill_senders(process))?;
    (0..2).try_for_each(|process| stage.launch_senders(process))?;
    std::thread::sleep(Duration::from_secs(1));
    stage.launch_kafka()
}

/// The analyzer stores batches and its acknowledgements get lost; then the senders die, and send the same again from their spools.
fn acknowledged_too_late(stage: &mut Stage) -> Result<()> {
    stage.seats[0].from_senders.go_deaf();
    let ingested = |stage: &Stage| Ok::<_, Failure>(stage.metrics(0)?.sum("podtap_ingest_batches_total"));
    let before = ingested(stage)?;
    wait::until_true("batches whose acknowledgement is lost", Duration::from_secs(60), || Ok(ingested(stage)? > before + 20.0))?;
    stage.kill_senders(0)?;
    if stage.seats[0].from_senders.listen_again() == 0 {
        return Err(Failure::new("no acknowledgement was lost"));
    }
    stage.launch_senders(0)
}

/// A test that never saw a repeat, a wrong clock or a complete block has shown little.
fn must_have_seen_what_it_is_about(stage: &Stage, records: u64) -> Result<()> {
    for (what, sql) in [
        ("batches that came twice", "SELECT sum(duplicate_batches) FROM ingest_blocks FINAL"),
        ("records of a clock ahead", "SELECT sum(clamped_records) FROM ingest_blocks FINAL"),
        ("complete blocks", "SELECT countIf(complete) FROM ingest_blocks FINAL"),
        ("partitions that were added", "SELECT max(partition) >= 4 FROM ingest_blocks"),
        ("records that were late", "SELECT sum(count) FROM red WHERE window < (SELECT min(first_message_time) FROM ingest_blocks) - 300"),
    ] {
        let number = stage.clickhouse.number(sql)?;
        println!("{what}: {number}");
        if number == 0 {
            return Err(Failure(format!("of {records} records there were no {what}")));
        }
    }
    let until = stage.clickhouse.number("SELECT countIf(window > now() + 10) FROM red")?;
    if until > 0 { Err(Failure(format!("{until} rows lie in the future"))) } else { Ok(()) }
}
