//! Outages: whatever happened to the router or to the cable, sidecast comes back by itself and its
//! routes with it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sidecast_lab::{Bird, BirdSession, Cable, Frr, Sidecast, Site, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        a_router_absent_at_start_is_found_when_it_comes,
        a_crashed_router_is_found_again,
        a_router_shut_down_is_found_again,
        a_cut_longer_than_the_hold_time_heals;
    needs ["bird", "birdc", "ip", "nft"]:
        a_silent_cut_longer_than_the_hold_time_heals,
        a_silent_cut_shorter_than_the_hold_time_is_not_even_noticed;
    needs ["bgpd", "zebra", "vtysh", "ip"]:
        a_restarted_frr_is_found_again;
    needs ["bgpd", "zebra", "vtysh", "ip", "nft"]:
        a_process_that_was_stopped_reads_before_it_judges;
}

fn a_router_absent_at_start_is_found_when_it_comes() {
    let site = Site::new();
    let _services = site.a.services();
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    sidecast.wait_for_api(&site.a.network);
    wait(Duration::from_secs(6), || sidecast.must_run());
    let _router = Bird::router(&site.router, &[session(&site)]);
    // After a quarter of the outage so far, and a connection.
    site.answered_by("a", PATIENCE);
}

fn a_crashed_router_is_found_again() {
    after_a_stop(Signal::SIGKILL, BACK);
}

/// A router that is shut down in good order says so, and is not hammered: it takes longer.
fn a_router_shut_down_is_found_again() {
    after_a_stop(Signal::SIGTERM, Duration::from_secs(60));
}

fn after_a_stop(signal: Signal, limit: Duration) {
    let site = Site::new();
    let _services = site.a.services();
    let mut router = Bird::router(&site.router, &[session(&site)]);
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    site.answered_by("a", PATIENCE);
    router.stop(signal);
    until(PATIENCE, "sidecast sees the session end", || {
        sidecast.must_run();
        expect(state(&sidecast, &site) != ESTABLISHED, "established")
    });
    wait(Duration::from_secs(2), || sidecast.must_run());
    router.start_again(&site.router);
    until(limit, "the session is up again", || {
        expect(router.established("a"), router.session("a"))
    });
    site.answered_by("a", PATIENCE);
}

/// The carrier goes at both ends, as when a cable is pulled.
fn a_cut_longer_than_the_hold_time_heals() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[session(&site)]);
    let config = site.a.config("hold_time: 3s", "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    site.plug(&site.a, Cable::Out);
    wait(Duration::from_secs(6), || sidecast.must_run());
    assert!(!router.established("a"), "the router gave up too");
    site.plug(&site.a, Cable::In);
    let took = site.answered_by("a", PATIENCE);
    assert!(took < BACK, "back after {took:?}");
}

/// Nothing arrives, and nothing says so: only the hold timers notice.
fn a_silent_cut_longer_than_the_hold_time_heals() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[session(&site)]);
    let config = site.a.config("hold_time: 3s", "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    site.silence(&site.a, Cable::Out);
    until(PATIENCE, "both hold timers expire", || {
        sidecast.must_run();
        let here = state(&sidecast, &site) != ESTABLISHED;
        expect(here && !router.established("a"), router.session("a"))
    });
    site.silence(&site.a, Cable::In);
    let took = site.answered_by("a", PATIENCE);
    assert!(took < BACK, "back after {took:?}");
}

/// The last KEEPALIVE may have come a third of the hold time before the cut, and the next as late as twice the cut after
/// it began, since TCP doubles its timer. BIRD's hold timer is up to a quarter shorter: two seconds are left to a machine
/// that is busy.
fn a_silent_cut_shorter_than_the_hold_time_is_not_even_noticed() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[session(&site)]);
    let config = site.a.config("hold_time: 24s", "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    site.silence(&site.a, Cable::Out);
    wait(Duration::from_secs(4), || sidecast.must_run());
    site.silence(&site.a, Cable::In);
    wait(Duration::from_secs(18), || {
        assert!(router.established("a"), "{}", router.session("a"));
        assert_eq!(state(&sidecast, &site), ESTABLISHED);
    });
    site.answered_by("a", PATIENCE);
}

/// The router's KEEPALIVEs come while sidecast is stopped, and its hold timer is over when it goes on. For
/// the timer to be over before the router's own, the first of them is held up on the way. FRR, since BIRD's
/// hold timer is up to a quarter shorter than agreed on.
fn a_process_that_was_stopped_reads_before_it_judges() {
    let site = Site::new();
    let _services = site.a.services();
    let neighbor = site.a.addresses.host4;
    let router = frr(&site);
    let established = || router.established(neighbor);
    let config = site.a.config("hold_time: 30s", "");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    let host = &site.a.network;
    host.nft(
        "table netdev hold {\n chain in { type filter hook ingress device eth0 priority 0; ip length > 60 tcp sport 179 drop; }\n}",
    );
    // We go on talking, and are acknowledged: the router has received something ten seconds ago at the longest. Its hold
    // timer leaves three and a half seconds to a machine that is busy.
    wait(Duration::from_secs(14), || sidecast.must_run());
    sidecast.signal(Signal::SIGSTOP);
    host.nft("delete table netdev hold");
    wait(Duration::from_millis(16_500), || {
        assert!(established(), "{}", router.neighbor(neighbor));
    });
    sidecast.signal(Signal::SIGCONT);
    wait(Duration::from_secs(2), || {
        assert!(established(), "{}", router.neighbor(neighbor));
        assert_eq!(state(&sidecast, &site), ESTABLISHED);
    });
    let log = sidecast.log();
    assert_eq!(log.matches(": established").count(), 1, "{log}");
}

fn a_restarted_frr_is_found_again() {
    let site = Site::new();
    let _services = site.a.services();
    let neighbor = site.a.addresses.host4;
    let mut router = frr(&site);
    let _sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    site.answered_by("a", PATIENCE);
    router.stop_bgpd(Signal::SIGKILL);
    router.start_bgpd(&site.router);
    until(BACK, "the session is up again", || {
        expect(router.established(neighbor), router.neighbor(neighbor))
    });
    site.answered_by("a", PATIENCE);
}

fn frr(site: &Site) -> Frr {
    let neighbor = site.a.addresses.host4;
    let config = format!(
        "router bgp 65000\n bgp router-id 10.255.0.1\n no bgp ebgp-requires-policy\n \
         neighbor {neighbor} remote-as 65001\n address-family ipv6 unicast\n  \
         neighbor {neighbor} activate\n exit-address-family\n"
    );
    Frr::start(&site.router, &config)
}

/// BIRD holds errors against a peer for a minute before it takes its connections again; here it is
/// sidecast's recovery that is looked at.
fn session(site: &Site) -> BirdSession<'static> {
    BirdSession {
        options: "error wait time 1, 1; connect delay time 1; connect retry time 2;",
        ..site.a.session("a")
    }
}

/// The session's state as `/info` gives it, in GoBGP's numbers.
#[track_caller]
fn state(sidecast: &Sidecast, site: &Site) -> u64 {
    let info = sidecast.get(&site.a.network, "/info").json();
    info["state"]["session_state"].as_u64().unwrap_or_default()
}

/// Lets an outage last, and looks meanwhile.
#[track_caller]
fn wait(time: Duration, mut look: impl FnMut()) {
    let begun = Instant::now();
    until(time + PATIENCE, "the time passes", || {
        look();
        expect(begun.elapsed() > time, "not yet")
    });
}

const ESTABLISHED: u64 = 6;
/// A retry comes after five seconds at most; RFC 4271's timer would be two minutes.
const BACK: Duration = Duration::from_secs(15);

/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
