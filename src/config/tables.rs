//! Every section there is, and what derives from their tables: variables, parameters.

use super::apps::AppSpec;
use super::monitor::MonitorKeys;
use super::{Bfd, PeerSettings, agent, bgp};
use crate::app::{Attributes, Probing, VipConfig};
use crate::schema::{ENV, HTTP, Key, Section, Table};

/// Where a section has no variables of its own, its prefix is empty.
pub const TABLES: &[Table] = &[
    Table::new("agent", "AGENT_", &["agent"], agent::keys),
    Table::new("bgp", "BGP_", &["bgp"], bgp::keys),
    Table::new("apps", "APP_", &["app"], AppSpec::keys),
    Table::new(
        "vip_config",
        "APP_",
        &["app", "vip_config"],
        VipConfig::keys,
    ),
    Table::new("path_proof", "", &["agent", "path_proof"], Probing::keys),
    Table::new("bgp.bfd", "BGP_BFD_", &["bgp", "bfd"], Bfd::keys),
    Table::new("bgp.peers", "", &["bgp", "peers"], PeerSettings::keys),
    Table::new("monitors", "", &["apps", "monitors"], MonitorKeys::keys),
    Table::new(
        "when_down",
        "",
        &["apps", "vip_config", "when_down"],
        Attributes::keys,
    ),
];

/// Variables that set no key.
pub(super) const NON_KEY_VARIABLES: &[&str] =
    &["SIDECAST_CONFIG", "SIDECAST_CONFIG_YAML", "SIDECAST_ADDR"];

/// Every variable there is.
pub(super) fn variables() -> Vec<String> {
    let mut all: Vec<String> = NON_KEY_VARIABLES.iter().map(|s| (*s).to_owned()).collect();
    for table in TABLES.iter().filter(|table| !table.prefix.is_empty()) {
        for (_, name) in names(table) {
            all.push(format!(
                "SIDECAST_{}{}",
                table.prefix,
                name.to_ascii_uppercase()
            ));
        }
    }
    all
}

/// The keys of a section that have a variable, under each name.
fn names(table: &Table) -> impl Iterator<Item = (&'static Key, &'static str)> {
    let keys = (table.keys)()
        .into_iter()
        .filter(|key| key.scope & ENV != 0);
    keys.flat_map(|key| key.names_in(table.name).map(move |name| (key, name)))
}

/// The key that a variable sets and its path, from the variable's name without `SIDECAST_`.
pub(super) fn variable(name: &str) -> Option<(&'static Key, Vec<&'static str>)> {
    TABLES.iter().find_map(|table| {
        let rest = Some(table.prefix).filter(|prefix| !prefix.is_empty());
        let rest = name.strip_prefix(rest?)?.to_ascii_lowercase();
        let (key, name) = names(table).find(|(_, name)| *name == rest)?;
        Some((key, [table.path, &[name]].concat()))
    })
}

/// The keys that HTTP and tags may set; `true`: in `vip_config`.
pub(super) fn parameters() -> impl Iterator<Item = (&'static Key, bool)> {
    let app = AppSpec::keys().into_iter().map(|key| (key, false));
    let vip_config = VipConfig::keys().into_iter().map(|key| (key, true));
    app.chain(vip_config)
        .filter(|(key, _)| key.scope & HTTP != 0)
}
