//! What the kernel says of the way to the peer, and what becomes of a session meanwhile.
//!
//! A lost carrier ends nothing: the hold timer does, or BFD. When the way is there again the peer may have
//! forgotten the session, and would say so only when it next hears of it: it is asked at once.

use std::time::{Duration, Instant};

use super::{ConnId, Output, Peer, State, TeardownCause};
use crate::bgp::Message;

impl Peer {
    /// Attempts would leave timers of ARP and TCP behind, which delay the next.
    pub(super) fn lose_carrier(&mut self, now: Instant) {
        self.no_carrier = true;
        match self.state {
            State::Idle { restart_at: None } | State::Open { attempt: None } => {}
            State::Established { conn, .. } => self.probe_answered(now, conn),
            State::Open { .. } => self.abandon_attempt(now),
            State::Idle { .. } | State::Connect(_) | State::Active { .. } => {
                self.give_up_attempt();
                self.last_error = Some(NO_CARRIER.to_owned());
                let connect_retry_at = None;
                self.enter(now, State::Active { connect_retry_at });
            }
        }
    }

    /// What is sent without carrier is lost, and TCP would send it again late.
    pub(super) fn keepalive_is_due(&mut self, now: Instant, conn: ConnId) {
        if self.no_carrier
            && let Some(connection) = self.connections.get_mut(&conn)
        {
            connection.restart_keepalive_timer(now);
        } else {
            self.say(now, conn, &Message::Keepalive);
        }
    }

    /// Asks whether the peer still has the session: its kernel acknowledges, or resets the connection.
    pub(super) fn probe(&mut self, now: Instant) {
        let State::Established { conn, .. } = self.state else {
            return;
        };
        self.say(now, conn, &Message::Keepalive);
        self.outputs.push_back(Output::Probe { conn });
        let dead_at = Some(now + PROBE);
        self.enter(now, State::Established { conn, dead_at });
    }

    /// Or nobody can answer.
    pub(super) fn probe_answered(&mut self, now: Instant, conn: ConnId) {
        let dead_at = None;
        self.enter(now, State::Established { conn, dead_at });
    }

    /// Nothing came back, no acknowledgment and no reset.
    pub(super) fn probe_failed(&mut self, now: Instant) {
        if let State::Established { conn, .. } = self.state {
            self.end(now, conn, TeardownCause::Reset(UNACKNOWLEDGED));
        }
    }

    /// Nothing can be sent from an address that the kernel has no more.
    pub(super) fn lose_local_address(&mut self, now: Instant) {
        let conns: Vec<ConnId> = self.connections.keys().copied().collect();
        for conn in conns {
            self.end(now, conn, TeardownCause::Reset(LOCAL_ADDRESS_GONE));
        }
    }
}

/// How long the peer has to acknowledge once there is a way to it.
const PROBE: Duration = Duration::from_millis(400);
const NO_CARRIER: &str = "no carrier";
const UNACKNOWLEDGED: &str = "the way to the peer changed, and it acknowledges nothing since";
const LOCAL_ADDRESS_GONE: &str = "the address that the session ran from is gone";
