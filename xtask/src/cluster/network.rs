//! The pods' bridge, the kernel's switches, and the rules that the cluster's parts make.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{self, Doing, Failure, Result};

pub const BRIDGE: &str = "podtap0";
/// The node, as pods and components reach it: the bridge's address.
pub const NODE: &str = "10.244.0.1";
/// The switches that ours and the components' start change; what they were is put back.
const SWITCHES: &[&str] = &[
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-iptables",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

fn switch(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// What the switches are now.
pub fn switches() -> BTreeMap<String, String> {
    let read = |name: &&str| Some(((*name).to_owned(), fs::read_to_string(switch(name)).ok()?.trim().to_owned()));
    SWITCHES.iter().filter_map(read).collect()
}

/// Puts them back.
pub fn restore(before: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in before {
        let path = switch(name);
        if fs::read_to_string(&path).is_ok_and(|now| now.trim() != value) {
            fs::write(&path, value).doing(format_args!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Makes the bridge, so that what listens on the node's address can start before the first pod.
pub fn make() -> Result<()> {
    if !switch("net/bridge").exists() {
        // Built in where it is no module; then the next line would not have been reached.
        run::capture(Command::new("modprobe").arg("br_netfilter"))?;
    }
    for (name, value) in [("net/ipv4/ip_forward", "1"), ("net/bridge/bridge-nf-call-iptables", "1")] {
        fs::write(switch(name), value).doing(format_args!("writing {name}"))?;
    }
    ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    ip(&["addr", "add", &format!("{NODE}/24"), "dev", BRIDGE])?;
    ip(&["link", "set", BRIDGE, "up"]).map(|_| ())
}

/// Whether the bridge is there.
pub fn bridge() -> bool {
    Path::new("/sys/class/net").join(BRIDGE).exists()
}

/// Removes the bridge and the pods' ends on it, which the kernel would take its time to.
pub fn remove() -> Result<()> {
    if !bridge() {
        return Ok(());
    }
    if let Ok(ports) = fs::read_dir(Path::new("/sys/class/net").join(BRIDGE).join("brif")) {
        for port in ports.flatten() {
            // Gone already, perhaps, with its namespace.
            let _ = ip(&["link", "del", &port.file_name().to_string_lossy()]);
        }
    }
    ip(&["link", "del", BRIDGE]).map(|_| ())
}

fn ip(arguments: &[&str]) -> Result<String> {
    run::capture(Command::new("ip").args(arguments))
}

/// The programs for both families that are installed.
fn families() -> impl Iterator<Item = (&'static str, PathBuf, PathBuf)> {
    ["iptables", "ip6tables"].into_iter().filter_map(|family| {
        let program = |suffix: &str| run::find_program(&format!("{family}-{suffix}"));
        Some((family, program("save")?, program("restore")?))
    })
}

/// Chains that Kubernetes or a CNI plugin made.
pub fn chains() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (family, save, _) in families() {
        let rules = save_rules(family, &save)?;
        found.extend(made(&rules).map(|(table, chain)| format!("{family} {table} {chain}")));
    }
    Ok(found)
}

/// Removes them and the rules that lead to them.
pub fn remove_rules() -> Result<()> {
    for (family, save, restore) in families() {
        let removal = removal(&save_rules(family, &save)?);
        if !removal.is_empty() {
            run::capture_with_input(Command::new(&restore).args(["--noflush", "--wait"]), removal.as_bytes())?;
        }
    }
    // Connections that were translated would be for a pod of the next cluster with the same address. It fails when there are none.
    for direction in ["--orig-src", "--orig-dst", "--reply-src"] {
        run::succeeds(Command::new("conntrack").args(["--delete", direction, "10.244.0.0/24"]));
    }
    Ok(())
}

fn save_rules(family: &str, save: &Path) -> Result<String> {
    // A kernel without the family has no rules of it.
    match run::capture(&mut Command::new(save)) {
        Err(_) if family == "ip6tables" && !Path::new("/proc/net/if_inet6").exists() => Ok(String::new()),
        said => said,
    }
}

fn of_cluster(chain: &str) -> bool {
    chain.starts_with("KUBE-") || chain.starts_with("CNI-")
}

/// Table and name of the chains among `iptables-save` lines.
fn made(rules: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut table = "";
    rules.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let chain = line.strip_prefix(':')?.split_whitespace().next()?;
        of_cluster(chain).then_some((table, chain))
    })
}

/// What `iptables-restore --noflush` has to read so that they are gone: rules of other chains that lead there, then all their rules,
/// then the chains.
fn removal(rules: &str) -> String {
    let mut tables: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
    for (table, chain) in made(rules) {
        tables.entry(table).or_default().0.push(chain);
    }
    let mut table = "";
    for line in rules.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let Some(rule) = line.strip_prefix("-A ") else { continue };
        let leads = rule.split_whitespace().skip_while(|word| !["-j", "-g"].contains(word)).nth(1).is_some_and(of_cluster);
        if leads && !of_cluster(rule.split_whitespace().next().unwrap_or_default()) {
            tables.entry(table).or_default().1.push(rule);
        }
    }
    let mut text = String::new();
    for (table, (chains, rules)) in tables {
        text.push_str(&format!("*{table}\n"));
        // Naming a chain makes it empty, without touching others.
        chains.iter().for_each(|chain| text.push_str(&format!(":{chain} - [0:0]\n")));
        rules.iter().for_each(|rule| text.push_str(&format!("-D {rule}\n")));
        chains.iter().for_each(|chain| text.push_str(&format!("-X {chain}\n")));
        text.push_str("COMMIT\n");
    }
    text
}

/// The first address of a person's own that the cluster would take, if there is one.
pub fn taken() -> Result<()> {
    let there = ip(&["-4", "-o", "addr", "show", "to", "10.244.0.0/24"])?;
    if there.trim().is_empty() {
        return Ok(());
    }
    Err(Failure(format!("the cluster's pods get addresses of 10.244.0.0/24, but this machine has one: {}", there.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "# made by iptables-save\n*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL - [0:0]\n:MINE - [0:0]\n\
        -A INPUT -m comment --comment \"x y\" -j KUBE-FIREWALL\n-A INPUT -j MINE\n-A KUBE-FIREWALL -j DROP\nCOMMIT\n\
        *nat\n:CNI-abc - [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -s 10.0.0.1/32 -j CNI-abc\n-A CNI-abc -j KUBE-X\nCOMMIT\n";

    #[test]
    fn only_what_the_cluster_made_is_removed() {
        let found: Vec<_> = made(RULES).collect();
        assert_eq!(found, [("filter", "KUBE-FIREWALL"), ("nat", "CNI-abc")]);
        let expected = "*filter\n:KUBE-FIREWALL - [0:0]\n-D INPUT -m comment --comment \"x y\" -j KUBE-FIREWALL\n-X KUBE-FIREWALL\nCOMMIT\n\
                        *nat\n:CNI-abc - [0:0]\n-D POSTROUTING -s 10.0.0.1/32 -j CNI-abc\n-X CNI-abc\nCOMMIT\n";
        assert_eq!(removal(RULES), expected);
        assert_eq!(removal("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"), "");
    }
}
