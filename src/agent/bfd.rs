//! Between the core's BFD sessions and their sockets.

use crate::core::{BfdPath, Core, Event};
use crate::discovery::PeerName;
use crate::io::bfd::BfdSockets;
use std::time::Instant;

pub struct Bfd {
    sockets: BfdSockets,
    /// For when the connections are closed.
    last_words: Vec<(PeerName, BfdPath, Vec<u8>)>,
}

impl Bfd {
    pub fn new(seed: u64) -> Self {
        Self {
            sockets: BfdSockets::new(seed),
            last_words: Vec::new(),
        }
    }

    pub fn send(&mut self, core: &Core, peer: PeerName, path: BfdPath, bytes: Vec<u8>) {
        if core.is_over() {
            self.last_words.push((peer, path, bytes));
        } else {
            self.sockets.send(&peer, path, &bytes);
        }
    }

    pub fn close(&mut self, peer: &PeerName) {
        self.sockets.close(peer);
    }

    /// Ends when some packet has arrived.
    pub async fn readable(&self) {
        self.sockets.readable().await;
    }

    /// Gives the core what has arrived.
    pub fn receive(&self, core: &mut Core, now: Instant) {
        self.sockets.receive(|datagram| {
            let event = Event::Bfd {
                from: datagram.from,
                multihop: datagram.multihop,
                bytes: datagram.bytes,
            };
            core.handle(now, event);
        });
    }

    /// Sends what the core wanted to say at its end. This comes after the connections are closed, since
    /// a peer that hears of AdminDown before the Cease may take it for the reason why the session ends.
    pub fn send_admin_down(&mut self) {
        for (peer, path, bytes) in self.last_words.drain(..) {
            self.sockets.send(&peer, path, &bytes);
        }
    }
}
