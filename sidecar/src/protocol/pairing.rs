//! Pairing of answers with requests: first in, first out, as long as that is certain.
//!
//! After a hole, or when joined in the middle, nobody can know how many requests are open. Then TCP's own numbers tell: a client
//! that has nothing in flight has acknowledged all answers when it sends a request, so that request's answer begins exactly at the
//! number acknowledged with its first byte (its *floor*). Guarantee: a request is paired by order or by its floor, never by luck;
//! what is left is left out and counted. Misuse to avoid: pushing requests without passing by [`Pairing::admit`].

use std::collections::VecDeque;

use podtap_wire::Status;

use super::exchange::ErrorType;
use super::{Exchange, Incident, Output, Start};
use crate::reassembly::Close;

/// Most requests in flight on one connection: far more than clients pipeline, and it bounds what a flood of requests
/// without answers can hold.
const MAX_IN_FLIGHT: usize = 1024;

/// Most exchanges open on all connections together: each takes about a kilobyte, and a sidecar has to live within 64 MiB.
const MAX_OPEN: usize = 16_384;

/// Exchanges in order. Most connections have one in flight, for which nothing is allocated.
#[derive(Debug, Default)]
struct Queue {
    /// Empty only when `rest` is.
    first: Option<Box<Exchange>>,
    rest: VecDeque<Box<Exchange>>,
}

impl Queue {
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn push(&mut self, exchange: Box<Exchange>) {
        match self.first {
            None => self.first = Some(exchange),
            Some(_) => self.rest.push_back(exchange),
        }
    }

    fn pop(&mut self) -> Option<Box<Exchange>> {
        let first = self.first.take();
        self.first = self.rest.pop_front();
        first
    }
}

/// Open exchanges of one connection.
#[derive(Debug)]
pub struct Pairing {
    queue: Queue,
    /// Requests may have been missed since the last certain point.
    request_hole: bool,
    /// Answers may have been missed, or the position in them is lost.
    answer_hole: bool,
    /// How far the server's stream was read at the last hole in the requests, or was acknowledged by what came behind it: a
    /// request that acknowledges no more than this may have been sent together with a lost one, whose answer comes first.
    hole_offset: Option<u64>,
    /// The front is the first request seen on a connection joined in the middle: should the client turn out to pipeline, an
    /// earlier one may be open too.
    doubtful: bool,
    /// The client sends new ones while old answers are still coming, so that a floor proves nothing.
    sliding: bool,
    last_floor: Option<u64>,
}

/// What [`Pairing::admit`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Pairing is certain; push the exchange.
    Certain,
    /// Pairing is certain again from here on: the answer begins at the current position of the server's stream. Push it.
    Realigned,
    /// Its answer cannot be told; leave the exchange out.
    Uncertain,
}

impl Pairing {
    /// Nothing open, and nothing missed.
    pub fn certain() -> Self {
        Self {
            queue: Queue::default(),
            request_hole: false,
            answer_hole: false,
            hole_offset: None,
            doubtful: false,
            sliding: false,
            last_floor: None,
        }
    }

    /// Nothing open that is known of.
    pub fn new(start: &Start) -> Self {
        Self { request_hole: !start.from_start, answer_hole: !start.from_start, hole_offset: start.missed_at, ..Self::certain() }
    }

    /// Requests were missed while the server's stream was read up to `server_offset`.
    pub fn lose_requests(&mut self, server_offset: u64) {
        self.request_hole = true;
        self.hole_offset = Some(server_offset);
    }

    /// Bytes of the client went by that nobody could place; their sender had acknowledged `floor`. What was lost before them was sent
    /// no later, so that a request which acknowledges more was not sent together with any of it.
    pub fn pass_requests(&mut self, floor: Option<u64>) {
        if self.request_hole && floor.is_some() {
            self.hole_offset = floor;
        }
    }

    /// The position in the answers is lost.
    pub fn lose_answers(&mut self) {
        self.answer_hole = true;
    }

    /// Decides about a request whose first byte acknowledged `floor` while the server's stream has been read up to `server_offset`.
    pub fn admit(&mut self, floor: Option<u64>, server_offset: u64, out: &mut Output<'_>) -> Admission {
        let in_flight = !self.is_empty();
        let uncertain = self.request_hole || self.answer_hole;
        if in_flight && !self.answer_hole {
            self.sliding |= floor > self.last_floor;
        }
        self.last_floor = floor;
        if in_flight && self.doubtful {
            // The client pipelines, so the hole before the front may hold the request that the next answer belongs to.
            self.abandon(Incident::RequestUncertain, out);
            self.request_hole = true;
            self.answer_hole = true;
            self.hole_offset = floor;
            return Admission::Uncertain;
        }
        if !uncertain {
            return match self.queue.len() < MAX_IN_FLIGHT && out.outbox.open < MAX_OPEN {
                true => Admission::Certain,
                false => {
                    out.count(Incident::TooManyInFlight);
                    self.abandon(Incident::RequestUncertain, out);
                    self.lose_requests(server_offset);
                    self.lose_answers();
                    Admission::Uncertain
                }
            };
        }
        let with_a_lost_one = self.request_hole && self.hole_offset.is_some_and(|hole| floor <= Some(hole));
        let answers_pending = in_flight && !self.answer_hole;
        if self.sliding || with_a_lost_one || answers_pending || floor != Some(server_offset) {
            return Admission::Uncertain;
        }
        if out.outbox.open >= MAX_OPEN {
            out.count(Incident::TooManyInFlight);
            return Admission::Uncertain;
        }
        self.abandon(Incident::AnswerLost, out);
        self.doubtful = self.request_hole && self.hole_offset.is_none();
        self.request_hole = false;
        self.answer_hole = false;
        self.hole_offset = None;
        Admission::Realigned
    }

    /// Adds an admitted request.
    pub fn push(&mut self, exchange: Box<Exchange>) {
        self.queue.push(exchange);
    }

    /// The exchange whose answer comes next.
    pub fn front(&mut self) -> Option<&mut Exchange> {
        self.queue.first.as_deref_mut()
    }

    /// The exchange whose request came last.
    pub fn back(&mut self) -> Option<&mut Exchange> {
        match self.queue.rest.back_mut() {
            Some(last) => Some(last),
            None => self.queue.first.as_deref_mut(),
        }
    }

    /// Takes the front out.
    pub fn pop(&mut self) -> Option<Box<Exchange>> {
        self.doubtful = false;
        self.queue.pop()
    }

    /// Open exchanges.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// True without open exchanges.
    pub fn is_empty(&self) -> bool {
        self.queue.first.is_none()
    }

    /// Ends everything that is open: the connection is over, or (request timeout) no answer will come.
    pub fn close(&mut self, why: Close, out: &mut Output<'_>) {
        while let Some(mut exchange) = self.pop() {
            let answered = exchange.response.first_ns.is_some();
            match why {
                Close::Evicted => {
                    out.leave_out(exchange, Incident::Evicted);
                    continue;
                }
                _ if self.answer_hole && !answered => {
                    out.leave_out(exchange, Incident::AnswerLost);
                    continue;
                }
                Close::CaptureEnded | Close::Idle => exchange.partial = true,
                // Answered before all of the request was sent: the answer stands.
                _ if exchange.response.done => {}
                Close::Reset => exchange.error = ErrorType::Transport("connection_reset"),
                Close::RequestTimeout => exchange.error = ErrorType::Transport("timeout"),
                Close::Finished | Close::Replaced => exchange.error = ErrorType::Transport("connection_closed"),
            }
            if !answered {
                exchange.status = Status::NoResponse;
            }
            out.finish(exchange);
        }
    }

    /// Leaves out everything that is open.
    pub fn abandon(&mut self, why: Incident, out: &mut Output<'_>) {
        self.doubtful = false;
        while let Some(exchange) = self.queue.pop() {
            out.leave_out(exchange, why);
        }
    }
}
