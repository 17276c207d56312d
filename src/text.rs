//! Texts that others chose, shown so that nobody who reads a line is misled.

use std::fmt::{self, Write};

/// Whether a character ends a line, changes what stands around it or cannot be seen: controls, line
/// separators, marks of the bidirectional algorithm (Unicode TR 9) and characters without width.
pub fn misleads(c: char) -> bool {
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

/// Any text as one line: characters that mislead become `\n`, `\u{202e}`.
pub struct OneLine<T>(pub T);

impl<T: fmt::Display> fmt::Display for OneLine<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.split_inclusive(misleads) {
            match piece.chars().next_back().filter(|c| misleads(*c)) {
                Some(last) => {
                    let plain = piece.strip_suffix(last).unwrap_or(piece);
                    self.0.write_str(plain)?;
                    // `escape_debug` leaves out those that combine with what stands before.
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
            assert_eq!(OneLine(text).to_string(), shown);
        }
    }
}
