//! Connects the core's BFD sessions to their sockets.

use crate::core::{BfdPath, Core, Event};
use crate::discovery::PeerName;
use crate::io::bfd::BfdSockets;
use std::time::Instant;

/// The BFD sockets, and the AdminDown packets of a shutdown.
pub struct Bfd {
    sockets: BfdSockets,
    /// AdminDown packets, sent after the connections are closed.
    admin_down_packets: Vec<(PeerName, BfdPath, Vec<u8>)>,
}

impl Bfd {
    /// No sockets yet; the seed chooses source ports.
    pub fn new(seed: u64) -> Self {
        Self {
            sockets: BfdSockets::new(seed),
            admin_down_packets: Vec::new(),
        }
    }

    /// Sends a packet; during the shutdown it is kept for [`Bfd::send_admin_down`].
    pub fn send(&mut self, core: &Core, peer: PeerName, path: BfdPath, bytes: Vec<u8>) {
        if core.is_over() {
            self.admin_down_packets.push((peer, path, bytes));
        } else {
            self.sockets.send(&peer, path, &bytes);
        }
    }

    /// Closes the socket of a peer.
    pub fn close(&mut self, peer: &PeerName) {
        self.sockets.close(peer);
    }

    /// Waits until a packet has arrived.
    pub async fn readable(&self) {
        self.sockets.readable().await;
    }

    /// Passes the packets that have arrived to the core.
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

    /// Sends the AdminDown packets of the shutdown. They come after the connections are closed: a peer
    /// that receives AdminDown before the Cease may report BFD as the reason.
    pub fn send_admin_down(&mut self) {
        for (peer, path, bytes) in self.admin_down_packets.drain(..) {
            self.sockets.send(&peer, path, &bytes);
        }
    }
}
