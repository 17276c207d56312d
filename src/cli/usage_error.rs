//! Errors of the command line.

use std::fmt;

/// An invalid command line.
#[derive(Debug)]
pub enum UsageError {
    Lexopt(lexopt::Error),
    UnknownCommand {
        name: String,
        near: Option<&'static str>,
    },
    UnknownFlag {
        /// The command named before it.
        command: Option<&'static str>,
        written: String,
        /// Without its dashes.
        near: Option<&'static str>,
    },
    /// `--config`, and this file too.
    TwoFiles(String),
    Missing {
        command: &'static str,
        argument: &'static str,
    },
    Unexpected {
        command: &'static str,
        argument: String,
    },
    /// Not one of the words that the command takes.
    NotOneOf {
        command: &'static str,
        argument: String,
        words: &'static [&'static str],
    },
    LogFormat(String),
    Verbosity(String),
    Option(String),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lexopt(error) => write!(f, "{error}"),
            Self::UnknownCommand { name, near } => {
                write!(f, "unknown command `{name}`")?;
                match near {
                    Some(near) => write!(f, "; did you mean `{near}`?"),
                    None if name.contains(['/', '.']) => {
                        write!(f, "; a configuration is named with --config {name}")
                    }
                    None => Ok(()),
                }
            }
            Self::UnknownFlag { written, near, .. } => {
                write!(f, "unknown flag `{written}`")?;
                near.map_or(Ok(()), |near| write!(f, "; did you mean `--{near}`?"))
            }
            Self::TwoFiles(file) => {
                write!(
                    f,
                    "--config names a file, and `{file}` is another: write one"
                )
            }
            Self::Missing { command, argument } => write!(f, "`{command}` needs {argument}"),
            Self::Unexpected { command, argument } => {
                write!(f, "`{command}` does not take `{argument}`")
            }
            Self::NotOneOf {
                command,
                argument,
                words,
            } => {
                let words = words.join(", ");
                write!(
                    f,
                    "`{command}` does not take `{argument}`; it takes one of {words}"
                )
            }
            Self::LogFormat(value) => write!(f, "--log-format: `{value}` is neither text nor json"),
            Self::Verbosity(value) => {
                write!(f, "-v: `{value}` is not a number: write -v=2, or -v alone")
            }
            Self::Option(value) => write!(f, "--option: `{value}` is not KEY=VALUE"),
        }
    }
}

impl UsageError {
    /// The command whose help to refer to.
    pub fn command(&self) -> Option<&'static str> {
        match self {
            Self::Missing { command, .. }
            | Self::Unexpected { command, .. }
            | Self::NotOneOf { command, .. } => Some(command),
            Self::UnknownFlag { command, .. } => *command,
            Self::TwoFiles(_) => Some("check"),
            Self::Option(_) => Some("register"),
            Self::Lexopt(_)
            | Self::UnknownCommand { .. }
            | Self::LogFormat(_)
            | Self::Verbosity(_) => None,
        }
    }
}

impl std::error::Error for UsageError {}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self::Lexopt(error)
    }
}
