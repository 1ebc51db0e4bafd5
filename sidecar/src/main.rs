//! Command line of the sidecar: parses, configures, starts; what it starts is in the library.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use podtap_sidecar::config::{self, Layer, LogFormat, Settings, SourceChoice};
use podtap_sidecar::eventloop::{self, Failure, PrintOptions};
use podtap_sidecar::print::condition::Condition;
use podtap_sidecar::{capabilities, doctor, fingerprint, memory, version};

const CONFIGURATION: u8 = 78;

#[derive(Parser)]
#[command(name = "podtap-sidecar", about = "Watches every request of a pod's network namespace and sends records of them.")]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 unknown flag or command, 65 wrong or cut input, 66 cannot be opened, 69 unavailable, \
77 no permission, 78 wrong value, wherever it stands."
)]
struct Cli {
    /// YAML file of settings; flags and environment win over it.
    #[arg(long, global = true, env = "PODTAP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Capture, decode and send, until SIGTERM (or to the end of a file).
    #[command(after_long_help = "Examples:\n  podtap-sidecar run --transport kafka --kafka-brokers kafka:9092\n  \
podtap-sidecar run -i eth0 --source pcap --transport grpc --grpc-endpoint http://analyzer:9881\n  \
podtap-sidecar run --source file -r traffic.pcap --transport grpc")]
    Run {
        #[command(flatten)]
        layer: Layer,
    },
    /// Show requests on standard output, live or from a file.
    #[command(after_long_help = "Examples:\n  podtap-sidecar print -i eth0\n  podtap-sidecar print -i lo -f 'port 3306' --unmask\n  \
podtap-sidecar print -r traffic.pcap --json --stats\n  \
podtap-sidecar print -i eth0 --where 'time_to_last_byte_ns>50ms' --where status=server_error")]
    Print {
        #[command(flatten)]
        layer: Layer,
        /// One JSON object a line instead of readable lines.
        #[arg(long)]
        json: bool,
        /// One JSON object with the completeness account on standard error at the end.
        #[arg(long)]
        stats: bool,
        /// Show no records (with --stats: only the account).
        #[arg(short, long)]
        quiet: bool,
        /// Show only records that meet the condition (repeatable): FIELD=VALUE, FIELD!=VALUE, FIELD~REGEX, FIELD>NUMBER, FIELD<NUMBER.
        #[arg(long = "where", value_name = "CONDITION")]
        conditions: Vec<Condition>,
        /// Colours.
        #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
        color: When,
    },
    /// Answer statements with their fingerprints, line by line: {"sql": "..."} with {"fingerprint": "..."}.
    #[command(after_long_help = "Examples:\n  echo '{\"sql\": \"SELECT 1\"}' | podtap-sidecar fingerprint\n  \
podtap-sidecar print -r FILE --json --unmask | jq -c 'select(.db_query_text) | {sql: .db_query_text}' | podtap-sidecar fingerprint\n\n\
A line that is not such an object ends it with exit code 65 and the line's number. docs/protocols.md says how a fingerprint is made.")]
    Fingerprint {
        /// File of JSON lines; - is standard input.
        #[arg(default_value = "-", value_name = "FILE")]
        file: PathBuf,
    },
    /// Say what this kernel, these capabilities and this network namespace allow, and whether `run` would start with the same settings.
    Doctor {
        #[command(flatten)]
        layer: Layer,
        /// How the result looks.
        #[arg(short, long, value_enum, default_value = "text")]
        output: DoctorOutput,
        /// Warnings are failures too.
        #[arg(long)]
        strict: bool,
    },
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Print a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print version, revision, compiler and features.
    Version {
        /// How the result looks.
        #[arg(short, long, value_enum, default_value = "text")]
        output: DoctorOutput,
    },
}

#[derive(Subcommand)]
enum ConfigAction {
    /// Check that the configuration is right; says what is not, and where.
    Check {
        #[command(flatten)]
        layer: Layer,
    },
    /// Show every setting in force and where it comes from.
    Show {
        #[command(flatten)]
        layer: Layer,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DoctorOutput {
    Text,
    Json,
}

fn main() -> ExitCode {
    memory::prepare();
    // Before any other thread starts: they get what this one has.
    capabilities::raise();
    // clap wants the text for the life of the program.
    let version: &'static str = Box::leak(version().into_boxed_str());
    let command = Cli::command().version(version);
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return told(&error),
    };
    match execute(cli, &matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            if !message.is_empty() {
                eprintln!("podtap-sidecar: {message}");
            }
            ExitCode::from(code)
        }
    }
}

/// Shows help, or what is wrong with the command line: a value that is wrong is a wrong configuration wherever it stands.
fn told(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{InvalidValue, ValueValidation};
    let code = if matches!(error.kind(), InvalidValue | ValueValidation) { CONFIGURATION } else { error.exit_code() as u8 };
    // Nobody is left to be told when the terminal is gone.
    let _ = error.print();
    if let Some(variable) = from_environment(error) {
        eprintln!("note: the value comes from {variable} in the environment");
    }
    ExitCode::from(code)
}

/// The variable that gave the value which an error is about; flags of the same name win over it, so then it is none.
fn from_environment(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue};
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = argument.split([' ', '=', '[']).next().filter(|flag| flag.starts_with("--"))?;
    let given = std::env::args().any(|word| word == flag || word.starts_with(&format!("{flag}=")));
    let variable = format!("PODTAP_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
    (!given && std::env::var_os(&variable).is_some()).then_some(variable)
}

fn settings(config: Option<&PathBuf>, layer: Layer) -> Result<(Settings, Layer), Failure> {
    let wrong = |message| Failure { code: CONFIGURATION, message };
    let file = config.map(|path| config::read_file(path)).transpose().map_err(wrong)?.unwrap_or_default();
    let mut settings = Settings::resolve(layer, file.clone());
    settings.check().map_err(wrong)?;
    if settings.read.is_some() {
        settings.source = SourceChoice::File;
    }
    Ok((settings, file))
}

fn execute(cli: Cli, matches: &ArgMatches) -> Result<(), Failure> {
    let config = cli.config.as_ref();
    match cli.command {
        Command::Run { layer } => {
            let (settings, _) = settings(config, layer)?;
            log(&settings)?;
            eventloop::run(&settings)
        }
        Command::Print { layer, json, stats, quiet, conditions, color } => {
            let level = layer.log_level.is_some();
            let (mut settings, _) = settings(config, layer)?;
            if !level {
                "warn".clone_into(&mut settings.log_level);
            }
            log(&settings)?;
            let terminal = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let colour = color == When::Always || (color == When::Auto && terminal);
            eventloop::print(&settings, &PrintOptions { json, quiet, stats, colour, conditions })
        }
        Command::Fingerprint { file } => fingerprint::file(&file),
        Command::Doctor { layer, output, strict } => {
            let (settings, _) = settings(config, layer)?;
            log_filter(&settings)?;
            eventloop::check(&settings)?;
            examine(&settings, output, strict)
        }
        Command::Config { action: ConfigAction::Check { layer } } => {
            let (settings, _) = settings(config, layer)?;
            log_filter(&settings)?;
            eventloop::check(&settings)?;
            say("the configuration is right\n")
        }
        Command::Config { action: ConfigAction::Show { layer } } => {
            let (settings, file) = settings(config, layer)?;
            let given = matches.subcommand().and_then(|(_, config)| config.subcommand()).map(|(_, show)| show);
            let mut text = String::new();
            for (name, value) in settings.rows() {
                let origin = match given.and_then(|given| given.value_source(name)) {
                    Some(ValueSource::CommandLine) => "flag",
                    Some(ValueSource::EnvVariable) => "environment",
                    _ if file.gives(name) => "file",
                    _ => "default",
                };
                text.push_str(&format!("{:<40} # {origin}\n", format!("{name}: {value}")));
            }
            say(&text)
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "podtap-sidecar", &mut script);
            say(&String::from_utf8_lossy(&script))
        }
        Command::Version { output: DoctorOutput::Text } => say(&format!("podtap-sidecar {}\n", version())),
        Command::Version { output: DoctorOutput::Json } => {
            let object = serde_json::json!({ "name": "podtap-sidecar", "version": env!("CARGO_PKG_VERSION"), "description": version() });
            say(&format!("{object}\n"))
        }
    }
}

/// Writes to standard output; a reader that went away is no failure.
fn say(text: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure { code: 1, message: format!("standard output: {error}") })
        }
        _ => Ok(()),
    }
}

fn examine(settings: &Settings, output: DoctorOutput, strict: bool) -> Result<(), Failure> {
    let checks = doctor::examine(settings);
    match output {
        DoctorOutput::Text => say(&doctor::lines(&checks))?,
        DoctorOutput::Json => say(&format!("{}\n", doctor::json(&checks)))?,
    }
    match doctor::worst(&checks) {
        doctor::Outcome::Error => Err(Failure { code: 1, message: String::new() }),
        doctor::Outcome::Warning if strict => Err(Failure { code: 1, message: String::new() }),
        _ => Ok(()),
    }
}

fn log_filter(settings: &Settings) -> Result<tracing_subscriber::EnvFilter, Failure> {
    tracing_subscriber::EnvFilter::try_new(&settings.log_level)
        .map_err(|error| Failure { code: CONFIGURATION, message: format!("log_level {:?}: {error}", settings.log_level) })
}

fn log(settings: &Settings) -> Result<(), Failure> {
    let filter = log_filter(settings)?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    let json = match settings.log_format {
        LogFormat::Text => false,
        LogFormat::Json => true,
        LogFormat::Auto => !terminal,
    };
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.init();
    }
    Ok(())
}
