use super::*;
use crate::alarm::rule::parse;

const SECOND: u64 = 1_000_000_000;

fn rule(hold: &str) -> Rule {
    let text = format!("rules: [{{ name: r, indicator: error_share, threshold: 5%, window: 60s, for: {hold} }}]");
    parse(&text).unwrap().rules.remove(0)
}

fn target() -> Target {
    Target { service: "shop".to_owned(), endpoint: String::new() }
}

fn measured(value: f64) -> Vec<Measured> {
    vec![Measured { target: target(), value: Some(value), breach: value > 0.05 }]
}

/// Second, value or nothing found, and what has changed after it: phase and count of breaches.
type Step<'a> = (u64, Option<f64>, &'a [(Phase, u64)]);

fn check(hold: &str, steps: &[Step<'_>]) {
    let rule = rule(hold);
    let mut book = AlarmBook::default();
    for (second, value, expect) in steps {
        let found = value.map(measured).unwrap_or_default();
        let changed = book.handle_measured(&rule, &found, second * SECOND);
        let changed: Vec<_> = changed.iter().map(|alarm| (alarm.phase, alarm.breaches)).collect();
        assert_eq!(changed, *expect, "at {second}");
    }
}

#[test]
fn one_alarm_that_is_updated_and_resolved() {
    use Phase::{Cleared, Open, Pending, Resolved};
    check(
        "0s",
        &[
            (0, Some(0.01), &[]),
            (5, Some(0.5), &[(Open, 1)]),
            (10, Some(0.9), &[(Open, 2)]),
            (15, Some(0.0), &[(Resolved, 2)]),
            (20, Some(0.0), &[]),
            (25, Some(0.5), &[(Open, 1)]),
            (30, None, &[(Resolved, 1)]),
        ],
    );
    check(
        "10s",
        &[
            (0, Some(0.5), &[(Pending, 1)]),
            (5, Some(0.0), &[(Cleared, 1)]),
            (10, Some(0.5), &[(Pending, 1)]),
            (15, Some(0.5), &[(Pending, 2)]),
            (20, Some(0.5), &[(Open, 3)]),
            (25, None, &[(Resolved, 3)]),
        ],
    );
}

#[test]
fn what_receivers_have_to_be_told_survives_a_restart() {
    let rule = rule("0s");
    let mut book = AlarmBook::default();
    let stored = book.handle_measured(&rule, &measured(0.5), SECOND);
    assert_eq!(book.untold("r").len(), 1);
    let mut book = AlarmBook::restore(stored);
    let told: Vec<_> = book.untold("r").into_iter().cloned().collect();
    assert_eq!((told.len(), told[0].phase), (1, Phase::Open));
    let stored = book.handle_told(&told, 2 * SECOND);
    assert_eq!(stored[0].notified, Notified::Firing);
    assert!(book.untold("r").is_empty());
    book.handle_measured(&rule, &measured(0.7), 3 * SECOND);
    assert!(book.untold("r").is_empty(), "an update is no news");
    book.handle_measured(&rule, &[], 4 * SECOND);
    let told: Vec<_> = book.untold("r").into_iter().cloned().collect();
    assert_eq!((told[0].phase, told[0].peak_value, told[0].last_at_ns), (Phase::Resolved, 0.7, 3 * SECOND));
    book.handle_told(&told, 5 * SECOND);
    assert_eq!(book.alarms().count(), 0);
}

#[test]
fn an_alarm_that_was_never_told_is_not_told_to_be_over() {
    let rule = rule("0s");
    let mut book = AlarmBook::default();
    book.handle_measured(&rule, &measured(0.5), SECOND);
    book.handle_measured(&rule, &[], 2 * SECOND);
    assert!(book.untold("r").is_empty());
}

#[test]
fn alarms_of_a_removed_rule_end() {
    let mut book = AlarmBook::default();
    book.handle_measured(&rule("0s"), &measured(0.5), SECOND);
    let changed = book.handle_rules(&[], 2 * SECOND);
    assert_eq!((changed.len(), changed[0].phase), (1, Phase::Resolved));
}

#[test]
fn versions_rise_also_when_the_clock_does_not() {
    let rule = rule("0s");
    let mut book = AlarmBook::default();
    let mut last = 0;
    for _ in 0..3 {
        let version = book.handle_measured(&rule, &measured(0.5), SECOND)[0].version;
        assert!(version > last);
        last = version;
    }
}
