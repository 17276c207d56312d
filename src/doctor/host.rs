//! Lines on the host: capabilities, kernel features, and the reverse path filter of the interfaces to the peers.

use super::line::{Line, Topic};
use super::{Case, Findings};

/// CAP_NET_ADMIN, which addresses and NAT need.
pub(super) fn capability(case: &Case, findings: &Findings) -> Line {
    let topic = Topic::Capability;
    if case.vip_interface.is_none() {
        return Line::ok(
            topic,
            "agent.vip_interface is none: addresses are set by another program, no capability is needed",
        );
    }
    let Some(advice) = &findings.no_net_admin else {
        return Line::ok(topic, "CAP_NET_ADMIN: addresses and NAT can be set");
    };
    if !case.runs() {
        return Line::unknown(
            topic,
            "this user has no CAP_NET_ADMIN, sidecast's may have it",
        )
        .then("run `sidecast doctor` as the user that sidecast runs as");
    }
    let (what, next) = advice.split_once(": ").unwrap_or((advice, "grant it"));
    Line::fault(topic, what, next)
}

/// What is used of the kernel.
pub(super) fn kernel(case: &Case, findings: &Findings) -> Vec<Line> {
    let topic = Topic::Kernel;
    let mut lines = vec![match &findings.no_sock_diag {
        None => Line::ok(
            topic,
            "sock_diag lists the sockets of this network namespace",
        ),
        Some(why) => Line::unknown(topic, format!("sockets are not listed: {why}"))
            .then("load the modules tcp_diag and udp_diag; until then ports are tested by binding"),
    }];
    if case.apps.iter().any(|app| !app.nats.is_empty()) {
        lines.push(match &findings.no_nat {
            None => Line::ok(topic, "nf_tables answers: NAT rules can be set"),
            Some(why) if findings.no_net_admin.is_some() => {
                Line::unknown(topic, format!("nf_tables: {why}"))
            }
            Some(why) => Line::fault(
                topic,
                format!("nf_tables: {why}"),
                "load the modules nf_tables and nft_chain_nat, or do without `nats`",
            ),
        });
    }
    if let Some(why) = &findings.no_ipv6 {
        let interface = case.vip_interface.as_deref().unwrap_or("lo");
        lines.push(Line::fault(
            topic,
            format!("IPv6 VIPs: {why}"),
            format!(
                "sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0, or leave the IPv6 VIPs out"
            ),
        ));
    }
    lines
}

/// The reverse path filter on the way in. A strict one drops what comes by another interface than the answer
/// would leave by (RFC 3704 §2.2; `Documentation/networking/ip-sysctl.rst` of the kernel).
pub(super) fn rp_filter(case: &Case, findings: &Findings) -> Vec<Line> {
    let topic = Topic::RpFilter;
    let mut interfaces: Vec<&str> = case
        .peers
        .iter()
        .filter_map(|peer| peer.interface.as_deref())
        .collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    let mode = |name: &str| findings.rp_filter.iter().find(|(one, _)| one == name);
    let line = |name: &str| match mode(name).map(|(_, mode)| mode) {
        None => Line::unknown(topic, format!("{name}: its rp_filter cannot be read")),
        Some(0) => Line::ok(topic, format!("{name}: off (0)")),
        Some(1) => strict(case, name),
        Some(mode) => Line::ok(topic, format!("{name}: loose ({mode})")),
    };
    interfaces.into_iter().map(line).collect()
}

fn strict(case: &Case, name: &str) -> Line {
    let topic = Topic::RpFilter;
    let next = format!(
        "sysctl -w net.ipv4.conf.{name}.rp_filter=2 (loose; the larger of this and conf.all counts)"
    );
    if case.defaults4.contains(name) {
        let text = format!("{name}: strict (1), and the default route leaves by it");
        return Line::ok(topic, text);
    }
    let Some(other) = case.defaults4.first() else {
        let text = format!(
            "{name}: strict (1), and there is no default route: packets of clients that no route by {name} leads \
             to are dropped"
        );
        return Line::unknown(topic, text).then(next);
    };
    let text = format!(
        "{name}: strict (1), and the default route leaves by {other}: packets of its clients that come in by \
         {name} are dropped"
    );
    Line::fault(topic, text, next)
}
