//! Compiles `proto/podtap/v1/ingest.proto` without a protoc binary, and stamps the revision that every program shows.

use std::path::Path;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["podtap/v1/ingest.proto"], ["proto"])?;
    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure().build_client(grpc).build_server(grpc).bytes(".podtap.v1.Envelope.batch").compile_fds(descriptors)?;
    println!("cargo::rustc-env=PODTAP_REVISION={}", git(&["rev-parse", "--short=12", "HEAD"]).as_deref().unwrap_or("unknown"));
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            println!("cargo::rerun-if-changed={}", Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display());
        }
    }
    Ok(())
}

/// What git answers, asked in this folder; sources without git are built all the same.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
