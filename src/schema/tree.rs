//! The tree of written values, from any source: nodes, each with its place.

use std::fmt;
use std::sync::Arc;

/// Where a value was written, in the order in which problems are reported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file's name and the line, from 1.
    File(Arc<str>, usize),
    /// The variable's name.
    Env(Arc<str>),
    Flag,
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file, line) => write!(f, "{file}:{line}"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("flag"),
            Self::Default => f.write_str("configuration"),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub place: Place,
    pub tree: Tree,
}

/// A YAML value; scalars are texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a map with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

impl Node {
    /// A text.
    pub fn scalar(place: Place, text: impl Into<String>) -> Self {
        Self {
            place,
            tree: Tree::Scalar(text.into()),
        }
    }

    /// A map without entries.
    pub fn map(place: Place) -> Self {
        Self {
            place,
            tree: Tree::Map(Vec::new()),
        }
    }

    /// The text; `None` if it is empty, which means "not set".
    pub fn text(&self) -> Option<&str> {
        match &self.tree {
            Tree::Scalar(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Whether it is null or an empty text.
    pub fn is_unset(&self) -> bool {
        match &self.tree {
            Tree::Null => true,
            Tree::Scalar(text) => text.is_empty(),
            Tree::List(_) | Tree::Map(_) => false,
        }
    }

    /// The entry of a map under a key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.tree {
            Tree::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The map's entries; whatever else was there becomes an empty map.
    pub fn entries_mut(&mut self) -> &mut Vec<Entry> {
        if !matches!(self.tree, Tree::Map(_)) {
            self.tree = Tree::Map(Vec::new());
        }
        match &mut self.tree {
            Tree::Map(entries) => entries,
            _ => unreachable!("it was just made a map"),
        }
    }

    /// Puts a value under a key, in place of the one that is there.
    pub fn set(&mut self, key: &str, node: Node) {
        let place = node.place.clone();
        let entries = self.entries_mut();
        entries.retain(|entry| entry.key != key);
        entries.push(Entry {
            key: key.to_owned(),
            place,
            node,
        });
    }
}
