//! The cluster is killed where it hurts, at moments that a seed chooses: the next start works, and `down` leaves nothing.

use std::fs;
use std::time::{Duration, Instant};

use podtap_tests::cluster::Cluster;
use podtap_tests::random::Random;
use podtap_tests::running::{self, Running};
use podtap_tests::{Context, Failure, Result, wait};

use crate::remains::Machine;

/// Which moments.
const SEED: &str = "PODTAP_CLUSTER_SEED";
/// What of a start is seen from outside, in its order: its folder, then these processes.
const STAGES: [&str; 5] = ["folder", "etcd", "kube-apiserver", "kubelet", "coredns"];
/// A moment is one of them and up to so many milliseconds: the time to the next of them, and more.
const AFTER_STAGE: u64 = 2_000;
/// How many starts are killed.
const STARTS: usize = 4;
/// On a busy machine; building what has changed takes the longest.
const STAGE_LIMIT: Duration = Duration::from_secs(1800);
/// Those whose end alone is tried.
const COMPONENTS: [&str; 3] = ["etcd", "containerd", "kubelet"];

/// Moments, the same for the same seed.
pub struct Moments {
    seed: u64,
    random: Random,
}

impl Moments {
    /// From the environment, or the first.
    pub fn new() -> Result<Self> {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().context(format!("{SEED}={text}"))?,
            Err(_) => 1,
        };
        Ok(Self { seed, random: Random::new(seed) })
    }

    /// Does something that needs them; a failure tells the seed.
    pub fn with<T>(&mut self, body: impl FnOnce(&mut Random) -> Result<T>) -> Result<T> {
        body(&mut self.random).map_err(|failure| Failure(format!("{SEED}={}: {failure}", self.seed)))
    }
}

/// The cluster's process of this name, by its mark.
fn component(name: &str) -> Result<Option<i32>> {
    // What containerd started carries its mark, too.
    let ours = |process: &Running| process.variable("PODTAP_CLUSTER").as_deref() == Some(name) && process.runs(name);
    Ok(running::all()?.into_iter().find(ours).map(|process| process.pid))
}

/// Kills `cluster up`, and nothing that it has started.
pub fn start(cluster: &mut Cluster, random: &mut Random) -> Result<()> {
    let stage = *random.of(&STAGES);
    let after = Duration::from_millis(random.below(AFTER_STAGE));
    let process = cluster.begin_up()?;
    process.until(&format!("the start comes to: {stage}"), STAGE_LIMIT, || {
        let there = match stage {
            "folder" => fs::exists("/var/lib/podtap-cluster").context("looking for the cluster's folder")?,
            name => component(name)?.is_some(),
        };
        Ok(there.then_some(()))
    })?;
    // Part of the moment, not a wait for anything.
    std::thread::sleep(after);
    process.signal(libc::SIGKILL);
    let ended = process.wait(Duration::from_secs(20))?;
    println!("`cluster up` killed {} ms after: {stage} ({ended})", after.as_millis());
    Ok(())
}

/// Nothing is left, says `down`, and so it is.
fn down(cluster: &mut Cluster, machine: &Machine) -> Result<()> {
    cluster.down()?;
    match &machine.remains()?[..] {
        [] => Ok(()),
        left => Err(Failure(format!("left behind:\n{}", left.join("\n")))),
    }
}

/// Starts that are killed half way, each followed by `down`.
pub fn starts(cluster: &mut Cluster, machine: &Machine, random: &mut Random) -> Result<()> {
    for _ in 0..STARTS {
        start(cluster, random)?;
        down(cluster, machine)?;
    }
    Ok(())
}

/// A pod that needs nothing but the cluster.
fn pod(cluster: &Cluster) -> Result<()> {
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: alive, namespace: default }\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{ name: alive, image: \"docker.io/podtap/pause:1\", imagePullPolicy: Never }]\n",
    )?;
    cluster.ready("default", "alive")
}

/// Each of some components is killed under a running pod: `status` says so, and `up` gives a cluster in which a pod becomes ready. At
/// the end `down` itself is killed, and the next one removes the rest.
pub fn components(cluster: &mut Cluster, machine: &Machine, random: &mut Random) -> Result<()> {
    let started = Instant::now();
    cluster.up()?;
    pod(cluster)?;
    for name in COMPONENTS {
        let pid = component(name)?.context(format!("{name} has no process"))?;
        // SAFETY: kill has no memory preconditions; the process was just seen to be the cluster's.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        wait::until_true(&format!("{name} is gone"), Duration::from_secs(20), || Ok(component(name)?.is_none()))?;
        let status = cluster.status()?;
        let line = status.stdout.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap_or_default();
        if status.code != 1 || !line.ends_with("does not run") {
            return Err(Failure(format!("{name} was killed, and `cluster status` says (exit {}):\n{}", status.code, status.stdout)));
        }
        cluster.up()?;
        pod(cluster)?;
        println!("{name} killed, and a pod ready in the next cluster after {:.1} s", started.elapsed().as_secs_f64());
    }
    let after = Duration::from_millis(random.below(AFTER_STAGE));
    let process = cluster.begin_down()?;
    std::thread::sleep(after);
    process.signal(libc::SIGKILL);
    let ended = process.wait(Duration::from_secs(20))?;
    println!("`cluster down` killed after {} ms ({ended})", after.as_millis());
    down(cluster, machine)
}
