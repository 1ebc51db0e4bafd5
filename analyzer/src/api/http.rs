//! Routes: `/` lists them, `/api/v1/*` for figures and alarms, `/healthz`, `/readyz`, `/metrics`.
//!
//! A period is the last 15 minutes unless `from` and `to` say otherwise: RFC 3339, seconds since the epoch, or a duration before
//! now such as `1h`. What is wrong with a question is said in the answer, with the parameter's name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};

use crate::alarm::rule::parse_duration;
use crate::alarm::state::Alarm;
use crate::query::{self, AlarmsOf, EndpointScope, FiguresOf, Kind, MAX_LIMIT, Order, Period};
use crate::store::{Store, StoreError};
use crate::telemetry::Telemetry;

const DEFAULT_PERIOD_NS: u64 = 15 * 60 * 1_000_000_000;
const DEFAULT_TOP: u32 = 5;
const DEFAULT_LIST: u32 = 100;

const OF_SERVICES: &[&str] = &["from", "to", "limit", "order"];
const OF_ENDPOINTS: &[&str] = &["service", "from", "to", "limit", "order"];
const OF_ALARMS: &[&str] = &["from", "to", "limit"];

/// What [`index`] says of each route: its path, its parameters, what it answers.
const ROUTES: &[(&str, &[&str], &str)] = &[
    ("/api/v1/services", OF_SERVICES, "rate, errors and latency of each service"),
    ("/api/v1/endpoints", OF_ENDPOINTS, "the same of each endpoint and each SQL statement"),
    ("/api/v1/requests/slowest", OF_ENDPOINTS, "the slowest endpoints of requests"),
    ("/api/v1/sql/slowest", OF_ENDPOINTS, "the slowest SQL statements"),
    ("/api/v1/alarms", OF_ALARMS, "alarms that were open in the period"),
    ("/api/v1/rules", &[], "rules, when each was evaluated last, and with what outcome"),
    ("/healthz", &[], "whether the process is alive"),
    ("/readyz", &["verbose"], "whether everything it depends on answers"),
    ("/metrics", &[], "its own figures, for Prometheus"),
];

/// What routes need.
#[derive(Clone)]
pub struct ApiState {
    /// Answers questions.
    pub store: Arc<dyn Store>,
    /// Counters and dependencies.
    pub telemetry: Arc<Telemetry>,
    /// What evaluation knows of each rule.
    pub rules: Arc<crate::evaluation::RuleBoard>,
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/api", get(index))
        .route("/api/v1", get(index))
        .route("/api/v1/services", get(services))
        .route("/api/v1/endpoints", get(endpoints))
        .route("/api/v1/requests/slowest", get(slowest_requests))
        .route("/api/v1/sql/slowest", get(slowest_sql))
        .route("/api/v1/alarms", get(alarms))
        .route("/api/v1/rules", get(rules))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(async || Problem {
            status: StatusCode::NOT_FOUND,
            what: "there is nothing here; / lists what there is".to_owned(),
            at: "path".to_owned(),
        })
        .with_state(state)
}

/// Where to go from here.
async fn index() -> Json<Value> {
    let routes: Vec<_> =
        ROUTES.iter().map(|(path, parameters, what)| json!({ "path": path, "parameters": parameters, "what": what })).collect();
    Json(json!({ "program": "podtap-analyzer", "version": env!("CARGO_PKG_VERSION"), "revision": podtap_wire::REVISION, "routes": routes }))
}

/// What went wrong, and where.
struct Problem {
    status: StatusCode,
    what: String,
    at: String,
}

impl Problem {
    fn parameter(name: &str, what: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, what, at: name.to_owned() }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, what: error.to_string(), at: "clickhouse".to_owned() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": { "what": self.what, "where": self.at } }))).into_response()
    }
}

type Answered = Result<Json<Value>, Problem>;

/// The parameters of a question, each taken once.
struct Parameters {
    given: BTreeMap<String, String>,
    now_ns: u64,
}

impl Parameters {
    fn new(given: BTreeMap<String, String>, known: &[&str]) -> Result<Self, Problem> {
        if let Some(unknown) = given.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(Problem::parameter(unknown, format!("unknown parameter; known: {}", known.join(", "))));
        }
        let now_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        Ok(Self { given, now_ns })
    }

    fn text(&self, name: &str) -> Option<String> {
        self.given.get(name).filter(|text| !text.is_empty()).cloned()
    }

    fn time(&self, name: &str, default_ns: u64) -> Result<u64, Problem> {
        let Some(text) = self.text(name) else { return Ok(default_ns) };
        if let Ok(seconds) = text.parse::<f64>()
            && seconds >= 0.0
        {
            return Ok((seconds * 1e9) as u64);
        }
        if let Ok(before) = parse_duration(&text) {
            return Ok(self.now_ns.saturating_sub(before));
        }
        let parsed: Result<jiff::Timestamp, _> = text.parse();
        let parsed = parsed.ok().and_then(|timestamp| u64::try_from(timestamp.as_nanosecond()).ok());
        parsed.ok_or_else(|| {
            Problem::parameter(name, format!("{text:?} is no time; write 2026-01-31T12:00:00Z, seconds since 1970, or 1h for an hour ago"))
        })
    }

    fn period(&self) -> Result<Period, Problem> {
        let to_ns = self.time("to", self.now_ns)?;
        let from_ns = self.time("from", to_ns.saturating_sub(DEFAULT_PERIOD_NS))?;
        if from_ns >= to_ns {
            return Err(Problem::parameter("from", "must be before to".to_owned()));
        }
        Ok(Period { from_ns, to_ns })
    }

    fn limit(&self, default: u32) -> Result<u32, Problem> {
        let Some(text) = self.text("limit") else { return Ok(default) };
        let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
        limit.ok_or_else(|| Problem::parameter("limit", format!("{text:?} is not a number from 1 to {MAX_LIMIT}")))
    }

    fn order(&self, default: Order) -> Result<Order, Problem> {
        match self.text("order").as_deref() {
            None => Ok(default),
            Some("slowest") => Ok(Order::Slowest),
            Some("most_frequent") => Ok(Order::MostFrequent),
            Some("name") => Ok(Order::Name),
            Some(other) => Err(Problem::parameter("order", format!("{other:?} is none of slowest, most_frequent, name"))),
        }
    }
}

fn time_text(nanoseconds: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).map(|timestamp| timestamp.to_string()).unwrap_or_default()
}

async fn figures(state: &ApiState, of: FiguresOf, name: &str) -> Answered {
    let (from, to) = (time_text(of.period.from_ns), time_text(of.period.to_ns));
    let rows = query::figures(&*state.store, of).await?;
    Ok(Json(json!({ "from": from, "to": to, name: rows })))
}

type Given = Query<BTreeMap<String, String>>;

async fn services(State(state): State<ApiState>, Query(given): Given) -> Answered {
    let parameters = Parameters::new(given, OF_SERVICES)?;
    let of = FiguresOf {
        period: parameters.period()?,
        service: None,
        endpoints: EndpointScope::Whole,
        kind: Kind::Any,
        quantile: 0.5,
        order: parameters.order(Order::Name)?,
        limit: parameters.limit(DEFAULT_LIST)?,
    };
    figures(&state, of, "services").await
}

async fn endpoints(State(state): State<ApiState>, Query(given): Given) -> Answered {
    let parameters = Parameters::new(given, OF_ENDPOINTS)?;
    let of = FiguresOf {
        period: parameters.period()?,
        service: parameters.text("service"),
        endpoints: EndpointScope::Each,
        kind: Kind::Any,
        quantile: 0.5,
        order: parameters.order(Order::Name)?,
        limit: parameters.limit(DEFAULT_LIST)?,
    };
    figures(&state, of, "endpoints").await
}

async fn slowest(state: ApiState, given: BTreeMap<String, String>, kind: Kind, name: &str) -> Answered {
    let parameters = Parameters::new(given, OF_ENDPOINTS)?;
    let of = FiguresOf {
        period: parameters.period()?,
        service: parameters.text("service"),
        endpoints: EndpointScope::Each,
        kind,
        quantile: 0.5,
        order: parameters.order(Order::Slowest)?,
        limit: parameters.limit(DEFAULT_TOP)?,
    };
    figures(&state, of, name).await
}

async fn slowest_requests(State(state): State<ApiState>, Query(given): Given) -> Answered {
    slowest(state, given, Kind::Requests, "requests").await
}

async fn slowest_sql(State(state): State<ApiState>, Query(given): Given) -> Answered {
    slowest(state, given, Kind::Sql, "sql").await
}

#[derive(Serialize)]
struct AlarmView {
    id: String,
    rule: String,
    service: String,
    endpoint: String,
    level: u8,
    indicator: String,
    comparison: String,
    threshold: f64,
    state: &'static str,
    first_at: String,
    last_at: String,
    resolved_at: Option<String>,
    first_value: f64,
    last_value: f64,
    peak_value: f64,
    breaches: u64,
    notified: &'static str,
}

impl From<Alarm> for AlarmView {
    fn from(alarm: Alarm) -> Self {
        Self {
            id: alarm.id,
            rule: alarm.rule,
            service: alarm.target.service,
            endpoint: alarm.target.endpoint,
            level: alarm.level,
            indicator: alarm.indicator,
            comparison: alarm.comparison,
            threshold: alarm.threshold,
            state: alarm.phase.as_str(),
            first_at: time_text(alarm.first_at_ns),
            last_at: time_text(alarm.last_at_ns),
            resolved_at: (alarm.resolved_at_ns > 0).then(|| time_text(alarm.resolved_at_ns)),
            first_value: alarm.first_value,
            last_value: alarm.last_value,
            peak_value: alarm.peak_value,
            breaches: alarm.breaches,
            notified: alarm.notified.as_str(),
        }
    }
}

async fn alarms(State(state): State<ApiState>, Query(given): Given) -> Answered {
    let parameters = Parameters::new(given, OF_ALARMS)?;
    let period = parameters.period()?;
    let found = query::alarms(&*state.store, AlarmsOf::Period(period, parameters.limit(DEFAULT_LIST)?)).await?;
    let views: Vec<_> = found.into_iter().map(AlarmView::from).collect();
    Ok(Json(json!({ "from": time_text(period.from_ns), "to": time_text(period.to_ns), "alarms": views })))
}

async fn rules(State(state): State<ApiState>) -> Json<Value> {
    let rules: Vec<_> = state
        .rules
        .list()
        .into_iter()
        .map(|rule| {
            json!({
                "name": rule.name,
                "evaluated_at": (rule.evaluated_at_ns > 0).then(|| time_text(rule.evaluated_at_ns)),
                "targets": rule.targets,
                "breaches": rule.breaches,
                "error": rule.error,
            })
        })
        .collect();
    Json(json!({ "rules": rules }))
}

async fn ready(State(state): State<ApiState>, Query(given): Given) -> Response {
    let dependencies = state.telemetry.dependencies();
    let ready = dependencies.iter().all(|(_, state)| state.is_ok());
    let mut text = String::new();
    for (dependency, state) in &dependencies {
        if given.contains_key("verbose") || state.is_err() {
            let line = state.as_ref().map_or_else(|reason| format!("missing: {reason}"), |()| "ok".to_owned());
            text.push_str(&format!("{}: {}\n", dependency.as_str(), line.replace('\n', " ")));
        }
    }
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text).into_response()
}

async fn metrics(State(state): State<ApiState>) -> Response {
    match state.telemetry.render() {
        Ok(text) => ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
