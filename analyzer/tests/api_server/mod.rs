//! A real API server with etcd and nothing else: no node, no controllers, so a pod that is made is only stored.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a command gave.
pub struct Output {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Processes and files, gone at the end.
pub struct ApiServer {
    pub directory: PathBuf,
    programs: PathBuf,
    processes: Vec<(&'static str, Child)>,
    port: u16,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Tries until there is something, for a minute.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The folder of the Kubernetes programs that `cargo xtask test` builds into the cache of tools.
fn programs() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from).join("podtap");
    let folders = std::fs::read_dir(&cache).into_iter().flatten().flatten().map(|entry| entry.path());
    let found = folders.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubernetes-")));
    let newest =
        found.filter(|path| path.join("kube-apiserver").exists()).max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok());
    newest.unwrap_or_else(|| panic!("no kubernetes-* with kube-apiserver in {}: `cargo xtask test` builds it", cache.display()))
}

impl ApiServer {
    pub fn start(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("podtap-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut server = Self { directory, programs: programs(), processes: Vec::new(), port: free_port() };
        let (clients, peers) = (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
        let data = server.directory.join("etcd").display().to_string();
        let flags =
            ["--unsafe-no-fsync", "--listen-client-urls", &clients, "--advertise-client-urls", &clients, "--listen-peer-urls", &peers];
        let more = ["--data-dir", &data, "--initial-advertise-peer-urls", &peers, "--initial-cluster", &format!("default={peers}")];
        server.spawn("etcd", Path::new("etcd"), &[&flags[..], &more[..]].concat());
        server.start_api_server(&clients);
        server
    }

    fn start_api_server(&mut self, etcd: &str) {
        let file = |name: &str, text: String| {
            let path = self.directory.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let public = file("service-account.pub", key.public_key_pem());
        let key = file("service-account.key", key.serialize_pem());
        // The injector is who its service account would be, so its rights are those of its manifest.
        let groups = "\"system:serviceaccounts,system:serviceaccounts:podtap\"";
        let tokens = format!("admin,admin,1,system:masters\ninjector,system:serviceaccount:podtap:podtap-injector,2,{groups}\n");
        let tokens = file("tokens.csv", tokens);
        let (port, certificates) = (self.port.to_string(), self.directory.join("pki").display().to_string());
        for token in ["admin", "injector"] {
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            });
            std::fs::write(self.kubeconfig(token), config.to_string()).unwrap();
        }
        let program = self.programs.join("kube-apiserver");
        let flags = [
            "--etcd-servers",
            etcd,
            "--secure-port",
            &port,
            "--bind-address",
            "127.0.0.1",
            "--cert-dir",
            &certificates,
            "--service-cluster-ip-range",
            "10.96.0.0/16",
            "--authorization-mode",
            "RBAC",
            "--token-auth-file",
            &tokens,
            "--service-account-issuer",
            "https://kubernetes.default.svc",
            "--service-account-key-file",
            &public,
            "--service-account-signing-key-file",
            &key,
            "--advertise-address",
            "127.0.0.1",
            "--endpoint-reconciler-type",
            "none",
        ];
        self.spawn("kube-apiserver", &program, &flags);
        until("the API server is ready", || self.kubectl(&["get", "--raw", "/readyz"]).success.then_some(()));
    }

    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.directory.join(format!("{user}.kubeconfig"))
    }

    /// Starts a process; returns its index.
    pub fn spawn(&mut self, name: &'static str, program: &Path, arguments: &[&str]) -> usize {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.directory.join(format!("{name}.log"))).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.directory).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        self.processes.push((name, child));
        self.processes.len() - 1
    }

    /// Sends SIGTERM and waits for the exit code.
    pub fn terminate(&mut self, process: usize) -> Option<i32> {
        let child = &mut self.processes[process].1;
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        child.wait().unwrap().code()
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(format!("{name}.log"))).unwrap_or_default()
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_with(arguments, "")
    }

    /// kubectl with something on its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig("admin")).args(arguments).env("HOME", &self.directory);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// kubectl that has to succeed; what it printed.
    pub fn done(&self, arguments: &[&str], input: &str) -> Output {
        let output = self.kubectl_with(arguments, input);
        assert!(output.success, "kubectl {arguments:?}: {}{}", output.stdout, output.stderr);
        output
    }

    /// An object.
    pub fn get(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[&["get", "-o", "json"], arguments].concat(), "").stdout).unwrap()
    }

    /// A namespace with labels, and the service account that a controller would make.
    pub fn namespace(&self, name: &str, labels: &Value) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.done(&["apply", "-f", "-"], &namespace.to_string());
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}});
        self.done(&["apply", "-f", "-"], &account.to_string());
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, _) in &self.processes {
                let log = self.log(name);
                let lines: Vec<_> = log.lines().collect();
                eprintln!("{name} said:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
            }
        }
        for (_, process) in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
