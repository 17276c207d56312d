//! The BGP speaker as a library: one peer, one prefix, blocking sockets and no other machinery.
//!
//!     cargo run --example one_prefix -- PEER:PORT LOCAL_AS PREFIX
//!
//! The machine neither reads a clock nor touches a socket: this loop tells it what happened and does
//! what it asks. It announces until the process is killed.

use sidecast::bgp::PathAttributes;
use sidecast::bgp::peer::{ConnId, Event, Output, Peer, PeerConfig};
use sidecast::net::{Asn, Prefix, RouterId};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [remote, local_as, prefix] = args.as_slice() else {
        return Err("usage: one_prefix PEER:PORT LOCAL_AS PREFIX".into());
    };
    let remote: SocketAddr = remote.parse()?;
    let local_as: Asn = local_as.parse()?;
    let router_id = RouterId::new(Ipv4Addr::new(192, 0, 2, 254)).ok_or("a router id")?;
    let peer = Peer::new(PeerConfig::new(local_as, None, router_id), 1);
    Speaker {
        peer,
        remote,
        prefix: prefix.parse()?,
        stream: None,
    }
    .run()
}

struct Speaker {
    peer: Peer,
    remote: SocketAddr,
    prefix: Prefix,
    stream: Option<(ConnId, TcpStream)>,
}

impl Speaker {
    fn run(mut self) -> Result<(), Box<dyn Error>> {
        self.peer.handle(Instant::now(), Event::Start);
        loop {
            while let Some(output) = self.peer.poll_output() {
                self.perform(output)?;
            }
            self.wait()?;
            self.peer.handle_timeout(Instant::now());
        }
    }

    fn perform(&mut self, output: Output) -> Result<(), Box<dyn Error>> {
        let now = Instant::now();
        match output {
            Output::Connect { conn } => match TcpStream::connect_timeout(&self.remote, ATTEMPT) {
                Ok(stream) => {
                    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
                    self.stream = Some((conn, stream));
                    self.peer.handle(
                        now,
                        Event::Connected {
                            conn,
                            local,
                            remote,
                        },
                    );
                }
                Err(error) => {
                    let error = error.to_string();
                    self.peer.handle(now, Event::ConnectFailed { conn, error });
                }
            },
            Output::Send { conn, bytes } => {
                if let Some((_, stream)) = self.stream.as_mut().filter(|(id, _)| *id == conn) {
                    // What fails here is seen as a closed connection by the next read.
                    let _ = stream.write_all(&bytes);
                    let bytes = bytes.len();
                    self.peer.handle(now, Event::Sent { conn, bytes });
                }
            }
            Output::Close { conn } | Output::Reset { conn } => {
                self.stream = self.stream.take().filter(|(id, _)| *id != conn)
            }
            Output::Established {
                negotiated, local, ..
            } => {
                println!("session with AS {}", negotiated.peer_as);
                self.peer
                    .advertise(now, BTreeMap::from([self.route(local.ip())]));
                println!("announced {}", self.prefix);
            }
            Output::Down { reason } => println!("session down: {reason}"),
            Output::StateChanged { .. }
            | Output::SetUserTimeout { .. }
            | Output::Probe { .. }
            | Output::Notice(_)
            | Output::MessageReceived(_)
            | Output::MessageSent(_) => {}
        }
        Ok(())
    }

    fn route(&self, next_hop: IpAddr) -> (Prefix, PathAttributes) {
        (self.prefix, PathAttributes::new(next_hop))
    }

    /// Until the next deadline, or until the peer says something.
    fn wait(&mut self) -> Result<(), Box<dyn Error>> {
        let due = self.peer.poll_timeout().map_or(LONGEST, |(at, _)| {
            at.saturating_duration_since(Instant::now())
        });
        // A timeout of zero would be refused.
        let limit = due.clamp(Duration::from_millis(1), LONGEST);
        let Some((conn, stream)) = &mut self.stream else {
            std::thread::sleep(limit);
            return Ok(());
        };
        let conn = *conn;
        let mut space = [0; 4096];
        stream.set_read_timeout(Some(limit))?;
        let event = match stream.read(&mut space) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Ok(length @ 1..) => {
                let bytes = space.get(..length).unwrap_or_default().to_vec();
                Event::Received { conn, bytes }
            }
            ended => {
                self.stream = None;
                let reason = ended.map_or_else(|error| error.to_string(), |_| "closed".to_owned());
                Event::Closed { conn, reason }
            }
        };
        self.peer.handle(Instant::now(), event);
        Ok(())
    }
}

const ATTEMPT: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_millis(500);
