use proptest::prelude::*;

use super::super::PREFIX;
use super::super::tuning::{ANNOTATIONS, Transport};
use super::*;

fn sidecar() -> Sidecar {
    Sidecar {
        image: "docker.io/podtap/sidecar:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        transport: Transport::Grpc { endpoint: "http://podtap-analyzer.podtap:9881".to_owned() },
        source: Source::Pcap,
        log_level: "info".to_owned(),
        cpu_request: "20m".to_owned(),
        memory_request: "64Mi".to_owned(),
        memory_limit: "128Mi".to_owned(),
        spool_bytes: 200_000_000,
        admin_port: 9871,
        startup_probe: true,
        native: true,
    }
}

fn namespace(name: &str, labels: &[(&str, &str)]) -> Namespace {
    Namespace { name: name.to_owned(), labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect() }
}

fn asked(namespace: &Namespace) -> Asked<'_> {
    let (labels, nulls) = (Some(&namespace.labels), Nulls::new());
    Asked { namespace: &namespace.name, labels, own_namespace: "podtap", default_enforce: "privileged", workload: None, nulls }
}

fn enabled() -> Namespace {
    namespace("shop", &[("podtap-injection", "enabled")])
}

/// As the API server sends it: the token is mounted already.
fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "web-5d8c-",
            "labels": {"app": "web", "pod-template-hash": "5d8c"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d8c", "controller": true}],
        },
        "spec": {
            "initContainers": [{"name": "migrate", "image": "web"}],
            "containers": [{"name": "web", "image": "web", "volumeMounts": [
                {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
            ]}],
            "volumes": [{"name": "kube-api-access-x", "projected": {"sources": []}}],
        },
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = pod();
    change(&mut pod);
    pod
}

fn injected(pod: &Value, sidecar: &Sidecar) -> (Value, Vec<String>) {
    let namespace = enabled();
    let outcome = decide(pod, &asked(&namespace), sidecar);
    let mut after = pod.clone();
    assert!(apply(&mut after, &outcome.decision.unwrap()), "an operation leads nowhere");
    (after, outcome.warnings)
}

fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a Value> {
    container["env"].as_array().unwrap().iter().find(|variable| variable["name"] == name)
}

#[test]
fn the_sidecar_is_first_and_has_the_least_that_it_needs() {
    let (after, warnings) = injected(&pod(), &sidecar());
    assert_eq!(warnings, Vec::<String>::new());
    let names: Vec<_> = containers(&after, "initContainers").iter().map(|container| container["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["podtap-sidecar", "migrate"]);
    assert_eq!(after["spec"]["containers"], pod()["spec"]["containers"]);
    let container = &after["spec"]["initContainers"][0];
    assert_eq!(container["restartPolicy"], "Always");
    assert_eq!(
        container["securityContext"],
        json!({
            "runAsUser": 65532, "runAsGroup": 65532, "runAsNonRoot": true, "privileged": false, "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    assert_eq!(container["resources"], json!({"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}));
    assert_eq!(container["startupProbe"]["httpGet"], json!({"path": "/healthz", "port": "podtap"}));
    assert!(container.get("readinessProbe").is_none(), "an observer does not decide whether a pod is ready");
    let field = |name: &str| variable(container, name).unwrap()["valueFrom"]["fieldRef"]["fieldPath"].clone();
    assert_eq!(field("PODTAP_POD_UID"), "metadata.uid");
    assert_eq!(field("PODTAP_NODE_NAME"), "spec.nodeName");
    let value = |name: &str| variable(container, name).unwrap()["value"].clone();
    assert_eq!((value("PODTAP_WORKLOAD_KIND"), value("PODTAP_WORKLOAD_NAME")), (json!("Deployment"), json!("web")));
    assert_eq!(value("PODTAP_CONTAINER_NAME"), "web");
    // The token's place is taken, so the API server mounts none when it looks again.
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(
        mounts
            .iter()
            .any(|mount| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount" && mount["name"] == NO_TOKEN_VOLUME)
    );
    let volumes = after["spec"]["volumes"].as_array().unwrap();
    assert_eq!(volumes.iter().filter(|volume| volume["emptyDir"].is_object()).count(), 2);
    assert!(volumes.iter().any(|volume| volume["emptyDir"]["sizeLimit"] == "239Mi"), "{volumes:?}");
    let annotations = &after["metadata"]["annotations"];
    assert_eq!((&annotations[DEFAULT_CONTAINER], &annotations[DEFAULT_LOGS_CONTAINER]), (&json!("web"), &json!("web")));
    let status: Value = serde_json::from_str(annotations[STATUS].as_str().unwrap()).unwrap();
    assert_eq!((&status["version"], &status["container"]), (&json!(env!("CARGO_PKG_VERSION")), &json!("podtap-sidecar")));
    assert_eq!(status["configuration"], configuration(&sidecar()));
    assert_ne!(configuration(&sidecar()), configuration(&Sidecar { log_level: "debug".to_owned(), ..sidecar() }));
    assert_eq!(after["metadata"]["labels"][INJECTED_LABEL], "true");
}

#[test]
fn an_old_server_gets_an_ordinary_container() {
    let old = Sidecar { native: false, ..sidecar() };
    let (after, _) = injected(&pod(), &old);
    assert_eq!(after["spec"]["containers"][0]["name"], CONTAINER);
    assert!(after["spec"]["containers"][0].get("restartPolicy").is_none());
    assert_eq!(after["spec"]["initContainers"], pod()["spec"]["initContainers"]);
    assert_eq!(after["metadata"]["annotations"][DEFAULT_CONTAINER], "web");
    let namespace = enabled();
    let job = with(|pod| pod["spec"]["restartPolicy"] = json!("OnFailure"));
    assert_eq!(decide(&job, &asked(&namespace), &old).decision, Err(Reason::JobWithoutNativeSidecar));
    assert!(decide(&job, &asked(&namespace), &sidecar()).decision.is_ok());
}

#[test]
fn labels_decide_and_the_pods_goes_first() {
    let check = |namespace: &Namespace, label: Option<&str>, expect: Option<Reason>, warnings: usize| {
        let pod = with(|pod| {
            if let Some(label) = label {
                pod["metadata"]["labels"][POD_LABEL] = json!(label);
            }
        });
        let outcome = decide(&pod, &asked(namespace), &sidecar());
        assert_eq!(outcome.decision.as_ref().err(), expect.as_ref(), "{namespace:?} {label:?}");
        assert_eq!(outcome.warnings.len(), warnings, "{:?}", outcome.warnings);
    };
    let plain = namespace("shop", &[]);
    check(&enabled(), None, None, 0);
    check(&plain, None, Some(Reason::NotEnabled), 0);
    check(&namespace("shop", &[("podtap-injection", "disabled")]), None, Some(Reason::NotEnabled), 0);
    check(&enabled(), Some("false"), Some(Reason::Disabled), 0);
    check(&plain, Some("true"), None, 0);
    check(&enabled(), Some("yes"), None, 1);
    check(&plain, Some("yes"), Some(Reason::NotEnabled), 1);
    for name in ["kube-system", "kube-public", "kube-node-lease", "podtap"] {
        check(&namespace(name, &[("podtap-injection", "enabled")]), Some("true"), Some(Reason::ExcludedNamespace), 0);
    }
}

#[test]
fn what_cannot_have_a_sidecar_is_skipped_with_a_reason() {
    let check = |pod: Value, expect: Reason, warned: bool| {
        let namespace = enabled();
        let outcome = decide(&pod, &asked(&namespace), &sidecar());
        assert_eq!(outcome.decision, Err(expect), "{pod}");
        assert_eq!(outcome.warnings, if warned { vec![format!("podtap: no sidecar: {}", expect.told())] } else { Vec::new() });
    };
    check(with(|pod| pod["spec"]["hostNetwork"] = json!(true)), Reason::HostNetwork, true);
    check(with(|pod| pod["spec"]["os"] = json!({"name": "windows"})), Reason::Windows, true);
    check(with(|pod| pod["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "windows"})), Reason::Windows, true);
    check(with(|pod| pod["metadata"]["annotations"] = json!({MIRROR: "x"})), Reason::MirrorPod, false);
    check(with(|pod| pod["spec"]["containers"][0]["name"] = json!(CONTAINER)), Reason::AlreadyInjected, false);
    check(with(|pod| pod["spec"]["initContainers"][0]["name"] = json!(CONTAINER)), Reason::AlreadyInjected, false);
    check(with(|pod| pod["spec"]["volumes"][0]["name"] = json!(SPOOL_VOLUME)), Reason::VolumeNameTaken, true);
    check(with(|pod| pod["spec"]["containers"] = json!([])), Reason::Malformed, true);
    check(with(|pod| pod["spec"] = json!("x")), Reason::Malformed, true);
}

#[test]
fn pod_security_that_forbids_net_raw_leaves_the_pod_alone_and_says_so() {
    let check = |labels: &[(&str, &str)], default: &str, expect: Option<&str>| {
        // As long as names can be.
        let namespace = namespace(&"n".repeat(63), &[&[("podtap-injection", "enabled")], labels].concat());
        let outcome = decide(&pod(), &Asked { default_enforce: default, ..asked(&namespace) }, &sidecar());
        assert_eq!(outcome.decision.as_ref().err(), expect.map(|_| Reason::PodSecurity).as_ref(), "{labels:?}");
        let Some(level) = expect else { return };
        let warning = &outcome.warnings[0];
        assert!(warning.contains(&namespace.name) && warning.contains(level), "{warning}");
        assert!(warning.contains("kubectl label ns") && warning.contains("enforce=privileged"), "{warning}");
    };
    check(&[(ENFORCE, "baseline")], "privileged", Some("baseline"));
    check(&[(ENFORCE, "restricted")], "privileged", Some("restricted"));
    check(&[(ENFORCE, "strict")], "privileged", Some("restricted"));
    check(&[], "baseline", Some("baseline"));
    check(&[(ENFORCE, "privileged")], "restricted", None);
    check(&[("pod-security.kubernetes.io/warn", "restricted")], "privileged", None);
    // The API server cuts what is longer.
    let namespace = namespace("payments-production", &[("podtap-injection", "enabled"), (ENFORCE, "restricted")]);
    let outcome = decide(&pod(), &asked(&namespace), &sidecar());
    assert!(outcome.warnings[0].len() <= 256, "{}", outcome.warnings[0].len());
}

#[test]
fn annotations_tune_and_wrong_ones_warn() {
    let annotated = |annotations: Value| with(|pod| pod["metadata"]["annotations"] = annotations);
    let (after, warnings) = injected(
        &annotated(json!({
            "inject.podtap.io/source": "ebpf", "inject.podtap.io/log-level": "debug", "inject.podtap.io/memory-limit": "48Mi",
            "inject.podtap.io/cpu-request": "50m", "inject.podtap.io/cpu-limit": "1", "inject.podtap.io/service-name": "web $(X)",
            "inject.podtap.io/admin-port": "8871", "inject.podtap.io/run-as-root": "true", "example.org/other": "x",
        })),
        &sidecar(),
    );
    assert_eq!(warnings, Vec::<String>::new());
    let container = &after["spec"]["initContainers"][0];
    assert_eq!(container["securityContext"]["capabilities"]["add"], json!(["NET_RAW", "BPF"]));
    assert_eq!((&container["securityContext"]["runAsUser"], &container["securityContext"]["runAsNonRoot"]), (&json!(0), &json!(false)));
    assert_eq!(container["resources"], json!({"requests": {"cpu": "50m", "memory": "48Mi"}, "limits": {"cpu": "1", "memory": "48Mi"}}));
    assert_eq!(variable(container, "PODTAP_LOG_LEVEL").unwrap()["value"], "debug");
    assert_eq!(variable(container, "PODTAP_QUEUE_BYTES").unwrap()["value"], (12 << 20).to_string());
    assert_eq!(variable(container, "PODTAP_SERVICE_NAME").unwrap()["value"], "web $$(X)");
    assert_eq!(container["ports"][0]["containerPort"], 8871);

    let check = |key: &str, value: &str, expect: &str| {
        let (after, warnings) = injected(&annotated(json!({key: value})), &sidecar());
        assert!(warnings.len() == 1 && warnings[0].contains(key) && warnings[0].contains(expect), "{warnings:?}");
        assert!(warnings[0].len() <= 256, "{}", warnings[0]);
        let (plain, _) = injected(&pod(), &sidecar());
        assert_eq!(after["spec"], plain["spec"], "{key}={value} is the default");
    };
    let long = "x".repeat(300);
    for (name, wrong) in [
        ("source", "file"),
        ("log-level", "loud"),
        ("memory-limit", "1Mi"),
        ("memory-limit", "much"),
        ("cpu-request", "-1"),
        ("cpu-limit", "fast"),
        ("service-name", long.as_str()),
        ("admin-port", "70000"),
        ("run-as-root", "yes"),
    ] {
        check(&format!("{PREFIX}{name}"), wrong, "the default is used");
    }
    check("inject.podtap.io/sauce", "pcap", "unknown annotation");
    check("inject.podtap.io/inject", "true", "is a label");
    assert_eq!(ANNOTATIONS.len(), 8, "each has a wrong value above");
}

#[test]
fn ebpf_gives_way_in_a_user_namespace() {
    let pod = with(|pod| {
        pod["spec"]["hostUsers"] = json!(false);
        pod["metadata"]["annotations"] = json!({"inject.podtap.io/source": "auto"});
    });
    let (after, warnings) = injected(&pod, &sidecar());
    assert!(warnings.len() == 1 && warnings[0].contains("hostUsers"), "{warnings:?}");
    let container = &after["spec"]["initContainers"][0];
    assert_eq!(container["securityContext"]["capabilities"]["add"], json!(["NET_RAW"]));
    assert_eq!(variable(container, "PODTAP_SOURCE").unwrap()["value"], "pcap");
}

#[test]
fn a_pod_keeps_its_quality_of_service_and_its_limits() {
    let limited = json!({"cpu": "1", "memory": "1Gi"});
    let guaranteed = with(|pod| {
        pod["spec"]["containers"][0]["resources"] = json!({"limits": limited, "requests": {"cpu": "1000m", "memory": "1Gi"}});
        pod["spec"]["initContainers"][0]["resources"] = json!({"limits": limited});
    });
    assert!(is_guaranteed(&guaranteed));
    let (after, _) = injected(&guaranteed, &sidecar());
    assert!(is_guaranteed(&after), "{}", after["spec"]["initContainers"][0]["resources"]);
    let burstable = with(|pod| pod["spec"]["containers"][0]["resources"] = json!({"limits": limited}));
    assert!(!is_guaranteed(&burstable));
    let disk = with(|pod| pod["spec"]["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "100Mi"}}));
    let (after, _) = injected(&disk, &sidecar());
    assert_eq!(after["spec"]["initContainers"][0]["resources"]["limits"]["ephemeral-storage"], "239Mi");
    let whole = with(|pod| pod["spec"]["resources"] = json!({"limits": {"memory": "1Gi"}}));
    assert_eq!(injected(&whole, &sidecar()).0["spec"]["initContainers"][0]["resources"], json!({}));
    let port = with(|pod| pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 9871}]));
    let (after, _) = injected(&port, &sidecar());
    assert_eq!(after["spec"]["initContainers"][0]["ports"][0]["containerPort"], 9872);
    assert_eq!(variable(&after["spec"]["initContainers"][0], "PODTAP_ADMIN_LISTEN").unwrap()["value"], "0.0.0.0:9872");
}

#[test]
fn a_pod_by_itself_has_its_own_name() {
    let bare = json!({"metadata": {"name": "one"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    let (after, _) = injected(&bare, &sidecar());
    let container = &after["spec"]["initContainers"][0];
    assert_eq!(variable(container, "PODTAP_WORKLOAD_KIND").unwrap()["value"], "Pod");
    assert_eq!(variable(container, "PODTAP_WORKLOAD_NAME").unwrap()["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
    assert!(variable(container, "PODTAP_CONTAINER_NAME").is_none(), "whose traffic it is cannot be known");
}

#[test]
fn a_label_asks_and_is_taken_back() {
    let namespace = Namespace::default();
    let unknown = Asked { labels: None, ..asked(&namespace) };
    let labelled = |pod: &Value| label(pod, &unknown, &sidecar()).decision;
    for metadata in [
        None,
        Some(json!({"labels": {"app": "web"}})),
        Some(json!({"name": "x"})),
        Some(json!({})),
        Some(json!(null)),
        Some(json!({"labels": {}, "annotations": null})),
        Some(json!({"labels": null, "annotations": {}})),
        Some(json!({"labels": {}, "annotations": {"a": "b"}})),
    ] {
        let mut before = json!({"spec": {"containers": [{"name": "a"}]}});
        if let Some(metadata) = metadata {
            before["metadata"] = metadata;
        }
        let mut after = before.clone();
        assert!(apply(&mut after, &labelled(&before).unwrap()));
        assert_eq!(after["metadata"]["labels"][POD_LABEL], "true");
        assert_eq!(labelled(&after), Ok(Vec::new()));
        let operations = restore(&after);
        assert!(apply(&mut after, &operations));
        assert_eq!(after, before);
    }
    assert_eq!(labelled(&json!({})), Err(Reason::Malformed));
    assert_eq!(labelled(&with(|pod| pod["spec"]["hostNetwork"] = json!(true))), Err(Reason::HostNetwork));
    assert_eq!(labelled(&with(|pod| pod["metadata"]["labels"][POD_LABEL] = json!("false"))), Err(Reason::Disabled));
}

/// Pods as people write them, with and without each thing that the patch looks at.
pub(in super::super) fn any_pod() -> impl Strategy<Value = Value> {
    let text = "[a-z][a-z0-9-]{0,8}";
    let labels = proptest::option::of(proptest::collection::btree_map("[a-z][a-z./]{0,8}", text, 0..3));
    let annotations = proptest::option::of(proptest::collection::btree_map(
        prop_oneof![Just(DEFAULT_CONTAINER.to_owned()), Just("inject.podtap.io/source".to_owned()), "[a-z]{1,8}".prop_map(|key| key)],
        prop_oneof![Just("ebpf".to_owned()), Just("yes: #no".to_owned()), "[ -~]{0,12}".prop_map(|text| text)],
        0..3,
    ));
    let containers = |least: usize| proptest::collection::vec((text, proptest::option::of(1_u16..10_000)), least..3);
    let volumes = proptest::option::of(proptest::collection::vec(text, 0..3));
    (labels, annotations, proptest::option::of(containers(0)), containers(1), volumes, any::<bool>()).prop_map(
        |(labels, annotations, first, containers, volumes, named)| {
            let list = |containers: Vec<(String, Option<u16>)>| -> Vec<Value> {
                let container = |(name, port): (String, Option<u16>)| match port {
                    Some(port) => json!({"name": name, "image": "i:1", "ports": [{"containerPort": port}]}),
                    None => json!({"name": name, "args": ["8080", "true", "a: b"]}),
                };
                containers.into_iter().map(container).collect()
            };
            let mut pod = json!({"spec": {"containers": list(containers)}});
            if named || labels.is_some() || annotations.is_some() {
                pod["metadata"] = json!({"name": "p"});
            }
            if let Some(labels) = labels {
                pod["metadata"]["labels"] = json!(labels);
            }
            if let Some(annotations) = annotations {
                pod["metadata"]["annotations"] = json!(annotations);
            }
            if let Some(first) = first {
                pod["spec"]["initContainers"] = json!(list(first));
            }
            if let Some(volumes) = volumes {
                let volumes: Vec<_> = volumes.iter().map(|name| json!({"name": name, "emptyDir": {}})).collect();
                pod["spec"]["volumes"] = json!(volumes);
            }
            pod
        },
    )
}

proptest! {
    #[test]
    fn a_second_time_changes_nothing_and_restoring_gives_the_first_back(pod in any_pod(), native: bool) {
        let sidecar = Sidecar { native, ..sidecar() };
        let (mut after, _) = injected(&pod, &sidecar);
        let namespace = enabled();
        prop_assert_eq!(decide(&after, &asked(&namespace), &sidecar).decision, Err(Reason::AlreadyInjected));
        let ours = all_containers(&after).filter(|container| container["name"] == CONTAINER).count();
        prop_assert_eq!(ours, 1);
        let list = if native { "initContainers" } else { "containers" };
        prop_assert_eq!(&after["spec"][list][0]["name"], CONTAINER);
        let operations = restore(&after);
        prop_assert!(apply(&mut after, &operations));
        prop_assert_eq!(&after, &pod);
        prop_assert_eq!(restore(&after), Vec::new());
    }

    #[test]
    fn any_json_is_decided_about(text in "[ -~]{0,80}", pod in any_pod(), place in 0_usize..12) {
        // Anything in the place of anything.
        let mut pod = pod;
        let places = ["/metadata", "/metadata/labels", "/metadata/annotations", "/spec", "/spec/containers", "/spec/containers/0",
            "/spec/containers/0/name", "/spec/containers/0/ports", "/spec/volumes", "/spec/initContainers", "/spec/volumes/0", ""];
        if let Some(value) = pod.pointer_mut(places[place]) {
            *value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        }
        let namespace = enabled();
        if let Ok(operations) = decide(&pod, &asked(&namespace), &sidecar()).decision {
            prop_assert!(apply(&mut pod.clone(), &operations), "{}", pod);
        }
        restore(&pod);
    }
}
