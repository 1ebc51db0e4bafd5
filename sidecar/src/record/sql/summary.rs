//! Finds operation and tables: `SELECT orders items`, as OpenTelemetry's semantic conventions for databases advise.
//!
//! Only words of the statement get in, never a literal. It is no parser: a subquery's tables are in it too.

use super::token::Token;

/// Longest summary, as OpenTelemetry advises.
const MAX_SUMMARY: usize = 255;
/// Longest operation; SQL's verbs are shorter, so what is longer is no verb.
const MAX_OPERATION: usize = 32;
/// Longest keyword that matters here.
const MAX_KEYWORD: usize = 12;

/// What a word does to the search.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keyword {
    /// A table follows.
    Table,
    /// Stands before a table's name.
    Modifier,
    /// Ends the list of tables.
    Clause,
    Other,
}

fn keyword(word: &[u8]) -> Keyword {
    if word.len() < 2 {
        return Keyword::Other;
    }
    let mut buffer = [0; MAX_KEYWORD];
    let Some(lower) = buffer.get_mut(..word.len()) else { return Keyword::Other };
    lower.copy_from_slice(word);
    lower.make_ascii_lowercase();
    match &*lower {
        b"from" | b"into" | b"join" | b"update" | b"table" => Keyword::Table,
        b"if" | b"not" | b"exists" | b"only" | b"ignore" | b"low_priority" | b"delayed" | b"quick" | b"lateral" => Keyword::Modifier,
        b"where" | b"set" | b"values" | b"value" | b"select" | b"on" | b"group" | b"order" | b"limit" | b"having" | b"using" | b"for" => {
            Keyword::Clause
        }
        _ => Keyword::Other,
    }
}

/// Whether a word may be one of [`Keyword::Table`].
fn may_precede_table(word: &[u8]) -> bool {
    (4..=6).contains(&word.len()) && matches!(word[0] | 0x20, b'f' | b'i' | b'j' | b'u' | b't')
}

/// The search.
pub struct Summary<'a> {
    operation: &'a mut String,
    summary: &'a mut String,
    /// The next word is a table.
    expected: bool,
    /// The word before was a table, so a dot continues it and a comma brings another.
    after_table: bool,
    dot: bool,
}

impl<'a> Summary<'a> {
    /// Writes into these.
    pub fn new(operation: &'a mut String, summary: &'a mut String) -> Self {
        operation.clear();
        summary.clear();
        Self { operation, summary, expected: false, after_table: false, dot: false }
    }

    /// The next piece that is neither white space nor comment.
    pub fn take(&mut self, kind: Token, text: &[u8]) {
        match (kind, text) {
            (Token::Word, _) => self.word(text),
            (Token::Symbol, b".") if self.after_table => self.dot = true,
            (Token::Symbol, b",") if self.after_table => (self.expected, self.after_table) = (true, false),
            _ => (self.expected, self.after_table, self.dot) = (false, false, false),
        }
    }

    fn word(&mut self, word: &[u8]) {
        if self.operation.is_empty() {
            let verb = String::from_utf8_lossy(&word[..word.len().min(MAX_OPERATION)]);
            self.operation.push_str(&verb);
            self.operation.make_ascii_uppercase();
            self.summary.push_str(self.operation);
            self.expected = matches!(self.operation.as_str(), "UPDATE" | "TRUNCATE" | "DESCRIBE" | "DESC");
            return;
        }
        if self.dot && self.after_table {
            self.dot = false;
            return self.push('.', word);
        }
        // Most words are neither: a look at length and first letter settles it.
        if !self.expected && !self.after_table && !may_precede_table(word) {
            return;
        }
        match keyword(word) {
            // TRUNCATE TABLE, LOCK TABLE and the like may say it twice.
            Keyword::Table => (self.expected, self.after_table) = (true, false),
            Keyword::Modifier if self.expected => {}
            _ if self.expected => {
                (self.expected, self.after_table) = (false, true);
                self.push(' ', word);
            }
            // An alias keeps a comma meaning "another table"; clauses end the list.
            Keyword::Clause => self.after_table = false,
            _ => {}
        }
    }

    fn push(&mut self, before: char, name: &[u8]) {
        if self.summary.len() + 1 + name.len() <= MAX_SUMMARY {
            self.summary.push(before);
            let name = name.strip_prefix(b"`").and_then(|name| name.strip_suffix(b"`")).unwrap_or(name);
            self.summary.push_str(&String::from_utf8_lossy(name));
        }
    }

    /// A statement without tables is its operation.
    pub fn finish(self) {
        if self.summary.is_empty() {
            self.operation.clone_into(self.summary);
        }
    }
}
