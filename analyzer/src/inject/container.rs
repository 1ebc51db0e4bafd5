//! The sidecar's container and its volumes, as JSON of the core/v1 API.
//!
//! Guarantee: the same pod and settings give the same bytes. It has the least that sniffing needs: user 65532, NET_RAW alone, a read-only
//! root, no token of the service account.

use serde_json::{Map, Value, json};

use super::tuning::{Source, Transport, Tuned};
use super::workload::Workload;
use super::{CONTAINER, NO_TOKEN_VOLUME, SPOOL_VOLUME, quantity};

/// User and group of the image.
const USER: u32 = 65532;
const SPOOL_DIRECTORY: &str = "/var/spool/podtap";
/// The API server mounts a token into every container that has nothing there.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// CPU of a sidecar whose limit is its request, so that its pod stays `Guaranteed`.
const GUARANTEED_CPU: &str = "100m";
/// Most memory that batches wait in; beyond it they go to the spool.
const MOST_QUEUE_BYTES: u64 = 64 << 20;

/// Where the container goes and what of the pod it depends on.
#[derive(Clone, Debug)]
pub struct Site {
    /// What the pod belongs to.
    pub workload: Workload,
    /// Name of the application's container, if it has one only.
    pub application: Option<String>,
    /// Whether the pod's quality of service is `Guaranteed`, and has to stay so.
    pub guaranteed: bool,
    /// Whether the pod's disk is limited: then the spool needs its own share.
    pub disk_limited: bool,
    /// Whether the pod has resources as a whole, which its containers' must fit into.
    pub shared_resources: bool,
}

fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

fn variable(name: &str, value: impl Into<String>) -> Value {
    json!({"name": name, "value": value.into()})
}

fn environment(tuned: &Tuned, site: &Site) -> Vec<Value> {
    let sidecar = &tuned.sidecar;
    let mut variables = Vec::new();
    match &sidecar.transport {
        Transport::Kafka { brokers, topic, options } => {
            variables.push(variable("PODTAP_TRANSPORT", "kafka"));
            variables.push(variable("PODTAP_KAFKA_BROKERS", brokers));
            variables.push(variable("PODTAP_KAFKA_TOPIC", topic));
            if !options.is_empty() {
                variables.push(variable("PODTAP_KAFKA_OPTION", options.join(",")));
            }
        }
        Transport::Grpc { endpoint } => {
            variables.push(variable("PODTAP_TRANSPORT", "grpc"));
            variables.push(variable("PODTAP_GRPC_ENDPOINT", endpoint));
        }
    }
    let memory = quantity::parse(&sidecar.memory_limit).map_or(MOST_QUEUE_BYTES, |bytes| bytes as u64);
    variables.push(variable("PODTAP_SOURCE", sidecar.source.as_str()));
    // The kubelet asks from outside the pod.
    variables.push(variable("PODTAP_ADMIN_LISTEN", format!("0.0.0.0:{}", sidecar.admin_port)));
    variables.push(variable("PODTAP_SPOOL_DIR", SPOOL_DIRECTORY));
    variables.push(variable("PODTAP_SPOOL_BYTES", sidecar.spool_bytes.to_string()));
    variables.push(variable("PODTAP_QUEUE_BYTES", (memory / 4).min(MOST_QUEUE_BYTES).to_string()));
    // Else the application would wait for a sidecar that cannot start.
    variables.push(variable("PODTAP_KEEP_TRYING", "true"));
    variables.push(variable("PODTAP_LOG_FORMAT", "json"));
    variables.push(variable("PODTAP_LOG_LEVEL", &sidecar.log_level));
    variables.push(field("PODTAP_POD_NAME", "metadata.name"));
    variables.push(field("PODTAP_POD_UID", "metadata.uid"));
    variables.push(field("PODTAP_POD_NAMESPACE", "metadata.namespace"));
    variables.push(field("PODTAP_NODE_NAME", "spec.nodeName"));
    variables.push(variable("PODTAP_WORKLOAD_KIND", &site.workload.kind));
    if site.workload.name.is_empty() {
        variables.push(field("PODTAP_WORKLOAD_NAME", "metadata.name"));
    } else {
        variables.push(variable("PODTAP_WORKLOAD_NAME", &site.workload.name));
    }
    if let Some(name) = &site.application {
        variables.push(variable("PODTAP_CONTAINER_NAME", name));
    }
    if let Some(name) = &tuned.service_name {
        variables.push(variable("PODTAP_SERVICE_NAME", escaped(name)));
    }
    variables
}

/// The kubelet expands `$(NAME)` in values; `$$` is a `$`.
fn escaped(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn resources(tuned: &Tuned, site: &Site) -> Value {
    if site.shared_resources {
        return json!({});
    }
    let mut resources = compute(tuned, site);
    // The limits of a pod's containers add up to the pod's, which its volumes count for. Without others' it would be ours alone.
    if site.disk_limited {
        resources["limits"]["ephemeral-storage"] = json!(format!("{}Mi", spool_limit(tuned)));
        resources["requests"]["ephemeral-storage"] = json!("0");
    }
    resources
}

fn compute(tuned: &Tuned, site: &Site) -> Value {
    let sidecar = &tuned.sidecar;
    if site.guaranteed {
        let asked = tuned.cpu_limit.as_ref().unwrap_or(&sidecar.cpu_request);
        let cpu =
            if tuned.cpu_limit.is_none() && quantity::parse(asked) < quantity::parse(GUARANTEED_CPU) { GUARANTEED_CPU } else { asked };
        let same = json!({"cpu": cpu, "memory": sidecar.memory_limit});
        return json!({"requests": same, "limits": same});
    }
    let mut limits = Map::new();
    if let Some(cpu) = &tuned.cpu_limit {
        limits.insert("cpu".to_owned(), json!(cpu));
    }
    limits.insert("memory".to_owned(), json!(sidecar.memory_limit));
    json!({"requests": {"cpu": sidecar.cpu_request, "memory": sidecar.memory_request}, "limits": limits})
}

fn security_context(tuned: &Tuned) -> Value {
    let mut add = vec!["NET_RAW"];
    if tuned.sidecar.source != Source::Pcap {
        add.push("BPF");
    }
    let user = if tuned.run_as_root { 0 } else { USER };
    json!({
        "runAsUser": user,
        "runAsGroup": user,
        "runAsNonRoot": !tuned.run_as_root,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"], "add": add},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// The container.
pub fn container(tuned: &Tuned, site: &Site) -> Value {
    let sidecar = &tuned.sidecar;
    let probe = |period: u32, failures: u32| {
        json!({
            "httpGet": {"path": "/healthz", "port": "podtap"},
            "periodSeconds": period,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        })
    };
    let mut container = json!({
        "name": CONTAINER,
        "image": sidecar.image,
        "imagePullPolicy": sidecar.image_pull_policy,
        "args": ["run"],
        "env": environment(tuned, site),
        "ports": [{"name": "podtap", "containerPort": sidecar.admin_port, "protocol": "TCP"}],
        "livenessProbe": probe(20, 3),
        "resources": resources(tuned, site),
        "securityContext": security_context(tuned),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": SPOOL_VOLUME, "mountPath": SPOOL_DIRECTORY},
            {"name": NO_TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": true},
        ],
    });
    if sidecar.native {
        container["restartPolicy"] = json!("Always");
    }
    if sidecar.startup_probe {
        container["startupProbe"] = probe(1, 60);
    }
    container
}

/// Its volumes: the spool, and the emptiness in the token's place.
pub fn volumes(tuned: &Tuned) -> [Value; 2] {
    [
        json!({"name": SPOOL_VOLUME, "emptyDir": {"sizeLimit": format!("{}Mi", spool_limit(tuned))}}),
        json!({"name": NO_TOKEN_VOLUME, "emptyDir": {"sizeLimit": "1Mi"}}),
    ]
}

/// In MiB. A pod is evicted whose volume is beyond its limit, so the spool stays well below it.
fn spool_limit(tuned: &Tuned) -> u64 {
    let bytes = tuned.sidecar.spool_bytes;
    (bytes + bytes / 4).max(bytes + (16 << 20)).div_ceil(1 << 20)
}
