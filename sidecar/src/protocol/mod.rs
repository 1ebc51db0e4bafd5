//! Protocols: from ordered bytes to finished exchanges.
//!
//! A [`Decoder`] reads both streams of one connection and cannot fail: what it cannot read is counted. The [`driver`] owns
//! detection, buffers and caps. [`PROTOCOLS`] is the one ordered table; a protocol is a folder (`mod.rs`, `frame.rs`, `decoder.rs`,
//! `tests.rs`), a row here and a variant in `wire`. Misuse to avoid: a decoder must not keep bytes "for later" itself; it asks
//! for more with [`Progress::Need`] and is called again with all of them.

pub mod driver;
pub mod exchange;
pub mod http1;
pub mod mysql;
pub mod pairing;
#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod template;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod unpack;

use podtap_wire::Protocol;

use crate::packet::Endpoint;
use crate::reassembly::{Close, End, Mark};
pub use exchange::{Exchange, Pool};

/// Role of the end that sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// The end that asks.
    Client,
    /// The end that answers.
    Server,
}

/// Consecutive bytes of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Who sent them.
    pub sender: Sender,
    /// Never empty.
    pub data: &'a [u8],
    /// Stream offset of `data[0]`.
    pub offset: u64,
    /// What is known about the segments they came in, oldest first; the first mark is at or before `offset`.
    pub marks: &'a [Mark],
    /// Sequence number of stream offset 0.
    pub base: u32,
}

impl<'a> Input<'a> {
    fn mark_at(&self, offset: u64) -> Option<&Mark> {
        match self.marks {
            [only] => Some(only),
            marks => marks.get(marks.partition_point(|mark| mark.offset <= offset).saturating_sub(1)),
        }
    }

    /// Capture time of the packet that carried the byte at `index` of `data`.
    pub fn time_at(&self, index: usize) -> u64 {
        self.mark_at(self.offset + index as u64).map_or(0, |mark| mark.time_ns)
    }

    /// How much of the peer's stream the sender had received when it sent the byte at `index`.
    pub fn acknowledged_at(&self, index: usize) -> Option<u64> {
        self.mark_at(self.offset + index as u64).and_then(|mark| mark.acknowledged)
    }

    /// TCP sequence number of the byte at `index`.
    pub fn sequence_at(&self, index: usize) -> u32 {
        self.base.wrapping_add((self.offset + index as u64) as u32)
    }

    /// The bytes at the front that came in one segment, and what is known about it.
    pub fn segment(&self) -> (Mark, &'a [u8]) {
        let next = self.marks.partition_point(|mark| mark.offset <= self.offset);
        let mark = self.marks.get(next.saturating_sub(1)).copied();
        let end = self.marks.get(next).map_or(self.data.len(), |mark| (mark.offset - self.offset) as usize);
        let mark = mark.unwrap_or(Mark { offset: self.offset, time_ns: 0, acknowledged: None });
        (mark, self.data.get(..end).unwrap_or(self.data))
    }

    /// Where the second segment begins in `data`, if there is one.
    pub fn next_segment(&self) -> Option<usize> {
        let (_, front) = self.segment();
        Some(front.len()).filter(|length| *length < self.data.len())
    }

    /// The rest after the first `length` bytes.
    pub fn after(&self, length: usize) -> Self {
        Self { data: self.data.get(length..).unwrap_or_default(), offset: self.offset + length as u64, ..*self }
    }
}

/// What a decoder did with its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// That many bytes were taken from the front, at least one.
    Consumed(usize),
    /// Nothing was taken; come back when at least this many bytes are there (more than there are now).
    Need(usize),
    /// The bytes are not of this protocol after all.
    Reject,
}

/// Bytes that were not seen.
#[derive(Clone, Copy, Debug)]
pub struct Gap<'a> {
    /// Whose bytes.
    pub sender: Sender,
    /// Bytes right before the gap that the decoder had asked more for. They are offered a last time: what is cut can still tell
    /// which request it was.
    pub before: Option<Input<'a>>,
    /// Stream offset of the first.
    pub offset: u64,
    /// How many; 0 when the stream ends behind `before`.
    pub length: u64,
    /// Left out on purpose.
    pub skipped: bool,
}

/// That something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// One end sends no more.
    Finished(Sender),
    /// The connection is over, or (request timeout) what is open has no answer.
    Closed(Close),
}

/// A protocol's reader of one connection.
pub trait Decoder: std::fmt::Debug + Send {
    /// Takes bytes; is called again with the rest until nothing is left or more is needed.
    fn data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress;
    /// Takes note of missing bytes; bytes in front of them that are of no use are its to count.
    fn gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>);
    /// Ends what is open.
    fn end(&mut self, ending: Ending, out: &mut Output<'_>);
}

/// First bytes of a stream, or of a segment in its middle, that no decoder reads yet.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// The bytes.
    pub data: &'a [u8],
    /// They are the first ones of their stream, and SYN or SYN-ACK was seen.
    pub from_start: bool,
    /// Role of the sender, where SYN or SYN-ACK told.
    pub sender: Option<Sender>,
    /// Role of the sender by its port number, for protocols whose bytes look the same from both ends.
    pub likely: Sender,
}

/// What a protocol says of a [`Probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not mine.
    No,
    /// Too short to tell; at most [`driver::PROBE_BYTES`] are collected.
    Maybe,
    /// Mine, and the sender has this role.
    Yes(Sender),
}

/// What a decoder needs to know when it starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// SYN or SYN-ACK was seen and nothing was read yet: numbering and pairing are certain.
    pub from_start: bool,
    /// Offset in the server's stream at which reading begins.
    pub server_offset: u64,
    /// How far the server's stream had come when the last of the client's bytes went by unread; `None` if none did.
    pub missed_at: Option<u64>,
}

/// One row of the table of protocols.
#[derive(Clone, Copy, Debug)]
pub struct ProtocolRow {
    /// Folder, label of counters.
    pub name: &'static str,
    /// Value in records.
    pub protocol: Protocol,
    /// Recognises the protocol from bytes, without looking at ports.
    pub detect: fn(&Probe<'_>) -> Verdict,
    /// Makes the reader.
    pub decoder: fn(Start) -> Box<dyn Decoder>,
}

/// All protocols, the ones that are told apart most surely first.
pub const PROTOCOLS: &[ProtocolRow] = &[
    ProtocolRow { name: "http1", protocol: Protocol::Http, detect: http1::detect, decoder: http1::decoder },
    ProtocolRow { name: "tls", protocol: Protocol::Tls, detect: tls::detect, decoder: tls::decoder },
    ProtocolRow { name: "mysql", protocol: Protocol::Mysql, detect: mysql::detect, decoder: mysql::decoder },
    #[cfg(test)]
    template::ROW,
];

/// Why bytes or messages did not become part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Discard {
    /// No protocol recognised them.
    UnknownProtocol,
    /// An upgraded, tunnelled or encrypted stream.
    Opaque,
    /// They were read while the position in the stream was lost.
    Resync,
    /// A message that breaks its protocol's rules.
    Malformed,
    /// A message head larger than the cap.
    TooLarge,
    /// The buffers were full.
    BufferFull,
    /// An answer without a request.
    Unpaired,
}

impl Discard {
    /// Every reason with its label.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::UnknownProtocol, "unknown_protocol"),
        (Self::Opaque, "opaque"),
        (Self::Resync, "resync"),
        (Self::Malformed, "malformed"),
        (Self::TooLarge, "too_large"),
        (Self::BufferFull, "buffer_full"),
        (Self::Unpaired, "unpaired"),
    ];
}

/// Things that happen and are no bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Incident {
    /// An answer came and no request was open.
    AnswerWithoutRequest,
    /// An exchange was left out because its answer lies in a hole.
    AnswerLost,
    /// A request was left out because a hole before it makes its answer uncertain.
    RequestUncertain,
    /// An exchange was left out because its flow was evicted.
    Evicted,
    /// A message with two lengths or a doubtful one (RFC 9112, 11.2).
    AmbiguousFraming,
    /// A command without its statement: prepared before the capture, or the cap was reached.
    StatementUnknown,
    /// A prepared statement's text was thrown out to make room for another.
    StatementEvicted,
    /// More requests in flight than the cap.
    TooManyInFlight,
    /// A time that would have been negative was left out.
    NegativeTime,
    /// A segment of a path became `{name}` because its place has had too many names.
    NameFolded,
    /// Bytes that had been recognised turned out to be of another protocol.
    Rejected,
    /// A request line with spaces in its target: read as most servers would, which answer 400 to it (RFC 9112, 3).
    RequestLineInvalid,
}

impl Incident {
    /// Every incident with its label.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::AnswerWithoutRequest, "answer_without_request"),
        (Self::AnswerLost, "answer_lost"),
        (Self::RequestUncertain, "request_uncertain"),
        (Self::Evicted, "evicted"),
        (Self::AmbiguousFraming, "ambiguous_framing"),
        (Self::StatementUnknown, "statement_unknown"),
        (Self::StatementEvicted, "statement_evicted"),
        (Self::TooManyInFlight, "too_many_in_flight"),
        (Self::NegativeTime, "negative_time"),
        (Self::NameFolded, "name_folded"),
        (Self::Rejected, "rejected"),
        (Self::RequestLineInvalid, "request_line_invalid"),
    ];
}

/// What is the same for all exchanges of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Number of the connection within this run.
    pub id: u64,
    /// The end that asks.
    pub client: Endpoint,
    /// The end that answers.
    pub server: Endpoint,
}

/// Bytes that a decoder does not want to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwanted {
    /// Whose bytes.
    pub sender: Sender,
    /// Stream offset of the first byte that is wanted again.
    pub until: u64,
}

/// What all connections share on the way out.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Exchanges to be used again.
    pub pool: Pool,
    /// Finished ones, oldest first.
    pub finished: std::collections::VecDeque<Box<Exchange>>,
    /// Bytes by [`Discard`].
    pub discarded: [u64; Discard::ALL.len()],
    /// Counts by [`Incident`].
    pub incidents: [u64; Incident::ALL.len()],
    /// Keep parameters.
    pub unmask: bool,
    /// Bytes that wait in all inboxes.
    pub buffered_bytes: usize,
    /// Cap of it.
    pub buffer_limit: usize,
    /// Buffers that wait for the next incomplete message.
    // Boxed, as they are in a connection: most connections have none.
    #[allow(clippy::vec_box)]
    pub spare: Vec<Box<driver::Kept>>,
    /// Bytes of an end up to an offset that a decoder does not want to see, for the pipeline to pass on.
    pub unwanted: Option<(End, u64)>,
    /// Exchanges that were begun and are not finished.
    pub open: usize,
    /// For what is compressed.
    pub unpackers: unpack::Unpackers,
}

/// Where a decoder puts what it finds.
#[derive(Debug)]
pub struct Output<'a> {
    /// The connection that is read.
    pub connection: &'a Connection,
    /// Number of the connection's next exchange.
    pub next_index: &'a mut u64,
    /// Shared by all connections.
    pub outbox: &'a mut Outbox,
    /// Bytes that need not be seen.
    pub unwanted: &'a mut Option<Unwanted>,
}

impl Output<'_> {
    /// An empty exchange of this connection.
    pub fn begin(&mut self, protocol: Protocol) -> Box<Exchange> {
        self.outbox.open += 1;
        let mut exchange = self.outbox.pool.take();
        exchange.protocol = protocol;
        exchange.connection = *self.connection;
        exchange.index = *self.next_index;
        *self.next_index += 1;
        exchange
    }

    /// Hands a finished exchange on.
    pub fn finish(&mut self, exchange: Box<Exchange>) {
        self.outbox.open -= 1;
        self.outbox.finished.push_back(exchange);
    }

    /// Leaves an exchange out, for a reason that is counted.
    pub fn leave_out(&mut self, exchange: Box<Exchange>, why: Incident) {
        self.count(why);
        self.outbox.open -= 1;
        self.outbox.pool.give(exchange);
    }

    /// Counts an incident.
    pub fn count(&mut self, incident: Incident) {
        self.outbox.incidents[incident as usize] += 1;
    }

    /// Counts bytes that become part of no record.
    pub fn discard(&mut self, why: Discard, bytes: usize) {
        self.outbox.discarded[why as usize] += bytes as u64;
    }
}
