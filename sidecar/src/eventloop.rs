//! The only place with threads, sockets and time: drives the pure core with packets from a source, and carries its records away.
//!
//! Live capture never waits for the far side: batches go through a bounded channel to the sender's thread, and what does not fit is shed
//! with a count. A file waits instead.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use podtap_wire::{Protocol, RequestRecord};

use crate::capture::own_traffic::OwnTraffic;
use crate::capture::{self, CaptureError, CaptureRequest, Source, SourceState, pcap_file};
use crate::config::{Settings, TransportChoice};
use crate::identity;
use crate::memory::Tide;
use crate::pipeline::{Pipeline, PipelineConfig, Skip};
use crate::print::condition::Condition;
use crate::print::json::JsonLines;
use crate::print::line::Lines;
use crate::telemetry::Telemetry;
use crate::transport::batcher::{Batcher, Limits};
use crate::transport::grpc::GrpcSink;
use crate::transport::print::PrintSink;
use crate::transport::sender::{Sender, WhenFull};
use crate::transport::spool::{Spool, SpoolConfig};
use crate::transport::{Batch, Sink};

/// Longest time without a look at the clock.
const TURN: Duration = Duration::from_millis(50);
/// How often the capture's figures are published.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);
/// Packets of that age may still be on their way out of the kernel's buffers, so time-outs of flows wait that much longer.
const CAPTURE_LATENCY: Duration = Duration::from_millis(250);
/// How long an orderly stop goes on reading at least: a packet may be in the kernel's buffer that long before it can be read,
const DRAIN: Duration = Duration::from_millis(150);
/// and at most, if what was captured before the stop has not been read by then.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Until the next try after a failure, with `keep_trying`.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// Closed batches between the capture and the sender.
const CHANNEL_BATCHES: usize = 32;

/// Why a run ended badly, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// Exit code (sysexits.h).
    pub code: u8,
    /// For the person.
    pub message: String,
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }
}

fn failure(code: u8, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into() }
}

/// Signals that asked for a stop. The first asks for an orderly one, the second ends the process.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicU32>);

impl Stop {
    /// Whether a stop was asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    fn watch(&self, runtime: &tokio::runtime::Handle) {
        use tokio::signal::unix::{SignalKind, signal};
        for (kind, number) in [(SignalKind::terminate(), 15), (SignalKind::interrupt(), 2)] {
            let stop = self.clone();
            runtime.spawn(async move {
                let Ok(mut signals) = signal(kind) else { return };
                while signals.recv().await.is_some() {
                    if stop.0.fetch_add(1, Ordering::Relaxed) > 0 {
                        std::process::exit(128 + number);
                    }
                }
            });
        }
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// A source and the core behind it.
struct Capture {
    source: Box<dyn Source>,
    live: bool,
    pipeline: Pipeline,
    own: OwnTraffic,
    skips: Vec<Skip>,
    tide: Tide,
    /// Time stamp of the last packet.
    newest: u64,
}

/// The end of an orderly stop's reading.
#[derive(Default)]
struct Drain {
    /// When the stop was seen, by both clocks.
    since: Option<(Instant, u64)>,
}

impl Drain {
    /// To be asked after each turn from the stop on: whether all that was captured before it has been read. `newest` are the time stamps
    /// of the last packet before and after the turn.
    fn is_over(&mut self, newest: (u64, u64), now: Instant, now_ns: u64) -> bool {
        let (since, stopped_ns) = *self.since.get_or_insert((now, now_ns));
        let waited = now.duration_since(since);
        let caught_up = newest.0 == newest.1 || newest.1 >= stopped_ns;
        waited >= DRAIN_LIMIT || (waited >= DRAIN && caught_up)
    }
}

/// Records made, by protocol. Whoever takes the records counts them, so that the figure is never behind what was passed on.
#[derive(Default)]
struct RecordCounts([u64; Protocol::ALL.len()]);

impl RecordCounts {
    fn add(&mut self, record: &RequestRecord<'_>) {
        if let Some(count) = self.0.get_mut(record.network_protocol_name as usize) {
            *count += 1;
        }
    }

    fn publish(&self, telemetry: &Telemetry) {
        for (protocol, count) in Protocol::ALL.iter().zip(self.0).filter(|(_, count)| *count > 0) {
            telemetry.set("podtap_records_total", protocol.as_str(), count);
        }
    }
}

impl Capture {
    /// Reads what is there, waiting at most `wait`; true when the source has ended.
    fn turn(&mut self, wait: Duration, on_record: &mut dyn FnMut(&RequestRecord<'_>)) -> Result<bool, CaptureError> {
        let Self { source, pipeline, own, skips, newest, .. } = self;
        let outcome = source.poll(wait, &mut |packet| {
            *newest = packet.timestamp_ns;
            if own.is_own(&packet) {
                return;
            }
            pipeline.handle_packet(&packet);
            drain(pipeline, on_record);
            while let Some(skip) = pipeline.next_skip() {
                skips.push(skip);
            }
        });
        for skip in self.skips.drain(..) {
            self.source.skip(&skip);
        }
        if self.live {
            let now = now_ns().saturating_sub(CAPTURE_LATENCY.as_nanos() as u64);
            if self.pipeline.poll_timeout().is_some_and(|due| due <= now) {
                self.pipeline.handle_timeout(now);
                drain(&mut self.pipeline, on_record);
            }
            self.tide.follow(self.pipeline.connections() as u64);
        }
        outcome.map(|state| state == SourceState::Ended)
    }

    /// Ends what is open in the core.
    fn finish(&mut self, on_record: &mut dyn FnMut(&RequestRecord<'_>)) {
        self.pipeline.finish();
        drain(&mut self.pipeline, on_record);
    }

    /// Shows the figures of source and core.
    fn publish(&mut self, telemetry: &Telemetry) {
        let counters = self.source.counters();
        for (name, label, value) in [
            ("podtap_packets_received_total", "", counters.received),
            ("podtap_packets_dropped_total", "kernel", counters.kernel_dropped),
            ("podtap_packets_dropped_total", "interface", counters.interface_dropped),
            ("podtap_packets_filtered_total", "", counters.filtered),
            ("podtap_skipped_packets_total", "", counters.skipped_packets),
            ("podtap_skipped_bytes_total", "", counters.skipped_bytes),
            ("podtap_packets_own_total", "", self.own.excluded()),
        ] {
            telemetry.set(name, label, value);
        }
        for figure in self.pipeline.account() {
            telemetry.set(figure.name, figure.label, figure.value);
        }
        telemetry.capture_turned();
    }
}

fn drain(pipeline: &mut Pipeline, on_record: &mut dyn FnMut(&RequestRecord<'_>)) {
    while let Some(record) = pipeline.next_record() {
        on_record(&record);
    }
}

/// Opens what the settings ask for; `own_ports` are those of the sidecar's own connections.
fn open(settings: &Settings, own_ports: &[u16], telemetry: &Telemetry) -> Result<Capture, Failure> {
    let mut config = PipelineConfig { unmask: settings.unmask, identity: settings.identity(), ..PipelineConfig::default() };
    let (source, live, what) = match &settings.read {
        Some(path) => {
            let filter = settings.filter.as_deref().map(capture::filter::Filter::new).transpose()?;
            (pcap_file::open(path, filter)?, false, format!("file {path}"))
        }
        None => {
            let request = CaptureRequest {
                choice: settings.source,
                interfaces: settings.interface.clone(),
                filter: settings.filter.clone(),
                ring_bytes: settings.ring_bytes.0 as usize,
            };
            let opened = capture::open_live(&request)?;
            if let Some(reason) = &opened.fallback {
                tracing::warn!("source ebpf is not possible, source pcap is used: {reason}");
            }
            config.local_addresses = opened.interfaces.iter().flat_map(|interface| interface.addresses.clone()).collect();
            let names: Vec<&str> = opened.interfaces.iter().map(|interface| interface.name.as_str()).collect();
            let what = format!("{} on {}", opened.source.kind(), names.join(", "));
            (opened.source, true, what)
        }
    };
    config.source = source.kind();
    tracing::info!("capturing: source {what}");
    telemetry.set("podtap_source_info", source.kind().as_str(), 1);
    telemetry.set_ready("source", Ok(what));
    let mut own = OwnTraffic::new(if live { own_ports } else { &[] });
    if live && own_ports.contains(&settings.admin_listen.port()) {
        own.listen(settings.admin_listen.port(), &config.local_addresses);
    }
    Ok(Capture { source, live, pipeline: Pipeline::new(config), own, skips: Vec::new(), tide: Tide::default(), newest: 0 })
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("io").enable_all().build();
    built.map_err(|error| failure(1, format!("cannot start the IO thread: {error}")))
}

/// Ports at which the sidecar itself has connections.
fn own_ports(settings: &Settings) -> Vec<u16> {
    let port = |address: &str| address.trim().rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse::<u16>().ok());
    let mut ports = vec![settings.admin_listen.port()];
    match settings.transport {
        TransportChoice::Kafka => ports.extend(settings.kafka_brokers.split(',').map(|broker| port(broker).unwrap_or(9092))),
        TransportChoice::Grpc => ports.extend(port(&settings.grpc_endpoint)),
        TransportChoice::Print => {}
    }
    ports
}

#[cfg(feature = "kafka")]
fn kafka_sink(settings: &Settings, sender_id: &str) -> Result<Box<dyn Sink>, Failure> {
    use crate::transport::kafka::{KafkaConfig, KafkaSink};
    let config = KafkaConfig {
        brokers: settings.kafka_brokers.clone(),
        topic: settings.kafka_topic.clone(),
        sender_id: sender_id.to_owned(),
        directory: settings.spool_dir.as_ref().map(|directory| directory.0.clone()),
        options: settings.kafka_option.iter().map(|option| (option.0.clone(), option.1.clone())).collect(),
    };
    Ok(Box::new(KafkaSink::new(config).map_err(|reason| failure(78, reason))?))
}

#[cfg(not(feature = "kafka"))]
fn kafka_sink(_: &Settings, _: &str) -> Result<Box<dyn Sink>, Failure> {
    Err(failure(78, "built without feature `kafka`"))
}

fn open_sink(settings: &Settings, sender_id: &str, runtime: &tokio::runtime::Handle) -> Result<Box<dyn Sink>, Failure> {
    match settings.transport {
        TransportChoice::Kafka => kafka_sink(settings, sender_id),
        TransportChoice::Grpc => match GrpcSink::new(&settings.grpc_endpoint, runtime) {
            Ok(sink) => Ok(Box::new(sink)),
            Err(reason) => Err(failure(78, format!("grpc_endpoint {reason}"))),
        },
        TransportChoice::Print => Ok(Box::new(PrintSink::new(io::stdout()))),
    }
}

/// Whether [`run`] would accept the settings, as far as that can be known without opening a source, a port or a folder.
pub fn check(settings: &Settings) -> Result<(), Failure> {
    settings.filter.as_deref().map(capture::filter::Filter::new).transpose()?;
    let runtime = runtime()?;
    open_sink(settings, "config-check", runtime.handle())?;
    runtime.shutdown_background();
    Ok(())
}

/// Opens the source that the settings ask for and closes it again; says what it was. Standard input is left alone, which can be read
/// only once.
pub fn try_source(settings: &Settings) -> Result<String, Failure> {
    if settings.read.as_deref() == Some("-") {
        return Ok("standard input, not tried".to_owned());
    }
    let capture = open(settings, &[], &Telemetry::new())?;
    Ok(format!("{} opened and closed again", capture.source.kind().as_str()))
}

/// The sidecar's main job: capture, decode, send. Ends on SIGTERM or SIGINT, or when a file was read and all of it is acknowledged. With
/// `keep_trying` no failure ends it.
pub fn run(settings: &Settings) -> Result<(), Failure> {
    loop {
        match run_once(settings) {
            Err(failure) if settings.keep_trying => {
                tracing::error!("{}; trying again in {} s", failure.message, TRY_AGAIN.as_secs());
                if is_stopped_meanwhile(settings, &failure)? {
                    return Ok(());
                }
            }
            outcome => return outcome,
        }
    }
}

/// Waits until it is time to try again, alive and not ready; true if a stop was asked for.
fn is_stopped_meanwhile(settings: &Settings, failure: &Failure) -> Result<bool, Failure> {
    let telemetry = Arc::new(Telemetry::new());
    let runtime = runtime()?;
    let stop = Stop::default();
    stop.watch(runtime.handle());
    telemetry.set_ready("sidecar", Err(failure.message.clone()));
    if let Err(failure) = serve_admin(settings, &telemetry, runtime.handle()) {
        tracing::warn!("{}", failure.message);
    }
    let again = Instant::now() + TRY_AGAIN;
    while Instant::now() < again && !stop.requested() {
        telemetry.capture_turned();
        std::thread::sleep(TURN);
    }
    // Its port is free again before the next try.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(stop.requested())
}

fn serve_admin(settings: &Settings, telemetry: &Arc<Telemetry>, runtime: &tokio::runtime::Handle) -> Result<(), Failure> {
    let listener = std::net::TcpListener::bind(settings.admin_listen)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|error| failure(69, format!("cannot listen on {} (admin_listen): {error}", settings.admin_listen)))?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!("admin listens on http://{address}");
    }
    let router = crate::admin::router(Arc::clone(telemetry));
    runtime.spawn(async move {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(axum::serve(listener, router).await),
            Err(error) => tracing::error!("the admin listener does not work: {error}"),
        }
    });
    Ok(())
}

fn run_once(settings: &Settings) -> Result<(), Failure> {
    let telemetry = Arc::new(Telemetry::new());
    let runtime = runtime()?;
    let stop = Stop::default();
    stop.watch(runtime.handle());
    let identity = settings.identity();
    let sender_id = identity::sender_id(&identity);
    let boot = identity::boot_id().map_err(|error| failure(1, format!("no random bytes for the boot id: {error}")))?;
    let started_ns = now_ns();
    telemetry.set("process_start_time_seconds", "", started_ns / 1_000_000_000);

    let mut capture = open(settings, &own_ports(settings), &telemetry)?;
    serve_admin(settings, &telemetry, runtime.handle())?;

    let directory = settings.spool_dir.as_ref().map(|directory| directory.0.clone());
    let place = directory.as_ref().map_or_else(String::new, |directory| directory.display().to_string());
    let config = SpoolConfig {
        queue_bytes: settings.queue_bytes.0 as usize,
        directory,
        spool_bytes: settings.spool_bytes.0,
        spool_after: settings.spool_after.0,
        started_ns,
    };
    let spool = Spool::open(config).map_err(|error| failure(78, format!("spool_dir {place}: {error}")))?;
    let sink = open_sink(settings, &sender_id, runtime.handle())?;
    telemetry.set("podtap_transport_info", &settings.transport.to_string(), 1);
    tracing::info!("sending: transport {}, sender {sender_id}", settings.transport);

    let (batches, receiver) = sync_channel(CHANNEL_BATCHES);
    let when_full = if capture.live { WhenFull::Shed } else { WhenFull::Wait };
    let sender = Sender::new(spool, sink, receiver, Arc::clone(&telemetry), when_full);
    let (stopping, grace) = (stop.clone(), settings.stop_grace.0);
    let sending = std::thread::Builder::new()
        .name("sender".to_owned())
        .spawn(move || sender.run(|| stopping.requested(), grace))
        .map_err(|error| failure(1, format!("cannot start the sender's thread: {error}")))?;

    let limits = Limits { age: settings.batch_age.0, ..Limits::default() };
    let batcher = Batcher::new(sender_id, boot, identity::resource(&identity), limits);
    let mut outlet = Outlet {
        batcher,
        batches,
        wait: !capture.live,
        stop: stop.clone(),
        telemetry: Arc::clone(&telemetry),
        records: RecordCounts::default(),
        closed: false,
    };
    let outcome = pump(&mut capture, &mut outlet, &telemetry, &stop);
    let live = capture.live;
    drop(outlet);
    // After a failure of the source nothing more comes: what was captured is delivered within the grace, as at a stop.
    if outcome.is_err() && live {
        stop.0.fetch_add(1, Ordering::Relaxed);
    }
    let left = sending.join().map_err(|_| failure(1, "the sender's thread failed"))?;
    runtime.shutdown_background();
    outcome?;
    if !live && left.lost > 0 {
        return Err(failure(1, format!("{} records were not acknowledged", left.lost)));
    }
    Ok(())
}

/// Where records go: into batches, and those into the sender's channel.
struct Outlet {
    batcher: Batcher,
    batches: SyncSender<Batch>,
    wait: bool,
    stop: Stop,
    telemetry: Arc<Telemetry>,
    records: RecordCounts,
    closed: bool,
}

impl Outlet {
    fn push(&mut self, record: &RequestRecord<'_>) {
        self.records.add(record);
        let now = Instant::now();
        self.batcher.push(record, now);
        if self.batcher.is_due(now) {
            self.close();
        }
    }

    fn close(&mut self) {
        self.records.publish(&self.telemetry);
        let Some(mut batch) = self.batcher.close(now_ns(), self.telemetry.samples()) else { return };
        loop {
            match self.batches.try_send(batch) {
                Ok(()) => return,
                Err(TrySendError::Full(returned)) if self.wait && !self.stop.requested() => {
                    batch = returned;
                    self.telemetry.capture_turned();
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(TrySendError::Full(returned)) => {
                    return self.telemetry.add("podtap_records_dropped_total", "queue_full", u64::from(returned.rows));
                }
                Err(TrySendError::Disconnected(_)) => return self.closed = true,
            }
        }
    }
}

fn pump(capture: &mut Capture, outlet: &mut Outlet, telemetry: &Telemetry, stop: &Stop) -> Result<(), Failure> {
    let mut published = Instant::now();
    capture.publish(telemetry);
    let mut drain = Drain::default();
    let outcome = loop {
        let before = capture.newest;
        let now = Instant::now();
        let due = outlet.batcher.deadline().map_or(TURN, |deadline| deadline.saturating_duration_since(now)).min(TURN);
        match capture.turn(due, &mut |record| outlet.push(record)) {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(Failure::from(error)),
        }
        let now = Instant::now();
        if outlet.batcher.is_due(now) {
            outlet.close();
        }
        if now.duration_since(published) >= PUBLISH_EVERY {
            published = now;
            capture.publish(telemetry);
        }
        if outlet.closed || (stop.requested() && (!capture.live || drain.is_over((before, capture.newest), now, now_ns()))) {
            break Ok(());
        }
    };
    capture.finish(&mut |record| outlet.push(record));
    capture.publish(telemetry);
    outlet.close();
    let state = outcome.as_ref().map(|()| "the capture has ended".to_owned()).map_err(|failure| failure.message.clone());
    telemetry.set_ready("source", Err(state.unwrap_or_else(|message| message)));
    outcome
}

/// How `print` shows records.
pub struct PrintOptions {
    /// One JSON object a line.
    pub json: bool,
    /// No records at all.
    pub quiet: bool,
    /// The account on standard error at the end.
    pub stats: bool,
    /// Colours.
    pub colour: bool,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

struct Printer<'a, W> {
    options: &'a PrintOptions,
    output: W,
    json: JsonLines,
    lines: Lines,
    records: RecordCounts,
    outcome: io::Result<()>,
}

impl<W: Write> Printer<'_, W> {
    fn show(&mut self, record: &RequestRecord<'_>) {
        self.records.add(record);
        let wanted = !self.options.quiet && self.options.conditions.iter().all(|condition| condition.holds(record));
        if wanted && self.outcome.is_ok() {
            let bytes = if self.options.json { self.json.line(record) } else { self.lines.line(record).as_bytes() };
            self.outcome = self.output.write_all(bytes);
        }
    }

    fn flush(&mut self) {
        if self.outcome.is_ok() {
            self.outcome = self.output.flush();
        }
    }
}

/// The records of a file or of live traffic on standard output. A reader that goes away ends it in good order.
pub fn print(settings: &Settings, options: &PrintOptions) -> Result<(), Failure> {
    let telemetry = Arc::new(Telemetry::new());
    let runtime = runtime()?;
    let stop = Stop::default();
    stop.watch(runtime.handle());
    let mut capture = open(settings, &[], &telemetry)?;
    let output = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut printer = Printer {
        options,
        output,
        json: JsonLines::default(),
        lines: Lines::new(options.colour),
        records: RecordCounts::default(),
        outcome: Ok(()),
    };
    let mut drain = Drain::default();
    let outcome = loop {
        let before = capture.newest;
        match capture.turn(TURN, &mut |record| printer.show(record)) {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(Failure::from(error)),
        }
        if capture.live {
            printer.flush();
        }
        let mut drained = || !capture.live || drain.is_over((before, capture.newest), Instant::now(), now_ns());
        if (stop.requested() && drained()) || printer.outcome.is_err() {
            break Ok(());
        }
    };
    capture.finish(&mut |record| printer.show(record));
    printer.flush();
    capture.publish(&telemetry);
    printer.records.publish(&telemetry);
    if options.stats {
        eprintln!("{}", telemetry.account());
    }
    match printer.outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failure(1, format!("standard output: {error}"))),
        _ => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_reads_what_was_captured_before_it_and_not_for_ever() {
        let start = Instant::now();
        let check = |script: &[(u64, (u64, u64), bool)]| {
            let mut drain = Drain::default();
            for (milliseconds, newest, over) in script {
                let now = start + Duration::from_millis(*milliseconds);
                assert_eq!(drain.is_over(*newest, now, 1_000), *over, "after {milliseconds} ms");
            }
        };
        // Nothing comes any more: over when the kernel's buffer had its time.
        check(&[(0, (900, 900), false), (149, (900, 900), false), (150, (900, 900), true)]);
        // A backlog from before the stop is read to its end,
        check(&[(0, (100, 200), false), (200, (200, 900), false), (900, (900, 1_000), true)]);
        // but not for ever.
        check(&[(0, (100, 200), false), (1_999, (200, 300), false), (2_000, (300, 400), true)]);
    }
}
