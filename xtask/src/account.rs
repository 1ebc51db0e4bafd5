//! The account that `podtap-sidecar print --stats` writes: one JSON object behind whatever else is on standard error.

use serde_json::{Map, Value};

pub struct Account(Map<String, Value>);

impl Account {
    /// The last one in what was said.
    pub fn last_in(said: &str) -> Option<Self> {
        let line = said.lines().rev().find(|line| line.starts_with('{'))?;
        serde_json::from_str(line).ok().map(Self)
    }

    /// A figure, summed over its labels: `"podtap_records_total":{"http":120,"mysql":3}` is 123.
    pub fn sum(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Value::Object(labels) => labels.values().map(Value::as_u64).sum(),
            value => value.as_u64(),
        }
    }

    /// The first label of a figure.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_object()?.keys().next().map(String::as_str)
    }
}
