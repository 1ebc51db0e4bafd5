//! Reads both streams of a connection into exchanges.

use std::mem::MaybeUninit;

use podtap_wire::Protocol;

use super::super::exchange::{Detail, HttpDetail};
use super::super::pairing::{Admission, Pairing};
use super::super::{Decoder, Discard, Ending, Gap, Incident, Input, Output, Probe, Progress, Sender, Start, Unwanted, Verdict, tls};
use super::fields::{request_header, target};
use super::frame::{self, Body, Chunk, LengthFields, RequestLine, Step};
use crate::reassembly::Close;

/// Most header fields of one head: servers refuse more (Apache 100, nginx by size, Tomcat 100).
pub(super) const MAX_HEADERS: usize = 256;
/// Largest head: twice what common servers allow (Node 16 KiB, nginx 32 KiB, Jetty 8 KiB, IIS 16 KiB), and room for cookies.
const MAX_HEAD: usize = 128 << 10;
/// From this many bytes of body on, a source is asked to leave them out: below, asking costs more than reading.
const SKIP_MINIMUM: u64 = 256 << 10;

/// Where one stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In front of or inside a head.
    Head,
    /// Inside a body of known length.
    Length(u64),
    /// Inside a chunked body.
    Chunked(Chunk),
    /// Inside a body that the end of the connection ends.
    UntilClose,
    /// Position unknown.
    Lost,
    /// Behind a CONNECT that succeeded, before the first byte of what is carried.
    Tunnel,
    /// No HTTP any more: upgrade, or a tunnel of what is not read.
    Opaque,
}

#[derive(Debug)]
pub(super) struct Direction {
    pub state: State,
    /// How much of an incomplete head was looked through.
    pub scanned: usize,
}

/// The decoder.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) request: Direction,
    pub(super) answer: Direction,
    pub(super) pairing: Pairing,
    /// How far the server's stream was read.
    pub(super) server_offset: u64,
    /// Time of the server's last byte, for bodies that the end of the connection ends.
    pub(super) server_last_ns: u64,
    /// A message was read whole: these bytes are HTTP.
    pub(super) confirmed: bool,
    /// Reads TLS inside a tunnel.
    carried: Option<Box<dyn Decoder>>,
}

impl Http1 {
    pub fn new(start: Start) -> Self {
        Self {
            request: Direction { state: if start.from_start { State::Head } else { State::Lost }, scanned: 0 },
            answer: Direction { state: if start.from_start { State::Head } else { State::Lost }, scanned: 0 },
            pairing: Pairing::new(&start),
            server_offset: start.server_offset,
            server_last_ns: 0,
            confirmed: false,
            carried: None,
        }
    }

    fn client_data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        match self.request.state {
            State::Head => self.request_head(input, out),
            State::Lost => match frame::request_line(input.data) {
                RequestLine::Yes if is_one_method(input) => {
                    self.request.state = State::Head;
                    self.request_head(input, out)
                }
                RequestLine::Maybe if input.data.len() < super::super::driver::PROBE_BYTES => Progress::Need(input.data.len() + 1),
                _ => {
                    // The next segment may begin with a request.
                    let length = input.next_segment().unwrap_or(input.data.len());
                    self.pairing.pass_requests(input.acknowledged_at(0));
                    out.discard(Discard::Resync, length);
                    Progress::Consumed(length)
                }
            },
            State::Tunnel => self.enter_tunnel(input, out),
            State::Opaque | State::UntilClose => discard_all(input, Discard::Opaque, out),
            State::Length(left) => {
                let taken = input.data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if let Some(exchange) = self.pairing.back() {
                    exchange.request.bytes += taken as u64;
                }
                let left = left - taken as u64;
                self.request.state = State::Length(left);
                if left == 0 {
                    self.end_request(input, taken, out);
                }
                Progress::Consumed(taken)
            }
            State::Chunked(chunk) => {
                let step = frame::chunk(chunk, input.data);
                if let (Some(exchange), Step::Took { length, body, .. }) = (self.pairing.back(), step) {
                    add_body(&mut exchange.request.bytes, length, request_body(&mut exchange.detail), body);
                }
                match step {
                    Step::Took { length, next, .. } => {
                        self.request.state = State::Chunked(next);
                        Progress::Consumed(length)
                    }
                    Step::Over { length } => {
                        if let Some(exchange) = self.pairing.back() {
                            exchange.request.bytes += length as u64;
                        }
                        self.end_request(input, length, out);
                        Progress::Consumed(length)
                    }
                    Step::NeedMore => Progress::Need(input.data.len() + 1),
                    Step::Malformed => {
                        self.lose_requests(out);
                        discard_all(input, Discard::Malformed, out)
                    }
                }
            }
        }
    }

    /// Looks at the first bytes behind a CONNECT: TLS gets its label, HTTP in plain text is read on, the rest stays closed.
    fn enter_tunnel(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let probe = Probe { data: input.data, from_start: true, sender: Some(Sender::Client), likely: Sender::Client };
        let line = frame::request_line(input.data);
        let state = match (tls::detect(&probe), line) {
            (Verdict::Yes(_), _) => {
                let start = Start { from_start: true, server_offset: self.server_offset, missed_at: None };
                self.carried = Some(tls::decoder(start));
                State::Opaque
            }
            (_, RequestLine::Yes) => State::Head,
            (Verdict::Maybe, _) | (_, RequestLine::Maybe) if input.data.len() < super::super::driver::PROBE_BYTES => {
                return Progress::Need(input.data.len() + 1);
            }
            _ => State::Opaque,
        };
        self.request.state = state;
        self.answer.state = state;
        match &mut self.carried {
            Some(carried) => carried.data(input, out),
            None => self.client_data(input, out),
        }
    }

    fn request_head(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        // An empty line or two before a request are to be ignored (RFC 9112, 2.2).
        let blank = input.data.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if blank > 0 {
            out.discard(Discard::Malformed, blank);
            self.request.scanned = 0;
            return Progress::Consumed(blank);
        }
        if self.request.scanned > 0 && frame::head_end(input.data, self.request.scanned).is_none() {
            return self.incomplete(input, Sender::Client, out);
        }
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(input.data, &mut headers) {
            Ok(httparse::Status::Complete(length)) => {
                self.request.scanned = 0;
                self.take_request(input, &request, length, out);
                Progress::Consumed(length)
            }
            Ok(httparse::Status::Partial) => self.incomplete(input, Sender::Client, out),
            Err(_) => self.spaced_request(input, out),
        }
    }

    /// Takes a request whose target holds spaces: its answer is an exchange like any other.
    fn spaced_request(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let line = match frame::spaced_request(input.data) {
            frame::Spaced::Yes(line) => line,
            frame::Spaced::Maybe => return Progress::Need(input.data.len() + 1),
            frame::Spaced::No => return self.malformed(input, Sender::Client, out),
        };
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let count = match httparse::parse_headers(input.data.get(line.length..).unwrap_or_default(), &mut headers) {
            Ok(httparse::Status::Complete((length, fields))) => Ok(httparse::Status::Complete((length, fields.len()))),
            Ok(httparse::Status::Partial) => Ok(httparse::Status::Partial),
            Err(error) => Err(error),
        };
        match count {
            Ok(httparse::Status::Complete((length, count))) => {
                self.request.scanned = 0;
                out.count(Incident::RequestLineInvalid);
                let mut request = httparse::Request::new(headers.get_mut(..count).unwrap_or_default());
                request.method = Some(line.method);
                request.path = Some(line.target);
                request.version = Some(line.minor_version);
                self.take_request(input, &request, line.length + length, out);
                Progress::Consumed(line.length + length)
            }
            Ok(httparse::Status::Partial) => self.incomplete(input, Sender::Client, out),
            Err(_) => self.malformed(input, Sender::Client, out),
        }
    }

    pub(super) fn incomplete(&mut self, input: &Input<'_>, sender: Sender, out: &mut Output<'_>) -> Progress {
        if input.data.len() > MAX_HEAD {
            self.lose(sender, out);
            return discard_all(input, Discard::TooLarge, out);
        }
        self.direction(sender).scanned = input.data.len();
        Progress::Need(input.data.len() + 1)
    }

    pub(super) fn malformed(&mut self, input: &Input<'_>, sender: Sender, out: &mut Output<'_>) -> Progress {
        if !self.confirmed && self.pairing.is_empty() {
            return Progress::Reject;
        }
        self.lose(sender, out);
        discard_all(input, Discard::Malformed, out)
    }

    fn direction(&mut self, sender: Sender) -> &mut Direction {
        match sender {
            Sender::Client => &mut self.request,
            Sender::Server => &mut self.answer,
        }
    }

    fn lose(&mut self, sender: Sender, out: &mut Output<'_>) {
        self.direction(sender).scanned = 0;
        match sender {
            Sender::Client => self.lose_requests(out),
            Sender::Server => self.lose_answers(out),
        }
    }

    /// Takes a request whose head has so many bytes, and tells what became of it.
    fn take_request(&mut self, input: &Input<'_>, request: &httparse::Request<'_, '_>, length: usize, out: &mut Output<'_>) -> Admission {
        self.confirmed = true;
        let floor = input.acknowledged_at(0);
        let admission = self.pairing.admit(floor, self.server_offset, out);
        if admission == Admission::Realigned {
            self.answer = Direction { state: State::Head, scanned: 0 };
        }
        let mut exchange = out.begin(Protocol::Http);
        exchange.request.start(input, 0);
        exchange.request.bytes = length as u64;
        let mut lengths = LengthFields::default();
        let mut detail = HttpDetail { floor, minor_version: request.version.unwrap_or(1), ..HttpDetail::default() };
        let method = request.method.unwrap_or_default();
        detail.is_head = method == "HEAD";
        detail.is_connect = method == "CONNECT";
        let head = exchange.head(input.data.get(..length).unwrap_or_default());
        detail.method = exchange.part(&head, method.as_bytes());
        target(&mut exchange, &head, &mut detail, request.path.unwrap_or_default().as_bytes());
        for header in request.headers.iter() {
            request_header(&mut exchange, &head, &mut detail, &mut lengths, header);
        }
        let body = lengths.of_request();
        detail.request_body = Some(if let Body::Length(length) = body { length } else { 0 });
        exchange.detail = Detail::Http(detail);
        if lengths.ambiguous {
            out.count(Incident::AmbiguousFraming);
        }
        match admission {
            Admission::Uncertain => out.leave_out(exchange, Incident::RequestUncertain),
            Admission::Certain | Admission::Realigned => self.pairing.push(exchange),
        }
        if lengths.ambiguous {
            // Where this request ends is a matter of opinion: nothing behind it is believed until the numbers agree again.
            self.lose_requests(out);
            return admission;
        }
        // An uncertain request's body is read like any other, with nobody to count it for.
        let counted = admission != Admission::Uncertain;
        match body {
            Body::Chunked if counted => self.request.state = State::Chunked(Chunk::Size),
            Body::Length(0) if counted => self.end_request(input, length, out),
            Body::Length(size) if counted => {
                self.request.state = State::Length(size);
                unwanted(Sender::Client, input.offset + length as u64, size, out);
            }
            _ if body == Body::Length(0) => self.request.state = State::Head,
            _ => self.request.state = State::Lost,
        }
        admission
    }

    fn end_request(&mut self, input: &Input<'_>, end: usize, out: &mut Output<'_>) {
        self.request.state = State::Head;
        let mut answered = false;
        if let Some(exchange) = self.pairing.back() {
            exchange.request.finish(input, end);
            answered = exchange.response.done;
        }
        if answered && let Some(exchange) = self.pairing.pop() {
            out.finish(exchange);
        }
    }

    /// The request stream's position is lost; a request that was being read stays open for its answer.
    fn lose_requests(&mut self, out: &mut Output<'_>) {
        self.request.state = State::Lost;
        self.request.scanned = 0;
        self.pairing.lose_requests(self.server_offset);
        let mut answered = false;
        if let Some(exchange) = self.pairing.back()
            && !exchange.request.done
        {
            exchange.request.done = true;
            exchange.partial = true;
            answered = exchange.response.done;
        }
        if answered && let Some(exchange) = self.pairing.pop() {
            out.finish(exchange);
        }
    }

    /// Takes a request of which only the beginning was seen, so that its answer is not attributed to another.
    fn cut_request(&mut self, before: &Input<'_>, out: &mut Output<'_>) {
        let head = frame::cut_head(before.data).filter(|_| self.request.state == State::Head);
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match head.as_deref().map(|head| request.parse(head)) {
            Some(Ok(httparse::Status::Complete(_))) => {
                let admission = self.take_request(before, &request, before.data.len(), out);
                if admission != Admission::Uncertain
                    && let Some(exchange) = self.pairing.back()
                {
                    exchange.partial = true;
                    // What follows the cut head is in the hole, its end too.
                    exchange.request.done = false;
                    exchange.request.last_ns = None;
                    if let Detail::Http(detail) = &mut exchange.detail {
                        detail.request_body = None;
                    }
                }
                self.request.state = State::Lost;
            }
            _ => out.discard(Discard::Resync, before.data.len()),
        }
    }

    fn client_gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>) {
        self.request.scanned = 0;
        if let Some(before) = &gap.before {
            self.cut_request(before, out);
        }
        match self.request.state {
            State::Opaque => {}
            State::Tunnel => self.close_tunnel(),
            State::Length(left) if gap.length <= left => {
                let left = left - gap.length;
                self.request.state = if left == 0 { State::Head } else { State::Length(left) };
                let mut answered = false;
                if let Some(exchange) = self.pairing.back() {
                    miss(&mut exchange.request.bytes, &mut exchange.request.lost, &mut exchange.partial, gap);
                    exchange.request.done = left == 0;
                    answered = left == 0 && exchange.response.done;
                }
                if answered && let Some(exchange) = self.pairing.pop() {
                    out.finish(exchange);
                }
            }
            _ => {
                if let Some(exchange) = self.pairing.back()
                    && !exchange.request.done
                {
                    miss(&mut exchange.request.bytes, &mut exchange.request.lost, &mut exchange.partial, gap);
                }
                self.lose_requests(out);
            }
        }
    }

    /// What a tunnel carries can no longer be told.
    pub(super) fn close_tunnel(&mut self) {
        self.request.state = State::Opaque;
        self.answer.state = State::Opaque;
    }

    fn finished(&mut self, sender: Sender, out: &mut Output<'_>) {
        match (sender, self.answer.state) {
            (Sender::Server, State::UntilClose) => {
                let last = (self.server_last_ns != 0).then_some(self.server_last_ns);
                if let Some(exchange) = self.pairing.front() {
                    exchange.response.last_ns = last;
                    exchange.request.done = true;
                }
                self.end_answer(None, out);
                self.answer.state = State::Lost;
                self.pairing.lose_answers();
            }
            (Sender::Server, _) => self.close(Close::Finished, out),
            (Sender::Client, _) => {}
        }
    }

    fn close(&mut self, why: Close, out: &mut Output<'_>) {
        self.pairing.close(why, out);
        if !matches!(self.answer.state, State::Opaque | State::Tunnel) {
            self.lose_answers(out);
        }
    }
}

impl Decoder for Http1 {
    fn data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        match (&mut self.carried, input.sender) {
            (Some(carried), _) => carried.data(input, out),
            (None, Sender::Client) => self.client_data(input, out),
            (None, Sender::Server) => self.server_data(input, out),
        }
    }

    fn gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>) {
        if let Some(carried) = &mut self.carried {
            return carried.gap(gap, out);
        }
        match gap.sender {
            Sender::Client => self.client_gap(gap, out),
            Sender::Server => self.server_gap(gap, out),
        }
    }

    fn end(&mut self, ending: Ending, out: &mut Output<'_>) {
        if let Some(carried) = &mut self.carried {
            carried.end(ending, out);
        }
        match ending {
            Ending::Finished(sender) => self.finished(sender, out),
            Ending::Closed(why) => self.close(why, out),
        }
    }
}

/// False if the method is more likely the end of a body and the beginning of a request: it lies in two segments, and nobody knows it.
fn is_one_method(input: &Input<'_>) -> bool {
    let method = input.data.iter().position(|byte| *byte == b' ').unwrap_or(input.data.len());
    input.next_segment().is_none_or(|next| next > method) || frame::begins_registered(input.data)
}

pub(super) fn discard_all(input: &Input<'_>, why: Discard, out: &mut Output<'_>) -> Progress {
    out.discard(why, input.data.len());
    Progress::Consumed(input.data.len())
}

pub(super) fn miss(bytes: &mut u64, lost: &mut u64, partial: &mut bool, gap: &Gap<'_>) {
    *bytes += gap.length;
    if !gap.skipped {
        *lost += gap.length;
        *partial = true;
    }
}

pub(super) fn add_body(bytes: &mut u64, length: usize, body: Option<&mut u64>, body_length: usize) {
    *bytes += length as u64;
    if let Some(body) = body {
        *body += body_length as u64;
    }
}

fn request_body(detail: &mut Detail) -> Option<&mut u64> {
    match detail {
        Detail::Http(detail) => detail.request_body.as_mut(),
        _ => None,
    }
}

pub(super) fn response_body(detail: &mut Detail) -> Option<&mut u64> {
    match detail {
        Detail::Http(detail) => detail.response_body.as_mut(),
        _ => None,
    }
}

pub(super) fn unwanted(sender: Sender, body_start: u64, size: u64, out: &mut Output<'_>) {
    // The last byte stays wanted: it gives the time at which the message ended.
    if size >= SKIP_MINIMUM {
        *out.unwanted = Some(Unwanted { sender, until: body_start + size - 1 });
    }
}
