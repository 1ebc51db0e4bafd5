//! Waiting for a condition with a deadline; nothing in the tests sleeps for luck.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Failure, Result};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(50);

/// Set when the person at the terminal wants to stop: every wait ends at once.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether a stop was asked for.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Makes Ctrl-C (and SIGTERM, SIGHUP) end every wait, so that what was started is taken down in order.
pub fn interrupt_on_signals() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let note: extern "C" fn(libc::c_int) = note;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, note as libc::sighandler_t) };
    }
}

/// Asks `probe` until it gives a value. An error of the probe means "not yet"; the last one is told when time is up.
pub fn until<T>(what: &str, limit: Duration, probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_stepwise(what, limit, STEP, probe)
}

/// [`until`] with another pause between questions: some cost the machine more than they are worth.
pub fn until_stepwise<T>(what: &str, limit: Duration, step: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = String::from("the condition did not come true");
    loop {
        match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = error.to_string(),
        }
        if interrupted() {
            return Err(Failure(format!("interrupted while waiting: {what}")));
        }
        if Instant::now() >= deadline {
            return Err(Failure(format!("{what}: not within {} s; last: {last}", limit.as_secs())));
        }
        std::thread::sleep(step);
    }
}

/// [`until`] for a condition that is only true or false.
pub fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || probe().map(|yes| yes.then_some(())))
}
