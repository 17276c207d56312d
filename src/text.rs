//! Escaping of untrusted text for log lines, JSON and the status page.

use std::fmt::{self, Write};

/// Whether a character ends a line, changes the display of its neighbors or is invisible: controls, line
/// separators, marks of the bidirectional algorithm (Unicode TR 9) and zero-width characters.
pub fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Displays any text as one line: characters for which [`needs_escape`] holds are written as `\n`, `\u{202e}`.
pub struct SingleLine<T>(pub T);

impl<T: fmt::Display> fmt::Display for SingleLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(EscapeWriter(f), "{}", self.0)
    }
}

struct EscapeWriter<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for EscapeWriter<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(needs_escape) {
            match piece.chars().next_back().filter(|c| needs_escape(*c)) {
                Some(last) => {
                    let plain = piece.strip_suffix(last).unwrap_or(piece);
                    self.0.write_str(plain)?;
                    // `escape_debug` would leave combining characters as they are.
                    match last {
                        '\n' | '\r' | '\t' => write!(self.0, "{}", last.escape_default())?,
                        other => write!(self.0, "{}", other.escape_unicode())?,
                    }
                }
                None => self.0.write_str(piece)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misleads_is_written_out_and_all_else_stays() {
        for (text, shown) in [
            (
                "dns (primary) a&b ä हिन्दी 🦀",
                "dns (primary) a&b ä हिन्दी 🦀",
            ),
            ("a\nb\r\tc\u{1b}[2J", "a\\nb\\r\\tc\\u{1b}[2J"),
            (
                "\u{202e}x\u{2028}\u{200b}\u{feff}",
                "\\u{202e}x\\u{2028}\\u{200b}\\u{feff}",
            ),
            ("\u{85}\u{7f}\0", "\\u{85}\\u{7f}\\u{0}"),
            ("", ""),
        ] {
            assert_eq!(SingleLine(text).to_string(), shown);
        }
    }
}
