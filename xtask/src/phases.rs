//! `cargo xtask test`: everything that must hold, in phases, each with its time.
//!
//! Guarantee: exit status 0 only when every phase that ran did well; a phase whose predecessor failed is reported as not
//! run, and counts as a failure. Cargo is always asked for the whole workspace: with a part of it, features differ and
//! dependencies are built twice.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::run::{self, Doing, Failure, Result, say};
use crate::tools::{self, Cache, apt};
use crate::workspace::Workspace;
use crate::{ebpf, images, tidy};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// Debian packages, libchdb, Kafka, Kubernetes, clients of ClickHouse
    Tools,
    /// cargo fmt --check
    Format,
    /// Limits and invariants
    Tidy,
    /// The eBPF object
    Ebpf,
    /// The workspace with its tests, dev profile
    Build,
    /// Tests beside the code
    Unit,
    /// Clippy, warnings denied
    Clippy,
    /// Tests that start the real binaries beside real servers
    Integration,
}

impl Phase {
    const ALL: [Phase; 8] =
        [Phase::Format, Phase::Tidy, Phase::Tools, Phase::Ebpf, Phase::Build, Phase::Unit, Phase::Clippy, Phase::Integration];

    /// What has to have gone well before.
    fn needs(self) -> &'static [Phase] {
        match self {
            Phase::Tools | Phase::Format | Phase::Tidy => &[],
            Phase::Ebpf => &[Phase::Tools],
            Phase::Build => &[Phase::Tools, Phase::Ebpf],
            Phase::Unit | Phase::Clippy | Phase::Integration => &[Phase::Tools, Phase::Ebpf, Phase::Build],
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }
}

enum Outcome {
    Well,
    Failed(Failure),
    /// The phase whose failure keeps this one from running.
    NotRun(Phase),
}

struct Report {
    phase: Phase,
    took: Duration,
    outcome: Outcome,
}

/// How many tests cargo's harness said passed and failed.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Reads `test result: ok. 3 passed; 0 failed; ...`; other lines do not matter.
    fn read(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let mut words = result.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let (Ok(n), Some(what)) = (word.parse::<u64>(), words.peek()) else { continue };
            match what.trim_end_matches(';') {
                "passed" => self.passed += n,
                "failed" => self.failed += n,
                _ => {}
            }
        }
    }
}

/// What is run of the tests.
pub struct Selection<'a> {
    /// These phases and what they need; none for all.
    pub only: &'a [Phase],
    /// Goes to the tests' harness.
    pub filter: &'a [String],
    /// In Kubernetes the whole, not only the part that always runs.
    pub whole_cluster: bool,
}

/// Runs what was selected.
pub fn test(workspace: &Workspace, cache: &Cache, selection: &Selection<'_>) -> Result<ExitCode> {
    let Selection { only, filter, .. } = *selection;
    let wanted = |p: &Phase| only.is_empty() || only.iter().any(|o| o == p || o.needs().contains(p));
    let mut reports: Vec<Report> = Vec::new();
    let mut tally = Tally::default();
    for phase in Phase::ALL.into_iter().filter(wanted) {
        let failed = |p: &Phase| reports.iter().any(|r| r.phase == *p && !matches!(r.outcome, Outcome::Well));
        let blocker = phase.needs().iter().copied().find(failed);
        let started = Instant::now();
        let outcome = match blocker {
            Some(blocker) => Outcome::NotRun(blocker),
            None => {
                say(format_args!("\n==== {} ====", phase.name()));
                match perform(phase, workspace, cache, selection, &mut tally) {
                    Ok(()) => Outcome::Well,
                    Err(failure) => Outcome::Failed(failure),
                }
            }
        };
        if let Outcome::Failed(failure) = &outcome {
            say(format_args!("error: {failure}"));
        }
        reports.push(Report { phase, took: started.elapsed(), outcome });
    }
    // A misspelt name would otherwise be a success.
    if !filter.is_empty() && tally.passed + tally.failed == 0 && reports.iter().all(|r| matches!(r.outcome, Outcome::Well)) {
        return Err(Failure(format!("no test is named {}: nothing was tested", filter.join(" or "))));
    }
    Ok(conclude(&reports, &tally))
}

fn conclude(reports: &[Report], tally: &Tally) -> ExitCode {
    println!("\n{:<12} {:>8}  outcome", "phase", "seconds");
    let mut well = true;
    for report in reports {
        let outcome = match &report.outcome {
            Outcome::Well => "ok".to_owned(),
            Outcome::Failed(failure) => format!("FAILED: {}", failure.0.lines().next().unwrap_or_default()),
            Outcome::NotRun(blocker) => format!("NOT RUN: {} failed", blocker.name()),
        };
        well &= matches!(report.outcome, Outcome::Well);
        println!("{:<12} {:>8.1}  {outcome}", report.phase.name(), report.took.as_secs_f64());
    }
    let total: Duration = reports.iter().map(|r| r.took).sum();
    println!("{:<12} {:>8.1}  {}", "total", total.as_secs_f64(), if well { "ok" } else { "FAILED" });
    println!("\n{} passed, {} failed", tally.passed, tally.failed);
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn perform(phase: Phase, workspace: &Workspace, cache: &Cache, selection: &Selection<'_>, tally: &mut Tally) -> Result<()> {
    let filter = selection.filter;
    match phase {
        Phase::Tools => everything_for_tests(workspace, cache),
        Phase::Format => format(workspace),
        Phase::Tidy => tidy::check(workspace.root()),
        Phase::Ebpf => ebpf::ensure(workspace, cache, false).map(|_| ()),
        Phase::Build => {
            run::show("the workspace and its tests", workspace.cargo().args(["build", "--workspace", "--lib", "--bins", "--tests"]))
        }
        Phase::Clippy => clippy(workspace),
        Phase::Unit => {
            let units = harness(workspace, &["--lib", "--bins"], filter);
            let documented = run::tee("examples in the docs", &mut harness(workspace, &["--doc"], filter)?, |l| tally.read(l));
            run::tee("tests beside the code", &mut units?, |l| tally.read(l)).and(documented)
        }
        Phase::Integration => {
            // A name that is a file's means all tests of that file.
            let (files, names): (Vec<String>, Vec<String>) = filter.iter().cloned().partition(|name| is_test_file(workspace.root(), name));
            let mut targets: Vec<&str> = files.iter().flat_map(|file| ["--test", file]).collect();
            if files.is_empty() {
                targets = vec!["--test", "*"];
            }
            if files.is_empty() || files.iter().any(|file| file == CLUSTER) {
                // By the person, not by the tests, which may be root.
                images::make(workspace, cache, images::Profile::Dev)?;
            }
            let mut tests = harness(workspace, &targets, &names)?;
            if selection.whole_cluster {
                tests.env("PODTAP_CLUSTER_TESTS", "whole");
            }
            run::tee("tests with real servers", &mut tests, |l| tally.read(l))
        }
    }
}

/// The tests in Kubernetes.
const CLUSTER: &str = "cluster";

fn is_test_file(root: &Path, name: &str) -> bool {
    ["tests", "analyzer", "sidecar", "wire"].iter().any(|package| {
        let folder = root.join(package).join("tests");
        folder.join(format!("{name}.rs")).is_file() || folder.join(name).join("main.rs").is_file()
    })
}

/// What the tests start, fetch or compare with.
pub fn everything_for_tests(workspace: &Workspace, cache: &Cache) -> Result<()> {
    let packages = [apt::BUILD, apt::SERVERS].concat();
    apt::ensure("testing Podtap", &packages)?;
    tools::chdb(cache)?;
    tools::kafka(cache)?;
    // The injector is asked by a real API server, which needs etcd.
    crate::cluster::ensure(cache, workspace)?;
    let clients = workspace.root().join("tests/clients/install.sh");
    if clients.exists() {
        apt::ensure("clients of ClickHouse", apt::CLIENTS)?;
        run::step("clients of ClickHouse that nobody here wrote", &mut tools::with_node(cache, Command::new(clients))?)?;
    }
    Ok(())
}

fn format(workspace: &Workspace) -> Result<()> {
    component(workspace, "fmt", "rustfmt")?;
    run::show("cargo fmt", workspace.cargo().args(["fmt", "--all", "--check"]))?;
    let kernel = workspace.root().join("sidecar-ebpf/kernel/Cargo.toml");
    run::show("cargo fmt, kernel half", workspace.cargo().args(["fmt", "--check", "--manifest-path"]).arg(kernel))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    component(workspace, "clippy", "clippy")?;
    run::show("cargo clippy", workspace.cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let bare = ["clippy", "--package", "podtap-sidecar", "--no-default-features", "--", "-D", "warnings"];
    run::show("cargo clippy, the sidecar without Kafka and eBPF", workspace.cargo().args(bare))
}

/// A minimal toolchain lacks these; rustup adds them where it may.
fn component(workspace: &Workspace, subcommand: &str, component: &str) -> Result<()> {
    if run::succeeds(workspace.cargo().args([subcommand, "--version"])) {
        return Ok(());
    }
    run::step(&format!("rustup component add {component}"), Command::new("rustup").args(["component", "add", component]))
}

/// `cargo test` over the workspace, told where the binaries and the tools are.
pub fn harness(workspace: &Workspace, targets: &[&str], filter: &[String]) -> Result<Command> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).args(targets);
    let binaries = workspace.binaries();
    cargo.env("PODTAP_BIN_DIR", &binaries);
    if targets.contains(&"--test") && !run::is_root() {
        // Network namespaces and captures need root; only the test programs get it, cargo and its output stay the person's.
        cargo.arg("--config").arg(sudo_runner(&binaries)?);
    }
    if !filter.is_empty() {
        cargo.arg("--").args(filter);
    }
    Ok(cargo)
}

/// What tells tests how much to do, and sudo would drop.
const PASSED: [&str; 5] =
    ["PODTAP_CLUSTER_SEED", "PODTAP_CLUSTER_TESTS", "PODTAP_FAULTS_KILLS", "PODTAP_FAULTS_RATE", "PODTAP_FAULTS_SEED"];

fn sudo_runner(binaries: &Path) -> Result<String> {
    if !run::succeeds(Command::new("sudo").args(["-n", "true"])) {
        return Err(Failure::new(
            "tests with real servers make network namespaces, which needs root, and sudo asks for a password here. Run this line, \
             then try again:\n\n    sudo -v\n",
        ));
    }
    let words: Vec<String> = ["sudo".into(), "-n".into(), format!("--preserve-env={}", PASSED.join(",")), "env".into()]
        .into_iter()
        .chain(root_environment(binaries)?)
        .map(|word| format!("{word:?}"))
        .collect();
    Ok(format!("target.'cfg(all())'.runner=[{}]", words.join(",")))
}

/// What a program that sudo starts has to know of the person's environment, as `env` takes it.
pub fn root_environment(binaries: &Path) -> Result<Vec<String>> {
    let cache = match std::env::var("XDG_CACHE_HOME") {
        Ok(dir) if !dir.is_empty() => dir,
        _ => format!("{}/.cache", std::env::var("HOME").doing("reading HOME")?),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(vec![format!("PODTAP_BIN_DIR={}", binaries.display()), format!("XDG_CACHE_HOME={cache}"), format!("PATH={path}")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_harnesses_add_up() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 19 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.03s");
        tally.read("test tests::a_name ... ok");
        tally.read("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.03s");
        assert_eq!((tally.passed, tally.failed), (21, 3));
    }

    #[test]
    fn every_phase_runs_after_what_it_needs() {
        for (position, phase) in Phase::ALL.iter().enumerate() {
            for need in phase.needs() {
                assert!(Phase::ALL[..position].contains(need), "{phase:?} needs {need:?}");
            }
        }
        assert_eq!(Phase::ALL.len(), Phase::value_variants().len());
    }
}
