//! The section `bgp`: the speaker, and its peers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Remote;
use crate::app::Attributes;
use crate::net::{Asn, Family, Origin, RouterId};
use crate::schema::kinds::{
    Bool, Number, Opt, Parsed, Secret, Set, Time, Validate, Within, ensure, list, parsed, quoted,
    read_list, read_text, should_be,
};
use crate::schema::tree::Node;
use crate::schema::{
    Context, Custom, Derived, Fields, Flatten, Key, Kind, Section, Shape, Split, ValueAt,
};
use crate::section;
use crate::small_set::SmallSet;

section! {
    /// The speaker.
    pub struct Bgp {
        /// Our own AS number, up to 4294967295.
        local_as: Parsed<Asn>, default = "23456", required = true;
        /// Default: the local IPv4 address.
        router_id: Opt<Parsed<RouterId>>;
        /// At most one of each family; default: the source address of the route to the peer.
        local_ip: LocalIp;
        /// For all apps and peers; a peer's are laid over them, an app's over both.
        attributes: Flatten<Attributes>;
        /// ORIGIN: `igp`, `egp` or `incomplete`.
        origin: Parsed<Origin>, default = "igp";
        /// Where sessions are accepted too: `[::]:179` (needs CAP_NET_BIND_SERVICE); default: nowhere.
        listen: Opt<SocketAddress>;
        /// In place of `peer_ip`: a list of maps, each with any of the keys of a peer. Without either the default gateways
        /// are the peers.
        peers: Custom<Vec<PeerSettings>>, shape = Shape::List(Split::Commas, &Shape::Map("bgp.peers"));
        /// Ignored: write families, the default is both.
        family: Custom<()>;
        /// No peer is written: the default gateways are the peers.
        discover: Derived<bool>;
    }
}

impl Bgp {
    /// `router_id`, else the IPv4 address of `local_ip` unless it is a loopback one, which every host has.
    pub fn written_router_id(&self) -> Option<RouterId> {
        let local = self.local_ip.v4.filter(|addr| !addr.is_loopback());
        self.router_id.or(local.and_then(RouterId::new))
    }
}

section! {
    /// One peer, or the template of the discovered ones. In the section `bgp` these keys apply to all
    /// peers.
    pub struct PeerSettings {
        /// An address, or `%eth0`, the router on that link (unnumbered, RFC 8950; needs CAP_NET_RAW for router
        /// advertisements); in `bgp` also several; default: the default gateways.
        remote: Custom<Remote>, name = "peer_ip", shape = Shape::List(Split::Commas, &Shape::Text);
        /// Its AS; default: any is accepted, with a warning.
        peer_as: Opt<Parsed<Asn>>, aliases = &["remote_as"];
        /// 0 switches keepalives off; else at least 3 s (RFC 4271 §4.2).
        hold_time: Seconds<65535, 3>, default = "90s";
        /// The longest delay between two connection attempts; the first is 0.2 s.
        connect_retry: Within<100>, default = "5s";
        /// Where the peer listens.
        port: Number<u16, 1, 65535>, default = "179";
        /// TCP MD5 (RFC 2385), at most 80 bytes.
        password: Opt<Md5Key>, file = Some("password_file");
        /// TTL of what we send on eBGP; 1: directly connected.
        multihop: Opt<Number<u8, 1, 255>>, default = "255";
        /// GTSM hops (RFC 5082), in place of `multihop`.
        ttl_security: Opt<Number<u8, 1, 254>>;
        /// Address families offered in OPEN: `ipv4`, `ipv6`.
        families: Families, default = "ipv4,ipv6", shape = Shape::List(Split::Commas, &Shape::Words(&["ipv4", "ipv6"]));
        /// Waits for the peer to connect; needs `listen`.
        passive: Bool, default = "false";
        /// Restart time to advertise, at most 4095 s (RFC 4724); 0: off.
        graceful_restart: Seconds<4095, 0>, default = "0";
        /// Bidirectional forwarding detection: `true`, or a map such as `{interval: 300ms, multiplier: 3}`.
        bfd: Bfd, default = "false";
        /// The peer's own, else the global one.
        local_ip: LocalIp;
        /// The peer's own only: laid over the global ones, an app's over both.
        attributes: Flatten<Attributes>;
        /// The peer's own only.
        origin: Opt<Parsed<Origin>>;
    }
}

section! {
    /// Bidirectional forwarding detection (RFC 5880).
    #[derive(Copy)]
    pub struct Bfd {
        /// Transmit interval, 10 ms to 1 m.
        interval: Within<10, 60_000>, default = "300ms";
        /// Detection multiplier: missing packets after which the session is down.
        multiplier: Number<u8, 1, 255>, default = "3";
        /// Multihop BFD (RFC 5883), as between loopbacks.
        multihop: Bool, default = "false";
    }
}

/// The keys of the section: the speaker's, and those of all peers.
pub(super) fn keys() -> Vec<&'static Key> {
    let mut keys = Bgp::keys();
    for key in PeerSettings::keys() {
        if !keys.iter().any(|other| other.name == key.name) {
            keys.push(key);
        }
    }
    keys
}

/// At most one address of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalIp {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

pub(super) fn bgp(cx: &mut Context<'_>, node: Option<&Node>) -> Bgp {
    let f = &Fields::open(cx, "bgp", node, &keys());
    let mut bgp = Bgp::default();
    bgp.read(cx, f);
    if f.has("family") {
        let message = "bgp.family is ignored: write families, the default is both";
        f.warn(cx, "family", message);
    }
    if !f.has("local_as") {
        let message = "is missing: our own AS number (or SIDECAST_BGP_LOCAL_AS)";
        cx.problem(&f.place, "bgp.local_as", "", message);
    }
    let mut template = PeerSettings::default();
    session(cx, f, &mut template);
    let template = own_of(template, PeerSettings::default());
    let peers = peers(cx, f, &template);
    bgp.discover = peers.is_none();
    bgp.peers = peers.unwrap_or_else(|| vec![template]);
    if bgp.peers.iter().any(|peer| peer.peer_as.is_none()) {
        let message = "bgp.peer_as is not set for every peer: any AS is accepted there";
        cx.warn(&f.place, message);
    }
    if !f.has("listen") && bgp.peers.iter().any(|peer| peer.passive) {
        let message = "waits for the peer to connect, but bgp.listen is not set";
        f.problem(cx, "passive", message);
    }
    bgp
}

/// Replaces what a peer does not inherit from the section by the values of `own`.
fn own_of(peer: PeerSettings, own: PeerSettings) -> PeerSettings {
    PeerSettings {
        local_ip: own.local_ip,
        attributes: own.attributes,
        origin: own.origin,
        ..peer
    }
}

/// The configured peers; `None`: none is written.
fn peers(
    cx: &mut Context<'_>,
    f: &Fields<'_>,
    template: &PeerSettings,
) -> Option<Vec<PeerSettings>> {
    let before = cx.problems.len();
    let key = if f.has("peers") { "peers" } else { "peer_ip" };
    if key == "peers" && f.has("peer_ip") {
        f.problem(cx, key, "replaces peer_ip: set one of them");
    }
    let mut peers: Vec<PeerSettings> = Vec::new();
    for item in f.at(cx, key)?.items(cx, Split::Commas)? {
        let peer = match key {
            "peers" => peer(cx, &item, template),
            _ => address(cx, &item).map(|remote| PeerSettings {
                remote,
                ..template.clone()
            }),
        };
        match peer {
            Some(peer) if peers.iter().any(|other| other.remote == peer.remote) => {
                cx.problem(
                    &item.place,
                    &item.path,
                    &peer.remote.to_string(),
                    "is listed twice",
                );
            }
            peer => peers.extend(peer),
        }
    }
    if peers.is_empty() && cx.problems.len() == before {
        f.problem(
            cx,
            key,
            "is an empty list: leave it out to use the default gateways",
        );
    }
    Some(peers)
}

fn address(cx: &mut Context<'_>, item: &ValueAt<'_>) -> Option<Remote> {
    let parsed = match item.node.text() {
        Some(text) => parsed(text),
        None => Err(should_be("an address")),
    };
    parsed.map_err(|message| item.problem(cx, message)).ok()
}

/// One entry of `peers`.
fn peer(cx: &mut Context<'_>, item: &ValueAt<'_>, template: &PeerSettings) -> Option<PeerSettings> {
    let f = &Fields::open(cx, &item.path, Some(&item.node), &PeerSettings::keys());
    let mut peer = template.clone();
    session(cx, f, &mut peer);
    if !f.has("peer_ip") {
        cx.problem(
            &item.place,
            &f.path("peer_ip"),
            "",
            "is missing: the peer's address",
        );
    }
    let at = f.at(cx, "peer_ip")?;
    peer.remote = read_text(cx, &at, parsed)?;
    check_source(cx, f, &peer);
    Some(peer)
}

/// The session options in a section, over those of the section around it.
fn session(cx: &mut Context<'_>, f: &Fields<'_>, peer: &mut PeerSettings) {
    peer.read(cx, f);
    // `multihop` limits the TTL sent, `ttl_security` the distance of received packets.
    if f.has("ttl_security") {
        peer.multihop = None;
    } else if f.has("multihop") {
        peer.ttl_security = None;
    }
    if f.has("multihop") && f.has("ttl_security") {
        let message = "cannot go with multihop: it accepts only packets from that many hops; write one of them";
        f.problem(cx, "ttl_security", message);
    }
}

/// A peer's own `local_ip` has to be of the session's family.
fn check_source(cx: &mut Context<'_>, f: &Fields<'_>, peer: &PeerSettings) {
    // A session to a link-local peer uses the interface's link-local address.
    let Remote::Addr(remote, None) = &peer.remote else {
        return;
    };
    let (v4, v6) = (
        peer.local_ip.v4.map(IpAddr::V4),
        peer.local_ip.v6.map(IpAddr::V6),
    );
    let (source, other, family, next_hop) = match remote {
        IpAddr::V4(_) => (v4, v6, "IPv4", "next_hop6"),
        IpAddr::V6(_) => (v6, v4, "IPv6", "next_hop"),
    };
    if let (None, Some(other)) = (source, other) {
        let message = format!(
            "should be an {family} address, from which {remote} is spoken to; for the other family's routes write {next_hop}"
        );
        let place = f.place_of("local_ip");
        cx.problem(&place, &f.path("local_ip"), &other.to_string(), message);
    }
}

impl Kind for LocalIp {
    type Value = Self;
    const SHAPE: Shape = Shape::List(Split::Commas, &Shape::Text);

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::default()),
            _ => Self::of(vec![local_ip(text)?]),
        }
    }

    fn write(addrs: &Self) -> Option<String> {
        Some(list(addrs.iter())).filter(|text| text != "[]")
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self> {
        let addrs = read_list(cx, at, local_ip)?;
        let report = |message| cx.problem(&at.place, &at.path, "", message);
        Self::of(addrs).map_err(report).ok()
    }
}

impl Bgp {
    /// The addresses of the peers that are written with one.
    pub fn peer_addresses(&self) -> BTreeSet<IpAddr> {
        let remotes = self.peers.iter().map(|peer| &peer.remote);
        remotes
            .filter_map(|remote| match remote {
                Remote::Addr(addr, _) => Some(*addr),
                Remote::Interface(_) | Remote::Gateway => None,
            })
            .collect()
    }
}

impl LocalIp {
    /// The addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::V4).into_iter();
        v4.chain(self.v6.map(IpAddr::V6))
    }

    fn of(addrs: Vec<IpAddr>) -> Result<Self, String> {
        let mut all = Self::default();
        for addr in addrs {
            let before = match addr {
                IpAddr::V4(addr) => all.v4.replace(addr).map(IpAddr::V4),
                IpAddr::V6(addr) => all.v6.replace(addr).map(IpAddr::V6),
            };
            if before.is_some() {
                return Err("should be at most one address of each family".to_owned());
            }
        }
        Ok(all)
    }
}

fn local_ip(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        // It would also be a next hop, and routers do not accept a link-local address alone (RFC 2545
        // §3).
        Ok(IpAddr::V6(addr)) if addr.is_unicast_link_local() => Err(
            "is link-local: write a global address, or none; sessions to link-local peers have their interface's"
                .to_owned(),
        ),
        Ok(addr) if !addr.is_unspecified() && !addr.is_multicast() => Ok(addr),
        _ => Err("should be an address of this host".to_owned()),
    }
}

/// An address and port to listen on; `:179` is every address of both families.
pub struct SocketAddress;

impl Kind for SocketAddress {
    type Value = SocketAddr;

    fn parse(text: &str) -> Result<SocketAddr, String> {
        let any = text.strip_prefix(':').map(|port| format!("[::]:{port}"));
        any.as_deref()
            .unwrap_or(text)
            .parse()
            .ok()
            .filter(|addr: &SocketAddr| addr.port() != 0)
            .ok_or_else(|| should_be("an address and port such as [::]:179 or 10.0.0.2:179"))
    }

    fn write(addr: &SocketAddr) -> Option<String> {
        Some(quoted(addr))
    }
}

/// Whole seconds: 0, or at least `LOW` (RFC 4271 §4.2).
pub struct Seconds<const HIGH: u16, const LOW: u16>;

impl<const HIGH: u16, const LOW: u16> Kind for Seconds<HIGH, LOW> {
    type Value = u16;
    const SHAPE: Shape = Shape::Duration;

    fn parse(text: &str) -> Result<u16, String> {
        let duration = Time::parse(text)?;
        match u16::try_from(duration.as_secs()) {
            Ok(0) if duration.is_zero() => Ok(0),
            Ok(seconds) if seconds > HIGH || duration.subsec_nanos() != 0 => Err(whole(HIGH)),
            Ok(seconds) if seconds < LOW => {
                Err(format!("should be 0 or at least {LOW}s (RFC 4271)"))
            }
            Ok(seconds) => Ok(seconds),
            Err(_) => Err(whole(HIGH)),
        }
    }

    fn write(seconds: &u16) -> Option<String> {
        Some(format!("{seconds}s"))
    }
}

fn whole(most: u16) -> String {
    format!("should be whole seconds, at most {most}s")
}

/// `TCP_MD5SIG_MAXKEYLEN`, linux/tcp.h.
pub struct Md5Key;

impl Validate for Md5Key {
    type Of = Secret;

    fn validate(key: &Secret) -> Result<(), String> {
        ensure(key.expose().len() <= 80, "should be at most 80 bytes")
    }
}

/// Never empty.
pub struct Families;

impl Validate for Families {
    type Of = Set<Parsed<Family>>;

    fn validate(families: &SmallSet<Family>) -> Result<(), String> {
        ensure(!families.is_empty(), "should name ipv4, ipv6 or both")
    }
}

impl Kind for Bfd {
    type Value = Option<Self>;
    const SHAPE: Shape = Shape::Either(&Shape::Bool, &Shape::Map("bgp.bfd"));

    fn parse(text: &str) -> Result<Option<Self>, String> {
        let on = Bool::parse(text)
            .map_err(|e| format!("{e}, or a map of interval, multiplier and multihop"))?;
        Ok(on.then(Self::default))
    }

    fn write(bfd: &Option<Self>) -> Option<String> {
        Some(bfd.map_or_else(|| "false".to_owned(), |bfd| bfd.in_braces("bgp.bfd")))
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Option<Self>> {
        match at.is_map() {
            true => at.section(cx, Self::default()).map(Some),
            false => read_text(cx, at, Self::parse),
        }
    }
}
