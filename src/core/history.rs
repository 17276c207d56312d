//! The last changes of apps and peers, in the order in which they happened.

use std::collections::VecDeque;
use std::time::Instant;

use crate::app::AppName;
use crate::discovery::PeerName;

/// One change, as `/events` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEvent {
    /// Counts from 1 and never repeats.
    pub seq: u64,
    pub at: Instant,
    pub change: HistoryChange,
}

/// What changed, from which state to which, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryChange {
    pub kind: ChangeKind,
    pub of: ChangeOf,
    pub from: &'static str,
    pub to: &'static str,
    pub why: String,
    /// The app is announced as last resort from then on.
    pub last_resort: bool,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// An app was registered or unregistered.
    Registration,
    /// An app's state.
    State,
    /// A BGP session was established or lost.
    Session,
    /// A BFD session came up or went down.
    Bfd,
    /// The carrier of the interface toward a peer.
    Carrier,
}

impl ChangeKind {
    /// As `/events` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::State => "state",
            Self::Session => "session",
            Self::Bfd => "bfd",
            Self::Carrier => "carrier",
        }
    }
}

/// The app or peer that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeOf {
    App(AppName),
    Peer(PeerName),
}

impl HistoryChange {
    pub(super) fn of_peer(
        kind: ChangeKind,
        peer: &PeerName,
        [from, to]: [&'static str; 2],
        why: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            of: ChangeOf::Peer(peer.clone()),
            from,
            to,
            why: why.into(),
            last_resort: false,
        }
    }

    pub(super) fn of_app(
        kind: ChangeKind,
        app: &AppName,
        [from, to]: [&'static str; 2],
        why: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            of: ChangeOf::App(app.clone()),
            from,
            to,
            why: why.into(),
            last_resort: false,
        }
    }
}

/// Bounded in number and in what each holds.
#[derive(Default)]
pub(super) struct History {
    events: VecDeque<HistoryEvent>,
    seq: u64,
}

impl History {
    /// Returns the change's sequence number.
    pub fn add(&mut self, now: Instant, mut change: HistoryChange) -> u64 {
        if let Some((end, _)) = change.why.char_indices().nth(LONGEST_WHY) {
            change.why.truncate(end);
            change.why.push('…');
        }
        self.seq += 1;
        if self.events.len() >= KEPT {
            self.events.pop_front();
        }
        self.events.push_back(HistoryEvent {
            seq: self.seq,
            at: now,
            change,
        });
        self.seq
    }

    /// Oldest first.
    pub fn events(&self) -> impl Iterator<Item = &HistoryEvent> {
        self.events.iter()
    }
}

const KEPT: usize = 500;
/// In characters: the output of a check's command may be long.
const LONGEST_WHY: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_500_are_kept_and_none_is_long() {
        let mut history = History::default();
        let app = "dns".parse().unwrap();
        let now = Instant::now();
        for _ in 0..700 {
            let change =
                HistoryChange::of_app(ChangeKind::State, &app, ["up", "down"], "ü".repeat(5000));
            history.add(now, change);
        }
        let seqs: Vec<u64> = history.events().map(|event| event.seq).collect();
        assert_eq!(seqs, (201..=700).collect::<Vec<_>>());
        let long = |event: &HistoryEvent| event.change.why.chars().count() > LONGEST_WHY + 1;
        assert!(!history.events().any(long));
    }
}
