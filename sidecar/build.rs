//! Finds the eBPF object that `cargo xtask ebpf` built and tells the compiler where it is; without it the sidecar compiles all the same.
//! Also stamps the compiler that `--version` shows.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(podtap_ebpf_object)");
    println!("cargo::rerun-if-env-changed=PODTAP_EBPF_OBJECT");
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    let built = root.join("target/ebpf/podtap-sidecar-ebpf.o");
    let object = std::env::var_os("PODTAP_EBPF_OBJECT").map_or(built, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if std::env::var_os("CARGO_FEATURE_EBPF").is_some() && object.is_file() {
        println!("cargo::rustc-cfg=podtap_ebpf_object");
        let object = object.canonicalize().unwrap_or(object);
        println!("cargo::rustc-env=PODTAP_EBPF_OBJECT_PATH={}", object.display());
    }
    let rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version").output();
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    println!("cargo::rustc-env=PODTAP_RUSTC={rustc}");
}
