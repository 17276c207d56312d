//! Kinds of values: how each is read and written. Those of one section alone stand beside its table.

use std::fmt::{self, Display, Write};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::duration::{self, Shown};
use super::fields::{Context, ValueAt, shown, value_in_file};
use super::tree::Place;
use super::{Shape, Split};
use crate::net::{ParseError, decimal};
use crate::small_set::SmallSet;
use crate::text::needs_escape;

/// A kind of value.
pub trait Kind {
    type Value: Clone + PartialEq;
    const SHAPE: Shape = Shape::Text;

    /// Reads one text, also the default of a key.
    ///
    /// # Errors
    /// What would be right, a sentence without its subject: `should be …`.
    fn parse(text: &str) -> Result<Self::Value, String>;

    /// As YAML that reads back; `None`: it is not set.
    fn write(value: &Self::Value) -> Option<String>;

    /// Reads a written value; `None`: it is invalid, which was reported, or it means the default.
    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self::Value> {
        read_text(cx, at, Self::parse)
    }

    /// Joins values written under two names of one key; `None`: they have to be equal.
    fn join(_: &Self::Value, _: &Self::Value) -> Option<Self::Value> {
        None
    }
}

/// Reads the one text that a value should be.
pub fn read_text<T>(
    cx: &mut Context<'_>,
    at: &ValueAt<'_>,
    parse: fn(&str) -> Result<T, String>,
) -> Option<T> {
    let read = parse(at.text(cx)?);
    read.map_err(|message| at.problem(cx, message)).ok()
}

/// Reads a list of such texts. An item that is wrong is left out.
pub fn read_list<T>(
    cx: &mut Context<'_>,
    at: &ValueAt<'_>,
    parse: fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let mut values = Vec::new();
    for item in at.items(cx, Split::Commas)? {
        match item.node.text().map(parse) {
            Some(Ok(value)) => values.push(value),
            Some(Err(message)) => item.problem(cx, message),
            None => item.problem(cx, "should be a single value, not empty"),
        }
    }
    Some(values)
}

/// A text as the type reads it.
///
/// # Errors
/// What would be right.
pub fn parsed<T: FromStr<Err = ParseError>>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|error: ParseError| should_be(error.expected))
}

/// The message `should be EXPECTED`.
pub fn should_be(expected: &str) -> String {
    format!("should be {expected}")
}

/// A domain type with `FromStr` and `Display`; in YAML with or without quotes.
pub struct Parsed<T, const QUOTED: bool = false>(PhantomData<T>);

/// As [`Parsed`], written in quotes.
pub type Quoted<T> = Parsed<T, true>;

impl<T, const QUOTED: bool> Kind for Parsed<T, QUOTED>
where
    T: FromStr<Err = ParseError> + Display + Clone + PartialEq,
{
    type Value = T;

    fn parse(text: &str) -> Result<T, String> {
        parsed(text)
    }

    fn write(value: &T) -> Option<String> {
        Some(if QUOTED {
            quoted(value)
        } else {
            value.to_string()
        })
    }
}

/// Any text.
pub struct Text;

impl Kind for Text {
    type Value = String;

    fn parse(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }

    fn write(value: &String) -> Option<String> {
        Some(quoted(value))
    }
}

/// The path of a file.
pub struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;

    fn parse(text: &str) -> Result<PathBuf, String> {
        Ok(PathBuf::from(text))
    }

    fn write(value: &PathBuf) -> Option<String> {
        Some(quoted(value.display()))
    }
}

/// A kind restricted to some values of another kind.
pub trait Validate {
    type Of: Kind;

    /// # Errors
    /// What would be right.
    fn validate(value: &<Self::Of as Kind>::Value) -> Result<(), String>;

    /// The value means the default, as in GoCast, with a warning.
    fn is_default(_: &<Self::Of as Kind>::Value) -> bool {
        false
    }
}

impl<C: Validate> Kind for C {
    type Value = <C::Of as Kind>::Value;
    const SHAPE: Shape = C::Of::SHAPE;

    fn parse(text: &str) -> Result<Self::Value, String> {
        let value = C::Of::parse(text)?;
        C::validate(&value).map(|()| value)
    }

    fn write(value: &Self::Value) -> Option<String> {
        C::Of::write(value)
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self::Value> {
        let value = C::Of::read(cx, at)?;
        if let Err(message) = C::validate(&value) {
            at.problem(cx, message);
            return None;
        }
        if C::is_default(&value) {
            let text = shown(&at.node.tree);
            let message = format!("{}: {text} means the default, as in GoCast", at.path);
            cx.warn(&at.place, message);
            return None;
        }
        Some(value)
    }
}

/// For `Validate`: an error where it does not hold.
///
/// # Errors
/// The message.
pub fn ensure(holds: bool, message: &str) -> Result<(), String> {
    holds.then_some(()).ok_or_else(|| message.to_owned())
}

/// An optional value.
pub struct Opt<K>(PhantomData<K>);

impl<K: Kind> Kind for Opt<K> {
    type Value = Option<K::Value>;
    const SHAPE: Shape = K::SHAPE;

    fn parse(text: &str) -> Result<Self::Value, String> {
        match text {
            "" => Ok(None),
            _ => K::parse(text).map(Some),
        }
    }

    fn write(value: &Self::Value) -> Option<String> {
        value.as_ref().and_then(K::write)
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self::Value> {
        K::read(cx, at).map(Some)
    }
}

/// A value, or the word `off` (`None`).
pub struct OrOff<K>(PhantomData<K>);

impl<K: Kind> Kind for OrOff<K> {
    type Value = Option<K::Value>;
    const SHAPE: Shape = Shape::Either(&Shape::Words(&["off"]), &K::SHAPE);

    fn parse(text: &str) -> Result<Self::Value, String> {
        match text {
            "off" => Ok(None),
            _ => K::parse(text).map(Some).map_err(|e| format!("{e}, or off")),
        }
    }

    fn write(value: &Self::Value) -> Option<String> {
        value.as_ref().map_or_else(|| Some(quoted("off")), K::write)
    }
}

/// Several, as a list or in one text with commas.
pub struct List<K>(PhantomData<K>);

impl<K: Kind<Value: Display>> Kind for List<K> {
    type Value = Vec<K::Value>;
    const SHAPE: Shape = Shape::List(Split::Commas, &K::SHAPE);

    fn parse(text: &str) -> Result<Self::Value, String> {
        let parts = text.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(K::parse)
            .collect()
    }

    fn write(values: &Self::Value) -> Option<String> {
        Some(list(values))
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self::Value> {
        read_list(cx, at, K::parse)
    }
}

/// Several, in no order; not shown where there is none.
pub struct Set<K>(PhantomData<K>);

impl<K: Kind<Value: Display + Ord>> Kind for Set<K> {
    type Value = SmallSet<K::Value>;
    const SHAPE: Shape = List::<K>::SHAPE;

    fn parse(text: &str) -> Result<Self::Value, String> {
        Ok(List::<K>::parse(text)?.into_iter().collect())
    }

    fn write(values: &Self::Value) -> Option<String> {
        (!values.is_empty()).then(|| list(values))
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self::Value> {
        Some(List::<K>::read(cx, at)?.into_iter().collect())
    }
}

/// A decimal number within bounds, both included.
pub struct Number<T, const LOW: u32, const HIGH: u32>(PhantomData<T>);

impl<T, const LOW: u32, const HIGH: u32> Kind for Number<T, LOW, HIGH>
where
    T: TryFrom<u32> + Display + Clone + PartialEq,
{
    type Value = T;
    const SHAPE: Shape = Shape::Number(LOW, HIGH);

    /// A leading zero is refused: yaml.v2 reads such a number as octal.
    fn parse(text: &str) -> Result<T, String> {
        let plain = text == "0" || !text.starts_with('0');
        let number = decimal::<u32>(text).filter(|n| plain && (LOW..=HIGH).contains(n));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("should be a number from {LOW} to {HIGH}"))
    }

    fn write(value: &T) -> Option<String> {
        Some(value.to_string())
    }
}

/// A truth value.
pub struct Bool;

impl Kind for Bool {
    type Value = bool;
    const SHAPE: Shape = Shape::Bool;

    /// YAML 1.1's words, which yaml.v2 takes.
    fn parse(text: &str) -> Result<bool, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Ok(true),
            "false" | "no" | "off" | "n" => Ok(false),
            _ => Err("should be true or false".to_owned()),
        }
    }

    fn write(value: &bool) -> Option<String> {
        Some(value.to_string())
    }
}

/// A duration.
pub struct Time;

impl Kind for Time {
    type Value = Duration;
    const SHAPE: Shape = Shape::Duration;

    fn parse(text: &str) -> Result<Duration, String> {
        duration::parse(text).map_err(|error| should_be(error.expected))
    }

    fn write(value: &Duration) -> Option<String> {
        Some(Shown(*value).to_string())
    }
}

/// A duration within bounds in milliseconds, both included.
pub struct Within<const LOW: u64, const HIGH: u64 = { u64::MAX }>;

impl<const LOW: u64, const HIGH: u64> Validate for Within<LOW, HIGH> {
    type Of = Time;

    fn validate(time: &Duration) -> Result<(), String> {
        let [low, high] = [LOW, HIGH].map(Duration::from_millis);
        let (least, most) = (Shown(low), Shown(high));
        let message = match HIGH {
            u64::MAX => format!("should be at least {least}"),
            _ => format!("should be between {least} and {most}"),
        };
        ensure((low..=high).contains(time), &message)
    }
}

/// The interval of a check; anything shorter would be a busy loop.
pub type Interval = Within<10>;

/// An interval that GoCast has too: there 0 means the default.
pub struct GocastInterval;

impl Validate for GocastInterval {
    type Of = Time;

    fn validate(interval: &Duration) -> Result<(), String> {
        match interval.is_zero() {
            true => Ok(()),
            false => Interval::validate(interval).map_err(|e| format!("{e}, or 0 for the default")),
        }
    }

    fn is_default(interval: &Duration) -> bool {
        interval.is_zero()
    }
}

/// Takes the values as a list on one line.
pub fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(quoted).collect();
    format!("[{}]", values.join(", "))
}

/// In double quotes, as JSON and YAML both read them.
pub fn quoted(value: impl Display) -> String {
    quoted_text(&value.to_string())
}

fn quoted_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if needs_escape(c) && u32::from(c) <= 0xffff => {
                // Writing into a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list whose items keep the place where they were written, for rules on them.
pub struct ItemList<K, const SEMICOLONS: bool>(PhantomData<K>);

/// One item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListItem<T> {
    pub path: String,
    pub place: Place,
    /// As written.
    pub text: String,
    /// `None`: it is invalid, which was reported.
    pub value: Option<T>,
}

impl<K, const SEMICOLONS: bool> ItemList<K, SEMICOLONS> {
    const SPLIT: Split = match SEMICOLONS {
        true => Split::Semicolons,
        false => Split::Commas,
    };
}

impl<K: Kind, const SEMICOLONS: bool> Kind for ItemList<K, SEMICOLONS> {
    type Value = Vec<ListItem<K::Value>>;
    const SHAPE: Shape = Shape::List(Self::SPLIT, &K::SHAPE);

    fn parse(_: &str) -> Result<Self::Value, String> {
        Ok(Vec::new())
    }

    fn write(_: &Self::Value) -> Option<String> {
        None
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self::Value> {
        let mut all = Vec::new();
        for item in at.items(cx, Self::SPLIT)? {
            all.push(ListItem {
                value: K::read(cx, &item),
                text: shown(&item.node.tree),
                path: item.path,
                place: item.place,
            });
        }
        Some(all)
    }

    fn join(first: &Self::Value, second: &Self::Value) -> Option<Self::Value> {
        Some([first.as_slice(), second].concat())
    }
}

/// A secret: `Debug` hides it, there is no `Display`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret in a file of its own; `None`: it is empty.
    pub fn in_file(text: &str) -> Option<Self> {
        let text = value_in_file(text);
        (!text.is_empty()).then(|| Self::new(text))
    }

    /// The text itself, for the wire only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Kind for Secret {
    type Value = Self;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::new(text))
    }

    fn write(_: &Self) -> Option<String> {
        Some(MASK.to_owned())
    }
}

/// Printed in place of a secret of any length.
pub const MASK: &str = "\"********\"";
