//! `podtap-sidecar run` in a pod.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::pod::Pod;
use crate::process::{Process, Spec};
use crate::run::{Run, binary};
use crate::{Failure, Result, http};

/// Port of /metrics in the pod.
pub const ADMIN_PORT: u16 = 9871;

/// The way the records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Straight to the analyzer.
    Grpc(SocketAddrV4),
    /// Over a broker.
    Kafka(SocketAddrV4),
}

impl Way {
    /// The transport's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc(_) => "grpc",
            Self::Kafka(_) => "kafka",
        }
    }

    /// The flags that set it.
    pub fn flags(self) -> [String; 2] {
        [
            format!("--transport={}", self.name()),
            match self {
                Self::Grpc(address) => format!("--grpc-endpoint=http://{address}"),
                Self::Kafka(address) => format!("--kafka-brokers={address}"),
            },
        ]
    }
}

/// How a sidecar is set up.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// Capture source by name.
    pub source: &'a str,
    /// Where records go.
    pub way: Way,
    /// Name of the service.
    pub service: &'a str,
    /// Name of the pod.
    pub pod_name: &'a str,
    /// Interfaces; none for all.
    pub interfaces: &'a [&'a str],
}

/// The sidecar; dropped, it ends.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    admin: SocketAddrV4,
}

impl Sidecar {
    /// Starts it and waits until it captures and reaches the far side.
    pub fn start(run: &Run, pod: &Pod, setup: &Setup<'_>) -> Result<Self> {
        let admin = SocketAddrV4::new(pod.address(), ADMIN_PORT);
        let folder = run.folder("sidecar")?;
        let mut spec = Spec::new(binary("podtap-sidecar")?, ["run", "--source", setup.source, "--service-name", setup.service])
            .argument(format!("--admin-listen={admin}"))
            .argument(format!("--spool-dir={}", folder.join("spool").display()))
            .environment("PODTAP_POD_NAME", setup.pod_name)
            .environment("PODTAP_POD_UID", format!("{}-{}", setup.pod_name, run.name()))
            .environment("PODTAP_POD_NAMESPACE", "demo")
            .environment("PODTAP_NODE_NAME", "this-machine")
            .environment("PODTAP_WORKLOAD_KIND", "Deployment")
            .environment("PODTAP_WORKLOAD_NAME", setup.service)
            .folder(&folder);
        for flag in setup.way.flags() {
            spec = spec.argument(flag);
        }
        for interface in setup.interfaces {
            spec = spec.argument("--interface").argument(interface);
        }
        let process = Process::start(run, "sidecar", &pod.enter(spec))?;
        process.until("the sidecar is ready", Duration::from_secs(30), || {
            let answer = http::get(admin, "/readyz?verbose")?;
            if answer.status == 200 { Ok(Some(())) } else { Err(Failure(format!("/readyz: {}", answer.body.trim()))) }
        })?;
        Ok(Self { process, admin })
    }

    /// Where /metrics and /readyz are.
    pub fn admin(&self) -> SocketAddrV4 {
        self.admin
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its own figures.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::scrape(self.admin)
    }

    /// Status and text of /readyz?verbose.
    pub fn readiness(&self) -> Result<http::Answer> {
        http::get(self.admin, "/readyz?verbose")
    }

    /// The source that /metrics names.
    pub fn source(&self) -> Result<String> {
        let metrics = self.metrics()?;
        let mut named = metrics.of("podtap_source_info").filter(|sample| sample.value == 1.0);
        let source = named.next().and_then(|sample| sample.labels.get("source").cloned());
        source.ok_or_else(|| Failure::new("/metrics has no podtap_source_info"))
    }
}
