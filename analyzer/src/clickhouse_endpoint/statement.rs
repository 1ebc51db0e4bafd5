//! What a statement is, as far as the endpoint must know: whether it returns rows, whether data follows it, and where the
//! clauses stand that connect it with the pipes its data and its result go through.
//!
//! Why pipes: libchdb formats each block of a streamed result as a document of its own (several JSON objects, several Parquet
//! files, a header before each block), and takes inline data only as text up to the first line break. `INTO OUTFILE` and
//! `FROM INFILE` over `/proc/self/fd/N` go through the engine's own formatting, in bounded memory, for every format.
//!
//! Guarantee: pure; a statement it does not understand goes to the engine unchanged, whose error then reaches the client. The
//! one misuse: showing it a cut text of anything but an INSERT whose data has begun.

use super::exception::{BAD_ARGUMENTS, Exception, INTO_OUTFILE_NOT_ALLOWED, SYNTAX_ERROR};
use super::lexer::{Kind, Lexer, Token};

/// A statement with its parts found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Returns rows: `before` and `after` enclose the place of INTO OUTFILE; `format` is what its FORMAT clause names.
    Rows { before: Vec<u8>, after: Vec<u8>, format: Option<String> },
    /// An INSERT whose data starts at byte `data` of the text; the place of the data's source is between the two halves.
    Insert { before: Vec<u8>, source: Source, after: Vec<u8>, data: usize },
    /// Anything else; run as it is. `reads_only` is true for what a read-only request may run.
    Other { sql: Vec<u8>, reads_only: bool },
}

/// How the engine is told to read an INSERT's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `FROM INFILE 'path' COMPRESSION 'none'` before FORMAT.
    Infile,
    /// `file('path', Format, <structure of input()>)` in place of `input(...)`.
    TableFunction { format: String },
}

/// Takes the statement apart. `complete` is false when more of the body follows than `text` holds.
pub fn parse(text: &[u8], complete: bool) -> Result<Statement, Exception> {
    let mut tokens = Lexer::new(text).peekable();
    let Some(first) = tokens.peek().copied() else {
        return Err(Exception::new(SYNTAX_ERROR, "Syntax error: Empty query"));
    };
    let insert = if first.is(text, "INSERT") { Some(insert(text)?) } else { None };
    if let Some(statement @ Statement::Insert { .. }) = insert {
        return Ok(statement);
    }
    if !complete {
        let what = format!("Syntax error: the query is longer than max_query_size ({} bytes)", text.len());
        return Err(Exception::new(SYNTAX_ERROR, what));
    }
    if let Some(statement) = insert {
        return Ok(statement);
    }
    let mut tokens: Vec<Token> = tokens.collect();
    end_of_statement(text, &mut tokens)?;
    if tokens.windows(2).any(|pair| pair[0].depth == 0 && pair[0].is(text, "INTO") && pair[1].is(text, "OUTFILE")) {
        return Err(Exception::new(INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE is not allowed"));
    }
    let returns_rows = ["SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK", "KILL"];
    let end = tokens.last().map_or(0, |token| token.end);
    if first.kind == Kind::Punctuation(b'(') || returns_rows.iter().any(|keyword| first.is(text, keyword)) {
        return Ok(rows(text, &tokens, end));
    }
    let reads_only = ["SET", "USE"].iter().any(|keyword| first.is(text, keyword));
    Ok(Statement::Other { sql: text[..end].to_vec(), reads_only })
}

/// Drops a semicolon at the end; a second statement behind one is refused, as ClickHouse does over HTTP.
fn end_of_statement(text: &[u8], tokens: &mut Vec<Token>) -> Result<(), Exception> {
    let Some(first) = tokens.iter().position(|token| token.kind == Kind::Punctuation(b';')) else { return Ok(()) };
    if let Some(extra) = tokens[first..].iter().find(|token| token.kind != Kind::Punctuation(b';')) {
        let shown: String = String::from_utf8_lossy(&text[extra.start..]).chars().take(100).collect();
        let what = format!("Syntax error (Multi-statements are not allowed): failed at position {}: {shown}", tokens[first].start + 1);
        return Err(Exception::new(SYNTAX_ERROR, what));
    }
    tokens.truncate(first);
    match tokens.is_empty() {
        true => Err(Exception::new(SYNTAX_ERROR, "Syntax error: Empty query")),
        false => Ok(()),
    }
}

/// Whether `tokens[at]` is the keyword of a clause and not a name: a name follows an operator, a comma, a dot or SELECT.
fn starts_clause(text: &[u8], tokens: &[Token], at: usize, keyword: &str) -> bool {
    let Some(token) = tokens.get(at) else { return false };
    let after_name = match at.checked_sub(1).and_then(|before| tokens.get(before)) {
        None => false,
        Some(before) => match before.kind {
            Kind::Punctuation(byte) => matches!(byte, b')' | b']' | b'}' | b'*'),
            Kind::Word => !["SELECT", "BY", "AS", "WHERE", "AND", "OR", "NOT"].iter().any(|word| before.is(text, word)),
            _ => true,
        },
    };
    token.depth == 0 && after_name && token.is(text, keyword)
}

fn rows(text: &[u8], tokens: &[Token], end: usize) -> Statement {
    let format = (0..tokens.len()).rev().find(|&at| {
        let named = tokens.get(at + 1).is_some_and(|name| matches!(name.kind, Kind::Word | Kind::QuotedName));
        let followed = tokens.get(at + 2).is_none_or(|next| next.is(text, "SETTINGS"));
        named && followed && starts_clause(text, tokens, at, "FORMAT")
    });
    // SELECT reads its own SETTINGS, so its OUTFILE stands behind them; the other statements read SETTINGS last.
    let select = ["SELECT", "WITH", "FROM"].iter().any(|keyword| tokens[0].is(text, keyword));
    let settings = match select || tokens[0].kind == Kind::Punctuation(b'(') {
        true => None,
        false => (1..tokens.len()).rev().find(|&at| starts_clause(text, tokens, at, "SETTINGS")),
    };
    let outfile = [format, settings].into_iter().flatten().min().and_then(|at| tokens.get(at)).map_or(end, |token| token.start);
    let name = format
        .and_then(|at| tokens.get(at + 1))
        .map(|token| String::from_utf8_lossy(token.text(text)).trim_matches(|quote| quote == '`' || quote == '"').to_owned());
    Statement::Rows { before: text[..outfile].to_vec(), after: text[outfile..end].to_vec(), format: name }
}

/// INSERT INTO t [(columns)] [SETTINGS ...] {VALUES | FORMAT x [SETTINGS ...] | SELECT ...}. Reads tokens only up to where
/// the data starts.
fn insert(text: &[u8]) -> Result<Statement, Exception> {
    let mut lexer = Lexer::new(text);
    let mut tokens: Vec<Token> = Vec::new();
    let mut select = false;
    let mut settings_at = None;
    let mut input: Option<usize> = None;
    while let Some(token) = lexer.next() {
        let at = tokens.len();
        tokens.push(token);
        let name_expected = tokens.get(at.wrapping_sub(1)).is_some_and(|before| {
            ["INTO", "TABLE", "FUNCTION", "INSERT"].iter().any(|word| before.is(text, word)) || before.kind == Kind::Punctuation(b'.')
        });
        if token.kind == Kind::Punctuation(b'(') && tokens.get(at.wrapping_sub(1)).is_some_and(|before| before.is(text, "input")) {
            input = Some(at - 1);
        }
        if token.kind == Kind::Punctuation(b';') && select {
            end_of_statement(text, &mut Lexer::new(text).collect())?;
            tokens.pop();
            break;
        }
        if token.depth > 0 || token.kind != Kind::Word || (name_expected && at < 6) {
            continue;
        }
        if token.is(text, "SELECT") || token.is(text, "WITH") {
            select = true;
        } else if token.is(text, "SETTINGS") && !select {
            settings_at = settings_at.or(Some(token.start));
        } else if token.is(text, "INFILE") && !select {
            return Err(Exception::new(BAD_ARGUMENTS, "Query has infile and was send directly to server"));
        } else if token.is(text, "VALUES") && !select {
            let place = settings_at.unwrap_or(token.start);
            let mut after = text[place..token.start].to_vec();
            after.extend_from_slice(b" FORMAT Values");
            return Ok(Statement::Insert { before: text[..place].to_vec(), source: Source::Infile, after, data: token.end });
        } else if token.is(text, "FORMAT") && starts_clause(text, &tokens, at, "FORMAT") {
            let Some(name) = lexer.next().filter(|name| name.kind == Kind::Word) else { break };
            let Some(input_at) = input else {
                if select {
                    continue;
                }
                return Ok(insert_with_format(text, settings_at.unwrap_or(token.start), token, name));
            };
            let format = String::from_utf8_lossy(name.text(text)).into_owned();
            let (_, data) = data_start(text, name.end);
            // Between the halves: `file('path', Format, ` takes the place of `input(`.
            let opening = tokens.get(input_at + 1).map_or(0, |token| token.end);
            let (before, after) = (text[..tokens[input_at].start].to_vec(), text[opening..token.start].to_vec());
            return Ok(Statement::Insert { before, source: Source::TableFunction { format }, after, data });
        }
    }
    // Without data: INSERT ... SELECT, or a statement whose fault the engine's parser names best.
    let end = tokens.last().map_or(0, |token| token.end);
    Ok(Statement::Other { sql: text[..end].to_vec(), reads_only: false })
}

fn insert_with_format(text: &[u8], place: usize, format: Token, name: Token) -> Statement {
    let (settings_end, data) = data_start(text, name.end);
    let mut after = text[place..format.start].to_vec();
    after.extend_from_slice(text.get(name.end..settings_end).unwrap_or_default());
    after.extend_from_slice(b" FORMAT ");
    after.extend_from_slice(name.text(text));
    Statement::Insert { before: text[..place].to_vec(), source: Source::Infile, after, data }
}

/// Where the data starts behind a format's name: behind its SETTINGS, if any, blanks and one line break.
/// Returns (end of the settings, start of the data).
fn data_start(text: &[u8], name_end: usize) -> (usize, usize) {
    let mut settings_end = name_end;
    let mut lexer = Lexer::new(text.get(name_end..).unwrap_or_default());
    let rest = text.get(name_end..).unwrap_or_default();
    if lexer.next().is_some_and(|token| token.is(rest, "SETTINGS")) {
        while let (Some(_), Some(equals), Some(value)) = (lexer.next(), lexer.next(), lexer.next()) {
            if equals.kind != Kind::Punctuation(b'=') {
                break;
            }
            settings_end = name_end + value.end;
            if rest.get(value.end..).and_then(|tail| tail.iter().find(|byte| !byte.is_ascii_whitespace())) != Some(&b',') {
                break;
            }
            lexer.next();
        }
    }
    let mut at = settings_end;
    while matches!(text.get(at), Some(b' ' | b'\t' | 0x0c)) {
        at += 1;
    }
    if text.get(at) == Some(&b'\r') {
        at += 1;
    }
    if text.get(at) == Some(&b'\n') {
        at += 1;
    }
    (settings_end, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text with markers where the pipes go: `{out}` and `{in}`; then the data.
    fn show(sql: &str) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match parse(sql.as_bytes(), true) {
            Ok(Statement::Rows { before, after, format }) => {
                format!("{}{{out}}{} as {}", text(&before), text(&after), format.as_deref().unwrap_or("-"))
            }
            Ok(Statement::Insert { before, source: Source::Infile, after, data }) => {
                format!("{}{{in}}{} data {:?}", text(&before), text(&after), &sql[data..])
            }
            Ok(Statement::Insert { before, source: Source::TableFunction { format }, after, data }) => {
                format!("{}{{file {format}}}{} data {:?}", text(&before), text(&after), &sql[data..])
            }
            Ok(Statement::Other { sql, reads_only }) => format!("{} other {reads_only}", text(&sql)),
            Err(error) => error.message,
        }
    }

    #[test]
    fn the_place_of_the_result_is_before_format() {
        assert_eq!(show("SELECT 1"), "SELECT 1{out} as -");
        assert_eq!(show("SELECT 1; -- bye"), "SELECT 1{out} as -");
        assert_eq!(show("select 1 format JSON;"), "select 1 {out}format JSON as JSON");
        assert_eq!(show("SELECT 1 SETTINGS a=1 FORMAT CSV"), "SELECT 1 SETTINGS a=1 {out}FORMAT CSV as CSV");
        assert_eq!(show("SELECT 1 FORMAT CSV SETTINGS a=1"), "SELECT 1 {out}FORMAT CSV SETTINGS a=1 as CSV");
        assert_eq!(show("DESCRIBE TABLE t SETTINGS a=0"), "DESCRIBE TABLE t {out}SETTINGS a=0 as -");
        assert_eq!(show("SELECT format FROM t"), "SELECT format FROM t{out} as -");
        assert_eq!(show("SELECT ' FORMAT x', a.format f"), "SELECT ' FORMAT x', a.format f{out} as -");
        assert_eq!(show("(SELECT 1) UNION ALL (SELECT 2)"), "(SELECT 1) UNION ALL (SELECT 2){out} as -");
    }

    #[test]
    fn data_begins_behind_the_format_or_values() {
        assert_eq!(show("INSERT INTO t FORMAT CSV\n1,2\n"), "INSERT INTO t {in} FORMAT CSV data \"1,2\\n\"");
        assert_eq!(
            show("INSERT INTO `a`.t (x, format) VALUES (1, ';')"),
            "INSERT INTO `a`.t (x, format) {in} FORMAT Values data \" (1, ';')\""
        );
        assert_eq!(
            show("INSERT INTO t SETTINGS a = 1, b = 'x' FORMAT JSONEachRow {\"a\":1}"),
            "INSERT INTO t {in}SETTINGS a = 1, b = 'x'  FORMAT JSONEachRow data \"{\\\"a\\\":1}\""
        );
        assert_eq!(show("INSERT INTO t FORMAT TSV SETTINGS a=1, b=2\r\nx"), "INSERT INTO t {in} SETTINGS a=1, b=2 FORMAT TSV data \"x\"");
        assert_eq!(show("INSERT INTO values VALUES (1)"), "INSERT INTO values {in} FORMAT Values data \" (1)\"");
    }

    #[test]
    fn input_reads_from_the_pipe_as_a_table() {
        assert_eq!(
            show("INSERT INTO t SELECT a FROM input('a UInt8') FORMAT CSV\n1"),
            "INSERT INTO t SELECT a FROM {file CSV}'a UInt8')  data \"1\""
        );
    }

    #[test]
    fn an_insert_from_a_select_has_no_data() {
        assert_eq!(show("INSERT INTO t SELECT * FROM u;"), "INSERT INTO t SELECT * FROM u other false");
    }

    #[test]
    fn the_rest_is_left_alone_or_refused() {
        assert_eq!(show("CREATE TABLE t (a Int8) ENGINE = Memory;"), "CREATE TABLE t (a Int8) ENGINE = Memory other false");
        assert_eq!(show("SET a = 1"), "SET a = 1 other true");
        assert_eq!(show("SELECT 1 INTO OUTFILE 'x'"), "DB::Exception: INTO OUTFILE is not allowed. (INTO_OUTFILE_NOT_ALLOWED)");
        assert!(show("SELECT 1; SELECT 2").contains("Multi-statements are not allowed"));
        assert!(show(" -- nothing\n;").contains("Empty query"));
        assert!(show("").contains("Empty query"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken(text: Vec<u8>) {
            let _ = parse(&text, true);
            let mut insert = b"INSERT INTO t FORMAT ".to_vec();
            insert.extend(text);
            let _ = parse(&insert, false);
        }
    }
}
