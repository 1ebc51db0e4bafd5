//! Differences that are explained: the table in docs/protocols.md below the heading `Compared with others`.
//!
//! Guarantee: a row explains exactly as many differences as it says, of the captures it names; one more or one fewer is a difference
//! again. A row is `| capture | count | difference | why |`; `*` stands for anything in capture and difference.

use crate::run::{Failure, Result};

const HEADING: &str = "## Compared with others";

#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    capture: String,
    count: usize,
    difference: String,
}

#[derive(Debug, Default)]
pub struct Explained {
    rows: Vec<(Row, usize, bool)>,
}

impl Explained {
    pub fn read(document: &str) -> Result<Self> {
        let section = document.split_once(HEADING).map_or("", |(_, section)| section);
        let section = section.split("\n## ").next().unwrap_or_default();
        let mut rows = Vec::new();
        for line in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect();
            let row = match cells[..] {
                [capture, count, difference, why] if !why.is_empty() => count.parse().ok().map(|count| Row {
                    capture: capture.to_owned(),
                    count,
                    difference: difference.replace("&#124;", "|"),
                }),
                _ => None,
            };
            rows.push((row.ok_or_else(|| Failure(format!("docs/protocols.md: not an explanation: {line}")))?, 0, false));
        }
        Ok(Self { rows })
    }

    /// The captures read so far include this one.
    pub fn visit(&mut self, capture: &str) {
        for (row, _, visited) in &mut self.rows {
            *visited |= names(&row.capture, capture);
        }
    }

    /// True if a difference of a capture is explained.
    pub fn explains(&mut self, capture: &str, difference: &str) -> bool {
        for (row, used, _) in &mut self.rows {
            if *used < row.count && names(&row.capture, capture) && fits(&row.difference, difference) {
                *used += 1;
                return true;
            }
        }
        false
    }

    /// Rows that explained fewer differences than they say.
    pub fn stale(&self) -> Vec<String> {
        let stale = self.rows.iter().filter(|(row, used, visited)| *visited && used != &row.count);
        stale.map(|(row, used, _)| format!("{}: `{}` explains {used}, not {}", row.capture, row.difference, row.count)).collect()
    }
}

/// A row names a capture by the end of its path.
fn names(pattern: &str, capture: &str) -> bool {
    fits(pattern, capture) || fits(&format!("*/{pattern}"), capture)
}

fn fits(pattern: &str, text: &str) -> bool {
    let Some((front, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(front) else { return false };
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| fits(rest, &text[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# x\n\n## Compared with others\n\n| capture | count | difference | why |\n|---|---|---|---|\n\
                            | `http/a.pcap` | 2 | `only in tshark: GET *` | it reads across a hole |\n\n## Other\n\n| `no` | row |\n";

    #[test]
    fn a_row_explains_as_many_as_it_says() {
        let mut explained = Explained::read(DOCUMENT).unwrap();
        explained.visit("deepflow/http/a.pcap");
        assert!(!explained.explains("deepflow/http/b.pcap", "only in tshark: GET /"));
        assert!(!explained.explains("deepflow/http/a.pcap", "only in tshark: PUT /"));
        assert!(explained.explains("deepflow/http/a.pcap", "only in tshark: GET /"));
        assert_eq!(explained.stale(), ["http/a.pcap: `only in tshark: GET *` explains 1, not 2"]);
        assert!(explained.explains("http/a.pcap", "only in tshark: GET /"));
        assert!(!explained.explains("http/a.pcap", "only in tshark: GET /"));
        assert!(explained.stale().is_empty());
    }

    #[test]
    fn a_row_without_a_reason_is_refused() {
        assert!(Explained::read("## Compared with others\n| `a` | 1 | `b` |  |\n").is_err());
        assert!(Explained::read("## Compared with others\n| `a` | one | `b` | c |\n").is_err());
        assert!(Explained::read("nothing").unwrap().stale().is_empty());
    }
}
