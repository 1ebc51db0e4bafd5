//! Jobs end, Pod Security is respected, and deploys go through whatever becomes of the injector.

use std::time::{Duration, Instant};

use podtap_tests::cluster::{Cluster, HOST_IMAGE, START_LIMIT};
use podtap_tests::{Context, Failure, Result, wait};

use crate::counts::is_injected;
use crate::smoke::{USR_MOUNT, USR_VOLUME};

/// How soon pods get sidecars again once the injector is back.
const BACK_WITHIN: Duration = Duration::from_secs(60);

fn namespace(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name}, labels: {{ podtap-injection: enabled{labels} }} }}\n---\n")
}

/// What `restricted` asks of a pod; the application's own business.
const CONFINED: &str = "securityContext: { runAsUser: 1000, runAsNonRoot: true, allowPrivilegeEscalation: false, \
    capabilities: { drop: [ALL] }, seccompProfile: { type: RuntimeDefault } }";

/// The image that holds namespaces sleeps by itself: a pod that needs nothing of the machine.
fn sleeper(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  \
         selector: {{ matchLabels: {{ app: {name} }} }}\n  template:\n    metadata: {{ labels: {{ app: {name} }} }}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n        \
         - {{ name: sleeper, image: \"docker.io/podtap/pause:1\", imagePullPolicy: Never, {CONFINED} }}\n"
    )
}

/// A Job of a labelled namespace has the sidecar, and completes.
pub fn job(cluster: &Cluster) -> Result<()> {
    let job = format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{ name: once, namespace: jobs }}\nspec:\n  backoffLimit: 0\n  \
         template:\n    spec:\n      \
         restartPolicy: Never\n      containers:\n        - {{ name: once, {HOST_IMAGE}, command: [sleep, \"2\"], {USR_MOUNT} }}\n      \
         volumes:\n        {USR_VOLUME}\n"
    );
    cluster.apply(&format!("{}{job}", namespace("jobs", "")))?;
    let waited = cluster.kubectl(&["-n", "jobs", "wait", "--for=condition=Complete", "job/once", "--timeout=80s"]);
    waited.map_err(|failure| Failure(format!("{failure}\n{}", cluster.state("jobs"))))?;
    let pods = cluster.pods("jobs", "job-name=once")?;
    let pod = pods.first().context("the Job's pod")?;
    assert!(is_injected(cluster, "jobs", pod)?, "the Job's pod had no sidecar");
    cluster.kubectl(&["delete", "namespace", "jobs", "--timeout=60s"]).map(|_| ())
}

/// Where Pod Security forbids what the sidecar needs, pods start without it, and kubectl shows why.
pub fn pod_security(cluster: &Cluster) -> Result<()> {
    for level in ["baseline", "restricted"] {
        let name = format!("security-{level}");
        cluster.apply(&namespace(&name, &format!(", pod-security.kubernetes.io/enforce: {level}")))?;
        let of_deployment = cluster.apply(&sleeper(&name, "sleeper"))?;
        cluster.rolled_out(&name, "deployment/sleeper")?;
        let pods = cluster.pods(&name, "app=sleeper")?;
        assert!(!is_injected(cluster, &name, pods.first().context("a pod")?)?);
        let of_pod = cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: alone, namespace: {name} }}\nspec:\n  containers:\n    \
             - {{ name: sleeper, image: \"docker.io/podtap/pause:1\", imagePullPolicy: Never, {CONFINED} }}\n"
        ))?;
        for said in [of_deployment, of_pod] {
            assert!(said.stderr.contains("Warning") && said.stderr.contains(&name), "kubectl does not show why: {}", said.stderr);
        }
        cluster.kubectl(&["delete", "namespace", &name, "--timeout=60s"])?;
    }
    Ok(())
}

/// Without the injector pods start as they are; with it again they get sidecars.
pub fn outage(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["-n", "podtap", "scale", "deployment/podtap-injector", "--replicas=0"])?;
    wait::until_true("the injector is gone", START_LIMIT, || {
        Ok(cluster.pods("podtap", "app.kubernetes.io/name=podtap-injector")?.is_empty())
    })?;
    cluster.apply(&format!("{}{}", namespace("outage", ""), sleeper("outage", "without")))?;
    cluster.rolled_out("outage", "deployment/without")?;
    let pods = cluster.pods("outage", "app=without")?;
    assert!(!is_injected(cluster, "outage", pods.first().context("a pod")?)?, "injected by nobody");
    cluster.kubectl(&["-n", "podtap", "scale", "deployment/podtap-injector", "--replicas=1"])?;
    let returned = Instant::now();
    let mut attempt = 0;
    wait::until_true("pods are injected again", BACK_WITHIN, || {
        attempt += 1;
        let name = format!("with-{attempt}");
        cluster.apply(&sleeper("outage", &name))?;
        let pods = wait::until("its pod", Duration::from_secs(10), || {
            Ok(Some(cluster.pods("outage", &format!("app={name}"))?).filter(|pods| !pods.is_empty()))
        })?;
        is_injected(cluster, "outage", &pods[0])
    })?;
    println!("injected again {:.1} s after the injector was wanted back", returned.elapsed().as_secs_f64());
    cluster.kubectl(&["delete", "namespace", "outage", "--timeout=60s"]).map(|_| ())
}
