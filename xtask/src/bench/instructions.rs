//! Instructions an exchange, counted by callgrind on made traffic: the same on every run, so that a change of one per cent is seen.
//!
//! Two captures of different length are read, and the difference is divided: what starting costs is in neither figure.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Section;
use crate::captures::RECIPES;
use crate::run::{Doing, Failure, Result, describe, say, spell};
use crate::traffic;
use crate::workspace::Workspace;

/// Exchanges in the shorter and in the longer capture.
const EXCHANGES: [u32; 2] = [4_000, 12_000];
/// Growth beyond which the comparison fails: compilers differ by less.
const TOLERANCE: f64 = 0.03;

fn baseline(workspace: &Workspace) -> PathBuf {
    workspace.root().join("xtask/baseline/instructions.txt")
}

/// Counts, compares with the committed figures, or with `save` replaces them.
pub fn measure(workspace: &Workspace, sidecar: &Path, save: bool) -> Result<Section> {
    let folder = workspace.output().join("bench/instructions");
    fs::create_dir_all(&folder).doing(format_args!("making {}", folder.display()))?;
    let file = baseline(workspace);
    let before = read(&fs::read_to_string(&file).unwrap_or_default());
    let mut now = BTreeMap::new();
    let mut rows = Vec::new();
    let mut grown = Vec::new();
    for recipe in RECIPES {
        let mut counts = [0; 2];
        for (count, exchanges) in counts.iter_mut().zip(EXCHANGES) {
            let capture = folder.join(format!("{}-{exchanges}.pcap", recipe.name));
            let output = BufWriter::new(File::create(&capture).doing(format_args!("making {}", capture.display()))?);
            let written = traffic::write(recipe.name, exchanges, output);
            written.ok_or_else(|| Failure(format!("no traffic is made like {}", recipe.name)))?.doing("writing made traffic")?;
            say(format_args!("==> callgrind: {}, {exchanges} exchanges", recipe.name));
            *count = count_instructions(sidecar, &capture, exchanges, &folder)?;
        }
        let each = counts[1].saturating_sub(counts[0]) / u64::from(EXCHANGES[1] - EXCHANGES[0]);
        let change = before.get(recipe.name).map(|known| each as f64 / (*known).max(1) as f64 - 1.0);
        if change.is_some_and(|change| change > TOLERANCE) {
            grown.push(recipe.name);
        }
        rows.push(vec![
            recipe.name.to_owned(),
            each.to_string(),
            before.get(recipe.name).map_or_else(|| "-".to_owned(), u64::to_string),
            change.map_or_else(|| "-".to_owned(), |change| format!("{:+.1} %", change * 100.0)),
        ]);
        now.insert(recipe.name.to_owned(), each);
    }
    if save {
        let lines: String = now.iter().map(|(name, each)| format!("{name} {each}\n")).collect();
        fs::create_dir_all(file.with_file_name("")).doing("making the folder of the figures")?;
        fs::write(&file, format!("{HEAD}{lines}")).doing(format_args!("writing {}", file.display()))?;
        say(format_args!("==> {}", file.display()));
    } else if !grown.is_empty() {
        return Err(Failure(format!("more instructions than in {}: {}\n{rows:#?}", file.display(), grown.join(", "))));
    }
    Ok(Section {
        title: "Instructions an exchange".to_owned(),
        remarks: vec!["callgrind, made traffic, `print -r F --quiet --stats`; `baseline` is xtask/baseline/instructions.txt.".to_owned()],
        head: vec!["traffic", "instructions", "baseline", "change"],
        rows,
    })
}

const HEAD: &str = "# Instructions an exchange (callgrind, release build); written by `cargo xtask bench --instructions --save`.\n";

fn read(text: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let (name, each) = line.split_once(' ')?;
        Some((name.to_owned(), each.trim().parse().ok()?))
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
}

fn count_instructions(sidecar: &Path, capture: &Path, exchanges: u32, folder: &Path) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", folder.join("callgrind.out").display()));
    command.arg(sidecar).args(["print", "--quiet", "--stats", "-r"]).arg(capture);
    let output = command.output().doing("starting valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Failure(format!("`{}` failed ({}):\n{said}", spell(&command), describe(output.status))));
    }
    // A decoder that finds less is not faster. MySQL's logins and PREPAREs come on top.
    let found = super::offline::records(&said).unwrap_or(0);
    if found < u64::from(exchanges) {
        return Err(Failure(format!("{}: {found} records of {exchanges} exchanges", capture.display())));
    }
    collected(&said).ok_or_else(|| Failure(format!("callgrind did not say what it collected:\n{said}")))
}

/// `==123== Collected : 4711`.
fn collected(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_figure_and_the_baseline_are_read() {
        assert_eq!(collected("==7== \n==7== Collected : 123456\n"), Some(123_456));
        assert_eq!(collected("==7== nothing\n"), None);
        let known = read("# a remark\nhttp-api 2500\nbroken\n");
        assert_eq!(known.get("http-api"), Some(&2500));
        assert_eq!(known.len(), 1);
    }
}
