//! `cargo xtask fuzz`: builds the fuzz targets with coverage and runs them.
//!
//! Guarantee: exit status 0 only when every target ran its time without a finding; a finding is kept as a file and named with the line
//! that repeats it. The compiler's own coverage pass and libFuzzer do the work; cargo-fuzz is not needed, though it finds the same
//! targets. Misuse to avoid: committing what lies in the working corpus instead of what `--keep` chose from it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::{self, Doing, Failure, Result, say};
use crate::tools::apt;
use crate::workspace::Workspace;

/// Longest input that is tried: more than a message and its answer.
const MAX_INPUT_BYTES: usize = 16 << 10;
/// An input that takes longer hangs.
const INPUT_SECONDS: u32 = 10;
/// A process that grows beyond this leaks, or lets a peer decide how much it takes.
const MEMORY_MIB: u32 = 1024;
/// What is committed of one target, and the longest input of it.
const KEPT_BYTES: u64 = 100 << 10;
const KEPT_INPUT_BYTES: u64 = 4 << 10;
const PULSE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub struct Options {
    /// These targets; without names all, one after the other
    targets: Vec<String>,
    /// How long for each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Choose the smallest inputs that reach what was reached, and put them into fuzz/corpus
    #[arg(long)]
    keep: bool,
}

/// What one run came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    coverage: u64,
    inputs: u64,
    peak_mib: u64,
}

impl Figures {
    /// Takes a line of libFuzzer: `#123 NEW cov: 45 ft: 67 corp: 8/90b ...` or `stat::peak_rss_mb: 12`.
    fn read(&mut self, line: &str) {
        let number = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok());
        let after = |name: &str| line.split_once(name).and_then(|(_, rest)| number(rest.trim_start()));
        for (name, figure) in [
            ("stat::number_of_executed_units:", &mut self.executions),
            ("stat::peak_rss_mb:", &mut self.peak_mib),
            (" cov: ", &mut self.coverage),
            (" corp: ", &mut self.inputs),
        ] {
            if let Some(value) = after(name) {
                *figure = value;
            }
        }
    }
}

/// Builds all targets, runs the named ones and prints a table.
pub fn fuzz(workspace: &Workspace, options: &Options) -> Result<()> {
    let known = names(workspace)?;
    if let Some(wrong) = options.targets.iter().find(|name| !known.contains(name)) {
        return Err(Failure(format!("no fuzz target `{wrong}`; there are {}", known.join(", "))));
    }
    apt::ensure("fuzzing", apt::BUILD)?;
    let programs = build(workspace)?;
    let chosen = if options.targets.is_empty() { &known } else { &options.targets };
    let mut rows = Vec::new();
    for name in chosen {
        let target = Target::new(workspace, &programs, name)?;
        let started = Instant::now();
        let figures = target.run(options.seconds)?;
        rows.push((name, started.elapsed(), figures));
        if options.keep {
            target.keep()?;
        }
    }
    println!("{:<12} {:>8} {:>14} {:>9} {:>7} {:>9}", "target", "seconds", "executions", "coverage", "inputs", "peak MiB");
    for (name, took, figures) in rows {
        let Figures { executions, coverage, inputs, peak_mib } = figures;
        println!("{name:<12} {:>8} {executions:>14} {coverage:>9} {inputs:>7} {peak_mib:>9}", took.as_secs());
    }
    Ok(())
}

/// One for each file in `fuzz/fuzz_targets`.
fn names(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root().join("fuzz/fuzz_targets");
    let mut names: Vec<String> =
        files(&folder)?.iter().filter_map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).doing(format_args!("reading {}", folder.display()))?;
    entries.map(|entry| entry.map(|entry| entry.path()).doing("reading a folder")).collect()
}

/// Stable Rust has the pass that counts edges; only cargo-fuzz's address sanitizer, of no use without unsafe code, would need nightly.
fn coverage_flags() -> String {
    let passes =
        ["level=4", "inline-8bit-counters", "pc-table", "trace-compares"].map(|flag| format!("-Cllvm-args=-sanitizer-coverage-{flag}"));
    format!("-Cpasses=sancov-module {}", passes.join(" "))
}

/// The folder with the programs.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let said = run::capture(Command::new("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).ok_or_else(|| Failure::new("rustc does not name its host"))?;
    // A folder of its own: other flags would build everything else anew. With --target, build scripts go without the flags.
    let target = workspace.target().join("fuzz");
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", host, "--target-dir"]).arg(&target);
    cargo.env("RUSTFLAGS", coverage_flags());
    run::show("the fuzz targets", &mut cargo)?;
    Ok(target.join(host).join("release"))
}

struct Target {
    name: String,
    program: PathBuf,
    /// Grows while it is fuzzed.
    working: PathBuf,
    committed: PathBuf,
    /// What once broke an invariant, kept by hand.
    regressions: PathBuf,
    findings: PathBuf,
}

impl Target {
    fn new(workspace: &Workspace, programs: &Path, name: &str) -> Result<Self> {
        let target = Self {
            name: name.to_owned(),
            program: programs.join(name),
            working: workspace.output().join("fuzz-corpus").join(name),
            committed: workspace.root().join("fuzz/corpus").join(name),
            regressions: workspace.root().join("fuzz/regressions").join(name),
            findings: workspace.output().join("fuzz-findings"),
        };
        for folder in [&target.working, &target.committed, &target.findings] {
            fs::create_dir_all(folder).doing(format_args!("making {}", folder.display()))?;
        }
        Ok(target)
    }

    fn run(&self, seconds: u64) -> Result<Figures> {
        say(format_args!("==> {}, {seconds} s", self.name));
        let mut command = Command::new(&self.program);
        command.args([&self.working, &self.committed]);
        if self.regressions.exists() {
            command.arg(&self.regressions);
        }
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={MAX_INPUT_BYTES}"));
        command.arg(format!("-timeout={INPUT_SECONDS}")).arg(format!("-rss_limit_mb={MEMORY_MIB}")).arg("-print_final_stats=1");
        command.arg(format!("-artifact_prefix={}/{}-", self.findings.display(), self.name));
        let spelled = run::spell(&command);
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().doing(format_args!("starting `{spelled}`"))?;
        let (mut figures, mut said, mut shown) = (Figures::default(), Vec::new(), Instant::now());
        if let Some(output) = child.stderr.take() {
            for line in BufReader::new(output).split(b'\n') {
                let line = String::from_utf8_lossy(&line.doing("reading libFuzzer's output")?).into_owned();
                figures.read(&line);
                if !line.starts_with('#') {
                    said.push(line);
                } else if shown.elapsed() >= PULSE {
                    say(format_args!("    {line}"));
                    shown = Instant::now();
                }
            }
        }
        let status = child.wait().doing(format_args!("waiting for `{spelled}`"))?;
        if status.success() {
            return Ok(figures);
        }
        let said: Vec<&str> = said.iter().filter(|line| !line.starts_with("INFO:")).map(String::as_str).collect();
        let finding = said.iter().rev().find_map(|line| line.split_once("Test unit written to ")).map_or("", |(_, path)| path);
        Err(Failure(format!(
            "{}: {}\n{}\n\nTo see it again:\n\n    {} {finding}\n",
            self.name,
            run::describe(status),
            said.join("\n"),
            self.program.display()
        )))
    }

    /// Replaces the committed inputs by the smallest that reach the same, as far as they fit.
    fn keep(&self) -> Result<()> {
        let chosen = self.working.with_extension("chosen");
        if chosen.exists() {
            fs::remove_dir_all(&chosen).doing(format_args!("removing {}", chosen.display()))?;
        }
        fs::create_dir_all(&chosen).doing(format_args!("making {}", chosen.display()))?;
        let mut merge = Command::new(&self.program);
        merge.arg("-merge=1").arg(format!("-max_len={KEPT_INPUT_BYTES}")).args([&chosen, &self.committed, &self.working]);
        run::step(&format!("the smallest inputs of {}", self.name), &mut merge)?;
        let size = |path: &PathBuf| fs::metadata(path).map_or(u64::MAX, |metadata| metadata.len());
        let mut inputs = files(&chosen)?;
        inputs.sort_by_key(|path| (size(path), path.clone()));
        for old in files(&self.committed)? {
            fs::remove_file(&old).doing(format_args!("removing {}", old.display()))?;
        }
        let mut total = 0;
        for input in inputs {
            total += size(&input);
            let (Some(name), true) = (input.file_name(), total <= KEPT_BYTES) else { break };
            fs::copy(&input, self.committed.join(name)).doing(format_args!("copying {}", input.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_libfuzzer_says() {
        let mut figures = Figures::default();
        figures.read("#2048\tpulse  cov: 412 ft: 1930 corp: 88/3112b lim: 33 exec/s: 1024 rss: 44Mb");
        figures.read("#9001\tDONE   cov: 520 ft: 2400 corp: 120/40Kb lim: 4096 exec/s: 900 rss: 61Mb");
        figures.read("stat::number_of_executed_units: 9001");
        figures.read("stat::peak_rss_mb:              63");
        figures.read("INFO: seed corpus: files: 3 min: 1b max: 2b total: 4b rss: 31Mb");
        assert_eq!(figures, Figures { executions: 9001, coverage: 520, inputs: 120, peak_mib: 63 });
    }
}
