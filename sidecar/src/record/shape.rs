//! The shape of a statement: itself with every plain number as 1, so that statements that differ in numbers only are normalised once.
//!
//! Guarantee: a statement and its shape have the same masked text, fingerprint and summary. Only digits that stand alone are replaced,
//! which are a literal whatever their value, outside of quotes and names; behind a comment nothing is replaced.

/// What a byte is to the search for numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Digit,
    /// Belongs to a word or a number: digits beside it are no plain number.
    Joined,
    Quote,
    /// May begin a comment.
    Comment,
}

const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'0'..=b'9' => Kind::Digit,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$' | b'@' | b'.' | b'\\' | 0x80.. => Kind::Joined,
            b'\'' | b'"' | b'`' => Kind::Quote,
            b'#' | b'-' | b'/' => Kind::Comment,
            _ => Kind::Other,
        };
        byte += 1;
    }
    kinds
};

/// Writes the shape of a statement.
pub fn of<'a>(statement: &'a str, shape: &'a mut String) -> &'a str {
    shape.clear();
    let bytes = statement.as_bytes();
    // A procedure's name is kept as it is written, whatever it is made of.
    if bytes.trim_ascii_start().get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"call")) {
        return statement;
    }
    let mut copied = 0;
    let mut position = 0;
    let mut before = Kind::Other;
    while let Some(byte) = bytes.get(position) {
        let kind = KINDS[usize::from(*byte)];
        match kind {
            Kind::Digit if before != Kind::Joined => {
                let end = position + bytes[position..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                before = bytes.get(end).map_or(Kind::Other, |byte| KINDS[usize::from(*byte)]);
                if before != Kind::Joined {
                    shape.push_str(&statement[copied..position]);
                    shape.push('1');
                    copied = end;
                }
                position = end;
                continue;
            }
            // Digits behind a word belong to it, and what is behind them too.
            Kind::Digit => {}
            Kind::Quote => {
                position = quoted_end(bytes, position);
                before = Kind::Joined;
                continue;
            }
            Kind::Comment if begins_comment(&bytes[position..]) => break,
            kind => before = kind,
        }
        position += 1;
    }
    if copied == 0 {
        return statement;
    }
    shape.push_str(&statement[copied..]);
    shape
}

/// Behind the quote that ends what begins here; a doubled quote begins anew.
fn quoted_end(bytes: &[u8], start: usize) -> usize {
    let quote = bytes[start];
    let mut position = start + 1;
    while let Some(byte) = bytes.get(position) {
        position += match byte {
            b'\\' if quote != b'`' => 2,
            byte if *byte == quote => return position + 1,
            _ => 1,
        };
    }
    bytes.len()
}

fn begins_comment(rest: &[u8]) -> bool {
    matches!(rest, [b'#', ..] | [b'-', b'-', ..] | [b'/', b'*', ..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::of;
    use crate::record::Normalised;
    use crate::record::sql::normalise;

    #[track_caller]
    fn check(statement: &str, expect: &str) {
        assert_eq!(of(statement, &mut String::new()), expect);
    }

    #[test]
    fn plain_numbers_become_one() {
        check("SELECT c FROM t1 WHERE id=4711 AND k IN (10,-20)", "SELECT c FROM t1 WHERE id=1 AND k IN (1,-1)");
        for same in ["SELECT 1.5, 0x1F, 1e5, a1, 1a, @1, $1, t.1", "SELECT '12', \"12\", `12 34`", "SELECT 'it''s 12', 'a\\' 12'", ""] {
            check(same, same);
        }
        check("SELECT 12 -- 34", "SELECT 1 -- 34");
        check("SELECT 12 /* 34 */ 56", "SELECT 1 /* 34 */ 56");
        check("SELECT 12 'open 34", "SELECT 1 'open 34");
        check(" call p:5(12)", " call p:5(12)");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_statement_and_its_shape_are_normalised_alike(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "SELECT ", "select", " FROM ", "t1", " IN ", "VALUES ", "(", ")", ",", " ", "=", "-", "+", ".",
                    "12", "345", "0", "0x1F", "1e9", "0b01", "'a 12'", "'it''s'", "'\\''", "\"b 7\"", "`c 8`", "`",
                    "'", "-- 5\n", "# 6\n", "/* 7 */", "/*! 8 */", "NULL", "LIMIT ", "@9", "$3", "é4", "USE ",
                    "CALL p", ";", ":5", "?", "UNION ", "\n", "x'4D'", "%", "*", "/", "--", "\\",
                ]),
                0..14,
            ),
        ) {
            let statement = parts.concat();
            let mut scratch = String::new();
            let (mut whole, mut shaped) = (Normalised::default(), Normalised::default());
            normalise(&statement, &mut whole);
            normalise(of(&statement, &mut scratch), &mut shaped);
            prop_assert_eq!(&whole.masked, &shaped.masked, "{}", &statement);
            prop_assert_eq!(&whole.fingerprint, &shaped.fingerprint, "{}", &statement);
            prop_assert_eq!(&whole.summary, &shaped.summary, "{}", &statement);
            prop_assert_eq!(&whole.operation, &shaped.operation, "{}", &statement);
        }
    }
}
