//! Podtap in a real Kubernetes of one node: what `cargo xtask cluster` starts, pods with sidecars, and what SQL answers about them.
//!
//! One test, because there is one cluster: its parts run in turn, and all that failed is told. The first part runs with the other tests;
//! the whole of it by `cargo xtask test --cluster`.

mod application;
mod counts;
mod crash;
mod injection;
mod kernel;
mod remains;
mod reuse;
mod smoke;

use std::time::Instant;

use podtap_tests::cluster::Cluster;
use podtap_tests::random::Random;
use podtap_tests::system::alone;
use podtap_tests::{Failure, Result};

use crate::crash::Moments;
use crate::remains::Machine;

type Part = fn(&Cluster) -> Result<()>;
type Crash = fn(&mut Cluster, &Machine, &mut Random) -> Result<()>;

/// What always runs.
const SHORT: &[(&str, Part)] = &[
    ("the analyzer runs and answers", smoke::analyzer),
    ("a pod finds a Service by its name", smoke::name_server),
    ("a sidecar that is not root sees every request, the last one too", smoke::sidecar),
];

/// What runs on demand.
const LONG: &[(&str, Part)] = &[
    ("an application's figures are exact, by workload, and both ends are joined", counts::exact),
    ("the kubelet's figures of containers carry the workload", counts::usage),
    ("a Job ends with the sidecar in it", injection::job),
    ("Pod Security keeps its say", injection::pod_security),
    ("an address that another pod gets stays with whoever had it", reuse::address),
    ("a sidecar with eBPF by annotation, and the kubelet's probes", kernel::ebpf),
    ("deploys go through without the injector", injection::outage),
    ("nothing that was sent is missing", counts::stop),
];

/// On demand too, when that cluster is down.
const CRASHES: &[(&str, Crash)] = &[
    ("a start that is killed leaves nothing behind `down`", crash::starts),
    ("a component that is killed is no obstacle to the next start", crash::components),
];

#[test]
fn podtap_in_kubernetes() -> Result<()> {
    let _alone = alone();
    let long = match std::env::var("PODTAP_CLUSTER_TESTS").as_deref() {
        Ok("whole") => true,
        Ok(other) => return Err(Failure(format!("PODTAP_CLUSTER_TESTS={other}: it can only be \"whole\""))),
        Err(_) => false,
    };
    let mut failed = Vec::new();
    let mut tell = |name: &str, started: Instant, outcome: Result<()>| {
        let seconds = started.elapsed().as_secs_f64();
        println!("{name}: {}, {seconds:.1} s", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed.extend(outcome.err().map(|failure| format!("{name}: {failure}")));
    };
    let mut moments = Moments::new()?;
    let mut cluster = Cluster::claim()?;
    let machine = Machine::look()?;
    // The first start always goes over what a killed one has left.
    let started = Instant::now();
    let killed = moments.with(|random| crash::start(&mut cluster, random));
    tell("a start is killed half way", started, killed);
    let started = Instant::now();
    moments.with(|_| cluster.up())?;
    println!("up after {:.1} s", started.elapsed().as_secs_f64());
    for (name, part) in SHORT.iter().chain(LONG.iter().filter(|_| long)) {
        let started = Instant::now();
        tell(name, started, part(&cluster));
    }
    cluster.down()?;
    for (name, part) in CRASHES.iter().filter(|_| long) {
        let started = Instant::now();
        let outcome = moments.with(|random| part(&mut cluster, &machine, random));
        tell(name, started, outcome);
    }
    cluster.down()?;
    failed.extend(machine.remains()?.into_iter().map(|what| format!("left behind: {what}")));
    if failed.is_empty() { Ok(()) } else { Err(Failure(failed.join("\n\n"))) }
}
