//! Every key there is, by section. What stands here can be written in a file; the environment's
//! variables are made of the same names.

pub(super) const ROOT: &[&str] = &["agent", "bgp", "apps"];

pub(super) const AGENT: &[&str] = &[
    "listen_addr",
    "metrics_addr",
    "monitor_interval",
    "cleanup_timer",
    "vip_linger",
    "vip_presence",
    "vip_lease",
    "vip_interface",
    "drain_time",
    "api_token",
    "api_token_file",
    "api_allow",
    "allow_exec",
    "allowed_vips",
    "max_http_apps",
    "max_vips",
    "max_drain",
    "max_connections",
    "check_threads",
    "state_file",
    "instance",
    "user",
    "exec_user",
    "on_change",
    "consul_addr",
    "consul_query_interval",
    "consul_token",
    "consul_token_file",
    "consul_ca_file",
    "consul_cert_file",
    "consul_key_file",
    "consul_datacenter",
    "consul_namespace",
    "consul_match_tag",
    "consul_grace",
    "consul_warning",
    "iptables_binary",
];

/// Of the speaker alone.
const SPEAKER: &[&str] = &["local_as", "router_id", "listen", "peers", "family"];

/// Of the speaker, for all peers, and of one peer.
pub(super) const PEER: &[&str] = &[
    "peer_ip",
    "peer_as",
    "remote_as",
    "local_ip",
    "communities",
    "origin",
    "large_communities",
    "ext_communities",
    "med",
    "local_pref",
    "as_path_prepend",
    "next_hop",
    "next_hop6",
    "hold_time",
    "connect_retry",
    "port",
    "password",
    "password_file",
    "multihop",
    "ttl_security",
    "families",
    "passive",
    "graceful_restart",
    "bfd",
];

pub(super) fn bgp() -> Vec<&'static str> {
    [SPEAKER, PEER].concat()
}

pub(super) const BFD: &[&str] = &["interval", "multiplier", "multihop"];

pub(super) const APP: &[&str] = &[
    "name",
    "vip",
    "vips",
    "monitors",
    "nats",
    "interval",
    "timeout",
    "rise",
    "fall",
    "fast_interval",
    "start_delay",
    "drain_time",
    "maintenance_file",
    "hold_down",
    "flap_limit",
    "vip_presence",
    "vip_config",
];

pub(super) const REACTION: &[&str] = &[
    "bgp_communities",
    "large_communities",
    "ext_communities",
    "med",
    "local_pref",
    "as_path_prepend",
    "next_hop",
    "next_hop6",
];

const REACTIONS: &[&str] = &["when_down", "when_draining"];

pub(super) fn vip_config() -> Vec<&'static str> {
    [REACTION, REACTIONS].concat()
}

pub(super) const MONITOR: &[&str] = &[
    "monitor",
    "exec",
    "name",
    "interval",
    "timeout",
    "rise",
    "fall",
    "fast_interval",
    "accept_queue",
    "status",
    "contains",
    "headers",
    "insecure",
    "rcode",
];

/// The section that a key belongs to, for one that was written in another, whose keys are `known`.
pub(super) fn section_of(key: &str, known: &[&str]) -> Option<&'static str> {
    let vip_config = ("vip_config", vip_config());
    let sections = match known.contains(&"vip_config") {
        true => vec![vip_config, ("agent", AGENT.to_vec()), ("bgp", bgp())],
        false => vec![
            ("agent", AGENT.to_vec()),
            ("bgp", bgp()),
            ("apps", APP.to_vec()),
            vip_config,
        ],
    };
    let mut sections = sections.into_iter();
    sections
        .find(|(_, keys)| keys.contains(&key))
        .map(|(name, _)| name)
}

/// The path of the key that a variable sets, from its name without `SIDECAST_`.
pub(super) fn variable(name: &str) -> Option<Vec<&'static str>> {
    let find = |keys: &[&'static str], name: &str| {
        let name = name.to_ascii_lowercase();
        keys.iter().copied().find(|key| *key == name)
    };
    let (section, rest) = name.split_once('_')?;
    match section {
        "AGENT" => Some(vec!["agent", find(AGENT, rest)?]),
        "BGP" => match rest.strip_prefix("BFD_") {
            Some(rest) => Some(vec!["bgp", "bfd", find(BFD, rest)?]),
            None => Some(vec!["bgp", find(&bgp(), rest)?]),
        },
        "APP" => {
            if let Some(key) = find(APP, rest).filter(|key| *key != "vip_config") {
                return Some(vec!["app", key]);
            }
            Some(vec!["app", "vip_config", find(&vip_config(), rest)?])
        }
        _ => None,
    }
}

/// Variables that set no key.
pub(super) const OTHER_VARIABLES: &[&str] =
    &["SIDECAST_CONFIG", "SIDECAST_CONFIG_YAML", "SIDECAST_ADDR"];

/// Every variable there is.
pub(super) fn variables() -> Vec<String> {
    let upper = |section: &str, keys: &[&str]| -> Vec<String> {
        let name = |key: &&str| format!("SIDECAST_{section}_{}", key.to_ascii_uppercase());
        keys.iter().map(name).collect()
    };
    let mut all: Vec<String> = OTHER_VARIABLES.iter().map(|s| (*s).to_owned()).collect();
    all.extend(upper("AGENT", AGENT));
    all.extend(upper("BGP", &bgp()));
    all.extend(upper("BGP_BFD", BFD));
    all.extend(
        upper("APP", APP)
            .into_iter()
            .filter(|v| !v.ends_with("_VIP_CONFIG")),
    );
    all.extend(upper("APP", &vip_config()));
    all
}
