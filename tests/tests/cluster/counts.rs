//! The application, injected when it is rolled out anew: what SQL answers about it equals what was sent.

use std::collections::BTreeMap;
use std::time::Duration;

use podtap_tests::cluster::{Cluster, START_LIMIT};
use podtap_tests::load::Until;
use podtap_tests::load::http::HttpLoad;
use podtap_tests::{Context, Failure, Result, wait};

use crate::smoke::select;
use crate::{application, smoke};

/// The application's namespace.
pub const NAMESPACE: &str = "shop";
const REQUESTS: u64 = 4_000;
const RATE: u32 = 150;
/// From the last answer to figures that are complete.
const COMPLETE_WITHIN: Duration = Duration::from_secs(60);

/// Whether a pod has the sidecar, as its first init container.
pub fn is_injected(cluster: &Cluster, namespace: &str, pod: &str) -> Result<bool> {
    Ok(cluster.field(namespace, &format!("pod/{pod}"), "{.spec.initContainers[0].name}")? == "podtap-sidecar")
}

/// Rows of tab-separated columns.
pub fn rows(cluster: &Cluster, sql: &str) -> Result<Vec<Vec<String>>> {
    Ok(select(cluster, sql)?.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

fn number(cluster: &Cluster, sql: &str) -> Result<u64> {
    select(cluster, sql)?.parse().context(format!("a number as the answer to {sql}"))
}

/// Now, as the tables' times are written.
pub fn now(cluster: &Cluster) -> Result<String> {
    select(cluster, "SELECT toString(now('UTC'))")
}

/// Label, roll out, load, ask.
pub fn exact(cluster: &Cluster) -> Result<()> {
    cluster.install_injector()?;
    cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE} }}\n"))?;
    application::start(cluster, NAMESPACE)?;
    for pod in cluster.pods(NAMESPACE, "app")? {
        assert!(!is_injected(cluster, NAMESPACE, &pod)?, "{pod} has a sidecar, and nobody asked for it");
    }
    cluster.kubectl(&["label", "namespace", NAMESPACE, "podtap-injection=enabled"])?;
    // One after the other, as the application needs them.
    for part in application::PARTS {
        cluster.kubectl(&["-n", NAMESPACE, "rollout", "restart", &format!("deployment/{part}")])?;
        cluster.rolled_out(NAMESPACE, &format!("deployment/{part}"))?;
    }
    wait::until_true("the pods without a sidecar are gone", START_LIMIT, || {
        Ok(cluster.pods(NAMESPACE, "app")?.len() == application::PARTS.len())
    })?;
    for pod in cluster.pods(NAMESPACE, "app")? {
        assert!(is_injected(cluster, NAMESPACE, &pod)?, "{pod} has no sidecar:\n{}", cluster.state(NAMESPACE));
    }
    application::answers(cluster, NAMESPACE)?;
    // Figures are kept in rows of ten seconds, so a period that is to be exact begins with one of them.
    let from = select(cluster, "SELECT toString(toStartOfInterval(now('UTC') + 10, INTERVAL 10 SECOND))")?;
    wait::until_true("the next ten seconds", Duration::from_secs(15), || Ok(now(cluster)? >= from))?;
    let load = HttpLoad {
        target: cluster.service(NAMESPACE, "front", 80)?,
        connections: 8,
        rate: RATE,
        routes: application::routes(),
        until: Until::Count(REQUESTS),
    };
    let report = load.start().finish()?;
    assert_eq!(report.total(), REQUESTS);
    let end = select(cluster, "SELECT toString(toStartOfInterval(now('UTC') + 10, INTERVAL 10 SECOND))")?;
    let to = "toDateTime('2100-01-01 00:00:00', 'UTC')";
    let period = format!("(from = '{from}', to = '2100-01-01 00:00:00')");

    // Rates, errors and latencies by workload, both ends' sidecars counted once.
    let failed: u64 = report.counts.iter().filter(|((_, status), _)| status.starts_with('5')).map(|(_, count)| count).sum();
    let sql = format!(
        "SELECT requests, errors, p50_ns > 0 AND p99_ns >= p50_ns FROM workloads{period} WHERE k8s_namespace_name = '{NAMESPACE}' \
         AND k8s_workload_kind = 'Deployment' AND k8s_workload_name = 'front' AND network_protocol_name = 'http'"
    );
    let expected = vec![vec![REQUESTS.to_string(), failed.to_string(), "1".to_owned()]];
    wait::until("the front's figures are complete", COMPLETE_WITHIN, || {
        let found = rows(cluster, &sql)?;
        if found == expected { Ok(Some(())) } else { Err(Failure(format!("{found:?} instead of {expected:?}"))) }
    })?;
    // Of the same requests none took longer within the pod than the generator waited for it; buckets are off by at most one percent.
    let sql = format!(
        "SELECT p50_ns, p99_ns, round(requests_per_second * dateDiff('second', toDateTime('{from}', 'UTC'), toDateTime('{end}', 'UTC'))) \
         FROM workloads(from = '{from}', to = '{end}') WHERE k8s_namespace_name = '{NAMESPACE}' AND k8s_workload_name = 'front'"
    );
    let found = rows(cluster, &sql)?;
    let [p50, p99, in_all] = found.first().context("the front's latencies")?.as_slice() else {
        return Err(Failure(format!("{found:?} for {sql}")));
    };
    assert_eq!(*in_all, REQUESTS.to_string(), "the rate of {from} to {end}");
    for (latency, share) in [(p50, 0.5), (p99, 0.99)] {
        let (within, waited) = (latency.parse::<u64>().context("a latency")?, report.quantile(share));
        assert!(within as f64 <= waited as f64 * 1.01, "{within} ns within the pod, {waited} ns at the generator for {share}");
    }
    by_endpoint(cluster, &from, to, &report.counts)?;
    attributed(cluster, &period, &report.counts)
}

/// Each endpoint and status of the front, as the generator counted them.
fn by_endpoint(cluster: &Cluster, from: &str, to: &str, counts: &BTreeMap<(String, String), u64>) -> Result<()> {
    let found = rows(
        cluster,
        &format!(
            "SELECT concat(http_request_method, ' ', url_template) AS endpoint, toString(http_response_status_code) AS code, count() \
             FROM requests FINAL WHERE side = 'server' AND k8s_namespace_name = '{NAMESPACE}' AND k8s_workload_name = 'front' \
             AND timestamp >= toDateTime('{from}', 'UTC') AND timestamp < {to} GROUP BY endpoint, code ORDER BY endpoint, code"
        ),
    )?;
    let expected: Vec<Vec<String>> =
        counts.iter().map(|((endpoint, code), n)| vec![endpoint.clone(), code.clone(), n.to_string()]).collect();
    assert_eq!(found, expected, "by endpoint");
    Ok(())
}

/// A call through a Service's address is the Deployment's behind it, and both ends' records of it are one exchange.
fn attributed(cluster: &Cluster, period: &str, counts: &BTreeMap<(String, String), u64>) -> Result<()> {
    let through: u64 = counts.iter().filter(|((endpoint, _), _)| !endpoint.contains("/products/")).map(|(_, count)| count).sum();
    let calls = rows(
        cluster,
        &format!(
            "SELECT client_k8s_workload_name, server_k8s_workload_name, arrayStringConcat(called_services), sum(requests) \
             FROM calls{period} WHERE client_k8s_namespace_name = '{NAMESPACE}' AND client_k8s_workload_name = 'front' GROUP BY ALL"
        ),
    )?;
    let expected = ["front", "back", &format!("{NAMESPACE}/back"), &through.to_string()].map(str::to_owned);
    assert_eq!(calls, [expected.to_vec()], "the front's calls");
    let served = format!(
        "SELECT requests FROM workloads{period} WHERE k8s_namespace_name = '{NAMESPACE}' AND k8s_workload_name = 'back' \
         AND network_protocol_name = 'http'"
    );
    assert_eq!(number(cluster, &served)?, through, "what the Deployment behind the Service served");
    let called = format!("FROM exchanges{period} WHERE server_k8s_namespace_name = '{NAMESPACE}'");
    let down =
        number(cluster, &format!("SELECT count() {called} AND client_k8s_workload_name = 'back' AND server_k8s_workload_name = 'db'"))?;
    assert!(down >= through, "{down} statements for {through} requests");
    let ends = "client_k8s_workload_name IN ('front', 'back')";
    let all = number(cluster, &format!("SELECT count() {called} AND {ends}"))?;
    let joined = number(cluster, &format!("SELECT count() {called} AND {ends} AND seen = 'both'"))?;
    println!("{joined} of {all} exchanges were seen at both ends and joined");
    assert!(joined as f64 > 0.999 * all as f64, "only {joined} of {all} exchanges are joined");
    // Whoever is no pod has no sidecar: the load's own requests were seen at one end.
    let outside = number(cluster, &format!("SELECT count() {called} AND server_k8s_workload_name = 'front' AND seen != 'server'"))?;
    assert_eq!(outside, 0, "requests from outside seen at another end");
    Ok(())
}

/// What the kubelet says about the containers, by workload.
pub fn usage(cluster: &Cluster) -> Result<()> {
    let workloads = |which: &str| {
        format!(
            "SELECT count() FROM (SELECT k8s_workload_name FROM container_usage(from = now() - 600, to = now()) \
             WHERE k8s_namespace_name = '{NAMESPACE}' AND k8s_workload_kind = 'Deployment' AND {which} GROUP BY k8s_workload_name)"
        )
    };
    let containers = workloads("k8s_container_name = 'podtap-sidecar' AND memory_working_set_bytes > 0 AND cpu_cores > 0");
    // The network is the pod's, not a container's.
    let network = workloads("k8s_container_name = '' AND network_receive_bytes_per_second > 0 AND network_transmit_packets_per_second > 0");
    for (what, sql) in [("the sidecars' containers", containers), ("the pods' networks", network)] {
        wait::until_true(&format!("figures of {what}"), Duration::from_secs(90), || {
            Ok(number(cluster, &sql)? == application::PARTS.len() as u64)
        })?;
    }
    Ok(())
}

/// Ends what the parts before have started; the analyzer stays.
pub fn stop(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=120s"])?;
    smoke::alive(cluster)
}
