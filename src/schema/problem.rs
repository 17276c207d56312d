//! Problems of a configuration, all at once, each with its place.

use std::fmt;

use super::tree::Place;

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub place: Place,
    /// The path of the key, such as `bgp.peers[1].peer_ip`.
    pub key: String,
    /// As written; empty where there is none or it is a secret.
    pub value: String,
    /// What would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        if !self.value.is_empty() {
            // One problem is one line; control characters from a file must not reach the terminal.
            write!(f, "{}: ", self.value.escape_debug())?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The known word nearest to `written` (did you mean …).
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (written.chars().count() / 3).max(2);
    let written = written.to_ascii_lowercase();
    known
        .into_iter()
        .map(|word| (distance(&written, &word.to_ascii_lowercase()), word))
        .filter(|(distance, word)| *distance <= limit && *distance < word.len())
        .min()
        .map(|(_, word)| word)
}

/// Damerau-Levenshtein distance: insertions, deletions, replacements and swaps of adjacent characters.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let at =
                |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&row, j) + usize::from(ca != cb))
                .min(at(&row, j + 1) + 1)
                .min(at(&next, j) + 1);
            let previous = |word: &[char], index: usize| {
                index.checked_sub(1).and_then(|i| word.get(i).copied())
            };
            if previous(&a, i) == Some(*cb) && previous(&b, j) == Some(*ca) {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_counted_in_single_slips() {
        for (a, b, want) in [
            ("", "", 0),
            ("", "ab", 2),
            ("monitor", "monitors", 1),
            ("remote_sa", "remote_as", 1),
            ("kitten", "sitting", 3),
            ("same", "same", 0),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
            assert_eq!(distance(b, a), want, "{b} {a}");
        }
    }

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["monitors", "monitor_interval", "name", "nats", "vip"];
        assert_eq!(nearest("monitor", known), Some("monitors"));
        assert_eq!(nearest("Nmae", known), Some("name"));
        assert_eq!(nearest("color", known), None);
        assert_eq!(nearest("zz", ["vip"]), None);
    }
}
