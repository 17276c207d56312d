//! The main job on real input: a client, a router (BIRD, whose routes the kernel forwards by) and two
//! hosts announcing the same addresses. Where the client's packets end tells who announces.

use std::time::Duration;

use sidecast_lab::{Bird, BirdSession, HostLink, Site, VIP4, VIP6};

sidecast_lab::tests! {
    needs ["bird", "birdc"]:
        the_lab_itself_follows_whoever_announces;
}

/// The control: with BIRD in sidecast's place the client's packets go where they should, so what the
/// other tests see is sidecast's doing.
fn the_lab_itself_follows_whoever_announces() {
    let site = Site::new();
    let _services = (site.a.services(), site.b.services());
    let _router = Bird::router(
        &site.router,
        &[session("a", &site.a, 100), session("b", &site.b, 90)],
    );
    site.unanswered();
    let mut stand_in = stand_in(&site.a);
    let _other = self::stand_in(&site.b);
    site.answered_by("a", PATIENCE);
    stand_in.stop(nix::sys::signal::Signal::SIGKILL);
    site.answered_by("b", PATIENCE);
    stand_in.start_again(&site.a.network);
    site.answered_by("a", PATIENCE);
}

fn session<'a>(name: &'a str, host: &HostLink, preference: u32) -> BirdSession<'a> {
    BirdSession {
        name,
        local: host.addresses.router4.parse().expect("an address"),
        neighbor: host.addresses.host4.parse().expect("an address"),
        local_as: 65000,
        peer_as: 65001,
        preference,
        options: "",
    }
}

/// A BIRD on the host that announces the VIPs unconditionally.
fn stand_in(host: &HostLink) -> Bird {
    for vip in [format!("{VIP4}/32"), format!("{VIP6}/128")] {
        host.network.ip(&format!("addr replace {vip} dev lo"));
    }
    let (local, neighbor) = (host.addresses.host4, host.addresses.router4);
    Bird::start(
        &host.network,
        &format!(
            "log stderr all; router id {local};
             protocol device {{ }}
             protocol static {{ ipv4; route {VIP4}/32 blackhole; }}
             protocol static {{ ipv6; route {VIP6}/128 blackhole; }}
             protocol bgp up {{
               local {local} as 65001; neighbor {neighbor} as 65000; connect delay time 1;
               ipv4 {{ import none; export all; }};
               ipv6 {{ import none; export all; }};
             }}"
        ),
    )
}

/// How long the client may have to wait for the right host.
const PATIENCE: Duration = Duration::from_secs(20);
