//! The demo: a pod of real servers under realistic traffic, and what Podtap shows of it, live.
//!
//! Called by `cargo xtask demo`, which builds and fetches what this needs. Everything shown comes the long way round:
//! sniffed in the pod's namespace, sent, aggregated, stored, and read back from ClickHouse by SQL.

mod checklist;
mod figures;
mod screen;
mod stage;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use podtap_tests::{Failure, Result, wait};

use checklist::Checklist;
use figures::Figures;
use screen::Screen;
use stage::Stage;

/// How often the figures are read again.
const REFRESH: Duration = Duration::from_secs(1);
/// When the deployment goes wrong.
const DEPLOYMENT: Duration = Duration::from_secs(12);
/// Exit code after an interruption that came before the duration was over: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Podtap on a small shop: nginx, an application and MariaDB, watched without touching any of them.
#[derive(Debug, Parser)]
#[command(name = "podtap-demo", version)]
pub struct Options {
    /// End after this long, with exit status 0 only if everything was seen (60s, 2m); without it, Ctrl-C ends.
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// Put a real Apache Kafka between sidecar and analyzer.
    #[arg(long)]
    kafka: bool,
    /// Capture source of the sidecar.
    #[arg(long, default_value = "auto")]
    source: String,
    /// Requests a second.
    #[arg(long, default_value_t = 250)]
    rate: u32,
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        unit => return Err(format!("unknown unit {unit:?}; write 60s or 2m")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{digits:?} is not a number of seconds or minutes"))?;
    Ok(Duration::from_secs(number * seconds))
}

fn main() -> ExitCode {
    let options = Options::parse();
    wait::interrupt_on_signals();
    match show(&options) {
        Ok(code) => code,
        Err(_) if wait::interrupted() => {
            eprintln!("\nstopped; nothing is left running");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("\npodtap-demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(options: &Options) -> Result<ExitCode> {
    let mut screen = Screen::new();
    let stage = Stage::build(options, &mut screen)?;
    let mut checklist = Checklist::default();
    let start = Instant::now();
    let mut broken = false;
    let mut outages = 0u32;
    let mut figures = Figures::default();
    while !wait::interrupted() && options.duration.is_none_or(|duration| start.elapsed() < duration) {
        let round = Instant::now();
        if !broken && start.elapsed() >= DEPLOYMENT {
            stage.database.forget_payments()?;
            broken = true;
        }
        stage.check_alive()?;
        match figures::read(&stage, start.elapsed()) {
            Ok(read) => {
                outages = 0;
                figures = read;
            }
            // One question may fail while tables are being made; a row of failures is a fault.
            Err(error) if outages < 15 => {
                outages += 1;
                figures.trouble = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
        checklist.look(&figures);
        screen.draw(&stage, &figures, &screen::Moment { elapsed: start.elapsed(), duration: options.duration, broken });
        while round.elapsed() < REFRESH && !wait::interrupted() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    screen.finish();
    let interrupted = wait::interrupted();
    let sent = stage.finish()?;
    if options.duration.is_none() || interrupted {
        println!("\n{sent} requests were sent. Everything is stopped, nothing is left behind.");
        return Ok(if options.duration.is_some() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS });
    }
    println!("\n{sent} requests were sent. Everything is stopped, nothing is left behind. Seen:");
    let complete = checklist.print(screen.colours());
    if complete { Ok(ExitCode::SUCCESS) } else { Err(Failure::new("not everything was seen; see the lines marked ✗")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert!(duration("5h").is_err() && duration("s").is_err());
    }
}
