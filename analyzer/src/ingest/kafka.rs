//! Reads batches from Kafka as a member of a consumer group, partition by partition.
//!
//! Where to begin in a partition comes from the manifests in the store, never from the group's offsets: those are committed behind
//! complete blocks for whoever watches lag. A topic that was deleted and made anew is another log (its id is part of the key).
//! One thread polls, folds and commits; only the store's answers come from elsewhere. The one misuse: `auto.offset.reset`
//! set to anything but `error`, which would pass over what is missing without a word.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::block::{PartitionFold, PartitionId, ResumePoint};
use super::partition::{MAX_PENDING_BYTES, Partition};
use super::writer::{Job, Written};
use crate::aggregate::Sampling;
use crate::config::Kafka;
use crate::store::Store;
use crate::telemetry::{Dependency, LagLabel, Telemetry};

mod topic_id;

use topic_id::DescribeError;

/// What librdkafka fetches ahead, over all partitions, in KiB.
const PREFETCH_KIB: &str = "65536";
const POLL: Duration = Duration::from_millis(20);
/// Messages folded before the loop looks at its other duties.
const MESSAGES_PER_TURN: usize = 512;
const REQUEST: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);
/// How long the topic's id may take to come; while it does, nothing is polled.
const DESCRIBE: Duration = Duration::from_secs(2);
/// How often the topic's id is looked at when nothing is written.
const VERIFY: Duration = Duration::from_secs(5);
const UPKEEP: Duration = Duration::from_millis(500);
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// What reading needs.
pub struct KafkaReading {
    /// Brokers, topic, group.
    pub config: Kafka,
    /// For manifests.
    pub store: Arc<dyn Store>,
    /// The writer's queue.
    pub jobs: mpsc::Sender<Job>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// Becomes true when it is time to stop.
    pub stop: watch::Receiver<bool>,
    /// Where the store is asked.
    pub runtime: Handle,
    /// Of rows in `requests`.
    pub sampling: Sampling,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error("describe the topic: {0}")]
    Describe(#[from] DescribeError),
    #[error("make the topic: {0}")]
    Create(RDKafkaErrorCode),
    /// Not a failure: the topic is another one now.
    #[error("the topic was deleted and made anew")]
    OtherIncarnation,
}

impl KafkaReading {
    /// Reads until told to stop. Runs on a thread of its own. Fails only when the settings are impossible.
    pub fn run(self) -> Result<(), String> {
        self.client_config().create::<BaseConsumer>().map_err(|error| format!("kafka settings: {error}"))?;
        while !self.is_stopped() {
            self.telemetry.set_dependency(Dependency::Kafka, Err("not joined yet".to_owned()));
            match self.session() {
                Ok(()) => return Ok(()),
                Err(SessionError::OtherIncarnation) => tracing::warn!(topic = self.config.topic, "the topic was deleted and made anew"),
                Err(error) => {
                    tracing::warn!(%error, "cannot read from Kafka");
                    self.telemetry.set_dependency(Dependency::Kafka, Err(error.to_string()));
                    std::thread::sleep(RETRY);
                }
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.config.brokers)
            .set("group.id", &self.config.group)
            .set("client.id", "podtap-analyzer")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "3000")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("statistics.interval.ms", "1000")
            .set("queued.max.messages.kbytes", PREFETCH_KIB);
        for (key, value) in &self.config.options {
            config.set(key, value);
        }
        // These three are what the counting rests on: no setting goes before them.
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false").set("auto.offset.reset", "error");
        config
    }

    fn session(&self) -> Result<(), SessionError> {
        let context = Context::new();
        let consumer: BaseConsumer<Context> = self.client_config().create_with_context(context)?;
        let incarnation = self.incarnation(&consumer)?;
        consumer.subscribe(&[&self.config.topic])?;
        tracing::info!(topic = self.config.topic, incarnation, group = self.config.group, "reading from Kafka");
        let (done, written) = std_mpsc::channel();
        let (resumed_sender, resumed) = std_mpsc::channel();
        let session = Session {
            reading: self,
            consumer,
            incarnation,
            partitions: HashMap::new(),
            generation: 0,
            done,
            written,
            resumed_sender,
            resumed,
            commits: HashMap::new(),
            paused: false,
            joined: false,
            refused: None,
            unverified_until: None,
            verified: Instant::now(),
        };
        session.run()
    }

    /// The topic's id; makes the topic if it is missing.
    fn incarnation(&self, consumer: &BaseConsumer<Context>) -> Result<String, SessionError> {
        let describe = || topic_id::describe(consumer.client().native_ptr(), &self.config.topic, REQUEST);
        match describe() {
            Err(DescribeError::Missing) => {}
            described => return Ok(described?),
        }
        let admin: AdminClient<rdkafka::client::DefaultClientContext> = self.client_config().create()?;
        let partitions = i32::try_from(self.config.partitions).unwrap_or(i32::MAX);
        // Time stamps by the broker's clock: clocks of senders are not to be trusted, see `aggregate::window`.
        let topic = NewTopic::new(&self.config.topic, partitions, TopicReplication::Fixed(self.config.replication))
            .set("message.timestamp.type", "LogAppendTime");
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        for result in self.runtime.block_on(admin.create_topics([&topic], &options))? {
            match result {
                Ok(name) => tracing::info!(topic = name, partitions, "made the topic"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(SessionError::Create(code)),
            }
        }
        let deadline = Instant::now() + REQUEST;
        loop {
            match describe() {
                // Brokers learn of it one after the other.
                Err(DescribeError::Missing) if Instant::now() < deadline => std::thread::sleep(POLL * 5),
                described => return Ok(described?),
            }
        }
    }
}

/// What librdkafka's callbacks found.
#[derive(Debug)]
enum Event {
    Assigned(Vec<i32>),
    Revoked,
}

/// Collects what callbacks are told; they run within `poll`, so nothing is done there that takes time.
struct Context {
    events: Mutex<Vec<Event>>,
    ends: Mutex<HashMap<i32, i64>>,
    broker_up: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    fn new() -> Self {
        Self { events: Mutex::default(), ends: Mutex::default(), broker_up: AtomicBool::new(false) }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // What is an error comes through `error` as well.
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::debug!(facility, "librdkafka: {message}");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(facility, "librdkafka: {message}"),
            _ => tracing::debug!(facility, "librdkafka: {message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        let up = statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP");
        self.broker_up.store(up, Ordering::Relaxed);
        let mut ends = locked(&self.ends);
        ends.clear();
        let partitions = statistics.topics.values().flat_map(|topic| &topic.partitions);
        ends.extend(partitions.filter(|(number, _)| **number >= 0).map(|(number, partition)| (*number, partition.hi_offset)));
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Said at each attempt of each broker; /readyz says it once.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            tracing::debug!(%error, "librdkafka: {reason}");
        } else {
            tracing::warn!(%error, "librdkafka: {reason}");
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let (event, answer) = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let numbers = partitions.elements().iter().map(|element| element.partition()).collect();
            // Nothing is read until the manifests say where to begin.
            (Event::Assigned(numbers), consumer.assign(&TopicPartitionList::new()))
        } else {
            (Event::Revoked, consumer.unassign())
        };
        if let Err(error) = answer {
            tracing::warn!(%error, ?event, "cannot answer a rebalance");
        }
        locked(&self.events).push(event);
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            // Only watchers of lag miss it: reading goes on from the manifests.
            tracing::warn!(%error, "cannot commit offsets");
        }
    }
}

/// Where partitions begin, and for which assignment that was asked.
type Resumed = (u64, Vec<(i32, Option<ResumePoint>)>);

/// One membership in the group, with one incarnation of the topic.
struct Session<'a> {
    reading: &'a KafkaReading,
    consumer: BaseConsumer<Context>,
    incarnation: String,
    partitions: HashMap<i32, Partition>,
    /// Number of the assignment in force; answers to earlier ones are void.
    generation: u64,
    done: std_mpsc::Sender<Written>,
    written: std_mpsc::Receiver<Written>,
    resumed_sender: std_mpsc::Sender<Resumed>,
    resumed: std_mpsc::Receiver<Resumed>,
    /// Offsets to commit.
    commits: HashMap<i32, u64>,
    paused: bool,
    joined: bool,
    /// A partition that cannot be read, and why.
    refused: Option<String>,
    /// The brokers did not give the topic's id; asked again from then on.
    unverified_until: Option<Instant>,
    /// When the topic was last known to be the same.
    verified: Instant,
}

impl Session<'_> {
    fn run(mut self) -> Result<(), SessionError> {
        let mut kept_up = Instant::now();
        let mut deadline = None;
        loop {
            let now = Instant::now();
            if deadline.is_none() && self.reading.is_stopped() {
                deadline = Some(now + DRAIN_LIMIT);
            }
            self.fold_some(deadline.is_some())?;
            while let Ok(written) = self.written.try_recv() {
                self.handle_written(&written);
            }
            while let Ok((generation, points)) = self.resumed.try_recv() {
                if generation == self.generation && deadline.is_none() {
                    self.begin_reading(points)?;
                }
            }
            self.write_due(now, deadline.is_some())?;
            self.hold_back(deadline.is_some())?;
            if now.duration_since(kept_up) >= UPKEEP {
                kept_up = now;
                self.keep_up();
                self.commit(CommitMode::Async);
                // Who has nothing to write, or reads nothing because its place is beyond the log's end, has to learn of it too.
                if now.duration_since(self.verified) >= VERIFY {
                    self.is_same_topic(now)?;
                }
            }
            if deadline.is_some_and(|deadline| now >= deadline || self.partitions.values().all(Partition::is_clean)) {
                self.commit(CommitMode::Sync);
                return Ok(());
            }
        }
    }

    /// Polls; what callbacks found within it goes before the message that it gave.
    fn fold_some(&mut self, stopping: bool) -> Result<(), SessionError> {
        for turn in 0..MESSAGES_PER_TURN {
            let polled = self.consumer.poll(if turn == 0 { POLL } else { Duration::ZERO });
            let events = std::mem::take(&mut *locked(&self.consumer.context().events));
            let message = polled.transpose();
            if !events.is_empty() {
                // The message, if there is one, belongs to an assignment that is over or has not begun.
                drop(message);
                for event in events {
                    self.handle_event(event);
                }
                return Ok(());
            }
            match message {
                Ok(None) => return Ok(()),
                Ok(Some(_)) if stopping => {}
                Ok(Some(message)) => {
                    let Some(partition) = self.partitions.get_mut(&message.partition()) else { continue };
                    let Ok(offset) = u64::try_from(message.offset()) else { continue };
                    // Brokers since 0.10 stamp every message; without a stamp, all of a message's records count at its start of time.
                    let milliseconds = message.timestamp().to_millis().and_then(|time| u64::try_from(time).ok()).unwrap_or_default();
                    let bytes = message.payload().unwrap_or_default();
                    partition.handle_message(offset, milliseconds.saturating_mul(1_000_000), bytes, &self.reading.telemetry);
                }
                Err(error) => handle_error(error)?,
            }
        }
        Ok(())
    }

    fn handle_event(&mut self, event: Event) {
        self.generation += 1;
        // What was folded and not stored is read again by the next owner, from the block's start.
        self.partitions.clear();
        self.commits.clear();
        self.paused = false;
        self.joined = false;
        // Answers to jobs of the assignment before find nobody.
        (self.done, self.written) = std_mpsc::channel();
        let Event::Assigned(numbers) = event else { return };
        tracing::info!(partitions = ?numbers, "partitions assigned");
        let (store, sender, generation) = (Arc::clone(&self.reading.store), self.resumed_sender.clone(), self.generation);
        let telemetry = Arc::clone(&self.reading.telemetry);
        let ids: Vec<_> = numbers.into_iter().map(|number| (number, self.id(number))).collect();
        let mut stop = self.reading.stop.clone();
        self.reading.runtime.spawn(async move {
            let asking = resume_points(&*store, &telemetry, ids);
            tokio::select! {
                points = asking => {
                    // A session that is over needs no answer.
                    let _ = sender.send((generation, points));
                }
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }

    fn id(&self, number: i32) -> PartitionId {
        PartitionId {
            topic: self.reading.config.topic.clone(),
            incarnation: self.incarnation.clone(),
            partition: u32::try_from(number).unwrap_or_default(),
        }
    }

    fn begin_reading(&mut self, points: Vec<(i32, Option<ResumePoint>)>) -> Result<(), SessionError> {
        let topic = self.reading.config.topic.as_str();
        let mut assignment = TopicPartitionList::new();
        self.refused = None;
        for (number, resume) in points {
            let (low, high) = self.consumer.fetch_watermarks(topic, number, REQUEST)?;
            let (low, high) = (u64::try_from(low).unwrap_or_default(), u64::try_from(high).unwrap_or_default());
            let known = resume.is_some();
            let mut from = resume.unwrap_or_default();
            if from.offset > high {
                let problem =
                    format!("partition {number} ends at {high}, but was stored up to {}: its log was cut at the end", from.offset);
                tracing::error!(problem);
                self.refused = Some(problem);
                continue;
            }
            if from.offset < low {
                if known {
                    tracing::warn!(partition = number, from = from.offset, low, "the log lost messages before they were read");
                    self.reading.telemetry.lost_messages.inc_by(low - from.offset);
                }
                from.offset = low;
            }
            let offset = Offset::Offset(i64::try_from(from.offset).unwrap_or(i64::MAX));
            assignment.add_partition_offset(topic, number, offset)?;
            self.partitions
                .insert(number, Partition::new(PartitionFold::resume(self.id(number), from).with_sampling(self.reading.sampling), "kafka"));
        }
        self.consumer.assign(&assignment)?;
        self.joined = true;
        Ok(())
    }

    fn handle_written(&mut self, written: &Written) {
        let number = i32::try_from(written.partition.partition).unwrap_or(-1);
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.handle_written();
            if let Some(offset) = written.complete_to {
                self.commits.insert(number, offset);
            }
        }
    }

    /// Pauses while too much waits for the store; polling goes on, so that the group sees this member alive.
    fn hold_back(&mut self, stopping: bool) -> Result<(), SessionError> {
        let pending: usize = self.partitions.values().map(Partition::pending_bytes).sum();
        self.reading.telemetry.set_pending("kafka", pending);
        let pause = stopping || pending >= if self.paused { MAX_PENDING_BYTES / 2 } else { MAX_PENDING_BYTES };
        if pause != self.paused {
            let assignment = self.consumer.assignment()?;
            if pause {
                self.consumer.pause(&assignment)?
            } else {
                self.consumer.resume(&assignment)?
            }
            self.paused = pause;
        }
        Ok(())
    }

    fn commit(&mut self, mode: CommitMode) {
        let mut offsets = TopicPartitionList::new();
        for (number, offset) in self.commits.drain() {
            let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
            if let Err(error) = offsets.add_partition_offset(&self.reading.config.topic, number, offset) {
                tracing::warn!(%error, number, "cannot name an offset to commit");
            }
        }
        if offsets.count() > 0
            && let Err(error) = self.consumer.commit(&offsets, mode)
        {
            tracing::warn!(%error, "cannot commit offsets");
        }
    }

    /// Lag, and what /readyz says.
    fn keep_up(&self) {
        let context = self.consumer.context();
        let ends = locked(&context.ends);
        for (number, partition) in &self.partitions {
            let Some(end) = ends.get(number).and_then(|end| u64::try_from(*end).ok()) else { continue };
            let label = LagLabel { topic: self.reading.config.topic.clone(), partition: number.to_string() };
            let lag = i64::try_from(end.saturating_sub(partition.fold().position())).unwrap_or(i64::MAX);
            self.reading.telemetry.lag.get_or_create(&label).set(lag);
        }
        let state = match &self.refused {
            Some(problem) => Err(problem.clone()),
            None if !context.broker_up.load(Ordering::Relaxed) => Err(format!("no broker of {} is up", self.reading.config.brokers)),
            None if !self.joined => Err("waiting for partitions and their manifests".to_owned()),
            None => Ok(()),
        };
        self.reading.telemetry.set_dependency(Dependency::Kafka, state);
    }

    /// Hands over what was read, once the topic is known to be the same still: what was read of a topic that took its place
    /// meanwhile belongs to another log.
    fn write_due(&mut self, now: Instant, flush: bool) -> Result<(), SessionError> {
        let due = self.partitions.values().any(|partition| partition.is_due(now, flush));
        if !due || !self.is_same_topic(now)? {
            return Ok(());
        }
        for partition in self.partitions.values_mut() {
            partition.write_if_due(now, flush, &self.reading.jobs, &self.done);
        }
        Ok(())
    }

    /// False if the brokers do not say.
    fn is_same_topic(&mut self, now: Instant) -> Result<bool, SessionError> {
        if self.unverified_until.is_some_and(|until| now < until) {
            return Ok(false);
        }
        match topic_id::describe(self.consumer.client().native_ptr(), &self.reading.config.topic, DESCRIBE) {
            Ok(id) if id == self.incarnation => {
                self.unverified_until = None;
                self.verified = now;
                Ok(true)
            }
            Ok(_) => Err(SessionError::OtherIncarnation),
            Err(DescribeError::Missing) => Err(DescribeError::Missing.into()),
            Err(error) => {
                tracing::debug!(%error, "cannot compare the topic's id");
                self.unverified_until = Some(now + DESCRIBE);
                Ok(false)
            }
        }
    }
}

/// What ends a session; anything else librdkafka tries again by itself.
fn handle_error(error: KafkaError) -> Result<(), SessionError> {
    let code = error.rdkafka_error_code();
    let over = [
        RDKafkaErrorCode::AutoOffsetReset,
        RDKafkaErrorCode::OffsetOutOfRange,
        RDKafkaErrorCode::UnknownTopicOrPartition,
        RDKafkaErrorCode::UnknownTopic,
        RDKafkaErrorCode::Fatal,
    ];
    if code.is_some_and(|code| over.contains(&code)) {
        return Err(error.into());
    }
    tracing::debug!(%error, "librdkafka tries again");
    Ok(())
}

/// Asks the store about each partition until it answers.
async fn resume_points(store: &dyn Store, telemetry: &Telemetry, ids: Vec<(i32, PartitionId)>) -> Vec<(i32, Option<ResumePoint>)> {
    let mut points = Vec::with_capacity(ids.len());
    for (number, id) in ids {
        let point = loop {
            match store.resume_point(&id).await {
                Ok(point) => break point,
                Err(error) => {
                    telemetry.store_error(&error);
                    tracing::warn!(%error, partition = number, "cannot read where to go on");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        points.push((number, point));
    }
    points
}
