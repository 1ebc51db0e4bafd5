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
            Self::ExcludedNamespace => "its namespace gets none (kube-system, kube-public, kube-node-lease, the injector's own)",
            Self::AlreadyInjected => "it has a podtap-sidecar",
            Self::HostNetwork => "hostNetwork is enabled",
            Self::Windows => "it is for Windows nodes",
            Self::MirrorPod => "it is a static pod",
            Self::PodSecurity => "Pod Security forbids NET_RAW",
            Self::JobWithoutNativeSidecar => "it would never complete: before Kubernetes 1.29 sidecars do not end with a Job",
            Self::VolumeNameTaken => "a volume named podtap-spool or podtap-no-token is there already",
            Self::Malformed => "it has no containers",
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
    /// Name of the namespace; empty for a manifest that names none.
    pub namespace: &'a str,
    /// Labels of the namespace; `None` for a manifest, whose author asks for sidecars.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// The injector's own namespace.
    pub own_namespace: &'a str,
    /// What the cluster enforces where a namespace says nothing.
    pub default_enforce: &'a str,
    /// What the pod will belong to, where that is known otherwise than by its owner.
    pub workload: Option<Workload>,
    /// How members of the pod that have no value are written, by JSON pointer; what is not in it is `null`.
    pub nulls: Nulls,
}

/// What is made where it is not there or has no value.
pub const MAY_BE_NULL: [&str; 6] =
    ["/metadata", "/metadata/labels", "/metadata/annotations", "/spec/initContainers", "/spec/containers", "/spec/volumes"];

/// JSON pointers of members without a value, and how they are written, such as `~`, or nothing.
pub type Nulls = BTreeMap<String, String>;

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
    if EXCLUDED_NAMESPACES.contains(&asked.namespace) || !asked.namespace.is_empty() && asked.namespace == asked.own_namespace {
        return Err(Reason::ExcludedNamespace);
    }
    match member(pod, "/metadata/labels", POD_LABEL) {
        Some("true") => return Ok(()),
        Some("false") => return Err(Reason::Disabled),
        Some(other) => {
            let instead = match asked.labels {
                Some(_) => format!("the namespace's label {NAMESPACE_LABEL} decides"),
                None => "it has no effect".to_owned(),
            };
            warnings.push(format!("podtap: label {POD_LABEL}: {} is none of true, false; {instead}", tuning::shown(other)));
        }
        None => {}
    }
    match asked.labels.map(|labels| labels.get(NAMESPACE_LABEL).map(String::as_str)) {
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
    let Some(labels) = asked.labels else { return "privileged" };
    match labels.get(ENFORCE).map_or(asked.default_enforce, String::as_str) {
        level @ ("privileged" | "baseline") => level,
        _ => "restricted",
    }
}

fn warning(reason: Reason, asked: &Asked<'_>) -> String {
    if reason != Reason::PodSecurity {
        return format!("podtap: no sidecar: {}", reason.told());
    }
    let (name, level) = (asked.namespace, enforced(asked));
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
    allowed(pod, asked, sidecar, |warnings| additions(pod, asked, sidecar, warnings))
}

/// Decides about the label that asks for a sidecar when the pod is made: a pod gets it that would get the sidecar then.
pub fn label(pod: &Value, asked: &Asked<'_>, sidecar: &Sidecar) -> Outcome {
    allowed(pod, asked, sidecar, |_| Additions::new(pod, asked).label())
}

fn allowed(pod: &Value, asked: &Asked<'_>, sidecar: &Sidecar, changes: impl FnOnce(&mut Vec<String>) -> Vec<Operation>) -> Outcome {
    let mut warnings = Vec::new();
    if let Err(reason) = opted_in(pod, asked, &mut warnings).and_then(|()| possible(pod, asked, sidecar)) {
        if reason.is_warned() {
            warnings.push(warning(reason, asked));
        }
        return Outcome { decision: Err(reason), warnings };
    }
    let operations = changes(&mut warnings);
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
    let mut additions = Additions::new(pod, asked);
    let list = if sidecar.native { "initContainers" } else { "containers" };
    additions.elements(list, vec![container::container(&tuned, &site)]);
    additions.elements("volumes", container::volumes(&tuned).to_vec());
    additions.metadata(first, sidecar)
}

/// What is added to a pod; remembers what was made for it, so that it can be taken away.
struct Additions<'a> {
    pod: &'a Value,
    nulls: &'a Nulls,
    operations: Vec<Operation>,
    /// Members that were not there.
    added: Vec<&'static str>,
    /// Members that were there without a value, and how they were written.
    empty: BTreeMap<&'static str, String>,
}

impl<'a> Additions<'a> {
    fn new(pod: &'a Value, asked: &'a Asked<'_>) -> Self {
        Self { pod, nulls: &asked.nulls, operations: Vec::new(), added: Vec::new(), empty: BTreeMap::new() }
    }

    fn add(&mut self, path: impl Into<String>, value: Value) {
        self.operations.push(Operation::Add { path: path.into(), value });
    }

    /// Whether a list or an object has to be made.
    fn makes(&mut self, name: &'static str, path: &str) -> bool {
        match self.pod.pointer(path) {
            Some(Value::Array(_) | Value::Object(_)) => return false,
            Some(Value::Null) => {
                let written = self.nulls.get(path).cloned().unwrap_or_else(|| "null".to_owned());
                self.empty.insert(name, written);
            }
            _ => self.added.push(name),
        }
        true
    }

    /// Puts something first into a list of the spec.
    fn elements(&mut self, list: &'static str, elements: Vec<Value>) {
        let path = format!("/spec/{list}");
        if self.makes(list, &path) {
            return self.add(path, Value::Array(elements));
        }
        for (index, element) in elements.into_iter().enumerate() {
            self.add(format!("{path}/{index}"), element);
        }
    }

    fn metadata(mut self, first: &str, sidecar: &Sidecar) -> Vec<Operation> {
        let mut new = Map::new();
        for key in [DEFAULT_CONTAINER, DEFAULT_LOGS_CONTAINER] {
            if !first.is_empty() && member(self.pod, "/metadata/annotations", key).is_none() {
                new.insert(key.to_owned(), json!(first));
                self.added.push(key);
            }
        }
        let makes = [("metadata", "/metadata"), ("labels", "/metadata/labels"), ("annotations", "/metadata/annotations")]
            .map(|(name, path)| self.makes(name, path));
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "container": CONTAINER,
            "configuration": configuration(sidecar),
            "added": self.added,
        });
        if !self.empty.is_empty() {
            status["empty"] = json!(self.empty);
        }
        new.insert(STATUS.to_owned(), json!(status.to_string()));
        self.into_metadata(makes, json!({INJECTED_LABEL: "true"}), Value::Object(new))
    }

    /// The label of a pod that asks; what was made for it is remembered only where it cannot be guessed: no value, or an empty one.
    fn label(mut self) -> Vec<Operation> {
        if member(self.pod, "/metadata/labels", POD_LABEL) == Some("true") {
            return Vec::new();
        }
        let mut makes = [self.makes("metadata", "/metadata"), self.makes("labels", "/metadata/labels"), false];
        let is_empty = |path: &str| self.pod.pointer(path).and_then(Value::as_object).is_some_and(Map::is_empty);
        let mut annotations = Map::new();
        if !self.empty.is_empty() || is_empty("/metadata") || is_empty("/metadata/labels") {
            makes[2] = self.makes("annotations", "/metadata/annotations");
            let status = json!({"added": self.added, "empty": self.empty});
            annotations.insert(STATUS.to_owned(), json!(status.to_string()));
        }
        self.into_metadata(makes, json!({POD_LABEL: "true"}), Value::Object(annotations))
    }

    /// Adds members; says for metadata, its labels and its annotations whether they have to be made.
    fn into_metadata(mut self, makes: [bool; 3], labels: Value, annotations: Value) -> Vec<Operation> {
        let [metadata, makes @ ..] = makes;
        let mut made = Map::new();
        for (object, makes, members) in [("labels", makes[0], labels), ("annotations", makes[1], annotations)] {
            match members {
                Value::Object(members) if members.is_empty() => {}
                members if metadata => drop(made.insert(object.to_owned(), members)),
                Value::Object(members) if !makes => {
                    for (key, value) in members {
                        self.add(format!("/metadata/{object}/{}", escape(&key)), value);
                    }
                }
                members => self.add(format!("/metadata/{object}"), members),
            }
        }
        if metadata {
            self.add("/metadata", Value::Object(made));
        }
        self.operations
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

/// What we noted about a pod when we changed it.
struct Noted {
    /// Whether it was only labelled.
    only_label: bool,
    added: Vec<String>,
    empty: Nulls,
}

fn noted(pod: &Value) -> Noted {
    let status: Option<Value> = member(pod, "/metadata/annotations", STATUS).and_then(|status| serde_json::from_str(status).ok());
    let Some(status) = status else {
        // What a label of ours is alone in is ours too.
        return Noted { only_label: true, added: vec!["metadata".to_owned(), "labels".to_owned()], empty: Nulls::new() };
    };
    let added = status["added"].as_array().map(Vec::as_slice).unwrap_or_default();
    let empty = status["empty"].as_object().into_iter().flatten();
    Noted {
        only_label: status.get("container").is_none(),
        added: added.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        empty: empty.filter_map(|(name, written)| Some((name.clone(), written.as_str()?.to_owned()))).collect(),
    }
}

/// How members were written that [`restore`] leaves without a value, by JSON pointer.
pub fn nulls(pod: &Value) -> Nulls {
    let path = |name: &str| match name {
        "metadata" => "/metadata".to_owned(),
        "labels" | "annotations" => format!("/metadata/{name}"),
        list => format!("/spec/{list}"),
    };
    noted(pod).empty.into_iter().map(|(name, written)| (path(&name), written)).collect()
}

/// What takes the sidecar, or the label that asks for it, out of a pod, as far as we put it there.
pub fn restore(pod: &Value) -> Vec<Operation> {
    let noted = noted(pod);
    let added = |name: &str| noted.added.iter().any(|added| added == name);
    let without = |name: &str, path: String| {
        if noted.empty.contains_key(name) { Operation::Add { path, value: Value::Null } } else { Operation::Remove { path } }
    };
    let made = |name: &str| added(name) || noted.empty.contains_key(name);
    let remove = |path: String| Operation::Remove { path };
    let mut operations = Vec::new();
    for (list, names) in
        [("initContainers", &[CONTAINER][..]), ("containers", &[CONTAINER][..]), ("volumes", &[SPOOL_VOLUME, NO_TOKEN_VOLUME][..])]
    {
        let elements = containers(pod, list);
        let ours = |element: &Value| text(element, "/name").is_some_and(|name| names.contains(&name));
        let indexes: Vec<usize> = (0..elements.len()).filter(|index| ours(&elements[*index])).collect();
        if indexes.len() == elements.len() && !indexes.is_empty() && made(list) {
            operations.push(without(list, format!("/spec/{list}")));
        } else {
            // From behind, so that an index is still right when its turn comes.
            operations.extend(indexes.iter().rev().map(|index| remove(format!("/spec/{list}/{index}"))));
        }
    }
    let label = if noted.only_label { POD_LABEL } else { INJECTED_LABEL };
    let labels: &[&str] = if member(pod, "/metadata/labels", label) == Some("true") { &[label] } else { &[] };
    let defaults = [DEFAULT_CONTAINER, DEFAULT_LOGS_CONTAINER].into_iter().filter(|key| added(key));
    let annotations: Vec<&str> = defaults.chain([STATUS]).collect();
    let mut emptied = Vec::new();
    for (object, keys) in [("labels", labels), ("annotations", annotations.as_slice())] {
        let Some(members) = pod.pointer("/metadata").and_then(|metadata| metadata.get(object)).and_then(Value::as_object) else { continue };
        let ours: Vec<&&str> = keys.iter().filter(|key| members.contains_key(**key)).collect();
        if ours.len() == members.len() && !ours.is_empty() && made(object) {
            emptied.push(without(object, format!("/metadata/{object}")));
        } else {
            operations.extend(ours.iter().map(|key| remove(format!("/metadata/{object}/{}", escape(key)))));
        }
    }
    let members = pod.pointer("/metadata").and_then(Value::as_object).map_or(0, Map::len);
    if made("metadata") && members == emptied.len() && members > 0 {
        operations.push(without("metadata", "/metadata".to_owned()));
    } else {
        operations.extend(emptied);
    }
    operations
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
