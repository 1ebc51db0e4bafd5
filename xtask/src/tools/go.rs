//! Go: the one on PATH, else the toolchain that Go's own module proxy serves, fetched by Debian's older Go.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cache, apt};
use crate::run::{self, Doing, Failure, Result};

const VERSION: &str = "1.25.1";
/// What Kubernetes asks for.
const OLDEST: (u32, u32) = (1, 24);

const DEBIAN: &[apt::Package] = &[
    apt::program("golang-go", "go", "fetches a newer Go from the module proxy"),
    apt::package("ca-certificates", "TLS towards the registries"),
];

/// The program `go`.
pub fn go(cache: &Cache) -> Result<PathBuf> {
    if let Some(found) = run::find_program("go").filter(|go| version_of(go).is_some_and(|version| version >= OLDEST)) {
        return Ok(found);
    }
    let folder = cache.ensure("go", VERSION, "go/bin/go", fetch)?;
    Ok(folder.join("go/bin/go"))
}

fn version_of(go: &Path) -> Option<(u32, u32)> {
    // Older ones know no toolchain setting and pass over it.
    parse(&run::capture(Command::new(go).arg("version").env("GOTOOLCHAIN", "local")).ok()?)
}

/// `go version go1.26.8 linux/amd64`
fn parse(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().nth(2)?.strip_prefix("go")?.split(['.', '-']);
    let major = numbers.next()?.parse().ok()?;
    // "1.27rc1" is a 1.27 too.
    let minor = numbers.next()?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some((major, minor))
}

fn fetch(dir: &Path) -> Result<()> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Err(Failure(format!("Go {}.{} or newer has to be installed by hand on this kind of machine", OLDEST.0, OLDEST.1)));
    }
    apt::ensure("Go", DEBIAN)?;
    let debian = run::find_program("go").ok_or_else(|| Failure::new("golang-go is installed, but there is no program go"))?;
    let modules = dir.join("modules");
    let mut download = Command::new(debian);
    download.current_dir(dir).args(["mod", "download", "-json"]).arg(format!("golang.org/toolchain@v0.0.1-go{VERSION}.linux-amd64"));
    // A module cache of its own, which is writable and can be moved.
    download.env("GOMODCACHE", &modules).env("GOFLAGS", "-modcacherw").env("GO111MODULE", "on");
    run::step(&format!("Go {VERSION} from the module proxy"), &mut download)?;
    let toolchain = modules.join(format!("golang.org/toolchain@v0.0.1-go{VERSION}.linux-amd64"));
    for programs in ["bin", "pkg/tool"] {
        make_executable(&toolchain.join(programs))?;
    }
    fs::rename(&toolchain, dir.join("go")).doing(format_args!("naming {}", toolchain.display()))?;
    fs::remove_dir_all(&modules).doing(format_args!("removing {}", modules.display()))
}

/// Module archives carry no modes.
fn make_executable(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).doing(format_args!("making {} executable", path.display()))?;
    if path.is_dir() {
        for entry in fs::read_dir(path).doing(format_args!("reading {}", path.display()))? {
            make_executable(&entry.doing(format_args!("reading {}", path.display()))?.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn versions_are_read_as_go_prints_them() {
        assert_eq!(parse("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(parse("go version go1.19 linux/amd64\n"), Some((1, 19)));
        assert_eq!(parse("go version go1.27rc1 linux/amd64\n"), Some((1, 27)));
        assert_eq!(parse("go: command not found"), None);
    }
}
