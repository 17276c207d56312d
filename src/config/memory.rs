//! What outlives a restart, as JSON: apps that HTTP registered, drains, and what Consul last said. It is
//! not believed: apps are written with the configuration's keys, and read with the same rules as when
//! they were registered, so what is not allowed any more does not come back.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Config, Policy, apps};
use crate::app::{App, AppName, Attributes, Monitor, Reaction, Source};
use crate::consul::Service;
use crate::schema::duration::Shown;
use crate::schema::tree::{Entry, Node, Place, Tree};
use crate::schema::yaml;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedState {
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

/// The file. Of one from before, in YAML, the keys are the same.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Stored {
    drain_all: bool,
    drains: Vec<String>,
    undrained: Vec<String>,
    consul_passed: Vec<String>,
    apps: Vec<Map<String, Value>>,
    consul: Vec<StoredService>,
}

#[derive(Deserialize, Serialize)]
struct StoredService {
    id: String,
    service: String,
    #[serde(default)]
    passing: bool,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Serialize)]
struct StoredApp {
    name: String,
    vips: Vec<String>,
    monitors: Vec<StoredMonitor>,
    nats: Vec<String>,
    start_delay: String,
    drain_time: String,
    hold_down: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    flap_limit: Option<String>,
    vip_presence: String,
    vip_config: VipConfig,
}

/// HTTP's monitors are texts, with the app's timing.
#[derive(Serialize)]
struct StoredMonitor {
    monitor: String,
    interval: String,
    timeout: String,
    rise: u32,
    fall: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    fast_interval: Option<String>,
}

#[derive(Serialize)]
struct VipConfig {
    #[serde(flatten)]
    attributes: StoredAttributes,
    when_down: StoredReaction,
    when_draining: StoredReaction,
}

#[derive(Serialize)]
#[serde(untagged)]
enum StoredReaction {
    Withdraw(&'static str),
    Announce(StoredAttributes),
}

#[derive(Serialize)]
struct StoredAttributes {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bgp_communities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    large_communities: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ext_communities: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    med: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_pref: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_path_prepend: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_hop6: Option<String>,
}

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

impl From<&Attributes> for StoredAttributes {
    fn from(a: &Attributes) -> Self {
        Self {
            bgp_communities: texts(&a.communities),
            large_communities: texts(&a.large_communities),
            ext_communities: texts(&a.ext_communities),
            med: a.med,
            local_pref: a.local_pref,
            as_path_prepend: a.as_path_prepend,
            next_hop: a.next_hop.map(|addr| addr.to_string()),
            next_hop6: a.next_hop6.map(|addr| addr.to_string()),
        }
    }
}

impl From<&Reaction> for StoredReaction {
    fn from(reaction: &Reaction) -> Self {
        match reaction {
            Reaction::Withdraw => Self::Withdraw("withdraw"),
            Reaction::Announce(attributes) => Self::Announce(attributes.into()),
        }
    }
}

impl From<&Monitor> for StoredMonitor {
    fn from(monitor: &Monitor) -> Self {
        Self {
            monitor: monitor.spec.to_string(),
            interval: Shown(monitor.interval).to_string(),
            timeout: Shown(monitor.timeout).to_string(),
            rise: monitor.rise,
            fall: monitor.fall,
            fast_interval: monitor.fast_interval.map(|fast| Shown(fast).to_string()),
        }
    }
}

impl From<&App> for StoredApp {
    fn from(app: &App) -> Self {
        let (hold_down, flap_limit) = match app.options.damping() {
            None => ("off".to_owned(), None),
            Some(damping) => {
                let limit = format!("{}/{}", damping.flap_limit, Shown(damping.flap_window));
                (Shown(damping.hold_down).to_string(), Some(limit))
            }
        };
        Self {
            name: app.name.to_string(),
            vips: texts(&app.vips),
            monitors: app.monitors.iter().map(StoredMonitor::from).collect(),
            nats: texts(&app.nats),
            start_delay: Shown(app.options.start_delay).to_string(),
            drain_time: Shown(app.options.drain_time).to_string(),
            hold_down,
            flap_limit,
            vip_presence: app.options.vip_presence.to_string(),
            vip_config: VipConfig {
                attributes: (&app.attributes).into(),
                when_down: (&app.when_down).into(),
                when_draining: (&app.when_draining).into(),
            },
        }
    }
}

impl SavedState {
    /// More is neither written nor read.
    pub const LONGEST: usize = 4 << 20;

    /// Whether a text is of this form, and not YAML as it was written before.
    pub fn is_json(text: &str) -> bool {
        text.trim_start().starts_with('{')
    }

    pub fn to_json(&self) -> String {
        // A struct of texts, numbers and lists is always a map.
        let app = |app| match serde_json::to_value(StoredApp::from(app)) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let service = |(service, passing): &(Service, bool)| StoredService {
            id: service.id.clone(),
            service: service.name.clone(),
            passing: *passing,
            tags: service.tags.clone(),
        };
        let stored = Stored {
            drain_all: self.drain_all,
            drains: texts(&self.drains),
            undrained: texts(&self.undrained),
            consul_passed: texts(&self.passed),
            apps: self.apps.iter().map(app).collect(),
            consul: self.services.iter().map(service).collect(),
        };
        // Texts, numbers and lists always have a JSON.
        let mut text = serde_json::to_string_pretty(&stored).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads it again, and says what could not be taken.
    pub fn read(text: &str, config: &Config) -> Result<(Self, Vec<String>), String> {
        if text.len() > Self::LONGEST {
            return Err(format!("is longer than {} bytes", Self::LONGEST));
        }
        let stored: Stored = match Self::is_json(text) {
            true => serde_json::from_str(text).map_err(|error| error.to_string())?,
            false => {
                let node = yaml::parse(text, &|_| Place::Default).map_err(|error| error.message)?;
                from_yaml(&node).ok_or("should be a map")?
            }
        };
        let mut problems = Problems(Vec::new());
        let mut names = |key: &str, texts: Vec<String>| {
            let mut names = BTreeSet::new();
            for text in texts {
                match text.parse() {
                    Ok(name) => drop(names.insert(name)),
                    Err(error) => problems.add(format_args!("{key}: {error}")),
                }
            }
            names
        };
        let mut memory = Self {
            drain_all: stored.drain_all,
            drains: names("drains", stored.drains),
            undrained: names("undrained", stored.undrained),
            passed: names("consul_passed", stored.consul_passed),
            ..Self::default()
        };
        let policy = Policy::new(&config.agent, &config.bgp);
        let most = config.agent.max_http_apps;
        if stored.apps.len() > most {
            problems.add(format_args!("more apps than agent.max_http_apps: {most}"));
        }
        for (index, app) in stored.apps.into_iter().take(most).enumerate() {
            match self::app(Value::Object(app), config, &policy) {
                Ok(app) => memory.apps.push(app),
                Err(why) => problems.add(format_args!("apps[{index}]: {why}")),
            }
        }
        for StoredService {
            id,
            service: name,
            passing,
            tags,
        } in stored.consul
        {
            memory.services.push((Service { id, name, tags }, passing));
        }
        Ok((memory, problems.0))
    }
}

/// The first of them: somebody else's file may have millions.
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: fmt::Arguments<'_>) {
        if self.0.len() < 100 {
            self.0.push(problem.to_string());
        }
    }
}

fn app(value: Value, config: &Config, policy: &Policy) -> Result<App, String> {
    let mut left = APP_VALUES;
    let node = node(value, &mut left).ok_or("is too large")?;
    let (app, problems) = apps::lone_app(&node, Source::Http, config);
    match (problems.first(), app) {
        (None, Some(app)) => match policy.permit(&app) {
            Ok(()) => Ok(app),
            Err(refusal) => Err(format!("{}: {refusal}", app.name)),
        },
        (Some(problem), _) => Err(problem.to_string()),
        (None, None) => Err("is no app".to_owned()),
    }
}

/// Values in one app: more than all its VIPs, monitors and communities take.
const APP_VALUES: usize = 20_000;

/// The same tree that a file would make; `None` where it has more than `left` values.
fn node(value: Value, left: &mut usize) -> Option<Node> {
    *left = left.checked_sub(1)?;
    let place = Place::Default;
    let tree = match value {
        Value::Null => Tree::Null,
        Value::Bool(value) => Tree::Scalar(value.to_string()),
        Value::Number(value) => Tree::Scalar(value.to_string()),
        Value::String(text) => Tree::Scalar(text),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| node(item, left));
            Tree::List(items.collect::<Option<_>>()?)
        }
        Value::Object(map) => {
            let entry = |(key, value)| {
                let node = node(value, left)?;
                let place = Place::Default;
                Some(Entry { key, place, node })
            };
            Tree::Map(map.into_iter().map(entry).collect::<Option<_>>()?)
        }
    };
    Some(Node { place, tree })
}

/// A file of before, read once: it is written anew as JSON.
fn from_yaml(node: &Node) -> Option<Stored> {
    let Tree::Map(_) = node.tree else { return None };
    let texts = |node: &Node, key| {
        let texts = items(node, key).map(|item| item.text().unwrap_or_default().to_owned());
        texts.collect::<Vec<_>>()
    };
    let service = |item| {
        Some(StoredService {
            id: value(item, "id")?.to_owned(),
            service: value(item, "service")?.to_owned(),
            passing: value(item, "passing") == Some("true"),
            tags: texts(item, "tags"),
        })
    };
    Some(Stored {
        drain_all: value(node, "drain_all") == Some("true"),
        drains: texts(node, "drains"),
        undrained: texts(node, "undrained"),
        consul_passed: texts(node, "consul_passed"),
        apps: items(node, "apps").filter_map(object).collect(),
        consul: items(node, "consul").filter_map(service).collect(),
    })
}

fn object(node: &Node) -> Option<Map<String, Value>> {
    match json(node) {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

fn json(node: &Node) -> Value {
    match &node.tree {
        Tree::Null => Value::Null,
        Tree::Scalar(text) => text.as_str().into(),
        Tree::List(items) => items.iter().map(json).collect(),
        Tree::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|entry| (entry.key.clone(), json(&entry.node)));
            Value::Object(pairs.collect())
        }
    }
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

    fn memory() -> SavedState {
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
            ("name", "b: #'\"(x)&हि"),
            ("vip", "192.0.2.2/32"),
            ("hold_down", "off"),
        ]);
        let service = |id: &str, tags: &[&str]| Service {
            id: id.to_owned(),
            name: "web: x\n".to_owned(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        };
        SavedState {
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
        for memory in [memory(), SavedState::default()] {
            let text = memory.to_json();
            let read = SavedState::read(&text, &config(""));
            assert_eq!(read, Ok((memory, vec![])), "{text}");
        }
    }

    #[test]
    fn what_is_not_allowed_any_more_does_not_come_back() {
        let text = memory().to_json();
        let config = config("allowed_vips: [192.0.2.2/32]");
        let (read, problems) = SavedState::read(&text, &config).unwrap();
        assert_eq!(read.apps.len(), 1);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("agent.allowed_vips"), "{problems:?}");
    }

    /// As the version before wrote it.
    #[test]
    fn a_file_in_yaml_is_read_within_the_limits_of_a_configuration() {
        let text = "# What sidecast remembers over a restart. It is written anew whenever it changes.\n\
                    drain_all: true\ndrains: [\"dns\"]\nundrained: []\nconsul_passed: [\"null\"]\napps:\n  \
                    - name: \"web\"\n    vips: [\"192.0.2.1/32\"]\n    monitors:\n      \
                    - {monitor: \"port:udp:53\", interval: 1.5s, timeout: 1s, rise: 2, fall: 3, accept_queue: warn}\n    \
                    nats: [\"udp:53:8053\"]\n    hold_down: \"off\"\n    vip_config:\n      med: 0\n      \
                    when_down: {med: 1000}\nconsul:\n  \
                    - {id: \"1\", service: \"web\", passing: true, tags: [\"a: b # c\"]}\n";
        assert!(!SavedState::is_json(text));
        let (memory, problems) = SavedState::read(text, &config("")).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert!(memory.drain_all && memory.drains.len() == 1 && memory.passed.len() == 1);
        assert_eq!((memory.apps.len(), memory.services.len()), (1, 1));
        let app = &memory.apps[0];
        assert_eq!((app.attributes.med, app.options.damping()), (Some(0), None));
        assert_eq!(app.monitors.first().unwrap().rise, 2);
        let again = memory.to_json();
        assert!(SavedState::is_json(&again));
        assert_eq!(SavedState::read(&again, &config("")), Ok((memory, vec![])));
        for bomb in ["[".repeat(64_000), "a: ".to_owned() + &"[".repeat(64_000)] {
            assert!(
                SavedState::read(&bomb, &config(""))
                    .unwrap_err()
                    .contains("brackets")
            );
        }
    }

    /// What it says is taken as if somebody asked for it by HTTP.
    #[test]
    fn the_file_is_not_believed() {
        let app = |more: &str| {
            format!("{{\"apps\": [{{\"name\": \"a\", \"vips\": [\"192.0.2.1/32\"], {more}}}]}}")
        };
        let large = format!("\"nats\": [{}0]", "0,".repeat(APP_VALUES));
        let deep = format!("\"nats\": {}{}", "[".repeat(100), "]".repeat(100));
        for (more, why) in [
            ("\"monitors\": [\"exec:id\"]", "agent.allow_exec"),
            ("\"monitors\": [{\"exec\": [\"id\"]}]", "agent.allow_exec"),
            ("\"vip\": \"10.0.0.1/32\"", "a BGP peer"),
            ("\"source\": \"config\"", "no known key"),
            (large.as_str(), "too large"),
            (deep.as_str(), "should be"),
        ] {
            let (memory, problems) = SavedState::read(&app(more), &config("")).unwrap();
            assert_eq!(memory.apps, []);
            assert!(problems[0].contains(why), "{problems:?}");
        }
        let deeper = app(&format!("\"nats\": {}{}", "[".repeat(200), "]".repeat(200)));
        assert!(SavedState::read(&deeper, &config("")).is_err());
    }

    #[test]
    fn a_broken_file_is_an_error_and_half_of_one_no_harm() {
        let config = config("");
        let long = format!("{{\"drains\": [\"{}\"]}}", "x".repeat(SavedState::LONGEST));
        for text in [
            "",
            "7",
            "[]",
            "{",
            "apps: [",
            "\u{0}",
            "{\"apps\": 7}",
            &long,
        ] {
            assert!(SavedState::read(text, &config).is_err(), "{text:?}");
        }
        for text in [
            "{}",
            "{\"x\": 1}",
            "x: 1",
            "apps: 7\ndrains: {a: b}\nconsul: [1, {id: x}]\ndrain_all: maybe",
        ] {
            assert_eq!(
                SavedState::read(text, &config),
                Ok((SavedState::default(), vec![])),
                "{text:?}"
            );
        }
        let whole = memory().to_json();
        for end in whole.char_indices().map(|(end, _)| end) {
            let _ = SavedState::read(&whole[..end], &config);
        }
    }
}
