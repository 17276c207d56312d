//! Who asked for a drain, and when.

use std::time::SystemTime;

use crate::text::needs_escape;

/// A drain as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainRequest {
    /// In words: `HTTP from 10.0.0.7`.
    by: String,
    pub since: SystemTime,
}

impl DrainRequest {
    /// At most 100 characters, without control characters: it may come from a file.
    pub fn new(by: &str, since: SystemTime) -> Self {
        let plain = by.chars().filter(|c| !needs_escape(*c));
        Self {
            by: plain.take(100).collect(),
            since,
        }
    }

    /// In words, for the operator.
    pub fn by(&self) -> &str {
        &self.by
    }
}
