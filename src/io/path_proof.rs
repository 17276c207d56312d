//! Sends the probes of the path proof; nf_tables counts those that come back.
//!
//! A probe is sent from a UDP socket bound to the peer's interface. The kernel's route lookup then skips the VIP on
//! `lo`, and the probe goes to the gateway of that interface. A socket is open only for the few probes with the same
//! source address and port. A probe that comes back has a source address of this host, so no socket receives it:
//! nf_tables counts it (`netlink/nftables/probes.rs`).

use crate::io::netlink::{ProbeCounters, Socket};
use crate::io::sockopt;
use crate::netlink::nftables::probes::{Counted, Probe};
use crate::netlink::route::{self, RTN_LOCAL, RTN_UNICAST, Route};
use crate::netlink::{EPERM, NetlinkError};
use crate::path_proof::{CountError, Egress, PathError, PeerTag, SendError, Target};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SetSockOpt, SockFlag, SockProtocol, SockType, SockaddrStorage, bind,
    sendto, socket, sockopt::BindToDevice,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

/// The sockets that the proof needs, in the network namespace of the thread that uses them first.
pub struct Prober {
    /// The name of the nf_tables table.
    table: String,
    counters: Option<ProbeCounters>,
    route: Option<Socket>,
}

/// Probes of one target that are sent together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    pub target: Target,
    pub egress: Egress,
    pub token: u64,
    /// Destination port.
    pub port: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// One probe is sent from each of these UDP ports.
    pub source_ports: Vec<u16>,
}

/// Totals since each counter was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Probes that came back, of every target that is counted.
    pub returned: Vec<(Target, u64)>,
    /// An error that was not repeated for ten minutes is missing, and counts from 0 when it comes again.
    pub errors: Vec<PathError>,
}

impl Prober {
    /// No socket is opened yet; `table` is the name of the nf_tables table, as NAT has it.
    pub fn new(table: &str) -> Self {
        Self {
            table: table.to_owned(),
            counters: None,
            route: None,
        }
    }

    /// Starts counting the targets in `add` from 0, and stops counting those in `remove`. `port` is the destination
    /// port of the probes. A token other than the previous one resets all counters.
    ///
    /// # Errors
    /// The kernel refused the change.
    pub async fn count(
        &mut self,
        token: u64,
        port: u16,
        add: &[Target],
        remove: &[Target],
    ) -> Result<(), CountError> {
        let add: Counted = add.iter().map(|target| (probe(*target), port)).collect();
        let remove: BTreeSet<Probe> = remove.iter().map(|target| probe(*target)).collect();
        let counters = match self.counters.take() {
            Some(counters) => counters,
            None => ProbeCounters::open().map_err(refused)?,
        };
        let counters = self.counters.insert(counters);
        let counted = counters.count(&self.table, token, &add, &remove).await;
        counted.map_err(refused)
    }

    /// Reads what was counted.
    ///
    /// # Errors
    /// The counters cannot be read, or another program deleted them; nothing is counted any more then.
    pub async fn read(&mut self) -> Result<Totals, CountError> {
        let Some(counters) = &mut self.counters else {
            return Ok(Totals::default());
        };
        let readings = counters.read().await.map_err(refused)?;
        let returned = readings.returned.into_iter();
        let errors = readings.errors.into_iter();
        Ok(Totals {
            returned: returned.map(|(probe, n)| (target(probe), n)).collect(),
            errors: errors
                .map(|error| PathError {
                    target: target(error.probe),
                    from: error.from,
                    kind: error.kind,
                    code: error.code,
                    count: error.count,
                })
                .collect(),
        })
    }

    /// Stops counting and deletes the table. If that fails, closing the socket deletes it.
    pub async fn remove(&mut self) {
        if let Some(mut counters) = self.counters.take()
            && let Err(error) = counters.remove().await
        {
            log::debug!(
                "cannot delete the table of the path proof: {error}; it goes with its socket"
            );
        }
    }

    /// Sends the probes whose route is the expected one. Returns the number sent of each, in the order of `all`. It
    /// does not wait for sockets: a probe that does not fit the send buffer counts as not sent.
    pub async fn send(&mut self, all: &[Probes]) -> Vec<Result<u32, SendError>> {
        let mut results: Vec<Result<u32, SendError>> = Vec::with_capacity(all.len());
        for probes in all {
            results.push(self.check_route(probes).await.map(|()| 0));
        }
        let mut by_source: BTreeMap<Source<'_>, Vec<usize>> = BTreeMap::new();
        for (index, probes) in all.iter().enumerate() {
            if results.get(index).is_some_and(Result::is_ok) {
                for port in &probes.source_ports {
                    let source = Source::new(probes, *port);
                    by_source.entry(source).or_default().push(index);
                }
            }
        }
        // The first error of each; it is the result only if no probe was sent.
        let mut errors: BTreeMap<usize, SendError> = BTreeMap::new();
        for (source, indices) in by_source {
            let socket = source.open();
            for index in indices {
                let sent = match (&socket, all.get(index)) {
                    (Ok(socket), Some(probes)) => send_one(socket, probes),
                    (Err(error), _) => Err(error.clone()),
                    (_, None) => continue,
                };
                match (sent, results.get_mut(index)) {
                    (Ok(()), Some(Ok(left))) => *left += 1,
                    (Err(error), _) => drop(errors.entry(index).or_insert(error)),
                    _ => {}
                }
            }
            smol::future::yield_now().await;
        }
        for (index, error) in errors {
            if let Some(result) = results.get_mut(index).filter(|r| **r == Ok(0)) {
                *result = Err(error);
            }
        }
        results
    }

    /// Asks the kernel for the route of a probe.
    async fn check_route(&mut self, probes: &Probes) -> Result<(), SendError> {
        let Probes { target, egress, .. } = probes;
        let failed = |error: NetlinkError| SendError::Failed(error.to_string());
        let request = route::lookup_bound(target.vip, egress.source, egress.interface);
        let request = request.map_err(failed)?;
        let socket = match self.route.take() {
            Some(socket) => socket,
            None => Socket::open(SockProtocol::NetlinkRoute).map_err(failed)?,
        };
        let socket = self.route.insert(socket);
        let each = |_, payload: &[u8]| Route::decode(payload);
        match socket.collect(&request, each).await {
            Ok(routes) => expect_gateway(&routes, egress),
            Err(NetlinkError::Errno { errno, .. }) => {
                let why = Errno::from_raw(errno).desc();
                let name = &egress.name;
                Err(other_route(&format!("no route by {name} ({why})")))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Whether the route is by the interface and the gateway that the probes are for.
fn expect_gateway(routes: &[Route], egress: &Egress) -> Result<(), SendError> {
    let Some(route) = routes.first() else {
        return Err(other_route(&format!("no route by {}", egress.name)));
    };
    let name = &egress.name;
    match (route.kind, route.gateway, route.oif) {
        (RTN_LOCAL, _, _) => Err(other_route("the VIP is local on the interface of the peer")),
        (RTN_UNICAST, _, Some(oif)) if oif != egress.interface => Err(other_route(&format!(
            "probes leave by another interface than {name}"
        ))),
        (RTN_UNICAST, Some(gateway), _) if gateway == egress.gateway => Ok(()),
        (RTN_UNICAST, Some(gateway), _) => Err(other_route(&format!("probes leave by {gateway}"))),
        (RTN_UNICAST, None, _) => Err(other_route(&format!(
            "probes leave by {name} without a gateway"
        ))),
        _ => Err(other_route(&format!("no route by {name}"))),
    }
}

fn other_route(what: &str) -> SendError {
    SendError::OtherRoute(what.to_owned())
}

/// What the probes of one socket have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Source<'a> {
    interface: u32,
    name: &'a str,
    addr: IpAddr,
    port: u16,
    ttl: u8,
}

impl<'a> Source<'a> {
    fn new(probes: &'a Probes, port: u16) -> Self {
        Self {
            interface: probes.egress.interface,
            name: &probes.egress.name,
            addr: probes.egress.source,
            port,
            ttl: probes.ttl,
        }
    }

    fn open(&self) -> Result<OwnedFd, SendError> {
        let failed =
            |what: &str, errno: Errno| SendError::Failed(format!("{what}: {}", errno.desc()));
        let family = match self.addr {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Datagram, flags, None)
            .map_err(|errno| failed("socket", errno))?;
        BindToDevice
            .set(&fd, &self.name.into())
            .map_err(|errno| failed(self.name, errno))?;
        sockopt::set_ttl(&fd, self.addr.is_ipv4(), self.ttl)
            .map_err(|errno| failed("TTL", errno))?;
        let from = match self.addr {
            // A link-local address needs its interface.
            IpAddr::V6(addr) => SocketAddrV6::new(addr, self.port, 0, self.interface).into(),
            IpAddr::V4(_) => SocketAddr::new(self.addr, self.port),
        };
        match bind(fd.as_raw_fd(), &SockaddrStorage::from(from)) {
            Ok(()) => Ok(fd),
            Err(Errno::EADDRNOTAVAIL) => Err(SendError::NoSource),
            Err(errno) => Err(failed(&format!("source port {}", self.port), errno)),
        }
    }
}

fn send_one(socket: &OwnedFd, probes: &Probes) -> Result<(), SendError> {
    let to = SocketAddr::new(probes.target.vip, probes.port);
    let payload = payload(probes.token, probes.target.tag);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    match sendto(
        socket.as_raw_fd(),
        &payload,
        &SockaddrStorage::from(to),
        flags,
    ) {
        Ok(_) => Ok(()),
        // `sendto` fails with EPERM if nf_tables or iptables drops the packet in the output hook.
        Err(Errno::EPERM) => Err(SendError::LocalFirewall),
        Err(errno) => Err(SendError::Failed(errno.desc().to_owned())),
    }
}

/// Token and tag, as `netlink/nftables/probes.rs` has them.
fn payload(token: u64, tag: PeerTag) -> [u8; 10] {
    let mut payload = [0; 10];
    let bytes = token.to_be_bytes().into_iter().chain(tag.0.to_be_bytes());
    payload
        .iter_mut()
        .zip(bytes)
        .for_each(|(slot, byte)| *slot = byte);
    payload
}

fn probe(target: Target) -> Probe {
    Probe {
        vip: target.vip,
        tag: target.tag.0,
    }
}

fn target(probe: Probe) -> Target {
    Target {
        vip: probe.vip,
        tag: PeerTag(probe.tag),
    }
}

fn refused(error: NetlinkError) -> CountError {
    match error {
        NetlinkError::Errno {
            errno: EPERM,
            message: None,
            ..
        } => CountError::NoPermission,
        error => CountError::Kernel(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress() -> Egress {
        Egress {
            interface: 2,
            name: "eth0".to_owned(),
            source: "10.0.0.2".parse().unwrap(),
            gateway: "10.0.0.1".parse().unwrap(),
        }
    }

    fn route(kind: u8, gateway: Option<&str>, oif: u32) -> Route {
        Route {
            family: crate::net::Family::Ipv4,
            dst: None,
            gateway: gateway.map(|addr| addr.parse().unwrap()),
            oif: Some(oif),
            prefsrc: None,
            priority: 0,
            table: 254,
            kind,
            protocol: 3,
            expires: None,
            nexthops: Vec::new(),
        }
    }

    #[test]
    fn probes_leave_by_the_expected_gateway_alone() {
        let answer = |route| expect_gateway(&[route], &egress());
        assert_eq!(answer(route(RTN_UNICAST, Some("10.0.0.1"), 2)), Ok(()));
        for (other, why) in [
            (
                route(RTN_UNICAST, Some("10.0.0.7"), 2),
                "probes leave by 10.0.0.7",
            ),
            (
                route(RTN_UNICAST, None, 2),
                "probes leave by eth0 without a gateway",
            ),
            (
                route(RTN_UNICAST, Some("10.0.0.1"), 3),
                "probes leave by another interface than eth0",
            ),
            (
                route(RTN_LOCAL, None, 2),
                "the VIP is local on the interface of the peer",
            ),
            (route(7, None, 2), "no route by eth0"),
        ] {
            assert_eq!(answer(other), Err(SendError::OtherRoute(why.to_owned())));
        }
    }

    #[test]
    fn the_payload_is_token_and_tag() {
        let bytes = payload(0x0102_0304_0506_0708, PeerTag(0x090a));
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    }
}
