//! The list of a process's own metrics, with its version first, as Prometheus' text.
//!
//! Guarantee: names are registered once, at the start. One misuse: registering at work what is known at the start; an alert on a first
//! increase needs a 0 before it.

use std::fmt;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// The metrics of a process.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// With version and revision of this binary in it. All names begin with `prefix`.
    pub fn new(prefix: &'static str) -> Self {
        let mut registry = Registry::with_prefix(prefix);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION")), ("revision", podtap_wire::REVISION)]);
        registry.register("build", "Version and revision of this binary", build);
        Self(registry)
    }

    /// Puts a metric into the list, and gives it back to count with.
    pub fn registered<M: Metric + Clone>(&mut self, metric: M, name: &'static str, help: &'static str) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn what_is_registered_is_shown_with_the_version() {
        let mut metrics = Metrics::new("podtap_x");
        let counter: Counter = metrics.registered(Counter::default(), "things", "Things that were counted");
        counter.inc_by(3);
        let text = metrics.render().unwrap();
        let build = format!("podtap_x_build_info{{version=\"{}\",revision=\"{}\"}} 1", env!("CARGO_PKG_VERSION"), podtap_wire::REVISION);
        for expect in [build.as_str(), "podtap_x_things_total 3", "# HELP podtap_x_things Things that were counted."] {
            assert!(text.contains(expect), "{text}");
        }
    }
}
