//! What a cluster leaves on a machine: finding all of it, and removing it.
//!
//! Guarantee: what was there before the cluster started stays. Nothing is remembered but that ([`Before`]); everything else is looked
//! for, so a cluster that was killed half way through its start is removed like one that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{DIR, MARK, network, write};
use crate::run::{Doing, Failure, Result};

const NAMESPACES: &str = "/run/netns";
const CGROUPS: &str = "/sys/fs/cgroup";
/// The kubelet's cgroup, in every hierarchy.
const PODS: &str = "kubepods";
/// Links to the logs of containers; the place cannot be set.
const LOG_LINKS: &str = "/var/log/containers";
/// How long a process that was asked to end may take.
const GRACE: Duration = Duration::from_secs(3);
/// How long one that was killed may.
const LIMIT: Duration = Duration::from_secs(20);

/// Places outside [`DIR`] whose paths the cluster's parts have built in.
pub fn elsewhere() -> [&'static str; 7] {
    ["/run/containerd", "/usr/libexec/kubernetes", "/var/lib/cni", "/var/lib/kubelet", "/run/xtables.lock", LOG_LINKS, NAMESPACES]
}

/// What was there before the cluster.
#[derive(Default)]
struct Before {
    places: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    switches: BTreeMap<String, String>,
}

fn before_file() -> PathBuf {
    Path::new(DIR).join("before.json")
}

/// Notes what is there now. The first thing that a start does.
pub fn remember() -> Result<()> {
    let places: Vec<&str> = elsewhere().into_iter().filter(|place| Path::new(place).exists()).collect();
    let before = json!({ "places": places, "namespaces": names(NAMESPACES), "switches": network::switches() });
    write(before_file(), &before.to_string())
}

impl Before {
    fn read() -> Result<Option<Self>> {
        let file = before_file();
        if !file.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&file).doing(format_args!("reading {}", file.display()))?;
        let value: Value = serde_json::from_str(&text).doing(format_args!("reading {}", file.display()))?;
        let list = |key: &str| value[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        let switches = value["switches"].as_object().into_iter().flatten();
        Ok(Some(Self {
            places: list("places"),
            namespaces: list("namespaces"),
            switches: switches.filter_map(|(name, v)| Some((name.clone(), v.as_str()?.to_owned()))).collect(),
        }))
    }
}

/// Names in a folder; none where it is not there.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Processes that the cluster started on the host, with their mark; a shim carries containerd's, so only programs of the mark's name count.
pub fn marked() -> Result<Vec<(i32, String)>> {
    Ok(processes()?.into_iter().filter(|(_, mark, program)| mark == program).map(|(pid, mark, _)| (pid, mark)).collect())
}

/// All that carry the mark: number, mark, name of the program.
fn processes() -> Result<Vec<(i32, String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").doing("reading /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Unreadable: another user's, or gone.
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        let mark = environment.split(|byte| *byte == 0).find_map(|v| v.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="));
        if let Some(mark) = mark {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
            let program = String::from_utf8_lossy(program).rsplit('/').next().unwrap_or_default().to_owned();
            found.push((pid, String::from_utf8_lossy(mark).into_owned(), program));
        }
    }
    Ok(found)
}

/// The kubelet's cgroups, the deepest first.
fn cgroups() -> Vec<PathBuf> {
    fn below(folder: PathBuf, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(entry.path(), found);
            }
        }
        found.push(folder);
    }
    let mut found = Vec::new();
    let hierarchies = names(CGROUPS).into_iter().map(|name| Path::new(CGROUPS).join(name).join(PODS));
    for pods in hierarchies.chain([Path::new(CGROUPS).join(PODS)]).filter(|path| path.is_dir()) {
        below(pods, &mut found);
    }
    found
}

/// Processes of containers.
fn contained() -> BTreeSet<i32> {
    let files = cgroups().into_iter().map(|group| group.join("cgroup.procs"));
    files
        .flat_map(|file| fs::read_to_string(file).unwrap_or_default().lines().filter_map(|l| l.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

/// Mount points of the cluster, the last made first.
fn mounts(before: Option<&Before>) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").doing("reading the mounts")?;
    let ours = |point: &Path| {
        let namespace = point.strip_prefix(NAMESPACES).is_ok_and(|name| new_namespace(&name.to_string_lossy(), before));
        point.starts_with(DIR) || point.starts_with("/run/containerd") || namespace
    };
    // proc_pid_mountinfo(5): the fifth field, with blanks and the like as \040.
    let points = text.lines().filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?.replace("\\040", " "))));
    let mut points: Vec<PathBuf> = points.filter(|point| ours(point)).collect();
    points.reverse();
    Ok(points)
}

/// A pod's network namespace, made since the start.
fn new_namespace(name: &str, before: Option<&Before>) -> bool {
    name.starts_with("cni-") && before.is_some_and(|before| !before.namespaces.contains(name))
}

/// Everything of a cluster that is on this machine.
pub fn look() -> Result<Vec<String>> {
    let before = Before::read()?;
    let mut found: Vec<String> = processes()?.into_iter().map(|(pid, _, program)| format!("process {pid} ({program})")).collect();
    if before.is_some() {
        found.extend(contained().into_iter().map(|pid| format!("process {pid} in a container")));
        found.extend(cgroups().into_iter().map(|group| format!("cgroup {}", group.display())));
        found.extend(network::chains()?.into_iter().map(|chain| format!("chain {chain}")));
    }
    found.extend(mounts(before.as_ref())?.into_iter().map(|point| format!("mount {}", point.display())));
    let namespaces = names(NAMESPACES).into_iter().filter(|name| new_namespace(name, before.as_ref()));
    found.extend(namespaces.map(|name| format!("network namespace {name}")));
    if network::bridge() {
        found.push(format!("bridge {}", network::BRIDGE));
    }
    found.extend(Path::new(DIR).exists().then(|| format!("folder {DIR}")));
    Ok(found)
}

/// Removes all of it.
pub fn remove() -> Result<()> {
    let before = Before::read()?;
    // The kubelet first, which would start again what is stopped; then what runs in pods, then the rest.
    end("the kubelet", libc::SIGTERM, || Ok(marked()?.into_iter().filter(|(_, mark)| mark == "kubelet").map(|(pid, _)| pid).collect()))?;
    if before.is_some() {
        end("the containers", libc::SIGKILL, || Ok(contained().into_iter().collect()))?;
    }
    // Nothing of the etcd's or the control plane's is kept, so nothing has to be written in order.
    end("the cluster's processes", libc::SIGTERM, || Ok(processes()?.into_iter().map(|(pid, ..)| pid).collect()))?;
    unmount(before.as_ref())?;
    for name in names(NAMESPACES).into_iter().filter(|name| new_namespace(name, before.as_ref())) {
        let file = Path::new(NAMESPACES).join(name);
        fs::remove_file(&file).doing(format_args!("removing {}", file.display()))?;
    }
    network::remove()?;
    if let Some(before) = &before {
        network::remove_rules()?;
        remove_cgroups()?;
        remove_places(before)?;
        network::restore(&before.switches)?;
    }
    // The notes about what was before go last: until here a second `down` can go on.
    remove_all_but(Path::new(DIR), &before_file())?;
    remove_all(Path::new(DIR))
}

/// Signals processes until there are none, harder after a while.
fn end(what: &str, signal: i32, list: impl Fn() -> Result<Vec<i32>>) -> Result<()> {
    let started = Instant::now();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut told = BTreeSet::new();
    loop {
        let pids: Vec<i32> = list()?.into_iter().filter(|pid| *pid != own).collect();
        if pids.is_empty() {
            return Ok(());
        }
        if started.elapsed() > LIMIT {
            return Err(Failure(format!("{what} do not end: {pids:?}")));
        }
        for pid in pids {
            let signal = if started.elapsed() > GRACE { libc::SIGKILL } else { signal };
            if signal == libc::SIGKILL || told.insert(pid) {
                // SAFETY: kill has no memory preconditions; the process was seen a moment ago to be the cluster's.
                unsafe { libc::kill(pid, signal) };
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn unmount(before: Option<&Before>) -> Result<()> {
    // One place may hold several, one over the other.
    for _ in 0..8 {
        let points = mounts(before)?;
        if points.is_empty() {
            return Ok(());
        }
        for point in points {
            let Ok(path) = std::ffi::CString::new(point.as_os_str().as_encoded_bytes()) else { continue };
            // SAFETY: the path is a live C string; what is detached goes as soon as nobody uses it.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
        }
    }
    Ok(())
}

fn remove_cgroups() -> Result<()> {
    let started = Instant::now();
    loop {
        let groups = cgroups();
        // A group whose last process has just ended is busy for a moment.
        let failed = groups.iter().find_map(|group| fs::remove_dir(group).err().map(|error| (group, error)));
        match failed {
            None => return Ok(()),
            Some((group, error)) if started.elapsed() > LIMIT => {
                return Err(Failure(format!("removing the cgroup {}: {error}", group.display())));
            }
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn remove_places(before: &Before) -> Result<()> {
    for name in names(LOG_LINKS) {
        let link = Path::new(LOG_LINKS).join(name);
        if fs::read_link(&link).is_ok_and(|to| to.starts_with(DIR)) {
            fs::remove_file(&link).doing(format_args!("removing {}", link.display()))?;
        }
    }
    for place in elsewhere().into_iter().filter(|place| !before.places.contains(*place)) {
        let path = Path::new(place);
        if place == NAMESPACES || place == LOG_LINKS {
            // Somebody else may have put something there meanwhile.
            let _ = fs::remove_dir(path);
        } else {
            remove_all(path)?;
        }
    }
    Ok(())
}

fn remove_all_but(folder: &Path, kept: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path() != kept {
            remove_all(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_all(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(it) if it.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.doing(format_args!("removing {}", path.display()))
}
