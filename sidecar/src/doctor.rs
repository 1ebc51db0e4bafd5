//! `podtap-sidecar doctor`: what this kernel, these capabilities and this network namespace allow, with a remedy for what they do not.

use std::fmt::Write as _;
use std::path::Path;

use rustix::thread::CapabilitySet;

use crate::capabilities;
use crate::capture::interfaces::{self, Interface};
use crate::capture::{CaptureError, ebpf, libpcap};

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
    pub remedy: &'static str,
}

fn check(name: &'static str, outcome: Outcome, found: impl Into<String>, remedy: &'static str) -> Check {
    Check { name, outcome, found: found.into(), remedy: if outcome == Outcome::Ok { "" } else { remedy } }
}

/// Makes all checks.
pub fn examine() -> Vec<Check> {
    let listed = interfaces::list();
    let mut checks = vec![kernel(), btf(), unprivileged_bpf(), lockdown(), no_new_privileges(), file_capability()];
    checks.extend([seccomp(), memlock(), descriptors()]);
    checks.extend(granted());
    checks.push(check("libpcap", Outcome::Ok, libpcap::library_version(), ""));
    match listed {
        Ok(list) => {
            checks.push(interface_list(&list));
            if let Some(interface) = list.iter().find(|interface| interface.up && interface.link_type().is_some()) {
                checks.push(pcap_source(interface));
                checks.push(ebpf_source(interface));
            }
        }
        Err(error) => {
            checks.push(check("interfaces", Outcome::Error, error.to_string(), "the process must be allowed to ask the kernel (netlink)"))
        }
    }
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

fn granted() -> Vec<Check> {
    let bits = |name| status(name).and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or_default();
    let set = |name| CapabilitySet::from_bits_retain(bits(name));
    let (effective, bounding) = (set("CapEff"), set("CapBnd"));
    [
        (
            "CAP_NET_RAW",
            CapabilitySet::NET_RAW,
            Outcome::Error,
            "add NET_RAW to securityContext.capabilities.add (every live source needs it)",
        ),
        ("CAP_BPF", CapabilitySet::BPF, Outcome::Warning, "add BPF to use source ebpf; source pcap works without"),
        ("CAP_PERFMON", CapabilitySet::PERFMON, Outcome::Warning, "not needed by the socket filter; sources that trace processes need it"),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN, Outcome::Warning, "not needed; some kernels want it for eBPF programs of the network"),
    ]
    .into_iter()
    .map(|(name, one, otherwise, remedy)| {
        if effective.contains(one) {
            check(name, Outcome::Ok, "effective", "")
        } else if bounding.contains(one) {
            check(name, otherwise, "missing: in the bounding set, but not given to this program (see file capability)", remedy)
        } else {
            check(name, otherwise, "missing: not in the bounding set", remedy)
        }
    })
    .collect()
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

fn pcap_source(interface: &Interface) -> Check {
    let outcome = libpcap::open(std::slice::from_ref(interface), None, 1 << 20).map(drop);
    tried("source pcap", outcome, Outcome::Error, "add NET_RAW to securityContext.capabilities.add")
}

fn ebpf_source(interface: &Interface) -> Check {
    let remedy = "build with `cargo xtask ebpf` and give CAP_BPF and CAP_NET_RAW; `--source auto` uses pcap meanwhile";
    tried("source ebpf", ebpf::probe(interface), Outcome::Warning, remedy)
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

    #[test]
    fn every_check_that_is_not_in_order_has_a_remedy_of_one_line() {
        let checks = examine();
        for check in &checks {
            assert_eq!(check.outcome == Outcome::Ok, check.remedy.is_empty(), "{check:?}");
            assert_eq!(check.remedy.lines().count(), usize::from(!check.remedy.is_empty()));
        }
        for name in ["kernel", "CAP_NET_RAW", "libpcap", "interfaces"] {
            assert!(checks.iter().any(|check| check.name == name), "{name}");
        }
        assert_eq!(json(&checks)["checks"].as_array().unwrap().len(), checks.len());
    }
}
