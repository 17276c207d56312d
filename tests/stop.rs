//! Leaving in good order: packets stop coming before the address goes, and nothing stays behind.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use sidecast_lab::{Bird, Cable, Child, Sidecast, Site, VIP4, VIP6, Watch, expect, until};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        sigterm_withdraws_before_the_address_goes,
        sigint_withdraws_before_the_address_goes,
        a_second_signal_skips_the_wait,
        a_signal_before_it_listens_is_not_lost,
        what_a_parent_blocked_is_heard,
        the_service_manager_hears_how_it_goes,
        an_address_somebody_else_put_there_stays;
    needs ["bird", "birdc", "ip", "nft"]:
        a_router_that_fell_silent_does_not_delay_leaving;
}

fn sigterm_withdraws_before_the_address_goes() {
    leaves_in_order(Signal::SIGTERM);
}

fn sigint_withdraws_before_the_address_goes() {
    leaves_in_order(Signal::SIGINT);
}

/// As a container's first process it has no default action that would end it. It is still reading its
/// configuration, from a pipe, at SIGTERM.
fn a_signal_before_it_listens_is_not_lost() {
    let site = Site::new();
    let pipe = site.lab.dir().join("configuration");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let (binary, path) = (sidecast_lab::binary(), pipe.to_string_lossy());
    let mut args = vec!["--pid", "--fork", "--kill-child", &*binary];
    args.extend(["run", "--config", &path]);
    let mut init = Child::start(&site.a.network, "init", "unshare", &args, &[]);
    // This waits for a reader.
    let mut configuration = File::options().write(true).open(&pipe).expect("a pipe");
    let parent = init.id();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let pid = children.expect("its parent runs").trim().parse();
    kill(Pid::from_raw(pid.expect("one child")), Signal::SIGTERM).expect("a process of ours");
    let text = site.a.config("", "");
    configuration.write_all(text.as_bytes()).expect("it reads");
    drop(configuration);
    let status = init.wait(PATIENCE);
    assert!(status.success(), "{status}: {}", init.output());
}

fn what_a_parent_blocked_is_heard() {
    let site = Site::new();
    let blocked = SigSet::from(Signal::SIGTERM);
    blocked.thread_block().expect("a mask");
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    blocked.thread_unblock().expect("a mask");
    sidecast.signal(Signal::SIGTERM);
    let status = sidecast.wait(PATIENCE);
    assert!(status.success(), "{status}");
}

fn leaves_in_order(signal: Signal) {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    site.answered_by("a", PATIENCE);
    let host = Watch::start(&site.a.network);
    let routes = Watch::start(&site.router);
    let begun = Instant::now();
    sidecast.signal(signal);
    let status = sidecast.wait(PATIENCE);
    assert!(status.success(), "{status}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert_eq!(site.a.vips(), [""; 0], "an address is left");
    for (vip, family) in [(VIP4, "inet "), (VIP6, "inet6 ")] {
        let route = until(PATIENCE, "the router lost the route", || {
            routes.seen(&["Deleted", vip, "proto bird"]).ok_or("no")
        });
        let address = until(PATIENCE, "the address was removed", || {
            host.seen(&["Deleted", "lo", family, vip]).ok_or("no")
        });
        assert!(route < address, "{vip}: route {route}], address {address}]");
    }
    let log = sidecast.log();
    let (_, stopping) = log.split_once("INFO  stopping").expect("it says so");
    let lines = |what: &str| stopping.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines("INFO  app dns: "), 1, "one line an app: {stopping}");
    assert_eq!(
        lines("INFO  app dns: up -> draining: stopping"),
        1,
        "{stopping}"
    );
    // The peer gets the reason, in the words of RFC 4486.
    let session = router.session("a");
    assert!(session.contains("Administrative shutdown"), "{session}");
}

/// sd_notify(3).
fn the_service_manager_hears_how_it_goes() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = Sidecast::write(&site.a.network, &site.a.config("", "drain_time: 0"));
    let path = config.with_file_name("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager
        .set_read_timeout(Some(PATIENCE))
        .expect("a time limit");
    let until_told = |what: &str| {
        let mut logged = String::new();
        while !logged.contains(what) {
            let mut line = [0; 128];
            let length = manager
                .recv(&mut line)
                .unwrap_or_else(|error| panic!("no {what} ({error}) in {logged}"));
            logged += &String::from_utf8_lossy(&line[..length]);
            logged.push('\n');
        }
        logged
    };
    let (config, path) = (config.to_string_lossy(), path.to_string_lossy());
    let env = [("NOTIFY_SOCKET", &*path), ("WATCHDOG_USEC", "400000")];
    let mut sidecast = Sidecast::launch(&site.a.network, &["run", "--config", &config], &env);
    until_told("READY=1");
    until_told("STATUS=ok: 1 of 1 apps up, 1 of 1 sessions established");
    until_told("WATCHDOG=1");
    sidecast.signal(Signal::SIGHUP);
    until_told("RELOADING=1");
    until_told("READY=1");
    sidecast.signal(Signal::SIGTERM);
    until_told("STOPPING=1");
    assert!(sidecast.wait(PATIENCE).success());
}

fn a_second_signal_skips_the_wait() {
    let site = Site::new();
    let _services = site.a.services();
    let router = Bird::router(&site.router, &[site.a.session("a")]);
    let config = site.a.config("", "drain_time: 30s");
    let mut sidecast = Sidecast::start(&site.a.network, &config);
    site.answered_by("a", PATIENCE);
    sidecast.signal(Signal::SIGTERM);
    until(PATIENCE, "the routes are withdrawn", || {
        let routes = router.ask("show route protocol a");
        let gone = !routes.contains(VIP4) && !routes.contains(VIP6);
        expect(gone, routes)
    });
    // It still serves those who come late.
    sidecast.must_run();
    assert_eq!(site.a.vips().len(), 2, "the addresses wait for drain_time");
    sidecast.signal(Signal::SIGTERM);
    let status = sidecast.wait(PATIENCE);
    assert!(status.success(), "{status}");
    assert_eq!(site.a.vips(), [""; 0], "an address is left");
}

fn an_address_somebody_else_put_there_stays() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    site.a.network.ip(&format!("addr add {VIP4}/32 dev lo"));
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    site.answered_by("a", PATIENCE);
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success());
    assert_eq!(
        site.a.vips(),
        [format!("{VIP4}/32")],
        "only what was there before"
    );
    let lo = site.a.network.ip_json("addr show dev lo");
    let lifetime = lo[0]["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|info| info["local"] == VIP4)
        .map(|info| info["valid_life_time"].clone());
    let forever = serde_json::json!(4_294_967_295_u32);
    assert_eq!(lifetime, Some(forever), "it was given no lease");
}

fn a_router_that_fell_silent_does_not_delay_leaving() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::router(&site.router, &[site.a.session("a")]);
    let mut sidecast = Sidecast::start(&site.a.network, &site.a.config("", ""));
    site.answered_by("a", PATIENCE);
    site.silence(&site.a, Cable::Out);
    let begun = Instant::now();
    sidecast.signal(Signal::SIGTERM);
    assert!(sidecast.wait(PATIENCE).success());
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert_eq!(site.a.vips(), [""; 0], "an address is left");
}

/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
