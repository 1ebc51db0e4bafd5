//! The injector between a real API server and kubectl, with the manifest and the rights that k8s/injector.yaml gives it; and `inject` on
//! manifests.
// Helper functions of a test are not test functions to clippy, which lets only those unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod api_server;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use api_server::{ApiServer, Output, free_port, until};
use serde_json::{Value, json};

const ANALYZER: &str = env!("CARGO_BIN_EXE_podtap-analyzer");

fn manifest(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s").join(name)).unwrap()
}

/// The injector outside of the cluster, asked by URL.
struct Injector {
    process: usize,
    http: u16,
}

impl Injector {
    fn start(server: &mut ApiServer, webhook: u16) -> Self {
        let http = free_port();
        let kubeconfig = server.kubeconfig("injector").display().to_string();
        let arguments = [
            "inject",
            "serve",
            "--log-format=text",
            &format!("--kubernetes={kubeconfig}"),
            &format!("--webhook-listen=127.0.0.1:{webhook}"),
            &format!("--http-listen=127.0.0.1:{http}"),
            "--certificate-names=127.0.0.1",
        ];
        let process = server.spawn("injector", Path::new(ANALYZER), &arguments);
        until("the injector is ready", || (get(http, "/readyz")?.0 == 200).then_some(()));
        Self { process, http }
    }

    /// A counter's value.
    fn count(&self, line: &str) -> u64 {
        let (_, text) = get(self.http, "/metrics").unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line)).unwrap_or_else(|| panic!("{line} is not in\n{text}"));
        found.trim().parse().unwrap()
    }

    fn reviews(&self, result: &str, reason: &str) -> u64 {
        self.count(&format!("podtap_injector_reviews_total{{result=\"{result}\",reason=\"{reason}\"}}"))
    }
}

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    })
}

/// k8s/injector.yaml with an address instead of the Service.
fn webhook_configuration(port: u16) -> String {
    let document =
        manifest("injector.yaml").split("\n---\n").find(|text| text.contains("kind: MutatingWebhookConfiguration")).unwrap().to_owned();
    let mut configuration: Value = serde_saphyr::from_str(&document).unwrap();
    for webhook in configuration["webhooks"].as_array_mut().unwrap() {
        webhook["clientConfig"] = json!({"url": format!("https://127.0.0.1:{port}/mutate")});
    }
    configuration.to_string()
}

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "initContainers": [{"name": "first", "image": "first"}],
            "containers": [{"name": "web", "image": "web", "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}}],
        },
    });
    change(&mut pod);
    pod.to_string()
}

fn create(server: &ApiServer, namespace: &str, object: &str) -> Output {
    server.done(&["-n", namespace, "create", "-f", "-"], object)
}

/// Names of the init containers of a stored pod.
fn first_containers(server: &ApiServer, namespace: &str, name: &str) -> Vec<String> {
    let pod = server.get(&["-n", namespace, "pod", name]);
    let containers = pod["spec"]["initContainers"].as_array().unwrap();
    containers.iter().map(|container| container["name"].as_str().unwrap().to_owned()).collect()
}

const INJECTED: [&str; 2] = ["podtap-sidecar", "first"];
const PLAIN: [&str; 1] = ["first"];

#[test]
fn pods_get_the_sidecar_from_a_real_api_server() {
    let mut server = ApiServer::start("inject");
    let webhook = free_port();
    server.done(&["apply", "-f", "-"], &manifest("injector.yaml"));
    server.done(&["apply", "-f", "-"], &webhook_configuration(webhook));
    server.namespace("shop", &json!({"podtap-injection": "enabled"}));
    server.namespace("other", &json!({}));

    // Nobody answers: pods are made all the same.
    create(&server, "shop", &pod("before", |_| {}));
    let injector = Injector::start(&mut server, webhook);
    create(&server, "shop", &pod("web", |_| {}));
    the_pod_is_as_it_should_be(&server.get(&["-n", "shop", "pod", "web"]));
    assert_eq!(first_containers(&server, "shop", "before"), PLAIN, "a pod that was there is left");
    labels_of_pods_go_first(&server);
    pod_security_is_respected_and_said(&server);
    what_is_wrong_is_a_warning(&server);
    what_inject_writes_is_taken(&server);
    inject_reads_as_the_server_does(&server);
    rights_are_the_least(&server);

    assert_eq!(injector.reviews("failed", "namespace_unreadable"), 0);
    assert!(injector.reviews("injected", "") >= 4 && injector.reviews("skipped", "pod_security") >= 2);
    assert_eq!(injector.reviews("skipped", "host_network"), 1);
    the_injector_comes_back(&mut server, webhook, injector);
}

/// As stored, so after all that the API server did after us.
fn the_pod_is_as_it_should_be(pod: &Value) {
    let containers = pod["spec"]["initContainers"].as_array().unwrap();
    assert_eq!(containers.iter().filter(|container| container["name"] == "podtap-sidecar").count(), 1);
    let sidecar = &containers[0];
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&json!("podtap-sidecar"), &json!("Always")));
    // The service account's token is in the application's containers, and not in ours.
    let token = |container: &Value| {
        let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
        let at = mounts.iter().find(|mount| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount");
        at.map(|mount| mount["name"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert!(token(&pod["spec"]["containers"][0]).starts_with("kube-api-access"), "{pod}");
    assert!(token(&containers[1]).starts_with("kube-api-access"), "{pod}");
    assert_eq!(token(sidecar), "podtap-no-token");
    let mounted = sidecar["volumeMounts"].as_array().unwrap();
    assert!(!mounted.iter().any(|mount| mount["name"].as_str().unwrap().starts_with("kube-api-access")), "{mounted:?}");
    assert_eq!(pod["metadata"]["labels"]["inject.podtap.io/injected"], "true");
    assert_eq!(pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"], "web");
    let status: Value = serde_json::from_str(pod["metadata"]["annotations"]["inject.podtap.io/status"].as_str().unwrap()).unwrap();
    assert_eq!((&status["container"], &status["version"]), (&json!("podtap-sidecar"), &json!(env!("CARGO_PKG_VERSION"))));
}

fn labels_of_pods_go_first(server: &ApiServer) {
    let labelled = |value: &'static str| move |pod: &mut Value| pod["metadata"]["labels"]["inject.podtap.io/inject"] = json!(value);
    create(server, "shop", &pod("no", labelled("false")));
    assert_eq!(first_containers(server, "shop", "no"), PLAIN);
    create(server, "other", &pod("plain", |_| {}));
    assert_eq!(first_containers(server, "other", "plain"), PLAIN);
    create(server, "other", &pod("yes", labelled("true")));
    assert_eq!(first_containers(server, "other", "yes"), INJECTED);
    let odd = create(server, "other", &pod("odd", labelled("yes")));
    assert!(odd.stderr.contains("Warning: podtap: label inject.podtap.io/inject: \"yes\""), "{}", odd.stderr);
    assert_eq!(first_containers(server, "other", "odd"), PLAIN);
    // A dry run shows what would be, and a Job's pod is one like any other.
    let job = pod("job", |pod| pod["spec"]["restartPolicy"] = json!("Never"));
    let shown = server.done(&["-n", "shop", "create", "--dry-run=server", "-o", "json", "-f", "-"], &job);
    assert!(shown.stdout.contains("podtap-sidecar"), "{}", shown.stdout);
    assert!(!server.kubectl(&["-n", "shop", "get", "pod", "job"]).success);
    create(server, "shop", &job);
    assert_eq!(first_containers(server, "shop", "job"), INJECTED);
    // From now on, for a namespace that is labelled now.
    server.namespace("late", &json!({}));
    create(server, "late", &pod("first", |_| {}));
    server.done(&["label", "namespace", "late", "podtap-injection=enabled"], "");
    create(server, "late", &pod("second", |_| {}));
    assert_eq!(
        (first_containers(server, "late", "first"), first_containers(server, "late", "second")),
        (PLAIN.map(str::to_owned).to_vec(), INJECTED.map(str::to_owned).to_vec())
    );
}

fn pod_security_is_respected_and_said(server: &ApiServer) {
    server.namespace("safe", &json!({"podtap-injection": "enabled", "pod-security.kubernetes.io/enforce": "baseline"}));
    let made = create(server, "safe", &pod("web", |_| {}));
    let warning = "Warning: podtap: no sidecar: namespace \"safe\" enforces Pod Security \"baseline\"";
    assert!(made.stderr.contains(warning) && made.stderr.contains("--overwrite"), "{}", made.stderr);
    assert_eq!(first_containers(server, "safe", "web"), PLAIN);
    // Its author hears of it at the Deployment: what a controller is told nobody reads.
    let template: Value = serde_json::from_str(&pod("web", |_| {})).unwrap();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": template["spec"]},
        },
    });
    let made = create(server, "safe", &deployment.to_string());
    assert!(made.stderr.contains(warning), "{}", made.stderr);
    assert!(!create(server, "shop", &deployment.to_string()).stderr.contains("podtap"));
    let stored = server.get(&["-n", "shop", "deployment", "web"]);
    assert_eq!(stored["spec"]["template"]["spec"]["initContainers"].as_array().unwrap().len(), 1, "a template is left as it is");
    server.namespace("strict", &json!({"podtap-injection": "enabled", "pod-security.kubernetes.io/enforce": "restricted"}));
    let restricted = pod("web", |pod| {
        pod["spec"]["securityContext"] = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
        for list in ["containers", "initContainers"] {
            pod["spec"][list][0]["securityContext"] = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        }
    });
    let made = create(server, "strict", &restricted);
    assert!(made.stderr.contains("enforces Pod Security \"restricted\""), "{}", made.stderr);
    assert_eq!(first_containers(server, "strict", "web"), PLAIN);
}

fn what_is_wrong_is_a_warning(server: &ApiServer) {
    let host = create(server, "shop", &pod("host", |pod| pod["spec"]["hostNetwork"] = json!(true)));
    assert!(host.stderr.contains("Warning: podtap: no sidecar: hostNetwork is enabled"), "{}", host.stderr);
    let annotated = pod("annotated", |pod| {
        pod["metadata"]["annotations"] =
            json!({"inject.podtap.io/sauce": "x", "inject.podtap.io/log-level": "loud", "inject.podtap.io/source": "ebpf"});
    });
    let made = create(server, "shop", &annotated);
    assert!(made.stderr.contains("unknown annotation \"inject.podtap.io/sauce\""), "{}", made.stderr);
    assert!(made.stderr.contains("inject.podtap.io/log-level: \"loud\" is none of error"), "{}", made.stderr);
    let stored = server.get(&["-n", "shop", "pod", "annotated"]);
    assert_eq!(stored["spec"]["initContainers"][0]["securityContext"]["capabilities"]["add"], json!(["NET_RAW", "BPF"]));
}

fn what_inject_writes_is_taken(server: &ApiServer) {
    let workload = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "db", "image": "db"}]}}},
    });
    let (code, out, err) = inject(&["inject", "-"], &workload.to_string());
    assert_eq!((code, err.as_str()), (0, "statefulset \"db\" injected\n"));
    create(server, "other", &out);
    let stored = server.get(&["-n", "other", "statefulset", "db"]);
    assert_eq!(stored["spec"]["template"]["spec"]["initContainers"][0]["name"], "podtap-sidecar");
    // As it comes back from the API server, with its defaults, it is restored too.
    let (code, out, err) = inject(&["uninject", "-"], &server.done(&["-n", "other", "get", "statefulset", "db", "-o", "yaml"], "").stdout);
    assert_eq!((code, err.as_str()), (0, "statefulset \"db\" uninjected\n"));
    assert!(!out.contains("podtap-sidecar") && !out.contains("podtap-spool"), "{out}");
    server.done(&["-n", "other", "replace", "-f", "-"], &out);
}

/// Whether kubectl and the API server take a manifest, and the names that they read in it.
fn taken(server: &ApiServer, text: &str) -> Result<Vec<String>, String> {
    let made = server.kubectl_with(&["-n", "other", "create", "--dry-run=server", "-o", "name", "-f", "-"], text);
    if made.success { Ok(made.stdout.lines().map(str::to_owned).collect()) } else { Err(made.stderr) }
}

fn inject_reads_as_the_server_does(server: &ApiServer) {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels:\n    app: a\nspec:\n  containers:\n  - name: a\n    image: a\n";
    let check = |text: &str, expect: Result<&str, &str>| {
        let (code, out, err) = inject(&["inject", "-"], text);
        let by_server = taken(server, text);
        match expect {
            Ok(report) => {
                assert_eq!((code, err.as_str()), (0, report), "{text}");
                assert!(by_server.is_ok(), "{by_server:?}\n{text}");
                let after = taken(server, &out);
                assert_eq!(after, by_server, "{out}");
                let (code, back, _) = inject(&["uninject", "-"], &out);
                assert_eq!((code, back.as_str()), (0, text));
            }
            Err(field) => {
                assert!(code == 65 && out.is_empty() && err.contains(field), "{err}\n{text}");
                assert!(by_server.is_err(), "the server takes it: {text}");
            }
        }
    };
    let injected = "pod \"a\" injected\n";
    check(&pod.replace("app: a", "inject.podtap.io/inject: false"), Err("labels[inject.podtap.io/inject] is false, a boolean"));
    check(&pod.replace("app: a", "app: on"), Err("metadata.labels.app is on, a boolean"));
    check(&pod.replace("app: a", "app: 0x10"), Err("metadata.labels.app is 0x10, a number"));
    check(&format!("{pod}  hostNetwork: \"true\"\n"), Err("spec.hostNetwork is \"true\", a string"));
    check(&pod.replace("\n  - name: a\n    image: a", " [abc]"), Err("spec.containers[0] is abc, a string"));
    check(&pod.replace("image: a", "image: a\n    ports: [{containerPort: \"80\"}]"), Err("ports[0].containerPort is \"80\", a string"));
    check(&pod.replace("- name: a", "- name: n"), Err("spec.containers[0].name is n, a boolean"));
    check(&pod.replace("name: a\n  labels", "name: {{ .Release.Name }}\n  labels"), Err("is a template"));
    check(&format!("{pod}  hostNetwork: yes\n"), Ok("pod \"a\" skipped: hostNetwork is enabled\n"));
    check(&format!("{pod}  hostNetwork: No\n  volumes:\n"), Ok(injected));
    check(&pod.replace("app: a", "app: a\n  annotations: ~"), Ok(injected));
    check(
        &pod.replace("image: a", "image: a\n    ports: [{containerPort: 0x50}, {containerPort: 0121}, {containerPort: 443.0}]"),
        Ok(injected),
    );
    check(&pod.replace('\n', "\r\n"), Ok(injected));
    check(&format!("\u{feff}# one\n{pod}"), Ok(injected));
    let json = |name: &str| self::pod(name, |_| {});
    let two = "pod \"a\" injected\npod \"b\" injected\n";
    check(&format!("{}\n{}\n", json("a"), json("b")), Ok(two));
    check(&format!("{}{}", json("a"), json("b")), Ok(two));
    let untyped = |name: &str| {
        let mut pod: Value = serde_json::from_str(&json(name)).unwrap();
        pod.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
        pod
    };
    check(&json!({"apiVersion": "v1", "kind": "PodList", "items": [untyped("a"), untyped("b")]}).to_string(), Ok(two));
}

fn rights_are_the_least(server: &ApiServer) {
    let may = |verb: &str, what: &str| {
        let who = "--as=system:serviceaccount:podtap:podtap-injector";
        server.kubectl(&["auth", "can-i", verb, what, "-n", "podtap", who]).stdout.trim() == "yes"
    };
    assert!(may("update", "secret/podtap-injector-certificate") && may("patch", "mutatingwebhookconfiguration/podtap-injector"));
    for (verb, what) in [
        ("get", "secret/other"),
        ("list", "secrets"),
        ("create", "secrets"),
        ("get", "pods"),
        ("patch", "mutatingwebhookconfiguration/other"),
        ("create", "mutatingwebhookconfigurations"),
        ("list", "namespaces"),
    ] {
        assert!(!may(verb, what), "{verb} {what}");
    }
}

/// Whether a new pod gets the sidecar.
fn injects(server: &ApiServer) -> Option<()> {
    let shown = server.done(&["-n", "shop", "create", "--dry-run=server", "-o", "json", "-f", "-"], &pod("probe", |_| {}));
    shown.stdout.contains("podtap-sidecar").then_some(())
}

fn the_injector_comes_back(server: &mut ApiServer, webhook: u16, injector: Injector) {
    let secret = |server: &ApiServer| server.get(&["-n", "podtap", "secret", "podtap-injector-certificate"])["data"].clone();
    let first = secret(server);
    // Somebody overwrites the webhook configuration: back within 60 s.
    let began = Instant::now();
    server.done(&["replace", "-f", "-"], &webhook_configuration(webhook));
    until("the webhook configuration is mended", || injects(server));
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(injector.count("podtap_injector_ca_bundle_patches_total") >= 2);
    // A certificate that is lost is made anew and shown without a restart.
    server.done(
        &["-n", "podtap", "patch", "secret", "podtap-injector-certificate", "--type=json", "-p", r#"[{"op": "remove", "path": "/data"}]"#],
        "",
    );
    until("there is another certificate", || (injector.count("podtap_injector_certificates_made_total") == 2).then_some(()));
    until("it is believed", || injects(server));
    let second = secret(server);
    assert_ne!(first["tls.crt"], second["tls.crt"]);

    // An orderly end; deploys go through meanwhile; then injection is back with the certificate that was.
    assert_eq!(server.terminate(injector.process), Some(0), "{}", server.log("injector"));
    create(server, "shop", &pod("meanwhile", |_| {}));
    assert_eq!(first_containers(server, "shop", "meanwhile"), PLAIN);
    let began = Instant::now();
    let again = Injector::start(server, webhook);
    until("injection is back", || injects(server));
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(again.count("podtap_injector_certificates_made_total"), 0);
    // Another replica shares it.
    let replica = Injector::start(server, free_port());
    assert_eq!(replica.count("podtap_injector_certificates_made_total"), 0);
    assert_eq!(secret(server), second);
    injects(server).expect("a second replica does not change what is believed");
}

/// Runs a command of the analyzer on a text: exit code, standard output, standard error.
fn inject(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child =
        Command::new(ANALYZER).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that ended already has said why.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn manifests_are_changed_on_the_command_line() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  template:\n    metadata:\n      \
                      labels:\n        app: web\n    spec:\n      containers:\n        - name: web # ours\n          image: web\n";
    let daemon_set = deployment.replace("Deployment", "DaemonSet").replace("    spec:\n", "    spec:\n      hostNetwork: true\n");
    let text = format!("{deployment}---\n{daemon_set}---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n");
    let (code, out, err) = inject(&["inject", "-", "--sidecar-image=example.org/sidecar:2"], &text);
    let report =
        "deployment \"web\" injected\ndaemonset \"web\" skipped: hostNetwork is enabled\nservice \"web\" skipped: not a workload\n";
    assert_eq!((code, err.as_str()), (0, report));
    assert!(out.contains("image: \"example.org/sidecar:2\"") && out.contains("- name: web # ours"), "{out}");
    assert!(out.ends_with(&text[deployment.len()..]), "what is not changed is the same: {out}");
    let (code, back, _) = inject(&["uninject", "-"], &out);
    assert_eq!((code, back.as_str()), (0, text.as_str()));
    let (_, out, err) = inject(&["inject", "--label", "-"], deployment);
    assert_eq!(err, "deployment \"web\" labelled\n");
    assert!(out.contains("inject.podtap.io/inject: \"true\"\n") && !out.contains("podtap-sidecar"), "{out}");
    let (_, _, err) = inject(&["inject", "--verbose", "-"], &daemon_set);
    assert!(err.contains("‼ the pod has a network of its own") && err.contains("√ the kind is one with pods"), "{err}");
    assert!(!err.contains("Windows"), "what was not looked at is not said to be fine: {err}");
    let (_, out, err) = inject(&["inject", "--label", "-"], &daemon_set);
    assert_eq!((out, err.as_str()), (daemon_set.clone(), "daemonset \"web\" skipped: hostNetwork is enabled\n"));
    let placed = deployment.replace("  name: web\nspec", "  name: web\n  namespace: watch\nspec");
    assert_eq!(inject(&["inject", "-"], &placed).2, "deployment \"web\" injected\n");
    let (_, out, err) = inject(&["inject", "-", "--injector-namespace=watch"], &placed);
    assert!(out == placed && err.starts_with("deployment \"web\" skipped: its namespace gets none"), "{err}");
}

#[test]
fn several_files_are_told_apart() {
    let folder = std::env::temp_dir().join(format!("podtap-inject-files-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n";
    let (web, empty, db) = (file("web.yaml", pod), file("empty.yaml", "# nothing\n"), file("db.yaml", &pod.replace(": a}\n", ": b}\n")));
    let (code, out, err) = inject(&["inject", &web, &empty, &db], "");
    assert_eq!(code, 0, "{err}");
    assert_eq!(err, format!("{empty}: no documents\n{web}: pod \"a\" injected\n{db}: pod \"b\" injected\n"));
    assert_eq!(out.matches("podtap-sidecar").count(), inject(&["inject", &web], "").1.matches("podtap-sidecar").count() * 2);
    let wrong = file("wrong.yaml", &format!("{pod}---\n{}", pod.replace("{con", "{hostNetwork: 'true', con")));
    let (code, out, err) = inject(&["inject", &web, &wrong], "");
    let expect = "document 2, line 9, column 21: pod \"a\": spec.hostNetwork is 'true', a string; it must be true or false, without quotes";
    assert_eq!((code, out.as_str(), err), (65, "", format!("podtap-analyzer: {wrong}: {expect}\n")));
    assert_eq!(inject(&["inject", "-"], ""), (0, String::new(), "standard input: no documents\n".to_owned()));
    let list = "apiVersion: v1\nkind: List\nitems: []\n";
    assert_eq!(inject(&["uninject", "-"], list), (0, list.to_owned(), "standard input: no objects\n".to_owned()));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn wrong_input_has_its_exit_code_and_place() {
    let check = |arguments: &[&str], input: &str, code: i32, expect: &str| {
        let (found, out, err) = inject(arguments, input);
        assert_eq!((found, out.as_str()), (code, ""), "{err}");
        assert!(err.contains(expect), "{err}");
    };
    check(&["inject", "-"], "a: 1\n---\nkind: Pod\nmetadata: [\n", 65, "standard input: document 2, line");
    check(&["inject", "-"], "a: 1\na: 2\n", 65, "document 1, line 2");
    check(&["uninject", "-"], "\"", 65, "standard input: document 1, line 1");
    check(&["inject", "/does/not/exist.yaml"], "", 66, "/does/not/exist.yaml");
    check(&["inject"], "", 2, "no manifest is given");
    check(&["inject", "-", "--sidecar-memory-limit=1"], "", 78, "sidecar-memory-limit");
    check(&["inject", "-", "--sidecar-admin-port=0"], "", 78, "0 is not in 1..=65535");
    check(&["inject", "-", "--sidecar-admin-port=65536"], "", 78, "65536 is not in 1..=65535");
    check(&["inject", "-", "--injector-namespace=Podtap"], "", 78, "injector-namespace");
    check(&["inject", "serve", "--kubernetes=/does/not/exist"], "", 78, "/does/not/exist");
    check(&["inject", "serve", "--webhook-listen=nowhere"], "", 78, "webhook-listen");
}
