//! Tells Rust's code from its comments and strings, line by line.
//!
//! Guarantee: [`Scan::code`] has the same lines as the source, with comments and the insides of literals replaced by
//! spaces, so whatever is found in it is code. It is a lexer, no parser: macros are read as they are written.

/// A source split into what runs and what is only written.
pub struct Scan {
    pub code: String,
    /// Insides of string literals with the line they begin on, from 1.
    pub strings: Vec<(usize, String)>,
    /// Comments with the line they begin on, without their slashes.
    pub comments: Vec<(usize, String)>,
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::CharIndices<'a>>,
    source: &'a str,
    line: usize,
    scan: Scan,
}

pub fn scan(source: &str) -> Scan {
    let scan = Scan { code: String::with_capacity(source.len()), strings: Vec::new(), comments: Vec::new() };
    let mut lexer = Lexer { rest: source.char_indices().peekable(), source, line: 1, scan };
    let mut previous = ' ';
    while let Some(&(at, c)) = lexer.rest.peek() {
        let after = &source[at..];
        let in_word = previous.is_alphanumeric() || previous == '_';
        previous = c;
        if after.starts_with("//") {
            let text = lexer.blank_until(|l| l.rest.peek().is_none_or(|(_, c)| *c == '\n'));
            lexer.scan.comments.push((lexer.line, text.trim_start_matches(['/', '!']).trim().to_owned()));
        } else if after.starts_with("/*") {
            lexer.block_comment();
        } else if let Some(hashes) = raw_string(after).filter(|_| !in_word) {
            lexer.raw_string(hashes);
            previous = '"';
        } else if c == '"' {
            lexer.string();
        } else if c == '\'' && char_literal(after) {
            lexer.blank();
            lexer.escaped_until('\'');
        } else {
            lexer.keep();
        }
    }
    lexer.scan
}

/// How many hashes a raw string that begins here has, if one does: `r"`, `br#"`, `cr##"`.
fn raw_string(after: &str) -> Option<usize> {
    let rest = after.strip_prefix("br").or_else(|| after.strip_prefix("cr")).or_else(|| after.strip_prefix('r'))?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// `'a'` and `'\n'` are characters, `'a` is a lifetime.
fn char_literal(after: &str) -> bool {
    let mut chars = after.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => true,
        (Some(c), Some('\'')) => c != '\'',
        _ => false,
    }
}

impl Lexer<'_> {
    fn take(&mut self) -> Option<char> {
        let (_, c) = self.rest.next()?;
        if c == '\n' {
            self.line += 1;
        }
        Some(c)
    }

    fn keep(&mut self) {
        if let Some(c) = self.take() {
            self.scan.code.push(c);
        }
    }

    fn blank(&mut self) -> Option<char> {
        let c = self.take()?;
        self.scan.code.push(if c == '\n' { '\n' } else { ' ' });
        Some(c)
    }

    fn blank_until(&mut self, done: impl Fn(&mut Self) -> bool) -> String {
        let mut text = String::new();
        while !done(self) {
            match self.blank() {
                Some(c) => text.push(c),
                None => break,
            }
        }
        text
    }

    fn block_comment(&mut self) {
        let line = self.line;
        let mut depth = 0_usize;
        let mut text = String::new();
        while let Some(&(at, _)) = self.rest.peek() {
            let after = &self.source[at..];
            let mark = if after.starts_with("/*") {
                depth += 1;
                true
            } else if after.starts_with("*/") {
                depth -= 1;
                true
            } else {
                false
            };
            if mark {
                self.blank();
            }
            text.extend(self.blank().filter(|_| !mark));
            if depth == 0 {
                break;
            }
        }
        self.scan.comments.push((line, text.trim().to_owned()));
    }

    fn string(&mut self) {
        let line = self.line;
        // The quotes stay: code that calls with a literal still looks like a call with one.
        self.keep();
        let text = self.escaped_until('"');
        self.scan.strings.push((line, text));
    }

    fn escaped_until(&mut self, end: char) -> String {
        let mut text = String::new();
        while let Some(c) = self.rest.peek().map(|(_, c)| *c) {
            if c == end {
                self.keep();
                break;
            }
            text.extend(self.blank());
            if c == '\\' {
                text.extend(self.blank());
            }
        }
        text
    }

    fn raw_string(&mut self, hashes: usize) {
        let line = self.line;
        while self.rest.peek().is_some_and(|(_, c)| *c != '"') {
            self.keep();
        }
        self.keep();
        let end = format!("\"{}", "#".repeat(hashes));
        let source = self.source;
        let text = self.blank_until(|l| l.rest.peek().is_none_or(|(at, _)| source[*at..].starts_with(&end)));
        for _ in 0..end.len() {
            self.keep();
        }
        self.scan.strings.push((line, text));
    }
}

#[cfg(test)]
mod tests {
    use super::scan;

    fn check(source: &str, code: &str, strings: &[&str], comments: &[&str]) {
        let scan = scan(source);
        assert_eq!(scan.code.lines().count(), source.lines().count(), "{source}");
        let squeezed: Vec<&str> = scan.code.split_whitespace().collect();
        assert_eq!(squeezed.join(" "), code, "{source}");
        assert_eq!(scan.strings.iter().map(|(_, s)| s.as_str()).collect::<Vec<_>>(), strings, "{source}");
        assert_eq!(scan.comments.iter().map(|(_, s)| s.as_str()).collect::<Vec<_>>(), comments, "{source}");
    }

    #[test]
    fn comments_and_insides_of_strings_are_no_code() {
        check("let a = 1; // unwrap()", "let a = 1;", &[], &["unwrap()"]);
        check("a /* b /* c */ d */ e", "a e", &[], &["b  c  d"]);
        check(r#"f("x\"y", z)"#, r#"f(" ", z)"#, &[r#"x\"y"#], &[]);
        check("f(\"// no comment\")", "f(\" \")", &["// no comment"], &[]);
        check("f(\"a\nb\")", "f(\" \")", &["a\nb"], &[]);
    }

    #[test]
    fn raw_strings_end_where_their_hashes_say() {
        check(r###"f(r#"a "quoted" b"#, c)"###, r##"f(r#" "#, c)"##, &[r#"a "quoted" b"#], &[]);
        check("f(br\"a\\\", c)", "f(br\" \", c)", &["a\\"], &[]);
        check("let r#type = attr\"x\"", "let r#type = attr\" \"", &["x"], &[]);
    }

    #[test]
    fn lifetimes_are_not_characters() {
        check("fn f<'a>(x: &'a str) { '{'; '\\''; '\"' }", "fn f<'a>(x: &'a str) { '; '; ' }", &[], &[]);
    }
}
