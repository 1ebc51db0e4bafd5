//! Open alarms: one for a rule and target, updated by further breaches, resolved when the breach ends.
//!
//! [`AlarmBook::handle_measured`] takes what a rule found and gives back the alarms that changed, to be stored; what receivers still have
//! to be told is read from the alarms ([`AlarmBook::untold`]), so that it survives a restart. A target that a rule no longer
//! finds anything about has ended its breach.

use std::collections::BTreeMap;

use super::evaluate::Measured;
use super::fingerprint::fnv1a;
use super::rule::Rule;

/// Alarms kept at once; further breaches are counted, not opened.
pub const MAX_ALARMS: usize = 10_000;

/// What an alarm is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The service.
    pub service: String,
    /// Its endpoint, empty for the whole service.
    pub endpoint: String,
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $default:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The name in the store.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value of a name; of an unknown one the least that can be meant.
            pub fn from_name(name: &str) -> Self {
                match name { $($text => Self::$variant,)+ _ => Self::$default }
            }
        }
    };
}
named! {
    /// Where an alarm stands.
    Phase, Cleared {
        /// A breach that has not lasted long enough.
        Pending = "pending",
        /// Open.
        Open = "open",
        /// Ended after it was open.
        Resolved = "resolved",
        /// Ended before it was open.
        Cleared = "cleared"
    }
}
named! {
    /// What receivers were told.
    Notified, Nothing {
        /// Nothing.
        Nothing = "nothing",
        /// That it fires.
        Firing = "firing",
        /// That it is over.
        Resolved = "resolved"
    }
}

/// An alarm.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// Unique to one opening: made of rule, target and first breach.
    pub id: String,
    /// Name of the rule.
    pub rule: String,
    /// What it is about.
    pub target: Target,
    /// 0 urgent to 3 watch.
    pub level: u8,
    /// What was measured.
    pub indicator: String,
    /// How it is compared.
    pub comparison: String,
    /// With what.
    pub threshold: f64,
    /// Where it stands.
    pub phase: Phase,
    /// First breach.
    pub first_at_ns: u64,
    /// Last breach.
    pub last_at_ns: u64,
    /// When it ended, 0 before.
    pub resolved_at_ns: u64,
    /// Value at the first breach.
    pub first_value: f64,
    /// Value at the last.
    pub last_value: f64,
    /// The worst.
    pub peak_value: f64,
    /// Evaluations that found a breach.
    pub breaches: u64,
    /// What receivers were told.
    pub notified: Notified,
    /// Rises with each change.
    pub version: u64,
}

impl Alarm {
    /// True if receivers have to be told of what it is now.
    pub fn is_untold(&self) -> bool {
        matches!((self.phase, self.notified), (Phase::Open, Notified::Nothing) | (Phase::Resolved, Notified::Firing))
    }
}

/// All alarms that are pending, open, or resolved and not told yet.
#[derive(Clone, Debug, Default)]
pub struct AlarmBook {
    alarms: BTreeMap<(String, Target), Vec<Alarm>>,
    refused: u64,
}

impl AlarmBook {
    /// Goes on with stored alarms.
    pub fn restore(stored: impl IntoIterator<Item = Alarm>) -> Self {
        let mut book = Self::default();
        for alarm in stored {
            book.alarms.entry((alarm.rule.clone(), alarm.target.clone())).or_default().push(alarm);
        }
        book
    }

    /// Breaches that were not opened because of [`MAX_ALARMS`], since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// All alarms in the book.
    pub fn alarms(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.values().flatten()
    }

    /// Takes all that a rule found at `now_ns`; returns the alarms that changed, as they are now.
    pub fn handle_measured(&mut self, rule: &Rule, measured: &[Measured], now_ns: u64) -> Vec<Alarm> {
        let mut changed = Vec::new();
        let breaches: BTreeMap<_, _> =
            measured.iter().filter(|measured| measured.breach).filter_map(|measured| Some((&measured.target, measured.value?))).collect();
        for alarm in self.alarms.values_mut().flatten().filter(|alarm| alarm.rule == rule.name) {
            if !breaches.contains_key(&alarm.target) && end(alarm, now_ns) {
                changed.push(alarm.clone());
            }
        }
        let mut known: usize = self.alarms.values().map(Vec::len).sum();
        for (target, value) in breaches {
            let alarms = self.alarms.entry((rule.name.clone(), target.clone())).or_default();
            let current = alarms.iter_mut().find(|alarm| matches!(alarm.phase, Phase::Pending | Phase::Open));
            let alarm = match current {
                Some(alarm) => {
                    alarm.last_value = value;
                    alarm.peak_value = rule.comparison.worse(alarm.peak_value, value);
                    alarm.breaches += 1;
                    alarm
                }
                None if known >= MAX_ALARMS => {
                    self.refused += 1;
                    continue;
                }
                None => {
                    known += 1;
                    alarms.push(first_breach(rule, target, value, now_ns));
                    let Some(alarm) = alarms.last_mut() else { continue };
                    alarm
                }
            };
            alarm.last_at_ns = now_ns;
            if alarm.phase == Phase::Pending && now_ns.saturating_sub(alarm.first_at_ns) >= rule.hold_ns {
                alarm.phase = Phase::Open;
            }
            alarm.version = (alarm.version + 1).max(now_ns);
            changed.push(alarm.clone());
        }
        self.forget_finished();
        changed
    }

    /// Ends all alarms of rules that are not among `rules` any more.
    pub fn handle_rules(&mut self, rules: &[Rule], now_ns: u64) -> Vec<Alarm> {
        let orphans = self.alarms.values_mut().flatten().filter(|alarm| rules.iter().all(|rule| rule.name != alarm.rule));
        let changed = orphans.filter_map(|alarm| end(alarm, now_ns).then(|| alarm.clone())).collect();
        self.forget_finished();
        changed
    }

    /// Alarms of a rule that receivers have to be told of, with those that are open beside them; empty if there is no news.
    pub fn untold(&self, rule: &str) -> Vec<&Alarm> {
        let of_rule = || self.alarms().filter(|alarm| alarm.rule == rule);
        if !of_rule().any(Alarm::is_untold) {
            return Vec::new();
        }
        of_rule().filter(|alarm| alarm.phase == Phase::Open || alarm.is_untold()).collect()
    }

    /// All receivers were told of these alarms as they were; returns those that changed by it.
    pub fn handle_told(&mut self, told: &[Alarm], now_ns: u64) -> Vec<Alarm> {
        let mut changed = Vec::new();
        for told in told {
            let notified = if told.phase == Phase::Resolved { Notified::Resolved } else { Notified::Firing };
            let found = self.alarms.values_mut().flatten().find(|alarm| alarm.id == told.id && alarm.notified != notified);
            if let Some(alarm) = found {
                alarm.notified = notified;
                alarm.version = (alarm.version + 1).max(now_ns);
                changed.push(alarm.clone());
            }
        }
        self.forget_finished();
        changed
    }

    fn forget_finished(&mut self) {
        self.alarms.retain(|_, alarms| {
            alarms.retain(|alarm| match alarm.phase {
                Phase::Pending | Phase::Open => true,
                Phase::Resolved => alarm.is_untold(),
                Phase::Cleared => false,
            });
            !alarms.is_empty()
        });
    }
}

/// Ends a breach; false if it had ended.
fn end(alarm: &mut Alarm, now_ns: u64) -> bool {
    alarm.phase = match alarm.phase {
        Phase::Pending => Phase::Cleared,
        Phase::Open => Phase::Resolved,
        Phase::Resolved | Phase::Cleared => return false,
    };
    alarm.resolved_at_ns = now_ns;
    alarm.version = (alarm.version + 1).max(now_ns);
    true
}

fn first_breach(rule: &Rule, target: &Target, value: f64, now_ns: u64) -> Alarm {
    let identity = format!("{}\n{}\n{}\n{now_ns}", rule.name, target.service, target.endpoint);
    Alarm {
        id: format!("{:016x}", fnv1a(identity.as_bytes())),
        rule: rule.name.clone(),
        target: target.clone(),
        level: rule.level,
        indicator: rule.indicator.to_string(),
        comparison: rule.comparison.as_str().to_owned(),
        threshold: rule.threshold,
        phase: Phase::Pending,
        first_at_ns: now_ns,
        last_at_ns: now_ns,
        resolved_at_ns: 0,
        first_value: value,
        last_value: value,
        peak_value: value,
        breaches: 1,
        notified: Notified::Nothing,
        version: now_ns,
    }
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
