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
    change(text, Action::Inject(Wanted { sidecar: &sidecar(), own_namespace: "podtap" })).unwrap()
}

fn labelled(text: &str) -> Changed {
    change(text, Action::Label(Wanted { sidecar: &sidecar(), own_namespace: "podtap" })).unwrap()
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
    let documents: Vec<Value> = yaml::parse(&changed.text).unwrap().iter().map(Document::value).collect();
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

/// What is told of each object, and whether anything was changed.
fn told(text: &str, action: Action<'_>) -> (Vec<String>, bool) {
    let changed = change(text, action).unwrap();
    assert_eq!(changed.text != text, changed.report.iter().any(|line| line.changed), "{text}");
    (lines(&changed), changed.text != text)
}

fn wanted(sidecar: &Sidecar) -> Wanted<'_> {
    Wanted { sidecar, own_namespace: "podtap" }
}

/// `line: problem` of each mistake.
fn mistakes(text: &str) -> Vec<String> {
    let sidecar = sidecar();
    let errors = change(text, Action::Inject(wanted(&sidecar))).unwrap_err();
    assert_eq!(change(text, Action::Label(wanted(&sidecar))).unwrap_err(), errors);
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_label_asks_instead() {
    let changed = labelled(APPLICATION);
    assert_eq!(
        lines(&changed)[1..],
        ["deployment \"web\" labelled", "cronjob \"report\" labelled", "daemonset \"agent\" skipped: hostNetwork is enabled"]
    );
    assert!(changed.text.contains("      labels: {\"inject.podtap.io/inject\": \"true\", app: web}\n"), "{}", changed.text);
    assert_eq!(change(&changed.text, Action::Uninject).unwrap().text, APPLICATION);
}

#[test]
fn a_label_is_for_pods_that_the_webhook_would_inject() {
    let pod = |labels: &str, spec: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {{{labels}}}\nspec:\n  {spec}containers: [{{name: a}}]\n")
    };
    let check = |text: &str, expect: &str| {
        let sidecar = sidecar();
        let (lines, changed) = told(text, Action::Label(wanted(&sidecar)));
        assert_eq!(lines, [format!("pod \"a\" {expect}")], "{text}");
        assert_eq!(changed, expect == "labelled");
    };
    check(&pod("app: a", ""), "labelled");
    check(&pod("inject.podtap.io/inject: 'true'", ""), "skipped: it has the label inject.podtap.io/inject already");
    check(&pod("inject.podtap.io/inject: 'false'", ""), "skipped: injection is disabled by the label inject.podtap.io/inject");
    check(
        &pod("inject.podtap.io/inject: 'enabled'", ""),
        "skipped: its label inject.podtap.io/inject is \"enabled\", which is none of true, false",
    );
    check(&pod("", "hostNetwork: true\n  "), "skipped: hostNetwork is enabled");
    check(&pod("", "os: {name: windows}\n  "), "skipped: it is for Windows nodes");
    check(&pod("", "initContainers: [{name: podtap-sidecar}]\n  "), "skipped: it has a podtap-sidecar");
    check(
        &pod("", "").replace("name: a\n  l", "name: a\n  namespace: kube-system\n  l"),
        &format!("skipped: {}", Reason::ExcludedNamespace.told()),
    );
    check(&pod("", "").replace("[{name: a}]", "[]"), "skipped: it has no containers");
}

#[test]
fn a_namespace_is_excluded_by_the_webhooks_rule() {
    for (namespace, excluded) in [
        ("kube-system", true),
        ("kube-public", true),
        ("kube-node-lease", true),
        ("podtap", true),
        ("shop", false),
        ("kube-systems", false),
    ] {
        let pod = json!({"metadata": {"name": "a", "namespace": namespace}, "spec": {"containers": [{"name": "a"}]}});
        let labels = [("podtap-injection".to_owned(), "enabled".to_owned())].into();
        let asked = Asked {
            namespace,
            labels: Some(&labels),
            own_namespace: "podtap",
            default_enforce: "privileged",
            workload: None,
            nulls: Nulls::new(),
        };
        assert_eq!(patch::decide(&pod, &asked, &sidecar()).decision.err(), excluded.then_some(Reason::ExcludedNamespace));
        for (kind, api_version) in [("DaemonSet", "apps/v1"), ("Pod", "v1")] {
            let spec = if kind == "Pod" { pod["spec"].clone() } else { json!({"template": {"spec": pod["spec"]}}) };
            let object = json!({"apiVersion": api_version, "kind": kind, "metadata": pod["metadata"], "spec": spec});
            let sidecar = sidecar();
            let (lines, changed) = told(&object.to_string(), Action::Inject(wanted(&sidecar)));
            assert_eq!(changed, !excluded, "{kind} {namespace}");
            assert_eq!(lines[0].contains(Reason::ExcludedNamespace.told()), excluded, "{lines:?}");
        }
    }
}

#[test]
fn a_wrong_type_is_told_with_its_place() {
    let check = |text: &str, expect: &[&str]| assert_eq!(mistakes(text), expect, "{text}");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app: a\nspec:\n  containers:\n  - name: a\n";
    check(
        &pod.replace("    app: a\n", "    app: a\n    inject.podtap.io/inject: false\n"),
        &["document 1, line 7, column 30: pod \"a\": metadata.labels[inject.podtap.io/inject] is false, a boolean; it must be a string, \
           in quotes"],
    );
    // As kubectl reads it.
    check(
        &pod.replace("app: a", "inject.podtap.io/inject: no"),
        &["document 1, line 6, column 30: pod \"a\": metadata.labels[inject.podtap.io/inject] is no, a boolean; it must be a string, \
           in quotes"],
    );
    check(
        &format!("{pod}  hostNetwork: \"true\"\n"),
        &["document 1, line 10, column 16: pod \"a\": spec.hostNetwork is \"true\", a string; it must be true or false, without quotes"],
    );
    check(
        &format!("a: 1\n---\n{}", pod.replace("\n  - name: a\n", " [abc]\n")),
        &["document 2, line 10, column 16: pod \"a\": spec.containers[0] is abc, a string; it must be a mapping"],
    );
    check(
        &pod.replace("    app: a\n", "    app: a\n  annotations:\n    inject.podtap.io/source:\n").replace("- name: a", "- name: 5"),
        &[
            "document 1, line 8, column 28: pod \"a\": metadata.annotations[inject.podtap.io/source] has no value; \
             it must be a string, in quotes",
            "document 1, line 11, column 11: pod \"a\": spec.containers[0].name is 5, a number; it must be a string, in quotes",
        ],
    );
    let list = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"apps/v1\", \"kind\": \"Deployment\",\n\
                \"metadata\": {\"name\": \"w\"}, \"spec\": {\"template\": {\"spec\": {\"hostNetwork\": 1}}}}]}";
    check(
        list,
        &["document 1, line 2, column 74: deployment \"w\": items[0].spec.template.spec.hostNetwork is 1, \
             a number; it must be true or false"],
    );
    // kubectl takes these.
    let fine = pod.replace("app: a", "app:").replace("- name: a", "- name: a\n    ports: [{containerPort: 0x50}, {containerPort: 0o120}]");
    assert!(injected(&format!("{fine}  hostNetwork: off\n")).report[0].changed);
    assert_eq!(lines(&injected(&format!("{pod}  hostNetwork: yes\n"))), ["pod \"a\" skipped: hostNetwork is enabled"]);
    // Whoever takes the sidecar out is not asked.
    assert!(change(&format!("{pod}  hostNetwork: \"true\"\n"), Action::Uninject).is_ok());
    let many = format!("{pod}  hostNetwork: 1\n---\n").repeat(100);
    let errors = change(&many, Action::Inject(wanted(&sidecar()))).unwrap_err();
    assert_eq!(errors.len(), MOST_ERRORS);
    assert!(errors[MOST_ERRORS - 1].problem.ends_with("(80 more mistakes are not shown)"), "{:?}", errors.last());
}

#[test]
fn what_is_no_manifest_is_told_with_its_line() {
    let check = |text: &str, line: usize, expect: &str| {
        for action in [Action::Inject(wanted(&sidecar())), Action::Uninject] {
            let errors = change(text, action).unwrap_err();
            assert!(errors[0].line == line && errors[0].problem.contains(expect), "{text:?}: {errors:?}");
        }
    };
    let deployment =
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: NAME\nspec:\n  template:\n    spec:\n      containers: [{name: a}]\n";
    check(&deployment.replace("NAME", "{{ .Release.Name }}"), 4, "is a template, which has to be rendered first");
    check(&deployment.replace("NAME", "{{ include \"a\" . }}-web"), 4, "is a template, which has to be rendered first");
    check(&deployment.replace("NAME", "web-{{ .Release.Name }}"), 4, "metadata.name is web-{{ .Release.Name }}, a template");
    check(&deployment.replace("NAME", "\"{{ .Release.Name }}\""), 4, "a template, which has to be rendered");
    check(
        &deployment.replace("NAME", "web").replace("{name: a}", "{name: b}, {name: a, image: '{{ .Values.image }}:1'}"),
        8,
        "spec.template.spec.containers[1].image is '{{ .Values.image }}:1', a template",
    );
    check(&deployment.replace("spec:\n  t", "{{- if .Values.on }}\nspec:\n  t"), 5, "is a template");
    check(&deployment.replace("      containers", "      {{- toYaml .Values.pod | nindent 6 }}\n      containers"), 8, "is a template");
    check(&format!("{{{{/* The web. */}}}}\n{deployment}"), 1, "is a template");
    check(&format!("a: b\n---\n{}", deployment.replace("NAME", "{{ .Release.Name }}")), 6, "is a template");
    check("? [a, b]\n: c\n", 1, "a key is not a mapping or a list");
    check("hello\n", 1, "no Kubernetes object");
    check("kind: Pod\n---\n- a\n- b\n", 3, "no Kubernetes object");
    // What is in quotes may well be meant: a rule of Prometheus, an argument.
    let argument = deployment.replace("NAME", "web").replace("{name: a}", "{name: a, args: ['--format={{ .Name }}']}");
    assert!(injected(&argument).report[0].changed);
    let (lines, changed) = told("kind: Pod\n---\nreplicas: 1\n", Action::Inject(wanted(&sidecar())));
    assert_eq!(lines, ["pod \"\" skipped: apiVersion or kind is missing", "document 2 skipped: apiVersion or kind is missing"]);
    assert!(!changed);
    for nothing in ["", "\n", "# nothing\n", "---\n", "---\n# nothing\n---\n"] {
        assert_eq!(change(nothing, Action::Uninject).unwrap(), Changed { text: nothing.to_owned(), report: Vec::new(), documents: 0 });
    }
}

#[test]
fn items_of_a_typed_list_are_of_its_kind() {
    let check = |list: Value, expect: &[&str]| {
        let text = list.to_string();
        let changed = injected(&text);
        assert_eq!(lines(&changed), expect, "{text}");
        assert_eq!(change(&changed.text, Action::Uninject).unwrap().text, text);
    };
    let pod = json!({"metadata": {"name": "one"}, "spec": {"containers": [{"name": "a"}]}});
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"template": pod}});
    check(json!({"apiVersion": "v1", "kind": "PodList", "items": [pod]}), &["pod \"one\" injected"]);
    check(
        json!({"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [deployment, deployment]}),
        &["deployment \"web\" injected", "deployment \"web\" injected"],
    );
    check(json!({"apiVersion": "v1", "kind": "List", "items": [pod]}), &["document 1, items[0] skipped: apiVersion or kind is missing"]);
    check(
        json!({"apiVersion": "v1", "kind": "ConfigMapList", "items": [{"metadata": {"name": "c"}}]}),
        &["configmap \"c\" skipped: not a workload"],
    );
    check(json!({"apiVersion": "v1", "kind": "PodList", "items": []}), &[]);
}

#[test]
fn json_objects_may_follow_each_other() {
    let pod = |name: &str| {
        serde_json::to_string_pretty(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "a"}]}}),
        )
        .unwrap()
    };
    for between in ["\n", "", " ", "\n\n", "\r\n"] {
        let text = format!("{}{between}{}{between}{}\n", pod("one"), pod("two"), pod("three"));
        let changed = injected(&text);
        assert_eq!(lines(&changed), ["pod \"one\" injected", "pod \"two\" injected", "pod \"three\" injected"]);
        let values: Vec<Value> = serde_json::Deserializer::from_str(&changed.text).into_iter().collect::<Result<_, _>>().unwrap();
        assert!(values.iter().all(|value| value["spec"]["initContainers"][0]["name"] == "podtap-sidecar"), "{values:?}");
        assert_eq!(change(&changed.text, Action::Uninject).unwrap().text, text);
    }
    // And YAML behind them.
    let text = format!("{}\n{}\n---\nkind: Service\napiVersion: v1\n", pod("one"), pod("two"));
    assert_eq!(lines(&injected(&text)), ["pod \"one\" injected", "pod \"two\" injected", "service \"\" skipped: not a workload"]);
    let wrong = format!("{}\n{}\n{{\"a\": [}}\n", pod("one"), pod("two"));
    let errors = change(&wrong, Action::Uninject).unwrap_err();
    assert_eq!((errors[0].document, errors[0].line), (3, wrong.lines().count()), "{errors:?}");
    assert_eq!(
        mistakes(&format!("{}\n{}", pod("one"), pod("two").replace("\"name\": \"a\"", "\"name\": 7")))[0].split(':').next(),
        Some("document 2, line 24, column 17")
    );
}

#[test]
fn several_files_are_one_text() {
    let check = |texts: &[&str], expect: &str| {
        let mut whole = String::new();
        texts.iter().for_each(|text| append(&mut whole, text));
        assert_eq!(whole, expect);
        let documents = texts.iter().map(|text| yaml::parse(text).unwrap().len()).sum::<usize>();
        assert_eq!(yaml::parse(&whole).unwrap().len(), documents);
    };
    check(
        &["{\"a\": 1}\n{\"b\": 2}", "c: 3\n", "{\"d\": 4}{\"e\": 5}\n"],
        "{\"a\": 1}\n---\n{\"b\": 2}\n---\nc: 3\n---\n{\"d\": 4}\n---\n{\"e\": 5}\n",
    );
    check(&["{\"a\": 1}\n", "{\"b\": 2}{\"c\": 3}"], "{\"a\": 1}\n{\"b\": 2}{\"c\": 3}");
    check(&["a: 1\n", "b: 2\n"], "a: 1\n---\nb: 2\n");
    check(&["a: 1", "\u{feff}b: 2"], "a: 1\n---\nb: 2");
    check(&["{\"a\": 1}", "{\"b\": 2}\n"], "{\"a\": 1}\n{\"b\": 2}\n");
    check(&["{\"a\": 1}\n", "b: 2\n"], "{\"a\": 1}\n---\nb: 2\n");
    check(&["a: 1\n", "%YAML 1.2\n---\nb: 2\n"], "a: 1\n...\n%YAML 1.2\n---\nb: 2\n");
}

/// A member with each way to write that there is nothing, and with something; `NAME` is its name.
fn written_members(list: bool) -> Vec<&'static str> {
    let nothing = ["", "NAME:\n", "NAME: \n", "NAME:   # none\n", "NAME: ~\n", "NAME: null # none\n", "NAME: Null\n", "'NAME': NULL\n"];
    let members = [
        "NAME: {}\n",
        "NAME: { }  # none\n",
        "NAME: {\n}\n",
        "NAME: {a: b}\n",
        "NAME: {a: b,}\n",
        "NAME: { a: b,\n  c: 'd' }\n",
        "NAME:\n  a: b\n",
        "NAME:\n  # why\n  \"a\": b # c\n\n  c: |\n    d\n",
        "\"NAME\": {\"a\": \"b\"}\n",
        "NAME: &all\n  a: b\n",
        "NAME: &all {a: b}\n",
    ];
    let elements = [
        "NAME: []\n",
        "NAME: [ ] # none\n",
        "NAME: [{name: x}]\n",
        "NAME: [\n  {name: x},\n  {name: z}\n]\n",
        "NAME:\n- name: x\n",
        "NAME:\n  - name: x\n    args: [a]\n",
        "NAME:\n  -   name: x\n",
        "NAME:\n  # why\n  - # this\n    name: x # c\n\n  # end\n",
        "NAME:\n  - {name: x}\n  - name: z\n",
        "NAME: &all [{name: x}]\n",
        "NAME: &all\n  - name: x\n",
        "NAME:\n  -\n    name: x\n",
        "NAME:\n- &one\n  name: x\n",
        "NAME:\n  - &one !!map {name: x}\n  - name: z\n",
    ];
    nothing.into_iter().chain(if list { elements.to_vec() } else { members.to_vec() }).collect()
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{}{line}\n", " ".repeat(by)) }).collect()
}

/// The same text in other dress: line ends, beginnings and ends.
fn dressed(text: &str) -> Vec<String> {
    vec![
        text.to_owned(),
        text.replace('\n', "\r\n"),
        text.trim_end().to_owned(),
        format!("\u{feff}{text}"),
        format!("--- # first\n# what\n{0}\n--- # last\n{0}\n...\n", text.trim_end()),
    ]
}

/// That a text comes back to the byte from being changed, whatever it is changed for.
fn comes_back(text: &str) {
    let sidecar = sidecar();
    for (action, done) in [(Action::Inject(wanted(&sidecar)), "injected"), (Action::Label(wanted(&sidecar)), "labelled")] {
        let changed = change(text, action).unwrap_or_else(|errors| panic!("{errors:?}\n{text}"));
        assert!(changed.report.iter().all(|line| line.told == done && line.changed), "{:?}\n{text}", changed.report);
        let crlf = text.contains('\r');
        assert!(changed.text.lines().count() == 1 || !crlf || !changed.text.replace("\r\n", "").contains('\n'), "{:?}", changed.text);
        let back = change(&changed.text, Action::Uninject).unwrap();
        assert!(back.report.iter().all(|line| line.told == "uninjected"), "{:?}\n{}", back.report, changed.text);
        assert_eq!(back.text, text, "from\n{}", changed.text);
    }
}

#[test]
fn what_was_injected_comes_out_to_the_byte() {
    let deployment = |metadata: &str, spec: &str| {
        let pod = format!("{metadata}spec:\n{}  containers:\n  - name: a\n", indented(spec, 2));
        format!("apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web # ours\nspec:\n  template:\n{}", indented(&pod, 4))
    };
    let (members, elements) = (written_members(false), written_members(true));
    for (one, labels) in members.iter().enumerate() {
        for (other, annotations) in members.iter().enumerate() {
            let (labels, annotations) =
                (labels.replace("NAME", "labels"), annotations.replace("NAME", "annotations").replace("&all", "&others"));
            let both = indented(&format!("{labels}{annotations}"), 2);
            let metadata = if both.is_empty() { "metadata: {}\n".to_owned() } else { format!("metadata:\n{both}") };
            comes_back(&dressed(&deployment(&metadata, ""))[(one + other) % 5]);
        }
    }
    for metadata in &members {
        dressed(&deployment(&metadata.replace("NAME", "metadata").replace("&all", "&m"), "")).iter().for_each(|text| comes_back(text));
    }
    for (one, first) in elements.iter().enumerate() {
        for (other, volumes) in elements.iter().enumerate() {
            let spec =
                format!("{}{}", first.replace("NAME", "initContainers"), volumes.replace("NAME", "volumes").replace("&all", "&others"));
            comes_back(&dressed(&deployment("metadata: {labels: {a: b}}\n", &spec))[(one + other) % 5]);
        }
    }
    for text in [
        // A pod by itself, in flow style, in a List, behind a tag.
        "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a}]}\n",
        "{apiVersion: v1, kind: Pod, metadata: , spec: {containers: [{name: a}], volumes: }}\n",
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":null,\"spec\":\
         {\"containers\":[{\"name\":\"a\"}],\"volumes\":null,\"initContainers\":[]}}",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n  spec:\n    containers: [{name: a}]\n\
         - kind: Pod\n  apiVersion: v1\n  spec: {containers: [{name: a}]}\n",
        "!!map\nkind: Pod\napiVersion: v1\nspec: !!map\n  containers: !!seq\n  - !!map\n    name: a\n",
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec:\n  template:\n    metadata:\n      creationTimestamp: null\n    \
         spec:\n      containers:\n      - image: i\n        name: j\n        resources: {}\n      restartPolicy: Never\nstatus: {}\n",
    ] {
        dressed(text).iter().filter(|text| !text.contains("---") || !text.contains('!')).for_each(|text| comes_back(text));
    }
}

#[test]
fn what_cannot_be_changed_in_place_is_left_with_the_reason() {
    let check = |text: &str, expect: &str| {
        let changed = injected(text);
        assert_eq!(changed.text, text);
        assert!(!changed.report[0].changed && changed.report[0].told.contains(expect), "{:?}", changed.report);
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: a\n";
    check(&pod.replace('\n', "\r"), "carriage return");
    check(&pod.replace("metadata:\n", "x: &n ~\nmetadata:\n  annotations: *n\n"), "aliases");
    check(&pod.replace("metadata:\n", "metadata:\n  annotations: !!null\n"), "cannot be changed in place");
    check(&pod.replace("metadata:\n", "metadata:\n  ? labels\n  : {a: b}\n  ? annotations\n"), "cannot be changed in place");
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
    assert_eq!(checks, [true, true, false], "what comes after was not looked at");
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
        let asked = Asked {
            namespace: "", labels: None, own_namespace: "podtap", default_enforce: "privileged", workload: None, nulls: Nulls::new(),
        };
        let operations = patch::decide(&expect, &asked, &sidecar()).decision.unwrap();
        prop_assert!(patch::apply(&mut expect, &operations));
        prop_assert_eq!(yaml::parse(&changed.text).unwrap()[0].value(), expect);
        prop_assert_eq!(change(&changed.text, Action::Uninject).unwrap().text, text);
    }
}
