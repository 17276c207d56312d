//! RFC 4271 §8: the machine that keeps one session with one peer, without a socket or a clock of its
//! own.

mod interface;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use interface::{ConnId, Counters, Event, MessageCounts, Output, PeerConfig, StateName, Timer};

use super::{Negotiated, PathAttributes};
use crate::net::Prefix;

/// One BGP peer.
#[derive(Debug)]
pub struct Peer {
    config: PeerConfig,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Peer {
    /// In Idle until [`Event::Start`]. The same seed makes the same run.
    pub fn new(config: PeerConfig, jitter_seed: u64) -> Self {
        let _ = jitter_seed;
        Self {
            config,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    pub fn handle(&mut self, now: Instant, event: Event) {
        let _ = (now, event, &self.config);
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        None
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What the peer shall know from now on: the whole set, in attributes as they are before they
    /// leave us. `as_path` holds only what is prepended on top (on eBGP our AS is added, on iBGP the path
    /// is emptied); `local_pref` goes out on iBGP only and is 100 where it is `None`. Only differences
    /// to what was said before are sent; an equal set sends nothing.
    pub fn advertise(&mut self, now: Instant, routes: BTreeMap<Prefix, PathAttributes>) {
        let _ = (now, routes);
    }

    pub fn state(&self) -> StateName {
        StateName::Idle
    }

    /// Of the session that is up.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        None
    }

    /// Our end of the session that is up.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// How many prefixes the peer has been told of in this session.
    pub fn announced(&self) -> usize {
        0
    }

    /// Whether `prefix` has been told to the peer in this session.
    pub fn is_announced(&self, prefix: &Prefix) -> bool {
        let _ = prefix;
        false
    }

    /// Nothing waits to be written to the peer; what the kernel holds is not counted.
    pub fn is_flushed(&self) -> bool {
        true
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Since when the session has been up.
    pub fn since(&self) -> Option<Instant> {
        None
    }

    /// How long the session has been up.
    pub fn uptime(&self, now: Instant) -> Option<Duration> {
        self.since()
            .map(|since| now.saturating_duration_since(since))
    }

    /// Why the last session or attempt ended.
    pub fn last_error(&self) -> Option<&str> {
        None
    }

    /// How often the session was lost after it had been up.
    pub fn flaps(&self) -> u64 {
        0
    }
}
