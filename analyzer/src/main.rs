//! The analyzer's command line. Exit codes: 0 ok, 1 failure, 2 usage, 65 wrong data, 66 no input, 69 unavailable, 78 configuration.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use podtap_analyzer::app::{self, AppError};
use podtap_analyzer::config::{self, Command, CommandLine, Config, ConfigCommand, LogFormat, Settings};
use podtap_analyzer::ingest::kubernetes::Access;
use podtap_analyzer::inject::manifest::{self, Action, Line, Wanted};
use podtap_analyzer::inject::serve::{self, ServeError};
use podtap_analyzer::inject::settings::{Inject, InjectCommand, Manifests, ServeSettings};
use podtap_analyzer::rollup;
use podtap_analyzer::store::clickhouse::ClickHouse;
use tracing_subscriber::EnvFilter;

const FAILURE: u8 = 1;
const WRONG_DATA: u8 = 65;
const NO_INPUT: u8 = 66;
const UNAVAILABLE: u8 = 69;
const CONFIGURATION: u8 = 78;

/// What to say and how to exit.
struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    fn new(code: u8, error: impl std::fmt::Display) -> Self {
        Self { code, message: error.to_string() }
    }
}

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return ExitCode::from(config::told(&error)),
    };
    let outcome = match line.command {
        Command::Run(settings) => run(*settings),
        Command::Migrate { print: true, settings, .. } => print_schema(*settings),
        Command::Migrate { dry_run, settings, .. } => migrate(*settings, dry_run),
        Command::Rollup(settings) => roll_up(*settings),
        Command::Config { command: ConfigCommand::Check(settings) } => check(*settings),
        Command::Inject(inject) => inject_or_serve(*inject),
        Command::Uninject(manifests) => change_manifests(&manifests, Action::Uninject, false),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut CommandLine::command(), "podtap-analyzer", &mut std::io::stdout());
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("podtap-analyzer: {}", exit.message);
            ExitCode::from(exit.code)
        }
    }
}

fn resolve(settings: Settings) -> Result<Config, Exit> {
    let config = settings.resolve().map_err(|error| Exit::new(CONFIGURATION, error))?;
    start_logging(&config.log, config.log_format)?;
    Ok(config)
}

fn start_logging(filter: &str, format: LogFormat) -> Result<(), Exit> {
    let filter = EnvFilter::try_new(filter).map_err(|error| Exit::new(CONFIGURATION, format!("log: {error}")))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| Exit::new(FAILURE, error))
}

fn run(settings: Settings) -> Result<(), Exit> {
    let config = resolve(settings)?;
    let outcome = runtime()?.block_on(app::run(config));
    outcome.map_err(|error| {
        let code = match error {
            AppError::Listen { .. } | AppError::Log(_) => UNAVAILABLE,
            AppError::Start { .. } | AppError::Ended { .. } => FAILURE,
        };
        Exit::new(code, error)
    })
}

fn migrate(settings: Settings, dry_run: bool) -> Result<(), Exit> {
    let config = resolve(settings)?;
    let clickhouse = ClickHouse::new(&config.clickhouse);
    let statements =
        runtime()?.block_on(async { if dry_run { clickhouse.pending_statements().await } else { clickhouse.migrate().await } });
    for statement in statements.map_err(|error| Exit::new(UNAVAILABLE, error))? {
        println!("{statement};\n");
    }
    Ok(())
}

fn print_schema(settings: Settings) -> Result<(), Exit> {
    let config = resolve(settings)?;
    for statement in ClickHouse::new(&config.clickhouse).all_statements() {
        println!("{statement};\n");
    }
    Ok(())
}

fn roll_up(settings: Settings) -> Result<(), Exit> {
    let config = resolve(settings)?;
    let clickhouse = ClickHouse::new(&config.clickhouse);
    let rolled = runtime()?.block_on(rollup::everything(&clickhouse)).map_err(|error| Exit::new(UNAVAILABLE, error))?;
    println!("hours: {}, days: {}, changed but too old: {}", rolled.hours, rolled.days, rolled.expired);
    Ok(())
}

fn check(settings: Settings) -> Result<(), Exit> {
    let config = settings.resolve().map_err(|error| Exit::new(CONFIGURATION, error))?;
    EnvFilter::try_new(&config.log).map_err(|error| Exit::new(CONFIGURATION, format!("log: {error}")))?;
    println!("clickhouse: {} database {} user {}", config.clickhouse.url, config.clickhouse.database, config.clickhouse.user);
    match &config.kafka {
        Some(kafka) => println!("kafka: {} topic {} group {}", kafka.brokers, kafka.topic, kafka.group),
        None => println!("kafka: not used"),
    }
    println!("grpc: {}", config.grpc_listen);
    println!("http: {}", config.http_listen);
    println!("data: {} up to {} bytes", config.data_dir.display(), config.data_bytes);
    let rules = &config.rules;
    println!("rules: {}, receivers: {}, evaluated every {:?}", rules.rules.len(), rules.receivers.len(), config.evaluation_interval);
    match &config.kubernetes {
        None => println!("kubernetes: not watched"),
        Some(Access::InCluster) => println!("kubernetes: the cluster of this pod, kubelets every {:?}", config.kubelet_interval),
        Some(Access::Kubeconfig(path)) => println!("kubernetes: {}, kubelets every {:?}", path.display(), config.kubelet_interval),
    }
    println!("ok");
    Ok(())
}

fn inject_or_serve(mut inject: Inject) -> Result<(), Exit> {
    if let Some(InjectCommand::Serve(settings)) = inject.command {
        return serve_webhook(*settings);
    }
    let own_namespace = inject.own_namespace().map_err(|error| Exit::new(CONFIGURATION, error))?;
    let (sidecar, _) = inject.sidecar.resolve().map_err(|error| Exit::new(CONFIGURATION, error))?;
    let wanted = Wanted { sidecar: &sidecar, own_namespace: &own_namespace };
    let action = if inject.label { Action::Label(wanted) } else { Action::Inject(wanted) };
    change_manifests(&inject.manifests, action, inject.verbose)
}

fn serve_webhook(settings: ServeSettings) -> Result<(), Exit> {
    let config = settings.resolve().map_err(|error| Exit::new(CONFIGURATION, error))?;
    start_logging(&config.log, config.log_format)?;
    runtime()?.block_on(serve::run(config)).map_err(|error| {
        let code = match error {
            ServeError::Listen { .. } => UNAVAILABLE,
            ServeError::Cluster(_) => CONFIGURATION,
            ServeError::Start(_) => FAILURE,
        };
        Exit::new(code, error)
    })
}

/// Prints nothing unless all of it can be read: half of the objects would be applied as if they were all.
fn change_manifests(manifests: &Manifests, action: Action<'_>, verbose: bool) -> Result<(), Exit> {
    if manifests.files.is_empty() {
        return Err(Exit::new(2, "no manifest is given; name files, or - for standard input"));
    }
    let mut whole = String::new();
    let mut report = Vec::new();
    for file in &manifests.files {
        let name = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
        let text = read_manifest(file).map_err(|error| Exit::new(NO_INPUT, format!("{name}: {error}")))?;
        let text = String::from_utf8(text).map_err(|error| Exit::new(WRONG_DATA, format!("{name}: {}", error.utf8_error())))?;
        let changed = manifest::change(&text, action).map_err(|errors| {
            let lines: Vec<_> = errors.iter().map(|error| format!("{name}: {error}")).collect();
            Exit::new(WRONG_DATA, lines.join("\npodtap-analyzer: "))
        })?;
        manifest::append(&mut whole, &changed.text);
        if changed.report.is_empty() {
            eprintln!("{name}: no {}", if changed.documents == 0 { "documents" } else { "objects" });
        }
        report.push((name, changed.report));
    }
    std::io::stdout().write_all(whole.as_bytes()).map_err(|error| Exit::new(FAILURE, format!("standard output: {error}")))?;
    for (name, lines) in &report {
        let file = if report.len() > 1 { format!("{name}: ") } else { String::new() };
        lines.iter().for_each(|line| tell(&file, line, verbose));
    }
    Ok(())
}

fn read_manifest(file: &Path) -> std::io::Result<Vec<u8>> {
    if file != Path::new("-") {
        return std::fs::read(file);
    }
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text)?;
    Ok(text)
}

/// On standard error: standard output is the manifest.
fn tell(file: &str, line: &Line, verbose: bool) {
    eprintln!("{file}{} {}", line.object, line.told);
    for warning in &line.warnings {
        eprintln!("  warning: {warning}");
    }
    if verbose {
        for (fine, check) in &line.checks {
            eprintln!("  {} {check}", if *fine { "√" } else { "‼" });
        }
    }
}
