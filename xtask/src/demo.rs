//! `cargo xtask demo`: gets what is missing, builds, and becomes the demo.
//!
//! The demo itself is the binary `podtap-demo` of the tests package; this process is replaced by it, so signals and the
//! exit status are the demo's own.

use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::ebpf;
use crate::phases::root_environment;
use crate::run::{self, Failure, Result, say};
use crate::tools::{self, Cache, apt};
use crate::workspace::Workspace;

pub fn demo(workspace: &Workspace, cache: &Cache, arguments: &[String]) -> Result<Infallible> {
    let packages = [apt::BUILD, apt::SERVERS].concat();
    apt::ensure("the demo", &packages)?;
    tools::chdb(cache)?;
    if arguments.iter().any(|a| a == "--kafka") {
        tools::kafka(cache)?;
    }
    ebpf::ensure(workspace, cache, false)?;
    run::show("the sidecar, the analyzer and the demo", workspace.cargo().args(["build", "--workspace", "--lib", "--bins"]))?;
    let binaries = workspace.binaries();
    let program = binaries.join("podtap-demo");
    let mut command = if run::is_root() {
        let mut command = Command::new(&program);
        command.env("PODTAP_BIN_DIR", &binaries);
        command
    } else {
        say("==> the demo makes network namespaces and sniffs in them, which needs root: sudo may ask for your password");
        let mut sudo = Command::new("sudo");
        sudo.arg("env").args(root_environment(&binaries)?).arg(&program);
        sudo
    };
    command.args(arguments).current_dir(workspace.root());
    let spelled = run::spell(&command);
    Err(Failure(format!("starting `{spelled}`: {}", command.exec())))
}
