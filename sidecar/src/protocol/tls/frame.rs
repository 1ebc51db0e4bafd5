//! Records and hellos.

/// Bytes of a record header: type, version, length.
pub(super) const HEADER: usize = 5;
/// Longest record: 2^14 and what encryption adds (RFC 5246, 6.2.3).
pub(super) const MAX_RECORD: usize = (1 << 14) + 2048;

/// What a hello tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hello<'a> {
    pub server_name: &'a [u8],
    pub alpn: &'a [u8],
    pub version: &'static str,
}

/// Length of the record that begins here; `None` if none does.
pub(super) fn record_length(data: &[u8]) -> Option<usize> {
    match data {
        [0x14..=0x18, 3, 0..=4, high, low, ..] => Some(usize::from(*high) << 8 | usize::from(*low)).filter(|length| *length <= MAX_RECORD),
        _ => None,
    }
}

/// True if bytes are whole records one behind the other, or one that fills the segment and goes on.
pub(super) fn is_record_chain(mut data: &[u8]) -> bool {
    let mut records = 0;
    while let Some(length) = record_length(data) {
        records += 1;
        match data.get(HEADER + length..) {
            Some([]) => return true,
            Some(rest) => data = rest,
            // A record of full size that is cut by the segment: typical of a download.
            None => return records > 1 || length >= 1 << 14,
        }
    }
    false
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self, length: usize) -> Option<usize> {
        Some(self.bytes(length)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector whose length has so many bytes; cut vectors give what is there.
    fn vector(&mut self, length_bytes: usize) -> Option<Self> {
        let length = self.number(length_bytes)?.min(self.0.len());
        self.bytes(length).map(Reader)
    }
}

fn version_name(number: usize) -> &'static str {
    match number {
        0x0300 => "SSL 3.0",
        0x0301 => "1.0",
        0x0302 => "1.1",
        0x0303 => "1.2",
        0x0304 => "1.3",
        _ => "",
    }
}

/// Reads a ClientHello or ServerHello (handshake type 1 or 2) as far as it goes.
pub(super) fn hello(message: &[u8]) -> Option<Hello<'_>> {
    let mut reader = Reader(message);
    let client = reader.number(1)? == 1;
    let mut body = reader.vector(3)?;
    let mut version = body.number(2)?;
    body.bytes(32)?;
    body.vector(1)?;
    if client {
        body.vector(2)?;
        body.vector(1)?;
    } else {
        body.bytes(3)?;
    }
    let mut hello = Hello::default();
    let mut extensions = body.vector(2).unwrap_or(Reader(&[]));
    while let (Some(kind), Some(mut extension)) = (extensions.number(2), extensions.vector(2)) {
        match kind {
            0 if client => hello.server_name = server_name(&mut extension).unwrap_or_default(),
            16 => hello.alpn = first_protocol(&mut extension).unwrap_or_default(),
            43 if client => version = highest_version(&mut extension).unwrap_or(version),
            43 => version = extension.number(2).unwrap_or(version),
            _ => {}
        }
    }
    hello.version = version_name(version);
    Some(hello)
}

fn server_name<'a>(extension: &mut Reader<'a>) -> Option<&'a [u8]> {
    let mut list = extension.vector(2)?;
    (list.number(1)? == 0).then_some(())?;
    list.vector(2).map(|name| name.0)
}

fn first_protocol<'a>(extension: &mut Reader<'a>) -> Option<&'a [u8]> {
    let mut list = extension.vector(2)?;
    list.vector(1).map(|name| name.0)
}

fn highest_version(extension: &mut Reader<'_>) -> Option<usize> {
    let mut list = extension.vector(1)?;
    let mut highest = None;
    while let Some(version) = list.number(2) {
        // Values like 0x?a?a are there to keep servers tolerant (RFC 8701).
        if (0x0300..=0x0304).contains(&version) {
            highest = highest.max(Some(version));
        }
    }
    highest
}
