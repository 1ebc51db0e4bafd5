//! What the sidecar costs in an injected pod of a real Kubernetes, and what the application notices of it.
//!
//! Makes the images of the release profile and runs `podtap-cluster-bench` of the tests package, which starts the cluster and takes it
//! down; its output is the section.

use std::process::{Command, Stdio};

use crate::images::{self, Profile};
use crate::run::{self, Failure, Result};
use crate::tools::{Cache, apt};
use crate::workspace::Workspace;
use crate::{cluster, ebpf};

pub fn measure(workspace: &Workspace, cache: &Cache, quick: bool, rounds: Option<usize>) -> Result<String> {
    if !run::is_root() {
        return Err(Failure::new("bench --cluster starts a Kubernetes, which needs root: run it with sudo -E env \"PATH=$PATH\""));
    }
    apt::ensure("bench --cluster", &[apt::BUILD, apt::SERVERS].concat())?;
    cluster::ensure(cache, workspace)?;
    ebpf::ensure(workspace, cache, false)?;
    images::make(workspace, cache, Profile::Release)?;
    let folder = workspace.target().join("release");
    let mut bench = Command::new(folder.join("podtap-cluster-bench"));
    // Its progress is for the person at the terminal.
    bench.current_dir(workspace.root()).env("PODTAP_BIN_DIR", &folder).stderr(Stdio::inherit());
    if quick {
        bench.args(["--rounds=2", "--seconds=5"]);
    }
    if let Some(rounds) = rounds.filter(|_| !quick) {
        bench.arg(format!("--rounds={rounds}"));
    }
    run::say("==> loads with and without the sidecar in a pod: takes a while");
    run::capture(&mut bench)
}
