//! What the injector asks of the API server, and the few things that it writes there.
//!
//! Guarantee: each request has a limit of time. Rights: get namespaces; get and update its Secret; get and patch its
//! MutatingWebhookConfiguration.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace as ApiNamespace, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;

use super::certificate::Bundle;
use super::patch::Namespace;
use super::settings::{Access, ServeConfig};

/// Longest wait for an answer; the API server waits 5 s for us, and a namespace is asked for meanwhile.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);
/// The first version whose pods end their sidecars themselves.
const NATIVE_SIDECARS_SINCE: (u32, u32) = (1, 29);

/// Why the API server did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A kubeconfig or service account cannot be used.
    #[error("{0}")]
    Access(String),
    /// It refused, or could not be reached.
    #[error("{action}: {source}")]
    Refused { action: String, source: Box<kube::Error> },
    /// It did not answer.
    #[error("{action}: no answer within {REQUEST_LIMIT:?}")]
    Silent { action: String },
    /// Something is not there that the manifests have.
    #[error("{what} {name:?} is missing: apply k8s/injector.yaml")]
    Missing { what: &'static str, name: String },
    /// Its version is no version.
    #[error("the API server's version {0:?} is none")]
    Version(String),
}

impl ClusterError {
    /// Whether somebody else wrote at the same time.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 409))
    }
}

/// The API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    secret: String,
    webhook_configuration: String,
}

async fn limited<T>(action: String, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ClusterError> {
    match tokio::time::timeout(REQUEST_LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(ClusterError::Refused { action, source: Box::new(source) }),
        Err(_) => Err(ClusterError::Silent { action }),
    }
}

/// How to connect with the service account of this pod.
pub fn by_service_account() -> Result<kube::Config, String> {
    kube::Config::incluster().map_err(|error| format!("service account: {error}"))
}

/// How to connect with a kubeconfig file and its current context.
pub async fn by_kubeconfig(path: &Path) -> Result<kube::Config, String> {
    let file = Kubeconfig::read_from(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    config.map_err(|error| format!("{}: {error}", path.display()))
}

async fn client_config(access: &Access) -> Result<kube::Config, ClusterError> {
    let config = match access {
        Access::File(path) => by_kubeconfig(path).await,
        Access::InCluster => by_service_account(),
        Access::Auto => kube::Config::infer().await.map_err(|error| error.to_string()),
    };
    config.map_err(ClusterError::Access)
}

impl Cluster {
    /// Prepares requests; nothing is asked yet.
    pub async fn new(config: &ServeConfig) -> Result<Self, ClusterError> {
        let client = Client::try_from(client_config(&config.access).await?).map_err(|error| ClusterError::Access(error.to_string()))?;
        Ok(Self {
            client,
            namespace: config.namespace.clone(),
            secret: config.certificate_secret.clone(),
            webhook_configuration: config.webhook_configuration.clone(),
        })
    }

    /// Whether sidecars can be init containers that restart always.
    pub async fn has_native_sidecars(&self) -> Result<bool, ClusterError> {
        let version = limited("get the server's version".to_owned(), self.client.apiserver_version()).await?;
        // Vendors write a minor version as "29+".
        let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
        match (number(&version.major), number(&version.minor)) {
            (Some(major), Some(minor)) => Ok((major, minor) >= NATIVE_SIDECARS_SINCE),
            _ => Err(ClusterError::Version(version.git_version)),
        }
    }

    /// A namespace's labels.
    pub async fn namespace(&self, name: &str) -> Result<Namespace, ClusterError> {
        let api: Api<ApiNamespace> = Api::all(self.client.clone());
        let found = limited(format!("get namespace {name:?}"), api.get(name)).await?;
        Ok(Namespace { name: name.to_owned(), labels: found.metadata.labels.unwrap_or_default() })
    }

    /// The Secret, if there is one, and what it holds, if it is all there.
    pub async fn secret(&self) -> Result<(Option<Secret>, Option<Bundle>), ClusterError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = limited(format!("get secret {:?}", self.secret), api.get_opt(&self.secret)).await?;
        let data = found.as_ref().and_then(|secret| secret.data.as_ref());
        let data: Option<BTreeMap<String, Vec<u8>>> =
            data.map(|data| data.iter().map(|(key, bytes)| (key.clone(), bytes.0.clone())).collect());
        let bundle = data.as_ref().and_then(Bundle::from_data);
        Ok((found, bundle))
    }

    /// Writes the Secret, unless somebody did since it was read.
    pub async fn write_secret(&self, read: Option<Secret>, bundle: &Bundle) -> Result<(), ClusterError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let data = bundle.to_data().into_iter().map(|(key, bytes)| (key, ByteString(bytes))).collect();
        let exists = read.is_some();
        let mut secret = read.unwrap_or_default();
        secret.metadata.name = Some(self.secret.clone());
        secret.data = Some(data);
        if exists {
            // Its resource version goes with it: a write in between is a conflict.
            limited(format!("update secret {:?}", self.secret), api.replace(&self.secret, &PostParams::default(), &secret)).await?;
        } else {
            limited(format!("create secret {:?}", self.secret), api.create(&PostParams::default(), &secret)).await?;
        }
        Ok(())
    }

    /// Makes the API server believe the authorities; says whether it did not before.
    pub async fn believe(&self, authorities: &str) -> Result<bool, ClusterError> {
        let name = &self.webhook_configuration;
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let found = limited(format!("get mutatingwebhookconfiguration {name:?}"), api.get_opt(name)).await?;
        let found = found.ok_or_else(|| ClusterError::Missing { what: "mutatingwebhookconfiguration", name: name.clone() })?;
        let wrong = |bundle: Option<&ByteString>| bundle.is_none_or(|bundle| bundle.0 != authorities.as_bytes());
        let webhooks: Vec<_> = found.webhooks.iter().flatten().filter(|webhook| wrong(webhook.client_config.ca_bundle.as_ref())).collect();
        if webhooks.is_empty() {
            return Ok(false);
        }
        let bundle = ByteString(authorities.as_bytes().to_vec());
        // Webhooks are merged by their names.
        let webhooks: Vec<_> = webhooks.iter().map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
        let patch = json!({"webhooks": webhooks});
        let action = format!("patch mutatingwebhookconfiguration {name:?}");
        limited(action, api.patch(name, &PatchParams::default(), &Patch::Strategic(&patch))).await?;
        Ok(true)
    }
}
