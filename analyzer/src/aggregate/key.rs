//! What a record counts for: the series key, and the table that finds a row's series by numbers.
//!
//! A text is numbered once in a block and looked up once in a batch, so that finding the series of a row takes one look-up of a few
//! numbers. Everything in the key comes from the record's own bytes. Never add something looked up elsewhere (a name of an address,
//! a cap shared between blocks): the same block would then give other series when it is read again.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use podtap_wire::proto::Resource;
use podtap_wire::{DecodedBatch, Protocol, Side, SourceKind, Status, column};
use rustc_hash::FxHashMap;

/// What stands in a key's place once a block has too many of them.
pub const OVERFLOW: &str = "(overflow)";

/// Longest endpoint that is kept whole, in bytes; fingerprints are bounded by the sidecar, hostile senders are not.
pub const MAX_ENDPOINT_BYTES: usize = 1024;
/// The same of methods and errors.
const MAX_NAME_BYTES: usize = 64;

/// The key of a series: the columns of `request_histograms` before its counts. Series of a block share their texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// The service whose sidecar saw the exchange.
    pub service_name: Arc<str>,
    /// Namespace of that sidecar's pod.
    pub k8s_namespace_name: Arc<str>,
    /// Kind of the pod's owner.
    pub k8s_workload_kind: Arc<str>,
    /// Name of the pod's owner.
    pub k8s_workload_name: Arc<str>,
    /// Name of the pod.
    pub k8s_pod_name: Arc<str>,
    /// UID of the pod.
    pub k8s_pod_uid: Arc<str>,
    /// Node of the pod.
    pub k8s_node_name: Arc<str>,
    /// Which end is in the pod.
    pub side: Side,
    /// What the records were made from.
    pub source: SourceKind,
    /// Protocol of the exchanges.
    pub network_protocol_name: Protocol,
    /// `GET /items/{id}`, a statement's fingerprint, `PREPARE ` and the fingerprint, or the command.
    pub endpoint: Arc<str>,
    /// Outcome.
    pub status: Status,
    /// What failed, empty on success.
    pub error_type: Arc<str>,
    /// The server's end as seen on the wire.
    pub server_address: Arc<str>,
    /// Its port.
    pub server_port: u16,
    /// The other end: the client's address seen from a server, `address:port` of the server seen from a client.
    pub peer: Arc<str>,
}

/// Cuts at a character boundary.
fn truncate(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// Number of the empty text.
const EMPTY: u32 = 0;
/// Number of [`OVERFLOW`].
const OVERFLOWN: u32 = 1;
/// Number of an address that takes no part in a key.
const NO_ADDRESS: u32 = u32::MAX;

/// A row's key in numbers of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numbers {
    resource: u32,
    service_name: u32,
    endpoint: u32,
    error_type: u32,
    server: u32,
    /// Only where it is the peer.
    client: u32,
    server_port: u16,
    side: Side,
    source: SourceKind,
    protocol: Protocol,
    status: Status,
}

impl Numbers {
    /// Nothing but the outcome: the last step of overflow, of which there are as many as outcomes.
    pub fn of_outcome(status: Status) -> Self {
        Self {
            resource: 0,
            service_name: OVERFLOWN,
            endpoint: OVERFLOWN,
            error_type: EMPTY,
            server: NO_ADDRESS,
            client: NO_ADDRESS,
            server_port: 0,
            side: Side::Unknown,
            source: SourceKind::Unknown,
            protocol: Protocol::Unknown,
            status,
        }
    }
}

/// Whether what a block has not seen yet may get a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It gets one: the caller adds the series that it is for.
    New,
    /// Only what has a number is found.
    Known,
}

/// Texts and what was numbered for them.
#[derive(Debug)]
struct Texts {
    numbers: FxHashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
    /// An endpoint of a verb and what it is applied to.
    joined: FxHashMap<(u32, u32), u32>,
    /// The numbers of a batch's strings, as far as they were asked for.
    of_batch: Vec<u32>,
}

/// A string of the batch that nobody asked for yet.
const NOT_ASKED: u32 = u32::MAX;

impl Default for Texts {
    fn default() -> Self {
        let mut texts = Self { numbers: FxHashMap::default(), texts: Vec::new(), joined: FxHashMap::default(), of_batch: Vec::new() };
        texts.enter("");
        texts.enter(OVERFLOW);
        texts
    }
}

impl Texts {
    fn enter(&mut self, text: &str) -> u32 {
        let number = self.texts.len() as u32;
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    fn number(&mut self, text: &str, room: Room) -> Option<u32> {
        match self.numbers.get(text) {
            Some(number) => Some(*number),
            None => (room == Room::New).then(|| self.enter(text)),
        }
    }

    /// The number of a batch's string, cut to so many bytes.
    fn of(&mut self, batch: &DecodedBatch, index: u32, bytes: usize, room: Room) -> Option<u32> {
        if index == 0 {
            return Some(EMPTY);
        }
        let known = self.of_batch.get(index as usize).copied().unwrap_or(NOT_ASKED);
        let text = batch.text(index);
        if bytes != MAX_ENDPOINT_BYTES && text.len() > bytes {
            return self.number(truncate(text, bytes), room);
        }
        if known != NOT_ASKED {
            return Some(known);
        }
        let number = self.number(truncate(text, MAX_ENDPOINT_BYTES), room)?;
        if let Some(known) = self.of_batch.get_mut(index as usize) {
            *known = number;
        }
        Some(number)
    }

    /// The number of an endpoint: both parts with a space between them, or the one that is there.
    fn joined(&mut self, verb: u32, rest: u32, room: Room) -> Option<u32> {
        if verb == EMPTY || rest == EMPTY {
            return Some(if verb == EMPTY { rest } else { verb });
        }
        if let Some(number) = self.joined.get(&(verb, rest)) {
            return Some(*number);
        }
        let text = format!("{} {}", self.texts.get(verb as usize)?, self.texts.get(rest as usize)?);
        let number = self.number(&text, room)?;
        self.joined.insert((verb, rest), number);
        Some(number)
    }

    fn text(&self, number: u32) -> Arc<str> {
        self.texts.get(number as usize).or(self.texts.first()).cloned().unwrap_or_default()
    }
}

/// Addresses by number.
#[derive(Debug, Default)]
struct Addresses {
    numbers: FxHashMap<IpAddr, u32>,
    addresses: Vec<(IpAddr, Arc<str>)>,
}

impl Addresses {
    fn number(&mut self, address: IpAddr, room: Room) -> Option<u32> {
        match self.numbers.get(&address) {
            Some(number) => Some(*number),
            None if room == Room::New => {
                let number = self.addresses.len() as u32;
                self.addresses.push((address, address.to_string().into()));
                self.numbers.insert(address, number);
                Some(number)
            }
            None => None,
        }
    }

    fn get(&self, number: u32) -> Option<&(IpAddr, Arc<str>)> {
        self.addresses.get(number as usize)
    }
}

/// A sender's pod and its texts as a key has them.
#[derive(Debug)]
struct KnownResource {
    resource: Resource,
    namespace: Arc<str>,
    workload_kind: Arc<str>,
    workload_name: Arc<str>,
    pod_name: Arc<str>,
    pod_uid: Arc<str>,
    node_name: Arc<str>,
}

impl KnownResource {
    fn of(resource: &Resource) -> Self {
        Self {
            namespace: resource.k8s_namespace_name.as_str().into(),
            workload_kind: resource.k8s_workload_kind.as_str().into(),
            workload_name: resource.k8s_workload_name.as_str().into(),
            pod_name: resource.k8s_pod_name.as_str().into(),
            pod_uid: resource.k8s_pod_uid.as_str().into(),
            node_name: resource.k8s_node_name.as_str().into(),
            resource: resource.clone(),
        }
    }
}

/// The outcome of a row.
pub fn status(batch: &DecodedBatch, row: usize) -> Status {
    Status::from_number(column(&batch.columns().status, row)).unwrap_or_default()
}

/// The series of one block.
#[derive(Debug)]
pub struct SeriesTable {
    /// Number 0 is the empty resource of [`Numbers::without_names`].
    resources: Vec<KnownResource>,
    texts: Texts,
    addresses: Addresses,
    series: FxHashMap<Numbers, u32>,
    keys: Vec<Arc<SeriesKey>>,
}

impl Default for SeriesTable {
    fn default() -> Self {
        Self {
            resources: vec![KnownResource::of(&Resource::default())],
            texts: Texts::default(),
            addresses: Addresses::default(),
            series: FxHashMap::default(),
            keys: Vec::new(),
        }
    }
}

impl SeriesTable {
    /// Makes ready for the rows of a batch, and gives the number of its resource: a scan over the few pods of a partition, from the
    /// last one on.
    pub fn begin(&mut self, batch: &DecodedBatch) -> u32 {
        self.texts.of_batch.clear();
        self.texts.of_batch.resize(batch.strings().len(), NOT_ASKED);
        let found = self.resources.iter().rposition(|known| known.resource == *batch.resource());
        found.unwrap_or_else(|| {
            self.resources.push(KnownResource::of(batch.resource()));
            self.resources.len() - 1
        }) as u32
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True before the first series.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A row of the batch of the last [`Self::begin`], whose answer `resource` is. `None` if something in it has no number, and none
    /// may be given.
    pub fn numbers(&mut self, batch: &DecodedBatch, row: usize, resource: u32, room: Room) -> Option<Numbers> {
        let (columns, texts) = (batch.columns(), &mut self.texts);
        let protocol = Protocol::from_number(column(&columns.network_protocol_name, row)).unwrap_or_default();
        let mut whole = |index| texts.of(batch, index, MAX_ENDPOINT_BYTES, room);
        let service_name = whole(column(&columns.service_name, row))?;
        let (verb, rest) = match protocol {
            Protocol::Http => (column(&columns.http_request_method, row), whole(column(&columns.url_template, row))?),
            Protocol::Dns => (column(&columns.dns_question_type, row), whole(column(&columns.dns_question_name, row))?),
            Protocol::Tls => (0, whole(column(&columns.tls_server_name, row))?),
            _ => (0, Self::statement(texts, batch, row, room)?),
        };
        let verb = texts.of(batch, verb, MAX_NAME_BYTES, room)?;
        let endpoint = texts.joined(verb, rest, room)?;
        let error_type = texts.of(batch, column(&columns.error_type, row), MAX_NAME_BYTES, room)?;
        let (server, client) = batch.ends(row);
        let side = Side::from_number(column(&columns.side, row)).unwrap_or_default();
        Some(Numbers {
            resource,
            service_name,
            endpoint,
            error_type,
            server: self.addresses.number(server, room)?,
            client: if side == Side::Client { NO_ADDRESS } else { self.addresses.number(client, room)? },
            server_port: u16::try_from(column(&columns.server_port, row)).unwrap_or(u16::MAX),
            side,
            source: SourceKind::from_number(column(&columns.source, row)).unwrap_or_default(),
            protocol,
            status: status(batch, row),
        })
    }

    /// The endpoint of a database: the statement's fingerprint, else what it does, else the command.
    fn statement(texts: &mut Texts, batch: &DecodedBatch, row: usize, room: Room) -> Option<u32> {
        let columns = batch.columns();
        let fingerprint = texts.of(batch, column(&columns.db_query_fingerprint, row), MAX_ENDPOINT_BYTES, room)?;
        let command = column(&columns.mysql_command, row);
        if fingerprint != EMPTY {
            if batch.text(command) != "COM_STMT_PREPARE" {
                return Some(fingerprint);
            }
            let verb = texts.number("PREPARE", room)?;
            return texts.joined(verb, fingerprint, room);
        }
        let operation = texts.of(batch, column(&columns.db_operation_name, row), MAX_ENDPOINT_BYTES, room)?;
        if operation == EMPTY { texts.of(batch, command, MAX_ENDPOINT_BYTES, room) } else { Some(operation) }
    }

    /// The same service with its endpoints, errors and peers lumped together: the first step of overflow.
    pub fn numbers_without_details(&mut self, batch: &DecodedBatch, row: usize, resource: u32, room: Room) -> Option<Numbers> {
        let columns = batch.columns();
        Some(Numbers {
            resource,
            service_name: self.texts.of(batch, column(&columns.service_name, row), MAX_ENDPOINT_BYTES, room)?,
            side: Side::from_number(column(&columns.side, row)).unwrap_or_default(),
            source: SourceKind::from_number(column(&columns.source, row)).unwrap_or_default(),
            protocol: Protocol::from_number(column(&columns.network_protocol_name, row)).unwrap_or_default(),
            ..Numbers::of_outcome(status(batch, row))
        })
    }

    /// The number of a series that is there.
    pub fn find(&self, numbers: &Numbers) -> Option<u32> {
        self.series.get(numbers).copied()
    }

    /// Adds a series that [`Self::find`] did not find.
    pub fn insert(&mut self, numbers: Numbers) -> u32 {
        let series = self.keys.len() as u32;
        let key = self.key_of(numbers);
        self.keys.push(Arc::new(key));
        self.series.insert(numbers, series);
        series
    }

    fn key_of(&self, numbers: Numbers) -> SeriesKey {
        let text = |number| self.texts.text(number);
        let resource = self.resources.get(numbers.resource as usize).unwrap_or(&self.resources[0]);
        let (server, client) = (self.addresses.get(numbers.server), self.addresses.get(numbers.client));
        SeriesKey {
            service_name: text(numbers.service_name),
            k8s_namespace_name: Arc::clone(&resource.namespace),
            k8s_workload_kind: Arc::clone(&resource.workload_kind),
            k8s_workload_name: Arc::clone(&resource.workload_name),
            k8s_pod_name: Arc::clone(&resource.pod_name),
            k8s_pod_uid: Arc::clone(&resource.pod_uid),
            k8s_node_name: Arc::clone(&resource.node_name),
            side: numbers.side,
            source: numbers.source,
            network_protocol_name: numbers.protocol,
            endpoint: text(numbers.endpoint),
            status: numbers.status,
            error_type: text(numbers.error_type),
            server_address: server.map_or_else(|| text(OVERFLOWN), |(_, text)| Arc::clone(text)),
            server_port: numbers.server_port,
            peer: match (client, server) {
                (Some((_, text)), _) => Arc::clone(text),
                (None, Some((address, _))) => SocketAddr::new(*address, numbers.server_port).to_string().into(),
                (None, None) => text(OVERFLOWN),
            },
        }
    }

    /// The key of a series that is there.
    pub fn key(&self, series: u32) -> Option<&Arc<SeriesKey>> {
        self.keys.get(series as usize)
    }
}

#[cfg(test)]
mod tests {
    use podtap_wire::{BatchBuilder, RequestRecord};

    use super::*;

    fn batch<'a>(pod: &str, records: impl IntoIterator<Item = RequestRecord<'a>>) -> DecodedBatch {
        let resource = Resource { k8s_pod_name: pod.to_owned(), ..Resource::default() };
        let mut builder = BatchBuilder::new("sender".to_owned(), [1; 16], resource);
        for record in records {
            builder.push(&record);
        }
        DecodedBatch::decode(&builder.finish(1, 0, Vec::new()).bytes).unwrap()
    }

    /// The key of the first record.
    fn key(record: &RequestRecord<'_>) -> Arc<SeriesKey> {
        let (mut table, batch) = (SeriesTable::default(), batch("a", [record.clone()]));
        let resource = table.begin(&batch);
        let numbers = table.numbers(&batch, 0, resource, Room::New).unwrap();
        let series = table.insert(numbers);
        Arc::clone(table.key(series).unwrap())
    }

    #[test]
    fn endpoints() {
        let endpoint = |record: &RequestRecord<'_>| key(record).endpoint.to_string();
        let http = RequestRecord { network_protocol_name: Protocol::Http, http_request_method: "GET", ..RequestRecord::default() };
        assert_eq!(endpoint(&RequestRecord { url_template: "/items/{id}", ..http.clone() }), "GET /items/{id}");
        assert_eq!(endpoint(&http), "GET");
        let sql = RequestRecord {
            network_protocol_name: Protocol::Mysql,
            mysql_command: "COM_QUERY",
            db_query_fingerprint: "select ?",
            db_operation_name: "SELECT",
            ..RequestRecord::default()
        };
        assert_eq!(endpoint(&sql), "select ?");
        assert_eq!(endpoint(&RequestRecord { mysql_command: "COM_STMT_PREPARE", ..sql.clone() }), "PREPARE select ?");
        assert_eq!(endpoint(&RequestRecord { db_query_fingerprint: "", ..sql.clone() }), "SELECT");
        assert_eq!(endpoint(&RequestRecord { db_query_fingerprint: "", db_operation_name: "", ..sql }), "COM_QUERY");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ä".repeat(MAX_ENDPOINT_BYTES);
        let record = RequestRecord {
            network_protocol_name: Protocol::Http,
            http_request_method: &long,
            url_template: &long,
            error_type: &long,
            service_name: &long,
            ..RequestRecord::default()
        };
        let key = key(&record);
        let lengths = [key.service_name.len(), key.error_type.len(), key.endpoint.len()];
        assert_eq!(lengths, [MAX_ENDPOINT_BYTES, MAX_NAME_BYTES, MAX_NAME_BYTES + 1 + MAX_ENDPOINT_BYTES]);
    }

    #[test]
    fn peers() {
        let end = |text: &str| text.parse().unwrap();
        let record =
            RequestRecord { client_address: end("10.0.0.1"), server_address: end("fd00::2"), server_port: 80, ..RequestRecord::default() };
        let of = |side| key(&RequestRecord { side, ..record.clone() }).peer.to_string();
        assert_eq!(of(Side::Client), "[fd00::2]:80");
        assert_eq!([of(Side::Server), of(Side::Both)], ["10.0.0.1", "10.0.0.1"]);
    }

    #[test]
    fn one_series_for_each_different_key() {
        let base = RequestRecord { service_name: "shop", client_port: 1, side: Side::Server, ..RequestRecord::default() };
        let same = RequestRecord { client_port: 2, ..base.clone() };
        let changed = [
            RequestRecord { service_name: "sho", ..base.clone() },
            RequestRecord { status: Status::ServerError, ..base.clone() },
            RequestRecord { side: Side::Client, ..base.clone() },
            RequestRecord { error_type: "500", ..base.clone() },
            RequestRecord { server_port: 80, ..base.clone() },
            RequestRecord { client_address: "::1".parse().unwrap(), ..base.clone() },
            RequestRecord { network_protocol_name: Protocol::Http, url_template: "/", ..base.clone() },
        ];
        let mut table = SeriesTable::default();
        let records = batch("a", [base.clone(), same].into_iter().chain(changed));
        let resource = table.begin(&records);
        let first = table.numbers(&records, 0, resource, Room::New).unwrap();
        let series = table.insert(first);
        assert_eq!(table.numbers(&records, 1, resource, Room::Known), Some(first));
        for row in 2..records.rows() {
            let numbers = table.numbers(&records, row, resource, Room::New).unwrap();
            assert_eq!(table.find(&numbers), None, "{:?}", records.record(row));
            let added = table.insert(numbers);
            assert_eq!(table.find(&numbers), Some(added));
        }
        assert_eq!(table.find(&first), Some(series));
        assert_eq!(&*table.key(series).unwrap().k8s_pod_name, "a");
        let other = batch("b", [base]);
        let resource = table.begin(&other);
        let numbers = table.numbers(&other, 0, resource, Room::Known).unwrap();
        assert_eq!(table.find(&numbers), None, "another pod's");
    }

    #[test]
    fn what_is_new_gets_no_number_without_room() {
        let mut table = SeriesTable::default();
        let http = |path| RequestRecord { network_protocol_name: Protocol::Http, url_template: path, ..RequestRecord::default() };
        let known = batch("a", [http("/known")]);
        let resource = table.begin(&known);
        let numbers = table.numbers(&known, 0, resource, Room::New).unwrap();
        table.insert(numbers);
        let other = batch("a", [http("/new"), http("/known")]);
        let resource = table.begin(&other);
        assert_eq!(table.numbers(&other, 0, resource, Room::Known), None);
        assert_eq!(table.numbers(&other, 1, resource, Room::Known), Some(numbers));
        let lumped = table.numbers_without_details(&other, 0, resource, Room::Known).unwrap();
        assert_eq!((lumped.resource, lumped.service_name, lumped.endpoint), (resource, EMPTY, OVERFLOWN));
    }
}
