//! A real nginx in a pod, with generated configuration: answers of its own, files, and an application behind it.
//!
//! The access log ([`Nginx::access_log`]) holds `$request_time`, nginx's own figure for what the sidecar measures from outside.

use std::fs;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::pod::Pod;
use crate::process::{Process, Spec};
use crate::run::{Run, program};
use crate::{Context, Result, http};

/// Where it listens in the pod.
const PORT: u16 = 80;

/// The server; dropped, it ends.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    address: SocketAddrV4,
    log: PathBuf,
}

/// One line of the access log.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLine {
    /// `$request_time` in nanoseconds (it has milliseconds).
    pub request_time_ns: u64,
    /// Status answered.
    pub status: u16,
    /// Path with its query.
    pub path: String,
}

impl Nginx {
    /// Starts it in `pod`, before `application` where there is one; writes an access log only on demand.
    pub fn start(run: &Run, pod: &Pod, application: Option<SocketAddrV4>, access_log: bool) -> Result<Self> {
        let executable = program("nginx", "nginx")?;
        let folder = run.folder("nginx")?;
        let log = folder.join("access.log");
        let files = folder.join("files");
        fs::create_dir_all(&files).context("making nginx's files")?;
        for (name, size) in [("small.bin", 1 << 10), ("medium.bin", 16 << 10), ("large.bin", 117 << 10)] {
            fs::write(files.join(name), vec![b'x'; size]).context("writing nginx's files")?;
        }
        let address = SocketAddrV4::new(pod.address(), PORT);
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, configure(&folder, address, application, access_log.then_some(&log))).context("writing nginx.conf")?;
        let spec = Spec::new(executable, ["-p".as_ref(), folder.as_os_str(), "-c".as_ref(), configuration.as_os_str()])
            // On SIGKILL the master would leave its worker behind.
            .death_signal(libc::SIGTERM);
        let process = Process::start(run, "nginx", &pod.enter(spec))?;
        process.until(
            "nginx answers",
            Duration::from_secs(20),
            || Ok((http::get(address, "/nginx-ready")?.status == 204).then_some(())),
        )?;
        let nginx = Self { process, address, log };
        if access_log {
            nginx.wake_at_once()?;
        }
        Ok(nginx)
    }

    /// nginx's clock starts when its worker wakes up, the sidecar's when the packet arrives: on a busy machine only a worker
    /// of a real-time class has the same idea of a request's beginning.
    fn wake_at_once(&self) -> Result<()> {
        let master = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).context("finding nginx's worker")?;
        for worker in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let parameter = libc::sched_param { sched_priority: 10 };
            // SAFETY: plain system call with a valid parameter.
            if unsafe { libc::sched_setscheduler(worker, libc::SCHED_FIFO, &parameter) } != 0 {
                let error = std::io::Error::last_os_error();
                eprintln!("nginx keeps its ordinary priority ({error}): its clock may lag on a busy machine");
            }
        }
        Ok(())
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What the access log holds so far.
    pub fn access_log(&self) -> Result<Vec<AccessLine>> {
        let text = fs::read_to_string(&self.log).context("reading nginx's access log")?;
        text.lines().map(|line| access_line(line).context(format!("not a line of the access log: {line:?}"))).collect()
    }
}

fn access_line(line: &str) -> Option<AccessLine> {
    let mut fields = line.split('\t');
    let (seconds, milliseconds) = fields.next()?.split_once('.')?;
    let request_time_ns = (seconds.parse::<u64>().ok()? * 1000 + milliseconds.parse::<u64>().ok()?) * 1_000_000;
    Some(AccessLine { request_time_ns, status: fields.next()?.parse().ok()?, path: fields.next()?.to_owned() })
}

fn configure(folder: &Path, address: SocketAddrV4, application: Option<SocketAddrV4>, access_log: Option<&PathBuf>) -> String {
    let folder = folder.display();
    let access_log = match access_log {
        Some(path) => format!("access_log {} timing;", path.display()),
        None => "access_log off;".to_owned(),
    };
    let (upstream, proxy) = match application {
        Some(application) => (
            format!("upstream application {{ server {application}; keepalive 64; }}"),
            "location / { proxy_pass http://application; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
             proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr; }"
                .to_owned(),
        ),
        None => (String::new(), "location / { return 404 'no such page\\n'; }".to_owned()),
    };
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  default_type application/json;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  log_format timing "$request_time\t$status\t$request_uri";
  {access_log}
  keepalive_requests 100000000;
  keepalive_timeout 300s;
  tcp_nodelay on;
  {upstream}
  server {{
    listen {address} backlog=1024;
    location = /nginx-ready {{ access_log off; return 204; }}
    location /products/ {{ return 200 '{{"id":17,"name":"a product","price":1999,"currency":"EUR","stock":42,"tags":["new","blue"]}}\n'; }}
    location /files/ {{ alias {folder}/files/; }}
    location /missing/ {{ return 404 '{{"error":"no such thing"}}\n'; }}
    location /broken/ {{ return 500 '{{"error":"boom"}}\n'; }}
    location /busy/ {{ return 503 '{{"error":"try later"}}\n'; }}
    {proxy}
  }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_access_log() {
        let expected = AccessLine { request_time_ns: 1_050_000_000, status: 200, path: "/slow/50?a=b".to_owned() };
        assert_eq!(access_line("1.050\t200\t/slow/50?a=b"), Some(expected));
        assert_eq!(access_line("garbage"), None);
    }
}
