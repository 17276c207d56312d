//! Messages of a [`Peer`], in both directions.

use std::time::Instant;

use super::{ConnId, Fsm, Happened, Output, Peer};
use crate::bgp::connection::Connection;
use crate::bgp::rib::Filled;
use crate::bgp::{
    EncodeContext, MESSAGES, Message, Received, RefreshKind, RouteRefresh, Severity, Type,
    UpdateSummary, summary,
};

impl Peer {
    pub(super) fn receive(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.push(bytes);
        }
        // A message may end its connection, and what is behind it is dropped.
        while let Some(received) = self.connections.get_mut(&conn).and_then(Connection::next) {
            if let Ok(message) = &received {
                log::debug!(target: MESSAGES, "peer {}: received {message}", self.config.name);
            }
            let happened = match received {
                Ok(Received::Open(open)) => (Type::Open, Happened::BgpOpen(open)),
                Ok(Received::Update(summary)) => (Type::Update, Happened::UpdateMsg(summary)),
                Ok(Received::Notification(notification)) => {
                    (Type::Notification, Happened::NotifMsg(notification))
                }
                Ok(Received::Keepalive) => (Type::Keepalive, Happened::KeepAliveMsg),
                Ok(Received::RouteRefresh(refresh)) => {
                    (Type::RouteRefresh, Happened::RouteRefreshMsg(refresh))
                }
                Err(error) => {
                    self.step(now, Fsm::On(conn, Happened::MsgErr(error)));
                    continue;
                }
            };
            let (kind, happened) = happened;
            self.counters.received.count(kind, 1);
            self.step(now, Fsm::On(conn, happened));
        }
    }

    /// Sends whole messages of one type, `bytes` of them.
    pub(super) fn say(&mut self, now: Instant, conn: ConnId, kind: Type, bytes: Vec<u8>) {
        self.counters.sent.count(kind, 1);
        self.transmit(now, conn, bytes, matches!(kind, Type::Keepalive));
    }

    /// `alive`: it tells the peer that we are alive, and no KEEPALIVE is needed for a while.
    fn transmit(&mut self, now: Instant, conn: ConnId, bytes: Vec<u8>, alive: bool) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.queued(now, bytes.len());
            if alive {
                connection.said(now);
            }
            if log::log_enabled!(target: MESSAGES, log::Level::Debug) {
                for line in summary::lines(&bytes, connection.ours(), connection.negotiated()) {
                    log::debug!(target: MESSAGES, "peer {}: sent {line}", self.config.name);
                }
            }
        }
        self.outputs.push_back(Output::Send { conn, bytes });
    }

    pub(super) fn send_keepalive(&mut self, now: Instant, conn: ConnId) {
        match Message::Keepalive.encode(&EncodeContext::default()) {
            Ok(bytes) => self.say(now, conn, Type::Keepalive, bytes),
            Err(error) => log::error!("peer {}: no KEEPALIVE: {error}", self.config.name),
        }
    }

    /// As many routes as there is room for.
    pub(super) fn send_routes(&mut self, now: Instant) {
        while let Some(connection) = self.established() {
            let conn = connection.id;
            let room = UNSENT_LIMIT.saturating_sub(connection.unsent());
            let Filled {
                bytes,
                updates,
                route_refreshes,
            } = self.rib.fill(room);
            if bytes.is_empty() {
                return;
            }
            self.counters.sent.count(Type::Update, updates);
            self.counters
                .sent
                .count(Type::RouteRefresh, route_refreshes);
            self.transmit(now, conn, bytes, updates > 0);
        }
    }

    pub(super) fn heard(&mut self, now: Instant, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.heard(now);
        }
    }

    /// Routes are checked by the codec and kept nowhere; what was wrong is counted, and said once.
    pub(super) fn receive_update(&mut self, now: Instant, conn: ConnId, summary: &UpdateSummary) {
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        connection.heard(now);
        let mut withdrawn = false;
        for problem in &summary.problems {
            let treated = problem.severity(&[]) == Severity::TreatAsWithdraw;
            withdrawn |= treated;
            if connection.complains(problem.code, treated) {
                let what = if treated { "routes ignored" } else { "ignored" };
                log::warn!("peer {}: UPDATE: {problem}; {what}", self.config.name);
            }
        }
        if withdrawn {
            self.counters.treated_as_withdraw += 1;
        } else if !summary.problems.is_empty() {
            self.counters.attributes_discarded += 1;
        }
    }

    pub(super) fn receive_route_refresh(
        &mut self,
        now: Instant,
        conn: ConnId,
        refresh: RouteRefresh,
    ) {
        self.heard(now, conn);
        // The peer's own markers and subtypes to come: we keep no routes that they could speak of.
        if let (RefreshKind::Request, Some(family)) = (refresh.kind, refresh.family.family()) {
            self.rib.refresh(family);
        }
    }

    pub(super) fn refresh_all(&mut self) {
        for family in self.config.families.clone() {
            self.rib.refresh(family);
        }
    }

    /// A route that is wanted and never announced must not be a silent one.
    pub(super) fn tell_unsendable(&mut self) {
        let Some(unsendable) = self.rib.unsendable() else {
            return;
        };
        if let Some(first) = unsendable.first()
            && self.told_unsendable != unsendable.len()
        {
            let (name, count) = (&self.config.name, unsendable.len());
            log::warn!(
                "peer {name}: {count} routes are not announced to it, {first} first: the session does \
                 not carry their address family, or not with their next hop"
            );
        }
        self.told_unsendable = unsendable.len();
    }
}

/// Bytes that may wait to be written to one connection.
const UNSENT_LIMIT: usize = 64 * 1024;
