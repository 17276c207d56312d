//! Several hosts that announce one VIP with `when_down: last_resort`, and routers that choose among them: a network that
//! selects by local preference, AS path length and MED, and receives a change after an advertisement interval.

use std::time::{Duration, Instant};

use sidecast::bgp::PathAttributes;
use sidecast::net::{Community, Prefix};
use sidecast::timer::Rng;

use crate::world::{World, config};

pub struct Hosts {
    hosts: Vec<Host>,
    chance: Rng,
    /// Routers set local preference 0 on 65535:0 (RFC 8326 §4).
    honors: bool,
    /// How long a change takes to reach the network.
    advertisement_interval: Duration,
    /// How often every host with a route announced it as last resort.
    pub served_by_the_sick: usize,
}

struct Host {
    world: World,
    listens: bool,
    /// The result of the check, right or wrong.
    passes: bool,
    drained: bool,
    /// Since its start it has been announced as healthy at least once.
    was_up: bool,
    /// When the link last changed; when anything else did, but for the check's result; when that did.
    link_changed_at: Instant,
    changed_at: Instant,
    opinion_changed_at: Instant,
    had_route: bool,
    /// How many withdrawals its router has received.
    withdrawn: usize,
    /// AS hops to the network that chooses, and its import policy.
    distance: usize,
    local_pref: u32,
    /// The route that the network has of it, and when it next receives a change.
    received: Option<PathAttributes>,
    hears_at: Instant,
}

impl Host {
    fn new(seed: u64, chance: &mut Rng) -> Self {
        let app = format!(
            "{{name: dns, vip: {VIP}, interval: 1s, monitors: [\"{PORT}\", \"{CHECK}\"], \
             vip_config: {{when_down: last_resort}}}}"
        );
        let world = World::with(config(&app, ""), seed);
        Self {
            listens: true,
            passes: true,
            drained: false,
            was_up: false,
            link_changed_at: world.now,
            changed_at: world.now,
            opinion_changed_at: world.now,
            had_route: false,
            withdrawn: 0,
            distance: usize::try_from(chance.below(4)).expect("it is small"),
            local_pref: [100, 100, 200][usize::try_from(chance.below(3)).expect("it is small")],
            received: None,
            hears_at: world.now,
            world,
        }
    }

    fn route(&self) -> Option<&PathAttributes> {
        self.world.routers[0].rib.get(&vip())
    }

    fn is_connected(&self) -> bool {
        let router = &self.world.routers[0];
        router.up && !router.cut
    }

    /// Everything but the check's result has been unchanged for long enough to take effect, and for `more`.
    fn is_steady(&self, more: Duration) -> bool {
        let (session, rest) = (self.link_changed_at + SESSION, self.changed_at + REACTION);
        self.world.now >= session.max(rest) + more
    }

    /// Only its check fails, and has for long enough to take effect.
    fn must_be_announced(&self, more: Duration) -> bool {
        let only_opinions = self.listens && !self.drained && self.is_connected() && self.was_up;
        let known = self.world.now >= self.opinion_changed_at + REACTION + more;
        only_opinions && !self.passes && known && self.is_steady(more)
    }

    fn is_healthy(&self) -> bool {
        self.listens && self.passes && !self.drained
    }

    fn advance(&mut self, time: Duration, interval: Duration) {
        self.world.advance(time);
        let now = self.world.now;
        let has = self.route().is_some();
        let steady = self.is_connected() && self.is_steady(Duration::ZERO);
        assert!(
            has || !self.had_route || !steady,
            "an opinion took the route\n{}",
            self.world.trace.join("\n")
        );
        let withdrawn = std::mem::replace(&mut self.withdrawn, self.world.routers[0].withdrawn);
        assert!(
            withdrawn == self.withdrawn || !has || !steady || !self.had_route,
            "an opinion took the route for a moment\n{}",
            self.world.trace.join("\n")
        );
        assert!(
            has || !self.must_be_announced(Duration::ZERO),
            "no route though only a check fails\n{}",
            self.world.trace.join("\n")
        );
        let gone = !self.listens || self.drained;
        assert!(
            !has || !gone || !steady,
            "a route without a listener, or of a drained app\n{}",
            self.world.trace.join("\n")
        );
        let view = self.world.core.app(now, &"dns".parse().expect("a name"));
        let view = view.expect("it is configured");
        self.was_up |=
            view.state == sidecast::core::AppState::Up && view.vips.iter().all(|v| v.announced);
        self.had_route = has;
        if self.hears_at <= now {
            self.received = self.route().cloned();
            self.hears_at = now + interval;
        }
    }

    /// How attractive its route is to the network: the highest wins.
    fn rank(&self, route: &PathAttributes, honors: bool) -> (u32, std::cmp::Reverse<(usize, u32)>) {
        let shutdown = route.communities.contains(&Community::GRACEFUL_SHUTDOWN);
        let local_pref = if honors && shutdown {
            0
        } else {
            self.local_pref
        };
        let length = route.as_path.0.len() + self.distance;
        // A route without a MED counts as 0; all are from one neighbor AS.
        let med = route.med.unwrap_or(0);
        (local_pref, std::cmp::Reverse((length, med)))
    }
}

impl Hosts {
    pub fn new(seed: u64) -> Self {
        let mut chance = Rng::new(seed ^ 0x1057);
        let count = 2 + chance.below(7);
        Self {
            hosts: (0..count)
                .map(|number| Host::new(seed * 16 + number, &mut chance))
                .collect(),
            honors: chance.below(2) == 0,
            advertisement_interval: Duration::from_secs(chance.below(6)),
            chance,
            served_by_the_sick: 0,
        }
    }

    /// Runs this many events.
    pub fn live(&mut self, events: usize) {
        self.advance(Duration::from_secs(10));
        for _ in 0..events {
            for _ in 0..=self.chance.below(3) {
                self.event();
            }
            let pause = Duration::from_millis(self.chance.below(8_000));
            self.advance(pause);
            // Now and then long enough for the network to converge.
            if self.chance.below(6) == 0 {
                self.advance(CONVERGED);
                self.assert_converged();
            }
        }
    }

    fn event(&mut self) {
        let count = u64::try_from(self.hosts.len()).expect("it is small");
        let which = usize::try_from(self.chance.below(count)).expect("it is small");
        let kind = self.chance.below(12);
        if kind == 0 {
            // A faulty check is rolled out to all hosts at once, or rolled back.
            let passes = self.chance.below(2) == 0;
            self.hosts
                .iter_mut()
                .for_each(|host| host.set_check(passes));
            return;
        }
        let host = &mut self.hosts[which];
        match kind {
            1..=5 => host.set_check(!host.passes),
            6 | 7 => host.set_listens(!host.listens),
            8 | 9 => host.toggle_drain(),
            _ => host.toggle_link(),
        }
    }

    fn advance(&mut self, time: Duration) {
        let end = self.hosts[0].world.now + time;
        while self.hosts[0].world.now < end {
            for host in &mut self.hosts {
                host.advance(TICK, self.advertisement_interval);
            }
            let must = |host: &Host| host.must_be_announced(self.advertisement_interval + TICK);
            assert!(
                self.hosts.iter().any(|host| host.received.is_some())
                    || !self.hosts.iter().any(must),
                "the network has no route though a host's checks alone fail"
            );
        }
    }

    fn assert_converged(&mut self) {
        let known = self.hosts.iter().filter_map(|host| {
            let route = host.received.as_ref()?;
            Some((host.rank(route, self.honors), host))
        });
        let known: Vec<_> = known.collect();
        let Some(best) = known.iter().map(|(rank, _)| *rank).max() else {
            return;
        };
        let chosen = known.iter().filter(|(rank, _)| *rank == best);
        let chosen: Vec<bool> = chosen.map(|(_, host)| host.is_healthy()).collect();
        let healthy = known.iter().any(|(_, host)| host.is_healthy());
        if self.honors && healthy {
            assert!(
                chosen.iter().all(|healthy| *healthy),
                "a sick host draws traffic"
            );
        }
        self.served_by_the_sick += usize::from(!healthy);
    }
}

impl Host {
    fn set(&mut self, monitor: &str, to: bool) {
        self.world.services.insert(monitor.to_owned(), Some(to));
        self.world.record(format!("{monitor} becomes {to}"));
    }

    fn set_check(&mut self, passes: bool) {
        self.passes = passes;
        self.opinion_changed_at = self.world.now;
        self.set(CHECK, passes);
    }

    fn set_listens(&mut self, listens: bool) {
        self.listens = listens;
        self.changed_at = self.world.now;
        self.set(PORT, listens);
        // As the kernel reports it.
        self.world.event(sidecast::core::Event::RecheckPorts);
    }

    fn toggle_drain(&mut self) {
        self.drained = !self.drained;
        self.changed_at = self.world.now;
        let name = "dns".parse().expect("a name");
        if self.drained {
            self.world.core.drain(self.world.now, Some(&name));
        } else {
            self.world.core.undrain(self.world.now, Some(&name));
        }
        self.world.record(format!("drained: {}", self.drained));
        self.world.settle();
    }

    fn toggle_link(&mut self) {
        self.link_changed_at = self.world.now;
        if self.world.routers[0].cut {
            self.world.record("link mended");
            self.world.mend(0);
        } else {
            self.world.record("link cut");
            self.world.routers[0].cut = true;
        }
    }
}

fn vip() -> Prefix {
    VIP.parse().expect("a prefix")
}

const VIP: &str = "192.0.2.53/32";
const PORT: &str = "port:udp:53";
const CHECK: &str = "exec:probe";
const TICK: Duration = Duration::from_millis(200);
/// A host acts on a change within this time.
const REACTION: Duration = Duration::from_secs(5);
/// A session that ended is re-established within this time: the hold time, then connect retries.
const SESSION: Duration = Duration::from_secs(70);
/// Longer than anything takes: damping or a new session, then the advertisement interval.
const CONVERGED: Duration = Duration::from_secs(80);
