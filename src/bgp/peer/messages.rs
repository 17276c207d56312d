//! Messages of a [`Peer`], in both directions.

use std::time::Instant;

use super::{ConnId, ConnectionEvent, Fsm, Output, Peer};
use crate::bgp::connection::Connection;
use crate::bgp::rib::Filled;
use crate::bgp::{MESSAGES, Message, Received, RefreshKind, RouteRefresh, Type};

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
                Ok(Received::Open(open)) => (Type::Open, ConnectionEvent::BgpOpen(open)),
                Ok(Received::Update(_)) => (Type::Update, ConnectionEvent::UpdateMsg),
                Ok(Received::Notification(notification)) => {
                    (Type::Notification, ConnectionEvent::NotifMsg(notification))
                }
                Ok(Received::Keepalive) => (Type::Keepalive, ConnectionEvent::KeepAliveMsg),
                Ok(Received::RouteRefresh(refresh)) => (
                    Type::RouteRefresh,
                    ConnectionEvent::RouteRefreshMsg(refresh),
                ),
                Err(error) => {
                    self.step(now, Fsm::On(conn, ConnectionEvent::MsgErr(error)));
                    continue;
                }
            };
            let (kind, happened) = happened;
            self.counters.received.count(kind, 1);
            self.step(now, Fsm::On(conn, happened));
        }
    }

    /// Sends a message that is no UPDATE.
    pub(super) fn say(&mut self, now: Instant, conn: ConnId, message: &Message) {
        let bytes = match message.encode() {
            Ok(bytes) => bytes,
            Err(error) => {
                let (name, kind) = (&self.config.name, message.kind());
                return log::error!("peer {name}: no {kind}: {error}");
            }
        };
        log::debug!(target: MESSAGES, "peer {}: sent {message}", self.config.name);
        self.counters.sent.count(message.kind(), 1);
        self.transmit(now, conn, bytes, matches!(message, Message::Keepalive));
    }

    /// `alive`: it tells the peer that we are alive, and no KEEPALIVE is needed for a while.
    fn transmit(&mut self, now: Instant, conn: ConnId, bytes: Vec<u8>, alive: bool) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.queued(now, bytes.len());
            if alive {
                connection.restart_keepalive_timer(now);
            }
        }
        self.outputs.push_back(Output::Send { conn, bytes });
    }

    /// As many routes as there is room for, once there is carrier.
    pub(super) fn send_routes(&mut self, now: Instant) {
        while let Some(connection) = self.established()
            && !self.no_carrier
        {
            let conn = connection.id;
            let room = UNSENT_LIMIT.saturating_sub(connection.unsent());
            let Filled {
                bytes,
                updates,
                route_refreshes,
                lines,
            } = self.rib.fill(room);
            if bytes.is_empty() {
                return;
            }
            for line in lines {
                log::debug!(target: MESSAGES, "peer {}: sent {line}", self.config.name);
            }
            self.counters.sent.count(Type::Update, updates);
            self.counters
                .sent
                .count(Type::RouteRefresh, route_refreshes);
            self.transmit(now, conn, bytes, updates > 0);
        }
    }

    pub(super) fn restart_hold_timer(&mut self, now: Instant, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.restart_hold_timer(now);
        }
    }

    pub(super) fn receive_route_refresh(
        &mut self,
        now: Instant,
        conn: ConnId,
        refresh: RouteRefresh,
    ) {
        self.restart_hold_timer(now, conn);
        // The peer's own markers and subtypes to come: we keep no routes that they could speak of.
        if let (RefreshKind::Request, Some(family)) = (refresh.kind, refresh.family.family()) {
            self.rib.refresh(family);
        }
    }

    /// A route that is wanted and never announced must not be a silent one.
    pub(super) fn log_unsendable(&mut self) {
        let Some(unsendable) = self.rib.unsendable() else {
            return;
        };
        if let Some(first) = unsendable.first()
            && self.logged_unsendable != unsendable.len()
        {
            let (name, count) = (&self.config.name, unsendable.len());
            log::warn!(
                "peer {name}: {count} routes are not announced to it, {first} first: the session does \
                 not carry their address family, or not with their next hop"
            );
        }
        self.logged_unsendable = unsendable.len();
    }
}

/// Bytes that may wait to be written to one connection.
const UNSENT_LIMIT: usize = 64 * 1024;
