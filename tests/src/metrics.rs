//! Reads what our binaries serve at `/metrics` (Prometheus text format 0.0.4 and OpenMetrics).

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use crate::{Failure, Result, http};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name with its suffix.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// All samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics(pub Vec<Sample>);

impl Metrics {
    /// Asks a running binary.
    pub fn scrape(address: SocketAddrV4) -> Result<Self> {
        let answer = http::get(address, "/metrics")?;
        if answer.status != 200 {
            return Err(Failure(format!("/metrics answers {}: {}", answer.status, answer.body)));
        }
        Ok(Self::parse(&answer.body))
    }

    /// Samples of a text; lines that are none are passed over.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// Sum over all samples of a name; 0 where there is none.
    pub fn sum(&self, name: &str) -> f64 {
        self.0.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
    }

    /// Sum over the samples of a name that carry a label.
    pub fn sum_where(&self, name: &str, label: &str, value: &str) -> f64 {
        let of_name = self.0.iter().filter(|sample| sample.name == name);
        of_name.filter(|sample| sample.labels.get(label).is_some_and(|own| own == value)).map(|sample| sample.value).sum()
    }

    /// True if the name is served at all: a counter that is not there must not pass for one that is 0.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name)
    }

    /// The samples of a name.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = match line.rfind('}') {
        Some(end) => (&line[..=end], &line[end + 1..]),
        None => line.split_once(' ')?,
    };
    let value = value.split_whitespace().next()?.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, parse_labels(labels.trim_end_matches('}'))),
        None => (series, BTreeMap::new()),
    };
    Some(Sample { name: name.trim().to_owned(), labels, value })
}

/// `a="x",b="y"`; values may hold escaped quotes, commas and braces.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let mut end = after.len();
        while let Some((position, character)) = characters.next() {
            match character {
                '"' => {
                    end = position + 1;
                    break;
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, other)) => value.push(other),
                    None => break,
                },
                other => value.push(other),
            }
        }
        labels.insert(name.trim_start_matches(',').trim().to_owned(), value);
        rest = &after[end..];
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_labels_and_values() {
        let text =
            "# HELP a b\n# TYPE a counter\na_total 3\nb{reason=\"x, \\\"y\\\" {z}\",c=\"d\"} 1.5e3 1700000000\nb{c=\"e\"} 1\n# EOF\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("a_total"), 3.0);
        assert_eq!(metrics.sum("b"), 1501.0);
        assert_eq!(metrics.sum_where("b", "c", "d"), 1500.0);
        assert_eq!(metrics.sum_where("b", "reason", "x, \"y\" {z}"), 1500.0);
        assert!(!metrics.has("a"));
    }
}
