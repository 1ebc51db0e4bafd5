//! What a record counts for: the series key, its borrowed form that a record lends, and the table that finds one by the other.
//!
//! Everything in the key comes from the record's own bytes. Never add something looked up elsewhere (a name of an address, a
//! cap shared between blocks): the same block would then give other series when it is read again.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use podtap_wire::proto::Resource;
use podtap_wire::{Protocol, RequestRecord, Side, SourceKind, Status};
use rustc_hash::{FxHashMap, FxHasher};

/// What stands in a key's place once a block has too many of them.
pub const OVERFLOW: &str = "(overflow)";

/// Longest endpoint that is kept whole, in bytes; fingerprints are bounded by the sidecar, hostile senders are not.
pub const MAX_ENDPOINT_BYTES: usize = 1024;

/// The key of a series: the columns of `request_histograms` before its counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// The service whose sidecar saw the exchange.
    pub service_name: String,
    /// Namespace of that sidecar's pod.
    pub k8s_namespace_name: String,
    /// Kind of the pod's owner.
    pub k8s_workload_kind: String,
    /// Name of the pod's owner.
    pub k8s_workload_name: String,
    /// Name of the pod.
    pub k8s_pod_name: String,
    /// UID of the pod.
    pub k8s_pod_uid: String,
    /// Node of the pod.
    pub k8s_node_name: String,
    /// Which end is in the pod.
    pub side: Side,
    /// What the records were made from.
    pub source: SourceKind,
    /// Protocol of the exchanges.
    pub network_protocol_name: Protocol,
    /// `GET /items/{id}`, a statement's fingerprint, `PREPARE ` and the fingerprint, or the command.
    pub endpoint: String,
    /// Outcome.
    pub status: Status,
    /// What failed, empty on success.
    pub error_type: String,
    /// The server's end as seen on the wire.
    pub server_address: String,
    /// Its port.
    pub server_port: u16,
    /// The other end: the client's address seen from a server, `address:port` of the server seen from a client.
    pub peer: String,
}

/// The parts of an endpoint, joined by a space only when a series is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointParts<'a> {
    verb: &'a str,
    rest: &'a str,
}

impl<'a> EndpointParts<'a> {
    /// The endpoint of a record.
    pub fn of(record: &RequestRecord<'a>) -> Self {
        let (verb, rest) = match record.network_protocol_name {
            Protocol::Http => (record.http_request_method, record.url_template),
            Protocol::Dns => (record.dns_question_type, record.dns_question_name),
            Protocol::Tls => ("", record.tls_server_name),
            _ if !record.db_query_fingerprint.is_empty() => {
                let prepares = record.mysql_command == "COM_STMT_PREPARE";
                (if prepares { "PREPARE" } else { "" }, record.db_query_fingerprint)
            }
            _ if !record.db_operation_name.is_empty() => ("", record.db_operation_name),
            _ => ("", record.mysql_command),
        };
        Self { verb: truncate(verb, 64), rest: truncate(rest, MAX_ENDPOINT_BYTES) }
    }

    fn matches(&self, joined: &str) -> bool {
        match (self.verb.is_empty(), self.rest.is_empty()) {
            (true, _) => joined == self.rest,
            (false, true) => joined == self.verb,
            (false, false) => {
                joined.len() == self.verb.len() + 1 + self.rest.len()
                    && joined.starts_with(self.verb)
                    && joined.ends_with(self.rest)
                    && joined.as_bytes().get(self.verb.len()) == Some(&b' ')
            }
        }
    }
}

impl std::fmt::Display for EndpointParts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let space = if self.verb.is_empty() || self.rest.is_empty() { "" } else { " " };
        write!(f, "{}{space}{}", self.verb, self.rest)
    }
}

/// Cuts at a character boundary.
fn truncate(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// A record's key, borrowed from its batch. `resource` is the number that the block gave to the batch's resource.
#[derive(Clone, Copy, Debug)]
pub struct SeriesParts<'a> {
    resource: u32,
    service_name: &'a str,
    side: Side,
    source: SourceKind,
    protocol: Protocol,
    endpoint: EndpointParts<'a>,
    status: Status,
    error_type: &'a str,
    server: Option<(IpAddr, u16)>,
    client: Option<IpAddr>,
}

impl<'a> SeriesParts<'a> {
    /// The key of a record. The client's address takes part only where it is the peer.
    pub fn of(record: &RequestRecord<'a>, resource: u32) -> Self {
        let port = u16::try_from(record.server_port).unwrap_or(u16::MAX);
        Self {
            resource,
            service_name: truncate(record.service_name, MAX_ENDPOINT_BYTES),
            side: record.side,
            source: record.source,
            protocol: record.network_protocol_name,
            endpoint: EndpointParts::of(record),
            status: record.status,
            error_type: truncate(record.error_type, 64),
            server: Some((record.server_address, port)),
            client: (record.side != Side::Client).then_some(record.client_address),
        }
    }

    /// The same service with its endpoints, errors and peers lumped together: the first step of overflow.
    pub fn without_details(self) -> Self {
        Self { endpoint: EndpointParts { verb: "", rest: OVERFLOW }, error_type: "", server: None, client: None, ..self }
    }

    /// Nothing but the outcome: the last step of overflow, of which there are as many as outcomes.
    pub fn without_names(self) -> Self {
        Self {
            resource: 0,
            service_name: OVERFLOW,
            side: Side::Unknown,
            source: SourceKind::Unknown,
            protocol: Protocol::Unknown,
            ..self.without_details()
        }
    }

    fn hash(&self) -> u64 {
        let mut hasher = FxHasher::default();
        (self.resource, self.side, self.source, self.protocol, self.status).hash(&mut hasher);
        (self.service_name, self.endpoint.verb, self.endpoint.rest, self.error_type).hash(&mut hasher);
        (self.server, self.client).hash(&mut hasher);
        hasher.finish()
    }

    fn matches(&self, entry: &Entry) -> bool {
        let key = &*entry.key;
        entry.resource == self.resource
            && entry.server == self.server
            && entry.client == self.client
            && key.status == self.status
            && key.side == self.side
            && key.network_protocol_name == self.protocol
            && key.source == self.source
            && key.service_name == self.service_name
            && key.error_type == self.error_type
            && self.endpoint.matches(&key.endpoint)
    }

    fn to_key(self, resource: &Resource) -> SeriesKey {
        let server = |(address, port)| std::net::SocketAddr::new(address, port).to_string();
        SeriesKey {
            service_name: self.service_name.to_owned(),
            k8s_namespace_name: resource.k8s_namespace_name.clone(),
            k8s_workload_kind: resource.k8s_workload_kind.clone(),
            k8s_workload_name: resource.k8s_workload_name.clone(),
            k8s_pod_name: resource.k8s_pod_name.clone(),
            k8s_pod_uid: resource.k8s_pod_uid.clone(),
            k8s_node_name: resource.k8s_node_name.clone(),
            side: self.side,
            source: self.source,
            network_protocol_name: self.protocol,
            endpoint: self.endpoint.to_string(),
            status: self.status,
            error_type: self.error_type.to_owned(),
            server_address: self.server.map_or_else(|| OVERFLOW.to_owned(), |(address, _)| address.to_string()),
            server_port: self.server.map_or(0, |(_, port)| port),
            peer: match (self.client, self.server) {
                (Some(client), _) => client.to_string(),
                (None, Some(end)) => server(end),
                (None, None) => OVERFLOW.to_owned(),
            },
        }
    }
}

#[derive(Debug)]
struct Entry {
    key: Arc<SeriesKey>,
    resource: u32,
    server: Option<(IpAddr, u16)>,
    client: Option<IpAddr>,
    /// The entry before this one with the same hash.
    next: Option<u32>,
}

/// The series of one block, found by borrowed parts without an allocation.
#[derive(Debug)]
pub struct SeriesTable {
    /// Number 0 is the empty resource of [`SeriesParts::without_names`].
    resources: Vec<Resource>,
    entries: Vec<Entry>,
    heads: FxHashMap<u64, u32>,
}

impl Default for SeriesTable {
    fn default() -> Self {
        Self { resources: vec![Resource::default()], entries: Vec::new(), heads: FxHashMap::default() }
    }
}

impl SeriesTable {
    /// The number of a resource; once a batch, so a scan over the few pods of a partition is cheap enough when it is the last.
    pub fn resource(&mut self, resource: &Resource) -> u32 {
        let found = self.resources.iter().rposition(|known| known == resource);
        found.unwrap_or_else(|| {
            self.resources.push(resource.clone());
            self.resources.len() - 1
        }) as u32
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True before the first series.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of a series that is there.
    pub fn find(&self, parts: &SeriesParts<'_>) -> Option<u32> {
        let mut at = self.heads.get(&parts.hash()).copied();
        while let Some(index) = at {
            let entry = self.entries.get(index as usize)?;
            if parts.matches(entry) {
                return Some(index);
            }
            at = entry.next;
        }
        None
    }

    /// Adds a series that [`Self::find`] did not find.
    pub fn insert(&mut self, parts: &SeriesParts<'_>) -> u32 {
        let index = self.entries.len() as u32;
        let next = self.heads.insert(parts.hash(), index);
        let key = Arc::new(parts.to_key(self.resources.get(parts.resource as usize).unwrap_or(&self.resources[0])));
        self.entries.push(Entry { key, resource: parts.resource, server: parts.server, client: parts.client, next });
        index
    }

    /// The key of a series that is there.
    pub fn key(&self, series: u32) -> Option<&Arc<SeriesKey>> {
        self.entries.get(series as usize).map(|entry| &entry.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(record: &RequestRecord<'_>, endpoint: &str) {
        let parts = EndpointParts::of(record);
        assert_eq!(parts.to_string(), endpoint);
        assert!(parts.matches(endpoint));
        assert!(!parts.matches(&format!("{endpoint}x")));
    }

    #[test]
    fn endpoints() {
        let http = RequestRecord { network_protocol_name: Protocol::Http, http_request_method: "GET", ..RequestRecord::default() };
        check(&RequestRecord { url_template: "/items/{id}", ..http.clone() }, "GET /items/{id}");
        check(&http, "GET");
        let sql = RequestRecord {
            network_protocol_name: Protocol::Mysql,
            mysql_command: "COM_QUERY",
            db_query_fingerprint: "select ?",
            db_operation_name: "SELECT",
            ..RequestRecord::default()
        };
        check(&sql, "select ?");
        check(&RequestRecord { mysql_command: "COM_STMT_PREPARE", ..sql.clone() }, "PREPARE select ?");
        check(&RequestRecord { db_query_fingerprint: "", ..sql.clone() }, "SELECT");
        check(&RequestRecord { db_query_fingerprint: "", db_operation_name: "", ..sql }, "COM_QUERY");
    }

    #[test]
    fn long_endpoints_are_cut_between_characters() {
        let path = "ä".repeat(MAX_ENDPOINT_BYTES);
        let record = RequestRecord { network_protocol_name: Protocol::Http, url_template: &path, ..RequestRecord::default() };
        assert_eq!(EndpointParts::of(&record).to_string().len(), MAX_ENDPOINT_BYTES);
    }

    #[test]
    fn one_series_for_each_different_key() {
        let mut table = SeriesTable::default();
        let resource = table.resource(&Resource { k8s_pod_name: "a".to_owned(), ..Resource::default() });
        let other = table.resource(&Resource { k8s_pod_name: "b".to_owned(), ..Resource::default() });
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
        let series = table.insert(&SeriesParts::of(&base, resource));
        assert_eq!(table.find(&SeriesParts::of(&same, resource)), Some(series));
        assert_eq!(table.find(&SeriesParts::of(&base, other)), None);
        for record in &changed {
            let parts = SeriesParts::of(record, resource);
            assert_eq!(table.find(&parts), None, "{record:?}");
            let added = table.insert(&parts);
            assert_eq!(table.find(&parts), Some(added));
        }
        assert_eq!(table.find(&SeriesParts::of(&base, resource)), Some(series));
        assert_eq!(table.key(series).unwrap().k8s_pod_name, "a");
    }
}
