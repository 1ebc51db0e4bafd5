//! Rules as people write them, in YAML, and as they are evaluated.
//!
//! ```yaml
//! receivers:
//!   - name: ops
//!     webhook: { url: "http://127.0.0.1:9000/hook" }
//! rules:
//!   - name: endpoint fails
//!     target: { service: "*", endpoint: "*" }
//!     indicator: error_share
//!     threshold: 5%
//!     window: 60s
//!     minimum_count: 20
//!     level: 1
//! ```
//! A file with anything unknown in it is refused whole: a misspelt key must not turn a rule into another one.

use serde::Deserialize;

/// Most rules in a file.
pub const MAX_RULES: usize = 1_000;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Indicator {
    /// Share of exchanges that failed, 0 to 1.
    ErrorShare,
    /// A quantile of the latency in nanoseconds, from 0 to 1.
    Latency(f64),
}

impl std::fmt::Display for Indicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ErrorShare => f.write_str("error_share"),
            Self::Latency(quantile) => write!(f, "p{}", (quantile * 1e6).round() / 1e4),
        }
    }
}

/// How a value is compared with the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `<`
    Below,
    /// `<=`
    AtMost,
}

impl Comparison {
    /// As written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::AtMost => "<=",
        }
    }

    /// Whether `value` is a breach of `threshold`.
    pub fn holds(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Above => value > threshold,
            Self::AtLeast => value >= threshold,
            Self::Below => value < threshold,
            Self::AtMost => value <= threshold,
        }
    }

    /// The worse of two values.
    pub fn worse(self, left: f64, right: f64) -> f64 {
        match self {
            Self::Above | Self::AtLeast => left.max(right),
            Self::Below | Self::AtMost => left.min(right),
        }
    }
}

/// Which of something a rule looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Each, `*`.
    Each,
    /// This one.
    One(String),
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name, unique in the file; the `alertname` of its notifications.
    pub name: String,
    /// Which services.
    pub service: Selector,
    /// Which endpoints; `None`: a service as a whole.
    pub endpoint: Option<Selector>,
    /// What is measured.
    pub indicator: Indicator,
    /// Over how long.
    pub window_ns: u64,
    /// How the value is compared.
    pub comparison: Comparison,
    /// With what: a share or nanoseconds.
    pub threshold: f64,
    /// Fewer exchanges in the window than this are not judged.
    pub minimum_count: u64,
    /// 0 urgent, 1 important, 2 ordinary, 3 watch.
    pub level: u8,
    /// How long a breach has to last before the alarm opens.
    pub hold_ns: u64,
    /// Who is told.
    pub receivers: Vec<String>,
    /// For people.
    pub summary: String,
}

/// Where notifications go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiverConfig {
    /// Its name, unique in the file.
    pub name: String,
    /// Gets Alertmanager's webhook body, version 4.
    pub webhook: WebhookConfig,
}

/// A webhook.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where it is posted.
    pub url: String,
}

/// A file of rules.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleFile {
    /// Who can be told.
    pub receivers: Vec<ReceiverConfig>,
    /// What is watched.
    pub rules: Vec<Rule>,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No YAML of this shape; the message has the line.
    #[error("{0}")]
    Syntax(String),
    /// A rule says something impossible.
    #[error("rule {rule:?}: {key}: {problem}")]
    Rule { rule: String, key: &'static str, problem: String },
    /// A receiver does.
    #[error("receiver {receiver:?}: {problem}")]
    Receiver { receiver: String, problem: String },
    /// More rules than are allowed.
    #[error("{0} rules, at most {MAX_RULES} are allowed")]
    TooMany(usize),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    receivers: Vec<ReceiverConfig>,
    #[serde(default)]
    rules: Vec<RawRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: String,
    #[serde(default)]
    target: RawTarget,
    indicator: String,
    window: String,
    comparison: Option<String>,
    threshold: Scalar,
    #[serde(default)]
    minimum_count: u64,
    #[serde(default = "ordinary")]
    level: u8,
    #[serde(rename = "for")]
    hold: Option<String>,
    receivers: Option<Vec<String>>,
    #[serde(default)]
    summary: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    service: Option<String>,
    endpoint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(f64),
    Text(String),
}

const fn ordinary() -> u8 {
    2
}

/// Reads a file's text.
pub fn parse(text: &str) -> Result<RuleFile, RuleError> {
    let raw: RawFile = serde_saphyr::from_str(text).map_err(|error| RuleError::Syntax(error.to_string()))?;
    if raw.rules.len() > MAX_RULES {
        return Err(RuleError::TooMany(raw.rules.len()));
    }
    for (number, receiver) in raw.receivers.iter().enumerate() {
        let problem = |problem: &str| RuleError::Receiver { receiver: receiver.name.clone(), problem: problem.to_owned() };
        if raw.receivers[..number].iter().any(|other| other.name == receiver.name) {
            return Err(problem("the name is used twice"));
        }
        if !receiver.webhook.url.starts_with("http://") {
            return Err(problem("webhook.url must begin with http:// (this version speaks no TLS to receivers)"));
        }
    }
    let everyone: Vec<_> = raw.receivers.iter().map(|receiver| receiver.name.clone()).collect();
    let mut rules: Vec<Rule> = Vec::with_capacity(raw.rules.len());
    for raw in raw.rules {
        let name = raw.name.clone();
        let failed = |key, problem: &str| RuleError::Rule { rule: name.clone(), key, problem: problem.to_owned() };
        if raw.name.is_empty() || rules.iter().any(|rule| rule.name == raw.name) {
            return Err(failed("name", "must be there and unique"));
        }
        rules.push(raw.check(&everyone).map_err(|(key, problem)| failed(key, &problem))?);
    }
    Ok(RuleFile { receivers: raw.receivers, rules })
}

impl RawRule {
    fn check(self, everyone: &[String]) -> Result<Rule, (&'static str, String)> {
        let indicator = parse_indicator(&self.indicator)
            .ok_or_else(|| ("indicator", format!("{:?} is neither error_share nor a latency quantile such as p99", self.indicator)))?;
        let comparison = match self.comparison.as_deref() {
            None | Some(">") => Comparison::Above,
            Some(">=") => Comparison::AtLeast,
            Some("<") => Comparison::Below,
            Some("<=") => Comparison::AtMost,
            Some(other) => return Err(("comparison", format!("{other:?} is none of > >= < <="))),
        };
        let window_ns = parse_duration(&self.window).map_err(|problem| ("window", problem))?;
        if window_ns < 10_000_000_000 {
            return Err(("window", "must be at least 10s, the step of the stored figures".to_owned()));
        }
        let threshold = parse_threshold(indicator, &self.threshold).map_err(|problem| ("threshold", problem))?;
        if self.level > 3 {
            return Err(("level", format!("{} is not 0 (urgent), 1 (important), 2 (ordinary) or 3 (watch)", self.level)));
        }
        let hold_ns = self.hold.as_deref().map_or(Ok(0), parse_duration).map_err(|problem| ("for", problem))?;
        let receivers = self.receivers.unwrap_or_else(|| everyone.to_vec());
        if let Some(unknown) = receivers.iter().find(|receiver| !everyone.contains(receiver)) {
            return Err(("receivers", format!("there is no receiver {unknown:?}")));
        }
        let selector = |text: String| if text == "*" { Selector::Each } else { Selector::One(text) };
        Ok(Rule {
            name: self.name,
            service: self.target.service.map_or(Selector::Each, selector),
            endpoint: self.target.endpoint.map(selector),
            indicator,
            window_ns,
            comparison,
            threshold,
            minimum_count: self.minimum_count,
            level: self.level,
            hold_ns,
            receivers,
            summary: self.summary,
        })
    }
}

fn parse_indicator(text: &str) -> Option<Indicator> {
    if text == "error_share" {
        return Some(Indicator::ErrorShare);
    }
    let percent: f64 = text.strip_prefix('p')?.parse().ok()?;
    (percent > 0.0 && percent <= 100.0).then_some(Indicator::Latency(percent / 100.0))
}

fn parse_threshold(indicator: Indicator, scalar: &Scalar) -> Result<f64, String> {
    match (indicator, scalar) {
        (Indicator::ErrorShare, Scalar::Number(share)) if (0.0..=1.0).contains(share) => Ok(*share),
        (Indicator::ErrorShare, Scalar::Number(share)) => Err(format!("{share} is not a share from 0 to 1; write 5% or 0.05")),
        (Indicator::ErrorShare, Scalar::Text(text)) => {
            let percent = text.strip_suffix('%').and_then(|percent| percent.trim().parse::<f64>().ok());
            let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
            percent.map(|percent| percent / 100.0).ok_or_else(|| format!("{text:?} is not a share; write 5% or 0.05"))
        }
        (Indicator::Latency(_), Scalar::Text(text)) => parse_duration(text).map(|nanoseconds| nanoseconds as f64),
        (Indicator::Latency(_), Scalar::Number(number)) => Err(format!("{number} has no unit; write 500ms or 2s")),
    }
}

/// A number with a unit: ns, us, ms, s, m, h, d.
pub fn parse_duration(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim() {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3_600e9,
        "d" => 86_400e9,
        _ => return Err(format!("{text:?} is not a duration; write 500ms, 30s, 5m, 2h or 1d")),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is not a duration; write 500ms, 30s, 5m, 2h or 1d"))?;
    let nanoseconds = number * unit;
    if nanoseconds > 400.0 * 86_400e9 {
        return Err(format!("{text:?} is longer than 400d"));
    }
    Ok(nanoseconds as u64)
}

#[cfg(test)]
#[path = "rule/tests.rs"]
mod tests;
