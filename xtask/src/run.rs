//! Runs other programs so that a person sees what happens.
//!
//! Guarantee: a failure names the command line, how it ended, and the last lines it printed. Not for programs whose
//! output is the result: those use [`capture`], which prints nothing.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How many of the last lines of a failed program are shown.
const TAIL_LINES: usize = 25;
/// How often a quiet step says that it still lives when nobody watches a terminal.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// What went wrong, in words for the person at the terminal.
#[derive(Debug)]
pub struct Failure(pub String);

pub type Result<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Failure(message.into())
    }
}

/// Adds what was being done to an error of the operating system.
pub trait Doing<T> {
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Failure(format!("{what}: {e}")))
    }
}

/// A line about what is being done, on standard error: standard output belongs to results.
pub fn say(line: impl fmt::Display) {
    eprintln!("{line}");
}

/// The command as somebody would type it.
pub fn spell(command: &Command) -> String {
    let quote = |s: &OsStr| {
        let s = s.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !s.is_empty() && s.chars().all(plain) { s.into_owned() } else { format!("'{}'", s.replace('\'', r"'\''")) }
    };
    let mut words = vec![quote(command.get_program())];
    words.extend(command.get_args().map(quote));
    let line = words.join(" ");
    match line.char_indices().nth(400) {
        Some((cut, _)) => format!("{} ...", &line[..cut]),
        None => line,
    }
}

/// Runs a chatty program behind one line of progress: the latest output line on a terminal, a sign of life elsewhere.
pub fn step(label: &str, command: &mut Command) -> Result<()> {
    say(format_args!("==> {label}"));
    let started = Instant::now();
    let (reader, writer) = std::io::pipe().doing("making a pipe")?;
    let second = writer.try_clone().doing("making a pipe")?;
    command.stdin(Stdio::null()).stdout(writer).stderr(second);
    let spelled = spell(command);
    let mut child = command.spawn().doing(format_args!("starting `{spelled}`"))?;
    // The command holds the writing ends: without this the reader never sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let tail = follow(BufReader::new(reader), started)?;
    let status = child.wait().doing(format_args!("waiting for `{spelled}`"))?;
    if status.success() {
        say(format_args!("    done in {:.1} s", started.elapsed().as_secs_f64()));
        return Ok(());
    }
    let tail: Vec<String> = tail.into_iter().map(|l| format!("    | {l}")).collect();
    Err(Failure(format!("`{spelled}` failed ({}); its last lines:\n{}", describe(status), tail.join("\n"))))
}

fn follow(output: impl BufRead, started: Instant) -> Result<VecDeque<String>> {
    let terminal = std::io::stderr().is_terminal();
    let latest = Mutex::new(String::new());
    let (ended, end) = mpsc::channel::<()>();
    let tail = std::thread::scope(|scope| {
        // A program that prints nothing for minutes still has to be seen to live.
        let shown = &latest;
        scope.spawn(move || {
            while end.recv_timeout(HEARTBEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
                if !terminal {
                    let line = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    say(format_args!("    {:.0} s: {line}", started.elapsed().as_secs_f64()));
                }
            }
        });
        let tail = read_tail(output, |line| {
            if terminal {
                let shown: String = line.chars().filter(|c| !c.is_control()).take(100).collect();
                eprint!("\r\x1b[K    {shown}");
            }
            line.clone_into(&mut latest.lock().unwrap_or_else(PoisonError::into_inner));
        });
        drop(ended);
        tail
    });
    if terminal {
        eprint!("\r\x1b[K");
    }
    tail
}

fn read_tail(mut output: impl BufRead, mut seen: impl FnMut(&str)) -> Result<VecDeque<String>> {
    let mut tail = VecDeque::new();
    let mut raw = Vec::new();
    loop {
        raw.clear();
        if output.read_until(b'\n', &mut raw).doing("reading a program's output")? == 0 {
            return Ok(tail);
        }
        let line = String::from_utf8_lossy(&raw).trim_end().to_owned();
        if line.is_empty() {
            continue;
        }
        seen(&line);
        tail.push_back(line);
        if tail.len() > TAIL_LINES {
            tail.pop_front();
        }
    }
}

/// Runs a program with our terminal; its own progress is the progress.
pub fn show(label: &str, command: &mut Command) -> Result<()> {
    say(format_args!("==> {label}"));
    let spelled = spell(command);
    let status = command.status().doing(format_args!("starting `{spelled}`"))?;
    if status.success() { Ok(()) } else { Err(Failure(format!("`{spelled}` failed ({})", describe(status)))) }
}

/// Standard output of a program that is expected to succeed.
pub fn capture(command: &mut Command) -> Result<String> {
    let spelled = spell(command);
    let out = command.stdin(Stdio::null()).output().doing(format_args!("starting `{spelled}`"))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(Failure(format!("`{spelled}` failed ({}): {}", describe(out.status), said.trim())))
}

/// The same of a program that reads its standard input.
pub fn capture_with_input(command: &mut Command, input: &[u8]) -> Result<String> {
    let spelled = spell(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().doing(format_args!("starting `{spelled}`"))?;
    let pipe = child.stdin.take();
    let out = std::thread::scope(|scope| {
        // In a thread, so that a program that answers before it has read all does not wait for us.
        let writer = scope.spawn(move || pipe.map_or(Ok(()), |mut pipe| pipe.write_all(input)));
        let out = child.wait_with_output().doing(format_args!("waiting for `{spelled}`"));
        let written = writer.join().unwrap_or(Ok(()));
        out.map(|out| (out, written))
    });
    let (out, written) = out?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(Failure(format!("`{spelled}` failed ({}): {}", describe(out.status), said.trim())));
    }
    written.doing(format_args!("writing to `{spelled}`"))?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether a program runs and succeeds; what it prints is of no interest.
pub fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|s| s.success())
}

/// Runs a program, passes its output on line by line, and shows each line to `seen` as well.
pub fn tee(label: &str, command: &mut Command, mut seen: impl FnMut(&str)) -> Result<()> {
    say(format_args!("==> {label}"));
    let spelled = spell(command);
    let mut child = command.stdout(Stdio::piped()).spawn().doing(format_args!("starting `{spelled}`"))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.doing("reading a program's output")?;
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").doing("writing to standard output")?;
            seen(&line);
        }
    }
    let status = child.wait().doing(format_args!("waiting for `{spelled}`"))?;
    if status.success() { Ok(()) } else { Err(Failure(format!("`{spelled}` failed ({})", describe(status)))) }
}

pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// Looks a program up in PATH and in the folders of system programs, which a plain user's PATH lacks on Debian.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_last_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo the reason >&2; exit 7"]);
        let said = step("a step that fails", &mut command).unwrap_err().to_string();
        assert!(said.contains("sh -c 'seq 100"), "{said}");
        assert!(said.contains("exit status 7"), "{said}");
        assert!(said.ends_with("| the reason"), "{said}");
        assert!(!said.contains("| 10\n"), "only the tail is shown: {said}");
    }

    #[test]
    fn a_program_that_cannot_start_is_named() {
        let said = step("nothing", &mut Command::new("/nonexistent/program")).unwrap_err().to_string();
        assert!(said.contains("/nonexistent/program"), "{said}");
    }

    #[test]
    fn tee_shows_every_line() {
        let mut lines = Vec::new();
        tee("lines", Command::new("printf").arg("a\\nb\\n"), |l| lines.push(l.to_owned())).unwrap();
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn words_that_a_shell_would_split_are_quoted() {
        let mut command = Command::new("echo");
        command.args(["a b", "it's", "plain", ""]);
        assert_eq!(spell(&command), r"echo 'a b' 'it'\''s' plain ''");
    }
}
