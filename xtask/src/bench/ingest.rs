//! What counting costs, from Kafka to stored histograms, and how long the documented questions take.
//!
//! Builds the analyzer, the endpoint and the generator in the release profile and runs `podtap-ingest-bench` of the tests package, which
//! starts the servers; its output is the section.

use std::process::Command;

use crate::run::{self, Result};
use crate::tools::{self, Cache, apt};
use crate::workspace::Workspace;

pub fn measure(workspace: &Workspace, cache: &Cache, quick: bool, only_history: bool) -> Result<String> {
    apt::ensure("bench --ingest", &[apt::BUILD, apt::SERVERS].concat())?;
    tools::chdb(cache)?;
    tools::kafka(cache)?;
    let mut build = workspace.cargo();
    build.args(["build", "--release", "-p", "podtap-analyzer", "-p", "podtap-tests", "--bins"]);
    run::show("the analyzer and the generator, release profile", &mut build)?;
    let folder = workspace.target().join("release");
    let mut bench = Command::new(folder.join("podtap-ingest-bench"));
    bench.env("PODTAP_BIN_DIR", &folder);
    let (records, hours) = if only_history {
        (0, 0)
    } else if quick {
        (400_000, 1)
    } else {
        (8_000_000, 24)
    };
    bench.args([format!("--records={records}"), format!("--pod-hours={hours}")]);
    if quick {
        bench.args(["--stored=2000000", "--days=3"]);
    }
    run::say("==> from Kafka to stored histograms, and questions: takes a while");
    run::capture(&mut bench)
}
