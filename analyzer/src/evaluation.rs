//! Evaluates the rules on time: asks the store for figures, lets `alarm` decide, stores what changed, hands news to `notify`.
//!
//! The only place where rules meet the clock. A rule whose figures cannot be had keeps its alarms as they are and is shown as
//! failing ([`RuleBoard`], metric, /readyz); silence is never taken for health. Run it in one analyzer only.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::alarm::evaluate::measure;
use crate::alarm::rule::{Indicator, Rule, Selector};
use crate::alarm::state::{Alarm, AlarmBook, Phase};
use crate::notify::{Delivery, Dispatcher, Notification};
use crate::query::{self, AlarmsOf, EndpointScope, FiguresOf, Kind, MAX_LIMIT, Order, Period};
use crate::store::{Store, StoreError};
use crate::telemetry::{Dependency, LevelLabel, RuleLabel, Telemetry};

/// How a rule's last evaluation went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleState {
    /// The rule.
    pub name: String,
    /// When, nanoseconds since the epoch; 0: never.
    pub evaluated_at_ns: u64,
    /// Targets found.
    pub targets: usize,
    /// Of these in breach.
    pub breaches: usize,
    /// Why it failed.
    pub error: Option<String>,
}

/// The last evaluation of each rule, for the API.
#[derive(Debug, Default)]
pub struct RuleBoard {
    states: Mutex<Vec<RuleState>>,
}

impl RuleBoard {
    /// A board of rules that were never evaluated.
    pub fn new(rules: &[Rule]) -> Self {
        let states = rules.iter().map(|rule| RuleState { name: rule.name.clone(), ..RuleState::default() });
        Self { states: Mutex::new(states.collect()) }
    }

    /// All rules.
    pub fn list(&self) -> Vec<RuleState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: RuleState) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = states.iter_mut().find(|slot| slot.name == state.name) {
            *slot = state;
        }
    }
}

/// The rules and what they need.
pub struct Evaluation {
    /// The rules.
    pub rules: Vec<Rule>,
    /// How often.
    pub interval: Duration,
    /// Figures and alarms.
    pub store: Arc<dyn Store>,
    /// Receivers.
    pub dispatcher: Dispatcher,
    /// What became of notifications.
    pub deliveries: mpsc::UnboundedReceiver<Delivery>,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// For the API.
    pub board: Arc<RuleBoard>,
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// News on their way: the alarm, its phase, the receiver.
type OnTheWay = BTreeSet<(String, &'static str, String)>;

fn on_the_way(alarm: &Alarm, receiver: &str) -> (String, &'static str, String) {
    (alarm.id.clone(), alarm.phase.as_str(), receiver.to_owned())
}

struct Running {
    evaluation: Evaluation,
    book: AlarmBook,
    /// Changes that the store has not taken yet.
    unsaved: Vec<Alarm>,
    queued: OnTheWay,
    delivered: OnTheWay,
}

impl Evaluation {
    /// Evaluates until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let book = loop {
            match query::alarms(&*self.store, AlarmsOf::Unfinished).await {
                Ok(alarms) => break AlarmBook::restore(alarms),
                Err(error) => self.failed("cannot read the open alarms", &error),
            }
            tokio::select! {
                () = tokio::time::sleep(self.interval.min(Duration::from_secs(5))) => {}
                _ = stop.changed() => return,
            }
        };
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running =
            Running { evaluation: self, book, unsaved: Vec::new(), queued: OnTheWay::default(), delivered: OnTheWay::default() };
        running.unsaved = running.book.handle_rules(&running.evaluation.rules, now_ns());
        loop {
            tokio::select! {
                _ = ticks.tick() => running.evaluate_all().await,
                Some(delivery) = running.evaluation.deliveries.recv() => running.handle_delivery(delivery).await,
                _ = stop.changed() => return,
            }
        }
    }

    fn failed(&self, what: &'static str, error: &StoreError) {
        self.telemetry.store_error(error);
        self.telemetry.set_dependency(Dependency::Alarms, Err(format!("{what}: {error}")));
        tracing::warn!(%error, what);
    }
}

impl Running {
    async fn evaluate_all(&mut self) {
        let mut failure = None;
        for rule in self.evaluation.rules.clone() {
            if let Err(error) = self.evaluate(&rule).await {
                failure = Some(error);
            }
        }
        self.save().await;
        match failure {
            Some(error) => self.evaluation.failed("cannot evaluate rules", &error),
            None if self.unsaved.is_empty() => self.evaluation.telemetry.set_dependency(Dependency::Alarms, Ok(())),
            None => {}
        }
        for rule in self.evaluation.rules.clone() {
            self.notify(&rule);
        }
        for level in 0..4u8 {
            let open = self.book.alarms().filter(|alarm| alarm.phase == Phase::Open && alarm.level == level).count();
            self.evaluation.telemetry.alarms_open.get_or_create(&LevelLabel { level: level.to_string() }).set(open as i64);
        }
    }

    async fn evaluate(&mut self, rule: &Rule) -> Result<(), StoreError> {
        let now = now_ns();
        let mut state = RuleState { name: rule.name.clone(), evaluated_at_ns: now, ..RuleState::default() };
        let outcome = query::figures(&*self.evaluation.store, question(rule, now)).await;
        match &outcome {
            Ok(figures) => {
                let measured = measure(rule, figures);
                state.targets = measured.len();
                state.breaches = measured.iter().filter(|measured| measured.breach).count();
                self.unsaved.extend(self.book.handle_measured(rule, &measured, now));
            }
            Err(error) => {
                state.error = Some(error.to_string());
                self.evaluation.telemetry.rule_failures.get_or_create(&RuleLabel { rule: rule.name.clone() }).inc();
            }
        }
        self.evaluation.board.set(state);
        outcome.map(|_| ())
    }

    async fn save(&mut self) {
        if self.unsaved.is_empty() {
            return;
        }
        match self.evaluation.store.write_alarms(&self.unsaved).await {
            Ok(()) => self.unsaved.clear(),
            Err(error) => {
                // Only the last state of an alarm matters, so what waits is bounded by the alarms there are.
                let mut seen = BTreeSet::new();
                let mut kept: Vec<_> = self.unsaved.drain(..).rev().filter(|alarm| seen.insert(alarm.id.clone())).collect();
                kept.reverse();
                self.unsaved = kept;
                self.evaluation.failed("cannot store alarms", &error);
            }
        }
    }

    fn notify(&mut self, rule: &Rule) {
        let alarms: Vec<Alarm> = self.book.untold(&rule.name).into_iter().cloned().collect();
        if alarms.is_empty() {
            return;
        }
        if rule.receivers.is_empty() {
            let told = self.book.handle_told(&alarms, now_ns());
            self.unsaved.extend(told);
            return;
        }
        for receiver in &rule.receivers {
            let news = |alarm: &&Alarm| {
                let key = on_the_way(alarm, receiver);
                alarm.is_untold() && !self.queued.contains(&key) && !self.delivered.contains(&key)
            };
            if !alarms.iter().any(|alarm| news(&alarm)) {
                continue;
            }
            let (rule_name, summary) = (rule.name.clone(), rule.summary.clone());
            let notification = Notification { receiver: receiver.clone(), rule: rule_name, summary, alarms: alarms.clone() };
            if self.evaluation.dispatcher.send(notification) {
                self.queued.extend(alarms.iter().map(|alarm| on_the_way(alarm, receiver)));
            } else {
                self.evaluation.telemetry.notified(receiver, "queue_full");
            }
        }
    }

    async fn handle_delivery(&mut self, delivery: Delivery) {
        let Delivery { notification, finished } = delivery;
        for alarm in &notification.alarms {
            let key = on_the_way(alarm, &notification.receiver);
            self.queued.remove(&key);
            if finished {
                self.delivered.insert(key);
            }
        }
        let receivers = self.evaluation.rules.iter().find(|rule| rule.name == notification.rule).map(|rule| rule.receivers.clone());
        let receivers = receivers.unwrap_or_default();
        let everyone_knows = |alarm: &&Alarm| receivers.iter().all(|receiver| self.delivered.contains(&on_the_way(alarm, receiver)));
        let told: Vec<Alarm> = notification.alarms.iter().filter(everyone_knows).cloned().collect();
        self.unsaved.extend(self.book.handle_told(&told, now_ns()));
        let known: BTreeSet<_> = self.book.alarms().map(|alarm| alarm.id.clone()).collect();
        self.delivered.retain(|(id, _, _)| known.contains(id));
        self.save().await;
    }
}

/// The figures that a rule is about.
fn question(rule: &Rule, now: u64) -> FiguresOf {
    FiguresOf {
        period: Period { from_ns: now.saturating_sub(rule.window_ns), to_ns: now },
        service: match &rule.service {
            Selector::Each => None,
            Selector::One(service) => Some(service.clone()),
        },
        endpoints: match &rule.endpoint {
            None => EndpointScope::Whole,
            Some(Selector::Each) => EndpointScope::Each,
            Some(Selector::One(endpoint)) => EndpointScope::One(endpoint.clone()),
        },
        kind: Kind::Any,
        quantile: match rule.indicator {
            Indicator::ErrorShare => 0.5,
            Indicator::Latency(quantile) => quantile,
        },
        order: Order::Slowest,
        limit: MAX_LIMIT,
    }
}
