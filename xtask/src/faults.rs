//! `cargo xtask faults`: the long form of the fault tests, with as many kills as asked for and any seed.
//!
//! Guarantee: the same code as in `cargo xtask test`, so what fails here can be tried there. Not for a machine that does something else:
//! it is loaded for as long as it takes.

use std::time::Instant;

use clap::Args;

use crate::phases;
use crate::run::{self, Result, say};
use crate::tools::Cache;
use crate::workspace::Workspace;

#[derive(Args)]
pub struct Options {
    /// Random kills over Kafka; over gRPC and of the sidecar under traffic there are half as many, and some named ones in each
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Of everything random; the same seed gives the same order of kills and the same records, but for the time that everything takes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Batches a second of each of the eight senders
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Only the tests whose name holds this: kafka, grpc, fit, sidecar
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

pub fn faults(workspace: &Workspace, cache: &Cache, options: &Options) -> Result<()> {
    phases::everything_for_tests(workspace, cache)?;
    run::show("the workspace", workspace.cargo().args(["build", "--workspace", "--lib", "--bins", "--tests"]))?;
    let filter: Vec<String> = options.only.iter().cloned().chain(["--nocapture".to_owned(), "--test-threads=1".to_owned()]).collect();
    let mut test = phases::harness(workspace, &["--test", "faults"], &filter)?;
    test.env("PODTAP_FAULTS_KILLS", options.kills.to_string());
    test.env("PODTAP_FAULTS_SEED", options.seed.to_string());
    test.env("PODTAP_FAULTS_RATE", options.rate.to_string());
    let started = Instant::now();
    run::show(&format!("faults: {} kills, seed {}", options.kills, options.seed), &mut test)?;
    say(format_args!("==> every bucket was as it should be, after {:.0} s", started.elapsed().as_secs_f64()));
    Ok(())
}
