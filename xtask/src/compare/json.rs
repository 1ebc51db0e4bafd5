//! One line of `podtap-sidecar print --json`, and of other tools' JSON: one flat object of texts and numbers.
//!
//! Guarantee: a line that is no such object is `None`, never half an object. Not for nested values: objects and lists in a value are
//! passed over.

use std::collections::BTreeMap;

use serde_json::{Deserializer, Value};

/// Keys with their values, numbers as text.
pub type Object = BTreeMap<String, String>;

/// Reads a line; what stands behind the object is left alone.
pub fn object(line: &str) -> Option<Object> {
    let read: BTreeMap<String, Value> = Deserializer::from_str(line).into_iter().next()?.ok()?;
    let plain = |(key, value)| match value {
        Value::String(text) => Some((key, text)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
        word => Some((key, word.to_string())),
    };
    Some(read.into_iter().filter_map(plain).collect())
}

#[cfg(test)]
mod tests {
    use super::object;

    #[test]
    fn texts_numbers_and_what_is_passed_over() {
        let read = object(r#"{"a":"x\"\u00e9\n","b":12,"c":["1]",{"d":"}"}],"e":null, "f" : "" } is_mysql: true"#).unwrap();
        let pairs: Vec<(&str, &str)> = read.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "x\"é\n"), ("b", "12"), ("f", "")]);
        assert_eq!(object("{}").unwrap().len(), 0);
    }

    #[test]
    fn what_is_cut_is_nothing() {
        for cut in [r#"{"a":"x"#, r#"{"a":1"#, r#"{"a""#, "", "no object", r#"{"a":[1"#] {
            assert_eq!(object(cut), None, "{cut}");
        }
    }
}
