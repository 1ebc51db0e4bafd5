//! What a pod's annotations change of the sidecar's settings.
//!
//! Guarantee: a wrong annotation is a warning and the default, never a refusal. One table names all annotations; docs/injection.md has the
//! same.

use serde::Serialize;
use serde_json::Value;

use super::{POD_LABEL, PREFIX, STATUS, quantity};

/// Least memory that a sidecar works with.
const LEAST_MEMORY: &str = "32Mi";
/// Longest value of an annotation that a warning shows.
const SHOWN: usize = 40;

/// Where the sidecar takes packets from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// libpcap: NET_RAW is all it needs.
    Pcap,
    /// The kernel program: needs BPF too.
    Ebpf,
    /// The kernel program where it is allowed, else libpcap.
    Auto,
}

impl Source {
    /// By its name.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "pcap" => Some(Self::Pcap),
            "ebpf" => Some(Self::Ebpf),
            "auto" => Some(Self::Auto),
            _ => None,
        }
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Ebpf => "ebpf",
            Self::Auto => "auto",
        }
    }
}

/// Where sidecars send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// To a topic.
    Kafka {
        /// Bootstrap brokers.
        brokers: String,
        /// Topic.
        topic: String,
        /// Further settings of librdkafka.
        options: Vec<String>,
    },
    /// To an analyzer.
    Grpc {
        /// Its URL.
        endpoint: String,
    },
}

/// Settings of injected sidecars, before annotations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sidecar {
    /// Image.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Where records go.
    pub transport: Transport,
    /// Where packets come from.
    pub source: Source,
    /// `error` to `trace`.
    pub log_level: String,
    /// CPU that is asked for.
    pub cpu_request: String,
    /// Memory that is asked for.
    pub memory_request: String,
    /// Memory that it may use.
    pub memory_limit: String,
    /// Disk for batches while the far side is away.
    pub spool_bytes: u64,
    /// Port of its probes.
    pub admin_port: u16,
    /// Whether the application waits until the sidecar listens.
    pub startup_probe: bool,
    /// As an init container that restarts always; needs Kubernetes 1.29.
    pub native: bool,
}

/// What of it a pod chose by annotation, besides changed settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuned {
    /// The settings with what annotations changed.
    pub sidecar: Sidecar,
    /// A CPU limit; none by default, a throttled sniffer loses packets.
    pub cpu_limit: Option<String>,
    /// The service's name, instead of the workload's.
    pub service_name: Option<String>,
    /// As user 0, for images that lost the binary's file capability.
    pub run_as_root: bool,
}

type Apply = fn(&mut Tuned, &str) -> Result<(), &'static str>;

/// An annotation that tunes the sidecar of one pod.
pub struct Annotation {
    /// Its name behind the prefix.
    pub name: &'static str,
    /// What it takes.
    pub values: &'static str,
    /// What it changes.
    pub meaning: &'static str,
    apply: Apply,
}

/// All of them.
pub const ANNOTATIONS: &[Annotation] = &[
    Annotation {
        name: "source",
        values: "`pcap`, `ebpf`, `auto`",
        meaning: "where packets come from; `ebpf` and `auto` add the capability BPF",
        apply: |tuned, text| {
            tuned.sidecar.source = Source::parse(text).ok_or("is none of pcap, ebpf, auto")?;
            Ok(())
        },
    },
    Annotation {
        name: "log-level",
        values: "`error`, `warn`, `info`, `debug`, `trace`",
        meaning: "what the sidecar logs",
        apply: |tuned, text| {
            if !is_log_level(text) {
                return Err("is none of error, warn, info, debug, trace");
            }
            text.clone_into(&mut tuned.sidecar.log_level);
            Ok(())
        },
    },
    Annotation {
        name: "memory-limit",
        values: "a quantity, at least `32Mi`",
        meaning: "memory that the sidecar may use; its queue is a quarter of it, at most 64 MiB",
        apply: |tuned, text| {
            if quantity::parse(text).is_none_or(|bytes| Some(bytes) < quantity::parse(LEAST_MEMORY)) {
                return Err("is not a quantity of at least 32Mi");
            }
            text.clone_into(&mut tuned.sidecar.memory_limit);
            Ok(())
        },
    },
    Annotation {
        name: "cpu-request",
        values: "a quantity",
        meaning: "CPU that is asked for",
        apply: |tuned, text| {
            tuned.sidecar.cpu_request = cpu(text)?;
            Ok(())
        },
    },
    Annotation {
        name: "cpu-limit",
        values: "a quantity",
        meaning: "a CPU limit, for namespaces whose quota asks for one; a throttled sniffer loses packets",
        apply: |tuned, text| {
            tuned.cpu_limit = Some(cpu(text)?);
            Ok(())
        },
    },
    Annotation {
        name: "service-name",
        values: "up to 255 characters",
        meaning: "the service's name, instead of namespace and workload",
        apply: |tuned, text| {
            if text.is_empty() || text.chars().count() > 255 || text.chars().any(char::is_control) {
                return Err("is not a name of 1 to 255 characters");
            }
            tuned.service_name = Some(text.to_owned());
            Ok(())
        },
    },
    Annotation {
        name: "admin-port",
        values: "a port",
        meaning: "where the sidecar serves /healthz, /readyz and /metrics",
        apply: |tuned, text| {
            tuned.sidecar.admin_port = text.parse().ok().filter(|port| *port > 0).ok_or("is not a port")?;
            Ok(())
        },
    },
    Annotation {
        name: "run-as-root",
        values: "`true`, `false`",
        meaning: "user 0 with the same few capabilities, where an image lost its file capability",
        apply: |tuned, text| {
            tuned.run_as_root = boolean(text).ok_or("is none of true, false")?;
            Ok(())
        },
    },
];

/// Whether it is a level of logs.
pub fn is_log_level(text: &str) -> bool {
    matches!(text, "error" | "warn" | "info" | "debug" | "trace")
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn cpu(text: &str) -> Result<String, &'static str> {
    // Below a millicore the API server refuses it.
    let valid = quantity::parse(text).is_some_and(|cores| (0.001..=1024.0).contains(&cores));
    if valid { Ok(text.to_owned()) } else { Err("is not a quantity of CPU such as 50m") }
}

/// A value as a warning shows it.
pub fn shown(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    format!("{:?}...", text.chars().take(SHOWN).collect::<String>())
}

/// Reads a pod's annotations; what is unknown or wrong is a warning.
pub fn tune(sidecar: &Sidecar, annotations: Option<&Value>, warnings: &mut Vec<String>) -> Tuned {
    let mut tuned = Tuned { sidecar: sidecar.clone(), cpu_limit: None, service_name: None, run_as_root: false };
    let ours = annotations.and_then(Value::as_object).into_iter().flatten().filter(|(key, _)| key.starts_with(PREFIX));
    for (key, value) in ours {
        if key == STATUS {
            continue;
        }
        if key == POD_LABEL {
            warnings.push(format!("podtap: {key} is a label of pods, as an annotation it has no effect"));
            continue;
        }
        let Some(annotation) = ANNOTATIONS.iter().find(|annotation| key.strip_prefix(PREFIX) == Some(annotation.name)) else {
            let names: Vec<_> = ANNOTATIONS.iter().map(|annotation| annotation.name).collect();
            warnings.push(format!("podtap: unknown annotation {}; known: {}", shown(key), names.join(", ")));
            continue;
        };
        let text = value.as_str().unwrap_or_default();
        if let Err(problem) = (annotation.apply)(&mut tuned, text) {
            warnings.push(format!("podtap: annotation {key}: {} {problem}; the default is used", shown(text)));
        }
    }
    let (request, limit) = (quantity::parse(&tuned.sidecar.memory_request), quantity::parse(&tuned.sidecar.memory_limit));
    if request > limit {
        tuned.sidecar.memory_request = tuned.sidecar.memory_limit.clone();
    }
    if let Some(limit) = &tuned.cpu_limit
        && quantity::parse(&tuned.sidecar.cpu_request) > quantity::parse(limit)
    {
        tuned.sidecar.cpu_request = limit.clone();
    }
    tuned
}
