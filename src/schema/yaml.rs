//! YAML that the operator writes, as nodes that know their lines.
//!
//! `serde_yaml::Error::location()` is right only for an error raised while a scalar is visited, and a pass ends
//! with its first error. So every text is read by a visitor that keeps it and fails, and its line is taken out of
//! the message; a test names the version of the crate whose messages these are. The shape (what is a list, a map,
//! a text) is found by a pass before that one: reading a map as a text is an error.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

pub use super::form::YamlError;

use super::form;
use super::tree::{Entry, Node, Place, Tree};

/// Reads a text; `place` says where a line of it lies.
pub fn parse(text: &str, place: &dyn Fn(usize) -> Place) -> Result<Node, YamlError> {
    within_limits(text)?;
    let seen = Cell::new(0);
    let seed = ShapeSeed {
        depth: 0,
        seen: &seen,
    };
    let shape = match seed.deserialize(serde_yaml::Deserializer::from_str(text)) {
        // The library gives up by itself where aliases make a hundred times more of a text.
        Err(error)
            if seen.get() > MAX_NODES || error.to_string().starts_with("repetition limit") =>
        {
            return Err(limit_exceeded("values", MAX_NODES));
        }
        shape => shape.map_err(|error| form::explain(text, &error))?,
    };
    if let NodeShape::Null = shape {
        return Ok(Node {
            place: place(1),
            tree: Tree::Null,
        });
    }
    let texts = TextSeed {
        shape: &shape,
        place,
        key_line: 1,
    };
    let node = texts.deserialize(serde_yaml::Deserializer::from_str(text));
    let mut node = node.map_err(|error| form::explain(text, &error))?;
    merge(&mut node).map_err(|at| YamlError {
        mark: match at {
            Place::File(_, line) => Some((line, 1)),
            _ => None,
        },
        message: "`<<` takes a map or a list of maps".to_owned(),
    })?;
    Ok(node)
}

/// Limits beyond what any configuration needs.
const MAX_ALIASES: usize = 100;
const MAX_NODES: usize = 1_000_000;
const MAX_DEPTH: usize = 32;
/// Brackets open at once, in texts too: the library's time is quadratic in them.
const MAX_OPEN_BRACKETS: usize = 1000;

fn limit_exceeded(what: &str, limit: usize) -> YamlError {
    YamlError {
        mark: None,
        message: format!("has more than {limit} {what}"),
    }
}

/// Limits checked before the library parses the text, all of which it turns into values first. Anything
/// that looks like an alias or a bracket is counted, in quotes and comments too.
fn within_limits(text: &str) -> Result<(), YamlError> {
    let (mut aliases, mut open) = (0_usize, 0_usize);
    // The last character that is no space; an alias stands where a value begins.
    let mut before = '\n';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '[' | '{' => open += 1,
            ']' | '}' => open = open.saturating_sub(1),
            '*' if matches!(before, '\n' | ':' | ',' | '[' | '{' | '-' | '?') => {
                let named = chars.peek().is_some_and(|next| next.is_alphanumeric());
                aliases += usize::from(named);
            }
            _ => {}
        }
        if aliases > MAX_ALIASES {
            return Err(limit_exceeded("aliases", MAX_ALIASES));
        }
        if open > MAX_OPEN_BRACKETS {
            return Err(limit_exceeded("open brackets", MAX_OPEN_BRACKETS));
        }
        if !matches!(c, ' ' | '\t') {
            before = c;
        }
    }
    Ok(())
}

/// The structure of the document, without its texts.
enum NodeShape {
    Null,
    Scalar,
    List(Vec<NodeShape>),
    Map(Vec<NodeShape>),
}

/// Reads the structure, within the limits of depth and size.
#[derive(Clone, Copy)]
struct ShapeSeed<'a> {
    depth: usize,
    /// Number of values read, aliases counted at each use.
    seen: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for ShapeSeed<'_> {
    type Value = NodeShape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<NodeShape, D::Error> {
        let nodes = self.seen.get() + 1;
        self.seen.set(nodes);
        if nodes > MAX_NODES {
            return Err(D::Error::custom("too many values"));
        }
        if self.depth > MAX_DEPTH {
            return Err(D::Error::custom(format_args!(
                "is nested deeper than {MAX_DEPTH} levels"
            )));
        }
        deserializer.deserialize_any(self)
    }
}

impl ShapeSeed<'_> {
    fn nested(self) -> Self {
        let depth = self.depth + 1;
        Self { depth, ..self }
    }
}

/// Any scalar: its text is read by the second pass.
macro_rules! scalars {
    ($($visit:ident: $value:ty),*) => {
        $(fn $visit<E>(self, _: $value) -> Result<NodeShape, E> {
            Ok(NodeShape::Scalar)
        })*
    };
}

impl<'de> Visitor<'de> for ShapeSeed<'_> {
    type Value = NodeShape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<NodeShape, E> {
        Ok(NodeShape::Null)
    }

    /// A text without any document.
    fn visit_none<E>(self) -> Result<NodeShape, E> {
        Ok(NodeShape::Null)
    }

    scalars! {
        visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_i128: i128, visit_u128: u128,
        visit_f64: f64, visit_str: &str
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<NodeShape, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.nested())? {
            items.push(item);
        }
        Ok(NodeShape::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NodeShape, A::Error> {
        let mut values = Vec::new();
        while let Some(key) = map.next_key_seed(self.nested())? {
            if matches!(key, NodeShape::List(_) | NodeShape::Map(_)) {
                return Err(A::Error::custom("a key must be a plain word"));
            }
            values.push(map.next_value_seed(self.nested())?);
        }
        Ok(NodeShape::Map(values))
    }

    /// A value with a tag such as `!binary`: the tag is passed over.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<NodeShape, A::Error> {
        let (_, value) = tagged.variant::<String>()?;
        value.newtype_variant_seed(self.nested())
    }
}

/// Second pass: reads the texts, following the structure.
#[derive(Clone, Copy)]
struct TextSeed<'a> {
    shape: &'a NodeShape,
    place: &'a dyn Fn(usize) -> Place,
    /// Of the key that the value belongs to. An empty list or map has no position of its own.
    key_line: usize,
}

impl<'de> DeserializeSeed<'de> for TextSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.shape {
            NodeShape::List(_) => deserializer.deserialize_seq(self),
            NodeShape::Map(_) => deserializer.deserialize_map(self),
            NodeShape::Null | NodeShape::Scalar => {
                let (text, line) = text_and_line(deserializer)?;
                let tree = match self.shape {
                    NodeShape::Null => Tree::Null,
                    _ => Tree::Scalar(text),
                };
                let place = (self.place)(line);
                Ok(Node { place, tree })
            }
        }
    }
}

impl<'de> Visitor<'de> for TextSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shape seen before")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        if let NodeShape::List(shapes) = self.shape {
            for shape in shapes {
                items.extend(seq.next_element_seed(TextSeed { shape, ..self })?);
            }
        }
        let place = items.first().map(|item| item.place.clone());
        Ok(Node {
            place: place.unwrap_or_else(|| (self.place)(self.key_line)),
            tree: Tree::List(items),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        if let NodeShape::Map(shapes) = self.shape {
            for shape in shapes {
                let Some((key, line)) = map.next_key_seed(Key)? else {
                    break;
                };
                let place = (self.place)(line);
                let node = map.next_value_seed(TextSeed {
                    shape,
                    key_line: line,
                    ..self
                })?;
                entries.push(Entry { key, place, node });
            }
        }
        let place = entries.first().map(|entry: &Entry| entry.place.clone());
        Ok(Node {
            place: place.unwrap_or_else(|| (self.place)(self.key_line)),
            tree: Tree::Map(entries),
        })
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = (String, usize);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        text_and_line(deserializer)
    }
}

/// Reads one text. The visitor keeps it and fails: serde_yaml has then consumed the text, and put its
/// place into the error.
fn text_and_line<'de, D: Deserializer<'de>>(d: D) -> Result<(String, usize), D::Error> {
    let kept = RefCell::new(None);
    let error = match d.deserialize_str(CaptureText(&kept)) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    match kept.into_inner() {
        Some(text) => Ok((text, line_in(&error.to_string()))),
        None => Err(error),
    }
}

struct CaptureText<'a>(&'a RefCell<Option<String>>);

enum Never {}

impl Visitor<'_> for CaptureText<'_> {
    type Value = Never;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Never, E> {
        self.0.replace(Some(text.to_owned()));
        Err(E::custom(""))
    }
}

/// From `… at line 3 column 5`; serde_yaml leaves it out at the very beginning.
fn line_in(message: &str) -> usize {
    message
        .rsplit_once(" at line ")
        .and_then(|(_, rest)| rest.split(' ').next())
        .and_then(|line| line.parse().ok())
        .unwrap_or(1)
}

/// Takes `<<` entries in: what is written out wins, then the earlier of several (as yaml.v2).
fn merge(node: &mut Node) -> Result<(), Place> {
    match &mut node.tree {
        Tree::Null | Tree::Scalar(_) => Ok(()),
        Tree::List(items) => items.iter_mut().try_for_each(merge),
        Tree::Map(entries) => {
            let mut merged: Vec<Entry> = Vec::new();
            let mut bases: Vec<Entry> = Vec::new();
            for mut entry in std::mem::take(entries) {
                merge(&mut entry.node)?;
                match (entry.key.as_str(), entry.node.tree) {
                    ("<<", Tree::Map(base)) => bases.extend(base),
                    ("<<", Tree::List(items)) => {
                        for item in items {
                            match item.tree {
                                Tree::Map(base) => bases.extend(base),
                                _ => return Err(entry.place),
                            }
                        }
                    }
                    ("<<", Tree::Null) => {}
                    ("<<", Tree::Scalar(_)) => return Err(entry.place),
                    (_, tree) => {
                        entry.node.tree = tree;
                        merged.push(entry);
                    }
                }
            }
            for base in bases {
                if !merged.iter().any(|entry| entry.key == base.key) {
                    merged.push(base);
                }
            }
            *entries = merged;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node, YamlError> {
        parse(text, &|line| Place::File("f".into(), line))
    }

    fn at<'a>(node: &'a Node, path: &[&str]) -> &'a Entry {
        let (last, parents) = path.split_last().unwrap();
        let node = parents.iter().fold(node, |node, key| {
            node.entry(key).map(|entry| &entry.node).unwrap()
        });
        node.entry(last).unwrap()
    }

    #[test]
    fn texts_are_kept_as_they_were_written() {
        let node = read(
            "a: 514\nb: 1.10\nc: :8080\nd: 65001:53\ne: 'off'\nf: yes\ng: 0x1f\nh: \"x y\"\ni: 1_000\n",
        )
        .unwrap();
        let text = |key| at(&node, &[key]).node.text().unwrap().to_owned();
        let all: Vec<String> = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
            .map(text)
            .to_vec();
        assert_eq!(
            all,
            [
                "514", "1.10", ":8080", "65001:53", "off", "yes", "0x1f", "x y", "1_000"
            ]
        );
        assert!(at(&read("a:\nb: ~").unwrap(), &["a"]).node.is_unset());
    }

    /// Line numbers depend on the format of this message: check this test and the one below before an upgrade.
    #[test]
    fn serde_yaml_0_9_34_ends_its_message_with_the_place() {
        let lock = include_str!("../../Cargo.lock");
        let version = "name = \"serde_yaml\"\nversion = \"0.9.34+deprecated\"\n";
        assert!(lock.contains(version), "another version of serde_yaml");
        let kept = RefCell::new(None);
        let text = serde_yaml::Deserializer::from_str("# x\n\n  text");
        let Err(error) = text.deserialize_str(CaptureText(&kept));
        assert_eq!(kept.into_inner().as_deref(), Some("text"));
        assert_eq!(error.to_string(), " at line 3 column 3");
        assert_eq!(line_in(&error.to_string()), 3);
    }

    #[test]
    fn every_text_has_its_line() {
        let node = read(
            "# comment\nagent:\n  x: 1\n\n  y:\n    - p\n    - q\napps:\n- name: a\n  vip: b\n- {name: c,\n   vip: d}\n- []\n",
        )
        .unwrap();
        let line = |place: &Place| match place {
            Place::File(_, line) => *line,
            _ => 0,
        };
        assert_eq!(line(&at(&node, &["agent"]).place), 2);
        assert_eq!(line(&at(&node, &["agent", "x"]).place), 3);
        let Tree::List(items) = &at(&node, &["agent", "y"]).node.tree else {
            panic!("a list")
        };
        assert_eq!(
            items.iter().map(|i| line(&i.place)).collect::<Vec<_>>(),
            [6, 7]
        );
        let Tree::List(apps) = &at(&node, &["apps"]).node.tree else {
            panic!("a list")
        };
        assert_eq!(line(&at(&apps[0], &["vip"]).place), 10);
        assert_eq!(line(&at(&apps[1], &["vip"]).place), 12);
        assert_eq!(line(&at(&read("a: 1").unwrap(), &["a"]).place), 1);
    }

    #[test]
    fn merges_yield_to_what_is_written_out() {
        let node = read(
            "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: *a\n  x: 3\nd: {<<: [*a, *b], w: 4}\ne: {<<: *a, f: {<<: *b}}\n",
        )
        .unwrap();
        let text = |path: &[&str]| at(&node, path).node.text().unwrap().to_owned();
        assert_eq!(text(&["c", "x"]), "3");
        assert_eq!(text(&["c", "y"]), "1");
        assert_eq!(text(&["d", "y"]), "1");
        assert_eq!(text(&["d", "z"]), "2");
        assert_eq!(text(&["e", "f", "z"]), "2");
        let wrong = read("a: 1\nb:\n  <<: 5\n").unwrap_err();
        assert_eq!(wrong.mark.map(|(line, _)| line), Some(3));
    }

    #[test]
    fn invalid_yaml_is_an_error_with_its_line() {
        assert!(read("a: 1\nb: [\n").unwrap_err().mark.is_some());
        assert!(read("a: 1\n---\nb: 2\n").is_err());
        assert!(read("? [x]\n: 1\n").is_err());
        assert!(read("a: !t 5").is_ok());
        assert_eq!(read("").unwrap().tree, Tree::Null);
    }

    /// The memory used is checked by a test of the binary.
    #[test]
    fn yaml_beyond_the_limits_is_refused_at_once() {
        let aliases = |count| format!("a: &a 1\nb: [{}]\n", "*a, ".repeat(count));
        assert!(read(&aliases(100)).is_ok());
        let report = |text: &str| {
            let begun = std::time::Instant::now();
            let error = read(text).expect_err("a limit");
            assert!(begun.elapsed().as_secs() < 20, "{}", error.message);
            error.message
        };
        assert_eq!(report(&aliases(101)), "has more than 100 aliases");
        assert_eq!(
            report(&"[".repeat(64_000)),
            "has more than 1000 open brackets"
        );
        assert_eq!(
            report(&"{a: ".repeat(64_000)),
            "has more than 1000 open brackets"
        );
        let nested = |depth| format!("a: {}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nested(31)).is_ok());
        assert!(
            report(&nested(32)).contains("deeper than 32"),
            "{}",
            report(&nested(32))
        );
        let dashes = format!("{}a", "- ".repeat(5_000));
        assert!(report(&dashes).contains("deeper than") || report(&dashes).contains("recursion"));
        // Ten to the ninth.
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let uses = format!("*a{}, ", n - 1).repeat(10);
            bomb.push_str(&format!("a{n}: &a{n} [{uses}]\n"));
        }
        let report = report(&bomb);
        assert!(report.contains("more than 1000000 values"), "{report}");
        let million = format!("[{}]", "1,".repeat(MAX_NODES));
        assert!(
            read(&million)
                .unwrap_err()
                .message
                .contains("1000000 values")
        );
        // Shell in block scalars is none of that.
        let script = format!("a: |\n{}", "  ls *.d ; test [ x ] && echo {\n".repeat(500));
        assert!(read(&script).is_ok());
    }

    #[test]
    fn both_of_two_equal_keys_are_seen() {
        let Tree::Map(entries) = read("a: 1\nb: 2\na: 3\n").unwrap().tree else {
            panic!("a map")
        };
        assert_eq!(entries.len(), 3);
    }
}
