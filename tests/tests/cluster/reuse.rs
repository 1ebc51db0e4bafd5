//! A pod is deleted and another workload's gets its address at once: figures stay with whoever had it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use podtap_tests::cluster::{Cluster, HOST_IMAGE, NGINX, START_LIMIT};
use podtap_tests::{Context, Failure, Result, wait};

use crate::counts::{now, rows};
use crate::smoke::{USR_MOUNT, USR_VOLUME};

const NAMESPACE: &str = "reuse";
/// Requests to the first owner of the address, and to the second.
const CALLS: [(&str, u32); 2] = [("first", 60), ("second", 40)];

/// Servers without a sidecar: only their address tells who they are.
fn server(name: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {name}, namespace: {NAMESPACE} }}\nspec:\n  \
         selector: {{ matchLabels: {{ app: {name} }} }}\n  template:\n    \
         metadata: {{ labels: {{ app: {name}, inject.podtap.io/inject: \"false\" }} }}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n        - name: {name}\n          {}\n          \
         command: [/bin/sh, -c, 'printf \"%s\" \"$CONF\" >/tmp/nginx.conf && exec nginx -p /tmp -c /tmp/nginx.conf']\n          \
         env: [{{ name: CONF, value: {NGINX:?} }}]\n          readinessProbe: {{ tcpSocket: {{ port: 80 }}, periodSeconds: 1 }}\n          \
         {USR_MOUNT}\n      volumes:\n        {USR_VOLUME}\n",
        HOST_IMAGE.replace(", ", "\n          "),
    )
}

/// A pod with a sidecar, whose container waits to be told what to call.
fn caller() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE}, labels: {{ podtap-injection: enabled }} }}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{ name: caller, namespace: {NAMESPACE} }}\nspec:\n  terminationGracePeriodSeconds: 5\n  \
         containers:\n    \
         - {{ name: caller, {HOST_IMAGE}, command: [sleep, infinity], {USR_MOUNT} }}\n  volumes:\n    {USR_VOLUME}\n"
    )
}

pub fn address(cluster: &Cluster) -> Result<()> {
    cluster.apply(&caller())?;
    cluster.ready(NAMESPACE, "caller")?;
    let from = now(cluster)?;
    let mut held: Option<Ipv4Addr> = None;
    for (name, calls) in CALLS {
        if let Some(address) = held {
            give_next(cluster, address)?;
        }
        cluster.apply(&server(name))?;
        cluster.rolled_out(NAMESPACE, &format!("deployment/{name}"))?;
        let pods = cluster.pods(NAMESPACE, &format!("app={name}"))?;
        let pod = pods.first().context("the server's pod")?;
        let address: Ipv4Addr = cluster.field(NAMESPACE, &format!("pod/{pod}"), "{.status.podIP}")?.parse().context("its address")?;
        assert!(held.is_none_or(|before| before == address), "the second pod has {address}, the first had {held:?}");
        held = Some(address);
        let script = format!("for n in $(seq {calls}); do curl -sf http://{address}/{name}/$n >/dev/null || exit 1; done");
        let said = cluster.exec(NAMESPACE, "caller", "caller", &["/bin/sh", "-c", &script])?;
        assert_eq!(said.code, 0, "{}", said.stderr);
        cluster.kubectl(&["-n", NAMESPACE, "delete", &format!("deployment/{name}"), "--cascade=foreground", "--timeout=60s"])?;
    }
    let sql = format!(
        "SELECT server_k8s_workload_kind, server_k8s_workload_name, sum(requests) FROM calls(from = '{from}', to = '2100-01-01 00:00:00') \
         WHERE client_k8s_namespace_name = '{NAMESPACE}' AND network_protocol_name = 'http' GROUP BY ALL ORDER BY server_k8s_workload_name"
    );
    let expected: Vec<Vec<String>> =
        CALLS.iter().map(|(name, calls)| vec!["Deployment".to_owned(), (*name).to_owned(), calls.to_string()]).collect();
    wait::until("each has its own calls", Duration::from_secs(60), || {
        let found = rows(cluster, &sql)?;
        if found == expected { Ok(Some(())) } else { Err(Failure(format!("{found:?} instead of {expected:?}"))) }
    })?;
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=90s"]).map(|_| ())
}

/// Makes the network's plugin give out this address next: it goes on behind the one that it gave last.
fn give_next(cluster: &Cluster, address: Ipv4Addr) -> Result<()> {
    let folder = cluster.kubeconfig().parent().and_then(Path::parent).context("the cluster's folder")?.join("addresses/podtap");
    wait::until_true("the address is free", START_LIMIT, || Ok(!folder.join(address.to_string()).exists()))?;
    let before = Ipv4Addr::from(u32::from(address) - 1);
    std::fs::write(folder.join("last_reserved_ip.0"), before.to_string()).context("setting the address given last")
}
