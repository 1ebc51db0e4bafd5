//! How many exchanges one core decodes in a second, from captures, beside other tools.
//!
//! Every tool runs pinned to the same core, in turn, on a file that is in memory. Its output goes to a file, from which its exchanges
//! are counted: a tool that finds fewer than are there is not faster.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::measure::{self, Cost};
use super::{Section, megabytes, thousands};
use crate::account::Account;
use crate::captures::{Protocol, RECIPES, Recipe};
use crate::run::{self, Doing, Failure, Result, say};

/// The slow ones get fewer rounds; their figures are far from anybody else's.
const PEER_ROUNDS: usize = 3;

struct Tool {
    name: &'static str,
    note: &'static str,
    /// The command for a capture, and a scratch folder; `None` where the tool does not read the protocol or is not here.
    command: fn(&Recipe, &Path, &Path, &Path) -> Option<Command>,
    /// Exchanges that it found, from what it wrote.
    exchanges: fn(&Output) -> Option<u64>,
}

/// What a tool wrote.
struct Output {
    scratch: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

const TOOLS: &[Tool] = &[
    Tool { name: "podtap", note: "pairs, latency", command: podtap, exchanges: podtap_records },
    Tool { name: "tshark", note: "HTTP: pairs, latency; MySQL: commands, no latency", command: tshark, exchanges: lines },
    Tool { name: "httpry", note: "a line a message, no pairing", command: httpry, exchanges: httpry_requests },
    Tool { name: "suricata", note: "pairs, no latency", command: suricata, exchanges: eve_lines },
];

pub fn measure(captures: &Path, sidecar: &Path, rounds: usize) -> Result<Section> {
    let scratch = captures.join(".scratch");
    let mut rows = Vec::new();
    for recipe in RECIPES {
        let capture = captures.join(recipe.name).with_extension("pcap");
        let bytes = capture.metadata().doing(format_args!("looking at {}", capture.display()))?.len();
        // Into the page cache, so that nobody pays for the disk; not into this process, whose memory a child's peak begins with.
        run::capture(Command::new("dd").arg(format!("if={}", capture.display())).args(["of=/dev/null", "bs=1M"]))?;
        let mut ours = None;
        for tool in TOOLS {
            let rounds = if tool.name == "podtap" { rounds } else { rounds.min(PEER_ROUNDS) };
            let Some(result) = several(tool, recipe, &capture, sidecar, &scratch, rounds)? else { continue };
            let rate = result.exchanges as f64 / result.wall;
            let ours = *ours.get_or_insert(rate);
            rows.push(vec![
                recipe.name.to_owned(),
                format!("{} ({})", tool.name, tool.note),
                result.exchanges.to_string(),
                format!("{:.3}", result.wall),
                format!("{:.1} %", result.spread * 100.0),
                thousands(rate),
                format!("{:.0}", bytes as f64 / 1e6 / result.wall),
                format!("{:.2}", result.cpu * 1e6 / result.exchanges.max(1) as f64),
                megabytes(result.peak),
                format!("{:.1}", ours / rate),
            ]);
        }
    }
    if scratch.exists() {
        fs::remove_dir_all(&scratch).doing("removing the scratch folder")?;
    }
    Ok(Section {
        title: "Decoding captures, one core".to_owned(),
        remarks: vec!["Medians; `spread` is half of the distance between the extremes. `podtap is` times as fast.".to_owned()],
        head: vec!["capture", "tool", "exchanges", "s", "spread", "exchanges/s", "MB/s", "us CPU each", "peak memory", "podtap is"],
        rows,
    })
}

struct Figures {
    exchanges: u64,
    wall: f64,
    spread: f64,
    cpu: f64,
    peak: f64,
}

fn several(tool: &Tool, recipe: &Recipe, capture: &Path, sidecar: &Path, scratch: &Path, rounds: usize) -> Result<Option<Figures>> {
    let mut costs: Vec<Cost> = Vec::new();
    let mut exchanges = 0;
    for _ in 0..rounds {
        if scratch.exists() {
            fs::remove_dir_all(scratch).doing("emptying the scratch folder")?;
        }
        fs::create_dir_all(scratch).doing("making the scratch folder")?;
        let Some(command) = (tool.command)(recipe, capture, sidecar, scratch) else { return Ok(None) };
        let output = Output { scratch: scratch.to_owned(), stdout: scratch.join(".stdout"), stderr: scratch.join(".stderr") };
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", "0"]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        pinned.stdout(File::create(&output.stdout).doing("making a file for output")?);
        pinned.stderr(File::create(&output.stderr).doing("making a file for output")?);
        say(format_args!("==> {}: {}", recipe.name, tool.name));
        let said = || fs::read_to_string(&output.stderr).unwrap_or_default();
        costs.push(measure::cost(&mut pinned).map_err(|f| Failure(format!("{f}\n{}", said().trim_end())))?);
        exchanges = (tool.exchanges)(&output)
            .ok_or_else(|| Failure(format!("{}: cannot tell how many exchanges {} found:\n{}", recipe.name, tool.name, said())))?;
    }
    let of = |what: fn(&Cost) -> f64| costs.iter().map(what).collect::<Vec<f64>>();
    let wall = of(|c| c.wall_seconds);
    Ok(Some(Figures {
        exchanges,
        spread: measure::spread(&wall),
        wall: measure::median(&wall),
        cpu: measure::median(&of(|c| c.cpu_seconds)),
        peak: measure::median(&of(|c| c.peak_bytes as f64)),
    }))
}

fn podtap(_: &Recipe, capture: &Path, sidecar: &Path, _: &Path) -> Option<Command> {
    let mut command = Command::new(sidecar);
    command.args(["print", "--quiet", "--stats", "-r"]).arg(capture);
    Some(command)
}

fn podtap_records(output: &Output) -> Option<u64> {
    records(&fs::read_to_string(&output.stderr).ok()?)
}

/// The records of all protocols in the account that `--stats` prints last.
pub fn records(said: &str) -> Option<u64> {
    Account::last_in(said)?.sum("podtap_records_total")
}

fn tshark(recipe: &Recipe, capture: &Path, _: &Path, _: &Path) -> Option<Command> {
    let mut command = Command::new(run::find_program("tshark")?);
    command.arg("-n").arg("-r").arg(capture).args(["-Y"]);
    match recipe.protocol {
        Protocol::Http => {
            command.args(["tcp && http.response", "-T", "fields", "-e", "frame.time_epoch", "-e", "tcp.stream"]);
            command.args(["-e", "http.request_in", "-e", "http.time", "-e", "http.response.code", "-e", "http.response_for.uri"]);
        }
        Protocol::Mysql => {
            command.args(["mysql.command", "-T", "fields", "-e", "frame.time_epoch", "-e", "tcp.stream"]);
            command.args(["-e", "mysql.command", "-e", "mysql.query"]);
        }
    }
    Some(command)
}

fn lines(output: &Output) -> Option<u64> {
    let text = fs::read(&output.stdout).ok()?;
    u64::try_from(text.iter().filter(|b| **b == b'\n').count()).ok()
}

fn httpry(recipe: &Recipe, capture: &Path, _: &Path, scratch: &Path) -> Option<Command> {
    let program = run::find_program("httpry").filter(|_| recipe.protocol == Protocol::Http)?;
    let mut command = Command::new(program);
    command.args(["-q", "-r"]).arg(capture).arg("-o").arg(scratch.join("httpry.txt"));
    Some(command)
}

/// It writes a line for each request (`>`) and each response (`<`).
fn httpry_requests(output: &Output) -> Option<u64> {
    let text = String::from_utf8_lossy(&fs::read(output.scratch.join("httpry.txt")).ok()?).into_owned();
    u64::try_from(text.lines().filter(|l| l.split('\t').any(|f| f == ">")).count()).ok()
}

/// Without rules, and reassembling to the end of each stream: with its default depth it would leave a part out.
const SURICATA: &str = "%YAML 1.1
---
outputs:
  - eve-log:
      enabled: yes
      filetype: regular
      filename: eve.json
      types:
        - http:
            extended: yes
stats:
  enabled: no
app-layer:
  protocols:
    http:
      enabled: yes
stream:
  reassembly:
    depth: 0
";

fn suricata(recipe: &Recipe, capture: &Path, _: &Path, scratch: &Path) -> Option<Command> {
    let program = run::find_program("suricata").filter(|_| recipe.protocol == Protocol::Http)?;
    let (settings, rules) = (scratch.join("suricata.yaml"), scratch.join("empty.rules"));
    fs::write(&settings, SURICATA).and_then(|()| fs::write(&rules, "")).ok()?;
    let mut command = Command::new(program);
    command.arg("-c").arg(settings).arg("-S").arg(rules).args(["-k", "none", "--runmode=single", "-r"]).arg(capture);
    command.arg("-l").arg(scratch);
    Some(command)
}

fn eve_lines(output: &Output) -> Option<u64> {
    lines(&Output { scratch: PathBuf::new(), stdout: output.scratch.join("eve.json"), stderr: PathBuf::new() })
}

#[cfg(test)]
mod tests {
    use super::records;

    #[test]
    fn the_number_of_records_is_read_from_the_stats() {
        let account = "{\"podtap_packets_received_total\":9,\"podtap_records_total\":{\"http\":120,\"mysql\":3},\"podtap_x\":{}}";
        assert_eq!(records(&format!("a message\n{account}\n")), Some(123));
        assert_eq!(records("{\"podtap_records_total\":{}}"), Some(0));
        assert_eq!(records("{\"podtap_packets_received_total\":9}"), None);
        assert_eq!(records("error: no such file"), None);
    }
}
