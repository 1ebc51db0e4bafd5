//! A kubelet's `/metrics/cadvisor` as one sample for each container, each pod's network, and the node. Pure.
//!
//! cAdvisor gives every cgroup a row by its `id`; what Kubernetes knows of it is in `namespace`, `pod` and `container`. With containerd
//! a pod's network is on the row of its sandbox (no container, but a name), while its own cgroup (no name) sums up its containers: it is
//! left out, else everything would be there twice. The one misuse: differences of two samples with another `container_id` or start:
//! that is a restart.

use std::collections::BTreeMap;

use super::text::{self, Sample};
use crate::ingest::kubernetes::intervals::Workload;

/// Rows of one node that are kept: ten times of what a node runs.
pub const MAX_ROWS: usize = 4_096;

/// Counters of a pod's interfaces together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Bytes received.
    pub receive_bytes: u64,
    /// Bytes sent.
    pub transmit_bytes: u64,
    /// Packets received.
    pub receive_packets: u64,
    /// Packets sent.
    pub transmit_packets: u64,
    /// Errors of receiving.
    pub receive_errors: u64,
    /// Errors of sending.
    pub transmit_errors: u64,
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSample {
    /// When cAdvisor took it, milliseconds since the epoch.
    pub time_ms: i64,
    /// Node.
    pub node: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Its owner; whoever knows fills it in.
    pub workload: Workload,
    /// Name of the pod; empty in the node's row.
    pub pod: String,
    /// UID of the pod, from its cgroup.
    pub pod_uid: String,
    /// Container; empty in the row of a pod's network.
    pub container: String,
    /// Id of the container or sandbox.
    pub container_id: String,
    /// When it started, seconds since the epoch.
    pub start_time_seconds: f64,
    /// CPU time.
    pub cpu_usage_seconds: f64,
    /// Time it was throttled.
    pub cpu_throttled_seconds: f64,
    /// Limit in cores; of the node its cores.
    pub cpu_limit_cores: f64,
    /// Working set.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory.
    pub memory_rss_bytes: u64,
    /// Limit; of the node its memory.
    pub memory_limit_bytes: u64,
    /// Of a pod's row.
    pub network: Network,
    /// Written to disk.
    pub fs_usage_bytes: u64,
}

/// What a text held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// The rows.
    pub samples: Vec<ContainerSample>,
    /// Lines that are no sample and should be one.
    pub malformed: u64,
    /// Rows beyond [`MAX_ROWS`].
    pub overflowed: u64,
}

#[derive(Default)]
struct Cgroup {
    sample: ContainerSample,
    name: String,
    quota: f64,
    period: f64,
    has_network: bool,
}

/// Reads the text of a node. `now_ms` stands in for times that it does not tell.
pub fn read(text: &str, node: &str, now_ms: i64) -> Read {
    let mut read = Read::default();
    let mut cgroups: BTreeMap<String, Cgroup> = BTreeMap::new();
    let (mut cores, mut memory) = (0.0, 0.0);
    for line in text.lines() {
        let sample = match text::parse(line) {
            Ok(Some(sample)) => sample,
            Ok(None) => continue,
            Err(text::Malformed) => {
                read.malformed += 1;
                continue;
            }
        };
        match sample.name {
            "machine_cpu_cores" => cores = sample.value,
            "machine_memory_bytes" => memory = sample.value,
            name if name.starts_with("container_") => {
                let id = sample.label("id");
                if !cgroups.contains_key(id) && cgroups.len() >= MAX_ROWS {
                    read.overflowed += 1;
                    continue;
                }
                let cgroup = cgroups.entry(id.to_owned()).or_default();
                take(cgroup, &sample);
            }
            _ => {}
        }
    }
    for (id, mut cgroup) in cgroups {
        let sample = &mut cgroup.sample;
        let pods = !sample.pod.is_empty();
        let container = pods && !sample.container.is_empty() && sample.container != "POD";
        let sandbox = pods && !container && cgroup.has_network && !cgroup.name.is_empty();
        if sample.time_ms == 0 {
            sample.time_ms = now_ms;
        }
        node.clone_into(&mut sample.node);
        sample.pod_uid = pod_uid(&id).unwrap_or_default();
        sample.container_id = if cgroup.name.is_empty() { id.rsplit('/').next().unwrap_or_default().to_owned() } else { cgroup.name };
        if container {
            sample.network = Network::default();
            if cgroup.quota > 0.0 && cgroup.period > 0.0 {
                sample.cpu_limit_cores = cgroup.quota / cgroup.period;
            }
        } else if sandbox {
            // Only its network: the sandbox's own process does nothing.
            let own = std::mem::take(sample);
            *sample = ContainerSample {
                container: String::new(),
                cpu_usage_seconds: 0.0,
                cpu_throttled_seconds: 0.0,
                memory_working_set_bytes: 0,
                memory_rss_bytes: 0,
                memory_limit_bytes: 0,
                fs_usage_bytes: 0,
                ..own
            };
        } else if id == "/" {
            // All interfaces of the host together would count what is bridged several times.
            sample.network = Network::default();
            sample.fs_usage_bytes = 0;
            (sample.cpu_limit_cores, sample.memory_limit_bytes) = (cores, whole(memory));
            sample.container_id = "/".to_owned();
        } else {
            continue;
        }
        read.samples.push(cgroup.sample);
    }
    read
}

/// A count as a float is exact up to 2^53; what is negative or no number is none.
fn whole(value: f64) -> u64 {
    value as u64
}

fn take(cgroup: &mut Cgroup, sample: &Sample<'_>) {
    let Cgroup { sample: row, name, quota, period, has_network } = cgroup;
    let value = sample.value;
    for (target, label) in [(&mut row.namespace, "namespace"), (&mut row.pod, "pod"), (&mut row.container, "container"), (name, "name")] {
        if target.is_empty() {
            sample.label(label).clone_into(target);
        }
    }
    let network = &mut row.network;
    let counter = match sample.name {
        "container_cpu_usage_seconds_total" => {
            // One row for each CPU, or one for all.
            row.cpu_usage_seconds += value;
            row.time_ms = sample.timestamp_ms.unwrap_or(row.time_ms);
            return;
        }
        "container_cpu_cfs_throttled_seconds_total" => return row.cpu_throttled_seconds = value,
        "container_start_time_seconds" => return row.start_time_seconds = value,
        "container_spec_cpu_quota" => return *quota = value,
        "container_spec_cpu_period" => return *period = value,
        "container_memory_working_set_bytes" => return row.memory_working_set_bytes = whole(value),
        "container_memory_rss" => return row.memory_rss_bytes = whole(value),
        "container_spec_memory_limit_bytes" => return row.memory_limit_bytes = whole(value),
        "container_fs_usage_bytes" => return row.fs_usage_bytes = row.fs_usage_bytes.saturating_add(whole(value)),
        "container_network_receive_bytes_total" => &mut network.receive_bytes,
        "container_network_transmit_bytes_total" => &mut network.transmit_bytes,
        "container_network_receive_packets_total" => &mut network.receive_packets,
        "container_network_transmit_packets_total" => &mut network.transmit_packets,
        "container_network_receive_errors_total" => &mut network.receive_errors,
        "container_network_transmit_errors_total" => &mut network.transmit_errors,
        _ => return,
    };
    if sample.label("interface") != "lo" {
        *has_network = true;
        *counter = counter.saturating_add(whole(value));
        if row.time_ms == 0 {
            row.time_ms = sample.timestamp_ms.unwrap_or(0);
        }
    }
}

/// The UID of the pod whose cgroup is on the way to this one: `pod<uid>`, or `kubepods-...-pod<uid>.slice` with underscores from systemd.
fn pod_uid(id: &str) -> Option<String> {
    id.split('/').find_map(|part| {
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let uid = part
            .strip_prefix("pod")
            .or_else(|| part.strip_prefix("kubepods").and_then(|rest| rest.split_once("-pod")).map(|(_, uid)| uid))?;
        (!uid.is_empty()).then(|| uid.replace('_', "-"))
    })
}

#[cfg(test)]
mod tests;
