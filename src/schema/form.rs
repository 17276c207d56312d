//! Syntax errors of YAML: a readable message, and the line with a caret.
//!
//! libyaml reports where it noticed a mistake and, after a comma, where the construct it was parsing began; a table
//! here decides which of the two positions is shown. A test of `yaml` names the version whose messages these are.

/// Invalid YAML, or YAML beyond the limits of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    /// Line and column, from 1.
    pub mark: Option<(usize, usize)>,
    /// The message quotes nothing of the text.
    pub message: String,
}

use crate::text::needs_escape;

/// Which position is shown.
#[derive(Clone, Copy)]
enum Show {
    Noticed,
    Begun,
}

use Show::{Begun, Noticed};

/// libyaml's messages and ours. The first match counts.
const MEANINGS: &[(&str, Show, &str)] = &[
    ("tab character", Noticed, TAB),
    (
        "while scanning a quoted scalar",
        Begun,
        "this quote is never closed",
    ),
    (
        "while parsing a quoted scalar",
        Noticed,
        "is no escape of double quotes: write two backslashes for one, or take single quotes",
    ),
    (
        "while scanning a block scalar",
        Noticed,
        "behind `|` and `>` only a digit, `+` or `-` may follow",
    ),
    ("while scanning an a", Begun, FIRST),
    ("while scanning a tag", Begun, FIRST),
    ("directive", Begun, FIRST),
    ("undefined tag handle", Noticed, FIRST),
    ("cannot start any token", Noticed, FIRST),
    (
        "could not find expected ':'",
        Begun,
        "is no key: a colon and a space are missing behind it",
    ),
    (
        "block sequence entries",
        Noticed,
        "a list does not begin behind a key: write `- ` on a line of its own",
    ),
    ("while parsing a flow node", Noticed, UNCLOSED),
    ("while parsing a flow", Begun, UNCLOSED),
    ("node content", Noticed, FIRST),
    ("mapping values", Noticed, DEEPER),
    (
        "expected key",
        Noticed,
        "is no key, or does not line up with the keys above it",
    ),
    (
        "expected '-'",
        Noticed,
        "does not begin with `- ` as the items above it do, and lines up with no key",
    ),
    (
        "document start",
        Noticed,
        "does not line up with what is above it",
    ),
    (
        "unknown anchor",
        Noticed,
        "nothing above is named so with `&`: quote a text that begins with `*`",
    ),
    (
        "more than one document",
        Noticed,
        "has a second document: write one, without `---`",
    ),
    ("control characters", Noticed, "has a control character"),
];

const TAB: &str = "has a tab: YAML is indented with spaces alone";
const FIRST: &str = "a text cannot begin with this character unless it is quoted";
const UNCLOSED: &str = "a bracket is not closed, or a comma or a value is missing";
const DEEPER: &str =
    "is deeper than the key above, which has a value already or no space behind its colon";
const COLON: &str = "is a second `: ` in one line: quote the text that holds it";
const BEHIND: &str = "the value ends before this: quote the whole of it, or leave this out";

/// Translates a message of libyaml.
pub(super) fn explain(text: &str, error: &serde_yaml::Error) -> YamlError {
    let message = error.to_string();
    let meaning = MEANINGS.iter().find(|(cause, ..)| message.contains(cause));
    let Some((cause, show, meaning)) = meaning else {
        let mark = error.location().map(|at| (at.line(), at.column()));
        return YamlError { mark, message };
    };
    let (noticed, begun) = message.split_once(", while ").unwrap_or((&message, ""));
    let (noticed, begun) = (mark(text, noticed), mark(text, begun));
    let (line, column) = match show {
        // A bracket closed wrongly on its own line is not closed there.
        Begun if *meaning == UNCLOSED && noticed.0 == begun.0 => noticed,
        Begun => begun,
        Noticed => noticed,
    };
    let whole = text.lines().nth(line - 1).unwrap_or_default();
    let before: String = whole.chars().take(column - 1).collect();
    let within_line = !before.trim().is_empty();
    let meaning = match *cause {
        "cannot start any token" if whole.chars().nth(column - 1) == Some('\t') => TAB,
        "mapping values" if before.contains(": ") => COLON,
        "expected key" | "expected '-'" if within_line => BEHIND,
        _ => meaning,
    };
    YamlError {
        mark: Some((line, column)),
        message: meaning.to_owned(),
    }
}

/// From `… at line 3 column 5` or `… at position 17`; libyaml leaves it out at the very beginning.
fn mark(text: &str, cause: &str) -> (usize, usize) {
    let mut words = cause.rsplit(' ').map(str::parse::<usize>);
    match (words.next(), words.next(), words.next()) {
        (Some(Ok(column)), _, Some(Ok(line))) => (line.max(1), column.max(1)),
        (Some(Ok(offset)), ..) => {
            let before = text.get(..offset).unwrap_or_default();
            let line = before.rsplit('\n').next().unwrap_or_default();
            (before.matches('\n').count() + 1, line.chars().count() + 1)
        }
        _ => (1, 1),
    }
}

/// Characters shown left and right of the caret.
const LEFT: usize = 60;
const RIGHT: usize = 40;

/// The line with a caret below. If it may hold a secret (a key of `secrets`), only its key is shown.
pub fn excerpt(text: &str, (line, column): (usize, usize), secrets: &[&str]) -> String {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let whole = lines.last().copied().unwrap_or_default();
    let shown = match may_hold_secret(&lines, secrets) {
        true => {
            let key = whole.split_once(':').map_or("", |(key, _)| key);
            let colon = if key.is_empty() { "" } else { ":" };
            format!("{key}{colon}…")
        }
        false => whole.to_owned(),
    };
    let at = (column - 1).min(shown.chars().count());
    let skip = at.saturating_sub(LEFT);
    let clean = |c| match c {
        '\t' => '→',
        c if needs_escape(c) => '\u{fffd}',
        c => c,
    };
    let part: String = shown
        .chars()
        .skip(skip)
        .take(LEFT + RIGHT)
        .map(clean)
        .collect();
    let number = lines.len().max(1);
    let width = number.to_string().len();
    format!(
        "  {number} | {part}\n  {:width$} | {:caret$}^",
        "",
        "",
        caret = at - skip
    )
}

/// Whether the last line, or one of its parents by indentation, names a secret. A line without a key, or with a tab,
/// may continue the text of the line before, whatever its indentation.
fn may_hold_secret(lines: &[&str], secrets: &[&str]) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let goes_on =
        |line: &str| !line.contains(':') || line.trim_start_matches(' ').starts_with('\t');
    let mut inside = usize::MAX;
    for (index, line) in lines.iter().rev().enumerate() {
        if line.trim().is_empty() || indent(line) >= inside {
            continue;
        }
        if secrets.iter().any(|secret| line.contains(secret)) {
            return true;
        }
        if index > 0 || !goes_on(line) {
            inside = indent(line);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tree::Place;
    use crate::schema::yaml;

    fn wrong(text: &str) -> YamlError {
        yaml::parse(text, &|_| Place::Default).expect_err(text)
    }

    #[test]
    fn each_mistake_of_form_is_shown_where_it_is_made() {
        for (text, mark, cause) in [
            ("agent:\n\tlisten_addr: x\n", (2, 1), TAB),
            ("\tagent: 1\n", (1, 1), TAB),
            ("agent:\n  a: 1\n \tb: 2\n", (3, 2), TAB),
            ("a:\n  b: |\n\tx\n", (3, 1), TAB),
            ("agent:\n  a: 1\n   b: 2\n", (3, 5), DEEPER),
            ("name:a\nvip: b\n", (2, 4), DEEPER),
            ("a: b: c\n", (1, 5), COLON),
            ("apps:\n- name: a\n vip: b\n", (3, 2), "line up"),
            ("apps:\n  - a\n  b: c\n", (3, 3), "does not begin with `- `"),
            ("apps:\n- a\nb\n", (3, 1), "a colon and a space are missing"),
            ("a: - b\n", (1, 4), "a line of its own"),
            ("a: \"x\nb: 1\n", (1, 4), "never closed"),
            ("'a: 1\n", (1, 1), "never closed"),
            ("a: 'x\n---\nb\n", (1, 4), "never closed"),
            ("a: 'it's'\n", (1, 8), BEHIND),
            ("a: \"\\q\"\n", (1, 5), "no escape"),
            ("a: [x\nb: 1\n", (1, 4), UNCLOSED),
            ("a: {x: 1, b 2]\n", (1, 14), UNCLOSED),
            ("[", (2, 1), UNCLOSED),
            ("a: ]\n", (1, 4), FIRST),
            ("a: @x\n", (1, 4), FIRST),
            ("a: *\n", (1, 4), FIRST),
            ("a: !x!y z\n", (1, 4), FIRST),
            ("%x\n", (1, 1), FIRST),
            ("a: *x\n", (1, 4), "begins with `*`"),
            ("a: |0\n x\n", (1, 5), "only a digit"),
            ("a: 1\n---\nb: 2\n", (1, 1), "second document"),
            ("b: 2\na: \u{1}\n", (2, 4), "control character"),
        ] {
            let error = wrong(text);
            assert!(error.message.contains(cause), "{text:?}: {}", error.message);
            assert_eq!(error.mark, Some(mark), "{text:?}: {}", error.message);
        }
    }

    #[test]
    fn a_caret_stands_below_what_is_meant() {
        let shown = |text: &str| excerpt(text, wrong(text).mark.unwrap(), &["password", "headers"]);
        assert_eq!(shown("a: 1\n\tb: 2\n"), "  2 | →b: 2\n    | ^");
        assert_eq!(shown("é: \"x\nb: 1\n"), "  1 | é: \"x\n    |    ^");
        let long = format!("a: {} 'b' c: d\n", "x".repeat(300));
        let lines = shown(&long);
        assert!(
            lines.lines().all(|line| line.chars().count() < 120),
            "{lines}"
        );
        assert_eq!(shown("["), "  1 | [\n    | ^");
    }

    #[test]
    fn a_line_that_may_hold_a_secret_is_not_shown_whole() {
        let shown = |text: &str| excerpt(text, wrong(text).mark.unwrap(), &["password", "headers"]);
        for text in [
            "bgp:\n  password: \"geheim\n",
            "bgp:\n  peers: [{peer_ip: 10.0.0.1, password: geheim\n",
            "headers:\n  X-Key: 'geheim\n",
            "password: |\n  geheim\n\tgeheim\n",
            "a:\n  headers:\n    X: |\n\n      x\n\tgeheim\n",
            "a:\n  headers:\n\n    X: 'geheim\n",
            "bgp:\n    password: |\n      geheim\n  geheim\n",
        ] {
            assert!(!shown(text).contains("geheim"), "{}", shown(text));
        }
        assert_eq!(
            shown("  password: 'x\n"),
            "  1 |   password:…\n    |             ^"
        );
    }
}
