//! Leased addresses and owned NAT: whenever and however sidecast dies, the kernel removes what it left,
//! and the next one finds it all in place.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use sidecast::timer::Rng;
use sidecast_lab::{
    Bird, Lab, Namespace, Sidecast, Site, VIP4, VIP6, Watch, ask_tcp, expect, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "nft"]:
        killed_at_two_hundred_moments_it_leaves_nothing,
        a_restart_right_after_the_kill_takes_over_without_a_gap,
        three_in_one_namespace_do_not_touch_each_other,
        a_short_ipv6_prefix_is_leased_as_a_route;
    needs ["bird", "birdc", "ip"]:
        a_lease_is_longer_than_the_hold_time_and_ends,
        a_lease_that_ended_while_we_stood_still_is_said_and_made_up_for,
        what_gocast_left_is_taken_over_and_what_others_put_there_is_not,
        lo_is_brought_up,
        with_ipv6_disabled_the_error_says_so,
        addresses_can_be_left_to_somebody_else;
}

/// Many short lives on a few hosts, each with VIPs of its own, so that their leases run out together.
fn killed_at_two_hundred_moments_it_leaves_nothing() {
    let farm = Farm::new(WORKERS);
    let (addressed, mapped) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (farm, addressed, mapped) = (&farm, &addressed, &mapped);
            scope.spawn(move || {
                for run in 0..RUNS {
                    let life = Life::new(farm, worker, worker * RUNS + run);
                    let left = life.spend();
                    addressed.fetch_add(usize::from(left.addressed), Ordering::Relaxed);
                    mapped.fetch_add(usize::from(left.mapped), Ordering::Relaxed);
                }
            });
        }
    });
    for host in &farm.hosts {
        until(LEASE + SLACK, "the leases run out", || {
            let left = (host.addresses("lo"), host.ip(MARKED_ROUTES));
            let none = left.0.is_empty() && left.1.trim().is_empty();
            expect(none, format!("{left:?}"))
        });
        assert_eq!(tables(host), [""; 0], "a table is left");
    }
    let routes = farm.router.ask("show route");
    let ours = |line: &&str| line.contains("192.0.2.") || line.contains("2001:db8:53:");
    let left: Vec<&str> = routes.lines().filter(ours).collect();
    assert_eq!(left, [""; 0], "a route is left");
    let (addressed, mapped) = (addressed.into_inner(), mapped.into_inner());
    println!(
        "{} kills, seed {SEED}: {addressed} with addresses there, {mapped} with NAT there",
        WORKERS * RUNS
    );
    // Else nothing was shown.
    assert!(addressed >= 50 && mapped >= 50, "{addressed}, {mapped}");
}

/// One short life.
struct Life<'a> {
    farm: &'a Farm,
    host: &'a Namespace,
    local: String,
    number: usize,
    chance: Rng,
}

/// What was there at the moment of the kill.
struct Left {
    addressed: bool,
    mapped: bool,
}

impl<'a> Life<'a> {
    fn new(farm: &'a Farm, worker: usize, number: usize) -> Self {
        let seed = SEED + u64::try_from(number).expect("a small number");
        Self {
            farm,
            host: &farm.hosts[worker],
            local: Farm::local(worker),
            number,
            chance: Rng::new(seed),
        }
    }

    fn vips(&self) -> [String; 3] {
        let n = self.number + 1;
        [
            format!("192.0.2.{n}/32"),
            format!("2001:db8:53::{n:x}/128"),
            format!("2001:db8:53:{n:x}::/64"),
        ]
    }

    fn config(&self, port: u16, vips: &[String]) -> String {
        let vips: Vec<String> = vips.iter().map(|vip| format!("{vip:?}")).collect();
        format!(
            "agent: {{vip_lease: 5s, vip_linger: 100ms, cleanup_timer: 300ms, drain_time: 50ms, \
             listen_addr: \"off\"}}\n\
             bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {ROUTER}, local_ip: {}}}\n\
             apps:\n  - name: app{}\n    vips: [{}]\n    monitors: [\"port:tcp:{MONITORED}\"]\n    \
             interval: 50ms\n    nats: [\"udp:53:{port}\", \"tcp:53:{port}\"]\n",
            self.local,
            self.number,
            vips.join(", "),
        )
    }

    /// Waits up to so many milliseconds: the moment is what the test is about.
    fn pause(&mut self, most: u64) {
        sleep(Duration::from_micros(self.chance.below(most * 1000)));
    }

    fn spend(mut self) -> Left {
        let vips = self.vips();
        let service = listen(self.host);
        let mut sidecast = Sidecast::start(self.host, &self.config(8053, &vips));
        if self.number % 5 > 0 {
            self.comes_up(&mut sidecast);
        }
        match self.number % 5 {
            // While it starts, announces.
            0 => self.pause(120),
            // While it withdraws and removes the addresses.
            1 => {
                drop(service);
                self.pause(250);
            }
            // While it reads another configuration: other NAT, two VIPs less.
            2 => {
                Sidecast::write(self.host, &self.config(8054, &vips[..1]));
                sidecast.signal(Signal::SIGHUP);
                self.pause(60);
            }
            // Around cleanup_timer.
            3 => {
                drop(service);
                sleep(Duration::from_millis(200));
                self.pause(300);
            }
            // While it leaves.
            _ => {
                sidecast.signal(Signal::SIGTERM);
                self.pause(120);
            }
        }
        let mapped = !tables(self.host).is_empty();
        sidecast.kill();
        self.look(&vips, mapped)
    }

    fn comes_up(&self, sidecast: &mut Sidecast) {
        let [v4, ..] = self.vips();
        until(PATIENCE, "it is announced", || {
            sidecast.must_run();
            self.farm.router.route(&v4).ok_or("no route")
        });
    }

    /// What is there right after the kill ends by itself.
    fn look(&self, vips: &[String], mapped: bool) -> Left {
        let mut addressed = false;
        for info in on_lo(self.host) {
            let valid = info["valid_life_time"].as_u64();
            assert!(valid <= Some(LEASE.as_secs()), "no lease: {info}");
            let here = format!(
                "{}/{}",
                info["local"].as_str().unwrap_or_default(),
                info["prefixlen"]
            );
            addressed |= vips.contains(&here);
        }
        let routes = self.host.ip(MARKED_ROUTES);
        // Those of earlier lives may have ended and not be collected yet: `ip` then shows no time at all.
        for route in routes.lines().filter(|line| line.contains(&vips[2])) {
            assert!(route.contains("expires"), "no lease: {route}");
        }
        // The kernel is done with a dead process's sockets before we can know that it is dead.
        assert_eq!(tables(self.host), [""; 0], "run {}", self.number);
        until(PATIENCE, "the router drops the routes", || {
            let left: Vec<&String> = vips
                .iter()
                .filter(|vip| self.farm.router.route(vip).is_some())
                .collect();
            expect(left.is_empty(), format!("{left:?}"))
        });
        Left { addressed, mapped }
    }
}

fn a_restart_right_after_the_kill_takes_over_without_a_gap() {
    let site = Site::new();
    let host = &site.a.network;
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    let config = format!(
        "agent: {{vip_lease: 5s}}\n{}",
        site_config(&site, "dns", VIP4, VIP6)
    );
    let changes = Watch::start(host);
    let mut chance = Rng::new(SEED);
    let mut sidecast = Sidecast::start(host, &config);
    for round in 0..12 {
        until(PATIENCE, "it is announced", || {
            sidecast.must_run();
            router.route(&format!("{VIP6}/128")).ok_or("no route")
        });
        assert_eq!(rules(host), 4, "round {round}");
        sleep(Duration::from_millis(chance.below(300)));
        sidecast.kill();
        assert_eq!(
            site.a.vips().len(),
            2,
            "round {round}: they are on their lease"
        );
        sleep(Duration::from_millis(chance.below(200)));
        sidecast = Sidecast::start(host, &config);
    }
    // Longer than the last of the dead ones' leases.
    let begun = Instant::now();
    until(LEASE * 3, "time passes", || {
        sidecast.must_run();
        expect(begun.elapsed() > LEASE + Duration::from_secs(2), "not yet")
    });
    assert_eq!(site.a.vips().len(), 2);
    for vip in [VIP4, VIP6] {
        let gone = changes.lines(&["Deleted", vip, "lo"]);
        assert_eq!(gone, [""; 0], "{vip} went missing");
        let renewed = changes.lines(&[vip, "valid_lft 5sec"]).len();
        println!("{vip}: {renewed} times added, taken over or renewed, never deleted");
        // Thirteen lives, and a renewal each third of the lease.
        assert!(renewed >= 13 + 3, "{vip}: {renewed}");
    }
}

/// The first has an instance's name, the third finds the usual name of the table taken.
fn three_in_one_namespace_do_not_touch_each_other() {
    let farm = Farm::new(1);
    let host = &farm.hosts[0];
    let _service = listen(host);
    let changes = Watch::start(host);
    let mut all: Vec<Sidecast> = Vec::new();
    let life = |n: usize, agent: &str| {
        host.ip(&format!("addr add 10.0.0.{}/24 dev eth0", 100 + n));
        format!(
            "agent: {{vip_lease: 5s, listen_addr: \"off\"{agent}}}\n\
             bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {ROUTER}, local_ip: 10.0.0.{}}}\n\
             apps:\n  - name: app\n    vips: [192.0.2.{n}/32, \"2001:db8:53::{n}/128\"]\n    \
             monitors: [\"port:tcp:{MONITORED}\"]\n    interval: 100ms\n    nats: [\"tcp:53:8053\"]\n",
            100 + n,
        )
    };
    for (n, agent) in [(1, ", instance: dns"), (2, ""), (3, "")] {
        all.push(Sidecast::start(host, &life(n, agent)));
        until(PATIENCE, "it is announced", || {
            let route = farm.router.route(&format!("2001:db8:53::{n}/128"));
            route.ok_or_else(|| all.iter().map(Sidecast::log).collect::<String>())
        });
    }
    let names = [
        "sidecast_dns".to_owned(),
        "sidecast".to_owned(),
        format!("sidecast_{}", all[2].id()),
    ];
    let sorted = |names: &[String]| {
        let mut names: Vec<String> = names.iter().flat_map(|n| [n.clone(), n.clone()]).collect();
        names.sort();
        names
    };
    let there = || {
        let mut there = tables(host);
        there.sort();
        there
    };
    assert_eq!(there(), sorted(&names));
    let sessions = farm.router.ask("show protocols");
    for dead in 0..2 {
        all[dead].kill();
        assert_eq!(there(), sorted(&names[dead + 1..]), "after {dead} died");
        until(LEASE + SLACK, "its leases run out", || {
            let left = host.addresses("lo");
            expect(left.len() == 2 * (2 - dead), format!("{left:?}"))
        });
        for n in dead + 2..=3 {
            for vip in [format!("192.0.2.{n}"), format!("2001:db8:53::{n}")] {
                let gone = changes.lines(&["Deleted", &vip]);
                assert_eq!(gone, [""; 0], "{vip} went missing");
                let length = if vip.contains(':') { 128 } else { 32 };
                let route = farm.router.route(&format!("{vip}/{length}"));
                assert!(route.is_some(), "{vip} is not announced any more");
            }
        }
    }
    // The same session throughout: the line tells since when.
    let last = |text: &str| {
        let mut lines = text.lines().filter(|line| line.contains("Established"));
        lines.next_back().map(str::to_owned)
    };
    assert_eq!(last(&farm.router.ask("show protocols")), last(&sessions));
}

fn a_short_ipv6_prefix_is_leased_as_a_route() {
    let site = Site::new();
    let host = &site.a.network;
    // Else a route that has ended is shown for up to half a minute, though it is not used.
    host.sysctl("net/ipv6/route/gc_interval", "1");
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    let prefix = "2001:db8:53::/64";
    let config = format!(
        "agent: {{vip_lease: 5s}}\nbgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}}}\n\
         apps:\n  - name: dns\n    vip: \"{prefix}\"\n    monitors: [\"port:tcp:{MONITORED}\"]\n    \
         nats: [\"tcp:53:{MONITORED}\"]\n",
        site.a.addresses.router4
    );
    let changes = Watch::start(host);
    let mut sidecast = Sidecast::start(host, &config);
    let up = |sidecast: &mut Sidecast| {
        until(PATIENCE, "it is announced", || {
            sidecast.must_run();
            router.route(prefix).ok_or("no route")
        });
    };
    up(&mut sidecast);
    for (addr, port) in [("2001:db8:53::1", MONITORED), ("2001:db8:53::ffff:2", 53)] {
        let to = SocketAddr::new(addr.parse().expect("an address"), port);
        // The listener never accepts: a connection is all there is to see.
        until(PATIENCE, "every address of it is ours", || {
            match ask_tcp(&site.client, to) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
                other => Err(format!("{to}: {other:?}")),
            }
        });
    }
    sidecast.kill();
    sidecast = Sidecast::start(host, &config);
    up(&mut sidecast);
    let begun = Instant::now();
    until(LEASE * 3, "time passes", || {
        sidecast.must_run();
        expect(begun.elapsed() > LEASE + Duration::from_secs(2), "not yet")
    });
    let route = host.ip(MARKED_ROUTES);
    assert!(
        route.contains(prefix) && route.contains("expires"),
        "{route}"
    );
    let gone = changes.lines(&["Deleted", "local", prefix]);
    assert_eq!(gone, [""; 0], "it went missing");
    sidecast.kill();
    until(LEASE + SLACK, "the lease runs out", || {
        let left = host.ip(MARKED_ROUTES);
        expect(left.trim().is_empty(), left)
    });
}

/// The test does not wait for minutes: the kernel says how long it will be.
fn a_lease_is_longer_than_the_hold_time_and_ends() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    for (agent, bgp, seconds) in [
        ("", "", 270),
        ("", ", hold_time: 100s", 300),
        ("", ", hold_time: 9s", 180),
        ("", ", hold_time: 9s, graceful_restart: 240s", 300),
        ("agent: {vip_lease: 20m}\n", "", 1200),
    ] {
        let config = site_config(&site, "dns", VIP4, VIP6);
        let config = format!(
            "{agent}{}",
            config.replace("65001, peer_as", &format!("65001{bgp}, peer_as"))
        );
        let mut sidecast = Sidecast::start(host, &config);
        let look = || -> Vec<(u64, u64)> {
            let of = |info: &Value, key: &str| info[key].as_u64().unwrap_or_default();
            let all = on_lo(host).into_iter();
            all.map(|i| (of(&i, "valid_life_time"), of(&i, "preferred_life_time")))
                .collect()
        };
        let v6 = until(PATIENCE, "both have their lease", || {
            sidecast.must_run();
            let all = look();
            let right = |(valid, _): &(u64, u64)| (seconds - 5..=seconds).contains(valid);
            match all[..] {
                [v4, v6] if right(&v4) && right(&v6) => Ok(v6),
                _ => Err(format!("{seconds} s: {all:?}")),
            }
        });
        assert_eq!(v6.1, 0, "never chosen as a source");
        sidecast.kill();
        until(PATIENCE, "they run out without a process", || {
            let left = look();
            let less = left.iter().all(|(valid, _)| *valid < seconds - 1);
            expect(less && left.len() == 2, format!("{left:?}"))
        });
    }
    let config = site_config(&site, "dns", VIP4, VIP6);
    let mut sidecast = Sidecast::start(host, &format!("agent: {{vip_lease: \"off\"}}\n{config}"));
    until(PATIENCE, "off is off, also for what was there", || {
        sidecast.must_run();
        let all = on_lo(host);
        let forever = all.iter().all(|i| i["valid_life_time"] == FOREVER);
        expect(forever && all.len() == 2, format!("{all:?}"))
    });
}

/// As after a long pause of the whole machine.
fn a_lease_that_ended_while_we_stood_still_is_said_and_made_up_for() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = format!("agent: {{vip_lease: 5s}}\n{}", site.a.config("", ""));
    let sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    sidecast.signal(Signal::SIGSTOP);
    until(PATIENCE, "the leases end", || {
        expect(site.a.vips().is_empty(), format!("{:?}", site.a.vips()))
    });
    sidecast.signal(Signal::SIGCONT);
    until(PATIENCE, "both addresses are back", || {
        expect(site.a.vips().len() == 2, format!("{:?}", site.a.vips()))
    });
    let log = sidecast.log();
    for vip in [VIP4, VIP6] {
        let report = log
            .lines()
            .filter(|line| line.contains(vip))
            .collect::<Vec<_>>();
        let ended = report
            .iter()
            .any(|line| line.contains("its lease (IFA_CACHEINFO) expired"));
        let blamed = report.iter().any(|line| line.contains("another program"));
        assert!(ended && !blamed, "{vip}: {report:?}");
    }
}

fn what_gocast_left_is_taken_over_and_what_others_put_there_is_not() {
    let site = Site::new();
    let host = &site.a.network;
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    host.ip(&format!("addr add {VIP4}/32 dev lo label lo:dns"));
    host.ip(&format!("addr add {VIP6}/128 dev lo"));
    host.ip("addr add 192.0.2.99/32 dev lo label lo:web");
    let changes = Watch::start(host);
    let config = format!(
        "agent: {{vip_lease: 5s}}\n{}",
        site_config(&site, "dns", VIP4, VIP6)
    );
    let config = config.replace(&format!("{VIP4}/32"), &format!("{VIP4}/32, 192.0.2.99/32"));
    let mut sidecast = Sidecast::start(host, &config);
    until(PATIENCE, "it is announced", || {
        sidecast.must_run();
        router.route("192.0.2.99/32").ok_or("no route")
    });
    let lifetime = |addr: &str| {
        let all = on_lo(host).into_iter();
        all.filter(|info| info["local"] == addr)
            .map(|i| i["valid_life_time"].as_u64())
            .next()
    };
    let leased = lifetime(VIP4).flatten();
    assert!(leased <= Some(5), "our own from before: {leased:?}");
    let app = sidecast.app(host, "dns");
    let foreign = |vip: &str| {
        let all = app["vip_status"].as_array().into_iter().flatten();
        all.filter(|status| status["vip"] == vip)
            .any(|status| status["foreign"] == true)
    };
    let report = [
        format!("{VIP4}/32"),
        format!("{VIP6}/128"),
        "192.0.2.99/32".to_owned(),
    ]
    .map(|v| foreign(&v));
    assert_eq!(report, [false, true, true], "{app}");
    // One that vanishes is put back, as ours.
    host.ip("addr del 192.0.2.99/32 dev lo");
    until(PATIENCE, "it is put back", || {
        let lifetime = lifetime("192.0.2.99").flatten();
        expect(
            lifetime.is_some_and(|seconds| seconds <= 5),
            format!("{lifetime:?}"),
        )
    });
    sidecast.kill();
    until(LEASE + SLACK, "the leases run out", || {
        let left = site.a.vips();
        expect(left == [format!("{VIP6}/128")], format!("{left:?}"))
    });
    assert_eq!(lifetime(VIP6), Some(Some(FOREVER)));
    assert_eq!(changes.lines(&["Deleted", VIP6]), [""; 0]);
}

fn lo_is_brought_up() {
    let site = Site::new();
    let host = &site.a.network;
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    host.ip("link set lo down");
    let config = format!(
        "agent: {{listen_addr: \"off\"}}\n{}",
        site_config(&site, "dns", VIP4, VIP6)
    );
    let mut sidecast = Sidecast::start(host, &config);
    let up = |sidecast: &mut Sidecast, what: &str| {
        let begun = Instant::now();
        until(PATIENCE, what, || {
            sidecast.must_run();
            let local = host.ip("route show table local") + &host.ip("-6 route show table local");
            let all = [VIP4, VIP6]
                .iter()
                .all(|vip| local.contains(&format!("local {vip} dev lo")));
            expect(all, local)
        });
        println!("{what} after {:?}", begun.elapsed());
    };
    up(&mut sidecast, "lo serves at start");
    host.ip("link set lo down");
    up(&mut sidecast, "lo serves again");
    // Without an IPv6 address that would go with it, nothing but the link itself tells; what the host
    // sends to its own IPv4 VIP is lost meanwhile.
    let single = site_config(&site, "dns", VIP4, VIP6).replace(&format!(", \"{VIP6}/128\""), "");
    Sidecast::write(host, &format!("agent: {{listen_addr: \"off\"}}\n{single}"));
    sidecast.signal(Signal::SIGHUP);
    until(PATIENCE, "one VIP less", || {
        expect(site.a.vips().len() == 1, format!("{:?}", site.a.vips()))
    });
    host.ip("link set lo down");
    let begun = Instant::now();
    until(PATIENCE, "lo is up again", || {
        let lo = host.ip("link show dev lo");
        expect(lo.contains("LOOPBACK,UP"), lo)
    });
    println!("lo is up again after {:?}", begun.elapsed());
}

fn with_ipv6_disabled_the_error_says_so() {
    let site = Site::new();
    let host = &site.a.network;
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    host.sysctl("net/ipv6/conf/lo/disable_ipv6", "1");
    let mut sidecast = Sidecast::start(host, &site_config(&site, "dns", VIP4, VIP6));
    sidecast.wait_for_api(host);
    let app = until(PATIENCE, "it says why", || {
        let app = sidecast.app(host, "dns");
        let report = app["vip_status"][1]["problem"].is_string();
        expect(report, &app).map(|()| app)
    });
    let problem = app["vip_status"][1]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("net.ipv6.conf.lo.disable_ipv6=0"), "{app}");
    until(PATIENCE, "the other family is announced", || {
        router.route(&format!("{VIP4}/32")).ok_or("no route")
    });
    assert_eq!(router.route(&format!("{VIP6}/128")), None);
    // The namespace's owner does what the words say.
    host.sysctl("net/ipv6/conf/lo/disable_ipv6", "0");
    let begun = Instant::now();
    until(PATIENCE, "it heals", || {
        router.route(&format!("{VIP6}/128")).ok_or("no route")
    });
    println!("announced {:?} after IPv6 was switched on", begun.elapsed());
}

fn addresses_can_be_left_to_somebody_else() {
    let site = Site::new();
    let host = &site.a.network;
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let _service = listen(host);
    let config = site_config(&site, "dns", VIP4, VIP6).replace("nats: [\"tcp:53:8053\"]", "");
    let mut sidecast = Sidecast::start(host, &format!("agent: {{vip_interface: none}}\n{config}"));
    for vip in [format!("{VIP4}/32"), format!("{VIP6}/128")] {
        until(PATIENCE, "it is announced", || {
            sidecast.must_run();
            router.route(&vip).ok_or("no route")
        });
    }
    assert_eq!(site.a.vips(), [""; 0]);
    host.ip(&format!("addr add {VIP4}/32 dev lo"));
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success());
    assert_eq!(site.a.vips(), [format!("{VIP4}/32")]);
}

/// One app with a VIP of each family and NAT, gated by a port that [`listen`] opens.
fn site_config(site: &Site, name: &str, v4: &str, v6: &str) -> String {
    format!(
        "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {router}}}\n\
         apps:\n  - name: {name}\n    vips: [{v4}/32, \"{v6}/128\"]\n    \
         monitors: [\"port:tcp:{MONITORED}\"]\n    interval: 100ms\n    nats: [\"tcp:53:8053\"]\n",
        router = site.a.addresses.router4,
    )
}

/// Hosts around one switch, and a router that takes sessions from all of them.
struct Farm {
    hosts: Vec<Namespace>,
    router: Bird,
    _switch: Namespace,
    _lab: Lab,
}

impl Farm {
    fn new(hosts: usize) -> Self {
        let lab = Lab::new();
        let switch = lab.namespace("router");
        switch.ip("link add br0 type bridge");
        switch.ip(&format!("addr add {ROUTER}/24 dev br0"));
        switch.ip("addr add 2001:db8:1::1/64 dev br0");
        switch.ip("link set br0 up");
        let hosts = (0..hosts).map(|n| {
            let host = lab.namespace(&format!("h{n}"));
            let v4 = format!("{}/24", Self::local(n));
            let v6 = format!("2001:db8:1::{:x}/64", n + 10);
            let port = format!("p{n}");
            lab.cable((&host, "eth0", &[&v4, &v6]), (&switch, &port, &[]));
            switch.ip(&format!("link set {port} master br0"));
            // Else a route that has ended is shown for up to half a minute, though it is not used.
            host.sysctl("net/ipv6/route/gc_interval", "1");
            host
        });
        let hosts = hosts.collect();
        let router = Bird::start(
            &switch,
            &format!(
                "log stderr all; router id 10.255.0.1;
                 protocol device {{ }}
                 protocol direct {{ ipv4; ipv6; }}
                 protocol bgp any {{
                   local {ROUTER} as 65000; neighbor range 10.0.0.0/24 as 65001; passive;
                   dynamic name \"host\"; error wait time 1, 1;
                   ipv4 {{ import all; export none; }};
                   ipv6 {{ import all; export none; }};
                 }}"
            ),
        );
        Self {
            hosts,
            router,
            _switch: switch,
            _lab: lab,
        }
    }

    fn local(host: usize) -> String {
        format!("10.0.0.{}", host + 10)
    }
}

/// A service that lives as long as this value.
fn listen(namespace: &Namespace) -> TcpListener {
    until(PATIENCE, "the port is free", || {
        namespace.enter(|| TcpListener::bind(("::", MONITORED)))
    })
}

/// What `ip` says of the addresses of `lo` but its own.
fn on_lo(host: &Namespace) -> Vec<Value> {
    let links = host.ip_json("addr show dev lo");
    let all = links[0]["addr_info"].as_array().into_iter().flatten();
    all.filter(|info| !matches!(info["local"].as_str(), Some("127.0.0.1" | "::1")))
        .cloned()
        .collect()
}

/// The names of our tables, one for each family.
fn tables(host: &Namespace) -> Vec<String> {
    let all = host.run("nft", &["list", "tables"]);
    let names = all.lines().filter_map(|line| line.split(' ').nth(2));
    let ours = names.filter(|name| name.starts_with("sidecast"));
    ours.map(str::to_owned).collect()
}

/// How many rules there are: only this test makes any.
fn rules(host: &Namespace) -> usize {
    let all = host.run("nft", &["list", "ruleset"]);
    all.lines().filter(|line| line.contains(" dnat ")).count()
}

const SEED: u64 = 20_261_122;
const WORKERS: usize = 8;
const RUNS: usize = 25;

/// The router's address in a [`Farm`].
const ROUTER: &str = "10.0.0.1";

/// `ip` with our mark for routes (RTPROT_SIDECAST).
const MARKED_ROUTES: &str = "-6 route show table local proto 83";

/// The port that gates the apps.
const MONITORED: u16 = 8000;

const LEASE: Duration = Duration::from_secs(5);

/// The kernel looks for what has ended at its leisure.
const SLACK: Duration = Duration::from_secs(10);

/// `ip`'s word for no lifetime.
const FOREVER: u64 = 4_294_967_295;

/// How long the lab may need.
const PATIENCE: Duration = Duration::from_secs(20);
