//! Processes of this machine, whoever started them, by what /proc tells of them.
//!
//! Guarantee: one that is gone meanwhile, or another user's, tells nothing instead of failing. One misuse: keeping a pid: it may be
//! another process's by then.

use std::fmt::Display;
use std::fs;
use std::path::PathBuf;

use crate::{Context, Result};

/// A process that was there a moment ago.
#[derive(Debug)]
pub struct Running {
    /// Its number.
    pub pid: i32,
    folder: PathBuf,
}

/// All of them.
pub fn all() -> Result<Vec<Running>> {
    let entries = fs::read_dir("/proc").context("reading /proc")?.flatten();
    Ok(entries.filter_map(|entry| Some(Running { pid: entry.file_name().to_str()?.parse().ok()?, folder: entry.path() })).collect())
}

impl Running {
    /// A file of its folder (proc(5)); empty where it cannot be read.
    pub fn text(&self, file: &str) -> String {
        fs::read(self.folder.join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether it runs the program of this name, whatever its folder.
    pub fn runs(&self, program: &str) -> bool {
        self.text("cmdline").split('\0').next().is_some_and(|own| own.rsplit('/').next() == Some(program))
    }

    /// A variable of the environment that it was started with.
    pub fn variable(&self, name: &str) -> Option<String> {
        self.text("environ").split('\0').find_map(|variable| variable.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    }
}

/// User and system seconds of all threads of a process so far (proc_pid_stat(5), fields 14 and 15).
pub fn cpu_seconds(pid: impl Display) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading a process's times")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("a figure in /proc/PID/stat");
    // SAFETY: sysconf has no preconditions.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok((ticks(11)? + ticks(12)?) / hertz as f64)
}

/// A process's memory by a field of proc_pid_status(5), such as `VmRSS` or `VmHWM`.
pub fn memory_bytes(pid: impl Display, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading a process's memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).context(format!("{field} of a process"))?;
    Ok(kilobytes * 1024)
}
