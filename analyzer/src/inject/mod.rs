//! Puts the sidecar into pods: as an admission webhook (`inject serve`), or into manifests (`inject -`).
//!
//! The way of a pod: [`admission`] or [`manifest`] -> [`patch`] (what to do) -> [`container`] (what to add). These are pure; [`serve`]
//! has the sockets, [`certificate`] what they show. An observer must never block a deploy: whatever goes wrong, the pod is let through
//! as it is, with a warning.

pub mod admission;
pub mod certificate;
pub mod cluster;
pub mod container;
pub mod manifest;
pub mod patch;
pub mod quantity;
pub mod serve;
pub mod settings;
pub mod telemetry;
pub mod tuning;
pub mod types;
pub mod workload;
pub mod yaml;

/// The sidecar's container.
pub const CONTAINER: &str = "podtap-sidecar";
/// Label of a namespace whose new pods get a sidecar, when it is `enabled`.
pub const NAMESPACE_LABEL: &str = "podtap-injection";
/// Label of a pod, `true` or `false`; wins over the namespace's.
pub const POD_LABEL: &str = "inject.podtap.io/inject";
/// Label that an injected pod gets, to select by.
pub const INJECTED_LABEL: &str = "inject.podtap.io/injected";
/// Annotation that says what was injected.
pub const STATUS: &str = "inject.podtap.io/status";
/// What all our labels and annotations of pods begin with.
pub const PREFIX: &str = "inject.podtap.io/";
/// Volume of the sidecar's spool.
pub const SPOOL_VOLUME: &str = "podtap-spool";
/// Empty volume where a service account's token would be.
pub const NO_TOKEN_VOLUME: &str = "podtap-no-token";
/// Namespaces that never get sidecars; the injector's own is another.
pub const EXCLUDED_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Annotation that tells kubectl which container is meant when none is named.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// The older one, for `kubectl logs`.
pub const DEFAULT_LOGS_CONTAINER: &str = "kubectl.kubernetes.io/default-logs-container";
