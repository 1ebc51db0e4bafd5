//! The analyzer's command line. Exit codes: 0 ok, 1 failure, 2 usage, 69 unavailable, 78 configuration.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use podtap_analyzer::app::{self, AppError};
use podtap_analyzer::config::{self, Command, CommandLine, Config, ConfigCommand, LogFormat, Settings};
use podtap_analyzer::rollup;
use podtap_analyzer::store::clickhouse::ClickHouse;
use tracing_subscriber::EnvFilter;

const FAILURE: u8 = 1;
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
    let filter = EnvFilter::try_new(&config.log).map_err(|error| Exit::new(CONFIGURATION, format!("log: {error}")))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(config)
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
    println!("ok");
    Ok(())
}
