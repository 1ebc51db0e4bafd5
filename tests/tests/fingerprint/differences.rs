//! What may differ from pt-fingerprint, told from the statement alone, and why ours differs. docs/protocols.md says the same in prose.

/// Name of a kind and the reason.
pub const KINDS: &[(&str, &str)] = &[
    ("end", "white space and the terminator behind a statement are no part of it; pt-fingerprint's own reader cuts its terminator too"),
    ("doubled quote", "'it''s' is one literal (there `??`)"),
    ("backslash at the end", "in 'a\\\\' the backslash is escaped and the quote ends the literal (there the next literal is shown)"),
    ("quote in quotes", "'5\" pipe' holds no second literal (there what lies between two of them is lost, or shown)"),
    ("comment in quotes", "'/*' in a literal opens no comment (there text is lost, or the rest of the literal is shown)"),
    ("rows in quotes", "'), (' in a literal ends no row (there half the literal is shown)"),
    ("open quote", "a literal that is cut is hidden (there it is shown)"),
    ("quote in backticks", "what seems to be a name with a quote in it is hidden, for it may hold literals"),
    ("open comment", "a comment that is cut is hidden (there it is shown)"),
    ("empty comment", "/**/ is a whole comment (there it reaches to the end of the next one)"),
    ("quote in a line comment", "-- it's a comment (there it is shown)"),
    ("capital hexadecimal", "0xAB is hidden whole (there `?ab`)"),
    (
        "call",
        "the name ends at the first parenthesis (there at the last one before white space, so arguments are shown); one space before it",
    ),
    (
        "administrator command",
        "kept as it is where it is words alone, else fingerprinted like a statement (there whatever stands in it is shown)",
    ),
];

/// What of [`KINDS`] is in a statement, by MySQL's rules for literals and comments.
pub fn kinds(statement: &str) -> Vec<&'static str> {
    let text = statement.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        at += match rest {
            [b'\'' | b'"', ..] => literal(rest, &mut found),
            [b'`', ..] => backticks(rest, &mut found),
            [b'/', b'*', b'!', ..] => 3,
            [b'/', b'*', ..] => comment(rest, &mut found),
            [b'-', b'-', b' ' | b'\n' | b'\t', ..] | [b'#', ..] => {
                let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
                if line.iter().any(|byte| matches!(byte, b'\'' | b'"')) {
                    found.push("quote in a line comment");
                }
                line.len()
            }
            [b'0', b'x', ..] => {
                let digits = rest[2..].iter().take_while(|byte| byte.is_ascii_hexdigit());
                if digits.clone().any(u8::is_ascii_uppercase) {
                    found.push("capital hexadecimal");
                }
                2 + digits.count()
            }
            _ => 1,
        };
    }
    if let Some(command) = statement.strip_prefix("administrator command: ")
        && !command.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, ' ' | '_'))
    {
        found.insert(0, "administrator command");
    }
    if statement.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("call ")) {
        let name = statement[5..].trim_start();
        let run = name.split_whitespace().next().unwrap_or_default();
        if name.len() + 5 < statement.len() || run.matches('(').count() > 1 {
            found.push("call");
        }
    }
    found
}

fn literal(text: &[u8], found: &mut Vec<&'static str>) -> usize {
    let quote = text[0];
    let other = if quote == b'"' { b'\'' } else { b'"' };
    let mut at = 1;
    let end = loop {
        match text.get(at) {
            None => break None,
            Some(b'\\') => at += 2,
            Some(byte) if *byte == quote && text.get(at + 1) == Some(&quote) => {
                found.push("doubled quote");
                at += 2;
            }
            Some(byte) if *byte == quote => break Some(at),
            Some(_) => at += 1,
        }
    };
    let Some(end) = end else {
        found.push("open quote");
        return text.len();
    };
    let inside = &text[1..end];
    if inside.ends_with(b"\\\\") {
        found.push("backslash at the end");
    }
    if inside.contains(&other) {
        found.push("quote in quotes");
    }
    if inside.windows(2).any(|pair| matches!(pair, b"/*" | b"*/" | b"--")) || inside.contains(&b'#') {
        found.push("comment in quotes");
    }
    let dense: Vec<u8> = inside.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if dense.windows(2).any(|pair| pair == b"),") {
        found.push("rows in quotes");
    }
    end + 1
}

fn backticks(text: &[u8], found: &mut Vec<&'static str>) -> usize {
    let Some(end) = text[1..].iter().position(|byte| *byte == b'`') else { return 1 };
    if text[..end + 1].iter().any(|byte| matches!(byte, b'\'' | b'"')) {
        found.push("quote in backticks");
    }
    end + 2
}

fn comment(text: &[u8], found: &mut Vec<&'static str>) -> usize {
    match text.windows(2).skip(2).position(|pair| pair == b"*/") {
        None => {
            found.push("open comment");
            text.len()
        }
        Some(0) => {
            found.push("empty comment");
            4
        }
        Some(end) => end + 4,
    }
}
