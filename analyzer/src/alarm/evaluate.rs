//! What a rule finds in figures.

use super::rule::{Indicator, Rule};
use super::state::Target;
use crate::query::Figures;

/// What a rule measured of one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Of what.
    pub target: Target,
    /// The value; `None` if there was too little to judge.
    pub value: Option<f64>,
    /// Whether it breaches the rule.
    pub breach: bool,
}

/// Judges each row of figures, which were asked for with the rule's window, target and quantile.
pub fn measure(rule: &Rule, figures: &[Figures]) -> Vec<Measured> {
    figures
        .iter()
        .map(|row| {
            let value = (row.count > 0 && row.count >= rule.minimum_count).then_some(match rule.indicator {
                Indicator::ErrorShare => row.error_share,
                Indicator::Latency(_) => row.quantile_ns as f64,
            });
            Measured {
                target: Target { service: row.service.clone(), endpoint: row.endpoint.clone() },
                value,
                breach: value.is_some_and(|value| rule.comparison.holds(value, rule.threshold)),
            }
        })
        .collect()
}
