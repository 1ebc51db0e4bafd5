//! The columnar batch: [`BatchBuilder`] in the sidecar, [`DecodedBatch`] in the analyzer.
//!
//! A batch that decodes is whole: every column has the length it says and every index points somewhere, so reading rows
//! afterwards cannot fail.

use std::hash::Hasher;
use std::net::IpAddr;

use prost::Message;
use rustc_hash::{FxHashMap, FxHasher};

use crate::proto;
use crate::record::{Completeness, FIELDS, Field, Protocol, RequestRecord, Side, SourceKind, Status, Transport, with_fields};

/// The format that this version writes; see `RecordBatch.format` in the .proto.
pub const FORMAT: u32 = 1;

/// Most records that one batch may hold: bounds what a hostile batch can make the analyzer allocate.
pub const MAX_ROWS: u32 = 65_536;

/// A batch as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedBatch {
    /// The number of the batch within its sender's boot.
    pub sequence: u64,
    /// How many records it holds.
    pub rows: u32,
    /// An encoded `podtap.v1.RecordBatch`.
    pub bytes: Vec<u8>,
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a protobuf message of this shape.
    #[error("not a RecordBatch: {0}")]
    Malformed(String),
    /// Written in a format this version does not know.
    #[error("batch format {0} is newer than {FORMAT}")]
    Format(u32),
    /// More records than a batch may hold.
    #[error("{0} rows, at most {MAX_ROWS} are allowed")]
    TooManyRows(u32),
    /// No sender, or one without a boot id of 16 bytes.
    #[error("sender is missing or its boot_id is not 16 bytes")]
    Sender,
    /// A column that is neither empty nor of the batch's length.
    #[error("column {column} has {found} entries, the batch has {rows} rows")]
    ColumnLength { column: &'static str, found: usize, rows: u32 },
    /// An index into a table that is shorter.
    #[error("column {column}, row {row}: index {index} is beyond its table")]
    Index { column: &'static str, row: usize, index: u64 },
    /// The table of strings begins with one that is not empty.
    #[error("the first string, which stands for absent ones, is not empty")]
    FirstString,
    /// An address that is neither 4 nor 16 bytes.
    #[error("address {index} has {length} bytes")]
    Address { index: usize, length: usize },
}

/// Most strings, and longest, whose memory serves the next batch: together a megabyte.
const SPARE_STRINGS: usize = 8192;
const SPARE_BYTES: usize = 128;

/// Where each string is in the table of strings: open addressing, so that entering one allocates nothing.
#[derive(Debug, Default)]
struct Places {
    /// Indices into the table of strings, 0 where the place is free; a power of two of them.
    slots: Vec<u32>,
    used: usize,
}

impl Places {
    /// The index of `text` in `strings`, or the one that it is to get.
    fn find_or_enter(&mut self, text: &str, strings: &[String]) -> u32 {
        if self.used * 2 >= self.slots.len() {
            self.grow(strings);
        }
        let mask = self.slots.len() - 1;
        let mut place = hash(text) & mask;
        loop {
            match self.slots[place] {
                0 => {
                    self.used += 1;
                    self.slots[place] = strings.len() as u32;
                    return strings.len() as u32;
                }
                index if strings.get(index as usize).is_some_and(|known| known == text) => return index,
                _ => place = (place + 1) & mask,
            }
        }
    }

    fn grow(&mut self, strings: &[String]) {
        let length = (self.slots.len() * 2).max(1024);
        self.slots = vec![0; length];
        for (index, string) in strings.iter().enumerate().skip(1) {
            let mut place = hash(string) & (length - 1);
            while self.slots[place] != 0 {
                place = (place + 1) & (length - 1);
            }
            self.slots[place] = index as u32;
        }
    }

    fn clear(&mut self) {
        self.slots.fill(0);
        self.used = 0;
    }
}

fn hash(text: &str) -> usize {
    let mut hasher = FxHasher::default();
    hasher.write(text.as_bytes());
    hasher.finish() as usize
}

/// Collects records and encodes them. One builder serves a sidecar for its whole life.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    batch: proto::RecordBatch,
    strings: Places,
    /// Used strings whose memory serves the next batch.
    spare: Vec<String>,
    addresses: FxHashMap<IpAddr, u32>,
    last_timestamp: u64,
    text_bytes: usize,
}

impl BatchBuilder {
    /// A builder whose batches carry this identity.
    pub fn new(sender_id: String, boot_id: [u8; 16], resource: proto::Resource) -> Self {
        let mut builder = Self::default();
        builder.batch.format = FORMAT;
        builder.batch.sender = Some(proto::Sender { id: sender_id, boot_id: boot_id.to_vec(), ..proto::Sender::default() });
        builder.batch.resource = Some(resource);
        builder
    }

    /// The end of the boot that `last` is of, which had made `made` batches; see `Sender.ends_boot` in the .proto.
    pub fn end_of_boot(last: &DecodedBatch, made: u64) -> EncodedBatch {
        let sequence = made.saturating_add(1);
        let sender = proto::Sender { sequence, ends_boot: true, ..last.sender.clone() };
        let resource = last.resource.clone();
        let batch = proto::RecordBatch { format: FORMAT, sender: Some(sender), resource: Some(resource), ..proto::RecordBatch::default() };
        EncodedBatch { sequence, rows: 0, bytes: batch.encode_to_vec() }
    }

    /// Records collected so far.
    pub fn rows(&self) -> u32 {
        self.batch.rows
    }

    /// Roughly what the batch will take when encoded, for the caller's cap.
    pub fn approximate_bytes(&self) -> usize {
        self.text_bytes + self.batch.rows as usize * 64
    }

    fn text(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if self.batch.strings.is_empty() {
            self.batch.strings.push(String::new());
        }
        let index = self.strings.find_or_enter(text, &self.batch.strings);
        if index as usize == self.batch.strings.len() {
            let mut owned = self.spare.pop().unwrap_or_default();
            owned.push_str(text);
            self.batch.strings.push(owned);
            self.text_bytes += text.len() + 2;
        }
        index
    }

    /// Keeps the strings' memory, within limits, for the next batch.
    fn recycle(&mut self) {
        for mut string in self.batch.strings.drain(..) {
            if self.spare.len() < SPARE_STRINGS && string.capacity() <= SPARE_BYTES {
                string.clear();
                self.spare.push(string);
            }
        }
    }

    fn address(&mut self, address: IpAddr) -> u32 {
        let table = &mut self.batch.addresses;
        *self.addresses.entry(address).or_insert_with(|| {
            table.push(match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            });
            table.len() as u32 - 1
        })
    }

    /// Closes the batch as number `sequence` and starts the next one. `counters` are the sender's own, as they are now.
    pub fn finish(&mut self, sequence: u64, closed_at_ns: u64, counters: Vec<proto::CounterSample>) -> EncodedBatch {
        let rows = self.batch.rows;
        self.drop_empty_columns();
        self.batch.counters = counters;
        if let Some(sender) = &mut self.batch.sender {
            sender.sequence = sequence;
            sender.closed_at_ns = closed_at_ns;
        }
        let bytes = self.batch.encode_to_vec();
        self.clear_columns();
        self.batch.rows = 0;
        self.recycle();
        self.batch.addresses.clear();
        self.strings.clear();
        self.addresses.clear();
        self.last_timestamp = 0;
        self.text_bytes = 0;
        EncodedBatch { sequence, rows, bytes }
    }
}

/// How a value of each kind enters its column.
macro_rules! push {
    (text, $builder:ident, $value:expr) => {
        $builder.text($value)
    };
    (number, $builder:ident, $value:expr) => {
        $value
    };
    (optional, $builder:ident, $value:expr) => {
        $value.map_or(0, |value| value.saturating_add(1))
    };
    (timestamp, $builder:ident, $value:expr) => {{
        let delta = $value.wrapping_sub($builder.last_timestamp) as i64;
        $builder.last_timestamp = $value;
        delta
    }};
    (address, $builder:ident, $value:expr) => {
        $builder.address($value)
    };
    (list, $builder:ident, $value:expr) => {
        proto::TextList { item: $value.iter().map(|text| $builder.text(text)).collect() }
    };
    ((names $t:ident), $builder:ident, $value:expr) => {
        $value as u32
    };
}
macro_rules! is_default {
    (text, $v:expr) => {
        *$v == 0
    };
    (number, $v:expr) => {
        *$v == 0
    };
    (optional, $v:expr) => {
        *$v == 0
    };
    // An address column is never empty: index 0 is an address.
    (timestamp, $v:expr) => {{
        let _ = $v;
        false
    }};
    (address, $v:expr) => {{
        let _ = $v;
        false
    }};
    (list, $v:expr) => {
        $v.item.is_empty()
    };
    ((names $t:ident), $v:expr) => {
        *$v == 0
    };
}
macro_rules! check {
    (text, $name:ident, $batch:ident) => {
        check_index(stringify!($name), &$batch.$name, $batch.strings.len().max(1))
    };
    (address, $name:ident, $batch:ident) => {
        check_index(stringify!($name), &$batch.$name, $batch.addresses.len())
    };
    (list, $name:ident, $batch:ident) => {
        $batch.$name.iter().try_for_each(|list| check_index(stringify!($name), &list.item, $batch.strings.len().max(1)))
    };
    ($kind:tt, $name:ident, $batch:ident) => {
        Ok(())
    };
}
macro_rules! read {
    (text, $self:ident, $name:ident, $row:ident) => {
        $self.text(column(&$self.batch.$name, $row))
    };
    (number, $self:ident, $name:ident, $row:ident) => {
        column(&$self.batch.$name, $row)
    };
    (optional, $self:ident, $name:ident, $row:ident) => {
        column(&$self.batch.$name, $row).checked_sub(1)
    };
    (timestamp, $self:ident, $name:ident, $row:ident) => {
        $self.timestamps.get($row).copied().unwrap_or_default()
    };
    (address, $self:ident, $name:ident, $row:ident) => {
        $self.address(column(&$self.batch.$name, $row))
    };
    (list, $self:ident, $name:ident, $row:ident) => {
        $self.batch.$name.get($row).map(|list| list.item.iter().map(|index| $self.text(*index)).collect()).unwrap_or_default()
    };
    ((names $t:ident), $self:ident, $name:ident, $row:ident) => {
        $t::from_number(column(&$self.batch.$name, $row)).unwrap_or_default()
    };
}
macro_rules! view {
    (Resource, $kind:tt, $self:ident, $name:ident) => {
        Column::Same(&$self.resource.$name)
    };
    (Record, text, $self:ident, $name:ident) => {
        Column::Texts(&$self.batch.$name)
    };
    (Record, number, $self:ident, $name:ident) => {
        Column::Numbers(&$self.batch.$name)
    };
    (Record, optional, $self:ident, $name:ident) => {
        Column::Optional(&$self.batch.$name)
    };
    (Record, timestamp, $self:ident, $name:ident) => {
        Column::Timestamps(&$self.timestamps)
    };
    (Record, address, $self:ident, $name:ident) => {
        Column::Addresses(&$self.batch.$name)
    };
    (Record, list, $self:ident, $name:ident) => {
        Column::Lists(&$self.batch.$name)
    };
    (Record, (names $t:ident), $self:ident, $name:ident) => {
        Column::Names(&$self.batch.$name, |number| $t::from_number(number).unwrap_or_default().as_str())
    };
}
macro_rules! per_scope {
    (Record, $($rest:tt)*) => { $($rest)* };
    (Resource, $($rest:tt)*) => {};
}
macro_rules! read_field {
    (Record, $kind:tt, $self:ident, $name:ident, $row:ident) => {
        read!($kind, $self, $name, $row)
    };
    (Resource, $kind:tt, $self:ident, $name:ident, $row:ident) => {
        $self.resource().$name.as_str()
    };
}

macro_rules! implement {
    ($($scope:ident $kind:tt $name:ident, $unit:literal, $ch:literal, $meaning:literal;)*) => {
        impl BatchBuilder {
            /// Adds a record. Its resource fields are ignored: they are the builder's.
            pub fn push(&mut self, record: &RequestRecord<'_>) {
                $(per_scope!($scope, let value = push!($kind, self, record.$name); self.batch.$name.push(value););)*
                self.batch.rows += 1;
            }

            fn drop_empty_columns(&mut self) {
                $(per_scope!($scope, if self.batch.$name.iter().all(|value| is_default!($kind, value)) { self.batch.$name.clear(); });)*
            }

            fn clear_columns(&mut self) {
                $(per_scope!($scope, self.batch.$name.clear(););)*
            }
        }

        fn check_columns(batch: &proto::RecordBatch) -> Result<(), DecodeError> {
            $(per_scope!($scope,
                check_length(stringify!($name), batch.$name.len(), batch.rows)?;
                check!($kind, $name, batch)?;
            );)*
            Ok(())
        }

        impl DecodedBatch {
            /// Row `index`, from 0; beyond the last row all fields hold their defaults.
            pub fn record(&self, index: usize) -> RequestRecord<'_> {
                RequestRecord { $($name: read_field!($scope, $kind, self, $name, index),)* }
            }

            /// Walks over all columns in the order of [`FIELDS`], absent ones included.
            pub fn for_each_column(&self, mut visit: impl FnMut(&'static Field, Column<'_>)) {
                let mut index = 0;
                $( visit(&FIELDS[index], view!($scope, $kind, self, $name)); index += 1; )*
                debug_assert_eq!(index, FIELDS.len());
            }
        }
    };
}
with_fields!(implement);

fn check_length(column: &'static str, found: usize, rows: u32) -> Result<(), DecodeError> {
    if found == 0 || found == rows as usize { Ok(()) } else { Err(DecodeError::ColumnLength { column, found, rows }) }
}

fn check_index(column: &'static str, indices: &[u32], table: usize) -> Result<(), DecodeError> {
    match indices.iter().position(|index| *index as usize >= table) {
        None => Ok(()),
        Some(row) => Err(DecodeError::Index { column, row, index: u64::from(indices[row]) }),
    }
}

/// The value of a row in one of [`DecodedBatch::columns`]; in a column that is absent every row has the default.
#[inline]
pub fn column<T: Copy + Default>(column: &[T], row: usize) -> T {
    column.get(row).copied().unwrap_or_default()
}

/// One field of all rows. A column is empty where the field is absent from every row.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    /// The same in all rows: a field of the sender's resource.
    Same(&'a str),
    /// Indices into [`DecodedBatch::strings`], of which 0 is the empty one.
    Texts(&'a [u32]),
    /// Numbers of an enumeration's values, and what gives their names.
    Names(&'a [u32], fn(u32) -> &'static str),
    /// Numbers whose 0 means "does not apply".
    Numbers(&'a [u64]),
    /// 0 where nothing is known, else the number and one.
    Optional(&'a [u64]),
    /// Nanoseconds since the Unix epoch.
    Timestamps(&'a [u64]),
    /// Indices into [`DecodedBatch::addresses`].
    Addresses(&'a [u32]),
    /// Lists of indices into [`DecodedBatch::strings`].
    Lists(&'a [proto::TextList]),
}

/// A batch that was checked as a whole.
#[derive(Debug)]
pub struct DecodedBatch {
    batch: proto::RecordBatch,
    sender: proto::Sender,
    resource: proto::Resource,
    addresses: Vec<IpAddr>,
    timestamps: Vec<u64>,
}

impl DecodedBatch {
    /// Decodes and checks everything; afterwards reading cannot fail.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut batch = proto::RecordBatch::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if batch.format > FORMAT {
            return Err(DecodeError::Format(batch.format));
        }
        if batch.rows > MAX_ROWS {
            return Err(DecodeError::TooManyRows(batch.rows));
        }
        let sender = batch.sender.take().filter(|sender| sender.boot_id.len() == 16).ok_or(DecodeError::Sender)?;
        // Index 0 stands for a text that is absent.
        if batch.strings.first().is_some_and(|first| !first.is_empty()) {
            return Err(DecodeError::FirstString);
        }
        check_columns(&batch)?;
        let mut addresses = Vec::with_capacity(batch.addresses.len());
        for (index, bytes) in batch.addresses.iter().enumerate() {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from));
            addresses.push(address.map_err(|_| DecodeError::Address { index, length: bytes.len() })?);
        }
        let mut last = 0u64;
        let timestamps = batch
            .timestamp
            .iter()
            .map(|delta| {
                last = last.wrapping_add(*delta as u64);
                last
            })
            .collect();
        let resource = batch.resource.take().unwrap_or_default();
        Ok(Self { batch, sender, resource, addresses, timestamps })
    }

    /// Who sent it and where it stands in the sender's order.
    pub fn sender(&self) -> &proto::Sender {
        &self.sender
    }

    /// Who the sender's pod is.
    pub fn resource(&self) -> &proto::Resource {
        &self.resource
    }

    /// The sender's own counters when the batch was closed.
    pub fn counters(&self) -> &[proto::CounterSample] {
        &self.batch.counters
    }

    /// How many records it holds.
    pub fn rows(&self) -> usize {
        self.batch.rows as usize
    }

    /// All records in order.
    pub fn records(&self) -> impl ExactSizeIterator<Item = RequestRecord<'_>> + '_ {
        (0..self.rows()).map(|index| self.record(index))
    }

    /// The columns as they came, for whoever reads a few of them for every row; see [`column`]. Times, addresses and texts are in
    /// [`Self::timestamps`], [`Self::addresses`] and [`Self::strings`]; what belongs to sender and resource was taken out.
    pub fn columns(&self) -> &proto::RecordBatch {
        &self.batch
    }

    /// When each record's request began, nanoseconds since the Unix epoch.
    pub fn timestamps(&self) -> &[u64] {
        &self.timestamps
    }

    /// The server's and the client's address of a row.
    #[inline]
    pub fn ends(&self, row: usize) -> (IpAddr, IpAddr) {
        (self.address(column(&self.batch.server_address, row)), self.address(column(&self.batch.client_address, row)))
    }

    /// One of the table of addresses; 0.0.0.0 where it has none.
    #[inline]
    pub fn address(&self, index: u32) -> IpAddr {
        self.addresses.get(index as usize).copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
    }

    /// The table of addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The table of strings; empty if there is no text.
    pub fn strings(&self) -> &[String] {
        &self.batch.strings
    }

    /// One of the table of strings.
    #[inline]
    pub fn text(&self, index: u32) -> &str {
        self.batch.strings.get(index as usize).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests;
