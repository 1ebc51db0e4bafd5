//! What to change of a pod so that it has the sidecar, or why not: a pure function of the pod, its namespace's labels and the settings.
//!
//! Guarantee: idempotent (a pod that has the sidecar is left as it is), and what is added can be taken away again ([`restore`]). One
//! misuse: a template of a Deployment needs [`Asked::workload`], it has no owner yet.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::container::{self, Site};
use super::tuning::{self, Sidecar, Source};
use super::workload::Workload;
use super::{
    CONTAINER, DEFAULT_CONTAINER, DEFAULT_LOGS_CONTAINER, EXCLUDED_NAMESPACES, INJECTED_LABEL, NAMESPACE_LABEL, NO_TOKEN_VOLUME, POD_LABEL,
    SPOOL_VOLUME, STATUS, quantity,
};

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Ports that are tried when containers of the pod have the sidecar's.
const OTHER_PORTS: u16 = 16;

/// An operation of RFC 6902; of its six these two are needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Adds a member (or replaces it), or inserts an element.
    Add {
        /// JSON pointer.
        path: String,
        /// What to add.
        value: Value,
    },
    /// Removes a member or an element.
    Remove {
        /// JSON pointer.
        path: String,
    },
}

/// Why a pod gets no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Neither the namespace nor the pod asks for one.
    NotEnabled,
    /// The pod's label says no.
    Disabled,
    /// A namespace of the cluster itself, or ours.
    ExcludedNamespace,
    /// It has one.
    AlreadyInjected,
    /// It shares the node's network.
    HostNetwork,
    /// For Windows nodes.
    Windows,
    /// The kubelet's own pod, shown by the API.
    MirrorPod,
    /// The namespace's Pod Security forbids NET_RAW.
    PodSecurity,
    /// A Job would never end, where sidecars are ordinary containers.
    JobWithoutNativeSidecar,
    /// A volume of our names is there already.
    VolumeNameTaken,
    /// No pod as the API describes it.
    Malformed,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NotEnabled,
        Self::Disabled,
        Self::ExcludedNamespace,
        Self::AlreadyInjected,
        Self::HostNetwork,
        Self::Windows,
        Self::MirrorPod,
        Self::PodSecurity,
        Self::JobWithoutNativeSidecar,
        Self::VolumeNameTaken,
        Self::Malformed,
    ];

    /// As a label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotEnabled => "not_enabled",
            Self::Disabled => "disabled",
            Self::ExcludedNamespace => "excluded_namespace",
            Self::AlreadyInjected => "already_injected",
            Self::HostNetwork => "host_network",
            Self::Windows => "windows",
            Self::MirrorPod => "mirror_pod",
            Self::PodSecurity => "pod_security",
            Self::JobWithoutNativeSidecar => "job_without_native_sidecar",
            Self::VolumeNameTaken => "volume_name_taken",
            Self::Malformed => "malformed",
        }
    }

    /// For people.
    pub const fn told(self) -> &'static str {
        match self {
            Self::NotEnabled => "injection is not enabled",
            Self::Disabled => "injection is disabled by the label inject.podtap.io/inject",
            Self::ExcludedNamespace => "the namespace is excluded",
            Self::AlreadyInjected => "it has a podtap-sidecar",
            Self::HostNetwork => "hostNetwork is enabled",
            Self::Windows => "it is for Windows nodes",
            Self::MirrorPod => "it is a static pod",
            Self::PodSecurity => "Pod Security forbids NET_RAW",
            Self::JobWithoutNativeSidecar => "it would never complete: before Kubernetes 1.29 sidecars do not end with a Job",
            Self::VolumeNameTaken => "a volume named podtap-spool or podtap-no-token is there already",
            Self::Malformed => "it is not a pod: spec.containers is missing",
        }
    }

    /// Whether who wanted a sidecar should hear of it.
    const fn is_warned(self) -> bool {
        matches!(
            self,
            Self::HostNetwork | Self::Windows | Self::PodSecurity | Self::JobWithoutNativeSidecar | Self::VolumeNameTaken | Self::Malformed
        )
    }
}

/// A namespace and its labels.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Who asks, beside the pod.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The namespace; `None` for a manifest, whose author asks for sidecars.
    pub namespace: Option<&'a Namespace>,
    /// The injector's own namespace.
    pub own_namespace: &'a str,
    /// What the cluster enforces where a namespace says nothing.
    pub default_enforce: &'a str,
    /// What the pod will belong to, where that is known otherwise than by its owner.
    pub workload: Option<Workload>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Changes, or why there are none.
    pub decision: Result<Vec<Operation>, Reason>,
    /// What the author should know.
    pub warnings: Vec<String>,
}

/// The pod's containers, those that start before and those that run.
fn containers<'a>(pod: &'a Value, list: &str) -> &'a [Value] {
    pod.pointer("/spec").and_then(|spec| spec.get(list)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn all_containers(pod: &Value) -> impl Iterator<Item = &Value> {
    containers(pod, "initContainers").iter().chain(containers(pod, "containers"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

fn member<'a>(pod: &'a Value, object: &str, key: &str) -> Option<&'a str> {
    pod.pointer(object).and_then(|object| object.get(key)).and_then(Value::as_str)
}

/// Whether somebody wants a sidecar in this pod.
fn opted_in(pod: &Value, asked: &Asked<'_>, warnings: &mut Vec<String>) -> Result<(), Reason> {
    if let Some(namespace) = asked.namespace
        && (EXCLUDED_NAMESPACES.contains(&namespace.name.as_str()) || namespace.name == asked.own_namespace)
    {
        return Err(Reason::ExcludedNamespace);
    }
    match member(pod, "/metadata/labels", POD_LABEL) {
        Some("true") => return Ok(()),
        Some("false") => return Err(Reason::Disabled),
        Some(other) => warnings.push(format!(
            "podtap: label {POD_LABEL}: {} is none of true, false; the namespace's label {NAMESPACE_LABEL} decides",
            tuning::shown(other)
        )),
        None => {}
    }
    match asked.namespace.map(|namespace| namespace.labels.get(NAMESPACE_LABEL).map(String::as_str)) {
        None | Some(Some("enabled")) => Ok(()),
        Some(_) => Err(Reason::NotEnabled),
    }
}

/// Whether a sidecar can be in this pod.
fn possible(pod: &Value, asked: &Asked<'_>, sidecar: &Sidecar) -> Result<(), Reason> {
    let flag = |pointer: &str| pod.pointer(pointer).and_then(Value::as_bool) == Some(true);
    if containers(pod, "containers").is_empty() {
        return Err(Reason::Malformed);
    }
    if all_containers(pod).any(|container| text(container, "/name") == Some(CONTAINER)) {
        return Err(Reason::AlreadyInjected);
    }
    if flag("/spec/hostNetwork") {
        return Err(Reason::HostNetwork);
    }
    let selected =
        ["kubernetes.io/os", "beta.kubernetes.io/os"].iter().any(|key| member(pod, "/spec/nodeSelector", key) == Some("windows"));
    if selected || text(pod, "/spec/os/name") == Some("windows") {
        return Err(Reason::Windows);
    }
    if member(pod, "/metadata/annotations", MIRROR).is_some() {
        return Err(Reason::MirrorPod);
    }
    let job = asked.workload.clone().unwrap_or_else(|| Workload::of_pod(pod)).kind;
    // What is restarted always cannot be a Job's, whoever controls it.
    let ends = matches!(text(pod, "/spec/restartPolicy"), Some("Never" | "OnFailure")) || job == "Job" || job == "CronJob";
    if ends && !sidecar.native {
        return Err(Reason::JobWithoutNativeSidecar);
    }
    if enforced(asked) != "privileged" {
        return Err(Reason::PodSecurity);
    }
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if volumes.iter().any(|volume| matches!(text(volume, "/name"), Some(SPOOL_VOLUME | NO_TOKEN_VOLUME))) {
        return Err(Reason::VolumeNameTaken);
    }
    Ok(())
}

/// The Pod Security level of the namespace. A level that does not exist is `restricted` to the API server.
fn enforced<'a>(asked: &'a Asked<'_>) -> &'a str {
    let Some(namespace) = asked.namespace else { return "privileged" };
    match namespace.labels.get(ENFORCE).map_or(asked.default_enforce, String::as_str) {
        level @ ("privileged" | "baseline") => level,
        _ => "restricted",
    }
}

fn warning(reason: Reason, asked: &Asked<'_>) -> String {
    if reason != Reason::PodSecurity {
        return format!("podtap: no sidecar: {}", reason.told());
    }
    let name = asked.namespace.map_or("", |namespace| namespace.name.as_str());
    let level = enforced(asked);
    // The API server cuts warnings of more than 256 bytes.
    format!(
        "podtap: no sidecar: namespace {name:?} enforces Pod Security {level:?}, which forbids NET_RAW; \
         to allow it: kubectl label ns {name} {ENFORCE}=privileged --overwrite"
    )
}

/// Whether the pod's quality of service is `Guaranteed`.
fn is_guaranteed(pod: &Value) -> bool {
    all_containers(pod).all(|container| {
        ["cpu", "memory"].iter().all(|resource| {
            let amount = |of: &str| container.pointer(&format!("/resources/{of}/{resource}")).map(quantity_of);
            // A request that is not there is the limit.
            amount("limits").flatten().is_some_and(|limit| limit > 0.0 && amount("requests").is_none_or(|request| request == Some(limit)))
        })
    })
}

/// Quantities may be written as numbers.
fn quantity_of(value: &Value) -> Option<f64> {
    value.as_str().map_or_else(|| value.as_f64(), quantity::parse)
}

/// The sidecar's port, or one near it where containers of the pod have that.
fn free_port(pod: &Value, wanted: u16) -> Option<u16> {
    let taken: Vec<u64> = all_containers(pod)
        .filter_map(|container| container.get("ports").and_then(Value::as_array))
        .flatten()
        .filter_map(|port| port.get("containerPort").and_then(Value::as_u64))
        .collect();
    (0..OTHER_PORTS).filter_map(|step| wanted.checked_add(step)).find(|port| !taken.contains(&u64::from(*port)))
}

/// Decides about a pod.
pub fn decide(pod: &Value, asked: &Asked<'_>, sidecar: &Sidecar) -> Outcome {
    let mut warnings = Vec::new();
    let allowed = opted_in(pod, asked, &mut warnings).and_then(|()| possible(pod, asked, sidecar));
    if let Err(reason) = allowed {
        if reason.is_warned() {
            warnings.push(warning(reason, asked));
        }
        return Outcome { decision: Err(reason), warnings };
    }
    let operations = additions(pod, asked, sidecar, &mut warnings);
    Outcome { decision: Ok(operations), warnings }
}

fn additions(pod: &Value, asked: &Asked<'_>, sidecar: &Sidecar, warnings: &mut Vec<String>) -> Vec<Operation> {
    let mut tuned = tuning::tune(sidecar, pod.pointer("/metadata/annotations"), warnings);
    if tuned.sidecar.source != Source::Pcap && pod.pointer("/spec/hostUsers").and_then(Value::as_bool) == Some(false) {
        warnings.push("podtap: eBPF is not possible in a user namespace (hostUsers: false); the sidecar uses pcap".to_owned());
        tuned.sidecar.source = Source::Pcap;
    }
    let wanted = tuned.sidecar.admin_port;
    match free_port(pod, wanted) {
        Some(port) => tuned.sidecar.admin_port = port,
        None => {
            warnings.push(format!("podtap: port {wanted} is a container's; choose another by the annotation inject.podtap.io/admin-port"))
        }
    }
    let applications = containers(pod, "containers");
    let first = applications.first().and_then(|container| text(container, "/name")).unwrap_or_default();
    let limits_disk = |container: &Value| container.pointer("/resources/limits/ephemeral-storage").is_some();
    let site = Site {
        workload: asked.workload.clone().unwrap_or_else(|| Workload::of_pod(pod)),
        application: (applications.len() == 1 && !first.is_empty()).then(|| first.to_owned()),
        guaranteed: is_guaranteed(pod),
        disk_limited: all_containers(pod).any(limits_disk),
        shared_resources: pod.pointer("/spec/resources").is_some_and(|resources| resources.is_object()),
    };
    let mut additions = Additions { pod, operations: Vec::new(), added: Vec::new() };
    let list = if sidecar.native { "initContainers" } else { "containers" };
    additions.elements(list, vec![container::container(&tuned, &site)]);
    additions.elements("volumes", container::volumes(&tuned).to_vec());
    additions.metadata(first, sidecar)
}

/// What is added to a pod; remembers what was made for it, so that it can be taken away.
struct Additions<'a> {
    pod: &'a Value,
    operations: Vec<Operation>,
    added: Vec<&'static str>,
}

impl Additions<'_> {
    fn add(&mut self, path: impl Into<String>, value: Value) {
        self.operations.push(Operation::Add { path: path.into(), value });
    }

    /// Puts something first into a list of the spec.
    fn elements(&mut self, list: &'static str, elements: Vec<Value>) {
        if self.pod.pointer("/spec").and_then(|spec| spec.get(list)).is_some_and(Value::is_array) {
            for (index, element) in elements.into_iter().enumerate() {
                self.add(format!("/spec/{list}/{index}"), element);
            }
        } else {
            self.added.push(list);
            self.add(format!("/spec/{list}"), Value::Array(elements));
        }
    }

    fn metadata(mut self, first: &str, sidecar: &Sidecar) -> Vec<Operation> {
        let has = |pointer: &str| self.pod.pointer(pointer).is_some_and(Value::is_object);
        let (metadata, labels, annotations) = (has("/metadata"), has("/metadata/labels"), has("/metadata/annotations"));
        let mut new = Map::new();
        for key in [DEFAULT_CONTAINER, DEFAULT_LOGS_CONTAINER] {
            if !first.is_empty() && member(self.pod, "/metadata/annotations", key).is_none() {
                new.insert(key.to_owned(), json!(first));
                self.added.push(key);
            }
        }
        let made = [("metadata", metadata), ("labels", labels), ("annotations", annotations)];
        self.added.extend(made.iter().filter(|(_, there)| !there).map(|(name, _)| *name));
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "container": CONTAINER,
            "configuration": configuration(sidecar),
            "added": self.added,
        });
        new.insert(STATUS.to_owned(), json!(status.to_string()));
        let label = json!({INJECTED_LABEL: "true"});
        if !metadata {
            self.add("/metadata", json!({"labels": label, "annotations": new}));
            return self.operations;
        }
        self.members("/metadata/labels", labels, label);
        self.members("/metadata/annotations", annotations, Value::Object(new));
        self.operations
    }

    fn members(&mut self, object: &str, there: bool, members: Value) {
        match members {
            Value::Object(members) if there => {
                for (key, value) in members {
                    self.add(format!("{object}/{}", escape(&key)), value);
                }
            }
            members => self.add(object, members),
        }
    }
}

/// A number for the settings, to find pods that were injected with others.
pub fn configuration(sidecar: &Sidecar) -> String {
    let text = json!(sidecar).to_string();
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

/// A key as a part of a JSON pointer (RFC 6901).
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A part of a JSON pointer as a key.
pub fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// What takes the sidecar out of a pod, as far as we put it there.
pub fn restore(pod: &Value) -> Vec<Operation> {
    let status: Option<Value> = member(pod, "/metadata/annotations", STATUS).and_then(|status| serde_json::from_str(status).ok());
    let added: Vec<&str> = status
        .as_ref()
        .and_then(|status| status["added"].as_array())
        .map_or_else(Vec::new, |added| added.iter().filter_map(Value::as_str).collect());
    let mut paths = Vec::new();
    for (list, names) in
        [("initContainers", &[CONTAINER][..]), ("containers", &[CONTAINER][..]), ("volumes", &[SPOOL_VOLUME, NO_TOKEN_VOLUME][..])]
    {
        let elements = containers(pod, list);
        let ours = |element: &Value| text(element, "/name").is_some_and(|name| names.contains(&name));
        let indexes: Vec<usize> = (0..elements.len()).filter(|index| ours(&elements[*index])).collect();
        if indexes.len() == elements.len() && added.contains(&list) {
            paths.push(format!("/spec/{list}"));
        } else {
            // From behind, so that an index is still right when its turn comes.
            paths.extend(indexes.iter().rev().map(|index| format!("/spec/{list}/{index}")));
        }
    }
    // Without a status it was `inject --label`.
    let label = if status.is_some() { INJECTED_LABEL } else { POD_LABEL };
    let defaults = [DEFAULT_CONTAINER, DEFAULT_LOGS_CONTAINER].into_iter().filter(|key| added.contains(key));
    let annotations: Vec<&str> = defaults.chain([STATUS]).collect();
    let labels: &[&str] = if member(pod, "/metadata/labels", label) == Some("true") { &[label] } else { &[] };
    let mut emptied = Vec::new();
    for (object, keys) in [("labels", labels), ("annotations", annotations.as_slice())] {
        let Some(members) = pod.pointer("/metadata").and_then(|metadata| metadata.get(object)).and_then(Value::as_object) else { continue };
        let ours: Vec<&&str> = keys.iter().filter(|key| members.contains_key(**key)).collect();
        // What a label of ours was put into alone is ours too.
        if ours.len() == members.len() && !ours.is_empty() && (added.contains(&object) || status.is_none()) {
            emptied.push(object);
        } else {
            paths.extend(ours.iter().map(|key| format!("/metadata/{object}/{}", escape(key))));
        }
    }
    let members = pod.pointer("/metadata").and_then(Value::as_object).map_or(0, Map::len);
    if (added.contains(&"metadata") || status.is_none()) && members == emptied.len() && members > 0 {
        paths.push("/metadata".to_owned());
    } else {
        paths.extend(emptied.iter().map(|object| format!("/metadata/{object}")));
    }
    paths.into_iter().map(|path| Operation::Remove { path }).collect()
}

/// What asks for a sidecar when the pod is made, for manifests.
pub fn label(pod: &Value) -> Result<Vec<Operation>, Reason> {
    if containers(pod, "containers").is_empty() {
        return Err(Reason::Malformed);
    }
    if member(pod, "/metadata/labels", POD_LABEL) == Some("true") {
        return Ok(Vec::new());
    }
    let has = |pointer: &str| pod.pointer(pointer).is_some_and(Value::is_object);
    let (path, value) = if has("/metadata/labels") {
        (format!("/metadata/labels/{}", escape(POD_LABEL)), json!("true"))
    } else if has("/metadata") {
        ("/metadata/labels".to_owned(), json!({POD_LABEL: "true"}))
    } else {
        ("/metadata".to_owned(), json!({"labels": {POD_LABEL: "true"}}))
    };
    Ok(vec![Operation::Add { path, value }])
}

/// Carries out operations; false if a path leads nowhere.
pub fn apply(value: &mut Value, operations: &[Operation]) -> bool {
    operations.iter().all(|operation| apply_one(value, operation).is_some())
}

fn apply_one(value: &mut Value, operation: &Operation) -> Option<()> {
    let (Operation::Add { path, .. } | Operation::Remove { path }) = operation;
    let (parent, last) = path.rsplit_once('/')?;
    let (parent, last) = (value.pointer_mut(parent)?, unescape(last));
    match (parent, operation) {
        (Value::Object(members), Operation::Add { value, .. }) => {
            members.insert(last, value.clone());
        }
        (Value::Object(members), Operation::Remove { .. }) => {
            members.remove(&last)?;
        }
        (Value::Array(elements), operation) => {
            let index: usize = last.parse().ok()?;
            match operation {
                Operation::Add { value, .. } if index <= elements.len() => elements.insert(index, value.clone()),
                Operation::Remove { .. } if index < elements.len() => {
                    elements.remove(index);
                }
                _ => return None,
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
pub(super) mod tests;
