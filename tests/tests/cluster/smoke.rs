//! The least that has to work: the manifests of `k8s/`, the name server, one sidecar.

use std::net::SocketAddrV4;
use std::time::Duration;

use podtap_tests::cluster::{Cluster, HOST_IMAGE, START_LIMIT, manifest, pod_with_sidecar};
use podtap_tests::run::program;
use podtap_tests::{Context, Failure, Result, http, wait};

/// Requests to the pod with a sidecar; the last ones right before its end.
const REQUESTS: u64 = 500;

/// What SQL answers about, over the Service in front of the analyzer's pod.
pub fn select(cluster: &Cluster, sql: &str) -> Result<String> {
    let clickhouse = cluster.service("podtap", "podtap-analyzer", 8123)?;
    let answer = http::request(clickhouse, "POST", "/?database=podtap", &[], sql)?;
    if answer.status == 200 { Ok(answer.body.trim().to_owned()) } else { Err(Failure(format!("{sql}: {}", answer.body.trim()))) }
}

/// k8s/analyzer.yaml, as anybody would apply it.
pub fn analyzer(cluster: &Cluster) -> Result<()> {
    let nodes = cluster.kubectl(&["get", "nodes"])?;
    assert!(nodes.contains(" Ready "), "{nodes}");
    cluster.apply(&manifest("analyzer.yaml")?)?;
    cluster.rolled_out("podtap", "statefulset/podtap-analyzer")?;
    let api = cluster.service("podtap", "podtap-analyzer", 9880)?;
    wait::until("the analyzer is ready", START_LIMIT, || {
        let answer = http::get(api, "/readyz?verbose")?;
        if answer.status == 200 { Ok(Some(())) } else { Err(Failure(answer.body)) }
    })?;
    assert_eq!(select(cluster, "SELECT count() FROM requests")?, "0");
    Ok(())
}

/// The analyzer answers, and loses nothing that sidecars have sent.
pub fn alive(cluster: &Cluster) -> Result<()> {
    let found = select(cluster, "SELECT count() > 0, sum(missing) FROM sender_sequences")?;
    assert_eq!(found, "1\t0", "whether anything arrived, and batches that were sent and did not");
    Ok(())
}

/// A pod asks for the analyzer by the name that people write.
pub fn name_server(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: asks, namespace: default }}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - {{ name: asks, {HOST_IMAGE}, command: [getent, ahostsv4, podtap-analyzer.podtap], {USR_MOUNT} }}\n  volumes:\n  {USR_VOLUME}\n"
    ))?;
    let ended = "jsonpath={.status.phase}=Succeeded";
    let waited = cluster.kubectl(&["wait", "--for", ended, "pod/asks", "--timeout=60s"]);
    waited.map_err(|failure| Failure(format!("{failure}\n{}", cluster.state("default"))))?;
    let said = cluster.kubectl(&["logs", "asks"])?;
    let address = cluster.field("podtap", "service/podtap-analyzer", "{.spec.clusterIP}")?;
    assert!(said.split_whitespace().next() == Some(&address), "the Service has {address}, the pod was told: {said}");
    cluster.kubectl(&["delete", "pod", "asks", "--now"]).map(|_| ())
}

pub const USR_MOUNT: &str = "volumeMounts: [{ name: usr, mountPath: /usr, readOnly: true }]";
pub const USR_VOLUME: &str = "- { name: usr, hostPath: { path: /usr } }";

/// k8s/pod-with-sidecar.yaml, with this machine's nginx in place of an image that would have to be fetched.
pub fn sidecar(cluster: &Cluster) -> Result<()> {
    program("nginx", "nginx-light")?;
    cluster.apply(&pod_with_sidecar()?)?;
    cluster.ready("default", "shop")?;
    examine(cluster)?;

    let address: SocketAddrV4 =
        format!("{}:80", cluster.field("default", "pod/shop", "{.status.podIP}")?).parse().context("the pod's address")?;
    for number in 0..REQUESTS {
        let answer = http::get(address, &format!("/things/{number}"))?;
        assert_eq!((answer.status, answer.body.as_str()), (200, "here\n"));
    }
    // At once: what the sidecar has not sent yet, it sends on its way out.
    cluster.kubectl(&["delete", "pod", "shop", "--timeout=60s"])?;
    let counted = "SELECT count() FROM requests FINAL WHERE k8s_pod_name = 'shop' AND http_response_status_code = 200";
    wait::until("every request is stored", Duration::from_secs(60), || {
        let count: u64 = select(cluster, counted)?.parse().context("a count")?;
        if count == REQUESTS { Ok(Some(())) } else { Err(Failure(format!("{count} of {REQUESTS}"))) }
    })?;
    let by = select(
        cluster,
        "SELECT DISTINCT service_name, k8s_namespace_name, k8s_node_name, source FROM requests FINAL WHERE k8s_pod_name = 'shop'",
    )?;
    assert_eq!(by, "shop\tdefault\tnode1\tpcap");
    Ok(())
}

/// What the sidecar says of itself in the pod.
fn examine(cluster: &Cluster) -> Result<()> {
    let said = cluster.exec("default", "shop", "podtap-sidecar", &["podtap-sidecar", "doctor"])?;
    for expected in ["√ no_new_privs: set", "√ file capability: cap_net_raw,cap_bpf permitted", "√ CAP_NET_RAW: effective", "√ source pcap"]
    {
        assert!(said.stdout.contains(expected), "doctor does not say {expected:?}:\n{}{}", said.stdout, said.stderr);
    }
    assert!(said.stdout.contains("CAP_BPF: missing: not in the bounding set"), "{}", said.stdout);
    let shell = cluster.exec("default", "shop", "podtap-sidecar", &["sh", "-c", "true"])?;
    assert_ne!(shell.code, 0, "there is a shell in the sidecar's image");
    Ok(())
}
