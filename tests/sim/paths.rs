//! Probes of VIPs: the kernel's counters, routers that forward what they have a route for, and the limit.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sidecast::core::Core;
use sidecast::discovery::FirstHop;
use sidecast::net::{Family, Prefix};
use sidecast::path_proof::{Event, Output, PathError, Target};

/// The kernel's probe counters and ICMP errors, and the probes sent by each interface.
#[derive(Default)]
pub struct Probes {
    token: u64,
    counters: BTreeMap<Target, u64>,
    errors: BTreeMap<(Target, IpAddr), u64>,
    /// The fill level of each interface's token bucket, in packets, and when it was last updated.
    levels: BTreeMap<u32, (f64, Instant)>,
    pub sent: u64,
}

impl Probes {
    /// `forwards`: whether the router with this address has the route; `None`: the link to it is cut.
    pub fn perform(
        &mut self,
        now: Instant,
        output: Output,
        forwards: impl Fn(IpAddr, &Prefix) -> Option<bool>,
    ) -> Option<Event> {
        Some(match output {
            Output::Count {
                token, add, remove, ..
            } => {
                if std::mem::replace(&mut self.token, token) != token {
                    self.counters.clear();
                }
                for target in &remove {
                    self.counters.remove(target);
                }
                self.counters.extend(add.into_iter().map(|t| (t, 0)));
                Event::Counting(Ok(()))
            }
            Output::Send {
                target,
                egress,
                token,
                source_ports,
                ..
            } => {
                assert_eq!(token, self.token, "a probe that nobody counts");
                let counter = self.counters.get_mut(&target).expect("it is counted");
                let probes = source_ports.len() as u64;
                let refused = self.errors.entry((target, egress.gateway)).or_default();
                match forwards(egress.gateway, &Prefix::host(target.vip)) {
                    Some(true) => *counter += probes,
                    Some(false) => *refused += probes,
                    None => {}
                }
                self.sent += probes;
                self.limit(now, egress.interface, probes);
                let result = Ok(source_ports.len() as u32);
                Event::Sent { target, result }
            }
            Output::Read => Event::Counters {
                returned: self.counters.clone().into_iter().collect(),
                errors: self.errors.iter().map(no_route).collect(),
            },
            Output::Remove => {
                self.counters.clear();
                return None;
            }
        })
    }

    /// 100 packets a second, 300 at once.
    fn limit(&mut self, now: Instant, interface: u32, probes: u64) {
        let (level, at) = self.levels.entry(interface).or_insert((0.0, now));
        let passed = now.saturating_duration_since(*at).as_secs_f64();
        *level = (*level - passed * 100.0).max(0.0) + probes as f64;
        *at = now;
        assert!(*level <= 300.0 + 1e-6, "{level} packets at once");
    }
}

/// ICMP 3/0, or ICMPv6 1/0.
fn no_route(((target, from), count): (&(Target, IpAddr), &u64)) -> PathError {
    PathError {
        target: *target,
        from: *from,
        kind: if from.is_ipv4() { 3 } else { 1 },
        code: 0,
        count: *count,
    }
}

/// Each router is the gateway of an interface of its own, for both families.
pub fn first_hops(
    interface: u32,
    gateway: IpAddr,
) -> Vec<(Family, Result<FirstHop, sidecast::path_proof::Unproven>)> {
    let hop = FirstHop {
        interface,
        gateway,
        is_behind: false,
    };
    Family::ALL
        .into_iter()
        .map(|f| (f, Ok(hop.clone())))
        .collect()
}

/// Probes of every announced route come back through its router.
pub fn assert_proven(core: &Core, now: Instant, trace: &str) {
    let mut proven = 0;
    for view in core.apps(now, None) {
        for vip in &view.vips {
            assert_eq!(vip.paths.len(), vip.routes.len(), "{}\n{trace}", vip.prefix);
            for path in &vip.paths {
                let proof = path.proof.to_string();
                let right = proof == "yes (16/16)" || proof.starts_with("partly");
                assert!(right, "{} by {}: {proof}\n{trace}", vip.prefix, path.peer);
                proven += 1;
            }
        }
    }
    assert!(proven > 0, "nothing is announced\n{trace}");
}

/// How long a verdict may take after a repair: the interval, the round, and its reading.
pub const BOUND: Duration = Duration::from_secs(30 + 30 + 5);
