//! Lines on each peer: the path to it, what answers there, other programs of this host with a session to it, and ours.

use super::case::PeerCase;
use super::findings::Dialed;
use super::line::{Line, Topic};
use super::{Case, Findings, SessionCase};
use crate::bgp::peer::{DownReason, StateName};
use crate::bgp::{Notification, OpenError, ProtocolError};
use crate::core::Transport;
use crate::discovery::Obstacle;
use crate::view::time::age;

/// The interface toward a peer, and the local address.
pub(super) fn interface(case: &Case, peer: &PeerCase) -> Line {
    let topic = Topic::Interface;
    let name = &peer.name;
    if let Some(obstacle) = &peer.obstacle {
        return Line::fault(
            topic,
            format!("{name}: {obstacle}"),
            remedy_of_obstacle(obstacle),
        );
    }
    let device = peer.interface.as_deref().unwrap_or("an interface unknown");
    if peer.no_carrier {
        return Line::fault(
            topic,
            format!("{name}: {device} has no carrier"),
            format!("check the cable and the other end's port (ip link show {device})"),
        );
    }
    if let Some(local) = peer.local.filter(|local| !case.addresses.contains(local)) {
        return Line::fault(
            topic,
            format!("{name}: {local} is no address of this host"),
            "add the address, or correct bgp.local_ip",
        );
    }
    let from = peer.local.map(|local| format!(" from {local}"));
    let by = peer
        .gateway
        .map(|gateway| format!(" by the gateway {gateway}"));
    let (from, by) = (from.unwrap_or_default(), by.unwrap_or_default());
    Line::ok(topic, format!("{name}: on {device}{from}{by}"))
}

/// What to do about an obstacle.
pub(super) fn remedy_of_obstacle(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::Unread => "wait until the kernel's tables were read".to_owned(),
        Obstacle::NoRouterId => "give the host an address, or set bgp.router_id".to_owned(),
        Obstacle::NoGateway => "add a default route, or set bgp.peer_ip".to_owned(),
        Obstacle::NoRoute(addr) => {
            format!("add a route to it (ip route get {addr}), or correct bgp.peer_ip")
        }
        Obstacle::NoInterface(name) => {
            format!("create {name}, or correct the interface in bgp.peer_ip")
        }
        Obstacle::InterfaceDown(name) => format!("ip link set {name} up"),
        Obstacle::NoCarrier(name) => {
            format!("check the cable and the other end's port (ip link show {name})")
        }
        Obstacle::NoRouter(name) => {
            format!("let the router send router advertisements on {name}, or write its address")
        }
    }
}

/// Whether TCP reaches the peer, and who answers.
pub(super) fn tcp(peer: &PeerCase, findings: &Findings) -> Line {
    let topic = Topic::Tcp;
    let name = &peer.name;
    let connected = matches!(
        peer.state(),
        Some(StateName::OpenSent | StateName::OpenConfirm | StateName::Established)
    );
    if connected {
        return Line::ok(topic, format!("{name}: connected"));
    }
    if peer.obstacle.is_some() {
        return Line::unknown(topic, format!("{name}: not tried, there is no route to it"));
    }
    if peer.passive {
        let text = format!("{name}: not tried, the peer is to connect (bgp.passive)");
        return Line::unknown(topic, text);
    }
    let dialed = peer.transport.as_ref().and_then(|transport| {
        let dialed = findings.dialed(transport.remote)?;
        Some((transport, dialed))
    });
    match dialed {
        None => Line::unknown(topic, format!("{name}: not tried")),
        Some((transport, dialed)) => answer(peer, transport, dialed),
    }
}

fn answer(peer: &PeerCase, transport: &Transport, dialed: &Dialed) -> Line {
    let topic = Topic::Tcp;
    let (name, port) = (&peer.name, transport.remote.port());
    let fault =
        |what: String, next: &str| Line::fault(topic, format!("{name}: port {port}: {what}"), next);
    let unknown_to_it = "compare our address and AS with the neighbor in its configuration; another BGP speaker \
                         behind our address looks the same, and a peer that has just refused us";
    match dialed {
        Dialed::Open { asn, router_id } => match peer.peer_as.filter(|wanted| wanted != asn) {
            None => Line::ok(
                topic,
                format!("{name}: port {port}: answers as AS {asn}, router ID {router_id}"),
            ),
            Some(wanted) => fault(
                format!("answers as AS {asn}, router ID {router_id}, and bgp.peer_as is {wanted}"),
                "correct bgp.peer_as, or the AS of the peer",
            ),
        },
        Dialed::Notification(what) => fault(
            format!("refuses us with NOTIFICATION {what}"),
            unknown_to_it,
        ),
        Dialed::Closed => fault("accepts and closes at once".to_owned(), unknown_to_it),
        Dialed::Silent => Line::unknown(
            topic,
            format!("{name}: port {port}: accepts, and waits for our OPEN"),
        ),
        Dialed::NotBgp => fault(
            "what answers there is not BGP".to_owned(),
            "correct bgp.peer_ip or bgp.port",
        ),
        Dialed::Refused => fault(
            "connection refused: no BGP daemon listens there".to_owned(),
            "start the BGP daemon of the peer, let it listen on this address, or correct bgp.port",
        ),
        Dialed::TimedOut => fault("no answer to our SYN".to_owned(), no_answer(transport)),
        Dialed::Failed(why) => fault(
            why.clone(),
            "correct what the error names: bgp.local_ip, the route to the peer, or its daemon",
        ),
    }
}

fn no_answer(transport: &Transport) -> &'static str {
    match transport.password {
        Some(_) => {
            "see that the peer is up and that no filter drops TCP between us; a wrong bgp.password (TCP MD5) \
             looks the same"
        }
        None => {
            "see that the peer is up and that no filter drops TCP between us; a TCP MD5 password that only the \
             peer has looks the same"
        }
    }
}

/// Whether another program on this host has a session with the peer from the same address.
pub(super) fn speaker(case: &Case, peer: &PeerCase, findings: &Findings) -> Option<Line> {
    let topic = Topic::Speaker;
    let name = &peer.name;
    let transport = peer.transport.as_ref()?;
    if findings.no_sock_diag.is_some() {
        let text = format!("{name}: sessions of other programs cannot be listed");
        return Some(Line::unknown(topic, text));
    }
    let Some(other) = findings.speaker(transport.remote) else {
        let text = format!("{name}: no other program on this host has a session with it");
        return Some(Line::ok(topic, text));
    };
    let text = format!("{name}: {other}");
    // It may be the announcer that could not be asked.
    Some(match other.starts_with("sidecast (") && !case.runs() {
        true => Line::unknown(topic, text).then("name that sidecast's API with --addr"),
        false => Line::fault(
            topic,
            text,
            "a router takes one session from each address: peer with that program in its place, or give this \
             session a local_ip of its own",
        ),
    })
}

/// The session, and the likely cause where there is none.
pub(super) fn session(peer: &PeerCase) -> Line {
    let topic = Topic::Session;
    let name = &peer.name;
    let Some(session) = &peer.session else {
        let text = format!("{name}: no sidecast was asked, so no session is known");
        return Line::unknown(topic, text);
    };
    let span = age(session.since);
    if session.state == StateName::Established {
        let routes = match session.announced {
            1 => "1 route".to_owned(),
            count => format!("{count} routes"),
        };
        let text = format!("{name}: established for {span}, {routes} announced");
        return Line::ok(topic, text);
    }
    let why = session.why.as_deref().unwrap_or("no attempt has ended yet");
    let before = session.refusal.as_ref().map(ToString::to_string);
    let before = before.filter(|before| !why.contains(before) && peer.obstacle.is_none());
    let before = before.map_or_else(String::new, |before| format!("; before that: {before}"));
    let text = format!("{name}: {} for {span}: {why}{before}", session.state);
    if session.why.is_none() && session.since < FIRST_ATTEMPTS {
        return Line::unknown(topic, text);
    }
    Line::fault(topic, text, remedy(peer, session))
}

fn remedy(peer: &PeerCase, session: &SessionCase) -> String {
    if let Some(obstacle) = &peer.obstacle {
        return remedy_of_obstacle(obstacle);
    }
    let reason = session.refusal.as_ref().or(session.reason.as_ref());
    let known = match reason {
        Some(DownReason::NotificationReceived(notification)) => refused(notification),
        Some(DownReason::Error(ProtocolError::Open(error))) => our_refusal(error),
        Some(DownReason::ConnectFailed(_) | DownReason::ConnectTimedOut { .. }) => {
            Some("see its line `tcp`")
        }
        Some(DownReason::OpenOverdue) => Some(
            "look at the BGP daemon of the peer, and at devices between that answer in its place",
        ),
        Some(DownReason::LocalAddressGone) => Some("give the host its address back"),
        Some(DownReason::NoCarrier) => Some("check the cable and the other end's port"),
        _ => None,
    };
    let likely = || session.cause.map(|cause| format!("most likely {cause}"));
    known
        .map(str::to_owned)
        .or_else(likely)
        .unwrap_or_else(|| "look at the logs of sidecast and of the peer".to_owned())
}

/// What to do about a NOTIFICATION; `None`: its likely cause is more specific.
fn refused(notification: &Notification) -> Option<&'static str> {
    Some(match (notification.code, notification.subcode) {
        (2, 2) => "correct bgp.local_as, or the AS that the peer expects of us",
        (2, 3) => "set bgp.router_id to an address that the peer does not have itself",
        (2, 6) => "correct bgp.hold_time: the peer refuses it",
        (2, 7) => "set bgp.families to what the peer is configured with",
        (4, _) => "look for packet loss, a filter or a busy host: the peer did not hear us in time",
        _ => return None,
    })
}

/// Why we refuse the peer's OPEN.
fn our_refusal(error: &OpenError) -> Option<&'static str> {
    Some(match error {
        OpenError::BadPeerAs { .. } => "correct bgp.peer_as, or the AS of the peer",
        OpenError::BadIdentifier { .. } => "set bgp.router_id to an address of this host",
        OpenError::NoCommonFamily { .. } => {
            "activate one of our address families (bgp.families) for this neighbor on the peer"
        }
        _ => return None,
    })
}

/// How long the first attempts may take.
const FIRST_ATTEMPTS: std::time::Duration = std::time::Duration::from_secs(2);
