//! Connection phase: the server's greeting and the client's answer (Protocol::HandshakeV10, HandshakeResponse41).

use super::frame::Fields;

pub(super) const CLIENT_CONNECT_WITH_DB: u64 = 1 << 3;
pub(super) const CLIENT_COMPRESS: u64 = 1 << 5;
pub(super) const CLIENT_PROTOCOL_41: u64 = 1 << 9;
pub(super) const CLIENT_SSL: u64 = 1 << 11;
pub(super) const CLIENT_SECURE_CONNECTION: u64 = 1 << 15;
pub(super) const CLIENT_PLUGIN_AUTH_LENENC_DATA: u64 = 1 << 21;
pub(super) const CLIENT_DEPRECATE_EOF: u64 = 1 << 24;
pub(super) const CLIENT_OPTIONAL_RESULTSET_METADATA: u64 = 1 << 25;
pub(super) const CLIENT_ZSTD_COMPRESSION: u64 = 1 << 26;
pub(super) const CLIENT_QUERY_ATTRIBUTES: u64 = 1 << 27;
/// MariaDB's own capabilities are sent apart; here they are the upper half.
pub(super) const MARIADB_CLIENT_CACHE_METADATA: u64 = 1 << 36;

/// An SSLRequest is the fixed part of the answer alone.
pub(super) const SSL_REQUEST_LENGTH: usize = 32;
/// Longest server version in a greeting: real ones have some 40 letters.
const MAX_VERSION: usize = 128;
/// Shortest greeting: version byte, version, thread id, 8 bytes of challenge, filler.
const MIN_GREETING: usize = 16;
/// Shortest refusal: 0xff, error number, a few letters.
const MIN_REFUSAL: usize = 12;

/// What a greeting tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting<'a> {
    pub version: &'a [u8],
    pub capabilities: u64,
    pub mariadb: bool,
}

/// Whether a first packet is a greeting.
pub(super) fn is_greeting(payload: &[u8], length: usize) -> bool {
    let Some((10, rest)) = payload.split_first().map(|(version, rest)| (*version, rest)) else { return false };
    let text = rest.iter().take(MAX_VERSION).take_while(|byte| byte.is_ascii_graphic() || **byte == b' ').count();
    (MIN_GREETING..1024).contains(&length)
        && text >= 3
        && rest.get(text) == Some(&0)
        && rest[..text].contains(&b'.')
        && rest[0].is_ascii_digit()
}

/// Whether the beginning of a server's first packet may become a greeting, or an ERR that refuses the connection.
pub(super) fn may_become_first_packet(payload: &[u8], length: usize) -> bool {
    let Some((first, rest)) = payload.split_first() else { return (MIN_REFUSAL..1024).contains(&length) };
    match first {
        10 => (MIN_GREETING..1024).contains(&length) && rest.len() <= MAX_VERSION && rest.iter().all(|byte| (b' '..0x7f).contains(byte)),
        0xff => (MIN_REFUSAL..1024).contains(&length),
        _ => false,
    }
}

/// Reads a greeting.
pub(super) fn greeting(payload: &[u8]) -> Option<Greeting<'_>> {
    let mut fields = Fields(payload);
    fields.u8().filter(|version| *version == 10)?;
    let mut version = fields.terminated()?;
    fields.bytes(4 + 8 + 1)?;
    let mut capabilities = u64::from(fields.u16()?);
    // Character set, status, then the upper half; servers before 4.1.1 stop here.
    fields.bytes(3);
    capabilities |= u64::from(fields.u16().unwrap_or(0)) << 16;
    fields.bytes(1 + 6);
    let extended = u64::from(fields.u32().unwrap_or(0));
    let mariadb = version.windows(7).any(|window| window.eq_ignore_ascii_case(b"mariadb"));
    if mariadb {
        capabilities |= extended << 32;
        // MariaDB 10 greets as 5.5.5-10.x so that old replicas accept it.
        version = version.strip_prefix(b"5.5.5-").unwrap_or(version);
    }
    Some(Greeting { version, capabilities, mariadb })
}

/// What a login tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Login<'a> {
    pub capabilities: u64,
    /// Number of the collation, 0 in the old form.
    pub charset: u8,
    pub user: &'a [u8],
    pub schema: &'a [u8],
}

/// Capabilities in the fixed part of a login or SSLRequest.
pub(super) fn capabilities(payload: &[u8], mariadb: bool) -> Option<u64> {
    let mut fields = Fields(payload);
    let low = u64::from(fields.u32()?);
    fields.bytes(4 + 1 + 19)?;
    let extended = u64::from(fields.u32()?);
    Some(if mariadb { low | extended << 32 } else { low })
}

/// Reads a login as far as it was seen. Credentials are passed over.
pub(super) fn login(payload: &[u8], mariadb: bool) -> Option<Login<'_>> {
    let low = Fields(payload).u32().map(u64::from)?;
    if low & CLIENT_PROTOCOL_41 == 0 {
        // HandshakeResponse320.
        let mut fields = Fields(payload);
        let capabilities = u64::from(fields.u16()?);
        fields.bytes(3)?;
        let user = fields.terminated()?;
        return Some(Login { capabilities, charset: 0, user, schema: b"" });
    }
    let capabilities = capabilities(payload, mariadb)?;
    let mut fields = Fields(payload);
    fields.bytes(SSL_REQUEST_LENGTH)?;
    let user = fields.terminated()?;
    let charset = payload.get(8).copied().unwrap_or(0);
    let mut login = Login { capabilities, charset, user, schema: b"" };
    let passed = if low & CLIENT_PLUGIN_AUTH_LENENC_DATA != 0 {
        fields.text()
    } else if low & CLIENT_SECURE_CONNECTION != 0 {
        fields.u8().and_then(|length| fields.bytes(usize::from(length)))
    } else {
        fields.terminated()
    };
    if passed.is_some() && low & CLIENT_CONNECT_WITH_DB != 0 {
        login.schema = fields.terminated().unwrap_or_default();
    }
    Some(login)
}

/// User and schema of a COM_CHANGE_USER, without its command byte.
pub(super) fn change_user(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(payload);
    let user = fields.terminated()?;
    let length = fields.u8()?;
    fields.bytes(usize::from(length))?;
    Some((user, fields.terminated().unwrap_or_default()))
}
