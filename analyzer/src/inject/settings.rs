//! Flags of `inject` and `uninject`, their twins in the environment, and defaults.
//!
//! Precedence: defaults < environment (`PODTAP_<FLAG>`) < flags. Values are checked here, before anything is opened.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::quantity;
use super::tuning::{self, Sidecar, Source, Transport};
use crate::config::{self, ConfigError, LogFormat, address, value};

/// The injector's own namespace.
const OWN_NAMESPACE: &str = "podtap";
/// Least spool, a few batches.
const LEAST_SPOOL: u64 = 16 << 20;
/// Most, in case bytes were meant as something else.
const MOST_SPOOL: u64 = 1 << 40;

/// `inject`.
#[derive(Debug, Args)]
pub struct Inject {
    /// As a webhook instead.
    #[command(subcommand)]
    pub command: Option<InjectCommand>,
    /// Manifests.
    #[command(flatten)]
    pub manifests: Manifests,
    /// Only label the pods, for a webhook that injects them when they are made
    #[arg(long)]
    pub label: bool,
    /// Show each check
    #[arg(long, short)]
    pub verbose: bool,
    /// The injector's own namespace, where nothing is injected [default: podtap]
    #[arg(long, env = "PODTAP_NAMESPACE", value_name = "NAME")]
    pub injector_namespace: Option<String>,
    /// What sidecars get.
    #[command(flatten)]
    pub sidecar: SidecarSettings,
}

/// Files, or standard input.
#[derive(Debug, Args)]
pub struct Manifests {
    /// Files of YAML or JSON; - is standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `inject serve`.
#[derive(Debug, Subcommand)]
pub enum InjectCommand {
    /// Serves the mutating webhook that the API server asks about new pods.
    Serve(Box<ServeSettings>),
}

/// Settings of injected sidecars.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Sidecars")]
pub struct SidecarSettings {
    /// Image of the sidecar [default: docker.io/podtap/sidecar:VERSION]
    #[arg(long, env = "PODTAP_SIDECAR_IMAGE", value_name = "IMAGE")]
    pub sidecar_image: Option<String>,
    /// Always, IfNotPresent or Never [default: IfNotPresent]
    #[arg(long, env = "PODTAP_SIDECAR_IMAGE_PULL_POLICY", value_name = "POLICY")]
    pub sidecar_image_pull_policy: Option<String>,
    /// The analyzer that sidecars send to, where they do not send to Kafka [default: http://podtap-analyzer.podtap:9881]
    #[arg(long, env = "PODTAP_SIDECAR_GRPC_ENDPOINT", value_name = "URL")]
    pub sidecar_grpc_endpoint: Option<String>,
    /// Kafka brokers that sidecars send to
    #[arg(long, env = "PODTAP_SIDECAR_KAFKA_BROKERS", value_name = "HOST:PORT,..")]
    pub sidecar_kafka_brokers: Option<String>,
    /// Kafka topic that sidecars send to [default: podtap.requests]
    #[arg(long, env = "PODTAP_SIDECAR_KAFKA_TOPIC", value_name = "NAME")]
    pub sidecar_kafka_topic: Option<String>,
    /// Further settings of librdkafka in sidecars; everybody who reads pods sees them
    #[arg(long, env = "PODTAP_SIDECAR_KAFKA_OPTION", value_name = "KEY=VALUE,..", value_delimiter = ',')]
    pub sidecar_kafka_option: Option<Vec<String>>,
    /// Where sidecars take packets from: pcap, ebpf or auto; the latter two add the capability BPF [default: pcap]
    #[arg(long, env = "PODTAP_SIDECAR_SOURCE", value_name = "SOURCE")]
    pub sidecar_source: Option<String>,
    /// Log level of sidecars [default: info]
    #[arg(long, env = "PODTAP_SIDECAR_LOG_LEVEL", value_name = "LEVEL")]
    pub sidecar_log_level: Option<String>,
    /// CPU that sidecars ask for [default: 20m]
    #[arg(long, env = "PODTAP_SIDECAR_CPU_REQUEST", value_name = "QUANTITY")]
    pub sidecar_cpu_request: Option<String>,
    /// Memory that sidecars ask for [default: 64Mi]
    #[arg(long, env = "PODTAP_SIDECAR_MEMORY_REQUEST", value_name = "QUANTITY")]
    pub sidecar_memory_request: Option<String>,
    /// Memory that sidecars may use [default: 128Mi]
    #[arg(long, env = "PODTAP_SIDECAR_MEMORY_LIMIT", value_name = "QUANTITY")]
    pub sidecar_memory_limit: Option<String>,
    /// Disk for what cannot be sent, in bytes [default: 200000000]
    #[arg(long, env = "PODTAP_SIDECAR_SPOOL_BYTES", value_name = "N")]
    pub sidecar_spool_bytes: Option<u64>,
    /// Port of /healthz, /readyz and /metrics of sidecars [default: 9871]
    #[arg(long, env = "PODTAP_SIDECAR_ADMIN_PORT", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub sidecar_admin_port: Option<u16>,
    /// Whether the application waits until the sidecar listens: true or false [default: true]
    #[arg(long, env = "PODTAP_SIDECAR_STARTUP_PROBE", value_name = "BOOL")]
    pub sidecar_startup_probe: Option<bool>,
    /// Whether sidecars are init containers that restart always (Kubernetes 1.29): true, false, or auto (by the server's version)
    /// [default: auto]
    #[arg(long, env = "PODTAP_NATIVE_SIDECAR", value_name = "CHOICE")]
    pub native_sidecar: Option<String>,
}

/// Settings of the webhook.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeSettings {
    /// Where the webhook is served, over TLS [default: 127.0.0.1:9443]
    #[arg(long, env = "PODTAP_WEBHOOK_LISTEN", value_name = "IP:PORT")]
    pub webhook_listen: Option<String>,
    /// Where /healthz, /readyz and /metrics are served [default: 127.0.0.1:9882]
    #[arg(long, env = "PODTAP_HTTP_LISTEN", value_name = "IP:PORT")]
    pub http_listen: Option<String>,
    /// How to reach the API server: in-cluster, a kubeconfig file, or auto (KUBECONFIG or ~/.kube/config, else in-cluster) [default: auto]
    #[arg(long, env = "PODTAP_KUBERNETES", value_name = "CHOICE")]
    pub kubernetes: Option<String>,
    /// The injector's own namespace, where its Secret is and nothing is injected [default: podtap]
    #[arg(long, env = "PODTAP_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// MutatingWebhookConfiguration whose caBundle is kept right [default: podtap-injector]
    #[arg(long, env = "PODTAP_WEBHOOK_CONFIGURATION", value_name = "NAME")]
    pub webhook_configuration: Option<String>,
    /// Secret that the replicas share the certificate by [default: podtap-injector-certificate]
    #[arg(long, env = "PODTAP_CERTIFICATE_SECRET", value_name = "NAME")]
    pub certificate_secret: Option<String>,
    /// Names and addresses that the API server calls us by [default: podtap-injector.NAMESPACE.svc]
    #[arg(long, env = "PODTAP_CERTIFICATE_NAMES", value_name = "NAME,..", value_delimiter = ',')]
    pub certificate_names: Option<Vec<String>>,
    /// Pod Security level that the cluster enforces in namespaces without a label: privileged, baseline or restricted [default: privileged]
    #[arg(long, env = "PODTAP_POD_SECURITY_DEFAULT", value_name = "LEVEL")]
    pub pod_security_default: Option<String>,
    /// Log format: text, json, or auto (text on a terminal) [default: auto]
    #[arg(long, env = "PODTAP_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log filter such as info or podtap_analyzer=debug [default: info]
    #[arg(long, env = "PODTAP_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// What sidecars get.
    #[command(flatten)]
    pub sidecar: SidecarSettings,
}

/// How the API server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// A kubeconfig where kubectl has it, else by the service account.
    Auto,
    /// By the service account.
    InCluster,
    /// By a kubeconfig.
    File(PathBuf),
}

/// The webhook's settings, checked.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where the webhook is served.
    pub webhook_listen: SocketAddr,
    /// Where health and metrics are.
    pub http_listen: SocketAddr,
    /// The API server.
    pub access: Access,
    /// Own namespace.
    pub namespace: String,
    /// Its MutatingWebhookConfiguration.
    pub webhook_configuration: String,
    /// Its Secret.
    pub certificate_secret: String,
    /// Names in its certificate.
    pub certificate_names: Vec<String>,
    /// What the cluster enforces.
    pub pod_security_default: String,
    /// What sidecars get.
    pub sidecar: Sidecar,
    /// Whether sidecars are native ones; `None`: by the server's version.
    pub native: Option<bool>,
    /// How logs look.
    pub log_format: LogFormat,
    /// Which logs.
    pub log: String,
}

impl SidecarSettings {
    /// Checks everything; the second is whether sidecars are native ones, if that was said.
    pub fn resolve(self) -> Result<(Sidecar, Option<bool>), ConfigError> {
        let native = match self.native_sidecar.as_deref() {
            None | Some("auto") => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(other) => return Err(value("native-sidecar", format!("{other:?} is none of true, false, auto"))),
        };
        let image = self.sidecar_image.unwrap_or_else(|| format!("docker.io/podtap/sidecar:{}", env!("CARGO_PKG_VERSION")));
        if image.is_empty() || image.contains(char::is_whitespace) {
            return Err(value("sidecar-image", format!("{image:?} is no image")));
        }
        let policy = self.sidecar_image_pull_policy.unwrap_or_else(|| "IfNotPresent".to_owned());
        if !["Always", "IfNotPresent", "Never"].contains(&policy.as_str()) {
            return Err(value("sidecar-image-pull-policy", format!("{policy:?} is none of Always, IfNotPresent, Never")));
        }
        let source = self.sidecar_source.unwrap_or_else(|| "pcap".to_owned());
        let source = Source::parse(&source).ok_or_else(|| value("sidecar-source", format!("{source:?} is none of pcap, ebpf, auto")))?;
        let log_level = self.sidecar_log_level.unwrap_or_else(|| "info".to_owned());
        if !tuning::is_log_level(&log_level) {
            return Err(value("sidecar-log-level", format!("{log_level:?} is none of error, warn, info, debug, trace")));
        }
        let cpu_request = self.sidecar_cpu_request.unwrap_or_else(|| "20m".to_owned());
        let memory_request = self.sidecar_memory_request.unwrap_or_else(|| "64Mi".to_owned());
        let memory_limit = self.sidecar_memory_limit.unwrap_or_else(|| "128Mi".to_owned());
        let amount = |setting: &'static str, text: &str, least: f64| match quantity::parse(text) {
            Some(amount) if amount >= least => Ok(amount),
            Some(_) => Err(value(setting, format!("{text:?} is less than {least}"))),
            None => Err(value(setting, format!("{text:?} is not a quantity such as 100m or 64Mi"))),
        };
        amount("sidecar-cpu-request", &cpu_request, 0.001)?;
        let limit = amount("sidecar-memory-limit", &memory_limit, f64::from(32 << 20))?;
        if amount("sidecar-memory-request", &memory_request, 1.0)? > limit {
            return Err(value("sidecar-memory-request", format!("{memory_request:?} is more than the limit {memory_limit:?}")));
        }
        let spool_bytes = self.sidecar_spool_bytes.unwrap_or(200_000_000);
        if !(LEAST_SPOOL..=MOST_SPOOL).contains(&spool_bytes) {
            return Err(value("sidecar-spool-bytes", format!("must be from {LEAST_SPOOL} to {MOST_SPOOL}")));
        }
        let admin_port = self.sidecar_admin_port.unwrap_or(9871);
        let transport =
            transport(self.sidecar_kafka_brokers, self.sidecar_kafka_topic, self.sidecar_kafka_option, self.sidecar_grpc_endpoint)?;
        let startup_probe = self.sidecar_startup_probe.unwrap_or(true);
        let sidecar = Sidecar {
            image,
            image_pull_policy: policy,
            transport,
            source,
            log_level,
            cpu_request,
            memory_request,
            memory_limit,
            spool_bytes,
            admin_port,
            startup_probe,
            native: native.unwrap_or(true),
        };
        Ok((sidecar, native))
    }
}

fn transport(
    brokers: Option<String>,
    topic: Option<String>,
    options: Option<Vec<String>>,
    endpoint: Option<String>,
) -> Result<Transport, ConfigError> {
    // An empty variable is one that was left out, as in a manifest with a place for it.
    if let Some(brokers) = brokers.filter(|brokers| !brokers.is_empty()) {
        config::check_brokers("sidecar-kafka-brokers", &brokers)?;
        let options: Vec<String> = options.into_iter().flatten().filter(|option| !option.is_empty()).collect();
        if let Some(wrong) = options.iter().find(|option| !option.contains('=')) {
            return Err(value("sidecar-kafka-option", format!("{wrong:?} is not KEY=VALUE")));
        }
        let topic = topic.unwrap_or_else(|| "podtap.requests".to_owned());
        return Ok(Transport::Kafka { brokers, topic, options });
    }
    let endpoint = endpoint.unwrap_or_else(|| "http://podtap-analyzer.podtap:9881".to_owned());
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return Err(value("sidecar-grpc-endpoint", format!("{endpoint:?} does not begin with http:// or https://")));
    }
    Ok(Transport::Grpc { endpoint })
}

/// A name of an object, as RFC 1123 and the API have it.
fn object_name(setting: &'static str, text: Option<String>, default: &str) -> Result<String, ConfigError> {
    let text = text.unwrap_or_else(|| default.to_owned());
    let allowed = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c));
    if text.is_empty() || text.len() > 253 || !allowed {
        return Err(value(setting, format!("{text:?} is not a name of a Kubernetes object")));
    }
    Ok(text)
}

impl Inject {
    /// The injector's own namespace, checked.
    pub fn own_namespace(&mut self) -> Result<String, ConfigError> {
        object_name("injector-namespace", self.injector_namespace.take(), OWN_NAMESPACE)
    }
}

impl ServeSettings {
    /// Checks everything.
    pub fn resolve(self) -> Result<ServeConfig, ConfigError> {
        let (sidecar, native) = self.sidecar.resolve()?;
        let access = match self.kubernetes.as_deref() {
            None | Some("auto" | "") => Access::Auto,
            Some("in-cluster") => Access::InCluster,
            Some(path) => Access::File(PathBuf::from(path)),
        };
        let namespace = object_name("namespace", self.namespace, OWN_NAMESPACE)?;
        let names: Vec<String> = self.certificate_names.into_iter().flatten().filter(|name| !name.is_empty()).collect();
        let certificate_names = if names.is_empty() { vec![format!("podtap-injector.{namespace}.svc")] } else { names };
        if let Some(wrong) = certificate_names.iter().find(|name| rustls::pki_types::ServerName::try_from(name.as_str()).is_err()) {
            return Err(value("certificate-names", format!("{wrong:?} is neither a name nor an address")));
        }
        let level = self.pod_security_default.unwrap_or_else(|| "privileged".to_owned());
        if !["privileged", "baseline", "restricted"].contains(&level.as_str()) {
            return Err(value("pod-security-default", format!("{level:?} is none of privileged, baseline, restricted")));
        }
        Ok(ServeConfig {
            webhook_listen: address("webhook-listen", self.webhook_listen, "127.0.0.1:9443")?,
            http_listen: address("http-listen", self.http_listen, "127.0.0.1:9882")?,
            access,
            webhook_configuration: object_name("webhook-configuration", self.webhook_configuration, "podtap-injector")?,
            certificate_secret: object_name("certificate-secret", self.certificate_secret, "podtap-injector-certificate")?,
            namespace,
            certificate_names,
            pod_security_default: level,
            sidecar,
            native,
            log_format: config::log_format(self.log_format.as_deref())?,
            log: self.log.unwrap_or_else(|| "info".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_name_their_setting() {
        let sidecar = |change: fn(&mut SidecarSettings)| {
            let mut settings = SidecarSettings::default();
            change(&mut settings);
            ServeSettings { sidecar: settings, ..ServeSettings::default() }.resolve()
        };
        let check = |outcome: Result<ServeConfig, ConfigError>, expect: &str| {
            let error = outcome.unwrap_err().to_string();
            assert!(error.starts_with(expect), "{error}");
        };
        check(sidecar(|s| s.sidecar_image = Some("a b".to_owned())), "sidecar-image:");
        check(sidecar(|s| s.sidecar_image_pull_policy = Some("always".to_owned())), "sidecar-image-pull-policy:");
        check(sidecar(|s| s.sidecar_source = Some("file".to_owned())), "sidecar-source:");
        check(sidecar(|s| s.sidecar_log_level = Some("loud".to_owned())), "sidecar-log-level:");
        check(sidecar(|s| s.sidecar_cpu_request = Some("much".to_owned())), "sidecar-cpu-request:");
        check(sidecar(|s| s.sidecar_memory_limit = Some("1Mi".to_owned())), "sidecar-memory-limit:");
        check(sidecar(|s| s.sidecar_memory_request = Some("1Gi".to_owned())), "sidecar-memory-request:");
        check(sidecar(|s| s.sidecar_spool_bytes = Some(1)), "sidecar-spool-bytes:");
        check(sidecar(|s| s.sidecar_kafka_brokers = Some("a b:9092".to_owned())), "sidecar-kafka-brokers:");
        check(sidecar(|s| s.sidecar_grpc_endpoint = Some("analyzer:9881".to_owned())), "sidecar-grpc-endpoint:");
        check(sidecar(|s| s.native_sidecar = Some("maybe".to_owned())), "native-sidecar:");
        let serve = |change: fn(&mut ServeSettings)| {
            let mut settings = ServeSettings::default();
            change(&mut settings);
            settings.resolve()
        };
        check(serve(|s| s.webhook_listen = Some("9443".to_owned())), "webhook-listen:");
        check(serve(|s| s.namespace = Some("Podtap".to_owned())), "namespace:");
        check(serve(|s| s.certificate_names = Some(vec!["a b".to_owned()])), "certificate-names:");
        check(serve(|s| s.pod_security_default = Some("strict".to_owned())), "pod-security-default:");
        let config = serve(|s| s.namespace = Some("watch".to_owned())).unwrap();
        assert_eq!(config.certificate_names, ["podtap-injector.watch.svc"]);
    }
}
