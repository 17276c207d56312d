//! Who may register what. The part that needs no kernel: gateways and the host's own addresses are
//! held against VIPs where the kernel's tables are known.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Agent, Bgp, Remote};
use crate::app::{AppDefaults, Source, Vip};
use crate::net::Prefix;

/// What the agent's and the speaker's settings mean for apps.
pub(super) struct Rules {
    pub defaults: AppDefaults,
    pub consul: bool,
    allow_exec: BTreeSet<Source>,
    allowed_vips: Option<Vec<Prefix>>,
    /// Addresses that the host must go on reaching by itself, and what they are.
    reserved: Vec<(IpAddr, &'static str)>,
}

/// A refusal: what would be right, and the key that would allow it, if one would.
pub(super) struct Refused {
    pub policy: Option<&'static str>,
    pub message: String,
}

impl Rules {
    pub fn new(agent: &Agent, bgp: &Bgp) -> Self {
        Self {
            defaults: agent.app_defaults(),
            consul: agent.consul.is_some(),
            allow_exec: agent.allow_exec.clone(),
            allowed_vips: agent.allowed_vips.clone(),
            reserved: reserved(agent, bgp),
        }
    }

    pub fn vip(&self, vip: Vip, source: Source) -> Result<(), Refused> {
        let prefix = vip.prefix();
        let mut reserved = self.reserved.iter();
        if let Some((addr, what)) = reserved.find(|(addr, _)| prefix.contains(*addr)) {
            let message = format!("can be no VIP: it holds {addr}, {what}");
            return Err(Refused {
                policy: None,
                message,
            });
        }
        let policy = Some("agent.allowed_vips");
        let allowed = match &self.allowed_vips {
            Some(allowed) => allowed.iter().any(|allowed| allowed.covers(&prefix)),
            None => true,
        };
        if !allowed {
            let message = "is outside agent.allowed_vips".to_owned();
            return Err(Refused { policy, message });
        }
        let remote = matches!(source, Source::Http | Source::Consul);
        if remote && !prefix.is_host() && self.allowed_vips.is_none() {
            let message = format!(
                "is more than one address: from {source} that needs agent.allowed_vips to cover it"
            );
            return Err(Refused { policy, message });
        }
        Ok(())
    }

    pub fn exec(&self, source: Source) -> Result<(), Refused> {
        if self.allow_exec.contains(&source) {
            return Ok(());
        }
        Err(Refused {
            policy: Some("agent.allow_exec"),
            message: format!(
                "exec monitors from {source} are not run; agent.allow_exec has to name {source}"
            ),
        })
    }
}

fn reserved(agent: &Agent, bgp: &Bgp) -> Vec<(IpAddr, &'static str)> {
    let mut all = Vec::new();
    let mut add = |addr: Option<IpAddr>, what| all.extend(addr.map(|addr| (addr, what)));
    for peer in &bgp.peers {
        if let Remote::Addr(addr, _) = &peer.remote {
            add(Some(*addr), "a BGP peer");
        }
        add(
            peer.local_ip4.map(IpAddr::from),
            "the local address of a session",
        );
        add(
            peer.local_ip6.map(IpAddr::from),
            "the local address of a session",
        );
    }
    add(bgp.local_ip4.map(IpAddr::from), "bgp.local_ip");
    add(bgp.local_ip6.map(IpAddr::from), "bgp.local_ip");
    add(bgp.router_id.map(|id| id.addr().into()), "bgp.router_id");
    let consul = agent.consul.as_ref();
    let consul = consul.and_then(|consul| consul.addr.parse::<crate::app::HttpUrl>().ok());
    add(
        consul.and_then(|url| url.host.parse().ok()),
        "Consul's address",
    );
    all
}
