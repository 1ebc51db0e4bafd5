//! The components: what each is started with, and the files that tell it the rest.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::certificates::path as pki;
use super::network::{BRIDGE, NODE};
use super::{CONTAINERD_SOCKET, DIR, MARK, Programs, write};
use crate::run::{self, Doing, Failure, Result};

pub const SANDBOX_IMAGE: &str = "docker.io/podtap/pause:1";
const ETCD: &str = "https://127.0.0.1:32379";
const ETCD_PEER: &str = "https://127.0.0.1:32380";
const APISERVER: &str = "https://10.244.0.1:6443";

/// All of them; the values of [`MARK`].
pub const NAMES: [&str; 8] =
    ["etcd", "containerd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"];

pub fn kubeconfig(of: &str) -> PathBuf {
    Path::new(DIR).join("kubeconfig").join(of)
}

pub fn log(of: &str) -> PathBuf {
    Path::new(DIR).join("log").join(format!("{of}.log"))
}

fn conf(name: &str) -> PathBuf {
    Path::new(DIR).join("conf").join(name)
}

/// Everything that the components read.
pub fn write_files() -> Result<()> {
    for of in ["admin", "kubelet", "controller-manager", "scheduler", "proxy", "coredns"] {
        write(kubeconfig(of), &kubeconfig_text(of))?;
    }
    write(conf("containerd.toml"), &containerd_text())?;
    write(conf("cni/10-podtap.conflist"), &network_text())?;
    write(conf("kubelet.yaml"), &kubelet_text())?;
    write(conf("proxy.yaml"), &proxy_text())?;
    write(conf("Corefile"), &corefile_text())?;
    write(conf("first.yaml"), &first_objects())?;
    for number in 0..VOLUMES {
        let volume = volume(number);
        fs::create_dir_all(&volume).doing("making a folder for a volume")?;
        // Whoever claims it runs as any user.
        let any = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&volume, any).doing("opening a volume's folder")?;
    }
    Ok(())
}

/// What the cluster has from the start.
pub fn first_file() -> PathBuf {
    conf("first.yaml")
}

/// Starts a component in the background; its output goes to its log.
pub fn launch(programs: &Programs, name: &'static str) -> Result<()> {
    let (program, arguments) = command_line(programs, name)?;
    let file = log(name);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).doing("making the folder of logs")?;
    }
    let output = OpenOptions::new().create(true).append(true).open(&file).doing(format_args!("opening {}", file.display()))?;
    let mut command = Command::new(&program);
    command.args(&arguments).stdin(Stdio::null()).stderr(output.try_clone().doing("sharing a log")?).stdout(output);
    // Not the person's environment: a proxy meant for the internet would carry the cluster's own traffic.
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env(MARK, name);
    // Out of reach of the terminal's Ctrl-C.
    command.process_group(0).current_dir("/");
    command.spawn().doing(format_args!("starting {name} ({})", program.display())).map(|_| ())
}

/// The last lines of a component's log, for messages.
pub fn log_tail(name: &str) -> String {
    let text = fs::read(log(name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn command_line(programs: &Programs, name: &str) -> Result<(PathBuf, Vec<String>)> {
    let system = |program: &str| {
        run::find_program(program).ok_or_else(|| Failure(format!("{program} is not installed; `cargo xtask cluster up` installs it")))
    };
    let of_kubernetes = |flags: Vec<String>| Ok((programs.kubernetes.join(name), flags));
    match name {
        "etcd" => Ok((system("etcd")?, etcd())),
        "containerd" => Ok((system("containerd")?, vec!["--config".to_owned(), shown(conf("containerd.toml"))])),
        "coredns" => Ok((programs.coredns.clone(), vec!["-conf".to_owned(), shown(conf("Corefile"))])),
        "kube-apiserver" => of_kubernetes(apiserver()),
        "kube-controller-manager" => of_kubernetes(controller_manager()),
        "kube-scheduler" => of_kubernetes(flags(&[
            ("kubeconfig", &shown(kubeconfig("scheduler"))),
            ("leader-elect", "false"),
            ("bind-address", "127.0.0.1"),
        ])),
        "kubelet" => of_kubernetes(flags(&[
            ("config", &shown(conf("kubelet.yaml"))),
            ("kubeconfig", &shown(kubeconfig("kubelet"))),
            ("root-dir", &format!("{DIR}/kubelet")),
            ("hostname-override", "node1"),
            ("node-ip", NODE),
        ])),
        "kube-proxy" => of_kubernetes(flags(&[("config", &shown(conf("proxy.yaml")))])),
        other => Err(Failure(format!("no component is called {other}"))),
    }
}

fn shown(path: PathBuf) -> String {
    path.display().to_string()
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn etcd() -> Vec<String> {
    let (cert, key, ca) = (shown(pki("etcd.crt")), shown(pki("etcd.key")), shown(pki("ca.crt")));
    let mut flags = flags(&[
        ("data-dir", &format!("{DIR}/etcd")),
        ("listen-client-urls", ETCD),
        ("advertise-client-urls", ETCD),
        ("listen-peer-urls", ETCD_PEER),
        ("initial-advertise-peer-urls", ETCD_PEER),
        ("initial-cluster", &format!("default={ETCD_PEER}")),
        ("cert-file", &cert),
        ("key-file", &key),
        ("trusted-ca-file", &ca),
        ("peer-cert-file", &cert),
        ("peer-key-file", &key),
        ("peer-trusted-ca-file", &ca),
    ]);
    // What this cluster knows may be gone after a power cut, as all of it will be after `down`.
    flags.extend(["--client-cert-auth", "--peer-client-cert-auth", "--unsafe-no-fsync"].map(str::to_owned));
    flags
}

fn apiserver() -> Vec<String> {
    flags(&[
        ("bind-address", NODE),
        ("advertise-address", NODE),
        ("secure-port", "6443"),
        ("tls-cert-file", &shown(pki("apiserver.crt"))),
        ("tls-private-key-file", &shown(pki("apiserver.key"))),
        ("client-ca-file", &shown(pki("ca.crt"))),
        ("etcd-servers", ETCD),
        ("etcd-cafile", &shown(pki("ca.crt"))),
        ("etcd-certfile", &shown(pki("etcd-client.crt"))),
        ("etcd-keyfile", &shown(pki("etcd-client.key"))),
        ("authorization-mode", "Node,RBAC"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("service-cluster-ip-range", "10.96.0.0/16"),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        ("service-account-key-file", &shown(pki("accounts.pub"))),
        ("service-account-signing-key-file", &shown(pki("accounts.key"))),
        ("kubelet-preferred-address-types", "InternalIP"),
        ("kubelet-certificate-authority", &shown(pki("ca.crt"))),
        ("kubelet-client-certificate", &shown(pki("kubelet-client.crt"))),
        ("kubelet-client-key", &shown(pki("kubelet-client.key"))),
        ("allow-privileged", "true"),
    ])
}

fn controller_manager() -> Vec<String> {
    flags(&[
        ("kubeconfig", &shown(kubeconfig("controller-manager"))),
        ("leader-elect", "false"),
        ("bind-address", "127.0.0.1"),
        ("root-ca-file", &shown(pki("ca.crt"))),
        ("service-account-private-key-file", &shown(pki("accounts.key"))),
        ("cluster-signing-cert-file", &shown(pki("ca.crt"))),
        ("cluster-signing-key-file", &shown(pki("ca.key"))),
        ("use-service-account-credentials", "true"),
        // Nobody waits long for what a person or a test has just changed.
        ("concurrent-deployment-syncs", "5"),
    ])
}

fn kubeconfig_text(of: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: podtap\n\
         clusters:\n- name: podtap\n  cluster:\n    server: {APISERVER}\n    certificate-authority: {ca}\n\
         users:\n- name: {of}\n  user:\n    client-certificate: {certificate}\n    client-key: {key}\n\
         contexts:\n- name: podtap\n  context:\n    cluster: podtap\n    user: {of}\n",
        ca = pki("ca.crt").display(),
        certificate = pki(&format!("{of}.crt")).display(),
        key = pki(&format!("{of}.key")).display(),
    )
}

/// Adjusting the out-of-memory score below one's own needs CAP_SYS_RESOURCE, which not every machine gives; without the first setting
/// each sandbox fails there.
fn containerd_text() -> String {
    format!(
        r#"version = 2
root = "{DIR}/containerd"
state = "{DIR}/containerd-state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{DIR}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{SANDBOX_IMAGE}"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{DIR}/conf/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc"
  snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = "{DIR}/runc"
  SystemdCgroup = false
"#
    )
}

fn network_text() -> String {
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "podtap",
  "plugins": [
    {{
      "type": "bridge", "bridge": "{BRIDGE}", "isGateway": true, "hairpinMode": true,
      "ipam": {{
        "type": "host-local", "dataDir": "{DIR}/addresses", "routes": [{{ "dst": "0.0.0.0/0" }}],
        "ranges": [[{{ "subnet": "10.244.0.0/24", "rangeStart": "10.244.0.10", "gateway": "{NODE}" }}]]
      }}
    }},
    {{ "type": "portmap", "capabilities": {{ "portMappings": true }} }}
  ]
}}
"#
    )
}

fn kubelet_text() -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         address: {NODE}\n\
         authentication:\n  anonymous: {{ enabled: false }}\n  webhook: {{ enabled: true }}\n  x509: {{ clientCAFile: {ca} }}\n\
         authorization: {{ mode: Webhook }}\n\
         tlsCertFile: {certificate}\ntlsPrivateKeyFile: {key}\n\
         containerRuntimeEndpoint: unix://{CONTAINERD_SOCKET}\n\
         cgroupDriver: cgroupfs\nfailCgroupV1: false\nfailSwapOn: false\noomScoreAdj: 0\n\
         clusterDNS: [{NODE}]\nclusterDomain: cluster.local\nresolvConf: \"\"\n\
         podLogsDir: {DIR}/pod-logs\nvolumePluginDir: {DIR}/volume-plugins\n\
         serializeImagePulls: false\nimageGCHighThresholdPercent: 100\nimageGCLowThresholdPercent: 99\n\
         evictionHard:\n  memory.available: 100Mi\n  nodefs.available: 1%\n  imagefs.available: 1%\n",
        ca = pki("ca.crt").display(),
        certificate = pki("kubelet-server.crt").display(),
        key = pki("kubelet-server.key").display(),
    )
}

fn proxy_text() -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         mode: iptables\nclusterCIDR: 10.244.0.0/24\nhostnameOverride: node1\n\
         clientConnection: {{ kubeconfig: {} }}\n\
         conntrack: {{ maxPerCore: 0 }}\n\
         iptables: {{ minSyncPeriod: 100ms }}\n\
         healthzBindAddress: 127.0.0.1:10256\nmetricsBindAddress: 127.0.0.1:10249\n",
        kubeconfig("proxy").display()
    )
}

fn corefile_text() -> String {
    format!(
        ".:53 {{\n    bind {NODE}\n    errors\n    ready 127.0.0.1:18181\n    cache 5\n    \
         kubernetes cluster.local in-addr.arpa {{\n        kubeconfig {} podtap\n        ttl 5\n    }}\n}}\n",
        kubeconfig("coredns").display()
    )
}

/// Claims without a class find these.
const VOLUMES: usize = 4;

fn volume(number: usize) -> PathBuf {
    Path::new(DIR).join(format!("volume-{number}"))
}

/// What CoreDNS may read, and volumes for whoever claims one.
fn first_objects() -> String {
    let mut text = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: { name: coredns }\nrules:\n\
         - { apiGroups: [\"\"], resources: [services, pods, namespaces], verbs: [list, watch] }\n\
         - { apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch] }\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: { name: coredns }\n\
         roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns }\n\
         subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: User, name: \"system:coredns\" }]\n"
        .to_owned();
    for number in 0..VOLUMES {
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {{ name: volume-{number} }}\nspec:\n  \
             accessModes: [ReadWriteOnce]\n  capacity: {{ storage: 100Gi }}\n  hostPath: {{ path: {} }}\n",
            volume(number).display()
        ));
    }
    text
}
