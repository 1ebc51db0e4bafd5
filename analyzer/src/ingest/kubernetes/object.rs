//! What is taken from Kubernetes' objects: addresses, times, owners. Pure.
//!
//! Times are those that the kubelet told, in whole seconds, because they are the node's, whose clock stamps the packets too. The one
//! misuse: taking a pod's start time for the moment since when it has an address; it may wait for one for minutes.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod, PodStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::intervals::{Kind, Millis, Observation, Slice, Workload};
use crate::inject;

const SECOND: Millis = 1_000;
/// Where a kubelet serves unless its node says otherwise.
const KUBELET_PORT: u16 = 10_250;

/// Where the kubelet of a node serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kubelet {
    /// Name of the node.
    pub node: String,
    /// Its address inside the cluster.
    pub address: IpAddr,
    /// The kubelet's port.
    pub port: u16,
}

fn millis(time: &Time) -> Millis {
    time.0.as_millisecond()
}

fn text(text: Option<&String>) -> String {
    text.cloned().unwrap_or_default()
}

/// The owner of a pod, by the rule that the injector goes by too.
fn workload(metadata: &ObjectMeta) -> Workload {
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    // A static pod is controlled by its node.
    let Some(owner) = controller.filter(|owner| owner.kind != "Node") else {
        return Workload { kind: "Pod".to_owned(), name: text(metadata.name.as_ref()) };
    };
    let hash = metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let named = inject::workload::Workload::of_controller(&owner.kind, &owner.name, hash.map(String::as_str));
    Workload { kind: named.kind, name: named.name }
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let all = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten()
}

/// When the first container that is still known of began.
fn began(status: &PodStatus) -> Option<Millis> {
    let of = |container: &ContainerStatus| {
        let states = [&container.state, &container.last_state];
        let times = states.into_iter().flatten().flat_map(|state| {
            let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
            let terminated = state.terminated.as_ref().and_then(|terminated| terminated.started_at.as_ref());
            [running, terminated]
        });
        // 1970 stands for unknown.
        times.flatten().map(millis).filter(|time| *time > 0).min()
    };
    containers(status).filter_map(of).min()
}

/// The end of the second in which the last container ended, if all have.
fn ended(status: &PodStatus) -> Option<Millis> {
    let mut last = None;
    for container in containers(status) {
        let state = container.state.as_ref()?;
        match &state.terminated {
            Some(terminated) => last = last.max(terminated.finished_at.as_ref().map(millis).filter(|time| *time > 0)),
            // One that was never begun has nothing to end.
            None if state.waiting.is_some() && container.last_state.as_ref().is_none_or(|last| last.terminated.is_none()) => {}
            None => return None,
        }
    }
    last.map(|last| last + SECOND)
}

/// A pod. `gone`: as it was when it was deleted.
pub fn pod(pod: &Pod, gone: bool) -> Option<Observation> {
    let metadata = &pod.metadata;
    let empty = PodStatus::default();
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref().unwrap_or(&empty));
    let mut addresses = Vec::new();
    if spec.host_network != Some(true) {
        let several = status.pod_ips.iter().flatten().map(|address| &address.ip);
        addresses.extend(several.chain(&status.pod_ip).filter_map(|address| address.parse::<IpAddr>().ok()));
        addresses.sort_unstable();
        addresses.dedup();
    }
    let ready =
        status.conditions.iter().flatten().find(|condition| condition.type_ == "PodReadyToStartContainers" && condition.status == "True");
    let given = ready.and_then(|condition| condition.last_transition_time.as_ref()).map(millis);
    let over = gone || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    Some(Observation {
        kind: Kind::Pod,
        uid: metadata.uid.clone()?,
        namespace: text(metadata.namespace.as_ref()),
        name: text(metadata.name.as_ref()),
        workload: workload(metadata),
        node: text(spec.node_name.as_ref()),
        addresses,
        began: [began(status), given].into_iter().flatten().min(),
        given,
        ended: over.then(|| ended(status)),
    })
}

/// A service with its cluster addresses; a headless one has none.
pub fn service(service: &Service) -> Option<Observation> {
    let (metadata, spec) = (&service.metadata, service.spec.as_ref()?);
    let several = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let mut addresses: Vec<IpAddr> = several.filter_map(|address| address.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Some(Observation {
        kind: Kind::Service,
        uid: metadata.uid.clone()?,
        namespace: text(metadata.namespace.as_ref()),
        name: text(metadata.name.as_ref()),
        workload: Workload::default(),
        node: String::new(),
        addresses,
        began: metadata.creation_timestamp.as_ref().map(millis),
        given: None,
        ended: None,
    })
}

/// A node with its addresses.
pub fn node(node: &Node) -> Option<Observation> {
    let metadata = &node.metadata;
    let mut addresses: Vec<IpAddr> = node_addresses(node).filter_map(|(_, address)| address.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Some(Observation {
        kind: Kind::Node,
        uid: metadata.uid.clone()?,
        namespace: String::new(),
        name: text(metadata.name.as_ref()),
        workload: Workload::default(),
        node: text(metadata.name.as_ref()),
        addresses,
        began: metadata.creation_timestamp.as_ref().map(millis),
        given: None,
        ended: None,
    })
}

fn node_addresses(node: &Node) -> impl Iterator<Item = (&str, &str)> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.map(|address| (address.type_.as_str(), address.address.as_str()))
}

/// Where a node's kubelet serves.
pub fn kubelet(node: &Node) -> Option<Kubelet> {
    let of_type =
        |wanted: &str| node_addresses(node).filter(|(kind, _)| *kind == wanted).find_map(|(_, address)| address.parse::<IpAddr>().ok());
    let endpoints = node.status.as_ref().and_then(|status| status.daemon_endpoints.as_ref());
    let port = endpoints.and_then(|endpoints| endpoints.kubelet_endpoint.as_ref()).and_then(|endpoint| u16::try_from(endpoint.port).ok());
    Some(Kubelet {
        node: node.metadata.name.clone()?,
        address: of_type("InternalIP").or_else(|| of_type("ExternalIP"))?,
        port: port.filter(|port| *port > 0).unwrap_or(KUBELET_PORT),
    })
}

/// The pods that a slice puts behind its service.
pub fn slice(slice: &EndpointSlice) -> Option<Slice> {
    let metadata = &slice.metadata;
    let pods = slice.endpoints.iter().filter_map(|endpoint| endpoint.target_ref.as_ref());
    let pods = pods.filter(|target| target.kind.as_deref() == Some("Pod")).filter_map(|target| target.uid.clone());
    Some(Slice {
        uid: metadata.uid.clone()?,
        namespace: text(metadata.namespace.as_ref()),
        service: metadata.labels.as_ref()?.get("kubernetes.io/service-name")?.clone(),
        pods: pods.collect(),
    })
}

#[cfg(test)]
mod tests;
