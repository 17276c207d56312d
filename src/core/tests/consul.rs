//! Apps that come from Consul.

use std::time::Duration;

use super::bench::{Bench, config, config_with, secs, session_events};
use crate::config::Config;
use crate::consul::{Catalog, Check, Checks, Query, Service, Status};
use crate::core::{AppState, ConsulReport, Core, Event};
use crate::health::Outcome;

const VIP: &str = "192.0.2.1/32";

fn settings(more: &str) -> Config {
    config(&format!("consul_addr: 'http://localhost:8500', {more}"), "")
}

pub(super) fn service(id: &str, tags: &[&str]) -> Service {
    let all = ["enable_gocast", "gocast_monitor=consul"]
        .iter()
        .chain(tags);
    Service {
        id: id.to_owned(),
        name: id
            .trim_end_matches(|c: char| c.is_numeric() || c == '-')
            .to_owned(),
        tags: all.map(|tag| (*tag).to_owned()).collect(),
    }
}

fn web(id: &str) -> Service {
    service(id, &["gocast_vip=192.0.2.1/32"])
}

pub(super) fn check(id: &str, status: Status) -> Check {
    Check {
        id: format!("service:{id}"),
        name: id.to_owned(),
        status,
        service_id: id.to_owned(),
        service_name: String::new(),
        output: String::new(),
    }
}

impl Bench {
    pub(super) fn services(&mut self, services: &[Service]) {
        let services = services.to_vec();
        self.report(ConsulReport::Services(Catalog {
            services,
            complete: true,
        }));
    }

    fn passing(&mut self, ids: &[&str]) {
        let all = ids.iter().map(|id| check(id, Status::Passing)).collect();
        self.report(ConsulReport::NodeChecks(Checks {
            all,
            complete: true,
        }));
    }

    pub(super) fn report(&mut self, report: ConsulReport) {
        self.event(Event::Consul(report));
        self.advance(secs(0));
    }

    fn away(&mut self) {
        for query in [Query::Services, Query::NodeChecks] {
            let why = "gone".to_owned();
            self.report(ConsulReport::Failed { query, why });
        }
    }
}

#[test]
fn a_service_comes_and_goes_with_its_tags_and_checks() {
    let mut bench = Bench::new(settings(""));
    assert_eq!(bench.core.consul_up(), Some(false));
    bench.services(&[web("web-1")]);
    assert_eq!(bench.state("web"), AppState::Pending);
    bench.passing(&["web-1"]);
    assert!(bench.is_announced(VIP));
    assert_eq!(bench.core.consul_up(), Some(true));
    bench.passing(&["other"]);
    bench.advance(secs(10));
    assert_eq!(bench.state("web"), AppState::Down, "no check of its own");
    bench.passing(&["web-1"]);
    assert!(bench.is_announced(VIP));
    bench.services(&[]);
    assert!(!bench.is_announced(VIP));
    assert_eq!(bench.core.apps(bench.now, None).count(), 0);
}

#[test]
fn the_agents_view_counts_where_it_knows_the_service() {
    let mut bench = Bench::new(settings(""));
    bench.services(&[web("web-1")]);
    bench.passing(&["web-1"]);
    let agent = |all: Vec<Check>| {
        ConsulReport::AgentChecks(Checks {
            all,
            complete: true,
        })
    };
    bench.report(agent(vec![check("web-1", Status::Critical)]));
    assert!(!bench.is_announced(VIP));
    bench.report(agent(vec![]));
    assert!(bench.is_announced(VIP), "as the cluster says");
    let mut serf = check("", Status::Critical);
    serf.id = "serfHealth".to_owned();
    let all = vec![serf];
    bench.report(ConsulReport::NodeChecks(Checks {
        all,
        complete: true,
    }));
    bench.report(agent(vec![check("web-1", Status::Passing)]));
    assert!(
        !bench.is_announced(VIP),
        "the cluster does not see the node"
    );
}

#[test]
fn a_standby_takes_over_without_a_withdraw() {
    let mut bench = Bench::new(settings(""));
    let nat = |id: &str, port: u16| {
        service(
            id,
            &[
                "gocast_vip=192.0.2.1/32",
                &format!("gocast_nat=tcp:80:{port}"),
            ],
        )
    };
    let both = [nat("web-1", 8001), nat("web-2", 8002)];
    bench.services(&both);
    bench.passing(&["web-1", "web-2"]);
    assert!(bench.is_announced(VIP));
    let target = |bench: &Bench| bench.nat.rules.first().map(|rule| rule.destination);
    assert_eq!(target(&bench), Some(8001));
    assert_eq!(bench.state("web@web-2"), AppState::Up);
    let addressed = |app: &str| bench.app(app).vips[0].addressed;
    assert!(!addressed("web@web-2") && addressed("web"));
    bench.advance(secs(5));
    bench.log.clear();
    bench.passing(&["web-2"]);
    assert_eq!(target(&bench), Some(8002));
    bench.passing(&["web-1", "web-2"]);
    assert_eq!(target(&bench), Some(8002), "it stays where it is");
    bench.services(&both[1..]);
    assert_eq!(target(&bench), Some(8002));
    assert_eq!(
        bench.state("web"),
        AppState::Up,
        "by the service's own name again"
    );
    bench.services(&both);
    bench.services(&both[..1]);
    assert_eq!(target(&bench), Some(8001));
    assert!(
        !bench.log.iter().any(|line| !line.starts_with("nat")),
        "{:?}",
        bench.log
    );
    bench.advance(secs(5));
    bench.passing(&["none"]);
    assert!(!bench.is_announced(VIP));
}

#[test]
fn an_instance_that_goes_takes_nothing_from_the_others() {
    let own = |id: &str, vip: &str, port: &str| Service {
        tags: vec![
            "enable_gocast".into(),
            format!("gocast_vip={vip}"),
            format!("gocast_monitor=port:tcp:{port}"),
        ],
        ..web(id)
    };
    let both = [
        own("web-1", VIP, "8001"),
        own("web-2", "192.0.2.2/32", "8002"),
    ];
    let outcomes = [("port:tcp:8001", true), ("port:tcp:8002", true)];
    let mut bench = Bench::with_outcomes(settings(""), &outcomes);
    bench.services(&both);
    bench.advance(secs(5));
    assert!(bench.is_announced(VIP) && bench.is_announced("192.0.2.2/32"));
    bench.log.clear();
    // A check takes its time.
    bench.outcomes.clear();
    bench.services(&both[1..]);
    bench.advance(secs(5));
    assert!(bench.is_announced("192.0.2.2/32") && !bench.is_announced(VIP));
    assert_eq!(bench.state("web"), AppState::Up);
    assert_eq!(bench.core.apps(bench.now, None).count(), 1);
    let of_it = |line: &&String| line.contains("192.0.2.2");
    let lost: Vec<&String> = bench.log.iter().filter(of_it).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_drain_of_the_service_drains_all_its_instances() {
    let mut bench = Bench::new(settings(""));
    bench.services(&[web("web-1"), web("web-2")]);
    bench.passing(&["web-1", "web-2"]);
    bench.core.unregister(bench.now, &"web".parse().unwrap());
    bench.advance(secs(5));
    assert!(!bench.is_announced(VIP));
    assert_eq!(bench.state("web@web-2"), AppState::Drained);
    bench.services(&[web("web-1"), web("web-2"), web("web-3")]);
    bench.passing(&["web-1", "web-2", "web-3"]);
    assert!(!bench.is_announced(VIP), "a drain belongs to the name");
    bench.core.undrain(bench.now, Some(&"web".parse().unwrap()));
    bench.advance(secs(0));
    assert!(bench.is_announced(VIP));
}

#[test]
fn while_consul_is_unreachable_everything_stays() {
    let mut bench = Bench::new(settings(""));
    bench.services(&[web("web-1")]);
    bench.passing(&["web-1"]);
    bench.away();
    assert_eq!(bench.core.consul_up(), Some(false));
    bench.advance(secs(10_000));
    assert!(bench.is_announced(VIP));
    let last = bench.app("web").monitors[0].last.clone();
    assert!(matches!(last, Some(Outcome::Unavailable(_))), "{last:?}");
    // Half of an answer takes nothing away, but what it holds counts.
    let catalog = Catalog {
        services: vec![service("dns", &["gocast_vip=192.0.2.2/32"])],
        complete: false,
    };
    bench.report(ConsulReport::Services(catalog));
    assert!(bench.is_announced(VIP) && bench.app("dns").source == crate::app::Source::Consul);
    bench.passing(&["web-1", "dns"]);
    assert_eq!(
        bench.core.consul_up(),
        Some(false),
        "the answer is incomplete"
    );
    bench.services(&[web("web-1")]);
    assert_eq!(bench.core.consul_up(), Some(true));
}

/// It stayed away until Consul had news.
#[test]
fn a_service_that_found_no_room_comes_when_there_is_some() {
    let mut bench = Bench::new(settings("max_vips: 1"));
    let held = [("name", "held"), ("vip", "192.0.2.9/32")];
    bench.register(&held).unwrap();
    bench.services(&[web("web-1")]);
    bench.passing(&["web-1"]);
    assert_eq!(bench.state("web"), AppState::Invalid);
    // Another VIP in place of one is no room.
    let moved = [("name", "held"), ("vip", "192.0.2.8/32")];
    bench.register(&moved).unwrap();
    assert_eq!(bench.state("web"), AppState::Invalid);
    bench.unregister("held");
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP));
    assert_eq!(bench.state("web"), AppState::Up);
}

#[test]
fn consul_grace_ends_with_a_withdraw() {
    let mut bench = Bench::new(settings("consul_grace: 1m"));
    let port = Service {
        tags: vec!["enable_gocast".into(), "gocast_vip=192.0.2.2/32".into()],
        ..web("p")
    };
    bench.services(&[web("web-1"), port]);
    bench.passing(&["web-1"]);
    bench.away();
    bench.advance(secs(59));
    assert!(bench.is_announced(VIP) && bench.is_announced("192.0.2.2/32"));
    bench.advance(secs(2));
    assert!(!bench.is_announced(VIP) && !bench.is_announced("192.0.2.2/32"));
    assert_eq!(bench.state("web"), AppState::Invalid);
    bench.services(&[web("web-1")]);
    bench.passing(&["web-1"]);
    assert!(bench.is_announced(VIP));
}

#[test]
fn a_restart_during_an_outage_announces_what_passed() {
    let mut bench = Bench::new(settings(""));
    bench.services(&[web("web-1"), service("dns", &["gocast_vip=192.0.2.2/32"])]);
    bench.passing(&["web-1"]);
    bench
        .register(&[("name", "http"), ("vip", "192.0.2.3/32")])
        .unwrap();
    bench
        .register(&[("name", "out"), ("vip", "192.0.2.4/32")])
        .unwrap();
    bench.core.drain(bench.now, Some(&"out".parse().unwrap()));
    assert!(bench.core.take_state_changed() && !bench.core.take_state_changed());
    let memory = bench.core.saved_state();
    let restart = |bench: &mut Bench| {
        bench.core = Core::new(settings(""), 3, bench.now);
        bench.core.restore(bench.now, memory.clone());
        bench.event(Event::Network(super::bench::network()));
        bench.advance(Duration::from_millis(200));
    };
    restart(&mut bench);
    assert!(
        !bench.is_announced(VIP),
        "Consul may be about to say otherwise"
    );
    assert!(bench.is_announced("192.0.2.3/32") && !bench.is_announced("192.0.2.4/32"));
    assert_eq!(
        bench.core.saved_state(),
        memory,
        "one more restart before Consul is given up forgets nothing"
    );
    bench.away();
    assert!(bench.is_announced(VIP) && !bench.is_announced("192.0.2.2/32"));
    assert_eq!(bench.core.saved_state(), memory);
    bench.services(&[web("web-1")]);
    bench.passing(&["dns"]);
    bench.advance(secs(10));
    assert!(!bench.is_announced(VIP), "Consul has reported it");
    restart(&mut bench);
    bench.services(&[]);
    bench.away();
    assert!(!bench.is_announced(VIP));
}

/// A Consul that takes connections and says nothing is as good as away: what passed is announced once
/// it had a moment to say otherwise, and withdrawn when it does.
#[test]
fn a_restart_while_consul_does_not_answer_announces_what_passed() {
    let mut bench = Bench::new(settings(""));
    bench.services(&[web("web-1"), service("dns", &["gocast_vip=192.0.2.2/32"])]);
    bench.passing(&["web-1"]);
    let memory = bench.core.saved_state();
    bench.core = Core::new(settings(""), 3, bench.now);
    bench.core.restore(bench.now, memory.clone());
    bench.event(Event::Network(super::bench::network()));
    bench.advance(Duration::from_millis(299));
    assert!(!bench.is_announced(VIP));
    bench.advance(Duration::from_millis(2));
    assert!(bench.is_announced(VIP) && !bench.is_announced("192.0.2.2/32"));
    assert_eq!(bench.core.saved_state(), memory);
    let last = bench.app("web").monitors[0].last.clone();
    let why = "state from before the restart; Consul has not answered yet";
    assert_eq!(last, Some(Outcome::Pass(why.to_owned())));
    bench.services(&[web("web-1")]);
    bench.report(ConsulReport::NodeChecks(Checks {
        all: vec![check("web-1", Status::Critical)],
        complete: true,
    }));
    assert!(!bench.is_announced(VIP), "Consul has reported it");
}

/// An app of the configuration that asks Consul is remembered like a service of Consul's.
#[test]
fn a_configured_app_that_asks_consul_survives_a_restart_during_an_outage() {
    let text = "{name: web, vip: 192.0.2.1/32, monitors: [consul]}, \
                {name: dns, vip: 192.0.2.2/32, monitors: [consul]}";
    let settings = || config_with("", "consul_addr: 'http://localhost:8500'", text);
    let check = |id: &str, status| Check {
        service_name: id.to_owned(),
        ..check(id, status)
    };
    let mut bench = Bench::new(settings());
    bench.services(&[]);
    let all = vec![
        check("web", Status::Passing),
        check("dns", Status::Critical),
    ];
    let complete = true;
    bench.report(ConsulReport::NodeChecks(Checks { all, complete }));
    assert!(bench.is_announced(VIP) && !bench.is_announced("192.0.2.2/32"));
    let memory = bench.core.saved_state();
    for _ in 0..2 {
        bench.core = Core::new(settings(), 3, bench.now);
        bench.core.restore(bench.now, memory.clone());
        bench.event(Event::Network(super::bench::network()));
        bench.away();
        assert!(bench.is_announced(VIP) && !bench.is_announced("192.0.2.2/32"));
        assert_eq!(bench.core.saved_state(), memory);
    }
    let all = vec![check("web", Status::Critical)];
    bench.report(ConsulReport::NodeChecks(Checks { all, complete }));
    assert!(!bench.is_announced(VIP), "Consul has reported it");
}

/// Routers that kept our routes over a quiet restart drop what the first End-of-RIB does not hold, also
/// those of services that Consul has yet to name.
#[test]
fn end_of_rib_is_deferred_until_consul_has_answered() {
    let restarted = |bench: &mut Bench| {
        let before = Some(crate::core::Predecessor { forwarding: true });
        bench.core = Core::new(settings(""), 3, bench.now).on_host(bench.now, None, before);
        bench.event(Event::Network(super::bench::network()));
        bench.advance(secs(1));
        assert!(!bench.core.peers.is_complete());
    };
    let mut bench = Bench::new(settings(""));
    restarted(&mut bench);
    bench.services(&[web("web-1")]);
    assert!(!bench.core.peers.is_complete(), "its checks are not known");
    bench.passing(&["web-1"]);
    assert!(bench.core.peers.is_complete() && bench.is_announced(VIP));
    restarted(&mut bench);
    bench.services(&[]);
    assert!(bench.core.peers.is_complete(), "there is none");
    restarted(&mut bench);
    bench.advance(secs(5));
    assert!(bench.core.peers.is_complete(), "not forever");
}

/// Two ids that make one name: the one that has it keeps it, the other is there to be seen.
#[test]
fn two_services_of_one_name_keep_their_app_names() {
    let mut bench = Bench::new(settings(""));
    let clash = |id: &str, vip: &str| Service {
        name: "web".to_owned(),
        ..service(id, &[&format!("gocast_vip={vip}/32")])
    };
    let first = clash("a", "192.0.2.1");
    let (at, underscore) = (clash("x@1", "192.0.2.2"), clash("x_1", "192.0.2.3"));
    let ids = ["a", "x@1", "x_1"];
    bench.services(&[first.clone(), underscore.clone()]);
    bench.passing(&ids);
    assert!(bench.is_announced("192.0.2.3/32"));
    let both = [first.clone(), at.clone(), underscore.clone()];
    for services in [&both[..], &both[..]] {
        bench.services(services);
        bench.passing(&ids);
        assert_eq!(bench.state("web@x_1"), AppState::Up);
        assert!(bench.is_announced("192.0.2.3/32") && !bench.is_announced("192.0.2.2/32"));
        let other = bench.app("web@x_1~2");
        assert_eq!(other.state, AppState::Invalid);
        let why = "service x@1 in Consul: its name web@x_1 is already used by service x_1";
        assert_eq!(other.why, why);
    }
    assert!(!bench.done().contains(&"withdraw 192.0.2.3/32".to_owned()));
    // The name is free again, and the other one takes it.
    bench.services(&[first, at]);
    bench.passing(&ids);
    assert!(bench.is_announced("192.0.2.2/32") && !bench.is_announced("192.0.2.3/32"));
    assert_eq!(bench.state("web@x_1"), AppState::Up);
    assert!(
        bench
            .core
            .app(bench.now, &super::bench::name("web@x_1~2"))
            .is_none()
    );
    // Without a past the smaller id wins.
    let mut bench = Bench::new(settings(""));
    bench.services(&both);
    bench.passing(&ids);
    assert!(bench.is_announced("192.0.2.2/32") && !bench.is_announced("192.0.2.3/32"));
}

/// An instance is drained by its own name, also while it goes by that of the service.
#[test]
fn a_drain_follows_an_instance_through_its_names() {
    let mut bench = Bench::new(settings(""));
    let two = service("web-2", &["gocast_vip=192.0.2.2/32"]);
    let (first, second) = ([web("web-1"), two.clone()], [two]);
    let ids = ["web-1", "web-2"];
    bench.services(&first);
    bench.passing(&ids);
    let instance = super::bench::name("web@web-2");
    bench.core.drain(bench.now, Some(&instance));
    bench.advance(secs(5));
    assert!(bench.is_announced(VIP) && !bench.is_announced("192.0.2.2/32"));
    bench.services(&second);
    assert_eq!(bench.state("web"), AppState::Drained);
    // Another's drain that ends is not this one's.
    bench
        .core
        .undrain(bench.now, Some(&super::bench::name("other")));
    bench.advance(secs(5));
    assert_eq!(bench.state("web"), AppState::Drained);
    // A restart knows it too.
    let memory = bench.core.saved_state();
    bench.core = Core::new(settings(""), 3, bench.now);
    bench.core.restore(bench.now, memory);
    bench.event(Event::Network(super::bench::network()));
    bench.services(&second);
    bench.passing(&ids);
    assert!(!bench.is_announced("192.0.2.2/32"));
    // And back.
    bench.services(&first);
    bench.passing(&ids);
    bench.advance(secs(5));
    assert!(bench.is_announced(VIP) && !bench.is_announced("192.0.2.2/32"));
    bench.core.undrain(bench.now, Some(&instance));
    bench.advance(secs(5));
    assert!(bench.is_announced("192.0.2.2/32"));
}

/// A request for an instance takes precedence over one for its service; the latest word on the service
/// is one on its instances.
#[test]
fn an_instance_can_come_back_alone() {
    let mut bench = Bench::new(settings(""));
    let two = "192.0.2.2/32";
    bench.services(&[web("web-1"), service("web-2", &["gocast_vip=192.0.2.2/32"])]);
    bench.passing(&["web-1", "web-2"]);
    let [all, instance] = ["web", "web@web-2"].map(super::bench::name);
    let mut after = |drain: bool, name| {
        match drain {
            true => bench.core.drain(bench.now, Some(name)),
            false => bench.core.undrain(bench.now, Some(name)),
        }
        bench.advance(secs(70));
        [VIP, two].map(|vip| bench.is_announced(vip))
    };
    assert_eq!(after(true, &all), [false, false]);
    assert_eq!(after(false, &instance), [false, true]);
    assert_eq!(after(true, &all), [false, false]);
    assert_eq!(after(false, &all), [true, true]);
    assert_eq!(after(true, &instance), [true, false]);
    assert_eq!(after(false, &all), [true, true]);
}

#[test]
fn a_reload_keeps_consul_apps_and_applies_the_new_policy() {
    let mut bench = Bench::new(settings(""));
    bench.services(&[web("web-1")]);
    bench.passing(&["web-1"]);
    bench.core.reload(bench.now, config("", ""));
    bench.advance(secs(10));
    assert!(bench.is_announced(VIP), "taken at the next start");
    let closed = settings("allowed_vips: [198.51.100.0/24]");
    let message = bench.core.reload(bench.now, closed);
    assert!(
        message[0].starts_with("app web: withdrawn: vip: ")
            && message[0].ends_with("(set agent.allowed_vips to allow it)"),
        "{message:?}"
    );
    bench.advance(secs(0));
    assert!(!bench.is_announced(VIP));
    assert_eq!(bench.app("web").vips.len(), 1, "what it is is shown");
    let message = bench.core.reload(bench.now, settings(""));
    assert_eq!(message[0], "app web: permitted again");
    bench.advance(secs(0));
    assert!(bench.is_announced(VIP));
    // A token counts from the next query on, the rest does not.
    let mut reload = |more| bench.core.reload(bench.now, settings(more));
    assert_eq!(reload("consul_token: x"), ["agent.consul_token: changed"]);
    assert_eq!(
        reload("consul_token: x, consul_datacenter: d"),
        ["agent.consul_datacenter: changed, takes effect at the next start"]
    );
}

#[test]
fn higher_sources_keep_their_names_and_vips() {
    let text = "{name: web, vip: 192.0.2.9/32}, {name: mine, vip: 192.0.2.1/32}";
    let agent = "consul_addr: 'http://localhost:8500'";
    let mut bench = Bench::new(config_with("", agent, text));
    bench.services(&[web("web-1"), web("other-1")]);
    bench.passing(&["web-1", "other-1"]);
    assert_eq!(bench.app("web").source, crate::app::Source::Config);
    assert_eq!(bench.state("other"), AppState::Invalid);
    assert!(bench.app("other").why.contains("held by app mine"));
    bench.services(&[Service {
        tags: vec!["enable_gocast".into()],
        ..web("bad-1")
    }]);
    assert_eq!(bench.state("bad"), AppState::Invalid);
    assert!(
        bench.core.ready().is_ok() || bench.core.ready().is_err_and(|why| !why.contains("bad"))
    );
}

/// Its service's route is out, whichever instance holds it; no other UPDATE tells of that.
#[test]
fn a_standby_that_comes_up_later_keeps_nobody_unready() {
    let mut bench = Bench::new(settings(""));
    for event in session_events() {
        bench.event(event);
    }
    bench.services(&[web("web-1")]);
    bench.passing(&["web-1"]);
    assert_eq!(bench.core.ready(), Ok(()));
    bench.services(&[web("web-1"), web("web-2")]);
    bench.passing(&["web-1", "web-2"]);
    assert_eq!(bench.state("web@web-2"), AppState::Up);
    assert_eq!(bench.core.ready(), Ok(()));
}

/// The machine alone: what each event and each deadline brings.
#[test]
fn saved_state_waits_for_consuls_first_answer_and_outages_for_grace() {
    use crate::core::consul::{ConsulState, Event, Output};
    let settings = settings("consul_grace: 40s").agent.consul.unwrap();
    let mut machine = ConsulState::new(settings);
    let start = std::time::Instant::now();
    let step = |machine: &mut ConsulState, at: Duration, event: Option<Event>| {
        match event {
            Some(event) => machine.handle(start + at, event),
            None => machine.handle_timeout(start + at),
        }
        let outputs = std::iter::from_fn(|| machine.poll_output());
        let outputs = outputs.map(|output| match output {
            Output::Services { all, expired } => {
                let names = all.iter().map(|named| named.name.as_str());
                let names: Vec<&str> = names.collect();
                format!("{names:?}{}", if expired { " expired" } else { "" })
            }
            Output::ChecksChanged => "rechecked".to_owned(),
        });
        let outputs: Vec<String> = outputs.collect();
        let due = machine.poll_timeout().map(|at| at - start);
        (outputs.join(", "), due)
    };
    let failed = || {
        Event::Report(ConsulReport::Failed {
            query: Query::Services,
            why: "refused".to_owned(),
        })
    };
    let (at, ms) = (secs, Duration::from_millis);
    let restored = Event::Restored {
        services: vec![(web("web-1"), true)],
        passed_apps: [].into(),
    };
    let expected = |text: &str, due: Option<Duration>| (text.to_owned(), due);
    assert_eq!(machine.poll_timeout(), None);
    assert_eq!(
        step(&mut machine, at(0), Some(restored)),
        expected("[\"web\"], rechecked", Some(ms(300)))
    );
    assert_eq!(
        step(&mut machine, ms(300), None),
        expected("rechecked", None)
    );
    assert_eq!(
        step(&mut machine, at(1), Some(failed())),
        expected("rechecked", Some(at(41)))
    );
    assert_eq!(
        step(&mut machine, at(2), Some(failed())),
        expected("", Some(at(41))),
        "no news, and no new grace"
    );
    assert_eq!(
        step(&mut machine, at(41), None),
        expected("[\"web\"] expired, rechecked", None)
    );
    let catalog = || {
        Event::Report(ConsulReport::Services(Catalog {
            services: vec![web("web-1")],
            complete: true,
        }))
    };
    assert_eq!(
        step(&mut machine, at(50), Some(catalog())).0,
        "[\"web\"] expired, rechecked, [\"web\"], rechecked"
    );
    assert_eq!(
        step(&mut machine, at(51), Some(catalog())),
        expected("", None)
    );
    assert_eq!(
        step(&mut machine, at(52), Some(Event::Reconfigured)),
        expected("[\"web\"], rechecked", None)
    );
}
