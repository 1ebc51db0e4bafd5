//! Prometheus' text exposition format (version 0.0.4), as much as samples need: a line is a sample, or nothing, or malformed. Pure.
//!
//! Borrows from the line unless a label's value has escapes. Comments, `# HELP` and `# TYPE` are nothing: the names that are asked for have
//! known types. The one misuse: OpenMetrics, whose timestamps are seconds.

use std::borrow::Cow;

/// A sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Name of the metric.
    pub name: &'a str,
    /// Labels in the order of the line.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// Its value.
    pub value: f64,
    /// When it was taken, milliseconds since the epoch, if it says so.
    pub timestamp_ms: Option<i64>,
}

impl Sample<'_> {
    /// A label's value; empty when it has none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(of, _)| *of == name).map_or("", |(_, value)| value.as_ref())
    }
}

/// A line that is no sample and should be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The sample of a line; `None` for comments and empty lines.
pub fn parse(line: &str) -> Result<Option<Sample<'_>>, Malformed> {
    let line = line.trim_matches([' ', '\t', '\r']);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let end = line.find(['{', ' ', '\t']).ok_or(Malformed)?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return Err(Malformed);
    }
    let mut labels = Vec::new();
    let rest = match rest.strip_prefix('{') {
        Some(inside) => read_labels(inside, &mut labels)?,
        None => rest,
    };
    let mut words = rest.split_ascii_whitespace();
    let value = number(words.next().ok_or(Malformed)?)?;
    let timestamp_ms = words.next().map(|text| text.parse().map_err(|_| Malformed)).transpose()?;
    match words.next() {
        Some(_) => Err(Malformed),
        None => Ok(Some(Sample { name, labels, value, timestamp_ms })),
    }
}

/// Go writes infinities with a sign.
fn number(text: &str) -> Result<f64, Malformed> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        _ => text.parse().map_err(|_| Malformed),
    }
}

/// Reads up to the closing brace; returns what follows it.
fn read_labels<'a>(mut rest: &'a str, labels: &mut Vec<(&'a str, Cow<'a, str>)>) -> Result<&'a str, Malformed> {
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (name, after) = rest.split_once('=').ok_or(Malformed)?;
        let quoted = after.trim_start().strip_prefix('"').ok_or(Malformed)?;
        let end = closing_quote(quoted).ok_or(Malformed)?;
        labels.push((name.trim(), unescape(&quoted[..end])?));
        rest = &quoted[end + 1..];
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescape(text: &str) -> Result<Cow<'_, str>, Malformed> {
    if !text.contains('\\') {
        return Ok(Cow::Borrowed(text));
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.push(match characters.next().ok_or(Malformed)? {
                'n' => '\n',
                other => other,
            }),
            other => plain.push(other),
        }
    }
    Ok(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, labels, value, time.
    type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64, Option<i64>);

    fn check(line: &str, expect: Result<Option<Expected<'_>>, Malformed>) {
        let found = parse(line);
        let found = found.as_ref().map(|sample| {
            sample.as_ref().map(|sample| {
                let labels: Vec<_> = sample.labels.iter().map(|(name, value)| (*name, value.as_ref())).collect();
                (sample.name, labels, sample.value, sample.timestamp_ms)
            })
        });
        let expect = expect.as_ref().map(|sample| sample.map(|(name, labels, value, time)| (name, labels.to_vec(), value, time)));
        assert_eq!(found, expect, "{line}");
    }

    #[test]
    fn lines() {
        check("up 1", Ok(Some(("up", &[], 1.0, None))));
        check("a{b=\"c\",d=\"\"} 1.5e-3 1700000000123", Ok(Some(("a", &[("b", "c"), ("d", "")], 0.0015, Some(1_700_000_000_123)))));
        check("a{ b = \"c\" , } 2", Ok(Some(("a", &[("b", "c")], 2.0, None))));
        check(r#"a{b="x\"y\\z\n}"} +Inf"#, Ok(Some(("a", &[("b", "x\"y\\z\n}")], f64::INFINITY, None))));
        check("# TYPE a counter", Ok(None));
        check("", Ok(None));
        for line in ["a", "a x", "a{b=\"c} 1", "a{b=c} 1", "a{b} 1", "a{b=\"c\"}", "a 1 2 3", "{b=\"c\"} 1", "a 1 x", r#"a{b="\"} 1"#] {
            check(line, Err(Malformed));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let line = r#"container_cpu_usage_seconds_total{container="ap\"p",id="/kubepods/x",pod="é"} 1.25 1700000000123"#;
        for end in (0..line.len()).filter(|end| line.is_char_boundary(*end)) {
            let _ = parse(&line[..end]);
            let _ = parse(&line[end..]);
        }
    }
}
