//! `cargo xtask cluster up | down | status`: a real Kubernetes of one node on this machine, for tests and for trying things out.
//!
//! Guarantee: `up` works whatever an earlier run left, and `down` finds what is there by looking, not by remembering: processes by
//! their mark, containers by their cgroup, mounts and namespaces by their place. What is still left then is named, and is a failure.
//! One cluster a machine: containerd has its default socket, without which the kubelet shows no figures of containers.

mod certificates;
mod components;
mod leftovers;
mod network;
mod start;

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Subcommand;

use crate::images::{self, Profile};
use crate::run::{self, Doing, Failure, Result, say};
use crate::tools::{self, Cache, apt};
use crate::workspace::Workspace;
use crate::{ebpf, phases};

/// Everything that the cluster writes, but what its parts insist on having elsewhere ([`leftovers::elsewhere`]).
pub const DIR: &str = "/var/lib/podtap-cluster";
/// Environment variable by which every process of the cluster is known.
pub const MARK: &str = "PODTAP_CLUSTER";
/// Where the kubelet looks for the containers' figures.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// A folder, so that no file of ours is left by the lock.
const LOCK: &str = "/var/lib";

#[derive(Subcommand)]
pub enum Action {
    /// Start it (or only renew the images in the one that runs) and say how kubectl reaches it
    Up {
        /// How the product's binaries in the images are built
        #[arg(long, value_enum, default_value = "dev")]
        profile: Profile,
        /// Everything is built and fetched; only start
        #[arg(long, hide = true)]
        built: bool,
    },
    /// Stop it and remove all of it
    Down,
    /// Say what of it runs (exit status 1 when it does not, or not wholly)
    Status,
}

/// Where the programs are.
pub struct Programs {
    pub kubernetes: std::path::PathBuf,
    pub coredns: std::path::PathBuf,
}

impl Programs {
    fn ensure(cache: &Cache, workspace: &Workspace) -> Result<Self> {
        Ok(Self { kubernetes: tools::kubernetes(cache, workspace)?, coredns: tools::coredns(cache, workspace)?.join("coredns") })
    }
}

/// kubectl of the cluster that runs.
fn kubectl_program() -> std::path::PathBuf {
    Path::new(DIR).join("kubectl")
}

/// kubectl, as the cluster's administrator.
pub fn kubectl() -> Command {
    let mut kubectl = Command::new(kubectl_program());
    kubectl.env("KUBECONFIG", components::kubeconfig("admin")).env(MARK, "kubectl");
    kubectl
}

pub fn cluster(workspace: &Workspace, cache: &Cache, action: Action) -> Result<ExitCode> {
    match action {
        Action::Up { profile, built } => up(workspace, cache, profile, built),
        Action::Down => {
            if !run::is_root() {
                return as_root(workspace, &["cluster", "down"]);
            }
            let _alone = alone()?;
            down()?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Status => status(),
    }
}

/// What is needed to start a cluster, fetched and built.
pub fn ensure(cache: &Cache, workspace: &Workspace) -> Result<()> {
    apt::ensure("a Kubernetes on this machine", apt::CLUSTER)?;
    Programs::ensure(cache, workspace).map(|_| ())
}

fn up(workspace: &Workspace, cache: &Cache, profile: Profile, built: bool) -> Result<ExitCode> {
    if !built {
        ensure(cache, workspace)?;
        ebpf::ensure(workspace, cache, false)?;
        images::make(workspace, cache, profile)?;
    }
    if !run::is_root() {
        let profile = format!("--profile={}", profile.name());
        return as_root(workspace, &["cluster", "up", "--built", &profile]);
    }
    let _alone = alone()?;
    let programs = Programs::ensure(cache, workspace)?;
    let images = images::made(workspace, profile)?;
    let started = Instant::now();
    if missing()?.is_empty() && ready() {
        say("==> the cluster runs; the images in it are renewed");
        images.iter().try_for_each(|image| start::import(image))?;
    } else {
        if !leftovers::look()?.is_empty() {
            say("==> an earlier cluster is not whole: what is left of it goes first, with everything that was deployed in it");
            down()?;
        }
        refuse_foreign()?;
        start::start(&programs, &images)?;
    }
    say(format_args!("==> up after {:.1} s; its files are in {DIR}, its logs in {DIR}/log", started.elapsed().as_secs_f64()));
    println!("export KUBECONFIG={}", components::kubeconfig("admin").display());
    println!("alias kubectl={}", kubectl_program().display());
    Ok(ExitCode::SUCCESS)
}

/// Becomes this program as root.
fn as_root(workspace: &Workspace, arguments: &[&str]) -> Result<ExitCode> {
    let own = std::env::current_exe().doing("finding this program")?;
    let mut sudo = Command::new("sudo");
    sudo.arg("env").args(phases::root_environment(&workspace.binaries())?).arg(own).args(arguments).current_dir(workspace.root());
    say("==> a cluster makes mounts, namespaces and rules, which needs root: sudo may ask for your password");
    let spelled = run::spell(&sudo);
    Err(Failure(format!("starting `{spelled}`: {}", sudo.exec())))
}

/// One of `up` and `down` at a time.
fn alone() -> Result<File> {
    let file = File::open(LOCK).doing(format_args!("opening {LOCK}"))?;
    if file.try_lock().is_err() {
        say("    waiting: another process starts or stops the cluster");
        file.lock().doing(format_args!("locking {LOCK}"))?;
    }
    Ok(file)
}

/// Another Kubernetes or containerd would share addresses, rules and the socket with ours.
fn refuse_foreign() -> Result<()> {
    if UnixStream::connect(CONTAINERD_SOCKET).is_ok() {
        return Err(Failure(format!(
            "a containerd that is not this cluster's listens on {CONTAINERD_SOCKET}, where the kubelet needs ours. Stop it first \
             (systemctl stop containerd), or use another machine"
        )));
    }
    let rules = network::chains()?;
    if !rules.is_empty() {
        return Err(Failure(format!("iptables has chains of another Kubernetes ({}): this machine has one already", rules.join(", "))));
    }
    Ok(())
}

/// The components that do not run.
fn missing() -> Result<Vec<&'static str>> {
    let running = leftovers::marked()?;
    Ok(components::NAMES.into_iter().filter(|name| !running.iter().any(|(_, mark)| mark == name)).collect())
}

fn ready() -> bool {
    let mut ask = kubectl();
    ask.args(["--request-timeout=5s", "wait", "--for=condition=Ready", "node/node1", "--timeout=5s"]);
    run::succeeds(&mut ask)
}

fn status() -> Result<ExitCode> {
    let missing = missing()?;
    if missing.len() == components::NAMES.len() {
        let left = leftovers::look()?;
        println!("not running");
        left.iter().for_each(|what| println!("left behind: {what}"));
        return Ok(ExitCode::FAILURE);
    }
    for name in components::NAMES {
        println!("{name:<24} {}", if missing.contains(&name) { "does not run" } else { "runs" });
    }
    let ready = ready();
    // The API server believes a kubelet that is gone for a while.
    let node = match (ready, missing.contains(&"kubelet")) {
        (_, true) => "unknown: the kubelet, which would tell, does not run",
        (true, false) => "ready",
        (false, false) => "not ready",
    };
    println!("{:<24} {node}", "node1");
    println!("export KUBECONFIG={}", components::kubeconfig("admin").display());
    Ok(if ready && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn down() -> Result<()> {
    let started = Instant::now();
    leftovers::remove()?;
    let left = leftovers::look()?;
    if !left.is_empty() {
        return Err(Failure(format!("the cluster is stopped, but this is left:\n    {}", left.join("\n    "))));
    }
    say(format_args!("==> the cluster is gone, and nothing is left of it, after {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

fn write(path: impl AsRef<Path>, text: &str) -> Result<()> {
    let path = path.as_ref();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).doing(format_args!("making {}", folder.display()))?;
    }
    // Whole or not at all, whenever this program is killed.
    let partial = path.with_extension("partial");
    fs::write(&partial, text).doing(format_args!("writing {}", partial.display()))?;
    fs::rename(&partial, path).doing(format_args!("writing {}", path.display()))
}
