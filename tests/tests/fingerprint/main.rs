//! Fingerprints beside those of the real pt-fingerprint (percona-toolkit): statements of every shape, and those of our own captures.
//!
//! A difference must be of a kind that [`differences::KINDS`] lists; the kinds are counted, so that a list longer than need be shows too.

mod differences;
mod generator;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use podtap_tests::process::{Spec, run_to_end};
use podtap_tests::run::{Run, binary, program};
use podtap_tests::{Context, Result};
use serde_json::{Value, json};

const SEED: u64 = 20_240_506;
/// How many different statements are made.
const STATEMENTS: usize = 6_000;
/// How many statements of our captures there are at least.
const CAPTURED: usize = 40;
/// At most one in this many may differ at all: most statements hold nothing that is listed.
const DIFFERING: usize = 8;
const LIMIT: Duration = Duration::from_secs(120);

/// Loads pt-fingerprint as the module that it also is: its reader skips statements that begin with a comment or a parenthesis.
const MODULE: &str = r#"
require(shift @ARGV);
my $rewriter = QueryRewriter->new(QueryParser => QueryParser->new);
while (my $line = <STDIN>) {
    chomp $line;
    my $query = pack('H*', $line);
    $query =~ s/^\s+//;
    print unpack('H*', $rewriter->fingerprint($query)), "\n";
}
"#;

#[test]
fn fingerprints_equal_those_of_pt_fingerprint() -> Result<()> {
    let run = Run::start()?;
    let mut statements: BTreeSet<String> = captured(&run)?;
    assert!(statements.len() >= CAPTURED, "only {} statements in the captures", statements.len());
    let mut generator = generator::Generator::new(SEED);
    while statements.len() < STATEMENTS {
        statements.insert(generator.statement());
    }
    let statements: Vec<String> = statements.into_iter().collect();
    let ours = ours(&run, &statements)?;
    let theirs = module(&run, &statements)?;

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unexplained = Vec::new();
    for ((statement, ours), theirs) in statements.iter().zip(&ours).zip(&theirs) {
        if ours == theirs {
            continue;
        }
        let kinds = differences::kinds(statement);
        let trimmed = theirs.trim_end_matches([' ', ';', '\n']);
        match kinds.first() {
            _ if ours == trimmed => *counts.entry("end").or_default() += 1,
            Some(kind) => *counts.entry(kind).or_default() += 1,
            None => unexplained.push(format!("{statement:?}\n  there {theirs:?}\n  here  {ours:?}")),
        }
    }
    let shown: Vec<&str> = unexplained.iter().take(10).map(String::as_str).collect();
    assert!(shown.is_empty(), "seed {SEED}: {} differences of no listed kind:\n{}", unexplained.len(), shown.join("\n"));
    let differing: usize = counts.values().sum();
    println!("{} different statements, {} equal, {differing} differ as listed: {counts:?}", statements.len(), statements.len() - differing);
    assert!(differing * DIFFERING <= statements.len(), "{differing} of {} differ: {counts:?}", statements.len());
    for (kind, reason) in differences::KINDS {
        assert!(counts.contains_key(kind), "no statement differs in the kind {kind:?} ({reason}): {counts:?}");
    }
    the_command_agrees_with_its_module(&run, &statements, &theirs)
}

/// The statements of our captures, as they were sent.
fn captured(run: &Run) -> Result<BTreeSet<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/mysql");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .context(format!("reading {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "pcap"))
        .collect();
    files.sort();
    let mut statements = BTreeSet::new();
    for file in files {
        let spec = Spec::new(binary("podtap-sidecar")?, ["print", "--json", "--unmask", "-r"]).argument(&file);
        let output = run_to_end(run, &spec, LIMIT)?;
        assert_eq!(output.code, 0, "{}: {}", file.display(), output.stderr);
        for line in output.stdout.lines() {
            let record: Value = serde_json::from_str(line).context(format!("a record: {line}"))?;
            statements.extend(record["db_query_text"].as_str().map(str::to_owned));
        }
    }
    Ok(statements)
}

/// What `podtap-sidecar fingerprint` answers.
fn ours(run: &Run, statements: &[String]) -> Result<Vec<String>> {
    let lines: String = statements.iter().map(|statement| format!("{}\n", json!({ "sql": statement }))).collect();
    let file = run.folder("statements")?.join("statements.jsonl");
    fs::write(&file, lines).context("writing the statements")?;
    let output = run_to_end(run, &Spec::new(binary("podtap-sidecar")?, ["fingerprint"]).argument(&file), LIMIT)?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let answers: Result<Vec<String>> = output
        .stdout
        .lines()
        .map(|line| {
            let answer: Value = serde_json::from_str(line).context(format!("an answer: {line}"))?;
            Ok(answer["fingerprint"].as_str().context(format!("an answer: {line}"))?.to_owned())
        })
        .collect();
    let answers = answers?;
    assert_eq!(answers.len(), statements.len());
    Ok(answers)
}

/// What pt-fingerprint's own function gives.
fn module(run: &Run, statements: &[String]) -> Result<Vec<String>> {
    let hexadecimal = |text: &String| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: String = statements.iter().map(|statement| hexadecimal(statement) + "\n").collect();
    let file = run.folder("statements")?.join("statements.hex");
    fs::write(&file, lines).context("writing the statements")?;
    let script = format!("open(STDIN, '<', shift @ARGV) or die;{MODULE}");
    let spec = Spec::new(program("perl", "perl")?, ["-e", &script]).argument(&file).argument(program("pt-fingerprint", "percona-toolkit")?);
    let output = run_to_end(run, &spec, LIMIT)?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let bytes = |line: &str| -> Option<Vec<u8>> {
        line.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
    };
    let answers: Option<Vec<String>> = output.stdout.lines().map(|line| String::from_utf8(bytes(line)?).ok()).collect();
    let answers = answers.context("an answer of pt-fingerprint is not hexadecimal UTF-8")?;
    assert_eq!(answers.len(), statements.len());
    Ok(answers)
}

/// The command itself, over a file, gives what its function gives, for all statements that its reader takes and that stay on one line.
fn the_command_agrees_with_its_module(run: &Run, statements: &[String], expected: &[String]) -> Result<()> {
    let fits = |statement: &str, answer: &str| {
        statement.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
            && !statement.contains(";\n")
            && !statement.contains("\n#")
            && !statement.ends_with(['\n', ';'])
            && !answer.contains('\n')
    };
    let fitting: Vec<(&String, &String)> = statements.iter().zip(expected).filter(|(statement, answer)| fits(statement, answer)).collect();
    let file = run.folder("statements")?.join("statements.sql");
    fs::write(&file, fitting.iter().map(|(statement, _)| format!("{statement};\n")).collect::<String>())
        .context("writing the statements")?;
    let output = run_to_end(run, &Spec::new(program("pt-fingerprint", "percona-toolkit")?, [&file]), LIMIT)?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let answers: Vec<&str> = output.stdout.split_terminator('\n').collect();
    assert_eq!(answers.len(), fitting.len());
    assert!(fitting.len() >= 4_000, "the command takes only {} of {}", fitting.len(), statements.len());
    for ((statement, expected), answer) in fitting.iter().zip(answers) {
        assert_eq!(answer, expected.as_str(), "{statement:?}");
    }
    println!("the command itself gave the same for {} of them", fitting.len());
    Ok(())
}
