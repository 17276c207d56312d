//! Flushes stale neighbor entries when a carrier comes back.

use crate::discovery::{Network, Snapshot};
use crate::io::netlink::Kernel;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The last known carriers of the interfaces toward the peers.
#[derive(Default)]
pub struct Carriers {
    /// IFLA_CARRIER_CHANGES of each; `None`: no carrier.
    seen: BTreeMap<String, Option<u32>>,
}

impl Carriers {
    /// Deletes unresolved neighbor entries of next hops whose carrier came back. Packets sent without carrier leave
    /// an entry in NUD_INCOMPLETE, which is probed once a second; new packets would wait for the next probe.
    pub async fn flush_stale_neighbors(
        &mut self,
        kernel: &mut Kernel,
        snapshot: &Snapshot,
        network: &Network,
    ) {
        for (interface, addr) in self.returned(network) {
            let link = snapshot.links.iter().find(|link| link.name == interface);
            let Some(link) = link else { continue };
            match kernel.delete_failed_neighbor(link.index, addr).await {
                Ok(false) => {}
                Ok(true) => log::debug!(
                    "{interface} has carrier again: flushed the unanswered neighbor entry of {addr}"
                ),
                Err(error) => log::debug!(
                    "{interface} has carrier again: cannot flush the neighbor entry of {addr}: {error}"
                ),
            }
        }
    }

    /// Next hops on interfaces whose carrier came back since the last call.
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
