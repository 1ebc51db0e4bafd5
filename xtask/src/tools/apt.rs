//! Debian packages: which are missing, why they are needed, and installing them without starting their daemons.
//!
//! A warm start asks dpkg once and costs some ten milliseconds. Without root or passwordless sudo nothing is tried: the
//! failure carries the line that the person has to run.

use std::process::Command;

use crate::run::{self, Failure, Result, say};

/// A package, and the program that makes it unnecessary when it is there from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: &'static str,
    /// A program that serves as well wherever it came from; `None` where only the package will do.
    pub program: Option<&'static str>,
    pub why: &'static str,
}

pub const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, program: None, why }
}

pub const fn program(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package { name, program: Some(program), why }
}

/// For building the workspace: librdkafka, zstd and the ClickHouse compression are C, libpcap is linked.
pub const BUILD: &[Package] = &[
    program("gcc", "cc", "links Rust programs, compiles zstd"),
    program("g++", "c++", "compiles librdkafka"),
    program("make", "make", "builds librdkafka"),
    program("pkg-config", "pkg-config", "finds OpenSSL"),
    package("libssl-dev", "TLS towards Kafka brokers"),
    package("zlib1g-dev", "compression in librdkafka"),
    package("libpcap-dev", "capture filters, the pcap source"),
];

/// For the tests and the demo: real servers, real load, namespaces.
pub const SERVERS: &[Package] = &[
    program("iproute2", "ip", "network namespaces that stand for pods"),
    program("ethtool", "ethtool", "packets of wire size between namespaces"),
    program("nginx-light", "nginx", "a real HTTP server"),
    program("mariadb-server", "mariadbd", "a real MySQL server"),
    program("mariadb-client", "mariadb", "a real MySQL client"),
    program("wrk", "wrk", "HTTP load"),
    program("tcpdump", "tcpdump", "captures to compare live sources with"),
    program("curl", "curl", "a client that nobody here wrote"),
    program("percona-toolkit", "pt-fingerprint", "SQL fingerprints to compare with"),
    program("procps", "ps", "finding what a killed run left behind"),
];

/// For a Kubernetes on this machine.
pub const CLUSTER: &[Package] = &[
    program("etcd-server", "etcd", "the store behind Kubernetes' API"),
    program("containerd", "containerd", "runs the pods"),
    program("runc", "runc", "starts containers for containerd"),
    package("containernetworking-plugins", "give pods their network"),
    program("iptables", "iptables", "Services' addresses, by kube-proxy"),
    program("conntrack", "conntrack", "forgets connections to pods that are gone, for kube-proxy"),
    program("socat", "socat", "forwards ports to pods"),
    program("ethtool", "ethtool", "looked for by the kubelet"),
    program("iproute2", "ip", "the pods' bridge"),
    program("openssl", "openssl", "the cluster's certificates"),
];

/// For images: what a binary needs beside it, and the binary without what only a debugger needs.
pub const IMAGES: &[Package] = &[
    program("libc-bin", "ldd", "names the shared libraries of a binary"),
    program("binutils", "strip", "makes binaries small"),
    package("ca-certificates", "TLS from the images"),
    package("busybox-static", "what holds a pod's namespaces"),
];

/// What tests/clients/install.sh fetches its clients with.
pub const CLIENTS: &[Package] = &[
    program("python3", "python3", "runs clickhouse-connect"),
    package("python3-venv", "keeps what is fetched from PyPI apart"),
    program("openjdk-17-jre-headless", "java", "runs the JDBC driver"),
    program("maven", "mvn", "fetches the JDBC driver"),
    program("curl", "curl", "a client of ClickHouse too"),
];

/// SQL load for captures.
pub const LOAD: &[Package] = &[program("sysbench", "sysbench", "SQL load")];

/// For figures beside others' tools.
pub const PEERS: &[Package] = &[
    program("tshark", "tshark", "the decoder to compare with"),
    program("httpry", "httpry", "a light HTTP logger to compare with"),
    program("util-linux", "taskset", "keeps a tool on one core"),
    program("valgrind", "valgrind", "counts instructions"),
];

/// Installs what is missing of `packages`; `purpose` completes the sentence "... needs".
pub fn ensure(purpose: &str, packages: &[Package]) -> Result<()> {
    let wanted: Vec<Package> =
        packages.iter().copied().filter(|p| p.program.is_none_or(|name| run::find_program(name).is_none())).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    if run::find_program("dpkg-query").is_none() {
        let names: Vec<String> = wanted.iter().map(|p| format!("{} ({})", p.name, p.why)).collect();
        return Err(Failure(format!(
            "{purpose} needs what Debian calls {}; this machine has no dpkg, so install them by hand",
            names.join(", ")
        )));
    }
    let missing = not_installed(&wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    say(format_args!("==> {purpose} needs {} Debian package(s) that are not installed:", missing.len()));
    for p in &missing {
        say(format_args!("    {:<24} {}", p.name, p.why));
    }
    let names: Vec<&str> = missing.iter().map(|p| p.name).collect();
    install(&names)
}

fn not_installed(wanted: &[Package]) -> Result<Vec<Package>> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(wanted.iter().map(|p| p.name));
    // It exits 1 when it does not know one of them, and still lists the others.
    let out = query.output().map_err(|e| Failure(format!("starting dpkg-query: {e}")))?;
    let listing = String::from_utf8_lossy(&out.stdout);
    Ok(missing_from(&listing, wanted))
}

fn missing_from(listing: &str, wanted: &[Package]) -> Vec<Package> {
    let installed = |name: &str| listing.lines().any(|line| line == format!("{name} installed"));
    wanted.iter().copied().filter(|p| !installed(p.name)).collect()
}

/// Who may install: root, or somebody whose sudo asks no password.
fn privileged() -> Option<Command> {
    if run::is_root() {
        return Some(Command::new("sh"));
    }
    if run::succeeds(Command::new("sudo").args(["-n", "true"])) {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "sh"]);
        return Some(sudo);
    }
    None
}

fn install(names: &[&str]) -> Result<()> {
    let Some(mut command) = privileged() else {
        return Err(Failure(format!(
            "installing them needs root, and sudo asks for a password here. Run this line, then try again:\n\n    \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {}\n",
            names.join(" ")
        )));
    };
    command.args(["-eu", "-c", INSTALL, "install"]).args(names);
    run::step(&format!("apt-get install {}", names.join(" ")), &mut command)
}

/// Daemons that come with the packages must not start: policy-rc.d forbids it meanwhile. What was there before is put
/// back, also when an earlier run was killed before it could. The lists are refreshed first: old ones name packages that are gone, and
/// those of a machine that was just made lack the security archive, where the newer compilers are.
const INSTALL: &str = r#"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
kept=$policy.podtap-kept
restore() {
    if [ -e "$kept" ]; then mv -f "$kept" "$policy"; else rm -f "$policy"; fi
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
if [ -e "$policy" ] && [ ! -e "$kept" ] && ! grep -q podtap "$policy"; then cp -p "$policy" "$kept"; fi
printf '#!/bin/sh\n# podtap: no daemon starts while packages are being installed\nexit 101\n' >"$policy"
chmod 755 "$policy"
get() { apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"; }
apt-get -o DPkg::Lock::Timeout=300 update || echo 'the package lists could not be refreshed; trying with those at hand' >&2
get "$@"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_unknown_packages_are_missing() {
        let wanted = [package("a", ""), package("b", ""), package("c", ""), package("d", "")];
        let listing = "a installed\nb config-files\nd installed\n";
        let missing: Vec<&str> = missing_from(listing, &wanted).iter().map(|p| p.name).collect();
        assert_eq!(missing, ["b", "c"]);
    }

    #[test]
    fn a_program_from_elsewhere_makes_its_package_unnecessary() {
        ensure("this test", &[program("no-such-package-anywhere", "sh", "a shell")]).unwrap();
    }

    #[test]
    fn the_install_script_is_one_that_a_shell_reads() {
        assert!(run::succeeds(Command::new("sh").args(["-n", "-c", INSTALL])));
    }
}
