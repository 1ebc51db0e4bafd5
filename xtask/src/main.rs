//! What a developer or a newcomer runs: `cargo xtask demo | test | ebpf | tidy | bench | compare | kafka | ...`.
//!
//! Guarantee: exit status 0 only when what was asked for was done. CI runs only these commands. xtask builds in seconds,
//! so nothing that the products depend on belongs here.

mod account;
mod bench;
mod broker;
mod captures;
mod cluster;
mod compare;
mod demo;
mod ebpf;
mod elf;
mod faults;
mod fresh;
mod fuzz;
mod images;
mod lab;
mod phases;
mod run;
mod tidy;
mod tools;
mod traffic;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::broker::Broker;
use crate::phases::Phase;
use crate::run::{Result, say};
use crate::tools::Cache;
use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What a developer or a newcomer of Podtap runs.", version)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, build, and show the whole of Podtap at work
    #[command(disable_help_flag = true)]
    Demo {
        /// Passed on: --kafka, --duration 60s, --help, ...
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Install what the tests need and run all of them; says how long each phase took
    Test {
        /// Only this phase and what it needs; repeatable
        #[arg(long, value_name = "PHASE")]
        only: Vec<Phase>,
        /// In Kubernetes the whole of the tests, not only the part that always runs
        #[arg(long)]
        cluster: bool,
        /// Passed to the tests' harness: names, --nocapture, ...
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Kill everything at random, many times, and compare every bucket with what was made
    Faults(faults::Options),
    /// Check limits of style and invariants of the architecture
    Tidy,
    /// Record real traffic for figures, into target/captures
    Captures {
        /// A tenth of the load
        #[arg(long)]
        quick: bool,
        /// These anew; without names, those that are missing
        names: Vec<String>,
    },
    /// Measure speed and memory, beside other tools
    Bench(bench::Options),
    /// Compare what the decoder reads from captures with tshark and with expectations of other projects
    Compare {
        /// Captures, and beside them NAME.result (deepflow) or test.yaml (suricata-verify)
        dir: PathBuf,
        /// This binary [default: built now, dev profile]
        #[arg(long)]
        sidecar: Option<PathBuf>,
    },
    /// Look for bytes that break what must hold for any bytes
    Fuzz(fuzz::Options),
    /// Run a command in a clean clone on a bare Debian 12 with git, a C linker and Rust
    Fresh {
        /// The bare machine's folder; it stays for the next run [default: target/fresh]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Make the machine anew
        #[arg(long)]
        anew: bool,
        /// For example: cargo xtask test
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Fetch and build what is needed beyond git and Rust, into the cache of tools
    Tools {
        /// Only these: build, servers, node, chdb, kafka, bpf-linker, kubernetes, coredns
        names: Vec<String>,
    },
    /// Build the eBPF object that the sidecar embeds, or take it from the cache
    Ebpf {
        /// Build it though the cache has one of the same sources
        #[arg(long)]
        rebuild: bool,
    },
    /// Make images of sidecar and analyzer, without a registry or Docker
    Images(images::Options),
    /// Start, stop or look at a Kubernetes of one node on this machine
    Cluster {
        #[command(subcommand)]
        action: cluster::Action,
    },
    /// Start, stop or look at one Apache Kafka node
    Kafka {
        #[command(subcommand)]
        action: KafkaAction,
        /// The broker's folder: settings, data, log [default: target/kafka]
        #[arg(long, global = true)]
        dir: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum KafkaAction {
    /// Start it in the background and wait until it answers
    Start {
        /// 0: the port it had before, or a free one
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Stop it; its data stay
    Stop,
    /// Say whether it runs and where (exit status 1 when it does not)
    Status,
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(code) => code,
        Err(failure) => {
            say(format_args!("error: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    let cache = Cache::open()?;
    match task {
        Task::Demo { arguments } => match demo::demo(&workspace, &cache, &arguments)? {},
        Task::Test { only, cluster, filter } => {
            let selection = phases::Selection { only: &only, filter: &filter, whole_cluster: cluster };
            return phases::test(&workspace, &cache, &selection);
        }
        Task::Faults(options) => faults::faults(&workspace, &cache, &options)?,
        Task::Tidy => tidy::check(workspace.root())?,
        Task::Captures { quick, names } => captures::make(&workspace, quick, &names)?,
        Task::Bench(options) => bench::bench(&workspace, &cache, &options)?,
        Task::Compare { dir, sidecar } => return compare::compare(&workspace, &dir, sidecar),
        Task::Fuzz(options) => fuzz::fuzz(&workspace, &options)?,
        Task::Fresh { dir, anew, command } => {
            return fresh::fresh(&workspace, &dir.unwrap_or_else(|| workspace.output().join("fresh")), anew, &command);
        }
        Task::Tools { names } => tools::ensure_named(&cache, &workspace, &names)?,
        Task::Ebpf { rebuild } => println!("{}", ebpf::ensure(&workspace, &cache, rebuild)?.display()),
        Task::Images(options) => images::images(&workspace, &cache, &options)?,
        Task::Cluster { action } => return cluster::cluster(&workspace, &cache, action),
        Task::Kafka { action, dir } => {
            return kafka(&cache, &dir.unwrap_or_else(|| workspace.output().join("kafka")), action);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn kafka(cache: &Cache, dir: &std::path::Path, action: KafkaAction) -> Result<ExitCode> {
    let broker = Broker::at(dir)?;
    match action {
        KafkaAction::Start { port } => {
            let libs = tools::kafka(cache)?.join("libs");
            println!("listening on {}", broker.start(&libs, port)?);
        }
        KafkaAction::Stop => println!("{}", if broker.stop()? { "stopped" } else { "not running" }),
        KafkaAction::Status => match broker.running() {
            Some((pid, address)) => println!("running: pid {pid}, {address}, log {}", broker.log().display()),
            None => {
                println!("not running");
                return Ok(ExitCode::FAILURE);
            }
        },
    }
    Ok(ExitCode::SUCCESS)
}
