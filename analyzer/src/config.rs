//! The command line, the file and the environment, in one place.
//!
//! Precedence: defaults < YAML file (`--config`) < environment (`PODTAP_<FLAG>`) < flags. Keys of the file are the flags' names with
//! underscores; an unknown key is refused. Values are checked here, before anything is opened.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;

use crate::aggregate::Sampling;
use crate::alarm::rule::{self, RuleFile};
use crate::ingest::kubernetes::Access;
use crate::inject::settings::{Inject, Manifests};
use crate::store::clickhouse::Access as ClickHouseAccess;
use crate::store::cluster::Layout;
use crate::store::retention::Retention;

const EXAMPLES: &str = "Examples:
  podtap-analyzer run --clickhouse-url http://127.0.0.1:8123 --rules rules.yaml
  podtap-analyzer run --kafka-brokers kafka-1:9092,kafka-2:9092 --kafka-topic podtap.requests
  podtap-analyzer migrate --dry-run
  podtap-analyzer migrate --print --clickhouse-cluster shards
  podtap-analyzer config check --config analyzer.yaml
  podtap-analyzer inject web.yaml | kubectl apply -f -

Every flag has a twin in the environment: --kafka-brokers is PODTAP_KAFKA_BROKERS.
Exit codes: 0 ok, 1 failure, 2 unknown flag or command, 69 something it needs is not available, 78 wrong value, wherever it stands.";

const INJECT_EXAMPLES: &str = "Examples:
  kubectl get deployment web -o yaml | podtap-analyzer inject - | kubectl apply -f -
  podtap-analyzer inject --label web.yaml
  podtap-analyzer uninject web.yaml
  podtap-analyzer inject serve --kubernetes in-cluster

The report goes to standard error, a line for each object.
Exit codes: 0 ok, 2 unknown flag, 65 input that is no YAML, 66 input that cannot be opened, 69 unavailable, 78 wrong value.";

/// What `--version` says: version and revision.
pub fn version() -> &'static str {
    static VERSION: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| format!("{} ({})", env!("CARGO_PKG_VERSION"), podtap_wire::REVISION));
    &VERSION
}

/// The program's command line.
#[derive(Debug, Parser)]
#[command(
    name = "podtap-analyzer",
    version = version(),
    about = "Turns request records into latency histograms in ClickHouse, alarms and notifications.",
    after_help = EXAMPLES
)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads batches, stores figures, serves the API, watches rules.
    #[command(after_help = EXAMPLES)]
    Run(Box<Settings>),
    /// Brings ClickHouse's schema up to this program's.
    Migrate {
        /// Only print the statements that are missing.
        #[arg(long)]
        dry_run: bool,
        /// Print all statements from nothing and ask no server; with --clickhouse-cluster in their replicated and sharded form.
        #[arg(long, conflicts_with = "dry_run")]
        print: bool,
        /// How to reach ClickHouse.
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Computes all roll-ups that are due, now, the running hour included.
    Rollup(Box<Settings>),
    /// Looks at the configuration.
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Puts the sidecar into manifests, or serves the webhook that puts it into new pods.
    #[command(after_help = INJECT_EXAMPLES)]
    Inject(Box<Inject>),
    /// Takes the sidecar out of manifests.
    Uninject(Manifests),
    /// Prints a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Checks file, environment, flags and rules; prints what is in force.
    Check(Box<Settings>),
}

macro_rules! settings {
    ($($(#[$meta:meta])* $name:ident: $kind:ty),* $(,)?) => {
        /// Flags and their twins in the environment; what is not given comes from the file or the defaults.
        #[derive(Clone, Debug, Default, Args)]
        pub struct Settings {
            /// YAML file with any of these settings.
            #[arg(long, env = "PODTAP_CONFIG", value_name = "FILE")]
            pub config: Option<PathBuf>,
            $($(#[$meta])* pub $name: Option<$kind>,)*
        }

        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct FileSettings { $(#[serde(default)] $name: Option<$kind>,)* }

        impl Settings {
            /// Fills what was not given with what the file says.
            fn or(mut self, file: FileSettings) -> Self {
                $(if self.$name.is_none() { self.$name = file.$name; })*
                self
            }
        }
    };
}

settings! {
    /// URL of ClickHouse's HTTP interface [default: http://127.0.0.1:8123]
    #[arg(long, env = "PODTAP_CLICKHOUSE_URL", value_name = "URL")]
    clickhouse_url: String,
    /// ClickHouse user [default: default]
    #[arg(long, env = "PODTAP_CLICKHOUSE_USER", value_name = "NAME")]
    clickhouse_user: String,
    /// ClickHouse password
    #[arg(long, env = "PODTAP_CLICKHOUSE_PASSWORD", value_name = "TEXT", hide_env_values = true)]
    clickhouse_password: String,
    /// ClickHouse database [default: podtap]
    #[arg(long, env = "PODTAP_CLICKHOUSE_DATABASE", value_name = "NAME")]
    clickhouse_database: String,
    /// Name of the ClickHouse cluster to spread the tables over; without it one server has them
    #[arg(long, env = "PODTAP_CLICKHOUSE_CLUSTER", value_name = "NAME")]
    clickhouse_cluster: String,
    /// Days that tables keep rows, such as requests=3 or request_histograms_1h=900; docs/schema.md has all names and defaults
    #[arg(long, env = "PODTAP_RETENTION", value_name = "NAME=DAYS,..", value_delimiter = ',')]
    retention: Vec<String>,
    /// Share of ordinary requests to keep one by one, 0 to 1; failed and slow ones are always kept, histograms count all [default: 1]
    #[arg(long, env = "PODTAP_REQUEST_SAMPLING", value_name = "SHARE")]
    request_sampling: f64,
    /// How often roll-ups that are due are computed [default: 60s]
    #[arg(long, env = "PODTAP_ROLLUP_INTERVAL", value_name = "DURATION")]
    rollup_interval: String,
    /// How long after its end an hour is first rolled up [default: 15m]
    #[arg(long, env = "PODTAP_ROLLUP_DELAY", value_name = "DURATION")]
    rollup_delay: String,
    /// Kafka brokers; without them only gRPC is taken
    #[arg(long, env = "PODTAP_KAFKA_BROKERS", value_name = "HOST:PORT,..")]
    kafka_brokers: String,
    /// Kafka topic, made if it is missing [default: podtap.requests]
    #[arg(long, env = "PODTAP_KAFKA_TOPIC", value_name = "NAME")]
    kafka_topic: String,
    /// Partitions of the topic if it is made [default: 12]
    #[arg(long, env = "PODTAP_KAFKA_PARTITIONS", value_name = "N")]
    kafka_partitions: u32,
    /// Copies of the topic if it is made; -1: the broker's default [default: -1]
    #[arg(long, env = "PODTAP_KAFKA_REPLICATION", value_name = "N", allow_hyphen_values = true)]
    kafka_replication: i32,
    /// Kafka consumer group [default: podtap-analyzer]
    #[arg(long, env = "PODTAP_KAFKA_GROUP", value_name = "NAME")]
    kafka_group: String,
    /// Further settings of librdkafka, such as security.protocol=SSL
    #[arg(long, env = "PODTAP_KAFKA_OPTION", value_name = "KEY=VALUE,..", value_delimiter = ',')]
    kafka_option: Vec<String>,
    /// Where gRPC is served [default: 127.0.0.1:9881]
    #[arg(long, env = "PODTAP_GRPC_LISTEN", value_name = "IP:PORT")]
    grpc_listen: String,
    /// Where the API, /healthz, /readyz and /metrics are served [default: 127.0.0.1:9880]
    #[arg(long, env = "PODTAP_HTTP_LISTEN", value_name = "IP:PORT")]
    http_listen: String,
    /// Directory of the log of what came over gRPC [default: ./podtap-data]
    #[arg(long, env = "PODTAP_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Size that the log may reach before nothing more is taken, in bytes [default: 4294967296]
    #[arg(long, env = "PODTAP_DATA_BYTES", value_name = "N")]
    data_bytes: u64,
    /// YAML file of alarm rules and receivers
    #[arg(long, env = "PODTAP_RULES", value_name = "FILE")]
    rules: PathBuf,
    /// How often rules are evaluated, 1s to 60s [default: 60s]
    #[arg(long, env = "PODTAP_EVALUATION_INTERVAL", value_name = "DURATION")]
    evaluation_interval: String,
    /// Address of the API as people reach it, for links in notifications
    #[arg(long, env = "PODTAP_EXTERNAL_URL", value_name = "URL")]
    external_url: String,
    /// Where peers' names come from: in-cluster, the path of a kubeconfig, or off [default: in-cluster where there is a service account]
    #[arg(long, env = "PODTAP_KUBERNETES", value_name = "WHERE")]
    kubernetes: String,
    /// How often kubelets are asked what containers use, at least 5s; off: never [default: 15s]
    #[arg(long, env = "PODTAP_KUBELET_INTERVAL", value_name = "DURATION")]
    kubelet_interval: String,
    /// Take any certificate of a kubelet, where the cluster's CA did not sign it [default: false]
    #[arg(long, env = "PODTAP_KUBELET_INSECURE_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    kubelet_insecure_tls: bool,
    /// Log format: text, json, or auto (text on a terminal) [default: auto]
    #[arg(long, env = "PODTAP_LOG_FORMAT", value_name = "FORMAT")]
    log_format: String,
    /// Log filter such as info or podtap_analyzer=debug [default: info]
    #[arg(long, env = "PODTAP_LOG", value_name = "FILTER")]
    log: String,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// Kafka, where it is used.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// Brokers.
    pub brokers: String,
    /// Topic.
    pub topic: String,
    /// Partitions of a new topic.
    pub partitions: u32,
    /// Copies of a new topic.
    pub replication: i32,
    /// Consumer group.
    pub group: String,
    /// Further settings.
    pub options: Vec<(String, String)>,
}

/// Everything, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// ClickHouse.
    pub clickhouse: ClickHouseAccess,
    /// Kafka, if it is used.
    pub kafka: Option<Kafka>,
    /// Where gRPC is served.
    pub grpc_listen: SocketAddr,
    /// Where HTTP is served.
    pub http_listen: SocketAddr,
    /// Directory of the log.
    pub data_dir: PathBuf,
    /// Its cap.
    pub data_bytes: u64,
    /// Of rows in `requests`.
    pub sampling: Sampling,
    /// How often roll-ups are looked at.
    pub rollup_interval: Duration,
    /// How long after its end an hour is first rolled up.
    pub rollup_delay: Duration,
    /// Rules and receivers.
    pub rules: RuleFile,
    /// How often rules are evaluated.
    pub evaluation_interval: Duration,
    /// Kubernetes, if it is watched.
    pub kubernetes: Option<Access>,
    /// How often kubelets are asked, if they are.
    pub kubelet_interval: Option<Duration>,
    /// Whether any certificate of a kubelet will do.
    pub kubelet_insecure_tls: bool,
    /// For links.
    pub external_url: String,
    /// How logs look.
    pub log_format: LogFormat,
    /// Which logs.
    pub log: String,
}

/// What is wrong, and where it was said.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    /// A file is not what it should be.
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    /// A value is impossible.
    #[error("{setting}: {problem}")]
    Value { setting: &'static str, problem: String },
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

/// First as YAML of any content: a file that is none would otherwise be told as the first key that reading it made up.
fn parse(text: &str) -> Result<FileSettings, serde_saphyr::Error> {
    serde_saphyr::from_str::<serde::de::IgnoredAny>(text).and_then(|_| serde_saphyr::from_str(text))
}

/// Shows help, or what is wrong with a command line, and says how to exit: a value that is wrong is a wrong configuration wherever it
/// stands (78), a flag or command that does not exist is wrong usage (2).
pub fn told(error: &clap::Error) -> u8 {
    use clap::error::ErrorKind::{InvalidValue, ValueValidation};
    // Nobody is left to be told when the terminal is gone.
    let _ = error.print();
    if let Some(variable) = from_environment(error) {
        eprintln!("note: the value comes from {variable} in the environment");
    }
    if matches!(error.kind(), InvalidValue | ValueValidation) { 78 } else { error.exit_code() as u8 }
}

/// The variable that gave the value which an error is about; flags of the same name win over it, so then it is none.
fn from_environment(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = argument.split([' ', '=', '[']).next().filter(|flag| flag.starts_with("--"))?;
    let given = std::env::args().any(|word| word == flag || word.starts_with(&format!("{flag}=")));
    let variable = format!("PODTAP_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
    (!given && std::env::var_os(&variable).is_some()).then_some(variable)
}

/// HOST:PORT, or HOST for Kafka's own port, separated by commas.
pub(crate) fn check_brokers(setting: &'static str, text: &str) -> Result<(), ConfigError> {
    let is_broker = |broker: &str| {
        let (host, port) = broker.trim().rsplit_once(':').unwrap_or((broker.trim(), "9092"));
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    match text.split(',').find(|broker| !is_broker(broker)) {
        Some(wrong) => Err(value(setting, format!("{wrong:?} is not HOST:PORT; without Kafka leave the setting out"))),
        None => Ok(()),
    }
}

pub(crate) fn value(setting: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { setting, problem: problem.into() }
}

pub(crate) fn address(setting: &'static str, text: Option<String>, default: &str) -> Result<SocketAddr, ConfigError> {
    let text = text.unwrap_or_else(|| default.to_owned());
    text.parse().map_err(|_| value(setting, format!("{text:?} is not an address such as 127.0.0.1:9880")))
}

fn duration(setting: &'static str, text: Option<&str>, default: &str, least_seconds: u64) -> Result<Duration, ConfigError> {
    let nanoseconds = rule::parse_duration(text.unwrap_or(default)).map_err(|problem| value(setting, problem))?;
    let duration = Duration::from_nanos(nanoseconds);
    if duration.as_secs() < least_seconds {
        return Err(value(setting, format!("must be at least {least_seconds}s")));
    }
    Ok(duration)
}

/// Where the kubelet puts a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

fn kubernetes(text: Option<&str>) -> Result<Option<Access>, ConfigError> {
    match text {
        Some("off") => Ok(None),
        Some("in-cluster") => Ok(Some(Access::InCluster)),
        Some("") => Err(value("kubernetes", "must be in-cluster, the path of a kubeconfig, or off")),
        Some(path) => {
            // Read again when it is used; here it is only told early.
            read(Path::new(path))?;
            Ok(Some(Access::Kubeconfig(PathBuf::from(path))))
        }
        None => {
            let here = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(SERVICE_ACCOUNT).exists();
            Ok(here.then_some(Access::InCluster))
        }
    }
}

pub(crate) fn log_format(text: Option<&str>) -> Result<LogFormat, ConfigError> {
    match text {
        Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        None | Some("auto") => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            Ok(if terminal { LogFormat::Text } else { LogFormat::Json })
        }
        Some(other) => Err(value("log-format", format!("{other:?} is none of text, json, auto"))),
    }
}

impl Settings {
    /// Reads the file and the rules and checks everything.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let file = match &self.config {
            None => FileSettings::default(),
            Some(path) => {
                let text = read(path)?;
                let parsed = if text.trim().is_empty() { Ok(FileSettings::default()) } else { parse(&text) };
                parsed.map_err(|error| ConfigError::File { path: path.clone(), problem: error.to_string() })?
            }
        };
        let settings = self.or(file);
        let log_format = log_format(settings.log_format.as_deref())?;
        let kafka = settings.kafka()?;
        let clickhouse = settings.clickhouse()?;
        let rules = match &settings.rules {
            None => RuleFile::default(),
            Some(path) => {
                rule::parse(&read(path)?).map_err(|error| ConfigError::File { path: path.clone(), problem: error.to_string() })?
            }
        };
        let interval = settings.evaluation_interval.as_deref().unwrap_or("60s");
        let interval = rule::parse_duration(interval).map_err(|problem| value("evaluation-interval", problem))?;
        if !(1_000_000_000..=60_000_000_000).contains(&interval) {
            return Err(value("evaluation-interval", "must be from 1s to 60s"));
        }
        let data_bytes = settings.data_bytes.unwrap_or(4 << 30);
        if data_bytes < 64 << 20 {
            return Err(value("data-bytes", "must be at least 67108864, the size of one segment"));
        }
        let sampling =
            Sampling::of_share(settings.request_sampling.unwrap_or(1.0)).ok_or_else(|| value("request-sampling", "must be from 0 to 1"))?;
        let rollup_interval = duration("rollup-interval", settings.rollup_interval.as_deref(), "60s", 1)?;
        let rollup_delay = duration("rollup-delay", settings.rollup_delay.as_deref(), "15m", 0)?;
        let kubernetes = kubernetes(settings.kubernetes.as_deref())?;
        let kubelet_interval = match settings.kubelet_interval.as_deref() {
            Some("off") => None,
            text => Some(duration("kubelet-interval", text, "15s", 5)?),
        };
        let http_listen = address("http-listen", settings.http_listen, "127.0.0.1:9880")?;
        Ok(Config {
            clickhouse,
            kafka,
            grpc_listen: address("grpc-listen", settings.grpc_listen, "127.0.0.1:9881")?,
            http_listen,
            data_dir: settings.data_dir.unwrap_or_else(|| PathBuf::from("./podtap-data")),
            data_bytes,
            sampling,
            rollup_interval,
            rollup_delay,
            rules,
            evaluation_interval: Duration::from_nanos(interval),
            kubernetes,
            kubelet_interval,
            kubelet_insecure_tls: settings.kubelet_insecure_tls.unwrap_or(false),
            external_url: settings.external_url.unwrap_or_else(|| format!("http://{http_listen}")),
            log_format,
            log: settings.log.unwrap_or_else(|| "info".to_owned()),
        })
    }

    fn clickhouse(&self) -> Result<ClickHouseAccess, ConfigError> {
        let url = self.clickhouse_url.clone().unwrap_or_else(|| "http://127.0.0.1:8123".to_owned());
        if !url.starts_with("http://") {
            return Err(value("clickhouse-url", format!("{url:?} does not begin with http://")));
        }
        let database = self.clickhouse_database.clone().unwrap_or_else(|| "podtap".to_owned());
        if database.is_empty() {
            return Err(value("clickhouse-database", "must not be empty"));
        }
        Ok(ClickHouseAccess {
            url,
            user: self.clickhouse_user.clone().unwrap_or_else(|| "default".to_owned()),
            password: self.clickhouse_password.clone().unwrap_or_default(),
            database,
            layout: match self.clickhouse_cluster.as_deref() {
                None | Some("") => Layout::Single,
                Some(name) => Layout::Cluster(name.to_owned()),
            },
            retention: Retention::parse(self.retention.as_deref().unwrap_or_default()).map_err(|problem| value("retention", problem))?,
        })
    }

    fn kafka(&self) -> Result<Option<Kafka>, ConfigError> {
        let partitions = self.kafka_partitions.unwrap_or(12);
        if !(1..=10_000).contains(&partitions) {
            return Err(value("kafka-partitions", "must be from 1 to 10000"));
        }
        let Some(brokers) = self.kafka_brokers.clone() else { return Ok(None) };
        check_brokers("kafka-brokers", &brokers)?;
        if cfg!(not(feature = "kafka")) {
            return Err(value("kafka-brokers", "this program was built without Kafka (feature kafka)"));
        }
        let mut options = Vec::new();
        for option in self.kafka_option.iter().flatten().filter(|option| !option.is_empty()) {
            let Some((key, text)) = option.split_once('=') else {
                return Err(value("kafka-option", format!("{option:?} is not KEY=VALUE")));
            };
            options.push((key.to_owned(), text.to_owned()));
        }
        Ok(Some(Kafka {
            brokers,
            topic: self.kafka_topic.clone().unwrap_or_else(|| "podtap.requests".to_owned()),
            partitions,
            replication: self.kafka_replication.unwrap_or(-1),
            group: self.kafka_group.clone().unwrap_or_else(|| "podtap-analyzer".to_owned()),
            options,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str]) -> Settings {
        let line = CommandLine::try_parse_from(["podtap-analyzer", "run"].iter().chain(arguments)).unwrap();
        let Command::Run(settings) = line.command else { panic!("run was asked for") };
        *settings
    }

    #[test]
    fn flags_go_before_the_file_and_that_before_defaults() {
        let path = std::env::temp_dir().join(format!("podtap-analyzer-config-{}.yaml", std::process::id()));
        std::fs::write(&path, "clickhouse_user: from-file\nclickhouse_database: from-file\nhttp_listen: 127.0.0.1:1\n").unwrap();
        let config = settings(&["--config", path.to_str().unwrap(), "--clickhouse-user", "from-flag"]).resolve().unwrap();
        assert_eq!((config.clickhouse.user.as_str(), config.clickhouse.database.as_str()), ("from-flag", "from-file"));
        assert_eq!(config.clickhouse.url, "http://127.0.0.1:8123");
        assert_eq!(config.http_listen.port(), 1);
        std::fs::write(&path, "kafka_topics: x\n").unwrap();
        let error = settings(&["--config", path.to_str().unwrap()]).resolve().unwrap_err().to_string();
        assert!(error.contains("kafka_topics"), "{error}");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn bad_values_name_their_setting() {
        for (arguments, expect) in [
            (["--http-listen", "nowhere"], "http-listen"),
            (["--log-format", "xml"], "log-format"),
            (["--evaluation-interval", "2h"], "evaluation-interval"),
            (["--clickhouse-url", "tcp://x"], "clickhouse-url"),
            (["--retention", "everything=3"], "retention"),
            (["--request-sampling", "2"], "request-sampling"),
            (["--rollup-interval", "0s"], "rollup-interval"),
            (["--rules", "/does/not/exist"], "/does/not/exist"),
            (["--kubernetes", "/no/kubeconfig"], "/no/kubeconfig"),
            (["--kubelet-interval", "1s"], "kubelet-interval"),
        ] {
            let error = settings(&arguments).resolve().unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }
}
