//! A BGP speaker beside the router, which takes the time of every UPDATE about one VIP.

#![allow(dead_code, reason = "none of those who include it uses everything")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use sidecast::bgp::{Capability, DecodeContext, Framer, MAX_LEN, Message, Negotiated, Open};
use sidecast::net::{Asn, Family, Prefix, RouterId};
use sidecast_lab::{Namespace, VIP4};

use crate::reader::{Decoded, decode};

/// What is advertised to the second peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Announced,
    Withdrawn,
}

/// A BGP speaker that takes the time of every UPDATE.
pub struct Wire {
    seen: Receiver<(Seen, Instant)>,
}

impl Wire {
    /// Listens on this port of every address.
    pub fn start(network: &Namespace, port: u16) -> Self {
        let listener = network
            .enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port"));
        let (out, seen) = channel();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // A session that ends is followed by the next.
                let _ = speak(stream, &out);
            }
        });
        Self { seen }
    }

    /// When the next change of this kind came.
    #[track_caller]
    pub fn wait(&self, wanted: Seen, limit: Duration) -> Instant {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.seen.recv_timeout(left) {
                Ok((seen, at)) if seen == wanted => return at,
                Ok(_) => {}
                Err(error) => panic!("the VIP was not {wanted:?}: {error}"),
            }
        }
    }

    /// How often it was withdrawn since this was last asked.
    pub fn withdrawn(&self) -> usize {
        let seen = self.changes().into_iter();
        seen.filter(|seen| *seen == Seen::Withdrawn).count()
    }

    /// What was advertised to it since the last call.
    pub fn changes(&self) -> Vec<Seen> {
        // What is on its way arrives.
        std::thread::sleep(Duration::from_millis(100));
        self.seen.try_iter().map(|(seen, _)| seen).collect()
    }

    pub fn drain(&self) {
        self.seen.try_iter().for_each(drop);
    }
}

fn speak(mut stream: TcpStream, out: &Sender<(Seen, Instant)>) -> io::Result<()> {
    let families = Family::ALL.map(|family| Capability::Multiprotocol(family.into()));
    let asn = Asn::new(65000).expect("an AS");
    let id = RouterId::new(Ipv4Addr::new(10, 255, 0, 2)).expect("an id");
    let ours = Open::new(asn, 90, id, families.to_vec());
    let mut negotiated: Option<Negotiated> = None;
    let mut framer = Framer::new();
    let mut buffer = [0; 4096];
    let vip = Prefix::host(VIP4.parse().expect("an address"));
    loop {
        let length = stream.read(&mut buffer)?;
        let now = Instant::now();
        if length == 0 {
            return Ok(());
        }
        framer.push(&buffer[..length]);
        while let Some(frame) = framer.next(MAX_LEN).map_err(io::Error::other)? {
            let context = match &negotiated {
                Some(negotiated) => DecodeContext::established(negotiated),
                None => DecodeContext::before_open(asn, id, None),
            };
            let received = decode(&frame, &context).map_err(|e| io::Error::other(e.to_string()))?;
            let mut send = |message: Message| {
                let bytes = message.encode();
                stream.write_all(&bytes.map_err(io::Error::other)?)
            };
            match received {
                Decoded::Open(theirs) => {
                    negotiated = Some(Negotiated::new(&ours, &theirs).map_err(io::Error::other)?);
                    send(Message::Open(ours.clone()))?;
                    send(Message::Keepalive)?;
                }
                Decoded::Keepalive => send(Message::Keepalive)?,
                Decoded::Update(update) => {
                    if update.withdrawn.contains(&vip) {
                        let _ = out.send((Seen::Withdrawn, now));
                    }
                    if update.announced.iter().any(|a| a.prefixes.contains(&vip)) {
                        let _ = out.send((Seen::Announced, now));
                    }
                }
                _ => {}
            }
        }
    }
}
