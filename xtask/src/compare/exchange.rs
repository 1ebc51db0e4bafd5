//! What is compared: an exchange as every side can tell it, and how two lists of them differ.
//!
//! Guarantee: a difference is told once, as a line that reads the same on every run, so that an explanation can name it.

use std::collections::BTreeMap;

/// Latencies that differ by less are the same: captures have microseconds, tshark prints nanoseconds.
const TOLERANCE_NS: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Http,
    Mysql,
    Tls,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Mysql => "mysql",
            Protocol::Tls => "tls",
        }
    }
}

/// One exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Both ends, the lesser first; empty where a side does not tell.
    pub stream: String,
    /// Method and target; command and statement.
    pub what: String,
    /// HTTP status or MySQL outcome, empty without an answer; `None` where a side does not tell.
    pub status: Option<String>,
    /// End of the request to the end of the answer.
    pub latency_ns: Option<u64>,
}

/// Both ends of a connection, whoever opened it.
pub fn stream(one: &str, other: &str) -> String {
    if one <= other { format!("{one} {other}") } else { format!("{other} {one}") }
}

/// A text without what tools write differently: white space, what is not ASCII, escapes, and all behind a NUL, where tshark stops.
pub fn plain(text: &str) -> String {
    let mut kept = text.split('\0').next().unwrap_or_default().to_owned();
    for escape in ["\\n", "\\t", "\\r"] {
        kept = kept.replace(escape, "");
    }
    kept.retain(|letter| letter.is_ascii_graphic() && !matches!(letter, '\\' | '\'' | '"'));
    kept
}

/// Lines about what differs; `other` is the name of the other side. Exchanges are compared stream by stream, in their order.
pub fn differences(ours: &[Exchange], theirs: &[Exchange], other: &str) -> Vec<String> {
    let mut streams: BTreeMap<&str, (Vec<&Exchange>, Vec<&Exchange>)> = BTreeMap::new();
    let tells = theirs.iter().any(|exchange| !exchange.stream.is_empty());
    let key = |exchange| stream_of(exchange, tells);
    for exchange in ours {
        streams.entry(key(exchange)).or_default().0.push(exchange);
    }
    for exchange in theirs {
        streams.entry(key(exchange)).or_default().1.push(exchange);
    }
    let mut lines = Vec::new();
    for (ours, theirs) in streams.values() {
        compare(ours, theirs, other, &mut lines);
    }
    lines
}

fn stream_of(exchange: &Exchange, tells: bool) -> &str {
    if tells { &exchange.stream } else { "" }
}

fn compare(ours: &[&Exchange], theirs: &[&Exchange], other: &str, lines: &mut Vec<String>) {
    for (one, two) in align(ours, theirs) {
        match (one, two) {
            (Some(one), Some(two)) => {
                if let (Some(mine), Some(their)) = (&one.status, &two.status)
                    && mine != their
                {
                    lines.push(format!("status {} here, {} in {other}: {}", word(mine), word(their), short(&one.what)));
                }
                if let (Some(mine), Some(their)) = (one.latency_ns, two.latency_ns)
                    && mine.abs_diff(their) >= TOLERANCE_NS
                {
                    let micros = |time: u64| time as f64 / 1e3;
                    lines.push(format!("latency {:.1} us here, {:.1} us in {other}: {}", micros(mine), micros(their), short(&one.what)));
                }
            }
            (Some(one), None) => {
                let status = one.status.as_deref().map_or_else(String::new, |status| format!(" -> {}", word(status)));
                lines.push(format!("only here, not in {other}: {}{status}", short(&one.what)));
            }
            (None, Some(two)) => {
                let status = two.status.as_deref().map_or_else(String::new, |status| format!(" -> {}", word(status)));
                lines.push(format!("only in {other}: {}{status}", short(&two.what)));
            }
            (None, None) => {}
        }
    }
}

fn word(status: &str) -> &str {
    if status.is_empty() { "none" } else { status }
}

fn short(what: &str) -> String {
    let line: String = what.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(90) {
        Some((cut, _)) => format!("{} ...", &line[..cut]),
        None => line,
    }
}

type Pair<'a> = (Option<&'a Exchange>, Option<&'a Exchange>);

/// Largest table of an alignment; longer lists are compared place by place behind their common beginning.
const MAX_TABLE: usize = 16_000_000;

/// Puts equal exchanges beside each other (longest common subsequence).
fn align<'a>(ours: &[&'a Exchange], theirs: &[&'a Exchange]) -> Vec<Pair<'a>> {
    let mine: Vec<String> = ours.iter().map(|exchange| plain(&exchange.what)).collect();
    let their: Vec<String> = theirs.iter().map(|exchange| plain(&exchange.what)).collect();
    let front = mine.iter().zip(&their).take_while(|(one, two)| one == two).count();
    let mut pairs: Vec<Pair<'a>> = (0..front).map(|index| (Some(ours[index]), Some(theirs[index]))).collect();
    let (m, n) = (mine.len() - front, their.len() - front);
    if m == 0 || n == 0 || m * n > MAX_TABLE {
        let longest = m.max(n);
        if m == 0 || n == 0 {
            pairs.extend((front..front + longest).map(|index| (ours.get(index).copied(), theirs.get(index).copied())));
        } else {
            pairs.extend(ours[front..].iter().map(|exchange| (Some(*exchange), None)));
            pairs.extend(theirs[front..].iter().map(|exchange| (None, Some(*exchange))));
        }
        return pairs;
    }
    let width = n + 1;
    let mut table = vec![0u32; (m + 1) * width];
    for i in (0..m).rev() {
        for j in (0..n).rev() {
            table[i * width + j] = if mine[front + i] == their[front + j] {
                table[(i + 1) * width + j + 1] + 1
            } else {
                table[(i + 1) * width + j].max(table[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < m || j < n {
        if i < m && j < n && mine[front + i] == their[front + j] {
            pairs.push((Some(ours[front + i]), Some(theirs[front + j])));
            (i, j) = (i + 1, j + 1);
        } else if j == n || (i < m && table[(i + 1) * width + j] >= table[i * width + j + 1]) {
            pairs.push((Some(ours[front + i]), None));
            i += 1;
        } else {
            pairs.push((None, Some(theirs[front + j])));
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(what: &str, status: &str, latency_ns: u64) -> Exchange {
        Exchange { stream: "a b".to_owned(), what: what.to_owned(), status: Some(status.to_owned()), latency_ns: Some(latency_ns) }
    }

    #[test]
    fn a_missing_exchange_is_one_difference_and_not_a_shift_of_all() {
        let ours = [exchange("GET /1", "200", 5), exchange("GET /2", "200", 5), exchange("GET /3", "200", 5)];
        let theirs = [exchange("GET /1", "200", 5), exchange("GET /3", "404", 5000), exchange("GET /4", "", 5)];
        assert_eq!(
            differences(&ours, &theirs, "x"),
            [
                "only here, not in x: GET /2 -> 200",
                "status 200 here, 404 in x: GET /3",
                "latency 0.0 us here, 5.0 us in x: GET /3",
                "only in x: GET /4 -> none",
            ]
        );
        assert_eq!(differences(&ours, &ours, "x"), Vec::<String>::new());
    }

    #[test]
    fn streams_are_apart_when_both_sides_tell() {
        let mut there = exchange("GET /1", "200", 5);
        there.stream = "c d".to_owned();
        assert_eq!(differences(&[exchange("GET /1", "200", 5)], &[there.clone()], "x").len(), 2);
        there.stream = String::new();
        assert_eq!(differences(&[exchange("GET /1", "200", 5)], &[there], "x"), Vec::<String>::new());
    }

    #[test]
    fn ends_and_texts_are_written_one_way() {
        assert_eq!(stream("10.0.0.2:80", "10.0.0.1:4000"), "10.0.0.1:4000 10.0.0.2:80");
        assert_eq!(plain("SELECT 'a'\n FROM t"), plain("SELECT \\'a\\'\\n FROM\tt"));
    }
}
