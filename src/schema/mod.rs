//! The configuration schema: a table of keys for each section, and how a section is read and written.
//!
//! A row is one key: its names, default, scope, type and one line of documentation. Everything else
//! derives from it: unknown keys, variables, parameters, `check`, the changes of a reload, the
//! reference. Rules between keys are in `config`, beside the table.

pub mod duration;
mod fields;
pub mod form;
pub mod kinds;
mod problem;
pub mod tree;
pub mod yaml;

pub use fields::{Context, Fields, ValueAt, read_value_file, shown, value_in_file};
pub use kinds::Kind;
pub use problem::{Problem, Problems, nearest};

use std::fmt;
use std::marker::PhantomData;

/// A key's description, without how its value is read and written.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    /// Its name in the section `bgp`, where it has another one there.
    pub in_bgp: Option<&'static str>,
    /// Other names of the same key.
    pub aliases: &'static [&'static str],
    /// The key that names a file with the value; only secrets have one.
    pub file: Option<&'static str>,
    /// The HTTP parameters and tags that add one item to its list; they may be repeated.
    pub params: &'static [&'static str],
    pub scope: u8,
    /// Takes effect at the next start, not on reload.
    pub needs_restart: bool,
    pub required: bool,
    /// The kind of monitor with this key; empty: all.
    pub only_for: &'static str,
    /// As it would be written; empty: not set.
    pub default: &'static str,
    pub doc: &'static str,
    pub shape: Shape,
}

/// Where a key may be written.
pub const FILE: u8 = 1;
/// In the environment.
pub const ENV: u8 = 2;
/// As a parameter of HTTP.
pub const HTTP: u8 = 4;
/// As a tag in Consul.
pub const TAGS: u8 = 8;
/// In all of these.
pub const EVERYWHERE: u8 = FILE | ENV | HTTP | TAGS;

/// The type of a value, as far as a schema describes it.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A number is taken where a text is wanted, as yaml.v2 does.
    Text,
    Words(&'static [&'static str]),
    Bool,
    /// From the first to the second, both included.
    Number(u32, u32),
    Duration,
    List(Split, &'static Shape),
    /// The keys of the table with this name.
    Map(&'static str),
    /// A map with keys of any name.
    Texts,
    Either(&'static Shape, &'static Shape),
}

impl Shape {
    /// Whether a variable may hold it in braces or brackets.
    pub fn is_map(&self) -> bool {
        match self {
            Self::Map(_) | Self::List(_, Self::Map(_)) => true,
            Self::Either(one, other) => one.is_map() || other.is_map(),
            _ => false,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Words(words) => write!(f, "`{}`", words.join("`, `")),
            Self::Bool => f.write_str("true or false"),
            Self::Number(low, u32::MAX) => write!(f, "number from {low}"),
            Self::Number(low, high) => write!(f, "number, {low} to {high}"),
            Self::Duration => f.write_str("duration"),
            Self::List(_, of) => write!(f, "list: {of}"),
            Self::Map(table) => write!(f, "map: {table}"),
            Self::Texts => f.write_str("map of texts"),
            Self::Either(one, other) => write!(f, "{one}, or {other}"),
        }
    }
}

/// How one text is split into several values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Commas,
    /// Monitors and NATs: a comma may be part of one, a semicolon hardly; in a file it is one value.
    Semicolons,
}

impl Key {
    /// A key with defaults for all but its name and shape.
    pub const fn new(name: &'static str, shape: Shape) -> Self {
        Self {
            name,
            in_bgp: None,
            aliases: &[],
            file: None,
            params: &[],
            scope: FILE | ENV,
            needs_restart: false,
            required: false,
            only_for: "",
            default: "",
            doc: "",
            shape,
        }
    }

    /// The name in a section; `path` is the section's.
    pub fn name_in(&self, path: &str) -> &'static str {
        match self.in_bgp {
            Some(name) if path.starts_with("bgp") => name,
            _ => self.name,
        }
    }

    /// Every name in a section.
    pub fn names_in(&self, path: &str) -> impl Iterator<Item = &'static str> + use<> {
        let name = std::iter::once(self.name_in(path));
        name.chain(self.aliases.iter().copied()).chain(self.file)
    }

    /// Whether monitors of this kind have this key.
    pub fn is_for(&self, kind: &str) -> bool {
        ["", kind].contains(&self.only_for)
    }

    /// The parameters of HTTP that set it.
    pub fn params_of(&self) -> Vec<&'static str> {
        match self.params {
            _ if self.scope & HTTP == 0 => Vec::new(),
            [] => vec![self.name],
            several => several.to_vec(),
        }
    }
}

/// A section of the configuration and where it may be written.
#[derive(Debug)]
pub struct Table {
    pub name: &'static str,
    /// Of its variables, after `SIDECAST_`.
    pub prefix: &'static str,
    /// Of its keys in the tree; `app` is the one app of the environment.
    pub path: &'static [&'static str],
    pub keys: fn() -> Vec<&'static Key>,
}

impl Table {
    /// A table and its place.
    pub const fn new(
        name: &'static str,
        prefix: &'static str,
        path: &'static [&'static str],
        keys: fn() -> Vec<&'static Key>,
    ) -> Self {
        Self {
            name,
            prefix,
            path,
            keys,
        }
    }
}

/// One row of a section's table.
pub struct Row<S: 'static> {
    pub key: Key,
    pub keys: fn(&'static Key) -> Vec<&'static Key>,
    pub read: fn(&mut S, &mut Context<'_>, &Fields<'_>, &Key),
    pub write: fn(&S, &'static Key) -> Vec<Line>,
    pub changes: fn(&S, &S, &'static Key) -> Vec<&'static Key>,
}

/// A key with its value as YAML.
pub struct Line {
    pub key: &'static Key,
    pub text: String,
}

/// A section: the values of a table's keys. `Default` has the defaults.
pub trait Section: Default + 'static {
    const TABLE: &'static [Row<Self>];

    fn keys() -> Vec<&'static Key> {
        let rows = Self::TABLE.iter();
        rows.flat_map(|row| (row.keys)(&row.key)).collect()
    }

    /// Overwrites values with those that are written.
    fn read(&mut self, cx: &mut Context<'_>, f: &Fields<'_>) {
        for row in Self::TABLE {
            (row.read)(self, cx, f, &row.key);
        }
    }

    /// What is set, in the order of the table.
    fn lines(&self) -> Vec<Line> {
        let rows = Self::TABLE.iter();
        rows.flat_map(|row| (row.write)(self, &row.key)).collect()
    }

    /// The keys whose values differ.
    fn changes(&self, new: &Self) -> Vec<&'static Key> {
        let rows = Self::TABLE.iter();
        rows.flat_map(|row| (row.changes)(self, new, &row.key))
            .collect()
    }

    /// In braces, on one line.
    fn in_braces(&self, path: &str) -> String {
        braces(&self.lines(), path)
    }
}

/// Keys and values as a map on one line.
pub fn braces(lines: &[Line], path: &str) -> String {
    let pairs = lines.iter();
    let pairs = pairs.map(|line| format!("{}: {}", line.key.name_in(path), line.text));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
}

/// The content of a row: nearly always a value of some kind under one key.
pub trait Item {
    type Value;
    const SHAPE: Shape = Shape::Text;

    fn initial(key: &Key) -> Self::Value;

    fn keys(key: &'static Key) -> Vec<&'static Key> {
        vec![key]
    }

    fn read(_: &mut Self::Value, _: &mut Context<'_>, _: &Fields<'_>, _: &Key) {}

    fn write(_: &Self::Value, _: &'static Key) -> Vec<Line> {
        Vec::new()
    }

    fn changes(_: &Self::Value, _: &Self::Value, _: &'static Key) -> Vec<&'static Key> {
        Vec::new()
    }
}

impl<K: Kind> Item for K {
    type Value = K::Value;
    const SHAPE: Shape = K::SHAPE;

    fn initial(key: &Key) -> K::Value {
        let value = K::parse(key.default);
        value.unwrap_or_else(|why| unreachable!("the default of {}: {why}", key.name))
    }

    fn read(value: &mut K::Value, cx: &mut Context<'_>, f: &Fields<'_>, key: &Key) {
        if let Some(read) = read_names(cx, f, key, K::read, K::join) {
            *value = read;
        }
    }

    fn write(value: &K::Value, key: &'static Key) -> Vec<Line> {
        let text = K::write(value);
        text.map(|text| Line { key, text }).into_iter().collect()
    }

    fn changes(old: &K::Value, new: &K::Value, key: &'static Key) -> Vec<&'static Key> {
        if old == new { vec![] } else { vec![key] }
    }
}

/// Reads the value under any name of its key. Written under several, the values are joined or have to be equal.
fn read_names<T: PartialEq>(
    cx: &mut Context<'_>,
    f: &Fields<'_>,
    key: &Key,
    read: fn(&mut Context<'_>, &ValueAt<'_>) -> Option<T>,
    join: fn(&T, &T) -> Option<T>,
) -> Option<T> {
    let mut first: Option<(String, T)> = None;
    for at in f.written(cx, key) {
        let Some(value) = read(cx, &at) else {
            continue;
        };
        let Some((text, before)) = &mut first else {
            first = Some((shown(&at.node.tree), value));
            continue;
        };
        match join(before, &value) {
            Some(both) => *before = both,
            None if *before == value => {}
            None => {
                let same = key.name_in(f.section());
                let message =
                    format!("is the same key as {same}, which is {text}: write one of them");
                at.problem(cx, message);
            }
        }
    }
    first.map(|(_, value)| value)
}

/// Another table, whose keys stand among those of the section.
pub struct Flatten<S>(PhantomData<S>);

impl<S: Section> Item for Flatten<S> {
    type Value = S;

    fn initial(_: &Key) -> S {
        S::default()
    }

    fn keys(_: &'static Key) -> Vec<&'static Key> {
        S::keys()
    }

    fn read(value: &mut S, cx: &mut Context<'_>, f: &Fields<'_>, _: &Key) {
        value.read(cx, f);
    }

    fn write(value: &S, _: &'static Key) -> Vec<Line> {
        value.lines()
    }

    fn changes(old: &S, new: &S, _: &'static Key) -> Vec<&'static Key> {
        old.changes(new)
    }
}

/// A field without a key, derived from something else.
pub struct Derived<T>(PhantomData<T>);

impl<T: Default> Item for Derived<T> {
    type Value = T;

    fn initial(_: &Key) -> T {
        T::default()
    }

    fn keys(_: &'static Key) -> Vec<&'static Key> {
        Vec::new()
    }
}

/// A key with code of its own to read and write it: its value depends on other keys. Its shape is a
/// setting of the row.
pub struct Custom<T>(PhantomData<T>);

impl<T: Default> Item for Custom<T> {
    type Value = T;

    fn initial(_: &Key) -> T {
        T::default()
    }
}

/// Makes the struct of a section and its table. A row is `field: Kind, setting = value…;`, where the settings
/// are those of `Key`; the comment above it is its documentation.
#[macro_export]
macro_rules! section {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $(
            $(#[doc = $doc:literal])+
            $field:ident: $kind:ty $(, $setting:ident = $value:expr)*;
        )*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            $($(#[doc = $doc])+ pub $field: <$kind as $crate::schema::Item>::Value,)*
        }

        impl Default for $name {
            fn default() -> Self {
                let mut rows = <Self as $crate::schema::Section>::TABLE.iter();
                let mut key = || rows.next().map_or_else(|| unreachable!("a row for each field"), |row| &row.key);
                Self { $($field: <$kind as $crate::schema::Item>::initial(key()),)* }
            }
        }

        impl $crate::schema::Section for $name {
            const TABLE: &'static [$crate::schema::Row<Self>] = &[$($crate::schema::Row {
                key: $crate::schema::Key {
                    doc: concat!($($doc),+),
                    $($setting: $value,)*
                    ..$crate::schema::Key::new(stringify!($field), <$kind as $crate::schema::Item>::SHAPE)
                },
                keys: <$kind as $crate::schema::Item>::keys,
                read: |section, cx, f, key| <$kind as $crate::schema::Item>::read(&mut section.$field, cx, f, key),
                write: |section, key| <$kind as $crate::schema::Item>::write(&section.$field, key),
                changes: |old, new, key| <$kind as $crate::schema::Item>::changes(&old.$field, &new.$field, key),
            },)*];
        }
    };
}
