//! The traffic of apps that drain: which VIPs are watched, and what was seen of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::Registry;
use super::intent::TrafficSeen;
use crate::net::Prefix;

/// Whether a router still forwards to this host.
#[derive(Clone, Copy, Debug)]
pub struct PathSeen {
    pub returns: bool,
    /// Since when none does.
    pub ended: Option<Instant>,
}

impl Registry {
    /// Whether [`Registry::watched_vips`] may have changed since the last call. `vips_changed`: a VIP came or went.
    pub fn take_watched_changed(&mut self, vips_changed: bool) -> bool {
        self.index.take_watched_changed() || (vips_changed && !self.index.watched().is_empty())
    }

    /// The VIPs of apps whose drain waits for their traffic to end.
    pub fn watched_vips(&self) -> BTreeSet<Prefix> {
        let entries = self.index.watched().iter();
        let entries = entries.filter_map(|name| self.apps.get(name));
        entries.flat_map(|entry| entry.vips()).collect()
    }

    /// What was seen at `at`: the addresses that got packets, in order, and when the last one came; and the paths of
    /// VIPs, in order, where they are known.
    pub fn observe_traffic(
        &mut self,
        at: Instant,
        last_packets: &[(IpAddr, Instant)],
        paths: &[(Prefix, PathSeen)],
    ) {
        for name in self.index.watched() {
            let Some(entry) = self.apps.get_mut(name) else {
                continue;
            };
            let vips = || entry.vips();
            let path = |vip: Prefix| {
                let at = paths.binary_search_by_key(&vip, |(vip, _)| *vip);
                paths.get(at.ok()?).map(|(_, path)| path)
            };
            let paths = || vips().filter_map(path);
            let seen = TrafficSeen {
                at,
                last_packet: vips()
                    .filter_map(|vip| last_packet(last_packets, &vip))
                    .max(),
                path_returns: paths().map(|path| path.returns).max(),
                path_ended: paths().filter_map(|path| path.ended).max(),
            };
            if entry.intent.observe(seen) {
                self.queue.apps.insert(name.clone());
            }
        }
    }

    /// The traffic cannot be observed: drains last until their deadline.
    pub fn observe_no_traffic(&mut self) {
        for name in self.index.watched() {
            if let Some(entry) = self.apps.get_mut(name) {
                entry.intent.observe_nothing();
            }
        }
    }
}

fn last_packet(last_packets: &[(IpAddr, Instant)], vip: &Prefix) -> Option<Instant> {
    let first = last_packets.partition_point(|(addr, _)| *addr < vip.addr());
    let rest = last_packets.get(first..).unwrap_or_default().iter();
    let within = rest.take_while(|(addr, _)| vip.contains(*addr));
    within.map(|(_, at)| *at).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_vip_has_the_last_packet_of_its_addresses() {
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        let packets = [
            ("192.0.2.0", 1),
            ("192.0.2.7", 5),
            ("192.0.2.53", 3),
            ("192.0.3.0", 9),
            ("2001:db8::53", 4),
        ];
        let packets = packets.map(|(addr, ms)| (addr.parse().unwrap(), after(ms)));
        for (vip, last) in [
            ("192.0.2.0/24", Some(5)),
            ("192.0.2.53/32", Some(3)),
            ("192.0.2.54/32", None),
            ("192.0.3.0/24", Some(9)),
            ("192.0.1.0/24", None),
            ("2001:db8::/64", Some(4)),
            ("2001:db9::1/128", None),
        ] {
            let vip = vip.parse().unwrap();
            assert_eq!(last_packet(&packets, &vip), last.map(after), "{vip}");
        }
    }
}
