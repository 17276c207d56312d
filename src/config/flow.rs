//! A bounded reader of `{key: value}` and `[a, b]` in parameters and tags: remote input never reaches
//! the YAML library. No aliases, tags or comments, two levels, one line of [`MAX_BYTES`] bytes; its result
//! is the same as in YAML, and JSON of that form is accepted too.

use crate::schema::tree::{Entry, Node, Place, Tree};

/// Bytes of such a value.
const MAX_BYTES: usize = 1024;
/// A map in a map, or a list in one.
const MAX_DEPTH: usize = 2;

/// Whether a value is of that form.
pub(super) fn is_flow(text: &str) -> bool {
    text.starts_with(['{', '['])
}

/// # Errors
/// What is wrong, without the text: it may hold a secret.
pub(super) fn read(text: &str) -> Result<Node, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    let mut reader = Flow { rest: text };
    let node = reader.value(0, &[])?;
    match reader.rest.trim_start().is_empty() {
        true => Ok(node),
        false => Err("has text after its end".to_owned()),
    }
}

/// Parses a value written by the tables, of any length.
pub(super) fn read_trusted(text: &str) -> Node {
    let node = Flow { rest: text }.value(0, &[]);
    node.unwrap_or_else(|_| Node::scalar(Place::Default, text))
}

struct Flow<'t> {
    rest: &'t str,
}

impl<'t> Flow<'t> {
    /// `ends`: what a plain text ends at.
    fn value(&mut self, depth: usize, ends: &[char]) -> Result<Node, String> {
        self.rest = self.rest.trim_start();
        let tree = match self.rest.chars().next() {
            Some('{' | '[') if depth == MAX_DEPTH => {
                return Err(format!("is nested deeper than {MAX_DEPTH} levels"));
            }
            Some('{') => Tree::Map(self.map(depth + 1)?),
            Some('[') => Tree::List(self.list(depth + 1)?),
            _ => self.scalar(ends)?.map_or(Tree::Null, Tree::Scalar),
        };
        let place = Place::Default;
        Ok(Node { place, tree })
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, String> {
        let mut entries: Vec<Entry> = Vec::new();
        self.items('}', |flow| {
            let key = flow.scalar(&[',', '}'])?.ok_or("has an empty key")?;
            if entries.iter().any(|entry| entry.key == key) {
                return Err("has a key twice".to_owned());
            }
            let node = match flow.takes(':') {
                true => flow.value(depth, &[',', '}'])?,
                false => Node {
                    place: Place::Default,
                    tree: Tree::Null,
                },
            };
            let place = Place::Default;
            entries.push(Entry { key, place, node });
            Ok(())
        })?;
        Ok(entries)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, String> {
        let mut items = Vec::new();
        self.items(']', |flow| {
            items.push(flow.value(depth, &[',', ']'])?);
            Ok(())
        })?;
        Ok(items)
    }

    /// From an opening bracket to its end, with commas between and perhaps one behind the last.
    fn items(
        &mut self,
        end: char,
        mut item: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        self.rest = self.rest.get(1..).unwrap_or_default();
        while !self.takes(end) {
            item(self)?;
            if !self.takes(',') && !self.rest.starts_with(end) {
                return Err(format!("should have a comma or `{end}` after each value"));
            }
        }
        Ok(())
    }

    fn takes(&mut self, wanted: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// `None` where nothing is written, or YAML's words for that.
    fn scalar(&mut self, ends: &[char]) -> Result<Option<String>, String> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next() {
            Some('"') => self.double_quoted().map(Some),
            Some('\'') => self.single_quoted().map(Some),
            Some(c @ ('&' | '*' | '!' | '|' | '>' | '%' | '@' | '`' | '#' | '[' | '{')) => {
                Err(format!("has a text that begins with `{c}`: quote it"))
            }
            _ => {
                let text = self.plain(ends);
                let nothing = matches!(text, "" | "~" | "null");
                Ok((!nothing).then(|| text.to_owned()))
            }
        }
    }

    /// Up to what ends it, or a colon before a space.
    fn plain(&mut self, ends: &[char]) -> &'t str {
        let mut end = self.rest.len();
        for (at, c) in self.rest.char_indices() {
            let behind = self.rest.get(at + c.len_utf8()..).unwrap_or_default();
            let colon = c == ':'
                && behind
                    .chars()
                    .next()
                    .is_none_or(|next| next.is_whitespace() || ends.contains(&next));
            if colon || ends.contains(&c) {
                end = at;
                break;
            }
        }
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        text.trim_end()
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '\'' if chars.next_if(|(_, next)| *next == '\'').is_some() => text.push('\''),
                '\'' => {
                    self.rest = self.rest.get(at + 1..).unwrap_or_default();
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(UNTERMINATED.to_owned())
    }

    /// With JSON's escapes.
    fn double_quoted(&mut self) -> Result<String, String> {
        let mut escaped = true;
        for (at, c) in self.rest.char_indices() {
            match c {
                '"' if !escaped => {
                    let (text, rest) = self.rest.split_at(at + 1);
                    self.rest = rest;
                    return serde_json::from_str(text)
                        .map_err(|_| "has an escape that JSON does not know".to_owned());
                }
                '\\' => escaped = !escaped,
                _ => escaped = false,
            }
        }
        Err(UNTERMINATED.to_owned())
    }
}

const UNTERMINATED: &str = "has an unterminated quoted string";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::yaml;

    #[test]
    fn it_reads_what_yaml_would() {
        for text in [
            "{med: 1000}",
            "{med: 1000, bgp_communities: [graceful-shutdown, 65001:53]}",
            "{\"med\": 1000, \"next_hop6\": \"2001:db8::1\"}",
            "{med: 1000,}",
            "{ }",
            "[]",
            "[a, 'it''s', \"b\\\"\\u00e9\", c d]",
            "{a: , b: ~, c: null, d}",
            "{next_hop6: 2001:db8::1, x: http://a:80/b?c=d}",
            "{a: {b: c}, d: [e]}",
            "[[a], {b: c}]",
        ] {
            let yaml = yaml::parse(text, &|_| Place::Default);
            match read(text) {
                Ok(node) => assert_eq!(yaml.as_ref(), Ok(&node), "{text}"),
                Err(error) => panic!("{text}: {error}"),
            }
        }
    }

    #[test]
    fn what_is_not_supported_is_an_error() {
        for (text, why) in [
            ("{a: &x b}", "begins with `&`"),
            ("{a: *x}", "begins with `*`"),
            ("{a: !t b}", "begins with `!`"),
            ("{a: [[b]]}", "deeper than 2"),
            ("{a: b} c", "after its end"),
            ("{a: b", "`}` after each value"),
            ("[a, b", "`]` after each value"),
            ("{a: \"b}", "unterminated quoted string"),
            ("{a: 'b}", "unterminated quoted string"),
            ("{a: \"\\q\"}", "escape"),
            ("{: b}", "empty key"),
            ("{a: 1, a: 2}", "twice"),
            ("{[a]: b}", "begins with `[`"),
        ] {
            let report = read(text).expect_err(text);
            assert!(report.contains(why), "{text}: {report}");
        }
        let long = format!("[{}]", "x".repeat(MAX_BYTES));
        assert!(read(&long).unwrap_err().contains("longer than 1024"));
        assert!(read(&"[".repeat(MAX_BYTES)).is_err());
    }

    #[test]
    fn every_cut_of_a_text_is_read_or_refused() {
        let text = "{med: 1000, \"k\\u00e9\": ['a''b', ü, {x: \"\\\\\"}]}";
        for (end, _) in text.char_indices() {
            assert!(read(&text[..end]).is_err() || end == 0, "{end}");
        }
    }
}
