//! Who the sidecar's pod is.

/// Who the sidecar's pod is; a text is empty where it is not known. Stamped on every record, see `record`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name configured for the sidecar; the first choice for `service_name`.
    pub service_name: String,
    /// `k8s_namespace_name`.
    pub namespace: String,
    /// `k8s_pod_name`.
    pub pod_name: String,
    /// `k8s_pod_uid`.
    pub pod_uid: String,
    /// `k8s_node_name`.
    pub node_name: String,
    /// `k8s_container_name`.
    pub container_name: String,
    /// `k8s_workload_kind`.
    pub workload_kind: String,
    /// `k8s_workload_name`.
    pub workload_name: String,
}
