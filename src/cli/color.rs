//! Colors, for a terminal alone: `NO_COLOR` and `TERM=dumb` switch them off.

use std::env;
use std::io::{self, IsTerminal};

/// Whether there are colors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color(bool);

/// The meaning of a text, which determines its color.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    /// Degraded, or not ready yet.
    Warn,
    Bad,
    /// Headings.
    Faint,
}

impl Color {
    /// Colors if standard output is a terminal.
    pub fn of_stdout() -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(io::stdout().is_terminal() && !set("NO_COLOR") && !dumb)
    }

    /// The text with its color, if there are colors.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        // ECMA-48 §8.3.117, SGR.
        let code = match tone {
            _ if !self.0 || text.is_empty() => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Color {
        /// No colors.
        pub const OFF: Self = Self(false);
        /// Colors.
        pub const ON: Self = Self(true);
    }

    #[test]
    fn only_a_terminal_is_painted() {
        assert_eq!(Color::OFF.paint(Tone::Bad, "down"), "down");
        assert_eq!(Color::ON.paint(Tone::Bad, "down"), "\x1b[1;31mdown\x1b[0m");
        assert_eq!(Color::ON.paint(Tone::Plain, "x"), "x");
        assert_eq!(Color::ON.paint(Tone::Good, ""), "");
    }
}
