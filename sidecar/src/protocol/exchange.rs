//! One exchange while it is read: numbers, and spans of text in one arena, so that a used exchange serves again without an
//! allocation.

use std::net::{IpAddr, Ipv4Addr};

use podtap_wire::{Protocol, Status};

use super::{Connection, Input};

/// Most exchanges kept for reuse: what a busy sidecar has in flight.
const POOL_LIMIT: usize = 1024;
/// Arenas that grew beyond this are not kept: one long statement must not stay in memory for ever.
const POOL_TEXT_LIMIT: usize = 4 << 10;

/// Text in an exchange's arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

/// Longest head that is kept as a whole: beyond, cookies and the like would be most of it.
const WHOLE_HEAD: usize = 1024;

/// A head whose parts are being kept.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Where its bytes are, to know parts of it by.
    address: usize,
    /// Where its text is.
    start: usize,
    /// How long its text is, 0 if it is not kept as a whole.
    length: usize,
}

/// Request or answer: when, where, how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Capture time of the first byte.
    pub first_ns: Option<u64>,
    /// Capture time of the last byte; `None` when it was not seen or is still to come.
    pub last_ns: Option<u64>,
    /// Sequence number of the first byte.
    pub sequence: Option<u32>,
    /// TCP payload.
    pub bytes: u64,
    /// Of these, not seen.
    pub lost: u64,
    /// The part is over.
    pub done: bool,
}

impl Part {
    /// Marks the first byte, at `index` of the input.
    pub fn start(&mut self, input: &Input<'_>, index: usize) {
        self.first_ns = Some(input.time_at(index));
        self.sequence = Some(input.sequence_at(index));
    }

    /// Marks the last byte, the one before `end` of the input.
    pub fn finish(&mut self, input: &Input<'_>, end: usize) {
        self.last_ns = Some(input.time_at(end.saturating_sub(1)));
        self.done = true;
    }
}

/// `error_type` of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorType {
    /// Success.
    #[default]
    None,
    /// A status or error number.
    Number(u32),
    /// `timeout`, `connection_reset`, `connection_closed`.
    Transport(&'static str),
}

/// Request headers that are kept, in the order of [`HttpDetail::headers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Header {
    Host,
    UserAgent,
    Forwarded,
    XForwardedFor,
    XRealIp,
    Traceparent,
    B3,
    B3TraceId,
    B3SpanId,
    Sw8,
    UberTraceId,
    XRequestId,
    ContentType,
}

/// Number of [`Header`]s.
pub const HEADERS: usize = Header::ContentType as usize + 1;

/// What HTTP/1 adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpDetail {
    /// 0 or 1: minor version of the request.
    pub minor_version: u8,
    /// Request method.
    pub method: Span,
    /// Request target without query.
    pub path: Span,
    /// Query without `?`.
    pub query: Span,
    /// Authority of an absolute target.
    pub authority: Span,
    /// Kept request headers.
    pub headers: [Span; HEADERS],
    /// Content-Type of the answer.
    pub response_content_type: Span,
    /// Status code of the final answer, 0 while there is none.
    pub status_code: u16,
    /// Body without chunk framing.
    pub request_body: Option<u64>,
    /// Body without chunk framing.
    pub response_body: Option<u64>,
    /// How far the client had read the server's stream when it sent the request.
    pub floor: Option<u64>,
    /// The answer has no body: HEAD.
    pub is_head: bool,
    /// Becomes a tunnel on success.
    pub is_connect: bool,
}

/// What MySQL adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct MysqlDetail {
    /// Name of the command.
    pub command: &'static str,
    /// `mysql` or `mariadb`.
    pub system: &'static str,
    /// Session's schema when the command was sent.
    pub schema: Span,
    /// Session's user.
    pub user: Span,
    /// Statement as sent, or as it was prepared.
    pub statement: Span,
    /// Version of the server.
    pub version: Span,
    /// Schema that an INIT_DB or CHANGE_USER asks for.
    pub wanted_schema: Span,
    /// User that a CHANGE_USER asks for.
    pub wanted_user: Span,
    /// The statement was longer than what is kept.
    pub statement_cut: bool,
    /// A backslash in the statement's literals is a character like others.
    pub no_backslash_escapes: bool,
    /// Error number.
    pub error_code: u16,
    /// SQLSTATE.
    pub sqlstate: Span,
    /// Error message.
    pub message: Span,
    /// Rows.
    pub returned_rows: Option<u64>,
    /// Rows changed.
    pub affected_rows: Option<u64>,
    /// Warnings.
    pub warnings: u64,
    /// How far the client had read the server's stream when it sent the command.
    pub floor: Option<u64>,
    /// Statement id of an EXECUTE, FETCH, CLOSE, ...
    pub statement_id: u32,
    /// Command byte.
    pub code: u8,
}

/// What TLS adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsDetail {
    /// SNI.
    pub server_name: Span,
    /// Negotiated, else first offered, ALPN protocol.
    pub alpn: Span,
    /// Version.
    pub version: &'static str,
}

/// What the protocol adds.
#[derive(Clone, Copy, Debug, Default)]
pub enum Detail {
    /// Nothing yet.
    #[default]
    None,
    /// HTTP/1.
    Http(HttpDetail),
    /// MySQL.
    Mysql(MysqlDetail),
    /// TLS.
    Tls(TlsDetail),
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    /// Its connection.
    pub connection: Connection,
    /// Position in it.
    pub index: u64,
    /// Protocol.
    pub protocol: Protocol,
    /// Request.
    pub request: Part,
    /// Final answer; `bytes` counts interim ones too.
    pub response: Part,
    /// Outcome.
    pub status: Status,
    /// Its error.
    pub error: ErrorType,
    /// Bytes were not seen, or the capture ended before it did.
    pub partial: bool,
    /// The protocol's part.
    pub detail: Detail,
    /// Ends of `parameters` in the arena.
    pub parameters: Vec<Span>,
    text: String,
}

impl Default for Exchange {
    fn default() -> Self {
        let nobody = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            connection: Connection { id: 0, client: nobody, server: nobody },
            index: 0,
            protocol: Protocol::Unknown,
            request: Part::default(),
            response: Part::default(),
            status: Status::Ok,
            error: ErrorType::None,
            partial: false,
            detail: Detail::None,
            parameters: Vec::new(),
            text: String::new(),
        }
    }
}

impl Exchange {
    /// Keeps text; bytes that are no UTF-8 are replaced.
    pub fn put(&mut self, bytes: &[u8]) -> Span {
        let start = self.text.len() as u32;
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text.push_str(text),
            Err(_) => self.text.push_str(&String::from_utf8_lossy(bytes)),
        }
        Span { start, end: self.text.len() as u32 }
    }

    /// Keeps texts.
    pub fn put_each<const N: usize>(&mut self, texts: [&str; N]) -> [Span; N] {
        texts.map(|text| {
            let start = self.text.len() as u32;
            self.text.push_str(text);
            Span { start, end: self.text.len() as u32 }
        })
    }

    /// Keeps a whole message head, so that parts of it need no copy of their own; see [`part`](Self::part).
    pub fn head(&mut self, head: &[u8]) -> Head {
        let start = self.text.len();
        let text = std::str::from_utf8(head).ok().filter(|text| text.len() <= WHOLE_HEAD);
        self.text.push_str(text.unwrap_or_default());
        Head { address: head.as_ptr() as usize, start, length: text.map_or(0, str::len) }
    }

    /// Keeps a part of a head's bytes.
    pub fn part(&mut self, head: &Head, part: &[u8]) -> Span {
        let offset = (part.as_ptr() as usize).wrapping_sub(head.address);
        let (start, end) = (head.start.wrapping_add(offset), head.start.wrapping_add(offset).wrapping_add(part.len()));
        let within = offset <= head.length && part.len() <= head.length - offset;
        if within && self.text.is_char_boundary(start) && self.text.is_char_boundary(end) {
            return Span { start: start as u32, end: end as u32 };
        }
        self.put(part)
    }

    /// The text of a span.
    pub fn text(&self, span: Span) -> &str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    fn reset(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        let mut parameters = std::mem::take(&mut self.parameters);
        text.clear();
        parameters.clear();
        *self = Self { text, parameters, ..Self::default() };
    }
}

/// Exchanges to be used again.
#[derive(Debug, Default)]
pub struct Pool {
    // Boxed: an exchange moves between queues, and 600 bytes would be copied each time.
    #[allow(clippy::vec_box)]
    free: Vec<Box<Exchange>>,
}

impl Pool {
    /// An empty exchange.
    pub fn take(&mut self) -> Box<Exchange> {
        self.free.pop().unwrap_or_default()
    }

    /// Takes one back.
    pub fn give(&mut self, mut exchange: Box<Exchange>) {
        if self.free.len() < POOL_LIMIT && exchange.text.capacity() <= POOL_TEXT_LIMIT {
            exchange.reset();
            self.free.push(exchange);
        }
    }
}
