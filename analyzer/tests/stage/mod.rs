//! Processes and directories for tests that run the analyzer as people do.

// Each test uses a part of it.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clickhouse::Client;
use podtap_wire::EncodedBatch;
use podtap_wire::proto::Envelope;
use podtap_wire::proto::ingest_client::IngestClient;

const PATIENCE: Duration = Duration::from_secs(60);

/// A directory and the processes that use it, gone at the end.
pub struct Bench {
    pub directory: PathBuf,
    pub processes: Vec<Child>,
}

impl Bench {
    pub fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("podtap-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self { directory, processes: Vec::new() }
    }

    /// Starts the embedded endpoint; returns its URL.
    pub fn clickhouse(&mut self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podtap-clickhouse"));
        command.args(["--listen", "127.0.0.1:0", "--path"]).arg(self.directory.join("clickhouse"));
        self.endpoint(command)
    }

    /// Starts the embedded endpoint with its data on a disk of this size, which nobody else sees mounted; returns its URL and its pid.
    pub fn clickhouse_on_small_disk(&mut self, disk: &std::path::Path, size: &str) -> (String, u32) {
        // Without root a user namespace of its own allows the mount.
        let root = std::fs::metadata("/proc/self").map(|of| std::os::unix::fs::MetadataExt::uid(&of)).unwrap() == 0;
        let mut command = Command::new("unshare");
        command.args(if root { &["--mount"][..] } else { &["--user", "--map-root-user", "--mount"] });
        command.args([
            "sh",
            "-c",
            "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && exec \"$3\" --listen 127.0.0.1:0 --path \"$2/data\"",
            "sh",
            size,
        ]);
        command.arg(disk).arg(env!("CARGO_BIN_EXE_podtap-clickhouse"));
        let url = self.endpoint(command);
        (url, self.processes.last().unwrap().id())
    }

    fn endpoint(&mut self, mut command: Command) -> String {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let url = lines.by_ref().map_while(Result::ok).find_map(|line| {
            seen.push_str(&line);
            line.split_once("listening on ").map(|(_, url)| url.trim().trim_end_matches('"').to_owned())
        });
        self.processes.push(child);
        std::thread::spawn(move || lines.for_each(drop));
        url.unwrap_or_else(|| panic!("the endpoint did not start: {seen}"))
    }

    /// Starts an analyzer; returns its index among the processes.
    pub fn analyzer(&mut self, url: &str, ports: &Ports, more: &[&str]) -> usize {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.directory.join("analyzer.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_podtap-analyzer"))
            .args(["run", "--log-format=text", "--clickhouse-url", url, "--data-dir"])
            .arg(self.directory.join(format!("data-{}", ports.grpc.port())))
            .arg(format!("--grpc-listen={}", ports.grpc))
            .arg(format!("--http-listen={}", ports.http))
            .args(more)
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes.push(child);
        self.processes.len() - 1
    }

    /// Runs a command of the analyzer to its end; returns what it printed.
    pub fn command(&self, url: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podtap-analyzer"));
        let output = command.args(arguments).args(["--clickhouse-url", url]).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// Kills a process and waits for its end.
    pub fn kill(&mut self, process: usize) {
        self.processes[process].kill().unwrap();
        self.processes[process].wait().unwrap();
    }

    /// Sends a signal by name.
    pub fn signal(&self, process: usize, name: &str) {
        let pid = self.processes[process].id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Starts a Kafka broker of one node from the jars that `cargo xtask test` puts into the cache; returns its address.
    pub fn kafka(&mut self) -> String {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
        let libs = cache.join("podtap/kafka-4.1.1/libs");
        assert!(libs.is_dir(), "{} is missing: `cargo xtask test` installs it", libs.display());
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, controller) = (free(), free());
        let folder = self.directory.join("kafka");
        std::fs::create_dir_all(&folder).unwrap();
        let settings = folder.join("server.properties");
        let text = [
            "process.roles=broker,controller".to_owned(),
            "node.id=1".to_owned(),
            format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
            format!("listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"),
            format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port}"),
            "controller.listener.names=CONTROLLER".to_owned(),
            format!("log.dirs={}", folder.join("data").display()),
            "offsets.topic.replication.factor=1".to_owned(),
            "transaction.state.log.replication.factor=1".to_owned(),
            "transaction.state.log.min.isr=1".to_owned(),
            "group.initial.rebalance.delay.ms=0".to_owned(),
        ];
        std::fs::write(&settings, text.join("\n")).unwrap();
        let java = |class: &[&str]| {
            let mut java = Command::new("java");
            java.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(libs.join("*")).args(class);
            java.stdout(Stdio::null()).stderr(Stdio::null());
            java
        };
        let format = ["kafka.tools.StorageTool", "format", "-t", "cG9kdGFwLWtyYWZ0LW9uZQ", "-c"];
        assert!(java(&format).arg(&settings).status().unwrap().success(), "formatting the broker's storage");
        self.processes.push(java(&["kafka.Kafka"]).arg(&settings).spawn().unwrap());
        format!("127.0.0.1:{port}")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("analyzer.log")).unwrap_or_default()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the analyzers said:\n{}", self.log());
        }
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Where an analyzer listens.
#[derive(Clone, Copy)]
pub struct Ports {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

impl Ports {
    pub fn free() -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { grpc: free(), http: free() }
    }
}

/// Tries until there is something, for a minute.
pub async fn until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = attempt().await {
            return done;
        }
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Status and text of an answer.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let response = reqwest::get(format!("http://{address}{path}")).await.ok()?;
    Some((response.status().as_u16(), response.text().await.ok()?))
}

/// An endpoint, an analyzer that is ready, and a client of its database.
pub struct Ready {
    pub bench: Bench,
    pub url: String,
    pub ports: Ports,
    pub client: Client,
    /// The analyzer's index among the processes.
    pub analyzer: usize,
}

impl Ready {
    /// Starts them; `more` are flags of the analyzer.
    pub async fn start(name: &str, more: &[&str]) -> Self {
        let mut bench = Bench::new(name);
        let url = bench.clickhouse();
        let ports = Ports::free();
        let client = Client::default().with_url(&url).with_database("podtap");
        let analyzer = bench.analyzer(&url, &ports, more);
        ready(&ports).await;
        Self { bench, url, ports, client, analyzer }
    }
}

/// Waits for /readyz.
pub async fn ready(ports: &Ports) {
    until("the analyzer is ready", async || get(ports.http, "/readyz").await.filter(|(status, _)| *status == 200)).await;
}

/// Delivers batches and waits until the last is acknowledged; `None` if the stream broke.
pub async fn deliver(ports: &Ports, batches: &[EncodedBatch]) -> Option<()> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", ports.grpc)).ok()?;
    let mut client = IngestClient::new(endpoint.connect().await.ok()?);
    let envelopes: Vec<_> = batches.iter().map(|batch| Envelope { batch: batch.bytes.clone().into(), sequence: batch.sequence }).collect();
    let last = envelopes.last()?.sequence;
    let mut acks = client.deliver(tokio_stream::iter(envelopes)).await.ok()?.into_inner();
    while let Some(ack) = acks.message().await.ok()? {
        if ack.sequence == last {
            return Some(());
        }
    }
    None
}

/// The value of a metric, labels included in its name.
pub async fn metric(ports: &Ports, name: &str) -> f64 {
    let (_, text) = get(ports.http, "/metrics").await.expect("/metrics answers");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
}
