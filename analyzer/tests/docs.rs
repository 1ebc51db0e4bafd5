//! docs/schema.md lists the columns of every table and view, and the retention that the program has (`PODTAP_BLESS=1` writes the
//! columns anew), docs/injection.md the annotations and reasons.

// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::path::Path;

use podtap_analyzer::inject::patch::Reason;
use podtap_analyzer::inject::tuning::ANNOTATIONS;
use podtap_analyzer::store::migrations::MIGRATIONS;
use podtap_analyzer::store::retention::KEPT;
use podtap_analyzer::store::rows::{FIGURE_MEANING, POSITION_MEANING, figure_columns, request_columns};
use podtap_analyzer::store::views::VIEWS;
use podtap_wire::opentelemetry;

/// What stands between marks in the page: the mark's words, and the table.
fn sections() -> Vec<(String, String)> {
    let mut figures = String::from("| column | type | unit | meaning | OpenTelemetry |\n|---|---|---|---|---|\n");
    for ((name, kind), (_, meaning)) in figure_columns().iter().zip(&FIGURE_MEANING) {
        let attribute = opentelemetry(name).map(|name| format!("`{name}`")).unwrap_or_default();
        writeln!(figures, "| `{name}` | {kind} | {} | {meaning} | {attribute} |", unit(name, kind)).unwrap();
    }
    let mut positions = String::from("| column | type | meaning |\n|---|---|---|\n");
    for (name, meaning) in POSITION_MEANING {
        let (_, kind) = request_columns().into_iter().find(|(column, _)| *column == name).unwrap();
        writeln!(positions, "| `{name}` | {kind} | {meaning} |").unwrap();
    }
    let mut others = String::new();
    for table in ["ingest_blocks", "sidecar_counters", "alarms", "rollup_spans", "address_owners", "address_watches", "container_samples"] {
        write!(others, "**`{table}`**\n\n| column | type | unit | meaning |\n|---|---|---|---|\n").unwrap();
        for (name, kind, meaning) in columns_of(table) {
            writeln!(others, "| `{name}` | {kind} | {} | {meaning} |", unit(&name, &kind)).unwrap();
        }
        others.push('\n');
    }
    let mut views = String::new();
    for (view, _, columns) in VIEWS {
        write!(views, "**`{view}`**\n\n| column | type | unit | meaning |\n|---|---|---|---|\n").unwrap();
        for (name, kind, unit, meaning) in columns {
            writeln!(views, "| `{name}` | {kind} | {unit} | {meaning} |").unwrap();
        }
        views.push('\n');
    }
    let named = |name: &str, from: &str, text| (format!("columns of {name}, made from {from}"), text);
    vec![
        named("figures", "analyzer/src/store/rows.rs", figures),
        named("places in the log", "analyzer/src/store/rows.rs", positions),
        named("other tables", "analyzer/src/store/schema", others),
        named("views", "analyzer/src/store/views.rs", views),
    ]
}

fn unit(name: &str, kind: &str) -> &'static str {
    match name {
        _ if kind.starts_with("DateTime64(3") => "ms",
        _ if name.ends_with("_ns_sum") || name.ends_with("_ns_max") => "ns",
        _ if name.ends_with("_bytes") || name.ends_with("_bytes_total") => "By",
        _ if name.contains("_seconds") => "s",
        "first_at" | "last_at" | "resolved_at" | "time" | "first_message_time" | "last_message_time" => "ns",
        _ if ["UInt64", "Map(UInt16, UInt64)", "Map(String, UInt64)"].contains(&kind) => "1",
        _ => "",
    }
}

/// Name, type and comment of each column, as the schema's files have them.
fn columns_of(table: &str) -> Vec<(String, String, String)> {
    let statements: Vec<_> = MIGRATIONS.iter().flat_map(|migration| migration.statements("podtap")).collect();
    let (made, added) = (format!("CREATE TABLE IF NOT EXISTS `podtap`.{table}\n"), format!("ALTER TABLE `podtap`.{table}\n"));
    let mut columns = Vec::new();
    for statement in statements.iter().filter(|statement| statement.starts_with(&made) || statement.starts_with(&added)) {
        for line in statement.lines().filter(|line| line.contains(" COMMENT '")) {
            let line = line.trim().trim_start_matches("ADD COLUMN IF NOT EXISTS ");
            let (definition, comment) = line.split_once(" COMMENT '").unwrap();
            let (name, kind) = definition.split_once(' ').unwrap();
            // A comment ends with a quote that is not one of two.
            let comment = comment.replace("''", "\0");
            let comment = comment.split('\'').next().unwrap().replace('\0', "'");
            columns.push((name.to_owned(), kind.split(" DEFAULT").next().unwrap().to_owned(), comment));
        }
    }
    columns
}

#[test]
fn the_schema_page_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema.md");
    let mut page = std::fs::read_to_string(&path).unwrap();
    let bless = std::env::var_os("PODTAP_BLESS").is_some();
    for (words, table) in sections() {
        let (begin, end) = (format!("<!-- {words} -->\n"), format!("<!-- end of {} -->\n", words.split(',').next().unwrap()));
        let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("docs/schema.md has no {begin}"));
        let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("docs/schema.md has no {end}"));
        if !bless {
            assert_eq!(found, table, "run PODTAP_BLESS=1 cargo test --workspace --test docs");
        }
        page = format!("{before}{begin}{table}{end}{after}");
    }
    if bless {
        std::fs::write(&path, page).unwrap();
        return;
    }
    for kept in KEPT {
        let row = format!("| `{}` | {} |", kept.name, kept.days);
        assert!(page.contains(&row), "docs/schema.md does not say {row}");
    }
}

#[test]
fn the_injection_page_is_true() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/injection.md")).unwrap();
    for annotation in ANNOTATIONS {
        let row = format!("| `{}` | {} | {} |", annotation.name, annotation.values, annotation.meaning);
        assert!(page.contains(&row), "docs/injection.md does not say {row}");
    }
    for reason in Reason::ALL {
        assert!(page.contains(&format!("`{}`", reason.as_str())), "docs/injection.md does not say {}", reason.as_str());
    }
}

#[test]
fn every_column_is_documented() {
    for (table, expect) in [("ingest_blocks", 25), ("sidecar_counters", 9), ("alarms", 18), ("rollup_spans", 6), ("container_samples", 23)]
    {
        let columns = columns_of(table);
        assert!(columns.len() >= expect - 1, "{table}: {columns:?}");
        assert!(columns.iter().all(|(name, kind, meaning)| !name.is_empty() && !kind.is_empty() && meaning.ends_with('.')), "{columns:?}");
    }
}
