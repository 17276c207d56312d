//! Monitors that ask the VIPs of their app: one check for each VIP, all concurrent, and all have to pass.
//!
//! Over UDP the check verifies the source address of the answer. The socket is not connected: the kernel would drop an
//! answer from another address, and the check could not report it. It is bound to an address that is not a VIP: for a
//! query from the VIP the kernel selects the VIP as the source of the answer, whatever the service does.

use super::dns::{self, Query, RESEND};
use super::{late, tcp};
use crate::app::{Rcode, VipTarget};
use crate::dns::{Question, Response};
use crate::health::Outcome;
use crate::io::connect;
use crate::io::exhaustion::is_out_of_resources;
use crate::timer::Rng;
use nix::sys::socket::{self as nixsocket, sockopt};
use smol::future::FutureExt;
use smol::net::UdpSocket;
use smol::{Async, Timer};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Asks each VIP for a name, within `timeout` each.
pub(super) async fn dns(
    query: &Query<'_>,
    port: u16,
    targets: &[VipTarget],
    chance: &mut Rng,
    timeout: Duration,
) -> Outcome {
    let mut checks = Vec::with_capacity(targets.len());
    for target in targets {
        let mut chance = Rng::new(chance.next_u64());
        checks.push(async move { ask(query, port, target, &mut chance).await });
    }
    each(targets, checks, timeout).await
}

/// Opens a connection to each VIP.
pub(super) async fn tcp(port: u16, targets: &[VipTarget], timeout: Duration) -> Outcome {
    let check = |target: &VipTarget| {
        let host = target.addr.to_string();
        async move { tcp::check(&host, port, None, timeout).await }
    };
    let checks = targets.iter().map(check).collect();
    each(targets, checks, timeout).await
}

/// The outcome of checks that run together, one for each VIP.
async fn each<F: Future<Output = Outcome>>(
    targets: &[VipTarget],
    checks: Vec<F>,
    timeout: Duration,
) -> Outcome {
    let mut checks: Vec<Pin<Box<F>>> = checks.into_iter().map(Box::pin).collect();
    let mut found: Vec<Option<Outcome>> = checks.iter().map(|_| None).collect();
    let mut end = Timer::after(timeout);
    poll_fn(|cx| {
        for (check, outcome) in checks.iter_mut().zip(&mut found) {
            if outcome.is_none()
                && let Poll::Ready(ready) = check.as_mut().poll(cx)
            {
                *outcome = Some(ready);
            }
        }
        match found.iter().all(Option::is_some) || end.poll(cx).is_ready() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    let found = found
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|| late(timeout)));
    together(targets, found)
}

/// All have to pass. The first failure is reported, else the first VIP that could not be asked.
pub(super) fn together(
    targets: &[VipTarget],
    outcomes: impl IntoIterator<Item = Outcome>,
) -> Outcome {
    let mut unavailable = None;
    let mut any = false;
    for (target, outcome) in targets.iter().zip(outcomes) {
        any = true;
        let message = || format!("{}: {}", target.addr, outcome.message());
        match outcome {
            Outcome::Pass(_) => {}
            Outcome::Fail(_) | Outcome::NoListener(_) | Outcome::TakenOut(_) => {
                return Outcome::Fail(message());
            }
            Outcome::Unavailable(_) => {
                unavailable.get_or_insert_with(|| Outcome::Unavailable(message()));
            }
        }
    }
    match any {
        true => unavailable.unwrap_or_else(Outcome::pass),
        false => Outcome::unavailable("there is no VIP to ask"),
    }
}

/// Asks one VIP, without a limit of time.
async fn ask(query: &Query<'_>, port: u16, target: &VipTarget, chance: &mut Rng) -> Outcome {
    let (question, id, bytes) = match query.encode(chance) {
        Ok(encoded) => encoded,
        Err(error) => return Outcome::fail(error),
    };
    let server = SocketAddr::new(target.addr, port);
    match ask_udp(target, server, &question, id, &bytes).await {
        Ok(Some(answer)) => judge(query, target, &answer),
        Ok(None) => Outcome::fail(ELSEWHERE),
        Err(error) if is_out_of_resources(&error) => Outcome::unavailable(error),
        Err(error) => Outcome::Fail(format!("asking {server} from {}: {error}", target.source)),
    }
}

/// Evaluates the answer. REFUSED gets a hint: the service may answer its clients, but its access list has to allow the
/// source address of the check too.
fn judge(query: &Query<'_>, target: &VipTarget, answer: &Response) -> Outcome {
    let outcome = dns::evaluate(query, answer);
    match Rcode(answer.rcode) == REFUSED && outcome.is_fail() {
        true => Outcome::Fail(format!(
            "{}: it has to allow {}, from where this check asks",
            outcome.message(),
            target.source
        )),
        false => outcome,
    }
}

/// The answer of the VIP; `None`: it came from another address.
async fn ask_udp(
    target: &VipTarget,
    server: SocketAddr,
    question: &Question,
    id: u16,
    query: &[u8],
) -> io::Result<Option<Response>> {
    let socket = UdpSocket::bind((target.source, 0)).await?;
    // With this option an ICMP error (closed port) fails the receive at once, as on a connected socket.
    match server {
        SocketAddr::V4(_) => nixsocket::setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => nixsocket::setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    socket.send_to(query, server).await?;
    let mut buf = [0; 4096];
    loop {
        let received = async { socket.recv_from(&mut buf).await.map(Some) }
            .or(async {
                Timer::after(RESEND).await;
                Ok(None)
            })
            .await?;
        let Some((count, from)) = received else {
            socket.send_to(query, server).await?; // one of the two may have been lost
            continue;
        };
        let bytes = buf.get(..count).unwrap_or_default();
        match Response::decode(bytes, question) {
            Ok(answer) if !answer.is_response_to(id) => {}
            Ok(_) if from.ip() != server.ip() => return Ok(None),
            // A client takes no answer from another port either.
            Ok(_) if from != server => {}
            Ok(answer) if answer.truncated => {
                let stream = connect_from(target, server).await?;
                return dns::ask_over(stream, question, id, query).await.map(Some);
            }
            Ok(answer) => return Ok(Some(answer)),
            // Late, forged or broken: the true answer may still come.
            Err(_) => {}
        }
    }
}

/// Connects from the same source address as the UDP query, which is the one that the service has to allow.
async fn connect_from(target: &VipTarget, server: SocketAddr) -> io::Result<Async<TcpStream>> {
    let fd = connect::socket(server)?;
    connect::bind(&fd, SocketAddr::new(target.source, 0))?;
    connect::connect(fd, server).await
}

/// The time until `deadline`, divided by the `left` attempts that share it.
pub(super) fn share(deadline: Instant, left: usize) -> Duration {
    let left = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    deadline.saturating_duration_since(Instant::now()) / left
}

const REFUSED: Rcode = Rcode(5);
const ELSEWHERE: &str = "answers from its own address, not from the VIP: bind the service to the VIP, or (unbound) interface-automatic: yes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_vip_that_fails_is_named_and_what_could_not_be_asked_says_nothing() {
        let target = |addr: &str| VipTarget {
            vip: crate::net::Prefix::host(addr.parse().unwrap()),
            addr: addr.parse().unwrap(),
            source: "127.0.0.1".parse().unwrap(),
        };
        let targets = [target("192.0.2.1"), target("2001:db8::1")];
        let found = |one: Outcome, two: Outcome| together(&targets, [one, two]).to_string();
        let (pass, fail) = (Outcome::pass, || Outcome::fail("dead"));
        let unavailable = || Outcome::unavailable("no sockets");
        assert_eq!(found(pass(), pass()), "pass");
        assert_eq!(found(pass(), fail()), "fail: 2001:db8::1: dead");
        assert_eq!(found(fail(), fail()), "fail: 192.0.2.1: dead");
        assert_eq!(found(unavailable(), fail()), "fail: 2001:db8::1: dead");
        assert_eq!(
            found(unavailable(), pass()),
            "unavailable: 192.0.2.1: no sockets"
        );
        assert!(!together(&[], []).is_pass());
    }
}
