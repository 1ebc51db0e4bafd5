//! `cargo xtask kafka start | stop | status`: one real Apache Kafka node (KRaft) in a folder.
//!
//! Guarantee: `start` returns when the broker answers requests, on the ports it had before if the folder is not new,
//! also after it was killed. The folder is all there is: remove it after `stop` and nothing is left.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::{self, Doing, Failure, Result, say};

/// It answers some three seconds after its start; a loaded machine may take many times that.
const START_LIMIT: Duration = Duration::from_secs(120);
/// A clean end closes logs; after that it is killed, which it survives.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// One fixed cluster: the folder is the identity.
const CLUSTER_ID: &str = "cG9kdGFwLWtyYWZ0LW9uZQ";

pub struct Broker {
    dir: PathBuf,
}

impl Broker {
    pub fn at(dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir).doing(format_args!("finding {}", dir.display()))?;
        Ok(Broker { dir })
    }

    /// Starts it unless it runs; the address that it answers on. `libs` is the folder of jars; port 0 means: the one it had, or a free one.
    pub fn start(&self, libs: &Path, port: u16) -> Result<SocketAddr> {
        if let Some((pid, address)) = self.running() {
            if port != 0 && port != address.port() {
                return Err(Failure(format!("a broker runs in {} already, on {address} (pid {pid})", self.dir.display())));
            }
            wait_until_it_answers(address, pid, &self.log())?;
            return Ok(address);
        }
        fs::create_dir_all(&self.dir).doing(format_args!("making {}", self.dir.display()))?;
        let (port, controller) = self.ports(port)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        self.write_settings(port, controller)?;
        if !self.dir.join("data/meta.properties").exists() {
            let mut format = self.java(libs, "128m");
            format.args(["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c"]);
            run::step("formatting the broker's storage", format.arg(self.settings()))?;
        }
        let log = File::options().create(true).append(true).open(self.log()).doing("opening the broker's log")?;
        let errors = log.try_clone().doing("opening the broker's log")?;
        let mut java = self.java(libs, "512m");
        java.arg("kafka.Kafka").arg(self.settings()).stdin(Stdio::null()).stdout(log).stderr(errors);
        // A group of its own: Ctrl-C in the terminal that started it is not for the broker.
        let child = java.process_group(0).spawn().doing("starting java")?;
        fs::write(self.pid_file(), child.id().to_string()).doing("writing the broker's pid")?;
        wait_until_it_answers(address, child.id(), &self.log())?;
        Ok(address)
    }

    /// Ends it, by force after a while; false when none ran.
    pub fn stop(&self) -> Result<bool> {
        let Some((pid, _)) = self.running() else {
            let _ = fs::remove_file(self.pid_file());
            return Ok(false);
        };
        signal(pid, libc::SIGTERM);
        let asked = Instant::now();
        while self.running().is_some() {
            if asked.elapsed() > STOP_LIMIT {
                say(format_args!("    the broker (pid {pid}) did not end in {} s: killing it", STOP_LIMIT.as_secs()));
                signal(pid, libc::SIGKILL);
            }
            std::thread::sleep(POLL);
        }
        let _ = fs::remove_file(self.pid_file());
        Ok(true)
    }

    /// Process and address of the broker of this folder, if it runs.
    pub fn running(&self) -> Option<(u32, SocketAddr)> {
        let pid: u32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        // The number may be another program's by now: only ours names this folder's settings on its command line.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let settings = self.settings();
        let ours = line.split(|b| *b == 0).any(|word| word == settings.as_os_str().as_encoded_bytes());
        let port = if ours { self.setting("listeners").and_then(|l| port_of(&l, "PLAINTEXT"))? } else { return None };
        Some((pid, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("kafka.log")
    }

    fn settings(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("kafka.pid")
    }

    fn setting(&self, key: &str) -> Option<String> {
        let text = fs::read_to_string(self.settings()).ok()?;
        text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    }

    /// Clients keep the address over a restart, so a folder keeps its ports.
    fn ports(&self, asked: u16) -> Result<(u16, u16)> {
        let before = self.setting("listeners");
        let had = |name| before.as_deref().and_then(|l| port_of(l, name));
        let port = match (asked, had("PLAINTEXT")) {
            (0, Some(port)) => port,
            (0, None) => free_port()?,
            (asked, _) => asked,
        };
        let controller = match had("CONTROLLER") {
            Some(port) => port,
            None => free_port()?,
        };
        Ok((port, controller))
    }

    fn write_settings(&self, port: u16, controller: u16) -> Result<()> {
        let text = settings_text(&self.dir, port, controller);
        fs::write(self.settings(), text).doing("writing the broker's settings")?;
        fs::write(self.dir.join("log4j2.properties"), LOG4J).doing("writing the broker's log settings")
    }

    fn java(&self, libs: &Path, heap: &str) -> Command {
        let mut java = Command::new("java");
        java.arg(format!("-Xmx{heap}")).args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        let logging = self.dir.join("log4j2.properties");
        java.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
        java.arg("-cp").arg(libs.join("*"));
        java
    }
}

fn settings_text(dir: &Path, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         log.dirs={data}\n\
         num.partitions=4\n\
         auto.create.topics.enable=true\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n",
        data = dir.join("data").display(),
    )
}

const LOG4J: &str = "\
status=warn
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %c{1} %m%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=OUT
logger.server.name=kafka.server
logger.server.level=info
";

fn port_of(listeners: &str, name: &str) -> Option<u16> {
    let listener = listeners.split(',').find_map(|l| l.strip_prefix(name)?.strip_prefix("://"))?;
    listener.rsplit(':').next()?.parse().ok()
}

fn free_port() -> Result<u16> {
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing("finding a free port")?;
    Ok(held.local_addr().doing("finding a free port")?.port())
}

fn signal(pid: u32, signal: i32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: kill has no memory preconditions; the pid was just seen to be the broker's.
        unsafe { libc::kill(pid, signal) };
    }
}

fn wait_until_it_answers(address: SocketAddr, pid: u32, log: &Path) -> Result<()> {
    let started = Instant::now();
    loop {
        if answers(address) {
            return Ok(());
        }
        let ended = ended(pid);
        if ended || started.elapsed() > START_LIMIT {
            let why = if ended { "ended" } else { "does not answer" };
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(15)..];
            return Err(Failure(format!("the broker {why}; the end of {}:\n{}", log.display(), tail.join("\n"))));
        }
        std::thread::sleep(POLL);
    }
}

/// Our own child stays a zombie until we end, so being listed is not enough.
fn ended(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}

/// An ApiVersions request, version 0 (Kafka protocol guide): every broker answers it, without a login.
fn answers(address: SocketAddr) -> bool {
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(&REQUEST)?;
        let mut head = [0; 10];
        stream.read_exact(&mut head)?;
        // Length, our correlation number, no error.
        Ok(head[4..] == [0, 0, 0, 7, 0, 0])
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_back_from_the_settings() {
        let text = settings_text(Path::new("/d"), 19092, 19093);
        let line = text.lines().find_map(|l| l.strip_prefix("listeners=")).unwrap();
        assert_eq!((port_of(line, "PLAINTEXT"), port_of(line, "CONTROLLER")), (Some(19092), Some(19093)));
        assert_eq!(port_of(line, "SSL"), None);
    }

    #[test]
    fn another_program_with_the_same_number_is_not_the_broker() {
        let dir = std::env::temp_dir().join(format!("podtap-xtask-broker-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let broker = Broker::at(&dir).unwrap();
        broker.write_settings(1, 2).unwrap();
        fs::write(broker.pid_file(), std::process::id().to_string()).unwrap();
        assert!(broker.running().is_none());
        assert!(!broker.stop().unwrap(), "and it is not stopped");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_port_that_accepts_and_says_nothing_sensible_does_not_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        });
        assert!(!answers(address));
        peer.join().unwrap();
    }
}
