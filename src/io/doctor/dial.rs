//! Test connections: to the peers that have no session, to read what answers; and to the VIPs from this host.

use crate::doctor::{Case, Dialed, Findings};
use crate::io::bgp;
use smol::future::FutureExt;
use smol::io::AsyncReadExt;
use smol::net::TcpStream;
use smol::{Async, LocalExecutor, Timer};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Connects to each peer without a session and reads what it sends first. If another program has a session
/// from the same address, the peer is skipped: as a graceful restart helper it would take this connection for a restart
/// of the other speaker, and end that session (RFC 4724 §4.2).
pub(super) async fn peers(case: &Case, findings: &Findings) -> Vec<(SocketAddr, Dialed)> {
    let peers = case.peers.iter().filter_map(|peer| peer.to_dial());
    let calls = peers.filter(|transport| findings.speaker(transport.remote).is_none());
    together(calls.map(|transport| {
        let target = bgp::Target::from(transport);
        (transport.remote, dial(target))
    }))
    .await
}

/// Connects to the VIPs that are on this host.
pub(super) async fn vips(
    case: &Case,
    local: &BTreeMap<IpAddr, bool>,
) -> Vec<(SocketAddr, Result<(), String>)> {
    let here = |at: &SocketAddr| local.get(&at.ip()) == Some(&true);
    let calls = case.questions().into_iter().filter(here);
    together(calls.map(|at| (at, ask(at)))).await
}

/// Runs all concurrently.
async fn together<T>(
    calls: impl Iterator<Item = (SocketAddr, impl Future<Output = T>)>,
) -> Vec<(SocketAddr, T)> {
    let executor = LocalExecutor::new();
    let tasks: Vec<_> = calls.map(|(at, call)| (at, executor.spawn(call))).collect();
    executor
        .run(async {
            let mut ended = Vec::new();
            for (at, task) in tasks {
                ended.push((at, task.await));
            }
            ended
        })
        .await
}

async fn dial(target: bgp::Target) -> Dialed {
    let connected = within(CONNECT, bgp::connect(&target)).await;
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => return failed(&error),
    };
    within(FIRST_BYTES, greeting(stream))
        .await
        .unwrap_or(Dialed::Silent)
}

/// What the peer sends first.
async fn greeting(mut stream: Async<std::net::TcpStream>) -> io::Result<Dialed> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 512]);
    loop {
        // A RST is treated as a FIN.
        let count = stream.read(&mut buffer).await.unwrap_or_default();
        if count == 0 {
            return Ok(Dialed::Closed);
        }
        bytes.extend(buffer.iter().take(count));
        if let Some(dialed) = Dialed::read(&bytes) {
            return Ok(dialed);
        }
    }
}

fn failed(error: &io::Error) -> Dialed {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Dialed::Refused,
        io::ErrorKind::TimedOut => Dialed::TimedOut,
        _ => Dialed::Failed(error.to_string()),
    }
}

async fn ask(at: SocketAddr) -> Result<(), String> {
    match within(ANSWER, TcpStream::connect(at)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = async {
        Timer::after(limit).await;
        let message = format!("no answer within {limit:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    };
    call.or(late).await
}

/// How long a peer may take to accept, and from then on to send its OPEN.
const CONNECT: Duration = Duration::from_secs(1);
const FIRST_BYTES: Duration = Duration::from_secs(1);
/// How long a service on this host may take to accept.
const ANSWER: Duration = Duration::from_millis(500);
