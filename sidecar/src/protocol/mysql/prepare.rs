//! The answer to COM_STMT_PREPARE (COM_STMT_PREPARE_OK), and where it ends.
//!
//! Guarantee: without the login nobody knows whether an EOF follows the last definitions, so the answer stays open until what comes next
//! tells; no end is made up. Misuse to avoid: taking the next command or the connection's end for anything else before
//! [`Mysql::settle_by_command`] or [`Mysql::settle_by_end`] was asked.

use super::super::exchange::Detail;
use super::super::{Discard, Input, Output, Progress};
use super::command;
use super::decoder::Mysql;
use super::frame::{Fields, HEADER, Header};
use super::handshake::CLIENT_OPTIONAL_RESULTSET_METADATA;
use super::results::{Answer, Then};
use crate::reassembly::Close;

impl Mysql {
    /// Text of a PREPARE that is not answered yet: MariaDB clients send one or more EXECUTEs right behind it, with -1 for the id.
    /// Empty if a piece of it was not seen: what is left is another statement.
    pub(super) fn pending_prepare(&mut self, id: u32) -> Option<String> {
        let exchange = self.pairing.back().filter(|_| id == u32::MAX)?;
        match exchange.detail {
            Detail::Mysql(detail) if detail.code == command::COM_STMT_PREPARE && exchange.request.lost > 0 => Some(String::new()),
            Detail::Mysql(detail) if detail.code == command::COM_STMT_PREPARE || detail.statement_id == u32::MAX => {
                Some(exchange.text(detail.statement).to_owned())
            }
            _ => None,
        }
    }

    /// Takes the packet that says a statement is prepared; false if it says something else.
    pub(super) fn prepared(&mut self, payload: &[u8], first: u8) -> bool {
        let mut fields = Fields(payload);
        fields.u8();
        let (Some(id), Some(columns), Some(parameters)) = (fields.u32(), fields.u16(), fields.u16()) else { return false };
        if first != 0x00 {
            return false;
        }
        fields.u8();
        let warnings = fields.u16().unwrap_or(0);
        let described = !self.session.has(CLIENT_OPTIONAL_RESULTSET_METADATA) || fields.u8() != Some(0);
        let mut statement = self.session.blank_statement();
        statement.parameters = usize::from(parameters);
        let mut text_lost = false;
        if let Some(exchange) = self.pairing.front()
            && let Detail::Mysql(mut detail) = exchange.detail
        {
            detail.statement_id = id;
            detail.warnings = u64::from(warnings);
            statement.text.push_str(exchange.text(detail.statement));
            statement.cut = detail.statement_cut;
            exchange.detail = Detail::Mysql(detail);
            text_lost = exchange.request.lost > 0;
        }
        match text_lost {
            // A piece of a statement is another statement: what runs it has none rather than a wrong one.
            true => {
                self.session.close_statement(id);
                self.session.lose_last_prepared();
            }
            false => self.session.prepare(id, statement),
        }
        match (parameters, columns) {
            _ if !described => self.answer_ends = true,
            (0, 0) => self.answer_ends = true,
            (0, columns) => self.answer = Answer::Definitions(u64::from(columns), Then::Prepared),
            (parameters, columns) => self.answer = Answer::Definitions(u64::from(parameters), Then::PreparedColumns(columns)),
        }
        true
    }

    /// True if the answer to a PREPARE is over unless an EOF follows, and nobody knows whether one does.
    pub(super) fn may_be_prepared(&self) -> bool {
        matches!(self.answer, Answer::AfterDefinitions(Then::PreparedColumns(0) | Then::Prepared))
            && self.session.classic_eof().is_none()
            && self.server.is_over()
    }

    /// Looks at what the server sent behind definitions that may have been the last: an EOF belongs to them, anything else is the
    /// next answer.
    pub(super) fn settle_prepared(&mut self, input: &Input<'_>, header: Header, out: &mut Output<'_>) -> Option<Progress> {
        if !self.may_be_prepared() {
            return None;
        }
        let in_sequence = self.packed[input.sender as usize] || header.sequence == self.server.sequence.wrapping_add(1);
        if in_sequence && header.length == 5 {
            match input.data.get(HEADER) {
                None => return Some(Progress::Need(HEADER + 1)),
                Some(0xfe) => return None,
                Some(_) => {}
            }
        }
        self.end_answer(out);
        Some(self.packet(input, header, out))
    }

    /// A command comes. Its sender, having received just what was read, waited for nothing more.
    pub(super) fn settle_by_command(&mut self, floor: Option<u64>, out: &mut Output<'_>) {
        if self.may_be_prepared() && floor == Some(self.server_offset) {
            self.end_answer(out);
        }
    }

    /// The connection ends, or nothing more is waited for. A server that sends no more has sent all; otherwise nobody knows.
    pub(super) fn settle_by_end(&mut self, why: Close, out: &mut Output<'_>) {
        if !self.may_be_prepared() {
            return;
        }
        match why {
            Close::Finished | Close::RequestTimeout => self.end_answer(out),
            Close::Reset | Close::Replaced | Close::Idle | Close::CaptureEnded => self.lose_answers(out),
            // Left out with the rest.
            Close::Evicted => {}
        }
    }

    /// Takes the EOF of a PREPARE that ended while nobody knew whether one would come; its number goes on where that answer ended.
    pub(super) fn late_eof(&mut self, input: &Input<'_>, header: Header, out: &mut Output<'_>) -> Option<Progress> {
        let unknown = self.session.classic_eof().is_none() && !self.answer_begun;
        if !unknown || header.length != 5 || header.sequence != self.server.sequence.wrapping_add(1) {
            return None;
        }
        let end = HEADER + header.length;
        let Some(payload) = input.data.get(HEADER..end) else { return Some(Progress::Need(end)) };
        if payload.first() != Some(&0xfe) {
            return None;
        }
        self.session.learn_classic_eof(true);
        self.server.sequence = header.sequence;
        out.discard(Discard::Unpaired, end);
        Some(Progress::Consumed(end))
    }
}
