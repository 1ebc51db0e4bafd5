//! A run: its scratch folder, its name, and the removal of what a killed run left.
//!
//! `target/podtap-runs/<pid>-<start time>/` belongs to the process with that pid and start time and to no later one. The
//! folder is the register: what an owner that no longer lives has left (processes that carry its mark, namespaces named
//! after it, the folder) is removed by [`Run::start`]. Keep nothing there that should outlive the run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Context, Failure, Result, running, wait};

/// Environment variable that marks every process of a run with the run's name.
pub const MARK: &str = "PODTAP_RUN";
/// Prefix of every namespace of a run; the rest is `<pid>-<start time>-<number>`.
pub const NAMESPACE_PREFIX: &str = "podtap-";
/// Folder below `target/`.
const FOLDER: &str = "podtap-runs";

/// One run of the demo or of a test; dropped last, when all that was started in it has been dropped.
#[derive(Debug)]
pub struct Run {
    name: String,
    folder: PathBuf,
    number: u32,
}

/// Several runs of one process have folders of their own.
static RUNS: AtomicU32 = AtomicU32::new(0);

impl Run {
    /// Removes what dead runs left, then makes the folder of this one.
    pub fn start() -> Result<Self> {
        let root = target_folder()?.join(FOLDER);
        fs::create_dir_all(&root).context(format!("making {}", root.display()))?;
        remove_leftovers(&root)?;
        let name = own_name()?;
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let folder = root.join(&name).join(number.to_string());
        fs::create_dir_all(&folder).context(format!("making {}", folder.display()))?;
        Ok(Self { name, folder, number })
    }

    /// `<pid>-<start time>` of this process: the value of [`MARK`] and part of every namespace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A number that no other run of this process has.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// A new folder for one part.
    pub fn folder(&self, part: &str) -> Result<PathBuf> {
        let folder = self.folder.join(part);
        fs::create_dir_all(&folder).context(format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// The whole scratch folder.
    pub fn root(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("PODTAP_KEEP").is_some() {
            eprintln!("PODTAP_KEEP is set: logs stay in {} until the next run", self.folder.display());
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("could not remove {}: {error}", self.folder.display());
        }
        if let Some(parent) = self.folder.parent() {
            // Fails, rightly, while another run of this process still has its folder here.
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Where the binaries of this build are: `PODTAP_BIN_DIR`, else beside this executable.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("PODTAP_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => own_folder()?,
    };
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure(format!(
        "{} is not built; run: cargo build -p podtap-sidecar -p podtap-analyzer -p podtap-tests (cargo xtask test does it)",
        path.display()
    )))
}

/// A program of the machine. `package` is where Debian has it.
pub fn program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .context(format!("{name} is not installed; run: apt-get install -y --no-install-recommends {package} (cargo xtask test does it)"))
}

/// The cache of tools: `$XDG_CACHE_HOME/podtap`, else `~/.cache/podtap`.
pub fn cache_folder() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    Ok(cache.join("podtap"))
}

/// The folder of this build's executables: test executables lie one deeper, in `deps`.
fn own_folder() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("finding this executable")?;
    let folder = executable.parent().context("this executable has no folder")?;
    let folder = if folder.file_name() == Some(OsStr::new("deps")) { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

/// What runs whose owner is dead have left: processes, namespaces, interfaces, scratch folders.
pub fn leftovers() -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (pid, mark) in marked_processes() {
        if !lives(&mark) {
            left.push(format!("process {pid} of {mark}"));
        }
    }
    for folder in ["/run/netns".into(), "/sys/class/net".into(), target_folder()?.join(FOLDER)] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for name in entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())) {
            let dead = match name.strip_prefix(NAMESPACE_PREFIX).and_then(|rest| rest.rsplit_once('-')) {
                Some((owner, _)) => !lives(owner),
                None => match name.strip_prefix(crate::pod::INTERFACE_PREFIX).and_then(|rest| rest.split_once('-')) {
                    Some((pid, number)) => number.parse::<u32>().is_ok() && pid.parse().is_ok_and(|pid| start_time(pid).is_none()),
                    None => name.starts_with(|first: char| first.is_ascii_digit()) && !lives(&name),
                },
            };
            if dead {
                left.push(folder.join(name).display().to_string());
            }
        }
    }
    Ok(left)
}

fn target_folder() -> Result<PathBuf> {
    let folder = own_folder()?;
    Ok(folder.parent().context("this executable is not in target/<profile>/")?.to_owned())
}

fn own_name() -> Result<String> {
    let pid = std::process::id();
    Ok(format!("{pid}-{}", start_time(pid).context("reading this process's start time")?))
}

/// Start time of a process in clock ticks since boot (proc_pid_stat(5), field 22): with the pid it names one process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks and parentheses: fields are counted behind the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn lives(name: &str) -> bool {
    let Some((pid, start)) = name.split_once('-') else { return false };
    let (Ok(pid), Ok(start)) = (pid.parse(), start.parse::<u64>()) else { return false };
    start_time(pid) == Some(start)
}

fn remove_leftovers(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root).context(format!("reading {}", root.display()))? {
        let entry = entry.context("reading the folder of runs")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if lives(&name) {
            continue;
        }
        remove_processes(&name)?;
        remove_namespaces(&name)?;
        match fs::remove_dir_all(entry.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure(format!("removing what a killed run left, {}: {error}", entry.path().display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Kills every process that carries the mark of a dead run, and waits until they are gone.
fn remove_processes(name: &str) -> Result<()> {
    wait::until_true(&format!("ending the processes of the dead run {name}"), Duration::from_secs(10), || {
        let left: Vec<i32> = marked_processes().into_iter().filter(|(_, mark)| mark == name).map(|(pid, _)| pid).collect();
        for pid in &left {
            // SAFETY: plain system call; the pid was read a moment ago and carries the mark of a dead run.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
        Ok(left.is_empty())
    })
}

/// All processes that carry a mark, with it. (nginx writes its title over its environment: its namespace finds it.)
fn marked_processes() -> Vec<(i32, String)> {
    let all = running::all().unwrap_or_default();
    all.iter().filter_map(|process| Some((process.pid, process.variable(MARK)?))).collect()
}

fn remove_namespaces(name: &str) -> Result<()> {
    let prefix = format!("{NAMESPACE_PREFIX}{name}-");
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries.filter_map(std::result::Result::ok) {
        let namespace = entry.file_name().to_string_lossy().into_owned();
        // Another run may be removing the same leftovers: what matters is that they are gone.
        if namespace.starts_with(&prefix)
            && let Err(error) = crate::pod::remove_namespace(&namespace)
            && entry.path().exists()
        {
            return Err(error);
        }
    }
    Ok(())
}
