//! `cargo xtask compare DIR`: the decoder beside tshark and beside what other projects expect, on captures that nobody here made.
//!
//! Guarantee: exit status 0 only when every difference is explained in docs/protocols.md, and every explanation is still needed. Where
//! neither tshark nor an expectation tells of a protocol, that is shown as a dash, never as equal.

mod exchange;
mod expectation;
mod explained;
mod json;
mod ours;
mod tshark;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::exchange::{Protocol, differences};
use self::expectation::{Deepflow, Suricata};
use self::explained::Explained;
use self::ours::Ours;
use crate::run::{self, Doing, Failure, Result};
use crate::tools::apt;
use crate::workspace::Workspace;

/// Folders of captures of other protocols: no record of HTTP/1 or MySQL may come of them. HTTP/2 is not among them, since it may begin
/// with an upgrade, which is HTTP/1.
const OTHERS: &[&str] = &["amqp", "dns", "dubbo", "grpc", "kafka", "memcached", "mongo", "mqtt", "nats", "pgsql", "postgre", "redis"];

struct Capture {
    path: PathBuf,
    /// Below the folder that was asked for.
    name: String,
}

pub fn compare(workspace: &Workspace, folder: &Path, sidecar: Option<PathBuf>) -> Result<ExitCode> {
    apt::ensure("comparing captures", apt::PEERS.get(..1).unwrap_or_default())?;
    let folder = folder.canonicalize().doing(format_args!("looking at {}", folder.display()))?;
    let sidecar = match sidecar {
        Some(sidecar) => sidecar,
        None => {
            run::show("the sidecar", workspace.cargo().args(["build", "--workspace", "--lib", "--bins"]))?;
            workspace.binaries().join("podtap-sidecar")
        }
    };
    let mut captures = Vec::new();
    let mut checks = BTreeMap::new();
    find(&folder, &folder, &mut captures, &mut checks)?;
    if captures.is_empty() {
        return Err(Failure(format!("no .pcap or .pcapng below {}", folder.display())));
    }
    captures.sort_by(|one, two| one.name.cmp(&two.name));
    let document = workspace.root().join("docs/protocols.md");
    let mut explained = Explained::read(&fs::read_to_string(&document).doing("reading docs/protocols.md")?)?;
    let mut sum = Sum::default();
    println!("{:<58} {:>8} {:>7} {:>7} {:>11}  verdict", "capture", "protocol", "podtap", "tshark", "expectation");
    for capture in &captures {
        let empty = Vec::new();
        one(capture, &sidecar, checks.get(&capture.path).unwrap_or(&empty), &mut explained, &mut sum)?;
    }
    for stale in explained.stale() {
        println!("explanation that is not needed as it stands: {stale}");
        sum.open += 1;
    }
    println!(
        "{} captures: {} exchanges compared, {} latencies; {} differences explained, {} not",
        captures.len(),
        sum.compared,
        sum.latencies,
        sum.explained,
        sum.open
    );
    Ok(if sum.open == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Default)]
struct Sum {
    compared: usize,
    latencies: usize,
    explained: usize,
    open: usize,
}

fn find(folder: &Path, root: &Path, captures: &mut Vec<Capture>, checks: &mut BTreeMap<PathBuf, Vec<Suricata>>) -> Result<()> {
    for entry in folder.read_dir().doing(format_args!("reading {}", folder.display()))? {
        let path = entry.doing("reading a folder")?.path();
        if path.is_dir() {
            find(&path, root, captures, checks)?;
        } else if path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng") {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            captures.push(Capture { path, name });
        } else if path.file_name().is_some_and(|name| name == "test.yaml") {
            let read = expectation::suricata(&fs::read_to_string(&path).doing(format_args!("reading {}", path.display()))?);
            if let Some(capture) = expectation::capture_of(&path, &read) {
                checks.entry(capture).or_default().push(read);
            }
        }
    }
    Ok(())
}

fn one(capture: &Capture, sidecar: &Path, checks: &[Suricata], explained: &mut Explained, sum: &mut Sum) -> Result<()> {
    explained.visit(&capture.name);
    let ours = ours::read(sidecar, &capture.path)?;
    let result = capture.path.with_extension("result");
    let deepflow = match result.exists() {
        true => expectation::deepflow(&fs::read_to_string(&result).doing(format_args!("reading {}", result.display()))?),
        false => Deepflow::default(),
    };
    let tshark = tshark::read(&capture.path, &ours, !deepflow.mysql.is_empty())?;
    let other = OTHERS.iter().any(|other| capture.name.split('/').any(|part| part.starts_with(other)));
    let mut shown = false;
    let none = Vec::new();
    for protocol in [Protocol::Http, Protocol::Mysql, Protocol::Tls] {
        let mine = ours.exchanges(protocol);
        let (theirs, expected) = match protocol {
            Protocol::Http => (&tshark.http, &deepflow.http),
            Protocol::Mysql => (&tshark.mysql, &deepflow.mysql),
            Protocol::Tls => (&tshark.tls, &none),
        };
        let checked = if protocol == Protocol::Http { suricata(capture, checks, &ours) } else { Checked::default() };
        if mine.is_empty() && theirs.is_empty() && expected.is_empty() && checked.told == 0 {
            continue;
        }
        shown = true;
        let mut lines = differences(&mine, theirs, "tshark");
        if !expected.is_empty() {
            lines.extend(differences(&mine, expected, "deepflow"));
        }
        lines.extend(checked.lines);
        if other && protocol != Protocol::Tls && !mine.is_empty() {
            lines.push(format!("{} record(s) of {} in a capture of another protocol", mine.len(), protocol.name()));
        }
        sum.compared += mine.len();
        sum.latencies += theirs.iter().filter(|exchange| exchange.latency_ns.is_some()).count();
        let told = match (expected.len(), checked.told) {
            (0, 0) => "-".to_owned(),
            (0, checks) => format!("{checks} checks"),
            (requests, _) => requests.to_string(),
        };
        report(capture, protocol, [mine.len().to_string(), theirs.len().to_string(), told], lines, explained, sum);
    }
    if !shown {
        let cut = if ours.cut { ", cut" } else { "" };
        println!("{:<58} {:>8} {:>7} {:>7} {:>11}  none of them{cut}", capture.name, "-", 0, 0, "-");
    }
    Ok(())
}

fn report(
    capture: &Capture,
    protocol: Protocol,
    [mine, theirs, told]: [String; 3],
    lines: Vec<String>,
    explained: &mut Explained,
    sum: &mut Sum,
) {
    let (known, open): (Vec<String>, Vec<String>) = lines.into_iter().partition(|line| explained.explains(&capture.name, line));
    let verdict = match (known.len(), open.len()) {
        (0, 0) => "equal".to_owned(),
        (known, 0) => format!("equal, but for {known} explained"),
        (_, open) => format!("DIFFERENT: {open}"),
    };
    println!("{:<58} {:>8} {mine:>7} {theirs:>7} {told:>11}  {verdict}", capture.name, protocol.name());
    for line in &open {
        println!("    {line}");
    }
    sum.explained += known.len();
    sum.open += open.len();
}

#[derive(Default)]
struct Checked {
    told: usize,
    lines: Vec<String>,
}

fn suricata(capture: &Capture, tests: &[Suricata], ours: &Ours) -> Checked {
    let mut checked = Checked::default();
    let http2 = capture.name.split('/').any(|part| part.starts_with("http2"));
    for check in tests.iter().flat_map(|test| &test.checks) {
        // In its captures of HTTP/2, `http` is HTTP/2 as well, save for the upgrade.
        if http2 && !check.is_of_http1() {
            continue;
        }
        let Some(found) = check.matching(&ours.records) else { continue };
        checked.told += 1;
        if found != check.count {
            checked.lines.push(format!("{found} here, {} in suricata: {}", check.count, check.describe()));
        }
    }
    checked.lines.sort();
    checked
}
