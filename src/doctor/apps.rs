//! Lines on each app: its state, what listens for its monitors, its VIPs on this host, their routes, and the
//! proof of the path.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::case::{AppCase, MonitorCase};
use super::line::{Line, Mark, Topic};
use super::{Case, Findings};
use crate::app::Protocol;
use crate::core::{AppState, NotAnnouncedReason, RouteView, VipView};
use crate::discovery::PeerName;
use crate::health::Outcome;
use crate::net::{Family, Prefix};
use crate::path_proof::{Finding, Proof};
use crate::view::time::age;

/// The state of an app.
pub(super) fn state(app: &AppCase) -> Line {
    let topic = Topic::App;
    let name = &app.name;
    let Some((state, since, why)) = &app.state else {
        return Line::unknown(topic, format!("{name}: configured, no sidecast was asked"));
    };
    let text = format!("{name}: {state} for {}: {why}", age(*since));
    if app.last_resort {
        let text = format!("{name}: announced as last resort: {why}");
        return Line::fault(topic, text, "make its monitors pass");
    }
    match state {
        AppState::Up => Line::ok(topic, text),
        AppState::Pending => Line::unknown(topic, text).then("wait for its first checks"),
        AppState::Draining | AppState::Drained => Line::unknown(topic, text).then(format!(
            "sidecast undrain {name}, when it is to serve again"
        )),
        AppState::Maintenance => Line::unknown(topic, text)
            .then("remove its maintenance_file, when it is to serve again"),
        AppState::Down => Line::fault(topic, text, "see its lines `monitor`"),
        AppState::HeldDown => Line::fault(
            topic,
            text,
            "find out why it goes down and up; `hold_down` and `flap_limit` set the damping",
        ),
        AppState::Invalid => Line::fault(topic, text, "correct what the reason names"),
    }
}

/// A monitor's last result, and what listens on its port.
pub(super) fn monitor(
    case: &Case,
    app: &AppCase,
    monitor: &MonitorCase,
    findings: &Findings,
) -> Line {
    let topic = Topic::Monitor;
    let title = format!("{}: {}", app.name, monitor.title);
    let listening = listeners(case, app, monitor, findings);
    let result = match &monitor.outcome {
        Some(outcome @ (Outcome::Pass(_) | Outcome::Unavailable(_))) => outcome.to_string(),
        Some(failed) => format!("fail: {}", failed.message()),
        None if case.runs() => "no result yet".to_owned(),
        None => "not checked, no sidecast was asked".to_owned(),
    };
    let failed = monitor.outcome.as_ref().is_some_and(Outcome::is_fail);
    let passed = monitor.outcome.as_ref().is_some_and(Outcome::is_pass);
    match listening {
        Some(mut line) if line.mark == Mark::Fault || !failed => {
            // Of a port that is looked up the result says the same.
            line.text = match passed || line.mark == Mark::Fault {
                true => format!("{title}: {}", line.text),
                false => format!("{title}: {}; {result}", line.text),
            };
            line
        }
        _ if failed => Line::fault(
            topic,
            format!("{title}: {result}"),
            "repair the service, or the monitor where it asks the wrong thing",
        ),
        _ if passed => Line::ok(topic, format!("{title}: {result}")),
        _ => Line::unknown(topic, format!("{title}: {result}")),
    }
}

/// Whether the sockets on a monitor's port take what comes for the VIPs; `None`: it concerns no port here.
fn listeners(
    case: &Case,
    app: &AppCase,
    monitor: &MonitorCase,
    findings: &Findings,
) -> Option<Line> {
    let topic = Topic::Monitor;
    let (protocol, port) = monitor.port?;
    if findings.no_sock_diag.is_some() {
        let text = format!("who listens on {protocol} port {port} is not known");
        return Some(Line::unknown(topic, text));
    }
    let verb = match protocol {
        Protocol::Tcp => "listens on",
        Protocol::Udp => "is bound to",
    };
    let no_listener = BTreeSet::new();
    let addrs = findings
        .listeners
        .get(&(protocol, port))
        .unwrap_or(&no_listener);
    if addrs.is_empty() {
        return Some(Line::fault(
            topic,
            format!("nothing {verb} {protocol} port {port}"),
            "start the service, in this network namespace, or correct the port",
        ));
    }
    let shown = addresses(addrs);
    let redirected = app.redirects(protocol, port);
    if let Some(target) = without_socket(case, app, redirected, addrs) {
        let text = format!("only {shown} {verb} {protocol} port {port}, packets come to {target}");
        let nat = match redirected {
            true => String::new(),
            false => {
                format!(", or redirect with nats: [\"{protocol}:{port}\"] to this host's address")
            }
        };
        let next = format!("bind the service to {target} or to the wildcard address{nat}");
        return Some(Line::fault(topic, text, next));
    }
    let text = format!("{shown} {verb} {protocol} port {port}");
    let wildcard = addrs.iter().any(IpAddr::is_unspecified);
    if protocol == Protocol::Udp && wildcard && !redirected && !monitor.proven {
        let text = format!(
            "{text}: on the wildcard address, where answers may leave from another address than the VIP"
        );
        return Some(Line::unknown(topic, text).then(
            "add a monitor that asks the VIP (dns:NAME@vip), or bind the service to the VIP",
        ));
    }
    Some(Line::ok(topic, text))
}

/// An address that packets for a VIP come to, and none of these sockets takes.
fn without_socket(
    case: &Case,
    app: &AppCase,
    redirected: bool,
    addrs: &BTreeSet<IpAddr>,
) -> Option<IpAddr> {
    app.vips.iter().find_map(|vip| {
        let target = match redirected {
            true => *case.nat_target.get(&vip.prefix.family())?,
            false => vip.prefix.addr(),
        };
        let takes = |addr: &IpAddr| {
            let in_vip = !redirected && vip.prefix.contains(*addr);
            *addr == target || covers_all(*addr, target) || in_vip
        };
        (!addrs.iter().any(takes)).then_some(target)
    })
}

/// Whether a socket on the wildcard address takes packets to `target`: one of IPv6 takes IPv4 too, unless it is
/// IPV6_V6ONLY, which is not known of others' sockets.
fn covers_all(addr: IpAddr, target: IpAddr) -> bool {
    addr.is_unspecified() && (addr.is_ipv6() || target.is_ipv4())
}

fn addresses(addrs: &BTreeSet<IpAddr>) -> String {
    let shown = addrs.iter().take(MOST_ADDRESSES).map(|addr| match addr {
        IpAddr::V4(addr) => addr.to_string(),
        IpAddr::V6(addr) => format!("[{addr}]"),
    });
    let shown: Vec<String> = shown.collect();
    match addrs.len().saturating_sub(MOST_ADDRESSES) {
        0 => shown.join(" and "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

impl AppCase {
    /// Its NAT rules lead to this port of the service.
    fn redirects(&self, protocol: Protocol, port: u16) -> bool {
        let mut nats = self.nats.iter();
        nats.any(|nat| nat.protocol == protocol && nat.destination == port)
    }

    /// The ports at the VIP that lead to this port of the service.
    fn listened(&self, protocol: Protocol, port: u16) -> Vec<u16> {
        let to = |nat: &&crate::app::NatSpec| nat.protocol == protocol && nat.destination == port;
        let listened: Vec<u16> = self.nats.iter().filter(to).map(|nat| nat.listen).collect();
        match listened.is_empty() {
            true => vec![port],
            false => listened,
        }
    }

    /// The TCP ports of its services at the VIPs.
    fn tcp_ports(&self) -> BTreeSet<u16> {
        let ports = self.monitors.iter().filter_map(|monitor| monitor.port);
        let tcp = ports.filter(|(protocol, _)| *protocol == Protocol::Tcp);
        tcp.flat_map(|(protocol, port)| self.listened(protocol, port))
            .collect()
    }
}

impl Case {
    /// Where connections from this host are tried: the TCP ports at the VIPs.
    pub fn questions(&self) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        for app in &self.apps {
            let ports = app.tcp_ports();
            for vip in &app.vips {
                let addr = vip.prefix.addr();
                all.extend(ports.iter().map(|port| SocketAddr::new(addr, *port)));
            }
        }
        all.sort_unstable();
        all.dedup();
        all.truncate(MOST_QUESTIONS);
        all
    }
}

/// Whether a VIP is delivered to this host, and whether it answers here.
pub(super) fn vip(case: &Case, app: &AppCase, vip: &VipView, findings: &Findings) -> Vec<Line> {
    let topic = Topic::Vip;
    let title = format!("{} of {}", vip.prefix, app.name);
    let addr = vip.prefix.addr();
    if let Some(problem) = &vip.problem {
        return vec![Line::fault(
            topic,
            format!("{title}: {problem}"),
            "remove what the reason names",
        )];
    }
    let wanted = !case.runs() || vip.wanted || vip.announced;
    match (findings.local.get(&addr), &case.vip_interface) {
        (Some(true), _) => {}
        (_, Some(name)) if !wanted => {
            let text = format!("{title}: not on {name}, since the app is not announced");
            return vec![Line::unknown(topic, text)];
        }
        (None, _) => {
            let text = format!("{title}: the kernel does not say whether it is here");
            return vec![Line::unknown(topic, text)];
        }
        (Some(false), None) => {
            return vec![Line::fault(
                topic,
                format!(
                    "{title}: it is no address of this host, so its packets are not for this host"
                ),
                format!(
                    "ip addr add {} dev lo, since agent.vip_interface is none",
                    vip.prefix
                ),
            )];
        }
        (Some(false), Some(name)) if !case.runs() => {
            let text = format!("{title}: not on {name} yet, sidecast adds it");
            return vec![Line::unknown(topic, text)];
        }
        (Some(false), Some(name)) => {
            return vec![Line::fault(
                topic,
                format!("{title}: it is not on {name}, so its packets are not for this host"),
                "see who removes it (ip monitor address), and the log of sidecast",
            )];
        }
    }
    let foreign = match vip.foreign {
        true => ", added by another program",
        false => "",
    };
    let mut lines = vec![Line::ok(
        topic,
        format!("{title}: it is on this host{foreign}"),
    )];
    for port in app.tcp_ports() {
        lines.extend(answer(&title, SocketAddr::new(addr, port), findings));
    }
    lines
}

fn answer(title: &str, at: SocketAddr, findings: &Findings) -> Option<Line> {
    let topic = Topic::Vip;
    let port = at.port();
    Some(match findings.answer(at)? {
        Ok(()) => Line::ok(
            topic,
            format!("{title}: tcp port {port} answers, asked from this host"),
        ),
        Err(why) => Line::fault(
            topic,
            format!("{title}: tcp port {port} does not answer this host: {why}"),
            "bind the service to the VIP or the wildcard address, and look at the firewall of this host",
        ),
    })
}

/// What was announced of a VIP, peer by peer, with which next hop.
pub(super) fn routes(case: &Case, app: &AppCase, vip: &VipView) -> Vec<Line> {
    let topic = Topic::Route;
    let prefix = &vip.prefix;
    let Some((state, ..)) = &app.state else {
        let text = format!("{prefix}: no sidecast was asked, so nothing is known to be announced");
        return vec![Line::unknown(topic, text)];
    };
    let mut lines: Vec<Line> = vip.routes.iter().map(|r| route(case, vip, r)).collect();
    for lack in &vip.lacking {
        let text = format!("{prefix} to {}: not announced: {}", lack.peer, lack.why);
        lines.push(match lack.why {
            NotAnnouncedReason::NotYet => Line::unknown(topic, text),
            NotAnnouncedReason::NoSession => {
                Line::fault(topic, text, "see the peer's line `session`")
            }
            NotAnnouncedReason::Family(family) => Line::fault(
                topic,
                text,
                format!(
                    "activate {family} unicast for this neighbor on the peer, and in bgp.families"
                ),
            ),
            NotAnnouncedReason::NoSuchPeer => Line::fault(
                topic,
                text,
                "correct the `peers` of the app, or add that peer",
            ),
            NotAnnouncedReason::NextHop => Line::fault(topic, text, set_next_hop(prefix.family())),
        });
    }
    if lines.is_empty() {
        lines.push(match vip.wanted {
            true => Line::fault(
                topic,
                format!("{prefix}: announced to no peer: none takes it"),
                "see bgp.families and the lines `session`",
            ),
            false => Line::unknown(
                topic,
                format!("{prefix}: not announced, the app is {state}"),
            ),
        });
    }
    lines
}

fn set_next_hop(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "give the interface to the peer an IPv4 address, or set next_hop",
        Family::Ipv6 => "give the interface to the peer an IPv6 address, or set next_hop6",
    }
}

fn route(case: &Case, vip: &VipView, route: &RouteView) -> Line {
    let topic = Topic::Route;
    let next_hop = route.attributes.next_hop;
    let text = format!("{} to {}: next hop {next_hop}", vip.prefix, route.peer);
    if !case.addresses.contains(&next_hop) {
        let text = format!("{text}, which is no address of this host");
        let next = "see that the peer resolves it to this host, or leave next_hop out";
        return Line::unknown(topic, text).then(next);
    }
    match route.acknowledged {
        true => Line::ok(topic, format!("{text}, acknowledged by its TCP")),
        false => Line::unknown(topic, format!("{text}, not acknowledged by its TCP yet"))
            .then("see the peer's line `session`; it stays so while the peer does not read"),
    }
}

/// Whether the peers that have the route forward the VIP to this host.
pub(super) fn path(vip: &VipView) -> Vec<Line> {
    let prefix = &vip.prefix;
    let of_peer = |route: &RouteView| {
        let mut paths = vip.paths.iter();
        let path = paths.find(|path| path.peer == route.peer);
        path_of(prefix, &route.peer, path.map(|path| &path.proof))
    };
    let lines: Vec<Line> = vip.routes.iter().map(of_peer).collect();
    match lines.is_empty() {
        true => vec![Line::unknown(
            Topic::Path,
            format!("{prefix}: nothing is announced"),
        )],
        false => lines,
    }
}

/// `None`: nothing sends probes.
fn path_of(prefix: &Prefix, peer: &PeerName, proof: Option<&Proof>) -> Line {
    let topic = Topic::Path;
    let Some(proof) = proof else {
        let text = format!("{prefix} by {peer}: whether it forwards to this host is not known");
        return Line::unknown(topic, text);
    };
    let text = format!("{prefix} by {peer}: {proof}");
    match proof.finding {
        Finding::Yes | Finding::Partly => Line::ok(topic, text),
        Finding::No(_) => Line::fault(
            topic,
            text,
            format!("look on the router for the route of {prefix}: import policy, next hop, FIB"),
        ),
        Finding::Elsewhere | Finding::NotSeen | Finding::Unknown(_) => Line::unknown(topic, text),
    }
}

/// Addresses of listeners in one line.
const MOST_ADDRESSES: usize = 4;
/// Connections to VIPs.
const MOST_QUESTIONS: usize = 64;
