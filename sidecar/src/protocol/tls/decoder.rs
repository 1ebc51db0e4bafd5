//! Reads the hellos, counts the rest.

use podtap_wire::{Protocol, Status};

use super::super::exchange::{Detail, ErrorType, TlsDetail};
use super::super::{Decoder, Discard, Ending, Exchange, Gap, Input, Output, Progress, Sender, Start};
use super::frame::{self, HEADER};
use crate::reassembly::Close;

/// Content types of records (RFC 8446, 5.1) that may come first.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// The decoder.
#[derive(Debug)]
pub(super) struct Tls {
    exchange: Option<Box<Exchange>>,
    detail: TlsDetail,
    from_start: bool,
    /// The server's first byte lies in a hole, so nobody knows when it came.
    answer_start_lost: bool,
    /// The hello of client and server is still awaited.
    awaited: [bool; 2],
    /// The client's hello was read.
    greeted: bool,
}

impl Tls {
    pub fn new(start: Start) -> Self {
        Self {
            exchange: None,
            detail: TlsDetail::default(),
            from_start: start.from_start,
            answer_start_lost: false,
            awaited: [true; 2],
            greeted: false,
        }
    }

    fn hello(&mut self, input: &Input<'_>, length: usize) {
        let (Some(hello), Some(exchange)) = (input.data.get(HEADER..HEADER + length).and_then(frame::hello), &mut self.exchange) else {
            return;
        };
        if !hello.server_name.is_empty() {
            self.detail.server_name = exchange.put(hello.server_name);
        }
        if !hello.alpn.is_empty() {
            self.detail.alpn = exchange.put(hello.alpn);
        }
        self.detail.version = hello.version;
    }
}

impl Decoder for Tls {
    fn data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let role = input.sender as usize;
        let mut hello_length = None;
        if self.awaited[role] && self.greeted && input.data[0] != HANDSHAKE && input.data[0] != ALERT {
            // What a protocol says before it goes on in TLS (PostgreSQL's `S`) is no part of it.
            out.discard(Discard::UnknownProtocol, input.data.len());
            return Progress::Consumed(input.data.len());
        }
        if self.awaited[role] {
            if input.data.len() < HEADER + 1 {
                return Progress::Need(HEADER + 1);
            }
            if let (Some(length), 0x16, 1 | 2) = (frame::record_length(input.data), input.data[0], input.data[HEADER]) {
                if input.data.len() < HEADER + length {
                    return Progress::Need(HEADER + length);
                }
                hello_length = Some(length);
            }
            self.awaited[role] = false;
        }
        let opened = hello_length.is_some() && input.sender == Sender::Client;
        self.greeted |= opened;
        if self.exchange.is_none() {
            // Who speaks first is the client: of what the server says before it nobody knows what it answers.
            self.from_start = (self.from_start || opened) && input.sender == Sender::Client;
        }
        let from_start = self.from_start;
        let exchange = self.exchange.get_or_insert_with(|| {
            let mut exchange = out.begin(Protocol::Tls);
            match input.sender {
                Sender::Client => exchange.request.start(input, 0),
                Sender::Server => exchange.request.first_ns = Some(input.time_at(0)),
            }
            exchange.partial = !from_start;
            exchange
        });
        let knows_start = from_start && !self.answer_start_lost;
        if input.sender == Sender::Server && exchange.response.first_ns.is_none() && knows_start {
            exchange.response.start(input, 0);
        }
        let part = match input.sender {
            Sender::Client => &mut exchange.request,
            Sender::Server => &mut exchange.response,
        };
        part.bytes += input.data.len() as u64;
        if let Some(length) = hello_length {
            self.hello(input, length);
        }
        Progress::Consumed(input.data.len())
    }

    fn gap(&mut self, gap: &Gap<'_>, _out: &mut Output<'_>) {
        self.awaited[gap.sender as usize] = false;
        match &self.exchange {
            None => self.from_start = false,
            Some(exchange) => self.answer_start_lost |= gap.sender == Sender::Server && exchange.response.bytes == 0,
        }
        if let Some(exchange) = &mut self.exchange {
            let part = match gap.sender {
                Sender::Client => &mut exchange.request,
                Sender::Server => &mut exchange.response,
            };
            part.bytes += gap.before.map_or(0, |before| before.data.len() as u64) + gap.length;
            part.lost += if gap.skipped { 0 } else { gap.length };
            exchange.partial |= !gap.skipped;
        }
    }

    fn end(&mut self, ending: Ending, out: &mut Output<'_>) {
        let Ending::Closed(why) = ending else { return };
        if why == Close::RequestTimeout {
            return;
        }
        if let Some(mut exchange) = self.exchange.take() {
            if exchange.response.bytes == 0 && self.from_start {
                exchange.status = Status::NoResponse;
                exchange.error = match why {
                    Close::Reset => ErrorType::Transport("connection_reset"),
                    Close::Finished | Close::Replaced => ErrorType::Transport("connection_closed"),
                    _ => ErrorType::None,
                };
            }
            exchange.detail = Detail::Tls(self.detail);
            out.finish(exchange);
        }
    }
}
