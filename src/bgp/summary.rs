//! Messages as one line of text, for the log.

use super::{
    Capability, Message, Open, PackedUpdate, PathAttributes, Received, RefreshKind, RouteRefresh,
    UpdateSummary,
};
use crate::net::Family;
use std::fmt::{self, Display};

impl Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(open) => open.fmt(f),
            Self::Update(summary) => summary.fmt(f),
            Self::Notification(notification) => write!(f, "NOTIFICATION: {notification}"),
            Self::Keepalive => f.write_str("KEEPALIVE"),
            Self::RouteRefresh(refresh) => refresh.fmt(f),
        }
    }
}

impl Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(open) => open.fmt(f),
            Self::Notification(notification) => write!(f, "NOTIFICATION: {notification}"),
            Self::Keepalive => f.write_str("KEEPALIVE"),
            Self::RouteRefresh(refresh) => refresh.fmt(f),
        }
    }
}

impl Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            asn,
            hold_time,
            router_id,
            capabilities,
            ..
        } = self;
        write!(
            f,
            "OPEN: AS {asn}, router id {router_id}, hold time {hold_time} s, {}",
            list(capabilities)
        )
    }
}

impl Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Multiprotocol(family) => family.fmt(f),
            Self::RouteRefresh => f.write_str("route refresh"),
            Self::ExtendedNextHop(_) => f.write_str("extended next hop"),
            Self::ExtendedMessage => f.write_str("extended message"),
            Self::GracefulRestart(restart) => {
                write!(f, "graceful restart {} s", restart.restart_time)
            }
            Self::FourOctetAs(asn) => write!(f, "4-octet AS {asn}"),
            Self::EnhancedRouteRefresh => f.write_str("enhanced route refresh"),
            Self::Fqdn { hostname, .. } => write!(f, "name {hostname:?}"),
            Self::Unknown { code, .. } => write!(f, "capability {code}"),
        }
    }
}

impl Display for RouteRefresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ROUTE-REFRESH: {}", self.family)?;
        match self.kind {
            RefreshKind::Request => Ok(()),
            RefreshKind::Begin => f.write_str(", begin"),
            RefreshKind::End => f.write_str(", end"),
            RefreshKind::Unknown(subtype) => write!(f, ", subtype {subtype}"),
        }
    }
}

impl Display for UpdateSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(family) = self.end_of_rib {
            return f.write_str(&end_of_rib(family));
        }
        let Self {
            announced,
            withdrawn,
            ..
        } = self;
        write!(f, "UPDATE: {announced} announced, {withdrawn} withdrawn")
    }
}

/// The empty UPDATE of RFC 4724 §2.
pub(super) fn end_of_rib(family: Family) -> String {
    format!("UPDATE: End-of-RIB {family}")
}

/// An UPDATE to send; `attributes` are those of the announced routes.
pub(super) fn update(packed: &PackedUpdate, attributes: Option<&PathAttributes>) -> String {
    let PackedUpdate {
        withdrawn,
        announced,
        ..
    } = packed;
    match attributes {
        Some(attributes) => {
            let attributes_text = attributes_text(attributes);
            format!("UPDATE: announces {}, {attributes_text}", list(announced))
        }
        None => format!("UPDATE: withdraws {}", list(withdrawn)),
    }
}

fn attributes_text(attributes: &PathAttributes) -> String {
    let PathAttributes {
        origin,
        as_path,
        next_hop,
        ..
    } = attributes;
    let mut text = format!("next hop {next_hop}, origin {origin}, path [{as_path}]");
    let numbers = [
        ("MED", attributes.med),
        ("local pref", attributes.local_pref),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            text.push_str(&format!(", {name} {number}"));
        }
    }
    text.push_str(&set_text("communities", &attributes.communities));
    text.push_str(&set_text("large", &attributes.large_communities));
    text.push_str(&set_text("extended", &attributes.ext_communities));
    text
}

fn set_text<T: Display>(name: &str, set: &[T]) -> String {
    match set.is_empty() {
        true => String::new(),
        false => format!(", {name} {}", list(set)),
    }
}

/// The first [`MAX_LISTED`] of a list.
fn list<T: Display>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    let (shown, rest) = all.split_at(all.len().min(MAX_LISTED));
    let more = match rest.len() {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    format!("{}{more}", shown.join(", "))
}

/// Prefixes or communities in one line.
const MAX_LISTED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::{Cease, GracefulRestart, Notification, Packer};
    use crate::net::{Asn, Community, Family, Prefix, RouterId};
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    fn open() -> Open {
        let capabilities = vec![
            Capability::Multiprotocol(Family::Ipv4.into()),
            Capability::GracefulRestart(GracefulRestart {
                restarted: false,
                notification: false,
                restart_time: 120,
                families: Vec::new(),
            }),
            Capability::Fqdn {
                hostname: "a\nb".to_owned(),
                domain: String::new(),
            },
        ];
        let router_id = RouterId::new([10, 0, 0, 2].into()).unwrap();
        Open::new(Asn::new(65001).unwrap(), 90, router_id, capabilities)
    }

    #[test]
    fn an_open_a_notification_and_a_keepalive_are_a_line_each() {
        let cease = Notification::cease(Cease::AdministrativeShutdown, Some("bye"));
        let refresh = RouteRefresh {
            family: Family::Ipv4.into(),
            kind: RefreshKind::Request,
        };
        for (message, line) in [
            (
                Message::Open(open()),
                "OPEN: AS 65001, router id 10.0.0.2, hold time 90 s, 4-octet AS 65001, ipv4 unicast, \
                 graceful restart 120 s, name \"a\\nb\"",
            ),
            (Message::Keepalive, "KEEPALIVE"),
            (
                Message::Notification(cease),
                "NOTIFICATION: Cease / Administrative Shutdown (6/2): \"bye\"",
            ),
            (
                Message::RouteRefresh(refresh),
                "ROUTE-REFRESH: ipv4 unicast",
            ),
        ] {
            assert_eq!(message.to_string(), line);
        }
    }

    #[test]
    fn updates_say_what_they_announce_and_withdraw() {
        let negotiated = crate::bgp::golden::negotiated();
        let prefix = |n: u8| Prefix::host(IpAddr::from([192, 0, 2, n]));
        let mut attributes_text = PathAttributes::new(IpAddr::from([10, 0, 0, 2]));
        attributes_text.med = Some(7);
        attributes_text.communities = [Community::new(65001, 53)].into();
        let routes: BTreeMap<_, _> = (1..=10)
            .map(|n| (prefix(n), attributes_text.clone()))
            .collect();
        let withdrawn = BTreeSet::from([prefix(53)]);
        let report: Vec<String> = Packer::new(&withdrawn, &routes, &negotiated, 4096)
            .map(|packed| update(&packed, packed.announced.first().map(|_| &attributes_text)))
            .collect();
        let report = report.join("\n");
        for part in [
            "withdraws 192.0.2.53/32",
            "announces 192.0.2.1/32, 192.0.2.2/32",
            "192.0.2.8/32 and 2 more, next hop 10.0.0.2, origin igp, path [",
            "MED 7, communities 65001:53",
        ] {
            assert!(report.contains(part), "{part}: {report}");
        }
        let summary = UpdateSummary {
            announced: 3,
            withdrawn: 1,
            ..UpdateSummary::default()
        };
        let received = Received::Update(summary).to_string();
        assert_eq!(received, "UPDATE: 3 announced, 1 withdrawn");
    }
}
