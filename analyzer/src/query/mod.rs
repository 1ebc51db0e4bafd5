//! The questions that the API and the rules ask, and the views that answer them.
//!
//! Plain data: [`crate::store`] turns a question into SQL, `api` an answer into JSON. Which end counts is decided when reading: a
//! service's own server side, its callers' client side only where it has none. Never add both.

use serde::Serialize;

use crate::alarm::state::Alarm;
use crate::store::{Reason, Store, StoreError};

/// Most rows that an answer may hold.
pub const MAX_LIMIT: u32 = 10_000;

/// A period, nanoseconds since the epoch: from is in it, to is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its begin.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
}

impl Period {
    /// Its length in seconds, at least one nanosecond.
    pub fn seconds(&self) -> f64 {
        self.to_ns.saturating_sub(self.from_ns).max(1) as f64 / 1e9
    }
}

/// Which endpoints figures are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EndpointScope {
    /// A service's as one.
    #[default]
    Whole,
    /// Each of a service's.
    Each,
    /// This one.
    One(String),
}

/// Which protocols figures are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// All.
    #[default]
    Any,
    /// Requests that are no statement of a database.
    Requests,
    /// Statements of databases.
    Sql,
}

/// What comes first in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The highest p99.
    #[default]
    Slowest,
    /// The highest count.
    MostFrequent,
    /// By name.
    Name,
}

/// Which figures.
#[derive(Clone, Debug, PartialEq)]
pub struct FiguresOf {
    /// When.
    pub period: Period,
    /// Only this service.
    pub service: Option<String>,
    /// Which endpoints.
    pub endpoints: EndpointScope,
    /// Which protocols.
    pub kind: Kind,
    /// A quantile beside the usual ones, from 0 to 1.
    pub quantile: f64,
    /// What comes first.
    pub order: Order,
    /// Most rows.
    pub limit: u32,
}

/// Rate, errors and duration of a service or an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The service: its name, or its address where only its callers were seen.
    pub service: String,
    /// The endpoint, empty for the whole service.
    pub endpoint: String,
    /// Protocols.
    pub protocols: Vec<String>,
    /// Services that were seen calling it, where only its callers were seen; at most ten.
    pub called_by: Vec<String>,
    /// Exchanges.
    pub count: u64,
    /// Exchanges a second, by the whole windows that the period touches, the running one up to now.
    pub rate: f64,
    /// Exchanges that failed by the server's fault or had no answer.
    pub errors: u64,
    /// Their share.
    pub error_share: f64,
    /// Median latency.
    pub p50_ns: u64,
    /// 95th percentile.
    pub p95_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// The quantile that was asked for.
    #[serde(skip)]
    pub quantile_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// Which alarms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlarmsOf {
    /// Pending and open ones, all.
    Unfinished,
    /// Open ones and resolved ones of the period, the youngest first.
    Period(Period, u32),
}

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Are you there? Answered by the version.
    Version,
    /// Figures of services or endpoints.
    Figures(FiguresOf),
    /// Alarms.
    Alarms(AlarmsOf),
}

/// An answer, of the question's kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Question::Version`].
    Version(String),
    /// To [`Question::Figures`].
    Figures(Vec<Figures>),
    /// To [`Question::Alarms`].
    Alarms(Vec<Alarm>),
}

fn unexpected(action: &'static str) -> StoreError {
    StoreError { reason: Reason::Refused, action, message: "the store answered another question".to_owned() }
}

/// The store's version.
pub async fn version(store: &dyn Store) -> Result<String, StoreError> {
    match store.ask(&Question::Version).await? {
        Answer::Version(version) => Ok(version),
        _ => Err(unexpected("ask for the version")),
    }
}

/// Figures.
pub async fn figures(store: &dyn Store, of: FiguresOf) -> Result<Vec<Figures>, StoreError> {
    match store.ask(&Question::Figures(of)).await? {
        Answer::Figures(figures) => Ok(figures),
        _ => Err(unexpected("ask for figures")),
    }
}

/// Alarms.
pub async fn alarms(store: &dyn Store, of: AlarmsOf) -> Result<Vec<Alarm>, StoreError> {
    match store.ask(&Question::Alarms(of)).await? {
        Answer::Alarms(alarms) => Ok(alarms),
        _ => Err(unexpected("ask for alarms")),
    }
}
