//! libchdb, the embedded ClickHouse engine, from the npm registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cache, verify_sha256, with_node};
use crate::run::{self, Doing, Failure, Result};

const VERSION: &str = "26.5.3";
const PACKAGE: &str = "@chdb/lib-linux-x64-gnu";
const SHA256: &str = "b874e449710950da3abd7e20376f7bb3387d9e03adcc7082f022be18dfdf316a";

/// The folder with `libchdb.so`.
pub fn chdb(cache: &Cache) -> Result<PathBuf> {
    cache.ensure("chdb", VERSION, "libchdb.so", |dir| {
        if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
            return Err(Failure::new("libchdb is pinned for Linux on x86-64 only; give --clickhouse-url of a server instead"));
        }
        fetch(cache, dir)
    })
}

fn fetch(cache: &Cache, dir: &Path) -> Result<()> {
    let mut npm = with_node(cache, Command::new("npm"))?;
    npm.current_dir(dir).args(["pack", "--loglevel", "http"]).arg(format!("{PACKAGE}@{VERSION}"));
    run::step("libchdb, the embedded ClickHouse (178 MB) from the npm registry", &mut npm)?;
    let archive = dir.join(format!("chdb-lib-linux-x64-gnu-{VERSION}.tgz"));
    verify_sha256(&archive, SHA256)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--no-same-owner", "--strip-components=1", "--file"]);
    run::step("unpacking libchdb (560 MB)", tar.arg(&archive).arg("--directory").arg(dir))?;
    fs::remove_file(&archive).doing(format_args!("removing {}", archive.display()))
}
