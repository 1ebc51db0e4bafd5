//! Everything that a fault test kills: senders, a broker, analyzers, the ClickHouse endpoint; and what it notes of each kill.
//!
//! Each analyzer reaches ClickHouse, and is reached over gRPC, through a proxy of its own, so that it can be killed at an exact request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::chance::Chance;
use super::journal::{boot_text, folder, read, spooled};
use super::verify::{Compared, Truth, View};
use crate::clickhouse::ClickHouse;
use crate::kafka::Kafka;
use crate::metrics::Metrics;
use crate::pod::free_port;
use crate::process::{Process, Spec, run_to_end};
use crate::proxy::{Moment, Proxy};
use crate::run::{Run, binary};
use crate::{Context, Failure, Result, http, wait};

/// Senders in one process.
pub const SENDERS_A_PROCESS: u32 = 4;
/// How long anything may take to come back.
const COMEBACK: Duration = Duration::from_secs(120);

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Of everything random.
    pub seed: u64,
    /// Over Kafka instead of gRPC.
    pub kafka: bool,
    /// Processes of senders.
    pub sender_processes: u32,
    /// Batches a second of each sender.
    pub rate: u32,
    /// Budget of each spool on disk.
    pub spool_bytes: u64,
    /// Senders shed what does not fit, instead of waiting.
    pub shed: bool,
    /// How many acknowledgements of a hundred senders forget.
    pub forget: u64,
    /// How long the consumer group waits for a silent member.
    pub session: Duration,
}

/// An analyzer's place: addresses and data stay when it is killed.
#[derive(Debug)]
pub struct Seat {
    number: usize,
    http: SocketAddrV4,
    grpc: SocketAddrV4,
    data: PathBuf,
    /// Between it and ClickHouse.
    pub to_clickhouse: Proxy,
    /// Between senders and it.
    pub from_senders: Proxy,
    process: Option<Process>,
}

/// Everything; dropped from top to bottom.
#[derive(Debug)]
pub struct Stage {
    senders: Vec<Option<Process>>,
    /// The analyzers.
    pub seats: Vec<Seat>,
    /// The broker.
    pub kafka: Option<Kafka>,
    /// The endpoint.
    pub clickhouse: ClickHouse,
    wish: Wish,
    journals: PathBuf,
    killed: BTreeSet<[u8; 16]>,
    on_disk: BTreeSet<([u8; 16], u64)>,
    ends: BTreeMap<[u8; 16], u64>,
    lost: BTreeSet<([u8; 16], u64)>,
    kills: usize,
    started: Instant,
    /// Scratch folder.
    pub run: Run,
}

impl Stage {
    /// Starts the endpoint and, if wished, a broker; no analyzer and no sender yet.
    pub fn start(wish: Wish) -> Result<Self> {
        let run = Run::start()?;
        let clickhouse = ClickHouse::start(&run)?;
        let kafka = if wish.kafka { Some(Kafka::start(&run, Ipv4Addr::LOCALHOST)?) } else { None };
        let journals = run.folder("senders")?;
        let senders = (0..wish.sender_processes).map(|_| None).collect();
        Ok(Self {
            senders,
            seats: Vec::new(),
            kafka,
            clickhouse,
            wish,
            journals,
            killed: BTreeSet::new(),
            on_disk: BTreeSet::new(),
            ends: BTreeMap::new(),
            lost: BTreeSet::new(),
            kills: 0,
            started: Instant::now(),
            run,
        })
    }

    /// How many processes were killed with SIGKILL so far.
    pub fn kills(&self) -> usize {
        self.kills
    }

    /// All senders.
    pub fn sender_count(&self) -> u32 {
        self.wish.sender_processes * SENDERS_A_PROCESS
    }

    /// One more analyzer; waits until it is ready.
    pub fn add_analyzer(&mut self) -> Result<()> {
        let number = self.seats.len();
        let grpc = free_port(Ipv4Addr::LOCALHOST)?;
        let seat = Seat {
            number,
            http: free_port(Ipv4Addr::LOCALHOST)?,
            grpc,
            data: self.run.folder(&format!("analyzer-{number}"))?,
            to_clickhouse: Proxy::start(self.clickhouse.address())?,
            from_senders: Proxy::start(grpc)?,
            process: None,
        };
        self.seats.push(seat);
        self.launch_analyzer(number)?;
        self.until_ready(number)
    }

    /// Starts an analyzer that was killed; does not wait.
    pub fn launch_analyzer(&mut self, number: usize) -> Result<()> {
        let seat = &self.seats[number];
        let mut spec = Spec::new(binary("podtap-analyzer")?, ["run", "--evaluation-interval=5s", "--rollup-interval=2s", "--log=info"])
            .argument(format!("--clickhouse-url=http://{}", seat.to_clickhouse.address()))
            .argument(format!("--http-listen={}", seat.http))
            .argument(format!("--grpc-listen={}", seat.grpc))
            .argument(format!("--data-dir={}", seat.data.display()))
            .folder(&seat.data);
        if let Some(kafka) = &self.kafka {
            spec = spec
                .argument(format!("--kafka-brokers={}", kafka.address()))
                .argument("--kafka-partitions=4")
                .argument("--kafka-replication=1")
                .argument(format!(
                    "--kafka-option=session.timeout.ms={},heartbeat.interval.ms={}",
                    self.wish.session.as_millis(),
                    self.wish.session.as_millis() / 4
                ));
        }
        self.seats[number].process = Some(Process::start(&self.run, &format!("analyzer-{number}"), &spec)?);
        Ok(())
    }

    /// Waits until an analyzer is ready.
    pub fn until_ready(&self, number: usize) -> Result<()> {
        let seat = &self.seats[number];
        let process = seat.process.as_ref().context("an analyzer that does not run cannot become ready")?;
        process.until(&format!("analyzer {number} is ready"), COMEBACK, || {
            let answer = http::get(seat.http, "/readyz?verbose")?;
            if answer.status == 200 { Ok(Some(())) } else { Err(Failure(format!("/readyz: {}", answer.body.trim()))) }
        })
    }

    /// Its own figures.
    pub fn metrics(&self, number: usize) -> Result<Metrics> {
        Metrics::scrape(self.seats[number].http)
    }

    /// The process of an analyzer that runs.
    pub fn analyzer(&self, number: usize) -> Result<&Process> {
        self.seats[number].process.as_ref().context("the analyzer does not run")
    }

    /// SIGKILL.
    pub fn kill_analyzer(&mut self, number: usize) -> Result<()> {
        let process = self.seats[number].process.take().context("the analyzer does not run")?;
        self.kills += 1;
        process.kill()
    }

    /// Kills an analyzer at the next request to ClickHouse that holds the words, and starts it again.
    pub fn kill_analyzer_at(&mut self, number: usize, words: &[&str], moment: Moment) -> Result<()> {
        let seat = &self.seats[number];
        let pid = self.analyzer(number)?.pid() as i32;
        let before = seat.to_clickhouse.sprung();
        // SAFETY: plain system call; the process is not waited for before the trap has sprung, so the pid is still its.
        seat.to_clickhouse.set_trap(words, moment, move || unsafe {
            libc::kill(pid, libc::SIGKILL);
        });
        wait::until_true(&format!("a request with {words:?}"), COMEBACK, || Ok(seat.to_clickhouse.sprung() > before))?;
        self.kill_analyzer(number)?;
        self.launch_analyzer(number)
    }

    /// SIGTERM; it has to end well.
    pub fn stop_analyzer(&mut self, number: usize) -> Result<()> {
        let process = self.seats[number].process.take().context("the analyzer does not run")?;
        match process.stop()?.code() {
            Some(0) => Ok(()),
            code => Err(Failure(format!("analyzer {number} ended with {code:?}:\n{}", process.log_tail()))),
        }
    }

    /// Starts a process of senders.
    pub fn launch_senders(&mut self, process: u32) -> Result<()> {
        let wish = self.wish;
        let spec = Spec::new(binary("podtap-fault-sender")?, ["--senders", &SENDERS_A_PROCESS.to_string()])
            .argument(format!("--first={}", process * SENDERS_A_PROCESS))
            .argument(format!("--seed={}", wish.seed))
            .argument(format!("--folder={}", self.journals.display()))
            .argument(format!("--rate={}", wish.rate))
            .argument(format!("--spool-bytes={}", wish.spool_bytes))
            .argument(match &self.kafka {
                Some(kafka) => format!("--kafka={}", kafka.address()),
                None => format!("--grpc=http://{}", self.seats[0].from_senders.address()),
            });
        let spec = spec.argument(format!("--forget={}", wish.forget));
        let spec = if wish.shed { spec.argument("--shed") } else { spec };
        let started = Process::start(&self.run, &format!("senders-{process}"), &spec.folder(&self.journals))?;
        self.senders[process as usize] = Some(started);
        Ok(())
    }

    /// SIGKILL to a process of senders; notes what it had on disk.
    pub fn kill_senders(&mut self, process: u32) -> Result<()> {
        let running = self.senders[process as usize].take().context("the senders do not run")?;
        running.kill()?;
        self.kills += 1;
        for sender in process * SENDERS_A_PROCESS..(process + 1) * SENDERS_A_PROCESS {
            if let Some(last) = read(&self.journals, sender)?.made.last() {
                self.killed.insert(last.boot);
            }
            for (boot, found) in spooled(&folder(&self.journals, sender).join("spool"))? {
                self.on_disk.extend(found.batches.into_iter().map(|sequence| (boot, sequence)));
                let end = self.ends.entry(boot).or_default();
                *end = found.made.max(*end);
            }
        }
        Ok(())
    }

    /// From now on senders that are started lose no acknowledgement on purpose.
    pub fn forget_nothing(&mut self) {
        self.wish.forget = 0;
    }

    /// What was lost with a topic that was deleted while senders sent: acknowledged between the two times, and never read. Waits until
    /// nothing else is missing; from now on it is not due. Says how many batches and records that are.
    pub fn lose_with_topic(&mut self, from_ns: u64, until_ns: u64) -> Result<(u64, u64)> {
        let truth = self.truth()?;
        let lost = wait::until_stepwise("all but what the topic took with it", COMEBACK, Duration::from_secs(1), || {
            let absent = truth.absent(&self.clickhouse)?;
            let in_time = |batch| truth.acknowledged_at(batch).is_some_and(|at| (from_ns..until_ns).contains(&at));
            match absent.iter().find(|batch| !in_time(batch)) {
                Some((boot, sequence)) => {
                    let boot = boot_text(boot);
                    Err(Failure(format!("{} are missing, of which {sequence} of {boot} was not in the deleted topic", absent.len())))
                }
                None => Ok(Some(absent)),
            }
        })?;
        let records = truth.records(&lost);
        let batches = lost.len() as u64;
        self.lost.extend(lost);
        Ok((batches, records))
    }

    /// Waits until what `sender_sequences` calls missing is what is missing, the ends of killed senders' boots included.
    pub fn missing_must_be_named(&self) -> Result<()> {
        let truth = self.truth()?;
        wait::until_stepwise("what is missing is named", COMEBACK, Duration::from_secs(1), || {
            truth.missing_are_named(&self.clickhouse, &self.ends).map(Some)
        })
        .map(|named| self.reached(&format!("{} missing batches are named, {} of them at the end of a boot", named.all, named.at_ends)))
    }

    /// SIGTERM to all senders: they end when all is acknowledged. Says how many records they shed.
    pub fn finish_senders(&mut self) -> Result<u64> {
        let running: Vec<_> = self.senders.iter_mut().filter_map(Option::take).collect();
        running.iter().for_each(|process| process.signal(libc::SIGTERM));
        let mut shed = 0;
        for process in running {
            let status = process.wait(COMEBACK)?;
            if status.code() != Some(0) {
                return Err(Failure(format!("{} ended with {status}:\n{}", process.name(), process.log_tail())));
            }
            let log = process.log();
            let line = log.lines().rev().find_map(|line| line.strip_prefix("shed ")).context("the senders say how much they shed")?;
            shed += line.parse::<u64>().context("how much was shed")?;
        }
        Ok(shed)
    }

    /// Says what has been reached, and how long it took from the start.
    pub fn reached(&self, what: &str) {
        println!("{:6.1} s: {what}", self.started.elapsed().as_secs_f64());
    }

    /// Bytes in the spools of all senders.
    pub fn spool_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for sender in 0..self.sender_count() {
            let Ok(entries) = std::fs::read_dir(folder(&self.journals, sender).join("spool")) else { continue };
            bytes += entries.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).sum::<u64>();
        }
        Ok(bytes)
    }

    /// Random kills, one after the other, each followed by a start.
    pub fn kill_at_random(&mut self, chance: &mut Chance, kills: usize) -> Result<()> {
        let until = self.kills + kills;
        while self.kills < until {
            std::thread::sleep(Duration::from_millis(200 + chance.below(1_800)));
            let analyzer = chance.below(self.seats.len() as u64) as usize;
            let senders = chance.below(u64::from(self.wish.sender_processes)) as u32;
            let pause = Duration::from_millis(chance.below(1_500));
            match (chance.below(10), self.kafka.is_some()) {
                (0, true) => {
                    self.kill_kafka()?;
                    std::thread::sleep(pause);
                    self.launch_kafka()?;
                }
                (1 | 2, _) => {
                    self.clickhouse.kill()?;
                    self.kills += 1;
                    std::thread::sleep(pause);
                    self.clickhouse.launch(&self.run)?;
                }
                (3 | 4, _) => {
                    self.kill_senders(senders)?;
                    std::thread::sleep(pause);
                    self.launch_senders(senders)?;
                }
                _ => {
                    self.kill_analyzer(analyzer)?;
                    std::thread::sleep(pause);
                    self.launch_analyzer(analyzer)?;
                }
            }
        }
        Ok(())
    }

    /// SIGKILL to the broker.
    pub fn kill_kafka(&mut self) -> Result<()> {
        self.kills += 1;
        self.kafka.as_mut().context("there is no broker")?.kill()
    }

    /// Starts the broker again.
    pub fn launch_kafka(&mut self) -> Result<()> {
        self.kafka.as_mut().context("there is no broker")?.launch(&self.run)
    }

    /// Rolls up everything that is due, the running hour included.
    pub fn roll_up(&self) -> Result<()> {
        let spec = Spec::new(binary("podtap-analyzer")?, ["rollup", "--clickhouse-url", &self.clickhouse.url()]).folder(self.run.root());
        let output = run_to_end(&self.run, &spec, COMEBACK)?;
        if output.code == 0 { Ok(()) } else { Err(Failure(format!("rollup: {}{}", output.stdout, output.stderr))) }
    }

    /// What the senders noted so far.
    pub fn truth(&self) -> Result<Truth> {
        Truth::read(&self.journals, self.sender_count(), self.wish.seed, &self.killed, &self.on_disk, &self.lost)
    }

    /// What the analyzers say of themselves, for messages.
    fn state(&self) -> String {
        let of = |seat: &Seat| {
            let ready = http::get(seat.http, "/readyz?verbose").map_or_else(|failure| failure.0, |answer| answer.body);
            let lag = Metrics::scrape(seat.http).map_or(0.0, |metrics| metrics.sum("podtap_ingest_lag"));
            let log = seat.process.as_ref().map(Process::log_tail).unwrap_or_default();
            format!("analyzer {}: lag {lag}, {}; it said:\n{log}", seat.number, ready.replace('\n', " "))
        };
        self.seats.iter().map(of).collect::<Vec<_>>().join("\n")
    }

    /// Waits until every bucket equals what was made, and looks again a moment later, in case something is counted twice.
    pub fn must_equal(&self, what: &str, views: &[View]) -> Result<Compared> {
        let truth = self.truth()?;
        let mut stored = 0;
        let compared = loop {
            // As long as more is stored it is only late.
            let waited = wait::until_stepwise(what, COMEBACK, Duration::from_secs(1), || {
                // The first view alone tells whether to wait on; all of them take their time.
                truth.compare(&self.clickhouse, &views[..1])?;
                truth.compare(&self.clickhouse, views).map(Some)
            });
            let now_stored = self.clickhouse.number("SELECT sum(count) FROM red")?;
            match waited {
                Ok(compared) => break compared,
                Err(failure) if now_stored == stored => return Err(Failure(format!("{failure}; {}", self.state()))),
                Err(_) => stored = now_stored,
            }
        };
        std::thread::sleep(Duration::from_secs(2));
        truth.compare(&self.clickhouse, &views[..1]).context(format!("{what}, a moment later"))?;
        self.reached(&format!("{what}: {compared:?}, {} batches were due, {} kills so far", truth.due(), self.kills));
        Ok(compared)
    }
}

impl Seat {
    /// Which one.
    pub fn number(&self) -> usize {
        self.number
    }
}
