//! The types of the table of commands.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;

use super::command::Command;
use super::usage_error::UsageError;
use lexopt::ValueExt;

/// One command.
pub struct Spec {
    pub name: &'static str,
    /// Its line in the general help.
    pub summary: &'static str,
    /// The text of its own help, broken into lines.
    pub about: &'static str,
    pub arguments: &'static [Argument],
    pub flags: &'static [Flag],
    pub exits: &'static [Exit],
    /// A command line, and what it is for.
    pub examples: &'static [(&'static str, &'static str)],
    /// Makes the command; the number of arguments and the flags are checked before.
    pub read: fn(&mut ParsedArgs) -> Result<Command, UsageError>,
}

/// A positional argument.
pub struct Argument {
    pub name: &'static str,
    pub doc: &'static str,
    pub required: bool,
    pub value: Value,
    /// Internal: not in any help.
    pub hidden: bool,
    /// Internal words besides those of the value.
    pub also: &'static [&'static str],
}

/// One flag.
pub struct Flag {
    pub short: Option<char>,
    /// Without its dashes.
    pub long: &'static str,
    /// None: a switch.
    pub value: Option<(&'static str, Value)>,
    pub repeats: bool,
    pub doc: &'static str,
}

/// The kind of a value, for completions and file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Text,
    File,
    /// The name of an app that the running announcer has.
    App,
    /// The name of a command.
    Command,
    Words(&'static [&'static str]),
}

/// An exit code and when it is given.
pub type Exit = (u8, &'static str);

impl Spec {
    /// `sidecast register NAME VIP [--monitor M]…`.
    pub fn usage(&self) -> String {
        let mut usage = format!("sidecast {}", self.name);
        for part in self.shown().map(Argument::usage) {
            usage += &part;
        }
        for flag in self.flags {
            usage += &format!(" [{}]", flag.with_value());
            if flag.repeats {
                usage += "...";
            }
        }
        usage
    }

    /// The command with its arguments alone: `register NAME VIP`.
    pub fn short_usage(&self) -> String {
        let arguments: String = self.shown().map(Argument::usage).collect();
        format!("{}{arguments}", self.name)
    }

    /// The arguments shown in the help.
    pub fn shown(&self) -> impl Iterator<Item = &'static Argument> + use<> {
        self.arguments.iter().filter(|argument| !argument.hidden)
    }
}

impl Argument {
    pub(super) const fn new(name: &'static str, doc: &'static str) -> Self {
        Self {
            name,
            doc,
            required: true,
            value: Value::Text,
            hidden: false,
            also: &[],
        }
    }

    pub(super) const fn optional(self) -> Self {
        Self {
            required: false,
            ..self
        }
    }

    pub(super) const fn of(self, value: Value) -> Self {
        Self { value, ..self }
    }

    fn usage(&self) -> String {
        if self.required {
            format!(" {}", self.name)
        } else {
            format!(" [{}]", self.name)
        }
    }
}

impl Flag {
    pub(super) const fn switch(long: &'static str, doc: &'static str) -> Self {
        Self {
            short: None,
            long,
            value: None,
            repeats: false,
            doc,
        }
    }

    pub(super) const fn value(
        long: &'static str,
        name: &'static str,
        of: Value,
        doc: &'static str,
    ) -> Self {
        Self {
            value: Some((name, of)),
            ..Self::switch(long, doc)
        }
    }

    pub(super) const fn short(self, short: char) -> Self {
        Self {
            short: Some(short),
            ..self
        }
    }

    pub(super) const fn repeats(self) -> Self {
        Self {
            repeats: true,
            ..self
        }
    }

    /// `--config FILE`.
    pub fn with_value(&self) -> String {
        match self.value {
            Some((name, _)) => format!("--{} {name}", self.long),
            None => format!("--{}", self.long),
        }
    }

    /// `-c, --config FILE`, with room for the short one where there is none.
    pub fn both(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, {}", self.with_value()),
            None => format!("    {}", self.with_value()),
        }
    }
}

/// Words and flags as they were given.
#[derive(Default)]
pub struct ParsedArgs {
    pub(super) words: VecDeque<OsString>,
    pub(super) flags: Vec<(&'static Flag, Option<OsString>)>,
    /// What [`ParsedArgs::file_argument`] found.
    pub(super) file: Option<PathBuf>,
}

impl ParsedArgs {
    /// Whether a flag was given.
    pub fn has(&self, long: &str) -> bool {
        self.flags.iter().any(|(flag, _)| flag.long == long)
    }

    /// The next argument as text, where there is one.
    pub fn word(&mut self) -> Result<Option<String>, UsageError> {
        self.words.pop_front().map(text).transpose()
    }

    /// An argument that the table requires.
    pub fn required(&mut self) -> Result<String, UsageError> {
        self.word().map(Option::unwrap_or_default)
    }

    /// Takes the next argument as the configuration's file.
    ///
    /// # Errors
    /// `--config` names one too.
    pub fn file_argument(&mut self) -> Result<(), UsageError> {
        self.file = self.words.pop_front().map(PathBuf::from);
        match &self.file {
            Some(file) if self.has("config") => {
                Err(UsageError::TwoFiles(file.display().to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Every value of a flag, in order.
    pub fn texts(&self, long: &str) -> Result<Vec<String>, UsageError> {
        self.values(long).cloned().map(text).collect()
    }

    /// Every value of a flag that takes KEY=VALUE.
    pub fn pairs(&self, long: &str) -> Result<Vec<(String, String)>, UsageError> {
        let texts = self.texts(long)?;
        texts.iter().map(|text| key_value(text)).collect()
    }

    pub(super) fn values(&self, long: &str) -> impl Iterator<Item = &OsString> {
        let of = self.flags.iter().filter(move |(flag, _)| flag.long == long);
        of.filter_map(|(_, value)| value.as_ref())
    }
}

fn text(value: OsString) -> Result<String, UsageError> {
    Ok(value.string()?)
}

fn key_value(text: &str) -> Result<(String, String), UsageError> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| UsageError::Option(text.to_owned()))?;
    Ok((key.to_owned(), value.to_owned()))
}
