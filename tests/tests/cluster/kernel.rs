//! eBPF where an annotation asks for it: the kernel filters for a sidecar that is not root, and its figures are those of any other. The
//! kubelet's probes are calls of the node, and can be left out.

use std::fs;
use std::net::SocketAddrV4;
use std::time::Duration;

use podtap_tests::cluster::{Cluster, HOST_IMAGE, plain_pod};
use podtap_tests::metrics::Metrics;
use podtap_tests::{Context, Failure, Result, wait};
use serde_json::json;

use crate::counts::{now, rows};
use crate::smoke::{USR_MOUNT, USR_VOLUME, select};

const NAMESPACE: &str = "kernel";
const REQUESTS: u64 = 300;
/// capabilities(7): CAP_NET_RAW and CAP_BPF.
const CAPABILITIES: u64 = 1 << 13 | 1 << 39;

pub fn ebpf(cluster: &Cluster) -> Result<()> {
    let setting = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").context("a setting of the kernel")?;
    println!("kernel.unprivileged_bpf_disabled is {} here", setting.trim());
    let probe = "      readinessProbe: { httpGet: { path: /ready, port: 80 }, periodSeconds: 1 }\n";
    let annotation = "  annotations: { inject.podtap.io/source: ebpf }\n";
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE}, labels: {{ podtap-injection: enabled }} }}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{ name: caller, namespace: {NAMESPACE} }}\nspec:\n  terminationGracePeriodSeconds: 5\n  \
         containers:\n    - {{ name: caller, {HOST_IMAGE}, command: [sleep, infinity], {USR_MOUNT} }}\n  \
         volumes:\n    {USR_VOLUME}\n---\n{}",
        plain_pod(NAMESPACE, "watched", annotation, probe)
    ))?;
    for name in ["watched", "caller"] {
        cluster.ready(NAMESPACE, name)?;
    }
    confined(cluster)?;
    let from = now(cluster)?;
    let address = cluster.field(NAMESPACE, "pod/watched", "{.status.podIP}")?;
    let script = format!("for n in $(seq {REQUESTS}); do curl -sf http://{address}/things/$n >/dev/null || exit 1; done");
    let said = cluster.exec(NAMESPACE, "caller", "caller", &["/bin/sh", "-c", &script])?;
    assert_eq!(said.code, 0, "{}", said.stderr);

    let sql = format!(
        "SELECT k8s_pod_name, source, count() FROM requests FINAL WHERE k8s_namespace_name = '{NAMESPACE}' \
         AND http_response_status_code = 200 AND startsWith(url_path, '/things/') GROUP BY ALL ORDER BY ALL"
    );
    let count = REQUESTS.to_string();
    let expected = [["caller", "pcap", &count], ["watched", "ebpf", &count]].map(|row| row.map(str::to_owned).to_vec());
    until_equal("every request is stored, by both ends' sources", cluster, &sql, &expected)?;
    let admin: SocketAddrV4 = format!("{address}:9871").parse().context("the sidecar's address")?;
    let metrics = Metrics::scrape(admin)?;
    assert_eq!(metrics.sum_where("podtap_source_info", "source", "ebpf"), 1.0, "the sidecar's source is another");
    assert_eq!(metrics.sum("podtap_packets_dropped_total"), 0.0, "packets were lost");

    // docs/schema.md: how probes are left out, by who asked and by what it says of itself.
    let period = format!("(from = '{from}', to = '2100-01-01 00:00:00')");
    let calls = format!("FROM calls{period} WHERE server_k8s_namespace_name = '{NAMESPACE}' AND server_k8s_workload_name = 'watched'");
    let of_node = rows(cluster, &format!("SELECT DISTINCT client_k8s_workload_name {calls} AND client_k8s_workload_kind = 'Node'"))?;
    assert_eq!(of_node, [["node1"]], "the kubelet's probes are calls of its node");
    let others = format!("SELECT client_k8s_workload_name, requests, seen_at_both_ends {calls} AND client_k8s_workload_kind != 'Node'");
    until_equal("calls without the kubelet's", cluster, &others, &[["caller", &count, &count].map(str::to_owned).to_vec()])?;
    let named = format!(
        "SELECT sum(count) FROM red_named{period} WHERE k8s_namespace_name = '{NAMESPACE}' AND k8s_workload_name = 'watched' \
         AND side = 'server' AND peer_kind != 'node'"
    );
    assert_eq!(select(cluster, &named)?, count, "figures without the kubelet's");
    let probes = "SELECT countIf(url_path = '/ready') > 0, countIf(url_path != '/ready') FROM requests_once \
                  WHERE k8s_pod_name = 'watched' AND side = 'server' AND startsWith(user_agent_original, 'kube-probe/')";
    assert_eq!(rows(cluster, probes)?, [["1", "0"]], "the kubelet's probes by their user agent");
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=60s"]).map(|_| ())
}

/// What the annotation asked for, as the API server has it, as the kernel has it, and as the sidecar sees it.
fn confined(cluster: &Cluster) -> Result<()> {
    let pod = cluster.get(&["-n", NAMESPACE, "pod", "watched"])?;
    let context = &pod["spec"]["initContainers"][0]["securityContext"];
    let expected = [
        ("capabilities", json!({ "drop": ["ALL"], "add": ["NET_RAW", "BPF"] })),
        ("readOnlyRootFilesystem", json!(true)),
        ("allowPrivilegeEscalation", json!(false)),
        ("runAsNonRoot", json!(true)),
        ("runAsUser", json!(65_532)),
    ];
    for (name, value) in expected {
        assert_eq!(context[name], value, "{name} of {context}");
    }
    let pid = cluster.process(NAMESPACE, "watched", "podtap-sidecar")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the sidecar's status")?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim().to_owned();
    let permitted = u64::from_str_radix(&field("CapPrm"), 16).context("the sidecar's capabilities")?;
    assert_eq!(permitted, CAPABILITIES, "permitted capabilities");
    let kernel = [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Uid", "65532\t65532\t65532\t65532")];
    kernel.iter().for_each(|(name, value)| assert_eq!(field(name), *value, "{name}"));
    let said = cluster.exec(NAMESPACE, "watched", "podtap-sidecar", &["podtap-sidecar", "doctor"])?;
    for expected in ["√ CAP_NET_RAW: effective", "√ CAP_BPF: effective", "√ source ebpf"] {
        assert!(said.stdout.contains(expected), "doctor does not say {expected:?}:\n{}{}", said.stdout, said.stderr);
    }
    Ok(())
}

fn until_equal(what: &str, cluster: &Cluster, sql: &str, expected: &[Vec<String>]) -> Result<()> {
    wait::until(what, Duration::from_secs(60), || {
        let found = rows(cluster, sql)?;
        if found == expected { Ok(Some(())) } else { Err(Failure(format!("{found:?} instead of {expected:?}"))) }
    })
}
