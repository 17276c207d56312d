//! Probes, and what becomes of them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use sidecast::io::path_proof::{Prober, Probes, Totals};
use sidecast::path_proof::{Egress, PathError, PeerTag, SendError, Target};
use sidecast_lab::{HostLink, Namespace, VIP4, VIP6, until};

/// A prober in a namespace.
pub struct Probing<'a> {
    network: &'a Namespace,
    prober: Prober,
    token: u64,
    /// The next one, so that none is used twice at once: a child that another thread forks has a closed socket
    /// for a moment.
    source_port: u16,
}

/// What became of the probes of one round.
#[derive(Debug)]
pub struct Round {
    pub sent: Result<u32, SendError>,
    pub returned: u64,
    /// The errors that came, with their number.
    pub errors: Vec<PathError>,
}

/// One VIP by way of one router.
#[derive(Clone, Debug)]
pub struct Way {
    pub target: Target,
    pub egress: Egress,
}

impl Way {
    pub fn new(network: &Namespace, vip: &str, device: &str, source: &str, gateway: &str) -> Self {
        let link = network.ip_json(&format!("link show dev {device}"));
        let index = link[0]["ifindex"].as_u64().expect("an index");
        Self {
            target: Target {
                vip: addr(vip),
                tag: PeerTag(1),
            },
            egress: Egress {
                interface: u32::try_from(index).expect("an index"),
                name: device.to_owned(),
                source: addr(source),
                gateway: addr(gateway),
            },
        }
    }

    /// Both VIPs of the site by way of the router of this host.
    pub fn of(host: &HostLink) -> [Self; 2] {
        let of = &host.addresses;
        [
            Self::new(&host.network, VIP4, "eth0", of.host4, of.router4),
            Self::new(&host.network, VIP6, "eth0", of.host6, of.router6),
        ]
    }
}

impl<'a> Probing<'a> {
    /// Counts nothing yet.
    pub fn new(network: &'a Namespace, token: u64) -> Self {
        Self {
            network,
            prober: Prober::new("sidecast"),
            token,
            source_port: 61_000,
        }
    }

    /// Counts these from now on.
    #[track_caller]
    pub fn count(&mut self, ways: &[Way]) {
        let add: Vec<Target> = ways.iter().map(|way| way.target).collect();
        let Self {
            network,
            prober,
            token,
            ..
        } = self;
        let counted = network.enter(|| smol::block_on(prober.count(*token, PORT, &add, &[])));
        counted.expect("the kernel counts");
    }

    /// Counts this one no longer.
    #[track_caller]
    pub fn forget(&mut self, way: &Way) {
        let remove = [way.target];
        let counted = self.prober.count(self.token, PORT, &[], &remove);
        smol::block_on(counted).expect("the kernel forgets");
    }

    #[track_caller]
    pub fn read(&mut self) -> Totals {
        smol::block_on(self.prober.read()).expect("the counters are there")
    }

    /// Sixteen probes.
    #[track_caller]
    pub fn round(&mut self, way: &Way) -> Round {
        self.probe(way, 16)
    }

    /// So many probes, each from a port of its own, and what came of them within a moment.
    #[track_caller]
    pub fn probe(&mut self, way: &Way, count: u16) -> Round {
        let before = self.read();
        let sent = self.send(way, count);
        let begun = Instant::now();
        loop {
            let after = self.read();
            let round = Round {
                sent: sent.clone(),
                returned: returned(&after, way) - returned(&before, way),
                errors: new_errors(&before, &after, way),
            };
            let all = sent.as_ref().map_or(0, |sent| u64::from(*sent));
            // That nothing comes can be known only by waiting.
            if round.returned >= all || begun.elapsed() > LOST_AFTER {
                return round;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// None comes back, and this ICMP error of type and code comes from this address, and no other. Routers limit
    /// how many they send, and the next one may have to be resolved first.
    #[track_caller]
    pub fn refused(&mut self, way: &Way, from: &str, (kind, code): (u8, u8)) {
        until(PATIENCE, "an error comes", || {
            let round = self.round(way);
            round.is_lost();
            if round.errors.is_empty() {
                return Err("none");
            }
            let all = round.errors.iter().map(|e| (e.from, e.kind, e.code));
            let all: Vec<_> = all.collect();
            assert_eq!(all, [(addr(from), kind, code)]);
            Ok(())
        });
    }

    pub fn send(&mut self, way: &Way, count: u16) -> Result<u32, SendError> {
        let first = self.source_port;
        self.source_port = if first > 64_000 {
            61_000
        } else {
            first + count
        };
        let probes = Probes {
            target: way.target,
            egress: way.egress.clone(),
            token: self.token,
            port: PORT,
            ttl: 3,
            source_ports: (first..first + count).collect(),
        };
        let Self {
            network, prober, ..
        } = self;
        let mut sent = network.enter(|| smol::block_on(prober.send(&[probes])));
        sent.remove(0)
    }
}

impl Round {
    /// All came back.
    #[track_caller]
    pub fn is_whole(&self) {
        assert_eq!(self.sent, Ok(16), "{self:?}");
        assert_eq!(self.returned, 16, "{self:?}");
    }

    /// None came back, though all left.
    #[track_caller]
    pub fn is_lost(&self) {
        assert_eq!(self.sent, Ok(16), "{self:?}");
        assert_eq!(self.returned, 0, "{self:?}");
    }

    /// None came back, and nothing was said.
    #[track_caller]
    pub fn is_silent(&self) {
        self.is_lost();
        assert!(self.errors.is_empty(), "{self:?}");
    }
}

fn returned(totals: &Totals, way: &Way) -> u64 {
    let mut all = totals.returned.iter();
    let found = all.find(|(target, _)| *target == way.target);
    found.expect("it is counted").1
}

fn new_errors(before: &Totals, after: &Totals, way: &Way) -> Vec<PathError> {
    let of = after.errors.iter();
    let of = of.filter(|error| error.target == way.target);
    let new = of.filter_map(|error| {
        let same = before.errors.iter().find(|old| {
            let key = |e: &PathError| (e.target, e.from, e.kind, e.code);
            key(old) == key(error)
        });
        let count = error.count - same.map_or(0, |old| old.count);
        (count > 0).then(|| PathError {
            count,
            ..error.clone()
        })
    });
    new.collect()
}

pub fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Discard (RFC 863).
const PORT: u16 = 9;
/// A packet takes microseconds here, and where a busy machine does not run the kernel's threads, a moment.
const LOST_AFTER: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);
