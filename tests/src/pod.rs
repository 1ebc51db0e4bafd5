//! A pod as the sidecar sees one: a network namespace with `lo` and `eth0`, joined to the host by a veth pair.
//!
//! Addresses come from 198.18.0.0/15 (RFC 2544: benchmarks, never routed), one /30 a pod, so that several runs live side
//! by side. The namespace ends with the last process in it; start those with [`Pod::enter`].

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::process::Spec;
use crate::run::{NAMESPACE_PREFIX, Run, program};
use crate::{Context, Failure, Result, wait};

/// First address of 198.18.0.0/15.
const RANGE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// How many /30 networks it has.
const NETWORKS: u32 = 1 << 15;
/// Prefix of the host's ends; the rest is `<pid>-<number>`.
pub const INTERFACE_PREFIX: &str = "pt";
/// How many networks are tried before giving up.
const ATTEMPTS: u32 = 64;

/// The namespace; dropped, it is removed.
#[derive(Debug)]
pub struct Pod {
    namespace: String,
    host: Ipv4Addr,
    inside: Ipv4Addr,
}

impl Pod {
    /// Makes the namespace and its network.
    pub fn new(run: &Run) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // SAFETY: plain system call.
        if unsafe { libc::geteuid() } != 0 {
            return Err(Failure::new(
                "making a network namespace needs root; run it again with: sudo -E env \"PATH=$PATH\" cargo xtask demo",
            ));
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{NAMESPACE_PREFIX}{}-{number}", run.name());
        let pid = std::process::id();
        let veth = format!("{INTERFACE_PREFIX}{pid}-{number}");
        ip(&["netns", "add", &namespace])?;
        let mut pod = Self { namespace, host: Ipv4Addr::UNSPECIFIED, inside: Ipv4Addr::UNSPECIFIED };
        let inside = pod.namespace.clone();
        ip(&["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &inside])?;
        pod.take_network(&veth, pid.wrapping_mul(61).wrapping_add(number * 7))?;
        ip(&["link", "set", &veth, "up"])?;
        let address = format!("{}/30", pod.inside);
        inside_ip(&inside, &["addr", "add", &address, "dev", "eth0"])?;
        inside_ip(&inside, &["link", "set", "eth0", "up"])?;
        inside_ip(&inside, &["link", "set", "lo", "up"])?;
        let gateway = pod.host.to_string();
        inside_ip(&inside, &["route", "add", "default", "via", &gateway])?;
        Ok(pod)
    }

    /// Gives the host's end the first /30 that no interface of the host has.
    fn take_network(&mut self, veth: &str, seed: u32) -> Result<()> {
        for attempt in 0..ATTEMPTS {
            let network = RANGE + ((seed + attempt) % NETWORKS) * 4;
            let host = Ipv4Addr::from(network + 1);
            if ip(&["-o", "-4", "addr", "show", "to", &format!("{}/30", Ipv4Addr::from(network))])?.is_empty() {
                ip(&["addr", "add", &format!("{host}/30"), "dev", veth])?;
                self.host = host;
                self.inside = Ipv4Addr::from(network + 2);
                return Ok(());
            }
        }
        Err(Failure(format!("no free network among {ATTEMPTS} tried in 198.18.0.0/15")))
    }

    /// Name of the namespace, below `/run/netns`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod's own address, on `eth0`.
    pub fn address(&self) -> Ipv4Addr {
        self.inside
    }

    /// The host's end: where the pod finds what runs outside it.
    pub fn host_address(&self) -> Ipv4Addr {
        self.host
    }

    /// A port of the host's end that nothing listens on.
    pub fn free_host_port(&self) -> Result<SocketAddrV4> {
        free_port(self.host)
    }

    /// A process that runs in the pod.
    pub fn enter(&self, spec: Spec) -> Spec {
        spec.namespace(&self.namespace)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Err(error) = remove_namespace(&self.namespace) {
            eprintln!("{error}");
        }
    }
}

/// A port that nothing listens on at `address`. Whoever needs it binds it soon; the kernel gives ports out in turn.
pub fn free_port(address: Ipv4Addr) -> Result<SocketAddrV4> {
    let listener = std::net::TcpListener::bind((address, 0)).context(format!("finding a free port on {address}"))?;
    let port = listener.local_addr().context("reading a port number")?.port();
    Ok(SocketAddrV4::new(address, port))
}

/// Ends what still runs in a namespace and removes it; its veth goes with it.
pub fn remove_namespace(name: &str) -> Result<()> {
    wait::until_true(&format!("ending what runs in {name}"), Duration::from_secs(10), || {
        let pids = ip(&["netns", "pids", name])?;
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()) {
            // SAFETY: plain system call on a process of a namespace that this package made.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        Ok(pids.trim().is_empty())
    })?;
    // The interfaces vanish some time after the name; deleted by hand they are gone at once, and their addresses free.
    let _ = inside_ip(name, &["link", "del", "eth0"]);
    ip(&["netns", "del", name]).map(|_| ())
}

/// `ip` in a namespace. `ip -n` and `ip netns exec` make mounts of their own, which fails where the root is no mount point.
fn inside_ip(namespace: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program("nsenter", "util-linux")?);
    run_ip(command.arg(format!("--net=/run/netns/{namespace}")).arg(program("ip", "iproute2")?), arguments)
}

fn ip(arguments: &[&str]) -> Result<String> {
    run_ip(&mut Command::new(program("ip", "iproute2")?), arguments)
}

fn run_ip(command: &mut Command, arguments: &[&str]) -> Result<String> {
    let output = command.args(arguments).output().context("running ip")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Failure(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}
