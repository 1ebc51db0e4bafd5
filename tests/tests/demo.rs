//! The demo ends with success when it has shown everything, and leaves nothing: neither then, nor when it was killed half way.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use podtap_tests::process::{Process, Spec, run_to_end};
use podtap_tests::run::{Run, binary};
use podtap_tests::system::alone;
use podtap_tests::{Context, Result, wait};

/// Long enough for windows, the deployment that goes wrong, and the alarm.
const DURATION: &str = "60s";

/// Namespaces, interfaces, scratch folders of runs and processes that a demo may have made.
fn traces() -> Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    for folder in ["/run/netns", "/sys/class/net"] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        traces.extend(entries.filter_map(|entry| Some(entry.ok()?.path().display().to_string())));
    }
    for entry in fs::read_dir("/proc").context("reading /proc")?.filter_map(std::result::Result::ok) {
        let Ok(command) = fs::read(entry.path().join("cmdline")) else { continue };
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let ours = ["podtap-", "nginx: ", "mariadbd ", "kafka.Kafka"].iter().any(|name| command.contains(name));
        // Of a process only that it is there: the test itself is one, and so is whoever runs the tests.
        if ours && entry.file_name().to_string_lossy().parse::<u32>().is_ok_and(|pid| pid != std::process::id()) {
            traces.insert(format!("{} {command}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(traces)
}

/// Waits until there is nothing that was not there before.
fn must_leave_nothing(before: &BTreeSet<String>) -> Result<()> {
    wait::until_true("nothing is left of the demo", Duration::from_secs(20), || {
        let left: Vec<_> = traces()?.difference(before).cloned().collect();
        if left.is_empty() { Ok(true) } else { Err(podtap_tests::Failure(format!("left: {left:#?}"))) }
    })
}

#[test]
fn it_shows_everything_and_leaves_nothing_also_after_it_was_killed() -> Result<()> {
    let _alone = alone();
    let run = Run::start()?;
    let before = traces()?;
    let files = temporary_files()?;

    // Killed half way: its children die with it, what it could not remove waits for the next start.
    let demo = Process::start(&run, "killed-demo", &Spec::new(binary("podtap-demo")?, ["--duration", DURATION]))?;
    demo.until("the demo shows its table", Duration::from_secs(90), || Ok(demo.log().contains("SIDECAR").then_some(())))?;
    demo.kill()?;

    let output = run_to_end(&run, &Spec::new(binary("podtap-demo")?, ["--duration", DURATION]), Duration::from_secs(200))?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    for part in ["GET /items/{id}", "SIDECAR", "PaymentsFailing", "\"version\":\"4\"", "curl", "✓"] {
        assert!(output.stdout.contains(part), "{part:?} is not in: {}", output.stdout);
    }
    assert!(!output.stdout.contains('\x1b'), "no colours and no cursor movements where there is no terminal");
    must_leave_nothing(&before)?;

    // Ctrl-C is an orderly end too.
    let demo = Process::start(&run, "interrupted-demo", &Spec::new(binary("podtap-demo")?, Vec::<&str>::new()))?;
    demo.until("the demo shows its table", Duration::from_secs(90), || Ok(demo.log().contains("SIDECAR").then_some(())))?;
    demo.signal(libc::SIGINT);
    assert_eq!(demo.wait(Duration::from_secs(40))?.code(), Some(0), "{}", demo.log_tail());
    must_leave_nothing(&before)?;
    assert_eq!(temporary_files()?, files);
    Ok(())
}

/// Names in the folder for temporary files that a part of the demo might have made.
fn temporary_files() -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(std::env::temp_dir()).context("reading the folder for temporary files")?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
    Ok(names.filter(|name| ["podtap", "chdb", "kafka", "hsperf", "nginx", "mysql"].iter().any(|part| name.contains(part))).collect())
}
