//! `cargo xtask bench`: what Podtap costs, beside other tools on the same bytes.
//!
//! Guarantee: both sides of a ratio were measured in the same run, in turn. Figures go to standard output and, with the
//! machine and the revision, to `target/bench/`.

mod cluster;
mod ingest;
mod instructions;
mod live;
mod measure;
mod memory;
mod offline;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::run::{self, Doing, Result, say};
use crate::tools::{Cache, apt};
use crate::workspace::Workspace;
use crate::{captures, ebpf};

#[derive(Args)]
pub struct Options {
    /// Only decoding of captures
    #[arg(long)]
    offline: bool,
    /// Only the sidecar beside nginx and wrk
    #[arg(long)]
    live: bool,
    /// Only memory under a flood of connections
    #[arg(long)]
    memory: bool,
    /// Only instructions an exchange, compared with the committed figures
    #[arg(long)]
    instructions: bool,
    /// Only what counting costs: Kafka to stored histograms, bytes, a day of one pod, and the documented questions
    #[arg(long)]
    ingest: bool,
    /// Of what counting costs only the documented questions over 100 million requests and 30 days
    #[arg(long)]
    history: bool,
    /// Only what the sidecar costs in an injected pod of a real Kubernetes
    #[arg(long)]
    cluster: bool,
    /// Commit these instructions as the figures to compare with
    #[arg(long, requires = "instructions")]
    save: bool,
    /// Measure this sidecar instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Also the criterion benches of the crates
    #[arg(long)]
    micro: bool,
    /// Small captures, short loads: a first look, no figures
    #[arg(long)]
    quick: bool,
    /// How often each is measured [default: 5, live 9, cluster 6]
    #[arg(long)]
    rounds: Option<NonZeroUsize>,
    /// Where the sidecar of the live half captures: auto, ebpf, pcap
    #[arg(long, default_value = "auto")]
    source: String,
    /// Where it sends; repeatable
    #[arg(long, default_values = ["quiet", "print", "kafka"])]
    transport: Vec<live::Transport>,
}

/// A part of the report: a title, remarks, and a table.
pub struct Section {
    title: String,
    remarks: Vec<String>,
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Section {
    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let head: Vec<String> = self.head.iter().map(|h| (*h).to_owned()).collect();
        let mut text = format!("## {}\n\n", self.title);
        self.remarks.iter().for_each(|r| text.push_str(&format!("{r}\n\n")));
        text.push_str(&line(&head));
        text.push_str(&line(&vec!["---".to_owned(); head.len()]));
        self.rows.iter().for_each(|row| text.push_str(&line(row)));
        text
    }
}

pub fn bench(workspace: &Workspace, cache: &Cache, options: &Options) -> Result<()> {
    if options.ingest || options.history {
        let section = ingest::measure(workspace, cache, options.quick, !options.ingest)?;
        return own_report(workspace, "podtap-analyzer", section);
    }
    if options.cluster {
        return own_report(
            workspace,
            "podtap-sidecar",
            cluster::measure(workspace, cache, options.quick, options.rounds.map(NonZeroUsize::get))?,
        );
    }
    apt::ensure("bench", &[apt::BUILD, apt::SERVERS, apt::LOAD, apt::PEERS].concat())?;
    let sidecar = match &options.binary {
        Some(file) => std::path::absolute(file).doing(format_args!("finding {}", file.display()))?,
        None => release(workspace, cache)?,
    };
    let rounds = |usual: usize| if options.quick { 1 } else { options.rounds.map_or(usual, NonZeroUsize::get) };
    let mut report = about(workspace, &sidecar)?;
    println!("{report}");
    let mut add = |section: Section| {
        let section = section.markdown();
        println!("{section}");
        report.push_str(&section);
        report.push('\n');
    };
    let all = ![options.offline, options.live, options.memory, options.instructions].contains(&true);
    if all || options.instructions {
        add(instructions::measure(workspace, &sidecar, options.save)?);
    }
    if all || options.offline {
        captures::make(workspace, options.quick, &[])?;
        add(offline::measure(&captures::folder(workspace), &sidecar, rounds(5))?);
    }
    if all || options.memory {
        add(memory::measure(workspace, &sidecar, &options.source, if options.quick { 5 } else { 20 })?);
    }
    if all || options.live {
        let seconds = if options.quick { 2 } else { 8 };
        let setup = live::Setup { sidecar, source: options.source.clone(), rounds: rounds(9), seconds };
        add(live::measure(workspace, &setup, &options.transport)?);
    }
    if options.micro {
        micro(workspace)?;
    }
    keep(workspace, &report)
}

/// What a binary of the tests package has measured, with the machine and the revision in front.
fn own_report(workspace: &Workspace, program: &str, section: String) -> Result<()> {
    let report = format!("{}{section}", about(workspace, &workspace.target().join("release").join(program))?);
    println!("{report}");
    keep(workspace, &report)
}

fn keep(workspace: &Workspace, report: &str) -> Result<()> {
    let file = place(workspace)?;
    fs::write(&file, report).doing(format_args!("writing {}", file.display()))?;
    say(format_args!("==> {}", file.display()));
    Ok(())
}

fn release(workspace: &Workspace, cache: &Cache) -> Result<PathBuf> {
    ebpf::ensure(workspace, cache, false)?;
    let mut build = workspace.cargo();
    build.args(["build", "--release", "-p", "podtap-sidecar"]);
    run::show("the sidecar, release profile", &mut build)?;
    Ok(workspace.target().join("release/podtap-sidecar"))
}

/// Criterion keeps its own reports, below the target folder.
fn micro(workspace: &Workspace) -> Result<()> {
    for package in ["wire", "sidecar", "analyzer"] {
        if workspace.root().join(package).join("benches").is_dir() {
            let name = format!("podtap-{package}");
            run::show(&format!("benches of {name}"), workspace.cargo().args(["bench", "--benches", "-p", &name]))?;
        }
    }
    Ok(())
}

fn place(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.output().join("bench");
    fs::create_dir_all(&folder).doing(format_args!("making {}", folder.display()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).doing("reading the clock")?.as_secs();
    Ok(folder.join(format!("bench-{now}.md")))
}

fn about(workspace: &Workspace, sidecar: &Path) -> Result<String> {
    let version = run::capture(Command::new(sidecar).arg("--version"))?;
    let revision = run::capture(Command::new("git").current_dir(workspace.root()).args(["describe", "--always", "--dirty"]))?;
    let kernel = run::capture(Command::new("uname").args(["-sr"]))?;
    let cpus = fs::read_to_string("/proc/cpuinfo").doing("reading /proc/cpuinfo")?;
    let model = cpus.lines().find_map(|l| l.strip_prefix("model name")?.split(':').nth(1)).unwrap_or("unknown").trim();
    let count = cpus.lines().filter(|l| l.starts_with("processor")).count();
    let load = fs::read_to_string("/proc/loadavg").doing("reading /proc/loadavg")?;
    let busy = load.split_whitespace().next().unwrap_or_default();
    Ok(format!(
        "# Podtap bench\n\n{}, clone at {}, {}, {count} x {model}, load average before {busy}.\n\n",
        version.trim(),
        revision.trim(),
        kernel.trim(),
    ))
}

fn megabytes(bytes: f64) -> String {
    format!("{:.0} MB", bytes / 1e6)
}

fn thousands(n: f64) -> String {
    if n >= 1e6 { format!("{:.2} M", n / 1e6) } else { format!("{:.1} k", n / 1e3) }
}
