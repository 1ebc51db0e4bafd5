//! What the senders say: the records of a batch are a pure function of the seed, the sender, the batch's number and its time.
//!
//! [`Expected`] adds them up without any of the analyzer's code but the bucket of a value, which is the contract.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use podtap_wire::histogram::index;
use podtap_wire::proto::Resource;
use podtap_wire::{Protocol, RequestRecord, Side, SourceKind, Status};

use super::chance::Chance;
use super::journal::BatchName;

const SECOND: u64 = 1_000_000_000;
/// How late the late records of [`Behaviour::Late`] are.
pub const LATE_NS: u64 = 600 * SECOND;
/// How far the clock of [`Behaviour::Ahead`] is ahead.
pub const AHEAD_NS: u64 = 3600 * SECOND;

const SERVICES: [&str; 3] = ["shop", "billing", "search"];
const ROUTES: [(&str, &str); 5] =
    [("GET", "/products/{id}"), ("POST", "/orders"), ("GET", "/search"), ("DELETE", "/baskets/{id}"), ("PUT", "/prices/{id}")];
const STATEMENTS: [&str; 3] =
    ["select name, price from items where id = ?", "update items set price = ? where id = ?", "insert into orders values (?+)"];

/// How a sender's clock and records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Records of the last seconds.
    Ordinary,
    /// One record of five is ten minutes old.
    Late,
    /// The clock is an hour ahead: every record counts at its message's time.
    Ahead,
}

impl Behaviour {
    /// The behaviour of a sender.
    pub fn of(sender: u32) -> Self {
        match sender % 4 {
            1 => Self::Late,
            2 => Self::Ahead,
            _ => Self::Ordinary,
        }
    }
}

/// `Sender.id`.
pub fn sender_id(sender: u32) -> String {
    format!("fault-sender-{sender}")
}

/// Who the sender's pod is.
pub fn resource(sender: u32) -> Resource {
    Resource {
        k8s_namespace_name: "faults".to_owned(),
        k8s_pod_name: format!("pod-{sender}"),
        k8s_pod_uid: format!("uid-{sender}"),
        k8s_node_name: "node-1".to_owned(),
        k8s_workload_kind: "Deployment".to_owned(),
        k8s_workload_name: "pod".to_owned(),
    }
}

/// One record of a batch.
#[derive(Clone, Debug)]
pub struct Made {
    timestamp: u64,
    service: &'static str,
    protocol: Protocol,
    verb: &'static str,
    text: &'static str,
    status: Status,
    error: &'static str,
    side: Side,
    client: IpAddr,
    server: IpAddr,
    port: u64,
    first_byte: Option<u64>,
    last_byte: Option<u64>,
    request_bytes: u64,
    response_bytes: u64,
}

impl Made {
    fn new(chance: &mut Chance, time_ns: u64, behaviour: Behaviour) -> Self {
        let shift = match behaviour {
            Behaviour::Late if chance.percent(20) => -(LATE_NS as i64),
            Behaviour::Ahead => AHEAD_NS as i64,
            _ => 0,
        };
        let timestamp = (time_ns - chance.below(3 * SECOND)).wrapping_add_signed(shift);
        let http = chance.percent(70);
        let (verb, text) = if http { chance.of(&ROUTES) } else { ("", chance.of(&STATEMENTS)) };
        let (status, error) = match (chance.below(20), http) {
            (0, true) => (Status::ClientError, "404"),
            (1, true) => (Status::ServerError, "500"),
            (1, false) => (Status::ServerError, "1064"),
            (2, _) => (Status::NoResponse, "timeout"),
            _ => (Status::Ok, ""),
        };
        // From some microseconds to some seconds, evenly over the powers of two.
        let last_byte = 1_000 << chance.below(22);
        let last_byte = last_byte + chance.below(last_byte);
        let answered = status != Status::NoResponse;
        Self {
            timestamp,
            service: chance.of(&SERVICES),
            protocol: if http { Protocol::Http } else { Protocol::Mysql },
            verb,
            text,
            status,
            error,
            side: if chance.percent(80) { Side::Server } else { Side::Client },
            client: IpAddr::V4(Ipv4Addr::new(10, 0, 0, chance.below(3) as u8)),
            server: IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1)),
            port: if http { 8080 } else { 3306 },
            first_byte: answered.then(|| last_byte - chance.below(last_byte)),
            last_byte: answered.then_some(last_byte),
            request_bytes: chance.below(5_000),
            response_bytes: if answered { chance.below(500_000) } else { 0 },
        }
    }

    /// As the sidecar would make it.
    pub fn record(&self) -> RequestRecord<'_> {
        let http = self.protocol == Protocol::Http;
        RequestRecord {
            timestamp: self.timestamp,
            service_name: self.service,
            network_protocol_name: self.protocol,
            http_request_method: self.verb,
            url_template: if http { self.text } else { "" },
            db_query_fingerprint: if http { "" } else { self.text },
            mysql_command: if http { "" } else { "COM_QUERY" },
            status: self.status,
            error_type: self.error,
            side: self.side,
            source: SourceKind::Pcap,
            client_address: self.client,
            server_address: self.server,
            server_port: self.port,
            time_to_first_byte_ns: self.first_byte,
            time_to_last_byte_ns: self.last_byte,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            ..RequestRecord::default()
        }
    }

    fn key(&self, sender: u32, step_seconds: u32) -> Key {
        let seconds = u32::try_from(self.timestamp / SECOND).unwrap_or(u32::MAX);
        Key {
            // When a clock is wrong the broker's time counts, which nobody but the broker knows.
            window: if Behaviour::of(sender) == Behaviour::Ahead { 0 } else { seconds - seconds % step_seconds },
            pod: format!("pod-{sender}"),
            service: self.service.to_owned(),
            endpoint: if self.verb.is_empty() { self.text.to_owned() } else { format!("{} {}", self.verb, self.text) },
            status: self.status.as_str().to_owned(),
            error: self.error.to_owned(),
            side: self.side.as_str().to_owned(),
            peer: if self.side == Side::Client { format!("{}:{}", self.server, self.port) } else { self.client.to_string() },
        }
    }
}

/// The records of a batch.
pub fn records(seed: u64, name: &BatchName) -> Vec<Made> {
    let boot = u64::from_be_bytes(name.boot[..8].try_into().unwrap_or_default());
    let mut chance = Chance::new(&[seed, u64::from(name.sender), boot, name.sequence]);
    let behaviour = Behaviour::of(name.sender);
    let count = 1 + chance.below(12);
    (0..count).map(|_| Made::new(&mut chance, name.time_ns, behaviour)).collect()
}

/// What a figure is of; the columns of `red` that the content varies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Start of the window; 0 for senders whose clock is ahead.
    pub window: u32,
    /// `k8s_pod_name`.
    pub pod: String,
    /// `service_name`.
    pub service: String,
    /// `endpoint`.
    pub endpoint: String,
    /// `status`.
    pub status: String,
    /// `error_type`.
    pub error: String,
    /// `side`.
    pub side: String,
    /// `peer`.
    pub peer: String,
}

/// Bucket and count.
pub type Buckets = BTreeMap<u16, u64>;

/// The figures of a key, every bucket of both histograms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Exchanges.
    pub count: u64,
    /// Failed ones.
    pub errors: u64,
    /// Sum of known latencies.
    pub sum: u64,
    /// The longest.
    pub max: u64,
    /// Bytes of requests.
    pub request_bytes: u64,
    /// Bytes of answers.
    pub response_bytes: u64,
    /// Times to the last byte.
    pub last_byte: Buckets,
    /// Times to the first byte.
    pub first_byte: Buckets,
}

/// Figures by key.
pub type Expected = BTreeMap<Key, Figures>;

/// The keys of a batch's records.
pub fn keys(seed: u64, name: &BatchName, step_seconds: u32) -> Vec<Key> {
    records(seed, name).iter().map(|made| made.key(name.sender, step_seconds)).collect()
}

/// Adds the records of a batch, in windows of `step_seconds`.
pub fn add(expected: &mut Expected, seed: u64, name: &BatchName, step_seconds: u32) {
    for made in records(seed, name) {
        let figures = expected.entry(made.key(name.sender, step_seconds)).or_default();
        figures.count += 1;
        figures.errors += u64::from(matches!(made.status, Status::ServerError | Status::NoResponse));
        figures.request_bytes += made.request_bytes;
        figures.response_bytes += made.response_bytes;
        if let Some(latency) = made.last_byte {
            figures.sum += latency;
            figures.max = figures.max.max(latency);
            *figures.last_byte.entry(index(latency)).or_default() += 1;
        }
        if let Some(latency) = made.first_byte {
            *figures.first_byte.entry(index(latency)).or_default() += 1;
        }
    }
}
