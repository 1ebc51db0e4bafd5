//! One line of `podtap-sidecar print --json`, and of other tools' JSON: one flat object of texts and numbers.
//!
//! Guarantee: a line that is no such object is `None`, never half an object. Not for nested values: objects and lists in a value are
//! passed over.

use std::collections::BTreeMap;

/// Keys with their values, numbers as they were written.
pub type Object = BTreeMap<String, String>;

/// Reads a line; what stands behind the object is left alone.
pub fn object(line: &str) -> Option<Object> {
    let mut reader = Reader { rest: line.trim_start() };
    reader.take('{')?;
    let mut object = Object::new();
    if reader.take('}').is_some() {
        return Some(object);
    }
    loop {
        let key = reader.text()?;
        reader.take(':')?;
        if let Some(value) = reader.value()? {
            object.insert(key, value);
        }
        if reader.take(',').is_none() {
            reader.take('}')?;
            return Some(object);
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn take(&mut self, wanted: char) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(wanted)?.trim_start();
        Some(())
    }

    fn text(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut letters = self.rest.strip_prefix('"')?.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.rest = self.rest[at + 2..].trim_start();
                    return Some(text);
                }
                '\\' => match letters.next()?.1 {
                    'n' => text.push('\n'),
                    'r' => text.push('\r'),
                    't' => text.push('\t'),
                    'b' => text.push('\u{8}'),
                    'f' => text.push('\u{c}'),
                    'u' => {
                        let digits: String = letters.by_ref().take(4).map(|(_, digit)| digit).collect();
                        text.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?).unwrap_or('\u{fffd}'));
                    }
                    other => text.push(other),
                },
                _ => text.push(letter),
            }
        }
        None
    }

    /// A value; `Some(None)` for one that was passed over.
    fn value(&mut self) -> Option<Option<String>> {
        match self.rest.chars().next()? {
            '"' => self.text().map(Some),
            '[' | '{' => self.pass().map(|()| None),
            _ => {
                let end = self.rest.find([',', '}', ']']).unwrap_or(self.rest.len());
                let word = self.rest[..end].trim_end().to_owned();
                self.rest = &self.rest[end..];
                Some((word != "null").then_some(word))
            }
        }
    }

    fn pass(&mut self) -> Option<()> {
        let mut depth = 0;
        loop {
            match self.rest.chars().next()? {
                '"' => {
                    self.text()?;
                    continue;
                }
                '[' | '{' => depth += 1,
                ']' | '}' => depth -= 1,
                _ => {}
            }
            let mut letters = self.rest.chars();
            letters.next();
            self.rest = letters.as_str();
            if depth == 0 {
                self.rest = self.rest.trim_start();
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::object;

    #[test]
    fn texts_numbers_and_what_is_passed_over() {
        let read = object(r#"{"a":"x\"\u00e9\n","b":12,"c":["1]",{"d":"}"}],"e":null, "f" : "" } is_mysql: true"#).unwrap();
        let pairs: Vec<(&str, &str)> = read.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "x\"é\n"), ("b", "12"), ("f", "")]);
        assert_eq!(object("{}").unwrap().len(), 0);
    }

    #[test]
    fn what_is_cut_is_nothing() {
        for cut in [r#"{"a":"x"#, r#"{"a":1"#, r#"{"a""#, "", "no object", r#"{"a":[1"#] {
            assert_eq!(object(cut), None, "{cut}");
        }
    }
}
