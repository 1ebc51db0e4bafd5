//! ClickHouse's RowBinaryWithNamesAndTypes, as much of it as our tables need.
//!
//! The header with names and types lets ClickHouse refuse rows of another shape instead of reading them wrongly. Write a row's
//! values in the order of the columns given to [`RowBinary::new`]; nothing here checks that (the tests against the engine do).

/// Name and ClickHouse type of a column.
pub type Column = (&'static str, &'static str);

/// Rows being written.
#[derive(Clone, Debug)]
pub struct RowBinary {
    bytes: Vec<u8>,
    header: usize,
}

impl RowBinary {
    /// Begins with the header.
    pub fn new(columns: &[Column]) -> Self {
        let mut rows = Self { bytes: Vec::with_capacity(64 << 10), header: 0 };
        rows.varint(columns.len() as u64);
        columns.iter().for_each(|(name, _)| rows.string(name));
        columns.iter().for_each(|(_, kind)| rows.string(kind));
        rows.header = rows.bytes.len();
        rows
    }

    /// True if no row was written since the header or the last [`Self::take`].
    pub fn is_empty(&self) -> bool {
        self.bytes.len() <= self.header
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes so far, to send; rows written afterwards follow them.
    pub fn take(&mut self) -> Vec<u8> {
        self.header = 0;
        std::mem::take(&mut self.bytes)
    }

    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    pub fn string(&mut self, text: &str) {
        self.varint(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    pub fn fixed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn f64(&mut self, value: f64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// `Map(UInt16, UInt64)`.
    pub fn buckets(&mut self, buckets: &[(u16, u64)]) {
        self.varint(buckets.len() as u64);
        for (index, count) in buckets {
            self.u16(*index);
            self.u64(*count);
        }
    }
}
