//! Sessions that peers open to us: the sockets they reach, and what becomes of unknown_peers.

use super::Executor;
use crate::bgp::{Cease, Notification};
use crate::core::{Core, NotAdmitted, Transport, Ttl};
use crate::io::bgp_listen::{Accepted, Acceptor, Expected};
use smol::Timer;
use smol::channel::Sender;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub struct Listening {
    executor: Executor,
    accepted: Sender<Accepted>,
    at: Option<SocketAddr>,
    acceptor: Option<Acceptor>,
    /// Addresses with more than one password, of which the log has heard.
    unlike: BTreeSet<IpAddr>,
    /// Those that the log has heard of.
    unknown_peers: BTreeSet<IpAddr>,
    notifications: Vec<smol::Task<()>>,
}

impl Listening {
    /// Nowhere yet.
    pub fn new(executor: &Executor, accepted: Sender<Accepted>) -> Self {
        Self {
            executor: executor.clone(),
            accepted,
            at: None,
            acceptor: None,
            unlike: BTreeSet::new(),
            unknown_peers: BTreeSet::new(),
            notifications: Vec::new(),
        }
    }

    /// Listens at `addr` from now on, where it did not already.
    pub fn move_to(&mut self, addr: Option<SocketAddr>) -> io::Result<()> {
        if self.at == addr {
            return Ok(());
        }
        // The old one goes first: the new one may want the same port.
        (self.at, self.acceptor) = (None, None);
        if let Some(addr) = addr {
            let opened = Acceptor::open(&self.executor, addr, &self.accepted);
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
            log::info!("sessions are accepted at {addr}");
            (self.at, self.acceptor) = (Some(addr), Some(opened));
        }
        Ok(())
    }

    /// The peers changed, and with them whose segments must be signed.
    pub fn expect(&mut self, core: &Core) {
        let Some(acceptor) = &mut self.acceptor else {
            return;
        };
        let peers = core.transports();
        let (expected, unlike) = by_address(peers.map(|(_, transport)| expected(transport)));
        for addr in unlike.difference(&self.unlike) {
            log::warn!(
                "{addr} is the peer on several links, with different passwords: the kernel knows one for \
                 the sessions that it opens to us; those that we open have their own"
            );
        }
        self.unlike = unlike;
        acceptor.expect(expected);
    }

    /// Tells a stranger that it is one; where there are many, they are dropped without a word.
    pub fn refuse(&mut self, accepted: Accepted, why: NotAdmitted) {
        let from = accepted.remote.ip();
        let known = self.unknown_peers.len() >= STRANGERS || !self.unknown_peers.insert(from);
        let level = if known {
            log::Level::Debug
        } else {
            log::Level::Warn
        };
        log::log!(level, "connection from {from} refused: {why}");
        self.notifications.retain(|task| !task.is_finished());
        if self.notifications.len() < FAREWELLS {
            let limit = async {
                Timer::after(FAREWELL).await;
            };
            self.notifications
                .push(self.executor.spawn(dismiss(accepted).or(limit)));
        }
    }
}

/// What a listening socket can ask of each address. Two links may have routers of one link-local address,
/// and the kernel's keys know no link (TCP_MD5SIG_FLAG_IFINDEX takes VRFs only): the first one's password
/// holds, of the distances the larger. Also the addresses whose passwords differ.
fn by_address(
    peers: impl Iterator<Item = (IpAddr, Expected)>,
) -> (BTreeMap<IpAddr, Expected>, BTreeSet<IpAddr>) {
    let (mut all, mut unlike) = (BTreeMap::<IpAddr, Expected>::new(), BTreeSet::new());
    for (addr, expected) in peers {
        let Some(first) = all.get_mut(&addr) else {
            all.insert(addr, expected);
            continue;
        };
        if first.password != expected.password {
            unlike.insert(addr);
        }
        let both = first.ttl_security.zip(expected.ttl_security);
        first.ttl_security = both.map(|(one, other)| one.max(other));
    }
    (all, unlike)
}

fn expected(transport: &Transport) -> (IpAddr, Expected) {
    let password = transport.password.as_ref();
    let expected = Expected {
        password: password.map(|secret| secret.expose().as_bytes().to_vec()),
        ttl_security: match transport.ttl {
            Ttl::Security { hops } => Some(hops),
            Ttl::System | Ttl::Limit(_) => None,
        },
    };
    (transport.remote.ip(), expected)
}

/// RFC 4486: Connection Rejected, then the end of our half, then what is on its way here is read:
/// closing before would send a reset that overtakes it.
async fn dismiss(mut accepted: Accepted) {
    let rejected = Notification::cease(Cease::ConnectionRejected, None).encode();
    let stream = &mut accepted.stream;
    if stream.write_all(&rejected).await.is_err() || stream.close().await.is_err() {
        return;
    }
    let mut buffer = [0; 512];
    while matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {}
}

/// Strangers that the log names; the others are seen at debug level.
const STRANGERS: usize = 64;
/// Strangers told at the same time, and how long each may take over it.
const FAREWELLS: usize = 16;
const FAREWELL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_of_one_address_on_two_links_ask_for_what_both_can_keep() {
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let peer = |text: &str, password: &str, ttl_security| {
            let password = Some(password.as_bytes().to_vec());
            let expected = Expected {
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
        let (expected, unlike) = by_address(peers.clone().into_iter());
        assert_eq!(unlike, BTreeSet::from([addr("fe80::1")]));
        assert_eq!(expected[&addr("fe80::1")], peer("fe80::1", "a", Some(3)).1);
        assert_eq!(expected[&addr("fe80::2")].ttl_security, None);
    }
}
