//! Reads both streams of a connection into exchanges.

use std::mem::MaybeUninit;

use podtap_wire::{Protocol, Status};

use super::super::exchange::{Detail, ErrorType, Header, HttpDetail};
use super::super::pairing::{Admission, Pairing};
use super::super::{Decoder, Discard, Ending, Exchange, Gap, Incident, Input, Output, Progress, Sender, Start, Unwanted};
use super::frame::{self, Body, Chunk, LengthFields, RequestLine, Step};
use crate::reassembly::Close;

/// Most header fields of one head: servers refuse more (Apache 100, nginx by size, Tomcat 100).
const MAX_HEADERS: usize = 256;
/// Largest head: twice what common servers allow (Node 16 KiB, nginx 32 KiB, Jetty 8 KiB, IIS 16 KiB), and room for cookies.
const MAX_HEAD: usize = 128 << 10;
/// From this many bytes of body on, a source is asked to leave them out: below, asking costs more than reading.
const SKIP_MINIMUM: u64 = 256 << 10;
/// Longest value of a header that is kept.
const MAX_VALUE: usize = 1024;
/// Longest path or query that is kept.
const MAX_TARGET: usize = 4096;

/// Where one stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
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
    /// No HTTP any more: tunnel or upgrade.
    Opaque,
}

#[derive(Debug)]
struct Direction {
    state: State,
    /// How much of an incomplete head was looked through.
    scanned: usize,
}

/// The decoder.
#[derive(Debug)]
pub(super) struct Http1 {
    request: Direction,
    answer: Direction,
    pairing: Pairing,
    /// How far the server's stream was read.
    server_offset: u64,
    /// Time of the server's last byte, for bodies that the end of the connection ends.
    server_last_ns: u64,
    /// A message was read whole: these bytes are HTTP.
    confirmed: bool,
}

impl Http1 {
    pub fn new(start: Start) -> Self {
        Self {
            request: Direction { state: if start.from_start { State::Head } else { State::Lost }, scanned: 0 },
            answer: Direction { state: if start.from_start { State::Head } else { State::Lost }, scanned: 0 },
            pairing: Pairing::new(start.from_start),
            server_offset: start.server_offset,
            server_last_ns: 0,
            confirmed: false,
        }
    }

    fn client_data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        match self.request.state {
            State::Head => self.request_head(input, out),
            State::Lost => match frame::request_line(input.data) {
                RequestLine::Yes => {
                    self.request.state = State::Head;
                    self.request_head(input, out)
                }
                RequestLine::Maybe if input.data.len() < super::super::driver::PROBE_BYTES => Progress::Need(input.data.len() + 1),
                _ => discard_all(input, Discard::Resync, out),
            },
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
            Err(_) => self.malformed(input, Sender::Client, out),
        }
    }

    fn incomplete(&mut self, input: &Input<'_>, sender: Sender, out: &mut Output<'_>) -> Progress {
        if input.data.len() > MAX_HEAD {
            self.lose(sender, out);
            return discard_all(input, Discard::TooLarge, out);
        }
        self.direction(sender).scanned = input.data.len();
        Progress::Need(input.data.len() + 1)
    }

    fn malformed(&mut self, input: &Input<'_>, sender: Sender, out: &mut Output<'_>) -> Progress {
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

    fn take_request(&mut self, input: &Input<'_>, request: &httparse::Request<'_, '_>, length: usize, out: &mut Output<'_>) {
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
        detail.method = exchange.put(method.as_bytes());
        target(&mut exchange, &mut detail, request.path.unwrap_or_default());
        for header in request.headers.iter() {
            request_header(&mut exchange, &mut detail, &mut lengths, header);
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
            return;
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
        self.pairing.lose_requests();
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

    fn server_data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let progress = match self.answer.state {
            State::Head => self.answer_head(input, out),
            State::Lost => {
                let why = if self.confirmed { Discard::Resync } else { Discard::Unpaired };
                discard_all(input, why, out)
            }
            State::Opaque => discard_all(input, Discard::Opaque, out),
            State::UntilClose => {
                if let Some(exchange) = self.pairing.front() {
                    add_body(&mut exchange.response.bytes, input.data.len(), response_body(&mut exchange.detail), input.data.len());
                }
                Progress::Consumed(input.data.len())
            }
            State::Length(left) => {
                let taken = input.data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                if let Some(exchange) = self.pairing.front() {
                    add_body(&mut exchange.response.bytes, taken, response_body(&mut exchange.detail), taken);
                }
                let left = left - taken as u64;
                self.answer.state = State::Length(left);
                if left == 0 {
                    self.end_answer(Some((input, taken)), out);
                }
                Progress::Consumed(taken)
            }
            State::Chunked(chunk) => self.answer_chunk(chunk, input, out),
        };
        if let Progress::Consumed(length) = progress {
            self.server_offset = input.offset + length as u64;
            self.server_last_ns = input.time_at(length.saturating_sub(1));
        }
        progress
    }

    fn answer_chunk(&mut self, chunk: Chunk, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let step = frame::chunk(chunk, input.data);
        match step {
            Step::Took { length, body, next } => {
                if let Some(exchange) = self.pairing.front() {
                    add_body(&mut exchange.response.bytes, length, response_body(&mut exchange.detail), body);
                }
                self.answer.state = State::Chunked(next);
                Progress::Consumed(length)
            }
            Step::Over { length } => {
                if let Some(exchange) = self.pairing.front() {
                    exchange.response.bytes += length as u64;
                }
                self.end_answer(Some((input, length)), out);
                Progress::Consumed(length)
            }
            Step::NeedMore => Progress::Need(input.data.len() + 1),
            Step::Malformed => {
                self.lose_answers(out);
                discard_all(input, Discard::Malformed, out)
            }
        }
    }

    fn answer_head(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        if self.pairing.front().is_none_or(|front| front.response.done) {
            out.count(Incident::AnswerWithoutRequest);
            self.pairing.lose_answers();
            self.answer.state = State::Lost;
            return discard_all(input, Discard::Unpaired, out);
        }
        if self.answer.scanned > 0 && frame::head_end(input.data, self.answer.scanned).is_none() {
            return self.incomplete(input, Sender::Server, out);
        }
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut answer, input.data, &mut headers) {
            Ok(httparse::Status::Complete(length)) => {
                self.answer.scanned = 0;
                self.take_answer(input, &answer, length, out);
                Progress::Consumed(length)
            }
            Ok(httparse::Status::Partial) => self.incomplete(input, Sender::Server, out),
            Err(_) => self.malformed(input, Sender::Server, out),
        }
    }

    fn take_answer(&mut self, input: &Input<'_>, answer: &httparse::Response<'_, '_>, length: usize, out: &mut Output<'_>) {
        self.confirmed = true;
        let Some(exchange) = self.pairing.front() else { return };
        exchange.response.bytes += length as u64;
        let code = answer.code.unwrap_or(0);
        if (100..200).contains(&code) && code != 101 {
            return;
        }
        exchange.response.start(input, 0);
        exchange.status = match code {
            400..=499 => Status::ClientError,
            500..=599 => Status::ServerError,
            _ => Status::Ok,
        };
        exchange.error = if code >= 400 { ErrorType::Number(u32::from(code)) } else { ErrorType::None };
        let mut lengths = LengthFields::default();
        let mut content_type = None;
        for header in answer.headers.iter() {
            match header.name.len() {
                14 if header.name.eq_ignore_ascii_case("content-length") => lengths.content_length(header.value),
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => lengths.transfer_encoding(header.value),
                12 if header.name.eq_ignore_ascii_case("content-type") => content_type = Some(header.value),
                _ => {}
            }
        }
        let content_type = content_type.map(|value| exchange.put(cut(value, MAX_VALUE)));
        let Detail::Http(detail) = &mut exchange.detail else { return };
        detail.status_code = code;
        detail.response_content_type = content_type.unwrap_or_default();
        detail.response_body = Some(0);
        let upgraded = code == 101 || (detail.is_connect && (200..300).contains(&code));
        let body = match code {
            _ if upgraded || detail.is_head || code == 204 || code == 304 => Body::Length(0),
            _ => lengths.of_answer(),
        };
        if lengths.ambiguous {
            out.count(Incident::AmbiguousFraming);
            exchange.partial = true;
            self.end_answer(None, out);
            self.lose_answers(out);
            return;
        }
        match body {
            Body::Length(0) => self.end_answer(Some((input, length)), out),
            Body::Length(size) => {
                self.answer.state = State::Length(size);
                unwanted(Sender::Server, input.offset + length as u64, size, out);
            }
            Body::Chunked => self.answer.state = State::Chunked(Chunk::Size),
            Body::UntilClose => self.answer.state = State::UntilClose,
        }
        if upgraded {
            self.request.state = State::Opaque;
            self.answer.state = State::Opaque;
        }
    }

    /// The front's answer is over; `end` says where, unless its last byte was not seen.
    fn end_answer(&mut self, end: Option<(&Input<'_>, usize)>, out: &mut Output<'_>) {
        self.answer.state = State::Head;
        let Some(exchange) = self.pairing.front() else { return };
        match end {
            Some((input, end)) => exchange.response.finish(input, end),
            None => exchange.response.done = true,
        }
        if exchange.request.done
            && let Some(exchange) = self.pairing.pop()
        {
            out.finish(exchange);
        }
    }

    /// The position in the answers is lost; one whose head was seen is finished without its end.
    fn lose_answers(&mut self, out: &mut Output<'_>) {
        if let Some(exchange) = self.pairing.front()
            && exchange.response.first_ns.is_some()
            && !exchange.response.done
        {
            exchange.partial = true;
            self.end_answer(None, out);
        }
        self.answer = Direction { state: State::Lost, scanned: 0 };
        self.pairing.lose_answers();
    }

    fn client_gap(&mut self, gap: &Gap, out: &mut Output<'_>) {
        self.request.scanned = 0;
        match self.request.state {
            State::Opaque => {}
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

    fn server_gap(&mut self, gap: &Gap, out: &mut Output<'_>) {
        self.answer.scanned = 0;
        self.server_offset = gap.offset + gap.length;
        if let Some(exchange) = self.pairing.front()
            && exchange.response.first_ns.is_some()
            && !exchange.response.done
        {
            miss(&mut exchange.response.bytes, &mut exchange.response.lost, &mut exchange.partial, gap);
            let known = matches!(self.answer.state, State::Length(left) if gap.length <= left) || self.answer.state == State::UntilClose;
            if known && let Some(body) = response_body(&mut exchange.detail) {
                *body += gap.length;
            }
        }
        match self.answer.state {
            State::Opaque => {}
            State::UntilClose => self.server_last_ns = 0,
            State::Length(left) if gap.length < left => self.answer.state = State::Length(left - gap.length),
            State::Length(left) if gap.length == left => self.end_answer(None, out),
            _ => self.lose_answers(out),
        }
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
        let lost = self.pairing.answers_lost();
        while let Some(mut exchange) = self.pairing.pop() {
            let answered = exchange.response.first_ns.is_some();
            match why {
                Close::Evicted => {
                    out.leave_out(exchange, Incident::Evicted);
                    continue;
                }
                _ if lost && !answered => {
                    out.leave_out(exchange, Incident::AnswerLost);
                    continue;
                }
                Close::CaptureEnded | Close::Idle => exchange.partial = true,
                Close::Reset => exchange.error = ErrorType::Transport("connection_reset"),
                Close::RequestTimeout => exchange.error = ErrorType::Transport("timeout"),
                Close::Finished | Close::Replaced => exchange.error = ErrorType::Transport("connection_closed"),
            }
            if exchange.response.done {
                // Answered before all of the request was sent: the answer stands.
                if let Detail::Http(detail) = &exchange.detail {
                    let code = detail.status_code;
                    exchange.error = if code >= 400 { ErrorType::Number(u32::from(code)) } else { ErrorType::None };
                }
            } else if !answered {
                exchange.status = Status::NoResponse;
            }
            out.finish(exchange);
        }
        if self.answer.state != State::Opaque {
            self.lose_answers(out);
        }
    }
}

impl Decoder for Http1 {
    fn data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        match input.sender {
            Sender::Client => self.client_data(input, out),
            Sender::Server => self.server_data(input, out),
        }
    }

    fn gap(&mut self, gap: &Gap, out: &mut Output<'_>) {
        match gap.sender {
            Sender::Client => self.client_gap(gap, out),
            Sender::Server => self.server_gap(gap, out),
        }
    }

    fn end(&mut self, ending: Ending, out: &mut Output<'_>) {
        match ending {
            Ending::Finished(sender) => self.finished(sender, out),
            Ending::Closed(why) => self.close(why, out),
        }
    }
}

fn discard_all(input: &Input<'_>, why: Discard, out: &mut Output<'_>) -> Progress {
    out.discard(why, input.data.len());
    Progress::Consumed(input.data.len())
}

fn miss(bytes: &mut u64, lost: &mut u64, partial: &mut bool, gap: &Gap) {
    *bytes += gap.length;
    if !gap.skipped {
        *lost += gap.length;
        *partial = true;
    }
}

fn add_body(bytes: &mut u64, length: usize, body: Option<&mut u64>, body_length: usize) {
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

fn response_body(detail: &mut Detail) -> Option<&mut u64> {
    match detail {
        Detail::Http(detail) => detail.response_body.as_mut(),
        _ => None,
    }
}

fn unwanted(sender: Sender, body_start: u64, size: u64, out: &mut Output<'_>) {
    // The last byte stays wanted: it gives the time at which the message ended.
    if size >= SKIP_MINIMUM {
        *out.unwanted = Some(Unwanted { sender, until: body_start + size - 1 });
    }
}

fn cut(value: &[u8], limit: usize) -> &[u8] {
    value.get(..limit).unwrap_or(value)
}

/// Splits a request target (RFC 9112, 3.2) into what is kept.
fn target(exchange: &mut Exchange, detail: &mut HttpDetail, target: &str) {
    let (authority, rest) = if detail.is_connect {
        (target, "")
    } else if let Some((_, after)) = target.split_once("://").filter(|_| !target.starts_with('/')) {
        let slash = after.find(['/', '?']).unwrap_or(after.len());
        after.split_at(slash)
    } else {
        ("", target)
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    // User and password in an authority are credentials.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    detail.authority = exchange.put(cut(authority.as_bytes(), MAX_VALUE));
    detail.path = exchange.put(cut(path.as_bytes(), MAX_TARGET));
    detail.query = exchange.put(cut(query.as_bytes(), MAX_TARGET));
}

fn request_header(exchange: &mut Exchange, detail: &mut HttpDetail, lengths: &mut LengthFields, header: &httparse::Header<'_>) {
    let name = header.name;
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
    let kept = match name.len() {
        2 if is("b3") => Header::B3,
        3 if is("sw8") => Header::Sw8,
        4 if is("host") => Header::Host,
        9 if is("forwarded") => Header::Forwarded,
        9 if is("x-real-ip") => Header::XRealIp,
        10 if is("user-agent") => Header::UserAgent,
        11 if is("traceparent") => Header::Traceparent,
        11 if is("x-b3-spanid") => Header::B3SpanId,
        12 if is("content-type") => Header::ContentType,
        12 if is("x-b3-traceid") => Header::B3TraceId,
        12 if is("x-request-id") => Header::XRequestId,
        13 if is("uber-trace-id") => Header::UberTraceId,
        14 if is("content-length") => return lengths.content_length(header.value),
        15 if is("x-forwarded-for") => Header::XForwardedFor,
        17 if is("transfer-encoding") => return lengths.transfer_encoding(header.value),
        _ => return,
    };
    // Of repeated headers the first counts, as with most servers.
    if detail.headers[kept as usize] == Default::default() {
        detail.headers[kept as usize] = exchange.put(cut(header.value, MAX_VALUE));
    }
}
