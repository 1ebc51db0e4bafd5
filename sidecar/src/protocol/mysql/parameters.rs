//! Binary parameters: their lengths, and their text when parameters are kept (ProtocolBinary::ResultsetRow values).

use std::fmt::Write;

use super::super::Exchange;
use super::frame::Fields;

/// Most parameters of one statement that are read: the protocol's own limit is 65,535, records stay small.
const MAX_PARAMETERS: usize = 256;
/// Longest text kept of one parameter.
const MAX_TEXT: usize = 256;

const UNSIGNED: u16 = 0x8000;

/// One value.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Null,
    Integer(i64),
    Unsigned(u64),
    Float(f32),
    Double(f64),
    Text(&'a [u8]),
    /// Date and time: the packed fields without their length byte.
    Moment(&'a [u8]),
    /// Time span, packed likewise.
    Span(&'a [u8]),
}

/// Reads one value of a type (enum_field_types).
fn value<'a>(fields: &mut Fields<'a>, kind: u16) -> Option<Value<'a>> {
    let unsigned = kind & UNSIGNED != 0;
    let integer = |number: i64, raw: u64| if unsigned { Value::Unsigned(raw) } else { Value::Integer(number) };
    Some(match kind & 0xff {
        0x01 => fields.u8().map(|raw| integer(i64::from(raw as i8), u64::from(raw)))?,
        0x02 | 0x0d => fields.u16().map(|raw| integer(i64::from(raw as i16), u64::from(raw)))?,
        0x03 | 0x09 => fields.u32().map(|raw| integer(i64::from(raw as i32), u64::from(raw)))?,
        0x08 => fields.u64().map(|raw| integer(raw as i64, raw))?,
        0x04 => Value::Float(f32::from_bits(fields.u32()?)),
        0x05 => Value::Double(f64::from_bits(fields.u64()?)),
        0x06 => Value::Null,
        0x07 | 0x0a | 0x0c => fields.u8().and_then(|length| fields.bytes(usize::from(length))).map(Value::Moment)?,
        0x0b => fields.u8().and_then(|length| fields.bytes(usize::from(length))).map(Value::Span)?,
        0x00 | 0x0f | 0x10 | 0xf2..=0xff => Value::Text(fields.text()?),
        _ => return None,
    })
}

fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

/// Passes over the query attributes of a COM_QUERY; what is left is the statement.
pub(super) fn pass_named(fields: &mut Fields<'_>, count: usize) -> Option<()> {
    if count > MAX_PARAMETERS {
        return None;
    }
    let bitmap = fields.bytes(count.div_ceil(8))?;
    if fields.u8()? != 1 {
        return None;
    }
    let mut kinds = [0u16; MAX_PARAMETERS];
    for kind in kinds.iter_mut().take(count) {
        *kind = fields.u16()?;
        fields.text()?;
    }
    for (index, kind) in kinds.iter().take(count).enumerate() {
        if !bit(bitmap, index) {
            value(fields, *kind)?;
        }
    }
    Some(())
}

/// Keeps the parameters of an EXECUTE, given its payload behind the iteration count. `kinds` are the types of the last time
/// they were sent, and are replaced when they are sent again. With query attributes types have names; `counted` says that the
/// number of values precedes them.
pub(super) fn keep(exchange: &mut Exchange, payload: &[u8], count: usize, named: bool, counted: bool, kinds: &mut Vec<u16>) -> Option<()> {
    let mut fields = Fields(payload);
    let count = if counted { usize::try_from(fields.length_encoded()?).ok()? } else { count };
    if count == 0 || count > MAX_PARAMETERS {
        return None;
    }
    let bitmap = fields.bytes(count.div_ceil(8))?;
    if fields.u8()? == 1 {
        kinds.clear();
        for _ in 0..count {
            kinds.push(fields.u16()?);
            if named {
                fields.text()?;
            }
        }
    }
    let mut text = String::new();
    for index in 0..count {
        let value = if bit(bitmap, index) { Value::Null } else { value(&mut fields, *kinds.get(index)?)? };
        text.clear();
        render(&mut text, value);
        let span = exchange.put(text.as_bytes());
        exchange.parameters.push(span);
    }
    Some(())
}

fn render(text: &mut String, value: Value<'_>) {
    // Writing to a String cannot fail.
    let _ = match value {
        Value::Null => write!(text, "NULL"),
        Value::Integer(number) => write!(text, "{number}"),
        Value::Unsigned(number) => write!(text, "{number}"),
        Value::Float(number) => write!(text, "{number}"),
        Value::Double(number) => write!(text, "{number}"),
        Value::Text(bytes) => write!(text, "{}", String::from_utf8_lossy(bytes.get(..MAX_TEXT).unwrap_or(bytes))),
        Value::Moment(packed) => moment(text, packed).unwrap_or_else(|| write!(text, "0000-00-00")),
        Value::Span(packed) => span(text, packed).unwrap_or_else(|| write!(text, "00:00:00")),
    };
}

fn moment(text: &mut String, packed: &[u8]) -> Option<std::fmt::Result> {
    let mut fields = Fields(packed);
    let (year, month, day) = (fields.u16()?, fields.u8()?, fields.u8()?);
    let mut done = write!(text, "{year:04}-{month:02}-{day:02}");
    if let (Some(hour), Some(minute), Some(second)) = (fields.u8(), fields.u8(), fields.u8()) {
        done = write!(text, " {hour:02}:{minute:02}:{second:02}");
    }
    if let Some(micros) = fields.u32() {
        done = write!(text, ".{micros:06}");
    }
    Some(done)
}

fn span(text: &mut String, packed: &[u8]) -> Option<std::fmt::Result> {
    let mut fields = Fields(packed);
    let (negative, days) = (fields.u8()?, fields.u32()?);
    let (hour, minute, second) = (fields.u8()?, fields.u8()?, fields.u8()?);
    let sign = if negative == 1 { "-" } else { "" };
    let hours = u64::from(days) * 24 + u64::from(hour);
    let mut done = write!(text, "{sign}{hours:02}:{minute:02}:{second:02}");
    if let Some(micros) = fields.u32() {
        done = write!(text, ".{micros:06}");
    }
    Some(done)
}
