//! `cargo xtask captures`: real traffic, recorded with tcpdump, for figures and comparisons.
//!
//! Guarantee: a capture is put in place only when the kernel dropped nothing of it. Two makings give the same kind of
//! traffic, never the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::lab::{self, Lab};
use crate::run::{self, Doing, Failure, Result, say};
use crate::tools::apt;
use crate::workspace::Workspace;

/// tcpdump's ring, in KiB: allocated before the load begins, which takes a while.
const RING_KIB: u32 = 524_288;
const RING_PAUSE: Duration = Duration::from_secs(4);
const TABLE_ROWS: u32 = 20_000;

/// What makes a capture, and how it is counted by tshark.
pub struct Recipe {
    pub name: &'static str,
    pub protocol: Protocol,
    load: Load,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Mysql,
}

#[derive(Clone, Copy)]
enum Load {
    /// A wrk script.
    Wrk(&'static str),
    /// A workload of sysbench, and its --db-ps-mode.
    Sysbench(&'static str, &'static str),
}

pub const RECIPES: &[Recipe] = &[
    Recipe { name: "http-api", protocol: Protocol::Http, load: Load::Wrk(API) },
    Recipe { name: "http-mix", protocol: Protocol::Http, load: Load::Wrk(MIX) },
    Recipe { name: "http-pipe8", protocol: Protocol::Http, load: Load::Wrk(PIPE) },
    Recipe { name: "http-close", protocol: Protocol::Http, load: Load::Wrk(CLOSE) },
    Recipe { name: "mysql-point", protocol: Protocol::Mysql, load: Load::Sysbench("oltp_point_select", "disable") },
    Recipe { name: "mysql-text", protocol: Protocol::Mysql, load: Load::Sysbench("oltp_read_only", "disable") },
    Recipe { name: "mysql-prepared", protocol: Protocol::Mysql, load: Load::Sysbench("oltp_read_only", "auto") },
];

pub const API: &str = r#"
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", "/api/items/" .. n .. "?page=" .. (n % 17), {
    ["Accept"] = "application/json", ["User-Agent"] = "wrk", ["X-Request-Id"] = string.format("%016x", n) })
end
"#;

/// Never HEAD: wrk waits for a body.
const MIX: &str = r#"
local n = 0
request = function()
  n = n + 1
  local r = n % 100
  local headers = { ["Accept"] = "*/*", ["User-Agent"] = "wrk", ["X-Request-Id"] = string.format("%016x", n),
    ["Cookie"] = "session=0123456789abcdef; theme=dark", ["Accept-Encoding"] = "gzip" }
  if r < 60 then return wrk.format("GET", "/api/items/" .. n .. "?page=" .. (n % 17), headers) end
  if r < 75 then return wrk.format("GET", "/f1k.txt", headers) end
  if r < 82 then return wrk.format("GET", "/gz/page.html", headers) end
  if r < 87 then return wrk.format("GET", "/f16k.bin", headers) end
  if r < 88 then return wrk.format("GET", "/f117k.bin", headers) end
  if r < 94 then
    headers["Content-Type"] = "application/json"
    return wrk.format("POST", "/post/" .. n, headers, '{"item":' .. n .. ',"quantity":3,"note":"leave it at the door"}')
  end
  if r < 97 then return wrk.format("GET", "/missing/" .. n, headers) end
  if r == 97 then return wrk.format("GET", "/err500", headers) end
  if r == 98 then return wrk.format("GET", "/err503", headers) end
  return wrk.format("GET", "/index.html", headers)
end
"#;

/// Eight requests at once, then their answers.
const PIPE: &str = r#"
local n = 0
request = function()
  local requests = {}
  for i = 1, 8 do
    n = n + 1
    requests[i] = wrk.format("GET", "/api/p/" .. n, { ["Accept"] = "application/json" })
  end
  return table.concat(requests)
end
"#;

const CLOSE: &str = r#"
local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", "/api/items/" .. n, { ["Accept"] = "application/json", ["Connection"] = "close" })
end
"#;

pub fn folder(workspace: &Workspace) -> PathBuf {
    workspace.output().join("captures")
}

/// Makes those that are not there, or the named ones anew.
pub fn make(workspace: &Workspace, quick: bool, names: &[String]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|n| !RECIPES.iter().any(|r| r.name == n.as_str())) {
        let known: Vec<&str> = RECIPES.iter().map(|r| r.name).collect();
        return Err(Failure(format!("no capture `{unknown}`; there are {}", known.join(", "))));
    }
    let folder = folder(workspace);
    fs::create_dir_all(&folder).doing(format_args!("making {}", folder.display()))?;
    let asked = |r: &&Recipe| names.iter().any(|n| n == r.name);
    let missing = |r: &&Recipe| names.is_empty() && !folder.join(r.name).with_extension("pcap").exists();
    let wanted: Vec<&Recipe> = RECIPES.iter().filter(|r| asked(r) || missing(r)).collect();
    if wanted.is_empty() {
        say(format_args!("==> captures are in {}", folder.display()));
        return Ok(());
    }
    apt::ensure("making captures", &[apt::SERVERS, apt::LOAD].concat())?;
    let mut lab = Lab::new(&workspace.output().join("lab"))?;
    if wanted.iter().any(|r| r.protocol == Protocol::Http) {
        lab.nginx()?;
    }
    if wanted.iter().any(|r| r.protocol == Protocol::Mysql) {
        lab.mariadb(TABLE_ROWS)?;
    }
    let seconds = if quick { 1 } else { 10 };
    for recipe in wanted {
        record(&mut lab, recipe, seconds, &folder)?;
    }
    Ok(())
}

fn record(lab: &mut Lab, recipe: &Recipe, seconds: u32, folder: &Path) -> Result<()> {
    let port = if recipe.protocol == Protocol::Http { "80" } else { "3306" };
    let unfinished = folder.join(format!(".{}.pcap", recipe.name));
    let mut tcpdump = lab::inside(lab::SERVER, "tcpdump")?;
    tcpdump.args(["-i", lab::INTERFACE, "-n", "-s", "0", "-Z", "root", "-B"]).arg(RING_KIB.to_string());
    tcpdump.arg("-w").arg(&unfinished).args(["tcp", "port", port]);
    lab.start("tcpdump", tcpdump)?;
    lab.wait_for("tcpdump", |lab| lab.log("tcpdump").contains("listening on"))?;
    std::thread::sleep(RING_PAUSE);
    let mut load = load(lab, recipe.load, seconds)?;
    run::step(&format!("{}: {} s of load", recipe.name, seconds), &mut load)?;
    // What is still in the ring belongs to the capture.
    std::thread::sleep(Duration::from_secs(2));
    lab.stop("tcpdump", libc::SIGINT)?;
    let said = lab.log("tcpdump");
    let dropped = counter(&said, "dropped by kernel");
    if dropped != Some(0) {
        fs::remove_file(&unfinished).doing("removing a capture with holes")?;
        return Err(Failure(format!("{}: the kernel dropped packets of the capture; tcpdump said:\n{said}", recipe.name)));
    }
    let place = folder.join(recipe.name).with_extension("pcap");
    fs::rename(&unfinished, &place).doing(format_args!("naming {}", place.display()))?;
    let bytes = place.metadata().doing("looking at the capture")?.len();
    let packets = counter(&said, "captured").unwrap_or(0);
    say(format_args!("    {}: {packets} packets, {:.0} MB", place.display(), bytes as f64 / 1e6));
    Ok(())
}

fn load(lab: &Lab, load: Load, seconds: u32) -> Result<Command> {
    match load {
        Load::Wrk(script) => wrk(lab, script, seconds),
        Load::Sysbench(workload, mode) => {
            let mut sysbench = lab::sysbench(workload, TABLE_ROWS)?;
            sysbench.args(["--threads=16".to_owned(), format!("--time={seconds}"), format!("--db-ps-mode={mode}")]);
            sysbench.arg("run");
            Ok(sysbench)
        }
    }
}

/// wrk with 64 connections from the client's namespace.
pub fn wrk(lab: &Lab, script: &str, seconds: u32) -> Result<Command> {
    let file = lab.dir().join("load.lua");
    fs::write(&file, script).doing("writing wrk's script")?;
    let mut wrk = lab::inside(lab::CLIENT, "wrk")?;
    wrk.args(["-t1", "-c64"]).arg(format!("-d{seconds}")).arg("-s").arg(file);
    wrk.arg(format!("http://{}/", lab::SERVER_ADDRESS));
    Ok(wrk)
}

/// `123 packets dropped by kernel` among what tcpdump says at its end.
fn counter(said: &str, what: &str) -> Option<u64> {
    said.lines().find(|l| l.contains("packet") && l.contains(what))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::counter;

    #[test]
    fn tcpdumps_counters_are_read_from_its_last_words() {
        let said =
            "tcpdump: listening on eth0\n1224612 packets captured\n1224700 packets received by filter\n3 packets dropped by kernel\n";
        assert_eq!(counter(said, "captured"), Some(1_224_612));
        assert_eq!(counter(said, "dropped by kernel"), Some(3));
        assert_eq!(counter("tcpdump: no permission", "dropped by kernel"), None);
    }
}
