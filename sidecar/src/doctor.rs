//! `podtap-sidecar doctor`: what this kernel, these capabilities and this network namespace allow, with a remedy for what they do not, and
//! whether `run` would start with the same settings.
//!
//! Guarantee: what `run` refuses at its start is an error here. One misuse: taking it for a look at the far side, which nobody is asked.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use rustix::thread::CapabilitySet;

use crate::capabilities;
use crate::capture::interfaces::{self, Interface};
use crate::capture::{CaptureError, ebpf, libpcap};
use crate::config::{Settings, SourceChoice};
use crate::eventloop;
use crate::transport::spool;

/// How long a program that has the admin port may take to say who it is.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In order.
    Ok,
    /// Something does not work, but the sidecar does without it.
    Warning,
    /// The sidecar cannot do its work.
    Error,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do about it, one line; empty when there is nothing to do.
    pub remedy: String,
}

fn check(name: &'static str, outcome: Outcome, found: impl Into<String>, remedy: impl Into<String>) -> Check {
    let remedy = if outcome == Outcome::Ok { String::new() } else { remedy.into() };
    Check { name, outcome, found: found.into(), remedy }
}

/// Makes all checks, for settings that are right as far as settings can be.
pub fn examine(settings: &Settings) -> Vec<Check> {
    let listed = interfaces::list();
    let mut checks = vec![kernel(), btf(), unprivileged_bpf(), lockdown(), no_new_privileges(), file_capability()];
    checks.extend([seccomp(), memlock(), descriptors()]);
    checks.extend(capabilities_for(settings.source, &Held::by_this_process()));
    checks.push(check("libpcap", Outcome::Ok, libpcap::library_version(), ""));
    match listed {
        Ok(list) => {
            checks.push(interface_list(&list));
            if let Some(interface) = list.iter().find(|interface| interface.up && interface.link_type().is_some()) {
                checks.push(pcap_source(interface, settings.source));
                checks.push(ebpf_source(interface, settings.source));
            }
        }
        Err(error) => {
            checks.push(check("interfaces", Outcome::Error, error.to_string(), "the process must be allowed to ask the kernel (netlink)"))
        }
    }
    checks.extend([source(settings), admin_port(settings.admin_listen)]);
    checks.extend(settings.spool_dir.as_ref().map(|directory| spool_directory(&directory.0)));
    checks
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn kernel() -> Check {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let outcome = if version >= (5, 8) { Outcome::Ok } else { Outcome::Warning };
    check("kernel", outcome, release, "source ebpf wants Linux 5.8 or later (CAP_BPF); source pcap works with any")
}

fn btf() -> Check {
    let there = Path::new("/sys/kernel/btf/vmlinux").exists();
    let found = if there { "present" } else { "absent" };
    check(
        "kernel BTF",
        if there { Outcome::Ok } else { Outcome::Warning },
        found,
        "not needed by the socket filter; later sources need CONFIG_DEBUG_INFO_BTF",
    )
}

fn unprivileged_bpf() -> Check {
    let meaning = match read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => "0: anyone may load socket filters",
        Some("1") => "1: only with CAP_BPF, until the next boot",
        Some("2") => "2: only with CAP_BPF",
        _ => "not readable",
    };
    check("unprivileged_bpf_disabled", Outcome::Ok, meaning, "")
}

fn lockdown() -> Check {
    match read("/sys/kernel/security/lockdown") {
        Some(text) if text.contains("[confidentiality]") => {
            check("lockdown", Outcome::Warning, text, "lockdown=confidentiality refuses eBPF reads of kernel memory; source pcap is used")
        }
        Some(text) => check("lockdown", Outcome::Ok, text, ""),
        None => check("lockdown", Outcome::Ok, "not in use or not visible", ""),
    }
}

/// A field of /proc/self/status.
fn status(name: &str) -> Option<String> {
    let text = read("/proc/self/status")?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
}

fn no_new_privileges() -> Check {
    let set = status("NoNewPrivs").as_deref() == Some("1");
    // execve then takes the file's capabilities only as far as the process had them permitted before; a container runtime grants what
    // securityContext.capabilities.add names just so.
    let found = if set { "set: file capabilities give only what the runtime granted" } else { "not set" };
    check("no_new_privs", Outcome::Ok, found, "")
}

/// A user other than 0 keeps no capability over execve but those that the binary carries.
fn file_capability() -> Check {
    const NAME: &str = "file capability";
    const REMEDY: &str = "setcap cap_net_raw,cap_bpf+p on the binary (some image tools drop the attribute), or run as user 0";
    let of_binary = capabilities::of_binary();
    let names: Vec<&str> = [(CapabilitySet::NET_RAW, "cap_net_raw"), (CapabilitySet::BPF, "cap_bpf")]
        .into_iter()
        .filter(|(one, _)| of_binary.is_some_and(|set| set.contains(*one)))
        .map(|(_, name)| name)
        .collect();
    if !names.is_empty() {
        return check(NAME, Outcome::Ok, format!("{} permitted", names.join(",")), "");
    }
    let root = rustix::process::geteuid().is_root();
    let found = if root { "none; not needed by user 0" } else { "none: what the runtime grants is lost at the start of the program" };
    check(NAME, if root { Outcome::Ok } else { Outcome::Warning }, found, REMEDY)
}

fn seccomp() -> Check {
    let found = match status("Seccomp").as_deref() {
        Some("0") => "off",
        Some("1") => "strict",
        Some("2") => "filter (bpf(2) may be refused even with CAP_BPF)",
        _ => "unknown",
    };
    check("seccomp", Outcome::Ok, found, "")
}

fn memlock() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let found = limit
        .current
        .map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes (counts for eBPF maps before Linux 5.11 only)"));
    check("memlock", Outcome::Ok, found, "")
}

fn descriptors() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let outcome = if limit >= 256 { Outcome::Ok } else { Outcome::Warning };
    check("open files", outcome, limit.to_string(), "raise the limit to 256 or more (ulimit -n)")
}

/// The capabilities of a process, and what decides about them.
#[derive(Clone, Copy)]
struct Held {
    effective: CapabilitySet,
    permitted: CapabilitySet,
    bounding: CapabilitySet,
    of_binary: CapabilitySet,
    root: bool,
    no_new_privileges: bool,
}

impl Held {
    fn by_this_process() -> Self {
        let bits = |name| status(name).and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or_default();
        let set = |name| CapabilitySet::from_bits_retain(bits(name));
        Self {
            effective: set("CapEff"),
            permitted: set("CapPrm"),
            bounding: set("CapBnd"),
            of_binary: capabilities::of_binary().unwrap_or(CapabilitySet::empty()),
            root: rustix::process::geteuid().is_root(),
            no_new_privileges: status("NoNewPrivs").as_deref() == Some("1"),
        }
    }

    /// Why a capability is missing, and what gives it.
    fn missing(&self, one: CapabilitySet, name: &str) -> (&'static str, String) {
        if !self.bounding.contains(one) {
            return ("missing: not in the bounding set: nobody granted it", format!("add {name} to securityContext.capabilities.add"));
        }
        if self.permitted.contains(one) {
            return (
                "missing: permitted, but it could not be raised",
                "a security module or seccomp refuses capset(2); allow it".to_owned(),
            );
        }
        if !self.root && !self.of_binary.contains(one) {
            let remedy = "setcap cap_net_raw,cap_bpf+p on the binary (some image tools drop the attribute), or run as user 0";
            return ("missing: in the bounding set, but the binary's file capability does not have it", remedy.to_owned());
        }
        if self.no_new_privileges {
            let remedy = "with no_new_privs a program gets only what its starter had permitted: give that to the starter, as container \
                          runtimes do for capabilities.add, or set allowPrivilegeEscalation: true";
            return ("missing: in the bounding set, but withheld at the start by no_new_privs", remedy.to_owned());
        }
        let remedy = "is the binary on a file system that is mounted nosuid, or the process in another user namespace?";
        ("missing: in the bounding set, but withheld at the start of the program", remedy.to_owned())
    }
}

fn capabilities_for(source: SourceChoice, held: &Held) -> Vec<Check> {
    let net_raw = if source == SourceChoice::File { Outcome::Warning } else { Outcome::Error };
    let bpf = if source == SourceChoice::Ebpf { Outcome::Error } else { Outcome::Warning };
    let needed = [
        ("CAP_NET_RAW", CapabilitySet::NET_RAW, net_raw, "NET_RAW", " (every live source needs it)"),
        ("CAP_BPF", CapabilitySet::BPF, bpf, "BPF", " (source ebpf needs it; source pcap works without)"),
    ];
    let others = [
        ("CAP_PERFMON", CapabilitySet::PERFMON, "not needed by the socket filter; sources that trace processes need it"),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN, "not needed; some kernels want it for eBPF programs of the network"),
    ];
    let mut checks = Vec::new();
    for (name, one, otherwise, short, wants) in needed {
        let (found, remedy) = held.missing(one, short);
        checks.push(match held.effective.contains(one) {
            true => check(name, Outcome::Ok, "effective", ""),
            false => check(name, otherwise, found, remedy + wants),
        });
    }
    for (name, one, remedy) in others {
        checks.push(match held.effective.contains(one) {
            true => check(name, Outcome::Ok, "effective", ""),
            false => check(name, Outcome::Warning, "missing", remedy),
        });
    }
    checks
}

fn interface_list(list: &[Interface]) -> Check {
    let describe = |interface: &Interface| {
        let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
        let state = match (interface.up, interface.link_type()) {
            (false, _) => " (down)",
            (true, None) => " (unknown packets)",
            (true, Some(_)) => "",
        };
        format!("{}{state} [{}]", interface.name, addresses.join(" "))
    };
    let found: Vec<String> = list.iter().map(describe).collect();
    let usable = list.iter().any(|interface| interface.up && interface.link_type().is_some());
    let outcome = if usable { Outcome::Ok } else { Outcome::Error };
    check("interfaces", outcome, found.join(", "), "bring an interface up (ip link set lo up)")
}

fn tried(name: &'static str, tried: Result<(), CaptureError>, otherwise: Outcome, remedy: &'static str) -> Check {
    match tried {
        Ok(()) => check(name, Outcome::Ok, "opened and closed again", ""),
        Err(error) => check(name, otherwise, error.to_string(), remedy),
    }
}

fn pcap_source(interface: &Interface, source: SourceChoice) -> Check {
    let outcome = libpcap::open(std::slice::from_ref(interface), None, 1 << 20).map(drop);
    let otherwise = if matches!(source, SourceChoice::Pcap | SourceChoice::Auto) { Outcome::Error } else { Outcome::Warning };
    let remedy = match outcome {
        Err(CaptureError::NoPermission { .. }) => "see CAP_NET_RAW above",
        _ => "libpcap says why; `ip link` shows the interfaces",
    };
    tried("source pcap", outcome, otherwise, remedy)
}

fn ebpf_source(interface: &Interface, source: SourceChoice) -> Check {
    let otherwise = if source == SourceChoice::Ebpf { Outcome::Error } else { Outcome::Warning };
    let outcome = ebpf::probe(interface);
    let remedy = match outcome {
        Err(CaptureError::NoPermission { .. }) => "see CAP_BPF and CAP_NET_RAW above; `--source auto` uses pcap meanwhile",
        _ => "docs/operations.md says what source ebpf needs; `--source auto` uses pcap meanwhile",
    };
    tried("source ebpf", outcome, otherwise, remedy)
}

/// What the settings ask for, opened as `run` opens it: interfaces, filter, sizes, file.
fn source(settings: &Settings) -> Check {
    const NAME: &str = "source of the settings";
    match eventloop::try_source(settings) {
        Ok(what) => check(NAME, Outcome::Ok, what, ""),
        Err(failure) => {
            check(NAME, Outcome::Error, failure.message, "`podtap-sidecar run` would end with this; `config show` has the settings")
        }
    }
}

fn admin_port(address: SocketAddr) -> Check {
    const NAME: &str = "admin_listen";
    match TcpListener::bind(address) {
        Ok(_) => check(NAME, Outcome::Ok, format!("{address} is free"), ""),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_sidecar(address) => {
            check(NAME, Outcome::Ok, format!("{address} is a running sidecar's"), "")
        }
        Err(error) => {
            let found = format!("cannot listen on {address}: {error}");
            check(NAME, Outcome::Error, found, "choose another address by --admin-listen (PODTAP_ADMIN_LISTEN)")
        }
    }
}

/// Whether the program that has an address says that it is a sidecar.
fn is_sidecar(mut address: SocketAddr) -> bool {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { std::net::Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    let asked = TcpStream::connect_timeout(&address, ANSWER_LIMIT).and_then(|mut stream| {
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(1 << 20).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).contains("podtap_packets_received"))
    });
    // Who does not answer is another.
    asked.unwrap_or(false)
}

fn spool_directory(directory: &Path) -> Check {
    const NAME: &str = "spool_dir";
    match spool::examine(directory) {
        Ok(true) => check(NAME, Outcome::Ok, format!("{} can be written", directory.display()), ""),
        Ok(false) => {
            let remedy = "batches that memory has no room for would be lost; let this user write to it";
            check(NAME, Outcome::Warning, format!("{} cannot be written", directory.display()), remedy)
        }
        Err(error) => {
            let found = format!("{}: {error}", directory.display());
            check(NAME, Outcome::Error, found, "choose a folder that can be made or read by --spool-dir (PODTAP_SPOOL_DIR)")
        }
    }
}

/// The lines for people.
pub fn lines(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let mark = match check.outcome {
            Outcome::Ok => '√',
            Outcome::Warning => '‼',
            Outcome::Error => '×',
        };
        let _ = writeln!(text, "{mark} {}: {}", check.name, check.found);
        if !check.remedy.is_empty() {
            let _ = writeln!(text, "    {}", check.remedy);
        }
    }
    text
}

/// The same as a JSON object.
pub fn json(checks: &[Check]) -> serde_json::Value {
    let list: Vec<serde_json::Value> = checks
        .iter()
        .map(|check| {
            let result = match check.outcome {
                Outcome::Ok => "success",
                Outcome::Warning => "warning",
                Outcome::Error => "error",
            };
            serde_json::json!({ "name": check.name, "result": result, "found": check.found, "remedy": check.remedy })
        })
        .collect();
    serde_json::json!({ "success": worst(checks) != Outcome::Error, "checks": list })
}

/// The worst outcome of all.
pub fn worst(checks: &[Check]) -> Outcome {
    let any = |outcome| checks.iter().any(|check| check.outcome == outcome);
    if any(Outcome::Error) {
        Outcome::Error
    } else if any(Outcome::Warning) {
        Outcome::Warning
    } else {
        Outcome::Ok
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layer;

    #[test]
    fn every_check_that_is_not_in_order_has_a_remedy_of_one_line() {
        let over = Layer { spool_dir: Some("/dev/null/x".parse().unwrap()), ..Layer::default() };
        let checks = examine(&Settings::resolve(over, Layer::default()));
        for check in &checks {
            assert_eq!(check.outcome == Outcome::Ok, check.remedy.is_empty(), "{check:?}");
            assert_eq!(check.remedy.lines().count(), usize::from(!check.remedy.is_empty()));
        }
        for name in ["kernel", "CAP_NET_RAW", "libpcap", "interfaces", "source of the settings", "admin_listen", "spool_dir"] {
            assert!(checks.iter().any(|check| check.name == name), "{name}");
        }
        assert_eq!(json(&checks)["checks"].as_array().unwrap().len(), checks.len());
        assert_eq!(worst(&checks), Outcome::Error, "a file is no folder");
    }

    #[test]
    fn a_missing_capability_has_the_remedy_of_its_cause() {
        let (some, none) = (CapabilitySet::NET_RAW, CapabilitySet::empty());
        let held = Held { effective: none, permitted: none, bounding: some, of_binary: none, root: false, no_new_privileges: true };
        let check = |held: &Held, found: &str, remedy: &str| {
            let checks = capabilities_for(SourceChoice::Pcap, held);
            assert_eq!((checks[0].name, checks[0].outcome), ("CAP_NET_RAW", Outcome::Error));
            assert!(checks[0].found.contains(found) && checks[0].remedy.contains(remedy), "{:?}", checks[0]);
        };
        // The pod did not grant it, whatever else is missing.
        check(&Held { bounding: none, ..held }, "not in the bounding set", "add NET_RAW to securityContext.capabilities.add");
        check(&Held { bounding: none, root: true, of_binary: some, ..held }, "not in the bounding set", "capabilities.add");
        // It did, but the binary lost its attribute.
        check(&held, "file capability does not have it", "setcap cap_net_raw,cap_bpf+p");
        check(&Held { no_new_privileges: false, ..held }, "file capability does not have it", "run as user 0");
        // It has the attribute, which no_new_privs holds down.
        check(&Held { of_binary: some, ..held }, "no_new_privs", "allowPrivilegeEscalation");
        check(&Held { root: true, ..held }, "no_new_privs", "allowPrivilegeEscalation");
        check(&Held { of_binary: some, no_new_privileges: false, ..held }, "at the start of the program", "nosuid");
        check(&Held { permitted: some, ..held }, "could not be raised", "capset");
        let fine = capabilities_for(SourceChoice::Ebpf, &Held { effective: some, permitted: some, ..held });
        assert_eq!((fine[0].outcome, fine[1].outcome), (Outcome::Ok, Outcome::Error), "source ebpf needs CAP_BPF");
        assert_eq!(capabilities_for(SourceChoice::File, &held)[0].outcome, Outcome::Warning);
    }

    #[test]
    fn an_admin_port_is_free_or_somebody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let silent = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let found = admin_port(address);
        assert_eq!(found.outcome, Outcome::Error, "{found:?}");
        assert!(found.found.contains("in use"), "{found:?}");
        silent.join().unwrap();
        assert_eq!(admin_port("127.0.0.1:0".parse().unwrap()).outcome, Outcome::Ok);
    }
}
