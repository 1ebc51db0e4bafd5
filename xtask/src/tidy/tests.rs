//! Each rule fails on a sample that breaks it, at the right line, and passes on one that keeps it.

use super::*;

/// `expect`: rules with their lines.
fn check(path: &str, text: &str, expect: &[(&str, usize)]) {
    let mut found = Vec::new();
    limits::file_names(path, &mut found);
    check_text(path, text.to_owned(), &|p| p == Path::new("docs/there.md") || p == Path::new("README.md"), &mut found);
    let got: Vec<(&str, usize)> = found.iter().map(|f| (f.rule, f.line)).collect();
    assert_eq!(got, expect, "{path}\n{text}\n{found:#?}");
}

/// A Rust file with a header, so that samples start on line 2.
fn check_rust(path: &str, code: &str, expect: &[(&str, usize)]) {
    check(path, &format!("//! A sample for a rule.\n{code}"), expect);
}

#[test]
fn a_long_file_is_too_long_but_its_tests_do_not_count() {
    let lines = |n: usize| "const A: u8 = 0;\n".repeat(n);
    check_rust("sidecar/src/a.rs", &lines(limits::FILE_LINES - 1), &[]);
    check_rust("sidecar/src/a.rs", &lines(limits::FILE_LINES), &[("file-length", 1)]);
    check_rust("sidecar/src/a/tests.rs", &lines(limits::FILE_LINES), &[]);
    check_rust("sidecar/src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(limits::FILE_LINES)), &[]);
}

#[test]
fn a_long_function_is_too_long_unless_it_is_a_table_with_a_reason() {
    let function = |n: usize, comment: &str| format!("fn a() {{{comment}\n{}}}\n", "    b();\n".repeat(n));
    check_rust("sidecar/src/a.rs", &function(limits::FUNCTION_LINES - 2, ""), &[]);
    check_rust("sidecar/src/a.rs", &function(limits::FUNCTION_LINES - 1, ""), &[("function-length", 2)]);
    check_rust("sidecar/src/a.rs", &function(200, " // tidy: table, one row a command of the manual"), &[]);
    check_rust("sidecar/src/a.rs", &function(200, " // tidy: table,"), &[("function-length", 2)]);
    check_rust("sidecar/src/a.rs", &format!("#[test]\n{}", function(200, "")), &[]);
}

#[test]
fn names_that_say_nothing_are_refused() {
    check_rust("sidecar/src/utils.rs", "", &[("name", 1)]);
    check_rust("sidecar/src/core/a.rs", "", &[("name", 1)]);
    check_rust("sidecar/src/a.rs", "pub mod helpers;", &[("name", 2)]);
    check_rust("sidecar/src/a.rs", "pub mod scores;\n// mod utils", &[]);
}

#[test]
fn long_lines_are_refused_in_code_and_allowed_in_prose() {
    let line = |columns: usize| format!("// {}\n", "é".repeat(columns - 3));
    check_rust("wire/src/a.rs", &line(limits::COLUMNS), &[]);
    check_rust("wire/src/a.rs", &line(limits::COLUMNS + 1), &[("line-length", 2)]);
    check("docs/a.md", &line(300), &[]);
}

#[test]
fn cores_do_no_io_and_read_no_clock() {
    for bad in [
        "use std::fs;",
        "use std::{collections::HashMap, fs::File};",
        "fn f() { let t = std::time::Instant::now(); }",
        "fn f() { let t = Instant::now(); }",
        "fn f() { SystemTime::now(); }",
        "fn f() { time::SystemTime::now(); }",
        "use std::net::TcpStream;",
        "fn f() { std::thread::spawn(g); }",
        "use tokio::sync::mpsc;",
        "fn f() { rand::random::<u8>(); }",
        "fn f() { println!(\"{}\", 1); }",
    ] {
        for path in ["sidecar/src/packet/a.rs", "sidecar/src/pipeline.rs", "analyzer/src/alarm/a.rs", "wire/src/a.rs"] {
            check_rust(path, bad, &[("pure-core", 2)]);
        }
        check_rust("sidecar/src/eventloop.rs", bad, &[]);
        check_rust("sidecar/src/packet/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{bad}\n}}"), &[]);
    }
    check_rust("sidecar/src/packet/a.rs", "use std::net::{IpAddr, Ipv4Addr};\nuse std::time::{Duration, Instant};\n", &[]);
    check_rust("sidecar/src/packet/a.rs", "// Instant::now is not called\nconst A: &str = \"std::fs\";\nfn print() { print() }", &[]);
    check_rust("wire/build.rs", "use std::fs;", &[]);
}

#[test]
fn shipped_code_does_not_panic_on_purpose() {
    for bad in ["a.unwrap();", "a.expect(\"b\");", "panic!(\"a\");", "todo!();", "unimplemented!();", "unreachable!();"] {
        let function = format!("fn f() {{\n    {bad}\n}}");
        check_rust("analyzer/src/a.rs", &function, &[("no-panic", 3)]);
        check_rust("analyzer/src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n{function}\n}}"), &[]);
        check_rust("analyzer/tests/a.rs", &function, &[]);
        check_rust("tests/src/a.rs", &function, &[]);
    }
    check_rust("analyzer/src/a.rs", "fn f() {\n    a.unwrap_or_default();\n    a.expect_err(b);\n    \"x.unwrap()\";\n}", &[]);
    check_rust("analyzer/src/a.rs", "fn f() { resume_panic!(); }", &[]);
}

#[test]
fn ignored_tests_are_refused_everywhere() {
    check_rust("tests/tests/a.rs", "#[test]\n#[ignore]\nfn f() {}", &[("no-ignore", 3)]);
    check_rust("wire/src/a/tests.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}", &[("no-ignore", 3)]);
    check_rust("tests/tests/a.rs", "// #[ignore] is refused\n#[test]\nfn f() {}", &[]);
}

#[test]
fn kafka_json_and_sql_stay_where_they_belong() {
    let kafka = "use rdkafka::producer::BaseProducer;";
    check_rust("sidecar/src/transport/kafka.rs", kafka, &[]);
    check_rust("analyzer/src/ingest/kafka.rs", kafka, &[]);
    check_rust("sidecar/src/eventloop.rs", kafka, &[("kafka", 2)]);
    check_rust("analyzer/src/ingest/kafka_lag.rs", "fn f() { rdkafka::x(); }", &[("kafka", 2)]);

    let json = "fn f() { serde_json::to_string(&a) }";
    check_rust("analyzer/src/api/http.rs", json, &[]);
    check_rust("analyzer/src/notify/webhook.rs", json, &[]);
    check_rust("analyzer/src/inject/patch.rs", json, &[]);
    check_rust("analyzer/src/store/a.rs", json, &[("json", 2)]);
    check_rust("sidecar/src/protocol/a.rs", json, &[("json", 2)]);
    check_rust("sidecar/src/transport/print.rs", json, &[]);

    let sql = "const Q: &str = \"select a\n  from b\";";
    check_rust("analyzer/src/store/a.rs", sql, &[]);
    check_rust("analyzer/src/query/a.rs", sql, &[("sql", 2)]);
    check_rust("analyzer/src/api/a.rs", "f(\"INSERT INTO t VALUES\");", &[("sql", 2)]);
    check_rust("analyzer/src/api/a.rs", "f(\"select one of them\");\ng(\"Insert the coin\");\n", &[]);
    check_rust("analyzer/src/api/a.rs", "#[cfg(test)]\nmod tests {\nfn f() { g(\"SELECT 1\") }\n}", &[]);
    check_rust("sidecar/src/record/a.rs", sql, &[]);
}

#[test]
fn a_sixth_trait_has_to_be_earned() {
    check_rust("sidecar/src/capture/mod.rs", "pub trait Source {", &[]);
    check_rust("sidecar/src/protocol/a.rs", "pub trait Source {", &[("five-traits", 2)]);
    let methods = |count: usize| {
        format!("pub trait Source {{\n{}}}\nfn g() {{}}\n", "    fn f(&self) {\n        fn inner() {}\n    }\n".repeat(count))
    };
    check_rust("sidecar/src/capture/mod.rs", &methods(4), &[]);
    check_rust("sidecar/src/capture/mod.rs", &methods(5), &[("five-traits", 2)]);
    check_rust("analyzer/src/query/a.rs", "pub(crate) trait Clock: Send {", &[("five-traits", 2)]);
    check_rust("analyzer/src/query/a.rs", "impl<T> Clock for T {\n}\ntrait OfThisFile {", &[]);
}

#[test]
fn files_begin_with_a_header() {
    check("wire/src/a.rs", "use std::fmt;\n", &[("header", 1)]);
    check("wire/src/a.rs", "//!\nuse std::fmt;\n", &[("header", 1)]);
    check("wire/src/a/tests.rs", "use super::*;\n", &[]);
    check("wire/src/a.rs", "#![no_std]\n//! Says what it is for.\n", &[]);
}

#[test]
fn links_lead_somewhere() {
    check("README.md", "[a](docs/there.md) [b](docs/gone.md)\n[c](docs/there.md#part) [d](https://example.org/x)\n", &[("link", 1)]);
    check("docs/a.md", "[up](../README.md) [beside](there.md)\n[out](../../x.md)\n", &[("link", 2)]);
    check("docs/a.md", "`[code](gone.md)`\n```\n[fenced](gone.md)\n```\n[`name`](gone.md)\n", &[("link", 5)]);
}

#[test]
fn paths_of_one_machine_are_refused_in_any_text() {
    let own = |folder: &str| format!("cd /{folder}/someone/podtap\n");
    for folder in ["home", "root", "Users", "work"] {
        check("docs/a.md", &own(folder), &[("machine-path", 1)]);
        check("a.sh", &own(folder), &[("machine-path", 1)]);
    }
    check("a.sh", "cd ~/work/podtap; cat src/home/x $ROOT/root/y target/work/z\n", &[]);
}

#[test]
fn each_protocol_has_a_capture_and_a_section() {
    let rows = "const PROTOCOLS: &[Row] = &[\n    Row { name: \"http1\" },\n    Row { name: \"mysql\" },\n];\nf(\"x\");";
    let table = Source::new(PROTOCOL_TABLE, rows.to_owned());
    let check = |captures: &[&str], docs: &str, expect: &[usize]| {
        let captures: Vec<String> = captures.iter().map(|c| format!("tests/captures/{c}")).collect();
        let mut found = Vec::new();
        documents::protocols(&table, &captures, docs, &mut found);
        assert_eq!(found.iter().map(|f| f.line).collect::<Vec<_>>(), expect, "{found:#?}");
    };
    let captures = ["http1/keepalive.pcap", "http1/keepalive.jsonl", "mysql/text.pcap", "mysql/text.jsonl"];
    let docs = "# Protocols\n## HTTP/1.1\n## MySQL and MariaDB\n";
    check(&captures, docs, &[]);
    check(&captures[..2], docs, &[3]);
    check(&captures[..3], docs, &[3]);
    check(&["http1/keepalive.pcap", "http1/keepalive.jsonl", "http1/mysql.pcap", "http1/mysql.jsonl"], docs, &[3]);
    check(&captures, "## HTTP/1.1\nmysql", &[3]);
    check(&[], "", &[2, 2, 3, 3]);
    let mut found = Vec::new();
    documents::protocols(&Source::new(PROTOCOL_TABLE, String::new()), &[], "", &mut found);
    assert_eq!(found.len(), 1, "a table that cannot be found is no table without rows");
}
