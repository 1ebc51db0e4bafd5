//! What the sidecar costs in a pod of a real Kubernetes: CPU and memory at 1,000 requests a second, and the application's latency with and
//! without it, in alternating rounds. `cargo xtask bench --cluster` runs it; the section goes to standard output.

use std::fs;
use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use podtap_tests::cluster::{Cluster, START_LIMIT};
use podtap_tests::load::Until;
use podtap_tests::load::http::{HttpLoad, Route};
use podtap_tests::{Context, Failure, Result, http, wait};

const NAMESPACE: &str = "bench";
const ROUTES: [Route; 1] = [Route::get(1, "/things/{}", "GET /things/{id}")];

#[derive(Parser)]
struct Options {
    /// Rounds, each of a load without and one with the sidecar
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each load
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Requests a second
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// Profile of the binaries in the images
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
    let cluster = Cluster::up_with(&options.profile)?;
    cluster.apply(&podtap_tests::cluster::manifest("analyzer.yaml")?)?;
    cluster.rolled_out("podtap", "statefulset/podtap-analyzer")?;
    cluster.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE} }}\n"))?;
    let with = pod(&cluster, "with", &podtap_tests::cluster::pod_with_sidecar()?)?;
    let without = pod(&cluster, "without", &podtap_tests::cluster::pod_without_sidecar()?)?;
    let process = sidecar(&cluster)?;
    // Warms both servers and the processor's frequency; not counted.
    for target in [without, with] {
        load(options, target, 5)?;
    }
    let (mut bare, mut watched, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..options.rounds {
        eprintln!("==> round {} of {}", number + 1, options.rounds);
        bare.push(load(options, without, options.seconds)?);
        let (before, started) = (cpu_seconds(process)?, Instant::now());
        watched.push(load(options, with, options.seconds)?);
        let cores = (cpu_seconds(process)? - before) / started.elapsed().as_secs_f64();
        costs.push(Cost { cores, resident: memory(process, "VmRSS")?, peak: memory(process, "VmHWM")? });
    }
    complete(&cluster, (options.rounds as u64 * options.seconds + 5) * u64::from(options.rate))?;
    print(options, &bare, &watched, &costs);
    cluster.down()
}

/// Applies a pod under another name and waits until it answers.
fn pod(cluster: &Cluster, name: &str, manifest: &str) -> Result<SocketAddrV4> {
    cluster.apply(&manifest.replace("  name: shop\n", &format!("  name: {name}\n  namespace: {NAMESPACE}\n")))?;
    let ready = ["-n", NAMESPACE, "wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=80s"];
    cluster.kubectl(&ready).map_err(|failure| Failure(format!("{failure}\n{}", cluster.state(NAMESPACE))))?;
    let address = cluster.field(NAMESPACE, &format!("pod/{name}"), "{.status.podIP}")?.parse().context("the pod's address")?;
    let address = SocketAddrV4::new(address, 80);
    wait::until_true("the pod answers", START_LIMIT, || Ok(http::get(address, "/things/1")?.status == 200))?;
    Ok(address)
}

fn load(options: &Options, target: SocketAddrV4, seconds: u64) -> Result<Round> {
    let count = seconds * u64::from(options.rate);
    let load = HttpLoad { target, connections: 16, rate: options.rate, routes: ROUTES.to_vec(), until: Until::Count(count) };
    let report = load.start().finish()?;
    Ok(Round { p50: report.quantile(0.5), p99: report.quantile(0.99), rate: report.rate() })
}

/// The sidecar's process: its control group names the pod.
fn sidecar(cluster: &Cluster) -> Result<u32> {
    let uid = cluster.field(NAMESPACE, "pod/with", "{.metadata.uid}")?;
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let of =
            |file: &str| fs::read(entry.path().join(file)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        if of("cgroup").contains(&uid) && of("cmdline").contains("podtap-sidecar") {
            return Ok(pid);
        }
    }
    Err(Failure::new("the pod's sidecar has no process on this machine"))
}

/// User and system time of all threads (proc_pid_stat(5), fields 14 and 15).
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the sidecar's figures")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("a figure in /proc/PID/stat");
    // SAFETY: sysconf has no preconditions.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok((ticks(11)? + ticks(12)?) / hertz as f64)
}

fn memory(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the sidecar's figures")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes: u64 = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).context(format!("{field} of the sidecar"))?;
    Ok(kilobytes * 1024)
}

/// Figures of a sidecar that lost requests mean nothing.
fn complete(cluster: &Cluster, least: u64) -> Result<()> {
    let clickhouse = cluster.service("podtap", "podtap-analyzer", 8123)?;
    let sql = "SELECT count() FROM podtap.requests FINAL WHERE k8s_pod_name = 'with'";
    wait::until("every request is stored", Duration::from_secs(60), || {
        let count: u64 = http::request(clickhouse, "POST", "/", &[], sql)?.body.trim().parse().context("a count")?;
        if count >= least { Ok(Some(())) } else { Err(Failure(format!("{count} of {least}"))) }
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn print(options: &Options, bare: &[Round], watched: &[Round], costs: &[Cost]) {
    println!("## In a pod of Kubernetes\n");
    println!(
        "nginx in a pod, {} requests a second over 16 kept connections from the node for {} s, without and with `podtap-sidecar` ({} \
         profile, source pcap, records to the analyzer's pod over gRPC), in turn; medians of {} rounds, and the lowest and highest. \
         Every request was stored.\n",
        options.rate, options.seconds, options.profile, options.rounds
    );
    println!("| pod | requests/s | p50 | p99 |\n|---|---|---|---|");
    for (name, rounds) in [("without a sidecar", bare), ("with one", watched)] {
        let of = |value: fn(&Round) -> f64| rounds.iter().map(value).collect::<Vec<f64>>();
        let cell = |values: Vec<f64>| {
            let (low, high) = values.iter().fold((f64::MAX, 0.0_f64), |(low, high), v| (low.min(*v), high.max(*v)));
            format!("{:.0} us ({:.0} to {:.0})", median(values), low, high)
        };
        let (p50, p99) = (cell(of(|r| r.p50 as f64 / 1e3)), cell(of(|r| r.p99 as f64 / 1e3)));
        println!("| {name} | {:.0} | {p50} | {p99} |", median(of(|r| r.rate)));
    }
    let of = |value: fn(&Cost) -> f64| median(costs.iter().map(value).collect());
    println!(
        "\nThe sidecar: {:.1} % of one core, {:.1} us a request, {:.1} MB resident, {:.1} MB at its peak.",
        of(|c| c.cores * 100.0),
        of(|c| c.cores) * 1e6 / f64::from(options.rate),
        of(|c| c.resident as f64 / 1e6),
        of(|c| c.peak as f64 / 1e6),
    );
}
