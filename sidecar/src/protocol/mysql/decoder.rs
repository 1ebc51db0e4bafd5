//! Joins both streams of a connection into exchanges. The client's side is here, the server's in [`super::results`].

use podtap_wire::Protocol;

use super::super::exchange::{Detail, MysqlDetail};
use super::super::pairing::{Admission, Pairing};
use super::super::{Decoder, Discard, Ending, Exchange, Gap, Incident, Input, Output, Progress, Sender, Start, tls};
use super::charset::Charset;
use super::command::{self, Answered, Command};
use super::compression;
use super::frame::{FULL, Fields, HEADER, Header};
use super::handshake::{self, CLIENT_QUERY_ATTRIBUTES, CLIENT_SSL, SSL_REQUEST_LENGTH};
use super::parameters;
use super::results::Answer;
use super::scale::Scale;
use super::session::Session;
use crate::reassembly::Close;

/// Bytes of a statement that are kept: longer ones are bulk inserts, whose fingerprint is settled long before.
pub(super) const MAX_STATEMENT: usize = 64 << 10;
/// PARAMETER_COUNT_AVAILABLE in an EXECUTE's flags.
const PARAMETER_COUNT_AVAILABLE: u8 = 0x08;

/// Where a connection stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Nothing seen that tells.
    Unknown,
    /// The greeting was seen, the login is awaited.
    Login,
    /// Between login and OK or ERR.
    Authentication,
    /// Commands.
    Command,
    /// Encrypted from here on.
    Tls(Box<dyn Decoder>),
    /// Not readable from here on.
    Opaque(Discard),
}

/// Packets of one stream.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Bytes of the current packet that are still to come and need no look.
    pub left: usize,
    /// The next packet continues this one.
    pub continued: bool,
    /// Position unknown.
    pub lost: bool,
    /// Sequence number of the last packet.
    pub sequence: u8,
}

impl Reader {
    /// Takes note of a packet of which `seen` payload bytes were looked at.
    pub fn pass(&mut self, header: Header, seen: usize) {
        self.left = header.length - seen.min(header.length);
        self.continued = header.length == FULL;
        self.sequence = header.sequence;
    }

    /// True when the packet, with its continuations, is over.
    pub fn is_over(&self) -> bool {
        self.left == 0 && !self.continued
    }
}

/// Whose bytes the client's current packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiver {
    Nobody,
    /// A command without an answer.
    Unanswered,
    /// The newest open exchange.
    Newest,
    /// The exchange that is being answered (file contents, authentication).
    Oldest,
}

/// The decoder.
#[derive(Debug)]
pub(super) struct Mysql {
    pub(super) phase: Phase,
    pub(super) client: Reader,
    pub(super) server: Reader,
    pub(super) session: Session,
    pub(super) pairing: Pairing,
    pub(super) answer: Answer,
    pub(super) server_offset: u64,
    pub(super) confirmed: bool,
    /// The answer ends with the packet that is being passed.
    pub(super) answer_ends: bool,
    /// A packet of the answer was seen, so that the next one's sequence number follows from it.
    pub(super) answer_begun: bool,
    /// The greeting's bytes, until the login they belong to.
    pub(super) greeting_bytes: u64,
    /// What client and server send from their next packet on is compressed.
    pub(super) packed: [bool; 2],
    /// Where bytes are compressed, what they are on the wire.
    pub(super) scales: Option<Box<[Scale; 2]>>,
    /// Bytes that were counted by their share of a packet and taken back.
    pub(super) taken_back: u64,
    /// Bytes on the wire that the current hole stands for, where that is not its length.
    pub(super) lost_on_wire: Option<u64>,
    /// A request began a new count: its answer begins where the server's stream stands.
    pub(super) realigned: bool,
    /// The bytes are of another protocol.
    pub(super) rejected: bool,
    receiver: Receiver,
    unanswered: Option<Box<Exchange>>,
}

impl Mysql {
    pub fn new(start: Start) -> Self {
        Self {
            phase: Phase::Unknown,
            client: Reader::default(),
            server: Reader { lost: false, ..Reader::default() },
            session: Session::default(),
            pairing: Pairing::new(&start),
            answer: Answer::First,
            server_offset: start.server_offset,
            confirmed: false,
            answer_ends: false,
            answer_begun: false,
            greeting_bytes: 0,
            packed: [false; 2],
            scales: None,
            taken_back: 0,
            lost_on_wire: None,
            realigned: false,
            rejected: false,
            receiver: Receiver::Nobody,
            unanswered: None,
        }
    }

    /// Whether compression begins with these bytes of the client although the end of the login was not seen; `None` if more of them are
    /// needed to tell. Only a command has the number 0, so with it whatever was missing of a login is over; without the login, the command
    /// tells whether it is compressed.
    pub fn turns(&self, data: &[u8]) -> Option<bool> {
        if self.packed[Sender::Client as usize] || !self.client.is_over() {
            return Some(false);
        }
        if self.session.is_compressed() {
            let begins = Header::parse(data).is_some_and(|header| header.sequence == 0);
            return Some(begins && matches!(self.phase, Phase::Login | Phase::Authentication));
        }
        let unknown = self.session.capabilities.is_none()
            && (self.client.lost || !matches!(self.phase, Phase::Command | Phase::Tls(_) | Phase::Opaque(_)));
        if unknown { compression::begins(data) } else { Some(false) }
    }

    /// True if the server's answer to the login is still to come.
    pub fn awaits_login(&self) -> bool {
        matches!(self.phase, Phase::Login | Phase::Authentication) && !self.server.lost
    }

    /// True if the position in a stream is lost.
    pub fn is_lost(&self, sender: Sender) -> bool {
        match sender {
            Sender::Client => self.client.lost,
            Sender::Server => self.server.lost,
        }
    }

    /// Loses the position in a stream.
    pub fn lose(&mut self, sender: Sender, out: &mut Output<'_>) {
        match sender {
            Sender::Client => self.lose_requests(out),
            Sender::Server => self.lose_answers(out),
        }
    }

    pub(super) fn receiver(&mut self) -> Option<&mut Exchange> {
        match self.receiver {
            Receiver::Nobody => None,
            Receiver::Unanswered => self.unanswered.as_deref_mut(),
            Receiver::Newest => self.pairing.back(),
            Receiver::Oldest => self.pairing.front(),
        }
    }

    fn client_data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        if self.client.left > 0 {
            let taken = self.client.left.min(input.data.len());
            self.client.left -= taken;
            self.request_bytes(input, taken, out);
            return Progress::Consumed(taken);
        }
        let Some(header) = Header::parse(input.data) else { return Progress::Need(HEADER) };
        let payload = input.data.get(HEADER..).unwrap_or_default();
        if self.client.continued {
            self.client.pass(header, 0);
            self.request_bytes(input, HEADER, out);
            return Progress::Consumed(HEADER);
        }
        if self.client.lost {
            if header.sequence == 0 && header.length > 0 && payload.is_empty() {
                // A segment may end behind the header of the next command.
                return Progress::Need(HEADER + 1);
            }
            if header.sequence != 0 || !command::is_plausible(payload, header.length) {
                self.pairing.pass_requests(input.acknowledged_at(0));
                return discard_segment(input, Discard::Resync, out);
            }
            self.client.lost = false;
        }
        match self.phase {
            Phase::Login | Phase::Unknown if header.sequence == 1 => self.login(input, header, payload, out),
            // The sequence numbers of a file's packets wrap around.
            _ if header.sequence == 0 && self.answer != Answer::File => {
                self.phase = Phase::Command;
                self.command(input, header, payload, out)
            }
            Phase::Authentication | Phase::Command => {
                // Authentication data or the contents of a LOCAL INFILE: part of the exchange that is being answered.
                self.receiver = Receiver::Oldest;
                self.client.pass(header, 0);
                self.request_bytes(input, HEADER, out);
                if self.answer == Answer::File
                    && header.length == 0
                    && let Some(exchange) = self.receiver()
                {
                    exchange.request.finish(input, HEADER);
                }
                Progress::Consumed(HEADER)
            }
            _ => self.malformed(input, Sender::Client, out),
        }
    }

    /// Counts bytes of the client's current packet, up to `end` of the input, and ends the request with the packet.
    fn request_bytes(&mut self, input: &Input<'_>, end: usize, out: &mut Output<'_>) {
        let over = self.client.is_over();
        let wire = self.wire(input, end);
        // An empty packet ends a file.
        let in_file = self.answer == Answer::File;
        match self.receiver() {
            Some(exchange) => {
                exchange.request.bytes += wire;
                if over && !in_file {
                    exchange.request.finish(input, end);
                }
            }
            None => out.discard(Discard::Resync, end),
        }
        if over && self.receiver == Receiver::Unanswered {
            self.finish_unanswered(out);
        }
    }

    fn finish_unanswered(&mut self, out: &mut Output<'_>) {
        self.receiver = Receiver::Nobody;
        if let Some(exchange) = self.unanswered.take() {
            out.finish(exchange);
        }
    }

    fn login(&mut self, input: &Input<'_>, header: Header, payload: &[u8], out: &mut Output<'_>) -> Progress {
        let wanted = header.length.min(MAX_STATEMENT);
        let Some(payload) = payload.get(..wanted) else { return Progress::Need(HEADER + wanted) };
        if header.length == SSL_REQUEST_LENGTH && handshake::capabilities(payload, false).is_some_and(|caps| caps & CLIENT_SSL != 0) {
            let start = Start { from_start: true, server_offset: self.server_offset, missed_at: None };
            self.phase = Phase::Tls(tls::decoder(start));
            out.discard(Discard::Opaque, HEADER + wanted + std::mem::take(&mut self.greeting_bytes) as usize);
            return Progress::Consumed(HEADER + wanted);
        }
        let Some(login) = handshake::login(payload, self.session.mariadb) else {
            return self.malformed(input, Sender::Client, out);
        };
        self.session.agree(login.capabilities);
        self.session.charset = Charset::of_collation(login.charset);
        self.session.user = String::from_utf8_lossy(login.user).into_owned();
        self.session.schema = String::from_utf8_lossy(login.schema).into_owned();
        let mut exchange = self.begin(input, &command::CONNECT, out);
        exchange.request.bytes = (HEADER + wanted) as u64;
        exchange.response.bytes = std::mem::take(&mut self.greeting_bytes);
        // The greeting counts as a part of the answer.
        exchange.partial = !matches!(self.phase, Phase::Login);
        self.client.pass(header, wanted);
        if self.client.is_over() {
            exchange.request.finish(input, HEADER + wanted);
        }
        // A login is the first thing on its connection: nothing can be open before it.
        self.pairing.abandon(Incident::RequestUncertain, out);
        self.pairing = Pairing::certain();
        self.pairing.push(exchange);
        self.receiver = Receiver::Newest;
        self.phase = Phase::Authentication;
        self.answer = Answer::First;
        self.answer_begun = false;
        self.server.lost = false;
        self.confirmed = true;
        Progress::Consumed(HEADER + wanted)
    }

    /// A new exchange whose request begins with the input.
    pub(super) fn begin(&self, input: &Input<'_>, command: &Command, out: &mut Output<'_>) -> Box<Exchange> {
        let mut exchange = out.begin(Protocol::Mysql);
        exchange.request.start(input, 0);
        exchange.request.sequence = Some(self.sequence(input));
        let mut detail =
            MysqlDetail { command: command.name, code: command.code, floor: input.acknowledged_at(0), ..MysqlDetail::default() };
        self.session.stamp(&mut exchange, &mut detail);
        exchange.detail = Detail::Mysql(detail);
        exchange
    }

    fn command(&mut self, input: &Input<'_>, header: Header, payload: &[u8], out: &mut Output<'_>) -> Progress {
        let wanted = header.length.min(MAX_STATEMENT);
        let Some(payload) = payload.get(..wanted) else { return Progress::Need(HEADER + wanted) };
        self.take_command(input, header, payload, out)
    }

    /// Takes a command of which `payload` was seen.
    fn take_command(&mut self, input: &Input<'_>, header: Header, payload: &[u8], out: &mut Output<'_>) -> Progress {
        let wanted = payload.len();
        let Some((code, arguments)) = payload.split_first() else { return self.malformed(input, Sender::Client, out) };
        let Some(command) = command::find(*code) else { return self.malformed(input, Sender::Client, out) };
        let unanswered = matches!(command.answered, Answered::Never | Answered::Stream);
        self.settle_by_command(input.acknowledged_at(0), out);
        let admission = match unanswered {
            true => Admission::Certain,
            false => self.pairing.admit(input.acknowledged_at(0), self.server_offset, out),
        };
        if admission == Admission::Realigned {
            self.realigned = true;
            // Whatever was missing of a login is over.
            self.packed[Sender::Server as usize] |= self.packed[Sender::Client as usize];
            self.answer = Answer::First;
            self.answer_ends = false;
            self.answer_begun = false;
            self.server = Reader::default();
        }
        let mut exchange = self.begin(input, command, out);
        exchange.request.bytes = self.wire(input, HEADER + wanted);
        self.arguments(&mut exchange, command, arguments, header.length > wanted, out);
        self.client.pass(header, wanted);
        if self.client.is_over() {
            exchange.request.finish(input, HEADER + wanted);
        }
        match (unanswered, admission) {
            (true, _) => {
                self.unanswered = Some(exchange);
                self.receiver = Receiver::Unanswered;
                if self.client.is_over() {
                    self.finish_unanswered(out);
                }
                if command.answered == Answered::Stream {
                    self.phase = Phase::Opaque(Discard::Opaque);
                }
            }
            (false, Admission::Uncertain) => {
                self.receiver = Receiver::Nobody;
                out.leave_out(exchange, Incident::RequestUncertain);
            }
            (false, _) => {
                self.pairing.push(exchange);
                self.receiver = Receiver::Newest;
            }
        }
        Progress::Consumed(HEADER + wanted)
    }

    /// Reads what a command says.
    fn arguments(&mut self, exchange: &mut Exchange, command: &Command, arguments: &[u8], cut: bool, out: &mut Output<'_>) {
        let Detail::Mysql(mut detail) = exchange.detail else { return };
        detail.statement_cut = cut;
        match command.code {
            command::COM_QUERY => {
                let found = command::statement(arguments, self.session.capabilities);
                detail.statement = self.session.charset.put(exchange, found.map_or(arguments, |found| found.statement));
            }
            command::COM_STMT_PREPARE => detail.statement = self.session.charset.put(exchange, arguments),
            command::COM_INIT_DB => detail.wanted_schema = self.session.charset.put(exchange, arguments),
            command::COM_CHANGE_USER => {
                if let Some((user, schema)) = handshake::change_user(arguments) {
                    detail.wanted_user = exchange.put(user);
                    detail.wanted_schema = exchange.put(schema);
                }
            }
            command::COM_STMT_EXECUTE
            | command::COM_STMT_BULK_EXECUTE
            | command::COM_STMT_FETCH
            | command::COM_STMT_RESET
            | command::COM_STMT_CLOSE
            | command::COM_STMT_SEND_LONG_DATA => self.statement(exchange, &mut detail, arguments, out),
            _ => {}
        }
        exchange.detail = Detail::Mysql(detail);
    }

    fn statement(&mut self, exchange: &mut Exchange, detail: &mut MysqlDetail, arguments: &[u8], out: &mut Output<'_>) {
        let mut fields = Fields(arguments);
        let Some(id) = fields.u32() else { return };
        detail.statement_id = id;
        // Only what runs a statement is a use of it; the rest only names it.
        match detail.code {
            command::COM_STMT_EXECUTE | command::COM_STMT_BULK_EXECUTE | command::COM_STMT_FETCH => {}
            command::COM_STMT_CLOSE => return self.session.close_statement(id),
            _ => return,
        }
        let query_attributes = self.session.has(CLIENT_QUERY_ATTRIBUTES);
        let pending = self.pending_prepare(id);
        if let Some(text) = pending.as_deref().filter(|text| !text.is_empty()) {
            detail.statement = exchange.put(text.as_bytes());
        } else if pending.is_none()
            && let Some(statement) = self.session.statement(id)
        {
            detail.statement = exchange.put(statement.text.as_bytes());
            detail.statement_cut = statement.cut;
            if out.outbox.unmask && detail.code == command::COM_STMT_EXECUTE {
                let flags = fields.u8().unwrap_or(0);
                fields.u32();
                let named = query_attributes && flags & PARAMETER_COUNT_AVAILABLE != 0;
                parameters::keep(exchange, fields.0, statement.parameters, query_attributes, named, &mut statement.kinds);
            }
        } else {
            out.count(Incident::StatementUnknown);
        }
    }

    pub(super) fn malformed(&mut self, input: &Input<'_>, sender: Sender, out: &mut Output<'_>) -> Progress {
        if !self.confirmed {
            self.pairing.abandon(Incident::Rejected, out);
            return Progress::Reject;
        }
        self.give_up(input);
        self.lose(sender, out);
        discard_all(input, Discard::Malformed, out)
    }

    fn lose_requests(&mut self, out: &mut Output<'_>) {
        self.client = Reader { lost: true, ..Reader::default() };
        self.pairing.lose_requests(self.server_offset);
        self.session.lose_last_prepared();
        if let Some(exchange) = self.unanswered.take() {
            out.leave_out(exchange, Incident::RequestUncertain);
        }
        self.receiver = Receiver::Nobody;
    }

    /// Takes a command of which only the beginning was seen.
    fn cut_command(&mut self, before: &Input<'_>, out: &mut Output<'_>) {
        let header = Header::parse(before.data).filter(|header| header.sequence == 0 && matches!(self.phase, Phase::Command));
        let payload = before.data.get(HEADER..).unwrap_or_default();
        match header {
            Some(header) if !payload.is_empty() && !self.client.lost && !self.client.continued => {
                let _ = self.take_command(before, header, payload, out);
                if let Some(exchange) = self.receiver() {
                    exchange.partial = true;
                }
            }
            _ => out.discard(Discard::Resync, before.data.len()),
        }
    }

    fn client_gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>) {
        if let Some(before) = &gap.before {
            self.cut_command(before, out);
        }
        let survives = gap.length <= self.client.left as u64;
        let wire = self.lost_on_wire.unwrap_or(gap.length);
        if let Some(exchange) = self.receiver()
            && !exchange.request.done
        {
            exchange.request.bytes += wire;
            exchange.request.lost += if gap.skipped { 0 } else { wire };
            exchange.partial |= !gap.skipped;
            exchange.request.done = !survives;
        }
        if !survives {
            return self.lose_requests(out);
        }
        self.client.left -= gap.length as usize;
        if self.client.is_over() {
            if let Some(exchange) = self.receiver() {
                exchange.request.done = true;
            }
            if self.receiver == Receiver::Unanswered {
                self.finish_unanswered(out);
            }
        }
    }

    fn close(&mut self, why: Close, out: &mut Output<'_>) {
        out.discard(Discard::Unpaired, std::mem::take(&mut self.greeting_bytes) as usize);
        if let Some(exchange) = self.unanswered.take() {
            out.leave_out(exchange, Incident::RequestUncertain);
        }
        self.settle_by_end(why, out);
        self.pairing.close(why, out);
        self.lose_answers(out);
    }
}

impl Decoder for Mysql {
    fn data(&mut self, input: &Input<'_>, out: &mut Output<'_>) -> Progress {
        let progress = match (&mut self.phase, input.sender) {
            (Phase::Tls(tls), _) => tls.data(input, out),
            (Phase::Opaque(why), _) => discard_all(input, *why, out),
            (_, Sender::Client) => self.client_data(input, out),
            (_, Sender::Server) => self.server_data(input, out),
        };
        if let (Progress::Consumed(length), Sender::Server) = (progress, input.sender) {
            self.server_offset = input.offset + length as u64;
        }
        progress
    }

    fn gap(&mut self, gap: &Gap<'_>, out: &mut Output<'_>) {
        if gap.sender == Sender::Server {
            self.server_offset = gap.offset + gap.length;
        }
        match (&mut self.phase, gap.sender) {
            (Phase::Tls(tls), _) => tls.gap(gap, out),
            (Phase::Opaque(_), _) => {}
            (_, Sender::Client) => self.client_gap(gap, out),
            (_, Sender::Server) => self.server_gap(gap, out),
        }
    }

    fn end(&mut self, ending: Ending, out: &mut Output<'_>) {
        if let Phase::Tls(tls) = &mut self.phase {
            return tls.end(ending, out);
        }
        match ending {
            Ending::Finished(Sender::Server) => self.close(Close::Finished, out),
            Ending::Finished(Sender::Client) => {}
            Ending::Closed(why) => self.close(why, out),
        }
    }
}

/// Passes over the segment in front: the next may begin with what is looked for.
pub(super) fn discard_segment(input: &Input<'_>, why: Discard, out: &mut Output<'_>) -> Progress {
    let length = input.next_segment().unwrap_or(input.data.len());
    out.discard(why, length);
    Progress::Consumed(length)
}

pub(super) fn discard_all(input: &Input<'_>, why: Discard, out: &mut Output<'_>) -> Progress {
    out.discard(why, input.data.len());
    Progress::Consumed(input.data.len())
}
