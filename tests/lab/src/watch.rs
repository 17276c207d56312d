//! Changes of a kernel's addresses and routes, with their times, from `ip monitor`. The times are those at which
//! `ip` received the message: between two namespaces they compare to a few milliseconds, no finer.

use std::time::Duration;

use crate::child::Child;
use crate::net::Namespace;
use crate::until::{expect, until};

/// A running `ip monitor` for addresses and routes of one namespace.
pub struct Watch {
    child: Child,
}

impl Watch {
    /// Returns when the kernel's messages arrive.
    #[track_caller]
    pub fn start(namespace: &Namespace) -> Self {
        let child = Child::start(
            namespace,
            &format!("watch-{}", namespace.name()),
            "ip",
            &["-o", "-ts", "monitor", "address", "route"],
            &[],
        );
        let watch = Self { child };
        until(Duration::from_secs(60), "ip monitor listens", || {
            namespace.ip(&format!("addr add {MARK}/32 dev lo"));
            namespace.ip(&format!("addr del {MARK}/32 dev lo"));
            expect(!watch.child.output().is_empty(), "no event")
        });
        watch
    }

    /// When the first change was seen whose line has all of these words, as a time that sorts.
    pub fn seen(&self, words: &[&str]) -> Option<String> {
        self.lines(words).into_iter().next()
    }

    /// The times of all such changes.
    pub fn lines(&self, words: &[&str]) -> Vec<String> {
        let output = self.child.output();
        let hits = output
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        hits.filter_map(|line| line.split(']').next())
            .map(str::to_owned)
            .collect()
    }
}

/// An address that means nothing.
const MARK: &str = "127.9.9.9";
