//! What the sidecar costs in a pod of a real Kubernetes: CPU and memory at 1,000 requests a second, and the application's latency with and
//! without it, in rounds whose order alternates. `cargo xtask bench --cluster` runs it; the section goes to standard output.

use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use podtap_tests::cluster::{Cluster, START_LIMIT, manifest, plain_pod};
use podtap_tests::load::Until;
use podtap_tests::load::http::{HttpLoad, Route};
use podtap_tests::{Context, Failure, Result, http, running, wait};
use serde_json::Value;

const NAMESPACE: &str = "bench";
const SIDECAR: &str = "podtap-sidecar";
const ROUTES: [Route; 1] = [Route::get(1, "/things/{}", "GET /things/{id}")];
/// Warms both servers and the processor's frequency; not shown.
const WARM_SECONDS: u64 = 5;
/// A pod without any request would be in another class of service than one that has a sidecar's.
const RESOURCES: &str = "      resources: { requests: { cpu: 100m, memory: 64Mi } }\n";

#[derive(Parser)]
struct Options {
    /// Rounds, each of a load without and one with the sidecar
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Seconds of each load
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Requests a second
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Profile of the images, which are there (cargo xtask images)
    #[arg(long, default_value = "release")]
    profile: String,
}

fn main() -> ExitCode {
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("podtap-cluster-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// One load.
struct Round {
    p50: u64,
    p99: u64,
    rate: f64,
}

/// What the sidecar took over one load.
struct Cost {
    cores: f64,
    resident: u64,
    peak: u64,
}

fn measure(options: &Options) -> Result<()> {
    let mut cluster = Cluster::claim()?;
    cluster.up_with_images(&options.profile)?;
    cluster.apply(&manifest("analyzer.yaml")?)?;
    cluster.rolled_out("podtap", "statefulset/podtap-analyzer")?;
    cluster.install_injector()?;
    cluster
        .apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE}, labels: {{ podtap-injection: enabled }} }}\n"))?;
    let [without, with] = [("without", false), ("with", true)].map(|(name, injected)| pod(&cluster, name, injected));
    let (without, with) = (without?, with?);
    let described = compare(&cluster)?;
    let process = cluster.process(NAMESPACE, "with", SIDECAR)?;
    for target in [without, with] {
        load(options, target, WARM_SECONDS)?;
    }
    let (mut bare, mut watched, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..options.rounds {
        eprintln!("==> round {} of {}", number + 1, options.rounds);
        // The one that comes second meets a warmer machine: each is it in turn.
        for injected in [number % 2 == 1, number % 2 == 0] {
            if injected {
                let (before, started) = (running::cpu_seconds(process)?, Instant::now());
                watched.push(load(options, with, options.seconds)?);
                let cores = (running::cpu_seconds(process)? - before) / started.elapsed().as_secs_f64();
                costs.push(Cost {
                    cores,
                    resident: running::memory_bytes(process, "VmRSS")?,
                    peak: running::memory_bytes(process, "VmHWM")?,
                });
            } else {
                bare.push(load(options, without, options.seconds)?);
            }
        }
    }
    let source = complete(&cluster, (options.rounds * options.seconds + WARM_SECONDS) * u64::from(options.rate))?;
    print(options, &format!("{described}, source {source}"), &bare, &watched, &costs);
    cluster.down()
}

/// Applies a pod, the same but for the label that asks for a sidecar, and waits until it answers.
fn pod(cluster: &Cluster, name: &str, injected: bool) -> Result<SocketAddrV4> {
    let label = format!("  labels: {{ inject.podtap.io/inject: \"{injected}\" }}\n");
    cluster.apply(&plain_pod(NAMESPACE, name, &label, RESOURCES))?;
    cluster.ready(NAMESPACE, name)?;
    let address = cluster.field(NAMESPACE, &format!("pod/{name}"), "{.status.podIP}")?.parse().context("the pod's address")?;
    let address = SocketAddrV4::new(address, 80);
    wait::until_true("the pod answers", START_LIMIT, || Ok(http::get(address, "/")?.status == 200))?;
    Ok(address)
}

/// Insists that the pods differ in the sidecar alone, as the API server has them, and says what it is.
fn compare(cluster: &Cluster) -> Result<String> {
    let specification = |name: &str| cluster.get(&["-n", NAMESPACE, "pod", name]).map(|pod| pod["spec"].clone());
    let (with, mut watched) = (specification("with")?, specification("with")?);
    let bare = specification("without")?;
    let [class, of_bare] = ["with", "without"].map(|name| cluster.field(NAMESPACE, &format!("pod/{name}"), "{.status.qosClass}"));
    let (class, of_bare) = (class?, of_bare?);
    if class != of_bare {
        return Err(Failure(format!("the pods are in different classes of service: {class}, {of_bare}")));
    }
    let sidecar = &with["initContainers"][0];
    if sidecar["name"] != SIDECAR || with["initContainers"].as_array().is_none_or(|containers| containers.len() != 1) {
        return Err(Failure(format!("the webhook has injected no sidecar: {with}")));
    }
    if let Some(fields) = watched.as_object_mut() {
        fields.remove("initContainers");
        if let Some(volumes) = fields.get_mut("volumes").and_then(Value::as_array_mut) {
            volumes.retain(|volume| !volume["name"].as_str().is_some_and(|name| name.starts_with("podtap-")));
        }
    }
    if watched != bare {
        return Err(Failure(format!("the pods differ in more than the sidecar:\n{watched}\n{bare}")));
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" and "),
        other => other.to_string(),
    };
    let context = &sidecar["securityContext"];
    Ok(format!(
        "{} as user {}, capability {}, memory limit {}",
        text(&sidecar["image"]),
        text(&context["runAsUser"]),
        text(&context["capabilities"]["add"]),
        text(&sidecar["resources"]["limits"]["memory"]),
    ))
}

fn load(options: &Options, target: SocketAddrV4, seconds: u64) -> Result<Round> {
    let count = seconds * u64::from(options.rate);
    let load = HttpLoad { target, connections: 16, rate: options.rate, routes: ROUTES.to_vec(), until: Until::Count(count) };
    let report = load.start().finish()?;
    Ok(Round { p50: report.quantile(0.5), p99: report.quantile(0.99), rate: report.rate() })
}

/// Figures of a sidecar that lost requests mean nothing: waits for all of them, and says by which source they were seen.
fn complete(cluster: &Cluster, sent: u64) -> Result<String> {
    let clickhouse = cluster.service("podtap", "podtap-analyzer", 8123)?;
    let sql = "SELECT count(), anyLast(source), uniqExact(source) FROM podtap.requests FINAL \
               WHERE k8s_pod_name = 'with' AND startsWith(url_path, '/things/')";
    wait::until("every request is stored", Duration::from_secs(60), || {
        let answer = http::request(clickhouse, "POST", "/", &[], sql)?.body;
        match answer.split_whitespace().collect::<Vec<_>>()[..] {
            [count, source, "1"] if count == sent.to_string() => Ok(Some(source.to_owned())),
            _ => Err(Failure(format!("{} instead of {sent} from one source", answer.trim()))),
        }
    })
}

/// The middle one, or between the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len() / 2) + at(values.len().saturating_sub(1) / 2)) / 2.0
}

/// Median, lowest and highest.
fn cell(values: Vec<f64>, decimals: usize) -> String {
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    format!("{:.decimals$} ({low:.decimals$} to {high:.decimals$})", median(values))
}

fn print(options: &Options, described: &str, bare: &[Round], watched: &[Round], costs: &[Cost]) {
    println!("## In a pod of Kubernetes\n");
    println!(
        "Two pods of one manifest (nginx), whose specifications differ in the sidecar alone: the namespace has \
         podtap-injection=enabled, the webhook injected one ({described}; {} profile), the label inject.podtap.io/inject says \
         \"false\" in the other. {} requests a second over 16 kept connections from the node, {} s each, {} rounds, in odd ones \
         first without, in even ones first with the sidecar. Cells are medians, and the lowest and highest round. Every request \
         was stored.\n",
        options.profile, options.rate, options.seconds, options.rounds
    );
    println!("| pod | requests/s | p50, us | p99, us |\n|---|---|---|---|");
    for (name, rounds) in [("without a sidecar", bare), ("with one", watched)] {
        let of = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<f64>>();
        let (p50, p99) = (cell(of(|r| r.p50 as f64 / 1e3), 0), cell(of(|r| r.p99 as f64 / 1e3), 0));
        println!("| {name} | {} | {p50} | {p99} |", cell(of(|r| r.rate), 0));
    }
    let of = |value: fn(&Cost) -> f64| costs.iter().map(value).collect::<Vec<f64>>();
    let a_request = costs.iter().zip(watched).map(|(cost, round)| cost.cores * 1e6 / round.rate).collect();
    println!("\n| the sidecar | CPU, % of a core | CPU a request, us | resident, MB | at its peak, MB |\n|---|---|---|---|---|");
    println!(
        "| | {} | {} | {} | {} |",
        cell(of(|c| c.cores * 100.0), 2),
        cell(a_request, 1),
        cell(of(|c| c.resident as f64 / 1e6), 1),
        cell(of(|c| c.peak as f64 / 1e6), 1),
    );
}
