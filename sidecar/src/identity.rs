//! Who this sidecar is: the pod it stands in, its sender id and the boot's id.

use std::io::Read;

use podtap_wire::proto::Resource;

use crate::record::Identity;

/// Unique and stable for a sidecar: the pod's UID, else the host name with the number of the network namespace.
pub fn sender_id(identity: &Identity) -> String {
    if !identity.pod_uid.is_empty() {
        return identity.pod_uid.clone();
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // "net:[4026531840]": several sidecars of one host differ by the namespace that they watch.
    let namespace = std::fs::read_link("/proc/self/ns/net").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
    let inode: String = namespace.chars().filter(char::is_ascii_digit).collect();
    if inode.is_empty() { host } else { format!("{host}-{inode}") }
}

/// 16 random bytes, new at each start.
pub fn boot_id() -> std::io::Result<[u8; 16]> {
    let mut id = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(id)
}

/// The identity as batches carry it.
pub fn resource(identity: &Identity) -> Resource {
    Resource {
        k8s_namespace_name: identity.namespace.clone(),
        k8s_pod_name: identity.pod_name.clone(),
        k8s_pod_uid: identity.pod_uid.clone(),
        k8s_node_name: identity.node_name.clone(),
        k8s_workload_kind: identity.workload_kind.clone(),
        k8s_workload_name: identity.workload_name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_its_uid_and_a_host_has_its_namespace() {
        let pod = Identity { pod_uid: "u-1".to_owned(), ..Identity::default() };
        assert_eq!(sender_id(&pod), "u-1");
        assert!(sender_id(&Identity::default()).ends_with(|c: char| c.is_ascii_digit()));
        assert_ne!(boot_id().unwrap(), boot_id().unwrap());
    }
}
