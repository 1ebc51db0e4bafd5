//! docs/schema.md lists the columns that the table of names makes; `PODTAP_BLESS=1` writes the list anew.

use std::fmt::Write as _;
use std::path::Path;

use podtap_wire::{FIELDS, opentelemetry};

const BEGIN: &str = "<!-- columns of requests, made from wire/src/record.rs -->\n";
const END: &str = "<!-- end of columns -->\n";

#[test]
fn the_schema_page_lists_every_column() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mut table = String::from("| column | type | unit | meaning | OpenTelemetry |\n|---|---|---|---|---|\n");
    for field in FIELDS {
        let attribute = opentelemetry(field.name).map(|name| format!("`{name}`")).unwrap_or_default();
        writeln!(table, "| `{}` | {} | {} | {} | {attribute} |", field.name, field.clickhouse_type, field.unit, field.meaning).unwrap();
    }
    let (before, rest) = page.split_once(BEGIN).expect("docs/schema.md has the mark before its columns");
    let (found, after) = rest.split_once(END).expect("docs/schema.md has the mark behind its columns");
    if std::env::var_os("PODTAP_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(found, table, "run PODTAP_BLESS=1 cargo test -p podtap-wire --test docs");
}
