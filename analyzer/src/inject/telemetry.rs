//! The injector's own counters, and what /readyz says.
//!
//! Labels are bounded: results and reasons are constants.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::patch::Reason;
use crate::metrics::Metrics;

/// Upper bounds of `podtap_injector_review_seconds`.
const REVIEW_SECONDS: [f64; 8] = [0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0];

/// What became of a review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reviewed {
    /// The pod gets a sidecar.
    Injected,
    /// It does not.
    Skipped(Reason),
    /// An object with a template of pods, which its author was told about.
    Looked,
    /// An object that is none of our business.
    Passed,
    /// The namespace could not be read.
    NamespaceUnreadable,
    /// What came is no AdmissionReview.
    NoReview,
}

impl Reviewed {
    const OTHERS: [Self; 5] = [Self::Injected, Self::Looked, Self::Passed, Self::NamespaceUnreadable, Self::NoReview];

    const fn label(self) -> (&'static str, &'static str) {
        match self {
            Self::Injected => ("injected", ""),
            Self::Skipped(reason) => ("skipped", reason.as_str()),
            Self::Looked => ("passed", "template"),
            Self::Passed => ("passed", "other_object"),
            Self::NamespaceUnreadable => ("failed", "namespace_unreadable"),
            Self::NoReview => ("failed", "no_review"),
        }
    }
}

/// What was asked of the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Its version.
    Version,
    /// A namespace.
    Namespace,
    /// The certificate's Secret.
    Secret,
    /// The MutatingWebhookConfiguration.
    WebhookConfiguration,
}

impl Request {
    const ALL: [Self; 4] = [Self::Version, Self::Namespace, Self::Secret, Self::WebhookConfiguration];

    /// As a label, and in /readyz.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version => "server_version",
            Self::Namespace => "namespace",
            Self::Secret => "certificate",
            Self::WebhookConfiguration => "webhook_configuration",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReviewLabel {
    result: String,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabel {
    request: String,
}

/// All metrics and what is there.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    reviews: Family<ReviewLabel, Counter>,
    /// Time from a review to its answer.
    pub review_seconds: Histogram,
    errors: Family<RequestLabel, Counter>,
    /// Times that caBundle was written.
    pub bundles: Counter,
    /// Times that a certificate was made.
    pub certificates: Counter,
    /// End of the certificate that is shown.
    pub certificate_expiry: Gauge<i64>,
    /// TLS handshakes that failed.
    pub handshake_failures: Counter,
    /// Connections that were closed because there were too many.
    pub refused_connections: Counter<u64, AtomicU64>,
    states: Mutex<BTreeMap<Request, State>>,
}

/// Of something that is needed.
#[derive(Clone, Debug, Default)]
struct State {
    /// Whether it ever worked: what was read once is still in use.
    worked: bool,
    problem: Option<String>,
}

impl Telemetry {
    /// Registers everything under the prefix `podtap_injector`.
    pub fn new() -> Self {
        let mut metrics = Metrics::new("podtap_injector");
        let telemetry = Self {
            reviews: metrics.registered(Family::default(), "reviews", "Reviews by what came of them and why"),
            review_seconds: metrics.registered(Histogram::new(REVIEW_SECONDS), "review_seconds", "Time from a review to its answer"),
            errors: metrics.registered(Family::default(), "kubernetes_errors", "Requests to the API server that failed"),
            bundles: metrics.registered(Counter::default(), "ca_bundle_patches", "Times that caBundle was written"),
            certificates: metrics.registered(Counter::default(), "certificates_made", "Times that a certificate was made"),
            certificate_expiry: metrics.registered(
                Gauge::default(),
                "certificate_expiry_timestamp_seconds",
                "End of the certificate that is shown",
            ),
            handshake_failures: metrics.registered(Counter::default(), "tls_handshake_failures", "TLS handshakes that failed"),
            refused_connections: metrics.registered(
                Counter::default(),
                "refused_connections",
                "Connections closed because there were too many",
            ),
            states: Mutex::default(),
            metrics,
        };
        // An alert on the first of them needs a 0 before it.
        for reviewed in Reason::ALL.into_iter().map(Reviewed::Skipped).chain(Reviewed::OTHERS) {
            telemetry.review(reviewed).inc_by(0);
        }
        for request in Request::ALL {
            telemetry.error(request).inc_by(0);
        }
        for needed in [Request::Version, Request::Secret, Request::WebhookConfiguration] {
            telemetry.set(needed, Some("not asked yet".to_owned()));
        }
        telemetry
    }

    fn review(&self, reviewed: Reviewed) -> Counter {
        let (result, reason) = reviewed.label();
        self.reviews.get_or_create_owned(&ReviewLabel { result: result.to_owned(), reason: reason.to_owned() })
    }

    fn error(&self, request: Request) -> Counter {
        self.errors.get_or_create_owned(&RequestLabel { request: request.as_str().to_owned() })
    }

    /// Counts a review.
    pub fn reviewed(&self, reviewed: Reviewed) {
        self.review(reviewed).inc();
    }

    /// Notes how a request to the API server went.
    pub fn asked<E: std::fmt::Display>(&self, request: Request, outcome: Result<(), E>) {
        if outcome.is_err() {
            self.error(request).inc();
        }
        if request != Request::Namespace {
            self.set(request, outcome.err().map(|error| error.to_string()));
        }
    }

    fn set(&self, request: Request, problem: Option<String>) {
        let mut states = self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let state = states.entry(request).or_default();
        state.worked |= problem.is_none();
        state.problem = problem;
    }

    /// Whether pods can be injected, and a line for each thing that it takes. What worked once is in use, even if it fails now.
    pub fn readiness(&self) -> (bool, Vec<String>) {
        let states = self.states.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let line = |(request, state): (&Request, &State)| match &state.problem {
            None => format!("{}: ok", request.as_str()),
            Some(problem) => {
                let word = if state.worked { "failing" } else { "missing" };
                format!("{}: {word}: {}", request.as_str(), problem.replace('\n', " "))
            }
        };
        (states.values().all(|state| state.worked), states.iter().map(line).collect())
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        self.metrics.render()
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}
