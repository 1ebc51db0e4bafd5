//! Kubernetes and CoreDNS, built from Go modules by the modules of `k8s/cluster/`.
//!
//! Each is kept under its version and a hash of the files that say how it is made, so another recipe is another folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Cache, go};
use crate::run::{self, Doing, Failure, Result};
use crate::workspace::Workspace;

/// What the one binary is called as.
pub const COMPONENTS: [&str; 6] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// The folder with a program for each of [`COMPONENTS`].
pub fn kubernetes(cache: &Cache, workspace: &Workspace) -> Result<PathBuf> {
    let recipe = Recipe::read(workspace, "k8s/cluster", "k8s.io/kubernetes")?;
    cache.ensure("kubernetes", &recipe.key()?, "kubectl", |dir| {
        let number = recipe.version.trim_start_matches('v');
        let mut numbers = number.split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let version = "k8s.io/component-base/version";
        let flags = format!("-s -w -X {version}.gitVersion=v{number} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}");
        recipe.build(cache, &flags, &dir.join("kubernetes"), "some minutes, and a gigabyte of memory")?;
        for name in COMPONENTS {
            std::os::unix::fs::symlink("kubernetes", dir.join(name)).doing(format_args!("linking {name}"))?;
        }
        Ok(())
    })
}

/// The folder with `coredns`.
pub fn coredns(cache: &Cache, workspace: &Workspace) -> Result<PathBuf> {
    let recipe = Recipe::read(workspace, "k8s/cluster/coredns", "github.com/coredns/coredns")?;
    cache.ensure("coredns", &recipe.key()?, "coredns", |dir| recipe.build(cache, "-s -w", &dir.join("coredns"), "a minute or two"))
}

/// A Go module of ours that builds one program of another module.
struct Recipe {
    folder: PathBuf,
    module: &'static str,
    version: String,
}

impl Recipe {
    fn read(workspace: &Workspace, folder: &str, module: &'static str) -> Result<Self> {
        let folder = workspace.root().join(folder);
        let file = folder.join("go.mod");
        let text = std::fs::read_to_string(&file).doing(format_args!("reading {}", file.display()))?;
        let version = required(&text, module).ok_or_else(|| Failure(format!("{} does not require {module}", file.display())))?;
        Ok(Self { folder, module, version: version.to_owned() })
    }

    fn key(&self) -> Result<String> {
        let mut sum = Command::new("sha256sum");
        sum.current_dir(&self.folder).args(["go.mod", "go.sum", "main.go"]);
        let mut whole = Command::new("sha256sum");
        let sums = run::capture(&mut sum)?;
        let hash = run::capture_with_input(&mut whole, sums.as_bytes())?;
        Ok(format!("{}-{}", self.version.trim_start_matches('v'), hash.chars().take(8).collect::<String>()))
    }

    fn build(&self, cache: &Cache, linker_flags: &str, to: &Path, takes: &str) -> Result<()> {
        let mut build = Command::new(go(cache)?);
        build.current_dir(&self.folder).args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", linker_flags, "-o"]);
        // No C compiler takes part, whatever is installed; the toolchain is the one that was chosen.
        build.arg(to).arg(".").env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env_remove("GOFLAGS");
        run::step(&format!("{} {} from Go modules ({takes})", self.module, self.version), &mut build)
    }
}

/// The version of a module that a go.mod requires.
fn required<'a>(text: &'a str, module: &str) -> Option<&'a str> {
    text.lines().filter(|line| !line.contains("=>")).find_map(|line| {
        let line = line.trim();
        let mut words = line.strip_prefix("require ").unwrap_or(line).split_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::required;

    #[test]
    fn the_version_is_that_of_the_requirement() {
        let text = "module x\n\nrequire a/b v1.2.3\nrequire (\n\tc/d v0.34.3\n\te/f v1.0.0 // indirect\n)\nreplace c/d => c/d v9\n";
        assert_eq!(required(text, "a/b"), Some("v1.2.3"));
        assert_eq!(required(text, "c/d"), Some("v0.34.3"));
        assert_eq!(required(text, "d"), None);
    }
}
