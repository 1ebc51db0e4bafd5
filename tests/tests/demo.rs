//! The demo ends with success when it has shown everything, and leaves nothing: neither then, nor when it was killed half way.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use podtap_tests::process::{Process, Spec, run_to_end};
use podtap_tests::run::{Run, binary, leftovers};
use podtap_tests::system::alone;
use podtap_tests::{Context, Failure, Result, wait};

/// Long enough for windows, the deployment that goes wrong, and the alarm.
const DURATION: &str = "60s";

/// Waits until nothing is there that belongs to a run whose process has ended.
fn must_leave_nothing() -> Result<()> {
    wait::until_true("nothing is left of the demo", Duration::from_secs(20), || match leftovers()? {
        left if left.is_empty() => Ok(true),
        left => Err(Failure(format!("left: {left:#?}"))),
    })
}

#[test]
fn it_shows_everything_and_leaves_nothing_also_after_it_was_killed() -> Result<()> {
    let _alone = alone();
    let run = Run::start()?;
    let files = temporary_files()?;

    // Killed half way: its children die with it, what it could not remove waits for the next start.
    let demo = Process::start(&run, "killed-demo", &Spec::new(binary("podtap-demo")?, ["--duration", DURATION]))?;
    demo.until("the demo shows its table", Duration::from_secs(90), || Ok(demo.log().contains("SIDECAR").then_some(())))?;
    demo.kill()?;
    assert!(!leftovers()?.is_empty(), "killed, the demo cannot have removed its namespace");

    let output = run_to_end(&run, &Spec::new(binary("podtap-demo")?, ["--duration", DURATION]), Duration::from_secs(200))?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    for part in ["GET /items/{id}", "SIDECAR", "PaymentsFailing", "\"version\":\"4\"", "curl", "✓"] {
        assert!(output.stdout.contains(part), "{part:?} is not in: {}", output.stdout);
    }
    assert!(!output.stdout.contains('\x1b'), "no colours and no cursor movements where there is no terminal");
    must_leave_nothing()?;

    // Ctrl-C is an orderly end too.
    let demo = Process::start(&run, "interrupted-demo", &Spec::new(binary("podtap-demo")?, Vec::<&str>::new()))?;
    demo.until("the demo shows its table", Duration::from_secs(90), || Ok(demo.log().contains("SIDECAR").then_some(())))?;
    demo.signal(libc::SIGINT);
    assert_eq!(demo.wait(Duration::from_secs(40))?.code(), Some(0), "{}", demo.log_tail());
    must_leave_nothing()?;
    assert_eq!(temporary_files()?, files);
    Ok(())
}

#[test]
fn it_shows_everything_through_kafka_too() -> Result<()> {
    let _alone = alone();
    let run = Run::start()?;
    let spec = Spec::new(binary("podtap-demo")?, ["--kafka", "--duration", DURATION]);
    let output = run_to_end(&run, &spec, Duration::from_secs(240))?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    for part in ["Kafka", "GET /items/{id}", "SIDECAR", "PaymentsFailing", "\"version\":\"4\"", "✓"] {
        assert!(output.stdout.contains(part), "{part:?} is not in: {}", output.stdout);
    }
    must_leave_nothing()
}

/// Names in the folder for temporary files that a part of the demo might have made.
fn temporary_files() -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(std::env::temp_dir()).context("reading the folder for temporary files")?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    Ok(names.filter(|name| ["podtap", "chdb", "kafka", "hsperf", "nginx", "mysql"].iter().any(|part| name.contains(part))).collect())
}
