//! Which of an app's own VIPs a monitor probes, and from which source address.
//!
//! A service may answer a request to a VIP from another address of the host. A local probe does not show this by
//! default: the kernel chooses the VIP as the request's source, and so the reply comes from the VIP too. A socket
//! bound to another address receives the reply with the source that a client behind a router sees.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::dns::is_vip;
use super::{DnsServer, MonitorSpec, NatSpec, Protocol};
use crate::net::{Family, Prefix};

/// One address that a monitor probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipTarget {
    pub vip: Prefix,
    /// The address to probe, within `vip`.
    pub addr: IpAddr,
    /// The source address of the probe; not the VIP, so that the reply's source is the one the service chooses.
    pub source: IpAddr,
}

impl MonitorSpec {
    /// The protocol and port that it probes; `None` where it sends nothing over the network.
    fn service(&self) -> Option<(Protocol, u16)> {
        match self {
            Self::Tcp { port, .. } => Some((Protocol::Tcp, *port)),
            Self::Http { url, .. } => Some((Protocol::Tcp, url.port)),
            Self::Dns { server, .. } => Some((Protocol::Udp, server.port())),
            _ => None,
        }
    }

    /// The port of this host that it looks up or probes: at `vip`, or at an address that is `own`.
    pub fn local_port(&self, own: impl Fn(IpAddr) -> bool) -> Option<(Protocol, u16)> {
        match self {
            Self::Port { protocol, port, .. } => Some((*protocol, *port)),
            _ if self.asks_each_vip() || self.address().is_some_and(own) => self.service(),
            _ => None,
        }
    }

    /// The address that it names; `None` where that is `vip`, a name, or nothing.
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp { host, .. } => host.parse().ok(),
            Self::Http { url, .. } => url.host.parse().ok(),
            Self::Dns {
                server: DnsServer::Address(server),
                ..
            } => Some(SocketAddr::ip(server)),
            _ => None,
        }
    }

    /// Whether its target is `vip`: each VIP of its app.
    pub fn asks_each_vip(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => is_vip(host),
            Self::Http { url, .. } => is_vip(&url.host),
            Self::Dns { server, .. } => matches!(server, DnsServer::Vip(_)),
            _ => false,
        }
    }

    /// The address to probe within this VIP; `None` where it probes none in it.
    fn asked_in(&self, vip: &Prefix) -> Option<IpAddr> {
        if self.asks_each_vip() {
            return Some(vip.addr());
        }
        self.address().filter(|addr| vip.contains(*addr))
    }

    /// Whether it probes one of these VIPs, by `vip` or by its address.
    pub fn asks_any(&self, mut vips: impl Iterator<Item = Prefix>) -> bool {
        vips.any(|vip| self.asked_in(&vip).is_some())
    }

    /// How to probe this VIP; `None` where it does not. `nat_target` is the address to which the app's NAT rules
    /// translate: a request that they redirect must have it as its source, since only then is the reply translated.
    pub fn target(
        &self,
        vip: Prefix,
        nats: &BTreeSet<NatSpec>,
        nat_target: Option<IpAddr>,
    ) -> Option<VipTarget> {
        let addr = self.asked_in(&vip)?;
        let (protocol, port) = self.service()?;
        let covers = |nat: &NatSpec| nat.protocol == protocol && nat.listen == port;
        let redirected = nats.iter().any(covers);
        let loopback = match vip.family() {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        Some(VipTarget {
            vip,
            addr,
            source: nat_target.filter(|_| redirected).unwrap_or(loopback),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(monitor: &str, vip: &str, nats: &[&str]) -> Option<(String, String)> {
        let spec: MonitorSpec = monitor.parse().unwrap();
        let nats = nats.iter().map(|nat| nat.parse().unwrap()).collect();
        let vip: Prefix = vip.parse().unwrap();
        let nat_target = match vip.family() {
            Family::Ipv4 => "10.0.0.2",
            Family::Ipv6 => "2001:db8::2",
        };
        let target = spec.target(vip, &nats, nat_target.parse().ok());
        assert_eq!(spec.asks_any([vip].into_iter()), target.is_some());
        target.map(|target| (target.addr.to_string(), target.source.to_string()))
    }

    fn asks(addr: &str, source: &str) -> Option<(String, String)> {
        Some((addr.to_owned(), source.to_owned()))
    }

    #[test]
    fn vip_and_an_address_of_it_are_the_same_and_others_are_not_the_apps() {
        let (v4, v6) = ("192.0.2.53/32", "2001:db8:53::/64");
        for monitor in ["dns:x@vip", "tcp:vip:80", "tcp:VIP:80", "https://vip/x"] {
            assert_eq!(target(monitor, v4, &[]), asks("192.0.2.53", "127.0.0.1"));
            assert_eq!(target(monitor, v6, &[]), asks("2001:db8:53::", "::1"));
        }
        for monitor in [
            "dns:x@192.0.2.53",
            "tcp:192.0.2.53:80",
            "http://192.0.2.53/",
        ] {
            assert_eq!(target(monitor, v4, &[]), asks("192.0.2.53", "127.0.0.1"));
            assert_eq!(target(monitor, v6, &[]), None);
        }
        for monitor in [
            "dns:x@[2001:db8:53::7]",
            "tcp:[2001:db8:53::7]:80",
            "http://[2001:db8:53::7]/",
        ] {
            assert_eq!(target(monitor, v6, &[]), asks("2001:db8:53::7", "::1"));
        }
        for monitor in [
            "dns:x",
            "dns:x@192.0.2.54",
            "tcp:vips:80",
            "port:udp:53",
            "exec:vip",
            "http://vip.example/",
        ] {
            assert_eq!(target(monitor, v4, &[]), None, "{monitor}");
        }
    }

    #[test]
    fn a_question_that_nat_redirects_comes_from_its_target() {
        let (v4, v6) = ("192.0.2.53/32", "2001:db8:53::1/128");
        let nats = ["udp:53:8053", "tcp:80"];
        assert_eq!(
            target("dns:x@vip", v4, &nats),
            asks("192.0.2.53", "10.0.0.2")
        );
        assert_eq!(
            target("dns:x@vip", v6, &nats),
            asks("2001:db8:53::1", "2001:db8::2")
        );
        assert_eq!(
            target("tcp:vip:80", v4, &nats),
            asks("192.0.2.53", "10.0.0.2")
        );
        for other in ["dns:x@vip:8053", "tcp:vip:53", "http://vip:8080/"] {
            assert_eq!(
                target(other, v4, &nats),
                asks("192.0.2.53", "127.0.0.1"),
                "{other}"
            );
        }
    }
}
