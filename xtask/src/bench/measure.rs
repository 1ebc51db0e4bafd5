//! What a program cost: wall time, processor time of all its threads, peak memory; and medians over rounds.

use std::process::{Child, Command};
use std::time::Instant;

use crate::run::{self, Doing, Failure, Result};

#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub wall_seconds: f64,
    /// User and system.
    pub cpu_seconds: f64,
    pub peak_bytes: u64,
}

/// Runs the command to its end. Its streams are the caller's business.
pub fn cost(command: &mut Command) -> Result<Cost> {
    let spelled = run::spell(command);
    let started = Instant::now();
    let child = command.spawn().doing(format_args!("starting `{spelled}`"))?;
    let (status, usage) = wait(&child).doing(format_args!("waiting for `{spelled}`"))?;
    let wall_seconds = started.elapsed().as_secs_f64();
    if status != 0 {
        return Err(Failure(format!("`{spelled}` failed (wait status {status:#x})")));
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Ok(Cost {
        wall_seconds,
        cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        // getrusage(2): kilobytes on Linux.
        peak_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    })
}

fn wait(child: &Child) -> std::io::Result<(i32, libc::rusage)> {
    let pid = libc::pid_t::try_from(child.id()).map_err(std::io::Error::other)?;
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which all-zero bytes are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live, writable values of the right types; the child is ours and not yet waited for.
        let ended = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
        if ended == pid {
            return Ok((status, usage));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Processor seconds that a running process has used, all threads.
pub fn cpu_so_far(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).doing(format_args!("looking at process {pid}"))?;
    // proc(5): after the name in parentheses, utime and stime are the 12th and 13th fields.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
        return Err(Failure(format!("/proc/{pid}/stat is not as proc(5) says")));
    };
    // SAFETY: sysconf has no preconditions.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok((user + system) / hertz as f64)
}

pub fn peak_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).doing(format_args!("looking at process {pid}"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.map(|k| k * 1024).ok_or_else(|| Failure(format!("/proc/{pid}/status has no VmHWM")))
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len(), sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (n, Some(below), Some(above)) if n % 2 == 0 => (below + above) / 2.0,
        (_, _, Some(value)) => *value,
        _ => 0.0,
    }
}

/// Half of the distance between the extremes, as a share of the median: what a difference has to exceed to mean something.
pub fn spread(values: &[f64]) -> f64 {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let middle = median(values);
    if middle > 0.0 { (high - low) / 2.0 / middle } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers_and_of_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
        assert_eq!(median(&[]), 0.0);
        assert_eq!(spread(&[90.0, 100.0, 110.0]), 0.1);
        assert_eq!(spread(&[]), 0.0);
    }

    #[test]
    fn a_program_that_works_costs_processor_time_and_memory() {
        let busy = cost(Command::new("sh").args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"])).unwrap();
        assert!(busy.cpu_seconds > 0.01 && busy.peak_bytes > 100_000, "{busy:?}");
        let said = cost(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(said.contains("0x300"), "{said}");
    }

    #[test]
    fn a_running_process_can_be_looked_at() {
        assert!(cpu_so_far(std::process::id()).unwrap() >= 0.0);
        assert!(peak_bytes(std::process::id()).unwrap() > 100_000);
        assert!(cpu_so_far(u32::MAX).is_err());
    }
}
