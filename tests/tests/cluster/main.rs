//! Podtap in a real Kubernetes of one node: what `cargo xtask cluster` starts, pods with sidecars, and what SQL answers about them.
//!
//! One test, because there is one cluster: its parts run in turn, and all that failed is told.

mod smoke;

use std::time::Instant;

use podtap_tests::cluster::Cluster;
use podtap_tests::system::alone;
use podtap_tests::{Context, Failure, Result};

type Part = fn(&Cluster) -> Result<()>;

const PARTS: &[(&str, Part)] = &[
    ("the analyzer runs and answers", smoke::analyzer),
    ("a pod finds a Service by its name", smoke::name_server),
    ("a sidecar that is not root sees every request, the last one too", smoke::sidecar),
];

#[test]
fn podtap_in_kubernetes() -> Result<()> {
    let _alone = alone();
    let started = Instant::now();
    let cluster = Cluster::up()?;
    println!("up after {:.1} s", started.elapsed().as_secs_f64());
    let mut failed = Vec::new();
    for (name, part) in PARTS {
        let started = Instant::now();
        let outcome = part(&cluster);
        let seconds = started.elapsed().as_secs_f64();
        println!("{name}: {}, {seconds:.1} s", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed.extend(outcome.err().map(|failure| format!("{name}: {failure}")));
    }
    let files = cluster.kubeconfig().parent().and_then(std::path::Path::parent).context("the cluster's folder")?.to_owned();
    cluster.down()?;
    failed.extend(smoke::remains(&files)?.into_iter().map(|what| format!("left behind: {what}")));
    if failed.is_empty() { Ok(()) } else { Err(Failure(failed.join("\n\n"))) }
}
