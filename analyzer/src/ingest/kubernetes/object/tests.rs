//! Objects in the form in which the API server gives them.

use super::*;

fn at(text: &str) -> Millis {
    text.parse::<k8s_openapi::jiff::Timestamp>().unwrap().as_millisecond()
}

fn parse<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
    serde_saphyr::from_str(yaml).unwrap()
}

const RUNNING: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: back-6c9f7c4b8d-x2x7k
  namespace: shop
  uid: 8a2e0c86-5b0c-4c7c-8a55-0f9f6f0b3c11
  labels: { app: back, pod-template-hash: 6c9f7c4b8d }
  ownerReferences:
    - { apiVersion: apps/v1, kind: ReplicaSet, name: back-6c9f7c4b8d, uid: u, controller: true, blockOwnerDeletion: true }
spec:
  nodeName: node1
  containers: [{ name: app }]
status:
  phase: Running
  hostIP: 10.244.0.1
  podIP: 10.244.0.7
  podIPs: [{ ip: 10.244.0.7 }, { ip: "fd00::7" }]
  startTime: "2026-11-21T12:00:00Z"
  conditions:
    - { type: PodReadyToStartContainers, status: "True", lastTransitionTime: "2026-11-21T12:00:12Z" }
    - { type: Ready, status: "True", lastTransitionTime: "2026-11-21T12:00:14Z" }
  initContainerStatuses:
    - { name: sidecar, ready: true, restartCount: 0, image: i, imageID: i, state: { running: { startedAt: "2026-11-21T12:00:10Z" } } }
  containerStatuses:
    - { name: app, ready: true, restartCount: 0, image: i, imageID: i, state: { running: { startedAt: "2026-11-21T12:00:11Z" } } }
"#;

#[test]
fn a_running_pod() {
    let seen = pod(&parse(RUNNING), false).unwrap();
    assert_eq!((seen.namespace.as_str(), seen.name.as_str(), seen.node.as_str()), ("shop", "back-6c9f7c4b8d-x2x7k", "node1"));
    assert_eq!(seen.workload, Workload { kind: "Deployment".to_owned(), name: "back".to_owned() });
    assert_eq!(seen.addresses, ["10.244.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
    assert_eq!(seen.began, Some(at("2026-11-21T12:00:10Z")), "the condition is told a while after the first container began");
    assert_eq!((seen.given, seen.ended), (Some(at("2026-11-21T12:00:12Z")), None));
    // Deleted by force: nobody knows when its containers end.
    assert_eq!(pod(&parse(RUNNING), true).unwrap().ended, Some(None));
}

#[test]
fn the_network_of_the_node_is_nobodys_own() {
    let seen = pod(&parse(&RUNNING.replace("  nodeName", "  hostNetwork: true\n  nodeName")), false).unwrap();
    assert_eq!(seen.addresses, Vec::<IpAddr>::new());
}

#[test]
fn a_pod_that_ended() {
    let ended = |state: &str| {
        let running = r#"{ running: { startedAt: "2026-11-21T12:00:11Z" } }"#;
        let sidecar = r#"{ running: { startedAt: "2026-11-21T12:00:10Z" } }"#;
        let terminated = r#"{ terminated: { exitCode: 0, startedAt: "2026-11-21T12:00:10Z", finishedAt: "2026-11-21T12:10:00Z" } }"#;
        RUNNING.replace(running, state).replace(sidecar, terminated)
    };
    let application = r#"{ terminated: { exitCode: 0, startedAt: "2026-11-21T12:00:11Z", finishedAt: "2026-11-21T12:09:58Z" } }"#;
    let seen = pod(&parse(&ended(application)), true).unwrap();
    assert_eq!(seen.ended, Some(Some(at("2026-11-21T12:10:01Z"))), "the end of the second in which the last container ended");
    assert_eq!(seen.began, Some(at("2026-11-21T12:00:10Z")));
    let completed = ended(application).replace("phase: Running", "phase: Succeeded");
    assert_eq!(pod(&parse(&completed), false).unwrap().ended, Some(Some(at("2026-11-21T12:10:01Z"))));
    let half = ended(r#"{ running: { startedAt: "2026-11-21T12:00:11Z" } }"#);
    assert_eq!(pod(&parse(&half), true).unwrap().ended, Some(None));
}

#[test]
fn a_pod_that_waits_has_nothing_yet() {
    let waiting = "
apiVersion: v1
kind: Pod
metadata: { name: solo, namespace: shop, uid: u }
spec: { nodeName: node1, containers: [{ name: app }] }
status: { phase: Pending, startTime: \"2026-11-21T12:00:00Z\" }
";
    let seen = pod(&parse(waiting), false).unwrap();
    assert_eq!((seen.began, seen.given, seen.ended), (None, None, None));
    assert_eq!(seen.workload, Workload { kind: "Pod".to_owned(), name: "solo".to_owned() });
}

#[test]
fn owners() {
    let check = |kind: &str, name: &str, hash: &str, expect: (&str, &str)| {
        let replicaset = "kind: ReplicaSet, name: back-6c9f7c4b8d,";
        let yaml = RUNNING.replace(replicaset, &format!("kind: {kind}, name: {name},")).replace("6c9f7c4b8d }", &format!("{hash} }}"));
        let workload = pod(&parse(&yaml), false).unwrap().workload;
        assert_eq!((workload.kind.as_str(), workload.name.as_str()), expect);
    };
    check("ReplicaSet", "web-5d8c", "5d8c", ("Deployment", "web"));
    check("ReplicaSet", "web-5d8c", "other", ("ReplicaSet", "web-5d8c"));
    check("StatefulSet", "db", "x", ("StatefulSet", "db"));
    check("DaemonSet", "log", "x", ("DaemonSet", "log"));
    check("Job", "report-29384750", "x", ("CronJob", "report"));
    check("Job", "migrate", "x", ("Job", "migrate"));
    check("Node", "node1", "x", ("Pod", "back-6c9f7c4b8d-x2x7k"));
}

#[test]
fn services_and_their_slices() {
    let cluster = "
apiVersion: v1
kind: Service
metadata: { name: back, namespace: shop, uid: s1, creationTimestamp: \"2026-11-21T11:00:00Z\" }
spec: { clusterIP: 10.96.7.8, clusterIPs: [10.96.7.8, \"fd00:1::8\"], type: ClusterIP }
";
    let seen = service(&parse(cluster)).unwrap();
    assert_eq!(seen.addresses, ["10.96.7.8".parse::<IpAddr>().unwrap(), "fd00:1::8".parse().unwrap()]);
    assert_eq!(seen.began, Some(at("2026-11-21T11:00:00Z")));
    let headless = cluster.replace("clusterIP: 10.96.7.8, clusterIPs: [10.96.7.8, \"fd00:1::8\"]", "clusterIP: None, clusterIPs: [None]");
    assert_eq!(service(&parse(&headless)).unwrap().addresses, Vec::<IpAddr>::new());
    let endpoints = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: { name: back-abc, namespace: shop, uid: e1, labels: { kubernetes.io/service-name: back } }
endpoints:
  - { addresses: [10.244.0.7], targetRef: { kind: Pod, name: back-1, namespace: shop, uid: p1 } }
  - { addresses: [192.0.2.1] }
ports: []
";
    let seen = slice(&parse(endpoints)).unwrap();
    assert_eq!((seen.namespace.as_str(), seen.service.as_str(), seen.pods), ("shop", "back", vec!["p1".to_owned()]));
}

#[test]
fn a_node_and_its_kubelet() {
    let yaml = "
apiVersion: v1
kind: Node
metadata: { name: node1, uid: n1, creationTimestamp: \"2026-11-21T10:00:00Z\" }
status:
  addresses: [{ type: Hostname, address: node1 }, { type: ExternalIP, address: 192.0.2.9 }, { type: InternalIP, address: 10.244.0.1 }]
  daemonEndpoints: { kubeletEndpoint: { Port: 10250 } }
";
    let seen = node(&parse(yaml)).unwrap();
    assert_eq!(seen.addresses, ["10.244.0.1".parse::<IpAddr>().unwrap(), "192.0.2.9".parse().unwrap()]);
    let kubelet = kubelet(&parse(yaml)).unwrap();
    assert_eq!((kubelet.node.as_str(), kubelet.address.to_string().as_str(), kubelet.port), ("node1", "10.244.0.1", 10_250));
}
