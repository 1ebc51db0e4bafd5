//! Invariants of ARCHITECTURE.md that can be read off the code.

use super::Finding;
use super::source::Source;

/// Cores: everything in them is a function of its arguments. A name stands for the folder and for the file.
const PURE: &[&str] = &[
    "wire/src",
    "sidecar/src/packet",
    "sidecar/src/reassembly",
    "sidecar/src/protocol",
    "sidecar/src/record",
    "sidecar/src/pipeline",
    "analyzer/src/aggregate",
    "analyzer/src/alarm",
    "analyzer/src/inject/admission",
    "analyzer/src/inject/container",
    "analyzer/src/inject/manifest",
    "analyzer/src/inject/patch",
    "analyzer/src/inject/quantity",
    "analyzer/src/inject/tuning",
    "analyzer/src/inject/types",
    "analyzer/src/inject/workload",
    "analyzer/src/inject/yaml",
    "analyzer/src/ingest/kubernetes/intervals",
    "analyzer/src/ingest/kubernetes/object",
    "analyzer/src/ingest/cadvisor/samples",
    "analyzer/src/ingest/cadvisor/text",
];

/// Paths that do IO, spawn, read a clock or are random; a prefix up to a path's end or its next `::`.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os::unix::net",
    "thread::spawn",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "std::time::SystemTime",
    "std::time::Instant::now",
    "tokio",
    "rustix",
    "libc",
    "rand",
    "getrandom",
    "println",
    "eprintln",
    "print",
    "eprint",
    "dbg",
];

/// The five traits; a sixth has to be earned, and then be named here.
const TRAITS: &[(&str, &str)] = &[
    ("sidecar/src/capture/", "Source"),
    ("sidecar/src/protocol/", "Decoder"),
    ("sidecar/src/transport/", "Sink"),
    ("analyzer/src/store/", "Store"),
    ("analyzer/src/notify/", "Notifier"),
];

/// Most methods of one of them.
const TRAIT_METHODS: usize = 4;

pub fn is_pure(path: &str) -> bool {
    PURE.iter().any(|core| path.strip_prefix(core).is_some_and(|rest| rest.starts_with('/') || rest == ".rs"))
}

pub fn purity(source: &Source, found: &mut Vec<Finding>) {
    if !is_pure(&source.path) {
        return;
    }
    for (line, path) in source.paths() {
        // A clock is read whatever stands before its name.
        let clock = |banned: &str| banned.ends_with("::now") && path.ends_with(&format!("::{banned}"));
        let begins = |banned: &str| path == banned || path.strip_prefix(banned).is_some_and(|rest| rest.starts_with("::"));
        let banned = IMPURE.iter().find(|banned| begins(banned) || clock(banned));
        // `print` and its kin are macros; a function or field of that name is not meant.
        let macro_only = banned.is_some_and(|b| ["println", "eprintln", "print", "eprint", "dbg"].contains(b));
        let called = source.scan.code.lines().nth(line - 1).is_some_and(|code| code.contains(&format!("{path}!")));
        if let Some(banned) = banned.filter(|_| !macro_only || called)
            && !source.is_test(line)
        {
            let what = format!("`{banned}` in a core: no IO, no spawning, no clock, no randomness; `now` is an argument");
            found.push(Finding::new(&source.path, line, "pure-core", what));
        }
    }
}

/// Shipped code does not panic on purpose. Build scripts may: that is how they fail.
pub fn no_panics(source: &Source, found: &mut Vec<Finding>) {
    if source.path.ends_with("build.rs") {
        return;
    }
    for (line, code) in source.shipped_code() {
        for banned in [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!", "unreachable!"] {
            let word = |at: usize| code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if code.match_indices(banned).any(|(at, _)| banned.starts_with('.') || !word(at)) {
                found.push(Finding::new(&source.path, line, "no-panic", format!("`{banned}` outside tests")));
            }
        }
    }
}

pub fn no_ignored_tests(source: &Source, found: &mut Vec<Finding>) {
    for (line, code) in source.code() {
        if code.contains("#[ignore") {
            found.push(Finding::new(&source.path, line, "no-ignore", "an ignored test tests nothing".to_owned()));
        }
    }
}

pub fn kafka_stays_in_its_files(source: &Source, found: &mut Vec<Finding>) {
    let allowed = ["sidecar/src/transport/kafka", "analyzer/src/ingest/kafka"];
    let here = allowed.iter().any(|a| source.path.strip_prefix(a).is_some_and(|rest| rest.starts_with(['.', '/'])));
    names_crate(source, "rdkafka", here, "only transport/kafka and ingest/kafka know Kafka", "kafka", found);
}

pub fn json_stays_at_the_edge(source: &Source, found: &mut Vec<Finding>) {
    if !source.path.starts_with("analyzer/src/") && !is_pure(&source.path) {
        return;
    }
    // Pods are JSON to inject/; the embedded endpoint is another server's interface, formats included.
    let allowed =
        ["analyzer/src/api/", "analyzer/src/notify/", "analyzer/src/inject/", "analyzer/src/clickhouse_endpoint/", "analyzer/src/bin/"];
    let here = allowed.iter().any(|a| source.path.starts_with(a));
    names_crate(source, "serde_json", here, "only api/, inject/ and the bodies of notify/ know JSON", "json", found);
}

fn names_crate(source: &Source, name: &str, here: bool, why: &str, rule: &'static str, found: &mut Vec<Finding>) {
    if here {
        return;
    }
    for (line, path) in source.paths() {
        if path.split("::").next() == Some(name) && !source.is_test(line) {
            found.push(Finding::new(&source.path, line, rule, format!("`{name}` here: {why}")));
        }
    }
}

/// SQL that we send is text in store/ alone. The endpoint reads others' SQL and is left out.
pub fn sql_stays_in_store(source: &Source, found: &mut Vec<Finding>) {
    let inside = source.path.starts_with("analyzer/src/");
    let allowed = ["analyzer/src/store/", "analyzer/src/clickhouse_endpoint/", "analyzer/src/bin/"];
    if !inside || allowed.iter().any(|a| source.path.starts_with(a)) {
        return;
    }
    for (line, text) in &source.scan.strings {
        if is_statement(text) && !source.is_test(*line) {
            found.push(Finding::new(&source.path, *line, "sql", "SQL text here: only store/ knows SQL".to_owned()));
        }
    }
}

fn is_statement(text: &str) -> bool {
    let words: Vec<String> = text.split_whitespace().take(40).map(str::to_uppercase).collect();
    let then = |wanted: &[&str]| words.iter().skip(1).any(|w| wanted.contains(&w.as_str()));
    match words.first().map(String::as_str) {
        Some("SELECT") => words.len() > 1 && (then(&["FROM"]) || words.len() == 2),
        Some("INSERT") => words.get(1).is_some_and(|w| w == "INTO"),
        Some("CREATE" | "ALTER" | "DROP" | "TRUNCATE" | "OPTIMIZE") => {
            words.get(1).is_some_and(|w| ["TABLE", "DATABASE", "VIEW", "FUNCTION", "MATERIALIZED", "OR"].contains(&w.as_str()))
        }
        Some("WITH") => then(&["SELECT"]) && then(&["AS"]),
        _ => false,
    }
}

/// Traits and how many methods they have.
pub fn five_traits(source: &Source, found: &mut Vec<Finding>) {
    if !["sidecar/src/", "analyzer/src/", "wire/src/"].iter().any(|p| source.path.starts_with(p)) {
        return;
    }
    for (line, code) in source.shipped_code() {
        let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
        // A private one is a detail of its file.
        let declared = code.trim_start().starts_with("pub");
        let Some(name) = words.find(|w| *w == "trait").and_then(|_| words.next()).filter(|_| declared) else { continue };
        if !TRAITS.iter().any(|(folder, allowed)| source.path.starts_with(folder) && *allowed == name) {
            let what = format!("trait `{name}` is not one of the five; if it is earned, tidy's table names it");
            found.push(Finding::new(&source.path, line, "five-traits", what));
        }
        let methods = methods_of_trait(&source.scan.code, line);
        if methods > TRAIT_METHODS {
            let what = format!("trait `{name}` has {methods} methods, at most {TRAIT_METHODS}");
            found.push(Finding::new(&source.path, line, "five-traits", what));
        }
    }
}

/// Methods of the trait that is declared on a line, those with a body too; functions inside a body are none.
fn methods_of_trait(code: &str, line: usize) -> usize {
    let body: String = code.lines().skip(line - 1).collect::<Vec<_>>().join("\n");
    let (mut depth, mut methods) = (0_usize, 0);
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => break,
            '}' => depth -= 1,
            'f' if depth == 1 && body[at..].starts_with("fn ") && body[..at].ends_with(char::is_whitespace) => methods += 1,
            _ => {}
        }
    }
    methods
}
