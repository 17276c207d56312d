//! Examines this host for `doctor`. Nothing is changed: sysctls, sockets and routes are read, connections are opened
//! and closed. It blocks for a few seconds at most, so it must not run on the event loop.

mod consul;
mod dial;
mod sockets;

use crate::config::Config;
use crate::discovery::{self, Network};
use crate::doctor::{Case, Findings};
use crate::io::netlink::Kernel;
use crate::io::{privilege, speakers};
use crate::net::Family;
use crate::netlink::NetlinkError;
use crate::netlink::route::RTN_LOCAL;
use smol::future;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};

/// Examines everything in the case, in the network namespace of the calling thread. Blocks for at most about
/// 3 s.
pub fn look(case: &Case) -> Findings {
    smol::block_on(async {
        let mut findings = Findings {
            no_net_admin: privilege::missing_net_admin(),
            rp_filter: rp_filters(case),
            no_ipv6: no_ipv6(case),
            no_nat: no_nat(case).await,
            local: local(case).await,
            speakers: other_speakers(case),
            ..Findings::default()
        };
        if let Err(error) = sockets::look(case, &mut findings).await {
            findings.no_sock_diag = Some(error.to_string());
        }
        let dialed = dial::peers(case, &findings);
        let answered = dial::vips(case, &findings.local);
        let ((dialed, answers), consul) =
            future::zip(future::zip(dialed, answered), consul::ask(case)).await;
        findings.dialed = dialed;
        findings.answers = answers;
        findings.consul = consul;
        findings
    })
}

/// What this host's tables say about the peers of a configuration. Blocks until the kernel has answered.
///
/// # Errors
/// The tables cannot be read.
pub fn network(config: &Config) -> Result<Network, NetlinkError> {
    smol::block_on(async {
        let snapshot = Kernel::open()?
            .snapshot(&config.bgp.peer_addresses())
            .await?;
        let vips = config.apps.iter().flat_map(|app| &app.vips);
        let vips = vips.map(|vip| vip.prefix()).collect();
        Ok(discovery::derive(&snapshot, &config.bgp, &vips))
    })
}

/// The effective `rp_filter` of the interfaces to the peers: the larger of `all` and the interface's own
/// (`IN_DEV_RPFILTER`, `linux/inetdevice.h`).
fn rp_filters(case: &Case) -> Vec<(String, u8)> {
    let all = rp_filter("all").unwrap_or(0);
    let interfaces = case.peers.iter().filter_map(|peer| peer.interface.clone());
    interfaces
        .filter_map(|name| Some((name.clone(), rp_filter(&name)?.max(all))))
        .collect()
}

fn rp_filter(interface: &str) -> Option<u8> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Why the interface of the VIPs takes no IPv6 address, where an app has an IPv6 VIP.
fn no_ipv6(case: &Case) -> Option<String> {
    let mut vips = case.apps.iter().flat_map(|app| &app.vips);
    vips.find(|vip| vip.prefix.family() == Family::Ipv6)?;
    let interface = case.vip_interface.as_deref()?;
    match fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6")) {
        Ok(text) if text.trim() == "1" => Some(format!("IPv6 is switched off on {interface}")),
        Ok(_) => None,
        Err(_) => Some(format!("this kernel has no IPv6 on {interface}")),
    }
}

/// The sessions of other programs with the peers that have none with us.
fn other_speakers(case: &Case) -> Vec<(SocketAddr, String)> {
    let peers = case.peers.iter().filter(|peer| !peer.is_established());
    let found = peers.filter_map(|peer| {
        let transport = peer.transport.as_ref()?;
        let speaker = speakers::find(transport.local?, transport.remote)?;
        Some((transport.remote, speaker.to_string()))
    });
    found.collect()
}

async fn no_nat(case: &Case) -> Option<String> {
    case.apps.iter().find(|app| !app.nats.is_empty())?;
    let checked = Kernel::check_nat().await;
    checked.err().map(|error| error.to_string())
}

/// Whether the kernel delivers packets to each VIP locally: the local table has a route to it, whichever program
/// added it.
async fn local(case: &Case) -> BTreeMap<IpAddr, bool> {
    let vips = case.apps.iter().flat_map(|app| &app.vips);
    let addrs: BTreeSet<IpAddr> = vips.map(|vip| vip.prefix.addr()).collect();
    let mut local = BTreeMap::new();
    let Ok(mut kernel) = Kernel::open() else {
        return local;
    };
    for addr in addrs {
        if let Ok(route) = kernel.route_to(addr).await {
            local.insert(addr, route.is_some_and(|route| route.kind == RTN_LOCAL));
        }
    }
    local
}
