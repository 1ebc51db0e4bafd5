//! What the demo must have shown; with `--duration` the exit status rests on it.

use podtap_tests::clickhouse::text;

use super::figures::{Figures, Line};
use super::stage::{ROUTES, SERVICE};

/// What has been seen so far; once seen stays seen.
#[derive(Debug, Default)]
pub struct Checklist {
    seen: Vec<(String, bool)>,
}

impl Checklist {
    /// Looks at one frame.
    pub fn look(&mut self, figures: &Figures) {
        for route in ROUTES {
            let there = http(figures, route.endpoint).is_some_and(|line| line.requests > 0 && line.service == SERVICE);
            self.note(&format!("{} in ClickHouse, by SQL", route.endpoint), there);
        }
        let slow = |endpoint, least: f64| http(figures, endpoint).is_some_and(|line| line.latency[0] >= least);
        self.note("GET /search/{id} takes 50 ms and more", slow("GET /search/{id}", 50e6));
        self.note("GET /reports/daily takes 480 ms and more", slow("GET /reports/daily", 480e6));
        let failing = http(figures, "GET /payments/{id}").is_some_and(|line| line.error_share() > 0.2);
        self.note("GET /payments/{id} fails", failing);
        let command = |name: &str| figures.commands.iter().any(|(command, count, _)| command == name && *count > 0);
        self.note("plain SQL (COM_QUERY)", command("COM_QUERY"));
        self.note("prepared SQL (COM_STMT_EXECUTE)", command("COM_STMT_EXECUTE"));
        self.note("SQL errors", figures.commands.iter().any(|(_, _, failed)| *failed > 0));
        let fingerprints = figures.lines.iter().filter(|line| line.protocol == "mysql" && line.endpoint.contains('?')).count();
        self.note("SQL fingerprints with their latencies", fingerprints >= 4);
        let failing = figures.lines.iter().any(|line| line.endpoint.contains("payment_ledger") && line.error_share() > 0.2);
        self.note("the statement behind GET /payments/{id} fails", failing);
        let sidecar = &figures.sidecar;
        self.note(
            "the sidecar's packets, records and acknowledgements",
            sidecar.packets > 0.0 && sidecar.records > 0.0 && sidecar.sent > 0.0,
        );
        self.note("the alarm, in ClickHouse", figures.alarms.iter().any(|alarm| text(alarm, "state") == "open"));
        let firing = figures.notifications.iter().any(|notification| {
            let body: serde_json::Value = serde_json::from_str(&notification.body).unwrap_or_default();
            body["version"] == "4" && body["status"] == "firing"
        });
        self.note("the webhook's body (Alertmanager v4), firing", firing);
    }

    /// Prints what was seen and what was not; true if all was.
    pub fn print(&self, colours: bool) -> bool {
        for (what, seen) in &self.seen {
            match (seen, colours) {
                (true, true) => println!("  \x1b[32m✓\x1b[0m {what}"),
                (true, false) => println!("  ✓ {what}"),
                (false, true) => println!("  \x1b[31m✗ {what}\x1b[0m"),
                (false, false) => println!("  ✗ {what}"),
            }
        }
        !self.seen.is_empty() && self.seen.iter().all(|(_, seen)| *seen)
    }

    fn note(&mut self, what: &str, seen: bool) {
        match self.seen.iter_mut().find(|(name, _)| name == what) {
            Some((_, before)) => *before |= seen,
            None => self.seen.push((what.to_owned(), seen)),
        }
    }
}

fn http<'a>(figures: &'a Figures, endpoint: &str) -> Option<&'a Line> {
    figures.lines.iter().find(|line| line.protocol == "http" && line.endpoint == endpoint)
}
