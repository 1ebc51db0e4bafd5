//! Conditions on fields: `FIELD=VALUE`, `FIELD!=VALUE`, `FIELD~REGEX`, `FIELD>NUMBER`, `FIELD<NUMBER`.

use podtap_wire::{FIELDS, RequestRecord, Value};
use regex::Regex;

use crate::config::suggestion;

/// One condition; a record is shown if all hold.
#[derive(Clone, Debug)]
pub struct Condition {
    field: &'static str,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Equal(String),
    NotEqual(String),
    Matches(Regex),
    Greater(f64),
    Less(f64),
}

impl std::str::FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text
            .find(['=', '!', '~', '>', '<'])
            .ok_or("a condition is FIELD=VALUE, FIELD!=VALUE, FIELD~REGEX, FIELD>NUMBER or FIELD<NUMBER")?;
        let (name, rest) = (text[..at].trim(), &text[at..]);
        let field = FIELDS.iter().find(|field| field.name == name || field.name.replace('_', ".") == name).ok_or_else(|| {
            let names = FIELDS.iter().map(|field| field.name);
            format!("there is no field {name:?}{}", suggestion(name, names))
        })?;
        let number = |text: &str| number(text.trim()).ok_or_else(|| format!("{text:?} is not a number (or a time such as 50ms)"));
        let test = match rest.split_at(1) {
            ("=", value) => Test::Equal(value.to_owned()),
            ("!", value) => Test::NotEqual(value.strip_prefix('=').ok_or("after ! comes =")?.to_owned()),
            ("~", pattern) => Test::Matches(Regex::new(pattern).map_err(|error| error.to_string())?),
            (">", value) => Test::Greater(number(value)?),
            (_, value) => Test::Less(number(value)?),
        };
        Ok(Self { field: field.name, test })
    }
}

/// A number; with a unit of time it becomes nanoseconds, as the fields have them.
fn number(text: &str) -> Option<f64> {
    let units = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
    let (digits, factor) =
        units.iter().find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor))).unwrap_or((text, 1.0));
    digits.trim().parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * factor)
}

impl Condition {
    /// Whether the record meets it. An absent field is the empty text, and no number.
    pub fn holds(&self, record: &RequestRecord<'_>) -> bool {
        let mut holds = false;
        record.for_each(|field, value| {
            if field.name == self.field {
                holds = self.test(&value);
            }
        });
        holds
    }

    fn test(&self, value: &Value<'_>) -> bool {
        match &self.test {
            Test::Equal(expected) => text(value) == *expected,
            Test::NotEqual(expected) => text(value) != *expected,
            Test::Matches(pattern) => pattern.is_match(&text(value)),
            Test::Greater(limit) => as_number(value).is_some_and(|number| number > *limit),
            Test::Less(limit) => as_number(value).is_some_and(|number| number < *limit),
        }
    }
}

fn text(value: &Value<'_>) -> String {
    match value {
        Value::Text(text) => (*text).to_owned(),
        Value::Number(number) | Value::OptionalNumber(Some(number)) | Value::Timestamp(number) => number.to_string(),
        Value::OptionalNumber(None) => String::new(),
        Value::Address(address) => address.to_string(),
        Value::List(texts) => texts.join(","),
    }
}

fn as_number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Number(number) | Value::OptionalNumber(Some(number)) | Value::Timestamp(number) => Some(*number as f64),
        Value::Text(text) => text.parse().ok(),
        Value::OptionalNumber(None) | Value::Address(_) | Value::List(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(condition: &str, expected: Result<bool, &str>) {
        let record = RequestRecord {
            url_path: "/items/5",
            http_response_status_code: 404,
            time_to_last_byte_ns: Some(60_000_000),
            ..RequestRecord::default()
        };
        match (condition.parse::<Condition>(), expected) {
            (Ok(condition), Ok(expected)) => assert_eq!(condition.holds(&record), expected, "{condition:?}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (found, expected) => panic!("{condition}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn conditions() {
        check("url_path=/items/5", Ok(true));
        check("url.path!=/items/5", Ok(false));
        check("url_path~^/items/\\d+$", Ok(true));
        check("http_response_status_code>403", Ok(true));
        check("http_response_status_code<403", Ok(false));
        check("time_to_last_byte_ns>50ms", Ok(true));
        check("time_to_first_byte_ns>0", Ok(false));
        check("db_query_text=", Ok(true));
        check("url_pth=/x", Err("did you mean \"url_path\""));
        check("url_path~(", Err("unclosed"));
        check("client_port>many", Err("not a number"));
        check("nothing", Err("a condition is"));
    }
}
