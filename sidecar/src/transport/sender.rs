//! The thread that owns the spool and the sink: takes closed batches, keeps them, offers them in order, and lets them go when they are
//! acknowledged.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::spool::Spool;
use super::{Batch, LinkState, Offer, Sink, SinkEvent};
use crate::telemetry::Telemetry;

/// Longest wait for something to happen; also how long a closed batch may wait before it is offered.
const TURN: Duration = Duration::from_millis(20);
/// How often the same trouble is logged.
const REPEAT_AFTER: Duration = Duration::from_secs(30);
/// How long shedding is shown by /readyz after it stopped.
const SHEDDING_SHOWN: Duration = Duration::from_secs(10);

/// What the sender does when both budgets are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Sheds the newest, with a count: live traffic does not wait.
    Shed,
    /// Takes no more until there is room: a file can wait.
    Wait,
}

/// What was left when the sender ended.
#[derive(Debug)]
pub struct Left {
    /// Records that will not arrive.
    pub lost: u64,
}

/// The sender.
pub struct Sender {
    spool: Spool,
    sink: Box<dyn Sink>,
    batches: Receiver<Batch>,
    telemetry: Arc<Telemetry>,
    when_full: WhenFull,
    held: Option<Batch>,
    open: bool,
    state: LinkState,
    last_shed: Option<Instant>,
    last_log: Option<Instant>,
    events: Vec<SinkEvent>,
}

impl Sender {
    /// A sender of what comes through `batches`.
    pub fn new(spool: Spool, sink: Box<dyn Sink>, batches: Receiver<Batch>, telemetry: Arc<Telemetry>, when_full: WhenFull) -> Self {
        for reason in ["queue_full", "disk_error", "rejected", "too_large", "shutdown"] {
            telemetry.set("podtap_records_dropped_total", reason, 0);
        }
        let state = sink.state();
        Self {
            spool,
            sink,
            batches,
            telemetry,
            when_full,
            held: None,
            open: true,
            state,
            last_shed: None,
            last_log: None,
            events: Vec::new(),
        }
    }

    /// Runs until the channel is closed and everything is acknowledged. From the moment that `stopping` says yes it waits at most `grace`
    /// for that, and then leaves the rest on disk for the next start.
    pub fn run(mut self, stopping: impl Fn() -> bool, grace: Duration) -> Left {
        let mut deadline: Option<Instant> = None;
        self.publish();
        loop {
            self.take_batches();
            if let Err(error) = self.spool.spool_aged(Instant::now()) {
                self.complain(&format!("cannot write the spool: {error}"));
            }
            if let Err(error) = self.spool.refill() {
                self.complain(&format!("cannot read the spool: {error}"));
            }
            self.offer_batches();
            let mut events = std::mem::take(&mut self.events);
            self.sink.poll(TURN, &mut events);
            for event in events.drain(..) {
                if self.apply(event) {
                    return Left { lost: 0 };
                }
            }
            self.events = events;
            self.publish();
            if !self.open && self.held.is_none() && self.spool.is_empty() {
                return Left { lost: 0 };
            }
            if stopping() && !self.open && Instant::now() >= *deadline.get_or_insert_with(|| Instant::now() + grace) {
                return self.leave();
            }
        }
    }

    fn take_batches(&mut self) {
        if let Some(batch) = self.held.take() {
            self.keep(batch);
        }
        while self.held.is_none() && self.open {
            match self.batches.try_recv() {
                Ok(batch) => self.keep(batch),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.open = false,
            }
        }
    }

    fn keep(&mut self, batch: Batch) {
        let Err((batch, error)) = self.spool.push(batch, Instant::now()) else { return };
        let reason = if error.is_some() { "disk_error" } else { "queue_full" };
        if let Some(error) = error {
            self.complain(&format!("cannot write the spool: {error}"));
        }
        match self.when_full {
            WhenFull::Wait => self.held = Some(batch),
            WhenFull::Shed => {
                self.telemetry.add("podtap_records_dropped_total", reason, u64::from(batch.rows));
                self.last_shed = Some(Instant::now());
                self.complain("the far side is away and the budgets of memory and disk are used up: records are being dropped");
            }
        }
    }

    fn offer_batches(&mut self) {
        while let Some(batch) = self.spool.next_to_offer() {
            match self.sink.offer(batch) {
                Offer::Taken => self.spool.offered(),
                Offer::Busy => return,
                Offer::Refused(reason) => {
                    let id = batch.id;
                    self.give_up(id, reason);
                }
            }
        }
    }

    fn give_up(&mut self, id: super::BatchId, reason: &'static str) {
        match self.spool.release(id) {
            Ok(Some(rows)) => self.telemetry.add("podtap_records_dropped_total", reason, u64::from(rows)),
            Ok(None) => {}
            Err(error) => self.complain(&format!("cannot delete a spool file: {error}")),
        }
    }

    /// True if the run is over.
    fn apply(&mut self, event: SinkEvent) -> bool {
        match event {
            SinkEvent::Acknowledged(id) => match self.spool.release(id) {
                Ok(Some(rows)) => {
                    self.telemetry.add("podtap_records_sent_total", "", u64::from(rows));
                    self.telemetry.add("podtap_batches_sent_total", "", 1);
                }
                Ok(None) => {}
                Err(error) => self.complain(&format!("cannot delete a spool file: {error}")),
            },
            SinkEvent::Refused(id, reason) => self.give_up(id, reason),
            SinkEvent::Restart => {
                self.telemetry.add("podtap_transport_restarts_total", "", 1);
                self.spool.restart();
            }
            SinkEvent::Closed => return true,
        }
        false
    }

    fn publish(&mut self) {
        let state = self.sink.state();
        if state != self.state {
            match &state {
                LinkState::Up => tracing::info!("the far side answers"),
                LinkState::Down(reason) if self.state == LinkState::Up => tracing::warn!("the far side is away: {reason}"),
                LinkState::Down(reason) => self.complain(&format!("the far side is away: {reason}")),
            }
            self.state = state;
        }
        let (memory, disk) = self.spool.sizes();
        self.telemetry.set("podtap_queue_bytes", "", memory);
        self.telemetry.set("podtap_spool_bytes", "", disk);
        self.telemetry.set("podtap_unspooled_bytes", "", self.spool.unspooled_bytes());
        for (reason, batches) in self.spool.written() {
            self.telemetry.set("podtap_spooled_batches_total", reason, batches);
        }
        self.telemetry.set("podtap_spool_damaged_bytes_total", "", self.spool.damaged_bytes());
        self.telemetry.set("podtap_spool_missing_batches_total", "", self.spool.missing_batches());
        self.telemetry.set("podtap_transport_connected", "", u64::from(self.state == LinkState::Up));
        self.telemetry.set_ready(
            "transport",
            match &self.state {
                LinkState::Up => Ok("the far side answers".to_owned()),
                LinkState::Down(reason) => Err(reason.clone()),
            },
        );
        let shedding = self.last_shed.is_some_and(|last| last.elapsed() < SHEDDING_SHOWN);
        let waiting = format!("{memory} bytes in memory, {disk} on disk wait for acknowledgement");
        self.telemetry.set_ready("spool", if shedding { Err(format!("full, records are being dropped; {waiting}")) } else { Ok(waiting) });
    }

    fn complain(&mut self, message: &str) {
        if self.last_log.is_none_or(|last| last.elapsed() >= REPEAT_AFTER) {
            self.last_log = Some(Instant::now());
            tracing::warn!("{message}");
        }
    }

    fn leave(self) -> Left {
        let mut lost = self.held.map_or(0, |batch| u64::from(batch.rows));
        let (left, outcome) = self.spool.persist();
        lost += left;
        log_leave(lost, outcome);
        self.telemetry.add("podtap_records_dropped_total", "shutdown", lost);
        Left { lost }
    }
}

fn log_leave(lost: u64, outcome: io::Result<()>) {
    match outcome {
        Ok(()) => tracing::warn!("not everything was acknowledged in time; the rest is in the spool and goes first at the next start"),
        Err(error) => tracing::error!("{lost} records were not acknowledged in time and are lost: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::BatchId;
    use crate::transport::spool::SpoolConfig;
    use std::sync::Mutex;
    use std::sync::mpsc::sync_channel;

    /// Takes two at a time, drops the connection once, then acknowledges.
    struct Flaky {
        taken: Vec<BatchId>,
        seen: Arc<Mutex<Vec<u64>>>,
        fail_in: u32,
    }

    impl Sink for Flaky {
        fn offer(&mut self, batch: &Batch) -> Offer {
            match batch.id.sequence {
                3 => Offer::Refused("too_large"),
                _ if self.taken.len() >= 2 => Offer::Busy,
                sequence => {
                    self.taken.push(batch.id);
                    self.seen.lock().unwrap().push(sequence);
                    Offer::Taken
                }
            }
        }

        fn poll(&mut self, _timeout: Duration, events: &mut Vec<SinkEvent>) {
            if self.fail_in == 1 {
                self.taken.clear();
                events.push(SinkEvent::Restart);
            } else {
                events.extend(self.taken.drain(..).map(SinkEvent::Acknowledged));
            }
            self.fail_in = self.fail_in.saturating_sub(1);
        }

        fn state(&self) -> LinkState {
            LinkState::Up
        }
    }

    fn spool(queue_bytes: usize) -> Spool {
        Spool::open(SpoolConfig { queue_bytes, directory: None, spool_bytes: 0, spool_after: Duration::ZERO, started_ns: 0 }).unwrap()
    }

    struct Dead;

    impl Sink for Dead {
        fn offer(&mut self, _: &Batch) -> Offer {
            Offer::Busy
        }
        fn poll(&mut self, _: Duration, _: &mut Vec<SinkEvent>) {}
        fn state(&self) -> LinkState {
            LinkState::Down("dead".to_owned())
        }
    }

    fn batch(sequence: u64) -> Batch {
        Batch { id: BatchId { boot: [0; 16], sequence }, rows: 5, bytes: vec![0; 10].into() }
    }

    #[test]
    fn what_was_not_acknowledged_goes_again_in_order() {
        let (sender, receiver) = sync_channel(10);
        (1..=5).for_each(|sequence| sender.send(batch(sequence)).unwrap());
        drop(sender);
        let telemetry = Arc::new(Telemetry::new());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Flaky { taken: Vec::new(), seen: Arc::clone(&seen), fail_in: 1 };
        let left = Sender::new(spool(1000), Box::new(sink), receiver, Arc::clone(&telemetry), WhenFull::Wait).run(|| false, Duration::ZERO);
        assert_eq!(left.lost, 0);
        assert_eq!(*seen.lock().unwrap(), [1, 2, 1, 2, 4, 5]);
        assert_eq!(telemetry.get("podtap_records_sent_total", ""), 20);
        assert_eq!(telemetry.get("podtap_records_dropped_total", "too_large"), 5);
    }

    #[test]
    fn live_traffic_is_shed_with_a_count_and_a_stop_leaves_with_one() {
        let (sender, receiver) = sync_channel(10);
        (1..=5).for_each(|sequence| sender.send(batch(sequence)).unwrap());
        drop(sender);
        let telemetry = Arc::new(Telemetry::new());
        let left = Sender::new(spool(30), Box::new(Dead), receiver, Arc::clone(&telemetry), WhenFull::Shed).run(|| true, Duration::ZERO);
        assert_eq!(left.lost, 15);
        assert_eq!(telemetry.get("podtap_records_dropped_total", "queue_full"), 10);
        assert_eq!(telemetry.get("podtap_records_dropped_total", "shutdown"), 15);
        assert!(telemetry.readiness().1.contains("[-]spool: full"));
    }

    #[test]
    fn what_waits_goes_to_disk_without_a_full_queue() {
        let directory = std::env::temp_dir().join(format!("podtap-sender-test-{}", std::process::id()));
        let config = SpoolConfig {
            queue_bytes: 1 << 20,
            directory: Some(directory.clone()),
            spool_bytes: 1 << 20,
            spool_after: Duration::ZERO,
            started_ns: 0,
        };
        let (sender, receiver) = sync_channel(10);
        (1..=5).for_each(|sequence| sender.send(batch(sequence)).unwrap());
        let telemetry = Arc::new(Telemetry::new());
        let spool = Spool::open(config).unwrap();
        let waiting = Sender::new(spool, Box::new(Dead), receiver, Arc::clone(&telemetry), WhenFull::Shed);
        let thread = std::thread::spawn(move || waiting.run(|| true, Duration::ZERO));
        let deadline = Instant::now() + Duration::from_secs(20);
        while telemetry.get("podtap_spooled_batches_total", "age") < 5 {
            assert!(Instant::now() < deadline, "nothing was written");
            std::thread::sleep(TURN);
        }
        assert_eq!((telemetry.get("podtap_queue_bytes", ""), telemetry.get("podtap_unspooled_bytes", "")), (50, 0));
        assert_eq!(telemetry.get("podtap_spool_bytes", ""), 24 + 5 * 30);
        drop(sender);
        assert_eq!(thread.join().unwrap().lost, 0);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
