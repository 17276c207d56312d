//! Takes a section of the tree apart, key by key, and keeps count of what is wrong.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::problem::{Problem, nearest};
use super::tree::{Entry, Node, Place, Tree};
use super::{Secret, keys};
use crate::app::duration;
use crate::net::{ParseError, decimal};

/// What reading a configuration gathers besides its values.
pub(super) struct Cx<'a> {
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
    /// The place of every value that was written, by path.
    pub origins: BTreeMap<String, Place>,
    pub read_file: &'a mut dyn FnMut(&Path) -> io::Result<String>,
}

impl Cx<'_> {
    pub fn problem(&mut self, place: &Place, key: &str, value: &str, message: impl Display) {
        self.problems.push(Problem {
            place: place.clone(),
            key: key.to_owned(),
            value: value.to_owned(),
            message: message.to_string(),
        });
    }

    pub fn warn(&mut self, place: &Place, message: impl Display) {
        self.warnings.push(match place {
            Place::Default => message.to_string(),
            _ => format!("{place}: {message}"),
        });
    }
}

/// One section: a map whose keys are known.
pub(super) struct Fields<'t> {
    path: String,
    /// Where the section begins.
    pub place: Place,
    entries: BTreeMap<&'t str, &'t Entry>,
}

impl<'t> Fields<'t> {
    /// Reports unknown and repeated keys. Nothing at all is an empty section.
    pub fn open(cx: &mut Cx<'_>, path: &str, node: Option<&'t Node>, known: &[&str]) -> Self {
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
            if !known.contains(&entry.key.as_str()) {
                cx.problem(&entry.place, &key, "", unknown(&entry.key, known));
            } else if let Some(first) = fields.entries.insert(&entry.key, entry) {
                let message = format!("is there twice, first at {}", first.place);
                cx.problem(&entry.place, &key, "", message);
            }
        }
        fields
    }

    /// The path of a key in here.
    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The entry of a key, where it says something.
    pub fn entry(&self, cx: &mut Cx<'_>, key: &str) -> Option<&'t Entry> {
        let entry = self.entries.get(key).filter(|e| !e.node.is_unset())?;
        cx.origins.insert(self.path(key), entry.place.clone());
        Some(entry)
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|e| !e.node.is_unset())
    }

    /// Where a key was written, else where the section begins.
    pub fn place_of(&self, key: &str) -> &Place {
        self.entries.get(key).map_or(&self.place, |e| &e.place)
    }

    /// The text of a key.
    pub fn text(&self, cx: &mut Cx<'_>, key: &str) -> Option<&'t str> {
        let entry = self.entry(cx, key)?;
        let text = entry.node.text();
        if text.is_none() {
            let value = shown(&entry.node.tree);
            cx.problem(
                &entry.place,
                &self.path(key),
                &value,
                "should be a single value",
            );
        }
        text
    }

    /// A value read from the text; the error is what would be right.
    pub fn read<T>(
        &self,
        cx: &mut Cx<'_>,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(cx, key)?;
        match read(text) {
            Ok(value) => Some(value),
            Err(message) => {
                cx.problem(self.place_of(key), &self.path(key), text, message);
                None
            }
        }
    }

    pub fn parse<T: FromStr<Err = ParseError>>(&self, cx: &mut Cx<'_>, key: &str) -> Option<T> {
        self.read(cx, key, parsed)
    }

    pub fn string(&self, cx: &mut Cx<'_>, key: &str) -> Option<String> {
        self.text(cx, key).map(str::to_owned)
    }

    pub fn path_buf(&self, cx: &mut Cx<'_>, key: &str) -> Option<PathBuf> {
        self.text(cx, key).map(PathBuf::from)
    }

    pub fn duration(&self, cx: &mut Cx<'_>, key: &str) -> Option<Duration> {
        self.read(cx, key, read_duration)
    }

    /// A duration for which 0 means the default.
    pub fn interval(&self, cx: &mut Cx<'_>, key: &str) -> Option<Duration> {
        self.read(cx, key, read_interval).flatten()
    }

    pub fn boolean(&self, cx: &mut Cx<'_>, key: &str) -> Option<bool> {
        self.read(cx, key, read_bool)
    }

    /// A decimal number within bounds, both included.
    pub fn number(&self, cx: &mut Cx<'_>, key: &str, low: u32, high: u32) -> Option<u32> {
        self.read(cx, key, |text| read_number(text, low, high))
    }

    /// A secret, here or in the file that `KEY_file` names. Its text is never reported.
    pub fn secret(&self, cx: &mut Cx<'_>, key: &str) -> Option<Secret> {
        let file_key = format!("{key}_file");
        if self.has(key) && self.has(&file_key) {
            let message = format!("set either this or {key}, not both");
            cx.problem(self.place_of(&file_key), &self.path(&file_key), "", message);
        }
        if let Some(entry) = self.entry(cx, key) {
            if entry.node.text().is_none() {
                cx.problem(
                    &entry.place,
                    &self.path(key),
                    "",
                    "should be a single value",
                );
            }
            return entry.node.text().map(Secret::new);
        }
        let name = self.text(cx, &file_key)?;
        let (place, path) = (self.place_of(&file_key).clone(), self.path(&file_key));
        match read_value_file(cx, name) {
            Ok(text) if text.is_empty() => {
                cx.problem(&place, &path, name, "the file is empty");
                None
            }
            Ok(text) => Some(Secret(text)),
            Err(message) => {
                cx.problem(&place, &path, name, message);
                None
            }
        }
    }

    /// The items of a list with their paths. A single text is split as `split` says.
    pub fn items(&self, cx: &mut Cx<'_>, key: &str, split: Split) -> Option<Vec<(String, Node)>> {
        let entry = self.entry(cx, key)?;
        let path = self.path(key);
        match &entry.node.tree {
            Tree::List(items) => {
                let numbered = items.iter().enumerate();
                let all = numbered.map(|(i, item)| (format!("{path}[{i}]"), item.clone()));
                Some(all.collect())
            }
            Tree::Scalar(text) => {
                let parts = split.apply(text, &entry.place);
                let node = |part: String| (path.clone(), Node::scalar(entry.place.clone(), part));
                Some(parts.into_iter().map(node).collect())
            }
            Tree::Null | Tree::Map(_) => {
                cx.problem(
                    &entry.place,
                    &path,
                    &shown(&entry.node.tree),
                    "should be a list",
                );
                None
            }
        }
    }

    /// A list of values, each read from its text.
    pub fn list<T>(
        &self,
        cx: &mut Cx<'_>,
        key: &str,
        mut read: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let items = self.items(cx, key, Split::Commas)?;
        let mut values = Vec::new();
        for (path, item) in items {
            match item.text().map(&mut read) {
                Some(Ok(value)) => values.push(value),
                Some(Err(message)) => {
                    cx.problem(&item.place, &path, &shown(&item.tree), message);
                }
                None => {
                    let message = "should be a single value, not empty";
                    cx.problem(&item.place, &path, &shown(&item.tree), message);
                }
            }
        }
        Some(values)
    }
}

/// How one text is several values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    Commas,
    /// Monitors and NATs: a comma may be part of one, a semicolon hardly; in a file it is one value.
    Semicolons,
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

/// A text as the type reads it; the error says what would be right.
pub(super) fn parsed<T: FromStr<Err = ParseError>>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error: ParseError| should_be(error.expected))
}

pub(super) fn should_be(expected: &str) -> String {
    format!("should be {expected}")
}

pub(super) fn read_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| should_be(error.expected))
}

/// `None` for 0: the default. Anything else below 10 ms would be a busy loop.
pub(super) fn read_interval(text: &str) -> Result<Option<Duration>, String> {
    match read_duration(text)? {
        Duration::ZERO => Ok(None),
        duration if duration < Duration::from_millis(10) => {
            Err("should be at least 10ms, or 0 for the default".to_owned())
        }
        duration => Ok(Some(duration)),
    }
}

/// YAML 1.1's words, which yaml.v2 takes.
pub(super) fn read_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Ok(true),
        "false" | "no" | "off" | "n" => Ok(false),
        _ => Err("should be true or false".to_owned()),
    }
}

/// A leading zero is refused: yaml.v2 reads such a number as octal.
pub(super) fn read_number(text: &str, low: u32, high: u32) -> Result<u32, String> {
    let plain = text == "0" || !text.starts_with('0');
    decimal::<u32>(text)
        .filter(|number| plain && (low..=high).contains(number))
        .ok_or_else(|| format!("should be a number from {low} to {high}"))
}

/// A value that lies in a file of its own, without one trailing newline.
pub(super) fn read_value_file(cx: &mut Cx<'_>, name: &str) -> Result<String, String> {
    match (cx.read_file)(Path::new(name)) {
        Ok(text) => Ok(value_in_file(&text).to_owned()),
        Err(error) => Err(format!("the file cannot be read: {error}")),
    }
}

/// What a file with one value holds: all of it but the line break at its end.
pub(super) fn value_in_file(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// A value for a message, short.
pub(super) fn shown(tree: &Tree) -> String {
    match tree {
        Tree::Null => String::new(),
        Tree::Scalar(text) => text.clone(),
        Tree::List(_) => "a list".to_owned(),
        Tree::Map(_) => "a map".to_owned(),
    }
}

/// What to say about an unknown key.
fn unknown(key: &str, known: &[&str]) -> String {
    // In `vip_config` they are called so, in `bgp` they are not.
    let prefixed = format!("bgp_{key}");
    if known.contains(&prefixed.as_str()) {
        return format!("is no known key; did you mean `{prefixed}`?");
    }
    if let Some(section) = keys::section_of(key, known) {
        return format!("is no known key here; it belongs under `{section}`");
    }
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("is no known key; did you mean `{near}`?"),
        None => format!("is no known key; known are {}", known.join(", ")),
    }
}
