//! What outlives a restart, as YAML: apps that HTTP registered, drains, and what Consul last said. It is
//! read with the same rules as everything else: what is not allowed any more does not come back.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::render::{list, quoted, render_apps};
use super::tree::{self, Node, Place, Tree};
use super::{Config, Policy, apps};
use crate::app::{App, AppName, Source};
use crate::consul::Service;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub drain_all: bool,
    pub drains: BTreeSet<AppName>,
    /// Excepted from drains that mean more than them.
    pub undrained: BTreeSet<AppName>,
    /// Registered by HTTP.
    pub apps: Vec<App>,
    /// Consul's services that asked for an announcement, and whether its checks passed.
    pub services: Vec<(Service, bool)>,
    /// Apps of other sources that ask Consul and passed.
    pub passed: BTreeSet<AppName>,
}

impl Memory {
    pub fn to_yaml(&self) -> String {
        let mut text = HEAD.to_owned();
        // Writing into a String cannot fail.
        let _ = writeln!(text, "drain_all: {}", self.drain_all);
        let _ = writeln!(text, "drains: {}", list(&self.drains));
        let _ = writeln!(text, "undrained: {}", list(&self.undrained));
        let _ = writeln!(text, "consul_passed: {}", list(&self.passed));
        if self.apps.is_empty() {
            text.push_str("apps: []\n");
        } else {
            text.push_str("apps:\n");
            text.push_str(&render_apps(&self.apps));
        }
        if self.services.is_empty() {
            text.push_str("consul: []\n");
        } else {
            text.push_str("consul:\n");
        }
        for (Service { id, name, tags }, passing) in &self.services {
            let (id, name, tags) = (quoted(id), quoted(name), list(tags));
            let _ = writeln!(
                text,
                "  - {{id: {id}, service: {name}, passing: {passing}, tags: {tags}}}"
            );
        }
        text
    }

    /// Reads it again, and says what could not be taken.
    pub fn read(text: &str, config: &Config) -> Result<(Self, Vec<String>), String> {
        let node = tree::parse(text, &|_| Place::Default).map_err(|error| error.message)?;
        if !matches!(node.tree, Tree::Map(_)) {
            return Err("should be a map".to_owned());
        }
        let mut problems = Vec::new();
        let mut names = |key: &str| {
            let mut names = BTreeSet::new();
            for item in items(&node, key) {
                match item.text().unwrap_or_default().parse() {
                    Ok(name) => drop(names.insert(name)),
                    Err(error) => problems.push(format!("{key}: {error}")),
                }
            }
            names
        };
        let [drains, undrained, passed] = ["drains", "undrained", "consul_passed"].map(&mut names);
        let policy = Policy::new(&config.agent, &config.bgp);
        let mut known = Vec::new();
        for (index, item) in items(&node, "apps").enumerate() {
            match app(item, config, &policy) {
                Ok(app) => known.push(app),
                Err(why) => problems.push(format!("apps[{index}]: {why}")),
            }
        }
        let services = items(&node, "consul").filter_map(service).collect();
        let memory = Self {
            drain_all: value(&node, "drain_all") == Some("true"),
            drains,
            undrained,
            apps: known,
            services,
            passed,
        };
        Ok((memory, problems))
    }
}

fn app(item: &Node, config: &Config, policy: &Policy) -> Result<App, String> {
    let (app, problems) = apps::lone_app(item, Source::Http, config);
    match (problems.first(), app) {
        (None, Some(app)) => match policy.permit(&app) {
            Ok(()) => Ok(app),
            Err(refusal) => Err(format!("{}: {refusal}", app.name)),
        },
        (Some(problem), _) => Err(problem.to_string()),
        (None, None) => Err("is no app".to_owned()),
    }
}

fn service(item: &Node) -> Option<(Service, bool)> {
    let tags = items(item, "tags").map(|tag| tag.text().unwrap_or_default().to_owned());
    let service = Service {
        id: value(item, "id")?.to_owned(),
        name: value(item, "service")?.to_owned(),
        tags: tags.collect(),
    };
    Some((service, value(item, "passing") == Some("true")))
}

fn value<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.entry(key)?.node.text()
}

fn items<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = &'n Node> {
    let list = node.entry(key).map(|entry| &entry.node.tree);
    let list = match list {
        Some(Tree::List(items)) => items.as_slice(),
        _ => &[],
    };
    list.iter()
}

const HEAD: &str =
    "# What sidecast remembers over a restart. It is written anew whenever it changes.\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_app_from_params;
    use std::collections::BTreeMap;

    fn config(agent: &str) -> Config {
        let text = format!(
            "agent: {{consul_addr: 'http://localhost:8500', {agent}}}\n\
             bgp: {{local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}}\n"
        );
        let mut read = |_: &std::path::Path| Ok(text.clone());
        let loaded = super::super::load(Some("f.yaml"), &BTreeMap::new(), &mut read);
        loaded.unwrap().config
    }

    fn app(params: &[(&str, &str)]) -> App {
        let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        let params: Vec<(String, String)> = params.iter().map(owned).collect();
        parse_app_from_params(&params, Source::Http, &config("")).unwrap()
    }

    fn memory() -> Memory {
        let full = app(&[
            ("name", "full"),
            ("vip", "192.0.2.1/32,2001:db8::1/128"),
            ("monitor", "port:udp:53"),
            ("monitor", "http://127.0.0.1:80/a?b=\"c\"#"),
            ("monitor", "dns:example.com@[::1]:53"),
            ("monitor", "heartbeat:3s"),
            ("nat", "udp:53:8053"),
            ("interval", "1.5s"),
            ("rise", "2"),
            ("fall", "3"),
            ("fast_interval", "100ms"),
            ("start_delay", "1m"),
            ("drain_time", "0"),
            ("hold_down", "2s"),
            ("flap_limit", "3/90s"),
            ("vip_presence", "always"),
            ("vip_communities", "65001:1,no-export"),
            ("large_communities", "65001:1:2"),
            ("ext_communities", "rt:65001:1"),
            ("med", "0"),
            ("next_hop", "10.0.0.9"),
            (
                "when_down",
                "{med: 1000, bgp_communities: [graceful-shutdown]}",
            ),
        ]);
        let bare = app(&[
            ("name", "b:\u{feff}#'"),
            ("vip", "192.0.2.2/32"),
            ("hold_down", "off"),
        ]);
        let service = |id: &str, tags: &[&str]| Service {
            id: id.to_owned(),
            name: "web: x\n".to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        };
        Memory {
            drain_all: true,
            drains: BTreeSet::from(["dns".parse().unwrap(), "a{b}".parse().unwrap()]),
            undrained: BTreeSet::from(["web".parse().unwrap()]),
            apps: vec![full, bare],
            passed: BTreeSet::from(["null".parse().unwrap()]),
            services: vec![
                (service("1", &["enable_gocast", "a: b # c", ""]), true),
                (service("null", &[]), false),
            ],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for memory in [memory(), Memory::default()] {
            let text = memory.to_yaml();
            let read = Memory::read(&text, &config(""));
            assert_eq!(read, Ok((memory, vec![])), "{text}");
        }
    }

    #[test]
    fn what_is_not_allowed_any_more_does_not_come_back() {
        let text = memory().to_yaml();
        let config = config("allowed_vips: [192.0.2.2/32]");
        let (read, problems) = Memory::read(&text, &config).unwrap();
        assert_eq!(read.apps.len(), 1);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("agent.allowed_vips"), "{problems:?}");
    }

    #[test]
    fn a_broken_file_is_an_error_and_half_of_one_no_harm() {
        let config = config("");
        for text in ["", "7", "[]", "{", "apps: [", "\u{0}"] {
            assert!(Memory::read(text, &config).is_err(), "{text:?}");
        }
        for text in [
            "x: 1",
            "apps: 7\ndrains: {a: b}\nconsul: [1, {id: x}]\ndrain_all: maybe",
        ] {
            assert_eq!(
                Memory::read(text, &config),
                Ok((Memory::default(), vec![])),
                "{text:?}"
            );
        }
        let whole = memory().to_yaml();
        for end in whole.char_indices().map(|(end, _)| end) {
            let _ = Memory::read(&whole[..end], &config);
        }
    }
}
