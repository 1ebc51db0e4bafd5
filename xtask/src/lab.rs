//! Two network namespaces with a cable between them, and real servers in one: where captures and live figures come from.
//!
//! Guarantee: what it started and made ends when it is dropped; what a killed run left is removed by the next. One lab
//! at a time: the names are fixed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::run::{self, Doing, Failure, Result, find_program};

pub const SERVER_ADDRESS: &str = "10.77.0.1";
const CLIENT_ADDRESS: &str = "10.77.0.2";
pub const SERVER: &str = "podtap-bench-server";
pub const CLIENT: &str = "podtap-bench-client";
/// The cable's end in the server's namespace, where captures are taken.
pub const INTERFACE: &str = "eth0";
const READY_LIMIT: Duration = Duration::from_secs(60);

pub struct Lab {
    dir: PathBuf,
    children: Vec<(String, Child)>,
}

impl Lab {
    pub fn new(dir: &Path) -> Result<Self> {
        if !run::is_root() {
            return Err(Failure::new("network namespaces need root: run this as root, for example with sudo -E env PATH=\"$PATH\""));
        }
        remove_namespaces();
        if dir.exists() {
            fs::remove_dir_all(dir).doing(format_args!("removing {}", dir.display()))?;
        }
        fs::create_dir_all(dir).doing(format_args!("making {}", dir.display()))?;
        let lab = Lab { dir: dir.to_owned(), children: Vec::new() };
        for namespace in [SERVER, CLIENT] {
            run::capture(Command::new("ip").args(["netns", "add", namespace]))?;
        }
        let ip = |namespace: &str, line: &str| run::capture(inside(namespace, "ip")?.args(line.split(' ')));
        ip(SERVER, &format!("link add {INTERFACE} type veth peer name {INTERFACE} netns {CLIENT}"))?;
        for (namespace, address) in [(SERVER, SERVER_ADDRESS), (CLIENT, CLIENT_ADDRESS)] {
            ip(namespace, &format!("addr add {address}/24 dev {INTERFACE}"))?;
            ip(namespace, &format!("link set {INTERFACE} up"))?;
            ip(namespace, "link set lo up")?;
            // Packets of the size they have on a wire, with checksums that are right.
            run::capture(inside(namespace, "ethtool")?.args("-K eth0 tso off gso off gro off tx off".split(' ')))?;
        }
        Ok(lab)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a program in the server's namespace, its output in a file; it ends with the lab.
    pub fn start(&mut self, name: &str, mut command: Command) -> Result<u32> {
        let log = File::create(self.dir.join(format!("{name}.log"))).doing(format_args!("making the log of {name}"))?;
        let errors = log.try_clone().doing(format_args!("making the log of {name}"))?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().doing(format_args!("starting {name}"))?;
        let pid = child.id();
        self.children.push((name.to_owned(), child));
        Ok(pid)
    }

    /// Asks a program that was started here to end, and waits for it.
    pub fn stop(&mut self, name: &str, signal: i32) -> Result<()> {
        let Some(at) = self.children.iter().position(|(n, _)| n == name) else { return Ok(()) };
        let (_, mut child) = self.children.remove(at);
        end(&mut child, signal);
        Ok(())
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Waits until `ready`; says what `name` logged when it never is.
    pub fn wait_for(&mut self, name: &str, mut ready: impl FnMut(&Lab) -> bool) -> Result<()> {
        let started = Instant::now();
        while !ready(self) {
            let child = self.children.iter_mut().find(|(n, _)| n == name);
            let ended = child.is_some_and(|(_, c)| matches!(c.try_wait(), Ok(Some(_))));
            if ended || started.elapsed() > READY_LIMIT {
                let why = if ended { "ended" } else { "is not ready" };
                return Err(Failure(format!("{name} {why}; it said:\n{}", self.log(name).trim_end())));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// nginx with one worker on port 80.
    pub fn nginx(&mut self) -> Result<()> {
        let www = self.dir.join("www");
        fs::create_dir_all(&www).doing("making nginx's files")?;
        let file = |name: &str, bytes: Vec<u8>| fs::write(www.join(name), bytes).doing("writing nginx's files");
        file("index.html", b"<html><body>hello</body></html>\n".to_vec())?;
        file("f1k.txt", b"0123456789abcdef".repeat(64))?;
        file("f16k.bin", b"0123456789abcdef".repeat(1024))?;
        file("f117k.bin", b"0123456789abcdef".repeat(7500))?;
        let page: String = (0..300).map(|n| format!("<p>line {n} of a page that compresses well</p>\n")).collect();
        file("page.html", page.into_bytes())?;
        let settings = self.dir.join("nginx.conf");
        fs::write(&settings, nginx_settings(&self.dir, &www)).doing("writing nginx.conf")?;
        let mut nginx = inside(SERVER, "nginx")?;
        nginx.arg("-p").arg(&self.dir).arg("-c").arg(&settings);
        self.start("nginx", nginx)?;
        self.wait_for("nginx", |_| answers(SERVER, &format!("http://{SERVER_ADDRESS}/index.html")))
    }

    /// MariaDB on port 3306 with the tables that sysbench reads.
    pub fn mariadb(&mut self, rows: u32) -> Result<()> {
        let data = self.dir.join("mariadb");
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--user=root"]);
        run::step("an empty MariaDB", install.arg(format!("--datadir={}", data.display())))?;
        let socket = self.dir.join("mariadb.sock");
        let mut server = inside(SERVER, "mariadbd")?;
        server.args(["--no-defaults", "--user=root", "--skip-name-resolve", "--skip-log-bin", "--innodb-buffer-pool-size=512M"]);
        server.args(["--innodb-flush-log-at-trx-commit=0".to_owned(), format!("--bind-address={SERVER_ADDRESS}")]);
        server.arg(format!("--datadir={}", data.display())).arg(format!("--socket={}", socket.display()));
        self.start("mariadbd", server)?;
        let sql = |text: &str| {
            let mut client = Command::new("mariadb");
            client.args(["--no-defaults", "--user=root"]).arg(format!("--socket={}", socket.display()));
            client.args(["--execute", text]);
            client
        };
        self.wait_for("mariadbd", |_| run::succeeds(&mut sql("select 1")))?;
        run::capture(&mut sql("create database sbtest; create user sb identified by 'sb'; grant all on sbtest.* to sb"))?;
        let mut prepare = sysbench("oltp_read_only", rows)?;
        run::step("tables for sysbench", prepare.arg("prepare"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, child) in self.children.iter_mut().rev() {
            end(child, libc::SIGTERM);
        }
        remove_namespaces();
    }
}

/// A program in a namespace; it keeps the process that was started, so its id is the program's. `ip netns exec` and `ip -n` make
/// mounts of their own, which fails where the root is no mount point.
pub fn inside(namespace: &str, program: impl AsRef<Path>) -> Result<Command> {
    let program = program.as_ref();
    let found = match program.to_str().filter(|name| !name.contains('/')) {
        Some(name) => find_program(name).ok_or_else(|| Failure(format!("{name} is not installed")))?,
        None => program.to_owned(),
    };
    let mut command = Command::new(find_program("nsenter").ok_or_else(|| Failure::new("nsenter is not installed"))?);
    command.arg(format!("--net={}", path(namespace).display())).arg("--").arg(found);
    Ok(command)
}

/// The file that stands for a namespace.
pub fn path(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

/// sysbench from the client's namespace, without its verb.
pub fn sysbench(workload: &str, rows: u32) -> Result<Command> {
    let mut command = inside(CLIENT, "sysbench")?;
    command.arg(workload).arg(format!("--mysql-host={SERVER_ADDRESS}")).arg(format!("--table-size={rows}"));
    command.args(["--mysql-user=sb", "--mysql-password=sb", "--mysql-ssl=off", "--tables=4"]);
    Ok(command)
}

/// Whether a URL answers with success.
pub fn answers(namespace: &str, url: &str) -> bool {
    inside(namespace, "curl").is_ok_and(|mut curl| run::succeeds(curl.args(["--silent", "--fail", "--max-time", "2", url])))
}

fn end(child: &mut Child, signal: i32) {
    if let (Ok(pid), Ok(None)) = (libc::pid_t::try_from(child.id()), child.try_wait()) {
        // SAFETY: kill has no memory preconditions; the child was not waited for yet, so the number is still its own.
        unsafe { libc::kill(pid, signal) };
    }
    let asked = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if asked.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn remove_namespaces() {
    for name in [SERVER, CLIENT] {
        // Programs of a killed run still live in it; the namespace itself goes when they do.
        if let Ok(pids) = run::capture(Command::new("ip").args(["netns", "pids", name])) {
            for pid in pids.split_whitespace().filter_map(|p| p.parse::<libc::pid_t>().ok()) {
                // SAFETY: kill has no memory preconditions; only processes in our own namespace are named.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            run::succeeds(Command::new("ip").args(["netns", "delete", name]));
        }
    }
}

fn nginx_settings(dir: &Path, www: &Path) -> String {
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    keepalive_requests 1000000;
    keepalive_timeout 75s;
    client_body_temp_path {dir}/nginx-body;
    proxy_temp_path {dir}/nginx-proxy;
    fastcgi_temp_path {dir}/nginx-fastcgi;
    uwsgi_temp_path {dir}/nginx-uwsgi;
    scgi_temp_path {dir}/nginx-scgi;
    upstream second {{ server 127.0.0.1:81; keepalive 64; }}
    server {{
        listen {SERVER_ADDRESS}:80;
        root {www};
        location /api/ {{
            default_type application/json;
            return 200 '{{"id":1234567,"name":"an item of the catalogue","price":1999,"currency":"EUR","stock":12345678}}';
        }}
        location /gz/ {{ alias {www}/; gzip on; gzip_min_length 1; }}
        location /err500 {{ return 500 boom; }}
        location /err503 {{ return 503; }}
        location /post {{
            proxy_pass http://second;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
    server {{
        listen 127.0.0.1:81;
        location / {{ default_type application/json; return 201 '{{"ok":true}}'; }}
    }}
}}
"#,
        dir = dir.display(),
        www = www.display(),
    )
}
