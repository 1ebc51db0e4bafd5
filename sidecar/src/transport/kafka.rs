//! Transport `kafka`: librdkafka's idempotent producer, one message a batch.
//!
//! All batches of a boot go to one partition, chosen by a hash of the sender, in order: the analyzer's high-water mark of the sender lives
//! in that partition. The choice is kept beside the spool, so that a batch that is sent again after a restart goes where its twin went,
//! also when partitions were added meanwhile; only where it is no more, because the topic was made anew, another is chosen. Messages do not
//! expire in librdkafka (that would let later ones overtake); what is not acknowledged stays in the spool. After a fatal error of the
//! producer a new one starts from the oldest batch.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};

use super::{Batch, BatchId, LinkState, Offer, Sink, SinkEvent};

/// Batches that librdkafka holds at a time: enough to fill five requests, little beside the spool.
const MAX_IN_FLIGHT: usize = 64;
/// How long one question for the topic's partitions may take; batches are not spooled meanwhile. What takes longer is answered next time.
const METADATA_TIMEOUT: Duration = Duration::from_millis(500);
/// How often an unreachable broker is asked.
const METADATA_EVERY: Duration = Duration::from_secs(2);
/// A broker that is behind may know fewer partitions than there are: for so long a partition has to be away before another one is chosen.
const AWAY_FOR_GOOD: Duration = Duration::from_secs(10);
/// Largest message the producer sends; brokers have their own limit (1 MB by default).
const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Where to send, and how.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// Topic.
    pub topic: String,
    /// Message key.
    pub sender_id: String,
    /// Folder of the spool, where the choice of partition is kept.
    pub directory: Option<PathBuf>,
    /// Any other setting of librdkafka, by its own name.
    pub options: Vec<(String, String)>,
}

#[derive(Default)]
struct Reports {
    events: Vec<SinkEvent>,
    failure: Option<String>,
    down: Option<String>,
    delivered: bool,
}

#[derive(Clone, Default)]
struct Context(Arc<Mutex<Reports>>);

impl Context {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!("librdkafka {facility}: {message}")
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::debug!("librdkafka {facility}: {message}"),
            _ => tracing::trace!("librdkafka {facility}: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("librdkafka: {error}: {reason}");
        self.reports().down = Some(reason.to_owned());
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<BatchId>;

    fn delivery(&self, result: &DeliveryResult<'_>, id: Box<BatchId>) {
        let mut reports = self.reports();
        match result {
            Ok(_) => {
                reports.delivered = true;
                reports.events.push(SinkEvent::Acknowledged(*id));
            }
            Err((error, _)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => reports.events.push(SinkEvent::Refused(*id, "too_large")),
                // Purged because the producer is being replaced: the spool offers it again.
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {}
                _ => reports.failure = Some(error.to_string()),
            },
        }
    }
}

/// The sink.
pub struct KafkaSink {
    config: KafkaConfig,
    producer: Option<BaseProducer<Context>>,
    context: Context,
    partitions: HashMap<[u8; 16], i32>,
    /// How many partitions the topic has; `None` until a broker has said so.
    partition_count: Option<i32>,
    /// Since when a boot's partition has not been among them.
    away_since: Option<Instant>,
    last_metadata: Option<Instant>,
    in_flight: usize,
    state: LinkState,
}

impl KafkaSink {
    /// A producer; does not wait for a broker. Fails on settings that librdkafka does not accept.
    pub fn new(config: KafkaConfig) -> Result<Self, String> {
        let context = Context::default();
        let producer = create(&config, &context)?;
        let state = LinkState::Down(format!("no broker of {} has answered yet", config.brokers));
        Ok(Self {
            config,
            producer: Some(producer),
            context,
            partitions: HashMap::new(),
            partition_count: None,
            away_since: None,
            last_metadata: None,
            in_flight: 0,
            state,
        })
    }

    /// Asks for the topic's partitions, not more often than now and then.
    fn ask_for_partitions(&mut self) {
        let Some(producer) = &self.producer else { return };
        if self.last_metadata.is_some_and(|last| last.elapsed() < METADATA_EVERY) {
            return;
        }
        let answer = producer.client().fetch_metadata(Some(&self.config.topic), METADATA_TIMEOUT);
        self.last_metadata = Some(Instant::now());
        match answer {
            Ok(metadata) => {
                let topic = metadata.topics().iter().find(|topic| topic.name() == self.config.topic);
                match topic.map(|topic| topic.partitions().len()) {
                    Some(count) if count > 0 => {
                        self.partition_count = Some(count as i32);
                        self.context.reports().down = None;
                        self.state = LinkState::Up;
                    }
                    _ => self.state = LinkState::Down(format!("topic {:?} has no partitions (yet)", self.config.topic)),
                }
            }
            Err(error) => {
                let reason = self.context.reports().down.take().unwrap_or_else(|| error.to_string());
                self.state = LinkState::Down(format!("{}: {reason}", self.config.brokers));
            }
        }
    }

    fn partition(&mut self, boot: [u8; 16]) -> Option<i32> {
        let count = self.partition_count?;
        let is_there = |partition: &i32| (0..count).contains(partition);
        if let Some(partition) = self.partitions.get(&boot).copied().filter(is_there) {
            self.away_since = None;
            return Some(partition);
        }
        let kept = self.partition_file(boot).and_then(|path| std::fs::read_to_string(path).ok()).and_then(|text| text.trim().parse().ok());
        let before = self.partitions.get(&boot).copied().or(kept);
        let partition = match before {
            Some(partition) if is_there(&partition) => partition,
            Some(_) if self.away_since.get_or_insert_with(Instant::now).elapsed() < AWAY_FOR_GOOD => return None,
            _ => {
                let chosen = (fnv1a(self.config.sender_id.as_bytes()) % count.max(1) as u64) as i32;
                if let Some(path) = self.partition_file(boot) {
                    self.forget_old_choices(&path);
                    let temporary = path.with_extension("partition.new");
                    let written = std::fs::write(&temporary, chosen.to_string()).and_then(|()| std::fs::rename(&temporary, &path));
                    if let Err(error) = written {
                        tracing::warn!("cannot keep the choice of partition in {}: {error}", path.display());
                    }
                }
                chosen
            }
        };
        self.away_since = None;
        self.partitions.insert(boot, partition);
        Some(partition)
    }

    fn partition_file(&self, boot: [u8; 16]) -> Option<PathBuf> {
        let name: String = boot.iter().map(|byte| format!("{byte:02x}")).collect();
        self.config.directory.as_ref().map(|directory| directory.join(format!("{name}.partition")))
    }

    /// Removes the choices of boots of which the spool has no segment left.
    fn forget_old_choices(&self, keep: &std::path::Path) {
        let Some(entries) = self.config.directory.as_ref().and_then(|directory| std::fs::read_dir(directory).ok()) else { return };
        let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        let named = |path: &PathBuf, text: &str| path.file_name().is_some_and(|name| name.to_string_lossy().contains(text));
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "partition")) {
            let boot = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let segments = paths.iter().any(|other| other.extension().is_some_and(|extension| extension == "spool") && named(other, &boot));
            if path != keep && !segments {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn replace_producer(&mut self, reason: String, events: &mut Vec<SinkEvent>) {
        tracing::warn!("the Kafka producer starts again from the oldest batch: {reason}");
        if let Some(producer) = self.producer.take() {
            producer.purge(PurgeConfig::default().queue().inflight());
            producer.poll(Duration::ZERO);
        }
        self.context.reports().failure = None;
        self.state = LinkState::Down(reason);
        self.in_flight = 0;
        self.last_metadata = Some(Instant::now());
        // The topic may be another one by now, with fewer partitions.
        self.partition_count = None;
        events.push(SinkEvent::Restart);
        match create(&self.config, &self.context) {
            Ok(producer) => self.producer = Some(producer),
            Err(reason) => self.state = LinkState::Down(reason),
        }
    }
}

fn create(config: &KafkaConfig, context: &Context) -> Result<BaseProducer<Context>, String> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", format!("podtap-sidecar-{}", config.sender_id))
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.codec", "zstd")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "0")
        .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
        .set("queue.buffering.max.messages", (MAX_IN_FLIGHT * 2).to_string())
        .set("reconnect.backoff.max.ms", "2000")
        .set("socket.keepalive.enable", "true")
        // The analyzer makes the topic, as its settings say; a broker would make one by its own defaults.
        .set("allow.auto.create.topics", "false");
    for (name, value) in &config.options {
        client.set(name, value);
    }
    client.create_with_context(context.clone()).map_err(|error| error.to_string())
}

/// FNV-1a, 64 bits: the choice of partition must be the same in every version.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Sink for KafkaSink {
    fn offer(&mut self, batch: &Batch) -> Offer {
        if self.in_flight >= MAX_IN_FLIGHT {
            return Offer::Busy;
        }
        if batch.bytes.len() > MAX_MESSAGE_BYTES {
            return Offer::Refused("too_large");
        }
        if self.partition_count.is_none() {
            return Offer::Busy;
        }
        let Some(partition) = self.partition(batch.id.boot) else { return Offer::Busy };
        let Some(producer) = &self.producer else { return Offer::Busy };
        let record = BaseRecord::with_opaque_to(&self.config.topic, Box::new(batch.id))
            .partition(partition)
            .key(self.config.sender_id.as_bytes())
            .payload(&batch.bytes[..]);
        match producer.send(record) {
            Ok(()) => {
                self.in_flight += 1;
                Offer::Taken
            }
            Err((error, _)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => Offer::Busy,
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => Offer::Refused("too_large"),
                _ => {
                    self.context.reports().failure = Some(error.to_string());
                    Offer::Busy
                }
            },
        }
    }

    fn poll(&mut self, timeout: Duration, events: &mut Vec<SinkEvent>) {
        match &self.producer {
            Some(producer) => producer.poll(timeout),
            None => std::thread::sleep(timeout),
        }
        let (failure, down) = {
            let mut reports = self.context.reports();
            self.in_flight = self.in_flight.saturating_sub(reports.events.len());
            events.append(&mut reports.events);
            if std::mem::take(&mut reports.delivered) {
                reports.down = None;
                self.state = LinkState::Up;
            }
            (reports.failure.take(), reports.down.take())
        };
        if let Some(reason) = down {
            self.state = LinkState::Down(format!("{}: {reason}", self.config.brokers));
        }
        let fatal = self.producer.as_ref().and_then(|producer| producer.client().fatal_error()).map(|(_, text)| text);
        if let Some(reason) = fatal.or(failure) {
            self.replace_producer(reason, events);
        } else if self.producer.is_none() {
            self.replace_producer("no producer".to_owned(), events);
        }
        if self.partition_count.is_none() || self.away_since.is_some() || self.state != LinkState::Up {
            self.ask_for_partitions();
        }
    }

    fn state(&self) -> LinkState {
        self.state.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn a_wrong_setting_is_refused_with_its_name() {
        let config = KafkaConfig {
            brokers: "127.0.0.1:1".to_owned(),
            topic: "t".to_owned(),
            sender_id: "s".to_owned(),
            directory: None,
            options: vec![("no.such.setting".to_owned(), "1".to_owned())],
        };
        let Err(reason) = KafkaSink::new(config) else { panic!("accepted") };
        assert!(reason.contains("no.such.setting"), "{reason}");
    }

    #[test]
    fn a_choice_of_partition_outlives_the_process() {
        let directory = std::env::temp_dir().join(format!("podtap-kafka-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let config = KafkaConfig {
            brokers: "127.0.0.1:1".to_owned(),
            topic: "t".to_owned(),
            sender_id: "s".to_owned(),
            directory: Some(directory.clone()),
            options: Vec::new(),
        };
        let choose = |count: i32| {
            let mut sink = KafkaSink::new(config.clone()).unwrap();
            sink.partition_count = Some(count);
            let chosen = sink.partition([1; 16]);
            // One that is away may come back.
            chosen.or_else(|| {
                assert_eq!(sink.partition([1; 16]), None);
                sink.away_since = Some(Instant::now() - AWAY_FOR_GOOD);
                sink.partition([1; 16])
            })
        };
        let choose = |count| choose(count).unwrap();
        let first = choose(7);
        assert_eq!(i64::from(first), (fnv1a(b"s") % 7) as i64);
        assert_eq!(choose(1000), first);
        // Only a partition that is no more is left.
        assert_eq!(i64::from(choose(first)), (fnv1a(b"s") % first as u64) as i64);
        assert_ne!(choose(7), first);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
