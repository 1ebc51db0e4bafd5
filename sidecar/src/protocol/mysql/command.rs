//! What clients send: the table of commands, the statement in a COM_QUERY, and how a command is recognised in the middle of a
//! stream.

use super::frame::{FULL, Fields, HEADER, Header};
use super::handshake::CLIENT_QUERY_ATTRIBUTES;
use super::parameters;

pub(super) const COM_QUIT: u8 = 0x01;
pub(super) const COM_INIT_DB: u8 = 0x02;
pub(super) const COM_QUERY: u8 = 0x03;
pub(super) const COM_CHANGE_USER: u8 = 0x11;
pub(super) const COM_STMT_PREPARE: u8 = 0x16;
pub(super) const COM_STMT_EXECUTE: u8 = 0x17;
pub(super) const COM_STMT_SEND_LONG_DATA: u8 = 0x18;
pub(super) const COM_STMT_CLOSE: u8 = 0x19;
pub(super) const COM_STMT_RESET: u8 = 0x1a;
pub(super) const COM_STMT_FETCH: u8 = 0x1c;
pub(super) const COM_RESET_CONNECTION: u8 = 0x1f;
/// MariaDB only.
pub(super) const COM_STMT_BULK_EXECUTE: u8 = 0xfa;

/// Form of a command's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Not at all.
    Never,
    /// OK, EOF or ERR.
    Simply,
    /// One packet of text.
    Text,
    /// OK, ERR, or any number of results.
    Results,
    /// A statement id and definitions.
    Prepare,
    /// Definitions without a count.
    Definitions,
    /// Rows without definitions.
    Rows,
    /// An authentication dialogue.
    Login,
    /// Events without end.
    Stream,
}

/// One row of the table of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// First byte of the packet.
    pub code: u8,
    /// As in `enum_server_command`.
    pub name: &'static str,
    /// Form of the answer.
    pub answered: Answered,
}

const fn row(code: u8, name: &'static str, answered: Answered) -> Command {
    Command { code, name, answered }
}

/// The login: an exchange, but no command. Its code is no command's.
pub(super) const CONNECT: Command = row(0xff, "CONNECT", Answered::Login);

const COMMANDS: [Command; 33] = [
    row(0x00, "COM_SLEEP", Answered::Simply),
    row(COM_QUIT, "COM_QUIT", Answered::Never),
    row(COM_INIT_DB, "COM_INIT_DB", Answered::Simply),
    row(COM_QUERY, "COM_QUERY", Answered::Results),
    row(0x04, "COM_FIELD_LIST", Answered::Definitions),
    row(0x05, "COM_CREATE_DB", Answered::Simply),
    row(0x06, "COM_DROP_DB", Answered::Simply),
    row(0x07, "COM_REFRESH", Answered::Simply),
    row(0x08, "COM_SHUTDOWN", Answered::Simply),
    row(0x09, "COM_STATISTICS", Answered::Text),
    row(0x0a, "COM_PROCESS_INFO", Answered::Results),
    row(0x0b, "COM_CONNECT", Answered::Simply),
    row(0x0c, "COM_PROCESS_KILL", Answered::Simply),
    row(0x0d, "COM_DEBUG", Answered::Simply),
    row(0x0e, "COM_PING", Answered::Simply),
    row(0x0f, "COM_TIME", Answered::Simply),
    row(0x10, "COM_DELAYED_INSERT", Answered::Simply),
    row(COM_CHANGE_USER, "COM_CHANGE_USER", Answered::Login),
    row(0x12, "COM_BINLOG_DUMP", Answered::Stream),
    row(0x13, "COM_TABLE_DUMP", Answered::Stream),
    row(0x14, "COM_CONNECT_OUT", Answered::Simply),
    row(0x15, "COM_REGISTER_SLAVE", Answered::Simply),
    row(COM_STMT_PREPARE, "COM_STMT_PREPARE", Answered::Prepare),
    row(COM_STMT_EXECUTE, "COM_STMT_EXECUTE", Answered::Results),
    row(COM_STMT_SEND_LONG_DATA, "COM_STMT_SEND_LONG_DATA", Answered::Never),
    row(COM_STMT_CLOSE, "COM_STMT_CLOSE", Answered::Never),
    row(COM_STMT_RESET, "COM_STMT_RESET", Answered::Simply),
    row(0x1b, "COM_SET_OPTION", Answered::Simply),
    row(COM_STMT_FETCH, "COM_STMT_FETCH", Answered::Rows),
    row(0x1d, "COM_DAEMON", Answered::Simply),
    row(0x1e, "COM_BINLOG_DUMP_GTID", Answered::Stream),
    row(COM_RESET_CONNECTION, "COM_RESET_CONNECTION", Answered::Simply),
    row(0x20, "COM_CLONE", Answered::Stream),
];

const BULK_EXECUTE: Command = row(COM_STMT_BULK_EXECUTE, "COM_STMT_BULK_EXECUTE", Answered::Results);

/// The command of a packet's first byte.
pub(super) fn find(code: u8) -> Option<&'static Command> {
    match code {
        0xff => Some(&CONNECT),
        COM_STMT_BULK_EXECUTE => Some(&BULK_EXECUTE),
        _ => COMMANDS.get(usize::from(code)),
    }
}

/// The statement of a COM_QUERY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub statement: &'a [u8],
}

/// Finds the statement behind the query attributes (COM_QUERY with CLIENT_QUERY_ATTRIBUTES). Without known capabilities the bytes
/// tell: no statement begins with control characters. `None` when the attributes cannot be passed over.
pub(super) fn statement(arguments: &[u8], capabilities: Option<u64>) -> Option<Found<'_>> {
    let attributes = match capabilities {
        Some(capabilities) => capabilities & CLIENT_QUERY_ATTRIBUTES != 0,
        None => matches!(arguments, [0..=8, 1, ..]),
    };
    if !attributes {
        return Some(Found { statement: arguments });
    }
    let mut fields = Fields(arguments);
    let count = usize::try_from(fields.length_encoded()?).ok()?;
    // Number of parameter sets: always 1.
    fields.length_encoded()?;
    if count > 0 {
        parameters::pass_named(&mut fields, count)?;
    }
    Some(Found { statement: fields.0 })
}

/// Bytes of a statement that are looked at to recognise one.
const TEXT_PROBE: usize = 64;
/// Bytes of a packet larger than its segment that must be there before it is believed: no other protocol's message that happens to
/// look like a header goes on for so long as text.
const CERTAIN_BYTES: usize = 500;

/// Whether a packet's payload, as far as it is there, can be that of a command: everything that the form of the command fixes is
/// looked at.
pub(super) fn is_plausible(payload: &[u8], length: usize) -> bool {
    let payload = payload.get(..length).unwrap_or(payload);
    let Some((code, body)) = payload.split_first() else { return false };
    match *code {
        COM_QUIT | 0x09 | 0x0a | 0x0d | 0x0e | COM_RESET_CONNECTION => length == 1,
        COM_STMT_CLOSE | COM_STMT_RESET | 0x0c => length == 5,
        0x1b => length == 3 && matches!(body, [0 | 1, 0] | [0 | 1] | []),
        COM_STMT_FETCH => length == 9,
        COM_STMT_SEND_LONG_DATA => length >= 7,
        COM_STMT_BULK_EXECUTE => length >= 7 && body.get(5).is_none_or(|flags| *flags == 0),
        // Flags, and an iteration count that is always 1.
        COM_STMT_EXECUTE => {
            let counted_once = body.iter().skip(5).zip([1, 0, 0, 0]).all(|(seen, wanted)| *seen == wanted);
            length >= 10 && counted_once && body.get(4).is_none_or(|flags| *flags < 0x10)
        }
        COM_QUERY => length >= 2 && statement(body, None).is_none_or(|found| is_statement(found.statement)),
        COM_STMT_PREPARE => length >= 2 && is_statement(body),
        COM_INIT_DB | 0x05 | 0x06 => (2..=257).contains(&length) && body.iter().all(|byte| *byte > b' '),
        0x04 => (3..=1024).contains(&length) && body.first().is_some_and(|byte| *byte > b' '),
        COM_CHANGE_USER => (4..=4096).contains(&length) && body.first().is_none_or(|byte| *byte > b' ' || *byte == 0),
        0x12 | 0x15 | 0x1e => length >= 11,
        _ => false,
    }
}

/// Whether a segment that holds this payload behind a header with sequence number 0 is certainly a command: it is plausible, and
/// ends where its segment ends, or another command begins there, or it is a statement that goes on.
pub(super) fn is_certain(payload: &[u8], length: usize) -> bool {
    if !is_plausible(payload, length) {
        return false;
    }
    match payload.get(length..) {
        Some([]) => true,
        Some(next) => Header::parse(next).is_some_and(|header| {
            let begins = header.sequence == 0 && is_plausible(next.get(HEADER..).unwrap_or_default(), header.length);
            begins || (length == FULL && header.sequence == 1)
        }),
        None => {
            let long = [COM_QUERY, COM_STMT_PREPARE, COM_STMT_EXECUTE, COM_STMT_SEND_LONG_DATA, COM_STMT_BULK_EXECUTE];
            payload.first().is_some_and(|code| long.contains(code)) && payload.len() >= CERTAIN_BYTES
        }
    }
}

/// Whether a client's segment may begin with a command of which more is to come.
pub(super) fn may_begin(data: &[u8]) -> bool {
    let Some(header) = Header::parse(data) else {
        // Less than a header of a packet below 64 KiB.
        return data.get(2).is_none_or(|byte| *byte == 0);
    };
    let payload = data.get(HEADER..).unwrap_or_default();
    let begins = header.sequence == 0 && header.length > 0 && payload.len() < header.length;
    begins && (payload.is_empty() || is_plausible(payload, header.length))
}

fn is_statement(text: &[u8]) -> bool {
    let probe = text.get(..TEXT_PROBE).unwrap_or(text);
    let first = probe.iter().find(|byte| !byte.is_ascii_whitespace());
    let starts = first.is_none_or(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'(' | b'/' | b'-' | b'#' | b'{' | b';'));
    // Literals may hold anything; the beginning of a statement does not.
    starts && probe.iter().take(8).all(|byte| *byte >= b' ' || byte.is_ascii_whitespace())
}
