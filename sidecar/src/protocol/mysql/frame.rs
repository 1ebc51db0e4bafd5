//! Packets, and the integers and strings in them (Protocol Basics: "MySQL Packets", "Integer Types", "String Types").
//!
//! Guarantee: no function here can fail on any bytes; what is cut off or absent is `None`. Misuse to avoid: taking a packet's
//! first bytes for the whole of it; whoever reads fields must know how much of the payload is there.

/// Bytes of a packet header: length (3, little endian) and sequence number (1).
pub(super) const HEADER: usize = 4;
/// A payload of this length is continued by the next packet ("Sending More Than 16Mb").
pub(super) const FULL: usize = 0xff_ffff;

/// Header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Payload bytes.
    pub length: usize,
    /// Position in the conversation about one command, modulo 256.
    pub sequence: u8,
}

impl Header {
    /// The header at the front, if it is there.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let [a, b, c, sequence, ..] = *data else { return None };
        Some(Self { length: usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16, sequence })
    }
}

/// Reads fields from the front of a payload; what was not read yet is public.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// `string<n>`.
    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// `int<n>`, little endian, up to 8 bytes.
    fn int(&mut self, length: usize) -> Option<u64> {
        Some(self.bytes(length)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// `int<1>`.
    pub fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// `int<2>`.
    pub fn u16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_le_bytes(*taken))
    }

    /// `int<4>`.
    pub fn u32(&mut self) -> Option<u32> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*taken))
    }

    /// `int<8>`.
    pub fn u64(&mut self) -> Option<u64> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*taken))
    }

    /// `int<lenenc>`; 0xfb (NULL) and 0xff (ERR) begin no integer.
    pub fn length_encoded(&mut self) -> Option<u64> {
        let before = self.0;
        let value = match self.u8()? {
            small @ 0..=0xfa => Some(u64::from(small)),
            0xfc => self.int(2),
            0xfd => self.int(3),
            0xfe => self.int(8),
            0xfb | 0xff => None,
        };
        if value.is_none() {
            self.0 = before;
        }
        value
    }

    /// `string<lenenc>`.
    pub fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.length_encoded()?).ok()?;
        self.bytes(length)
    }

    /// `string<NUL>`, without its NUL.
    pub fn terminated(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let taken = self.0.get(..end)?;
        self.0 = self.0.get(end + 1..)?;
        Some(taken)
    }
}
