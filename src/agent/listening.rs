//! Sessions that peers open to us: the sockets they reach, and what becomes of strangers.

use super::Executor;
use crate::bgp::{Cease, Notification};
use crate::core::{Core, NotAdmitted, Transport, Ttl};
use crate::io::bgp_listen::{Accepted, Acceptor, Expected};
use smol::Timer;
use smol::channel::Sender;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub struct Listening {
    executor: Executor,
    accepted: Sender<Accepted>,
    at: Option<SocketAddr>,
    acceptor: Option<Acceptor>,
    /// Those that the log has heard of.
    strangers: BTreeSet<IpAddr>,
    farewells: Vec<smol::Task<()>>,
}

impl Listening {
    /// Nowhere yet.
    pub fn new(executor: &Executor, accepted: Sender<Accepted>) -> Self {
        Self {
            executor: executor.clone(),
            accepted,
            at: None,
            acceptor: None,
            strangers: BTreeSet::new(),
            farewells: Vec::new(),
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
        if let Some(acceptor) = &mut self.acceptor {
            let peers = core.transports();
            acceptor.expect(peers.map(|(_, transport)| expected(transport)).collect());
        }
    }

    /// Tells a stranger that it is one; where there are many, they are dropped without a word.
    pub fn refuse(&mut self, accepted: Accepted, why: NotAdmitted) {
        let from = accepted.remote.ip();
        let known = self.strangers.len() >= STRANGERS || !self.strangers.insert(from);
        let level = if known {
            log::Level::Debug
        } else {
            log::Level::Warn
        };
        log::log!(level, "connection from {from} refused: {why}");
        self.farewells.retain(|task| !task.is_finished());
        if self.farewells.len() < FAREWELLS {
            let limit = async {
                Timer::after(FAREWELL).await;
            };
            self.farewells
                .push(self.executor.spawn(dismiss(accepted).or(limit)));
        }
    }
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
