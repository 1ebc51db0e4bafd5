//! A real Kubernetes on this machine (`cargo xtask cluster`) for a test: started anew, taken down when dropped, one at a time.
//!
//! What runs in it is told by manifests and looked at with kubectl, as a person would. Do not start a second one: it is the machine's.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::process::{Output, Process, Spec, run_to_end};
use crate::run::{Run, binary};
use crate::{Context, Failure, Result, running, wait};

/// Building what has changed, and the first images, take the longest.
const UP_LIMIT: Duration = Duration::from_secs(1800);
const DOWN_LIMIT: Duration = Duration::from_secs(120);
/// One answer of kubectl.
const KUBECTL_LIMIT: Duration = Duration::from_secs(90);
/// A pod that is being started on a busy machine.
pub const START_LIMIT: Duration = Duration::from_secs(180);
/// Held as long as a cluster is used.
const LOCK: &str = "podtap-cluster.lock";

/// The cluster; dropped, it is taken down.
#[derive(Debug)]
pub struct Cluster {
    run: Run,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    is_up: bool,
    _alone: File,
}

impl Cluster {
    /// Takes the machine for a cluster, and down what an earlier one left: another test's pods would be in the way of this one's.
    pub fn claim() -> Result<Self> {
        let path = std::env::temp_dir().join(LOCK);
        let file = File::create(&path).context(format!("opening {}", path.display()))?;
        file.lock().context(format!("locking {}", path.display()))?;
        let run = Run::start()?;
        let cluster = Self { run, kubectl: PathBuf::new(), kubeconfig: PathBuf::new(), is_up: true, _alone: file };
        cluster.xtask(&["cluster", "down"], DOWN_LIMIT)?;
        Ok(cluster)
    }

    /// Starts it with images of this build's binaries, whatever was left by the start before.
    pub fn up(&mut self) -> Result<()> {
        self.is_up = true;
        let said = self.xtask(&up_arguments(), UP_LIMIT)?.stdout;
        self.learn(&said)
    }

    /// The same with images that were made already, of binaries of this profile.
    pub fn up_with_images(&mut self, profile: &str) -> Result<()> {
        self.is_up = true;
        let said = self.xtask(&["cluster", "up", "--built", "--profile", profile], UP_LIMIT)?.stdout;
        self.learn(&said)
    }

    fn learn(&mut self, said: &str) -> Result<()> {
        let of = |start: &str| said.lines().find_map(|line| line.strip_prefix(start)).map(PathBuf::from);
        self.kubeconfig = of("export KUBECONFIG=").context(format!("no KUBECONFIG line in: {said}"))?;
        self.kubectl = of("alias kubectl=").context(format!("no kubectl in: {said}"))?;
        Ok(())
    }

    /// Begins to start it, for whoever wants to interrupt that.
    pub fn begin_up(&mut self) -> Result<Process> {
        self.is_up = true;
        Process::start(&self.run, "cluster-up", &Spec::new(binary("xtask")?, up_arguments()))
    }

    /// Begins to take it down.
    pub fn begin_down(&self) -> Result<Process> {
        Process::start(&self.run, "cluster-down", &Spec::new(binary("xtask")?, ["cluster", "down"]))
    }

    /// Takes it down and insists that nothing is left.
    pub fn down(&mut self) -> Result<()> {
        self.is_up = false;
        self.xtask(&["cluster", "down"], DOWN_LIMIT).map(|_| ())
    }

    /// `cargo xtask cluster status`, whatever it answers.
    pub fn status(&self) -> Result<Output> {
        run_to_end(&self.run, &Spec::new(binary("xtask")?, ["cluster", "status"]), KUBECTL_LIMIT)
    }

    fn xtask(&self, arguments: &[&str], limit: Duration) -> Result<Output> {
        let spec = Spec::new(binary("xtask")?, arguments);
        let output = run_to_end(&self.run, &spec, limit)?;
        match output.code {
            0 => Ok(output),
            code => Err(Failure(format!("xtask {}: exit {code}: {}", arguments.join(" "), output.stderr.trim()))),
        }
    }

    /// The run, for what is started outside the cluster.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// For clients that read it themselves.
    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    fn spec(&self, arguments: &[&str]) -> Spec {
        Spec::new(&self.kubectl, arguments).environment("KUBECONFIG", self.kubeconfig.display().to_string())
    }

    /// kubectl, whatever it answers.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<Output> {
        run_to_end(&self.run, &self.spec(arguments), KUBECTL_LIMIT)
    }

    /// Standard output of kubectl, which has to succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_kubectl(arguments)?;
        match output.code {
            0 => Ok(output.stdout),
            code => Err(Failure(format!("kubectl {}: exit {code}: {}", arguments.join(" "), output.stderr.trim()))),
        }
    }

    /// kubectl that goes on, such as `logs --follow`.
    pub fn start_kubectl(&self, name: &str, arguments: &[&str]) -> Result<Process> {
        Process::start(&self.run, name, &self.spec(arguments))
    }

    /// Applies a manifest; what kubectl said, warnings included.
    pub fn apply(&self, manifest: &str) -> Result<Output> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let file = self.run.root().join(format!("manifest-{}.yaml", NUMBER.fetch_add(1, Ordering::Relaxed)));
        fs::write(&file, manifest).context(format!("writing {}", file.display()))?;
        let output = self.try_kubectl(&["apply", "-f", &file.display().to_string()])?;
        if output.code == 0 { Ok(output) } else { Err(Failure(format!("kubectl apply: {}\n{manifest}", output.stderr.trim()))) }
    }

    /// An object, or a list of them, as the API server has it.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).context(format!("what kubectl get {} answers", arguments.join(" ")))
    }

    /// Waits for the end of a rollout (`deployment/front`), and tells what the namespace's pods say when it does not come.
    pub fn rolled_out(&self, namespace: &str, what: &str) -> Result<()> {
        let waited = wait::until_true(&format!("{what} is rolled out"), START_LIMIT, || {
            Ok(self.try_kubectl(&["-n", namespace, "rollout", "status", what, "--timeout=10s"])?.code == 0)
        });
        waited.map_err(|failure| Failure(format!("{failure}\n{}", self.state(namespace))))
    }

    /// Pods, events and logs of a namespace, for messages.
    pub fn state(&self, namespace: &str) -> String {
        let said = |arguments: &[&str]| self.try_kubectl(arguments).map_or_else(|e| e.to_string(), |o| format!("{}{}", o.stdout, o.stderr));
        let mut text = said(&["-n", namespace, "get", "pods,events", "-o", "wide"]);
        for pod in self.pods(namespace, "").unwrap_or_default() {
            text.push_str(&format!("== {pod}\n{}", said(&["-n", namespace, "logs", &pod, "--all-containers", "--tail=15", "--prefix"])));
        }
        text
    }

    /// Names of the pods that a selector finds.
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<String>> {
        let template = "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}";
        Ok(self.kubectl(&["-n", namespace, "get", "pods", "-l", selector, "-o", template])?.lines().map(str::to_owned).collect())
    }

    /// A field of an object (`{.spec.clusterIP}`).
    pub fn field(&self, namespace: &str, object: &str, path: &str) -> Result<String> {
        self.kubectl(&["-n", namespace, "get", object, "-o", &format!("jsonpath={path}")])
    }

    /// Address of a Service inside the cluster, which this machine reaches too: it is the node.
    pub fn service(&self, namespace: &str, name: &str, port: u16) -> Result<SocketAddrV4> {
        let address: Ipv4Addr =
            self.field(namespace, &format!("service/{name}"), "{.spec.clusterIP}")?.parse().context("a Service's address")?;
        Ok(SocketAddrV4::new(address, port))
    }

    /// The injector of `k8s/injector.yaml`, as anybody would install it.
    pub fn install_injector(&self) -> Result<()> {
        self.apply(&manifest("injector.yaml")?)?;
        self.rolled_out("podtap", "deployment/podtap-injector")?;
        wait::until_true("the injector has entered its authority", START_LIMIT, || {
            let webhooks = self.get(&["mutatingwebhookconfigurations", "podtap-injector"])?;
            let bundle = webhooks["webhooks"].as_array().context("the configuration's webhooks")?;
            Ok(bundle.iter().all(|webhook| webhook["clientConfig"]["caBundle"].as_str().is_some_and(|bundle| !bundle.is_empty())))
        })
    }

    /// Waits until a pod is ready, and tells what its namespace says when it does not become it.
    pub fn ready(&self, namespace: &str, pod: &str) -> Result<()> {
        let wait = ["-n", namespace, "wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=80s"];
        self.kubectl(&wait).map(|_| ()).map_err(|failure| Failure(format!("{failure}\n{}", self.state(namespace))))
    }

    /// A pod's process on this machine, by its program's name: its control group names the pod.
    pub fn process(&self, namespace: &str, pod: &str, program: &str) -> Result<i32> {
        let uid = self.field(namespace, &format!("pod/{pod}"), "{.metadata.uid}")?;
        let found = running::all()?.into_iter().find(|process| process.text("cgroup").contains(&uid) && process.runs(program));
        found.map(|process| process.pid).context(format!("{program} of the pod {pod} has no process on this machine"))
    }

    /// A command in a container.
    pub fn exec(&self, namespace: &str, pod: &str, container: &str, command: &[&str]) -> Result<Output> {
        self.try_kubectl(&[&["-n", namespace, "exec", pod, "-c", container, "--"], command].concat())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_up {
            return;
        }
        if std::thread::panicking() && std::env::var_os("PODTAP_KEEP").is_some() {
            eprintln!("PODTAP_KEEP is set: the cluster stays; `cargo xtask cluster down` removes it");
            return;
        }
        if let Err(failure) = self.xtask(&["cluster", "down"], DOWN_LIMIT) {
            eprintln!("{failure}");
        }
    }
}

/// Under sudo the person has built and fetched everything already (`cargo xtask test` sees to it).
fn up_arguments() -> Vec<&'static str> {
    let mut arguments = vec!["cluster", "up"];
    if std::env::var_os("SUDO_USER").is_some() {
        arguments.push("--built");
    }
    arguments
}

/// The folder of this build's binaries, for containers that mount it.
pub fn binaries() -> Result<PathBuf> {
    let program = binary("podtap-demo-app")?;
    let folder = program.parent().context("a binary without a folder")?;
    fs::canonicalize(folder).context(format!("finding {}", folder.display()))
}

/// A file of the clone's `k8s/`.
pub fn manifest(name: &str) -> Result<String> {
    let here = std::env::current_dir().context("finding this folder")?;
    let file = here.ancestors().map(|folder| folder.join("k8s").join(name)).find(|file| file.is_file());
    let file = file.context(format!("no k8s/{name} here or above: run this inside a clone of Podtap"))?;
    fs::read_to_string(&file).context(format!("reading {}", file.display()))
}

/// An image of nothing: the machine's own programs are mounted into it.
pub const HOST_IMAGE: &str = concat!("image: \"docker.io/podtap/host:", env!("CARGO_PKG_VERSION"), "\", imagePullPolicy: Never");

/// nginx that answers everything, with what it writes in a folder that is there.
pub const NGINX: &str = "daemon off; error_log stderr; pid /tmp/nginx.pid; events {} http { access_log off; \
    client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; \
    keepalive_requests 100000000; server { listen 80; location / { return 200 'here\\n'; } } }";

/// The application of `k8s/pod-with-sidecar.yaml` as it is written there.
const WRITTEN: &str = "  containers:\n    - name: shop\n      image: nginx:1.27\n";

/// `k8s/pod-with-sidecar.yaml`, with this machine's nginx in place of an image that would have to be fetched.
pub fn pod_with_sidecar() -> Result<String> {
    let text = manifest("pod-with-sidecar.yaml")?;
    if !text.contains(WRITTEN) {
        return Err(Failure(format!("the application in k8s/pod-with-sidecar.yaml has changed:\n{text}")));
    }
    let ours = format!(
        "  containers:\n    - name: shop\n      {}\n      command: [/bin/sh, -c]\n      \
         args: ['printf \"%s\" \"$CONF\" >/tmp/nginx.conf && exec nginx -p /tmp -c /tmp/nginx.conf']\n      \
         env:\n        - {{ name: CONF, value: {NGINX:?} }}\n      \
         volumeMounts:\n        - {{ name: usr, mountPath: /usr, readOnly: true }}\n",
        HOST_IMAGE.replace(", ", "\n      "),
    );
    // Under the last key, `volumes`.
    Ok(format!("{}\n    - {{ name: usr, hostPath: {{ path: /usr }} }}\n", text.replace(WRITTEN, &ours).trim_end()))
}

/// A pod with this machine's nginx and nothing that a sidecar would need; lines may be added under its metadata and its container.
pub fn plain_pod(namespace: &str, name: &str, metadata: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n{metadata}spec:\n  \
         automountServiceAccountToken: false\n  enableServiceLinks: false\n  terminationGracePeriodSeconds: 5\n  \
         containers:\n    - name: web\n      {}\n      command: [/bin/sh, -c]\n      \
         args: ['printf \"%s\" \"$CONF\" >/tmp/nginx.conf && exec nginx -p /tmp -c /tmp/nginx.conf']\n      \
         env:\n        - {{ name: CONF, value: {NGINX:?} }}\n{container}      \
         volumeMounts:\n        - {{ name: usr, mountPath: /usr, readOnly: true }}\n  \
         volumes:\n    - {{ name: usr, hostPath: {{ path: /usr }} }}\n",
        HOST_IMAGE.replace(", ", "\n      "),
    )
}
