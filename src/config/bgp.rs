//! The section `bgp`: the speaker, and its peers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::fields::{Cx, Fields, Split, parsed, read_bool, read_duration, should_be, shown};
use super::tree::{Node, Tree};
use super::{Bfd, Bgp, PeerSettings, Remote, keys};
use crate::app::Attributes;
use crate::net::{Asn, Family};

pub(super) fn bgp(cx: &mut Cx<'_>, node: Option<&Node>) -> Bgp {
    let f = &Fields::open(cx, "bgp", node, &keys::bgp());
    if f.has("family") {
        let place = f.place_of("family").clone();
        cx.warn(
            &place,
            "bgp.family is ignored: write families, the default is both",
        );
    }
    let local_as = f.parse(cx, "local_as");
    if local_as.is_none() && !f.has("local_as") {
        let message = "is missing: our own AS number (or SIDECAST_BGP_LOCAL_AS)";
        cx.problem(&f.place.clone(), "bgp.local_as", "", message);
    }
    let (local_ip4, local_ip6) = local_ips(cx, f);
    let listen = f.read(cx, "listen", read_listen);
    let mut model = session(cx, f, &PeerSettings::default());
    model.peer_as = peer_as(cx, f);
    let peers = peers(cx, f, &model);
    let discover = peers.is_none();
    let peers = peers.unwrap_or_else(|| vec![model]);
    if peers.iter().any(|peer| peer.peer_as.is_none()) {
        let place = f.place.clone();
        cx.warn(
            &place,
            "bgp.peer_as is not set for every peer: any AS is accepted there",
        );
    }
    if listen.is_none() && !f.has("listen") && peers.iter().any(|peer| peer.passive) {
        let message = "waits for the peer to connect, but bgp.listen is not set";
        cx.problem(&f.place_of("passive").clone(), "bgp.passive", "", message);
    }
    Bgp {
        local_as: local_as.unwrap_or(Asn::TRANS),
        peers,
        discover,
        router_id: f.parse(cx, "router_id"),
        local_ip4,
        local_ip6,
        attributes: attributes(cx, f, "communities"),
        origin: f.parse(cx, "origin").unwrap_or_default(),
        listen,
    }
}

/// The peers that are written; `None`: none is.
fn peers(cx: &mut Cx<'_>, f: &Fields<'_>, model: &PeerSettings) -> Option<Vec<PeerSettings>> {
    let before = cx.problems.len();
    let mut peers: Vec<PeerSettings> = Vec::new();
    let mut add = |cx: &mut Cx<'_>, path: &str, item: &Node, peer: PeerSettings| {
        if peers.iter().any(|other| other.remote == peer.remote) {
            let value = peer.remote.to_string();
            cx.problem(&item.place, path, &value, "is there twice");
        } else {
            peers.push(peer);
        }
    };
    if f.has("peers") {
        if f.has("peer_ip") {
            let message = "stands in place of peer_ip: write one of them";
            cx.problem(&f.place_of("peers").clone(), "bgp.peers", "", message);
        }
        for (path, item) in f.items(cx, "peers", Split::Commas)? {
            let peer = peer(cx, &path, &item, model);
            if let Some(peer) = peer {
                add(cx, &path, &item, peer);
            }
        }
    } else {
        for (path, item) in f.items(cx, "peer_ip", Split::Commas)? {
            match item.text().map(parsed::<Remote>) {
                Some(Ok(remote)) => {
                    let peer = PeerSettings {
                        remote,
                        ..model.clone()
                    };
                    add(cx, &path, &item, peer);
                }
                Some(Err(message)) => cx.problem(&item.place, &path, &shown(&item.tree), message),
                None => cx.problem(
                    &item.place,
                    &path,
                    &shown(&item.tree),
                    "should be an address",
                ),
            }
        }
    }
    if peers.is_empty() && cx.problems.len() == before {
        let message = "is an empty list: leave it out to use the default gateways";
        let key = if f.has("peers") { "peers" } else { "peer_ip" };
        cx.problem(&f.place_of(key).clone(), &f.path(key), "", message);
    }
    Some(peers)
}

/// One entry of `peers`.
fn peer(cx: &mut Cx<'_>, path: &str, item: &Node, model: &PeerSettings) -> Option<PeerSettings> {
    let f = &Fields::open(cx, path, Some(item), keys::PEER);
    let mut peer = session(cx, f, model);
    peer.peer_as = peer_as(cx, f).or(model.peer_as);
    (peer.local_ip4, peer.local_ip6) = local_ips(cx, f);
    peer.attributes = attributes(cx, f, "communities");
    peer.origin = f.parse(cx, "origin");
    if !f.has("peer_ip") {
        cx.problem(
            &item.place,
            &f.path("peer_ip"),
            "",
            "is missing: the peer's address",
        );
    }
    peer.remote = f.parse(cx, "peer_ip")?;
    check_source(cx, f, &peer);
    Some(peer)
}

/// Whoever writes a peer's own `local_ip` wants its session to come from there.
fn check_source(cx: &mut Cx<'_>, f: &Fields<'_>, peer: &PeerSettings) {
    let (remote, source) = match &peer.remote {
        Remote::Addr(remote, None) if remote.is_ipv4() => (remote, peer.local_ip4.map(IpAddr::V4)),
        Remote::Addr(remote, None) => (remote, peer.local_ip6.map(IpAddr::V6)),
        // The source of a session to a link-local peer is the interface's.
        _ => return,
    };
    let other = match peer
        .local_ip4
        .map(IpAddr::V4)
        .or(peer.local_ip6.map(IpAddr::V6))
    {
        Some(other) if source.is_none() => other,
        _ => return,
    };
    let (family, next_hop) = match remote {
        IpAddr::V4(_) => ("IPv4", "next_hop6"),
        IpAddr::V6(_) => ("IPv6", "next_hop"),
    };
    let message = format!(
        "should be an {family} address, from which {remote} is spoken to; for the other family's routes write {next_hop}"
    );
    let place = f.place_of("local_ip").clone();
    cx.problem(&place, &f.path("local_ip"), &other.to_string(), message);
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            remote: Remote::Gateway,
            peer_as: None,
            hold_time: 90,
            connect_retry: Duration::from_secs(5),
            port: 179,
            password: None,
            multihop: Some(255),
            ttl_security: None,
            families: BTreeSet::from(Family::ALL),
            passive: false,
            graceful_restart: 0,
            bfd: None,
            local_ip4: None,
            local_ip6: None,
            attributes: Attributes::default(),
            origin: None,
        }
    }
}

/// The session options in a section, over those of the section around it.
fn session(cx: &mut Cx<'_>, f: &Fields<'_>, base: &PeerSettings) -> PeerSettings {
    let mut settings = base.clone();
    let wide = |number: Option<u32>| number.and_then(|n| u16::try_from(n).ok());
    if let Some(hold_time) = f.read(cx, "hold_time", read_hold_time) {
        settings.hold_time = hold_time;
    }
    if let Some(retry) = f.read(cx, "connect_retry", read_retry) {
        settings.connect_retry = retry;
    }
    if let Some(port) = wide(f.number(cx, "port", 1, 65535)) {
        settings.port = port;
    }
    password(cx, f, &mut settings);
    hops(cx, f, &mut settings);
    if let Some(families) = f.list(cx, "families", parsed::<Family>) {
        if families.is_empty() && f.has("families") {
            let message = "should name ipv4, ipv6 or both";
            cx.problem(
                &f.place_of("families").clone(),
                &f.path("families"),
                "",
                message,
            );
        }
        settings.families = families.into_iter().collect();
    }
    if let Some(passive) = f.boolean(cx, "passive") {
        settings.passive = passive;
    }
    if let Some(seconds) = f.read(cx, "graceful_restart", read_restart_time) {
        settings.graceful_restart = seconds;
    }
    if f.has("bfd") {
        settings.bfd = bfd(cx, f);
    }
    settings
}

fn password(cx: &mut Cx<'_>, f: &Fields<'_>, settings: &mut PeerSettings) {
    if let Some(password) = f.secret(cx, "password") {
        // TCP_MD5SIG_MAXKEYLEN, linux/tcp.h.
        if password.expose().len() > 80 {
            let key = if f.has("password") {
                "password"
            } else {
                "password_file"
            };
            cx.problem(
                &f.place_of(key).clone(),
                &f.path(key),
                "",
                "should be at most 80 bytes",
            );
        }
        settings.password = Some(password);
    }
}

/// How far the peer may be: what we send may go that far, or what comes must not come from further.
fn hops(cx: &mut Cx<'_>, f: &Fields<'_>, settings: &mut PeerSettings) {
    let small = |number: Option<u32>| number.and_then(|n| u8::try_from(n).ok());
    let multihop = small(f.number(cx, "multihop", 1, 255));
    let hops = small(f.number(cx, "ttl_security", 1, 254));
    if f.has("multihop") && f.has("ttl_security") {
        let message = "cannot go with multihop: it accepts only packets from that many hops; write one of them";
        cx.problem(
            &f.place_of("ttl_security").clone(),
            &f.path("ttl_security"),
            "",
            message,
        );
    }
    if hops.is_some() {
        (settings.multihop, settings.ttl_security) = (None, hops);
    } else if multihop.is_some() {
        (settings.multihop, settings.ttl_security) = (multihop, None);
    }
}

fn bfd(cx: &mut Cx<'_>, f: &Fields<'_>) -> Option<Bfd> {
    let entry = f.entry(cx, "bfd")?;
    if !matches!(entry.node.tree, Tree::Map(_)) {
        let on = f.read(cx, "bfd", |text| {
            read_bool(text)
                .map_err(|e| format!("{e}, or a map of interval, multiplier and multihop"))
        });
        return on.unwrap_or(false).then(Bfd::default);
    }
    let f = &Fields::open(cx, &f.path("bfd"), Some(&entry.node), keys::BFD);
    let default = Bfd::default();
    let interval = f.read(cx, "interval", |text| match read_duration(text)? {
        Duration::ZERO => Ok(default.interval),
        interval if (BFD_FASTEST..=BFD_SLOWEST).contains(&interval) => Ok(interval),
        _ => Err("should be between 10ms and 1m".to_owned()),
    });
    let multiplier = f.number(cx, "multiplier", 1, 255);
    Some(Bfd {
        interval: interval.unwrap_or(default.interval),
        multiplier: multiplier
            .and_then(|n| u8::try_from(n).ok())
            .unwrap_or(default.multiplier),
        multihop: f.boolean(cx, "multihop").unwrap_or(default.multihop),
    })
}

const BFD_FASTEST: Duration = Duration::from_millis(10);
const BFD_SLOWEST: Duration = Duration::from_secs(60);

/// Both names of one key (GoCast's code reads one, its example writes the other).
fn peer_as(cx: &mut Cx<'_>, f: &Fields<'_>) -> Option<Asn> {
    let peer_as: Option<Asn> = f.parse(cx, "peer_as");
    let remote_as: Option<Asn> = f.parse(cx, "remote_as");
    if let (Some(peer_as), Some(remote_as)) = (peer_as, remote_as)
        && peer_as != remote_as
    {
        let (place, value) = (f.place_of("remote_as").clone(), remote_as.to_string());
        let message = format!("is the same key as peer_as, which is {peer_as}: write one of them");
        cx.problem(&place, &f.path("remote_as"), &value, message);
    }
    peer_as.or(remote_as)
}

/// At most one address of each family.
fn local_ips(cx: &mut Cx<'_>, f: &Fields<'_>) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let read = |text: &str| {
        match text.parse::<IpAddr>() {
        // It would also be a next hop, where routers take no such address alone (RFC 2545 §3).
        Ok(IpAddr::V6(addr)) if addr.is_unicast_link_local() => Err(
            "is link-local: write a global address, or none; sessions to link-local peers have their \
             interface's"
                .to_owned(),
        ),
        Ok(addr) if !addr.is_unspecified() && !addr.is_multicast() => Ok(addr),
        _ => Err("should be an address of this host".to_owned()),
    }
    };
    let (mut ip4, mut ip6) = (Vec::new(), Vec::new());
    for addr in f.list(cx, "local_ip", read).unwrap_or_default() {
        match addr {
            IpAddr::V4(addr) => ip4.push(addr),
            IpAddr::V6(addr) => ip6.push(addr),
        }
    }
    if ip4.len() > 1 || ip6.len() > 1 {
        let message = "should be at most one address of each family";
        cx.problem(
            &f.place_of("local_ip").clone(),
            &f.path("local_ip"),
            "",
            message,
        );
    }
    (ip4.first().copied(), ip6.first().copied())
}

/// Path attributes; the key of the communities has another name in `vip_config`.
pub(super) fn attributes(cx: &mut Cx<'_>, f: &Fields<'_>, communities: &str) -> Attributes {
    Attributes {
        communities: set(f.list(cx, communities, parsed)),
        large_communities: set(f.list(cx, "large_communities", parsed)),
        ext_communities: set(f.list(cx, "ext_communities", parsed)),
        med: f.number(cx, "med", 0, u32::MAX),
        local_pref: f.number(cx, "local_pref", 0, u32::MAX),
        as_path_prepend: f
            .number(cx, "as_path_prepend", 0, 100)
            .and_then(|n| u8::try_from(n).ok()),
        next_hop: f.read(cx, "next_hop", |text| match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(addr)) if is_next_hop(addr.into()) => Ok(addr),
            Ok(IpAddr::V6(_)) => {
                Err("should be an IPv4 address; an IPv6 one belongs into next_hop6".to_owned())
            }
            _ => Err(should_be("an IPv4 address that routers can reach")),
        }),
        next_hop6: f.read(cx, "next_hop6", |text| match text.parse::<IpAddr>() {
            Ok(IpAddr::V6(addr)) if addr.is_unicast_link_local() => {
                Err("is link-local: should be a global IPv6 address (RFC 2545)".to_owned())
            }
            Ok(IpAddr::V6(addr)) if is_next_hop(addr.into()) => Ok(addr),
            Ok(IpAddr::V4(_)) => {
                Err("should be an IPv6 address; an IPv4 one belongs into next_hop".to_owned())
            }
            _ => Err(should_be("an IPv6 address that routers can reach")),
        }),
    }
}

fn set<T: Ord>(values: Option<Vec<T>>) -> BTreeSet<T> {
    values.unwrap_or_default().into_iter().collect()
}

fn is_next_hop(addr: IpAddr) -> bool {
    !addr.is_unspecified() && !addr.is_multicast() && !addr.is_loopback()
}

/// Whole seconds; RFC 4271 §4.2 allows zero or at least three.
fn read_hold_time(text: &str) -> Result<u16, String> {
    let seconds = whole_seconds(text, 65535)?;
    match seconds {
        1 | 2 => Err("should be 0 or at least 3s (RFC 4271)".to_owned()),
        _ => Ok(seconds),
    }
}

/// The field has twelve bits (RFC 4724 §3).
fn read_restart_time(text: &str) -> Result<u16, String> {
    whole_seconds(text, 4095)
}

fn whole_seconds(text: &str, most: u16) -> Result<u16, String> {
    let duration = read_duration(text)?;
    match u16::try_from(duration.as_secs()) {
        Ok(seconds) if seconds <= most && duration.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(format!("should be whole seconds, at most {most}s")),
    }
}

fn read_retry(text: &str) -> Result<Duration, String> {
    match read_duration(text)? {
        short if short < Duration::from_millis(100) => Err("should be at least 100ms".to_owned()),
        retry => Ok(retry),
    }
}

/// An address and port; `:179` is every address of both families.
fn read_listen(text: &str) -> Result<SocketAddr, String> {
    let any = text.strip_prefix(':').map(|port| format!("[::]:{port}"));
    any.as_deref()
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|addr: &SocketAddr| addr.port() != 0)
        .ok_or_else(|| should_be("an address and port such as [::]:179 or 10.0.0.2:179"))
}
