//! Senders of the fault tests: batches with a known content, through the sidecar's own spool, sender thread and transports.
//!
//! Ends by itself on SIGTERM, when all is acknowledged; on SIGKILL it leaves its journal and its spool for the next start. It forgets
//! acknowledgements now and then, as if they had come too late, so that batches are sent twice.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use podtap_sidecar::telemetry::Telemetry;
use podtap_sidecar::transport::grpc::GrpcSink;
use podtap_sidecar::transport::kafka::{KafkaConfig, KafkaSink};
use podtap_sidecar::transport::sender::{Sender, WhenFull};
use podtap_sidecar::transport::spool::{Spool, SpoolConfig};
use podtap_sidecar::transport::{Batch, BatchId, LinkState, Offer, Sink, SinkEvent};
use podtap_tests::faults::chance::Chance;
use podtap_tests::faults::content::{records, resource, sender_id};
use podtap_tests::faults::journal::{BatchName, Journal, folder, read};
use podtap_tests::wait::{interrupt_on_signals, interrupted};
use podtap_tests::{Context, Failure, Result};
use podtap_wire::BatchBuilder;

/// Little, so that the queue is full before what is in it has waited for long.
const QUEUE_BYTES: usize = 32 << 10;
const SPOOL_AFTER: Duration = Duration::from_secs(1);
const NEVER: Duration = Duration::from_secs(3600);

#[derive(Debug, Parser)]
struct Arguments {
    /// Kafka's bootstrap server
    #[arg(long)]
    kafka: Option<String>,
    /// http://HOST:PORT of an analyzer
    #[arg(long)]
    grpc: Option<String>,
    #[arg(long, default_value = "podtap.requests")]
    topic: String,
    /// Number of the first sender
    #[arg(long)]
    first: u32,
    /// How many senders
    #[arg(long)]
    senders: u32,
    #[arg(long)]
    seed: u64,
    /// Folder of journals and spools
    #[arg(long)]
    folder: PathBuf,
    /// Batches a second of each sender
    #[arg(long)]
    rate: u32,
    /// Budget of each spool on disk
    #[arg(long)]
    spool_bytes: u64,
    /// Shed what does not fit, instead of waiting
    #[arg(long)]
    shed: bool,
    /// How many acknowledgements of a hundred are forgotten
    #[arg(long, default_value_t = 0)]
    forget: u64,
}

fn main() -> ExitCode {
    interrupt_on_signals();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("podtap-fault-sender: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("starting a runtime")?;
    let outcomes: Vec<Result<u64>> = std::thread::scope(|scope| {
        let numbers = arguments.first..arguments.first + arguments.senders;
        let handle = runtime.handle();
        let threads: Vec<_> = numbers.map(|number| scope.spawn(move || serve(arguments, number, handle))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(Failure::new("a sender panicked"))));
        ended.collect()
    });
    let mut shed = 0;
    for outcome in outcomes {
        shed += outcome?;
    }
    println!("shed {shed}");
    Ok(())
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// One sender, to its end; says how many records it shed.
fn serve(arguments: &Arguments, number: u32, runtime: &tokio::runtime::Handle) -> Result<u64> {
    let place = folder(&arguments.folder, number);
    let mut journal = Journal::open(&place)?;
    let started_ns = now_ns();
    // The same seed gives the same boots, and with them the same records but for their time.
    let boots: BTreeSet<_> = read(&arguments.folder, number)?.made.iter().map(|name| name.boot).collect();
    let mut chance = Chance::new(&[arguments.seed, u64::from(number), boots.len() as u64]);
    let boot = (u128::from(chance.next()) << 64 | u128::from(chance.next())).to_be_bytes();
    let spool = SpoolConfig {
        queue_bytes: QUEUE_BYTES,
        directory: Some(place.join("spool")),
        spool_bytes: arguments.spool_bytes,
        spool_after: SPOOL_AFTER,
        started_ns,
    };
    let spool = Spool::open(spool).context("opening the spool")?;
    let sink = sink(arguments, number, &place, runtime)?;
    let sink = Forgetful { sink, ends: BTreeSet::new(), journal: journal.twin()?, chance: chance.clone(), percent: arguments.forget };
    let telemetry = Arc::new(Telemetry::new());
    let (batches, queue) = sync_channel(16);
    let when_full = if arguments.shed { WhenFull::Shed } else { WhenFull::Wait };
    let sender = Sender::new(spool, Box::new(sink), queue, Arc::clone(&telemetry), when_full);
    let thread = std::thread::spawn(move || sender.run(|| false, NEVER));
    make(arguments, number, boot, &mut journal, &batches, &telemetry)?;
    drop(batches);
    let left = thread.join().map_err(|_| Failure::new("the sender's thread panicked"))?;
    if left.lost > 0 {
        return Err(Failure(format!("sender {number} lost {} records at its end", left.lost)));
    }
    Ok(telemetry.get("podtap_records_dropped_total", "queue_full"))
}

fn sink(arguments: &Arguments, number: u32, place: &std::path::Path, runtime: &tokio::runtime::Handle) -> Result<Box<dyn Sink>> {
    if let Some(endpoint) = &arguments.grpc {
        return Ok(Box::new(GrpcSink::new(endpoint, runtime).map_err(Failure)?));
    }
    let config = KafkaConfig {
        brokers: arguments.kafka.clone().context("neither --kafka nor --grpc")?,
        topic: arguments.topic.clone(),
        sender_id: sender_id(number),
        directory: Some(place.join("spool")),
        options: Vec::new(),
    };
    Ok(Box::new(KafkaSink::new(config).map_err(Failure)?))
}

/// Makes batches until told to stop.
fn make(
    arguments: &Arguments,
    number: u32,
    boot: [u8; 16],
    journal: &mut Journal,
    batches: &SyncSender<Batch>,
    telemetry: &Telemetry,
) -> Result<()> {
    let mut builder = BatchBuilder::new(sender_id(number), boot, resource(number));
    let pause = Duration::from_secs(1) / arguments.rate.max(1);
    let mut records_made = 0;
    for sequence in 1.. {
        if interrupted() {
            return Ok(());
        }
        let name = BatchName { sender: number, boot, sequence, time_ns: now_ns() };
        let made = records(arguments.seed, &name);
        made.iter().for_each(|made| builder.push(&made.record()));
        records_made += made.len() as u64;
        telemetry.set("podtap_records_total", "http", records_made);
        let batch = builder.finish(sequence, name.time_ns, telemetry.samples());
        journal.made(&boot, sequence, name.time_ns)?;
        let batch = Batch { id: BatchId { boot, sequence }, rows: batch.rows, bytes: batch.bytes.into() };
        batches.send(batch).context("handing a batch to the sender's thread")?;
        std::thread::sleep(pause);
    }
    Ok(())
}

/// A sink that notes acknowledgements, and loses some of them: then all that is not acknowledged is offered again.
struct Forgetful {
    sink: Box<dyn Sink>,
    /// The ends of killed boots, which are no batches and have a number that perhaps one had that was lost.
    ends: BTreeSet<([u8; 16], u64)>,
    journal: Journal,
    chance: Chance,
    percent: u64,
}

impl Sink for Forgetful {
    fn offer(&mut self, batch: &Batch) -> Offer {
        if batch.rows == 0 {
            self.ends.insert((batch.id.boot, batch.id.sequence));
        }
        self.sink.offer(batch)
    }

    fn poll(&mut self, timeout: Duration, events: &mut Vec<SinkEvent>) {
        let mut found = Vec::new();
        self.sink.poll(timeout, &mut found);
        let mut forgot = false;
        for event in found {
            if let SinkEvent::Acknowledged(id) = &event {
                // At the end nothing is forgotten, or it would take long to end.
                if !interrupted() && self.chance.percent(self.percent) {
                    forgot = true;
                    continue;
                }
                if self.ends.contains(&(id.boot, id.sequence)) {
                    events.push(event);
                    continue;
                }
                if let Err(failure) = self.journal.acknowledged(&id.boot, id.sequence, now_ns()) {
                    eprintln!("podtap-fault-sender: {failure}");
                    std::process::abort();
                }
            }
            events.push(event);
        }
        if forgot {
            events.push(SinkEvent::Restart);
        }
    }

    fn state(&self) -> LinkState {
        self.sink.state()
    }
}
