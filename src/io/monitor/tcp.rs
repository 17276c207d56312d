//! `tcp:` — a connection opens. Also how the other checks find their server.

use super::{Blocking, is_own_want};
use crate::health::Outcome;
use crate::io::stream;
use smol::net::TcpStream;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

pub(super) async fn check(
    host: &str,
    port: u16,
    blocking: &Blocking,
    timeout: Duration,
) -> Outcome {
    match connect(host, port, blocking, timeout).await {
        Ok(_) => Outcome::pass(),
        Err(outcome) => outcome,
    }
}

/// Opens a connection to the first of the host's addresses that takes one.
pub(super) async fn connect(
    host: &str,
    port: u16,
    blocking: &Blocking,
    timeout: Duration,
) -> Result<TcpStream, Outcome> {
    let deadline = Instant::now() + timeout;
    let addrs = resolve(host, port, blocking, timeout).await?;
    let refused = |last: Option<(SocketAddr, io::Error)>| match last {
        Some((_, error)) if is_own_want(&error) => Outcome::unavailable(error),
        Some((addr, error)) => Outcome::Fail(format!("connecting to {addr}: {error}")),
        None => Outcome::Fail(format!("{host} has no address")),
    };
    stream::connect(&addrs, deadline).await.map_err(refused)
}

async fn resolve(
    host: &str,
    port: u16,
    blocking: &Blocking,
    timeout: Duration,
) -> Result<Vec<SocketAddr>, Outcome> {
    if let Ok(addr) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(addr, port)]);
    }
    let name = host.to_owned();
    // A place is waited for half the time, so that "no place" is said before "no answer".
    let found = blocking
        .run(timeout / 2, move || {
            (name.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect)
        })
        .await?;
    found.map_err(|error: io::Error| Outcome::Fail(format!("looking up {host}: {error}")))
}
