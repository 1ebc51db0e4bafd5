//! The server's side: answers.

use podtap_wire::Status;

use super::super::exchange::{Detail, ErrorType};
use super::super::{Discard, Gap, Incident, Input, Output, Progress, Sender};
use super::decoder::{Direction, Http1, MAX_HEADERS, State, add_body, discard_all, miss, response_body, unwanted};
use super::fields::{MAX_VALUE, cut, is_name};
use super::frame::{self, Body, Chunk, LengthFields, Step};

impl Http1 {
    pub(super) fn server_data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let progress = match self.answer.state {
            State::Head => self.answer_head(input, out),
            State::Lost => {
                let why = if self.confirmed { Discard::Resync } else { Discard::Unpaired };
                discard_all(input, why, out)
            }
            // Whoever answers before the client has spoken speaks neither HTTP nor TLS.
            State::Tunnel => {
                if !input.data.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
                    self.close_tunnel();
                }
                discard_all(input, Discard::Opaque, out)
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
        let mut headers = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut answer, input.data, &mut headers) {
            Ok(httparse::Status::Complete(length)) => {
                self.answer.scanned = 0;
                self.take_answer(input, &answer, length, false, out);
                Progress::Consumed(length)
            }
            Ok(httparse::Status::Partial) => self.incomplete(input, Sender::Server, out),
            Err(_) => self.malformed(input, Sender::Server, out),
        }
    }

    /// Takes an answer of whose head so many bytes are there; one that `is_cut` goes on in a hole.
    fn take_answer(&mut self, input: &Input<'_>, answer: &httparse::Response<'_, '_>, length: usize, is_cut: bool, out: &mut Output<'_>) {
        self.confirmed = true;
        let Some(exchange) = self.pairing.front() else { return };
        exchange.response.bytes += length as u64;
        exchange.partial |= is_cut;
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
                14 if is_name(header.name, "content-length") => lengths.content_length(header.value),
                17 if is_name(header.name, "transfer-encoding") => lengths.transfer_encoding(header.value),
                12 if is_name(header.name, "content-type") => content_type = Some(header.value),
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
            Body::Length(0) => self.end_answer((!is_cut).then_some((input, length)), out),
            Body::Length(size) => {
                self.answer.state = State::Length(size);
                unwanted(Sender::Server, input.offset + length as u64, size, out);
            }
            Body::Chunked => self.answer.state = State::Chunked(Chunk::Size),
            Body::UntilClose => self.answer.state = State::UntilClose,
        }
        if upgraded {
            let state = if code == 101 { State::Opaque } else { State::Tunnel };
            self.request.state = state;
            self.answer.state = state;
        }
    }

    /// The front's answer is over; `end` says where, unless its last byte was not seen.
    pub(super) fn end_answer(&mut self, end: Option<(&Input<'_>, usize)>, out: &mut Output<'_>) {
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
    pub(super) fn lose_answers(&mut self, out: &mut Output<'_>) {
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

    pub(super) fn server_gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>) {
        self.answer.scanned = 0;
        self.server_offset = gap.offset + gap.length;
        if let Some(before) = &gap.before {
            self.cut_answer(before, out);
        }
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
            State::Tunnel => self.close_tunnel(),
            State::UntilClose => self.server_last_ns = 0,
            State::Length(left) if gap.length < left => self.answer.state = State::Length(left - gap.length),
            State::Length(left) if gap.length == left => self.end_answer(None, out),
            _ => self.lose_answers(out),
        }
    }

    /// Takes an answer of which only the beginning was seen: its status and first byte count, its end stays unknown.
    fn cut_answer(&mut self, before: &Input<'_>, out: &mut Output<'_>) {
        let open = self.pairing.front().is_some_and(|front| !front.response.done);
        let head = frame::cut_head(before.data).filter(|_| open && self.answer.state == State::Head);
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        match head.as_deref().map(|head| answer.parse(head)) {
            Some(Ok(httparse::Status::Complete(_))) => {
                self.take_answer(before, &answer, before.data.len(), true, out);
                self.lose_answers(out);
            }
            _ => out.discard(Discard::Resync, before.data.len()),
        }
    }
}
