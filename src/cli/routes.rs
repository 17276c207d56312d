//! What was announced to peers for an app's VIPs, as `status NAME` prints it: read from `/apps`, not recomputed.

use std::time::Duration;

use serde_json::Value;

use super::values::{items, text};
use crate::view::time::age;

/// A paragraph for each VIP and peer, lines of at most 80 columns where the words allow it.
pub(super) fn render(app: &Value) -> String {
    let mut shown = String::new();
    for vip in items(app, "vip_status") {
        let prefix = text(&vip["vip"]);
        for route in items(vip, "routes") {
            shown += &announced(&prefix, route);
        }
        for lack in items(vip, "not_announced_to") {
            let (peer, why) = (text(&lack["peer"]), text(&lack["why"]));
            shown += &format!("{prefix} is not announced to {peer}: {why}\n");
        }
        let none = |key| items(vip, key).next().is_none();
        if none("routes") && none("not_announced_to") {
            let why = match text(&vip["problem"]) {
                none if none.is_empty() => text(&app["why"]),
                problem => problem,
            };
            shown += &format!("{prefix} is not announced: {why}\n");
        }
    }
    shown
}

fn announced(prefix: &str, route: &Value) -> String {
    let span = Duration::try_from_secs_f64(route["age"].as_f64().unwrap_or_default());
    let acknowledged = match route["acknowledged"] == true {
        true => "acknowledged",
        false => "not acknowledged yet",
    };
    let peer = text(&route["peer"]);
    let span = span.map_or_else(|_| String::new(), age);
    let mut shown = format!("{prefix} is announced to {peer} for {span}, {acknowledged}\n");
    let mut parts = vec![format!("next hop {}", text(&route["next_hop"]))];
    for (key, name) in [
        ("as_path", "AS path"),
        ("origin", "origin"),
        ("med", "MED"),
        ("local_pref", "local-pref"),
    ] {
        let value = text(&route[key]);
        if !value.is_empty() {
            parts.push(format!("{name} {value}"));
        }
    }
    for (key, name) in [
        ("communities", "community"),
        ("large_communities", "large community"),
        ("ext_communities", "extended community"),
    ] {
        parts.extend(items(route, key).map(|value| format!("{name} {}", text(value))));
    }
    let mut line = String::new();
    for part in parts {
        if !line.is_empty() && line.len() + part.len() + INDENT.len() + 3 > COLUMNS {
            shown += &format!("{INDENT}{line},\n");
            line.clear();
        }
        if !line.is_empty() {
            line += ", ";
        }
        line += &part;
    }
    shown + &format!("{INDENT}{line}\n")
}

const INDENT: &str = "  ";
const COLUMNS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_vip_and_peer_has_its_attributes_or_the_reason_within_80_columns() {
        let app = json!({
            "why": "all monitors pass",
            "vip_status": [
                {"vip": "192.0.2.53/32", "routes": [{
                    "peer": "10.0.0.1", "next_hop": "10.0.0.2", "as_path": "65001 65001",
                    "origin": "igp", "med": 7, "local_pref": null, "age": 252.0,
                    "communities": ["65001:53", "no-export"], "large_communities": ["65001:1:2"],
                    "ext_communities": ["rt:65001:1"], "acknowledged": true,
                }], "not_announced_to": [
                    {"peer": "10.0.1.1", "why": "the session is not established"},
                ]},
                {"vip": "2001:db8::53/128", "routes": [], "not_announced_to": [],
                 "problem": "no next hop"},
                {"vip": "192.0.2.54/32", "routes": [], "not_announced_to": []},
            ],
        });
        let shown = render(&app);
        assert_eq!(
            shown,
            "\
192.0.2.53/32 is announced to 10.0.0.1 for 4m12s, acknowledged
  next hop 10.0.0.2, AS path 65001 65001, origin igp, MED 7, community 65001:53,
  community no-export, large community 65001:1:2, extended community rt:65001:1
192.0.2.53/32 is not announced to 10.0.1.1: the session is not established
2001:db8::53/128 is not announced: no next hop
192.0.2.54/32 is not announced: all monitors pass
"
        );
        assert!(shown.lines().all(|line| line.len() <= 80));
    }
}
