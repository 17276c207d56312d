//! The real thing among everything that goes wrong, at random: registrations, drains, reloads, crashes,
//! stalls, malformed requests and BGP, floods of connections, Consul's changes of mind. Nothing of it
//! may cost the session, and at the end routers, kernel and NAT are what a model says, and the process
//! is no larger.
//!
//! `CHAOS_SECONDS=600 cargo test --test chaos` runs ten minutes in place of ten seconds, `CHAOS_SEED=…`
//! does the same things again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use nix::sys::signal::Signal;
use serde_json::json;
use sidecast::timer::Rng;
use sidecast_lab::{Bird, Consul, Namespace, Service, Sidecast, Site, Test, Transport};
use sidecast_lab::{expect, get, until};

fn main() -> ExitCode {
    let needs = &["bird", "birdc", "ip", "nft", "consul"];
    let test = Test::new("chaos", needs, chaos).within(seconds() + Duration::from_secs(120));
    sidecast_lab::main(env!("CARGO_BIN_EXE_sidecast"), &[test])
}

fn seconds() -> Duration {
    let set = env::var("CHAOS_SECONDS").ok();
    Duration::from_secs(set.map_or(10, |text| text.parse().expect("CHAOS_SECONDS in seconds")))
}

fn chaos() {
    let from_clock = || {
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |now| now.subsec_nanos())
    };
    let seed = match env::var("CHAOS_SEED") {
        Ok(text) => text.parse().expect("CHAOS_SEED is a number"),
        Err(_) => u64::from(from_clock()),
    };
    println!("    CHAOS_SEED={seed}");
    let mut world = World::new(seed);
    let ends = Instant::now() + seconds();
    while Instant::now() < ends {
        world.step();
    }
    world.repair();
    world.assert_as_modeled();
    world.assert_bounded();
}

/// What is there, and what should be.
struct World {
    chance: Rng,
    router: Bird,
    consul: Consul,
    service: Service,
    sidecast: Sidecast,
    /// How often each thing was done.
    done: BTreeMap<&'static str, u32>,
    /// Apps of the file, of HTTP and of Consul, by number.
    config: BTreeSet<u64>,
    http: BTreeSet<u64>,
    discovered: BTreeSet<u64>,
    drained: BTreeSet<String>,
    site: Site,
}

impl World {
    fn new(seed: u64) -> Self {
        let site = Site::new();
        let host = &site.a.network;
        let mut session = site.a.session("a");
        session.options = "hold time 9;";
        let router = Bird::router(&site.router, &[session]);
        let consul = Consul::start(host, &json!({}));
        let service = Service::start(host, Transport::Tcp, Site::TCP_PORT);
        let config = BTreeSet::from([0, 1]);
        let sidecast = Sidecast::start(host, &yaml(&site, &config));
        let mut world = Self {
            chance: Rng::new(seed),
            router,
            consul,
            service,
            sidecast,
            done: BTreeMap::new(),
            config,
            http: BTreeSet::new(),
            discovered: BTreeSet::new(),
            drained: BTreeSet::new(),
            site,
        };
        world.wait_for_session();
        world
    }

    fn host(&self) -> &Namespace {
        &self.site.a.network
    }

    fn step(&mut self) {
        type Action = fn(&mut World);
        let actions: [(&'static str, u64, Action); 13] = [
            ("register", 20, Self::register),
            ("unregister", 10, Self::unregister),
            ("drain", 8, Self::drain),
            ("undrain", 8, Self::undrain),
            ("reload", 5, Self::reload),
            ("crash", 1, Self::crash),
            ("malformed requests", 6, Self::malformed_requests),
            ("malformed BGP", 6, Self::malformed_bgp),
            ("flood", 2, Self::flood),
            ("consul service", 8, Self::change_consul),
            ("consul check", 4, Self::change_check),
            ("stall", 2, Self::stall),
            ("service killed", 3, Self::restart_service),
        ];
        let mut pick = self
            .chance
            .below(actions.iter().map(|(_, weight, _)| weight).sum());
        let chosen = actions
            .iter()
            .find(|(_, weight, _)| match pick.checked_sub(*weight) {
                Some(left) => {
                    pick = left;
                    false
                }
                None => true,
            });
        let (name, _, action) = chosen.expect("less than the sum");
        *self.done.entry(name).or_default() += 1;
        action(self);
        self.sidecast.must_run();
        thread::sleep(Duration::from_millis(self.chance.below(100)));
    }

    /// A call that changes something, and must succeed.
    #[track_caller]
    fn call(&self, path: &str) {
        let reply = self.sidecast.get(self.host(), path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    }

    fn register(&mut self) {
        let number = self.chance.below(12);
        self.http.insert(number);
        self.call(&registration(number));
    }

    fn unregister(&mut self) {
        let number = self.chance.below(12);
        let name = format!("http{number}");
        if self.http.remove(&number) && self.drained.remove(&name) {
            self.call(&format!("/undrain?name={name}"));
        }
        self.call(&format!("/unregister?name={name}"));
    }

    fn drain(&mut self) {
        let number = self.chance.below(12);
        if self.http.contains(&number) {
            let name = format!("http{number}");
            self.call(&format!("/drain?wait=0&name={name}"));
            self.drained.insert(name);
        }
    }

    fn undrain(&mut self) {
        if let Some(name) = self.drained.pop_first() {
            self.call(&format!("/undrain?name={name}"));
        }
    }

    /// Every third time with a broken file, which changes nothing.
    fn reload(&mut self) {
        let number = self.chance.below(6);
        let broken = self.chance.below(3) == 0;
        if broken {
            Sidecast::write(self.host(), "bgp: {local_as: [}");
        } else {
            if !self.config.remove(&number) {
                self.config.insert(number);
            }
            Sidecast::write(self.host(), &yaml(&self.site, &self.config));
        }
        let reply = sidecast_lab::request(self.host(), Sidecast::api(), "POST", "/reload", "");
        let reply = reply.expect("an answer to the reload");
        assert_eq!(
            reply.status,
            if broken { 400 } else { 200 },
            "{}",
            reply.body
        );
    }

    /// Killed and started again; whoever registers apps does so again, as an orchestrator would.
    fn crash(&mut self) {
        self.sidecast.kill();
        let text = yaml(&self.site, &self.config);
        self.sidecast = Sidecast::start(&self.site.a.network, &text);
        self.wait_for_session();
        // The state file may be older than the last calls: what it has of each name is overwritten.
        for number in 0..12 {
            self.call(&registration(number));
            let name = format!("http{number}");
            match self.drained.contains(&name) {
                true => self.call(&format!("/drain?wait=0&name={name}")),
                false => self.call(&format!("/undrain?name={name}")),
            }
            if !self.http.contains(&number) {
                self.call(&format!("/unregister?name={name}"));
            }
        }
    }

    #[track_caller]
    fn wait_for_session(&mut self) {
        let host = &self.site.a.network;
        self.sidecast.wait_for_api(host);
        until(PATIENCE, "the session is established", || {
            self.sidecast.must_run();
            expect(self.router.established("a"), self.router.session("a"))
        });
    }

    fn malformed_requests(&mut self) {
        let valid: [&[u8]; 3] = [
            b"POST /register?name=evil&vip=198.18.0.1/32 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nx=1",
            b"POST /register HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nx=1\r\n0\r\n\r\n",
            b"GET /register?name=evil&vip=198.18.0.2/32&monitor=[[[[&when_down={a:*b} HTTP/1.1\r\nHost: h\r\n\r\n",
        ];
        for round in 0..10_usize {
            let bytes = self.garbled(valid[round % valid.len()]);
            // From elsewhere: whatever became of it changes nothing.
            self.throw(&self.site.client, 8080, &bytes);
        }
    }

    fn malformed_bgp(&mut self) {
        let mut open = vec![0xff; 16];
        open.extend([0, 29, 1, 4, 0xfd, 0xe8, 0, 9, 10, 0, 1, 1, 0]);
        let update = {
            let mut update = vec![0xff; 16];
            update.extend([0, 23, 2, 0, 0, 0, 0]);
            update
        };
        for round in 0..6_usize {
            let mut bytes = open.clone();
            bytes.extend_from_slice(&update);
            let bytes = self.garbled(&bytes);
            // From the peer's own address it is a second connection of a peer that has one.
            let from = [&self.site.router, &self.site.client][round % 2];
            self.throw(from, 179, &bytes);
        }
    }

    /// Some bytes of it changed, doubled or lost.
    fn garbled(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..=self.chance.below(4) {
            let length = u64::try_from(bytes.len()).expect("a length");
            let at = usize::try_from(self.chance.below(length)).expect("an index");
            match self.chance.below(3) {
                0 => bytes[at] = u8::try_from(self.chance.below(256)).expect("a byte"),
                1 => bytes.extend_from_within(at..),
                _ => bytes.truncate(at + 1),
            }
        }
        bytes
    }

    fn throw(&self, from: &Namespace, port: u16, bytes: &[u8]) {
        let to = self.site.a.addresses.host4.parse().expect("an address");
        let to = SocketAddr::new(to, port);
        let Ok(mut stream) = from.enter(|| TcpStream::connect_timeout(&to, BRIEFLY)) else {
            return;
        };
        let _ = stream.set_read_timeout(Some(BRIEFLY));
        let _ = stream.write_all(bytes);
        let _ = stream.read(&mut [0; 512]);
    }

    /// Connections that say nothing, to the API and to the BGP listener.
    fn flood(&mut self) {
        let host = self.site.a.addresses.host4.parse().expect("an address");
        let to = [8080, 179].map(|port| SocketAddr::new(host, port));
        let from = &self.site.b.network;
        let connect = |n: usize| TcpStream::connect_timeout(&to[n % 2], BRIEFLY);
        let held: Vec<_> = from.enter(|| (0..300).filter_map(|n| connect(n).ok()).collect());
        let answer = get(&self.site.client, to[0], "/healthz").expect("an answer");
        assert_eq!(
            answer.status,
            200,
            "a probe among {} connections",
            held.len()
        );
    }

    fn change_consul(&mut self) {
        let number = self.chance.below(6);
        let id = format!("found{number}");
        if self.chance.below(3) == 0 {
            if self.discovered.remove(&number) {
                self.consul.deregister(self.host(), &id);
            }
            return;
        }
        self.discovered.insert(number);
        // Tags that mean nothing change nothing.
        let noise = format!("noise={}", self.chance.below(1000));
        let vip = format!("gocast_vip={}/32", discovered_vip(number));
        let tags = [
            "enable_gocast",
            &vip,
            "gocast_nat=tcp:90:9090",
            "gocast_monitor=consul",
            "sidecast_hold_down=off",
            &noise,
        ];
        self.consul
            .register(self.host(), &id, &id, &tags, "passing");
    }

    fn change_check(&mut self) {
        let Some(number) = self.discovered.first() else {
            return;
        };
        let verb = if self.chance.below(2) == 0 {
            "fail"
        } else {
            "pass"
        };
        let id = format!("found{number}");
        self.consul.check(self.host(), verb, &id);
    }

    /// Stopped for up to two of the nine seconds of the hold time.
    fn stall(&mut self) {
        let stopped = Duration::from_millis(200 + self.chance.below(1800));
        self.sidecast.signal(Signal::SIGSTOP);
        thread::sleep(stopped);
        self.sidecast.signal(Signal::SIGCONT);
        // It may have been in the middle of a turn, which then was no longer than we made it.
        if self
            .longest_turn()
            .is_some_and(|longest| longest >= stopped)
        {
            self.crash();
        }
    }

    fn restart_service(&mut self) {
        self.service.kill();
        thread::sleep(Duration::from_millis(self.chance.below(300)));
        self.service.restart(&self.site.a.network);
    }

    /// Everything that is known is healthy and wanted again.
    fn repair(&mut self) {
        Sidecast::write(self.host(), &yaml(&self.site, &self.config));
        while !self.drained.is_empty() {
            self.undrain();
        }
        for number in &self.discovered {
            self.consul
                .check(self.host(), "pass", &format!("found{number}"));
        }
    }

    /// VIPs that should be announced, and those of them that have NAT.
    fn model(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let config = self.config.iter().map(|n| (config_vip(*n), false));
        let http = self.http.iter().map(|n| (http_vip(*n), has_stale_nat(*n)));
        let found = self.discovered.iter().map(|n| (discovered_vip(*n), true));
        let all: Vec<(String, bool)> = config.chain(http).chain(found).collect();
        let with_nat = all
            .iter()
            .filter(|(_, nat)| *nat)
            .map(|(vip, _)| vip.clone());
        (
            all.iter().map(|(vip, _)| vip.clone()).collect(),
            with_nat.collect(),
        )
    }

    fn assert_as_modeled(&mut self) {
        let (vips, with_nat) = self.model();
        println!("    {:?}", self.done);
        println!(
            "    {} VIPs, {} of them with NAT",
            vips.len(),
            with_nat.len()
        );
        // What a crash left and is not desired any more goes with its lease.
        let limit = 3 * LEASE;
        until(limit, "the router knows what the model says", || {
            self.sidecast.must_run();
            let text = self.router.ask("show route protocol a");
            let routes = text.lines().filter_map(|line| line.split_once("/32 "));
            let routes: BTreeSet<String> = routes.map(|(vip, _)| vip.trim().to_owned()).collect();
            expect(routes == vips, differences(&routes, &vips))
        });
        until(limit, "lo has the addresses of the model", || {
            let addresses = self.host().addresses("lo").into_iter();
            let bare = addresses.map(|address| address.trim_end_matches("/32").to_owned());
            let addresses: BTreeSet<String> = bare.collect();
            expect(addresses == vips, differences(&addresses, &vips))
        });
        until(limit, "NAT has the VIPs of the model", || {
            // The table of the path's probes is of the family inet.
            let rules = |family| self.host().run("nft", &["list", "ruleset", family]);
            let rules = rules("ip") + &rules("ip6");
            let words = rules.split(|c: char| !(c.is_ascii_digit() || c == '.'));
            let all = (0..12).flat_map(|n| [http_vip(n), discovered_vip(n), config_vip(n)]);
            let known: BTreeSet<String> = all.collect();
            let found: BTreeSet<String> = words
                .map(str::to_owned)
                .filter(|word| known.contains(word))
                .collect();
            expect(found == with_nat, differences(&found, &with_nat))
        });
    }

    fn assert_bounded(&mut self) {
        let id = self.sidecast.id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss: u64 = rss
            .and_then(|rss| rss.split_whitespace().next()?.parse().ok())
            .expect("a number");
        let open = || fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
        until(PATIENCE, "what was opened is closed", || {
            expect(open() < 64, open())
        });
        println!("    {rss} KiB resident, {} descriptors", open());
        // A debug build with 24 apps, two sessions of Consul and whatever its heap has kept.
        assert!(rss < 40 * 1024, "{rss} KiB");
        let flaps = self.metric("sidecast_bgp_flaps_total");
        assert_eq!(
            flaps,
            Some(0.0),
            "the session was lost since the last start"
        );
        let log = self.sidecast.log();
        assert!(!log.contains("panicked"), "{log}");
        match self.longest_turn() {
            Some(longest) => {
                println!("    longest turn of the loop: {longest:?}");
                assert!(longest < HOLD_TIME / 10, "{longest:?}");
            }
            None => println!("    the longest turn of the loop is unknown"),
        }
    }

    fn longest_turn(&self) -> Option<Duration> {
        self.metric("sidecast_loop_longest_seconds")
            .map(Duration::from_secs_f64)
    }

    /// The sum of a metric's samples.
    fn metric(&self, name: &str) -> Option<f64> {
        let text = self.sidecast.get(self.host(), "/metrics").body;
        let samples = text.lines().filter(|line| line.starts_with(name));
        let values = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.reduce(|sum, value| sum + value)
    }
}

fn differences(found: &BTreeSet<String>, wanted: &BTreeSet<String>) -> String {
    let more: Vec<_> = found.difference(wanted).collect();
    let missing: Vec<_> = wanted.difference(found).collect();
    format!("too many: {more:?}, missing: {missing:?}")
}

fn yaml(site: &Site, config: &BTreeSet<u64>) -> String {
    let folder = site.a.network.dir().display().to_string();
    let apps: String = config
        .iter()
        .map(|n| {
            let vip = config_vip(*n);
            format!("  - {{name: file{n}, vip: {vip}/32, monitors: [\"port:tcp:8000\"], interval: 200ms, hold_down: off}}\n")
        })
        .collect();
    format!(
        "agent:\n  listen_addr: [\"127.0.0.1:8179\", \"{host}:8080\"]\n  vip_linger: 500ms\n  vip_lease: 20s\n  drain_time: 200ms\n  \
         state_file: {folder}/state\n  consul_addr: http://127.0.0.1:8500\n\
         bgp:\n  local_as: 65001\n  peer_as: 65000\n  peer_ip: {router}\n  hold_time: 9s\n  listen: \"[::]:179\"\n\
         apps:{}\n{apps}",
        if apps.is_empty() { " []" } else { "" },
        host = site.a.addresses.host4,
        router = site.a.addresses.router4,
    )
}

fn registration(number: u64) -> String {
    let nat = if has_stale_nat(number) {
        "&nat=tcp:90:9090"
    } else {
        ""
    };
    let vip = http_vip(number);
    format!(
        "/register?name=http{number}&vip={vip}/32&monitor=port:tcp:8000&interval=200ms&hold_down=off{nat}"
    )
}

fn has_stale_nat(number: u64) -> bool {
    number % 3 == 0
}

fn config_vip(number: u64) -> String {
    format!("192.0.2.{}", 100 + number)
}

fn http_vip(number: u64) -> String {
    format!("203.0.113.{}", 100 + number)
}

fn discovered_vip(number: u64) -> String {
    format!("198.51.100.{}", 100 + number)
}

/// `vip_lease`.
const LEASE: Duration = Duration::from_secs(20);
const HOLD_TIME: Duration = Duration::from_secs(9);
const PATIENCE: Duration = Duration::from_secs(30);
const BRIEFLY: Duration = Duration::from_millis(200);
