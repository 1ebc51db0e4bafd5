//! What servers send: OK, ERR, EOF (Protocol::OK_Packet, ERR_Packet, EOF_Packet) and what a status tells.

use podtap_wire::Status;

use super::frame::Fields;

/// More result sets follow.
pub(super) const SERVER_STATUS_NO_BACKSLASH_ESCAPES: u16 = 0x0200;
pub(super) const SERVER_MORE_RESULTS_EXISTS: u16 = 0x0008;
/// Rows are to be fetched.
pub(super) const SERVER_STATUS_CURSOR_EXISTS: u16 = 0x0040;
/// Something about the session changed; an OK goes on.
const SERVER_SESSION_STATE_CHANGED: u16 = 0x4000;
const SESSION_TRACK_SYSTEM_VARIABLES: u8 = 0;
const SESSION_TRACK_SCHEMA: u8 = 1;
/// AuthMoreData of caching_sha2_password when the server knew the password.
pub(super) const FAST_AUTH_SUCCESS: &[u8] = &[1, 3];
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

/// A change of the session's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// Another schema is in use.
    Schema(&'a [u8]),
    /// The client speaks another character set.
    Charset(&'a [u8]),
}

/// Reads what an OK tells about the session (`SERVER_SESSION_STATE_CHANGED`), as far as it was seen.
pub(super) fn state_changes(payload: &[u8], mut visit: impl FnMut(Change<'_>)) {
    let mut fields = Fields(payload.get(1..).unwrap_or_default());
    let status = fields.length_encoded().and(fields.length_encoded()).and_then(|_| fields.u16());
    if status.unwrap_or(0) & SERVER_SESSION_STATE_CHANGED == 0 {
        return;
    }
    // Warnings, the text for a person, the length of what follows.
    let passed = fields.u16().and(fields.text()).and(fields.length_encoded());
    while passed.is_some()
        && let (Some(kind), Some(content)) = (fields.u8(), fields.text())
    {
        let mut content = Fields(content);
        match (kind, content.text()) {
            (SESSION_TRACK_SCHEMA, Some(schema)) => visit(Change::Schema(schema)),
            (SESSION_TRACK_SYSTEM_VARIABLES, Some(b"character_set_client")) => {
                visit(Change::Charset(content.text().unwrap_or_default()));
            }
            _ => {}
        }
    }
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
/// connections 08004, HY000) the server's, save for errors of those kinds that never got a class of their own: 1130 host not
/// allowed, 1210 and 1243 misuse of a prepared statement, 1364 value missing, 1366 value does not fit, 1369 and 3819 check failed.
pub(super) fn status(code: u16, sqlstate: &[u8]) -> Status {
    match sqlstate.get(..2) {
        Some(b"21" | b"22" | b"23" | b"28" | b"3D" | b"3F" | b"42") => Status::ClientError,
        // Before the capabilities are known an ERR has no SQLSTATE: 1044 and 1045 are refused logins.
        None if matches!(code, 1044 | 1045 | 1049 | 1130) => Status::ClientError,
        _ if matches!(code, 1130 | 1210 | 1243 | 1364 | 1366 | 1369 | 3819) => Status::ClientError,
        _ => Status::ServerError,
    }
}
