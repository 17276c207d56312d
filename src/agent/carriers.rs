//! The neighbours behind a carrier that has come back.

use crate::discovery::{Network, Snapshot};
use crate::io::netlink::Kernel;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The carriers towards the peers, as they were last seen.
#[derive(Default)]
pub struct Carriers {
    /// How often each came or went; `None`: it is away.
    seen: BTreeMap<String, Option<u32>>,
}

impl Carriers {
    /// What the host sent without a carrier has made the kernel ask for the next router's MAC, once a
    /// second, and what is sent now would wait for the next time.
    pub async fn follow(&mut self, kernel: &mut Kernel, snapshot: &Snapshot, network: &Network) {
        for (interface, addr) in self.returned(network) {
            let link = snapshot.links.iter().find(|link| link.name == interface);
            let Some(link) = link else { continue };
            match kernel.forget_unanswered(link.index, addr).await {
                Ok(false) => {}
                Ok(true) => log::debug!("{interface} has carrier again: {addr} is asked anew"),
                Err(error) => log::debug!("{addr} on {interface}: {error}"),
            }
        }
    }

    /// The next hops behind carriers that were away when this was last asked, or since.
    fn returned(&mut self, network: &Network) -> Vec<(String, IpAddr)> {
        let before = std::mem::take(&mut self.seen);
        let mut returned = Vec::new();
        for peer in network.peers.values() {
            let Some(interface) = peer.interface.clone() else {
                continue;
            };
            let now = peer.carrier.then_some(peer.carrier_changes);
            if now.is_some() && before.get(&interface).is_some_and(|before| *before != now) {
                returned.push((interface.clone(), peer.gateway.unwrap_or(peer.remote)));
            }
            self.seen.insert(interface, now);
        }
        returned
    }
}
