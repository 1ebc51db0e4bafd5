//! `cargo xtask ebpf`: the kernel half of the sidecar, as an object that the sidecar embeds.
//!
//! The object is kept in the cache of tools under a hash of its sources, so a clean clone of the same sources needs
//! neither a compiler for it nor a network. What is put in place has been checked: its sections and its BTF are there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::elf;
use crate::run::{self, Doing, Failure, Result, say};
use crate::tools::{self, Cache};
use crate::workspace::Workspace;

/// In the cache and below `target/ebpf/` alike.
const OBJECT: &str = "podtap-sidecar-ebpf.o";
const KERNEL: &str = "sidecar-ebpf/kernel";
const BINARY: &str = "podtap-sidecar-ebpf-kernel";
/// The program, its maps, and the types that the loader relocates against.
const SECTIONS: &[&str] = &["socket", "maps", ".BTF", ".BTF.ext"];
/// Changes when the recipe does, so that an object made otherwise is not taken for one made so.
const RECIPE: &str = "release, core from source, BTF, debuginfo 2; recipe 1";

/// Puts the object in place, building it when neither it nor the cache has these sources.
pub fn ensure(workspace: &Workspace, cache: &Cache, rebuild: bool) -> Result<PathBuf> {
    let key = sources_hash(workspace.root())?;
    let place = workspace.ebpf_object();
    if rebuild {
        let stale = cache.folder("ebpf-object", &key);
        if stale.exists() {
            fs::remove_dir_all(&stale).doing(format_args!("removing {}", stale.display()))?;
        }
    }
    let kept = cache.ensure("ebpf-object", &key, OBJECT, |dir| build(workspace, cache, &dir.join(OBJECT)))?.join(OBJECT);
    verify(&kept)?;
    // Left alone when it is the same: its time of change makes cargo build the sidecar again.
    if fs::read(&place).ok() != fs::read(&kept).ok() {
        let dir = workspace.output().join("ebpf");
        fs::create_dir_all(&dir).doing(format_args!("making {}", dir.display()))?;
        let fresh = dir.join(".fresh.o");
        fs::copy(&kept, &fresh).doing(format_args!("copying {}", kept.display()))?;
        fs::rename(&fresh, &place).doing(format_args!("naming {}", place.display()))?;
        say(format_args!("    eBPF object: {}", place.display()));
    }
    Ok(place)
}

fn build(workspace: &Workspace, cache: &Cache, to: &Path) -> Result<()> {
    let rust = tools::rust_for_bpf()?;
    let linker = tools::bpf_linker(cache, workspace)?;
    let target = workspace.output().join("ebpf-build");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let with = std::env::join_paths(std::iter::once(linker.join("bin")).chain(std::env::split_paths(&path)));
    let mut cargo = Command::new(&rust.cargo);
    cargo.current_dir(workspace.root().join(KERNEL));
    cargo.args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", "bpfel-unknown-none"]);
    // Whatever compiler, flags or wrapper the person's own builds use must not leak into this one.
    for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    cargo.env("PATH", with.doing("putting bpf-linker on PATH")?);
    cargo.env("RUSTC", &rust.rustc).env("RUSTC_BOOTSTRAP", "1");
    cargo.env("RUSTFLAGS", "-Cdebuginfo=2 -Clink-arg=--btf").env("CARGO_TARGET_DIR", &target);
    run::step("the kernel half, for bpfel-unknown-none", &mut cargo)?;
    let built = target.join("bpfel-unknown-none/release").join(BINARY);
    verify(&built)?;
    fs::copy(&built, to).doing(format_args!("copying {}", built.display())).map(|_| ())
}

fn verify(object: &Path) -> Result<()> {
    let bytes = fs::read(object).doing(format_args!("reading {}", object.display()))?;
    check(&bytes).map_err(|why| Failure(format!("{}: {why}", object.display())))
}

fn check(bytes: &[u8]) -> std::result::Result<(), String> {
    let found = elf::sections(bytes).ok_or("not a 64-bit little-endian ELF object")?;
    for wanted in SECTIONS {
        if !found.iter().any(|(name, size)| name == wanted && *size > 0) {
            let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).filter(|n| !n.is_empty()).collect();
            return Err(format!("has no section `{wanted}`, or an empty one; it has {}", names.join(" ")));
        }
    }
    Ok(())
}

/// Over everything that the kernel half is made of: names and bytes of its files, and the recipe.
fn sources_hash(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(&root.join("sidecar-ebpf"), &mut files)?;
    files.sort();
    let mut all = RECIPE.as_bytes().to_vec();
    for file in files {
        let bytes = fs::read(&file).doing(format_args!("reading {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        all.extend_from_slice(format!("\0{name}\0{}\0", bytes.len()).as_bytes());
        all.extend_from_slice(&bytes);
    }
    let mut sum = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().doing("starting sha256sum")?;
    if let Some(mut input) = sum.stdin.take() {
        input.write_all(&all).doing("writing to sha256sum")?;
    }
    let out = sum.wait_with_output().doing("waiting for sha256sum")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let hash: String = text.chars().take(16).collect();
    if hash.len() == 16 { Ok(hash) } else { Err(Failure::new("sha256sum printed no hash")) }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).doing(format_args!("reading {}", dir.display()))? {
        let path = entry.doing(format_args!("reading {}", dir.display()))?.path();
        if path.is_dir() {
            // A build by hand may have left its output there.
            if path.file_name().is_some_and(|n| n != "target") {
                collect(&path, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_its_program_is_refused() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let said = check(&own).unwrap_err();
        assert!(said.contains("`socket`"), "{said}");
        assert!(check(b"text").is_err());
    }

    #[test]
    fn the_hash_changes_with_a_byte_and_with_a_name() {
        let root = std::env::temp_dir().join(format!("podtap-xtask-hash-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let dir = root.join("sidecar-ebpf");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("a.rs"), "one").unwrap();
        let first = sources_hash(&root).unwrap();
        fs::create_dir_all(dir.join("target")).unwrap();
        fs::write(dir.join("target/output"), "x").unwrap();
        assert_eq!(sources_hash(&root).unwrap(), first, "build output is no source");
        fs::write(dir.join("a.rs"), "two").unwrap();
        let second = sources_hash(&root).unwrap();
        fs::rename(dir.join("a.rs"), dir.join("b.rs")).unwrap();
        let third = sources_hash(&root).unwrap();
        assert!(first != second && second != third && first != third);
        fs::remove_dir_all(root).unwrap();
    }
}
