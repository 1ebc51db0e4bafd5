//! docs/schema.md lists the columns of figures and the retention that the program has (`PODTAP_BLESS=1` writes the columns anew),
//! docs/injection.md the annotations and reasons.

use std::fmt::Write as _;
use std::path::Path;

use podtap_analyzer::inject::patch::Reason;
use podtap_analyzer::inject::tuning::ANNOTATIONS;
use podtap_analyzer::store::retention::KEPT;
use podtap_analyzer::store::rows::{FIGURE_MEANING, figure_columns};

const BEGIN: &str = "<!-- columns of figures, made from analyzer/src/store/rows.rs -->\n";
const END: &str = "<!-- end of columns of figures -->\n";

#[test]
fn the_schema_page_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mut table = String::from("| column | type | meaning |\n|---|---|---|\n");
    for ((name, kind), (_, meaning)) in figure_columns().iter().zip(&FIGURE_MEANING) {
        writeln!(table, "| `{name}` | {kind} | {meaning} |").unwrap();
    }
    let (before, rest) = page.split_once(BEGIN).expect("docs/schema.md has the mark before its columns of figures");
    let (found, after) = rest.split_once(END).expect("docs/schema.md has the mark behind its columns of figures");
    if std::env::var_os("PODTAP_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(found, table, "run PODTAP_BLESS=1 cargo test --workspace --test docs");
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
    // What is no pod never comes from an API server.
    for reason in Reason::ALL.into_iter().filter(|reason| *reason != Reason::Malformed) {
        assert!(page.contains(&format!("`{}`", reason.as_str())), "docs/injection.md does not say {}", reason.as_str());
    }
}
