//! `cargo xtask images`: images of sidecar and analyzer as `docker save` would write them, without a registry or Docker.
//!
//! Guarantee: the same binaries and libraries give the same bytes. An image holds a binary, the shared libraries that ldd names, the
//! certificates of public authorities and the names of its user; no shell. `k8s/images/` makes the same with Docker.

pub mod archive;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::ebpf;
use crate::run::{self, Doing, Failure, Result, say};
use crate::tools::{self, Cache, apt};
use crate::workspace::Workspace;
use archive::{Content, Tree};

/// User and group of what runs in the images.
const USER: u32 = 65_532;
/// The sidecar is in every pod.
const SIDECAR_LIMIT: u64 = 30_000_000;
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const NET_RAW: u32 = 13;
const BPF: u32 = 39;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    Release,
    Dev,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Dev => "dev",
        }
    }
}

#[derive(Args)]
pub struct Options {
    /// How the binaries are built; either way the images hold them without debug information
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
}

/// An image on disk.
#[derive(Debug)]
pub struct Image {
    /// `docker.io/podtap/sidecar:0.1.0`
    pub reference: String,
    pub file: PathBuf,
    /// Bytes of its files.
    pub unpacked: u64,
}

pub fn images(workspace: &Workspace, cache: &Cache, options: &Options) -> Result<()> {
    ebpf::ensure(workspace, cache, false)?;
    for image in make(workspace, cache, options.profile)? {
        println!("{:<36} {:>6.1} MB unpacked  {}", image.reference, image.unpacked as f64 / 1e6, image.file.display());
    }
    Ok(())
}

/// Builds the binaries and makes the images, those of the cluster too; the eBPF object is embedded if it is there.
pub fn make(workspace: &Workspace, cache: &Cache, profile: Profile) -> Result<Vec<Image>> {
    apt::ensure("making images", &[apt::BUILD, apt::IMAGES].concat())?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--workspace", "--bins"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    run::show("the binaries for the images", &mut cargo)?;
    let binaries = match profile {
        Profile::Release => workspace.target().join("release"),
        Profile::Dev => workspace.binaries(),
    };
    let dir = workspace.output().join("images").join(profile.name());
    fs::create_dir_all(&dir).doing(format_args!("making {}", dir.display()))?;
    let mut images = vec![sidecar(&binaries, &dir)?, analyzer(cache, &binaries, &dir)?];
    images.extend(of_cluster(&dir)?);
    Ok(images)
}

/// The files of the images that [`make`] has made, those first that pods need before others.
pub fn made(workspace: &Workspace, profile: Profile) -> Result<Vec<PathBuf>> {
    let dir = workspace.output().join("images").join(profile.name());
    let files = ["pause", "host", "sidecar", "analyzer"].map(|name| dir.join(format!("{name}.tar")));
    match files.iter().find(|file| !file.is_file()) {
        None => Ok(files.into()),
        Some(missing) => {
            Err(Failure(format!("{} is not there; `cargo xtask images --profile {}` makes it", missing.display(), profile.name())))
        }
    }
}

/// What holds a pod's namespaces, and an image of nothing for programs of this machine: `/usr` is mounted into it.
fn of_cluster(dir: &Path) -> Result<[Image; 2]> {
    let busybox = run::find_program("busybox").ok_or_else(|| Failure::new("busybox-static is installed, but there is no busybox"))?;
    let mut pause = Tree::default();
    pause.add("bin/busybox", 0o755, Content::File(busybox));
    let config = json!({ "Entrypoint": ["/bin/busybox", "sleep", "2147483647"], "User": "65532:65532" });
    let pause = save("pause", &config, &[pause], dir)?;
    let mut host = Tree::default();
    for folder in ["usr", "proc", "sys", "dev", "etc", "run", "var/lib", "var/log"] {
        host.add(folder, 0o755, Content::Folder);
    }
    host.add("tmp", 0o1777, Content::Folder);
    for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
        host.add(name, 0o777, Content::Link(format!("usr/{name}")));
    }
    for file in ["etc/passwd", "etc/group"] {
        host.add(file, 0o644, Content::File(Path::new("/").join(file)));
    }
    host.add("etc/nsswitch.conf", 0o644, Content::Bytes(b"passwd: files\ngroup: files\nhosts: files dns\n".to_vec()));
    Ok([pause, save("host", &json!({ "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] }), &[host], dir)?])
}

fn reference(name: &str) -> String {
    match name {
        "pause" => "docker.io/podtap/pause:1".to_owned(),
        name => format!("docker.io/podtap/{name}:{}", env!("CARGO_PKG_VERSION")),
    }
}

fn sidecar(binaries: &Path, dir: &Path) -> Result<Image> {
    const PROGRAM: &str = "usr/local/bin/podtap-sidecar";
    let binary = stripped(binaries, "podtap-sidecar", dir)?;
    let mut tree = base(&[&binary])?;
    tree.add(PROGRAM, 0o755, Content::File(binary));
    tree.attribute(PROGRAM, "security.capability", permitted(&[NET_RAW, BPF]));
    tree.add("var/spool/podtap", 0o755, Content::Folder);
    tree.own("var/spool/podtap", USER);
    let size = tree.size().doing("measuring the sidecar's image")?;
    if size > SIDECAR_LIMIT {
        return Err(Failure(format!("the sidecar's image has {size} bytes unpacked, at most {SIDECAR_LIMIT}: what has grown?")));
    }
    let config =
        json!({ "Entrypoint": [format!("/{PROGRAM}")], "Cmd": ["run"], "User": format!("{USER}:{USER}"), "Env": environment(&[]) });
    save("sidecar", &config, &[tree], dir)
}

fn analyzer(cache: &Cache, binaries: &Path, dir: &Path) -> Result<Image> {
    let library = tools::chdb(cache)?.join("libchdb.so");
    // Layers by how often they change, the seldomest first: a node that has them keeps them.
    let mut engine = Tree::default();
    engine.add("usr/local/lib/libchdb.so", 0o644, Content::File(library.clone()));
    let mut programs = Tree::default();
    let mut needing = vec![library];
    for name in ["podtap-analyzer", "podtap-clickhouse"] {
        let binary = stripped(binaries, name, dir)?;
        programs.add(&format!("usr/local/bin/{name}"), 0o755, Content::File(binary.clone()));
        needing.push(binary);
    }
    let mut base = base(&needing.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    base.add("var/lib/podtap", 0o755, Content::Folder);
    base.own("var/lib/podtap", USER);
    // The embedded engine's scratch files.
    base.add("tmp", 0o1777, Content::Folder);
    let config = json!({
        "Entrypoint": ["/usr/local/bin/podtap-analyzer"], "Cmd": ["run"], "User": format!("{USER}:{USER}"),
        "Env": environment(&["PODTAP_LIBCHDB=/usr/local/lib/libchdb.so"]),
    });
    save("analyzer", &config, &[engine, base, programs], dir)
}

fn environment(own: &[&str]) -> Value {
    let certificates = format!("SSL_CERT_FILE={CERTIFICATES}");
    json!([&["PATH=/usr/local/bin", &certificates], own].concat())
}

/// What every program of ours needs beside itself.
fn base(programs: &[&Path]) -> Result<Tree> {
    let mut tree = Tree::default();
    for program in programs {
        for library in shared_libraries(program)? {
            tree.add(&library, 0o755, Content::File(PathBuf::from(&library)));
        }
    }
    tree.add(CERTIFICATES, 0o644, Content::File(CERTIFICATES.into()));
    let text = |text: &str| Content::Bytes(text.as_bytes().to_vec());
    tree.add("etc/passwd", 0o644, text("root:x:0:0:root:/root:/sbin/nologin\npodtap:x:65532:65532:podtap:/nonexistent:/sbin/nologin\n"));
    tree.add("etc/group", 0o644, text("root:x:0:\npodtap:x:65532:\n"));
    // Without it glibc asks DNS before /etc/hosts.
    tree.add("etc/nsswitch.conf", 0o644, text("passwd: files\ngroup: files\nhosts: files dns\n"));
    Ok(tree)
}

/// The libraries that a program or library needs, all the way down, and the loader: paths as the loader looks for them.
fn shared_libraries(program: &Path) -> Result<BTreeSet<String>> {
    let said = run::capture(Command::new("ldd").arg(program))?;
    libraries(&said).map_err(|missing| Failure(format!("{} needs {missing}, which is not on this machine", program.display())))
}

/// Reads `name => /path (0x...)`, `/loader (0x...)`, `linux-vdso.so.1 (0x...)`.
fn libraries(said: &str) -> std::result::Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    for line in said.lines() {
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.trim() == "not found" {
            return Err(name.trim().to_owned());
        }
        found.extend(place.split_whitespace().next().filter(|path| path.starts_with('/')).map(str::to_owned));
    }
    Ok(found)
}

fn stripped(binaries: &Path, name: &str, dir: &Path) -> Result<PathBuf> {
    let to = dir.join(name);
    run::capture(Command::new("strip").arg("-o").arg(&to).arg(binaries.join(name)))?;
    Ok(to)
}

/// The attribute `security.capability`, version 2 (capabilities(7), linux/capability.h): permitted, not effective, so that the program
/// also starts where they are not granted.
fn permitted(capabilities: &[u32]) -> Vec<u8> {
    const VERSION_2: u32 = 0x0200_0000;
    let mut words = [VERSION_2, 0, 0, 0, 0];
    for capability in capabilities {
        // Two pairs of permitted and inheritable, for the lower and the upper 32.
        words[1 + 2 * (capability / 32) as usize] |= 1 << (capability % 32);
    }
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Writes `<dir>/<name>.tar`: layers, configuration and list, as `docker save` does and `docker load` and `ctr images import` read.
fn save(name: &str, config: &Value, layers: &[Tree], dir: &Path) -> Result<Image> {
    let reference = reference(name);
    let mut outer = Tree::default();
    let (mut unpacked, mut sums, mut paths, mut parts) = (0, Vec::new(), Vec::new(), Vec::new());
    for (number, layer) in layers.iter().enumerate() {
        let part = dir.join(format!("{name}.{number}.layer"));
        let doing = format!("writing {}", part.display());
        let mut output = BufWriter::with_capacity(1 << 20, File::create(&part).doing(&doing)?);
        layer.write(&mut output).doing(&doing)?;
        output.into_inner().doing(&doing)?;
        let sum = sha256(Command::new("sha256sum").arg(&part), b"")?;
        let path = format!("{sum}/layer.tar");
        outer.add(&path, 0o644, Content::File(part.clone()));
        unpacked += layer.size().doing(&doing)?;
        sums.push(format!("sha256:{sum}"));
        paths.push(path);
        parts.push(part);
    }
    let image = json!({
        "architecture": architecture(), "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": config, "rootfs": { "type": "layers", "diff_ids": sums },
    });
    let image = image.to_string().into_bytes();
    let config_path = format!("{}.json", sha256(&mut Command::new("sha256sum"), &image)?);
    let list = json!([{ "Config": config_path, "RepoTags": [reference], "Layers": paths }]);
    outer.add(&config_path, 0o644, Content::Bytes(image));
    outer.add("manifest.json", 0o644, Content::Bytes(list.to_string().into_bytes()));
    let file = dir.join(format!("{name}.tar"));
    let doing = format!("writing {}", file.display());
    let partial = dir.join(format!(".{name}.partial"));
    let mut output = BufWriter::with_capacity(1 << 20, File::create(&partial).doing(&doing)?);
    outer.write(&mut output).doing(&doing)?;
    output.into_inner().doing(&doing)?;
    fs::rename(&partial, &file).doing(&doing)?;
    for part in parts {
        fs::remove_file(&part).doing(format_args!("removing {}", part.display()))?;
    }
    say(format_args!("    {reference}: {:.1} MB unpacked", unpacked as f64 / 1e6));
    Ok(Image { reference, file, unpacked })
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn sha256(command: &mut Command, input: &[u8]) -> Result<String> {
    let said = run::capture_with_input(command, input)?;
    let sum: String = said.chars().take_while(char::is_ascii_hexdigit).collect();
    if sum.len() == 64 { Ok(sum) } else { Err(Failure::new("sha256sum printed no sum")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_ldd_names_with_a_path() {
        let said = "\tlinux-vdso.so.1 (0x0)\n\tlibssl.so.3 => /lib/x/libssl.so.3 (0x1)\n\t/lib64/ld.so (0x2)\n\tstatically linked\n";
        assert_eq!(libraries(said).unwrap().into_iter().collect::<Vec<_>>(), ["/lib/x/libssl.so.3", "/lib64/ld.so"]);
        assert_eq!(libraries("\tlibx.so => not found\n").unwrap_err(), "libx.so");
    }

    #[test]
    fn a_capability_is_written_as_the_kernel_reads_it() {
        // setcap cap_net_raw,cap_bpf+p FILE; getfattr -e hex -n security.capability FILE
        let expected = "0000000200200000000000008000000000000000";
        let hex: String = permitted(&[NET_RAW, BPF]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn an_image_lists_its_layers_by_their_sums() {
        let dir = std::env::temp_dir().join(format!("podtap-xtask-image-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut layer = Tree::default();
        layer.add("bin/true", 0o755, Content::File("/bin/true".into()));
        let made = || save("test", &json!({}), std::slice::from_ref(&layer), &dir).unwrap();
        let image = made();
        let first = fs::read(&image.file).unwrap();
        made();
        assert!(first == fs::read(&image.file).unwrap(), "made twice, it differs");
        let mut tar = Command::new("tar");
        let list = run::capture(tar.args(["--extract", "--to-stdout", "--file"]).arg(&image.file).arg("manifest.json")).unwrap();
        let list: Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list[0]["RepoTags"][0], format!("docker.io/podtap/test:{}", env!("CARGO_PKG_VERSION")));
        let layer = list[0]["Layers"][0].as_str().unwrap();
        let mut tar = Command::new("sh");
        let script = "tar --extract --to-stdout --file \"$1\" \"$2\" | sha256sum";
        let sum = run::capture(tar.args(["-c", script, "sum"]).arg(&image.file).arg(layer)).unwrap();
        assert!(layer.starts_with(&sum[..64]), "{layer} {sum}");
        fs::remove_dir_all(dir).unwrap();
    }
}
