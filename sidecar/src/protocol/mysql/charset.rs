//! Character sets: clients send statements in the session's (`character_set_client`), records are UTF-8.
//!
//! It matters for more than letters: the second byte of a letter in Shift_JIS, GBK or Big5 may be a backslash or a quote, so that
//! literals could not be told from code before the text is converted.

use encoding_rs::Encoding;

use super::super::Exchange;
use super::super::exchange::Span;

/// Character set of the client's texts; `None` is UTF-8, or one that is not converted: what is no UTF-8 in it is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charset(Option<&'static Encoding>);

/// MySQL's character sets by name, with the numbers of their collations below 256 (`information_schema.COLLATIONS`; a login has
/// one byte for it) and their names in the Encoding Standard. Not there: those that are UTF-8 or ASCII, those that no client may
/// use (ucs2, utf16, utf32), and cp850, cp852, dec8, hp8, swe7, keybcs2, macce, geostd8, armscii8, which have no converter.
const CHARSETS: &[(&str, &[u8], &str)] = &[
    ("big5", &[1, 84], "big5"),
    ("cp1250", &[26, 34, 44, 66, 99], "windows-1250"),
    ("cp1251", &[14, 23, 50, 51, 52], "windows-1251"),
    ("cp1256", &[57, 67], "windows-1256"),
    ("cp1257", &[29, 58, 59], "windows-1257"),
    ("cp866", &[36, 68], "ibm866"),
    ("cp932", &[95, 96], "shift_jis"),
    ("eucjpms", &[97, 98], "euc-jp"),
    ("euckr", &[19, 85], "euc-kr"),
    ("gb18030", &[248, 249, 250], "gb18030"),
    ("gb2312", &[24, 86], "gbk"),
    ("gbk", &[28, 87], "gbk"),
    ("greek", &[25, 70], "iso-8859-7"),
    ("hebrew", &[16, 71], "iso-8859-8"),
    ("koi8r", &[7, 74], "koi8-r"),
    ("koi8u", &[22, 75], "koi8-u"),
    // MySQL's latin1 is Windows-1252, with controls in the five places that one leaves open.
    ("latin1", &[5, 8, 15, 31, 47, 48, 49, 94], "windows-1252"),
    ("latin2", &[2, 9, 21, 27, 77], "iso-8859-2"),
    ("latin5", &[30, 78], "windows-1254"),
    ("latin7", &[20, 41, 42, 79], "iso-8859-13"),
    ("macroman", &[39, 53], "macintosh"),
    ("sjis", &[13, 88], "shift_jis"),
    ("tis620", &[18, 89], "windows-874"),
    ("ujis", &[12, 91], "euc-jp"),
];

impl Charset {
    /// The character set of a collation.
    pub fn of_collation(collation: u8) -> Self {
        Self::find(|(_, collations, _)| collations.contains(&collation))
    }

    /// The character set of this name.
    pub fn named(wanted: &str) -> Self {
        Self::find(|(name, _, _)| name.eq_ignore_ascii_case(wanted))
    }

    fn find(is_wanted: impl Fn(&(&str, &[u8], &str)) -> bool) -> Self {
        let found = CHARSETS.iter().find(|row| is_wanted(row));
        Self(found.and_then(|(_, _, label)| Encoding::for_label(label.as_bytes())))
    }

    /// Keeps text as UTF-8.
    pub fn put(self, exchange: &mut Exchange, bytes: &[u8]) -> Span {
        match self.0 {
            Some(encoding) if !bytes.is_ascii() => {
                let (text, _) = encoding.decode_without_bom_handling(bytes);
                exchange.put(text.as_bytes())
            }
            _ => exchange.put(bytes),
        }
    }
}

/// The character set that a `SET` statement asks for, given what follows `SET`: `NAMES x`, `CHARACTER SET x`, `CHARSET x`,
/// `[@@][SESSION.]character_set_client = x`.
pub(super) fn set_by(rest: &str) -> Option<Charset> {
    let mut words = rest
        .split(|letter: char| letter.is_whitespace() || matches!(letter, '\'' | '"' | '`' | '=' | ';' | ':' | '@' | '.' | ','))
        .filter(|word| !word.is_empty());
    let mut word = words.next()?;
    if word.eq_ignore_ascii_case("session") || word.eq_ignore_ascii_case("local") {
        word = words.next()?;
    }
    if word.eq_ignore_ascii_case("character") && !words.next()?.eq_ignore_ascii_case("set") {
        return None;
    }
    if !["names", "character", "charset", "character_set_client"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
        return None;
    }
    // DEFAULT is the server's, which nobody told.
    words.next().filter(|name| !name.eq_ignore_ascii_case("default")).map(Charset::named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_converter() {
        for (name, collations, label) in CHARSETS {
            let found = Encoding::for_label(label.as_bytes());
            assert!(found.is_some(), "{name}");
            assert_eq!(Charset::named(name), Charset(found), "{name}");
            for collation in *collations {
                assert_eq!(Charset::of_collation(*collation), Charset(found), "{name} {collation}");
            }
        }
        for utf8 in [33, 45, 46, 63, 83, 192, 224, 255] {
            assert_eq!(Charset::of_collation(utf8), Charset::default(), "{utf8}");
        }
    }

    #[test]
    fn statements_that_set_it() {
        let sjis = Some(Charset::named("sjis"));
        for statement in [
            " NAMES sjis",
            " names 'SJIS' COLLATE 'sjis_bin'",
            " CHARACTER SET sjis",
            " charset sjis;",
            " character_set_client = sjis",
            " @@session.character_set_client='sjis', character_set_results = NULL",
            " SESSION character_set_client := sjis",
        ] {
            assert_eq!(set_by(statement), sjis, "{statement}");
        }
        assert_eq!(set_by(" NAMES utf8mb4"), Some(Charset::default()));
        for statement in [" NAMES DEFAULT", " autocommit = 1", " character_set_results = sjis", " names", " CHARACTER sjis", ""] {
            assert_eq!(set_by(statement), None, "{statement}");
        }
    }
}
