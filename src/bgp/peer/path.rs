//! Carrier, local address and path changes, and the probe of a session.
//!
//! A lost carrier does not end a session; the hold timer or BFD does. When the path is back, the peer may have
//! lost the session, and would reset the connection only at our next segment, so a KEEPALIVE is sent at once.

use std::time::{Duration, Instant};

use super::{ConnId, ConnectionEvent, DownReason, FsmEvent, Output, Peer, State};
use crate::bgp::Message;

impl Peer {
    /// Cancels the attempt: its ARP and TCP retransmission timers would delay the next one.
    pub(super) fn carrier_lost(&mut self, now: Instant) {
        self.no_carrier = true;
        match self.state {
            State::Idle { restart_at: None } | State::Open { attempt: None } => {}
            State::Established { conn, .. } => self.probe_answered(now, conn),
            State::Open { .. } => self.abort_attempt(now),
            State::Idle { .. } | State::Connect(_) | State::Active { .. } => {
                self.close_attempt();
                self.last_error = Some(DownReason::NoCarrier);
                let connect_retry_at = None;
                self.enter(now, State::Active { connect_retry_at });
            }
        }
    }

    /// Without carrier nothing is sent: TCP would retransmit it late.
    pub(super) fn keepalive_timer_expired(&mut self, now: Instant, conn: ConnId) {
        if self.no_carrier
            && let Some(connection) = self.connection_mut(conn)
        {
            connection.restart_keepalive_timer(now);
        } else {
            self.send_message(now, conn, &Message::Keepalive);
        }
    }

    /// The process is awake: a KEEPALIVE that may be sent by now needs no wake of its own.
    pub(super) fn send_early_keepalive(&mut self, now: Instant) {
        if let State::Established { conn, .. } = self.state
            && self
                .connection(conn)
                .is_some_and(|connection| connection.may_send_keepalive(now))
        {
            self.step(
                now,
                FsmEvent::ForConnection(conn, ConnectionEvent::KeepaliveTimerExpires),
            );
        }
    }

    /// Established, with a probe under way until `probe_expires_at`.
    pub(super) fn enter_established(
        &mut self,
        now: Instant,
        conn: ConnId,
        probe_expires_at: Option<Instant>,
    ) {
        self.enter(
            now,
            State::Established {
                conn,
                probe_expires_at,
            },
        );
    }

    /// Sends a KEEPALIVE: a peer that still has the connection acknowledges the segment, any other answers with RST.
    pub(super) fn probe(&mut self, now: Instant) {
        let State::Established { conn, .. } = self.state else {
            return;
        };
        self.send_message(now, conn, &Message::Keepalive);
        self.outputs.push_back(Output::Probe { conn });
        self.enter_established(now, conn, Some(now + PROBE_TIMEOUT));
    }

    /// Ends the probe: it was acknowledged, or the carrier is lost.
    pub(super) fn probe_answered(&mut self, now: Instant, conn: ConnId) {
        self.enter_established(now, conn, None);
    }

    /// Neither an acknowledgment nor a reset came in time.
    pub(super) fn probe_failed(&mut self, now: Instant) {
        if let State::Established { conn, .. } = self.state {
            self.tear_down(now, conn, DownReason::PathUnacknowledged);
        }
    }

    /// Resets all connections: their local address no longer exists.
    pub(super) fn local_address_gone(&mut self, now: Instant) {
        let conns: Vec<ConnId> = self.connections.iter().map(|c| c.id).collect();
        for conn in conns {
            self.tear_down(now, conn, DownReason::LocalAddressGone);
        }
    }
}

/// Time for the peer to acknowledge a probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);
