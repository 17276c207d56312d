//! Incoming BGP connections: the listening socket, and the rejection of unknown peers.

use super::Executor;
use crate::bgp::{Cease, Notification};
use crate::core::{Core, RejectReason, Transport, Ttl};
use crate::io::bgp_listen::{AcceptedConnection, BgpListener, ExpectedPeer};
use smol::Timer;
use smol::channel::Sender;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The listening socket for incoming BGP connections.
pub struct IncomingConnections {
    executor: Executor,
    accepted: Sender<AcceptedConnection>,
    at: Option<SocketAddr>,
    acceptor: Option<BgpListener>,
    /// Addresses with conflicting passwords that were logged.
    conflicting: BTreeSet<IpAddr>,
    /// Unknown peers that were logged.
    unknown_peers: BTreeSet<IpAddr>,
    notifications: Vec<smol::Task<()>>,
}

impl IncomingConnections {
    /// Without a listening socket.
    pub fn new(executor: &Executor, accepted: Sender<AcceptedConnection>) -> Self {
        Self {
            executor: executor.clone(),
            accepted,
            at: None,
            acceptor: None,
            conflicting: BTreeSet::new(),
            unknown_peers: BTreeSet::new(),
            notifications: Vec::new(),
        }
    }

    /// Listens on `addr` from now on.
    pub fn listen_on(&mut self, addr: Option<SocketAddr>) -> io::Result<()> {
        if self.at == addr {
            return Ok(());
        }
        // The old socket is closed first: the new one may use the same port.
        (self.at, self.acceptor) = (None, None);
        if let Some(addr) = addr {
            let opened = BgpListener::open(&self.executor, addr, &self.accepted);
            let opened = opened.map_err(|error| {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        " (ports below 1024 need CAP_NET_BIND_SERVICE)"
                    }
                    io::ErrorKind::AddrInUse => " (another BGP speaker runs here)",
                    _ => "",
                };
                io::Error::other(format!("bgp.listen: {addr}: {error}{hint}"))
            })?;
            log::info!("accepting BGP connections on {addr}");
            (self.at, self.acceptor) = (Some(addr), Some(opened));
        }
        Ok(())
    }

    /// Sets the expected peers, their MD5 keys and TTL limits.
    pub fn set_expected_peers(&mut self, core: &Core) {
        let Some(acceptor) = &mut self.acceptor else {
            return;
        };
        let peers = core.transports();
        let (expected, conflicting) = by_address(peers.map(|(_, transport)| expected(transport)));
        for addr in conflicting.difference(&self.conflicting) {
            log::warn!(
                "{addr} is a peer on several links with different passwords: TCP MD5 keys do not distinguish links, so the first password applies to connections that it opens"
            );
        }
        self.conflicting = conflicting;
        acceptor.set_expected_peers(expected);
    }

    /// Rejects an unknown peer with a NOTIFICATION; beyond a limit the connection is only closed.
    pub fn refuse(&mut self, accepted: AcceptedConnection, why: RejectReason) {
        let from = accepted.remote.ip();
        let known =
            self.unknown_peers.len() >= MAX_LOGGED_UNKNOWN || !self.unknown_peers.insert(from);
        let level = if known {
            log::Level::Debug
        } else {
            log::Level::Warn
        };
        log::log!(level, "connection from {from} refused: {why}");
        self.notifications.retain(|task| !task.is_finished());
        if self.notifications.len() < MAX_NOTIFICATIONS {
            let limit = async {
                Timer::after(NOTIFICATION_TIMEOUT).await;
            };
            self.notifications.push(
                self.executor
                    .spawn(send_rejected(accepted).or(limit).boxed_local()),
            );
        }
    }
}

/// The socket options for each address. Two links may have routers of the same link-local address, and
/// the kernel's MD5 keys do not distinguish links (TCP_MD5SIG_FLAG_IFINDEX takes VRFs only): the first
/// password is used, and the larger TTL distance. Also returns the addresses whose passwords differ.
fn by_address(
    peers: impl Iterator<Item = (IpAddr, ExpectedPeer)>,
) -> (BTreeMap<IpAddr, ExpectedPeer>, BTreeSet<IpAddr>) {
    let (mut all, mut conflicting) = (BTreeMap::<IpAddr, ExpectedPeer>::new(), BTreeSet::new());
    for (addr, expected) in peers {
        let Some(first) = all.get_mut(&addr) else {
            all.insert(addr, expected);
            continue;
        };
        if first.password != expected.password {
            conflicting.insert(addr);
        }
        let both = first.ttl_security.zip(expected.ttl_security);
        first.ttl_security = both.map(|(one, other)| one.max(other));
    }
    (all, conflicting)
}

fn expected(transport: &Transport) -> (IpAddr, ExpectedPeer) {
    let password = transport.password.as_ref();
    let expected = ExpectedPeer {
        password: password.map(|secret| secret.expose().as_bytes().to_vec()),
        ttl_security: match transport.ttl {
            Ttl::Security { hops } => Some(hops),
            Ttl::System | Ttl::Limit(_) => None,
        },
    };
    (transport.remote.ip(), expected)
}

/// Sends Cease/Connection Rejected (RFC 4486) and FIN, then reads until the peer closes: closing with unread bytes
/// would send a RST, and the peer might lose the NOTIFICATION.
async fn send_rejected(mut accepted: AcceptedConnection) {
    let rejected = Notification::cease(Cease::ConnectionRejected, None).encode();
    let stream = &mut accepted.stream;
    if stream.write_all(&rejected).await.is_err() || stream.close().await.is_err() {
        return;
    }
    let mut buffer = [0; 512];
    while matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {}
}

/// Unknown peers logged at warning level; further ones at debug level.
const MAX_LOGGED_UNKNOWN: usize = 64;
/// Rejections in flight, and how long each may take.
const MAX_NOTIFICATIONS: usize = 16;
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_of_one_address_on_two_links_ask_for_what_both_can_keep() {
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let peer = |text: &str, password: &str, ttl_security| {
            let password = Some(password.as_bytes().to_vec());
            let expected = ExpectedPeer {
                password,
                ttl_security,
            };
            (addr(text), expected)
        };
        let peers = [
            peer("fe80::1", "a", Some(1)),
            peer("fe80::1", "b", Some(3)),
            peer("fe80::2", "c", Some(1)),
            peer("fe80::2", "c", None),
        ];
        let (expected, conflicting) = by_address(peers.clone().into_iter());
        assert_eq!(conflicting, BTreeSet::from([addr("fe80::1")]));
        assert_eq!(expected[&addr("fe80::1")], peer("fe80::1", "a", Some(3)).1);
        assert_eq!(expected[&addr("fe80::2")].ttl_security, None);
    }
}
