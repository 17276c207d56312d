//! The kinds of session that every daemon is asked for, and how each daemon is configured for them and asked
//! what it got.

use serde_json::Value;
use sidecast_lab::{Bird, Exabgp, Frr, Gobgp, Openbgpd, attribute};

use crate::topology::Node;

/// One session between a router in AS 65000 and a host.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    pub host_as: u32,
    /// The transport; routes of both families go over either.
    pub over: Over,
    /// sidecast takes sessions, and opens one itself: there may be two at once.
    pub listens: bool,
    /// It only takes them.
    pub passive: bool,
    pub password: Option<&'static str>,
    pub gtsm: bool,
    /// What sidecast offers, seconds.
    pub hold_time: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Ipv4,
    Ipv6,
}

const PLAIN: Kind = Kind {
    name: "",
    host_as: 65001,
    over: Over::Ipv4,
    listens: false,
    passive: false,
    password: None,
    gtsm: false,
    hold_time: 90,
};

/// Host 1 has the first kind, host 2 the second …
pub const KINDS: [Kind; 5] = [
    Kind {
        name: "eBGP over IPv4, both ends connect",
        listens: true,
        ..PLAIN
    },
    Kind {
        name: "eBGP over IPv6, 4-byte AS, MD5",
        host_as: 4_200_000_002,
        over: Over::Ipv6,
        password: Some("sesame"),
        ..PLAIN
    },
    Kind {
        name: "iBGP over IPv4, passive, hold time 0",
        host_as: 65000,
        listens: true,
        passive: true,
        hold_time: 0,
        ..PLAIN
    },
    Kind {
        name: "eBGP over IPv4, 4-byte AS, GTSM, hold time 3",
        host_as: 4_200_000_004,
        gtsm: true,
        hold_time: 3,
        ..PLAIN
    },
    Kind {
        name: "iBGP over IPv6, passive, MD5",
        host_as: 65000,
        over: Over::Ipv6,
        listens: true,
        passive: true,
        password: Some("sesame"),
        ..PLAIN
    },
];

impl Kind {
    fn ibgp(&self) -> bool {
        self.host_as == ROUTER_AS
    }

    pub fn router(&self, node: &Node) -> String {
        match self.over {
            Over::Ipv4 => node.router4(),
            Over::Ipv6 => node.router6(),
        }
    }

    pub fn host(&self, node: &Node) -> String {
        match self.over {
            Over::Ipv4 => node.host4(),
            Over::Ipv6 => node.host6(),
        }
    }

    /// The text where there is a password.
    fn signed(&self, text: impl Fn(&str) -> String) -> String {
        self.password.map(text).unwrap_or_default()
    }

    /// The session options for sidecast.
    pub fn sidecast(&self, node: &Node) -> String {
        let mut peer = format!("peer_ip: \"{}\", peer_as: {ROUTER_AS}", self.router(node));
        peer += &format!(
            ", hold_time: {}s, passive: {}",
            self.hold_time, self.passive
        );
        peer += &self.signed(|password| format!(", password: {password}"));
        peer += if self.gtsm { ", ttl_security: 1" } else { "" };
        let listen = if self.listens {
            ", listen: \"[::]:179\""
        } else {
            ""
        };
        format!(
            "bgp: {{local_as: {}, peers: [{{{peer}}}]{listen}, communities: [\"65001:7\"], med: 7}}\n{}",
            self.host_as,
            node.apps("")
        )
    }

    /// What a router must see of one of the host's VIPs.
    pub fn expected(&self, next_hop: String) -> Seen {
        Seen {
            next_hop,
            as_path: match self.ibgp() {
                true => String::new(),
                false => self.host_as.to_string(),
            },
            med: Some(7),
            community: true,
        }
    }
}

/// A route as a router has it, in words that are the same for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub next_hop: String,
    /// The AS numbers with spaces between them.
    pub as_path: String,
    pub med: Option<u64>,
    /// It has the community 65001:7.
    pub community: bool,
}

/// A daemon that has been started with a session for each host.
pub trait Speaker {
    /// The route, as learned from this host.
    fn seen(&self, node: &Node, prefix: &str) -> Option<Seen>;
}

type Sessions<'a> = [(&'a Node, Kind)];

fn each(sessions: &Sessions<'_>, text: impl Fn(&Node, &Kind) -> String) -> String {
    sessions
        .iter()
        .map(|(node, kind)| text(node, kind))
        .collect()
}

pub fn bird(sessions: &Sessions<'_>) -> String {
    let protocols = each(sessions, |node, kind| {
        format!(
            "protocol bgp {} {{ local {} as {ROUTER_AS}; neighbor {} as {}; connect delay time 1; {}{}
               ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}\n",
            node.device(),
            kind.router(node),
            kind.host(node),
            kind.host_as,
            kind.signed(|password| format!("password \"{password}\"; ")),
            if kind.gtsm { "ttl security on;" } else { "" },
        )
    });
    format!("log stderr all; router id {ROUTER_ID}; protocol device {{ }}\n{protocols}")
}

impl Speaker for Bird {
    fn seen(&self, node: &Node, prefix: &str) -> Option<Seen> {
        let route = self.route_from(prefix, &node.device())?;
        let of = |name| attribute(&route, name).unwrap_or_default();
        Some(Seen {
            next_hop: of("BGP.next_hop").split(' ').next()?.to_owned(),
            as_path: of("BGP.as_path"),
            med: of("BGP.med").parse().ok(),
            community: of("BGP.community").contains("(65001,7)"),
        })
    }
}

pub fn frr(sessions: &Sessions<'_>) -> String {
    let neighbors = each(sessions, |node, kind| {
        let host = kind.host(node);
        format!(
            " neighbor {host} remote-as {}\n neighbor {host} timers connect 1\n{}{}",
            kind.host_as,
            kind.signed(|password| format!(" neighbor {host} password {password}\n")),
            match kind.gtsm {
                true => format!(" neighbor {host} ttl-security hops 1\n"),
                false => String::new(),
            },
        )
    });
    let activate = each(sessions, |node, kind| {
        format!("  neighbor {} activate\n", kind.host(node))
    });
    format!(
        "router bgp {ROUTER_AS}\n bgp router-id {ROUTER_ID}\n no bgp ebgp-requires-policy\n{neighbors} \
         address-family ipv4 unicast\n{activate} exit-address-family\n \
         address-family ipv6 unicast\n{activate} exit-address-family\n"
    )
}

impl Speaker for Frr {
    fn seen(&self, node: &Node, prefix: &str) -> Option<Seen> {
        let mut paths = self.paths(prefix).into_iter();
        let ours = [node.host4(), node.host6()];
        let path = paths.find(|path| ours.iter().any(|host| path["peer"]["peerId"] == **host))?;
        let as_path = path["aspath"]["string"].as_str()?;
        let communities = path["community"]["string"].as_str().unwrap_or_default();
        Some(Seen {
            next_hop: path["nexthops"][0]["ip"].as_str()?.to_owned(),
            as_path: as_path.replace("Local", ""),
            med: path["metric"].as_u64(),
            community: communities.contains("65001:7"),
        })
    }
}

pub fn gobgp(sessions: &Sessions<'_>) -> String {
    let family = |name: &str| {
        format!(
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n"
        )
    };
    let neighbors = each(sessions, |node, kind| {
        format!(
            "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {}\n{}\
             [neighbors.timers.config]\nconnect-retry = 1\n\
             [neighbors.transport.config]\nlocal-address = \"{}\"\n{}{}{}",
            kind.host(node),
            kind.host_as,
            kind.signed(|password| format!("auth-password = \"{password}\"\n")),
            kind.router(node),
            match kind.gtsm {
                true => "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n",
                false => "",
            },
            family("ipv4-unicast"),
            family("ipv6-unicast"),
        )
    });
    format!(
        "[global.config]\nas = {ROUTER_AS}\nrouter-id = \"{ROUTER_ID}\"\nport = 179\n{neighbors}"
    )
}

impl Speaker for Gobgp<'_> {
    fn seen(&self, node: &Node, prefix: &str) -> Option<Seen> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let table = self.json(&["global", "rib", "-a", family]);
        let hosts = [node.host4(), node.host6()];
        let mut paths = table[prefix].as_array()?.iter();
        let path = paths.find(|path| hosts.iter().any(|host| path["neighbor-ip"] == **host))?;
        let attribute = |kinds: &[u64]| -> Value {
            let mut all = path["attrs"].as_array().into_iter().flatten();
            let found = all.find(|a| kinds.iter().any(|kind| a["type"] == *kind));
            found.cloned().unwrap_or_default()
        };
        let path = attribute(&[2]);
        let asns = path["as_paths"][0]["asns"].as_array().cloned();
        let asns: Vec<String> = asns
            .unwrap_or_default()
            .iter()
            .map(Value::to_string)
            .collect();
        let communities = &attribute(&[8])["communities"];
        let wanted = (65001_u64 << 16) + 7;
        Some(Seen {
            next_hop: attribute(&[3, 14])["nexthop"].as_str()?.to_owned(),
            as_path: asns.join(" "),
            med: attribute(&[4])["metric"].as_u64(),
            community: communities.as_array()?.iter().any(|c| *c == wanted),
        })
    }
}

pub fn openbgpd(sessions: &Sessions<'_>) -> String {
    let neighbors = each(sessions, |node, kind| {
        format!(
            "neighbor {} {{\n remote-as {}\n local-address {}\n announce IPv4 unicast\n \
             announce IPv6 unicast\n {}\n {}\n}}\n",
            kind.host(node),
            kind.host_as,
            kind.router(node),
            kind.signed(|password| format!("tcp md5sig password \"{password}\"")),
            if kind.gtsm { "ttl-security yes" } else { "" },
        )
    });
    format!("AS {ROUTER_AS}\nrouter-id {ROUTER_ID}\n{neighbors}allow from any\ndeny to any\n")
}

impl Speaker for Openbgpd {
    fn seen(&self, node: &Node, prefix: &str) -> Option<Seen> {
        let rib = self.json("show rib detail");
        let hosts = [node.host4(), node.host6()];
        let from = |route: &&Value| {
            hosts
                .iter()
                .any(|h| route["neighbor"]["remote_addr"] == **h)
        };
        let mut routes = rib["rib"].as_array()?.iter();
        let route = routes.find(|route| route["prefix"] == prefix && from(route))?;
        let communities = route["communities"].as_array()?;
        Some(Seen {
            next_hop: route["exit_nexthop"].as_str()?.to_owned(),
            as_path: route["aspath"].as_str()?.to_owned(),
            med: route["metric"].as_u64(),
            community: communities.iter().any(|c| c == "65001:7"),
        })
    }
}

/// ExaBGP takes sessions on a socket that knows neither key nor TTL before the session is one: there it
/// only connects, and where sidecast does not listen, it listens.
pub fn exabgp(sessions: &Sessions<'_>) -> String {
    each(sessions, |node, kind| {
        format!(
            "neighbor {} {{ router-id {ROUTER_ID}; local-address {}; local-as {ROUTER_AS}; peer-as {};
               {} {} {}
               family {{ ipv4 unicast; ipv6 unicast; }}
               api {{ processes [ watch ]; neighbor-changes; receive {{ parsed; update; }} }} }}\n",
            kind.host(node),
            kind.router(node),
            kind.host_as,
            kind.signed(|password| format!("md5-password \"{password}\";")),
            if kind.gtsm { "outgoing-ttl 255; incoming-ttl 255;" } else { "" },
            if kind.listens { "" } else { "listen 179;" },
        )
    })
}

impl Speaker for Exabgp {
    fn seen(&self, node: &Node, prefix: &str) -> Option<Seen> {
        let family = match prefix.contains(':') {
            true => "ipv6 unicast",
            false => "ipv4 unicast",
        };
        let hosts = [node.host4(), node.host6()];
        let mut seen = None;
        for event in self.events() {
            let neighbor = &event["neighbor"];
            if !hosts
                .iter()
                .any(|host| neighbor["address"]["peer"] == **host)
            {
                continue;
            }
            if neighbor["state"] == "down" {
                seen = None;
            }
            let update = &neighbor["message"]["update"];
            let holds = |routes: &Value| {
                let mut routes = routes.as_array().into_iter().flatten();
                routes.any(|route| route["nlri"] == prefix)
            };
            if holds(&update["withdraw"][family]) {
                seen = None;
            }
            let announced = update["announce"][family].as_object();
            for (next_hop, routes) in announced.into_iter().flatten() {
                if holds(routes) {
                    seen = Some(exabgp_seen(next_hop, &update["attribute"]));
                }
            }
        }
        seen
    }
}

fn exabgp_seen(next_hop: &str, attributes: &Value) -> Seen {
    let asns = attributes["as-path"].as_array().into_iter().flatten();
    let asns: Vec<String> = asns.map(Value::to_string).collect();
    let communities = attributes["community"].as_array();
    let wanted = serde_json::json!([65001, 7]);
    Seen {
        next_hop: next_hop.to_owned(),
        as_path: asns.join(" "),
        med: attributes["med"].as_u64(),
        community: communities.is_some_and(|all| all.contains(&wanted)),
    }
}

pub const ROUTER_AS: u32 = 65000;
/// Higher than any host's.
const ROUTER_ID: &str = "10.255.0.1";
