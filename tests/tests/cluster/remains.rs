//! A machine that is as it was: what a cluster leaves, looked for without the code that removes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use podtap_tests::run::program;
use podtap_tests::running;
use podtap_tests::{Context, Failure, Result};

const FOLDER: &str = "/var/lib/podtap-cluster";
/// Where the cluster's parts write beside it; what was there before may stay.
const PLACES: [&str; 5] = ["/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/usr/libexec/kubernetes", "/var/log/containers"];
/// Switches of the kernel that Kubernetes sets and no other test does.
const SWITCHES: [&str; 5] = [
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/bridge/bridge-nf-call-iptables",
    "net/ipv4/conf/all/route_localnet",
    "vm/overcommit_memory",
];

/// The machine without a cluster.
pub struct Machine {
    places: Vec<&'static str>,
    switches: Vec<Option<String>>,
    rules: Vec<String>,
}

fn switches() -> Vec<Option<String>> {
    SWITCHES.iter().map(|name| fs::read_to_string(Path::new("/proc/sys").join(name)).ok()).collect()
}

/// Names in a folder that may not be there.
fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

impl Machine {
    /// What it is like now.
    pub fn look() -> Result<Self> {
        let places = PLACES.into_iter().filter(|place| Path::new(place).exists()).collect();
        Ok(Self { places, switches: switches(), rules: rules()? })
    }

    /// What is on it that was not there before, and is of a cluster.
    pub fn remains(&self) -> Result<Vec<String>> {
        let mut left = processes()?;
        for path in PLACES.into_iter().filter(|place| !self.places.contains(place)).chain([FOLDER, "/sys/class/net/podtap0"]) {
            left.extend(Path::new(path).exists().then(|| path.to_owned()));
        }
        for ((name, before), now) in SWITCHES.iter().zip(&self.switches).zip(switches()) {
            // A module that was loaded meanwhile brings its own.
            let changed = before.is_some() && *before != now;
            left.extend(changed.then(|| format!("{name}: {before:?} before, {now:?} now")));
        }
        left.extend(control_groups().into_iter().map(|path| format!("control group {}", path.display())));
        let namespaces = names("/run/netns").into_iter().filter(|name| name.starts_with("cni-"));
        left.extend(namespaces.map(|name| format!("network namespace {name}")));
        // The host's ends of pods' interfaces, as the network's plugin names them.
        let of_plugin = |name: &&str| name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let interfaces = names("/sys/class/net");
        left.extend(interfaces.iter().filter(|name| name.strip_prefix("veth").as_ref().is_some_and(of_plugin)).cloned());
        let mounts = fs::read_to_string("/proc/mounts").context("reading the mounts")?;
        let ours =
            |line: &&str| ["podtap-cluster", "/run/containerd", "netns/cni-", "/var/lib/kubelet"].iter().any(|part| line.contains(part));
        left.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
        left.extend(rules()?.into_iter().filter(|rule| !self.rules.contains(rule)));
        Ok(left)
    }
}

/// Those that carry the cluster's mark or its folder, and those that hold containers.
fn processes() -> Result<Vec<String>> {
    let mut left = Vec::new();
    for process in running::all()? {
        let line = process.text("cmdline").replace('\0', " ");
        let name = line.split(' ').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let held = name.starts_with("containerd") || name == "runc" || process.text("cgroup").contains("kubepods");
        if held || line.contains(FOLDER) || process.variable("PODTAP_CLUSTER").is_some() {
            left.push(format!("process {}: {line}", process.pid));
        }
    }
    Ok(left)
}

/// The kubelet's, in every hierarchy and one folder deeper, where this machine is a container itself.
fn control_groups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let one: Vec<PathBuf> = names(root).into_iter().map(|name| root.join(name)).collect();
    let two = one.iter().flat_map(|folder| names(folder).into_iter().map(|name| folder.join(name)));
    let all: Vec<PathBuf> = one.iter().cloned().chain(two).collect();
    all.into_iter()
        .filter(|path| path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubepods")))
        .collect()
}

/// Of kube-proxy and of the network's plugins, in the kernel's old tables and in its new ones.
fn rules() -> Result<Vec<String>> {
    let mut left = Vec::new();
    for family in ["iptables", "ip6tables"] {
        let mut answers = 0;
        for kind in ["legacy", "nft"] {
            let name = format!("{family}-{kind}-save");
            let said = Command::new(program(&name, "iptables")?).output().context(format!("running {name}"))?;
            answers += u32::from(said.status.success());
            let rules = String::from_utf8_lossy(&said.stdout).into_owned();
            let ours = |line: &&str| ["KUBE-", "CNI-", "10.244.0.", "10.96."].iter().any(|part| line.contains(part));
            left.extend(rules.lines().filter(ours).map(|line| format!("{name}: {line}")));
        }
        // A kernel may lack one kind of tables, and IPv6.
        if answers == 0 && family == "iptables" {
            return Err(Failure::new("neither iptables-legacy-save nor iptables-nft-save shows the rules"));
        }
    }
    Ok(left)
}
