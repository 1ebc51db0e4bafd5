//! The order in which a cluster starts, and what each step waits for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{CONTAINERD_SOCKET, MARK, Programs, certificates, components, kubectl, kubectl_program, leftovers, network};
use crate::run::{self, Doing, Failure, Result, say};

/// A loaded machine may take many times the seconds that it takes alone.
const LIMIT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(50);
/// How often in a row a component has to be missing to count as ended.
const MISSED: u32 = 10;

/// Starts all components and waits until a pod can start.
pub fn start(programs: &Programs, images: &[PathBuf]) -> Result<()> {
    network::taken()?;
    leftovers::remember()?;
    say("==> a Kubernetes of one node");
    certificates::make()?;
    components::write_files()?;
    std::os::unix::fs::symlink(programs.kubernetes.join("kubectl"), kubectl_program()).doing("linking kubectl")?;
    network::make()?;
    for name in ["etcd", "containerd", "kube-apiserver"] {
        components::launch(programs, name)?;
    }
    std::thread::scope(|scope| {
        let imports = scope.spawn(|| {
            until("containerd", "containerd listens", || std::os::unix::net::UnixStream::connect(CONTAINERD_SOCKET).is_ok())?;
            images.iter().try_for_each(|image| import(image))
        });
        let control = control_plane(programs);
        let imports = imports.join().map_err(|_| Failure::new("importing the images failed"))?;
        control.and(imports)
    })?;
    let node = ["wait", "--for=condition=Ready", "node/node1", "--timeout=1s"];
    until("kubelet", "the node is ready", || run::succeeds(kubectl().args(node)))?;
    // Without it no pod is admitted.
    let account = ["get", "serviceaccount", "default"];
    until("kube-controller-manager", "service accounts are made", || run::succeeds(kubectl().args(account)))
}

fn control_plane(programs: &Programs) -> Result<()> {
    until("kube-apiserver", "the API server is ready", || run::succeeds(kubectl().args(["get", "--raw", "/readyz"])))?;
    run::capture(kubectl().args(["apply", "-f"]).arg(components::first_file()))?;
    for name in ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"] {
        components::launch(programs, name)?;
    }
    Ok(())
}

/// Puts an image into containerd, under the namespace that the kubelet looks into.
pub fn import(file: &Path) -> Result<()> {
    let mut ctr = Command::new("ctr");
    // It outlives this program when that is killed.
    ctr.env(MARK, "ctr");
    ctr.args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import"]).arg(file);
    run::capture(&mut ctr).map(|_| ()).doing(format_args!("importing {}", file.display()))
}

/// Waits for something that `component` does; its log is told when it does not, or when it ends.
fn until(component: &'static str, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let started = Instant::now();
    let mut missed = 0;
    while !holds() {
        // A program that is being started has no name for a moment.
        missed = if leftovers::marked()?.iter().any(|(_, mark)| mark == component) { 0 } else { missed + 1 };
        let ended = missed >= MISSED;
        if ended || started.elapsed() > LIMIT {
            let why = if ended { format!("{component} has ended") } else { format!("not within {} s", LIMIT.as_secs()) };
            let log = components::log(component);
            return Err(Failure(format!("{what}: {why}; {} ends with:\n{}", log.display(), components::log_tail(component))));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
