//! `tcp:` — a connection opens.

use super::run;
use crate::health::Outcome;
use crate::io::exhaustion::is_out_of_resources;
use crate::io::thread_slots::ThreadSlot;
use smol::Timer;
use smol::future::FutureExt;
use smol::net::TcpStream;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Opens a connection to the first of the host's addresses that accepts one. A name needs a thread slot (`place`).
pub(super) async fn check(
    host: &str,
    port: u16,
    place: Option<ThreadSlot>,
    timeout: Duration,
) -> Outcome {
    let deadline = Instant::now() + timeout;
    let addrs = match host.parse::<IpAddr>() {
        Ok(addr) => Ok(vec![SocketAddr::new(addr, port)]),
        Err(_) => look_up(host, port, place, timeout).await,
    };
    let addrs = match addrs {
        Ok(addrs) => addrs,
        Err(outcome) => return outcome,
    };
    match connect(&addrs, deadline).await {
        Ok(_) => Outcome::pass(),
        Err(Some((_, error))) if is_out_of_resources(&error) => Outcome::unavailable(error),
        Err(Some((addr, error))) => Outcome::Fail(format!("connecting to {addr}: {error}")),
        Err(None) => Outcome::Fail(format!("{host} has no address")),
    }
}

async fn look_up(
    host: &str,
    port: u16,
    place: Option<ThreadSlot>,
    timeout: Duration,
) -> Result<Vec<SocketAddr>, Outcome> {
    let name = host.to_owned();
    let look_up = move || {
        (name.as_str(), port)
            .to_socket_addrs()
            .map(Iterator::collect)
    };
    let found: io::Result<_> = run(place, timeout, look_up).await?;
    found.map_err(|error| Outcome::Fail(format!("looking up {host}: {error}")))
}

/// Opens a connection to the first of these that accepts one. Each has an equal share of the time left, so that an
/// address without an answer does not use up the time of the next. The error is the last address's; `None`: no address.
async fn connect(
    addrs: &[SocketAddr],
    deadline: Instant,
) -> Result<TcpStream, Option<(SocketAddr, io::Error)>> {
    let mut last = None;
    for (index, addr) in addrs.iter().enumerate() {
        let left = u32::try_from(addrs.len() - index).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        let attempt = TcpStream::connect(addr).or(async {
            Timer::after(share).await;
            Err(io::ErrorKind::TimedOut.into())
        });
        match attempt.await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some((*addr, error)),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, listen};
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn an_address_that_is_silent_does_not_hide_the_next() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        listen(&silent, Backlog::new(0).unwrap()).unwrap();
        let addr = silent.local_addr().unwrap();
        // The accept queue is full: further connections are not answered.
        let _first = std::net::TcpStream::connect(addr).unwrap();
        let serving = TcpListener::bind("127.0.0.1:0").unwrap();
        let next = serving.local_addr().unwrap();
        let ask = |addrs: &[SocketAddr]| {
            let deadline = Instant::now() + Duration::from_secs(3);
            smol::block_on(connect(addrs, deadline))
        };
        assert_eq!(
            ask(&[addr, next]).unwrap().peer_addr().unwrap(),
            next,
            "the first one had half the time"
        );
        let (last, error) = ask(&[addr]).unwrap_err().unwrap();
        assert_eq!((last, error.kind()), (addr, io::ErrorKind::TimedOut));
        assert!(ask(&[]).unwrap_err().is_none());
    }
}
