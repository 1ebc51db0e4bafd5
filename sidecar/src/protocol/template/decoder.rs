//! Reads both streams into exchanges. What it does about pieces, holes and ends is what every decoder has to do.

use podtap_wire::{Protocol, Status};

use super::super::exchange::ErrorType;
use super::super::pairing::{Admission, Pairing};
use super::super::{Decoder, Discard, Ending, Gap, Incident, Input, Output, Progress, Sender, Start};
use super::frame::{self, Answer, MAX_LINE};
use crate::reassembly::Close;

/// The decoder.
#[derive(Debug)]
pub(super) struct Line {
    pairing: Pairing,
    /// How far the server's stream was read: what [`Pairing::admit`] compares a request's acknowledgment with.
    server_offset: u64,
    /// The client's position may be in the middle of a line whose beginning is lost.
    maybe_inside: bool,
    /// The server's position is lost until [`Pairing::admit`] says where an answer begins.
    answers_lost: bool,
}

impl Line {
    pub fn new(start: Start) -> Self {
        let answers_lost = !start.from_start;
        Self { pairing: Pairing::new(&start), server_offset: start.server_offset, maybe_inside: false, answers_lost }
    }

    fn request(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let Some(length) = frame::line(input.data) else { return self.incomplete(input, out) };
        let line = input.data.get(..length).unwrap_or_default();
        let maybe_inside = std::mem::take(&mut self.maybe_inside);
        if !frame::is_request(line) && maybe_inside {
            // The end of what the hole cut.
            out.discard(Discard::Resync, length);
            return Progress::Consumed(length);
        }
        if !frame::is_request(line) {
            // It may have been a request all the same, so the next answer may be its.
            self.pairing.lose_requests(self.server_offset);
            out.discard(Discard::Malformed, length);
            return Progress::Consumed(length);
        }
        let admission = self.pairing.admit(input.acknowledged_at(0), self.server_offset, out);
        let mut exchange = out.begin(Protocol::Unknown);
        exchange.request.start(input, 0);
        exchange.request.bytes = length as u64;
        exchange.request.finish(input, length);
        match admission {
            Admission::Uncertain => out.leave_out(exchange, Incident::RequestUncertain),
            Admission::Certain => self.pairing.push(exchange),
            // The answer begins right where the server's stream stands.
            Admission::Realigned => {
                self.answers_lost = false;
                self.pairing.push(exchange);
            }
        }
        Progress::Consumed(length)
    }

    fn answer(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        if self.answers_lost {
            out.discard(Discard::Resync, input.data.len());
            return Progress::Consumed(input.data.len());
        }
        if self.pairing.is_empty() {
            out.count(Incident::AnswerWithoutRequest);
            self.lose(Sender::Server);
            out.discard(Discard::Unpaired, input.data.len());
            return Progress::Consumed(input.data.len());
        }
        let Some(length) = frame::line(input.data) else { return self.incomplete(input, out) };
        let Some(answer) = frame::answer(input.data.get(..length).unwrap_or_default()) else {
            self.lose(Sender::Server);
            out.discard(Discard::Malformed, length);
            return Progress::Consumed(length);
        };
        if let Some(mut exchange) = self.pairing.pop() {
            exchange.response.start(input, 0);
            exchange.response.bytes = length as u64;
            exchange.response.finish(input, length);
            if let Answer::Failed(number) = answer {
                exchange.status = Status::ServerError;
                exchange.error = ErrorType::Number(number);
            }
            out.finish(exchange);
        }
        Progress::Consumed(length)
    }

    /// Asks for more, unless nobody writes lines that long.
    fn incomplete(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        if input.data.len() < MAX_LINE {
            return Progress::Need(input.data.len() + 1);
        }
        self.lose(input.sender);
        out.discard(Discard::TooLarge, input.data.len());
        Progress::Consumed(input.data.len())
    }

    fn lose(&mut self, sender: Sender) {
        match sender {
            Sender::Client => {
                self.maybe_inside = true;
                self.pairing.lose_requests(self.server_offset);
            }
            Sender::Server => {
                self.answers_lost = true;
                self.pairing.lose_answers();
            }
        }
    }
}

impl Decoder for Line {
    fn data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let progress = match input.sender {
            Sender::Client => self.request(input, out),
            Sender::Server => self.answer(input, out),
        };
        if let (Progress::Consumed(length), Sender::Server) = (progress, input.sender) {
            self.server_offset = input.offset + length as u64;
        }
        progress
    }

    fn gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>) {
        // What was waited for will never be whole.
        out.discard(Discard::Resync, gap.before.map_or(0, |before| before.data.len()));
        if gap.sender == Sender::Server {
            self.server_offset = gap.offset + gap.length;
        }
        self.lose(gap.sender);
    }

    fn end(&mut self, ending: Ending, out: &mut Output<'_>) {
        let why = match ending {
            Ending::Finished(Sender::Client) => return,
            Ending::Finished(Sender::Server) => Close::Finished,
            Ending::Closed(why) => why,
        };
        self.pairing.close(why, out);
        // After a request timeout the connection goes on, and an answer that comes late belongs to nobody.
        self.lose(Sender::Server);
    }
}
