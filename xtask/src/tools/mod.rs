//! What Podtap needs that neither git nor Rust brings: fetched once, kept under the XDG cache folder, one folder for each
//! tool and version.
//!
//! Guarantee: a folder `<tool>-<version>/` either is not there or is whole. It is made under another name and renamed, by
//! one process at a time. Do not write into such a folder afterwards: other clones share it.

pub mod apt;
mod bpf_linker;
mod chdb;
mod go;
mod kafka;
mod kubernetes;
mod node;

pub use bpf_linker::{bpf_linker, rust_for_bpf};
pub use chdb::chdb;
pub use go::go;
pub use kafka::kafka;
pub use kubernetes::{coredns, kubernetes};
pub use node::{node, with_node};

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::run::{self, Doing, Failure, Result, say};
use crate::workspace::Workspace;

/// The folder of cached tools: `$XDG_CACHE_HOME/podtap`, else `~/.cache/podtap`.
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub fn open() -> Result<Self> {
        let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|p: &PathBuf| p.is_absolute());
        let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        let dir = base.ok_or_else(|| Failure::new("neither XDG_CACHE_HOME nor HOME is set: no place for tools"))?;
        Self::at(dir.join("podtap"))
    }

    fn at(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).doing(format_args!("making the cache folder {}", dir.display()))?;
        Ok(Cache { dir })
    }

    /// Where `<tool>-<version>/` is or would be.
    pub fn folder(&self, tool: &str, version: &str) -> PathBuf {
        self.dir.join(format!("{tool}-{version}"))
    }

    /// The folder of a tool, made by `make` if `proof` (a path inside it) is not there yet.
    pub fn ensure(&self, tool: &str, version: &str, proof: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let folder = self.folder(tool, version);
        if folder.join(proof).exists() {
            return Ok(folder);
        }
        let _alone = self.lock(tool, version)?;
        if folder.join(proof).exists() {
            return Ok(folder);
        }
        let started = Instant::now();
        let partial = self.dir.join(format!(".{tool}-{version}.partial"));
        // Left by one that was killed, or a folder from before that lacks what proves it whole.
        for stale in [&partial, &folder] {
            if stale.exists() {
                fs::remove_dir_all(stale).doing(format_args!("removing {}", stale.display()))?;
            }
        }
        fs::create_dir_all(&partial).doing(format_args!("making {}", partial.display()))?;
        say(format_args!("==> {tool} {version} is not in the cache yet; it goes to {}", folder.display()));
        make(&partial)?;
        if !partial.join(proof).exists() {
            return Err(Failure(format!("{tool} {version} was made, but {proof} is not in it")));
        }
        fs::rename(&partial, &folder).doing(format_args!("naming {}", folder.display()))?;
        say(format_args!("    {tool} {version}: ready after {:.1} s", started.elapsed().as_secs_f64()));
        Ok(folder)
    }

    /// Held until dropped; the operating system lets go of it when the process dies, however it dies.
    fn lock(&self, tool: &str, version: &str) -> Result<File> {
        let path = self.dir.join(format!(".{tool}-{version}.lock"));
        let file = File::create(&path).doing(format_args!("opening {}", path.display()))?;
        if file.try_lock().is_err() {
            say(format_args!("    waiting: another process is making {tool} {version}"));
            file.lock().doing(format_args!("locking {}", path.display()))?;
        }
        Ok(file)
    }
}

/// Everything, or the named ones; prints where each is.
pub fn ensure_named(cache: &Cache, workspace: &Workspace, names: &[String]) -> Result<()> {
    const ALL: [&str; 8] = ["build", "servers", "node", "chdb", "kafka", "bpf-linker", "kubernetes", "coredns"];
    let asked: Vec<&str> = if names.is_empty() { ALL.to_vec() } else { names.iter().map(String::as_str).collect() };
    for name in asked {
        let place = match name {
            "build" => apt::ensure("building Podtap", apt::BUILD).map(|()| None)?,
            "servers" => apt::ensure("the tests and the demo", apt::SERVERS).map(|()| None)?,
            "node" => node(cache)?,
            "chdb" => Some(chdb(cache)?),
            "kafka" => Some(kafka(cache)?),
            "bpf-linker" => Some(bpf_linker(cache, workspace)?),
            "kubernetes" => Some(kubernetes(cache, workspace)?),
            "coredns" => Some(coredns(cache, workspace)?),
            other => return Err(Failure(format!("no tool `{other}`; there are {}", ALL.join(", ")))),
        };
        let place = place.map_or_else(|| "on this machine".to_owned(), |dir| dir.display().to_string());
        println!("{name:<12} {place}");
    }
    Ok(())
}

/// Fails unless the file has this SHA-256: what a registry serves under a version must be what was tried.
pub fn verify_sha256(file: &Path, expected: &str) -> Result<()> {
    let said = run::capture(Command::new("sha256sum").arg(file))?;
    let found = said.split_whitespace().next().unwrap_or_default();
    if found == expected {
        return Ok(());
    }
    Err(Failure(format!("{}: SHA-256 is {found}, expected {expected}: refusing to use it", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("podtap-xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn a_tool_is_made_once_though_several_ask() {
        let dir = scratch("once");
        let made = AtomicU32::new(0);
        let ask = || {
            let cache = Cache::at(dir.clone()).unwrap();
            let make = |d: &Path| {
                made.fetch_add(1, Ordering::SeqCst);
                fs::write(d.join("bin"), "x").doing("writing")
            };
            cache.ensure("tool", "1", "bin", make).unwrap()
        };
        std::thread::scope(|s| {
            for asker in [s.spawn(ask), s.spawn(ask), s.spawn(ask)] {
                assert_eq!(asker.join().unwrap(), dir.join("tool-1"));
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn one_that_failed_leaves_nothing_that_looks_whole_and_the_next_try_works() {
        let dir = scratch("failed");
        let cache = Cache::at(dir.clone()).unwrap();
        let half = |d: &Path| {
            fs::write(d.join("half"), "x").doing("writing")?;
            Err(Failure::new("the network went away"))
        };
        assert!(cache.ensure("tool", "1", "bin", half).is_err());
        assert!(!dir.join("tool-1").exists());
        cache.ensure("tool", "1", "bin", |d| fs::write(d.join("bin"), "x").doing("writing")).unwrap();
        assert!(!dir.join("tool-1/half").exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_folder_without_its_proof_is_made_again() {
        let dir = scratch("hollow");
        fs::create_dir_all(dir.join("tool-1")).unwrap();
        let cache = Cache::at(dir.clone()).unwrap();
        cache.ensure("tool", "1", "bin", |d| fs::write(d.join("bin"), "x").doing("writing")).unwrap();
        assert!(cache.ensure("tool", "2", "bin", |_| Ok(())).is_err(), "made, but without its proof");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let dir = scratch("sum");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("f"), "abc").unwrap();
        let right = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        verify_sha256(&dir.join("f"), right).unwrap();
        let said = verify_sha256(&dir.join("f"), &right.replace('b', "c")).unwrap_err().to_string();
        assert!(said.contains(right), "{said}");
        fs::remove_dir_all(dir).unwrap();
    }
}
