//! What the sidecar costs beside a busy server: processor time a request, memory, and how far the server's rate falls.
//!
//! nginx with one worker, wrk with 64 connections in another namespace; rounds without and with a sidecar alternate, so
//! that the machine's moods meet both.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use super::measure::{self, cpu_so_far, peak_bytes};
use super::{Section, megabytes, thousands};
use crate::account::Account;
use crate::captures;
use crate::lab::{self, Lab};
use crate::run::{self, Doing, Failure, Result, say};
use crate::workspace::Workspace;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// `print --quiet`: captures, decodes and makes every record, and sends nothing.
    Quiet,
    /// Lines to the null device.
    Print,
    /// To a broker beside it.
    Kafka,
}

pub struct Setup {
    pub sidecar: PathBuf,
    pub source: String,
    pub rounds: usize,
    pub seconds: u32,
}

/// Where the sidecar's admin interface listens, inside the server's namespace.
const ADMIN: &str = "127.0.0.1:9871";

struct Round {
    requests: f64,
    rate: f64,
    sidecar: Option<Sidecar>,
}

struct Sidecar {
    cpu_seconds: f64,
    peak: f64,
    records: f64,
    dropped: f64,
    source: String,
}

pub fn measure(workspace: &Workspace, setup: &Setup, transports: &[Transport]) -> Result<Section> {
    let mut lab = Lab::new(&workspace.output().join("lab"))?;
    lab.nginx()?;
    let broker = if transports.contains(&Transport::Kafka) { Some(Broker::start(&lab)?) } else { None };
    let mut without = Vec::new();
    let mut with: Vec<Vec<Round>> = transports.iter().map(|_| Vec::new()).collect();
    // The first load warms nginx and the frequency of the processor; it is not counted.
    round(&mut lab, setup, None, None)?;
    for number in 1..=setup.rounds {
        say(format_args!("==> round {number} of {}", setup.rounds));
        without.push(round(&mut lab, setup, None, None)?);
        for (transport, rounds) in transports.iter().zip(&mut with) {
            rounds.push(round(&mut lab, setup, Some(*transport), broker.as_ref())?);
        }
    }
    let mut rows = vec![row("none", &without, &without)];
    for (transport, rounds) in transports.iter().zip(&with) {
        rows.push(row(&format!("{transport:?}").to_lowercase(), rounds, &without));
    }
    drop(broker);
    Ok(Section {
        title: "Beside a busy nginx".to_owned(),
        remarks: vec![format!(
            "wrk -c64 -d{} against nginx with one worker, small keep-alive requests, over veth; medians of {} rounds, in each of which \
             every row had its turn; `fall` is the median of the rounds' own falls. All share this machine's processors, with `kafka` the \
             broker too. `quiet` makes every record and sends none, `print` writes JSON lines to the null device. `seen` is records by \
             requests; a row with a round below 100 % is marked `!`.",
            setup.seconds, setup.rounds
        )],
        head: vec![
            "sidecar sends to",
            "source",
            "requests/s",
            "spread",
            "fall",
            "us CPU a request",
            "peak memory",
            "seen",
            "packets dropped",
        ],
        rows,
    })
}

fn row(name: &str, rounds: &[Round], base: &[Round]) -> Vec<String> {
    let rates: Vec<f64> = rounds.iter().map(|r| r.rate).collect();
    let of = |what: fn(&Round, &Sidecar) -> f64| {
        let values: Vec<f64> = rounds.iter().filter_map(|r| r.sidecar.as_ref().map(|s| what(r, s))).collect();
        (!values.is_empty()).then(|| measure::median(&values))
    };
    let cell = |value: Option<f64>, show: &dyn Fn(f64) -> String| value.map_or_else(|| "-".to_owned(), show);
    let falls: Vec<f64> = rounds.iter().zip(base).map(|(with, without)| 1.0 - with.rate / without.rate.max(1.0)).collect();
    let fall = measure::median(&falls);
    let missed = rounds.iter().any(|r| r.sidecar.as_ref().is_some_and(|s| s.records < r.requests));
    let mark = if missed { " !" } else { "" };
    let source = rounds.iter().find_map(|r| r.sidecar.as_ref().map(|s| s.source.clone())).unwrap_or_else(|| "-".to_owned());
    vec![
        name.to_owned(),
        source,
        thousands(measure::median(&rates)),
        format!("{:.1} %", measure::spread(&rates) * 100.0),
        if name == "none" { "-".to_owned() } else { format!("{:.1} %", fall * 100.0) },
        cell(of(|r, s| s.cpu_seconds * 1e6 / r.requests.max(1.0)), &|v| format!("{v:.2}")),
        cell(of(|_, s| s.peak), &megabytes),
        cell(of(|r, s| s.records / r.requests.max(1.0)), &|v| format!("{:.2} %{mark}", v * 100.0)),
        cell(of(|_, s| s.dropped), &|v| format!("{v:.0}")),
    ]
}

fn round(lab: &mut Lab, setup: &Setup, transport: Option<Transport>, broker: Option<&Broker>) -> Result<Round> {
    let pid = match transport {
        Some(transport) => Some(start_sidecar(lab, setup, transport, broker)?),
        None => None,
    };
    let before = pid.map(cpu_so_far).transpose()?;
    let said = run::capture(&mut captures::wrk(lab, captures::API, setup.seconds)?)?;
    let (requests, rate) = wrk_figures(&said).ok_or_else(|| Failure(format!("wrk's figures cannot be read:\n{said}")))?;
    let mut sidecar = None;
    if let (Some(pid), Some(before)) = (pid, before) {
        // Records in the batch that is still open belong to the round.
        std::thread::sleep(std::time::Duration::from_secs(2));
        let (cpu_seconds, peak) = (cpu_so_far(pid)? - before, peak_bytes(pid)? as f64);
        let said = match transport {
            Some(Transport::Quiet) => {
                lab.stop("sidecar", libc::SIGTERM)?;
                lab.log("sidecar")
            }
            _ => {
                let metrics = metrics()?;
                lab.stop("sidecar", libc::SIGTERM)?;
                metrics
            }
        };
        let total = |name| if transport == Some(Transport::Quiet) { sum_in_account(&said, name) } else { sum_of(&said, name) };
        sidecar = Some(Sidecar {
            cpu_seconds,
            peak,
            records: total("podtap_records_total"),
            dropped: total("podtap_packets_dropped_total"),
            source: source_in(&said).unwrap_or_else(|| "unknown".to_owned()),
        });
    }
    Ok(Round { requests, rate, sidecar })
}

fn start_sidecar(lab: &mut Lab, setup: &Setup, transport: Transport, broker: Option<&Broker>) -> Result<u32> {
    match (transport, broker) {
        (Transport::Quiet, _) => {
            let mut sidecar = lab::inside(lab::SERVER, &setup.sidecar)?;
            sidecar.args(["print", "--quiet", "--stats", "--log-level", "info", "--source", &setup.source, "--interface", lab::INTERFACE]);
            let pid = lab.start("sidecar", sidecar)?;
            lab.wait_for("sidecar", |lab| lab.log("sidecar").contains("capturing"))?;
            Ok(pid)
        }
        (Transport::Kafka, Some(broker)) => {
            // Nobody reads, so the broker has to make the topic.
            let option = "--kafka-option=allow.auto.create.topics=true";
            start_run(lab, &setup.sidecar, &setup.source, &["--transport", "kafka", "--kafka-brokers", &broker.address, option])
        }
        (Transport::Kafka, None) => Err(Failure::new("no broker for the transport kafka")),
        (Transport::Print, _) => start_run(lab, &setup.sidecar, &setup.source, &["--transport", "print"]),
    }
}

/// `run` in the server's namespace, its lines to the null device.
pub fn start_run(lab: &mut Lab, program: &Path, source: &str, transport: &[&str]) -> Result<u32> {
    let mut sidecar = lab::inside(lab::SERVER, program)?;
    sidecar.args(["run", "--source", source, "--interface", lab::INTERFACE, "--admin-listen", ADMIN]).args(transport);
    // Lines go to the null device, messages to the log: through a shell, because the lab gives both one file.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" >/dev/null", "sidecar"]).arg(sidecar.get_program()).args(sidecar.get_args());
    let pid = lab.start("sidecar", shell)?;
    lab.wait_for("sidecar", |_| lab::answers(lab::SERVER, &format!("http://{ADMIN}/healthz")))?;
    Ok(pid)
}

/// A broker in the server's namespace: there the sidecar reaches it on loopback.
struct Broker {
    dir: PathBuf,
    address: String,
}

impl Broker {
    fn start(lab: &Lab) -> Result<Self> {
        let dir = lab.dir().join("kafka");
        let printed = run::capture(own_kafka(&dir)?.arg("start"))?;
        let address = printed.trim().strip_prefix("listening on ").map(str::to_owned);
        match address {
            Some(address) => Ok(Broker { dir, address }),
            None => Err(Failure(format!("the broker said `{}` instead of its address", printed.trim()))),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(failure) = own_kafka(&self.dir).and_then(|mut kafka| run::capture(kafka.arg("stop"))) {
            say(format_args!("stopping the broker: {failure}"));
        }
    }
}

fn own_kafka(dir: &Path) -> Result<Command> {
    let mut kafka = lab::inside(lab::SERVER, std::env::current_exe().doing("finding this program")?)?;
    kafka.args(["kafka", "--dir"]).arg(dir);
    Ok(kafka)
}

/// `  612047 requests in 15.00s, ...` and `Requests/sec:  40803.13`.
fn wrk_figures(said: &str) -> Option<(f64, f64)> {
    let requests = said.lines().find(|l| l.contains(" requests in "))?.split_whitespace().next()?.parse().ok()?;
    let rate = said.lines().find_map(|l| l.strip_prefix("Requests/sec:"))?.trim().parse().ok()?;
    Some((requests, rate))
}

/// What the sidecar that [`start_run`] started says at /metrics.
pub fn metrics() -> Result<String> {
    run::capture(lab::inside(lab::SERVER, "curl")?.args(["--silent", "--fail", &format!("http://{ADMIN}/metrics")]))
}

/// The sum over all labels of a metric in the object that `print --stats` writes.
fn sum_in_account(said: &str, name: &str) -> f64 {
    Account::last_in(said).and_then(|account| account.sum(name)).unwrap_or(0) as f64
}

/// The sum over all labels of a metric in Prometheus text.
pub fn sum_of(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|l| {
        let rest = l.strip_prefix(name)?;
        (rest.starts_with('{') || rest.starts_with(' ')).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    values.sum()
}

/// The source in use, from Prometheus text or from the object that `print --stats` writes.
fn source_in(metrics: &str) -> Option<String> {
    if let Some(account) = Account::last_in(metrics) {
        return account.label("podtap_source_info").map(str::to_owned);
    }
    let line = metrics.lines().find(|l| l.starts_with("podtap_source_info{") && l.ends_with(" 1"))?;
    line.split_once("source=\"")?.1.split('"').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_figures_are_read() {
        let said = "Running 2s test @ http://10.77.0.1/\n  238014 requests in 2.00s, 59.24MB read\nRequests/sec: 118975.32\n";
        assert_eq!(wrk_figures(said), Some((238_014.0, 118_975.32)));
        assert_eq!(wrk_figures("unable to connect"), None);
    }

    #[test]
    fn metrics_are_summed_over_their_labels_and_not_over_other_names() {
        let metrics = "# TYPE podtap_records counter\n\
                       podtap_records_total{protocol=\"http\"} 5\n\
                       podtap_records_total{protocol=\"mysql\"} 2\n\
                       podtap_records_total_other 9\n\
                       podtap_source_info{source=\"pcap\"} 1\n";
        assert_eq!(sum_of(metrics, "podtap_records_total"), 7.0);
        assert_eq!(sum_of(metrics, "podtap_gone_total"), 0.0);
        assert_eq!(source_in(metrics).as_deref(), Some("pcap"));
        let account = "{\"podtap_packets_dropped_total\":{\"interface\":0,\"kernel\":3},\"podtap_source_info\":{\"ebpf\":1}}";
        assert_eq!(sum_in_account(account, "podtap_packets_dropped_total"), 3.0);
        assert_eq!(sum_in_account(account, "podtap_records_total"), 0.0);
        assert_eq!(source_in(account).as_deref(), Some("ebpf"));
    }
}
