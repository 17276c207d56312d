//! Who may have what: sources, VIPs, the network, and what a new configuration changes.

use super::bench::{Bench, config, config_with, name, network, prefix, secs};
use crate::app::Source;
use crate::core::{AppState, Core, Event, Output, Refusal, RegisterOutcome};
use crate::net::Family;

const VIP: &str = "192.0.2.53/32";
const DNS: &str = "{name: dns, vip: 192.0.2.53/32}";

#[test]
fn a_vip_has_one_holder_and_the_refusal_names_it() {
    let mut bench = Bench::new(config("", DNS));
    let refusal = bench
        .register(&[("name", "web"), ("vip", VIP)])
        .unwrap_err();
    assert!(
        matches!(&refusal, Refusal::Conflict(why) if why.contains("dns")),
        "{refusal}"
    );
    assert!(bench.core.app(bench.now, &name("web")).is_none());
    bench
        .register(&[("name", "web"), ("vip", "192.0.2.80/32")])
        .unwrap();
    let two = [("name", "web"), ("vip", "192.0.2.80/32"), ("vip", VIP)];
    assert!(bench.register(&two).is_err());
    assert!(
        bench.is_announced("192.0.2.80/32"),
        "a refused change changes nothing"
    );
}

#[test]
fn a_lower_source_cannot_change_what_a_higher_one_defined() {
    let mut bench = Bench::new(config("", DNS));
    let same = [("name", "dns"), ("vip", VIP)];
    assert_eq!(bench.register(&same).unwrap(), RegisterOutcome::Unchanged);
    let other = [("name", "dns"), ("vip", "192.0.2.80/32")];
    assert!(matches!(bench.register(&other), Err(Refusal::Conflict(_))));
    assert_eq!(bench.app("dns").source, Source::Config);
}

#[test]
fn a_higher_source_takes_over_in_place() {
    let mut bench = Bench::new(config("", ""));
    bench.register(&[("name", "dns"), ("vip", VIP)]).unwrap();
    bench.done();
    let report = bench.core.reload(bench.now, config("", DNS));
    bench.reconcile();
    assert_eq!(report, ["app dns: changed source"]);
    assert_eq!(bench.app("dns").source, Source::Config);
    assert!(bench.done().is_empty(), "the route did not flap");
}

/// In GoCast whoever reached the port could run commands, and unknown monitors were accepted.
#[test]
fn exec_monitors_run_only_from_allowed_sources() {
    let mut bench = Bench::new(config("allow_exec: [http]", ""));
    let params = [("name", "a"), ("vip", VIP), ("monitor", "exec:/bin/true")];
    bench.register(&params).unwrap();
    let mut app = super::bench::app(bench.core.config(), &params);
    app.source = Source::Consul;
    app.name = name("b");
    let refusal = bench.core.register(bench.now, app).unwrap_err();
    assert!(matches!(
        refusal,
        Refusal::Policy {
            key: "agent.allow_exec",
            ..
        }
    ));
}

#[test]
fn http_may_register_so_many_apps() {
    let mut bench = Bench::new(config("max_http_apps: 1", DNS));
    bench
        .register(&[("name", "a"), ("vip", "192.0.2.1/32")])
        .unwrap();
    bench
        .register(&[("name", "a"), ("vip", "192.0.2.2/32")])
        .unwrap();
    let refusal = bench
        .register(&[("name", "b"), ("vip", "192.0.2.3/32")])
        .unwrap_err();
    assert!(matches!(
        refusal,
        Refusal::Policy {
            key: "agent.max_http_apps",
            ..
        }
    ));
}

#[test]
fn a_vip_that_cuts_the_host_off_is_refused() {
    let mut bench = Bench::new(config("allowed_vips: [10.0.0.0/8, 2001:db8::/32]", ""));
    for vip in [
        "10.0.0.2/32",
        "10.0.0.2/31",
        "10.0.0.255/32",
        "2001:db8::/64",
    ] {
        let refusal = bench.register(&[("name", "a"), ("vip", vip)]).unwrap_err();
        assert!(matches!(refusal, Refusal::Invalid(_)), "{vip}: {refusal}");
    }
    bench
        .register(&[("name", "a"), ("vip", "10.0.1.1/32")])
        .unwrap();
}

#[test]
fn a_vip_that_starts_to_cut_the_host_off_goes_at_once() {
    let mut bench = Bench::new(config("", DNS));
    assert!(bench.has_address(VIP));
    let mut moved = network();
    moved.gateways.insert("192.0.2.53".parse().unwrap());
    bench.event(Event::Network(moved));
    assert_eq!(bench.state("dns"), AppState::Invalid);
    assert!(bench.app("dns").why.contains("the gateway 192.0.2.53"));
    assert!(!bench.is_announced(VIP) && !bench.has_address(VIP));
    bench.event(Event::Network(network()));
    assert!(bench.is_announced(VIP));
}

/// GoCast silently never announced an IPv6 VIP.
#[test]
fn a_vip_without_a_next_hop_says_so_and_the_others_go_out() {
    let app = "{name: dns, vips: [192.0.2.53/32, 2001:db8::53/128]}";
    let mut bench = Bench::new(config("", app));
    assert!(bench.is_announced("2001:db8::53/128"));
    let mut single = network();
    let peer = single.peers.values_mut().next().unwrap();
    peer.next_hop6 = None;
    bench.event(Event::Network(single));
    assert_eq!(bench.state("dns"), AppState::Invalid);
    assert!(
        bench.app("dns").why.contains("ipv6"),
        "{}",
        bench.app("dns").why
    );
    assert!(bench.is_announced(VIP) && !bench.is_announced("2001:db8::53/128"));
    let explicit = "{name: dns, vips: [192.0.2.53/32, 2001:db8::53/128], vip_config: {next_hop6: 2001:db8::9}}";
    bench.core.reload(bench.now, config("", explicit));
    bench.reconcile();
    assert!(bench.is_announced("2001:db8::53/128"));
}

#[test]
fn nat_without_a_target_is_reported() {
    let mut bench = Bench::new(config(
        "",
        "{name: dns, vip: 192.0.2.53/32, nats: [\"udp:53:8053\"]}",
    ));
    assert!(bench.is_announced(VIP));
    let mut without = network();
    without.nat_target.remove(&Family::Ipv4);
    bench.event(Event::Network(without));
    assert_eq!(bench.state("dns"), AppState::Invalid);
    assert!(!bench.is_announced(VIP) && bench.nat.rules.is_empty());
}

#[test]
fn a_configured_app_that_is_refused_is_shown_as_invalid() {
    let mut bench = Bench::new(config("", ""));
    bench.register(&[("name", "web"), ("vip", VIP)]).unwrap();
    bench.core.reload(bench.now, config("", DNS));
    bench.reconcile();
    assert_eq!(bench.state("dns"), AppState::Invalid);
    assert!(bench.app("dns").why.contains("web"));
    assert!(bench.is_announced(VIP));
    bench.done();
    bench.unregister("web");
    bench.advance(secs(1));
    assert_eq!(bench.state("dns"), AppState::Up);
    assert!(bench.is_announced(VIP));
}

/// Contract: an app from the configuration is withdrawn and drained, its name stays taken.
#[test]
fn an_app_of_the_configuration_that_is_unregistered_is_drained_and_keeps_its_name() {
    let mut bench = Bench::new(config("", DNS));
    bench.reconcile();
    bench.unregister("dns");
    bench.advance(secs(5));
    assert_eq!(bench.state("dns"), AppState::Drained);
    assert!(
        bench
            .register(&[("name", "dns"), ("vip", "192.0.2.99/32")])
            .is_err()
    );
}

#[test]
fn a_reload_lists_what_changed_and_touches_nothing_else() {
    let apps =
        "{name: a, vip: 192.0.2.1/32}, {name: b, vip: 192.0.2.2/32}, {name: c, vip: 192.0.2.3/32}";
    let mut bench = Bench::new(config("", apps));
    bench.done();
    let apps = "{name: a, vip: 192.0.2.1/32}, {name: b, vip: 192.0.2.2/32, drain_time: 1s}, {name: d, vip: 192.0.2.4/32}";
    let report = bench
        .core
        .reload(bench.now, config_with("med: 7", "vip_linger: 1s", apps));
    let expected = [
        "agent.vip_linger: changed",
        "bgp.med: changed",
        "app c: removed",
        "app b: changed drain_time",
        "app d: added",
    ];
    assert_eq!(report, expected);
    bench.advance(secs(3));
    let done = bench.done();
    let others: Vec<&String> = done
        .iter()
        .filter(|did| !did.contains("192.0.2.3") && !did.contains("192.0.2.4"))
        .collect();
    assert!(others.is_empty(), "{done:?}");
    assert!(done.contains(&"remove 192.0.2.3/32".to_owned()));
    let again = bench.core.reload(bench.now, bench.core.config().clone());
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn addresses_that_others_manage_are_not_waited_for() {
    let bench = Bench::new(config("vip_interface: none", DNS));
    assert!(bench.is_announced(VIP) && !bench.has_address(VIP));
}

/// Addresses went on lo under a label of the other interface, or the core took them for managed elsewhere.
#[test]
fn another_interface_is_for_the_next_start() {
    let mut bench = Bench::new(config("", DNS));
    for other in ["vip_interface: none", "vip_interface: dummy0"] {
        bench.done();
        let report = bench.core.reload(bench.now, config(other, DNS));
        bench.reconcile();
        assert_eq!(
            report,
            ["agent.vip_interface: changed, takes effect at the next start"]
        );
        assert!(bench.is_announced(VIP) && bench.has_address(VIP));
        assert!(bench.done().is_empty(), "nothing moved");
        let more = [("name", "b"), ("vip", "192.0.2.9/32")];
        bench.register(&more).unwrap();
        let addresses = &bench.core.kernel.applied().addresses;
        let label = addresses[&prefix("192.0.2.9/32")].label.as_deref();
        assert_eq!(label, Some("lo:b"), "{other}");
        bench.unregister("b");
        bench.advance(secs(20));
    }
    assert!(bench.core.reload(bench.now, config("", DNS)).is_empty());
}

#[test]
fn labels_are_gocasts() {
    let app = "{name: app1longname, vips: [192.0.2.1/32, 2001:db8::1/128]}";
    let bench = Bench::new(config("", app));
    let addresses = &bench.core.kernel.applied().addresses;
    let label = |vip| addresses[&prefix(vip)].label.as_deref();
    assert_eq!(label("192.0.2.1/32"), Some("lo:app1longname"));
    assert_eq!(label("2001:db8::1/128"), None);
}

#[test]
fn nothing_touches_the_kernel_before_the_network_is_known() {
    let now = std::time::Instant::now();
    let mut core = Core::new(config("", DNS), 1, now);
    while let Some(output) = core.poll_output() {
        assert!(!matches!(output, Output::Step { .. }), "{output:?}");
    }
    core.handle(now, Event::Network(network()));
    let mut outputs = std::iter::from_fn(|| core.poll_output());
    assert!(outputs.any(|output| matches!(output, Output::Step { .. })));
}

/// A link that is down for a moment, or a lease of DHCP: the session outlives both.
#[test]
fn a_peer_that_vanishes_is_given_up_after_a_while() {
    let mut bench = Bench::new(config("", DNS));
    assert_eq!(bench.core.peers(bench.now).len(), 1);
    let mut without = network();
    without.peers.clear();
    bench.event(Event::Network(without.clone()));
    bench.advance(secs(5));
    bench.event(Event::Network(network()));
    bench.advance(secs(30));
    assert_eq!(bench.core.peers(bench.now).len(), 1);
    bench.event(Event::Network(without));
    bench.advance(secs(10));
    assert!(bench.core.peers(bench.now).is_empty());
}

#[test]
fn a_session_starts_again_only_when_its_own_settings_change() {
    let mut bench = Bench::new(config("", DNS));
    bench.advance(secs(100));
    let generation = |bench: &Bench| {
        bench
            .core
            .peers
            .generation(&bench.core.peers(bench.now)[0].name)
    };
    let first = generation(&bench);
    bench.core.reload(
        bench.now,
        config_with("communities: [\"65001:9\"]", "", DNS),
    );
    bench.event(Event::Network(network()));
    assert_eq!(
        generation(&bench),
        first,
        "attributes alone restart nothing"
    );
    bench
        .core
        .reload(bench.now, config_with("hold_time: 9s", "", DNS));
    bench.event(Event::Network(network()));
    assert_eq!(bench.core.peers(bench.now)[0].hold_time, 9);
    assert_ne!(generation(&bench), first);
}

/// The host itself would reach only its own service there, and no other host would reach that service.
#[test]
fn a_vip_that_cannot_be_announced_has_no_address() {
    let vip6 = "2001:db8::53/128";
    let mut without = network();
    let peer = without.peers.values_mut().next().unwrap();
    peer.next_hop6 = None;
    without.nat_target.remove(&Family::Ipv4);
    for (more, there) in [("", false), (", vip_presence: always", true)] {
        let nat = "nats: [\"udp:53:8053\"]";
        let apps = format!(
            "{{name: nat, vip: {VIP}, {nat}{more}}}, {{name: six, vip: \"{vip6}\", {nat}, monitors: [\"port:tcp:1\"]{more}}}"
        );
        let mut bench = Bench::with_outcomes(config("", ""), &[("port:tcp:1", true)]);
        bench.event(Event::Network(without.clone()));
        bench.core.reload(bench.now, config("", &apps));
        bench.advance(secs(1));
        let addressed = |bench: &Bench| [VIP, vip6].map(|vip| bench.has_address(vip));
        assert_eq!(bench.state("nat"), AppState::Invalid);
        assert_eq!(bench.state("six"), AppState::Invalid);
        assert_eq!(addressed(&bench), [there; 2]);
        assert!(bench.nat.rules.is_empty());
        // Nor does one linger that was never announced.
        bench.says("port:tcp:1", false);
        bench.advance(secs(11));
        bench.says("port:tcp:1", true);
        assert_eq!(addressed(&bench), [there; 2]);
        bench.event(Event::Network(network()));
        bench.advance(secs(11));
        assert_eq!(addressed(&bench), [true; 2]);
        assert!(bench.is_announced(VIP) && bench.is_announced(vip6));
    }
}

/// As after any withdraw: the last clients' packets are still on their way.
#[test]
fn an_address_lingers_when_its_next_hop_goes() {
    let vip6 = "2001:db8::53/128";
    let app = format!("{{name: dns, vips: [{VIP}, \"{vip6}\"], nats: [\"udp:53:8053\"]}}");
    let mut bench = Bench::new(config("", &app));
    let mut without = network();
    without.peers.values_mut().next().unwrap().next_hop6 = None;
    bench.done();
    bench.event(Event::Network(without));
    assert_eq!(bench.done(), [format!("withdraw {vip6}")]);
    bench.advance(secs(9));
    assert!(bench.has_address(vip6) && bench.nat.rules.len() == 2);
    bench.advance(secs(2));
    assert!(!bench.has_address(vip6) && bench.nat.rules.len() == 1);
    assert!(bench.has_address(VIP) && bench.is_announced(VIP));
    bench.event(Event::Network(network()));
    assert!(bench.is_announced(vip6));
}

/// Until the next restart HTTP's apps went on executing and announcing, whatever was allowed by then.
#[test]
fn a_stricter_policy_withdraws_and_a_looser_one_permits_again() {
    const COMMAND: &str = "exec:true";
    let open = "allow_exec: [http], max_drain: 1h";
    let mut bench = Bench::with_outcomes(config(open, ""), &[(COMMAND, true)]);
    let plain = [("name", "plain"), ("vip", "198.51.100.1/32")];
    let exec = [("name", "exec"), ("vip", VIP), ("monitor", COMMAND)];
    let slow = [
        ("name", "slow"),
        ("vip", "198.51.100.2/32"),
        ("drain_time", "30m"),
    ];
    for params in [&plain[..], &exec, &slow] {
        bench.register(params).unwrap();
    }
    bench.outcomes.clear();
    bench.advance(secs(10));
    let (under_way, _) = bench.unanswered.pop().unwrap();
    assert!(bench.is_announced(VIP) && bench.is_announced("198.51.100.2/32"));
    let reload = |bench: &mut Bench, agent: &str| {
        let report = bench.core.reload(bench.now, config(agent, ""));
        bench.reconcile();
        report
    };
    let report = reload(&mut bench, "allowed_vips: [198.51.100.0/24]");
    assert!(
        report[0].starts_with("app exec: withdrawn: ")
            && report[0].ends_with("(set agent.allow_exec to allow it)"),
        "{report:?}"
    );
    assert!(
        report[1].starts_with("app slow: withdrawn: ")
            && report[1].ends_with("(set agent.max_drain to allow it)"),
        "{report:?}"
    );
    assert_eq!(report[2], "agent.allow_exec: changed");
    assert!(!bench.is_announced(VIP) && !bench.is_announced("198.51.100.2/32"));
    assert!(bench.is_announced("198.51.100.1/32"));
    assert_eq!(bench.canceled, [under_way], "its command is killed");
    assert_eq!(bench.state("exec"), AppState::Invalid);
    assert!(bench.app("exec").why.contains("agent.allow_exec"));
    let waits = |why: String| why.contains("exec") || why.contains("slow");
    assert!(!bench.core.ready().is_err_and(waits), "nobody waits for it");
    // It is not run, does not come back by the answer of before, is not forgotten, and holds no VIP.
    let checks = bench.checks;
    bench.answer(under_way, crate::health::Outcome::pass());
    bench.advance(secs(3600));
    assert_eq!(bench.checks, checks);
    assert!(!bench.has_address(VIP) && !bench.is_announced(VIP));
    assert!(bench.register(&exec).is_err());
    let report = reload(&mut bench, "allow_exec: [http]");
    assert_eq!(report[0], "app exec: permitted again");
    assert_eq!(bench.state("exec"), AppState::Pending, "it looks first");
    bench.answer_all(crate::health::Outcome::pass());
    bench.says(COMMAND, true);
    bench.advance(secs(2));
    assert!(bench.is_announced(VIP) && !bench.is_announced("198.51.100.2/32"));
    assert_eq!(reload(&mut bench, open)[0], "app slow: permitted again");
    assert!(bench.is_announced("198.51.100.2/32"));
    let again = bench.core.config().clone();
    assert!(bench.core.reload(bench.now, again).is_empty());
}

/// A peer is an address that the host must go on reaching, whenever it became one.
#[test]
fn a_vip_that_a_reload_makes_a_peer_is_withdrawn() {
    let mut bench = Bench::new(config("", ""));
    bench.register(&[("name", "a"), ("vip", VIP)]).unwrap();
    assert!(bench.is_announced(VIP));
    let text = |bench: &Bench| bench.app("a").why;
    let reload = |bench: &mut Bench, config: crate::config::Config| {
        bench.core.reload(bench.now, config);
        bench.reconcile();
    };
    let mut with_peer = config("", "");
    let mut second = with_peer.bgp.peers[0].clone();
    second.remote = "192.0.2.53".parse().unwrap();
    with_peer.bgp.peers.push(second);
    reload(&mut bench, with_peer);
    assert!(!bench.is_announced(VIP));
    assert!(text(&bench).contains("a BGP peer"), "{}", text(&bench));
    reload(&mut bench, config("", ""));
    assert!(bench.is_announced(VIP));
}

#[test]
fn max_vips_refuses_new_vips_and_keeps_old_ones() {
    let mut bench = Bench::new(config("max_vips: 3", DNS));
    let two = "192.0.2.1/32,192.0.2.2/32";
    bench.register(&[("name", "a"), ("vip", two)]).unwrap();
    let full = |refusal: Refusal| assert_eq!(refusal.key(), Some("agent.max_vips"), "{refusal}");
    let more = [("name", "b"), ("vip", "192.0.2.3/32")];
    full(bench.register(&more).unwrap_err());
    let three = format!("{two},192.0.2.3/32");
    full(
        bench
            .register(&[("name", "a"), ("vip", &three)])
            .unwrap_err(),
    );
    // Another in place of one is none more.
    let other = "192.0.2.1/32,192.0.2.4/32";
    bench.register(&[("name", "a"), ("vip", other)]).unwrap();
    bench.done();
    bench.core.reload(bench.now, config("max_vips: 1", DNS));
    bench.advance(secs(1));
    assert!(bench.done().is_empty(), "nothing that runs is evicted");
    bench
        .register(&[("name", "a"), ("vip", "192.0.2.4/32")])
        .unwrap();
    full(bench.register(&more).unwrap_err());
}

/// One of them was withdrawn for the moment until the other had given it up.
#[test]
fn apps_that_swap_their_vips_are_never_without_them() {
    let ports = [("port:tcp:1", true), ("port:tcp:2", true)];
    let apps = |a: &str, b: &str| {
        format!(
            "{{name: a, vip: {a}, monitors: [\"port:tcp:1\"]}}, \
             {{name: b, vip: {b}, monitors: [\"port:tcp:2\"], vip_config: {{med: 7}}}}"
        )
    };
    let (one, two) = ("192.0.2.1/32", "192.0.2.2/32");
    let mut bench = Bench::with_outcomes(config("", &apps(one, two)), &ports);
    bench.advance(secs(1));
    bench.done();
    bench.transitions.clear();
    let report = bench.core.reload(bench.now, config("", &apps(two, one)));
    bench.advance(secs(20));
    assert_eq!(report, ["app a: changed vips", "app b: changed vips"]);
    assert!(bench.transitions.is_empty(), "{:?}", bench.transitions);
    let done = bench.done();
    let gone = |did: &&String| did.starts_with("withdraw") || did.starts_with("remove");
    assert_eq!(done.iter().find(gone), None, "{done:?}");
    let med = |vip| {
        bench.core.kernel.applied().routes[&prefix(vip)]
            .attributes
            .med
    };
    assert_eq!((med(one), med(two)), (Some(7), None));
}

#[test]
fn an_app_that_is_renamed_goes_on() {
    let app = |name: &str, more: &str| {
        format!(
            "{{name: {name}, vip: {VIP}, monitors: [\"port:udp:53\"], nats: [\"udp:53:8053\"]{more}}}"
        )
    };
    let mut bench = Bench::with_outcomes(config("", &app("dns", "")), &[("port:udp:53", true)]);
    bench.advance(secs(1));
    bench.done();
    bench.transitions.clear();
    let since = bench.app("dns").since;
    let report = bench
        .core
        .reload(bench.now, config("", &app("resolver", "")));
    bench.advance(secs(20));
    assert_eq!(report, ["app resolver: was dns before"]);
    assert!(bench.transitions.is_empty(), "{:?}", bench.transitions);
    assert_eq!(bench.state("resolver"), AppState::Up);
    assert_eq!(bench.app("resolver").since, since + secs(20));
    assert!(bench.core.app(bench.now, &name("dns")).is_none());
    assert_eq!(
        bench.done(),
        [format!("renew {VIP}"), "nat 1".to_owned()],
        "the label and the NAT counter have the new name"
    );
    // What else is changed is changed, and the drain stays with the name.
    bench.core.drain(bench.now, Some(&name("resolver")));
    bench.advance(secs(5));
    assert_eq!(bench.state("resolver"), AppState::Drained);
    let other = app("dns", ", vip_config: {med: 5}");
    let report = bench.core.reload(bench.now, config("", &other));
    assert_eq!(report, ["app dns: was resolver before, changed med"]);
    bench.advance(secs(1));
    assert!(bench.is_announced(VIP));
}

/// Two that exchange their names, and one whose new name was another app's.
#[test]
fn names_that_are_exchanged_or_taken_over_move_no_route() {
    let ports = [
        ("port:tcp:1", true),
        ("port:tcp:2", true),
        ("port:tcp:3", true),
    ];
    let app = |name: &str, number: u8| {
        format!("{{name: {name}, vip: 192.0.2.{number}/32, monitors: [\"port:tcp:{number}\"]}}")
    };
    let apps = |names: &[(&str, u8)]| {
        let all: Vec<String> = names
            .iter()
            .map(|(name, number)| app(name, *number))
            .collect();
        config("", &all.join(", "))
    };
    let mut bench = Bench::with_outcomes(apps(&[("a", 1), ("b", 2), ("c", 3)]), &ports);
    bench.advance(secs(1));
    bench.done();
    let report = bench
        .core
        .reload(bench.now, apps(&[("a", 2), ("b", 1), ("c", 3)]));
    bench.advance(secs(20));
    assert_eq!(report, ["app a: was b before", "app b: was a before"]);
    assert_eq!(bench.done(), ["renew 192.0.2.1/32", "renew 192.0.2.2/32"]);
    let report = bench.core.reload(bench.now, apps(&[("c", 2), ("b", 1)]));
    bench.advance(secs(20));
    assert_eq!(report, ["app c: removed", "app c: was a before"]);
    let done = bench.done();
    let of = |vip: &str| -> Vec<String> {
        let all = done.iter().filter(|did| did.ends_with(vip));
        all.cloned().collect()
    };
    assert_eq!(of("192.0.2.2/32"), ["renew 192.0.2.2/32"]);
    assert_eq!(
        of("192.0.2.3/32"),
        ["withdraw 192.0.2.3/32", "remove 192.0.2.3/32"]
    );
    assert!(of("192.0.2.1/32").is_empty());
}

/// What stands against an app of the configuration is judged anew with each reload, and by the network as it is.
#[test]
fn an_app_of_the_configuration_comes_back_when_what_stood_against_it_is_gone() {
    let app = "{name: dns, vip: 192.0.2.53/32}";
    let settings = |allowed: &str| config(&format!("allowed_vips: [{allowed}]"), app);
    let mut bench = Bench::new(config("", app));
    bench.advance(secs(1));
    let mut narrow = config("", app);
    narrow.agent.allowed_vips = Some([prefix("198.51.100.0/24")].into());
    bench.core.reload(bench.now, narrow);
    bench.advance(secs(1));
    assert_eq!(bench.state("dns"), AppState::Invalid);
    bench.core.reload(bench.now, settings("192.0.2.0/24"));
    bench.advance(secs(1));
    assert_eq!(bench.state("dns"), AppState::Up);
    let mut network = network();
    network.gateways.insert("192.0.2.53".parse().unwrap());
    bench.event(Event::Network(network));
    bench.advance(secs(1));
    assert_eq!(bench.state("dns"), AppState::Invalid);
    let report = bench.core.reload(bench.now, settings("192.0.2.0/25"));
    assert!(
        report
            .iter()
            .any(|line| line.contains("dns: not announced: ")),
        "{report:?}"
    );
    bench.event(Event::Network(super::bench::network()));
    bench.advance(secs(1));
    assert_eq!(bench.state("dns"), AppState::Up);
}
