//! One Rust file as the rules see it: its code, which of its lines are tests, its functions, the paths it names.

use super::lexer::{self, Scan};

pub struct Source {
    /// Relative to the root, with forward slashes.
    pub path: String,
    pub text: String,
    pub scan: Scan,
    /// For each line (from 0) whether it is only there for tests.
    tests: Vec<bool>,
}

/// A function's name and its lines, from 1, both ends included.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub first: usize,
    pub last: usize,
}

impl Source {
    pub fn new(path: &str, text: String) -> Self {
        let scan = lexer::scan(&text);
        let tests = if is_test_file(path) { vec![true; text.lines().count()] } else { test_lines(&scan.code) };
        Source { path: path.to_owned(), text, scan, tests }
    }

    /// Whether the line (from 1) is only there for tests.
    pub fn is_test(&self, line: usize) -> bool {
        self.tests.get(line.wrapping_sub(1)).copied().unwrap_or(false)
    }

    /// Lines that are not only there for tests.
    pub fn shipped_lines(&self) -> usize {
        self.tests.iter().filter(|test| !**test).count()
    }

    /// Lines of code from 1, without comments and the insides of strings, without those of tests.
    pub fn shipped_code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().filter(|(line, _)| !self.is_test(*line))
    }

    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.scan.code.lines().enumerate().map(|(index, code)| (index + 1, code))
    }

    pub fn functions(&self) -> Vec<Function> {
        let tokens = tokens(&self.scan.code);
        let mut found = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            let name = match (token.text, tokens.get(index + 1)) {
                // `fn(` is a type, not a function.
                ("fn", Some(next)) if is_word(next.text) => next.text,
                _ => continue,
            };
            if let Some(last) = body_end(&tokens, index) {
                found.push(Function { name: name.to_owned(), first: token.line, last });
            }
        }
        found
    }

    /// Every path that the code names, whole: `use a::{b, c::d}` gives `a::b` and `a::c::d`; with its line.
    pub fn paths(&self) -> Vec<(usize, String)> {
        let tokens = tokens(&self.scan.code);
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            // `+ use<'a>` is a bound.
            if token.text == "use" && tokens.get(at + 1).is_none_or(|next| next.text != "<") {
                at = use_tree(&tokens, at + 1, "", &mut found);
            } else if is_word(token.text) {
                let (path, next) = inline_path(&tokens, at);
                found.push((token.line, path));
                at = next;
            } else {
                at += 1;
            }
        }
        found
    }
}

/// Files that cargo builds for tests only, by where they lie. The `tests` package is one: it has no shipped code.
fn is_test_file(path: &str) -> bool {
    let mut parts = path.split('/').rev();
    let file = parts.next().unwrap_or_default();
    file == "tests.rs"
        || file.ends_with("_tests.rs")
        || path.starts_with("tests/")
        || parts.any(|folder| folder == "tests" || folder == "benches")
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    for (index, text) in code.lines().enumerate() {
        let line = index + 1;
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let length = if c.is_alphanumeric() || c == '_' {
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                c.len_utf8()
            };
            if !c.is_whitespace() {
                found.push(Token { text: &rest[..length], line });
            }
            rest = &rest[length..];
        }
    }
    found
}

/// The line of the brace that closes the body of the item at `from`; `None` when it ends with `;` (a declaration).
fn body_end(tokens: &[Token<'_>], from: usize) -> Option<usize> {
    let mut brackets = 0_usize;
    let mut braces = 0_usize;
    for token in tokens.get(from..)? {
        match token.text {
            "(" | "[" => brackets += 1,
            ")" | "]" => brackets = brackets.saturating_sub(1),
            "{" => braces += 1,
            "}" if braces == 1 && brackets == 0 => return Some(token.line),
            "}" => braces = braces.saturating_sub(1),
            ";" if braces == 0 && brackets == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Lines below `#[cfg(test)]` and `#[test]`, to the end of the item that they stand at.
fn test_lines(code: &str) -> Vec<bool> {
    let tokens = tokens(code);
    let mut lines = vec![false; code.lines().count()];
    for (index, token) in tokens.iter().enumerate() {
        let spelled: String = tokens[index..].iter().take(7).map(|t| t.text).collect();
        let after = if spelled.starts_with("#[cfg(test)]") {
            index + 7
        } else if spelled.starts_with("#[test]") {
            index + 4
        } else {
            continue;
        };
        let last = body_end(&tokens, after).or_else(|| tokens.get(after).map(|t| t.line)).unwrap_or(token.line);
        for line in lines.iter_mut().take(last).skip(token.line - 1) {
            *line = true;
        }
    }
    lines
}

fn inline_path(tokens: &[Token<'_>], from: usize) -> (String, usize) {
    let mut path = tokens[from].text.to_owned();
    let mut at = from + 1;
    while let (Some(colons), Some(word)) = (tokens.get(at), tokens.get(at + 1)) {
        if colons.text != "::" || !is_word(word.text) {
            break;
        }
        path.push_str("::");
        path.push_str(word.text);
        at += 2;
    }
    (path, at)
}

/// Reads one tree of a `use` and returns where it ends.
fn use_tree(tokens: &[Token<'_>], mut at: usize, prefix: &str, found: &mut Vec<(usize, String)>) -> usize {
    let mut path = prefix.to_owned();
    while let Some(token) = tokens.get(at) {
        match token.text {
            "::" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|t| !matches!(t.text, "}" | ";")) {
                    at = use_tree(tokens, at, &path, found);
                    if tokens.get(at).is_some_and(|t| t.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 1,
            "," | "}" | ";" => break,
            word => {
                if !path.is_empty() {
                    path.push_str("::");
                }
                path.push_str(word);
            }
        }
        at += 1;
    }
    if path != prefix {
        let line = tokens.get(at.wrapping_sub(1)).map_or(1, |t| t.line);
        found.push((line, path));
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("sidecar/src/a.rs", text.to_owned())
    }

    #[test]
    fn functions_reach_from_fn_to_their_closing_brace() {
        let found =
            source("fn a() {\n  if x { y() }\n}\ntrait T { fn b(&self); fn c() -> [u8; 2] {\n [0; 2] } }\ntype F = fn(u8);").functions();
        let function = |name: &str, first, last| Function { name: name.to_owned(), first, last };
        assert_eq!(found, [function("a", 1, 3), function("c", 4, 5)]);
    }

    #[test]
    fn tests_are_told_from_what_is_shipped() {
        let s = source("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nmod more;\nfn d() {}\n");
        let tests: Vec<usize> = (1..=9).filter(|line| s.is_test(*line)).collect();
        assert_eq!(tests, [2, 3, 4, 5, 7, 8]);
        assert_eq!(s.shipped_lines(), 3);
        assert_eq!(Source::new("wire/src/batch/tests.rs", "fn a() {}\n".to_owned()).shipped_lines(), 0);
        assert_eq!(Source::new("wire/tests/golden.rs", "fn a() {}\n".to_owned()).shipped_lines(), 0);
    }

    #[test]
    fn bounds_that_begin_with_use_import_nothing() {
        let s = source("fn f(a: &str) -> impl Iterator<Item = u8> + use<'_> {\n    let b = std::fs::read(a);\n    b.into_iter()\n}\n");
        let paths: Vec<String> = s.paths().into_iter().map(|(_, p)| p).collect();
        assert!(paths.iter().any(|p| p == "std::fs::read"), "{paths:?}");
    }

    #[test]
    fn paths_are_whole_however_they_are_written() {
        let s = source("use std::{fs::File, net::{IpAddr, TcpStream}, io};\nuse a::b as c;\nfn f() { std::thread::spawn(x); }\n");
        let paths: Vec<String> = s.paths().into_iter().map(|(_, p)| p).collect();
        for wanted in ["std::fs::File", "std::net::IpAddr", "std::net::TcpStream", "std::io", "a::b", "std::thread::spawn"] {
            assert!(paths.iter().any(|p| p == wanted), "{wanted} in {paths:?}");
        }
    }
}
