//! HTML output: untrusted text is added by [`Markup::text`] and [`Markup::name`] only, which escape it.

use std::fmt::{self, Display, Write};

use crate::text::SingleLine;

/// A piece of a page.
#[derive(Debug, Default)]
pub struct Markup(String);

impl Markup {
    /// Markup of our own.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Any text, inside an element or a quoted attribute.
    pub fn text(&mut self, text: impl Display) -> &mut Self {
        // Writing into memory cannot fail.
        let _ = write!(Escaped(&mut self.0), "{}", SingleLine(text));
        self
    }

    /// An untrusted text in bidirectional isolation: a right-to-left name does not reorder the text around it.
    pub fn name(&mut self, name: impl Display) -> &mut Self {
        self.raw("<bdi>").text(name).raw("</bdi>")
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The markup as the body of a response.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_is_never_markup() {
        let mut markup = Markup::default();
        markup.raw("<p title=\"").text("\"><script>&'").raw("\">");
        markup.name("a\u{202e}<b>\n").raw("</p>");
        assert_eq!(
            markup.0,
            "<p title=\"&quot;&gt;&lt;script&gt;&amp;&#39;\"><bdi>a\\u{202e}&lt;b&gt;\\n</bdi></p>"
        );
    }
}
