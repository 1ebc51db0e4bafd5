//! The terminal: drawn in place where it is one, a table every few seconds where it is not.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use podtap_tests::clickhouse::{Row, number, text};

use super::figures::{Figures, Line, PERIOD, SidecarFigures};
use super::stage::Stage;

/// How often a table is printed where it cannot be redrawn.
const PLAIN_STEP: Duration = Duration::from_secs(5);
/// Width taken where the terminal does not tell.
const DEFAULT_WIDTH: usize = 120;
/// The widest that is still read with ease.
const MAX_WIDTH: usize = 160;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";
const ALARM: &str = "1;37;41";

/// Where the demo stands.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub elapsed: Duration,
    pub duration: Option<Duration>,
    /// The deployment has gone wrong.
    pub broken: bool,
}

/// The terminal.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    colours: bool,
    /// Lines of the frame that is on the terminal.
    drawn: usize,
    /// The last whole frame, which stays when the demo has ended.
    last: String,
    printed: Option<Instant>,
}

impl Screen {
    pub fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { terminal, colours, drawn: 0, last: String::new(), printed: None }
    }

    /// Whether colours are wanted.
    pub fn colours(&self) -> bool {
        self.colours
    }

    /// The first line.
    pub fn title(&mut self, text: &str) {
        println!("{}\n", self.paint(BOLD, text));
    }

    /// A part that has started.
    pub fn step(&mut self, what: &str, took: Duration, detail: &str) {
        let time = format!("{:>4.1} s", took.as_secs_f64());
        println!("  {} {what:<11} {} {detail}", self.paint(GREEN, "✓"), self.paint(DIM, &time));
    }

    /// One frame.
    pub fn draw(&mut self, stage: &Stage, figures: &Figures, moment: &Moment) {
        if !self.terminal {
            if self.printed.is_none_or(|printed| printed.elapsed() >= PLAIN_STEP) {
                self.printed = Some(Instant::now());
                println!("\n{}", self.frame(stage, figures, moment, DEFAULT_WIDTH, usize::MAX));
            }
            return;
        }
        let (width, height) = terminal_size();
        let width = width.min(MAX_WIDTH);
        let frame = self.frame(stage, figures, moment, width, height.saturating_sub(1));
        self.last = self.frame(stage, figures, moment, width, usize::MAX);
        // A frame that scrolls could not be redrawn in place: what does not fit waits for the last one.
        let visible: Vec<&str> = frame.lines().take(height.saturating_sub(1)).collect();
        let mut output = String::new();
        if self.drawn > 0 {
            let _ = write!(output, "\x1b[{}A", self.drawn);
        } else {
            output.push('\n');
        }
        output.push_str("\r\x1b[J\x1b[?25l");
        for line in &visible {
            output.push_str(line);
            output.push('\n');
        }
        self.drawn = visible.len();
        print!("{output}");
        let _ = std::io::stdout().flush();
    }

    /// Leaves the last frame whole on the terminal.
    pub fn finish(&mut self) {
        if self.terminal && self.drawn > 0 {
            print!("\x1b[{}A\r\x1b[J{}\x1b[?25h", self.drawn, self.last);
            let _ = std::io::stdout().flush();
            self.drawn = 0;
        }
    }

    fn frame(&self, stage: &Stage, figures: &Figures, moment: &Moment, width: usize, height: usize) -> String {
        let clock = match moment.duration {
            Some(duration) => format!("{} of {}", time(moment.elapsed), time(duration)),
            None => time(moment.elapsed),
        };
        let heading = format!("Podtap  {}", stage.pod.namespace());
        let facts = format!("source {} · transport {} · {clock}", figures.sidecar.source, stage.transport);
        let gap = width.saturating_sub(heading.chars().count() + facts.chars().count());
        let mut lines =
            vec![format!("{}{}{}", self.paint(BOLD, &heading), " ".repeat(gap.max(2)), self.paint(CYAN, &facts)), String::new()];
        let mut below = vec![String::new(), self.sidecar(&figures.sidecar)];
        self.story(figures, moment, width, &mut below);
        below.push(String::new());
        self.offers(stage, &mut below);
        if let Some(trouble) = &figures.trouble {
            below.push(self.paint(YELLOW, &cut(&format!("figures are old: {trouble}"), width)));
        }
        // Heading and the line between the protocols.
        let room = height.saturating_sub(lines.len() + below.len() + 2);
        self.table(&worth_showing(&figures.lines, room), width, &mut lines);
        lines.extend(below);
        let mut frame = lines.join("\n");
        frame.push('\n');
        frame
    }

    fn table(&self, shown: &[&Line], width: usize, lines: &mut Vec<String>) {
        // All other columns with the blanks between them.
        let endpoint_width = width.saturating_sub(10 + 9 + 8 + 4 * 9 + 3).max(24);
        let heading = format!(
            "{:<10}{:<endpoint_width$} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "SERVICE",
            format!("ENDPOINT OR STATEMENT (last {} s, read by SQL)", PERIOD.as_secs()),
            "RATE/s",
            "ERRORS",
            "p50",
            "p95",
            "p99",
            "MAX"
        );
        lines.push(self.paint(DIM, &heading));
        if shown.is_empty() {
            lines.push("waiting for the first windows ...".to_owned());
        }
        let mut protocol = "";
        for line in shown {
            if !protocol.is_empty() && line.protocol != protocol {
                lines.push(String::new());
            }
            protocol = &line.protocol;
            lines.push(self.row(line, endpoint_width));
        }
    }

    fn row(&self, line: &Line, endpoint_width: usize) -> String {
        let share = line.error_share();
        let errors = format!("{:>7.1}%", share * 100.0);
        let errors = match share {
            0.0 => self.paint(DIM, &errors),
            share if share > 0.2 => self.paint(RED, &errors),
            _ => self.paint(YELLOW, &errors),
        };
        let latency: Vec<String> = line
            .latency
            .iter()
            .map(|value| {
                let text = format!("{:>8}", latency(*value));
                if *value >= 45e6 { self.paint(YELLOW, &text) } else { text }
            })
            .collect();
        let endpoint = cut(&line.endpoint, endpoint_width);
        format!("{:<10}{endpoint:<endpoint_width$} {:>8.1} {errors} {}", cut(&line.service, 9), line.rate, latency.join(" "))
    }

    fn sidecar(&self, sidecar: &SidecarFigures) -> String {
        let figure = |name: &str, value: f64, bad: bool| {
            let text = format!("{} {name}", grouped(value));
            if bad && value > 0.0 { self.paint(RED, &text) } else { text }
        };
        format!(
            "{} {} · {} · {} · {} · {} · {}",
            self.paint(CYAN, "SIDECAR"),
            figure("packets", sidecar.packets, false),
            figure("dropped by the kernel", sidecar.kernel_drops, true),
            figure("bytes of gaps", sidecar.gap_bytes, true),
            figure("records", sidecar.records, false),
            figure("acknowledged", sidecar.sent, false),
            figure("lost", sidecar.dropped, true),
        )
    }

    /// The deployment, the alarm and what the webhook's receiver got.
    fn story(&self, figures: &Figures, moment: &Moment, width: usize, lines: &mut Vec<String>) {
        let story = if moment.broken {
            "a deployment has lost table payment_ledger: GET /payments/{id} answers 500 from now on"
        } else {
            "all is well; soon a deployment loses a table that GET /payments/{id} needs"
        };
        lines.push(format!("{} {story}", self.paint(CYAN, "STORY  ")));
        lines.extend(figures.alarms.iter().map(|alarm| self.alarm(alarm, width)));
        let Some(notification) = figures.notifications.last() else { return };
        let what = format!("POST {} as received, {} so far:", notification.path, figures.notifications.len());
        lines.push(format!("{} {what}", self.paint(CYAN, "WEBHOOK")));
        let characters: Vec<char> = notification.body.trim().chars().collect();
        let wrapped = characters.chunks(width.saturating_sub(8).max(20)).map(|line| line.iter().collect::<String>());
        lines.extend(wrapped.map(|line| format!("        {}", self.paint(DIM, &line))));
    }

    fn alarm(&self, alarm: &Row, width: usize) -> String {
        let state = text(alarm, "state");
        let value = |column: &str| match text(alarm, "indicator") {
            "error_share" => format!("{:.0} %", number(alarm, column) * 100.0),
            _ => latency(number(alarm, column)),
        };
        let what = format!(
            "{} [level {}] {} {}: {} {} (threshold {}, peak {}), since {}",
            text(alarm, "rule"),
            number(alarm, "level"),
            text(alarm, "service"),
            text(alarm, "endpoint"),
            text(alarm, "indicator").replace('_', " "),
            value("last_value"),
            value("threshold"),
            value("peak_value"),
            text(alarm, "first_at").get(11..19).unwrap_or_default(),
        );
        let colour = match state {
            "open" => ALARM,
            "pending" => YELLOW,
            _ => GREEN,
        };
        format!("{} {}", self.paint(colour, &format!("ALARM {state:<8}")), cut(&what, width.saturating_sub(15)))
    }

    fn offers(&self, stage: &Stage, lines: &mut Vec<String>) {
        lines.push(self.paint(CYAN, "TRY, in another terminal (Ctrl-C here ends everything):"));
        let sql = "SELECT endpoint, sum(count), sum(errors) FROM podtap.red GROUP BY 1 ORDER BY 2 DESC FORMAT PrettyCompact";
        lines.push(format!("  curl '{}' --data-binary \"{sql}\"", stage.clickhouse.url()));
        lines.push(format!("  curl 'http://{}/api/v1/requests/slowest'", stage.analyzer.http()));
        let sidecar =
            podtap_tests::run::binary("podtap-sidecar").map_or_else(|_| "podtap-sidecar".to_owned(), |path| path.display().to_string());
        lines.push(format!("  nsenter --net=/run/netns/{} {sidecar} print -i eth0", stage.pod.namespace()));
        lines.push(format!("  curl -i http://{}/payments/7", stage.nginx.address()));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The lines that fit: those that fail first, then the most frequent, in their order.
fn worth_showing(lines: &[Line], room: usize) -> Vec<&Line> {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by(|left, right| {
        let worth = |index: &usize| (lines[*index].error_share() > 0.2, lines[*index].rate);
        worth(right).partial_cmp(&worth(left)).unwrap_or(std::cmp::Ordering::Equal)
    });
    order.truncate(room.max(5));
    order.sort_unstable();
    order.into_iter().map(|index| &lines[index]).collect()
}

fn cut(text: &str, width: usize) -> String {
    let text = text.replace(['\n', '\t', '\r'], " ");
    if text.chars().count() <= width {
        return text;
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn latency(nanoseconds: f64) -> String {
    match nanoseconds {
        value if value < 1e6 => format!("{:.0} µs", value / 1e3),
        value if value < 10e6 => format!("{:.2} ms", value / 1e6),
        value if value < 1e9 => format!("{:.0} ms", value / 1e6),
        value => format!("{:.2} s", value / 1e9),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(duration: Duration) -> String {
    format!("{:02}:{:02}", duration.as_secs() / 60, duration.as_secs() % 60)
}

fn terminal_size() -> (usize, usize) {
    // SAFETY: all zeroes is a valid winsize, and TIOCGWINSZ writes one.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    if asked == 0 && size.ws_col > 0 && size.ws_row > 0 { (size.ws_col.into(), size.ws_row.into()) } else { (DEFAULT_WIDTH, 50) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_terminal_shows_what_fails_and_what_is_frequent() {
        let line = |endpoint: &str, rate, errors| Line { endpoint: endpoint.to_owned(), rate, requests: 10, errors, ..Line::default() };
        let lines: Vec<_> = (0..8).map(|number| line(&number.to_string(), f64::from(number), u64::from(number == 1) * 9)).collect();
        let shown: Vec<_> = worth_showing(&lines, 5).iter().map(|line| line.endpoint.as_str()).collect();
        assert_eq!(shown, ["1", "4", "5", "6", "7"]);
        assert_eq!(worth_showing(&lines, usize::MAX).len(), 8);
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(grouped(12.0), "12");
        assert_eq!(latency(850_000.0), "850 µs");
        assert_eq!(latency(1_240_000.0), "1.24 ms");
        assert_eq!(latency(52_000_000.0), "52 ms");
        assert_eq!(latency(1_500_000_000.0), "1.50 s");
        assert_eq!(cut("SELECT a\nFROM b", 10), "SELECT a …");
    }
}
