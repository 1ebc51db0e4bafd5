//! From a finished exchange to a [`RequestRecord`]: names, templates, masking, who the pod is.
//!
//! Guarantees: nothing that is masked by default reaches a record (literals of SQL, also where an error quotes
//! them, values of query strings and of parameters in paths, parameters of statements); a time is
//! never negative; no allocation in the steady state. The record borrows from the exchange and from this module's scratch text.

mod identity;
mod message;
mod route;
mod shape;
mod sql;
#[cfg(test)]
mod tests;
mod trace;

use std::fmt::Write;
use std::net::IpAddr;

use podtap_wire::{Completeness, RequestRecord, Side, SourceKind, Transport};

use crate::packet::Endpoint;
use crate::protocol::Exchange;
use crate::protocol::exchange::{Detail, ErrorType, Header, HttpDetail, MysqlDetail, TlsDetail};
pub use identity::Identity;
pub use sql::{Normalised, normalise};

/// Makes records.
#[derive(Debug)]
pub struct Recorder {
    source: SourceKind,
    unmask: bool,
    identity: Identity,
    local_addresses: Vec<IpAddr>,
    /// `service_name` when it does not depend on the record.
    service: Option<String>,
    scratch: Scratch,
    sql: sql::Memo,
    routes: route::Routes,
    negative_times: u64,
}

#[derive(Debug, Default)]
struct Scratch {
    service: String,
    /// The server that `service` names.
    server: Option<Endpoint>,
    path: String,
    route: String,
    query: String,
    error: String,
    code: String,
    shape: String,
    message: String,
    trace: String,
    span: String,
}

impl Recorder {
    /// Stamps records with this identity.
    pub fn new(source: SourceKind, unmask: bool, identity: Identity, local_addresses: Vec<IpAddr>) -> Self {
        let service = match (identity.service_name.as_str(), identity.workload_name.as_str()) {
            ("", "") => None,
            ("", workload) if identity.namespace.is_empty() => Some(workload.to_owned()),
            ("", workload) => Some(format!("{}/{workload}", identity.namespace)),
            (configured, _) => Some(configured.to_owned()),
        };
        Self {
            source,
            unmask,
            identity,
            local_addresses,
            service,
            scratch: Scratch::default(),
            sql: sql::Memo::default(),
            routes: route::Routes::default(),
            negative_times: 0,
        }
    }

    /// Times that were left out because they would have been negative.
    pub fn negative_times(&self) -> u64 {
        self.negative_times
    }

    /// Segments of paths that became `{name}` because their place has had too many names.
    pub fn folded_names(&self) -> u64 {
        self.routes.folded()
    }

    /// Makes the record of an exchange.
    pub fn record<'a>(&'a mut self, exchange: &'a Exchange) -> RequestRecord<'a> {
        let mut record = self.timing(exchange);
        let connection = &exchange.connection;
        record.side = side(&self.local_addresses, connection.client, connection.server);
        let Self { unmask, identity, service, scratch, sql, routes, .. } = self;
        let Scratch { service: service_text, server, path, route, query, error, code, shape, message, trace, span } = scratch;
        record.service_name = match service {
            Some(service) => service,
            None => {
                if *server != Some(connection.server) {
                    *server = Some(connection.server);
                    service_text.clear();
                    // Writing to a String cannot fail.
                    let _ = match connection.server.0 {
                        IpAddr::V4(address) => write!(service_text, "{address}:{}", connection.server.1),
                        IpAddr::V6(address) => write!(service_text, "[{address}]:{}", connection.server.1),
                    };
                }
                service_text
            }
        };
        record.k8s_namespace_name = &identity.namespace;
        record.k8s_pod_name = &identity.pod_name;
        record.k8s_pod_uid = &identity.pod_uid;
        record.k8s_node_name = &identity.node_name;
        record.k8s_container_name = &identity.container_name;
        record.k8s_workload_kind = &identity.workload_kind;
        record.k8s_workload_name = &identity.workload_name;
        record.error_type = match exchange.error {
            ErrorType::None => "",
            ErrorType::Transport(name) => name,
            ErrorType::Number(number) => {
                error.clear();
                let _ = write!(error, "{number}");
                error
            }
        };
        match &exchange.detail {
            Detail::None => {}
            Detail::Http(detail) => http(&mut record, exchange, detail, *unmask, HttpScratch { routes, path, route, query, trace, span }),
            Detail::Mysql(detail) => mysql(&mut record, exchange, detail, *unmask, MysqlScratch { memo: sql, code, shape, message }),
            Detail::Tls(detail) => tls(&mut record, exchange, detail),
        }
        record
    }

    fn timing<'a>(&mut self, exchange: &Exchange) -> RequestRecord<'a> {
        let start = exchange.request.first_ns;
        let first = self.since(start, exchange.response.first_ns);
        let last = self.since(start, exchange.response.last_ns);
        RequestRecord {
            timestamp: start.or(exchange.response.first_ns).unwrap_or(0),
            network_protocol_name: exchange.protocol,
            network_transport: Transport::Tcp,
            client_address: exchange.connection.client.0,
            client_port: u64::from(exchange.connection.client.1),
            server_address: exchange.connection.server.0,
            server_port: u64::from(exchange.connection.server.1),
            connection_id: exchange.connection.id,
            exchange_index: exchange.index,
            tcp_request_sequence: exchange.request.sequence.map(u64::from),
            tcp_response_sequence: exchange.response.sequence.map(u64::from),
            source: self.source,
            time_to_first_byte_ns: first,
            // With retransmissions the last byte can have been captured before the first.
            time_to_last_byte_ns: last.map(|last| last.max(first.unwrap_or(0))),
            request_time_ns: self.since(start, exchange.request.last_ns),
            request_bytes: exchange.request.bytes,
            response_bytes: exchange.response.bytes,
            status: exchange.status,
            completeness: if exchange.partial { Completeness::Partial } else { Completeness::Complete },
            lost_bytes: exchange.request.lost + exchange.response.lost,
            ..RequestRecord::default()
        }
    }

    fn since(&mut self, start: Option<u64>, end: Option<u64>) -> Option<u64> {
        let elapsed = end?.checked_sub(start?);
        self.negative_times += u64::from(elapsed.is_none());
        elapsed
    }
}

fn side(local: &[IpAddr], client: Endpoint, server: Endpoint) -> Side {
    if local.is_empty() {
        return Side::Unknown;
    }
    let is_local = |address: IpAddr| address.is_loopback() || local.contains(&address);
    match (is_local(client.0), is_local(server.0)) {
        (true, true) => Side::Both,
        (true, false) => Side::Client,
        (false, true) => Side::Server,
        (false, false) => Side::Unknown,
    }
}

struct HttpScratch<'a> {
    routes: &'a mut route::Routes,
    path: &'a mut String,
    route: &'a mut String,
    query: &'a mut String,
    trace: &'a mut String,
    span: &'a mut String,
}

fn http<'a>(record: &mut RequestRecord<'a>, exchange: &'a Exchange, detail: &HttpDetail, unmask: bool, scratch: HttpScratch<'a>) {
    let header = |header: Header| exchange.text(detail.headers[header as usize]);
    let HttpScratch { routes, path, route, query, trace, span } = scratch;
    record.network_protocol_version = if detail.minor_version == 0 { "1.0" } else { "1.1" };
    record.http_request_method = exchange.text(detail.method);
    record.url_path = exchange.text(detail.path);
    routes.template(record.url_path, detail.status_code == 404, route);
    record.url_template = route;
    if !unmask && record.url_path.contains(';') {
        route::mask_parameters(record.url_path, path);
        record.url_path = path;
    }
    record.url_query = exchange.text(detail.query);
    if !unmask && !record.url_query.is_empty() {
        route::mask_query(record.url_query, query);
        record.url_query = query;
    }
    let authority = exchange.text(detail.authority);
    record.http_request_header_host = if authority.is_empty() { header(Header::Host) } else { authority };
    record.user_agent_original = header(Header::UserAgent);
    record.http_forwarded_client = trace::client(header(Header::Forwarded), header(Header::XForwardedFor), header(Header::XRealIp));
    record.http_request_content_type = header(Header::ContentType);
    record.request_id = header(Header::XRequestId);
    record.http_response_status_code = u64::from(detail.status_code);
    record.http_response_content_type = exchange.text(detail.response_content_type);
    record.http_request_body_size = detail.request_body;
    record.http_response_body_size = detail.response_body;
    let found = trace::Headers {
        traceparent: header(Header::Traceparent),
        b3: header(Header::B3),
        b3_trace: header(Header::B3TraceId),
        b3_span: header(Header::B3SpanId),
        sw8: header(Header::Sw8),
        uber: header(Header::UberTraceId),
    };
    (record.trace_id, record.span_id) = trace::ids(found, trace, span);
}

struct MysqlScratch<'a> {
    memo: &'a mut sql::Memo,
    code: &'a mut String,
    shape: &'a mut String,
    message: &'a mut String,
}

fn mysql<'a>(record: &mut RequestRecord<'a>, exchange: &'a Exchange, detail: &MysqlDetail, unmask: bool, scratch: MysqlScratch<'a>) {
    let MysqlScratch { memo, code, shape, message } = scratch;
    record.mysql_command = detail.command;
    record.network_protocol_version = exchange.text(detail.version);
    record.db_system_name = detail.system;
    record.db_user = exchange.text(detail.user);
    record.db_namespace = exchange.text(detail.schema);
    record.db_response_returned_rows = detail.returned_rows;
    record.db_response_affected_rows = detail.affected_rows;
    record.db_response_warnings = detail.warnings;
    let statement = exchange.text(detail.statement);
    if statement.is_empty() {
        record.db_operation_name = detail.command.strip_prefix("COM_").unwrap_or(detail.command);
    } else {
        // What was prepared comes again as it is.
        let plain = match detail.command {
            _ if detail.no_backslash_escapes && statement.contains('\\') => {
                // Doubled, a backslash escapes nothing for whoever reads on.
                *shape = statement.replace('\\', "\\\\");
                shape
            }
            "COM_QUERY" => shape::of(statement, shape),
            _ => statement,
        };
        let normalised = memo.normalise(plain);
        record.db_query_text = if unmask { statement } else { &normalised.masked };
        record.db_query_fingerprint = &normalised.fingerprint;
        record.db_query_summary = &normalised.summary;
        record.db_operation_name = &normalised.operation;
    }
    if detail.error_code != 0 {
        code.clear();
        // Writing to a String cannot fail.
        let _ = write!(code, "{}", detail.error_code);
        record.db_response_status_code = code;
        record.db_response_sqlstate = exchange.text(detail.sqlstate);
        record.db_response_message = exchange.text(detail.message);
        if !unmask && !record.db_response_message.is_empty() {
            message::mask(detail.error_code, record.db_response_message, message);
            record.db_response_message = message;
        }
    }
    if unmask {
        record.db_query_parameters = exchange.parameters.iter().map(|span| exchange.text(*span)).collect();
    }
}

fn tls<'a>(record: &mut RequestRecord<'a>, exchange: &'a Exchange, detail: &TlsDetail) {
    record.tls_server_name = exchange.text(detail.server_name);
    record.tls_alpn = exchange.text(detail.alpn);
    record.tls_version = detail.version;
    record.network_protocol_version = detail.version;
}
