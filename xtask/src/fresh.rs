//! `cargo xtask fresh -- COMMAND`: runs a command in a clean clone on a bare Debian 12 with git, a C linker and Rust.
//!
//! Guarantee: mounts and processes live in namespaces of their own and end with the command, however it ends; the folder
//! stays, so that a second run shows a warm start (`--anew` removes it first). It is no sandbox: the network is this
//! machine's, and root in it is root.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::run::{self, Doing, Failure, Result, say};
use crate::tools::apt;
use crate::workspace::Workspace;

const MAKES: &[apt::Package] = &[
    apt::program("debootstrap", "debootstrap", "makes a bare Debian"),
    apt::program("util-linux", "unshare", "keeps mounts and processes apart"),
];
/// Where Debian's packages come from here, so there too: the deb822 form, else the older one.
const APT_SOURCES: &[&str] = &["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
/// How this machine's clients reach their registries: settings files, and certificates beside them.
const SETTINGS: &[&str] = &["/etc/pip.conf", "/etc/resolv.conf", "/etc/hosts", "/usr/local/share/ca-certificates"];
const HOME_SETTINGS: &[&str] = &[".npmrc", ".config/pip", ".cargo/config.toml", ".m2/settings.xml"];

/// Where the clone lies in the bare machine.
const CLONE: &str = "srv/podtap";

pub fn fresh(workspace: &Workspace, dir: &Path, anew: bool, command: &[String]) -> Result<ExitCode> {
    if !run::is_root() {
        return Err(Failure::new("a bare machine is made by debootstrap and chroot, which need root: run this with sudo"));
    }
    let dir = std::path::absolute(dir).doing("finding the folder")?;
    if anew && dir.exists() {
        fs::remove_dir_all(&dir).doing(format_args!("removing {}", dir.display()))?;
    }
    if !dir.join("opt/rust/bin/cargo").exists() {
        make(workspace, &dir)?;
    }
    let clone = dir.join(CLONE);
    if clone.exists() {
        fs::remove_dir_all(&clone).doing("removing the clone of an earlier run")?;
    }
    let mut git = Command::new("git");
    git.args(["clone", "--quiet", "--no-hardlinks"]).arg(workspace.root()).arg(&clone);
    run::step("a clean clone of what is committed here", &mut git)?;
    enter(&dir, command)
}

fn make(workspace: &Workspace, dir: &Path) -> Result<()> {
    apt::ensure("a bare machine", MAKES)?;
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", "--include=ca-certificates,git,gcc,libc6-dev", "bookworm"]);
    run::step("a bare Debian 12 with git and a C linker", debootstrap.arg(dir))?;
    apt_sources(dir)?;
    let sysroot = run::capture(Command::new("rustc").current_dir(workspace.root()).args(["--print", "sysroot"]))?;
    fs::create_dir_all(dir.join("opt")).doing("making opt")?;
    let mut copy = Command::new("cp");
    copy.args(["-a", "--dereference"]).arg(sysroot.trim()).arg(dir.join("opt/rust"));
    run::step("Rust, as it is here", &mut copy)?;
    settings(dir)
}

/// The security archive is among them, which debootstrap does not write.
fn apt_sources(dir: &Path) -> Result<()> {
    let Some(from) = APT_SOURCES.iter().find(|path| Path::new(path).exists()) else {
        return Err(Failure::new(format!("none of {} is here: a bare Debian 12 is made on a Debian 12", APT_SOURCES.join(", "))));
    };
    fs::remove_file(dir.join("etc/apt/sources.list")).doing("removing debootstrap's sources.list")?;
    fs::copy(from, dir.join(from.trim_start_matches('/'))).doing(format_args!("copying {from}"))?;
    Ok(())
}

/// Registries may be reached through this machine's own proxies and certificates; without them nothing can be fetched.
fn settings(dir: &Path) -> Result<()> {
    let home = std::env::var("HOME").unwrap_or_default();
    let of_home = HOME_SETTINGS.iter().map(|f| (format!("{home}/{f}"), dir.join("root").join(f)));
    let of_system = SETTINGS.iter().map(|f| ((*f).to_owned(), dir.join(f.trim_start_matches('/'))));
    for (from, to) in of_system.chain(of_home) {
        if !Path::new(&from).exists() {
            continue;
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).doing(format_args!("making {}", folder.display()))?;
        }
        let mut copy = Command::new("cp");
        run::capture(copy.args(["-a", "--dereference", "--no-target-directory", &from]).arg(&to))?;
    }
    // Java keeps a store of its own, made from this one when it is installed.
    let mut update = Command::new("chroot");
    update.arg(dir).args(["update-ca-certificates"]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    run::step("certificates of the registries' clients", &mut update)
}

/// Mounts end with the namespace, processes with their first one.
const ENTER: &str = r#"
root=$1
shift
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
exec chroot "$root" /bin/sh -c 'cd /srv/podtap && exec "$@"' enter "$@"
"#;

fn enter(dir: &Path, command: &[String]) -> Result<ExitCode> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-eu", "-c", ENTER, "enter"]);
    unshare.arg(dir).args(command).env_clear();
    // What a login there would have, and how the registries' clients are told their ways here.
    unshare.env("HOME", "/root").env("LANG", "C.UTF-8");
    unshare.env("PATH", "/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for (name, value) in std::env::vars() {
        let upper = name.to_uppercase();
        let registry = ["CERT", "CA_BUNDLE", "CAINFO", "PROXY", "PIP_", "NPM_CONFIG"].iter().any(|part| upper.contains(part));
        if registry || name == "TERM" {
            unshare.env(name, value);
        }
    }
    say(format_args!("==> in {}: {}", dir.display(), command.join(" ")));
    let started = std::time::Instant::now();
    let status = unshare.status().doing("starting unshare")?;
    say(format_args!("==> {} after {:.0} s", run::describe(status), started.elapsed().as_secs_f64()));
    if status.success() { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::FAILURE) }
}
