//! `podtap-sidecar fingerprint`: statements in, fingerprints out, a JSON object a line each.
//!
//! Guarantee: one answer a line, in order, each written before the next line is waited for; a line that cannot be read ends it with
//! the line's number, after the answers to the lines before. It is for looking at and comparing; records carry the same fingerprint.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::eventloop::Failure;
use crate::record::{Normalised, normalise};

/// Longest line: a statement as long as a server takes by default (MySQL manual, max_allowed_packet), all of it escaped.
const MAX_LINE: u64 = 6 * (64 << 20);
/// A line is not what it should be (sysexits.h, EX_DATAERR).
const DATA: u8 = 65;
/// The file cannot be opened (sysexits.h, EX_NOINPUT).
const NO_INPUT: u8 = 66;

#[derive(Deserialize)]
struct Question {
    sql: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    fingerprint: &'a str,
}

/// Answers the lines of a file, `-` for standard input, on standard output.
pub fn file(path: &Path) -> Result<(), Failure> {
    let output = io::stdout().lock();
    if path == Path::new("-") {
        return lines(io::stdin().lock(), output);
    }
    let file = File::open(path).map_err(|error| Failure { code: NO_INPUT, message: format!("{}: {error}", path.display()) })?;
    lines(BufReader::new(file), output)
}

/// Answers line by line. A reader that went away is no failure.
pub fn lines(mut input: impl BufRead, output: impl Write) -> Result<(), Failure> {
    let mut output = BufWriter::new(output);
    let mut line = Vec::new();
    let mut found = Normalised::default();
    for number in 1u64.. {
        line.clear();
        let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let length = read.map_err(|error| Failure { code: DATA, message: format!("line {number}: {error}") })?;
        if length == 0 {
            break;
        }
        let wrong = |what: String| Failure { code: DATA, message: format!("line {number}: {what}") };
        let question: Result<Question, Failure> = if length as u64 == MAX_LINE && !line.ends_with(b"\n") {
            Err(wrong(format!("longer than {MAX_LINE} bytes")))
        } else {
            serde_json::from_slice(&line).map_err(|error| wrong(format!("not a JSON object {{\"sql\": \"...\"}}: {error}")))
        };
        let written = match &question {
            Ok(question) => {
                normalise(&question.sql, &mut found);
                answer(&mut output, &found.fingerprint)
            }
            Err(_) => Ok(()),
        };
        // Whoever waits for each answer gets it; whoever pipes a file does not pay a system call a line.
        let waits = question.is_err() || !input.fill_buf().is_ok_and(|rest| !rest.is_empty());
        match written.and_then(|()| if waits { output.flush() } else { Ok(()) }) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Failure { code: 1, message: format!("standard output: {error}") }),
            Ok(()) => question.map(|_| ())?,
        }
    }
    Ok(())
}

fn answer(output: &mut impl Write, fingerprint: &str) -> io::Result<()> {
    serde_json::to_writer(&mut *output, &Answer { fingerprint })?;
    output.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::lines;

    fn check(input: &str, output: &str, failure: Option<&str>) {
        let mut written = Vec::new();
        let outcome = lines(input.as_bytes(), &mut written);
        assert_eq!(String::from_utf8(written).unwrap(), output, "{input}");
        match (outcome, failure) {
            (Ok(()), None) => {}
            (Err(found), Some(start)) => assert!(found.code == 65 && found.message.starts_with(start), "{}: {}", found.code, found.message),
            (Ok(()), Some(_)) => panic!("{input} was taken"),
            (Err(found), None) => panic!("{}", found.message),
        }
    }

    #[test]
    fn a_line_each() {
        check("", "", None);
        check(
            "{\"sql\": \"SELECT 'é\\n'\", \"other\": 1}\n{\"sql\":\"\"}",
            "{\"fingerprint\":\"select ?\"}\n{\"fingerprint\":\"\"}\n",
            None,
        );
        let first = "{\"fingerprint\":\"select ?\"}\n";
        for bad in ["select 1", "{\"sql\": 1}", "{}", "", "{\"sql\": \"select 1\"", "[]", "{\"sql\": \"\\ud800\"}"] {
            check(&format!("{{\"sql\": \"select 1\"}}\n{bad}\n{{\"sql\": \"select 2\"}}\n"), first, Some("line 2: not a JSON object"));
        }
        let mut bytes = b"{\"sql\": \"select 1\"}\n{\"sql\": \"".to_vec();
        bytes.extend_from_slice(b"\xff\"}\n");
        assert_eq!(lines(bytes.as_slice(), Vec::new()).map_err(|failure| failure.code), Err(65));
    }
}
