//! What servers send: OK, ERR, EOF (Protocol::OK_Packet, ERR_Packet, EOF_Packet) and what a status tells.

use podtap_wire::Status;

use super::frame::Fields;

/// More result sets follow.
pub(super) const SERVER_MORE_RESULTS_EXISTS: u16 = 0x0008;
/// Rows are to be fetched.
pub(super) const SERVER_STATUS_CURSOR_EXISTS: u16 = 0x0040;
/// MariaDB sends progress as an ERR with this number.
pub(super) const PROGRESS: u16 = 0xffff;

/// An OK, or an EOF that says the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Okay {
    pub affected_rows: u64,
    pub status: u16,
    pub warnings: u16,
}

/// Reads an OK, its header byte included.
pub(super) fn okay(payload: &[u8]) -> Option<Okay> {
    let mut fields = Fields(payload);
    fields.u8()?;
    let affected_rows = fields.length_encoded()?;
    fields.length_encoded()?;
    Some(Okay { affected_rows, status: fields.u16().unwrap_or(0), warnings: fields.u16().unwrap_or(0) })
}

/// Reads what ends rows: a classic EOF of 5 bytes, else (CLIENT_DEPRECATE_EOF) an OK with another header byte, which is never that
/// short. So the bytes tell which style it is.
pub(super) fn end_of_rows(payload: &[u8], length: usize) -> Option<Okay> {
    if length == 5 {
        let mut fields = Fields(payload);
        fields.u8()?;
        let warnings = fields.u16()?;
        return Some(Okay { affected_rows: 0, status: fields.u16()?, warnings });
    }
    okay(payload)
}

/// An ERR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure<'a> {
    pub code: u16,
    pub sqlstate: &'a [u8],
    pub message: &'a [u8],
}

/// Reads an ERR, its header byte included.
pub(super) fn failure(payload: &[u8]) -> Option<Failure<'_>> {
    let mut fields = Fields(payload);
    fields.u8().filter(|header| *header == 0xff)?;
    let code = fields.u16()?;
    let sqlstate = match fields.0 {
        [b'#', state @ ..] if state.len() >= 5 => {
            fields.bytes(6)?;
            &state[..5]
        }
        _ => b"",
    };
    Some(Failure { code, sqlstate, message: fields.0 })
}

/// True for an ERR in place of a greeting: too many connections, host blocked, ...
pub(super) fn is_refusal(payload: &[u8]) -> bool {
    failure(payload).is_some_and(|failure| (1000..5000).contains(&failure.code) && failure.message.is_ascii() && failure.message.len() > 8)
}

/// Whose fault an error is: classes of SQLSTATE (ISO 9075, MySQL "Server Error Message Reference"). 21 cardinality, 22 data, 23
/// constraint, 28 authorisation, 3D and 3F unknown schema, 42 syntax and access are the client's; the rest (deadlock 40001,
/// connections 08004, HY000) the server's.
pub(super) fn status(code: u16, sqlstate: &[u8]) -> Status {
    match sqlstate.get(..2) {
        Some(b"21" | b"22" | b"23" | b"28" | b"3D" | b"3F" | b"42") => Status::ClientError,
        // Before the capabilities are known an ERR has no SQLSTATE: 1044 and 1045 are refused logins.
        None if matches!(code, 1044 | 1045 | 1049) => Status::ClientError,
        _ => Status::ServerError,
    }
}
