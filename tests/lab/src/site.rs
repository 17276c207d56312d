//! The site most scenarios play on: a client and two hosts, each on a cable of its own to one router.
//!
//! ```text
//! client eth0 ---- c0 router a0 ---- eth0 host A
//!                            b0 ---- eth0 host B
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::bird::BirdSession;
use crate::net::{Lab, Namespace};
use crate::probe::{ask_tcp, ask_udp};
use crate::service::{Service, Transport};
use crate::until::{expect, until};

/// The anycast addresses both hosts announce.
pub const VIP4: &str = "192.0.2.53";
pub const VIP6: &str = "2001:db8:53::1";

/// Both ends' addresses on one cable.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub router4: &'static str,
    pub host4: &'static str,
    pub router6: &'static str,
    pub host6: &'static str,
}

/// A host's side of the site.
pub struct HostLink {
    pub network: Namespace,
    pub addresses: Addresses,
    /// The router's interface to it.
    pub device: &'static str,
}

impl HostLink {
    /// The services the scenarios watch: TCP and UDP, answering with the host's name.
    #[track_caller]
    pub fn services(&self) -> (Service, Service) {
        (
            Service::start(&self.network, Transport::Tcp, Site::TCP_PORT),
            Service::start(&self.network, Transport::Udp, Site::UDP_PORT),
        )
    }
}

impl HostLink {
    /// A sidecast configuration for this host: an eBGP session to its router that carries both families,
    /// and one app with both VIPs, gated by both services. `bgp` and `app` are further lines of those
    /// sections, in YAML's flow style or as `key: value` lines without indent.
    pub fn config(&self, bgp: &str, app: &str) -> String {
        let indent = |text: &str, by: &str| -> String {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            lines.map(|line| format!("{by}{line}\n")).collect()
        };
        format!(
            "bgp:\n  local_as: 65001\n  peer_as: 65000\n  peer_ip: {router}\n{bgp}apps:\n  - name: dns\n    \
             vips: [{VIP4}/32, \"{VIP6}/128\"]\n    monitors: {monitors}\n    interval: 200ms\n{app}",
            router = self.addresses.router4,
            bgp = indent(bgp, "  "),
            monitors = Site::MONITORS,
            app = indent(app, "    "),
        )
    }

    /// The router's BIRD session over IPv4 to this host.
    pub fn session<'a>(&self, name: &'a str) -> BirdSession<'a> {
        BirdSession {
            name,
            local: self.addresses.router4.parse().expect("an address"),
            neighbor: self.addresses.host4.parse().expect("an address"),
            local_as: 65000,
            peer_as: 65001,
            preference: 100,
            options: "",
        }
    }

    /// The same over IPv6.
    pub fn session6<'a>(&self, name: &'a str) -> BirdSession<'a> {
        BirdSession {
            local: self.addresses.router6.parse().expect("an address"),
            neighbor: self.addresses.host6.parse().expect("an address"),
            ..self.session(name)
        }
    }

    /// The VIPs that are on the host's `lo` now.
    pub fn vips(&self) -> Vec<String> {
        self.network.addresses("lo")
    }
}

/// Client, router and two hosts, with routes to each other; no router software yet.
pub struct Site {
    pub client: Namespace,
    pub router: Namespace,
    pub a: HostLink,
    pub b: HostLink,
    /// Last, so that the folder outlives what is written into it.
    pub lab: Lab,
}

impl Site {
    pub const TCP_PORT: u16 = 8000;
    pub const UDP_PORT: u16 = 8001;
    /// `monitors:` of an app that requires both services.
    pub const MONITORS: &'static str = r#"["port:tcp:8000", "port:udp:8001"]"#;

    #[expect(clippy::new_without_default, reason = "makes a network")]
    #[track_caller]
    pub fn new() -> Self {
        let lab = Lab::new();
        let router = lab.namespace("router");
        router.forward();
        let host = |name, device, addresses: Addresses| {
            let network = lab.namespace(name);
            let Addresses {
                router4,
                host4,
                router6,
                host6,
            } = addresses;
            lab.cable(
                (
                    &network,
                    "eth0",
                    &[&format!("{host4}/24"), &format!("{host6}/64")],
                ),
                (
                    &router,
                    device,
                    &[&format!("{router4}/24"), &format!("{router6}/64")],
                ),
            );
            network.ip(&format!("route add default via {router4}"));
            network.ip(&format!("-6 route add default via {router6}"));
            HostLink {
                network,
                addresses,
                device,
            }
        };
        let client = host("client", "c0", CLIENT).network;
        let a = host("a", "a0", A);
        let b = host("b", "b0", B);
        Self {
            client,
            router,
            a,
            b,
            lab,
        }
    }

    /// The names of the hosts that answer the client at both VIPs, over TCP and UDP.
    fn answers(&self) -> [(String, std::io::Result<String>); 4] {
        let ask = |vip: &str, transport| {
            let vip: IpAddr = vip.parse().expect("an address");
            let answer = match transport {
                Transport::Tcp => ask_tcp(&self.client, SocketAddr::new(vip, Self::TCP_PORT)),
                Transport::Udp => ask_udp(&self.client, SocketAddr::new(vip, Self::UDP_PORT)),
            };
            (format!("{transport:?} to {vip}"), answer)
        };
        [
            ask(VIP4, Transport::Tcp),
            ask(VIP4, Transport::Udp),
            ask(VIP6, Transport::Tcp),
            ask(VIP6, Transport::Udp),
        ]
    }

    /// Waits until the client's packets to both VIPs, TCP and UDP, are answered by this host, and returns how
    /// long that took.
    #[track_caller]
    pub fn answered_by(&self, name: &str, limit: Duration) -> Duration {
        let begun = Instant::now();
        until(limit, &format!("the client is answered by {name}"), || {
            let answers = self.answers();
            let all = answers
                .iter()
                .all(|(_, answer)| answer.as_deref().is_ok_and(|answer| answer == name));
            expect(all, format!("{answers:?}"))
        });
        begun.elapsed()
    }

    /// No host answers the client at the VIPs.
    #[track_caller]
    pub fn unanswered(&self) {
        let answers = self.answers();
        let none = answers.iter().all(|(_, answer)| answer.is_err());
        assert!(none, "a host answers: {answers:?}");
    }

    /// Pulls the cable to a host, or puts it back: the router's end goes down, so both lose carrier.
    pub fn plug(&self, host: &HostLink, state: Cable) {
        let word = match state {
            Cable::In => "up",
            Cable::Out => "down",
        };
        self.router.ip(&format!("link set {} {word}", host.device));
        if let Cable::In = state {
            // Taking a link down loses its IPv6 addresses, as on any Linux router.
            let (address, device) = (host.addresses.router6, host.device);
            self.router
                .ip(&format!("addr replace {address}/64 dev {device}"));
        }
    }

    /// Drops every packet between the router and a host, with carrier kept, or passes them again.
    pub fn silence(&self, host: &HostLink, state: Cable) {
        let device = host.device;
        match state {
            Cable::Out => self.router.nft(&format!(
                "table netdev cut_{device} {{
                   chain in {{ type filter hook ingress device {device} priority 0; policy drop; }}
                 }}
                 table inet cut_{device} {{
                   chain out {{ type filter hook output priority 0; oifname {device} drop; }}
                   chain through {{ type filter hook forward priority 0; oifname {device} drop; }}
                 }}"
            )),
            Cable::In => self.router.nft(&format!(
                "delete table netdev cut_{device}; delete table inet cut_{device}"
            )),
        }
    }
}

/// Whether a cable carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    In,
    Out,
}

const CLIENT: Addresses = Addresses {
    router4: "10.0.9.1",
    host4: "10.0.9.2",
    router6: "2001:db8:9::1",
    host6: "2001:db8:9::2",
};

const A: Addresses = Addresses {
    router4: "10.0.1.1",
    host4: "10.0.1.2",
    router6: "2001:db8:1::1",
    host6: "2001:db8:1::2",
};

const B: Addresses = Addresses {
    router4: "10.0.2.1",
    host4: "10.0.2.2",
    router6: "2001:db8:2::1",
    host6: "2001:db8:2::2",
};
