use proptest::prelude::*;
use serde_json::json;

use super::super::patch::tests::any_pod;
use super::super::tuning::{Source, Transport};
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

fn injected(text: &str) -> Changed {
    change(text, Action::Inject(&sidecar())).unwrap()
}

fn lines(changed: &Changed) -> Vec<String> {
    changed.report.iter().map(|line| format!("{} {}", line.object, line.told)).collect()
}

const APPLICATION: &str = "\
# The shop.
apiVersion: v1
kind: Service
metadata: {name: web}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # front
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
    spec:
      # One container.
      containers:
        - name: web
          image: \"nginx\"
          args: ['8080', \"on\"]
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: report
spec:
  schedule: '* * * * *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
          - name: report
            image: report
---
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: agent
spec:
  template:
    metadata:
      labels:
        app: agent
    spec:
      hostNetwork: true
      containers: [{name: agent}]
";

#[test]
fn workloads_are_injected_and_the_rest_is_left() {
    let changed = injected(APPLICATION);
    assert_eq!(
        lines(&changed),
        [
            "service \"web\" skipped: not a workload",
            "deployment \"web\" injected",
            "cronjob \"report\" injected",
            "daemonset \"agent\" skipped: hostNetwork is enabled"
        ]
    );
    // Every line that was there is there, in its order.
    let mut rest = changed.text.lines();
    for line in APPLICATION.lines().filter(|line| !line.contains("labels: {app: web}")) {
        assert!(rest.any(|other| other == line), "{line:?} is gone:\n{}", changed.text);
    }
    let documents: Vec<Value> = yaml::parse(&changed.text).unwrap().iter().map(yaml::Node::value).collect();
    let container = documents[1].pointer("/spec/template/spec/initContainers/0").unwrap();
    assert_eq!(container["name"], "podtap-sidecar");
    let workload: Vec<_> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|v| v["name"].as_str().unwrap().contains("WORKLOAD"))
        .map(|v| v["value"].clone())
        .collect();
    assert_eq!(workload, ["Deployment", "web"]);
    assert_eq!(documents[2].pointer("/spec/jobTemplate/spec/template/spec/initContainers/0/name").unwrap(), "podtap-sidecar");
    // A second time changes nothing, and back is back.
    let again = injected(&changed.text);
    assert_eq!(again.text, changed.text);
    assert_eq!(lines(&again)[1], "deployment \"web\" skipped: it has a podtap-sidecar");
    let back = change(&changed.text, Action::Uninject).unwrap();
    assert_eq!(back.text, APPLICATION);
    assert_eq!(lines(&back)[1..3], ["deployment \"web\" uninjected", "cronjob \"report\" uninjected"]);
    assert_eq!(lines(&back)[3], "daemonset \"agent\" skipped: there is no podtap-sidecar");
}

#[test]
fn a_label_asks_instead() {
    let changed = change(APPLICATION, Action::Label).unwrap();
    assert_eq!(lines(&changed)[1..3], ["deployment \"web\" labelled", "cronjob \"report\" labelled"]);
    assert!(changed.text.contains("      labels: {\"inject.podtap.io/inject\": \"true\", app: web}\n"), "{}", changed.text);
    assert_eq!(change(&changed.text, Action::Uninject).unwrap().text, APPLICATION);
}

#[test]
fn lists_and_json_are_gone_through() {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": {"containers": [{"name": "a"}]}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}},
        {"apiVersion": "example.org/v1", "kind": "Deployment", "metadata": {"name": "foreign"}, "spec": {"template": {}}},
        {"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
             "spec": {"template": {"metadata": {"labels": {"inject.podtap.io/inject": "false"}},
                "spec": {"containers": [{"name": "a"}]}}}}]}
    ]});
    let text = serde_json::to_string_pretty(&list).unwrap();
    let changed = injected(&text);
    assert_eq!(
        lines(&changed),
        [
            "pod \"one\" injected",
            "configmap \"c\" skipped: not a workload",
            "deployment \"foreign\" skipped: not a workload",
            "statefulset \"db\" skipped: injection is disabled by the label inject.podtap.io/inject"
        ]
    );
    let after: Value = serde_json::from_str(&changed.text).expect("JSON stays JSON");
    assert_eq!(after["items"][0]["spec"]["initContainers"][0]["name"], "podtap-sidecar");
    assert_eq!(change(&changed.text, Action::Uninject).unwrap().text, text);
    let checks: Vec<bool> = changed.report[3].checks.iter().map(|(fine, _)| *fine).collect();
    assert_eq!(checks, [true, false, true, true]);
}

#[test]
fn what_is_shared_is_skipped_with_a_word() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: &s\n  containers: [{name: a}]\nother: *s\n";
    let changed = injected(text);
    assert_eq!(changed.text, text);
    assert!(lines(&changed)[0].contains("aliases"), "{:?}", lines(&changed));
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  <<: {hostNetwork: true}\n  containers: [{name: a}]\n";
    let changed = injected(text);
    assert_eq!((changed.text.as_str(), changed.report[0].changed), (text, false));
    assert!(lines(&changed)[0].contains("merge keys"), "{:?}", lines(&changed));
}

/// A pod as JSON, as YAML with indented and with plain lists.
fn written(pod: &Value, style: u8) -> String {
    let mut object = pod.clone();
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Pod");
    match style {
        0 => object.to_string(),
        1 => serde_json::to_string_pretty(&object).unwrap(),
        2 => format!("# begin\n{}", serde_saphyr::to_string(&object).unwrap()),
        _ => {
            let mut text = String::new();
            for (key, value) in object.as_object().unwrap() {
                text.push_str(&format!("{key}: {value} # end\n"));
            }
            text
        }
    }
}

proptest! {
    #[test]
    fn injecting_changes_what_the_patch_does_and_uninjecting_gives_the_bytes_back(pod in any_pod(), style in 0_u8..4) {
        let text = written(&pod, style);
        let changed = injected(&text);
        prop_assert!(changed.report[0].changed, "{:?}\n{}", changed.report[0], text);
        let mut expect = yaml::parse(&text).unwrap()[0].value();
        let asked = Asked { namespace: None, own_namespace: "", default_enforce: "privileged", workload: None };
        let operations = patch::decide(&expect, &asked, &sidecar()).decision.unwrap();
        prop_assert!(patch::apply(&mut expect, &operations));
        prop_assert_eq!(yaml::parse(&changed.text).unwrap()[0].value(), expect);
        prop_assert_eq!(change(&changed.text, Action::Uninject).unwrap().text, text);
    }
}
