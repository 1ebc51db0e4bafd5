//! Where things are: the workspace's root, build output, the binaries.
//!
//! Paths are found at run time, so a moved clone works. What must be at a fixed place whatever CARGO_TARGET_DIR says
//! (the eBPF object, the broker's folder, figures) is below [`Workspace::output`].

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Failure, Result};

pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace that holds the current folder; else the one whose xtask cargo started.
    pub fn find() -> Result<Self> {
        let here = std::env::current_dir().ok();
        let started = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        for start in [here, started].into_iter().flatten() {
            for dir in start.ancestors() {
                if dir.join("xtask/Cargo.toml").is_file() && dir.join("wire/Cargo.toml").is_file() {
                    return Ok(Workspace { root: dir.to_owned() });
                }
            }
        }
        Err(Failure::new("not inside a clone of Podtap: run this where Cargo.toml and xtask/ are"))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `<root>/target`, whatever CARGO_TARGET_DIR is.
    pub fn output(&self) -> PathBuf {
        self.root.join("target")
    }

    /// Where cargo builds.
    pub fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) if !dir.is_empty() => self.root.join(dir),
            _ => self.output(),
        }
    }

    /// Binaries of the dev profile, which the tests and the demo start.
    pub fn binaries(&self) -> PathBuf {
        self.target().join("debug")
    }

    pub fn ebpf_object(&self) -> PathBuf {
        self.output().join("ebpf/podtap-sidecar-ebpf.o")
    }

    /// `cargo` as the one that started us, in the root.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        // These describe xtask to itself; a nested build must not take them for its own and build everything again.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
                command.env_remove(name);
            }
        }
        command
    }
}
