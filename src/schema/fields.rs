//! Reads the keys of one section and reports its problems.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::path::Path;

use super::problem::{Problem, nearest};
use super::tree::{Entry, Node, Place, Tree};
use super::{Key, Section, Split, Table};

/// Problems, warnings and origins gathered while a configuration is read.
pub struct Context<'a> {
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
    /// The place of every value that was written, by path.
    pub origins: BTreeMap<String, Place>,
    pub read_file: &'a mut dyn FnMut(&Path) -> io::Result<String>,
    /// Every section there is, to say where a key belongs.
    pub tables: &'static [Table],
}

impl<'a> Context<'a> {
    /// Nothing gathered yet.
    pub fn new(
        tables: &'static [Table],
        read_file: &'a mut dyn FnMut(&Path) -> io::Result<String>,
    ) -> Self {
        Self {
            problems: Vec::new(),
            warnings: Vec::new(),
            origins: BTreeMap::new(),
            read_file,
            tables,
        }
    }

    /// Reports a problem; an empty `value` is not shown.
    pub fn problem(&mut self, place: &Place, key: &str, value: &str, message: impl Display) {
        self.problems.push(Problem {
            place: place.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            message: message.to_string(),
        });
    }

    /// Adds a warning.
    pub fn warn(&mut self, place: &Place, message: impl Display) {
        self.warnings.push(match place {
            Place::Default => message.to_string(),
            _ => format!("{place}: {message}"),
        });
    }
}

/// A value that was written.
pub struct ValueAt<'t> {
    /// Of its key, such as `bgp.peers[0].port`.
    pub path: String,
    pub place: Place,
    pub node: Cow<'t, Node>,
    /// It is never shown.
    secret: bool,
}

impl ValueAt<'_> {
    /// Reports a problem with this value, which is hidden if it is a secret.
    pub fn problem(&self, cx: &mut Context<'_>, message: impl Display) {
        let value = match self.secret {
            true => String::new(),
            false => shown(&self.node.tree),
        };
        cx.problem(&self.place, &self.path, &value, message);
    }

    /// Whether the value is a map.
    pub fn is_map(&self) -> bool {
        matches!(self.node.tree, Tree::Map(_))
    }

    /// Reads a section, laid over `base`; `None`: it is no map.
    pub fn section<S: Section>(&self, cx: &mut Context<'_>, mut base: S) -> Option<S> {
        let f = Fields::open(cx, &self.path, Some(&self.node), &S::keys());
        base.read(cx, &f);
        self.is_map().then_some(base)
    }

    /// The one text that it should be.
    pub fn text(&self, cx: &mut Context<'_>) -> Option<&str> {
        let text = self.node.text();
        if text.is_none() {
            self.problem(cx, "should be a single value");
        }
        text
    }

    /// The items of a list. A single text is split as `split` says.
    pub fn items(&self, cx: &mut Context<'_>, split: Split) -> Option<Vec<ValueAt<'_>>> {
        let item = |path: String, place: &Place, node| ValueAt {
            path,
            place: place.clone(),
            node,
            secret: self.secret,
        };
        match &self.node.tree {
            Tree::List(items) => {
                let numbered = items.iter().enumerate();
                let all = numbered.map(|(index, node)| {
                    let path = format!("{}[{index}]", self.path);
                    item(path, &node.place, Cow::Borrowed(node))
                });
                Some(all.collect())
            }
            Tree::Scalar(text) => {
                let parts = split.apply(text, &self.place).into_iter();
                let all = parts.map(|part| {
                    let node = Node::scalar(self.place.clone(), part);
                    item(self.path.clone(), &self.place, Cow::Owned(node))
                });
                Some(all.collect())
            }
            Tree::Null | Tree::Map(_) => {
                self.problem(cx, "should be a list");
                None
            }
        }
    }
}

impl Split {
    fn apply(self, text: &str, place: &Place) -> Vec<String> {
        let in_file = matches!(place, Place::File(..));
        let parts: Vec<&str> = match self {
            Self::Semicolons if in_file => vec![text],
            _ if text.contains('\n') => text.lines().collect(),
            Self::Semicolons => text.split(';').collect(),
            Self::Commas => text.split(',').collect(),
        };
        let parts = parts.into_iter().map(str::trim);
        parts.filter(|p| !p.is_empty()).map(str::to_owned).collect()
    }
}

/// One section: a map whose keys are known.
pub struct Fields<'t> {
    path: String,
    /// Where the section begins.
    pub place: Place,
    entries: BTreeMap<&'t str, &'t Entry>,
}

impl<'t> Fields<'t> {
    /// Reports unknown and repeated keys. Nothing at all is an empty section.
    pub fn open(cx: &mut Context<'_>, path: &str, node: Option<&'t Node>, known: &[&Key]) -> Self {
        let mut fields = Self {
            path: path.to_owned(),
            place: node.map_or(Place::Default, |node| node.place.clone()),
            entries: BTreeMap::new(),
        };
        let Some(node) = node else { return fields };
        let entries = match &node.tree {
            Tree::Map(entries) => entries,
            _ if node.is_unset() => return fields,
            tree => {
                cx.problem(&node.place, path, &shown(tree), "should be a map of keys");
                return fields;
            }
        };
        for entry in entries {
            let key = fields.path(&entry.key);
            let is_known = |key: &&Key| key.names_in(path).any(|name| name == entry.key);
            if !known.iter().any(is_known) {
                let message = unknown(cx, path, &entry.key, known);
                cx.problem(&entry.place, &key, "", message);
            } else if let Some(first) = fields.entries.insert(&entry.key, entry) {
                let message = format!("is listed twice, first at {}", first.place);
                cx.problem(&entry.place, &key, "", message);
            }
        }
        fields
    }

    /// The path of the section.
    pub fn section(&self) -> &str {
        &self.path
    }

    /// The path of a key in here.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Whether a key is set.
    pub fn has(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|e| !e.node.is_unset())
    }

    /// Where a key was written, else where the section begins.
    pub fn place_of(&self, key: &str) -> Place {
        let place = self.entries.get(key).map_or(&self.place, |e| &e.place);
        place.clone()
    }

    /// What is wrong with a key, but for its value.
    pub fn problem(&self, cx: &mut Context<'_>, key: &str, message: impl Display) {
        cx.problem(&self.place_of(key), &self.path(key), "", message);
    }

    /// Warns about a key.
    pub fn warn(&self, cx: &mut Context<'_>, key: &str, message: impl Display) {
        cx.warn(&self.place_of(key), message);
    }

    /// The value under a name, if it is set.
    pub fn at(&self, cx: &mut Context<'_>, name: &str) -> Option<ValueAt<'t>> {
        let entry = self.entries.get(name).filter(|e| !e.node.is_unset())?;
        cx.origins.insert(self.path(name), entry.place.clone());
        Some(ValueAt {
            path: self.path(name),
            place: entry.place.clone(),
            node: Cow::Borrowed(&entry.node),
            secret: false,
        })
    }

    /// The value under each name of a key.
    pub fn written(&self, cx: &mut Context<'_>, key: &Key) -> Vec<ValueAt<'t>> {
        if let Some(file) = key.file {
            return self.secret(cx, key.name, file).into_iter().collect();
        }
        let names = key.names_in(&self.path);
        names.filter_map(|name| self.at(cx, name)).collect()
    }

    /// A secret, here or in the file that another key names.
    fn secret(&self, cx: &mut Context<'_>, key: &str, file: &str) -> Option<ValueAt<'t>> {
        if self.has(key) && self.has(file) {
            self.problem(cx, file, format!("set either this or {key}, not both"));
        }
        if let Some(direct) = self.at(cx, key) {
            return Some(ValueAt {
                secret: true,
                ..direct
            });
        }
        let at = self.at(cx, file)?;
        let name = at.text(cx)?.to_owned();
        match read_value_file(cx, &name) {
            Ok(text) if text.is_empty() => at.problem(cx, "the file is empty"),
            Ok(text) => {
                let node = Cow::Owned(Node::scalar(at.place.clone(), text));
                return Some(ValueAt {
                    node,
                    secret: true,
                    ..at
                });
            }
            Err(message) => at.problem(cx, message),
        }
        None
    }
}

/// Reads a value from a file of its own, without one trailing newline.
pub fn read_value_file(cx: &mut Context<'_>, name: &str) -> Result<String, String> {
    match (cx.read_file)(Path::new(name)) {
        Ok(text) => Ok(value_in_file(&text).to_owned()),
        Err(error) => Err(format!("the file cannot be read: {error}")),
    }
}

/// What a file with one value holds: all of it but the line break at its end.
pub fn value_in_file(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// A value for a message, short.
pub fn shown(tree: &Tree) -> String {
    match tree {
        Tree::Null => String::new(),
        Tree::Scalar(text) => text.clone(),
        Tree::List(_) => "a list".to_owned(),
        Tree::Map(_) => "a map".to_owned(),
    }
}

/// What to say about an unknown key.
fn unknown(cx: &Context<'_>, path: &str, key: &str, known: &[&Key]) -> String {
    let names: Vec<&str> = known.iter().flat_map(|key| key.names_in(path)).collect();
    // In `vip_config` these keys have the prefix, in `bgp` they do not.
    let prefixed = format!("bgp_{key}");
    if names.contains(&prefixed.as_str()) {
        return format!("is no known key; did you mean `{prefixed}`?");
    }
    if let Some(section) = section_of(cx.tables, key, &names) {
        return format!("is no known key here; it belongs under `{section}`");
    }
    match nearest(key, names.iter().copied()) {
        Some(near) => format!("is no known key; did you mean `{near}`?"),
        None => format!("is no known key; known are {}", names.join(", ")),
    }
}

/// The section that a key belongs to, for one that was written among `known` ones.
fn section_of(tables: &[Table], key: &str, known: &[&str]) -> Option<&'static str> {
    let has = |table: &&Table| {
        let mut names = (table.keys)()
            .into_iter()
            .flat_map(|key| key.names_in(table.name));
        names.any(|name| name == key)
    };
    let inside = |table: &&Table| known.contains(&table.name);
    // Only sections that exist once, not items of a list.
    let tables = || tables.iter().filter(|table| !table.prefix.is_empty());
    let found = tables().filter(inside).find(has);
    found.or_else(|| tables().find(has)).map(|table| table.name)
}
