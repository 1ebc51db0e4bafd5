//! The server's side: greeting, authentication, results.

use podtap_wire::Status;

use super::super::exchange::{Detail, ErrorType, MysqlDetail};
use super::super::{Discard, Gap, Incident, Input, Output, Progress, Sender};
use super::answer::{self, Okay, PROGRESS, SERVER_MORE_RESULTS_EXISTS, SERVER_STATUS_CURSOR_EXISTS};
use super::command::{self, Answered};
use super::decoder::{Mysql, Phase, Reader, discard_all};
use super::frame::{FULL, Fields, HEADER, Header};
use super::handshake::{self, CLIENT_OPTIONAL_RESULTSET_METADATA, MARIADB_CLIENT_CACHE_METADATA};
use crate::reassembly::limits;

/// Bytes of an OK, ERR or EOF that are looked at: an error message has at most 512, and what changed in the session stands behind it.
const MAX_LOOK: usize = 2048;

/// What follows definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Rows.
    Rows,
    /// Definitions of a prepared statement's columns, so many.
    PreparedColumns(u16),
    /// Nothing: the statement is prepared.
    Prepared,
}

/// Where an answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// In front of the first packet.
    First,
    /// In front of the first packet of a further result.
    Next,
    /// The client sends a file.
    File,
    /// In front of that many definitions.
    Definitions(u64, Then),
    /// Behind them, where an EOF may stand.
    AfterDefinitions(Then),
    /// Definitions without a count (COM_FIELD_LIST).
    FieldList,
    /// Rows.
    Rows,
}

impl Mysql {
    pub(super) fn server_data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        if self.server.lost {
            return discard_all(input, Discard::Resync, out);
        }
        if self.server.left > 0 {
            let taken = self.server.left.min(input.data.len());
            self.server.left -= taken;
            self.answer_bytes(input, taken, out);
            return Progress::Consumed(taken);
        }
        let Some(header) = Header::parse(input.data) else { return Progress::Need(HEADER) };
        if self.server.continued {
            self.server.pass(header, 0);
            self.answer_bytes(input, HEADER, out);
            return Progress::Consumed(HEADER);
        }
        match self.phase {
            Phase::Unknown | Phase::Login if header.sequence == 0 => self.greeting(input, header, out),
            Phase::Authentication | Phase::Command => self.packet(input, header, out),
            _ => {
                out.count(Incident::AnswerWithoutRequest);
                self.lose_answers(out);
                discard_all(input, Discard::Unpaired, out)
            }
        }
    }

    /// Counts bytes of the server's current packet, up to `end` of the input.
    fn answer_bytes(&mut self, input: &Input<'_>, end: usize, out: &mut Output<'_>) {
        let ends = self.answer_ends && self.server.is_over();
        let may_end = self.may_be_prepared();
        let wire = self.wire(input, end);
        match self.pairing.front() {
            Some(exchange) => {
                exchange.response.bytes += wire;
                if ends || may_end {
                    exchange.response.finish(input, end);
                }
            }
            None => out.discard(Discard::Unpaired, end),
        }
        if ends {
            self.end_answer(out);
        }
    }

    fn greeting(&mut self, input: &Input<'_>, header: Header, out: &mut Output<'_>) -> Progress {
        let wanted = header.length.min(limits::FLOW_BUFFER_BYTES.min(MAX_LOOK));
        let Some(payload) = input.data.get(HEADER..HEADER + wanted) else { return Progress::Need(HEADER + wanted) };
        if let Some(greeting) = handshake::greeting(payload) {
            self.session.greet(greeting.version, greeting.capabilities, greeting.mariadb);
            self.phase = Phase::Login;
            self.confirmed = true;
        } else if answer::is_refusal(payload) {
            self.confirmed = true;
            self.refusal(input, payload, out);
            self.server.pass(header, wanted);
            return Progress::Consumed(HEADER + wanted);
        } else {
            return self.malformed(input, Sender::Server, out);
        }
        self.server.pass(header, wanted);
        self.greeting_bytes = (HEADER + wanted) as u64;
        Progress::Consumed(HEADER + wanted)
    }

    /// An error instead of a greeting: a login that could not even begin.
    fn refusal(&mut self, input: &Input<'_>, payload: &[u8], out: &mut Output<'_>) {
        let mut exchange = self.begin(input, &command::CONNECT, out);
        exchange.request.sequence = None;
        exchange.request.done = true;
        self.pairing.push(exchange);
        self.fail(payload);
        if let Some(exchange) = self.pairing.front() {
            exchange.response.sequence = Some(input.sequence_at(0));
            exchange.response.bytes = (HEADER + payload.len()) as u64;
        }
        self.end_answer(out);
        self.phase = Phase::Opaque(Discard::Unpaired);
    }

    fn detail(&mut self) -> Option<&mut MysqlDetail> {
        match self.pairing.front().map(|exchange| &mut exchange.detail) {
            Some(Detail::Mysql(detail)) => Some(detail),
            _ => None,
        }
    }

    pub(super) fn packet(&mut self, input: &Input<'_>, header: Header, out: &mut Output<'_>) -> Progress {
        let Some(code) = self.detail().map(|detail| detail.code) else {
            return self.stray(input, header, out);
        };
        if let Some(progress) = self.settle_prepared(input, header, out) {
            return progress;
        }
        if self.answer == Answer::Rows
            && let Some(taken) = self.rows(input)
        {
            return Progress::Consumed(taken);
        }
        if self.answer == Answer::Rows && input.data.len() == HEADER && header.length > 0 {
            // A row is passed from its first byte on, however it is cut.
            return Progress::Need(HEADER + 1);
        }
        let answered = match (&self.phase, command::find(code)) {
            (Phase::Authentication, _) | (_, None) => Answered::Login,
            (_, Some(command)) => command.answered,
        };
        if let Some(progress) = self.late_eof(input, header, out) {
            return progress;
        }
        if !self.continues(header.sequence, answered) {
            return self.malformed(input, Sender::Server, out);
        }
        let wanted = header.length.min(MAX_LOOK);
        let Some(payload) = input.data.get(HEADER..HEADER + wanted) else { return Progress::Need(HEADER + wanted) };
        let Some(first) = payload.first().copied() else { return self.malformed(input, Sender::Server, out) };
        if first == 0xff && answer::failure(payload).is_some_and(|failure| failure.code == PROGRESS) {
            self.server.pass(header, wanted);
            self.answer_begun = true;
            self.answer_bytes(input, HEADER + wanted, out);
            return Progress::Consumed(HEADER + wanted);
        }
        let fresh = self.answer == Answer::First;
        if !self.step(header.length, payload, first, answered) {
            return self.malformed(input, Sender::Server, out);
        }
        if self.answer_ends && matches!(first, 0x00 | 0xfe) && !matches!(answered, Answered::Text | Answered::Prepare) {
            answer::state_changes(payload, |change| self.session.change(change));
        }
        self.confirmed = true;
        self.answer_begun = true;
        let sequence = self.sequence(input);
        if fresh
            && self.answers_now(answered, first)
            && let Some(exchange) = self.pairing.front()
        {
            exchange.response.start(input, 0);
            exchange.response.sequence = Some(sequence);
            exchange.request.done = true;
        }
        if self.asks_for_more(payload, answered)
            && let Some(exchange) = self.pairing.front()
        {
            exchange.request.done = false;
            exchange.request.last_ns = None;
        }
        self.server.pass(header, wanted);
        self.answer_bytes(input, HEADER + wanted, out);
        Progress::Consumed(HEADER + wanted)
    }

    /// True if a packet with this sequence number can come next.
    fn continues(&mut self, sequence: u8, answered: Answered) -> bool {
        let after_server = self.server.sequence.wrapping_add(1);
        let after_client = self.client.sequence.wrapping_add(1);
        match self.answer {
            // Servers number unpacked packets on from the compressed packet they put them into.
            _ if matches!(self.phase, Phase::Authentication) || self.packed[Sender::Server as usize] => true,
            // Where the client has a say too, the number follows from whoever spoke last.
            Answer::First if self.answer_begun && answered == Answered::Login => sequence == after_server || sequence == after_client,
            // Behind a hole in the file nobody knows its last number.
            Answer::File => self.client.lost || sequence == after_client,
            _ if self.answer_begun => sequence == after_server,
            // The answer's first number follows the request's last, which the request's length tells: each packet but the last is full.
            _ => {
                let bytes = self.pairing.front().map_or(0, |exchange| exchange.request.bytes);
                sequence == (bytes / (FULL + HEADER) as u64 + 1) as u8
            }
        }
    }

    /// During a login only OK or ERR is the answer; what comes before asks for more.
    fn answers_now(&self, answered: Answered, first: u8) -> bool {
        answered != Answered::Login || matches!(first, 0x00 | 0xff)
    }

    /// True if the client has a part of its request still to send: a file, or more of its credentials.
    fn asks_for_more(&self, payload: &[u8], answered: Answered) -> bool {
        let first = payload.first().copied().unwrap_or_default();
        // What caching_sha2_password says before OK when it needs no more is no question.
        let in_login = answered == Answered::Login && !self.answers_now(answered, first) && payload != answer::FAST_AUTH_SUCCESS;
        !self.answer_ends && (in_login || self.answer == Answer::File)
    }

    /// Advances by one packet; false if it cannot stand here.
    fn step(&mut self, length: usize, payload: &[u8], first: u8, answered: Answered) -> bool {
        match self.answer {
            Answer::First | Answer::Next | Answer::File if first == 0xff => self.fail(payload),
            Answer::First => match answered {
                Answered::Login => self.login_step(payload, first),
                Answered::Text => {
                    self.answer_ends = true;
                    true
                }
                Answered::Prepare => self.prepared(payload, first),
                Answered::Definitions => {
                    self.answer = Answer::FieldList;
                    self.step(length, payload, first, answered)
                }
                Answered::Rows => {
                    self.answer = Answer::Rows;
                    self.step(length, payload, first, answered)
                }
                Answered::Simply | Answered::Never | Answered::Stream => match first {
                    0x00 => answer::okay(payload).is_some_and(|okay| self.end_with(okay)),
                    0xfe => answer::end_of_rows(payload, length).is_some_and(|okay| self.end_with(okay)),
                    _ => false,
                },
                Answered::Results => self.result(length, payload, first),
            },
            Answer::Next => self.result(length, payload, first),
            Answer::File => answer::okay(payload).is_some_and(|okay| first == 0x00 && self.changed(okay)),
            Answer::Definitions(left, then) => match first {
                0xff => self.fail(payload),
                _ => {
                    self.answer = if left > 1 { Answer::Definitions(left - 1, then) } else { Answer::AfterDefinitions(then) };
                    self.after_definitions();
                    true
                }
            },
            Answer::AfterDefinitions(then) => self.eof_or_more(length, payload, first, answered, then),
            Answer::FieldList => match first {
                0xff => self.fail(payload),
                0xfe if length < 9 => answer::end_of_rows(payload, length).is_some_and(|okay| self.end_with(okay)),
                _ => true,
            },
            Answer::Rows => match first {
                0xff => self.fail(payload),
                0xfe if length < FULL => answer::end_of_rows(payload, length).is_some_and(|okay| self.finish_result(okay)),
                _ => {
                    self.count_rows(1);
                    true
                }
            },
        }
    }

    fn login_step(&mut self, payload: &[u8], first: u8) -> bool {
        match first {
            0x00 => answer::okay(payload).is_some_and(|okay| self.end_with(okay)),
            // AuthSwitchRequest, AuthMoreData, or what a plugin says without either.
            _ => true,
        }
    }

    fn result(&mut self, length: usize, payload: &[u8], first: u8) -> bool {
        let optional_metadata = self.session.has(CLIENT_OPTIONAL_RESULTSET_METADATA) && length < 7 && first < 2;
        match first {
            0x00 if !optional_metadata => answer::okay(payload).is_some_and(|okay| self.changed(okay)),
            0xfb => {
                self.answer = Answer::File;
                true
            }
            0xfe | 0xff => false,
            _ => self.columns(payload, optional_metadata),
        }
    }

    fn columns(&mut self, payload: &[u8], optional_metadata: bool) -> bool {
        let mut fields = Fields(payload);
        let mut described = true;
        if optional_metadata {
            described = fields.u8() == Some(1);
        }
        let Some(count) = fields.length_encoded() else { return false };
        if self.session.mariadb && self.session.has(MARIADB_CLIENT_CACHE_METADATA) {
            described = fields.u8() != Some(0);
        }
        // A count packet holds the count and nothing else; more columns than this no server allows.
        if fields.0.len() > 1 || count == 0 || count > 4096 {
            return false;
        }
        if let Some(detail) = self.detail() {
            detail.returned_rows.get_or_insert(0);
        }
        self.answer = if described { Answer::Definitions(count, Then::Rows) } else { Answer::AfterDefinitions(Then::Rows) };
        self.after_definitions();
        true
    }

    /// Skips the place of an EOF that is known not to come.
    fn after_definitions(&mut self) {
        let Answer::AfterDefinitions(then) = self.answer else { return };
        match (self.session.classic_eof(), then) {
            // Without the login, what comes next tells whether an EOF does.
            (Some(true) | None, _) => {}
            (Some(false), then) => self.follow(then),
        }
    }

    fn follow(&mut self, then: Then) {
        match then {
            Then::Rows => self.answer = Answer::Rows,
            Then::PreparedColumns(0) | Then::Prepared => self.answer_ends = true,
            Then::PreparedColumns(columns) => self.answer = Answer::Definitions(u64::from(columns), Then::Prepared),
        }
    }

    fn eof_or_more(&mut self, length: usize, payload: &[u8], first: u8, answered: Answered, then: Then) -> bool {
        let eof = first == 0xfe && length == 5;
        if self.session.classic_eof() == Some(true) && !eof && first != 0xff {
            return false;
        }
        if !eof && matches!(then, Then::PreparedColumns(0) | Then::Prepared) {
            // Nothing else can stand behind the last definition.
            return first == 0xff && self.fail(payload);
        }
        self.session.learn_classic_eof(eof);
        if !eof {
            self.follow(then);
            return self.step(length, payload, first, answered);
        }
        let status = answer::end_of_rows(payload, length).map_or(0, |okay| okay.status);
        if then == Then::Rows && status & SERVER_STATUS_CURSOR_EXISTS != 0 {
            // The rows wait for COM_STMT_FETCH.
            return self.end_with(Okay { status, ..Okay::default() });
        }
        self.follow(then);
        true
    }

    /// Passes whole rows quickly; `None` when the next packet needs a look, or is not there.
    fn rows(&mut self, input: &Input<'_>) -> Option<usize> {
        let data = input.data;
        let mut position = 0;
        let mut rows = 0;
        let mut sequence = self.server.sequence;
        while let Some(header) = data.get(position..).and_then(Header::parse)
            && let Some(first) = data.get(position + HEADER)
            && !matches!(first, 0xfe | 0xff)
            && header.sequence == sequence.wrapping_add(1)
            && header.length > 0
            && header.length < FULL
        {
            rows += 1;
            sequence = header.sequence;
            let end = position + HEADER + header.length;
            if end > data.len() {
                self.server.left = end - data.len();
                position = data.len();
                break;
            }
            position = end;
        }
        if rows == 0 {
            return None;
        }
        self.server.sequence = sequence;
        self.server.continued = false;
        self.count_rows(rows);
        let wire = self.wire(input, position);
        let sequence = self.sequence(input);
        if let Some(exchange) = self.pairing.front() {
            exchange.response.bytes += wire;
            // An answer to COM_STMT_FETCH begins with a row.
            if exchange.response.first_ns.is_none() {
                exchange.response.start(input, 0);
                exchange.response.sequence = Some(sequence);
            }
        }
        Some(position)
    }

    fn count_rows(&mut self, rows: u64) {
        if let Some(detail) = self.detail() {
            *detail.returned_rows.get_or_insert(0) += rows;
        }
    }

    /// A result without rows is over.
    fn changed(&mut self, okay: Okay) -> bool {
        if let Some(detail) = self.detail() {
            let affected = detail.affected_rows.get_or_insert(0);
            *affected = affected.saturating_add(okay.affected_rows);
        }
        self.finish_result(okay)
    }

    /// A result is over; another may follow.
    fn finish_result(&mut self, okay: Okay) -> bool {
        self.session.status(okay.status);
        if okay.status & SERVER_MORE_RESULTS_EXISTS == 0 {
            return self.end_with(okay);
        }
        if let Some(detail) = self.detail() {
            detail.warnings += u64::from(okay.warnings);
        }
        self.answer = Answer::Next;
        true
    }

    fn end_with(&mut self, okay: Okay) -> bool {
        self.session.status(okay.status);
        if let Some(detail) = self.detail() {
            detail.warnings += u64::from(okay.warnings);
        }
        self.answer_ends = true;
        true
    }

    fn fail(&mut self, payload: &[u8]) -> bool {
        let Some(failure) = answer::failure(payload) else { return false };
        if let Some(exchange) = self.pairing.front()
            && let Detail::Mysql(mut detail) = exchange.detail
        {
            detail.error_code = failure.code;
            detail.sqlstate = exchange.put(failure.sqlstate);
            detail.message = self.session.charset.put(exchange, failure.message);
            exchange.detail = Detail::Mysql(detail);
            exchange.status = answer::status(failure.code, failure.sqlstate);
            exchange.error = ErrorType::Number(u32::from(failure.code));
        }
        self.answer_ends = true;
        true
    }

    /// The front's answer is over.
    pub(super) fn end_answer(&mut self, out: &mut Output<'_>) {
        self.answer = Answer::First;
        self.answer_ends = false;
        self.answer_begun = false;
        let Some(mut exchange) = self.pairing.pop() else { return };
        exchange.response.done = true;
        let failed = exchange.status != Status::Ok;
        if let Detail::Mysql(detail) = exchange.detail {
            if matches!(self.phase, Phase::Authentication) {
                self.phase = if failed { Phase::Opaque(Discard::Unpaired) } else { Phase::Command };
            }
            if detail.code == command::CONNECT.code && !failed && self.session.is_compressed() {
                self.packed = [true; 2];
            }
            if !failed {
                self.take_effect(&exchange, &detail);
            }
        }
        for _ in 0..std::mem::take(&mut self.session.evicted) {
            out.count(Incident::StatementEvicted);
        }
        out.finish(exchange);
    }

    /// What a command that succeeded changes in the session.
    fn take_effect(&mut self, exchange: &super::super::Exchange, detail: &MysqlDetail) {
        match detail.code {
            command::COM_INIT_DB => exchange.text(detail.wanted_schema).clone_into(&mut self.session.schema),
            command::COM_CHANGE_USER => {
                exchange.text(detail.wanted_schema).clone_into(&mut self.session.schema);
                exchange.text(detail.wanted_user).clone_into(&mut self.session.user);
                self.session.forget_statements();
            }
            command::COM_RESET_CONNECTION => self.session.forget_statements(),
            command::COM_QUERY => self.session.follow(exchange.text(detail.statement)),
            _ => {}
        }
    }

    /// A packet that no command asked for: the EOF of a PREPARE whose style was not known, or something nobody can place.
    fn stray(&mut self, input: &Input<'_>, header: Header, out: &mut Output<'_>) -> Progress {
        if let Some(progress) = self.late_eof(input, header, out) {
            return progress;
        }
        out.count(Incident::AnswerWithoutRequest);
        self.lose_answers(out);
        discard_all(input, Discard::Unpaired, out)
    }

    /// The position in the answers is lost; one that had begun is finished without its end.
    pub(super) fn lose_answers(&mut self, out: &mut Output<'_>) {
        self.server = Reader { lost: true, ..Reader::default() };
        self.session.lose_last_prepared();
        self.answer = Answer::First;
        self.answer_ends = false;
        self.answer_begun = false;
        let begun = self.pairing.front().is_some_and(|exchange| exchange.response.first_ns.is_some());
        if begun && let Some(mut exchange) = self.pairing.pop() {
            exchange.partial = true;
            exchange.response.last_ns = None;
            if let Detail::Mysql(detail) = &mut exchange.detail {
                detail.returned_rows = None;
            }
            out.finish(exchange);
        }
        self.pairing.lose_answers();
    }

    pub(super) fn server_gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>) {
        if let Some(before) = &gap.before {
            out.discard(Discard::Resync, before.data.len());
        }
        let survives = gap.length <= self.server.left as u64;
        let wire = self.lost_on_wire.unwrap_or(gap.length);
        if let Some(exchange) = self.pairing.front()
            && exchange.response.first_ns.is_some()
        {
            exchange.response.bytes += wire;
            exchange.response.lost += if gap.skipped { 0 } else { wire };
            exchange.partial |= !gap.skipped;
        }
        if !survives {
            return self.lose_answers(out);
        }
        self.server.left -= gap.length as usize;
        if self.answer_ends && self.server.is_over() {
            self.end_answer(out);
        }
    }
}
