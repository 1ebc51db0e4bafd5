//! ClickHouse's Native format, as much of it as our tables need: blocks of whole columns, each with its name and type.
//!
//! Reading it costs the server a quarter of what rows cost it: texts that repeat are sent once a block and numbered, as the columns
//! keep them. Names and types let ClickHouse refuse what has another shape instead of reading it wrongly. Write a row's values in
//! the order of the columns given to [`Native::new`], or whole columns of several rows ([`Native::columns`]); nothing here checks that
//! (the tests against the engine do).

use rustc_hash::FxHashMap;

/// Name and ClickHouse type of a column.
pub type Column = (&'static str, &'static str);

/// `SharedDictionariesWithAdditionalKeys`: the only way of numbering keys that there is.
const KEYS_VERSION: u64 = 1;
/// The block brings its keys along (`HasAdditionalKeysBit`), nothing is left of a block before (`NeedUpdateDictionary`).
const OWN_KEYS: u64 = 1 << 9 | 1 << 10;

/// Values of one column, or of a part of it.
#[derive(Clone, Debug)]
enum Values {
    /// Numbers of a fixed width, and texts with their lengths.
    Plain(Vec<u8>),
    /// Texts that repeat: `LowCardinality(String)`.
    Keyed(Keyed),
    /// Where each row's elements end, and the columns of the elements: one, or as many as a tuple has.
    Nested { ends: Vec<u64>, elements: Vec<Values> },
}

/// Texts by number.
#[derive(Clone, Debug, Default)]
struct Keyed {
    numbers: FxHashMap<Box<str>, u32>,
    /// The keys with their lengths, in the order of their numbers.
    keys: Vec<u8>,
    rows: Vec<u32>,
    /// Most rows have the text of the row before.
    last: Option<(String, u32)>,
}

impl Keyed {
    fn push(&mut self, text: &str) {
        if let Some((last, number)) = &self.last
            && last == text
        {
            self.rows.push(*number);
            return;
        }
        let number = self.number(text);
        self.rows.push(number);
        let (last, of) = self.last.get_or_insert_default();
        last.clear();
        last.push_str(text);
        *of = number;
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(text.into(), number);
        write_text(&mut self.keys, text);
        number
    }

    fn write(&self, out: &mut Vec<u8>) {
        let keys = self.numbers.len();
        let width: u64 = if keys <= 1 << 8 {
            0
        } else if keys <= 1 << 16 {
            1
        } else {
            2
        };
        for number in [width | OWN_KEYS, keys as u64] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.keys);
        out.extend_from_slice(&(self.rows.len() as u64).to_le_bytes());
        match width {
            0 => out.extend(self.rows.iter().map(|number| *number as u8)),
            1 => self.rows.iter().for_each(|number| out.extend_from_slice(&(*number as u16).to_le_bytes())),
            _ => self.rows.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes())),
        }
    }

    fn clear(&mut self) {
        self.numbers.clear();
        self.keys.clear();
        self.rows.clear();
        self.last = None;
    }
}

impl Values {
    fn of(kind: &str) -> Self {
        let inner = |prefix: &str| kind.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(')'));
        if kind == "LowCardinality(String)" {
            return Self::Keyed(Keyed::default());
        }
        // A map is a list of pairs; names of a tuple's parts follow a space, so counting commas is enough.
        let parts = match (inner("Array(Tuple(").or(inner("Map(")), inner("Array(")) {
            (Some(parts), _) => parts.split(',').count(),
            (None, Some(_)) => 1,
            (None, None) => return Self::Plain(Vec::new()),
        };
        Self::Nested { ends: Vec::new(), elements: vec![Self::Plain(Vec::new()); parts] }
    }

    /// What precedes the values of a block.
    fn write_prefix(&self, out: &mut Vec<u8>) {
        if matches!(self, Self::Keyed(_)) {
            out.extend_from_slice(&KEYS_VERSION.to_le_bytes());
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Plain(bytes) => out.extend_from_slice(bytes),
            Self::Keyed(keyed) => keyed.write(out),
            Self::Nested { ends, elements } => {
                ends.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
                elements.iter().for_each(|values| values.write(out));
            }
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Plain(bytes) => bytes.clear(),
            Self::Keyed(keyed) => keyed.clear(),
            Self::Nested { ends, elements } => {
                ends.clear();
                elements.iter_mut().for_each(Self::clear);
            }
        }
    }

    fn plain(&mut self) -> Option<&mut Vec<u8>> {
        if let Self::Plain(bytes) = self { Some(bytes) } else { None }
    }
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    write_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// A column and its values so far.
#[derive(Clone, Debug)]
struct Filled {
    name: &'static str,
    kind: &'static str,
    /// Bytes of a number of this type.
    width: usize,
    values: Values,
}

impl Filled {
    fn new((name, kind): Column) -> Self {
        let width = match kind {
            "UInt8" => 1,
            "UInt16" => 2,
            "UInt32" => 4,
            _ => 8,
        };
        Self { name, kind, width, values: Values::of(kind) }
    }
}

/// Rows being written, column by column.
#[derive(Clone, Debug)]
pub struct Native {
    columns: Vec<Filled>,
    /// The column that the next value belongs to.
    at: usize,
    rows: usize,
    bytes: usize,
}

impl Native {
    /// No row yet.
    pub fn new(columns: &[Column]) -> Self {
        Self { columns: columns.iter().copied().map(Filled::new).collect(), at: 0, rows: 0, bytes: 0 }
    }

    /// True if no row was written since the last [`Self::take`].
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes waiting, roughly.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The rows so far as one block, to send; the next ones go into another.
    pub fn take(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes + self.columns.len() * 64);
        write_varint(&mut out, self.columns.len() as u64);
        write_varint(&mut out, self.rows as u64);
        for Filled { name, kind, values, .. } in &mut self.columns {
            write_text(&mut out, name);
            write_text(&mut out, kind);
            values.write_prefix(&mut out);
            values.write(&mut out);
            values.clear();
        }
        (self.at, self.rows, self.bytes) = (0, 0, 0);
        out
    }

    /// The column of the next value; the last one of a row is followed by the first of another.
    fn next(&mut self, bytes: usize) -> Option<&mut Values> {
        self.bytes += bytes;
        let at = self.at;
        self.at += 1;
        if self.at == self.columns.len() {
            self.at = 0;
            self.rows += 1;
        }
        self.columns.get_mut(at).map(|column| &mut column.values)
    }

    /// So many rows whose values are given a column at a time, for every column.
    pub fn columns(&mut self, rows: usize) -> Columns<'_> {
        debug_assert_eq!(self.at, 0, "between rows");
        self.rows += rows;
        Columns { columns: self.columns.iter_mut(), rows, bytes: &mut self.bytes }
    }

    fn fixed(&mut self, bytes: &[u8]) {
        if let Some(values) = self.next(bytes.len()).and_then(Values::plain) {
            values.extend_from_slice(bytes);
        }
    }

    pub fn string(&mut self, text: &str) {
        let added = match self.next(0) {
            Some(Values::Plain(bytes)) => {
                write_text(bytes, text);
                text.len() + 1
            }
            Some(Values::Keyed(keyed)) => {
                let before = keyed.keys.len();
                keyed.push(text);
                keyed.keys.len() - before + 1
            }
            Some(Values::Nested { .. }) | None => 0,
        };
        self.bytes += added;
    }

    pub fn u8(&mut self, value: u8) {
        self.fixed(&[value]);
    }

    pub fn u16(&mut self, value: u16) {
        self.fixed(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.fixed(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.fixed(&value.to_le_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.fixed(&value.to_le_bytes());
    }

    pub fn f64(&mut self, value: f64) {
        self.fixed(&value.to_le_bytes());
    }

    /// A row of so many elements, and the columns that they go to.
    fn nested(&mut self, len: usize, bytes: usize) -> &mut [Values] {
        let Some(Values::Nested { ends, elements }) = self.next(bytes + 8) else { return &mut [] };
        ends.push(ends.last().copied().unwrap_or_default() + len as u64);
        elements
    }

    /// `Map(UInt16, UInt64)`.
    pub fn buckets(&mut self, buckets: impl ExactSizeIterator<Item = (u16, u64)>) {
        if let [Values::Plain(keys), Values::Plain(values)] = self.nested(buckets.len(), buckets.len() * 10) {
            for (index, count) in buckets {
                keys.extend_from_slice(&index.to_le_bytes());
                values.extend_from_slice(&count.to_le_bytes());
            }
        }
    }

    /// `Map(String, UInt64)`.
    pub fn counts<'a>(&mut self, counts: impl ExactSizeIterator<Item = (&'a str, u64)>) {
        if let [Values::Plain(keys), Values::Plain(values)] = self.nested(counts.len(), counts.len() * 16) {
            for (name, count) in counts {
                write_text(keys, name);
                values.extend_from_slice(&count.to_le_bytes());
            }
        }
    }

    /// `Array(String)`.
    pub fn strings<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a str>) {
        let mut added = 0;
        if let [Values::Plain(elements)] = self.nested(texts.len(), 0) {
            let before = elements.len();
            texts.for_each(|text| write_text(elements, text));
            added = elements.len() - before;
        }
        self.bytes += added;
    }

    /// `Array(Tuple(String, String))`.
    pub fn pairs<'a>(&mut self, pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>) {
        if let [Values::Plain(first), Values::Plain(second)] = self.nested(pairs.len(), pairs.len() * 32) {
            for (one, other) in pairs {
                write_text(first, one);
                write_text(second, other);
            }
        }
    }

    /// `Array(UInt32)`.
    pub fn u32s(&mut self, numbers: &[u32]) {
        if let [Values::Plain(elements)] = self.nested(numbers.len(), numbers.len() * 4) {
            numbers.iter().for_each(|number| elements.extend_from_slice(&number.to_le_bytes()));
        }
    }

    /// `Array(Tuple(String, String, UInt64, UInt64))`.
    pub fn ranges<'a>(&mut self, ranges: impl ExactSizeIterator<Item = (&'a str, String, u64, u64)>) {
        let columns = self.nested(ranges.len(), ranges.len() * 64);
        if let [Values::Plain(first), Values::Plain(second), Values::Plain(third), Values::Plain(fourth)] = columns {
            for (sender, boot, from, to) in ranges {
                write_text(first, sender);
                write_text(second, &boot);
                third.extend_from_slice(&from.to_le_bytes());
                fourth.extend_from_slice(&to.to_le_bytes());
            }
        }
    }
}

/// The texts of a batch, and the numbers that they have in the column that is being written.
#[derive(Debug, Default)]
pub struct Dictionary {
    /// The column that a number belongs to, and the number.
    numbers: Vec<(u32, u32)>,
    column: u32,
}

/// Numbers of enumerations are below this.
const NAMES: usize = 64;

impl Dictionary {
    /// Makes ready for a batch with so many texts.
    pub fn begin(&mut self, texts: usize) {
        let wanted = texts.max(NAMES);
        if self.numbers.len() < wanted {
            self.numbers.resize(wanted, (0, 0));
        }
    }

    fn next_column(&mut self) {
        self.column = self.column.checked_add(1).unwrap_or_else(|| {
            self.numbers.fill((0, 0));
            1
        });
    }

    /// The key's number of text `index`.
    fn number<'t>(&mut self, keyed: &mut Keyed, index: u32, text: impl FnOnce() -> &'t str) -> u32 {
        match self.numbers.get_mut(index as usize) {
            Some((column, number)) if *column == self.column => *number,
            Some(entry) => {
                *entry = (self.column, keyed.number(text()));
                entry.1
            }
            None => keyed.number(text()),
        }
    }
}

/// Several rows, of which each call gives the next column.
#[derive(Debug)]
pub struct Columns<'a> {
    columns: std::slice::IterMut<'a, Filled>,
    rows: usize,
    bytes: &'a mut usize,
}

impl Columns<'_> {
    /// The same text in every row.
    pub fn same_text(&mut self, text: &str) {
        match self.columns.next().map(|column| &mut column.values) {
            Some(Values::Plain(bytes)) if text.is_empty() => bytes.resize(bytes.len() + self.rows, 0),
            Some(Values::Plain(bytes)) => (0..self.rows).for_each(|_| write_text(bytes, text)),
            Some(Values::Keyed(keyed)) => {
                let number = keyed.number(text);
                keyed.rows.resize(keyed.rows.len() + self.rows, number);
            }
            Some(Values::Nested { .. }) | None => {}
        }
        *self.bytes += self.rows * (text.len() + 1);
    }

    /// Texts by index: those of a batch, or the names of an enumeration.
    pub fn texts<'t>(&mut self, indices: impl Iterator<Item = u32>, text: impl Fn(u32) -> &'t str, dictionary: &mut Dictionary) {
        let added = match self.columns.next().map(|column| &mut column.values) {
            Some(Values::Plain(bytes)) => {
                let before = bytes.len();
                indices.for_each(|index| write_text(bytes, text(index)));
                bytes.len() - before
            }
            Some(Values::Keyed(keyed)) => {
                let before = keyed.keys.len();
                dictionary.next_column();
                for index in indices {
                    let number = dictionary.number(keyed, index, || text(index));
                    keyed.rows.push(number);
                }
                keyed.keys.len() - before + self.rows * 2
            }
            Some(Values::Nested { .. }) | None => 0,
        };
        *self.bytes += added;
    }

    /// Numbers, in the column's width; what is too large becomes the largest.
    pub fn numbers(&mut self, numbers: impl Iterator<Item = u64>) {
        let Some(Filled { width, values: Values::Plain(bytes), .. }) = self.columns.next() else { return };
        match width {
            1 => bytes.extend(numbers.map(|number| u8::try_from(number).unwrap_or(u8::MAX))),
            2 => numbers.for_each(|number| bytes.extend_from_slice(&u16::try_from(number).unwrap_or(u16::MAX).to_le_bytes())),
            4 => numbers.for_each(|number| bytes.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes())),
            _ => numbers.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes())),
        }
        *self.bytes += self.rows * *width;
    }

    /// The same number in every row.
    pub fn same_number(&mut self, number: u64) {
        self.numbers(std::iter::repeat_n(number, self.rows));
    }

    /// `Array(String)`: the texts of each row.
    pub fn lists<'t, I: ExactSizeIterator<Item = &'t str>>(&mut self, rows: impl Iterator<Item = I>) {
        let Some(Filled { values: Values::Nested { ends, elements }, .. }) = self.columns.next() else { return };
        let [Values::Plain(bytes)] = elements.as_mut_slice() else { return };
        let before = bytes.len();
        for texts in rows {
            ends.push(ends.last().copied().unwrap_or_default() + texts.len() as u64);
            texts.for_each(|text| write_text(bytes, text));
        }
        *self.bytes += bytes.len() - before + self.rows * 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_columns_with_names_and_types() {
        let mut rows = Native::new(&[("a", "UInt16"), ("b", "LowCardinality(String)"), ("c", "Array(String)")]);
        for (number, text, list) in [(1, "x", &["p", "q"][..]), (2, "x", &[]), (258, "", &["r"])] {
            rows.u16(number);
            rows.string(text);
            rows.strings(list.iter().copied());
        }
        assert!(!rows.is_empty());
        let mut expect = vec![3, 3];
        expect.extend(b"\x01a\x06UInt16\x01\x00\x02\x00\x02\x01");
        expect.extend(b"\x01b\x16LowCardinality(String)");
        expect.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        expect.extend(b"\x01x\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01");
        expect.extend(b"\x01c\x0dArray(String)");
        expect.extend([2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        expect.extend(b"\x01p\x01q\x01r");
        assert_eq!(rows.take(), expect);
        assert!(rows.is_empty());
        rows.u16(3);
        rows.string("y");
        rows.strings([].into_iter());
        assert!(rows.take().windows(3).any(|bytes| bytes == b"\x01y\x01"), "keys of a block before do not count any more");
    }

    #[test]
    fn many_keys_take_wider_numbers() {
        for (keys, width) in [(1u32, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
            let mut rows = Native::new(&[("k", "LowCardinality(String)")]);
            (0..keys).for_each(|number| rows.string(&format!("{number:08}")));
            let head = 1 + write_varint_len(u64::from(keys)) + 2 + 23 + 8 + 8 + 8;
            assert_eq!(rows.take().len(), head + keys as usize * (9 + width) + 8, "{keys}");
        }
    }

    fn write_varint_len(value: u64) -> usize {
        let mut out = Vec::new();
        write_varint(&mut out, value);
        out.len()
    }

    #[test]
    fn tuples_and_maps_have_a_column_a_part() {
        let kinds = "Array(Tuple(sender String, boot String, first UInt64, last UInt64))";
        let mut rows = Native::new(&[("r", kinds), ("m", "Map(UInt16, UInt64)")]);
        rows.ranges([("s", "b".to_owned(), 1, 2), ("t", "c".to_owned(), 3, 4)].into_iter());
        rows.buckets([(7, 9)].into_iter());
        let block = rows.take();
        assert!(block.windows(9).any(|bytes| bytes == b"\x01s\x01t\x01b\x01c\x01"), "{block:?}");
    }
}
