//! /healthz, /readyz and /metrics. Thin: everything it says comes from [`Telemetry`].

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::telemetry::Telemetry;

/// The routes.
pub fn router(telemetry: Arc<Telemetry>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/version", get(|| async { crate::version() }))
        .with_state(telemetry)
}

async fn healthz(State(telemetry): State<Arc<Telemetry>>) -> impl IntoResponse {
    if telemetry.alive() { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "the capture thread does not turn\n") }
}

async fn readyz(State(telemetry): State<Arc<Telemetry>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let (ready, lines) = telemetry.readiness();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // What is wrong is always told; what is right only on request.
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    let text = if ready && !verbose { "ready\n".to_owned() } else { lines };
    (status, text)
}

async fn metrics(State(telemetry): State<Arc<Telemetry>>) -> impl IntoResponse {
    match telemetry.render() {
        Ok(text) => {
            (StatusCode::OK, [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
