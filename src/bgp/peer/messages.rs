//! Messages of a [`Peer`], in both directions.

use std::time::Instant;

use super::connection::Connection;
use super::{ConnId, ConnectionEvent, FsmEvent, Notice, Output, Peer};
use crate::bgp::rib::{OutgoingMessages, Position};
use crate::bgp::{Message, MessageType, Received, RefreshKind, RouteRefresh};

impl Peer {
    pub(super) fn receive(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.push(bytes);
        }
        // A message may end its connection; the messages after it are dropped.
        while let Some(received) = self.connection_mut(conn).and_then(Connection::next) {
            if let Ok(message) = &received
                && self.tracing
            {
                let text = message.to_string();
                self.outputs.push_back(Output::MessageReceived(text));
            }
            let happened = match received {
                Ok(Received::Open(open)) => (MessageType::Open, ConnectionEvent::BgpOpen(open)),
                Ok(Received::Update(_)) => (MessageType::Update, ConnectionEvent::UpdateMsg),
                Ok(Received::Notification(notification)) => (
                    MessageType::Notification,
                    ConnectionEvent::NotifMsg(notification),
                ),
                Ok(Received::Keepalive) => (MessageType::Keepalive, ConnectionEvent::KeepAliveMsg),
                Ok(Received::RouteRefresh(refresh)) => (
                    MessageType::RouteRefresh,
                    ConnectionEvent::RouteRefreshMsg(refresh),
                ),
                Err(error) => {
                    self.step(
                        now,
                        FsmEvent::ForConnection(conn, ConnectionEvent::MsgErr(error)),
                    );
                    continue;
                }
            };
            let (kind, happened) = happened;
            self.counters.received.count(kind, 1);
            self.step(now, FsmEvent::ForConnection(conn, happened));
        }
    }

    /// Sends any message but an UPDATE.
    pub(super) fn send_message(&mut self, now: Instant, conn: ConnId, message: &Message) {
        let bytes = match message.encode() {
            Ok(bytes) => bytes,
            Err(error) => {
                let message = message.kind();
                return self.notice(Notice::EncodeFailed { message, error });
            }
        };
        if self.tracing {
            let text = message.to_string();
            self.outputs.push_back(Output::MessageSent(text));
        }
        self.counters.sent.count(message.kind(), 1);
        self.transmit(now, conn, bytes, matches!(message, Message::Keepalive));
    }

    /// `alive`: a KEEPALIVE or UPDATE, which restarts the keepalive timer.
    fn transmit(&mut self, now: Instant, conn: ConnId, bytes: Vec<u8>, alive: bool) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.queued(now, bytes.len());
            if alive {
                connection.restart_keepalive_timer(now);
            }
        }
        self.outputs.push_back(Output::Send { conn, bytes });
    }

    /// Sends as many routes as fit the send limit, while the interface has a carrier.
    pub(super) fn send_routes(&mut self, now: Instant) {
        while let Some(connection) = self.established()
            && !self.no_carrier
        {
            let conn = connection.id;
            let room = UNSENT_LIMIT.saturating_sub(connection.unsent());
            let offset = connection.queued_bytes();
            let OutgoingMessages {
                bytes,
                updates,
                route_refreshes,
                lines,
                ..
            } = self.rib.fill(room, Position { now, offset });
            if bytes.is_empty() {
                return;
            }
            self.outputs
                .extend(lines.into_iter().map(Output::MessageSent));
            self.counters.sent.count(MessageType::Update, updates);
            self.counters
                .sent
                .count(MessageType::RouteRefresh, route_refreshes);
            self.transmit(now, conn, bytes, updates > 0);
        }
    }

    pub(super) fn restart_hold_timer(&mut self, now: Instant, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn) {
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
        // BoRR, EoRR and unknown subtypes are ignored: received routes are not stored.
        if let (RefreshKind::Request, Some(family)) = (refresh.kind, refresh.family.family()) {
            self.rib.refresh(family);
        }
    }

    /// Reports wanted routes that the session cannot carry, when their number changes.
    pub(super) fn report_unsendable(&mut self) {
        let Some(unsendable) = self.rib.unsendable() else {
            return;
        };
        let (count, first) = (unsendable.len(), unsendable.first().copied());
        let before = std::mem::replace(&mut self.reported_unsendable, count);
        if let Some(first) = first
            && before != count
        {
            self.notice(Notice::Unsendable { count, first });
        }
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Notice(notice));
    }
}

/// Bytes that may wait to be written to one connection.
const UNSENT_LIMIT: usize = 64 * 1024;
