//! Settings: defaults < YAML file (`--config`) < environment < flags.
//!
//! One table gives each setting its name, type, default and meaning; flags (`--kafka-brokers`), environment (`PODTAP_KAFKA_BROKERS`),
//! keys of the file (`kafka_brokers`) and `config show` are made from it. Everything is parsed into its type before anything starts.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer};

/// A number of bytes, written with or without a unit: `65536`, `64KiB`, `1 GiB`, `5MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// A length of time, written with a unit: `250ms`, `10s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Splits "10 MiB" into its number and unit.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..at].parse().ok()?;
    Some((number, text[at..].trim()))
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text).ok_or_else(|| format!("{text:?} is not a number of bytes such as 64MiB"))?;
        let factor: f64 = match unit {
            "" | "B" => 1.0,
            "kB" | "KB" | "k" => 1e3,
            "MB" | "M" => 1e6,
            "GB" | "G" => 1e9,
            "KiB" | "Ki" => 1024.0,
            "MiB" | "Mi" => 1024.0 * 1024.0,
            "GiB" | "Gi" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err(format!("{unit:?} is not a unit of bytes (B, kB, MB, GB, KiB, MiB, GiB)")),
        };
        Ok(Self((number * factor) as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes > 0 && bytes % (1 << 30) == 0 => write!(f, "{}GiB", bytes >> 30),
            bytes if bytes > 0 && bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes => write!(f, "{bytes}"),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text).ok_or_else(|| format!("{text:?} is not a time such as 10s"))?;
        let seconds = match unit {
            "ms" => number / 1e3,
            "s" => number,
            "m" => number * 60.0,
            "h" => number * 3600.0,
            _ => return Err(format!("{text:?} has no unit of time (ms, s, m, h)")),
        };
        Duration::try_from_secs_f64(seconds).map(Self).map_err(|error| format!("{text:?}: {error}"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

macro_rules! deserialize_from_text {
    ($($type:ty),*) => { $(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )* };
}
deserialize_from_text!(ByteSize, Span, SourceChoice, TransportChoice, LogFormat, KafkaOption);

macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
        pub enum $name { $($(#[$vdoc])* #[value(name = $text)] $variant),+ }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("{text:?} is none of {}{}", [$($text),+].join(", "), suggestion(text, [$($text),+]))),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    };
}

choices! {
    /// Where packets come from.
    SourceChoice {
        /// eBPF if the kernel allows it, else libpcap.
        Auto = "auto",
        /// Packet rings behind a kernel program.
        Ebpf = "ebpf",
        /// libpcap.
        Pcap = "pcap",
        /// A capture file.
        File = "file"
    }
}
choices! {
    /// Where records go.
    TransportChoice {
        /// An Apache Kafka topic.
        Kafka = "kafka",
        /// Straight to an analyzer.
        Grpc = "grpc",
        /// Standard output, one JSON object a line.
        Print = "print"
    }
}
choices! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One object a line.
        Json = "json",
        /// Text on a terminal, else JSON.
        Auto = "auto"
    }
}

/// A setting of librdkafka, `name=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaOption(pub String, pub String);

impl FromStr for KafkaOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
        Ok(Self(name.trim().to_owned(), value.trim().to_owned()))
    }
}

impl fmt::Display for KafkaOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = ["password", "secret", "key.pem"].iter().any(|word| self.0.contains(word));
        write!(f, "{}={}", self.0, if secret { "***" } else { &self.1 })
    }
}

trait Shown {
    fn shown(&self) -> String;
}

impl<T: fmt::Display> Shown for T {
    fn shown(&self) -> String {
        self.to_string()
    }
}

fn shown_list<T: Shown>(list: &[T]) -> String {
    format!("[{}]", list.iter().map(Shown::shown).collect::<Vec<_>>().join(", "))
}

macro_rules! settings {
    (
        one { $($(#[doc = $doc:literal])+ $([$($arg:tt)+])? $name:ident $env:literal: $type:ty = $default:expr;)* }
        maybe { $($(#[doc = $mdoc:literal])+ $([$($marg:tt)+])? $mname:ident $menv:literal: $mtype:ty;)* }
        many { $($(#[doc = $ldoc:literal])+ $([$($larg:tt)+])? $lname:ident $lenv:literal: $ltype:ty;)* }
    ) => {
        /// Settings as one layer gives them: the file, or environment and flags.
        #[derive(Clone, Debug, Default, clap::Args, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Layer {
            $($(#[doc = $doc])+ #[arg(long, env = $env $(, $($arg)+)?)] pub $name: Option<$type>,)*
            $($(#[doc = $mdoc])+ #[arg(long, env = $menv $(, $($marg)+)?)] pub $mname: Option<$mtype>,)*
            $($(#[doc = $ldoc])+ #[arg(long, env = $lenv, value_delimiter = ',' $(, $($larg)+)?)] pub $lname: Option<Vec<$ltype>>,)*
        }

        /// Settings in force.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $name: $type,)*
            $($(#[doc = $mdoc])+ pub $mname: Option<$mtype>,)*
            $($(#[doc = $ldoc])+ pub $lname: Vec<$ltype>,)*
        }

        impl Settings {
            /// `over` (environment and flags) wins over `file`, which wins over the defaults.
            pub fn resolve(over: Layer, file: Layer) -> Self {
                Self {
                    $($name: over.$name.or(file.$name).unwrap_or_else(|| $default),)*
                    $($mname: over.$mname.or(file.$mname),)*
                    $($lname: over.$lname.or(file.$lname).unwrap_or_default(),)*
                }
            }

            /// Every setting with its value as text.
            pub fn rows(&self) -> Vec<(&'static str, String)> {
                vec![
                    $((stringify!($name), self.$name.shown()),)*
                    $((stringify!($mname), self.$mname.as_ref().map_or_else(String::new, |value| value.shown())),)*
                    $((stringify!($lname), shown_list(&self.$lname)),)*
                ]
            }
        }

        impl Layer {
            /// Whether this layer gives the setting of this name.
            pub fn gives(&self, name: &str) -> bool {
                match name {
                    $(stringify!($name) => self.$name.is_some(),)*
                    $(stringify!($mname) => self.$mname.is_some(),)*
                    $(stringify!($lname) => self.$lname.is_some(),)*
                    _ => false,
                }
            }
        }

        /// The names of all settings, as keys of the file.
        pub const NAMES: &[&str] = &[$(stringify!($name),)* $(stringify!($mname),)* $(stringify!($lname),)*];
    };
}

settings! {
    one {
        /// Where packets come from.
        source "PODTAP_SOURCE": SourceChoice = SourceChoice::Auto;
        /// Where records go.
        transport "PODTAP_TRANSPORT": TransportChoice = TransportChoice::Grpc;
        /// Bootstrap brokers, HOST:PORT separated by commas.
        [value_name = "H:P,.."]
        kafka_brokers "PODTAP_KAFKA_BROKERS": String = "127.0.0.1:9092".to_owned();
        /// Topic of the batches.
        [value_name = "TOPIC"]
        kafka_topic "PODTAP_KAFKA_TOPIC": String = "podtap.requests".to_owned();
        /// The analyzer's gRPC address.
        [value_name = "URL"]
        grpc_endpoint "PODTAP_GRPC_ENDPOINT": String = "http://127.0.0.1:9881".to_owned();
        /// Disk that batches may take while the far side is away (with --spool-dir).
        [value_name = "BYTES"]
        spool_bytes "PODTAP_SPOOL_BYTES": ByteSize = ByteSize(1 << 30);
        /// How long a batch waits for its acknowledgement before it is written to disk too (with --spool-dir): what a kill may lose.
        [value_name = "TIME"]
        spool_after "PODTAP_SPOOL_AFTER": Span = Span(Duration::from_secs(1));
        /// Memory that batches may take while the far side is away.
        [value_name = "BYTES"]
        queue_bytes "PODTAP_QUEUE_BYTES": ByteSize = ByteSize(64 << 20);
        /// Kernel buffer for packets, on each interface.
        [value_name = "BYTES"]
        ring_bytes "PODTAP_RING_BYTES": ByteSize = ByteSize(16 << 20);
        /// Longest time that a record waits for its batch to fill.
        [value_name = "TIME"]
        batch_age "PODTAP_BATCH_AGE": Span = Span(Duration::from_millis(300));
        /// Longest time that an orderly stop waits for acknowledgements.
        [value_name = "TIME"]
        stop_grace "PODTAP_STOP_GRACE": Span = Span(Duration::from_secs(10));
        /// Address of /healthz, /readyz and /metrics.
        [value_name = "IP:PORT"]
        admin_listen "PODTAP_ADMIN_LISTEN": SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9871));
        /// Keep literals of SQL (also in error texts), query strings and parameters instead of masking them.
        [num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL"]
        unmask "PODTAP_UNMASK": bool = false;
        /// Stay after a failure, say why in /readyz and try again, instead of ending: in a pod the application waits for its sidecar.
        [num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL"]
        keep_trying "PODTAP_KEEP_TRYING": bool = false;
        /// How log lines look.
        log_format "PODTAP_LOG_FORMAT": LogFormat = LogFormat::Auto;
        /// What is logged: error, warn, info, debug, trace, or a filter such as podtap_sidecar=debug.
        [value_name = "FILTER"]
        log_level "PODTAP_LOG_LEVEL": String = "info".to_owned();
    }
    maybe {
        /// Capture file to read (source file); - is standard input.
        [short = 'r', value_name = "FILE"]
        read "PODTAP_READ": String;
        /// Which packets to look at, in pcap-filter syntax.
        [short = 'f', value_name = "PCAP_FILTER"]
        filter "PODTAP_FILTER": String;
        /// Folder for batches that wait, or do not fit into memory, while the far side is away.
        [value_name = "DIR"]
        spool_dir "PODTAP_SPOOL_DIR": Directory;
        /// Name of the service; without it the workload's name with its namespace, else the server's address.
        [value_name = "NAME"]
        service_name "PODTAP_SERVICE_NAME": String;
        /// Name of this pod.
        [value_name = "NAME"]
        pod_name "PODTAP_POD_NAME": String;
        /// UID of this pod.
        [value_name = "UID"]
        pod_uid "PODTAP_POD_UID": String;
        /// Namespace of this pod.
        [value_name = "NAME"]
        pod_namespace "PODTAP_POD_NAMESPACE": String;
        /// Node of this pod.
        [value_name = "NAME"]
        node_name "PODTAP_NODE_NAME": String;
        /// Kind of this pod's owner.
        [value_name = "KIND"]
        workload_kind "PODTAP_WORKLOAD_KIND": String;
        /// Name of this pod's owner.
        [value_name = "NAME"]
        workload_name "PODTAP_WORKLOAD_NAME": String;
        /// Container whose traffic this is.
        [value_name = "NAME"]
        container_name "PODTAP_CONTAINER_NAME": String;
    }
    many {
        /// Interface to listen on (repeatable); without it all that are up, lo included.
        [short = 'i', value_name = "NAME"]
        interface "PODTAP_INTERFACE": String;
        /// Any other setting of librdkafka, by its own name (repeatable).
        [value_name = "NAME=VALUE"]
        kafka_option "PODTAP_KAFKA_OPTION": KafkaOption;
    }
}

/// A folder.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Directory(pub PathBuf);

impl FromStr for Directory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("a folder's name is not empty".to_owned()) } else { Ok(Self(PathBuf::from(text))) }
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// Reads a file of settings; the error says where in the file, what, and what was perhaps meant.
pub fn read_file(path: &Path) -> Result<Layer, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&path.display().to_string(), &text)
}

fn parse(name: &str, text: &str) -> Result<Layer, String> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Layer::default());
    }
    // First as YAML of any content: a file that is none would otherwise be told as the first key that reading it made up.
    let any = serde_saphyr::from_str::<de::IgnoredAny>(text);
    any.and_then(|_| serde_saphyr::from_str(text)).map_err(|error| {
        let place = error.location().map_or_else(String::new, |at| format!(":{}:{}", at.line(), at.column()));
        let plain = error.without_snippet().to_string();
        let mut message = plain.lines().next().unwrap_or_default().to_owned();
        // serde's list of all keys hides the one that matters.
        if let Some(at) = message.find(", expected one of")
            && message.contains("unknown field")
        {
            let unknown = message.split('`').nth(1).unwrap_or_default().to_owned();
            message.truncate(at);
            message.push_str(&suggestion(&unknown, NAMES.iter().copied()));
        }
        format!("{name}{place}: {message}")
    })
}

/// `; did you mean "x"?` for the name that is nearest to what was written, if one is near.
pub fn suggestion<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let written = written.replace('-', "_").to_lowercase();
    let nearest = names.into_iter().map(|name| (distance(&written, name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + written.len() / 4 => format!("; did you mean {name:?}?"),
        _ => String::new(),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

/// HOST:PORT, or HOST for Kafka's own port.
fn is_broker(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, "9092"));
    !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl Settings {
    /// What cannot be together.
    pub fn check(&self) -> Result<(), String> {
        let file = self.source == SourceChoice::File;
        match (&self.read, file) {
            (None, true) => return Err("source file needs --read FILE".to_owned()),
            (Some(_), false) if self.source != SourceChoice::Auto => {
                return Err(format!("--read is for source file, not {}", self.source));
            }
            _ => {}
        }
        if self.read.is_some() && !self.interface.is_empty() {
            return Err("--read and --interface exclude each other".to_owned());
        }
        if let Some(wrong) = self.kafka_brokers.split(',').find(|broker| !is_broker(broker.trim())) {
            return Err(format!("kafka_brokers: {wrong:?} is not HOST:PORT"));
        }
        if self.queue_bytes.0 < 1 << 20 {
            return Err(format!("queue_bytes is {}; at least 1MiB is needed for the batches on their way", self.queue_bytes));
        }
        if self.ring_bytes.0 < 1 << 20 || self.ring_bytes.0 > 1 << 30 {
            return Err(format!("ring_bytes is {}; it must be between 1MiB and 1GiB", self.ring_bytes));
        }
        if self.batch_age.0.is_zero() || self.batch_age.0 > Duration::from_secs(60) {
            return Err(format!("batch_age is {}; it must be above 0 and at most 60s", self.batch_age));
        }
        Ok(())
    }

    /// Who the pod is.
    pub fn identity(&self) -> crate::record::Identity {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        crate::record::Identity {
            service_name: text(&self.service_name),
            namespace: text(&self.pod_namespace),
            pod_name: text(&self.pod_name),
            pod_uid: text(&self.pod_uid),
            node_name: text(&self.node_name),
            container_name: text(&self.container_name),
            workload_kind: text(&self.workload_kind),
            workload_name: text(&self.workload_name),
        }
    }
}

#[cfg(test)]
mod tests;
