//! What builds the kernel half: bpf-linker with its LLVM, and a Rust that can build `core` for the BPF target.
//!
//! Stable Rust has no prebuilt `core` for bpfel-unknown-none, so its sources are needed, of the same version as the
//! compiler. Debian packs such a pair; elsewhere a rustup nightly with rust-src does. The compiler's LLVM must not be
//! newer than the linker's.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cache, apt};
use crate::run::{self, Failure, Result};
use crate::workspace::Workspace;

const VERSION: &str = "0.13.0";
const LLVM_MAJOR: u32 = 22;

const LLVM: &[apt::Package] = &[apt::package("llvm-22-dev", "the LLVM that bpf-linker is linked with")];
const RUST: &[apt::Package] = &[
    apt::package("rustc-web", "compiles the kernel half"),
    apt::package("cargo-web", "builds the kernel half"),
    apt::package("rust-web-src", "sources of core, built for the BPF target"),
];

/// The folder with `bin/bpf-linker`.
pub fn bpf_linker(cache: &Cache, workspace: &Workspace) -> Result<PathBuf> {
    // Also on a warm start: the linker is linked with this LLVM's shared library.
    apt::ensure("bpf-linker", LLVM)?;
    cache.ensure("bpf-linker", VERSION, "bin/bpf-linker", |dir| install(workspace, dir))
}

fn install(workspace: &Workspace, dir: &Path) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["install", "bpf-linker", "--locked", "--version", VERSION]);
    cargo.args(["--no-default-features", "--features"]).arg(format!("llvm-{LLVM_MAJOR}"));
    cargo.arg("--root").arg(dir);
    // Without the prefix it finds another llvm-config's LLVM, or none.
    cargo.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM_MAJOR}"));
    // Its build output goes to a temporary folder of cargo's own.
    cargo.env_remove("CARGO_TARGET_DIR");
    run::step(&format!("bpf-linker {VERSION} by cargo install"), &mut cargo)
}

/// A compiler and its cargo, fit for `-Z build-std=core`.
#[derive(Debug)]
pub struct BpfRust {
    pub cargo: PathBuf,
    pub rustc: PathBuf,
}

/// Debian's pair where apt has it, else a rustup nightly with rust-src.
pub fn rust_for_bpf() -> Result<BpfRust> {
    let debian = BpfRust { cargo: "/usr/bin/cargo".into(), rustc: "/usr/bin/rustc".into() };
    if usable(&debian).is_ok() {
        return Ok(debian);
    }
    if let Some(nightly) = nightly().filter(|n| usable(n).is_ok()) {
        return Ok(nightly);
    }
    if run::find_program("apt-get").is_some() {
        apt::ensure("the eBPF object", RUST)?;
        return usable(&debian).map(|()| debian);
    }
    Err(Failure::new(
        "the eBPF object needs a Rust with the sources of core. Run this line, then try again:\n\n    \
         rustup toolchain install nightly --component rust-src\n",
    ))
}

fn nightly() -> Option<BpfRust> {
    let which = |tool| {
        let said = run::capture(Command::new("rustup").args(["which", "--toolchain", "nightly", tool])).ok()?;
        Some(PathBuf::from(said.trim()))
    };
    Some(BpfRust { cargo: which("cargo")?, rustc: which("rustc")? })
}

fn usable(rust: &BpfRust) -> Result<()> {
    let sysroot = run::capture(Command::new(&rust.rustc).args(["--print", "sysroot"]))?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !sources.exists() {
        return Err(Failure(format!("{} has no sources of core ({})", rust.rustc.display(), sources.display())));
    }
    let version = run::capture(Command::new(&rust.rustc).arg("-vV"))?;
    match llvm_major(&version) {
        Some(major) if major <= LLVM_MAJOR => Ok(()),
        found => Err(Failure(format!(
            "{} is built on LLVM {found:?}, bpf-linker on {LLVM_MAJOR}: it cannot read what the compiler writes",
            rust.rustc.display()
        ))),
    }
}

fn llvm_major(version: &str) -> Option<u32> {
    version.lines().find_map(|l| l.strip_prefix("LLVM version:"))?.trim().split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn the_compilers_llvm_is_read_from_its_verbose_version() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}
