//! The state file as JSON: apps registered by HTTP, drains, and Consul's last known state. It is not
//! trusted: apps are written with the configuration's keys and validated as when they were registered,
//! so what is not allowed any more is not restored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Config, Policy, flow, monitor, params};
use crate::app::{App, AppName, DrainRequest, Source};
use crate::consul::Service;
use crate::schema::tree::{Entry, Node, Place, Tree};
use crate::schema::{Line, Section, yaml};

/// The content of the state file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedState {
    pub drain_all: bool,
    pub drains: BTreeSet<AppName>,
    /// Who asked for them; `None` is the drain of all. Earlier versions did not write it.
    pub requests: BTreeMap<Option<AppName>, DrainRequest>,
    /// Exempt from a drain of their service or of all.
    pub undrained: BTreeSet<AppName>,
    /// Registered by HTTP.
    pub apps: Vec<App>,
    /// Consul's services that asked for an announcement, and whether its checks passed.
    pub services: Vec<(Service, bool)>,
    /// Apps of other sources whose `consul` monitor passed.
    pub passed: BTreeSet<AppName>,
}

/// The file's content. Older versions wrote the same keys as YAML.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Stored {
    drain_all: bool,
    drains: Vec<String>,
    drain_requests: Vec<StoredRequest>,
    undrained: Vec<String>,
    consul_passed: Vec<String>,
    apps: Vec<Map<String, Value>>,
    consul: Vec<StoredService>,
}

/// Who requested a drain, and when; without a name, the drain of all apps.
#[derive(Deserialize, Serialize)]
struct StoredRequest {
    name: Option<String>,
    by: String,
    /// Seconds since 1970.
    since: u64,
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

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

/// An app as configuration keys. HTTP's monitors are texts, with the app's timing.
fn saved(app: &App) -> Map<String, Value> {
    let monitors = app.monitors.iter();
    let monitors = monitors.map(|one| Value::Object(values(monitor::lines(one))));
    let mut saved = values(app.options.lines());
    saved.extend([
        ("name".to_owned(), app.name.as_str().into()),
        ("vips".to_owned(), texts(&app.vips).into()),
        ("monitors".to_owned(), monitors.collect()),
        ("nats".to_owned(), texts(&app.nats).into()),
        (
            "vip_config".to_owned(),
            values(app.vip_config().lines()).into(),
        ),
    ]);
    saved
}

fn values(lines: Vec<Line>) -> Map<String, Value> {
    let value = |line: Line| {
        (
            line.key.name.to_owned(),
            json(&flow::read_trusted(&line.text)),
        )
    };
    lines.into_iter().map(value).collect()
}

impl SavedState {
    /// The largest state file, in bytes.
    pub const MAX_BYTES: usize = 4 << 20;

    /// Whether a text is JSON, not the YAML of an older version.
    pub fn is_json(text: &str) -> bool {
        text.trim_start().starts_with('{')
    }

    /// The file's text, which [`SavedState::read`] reads back.
    pub fn to_json(&self) -> String {
        let service = |(service, passing): &(Service, bool)| StoredService {
            id: service.id.clone(),
            service: service.name.clone(),
            passing: *passing,
            tags: service.tags.clone(),
        };
        let request = |(name, request): (&Option<AppName>, &DrainRequest)| StoredRequest {
            name: name.as_ref().map(AppName::to_string),
            by: request.by().to_owned(),
            since: request
                .since
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        };
        let stored = Stored {
            drain_all: self.drain_all,
            drains: texts(&self.drains),
            drain_requests: self.requests.iter().map(request).collect(),
            undrained: texts(&self.undrained),
            consul_passed: texts(&self.passed),
            apps: self.apps.iter().map(saved).collect(),
            consul: self.services.iter().map(service).collect(),
        };
        // A struct of texts, numbers and lists can always be serialized.
        let mut text = serde_json::to_string_pretty(&stored).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a state file; also returns what could not be restored.
    pub fn read(text: &str, config: &Config) -> Result<(Self, Vec<String>), String> {
        if text.len() > Self::MAX_BYTES {
            return Err(format!("is longer than {} bytes", Self::MAX_BYTES));
        }
        let stored: Stored = match Self::is_json(text) {
            true => serde_json::from_str(text).map_err(|error| error.to_string())?,
            false => from_yaml(text)?,
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
        let mut state = Self {
            drain_all: stored.drain_all,
            drains: names("drains", stored.drains),
            undrained: names("undrained", stored.undrained),
            passed: names("consul_passed", stored.consul_passed),
            ..Self::default()
        };
        state.take_requests(stored.drain_requests);
        let policy = Policy::new(&config.agent, &config.bgp);
        let most = config.agent.max_http_apps;
        if stored.apps.len() > most {
            problems.add(format_args!("more apps than agent.max_http_apps: {most}"));
        }
        for (index, app) in stored.apps.into_iter().take(most).enumerate() {
            match self::app(Value::Object(app), config, &policy) {
                Ok(app) => state.apps.push(app),
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
            state.services.push((Service { id, name, tags }, passing));
        }
        Ok((state, problems.0))
    }

    /// Restores the requests whose drains are in the file.
    fn take_requests(&mut self, stored: Vec<StoredRequest>) {
        for StoredRequest { name, by, since } in stored {
            let name = match name.map(|name| name.parse()) {
                None if self.drain_all => None,
                Some(Ok(name)) if self.drains.contains(&name) => Some(name),
                _ => continue,
            };
            let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since));
            let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
            self.requests.insert(name, DrainRequest::new(&by, since));
        }
    }
}

/// At most 100 problems: a foreign file may have millions.
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
    let (app, problems) = params::single_app(&node, Source::Http, config);
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

/// Reads the YAML of an older version, which is then written as JSON.
fn from_yaml(text: &str) -> Result<Stored, String> {
    let node = yaml::parse(text, &|_| Place::Default).map_err(|error| error.message)?;
    let Tree::Map(_) = node.tree else {
        return Err("should be a map".to_owned());
    };
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
    Ok(Stored {
        drain_all: value(&node, "drain_all") == Some("true"),
        drains: texts(&node, "drains"),
        drain_requests: Vec::new(),
        undrained: texts(&node, "undrained"),
        consul_passed: texts(&node, "consul_passed"),
        apps: items(&node, "apps")
            .filter_map(|app| json(app).as_object().cloned())
            .collect(),
        consul: items(&node, "consul").filter_map(service).collect(),
    })
}

fn json(node: &Node) -> Value {
    match &node.tree {
        Tree::Null => Value::Null,
        Tree::Scalar(text) => text.as_str().into(),
        Tree::List(items) => items.iter().map(json).collect(),
        Tree::Map(entries) => {
            let mut map = Map::new();
            for entry in entries {
                map.insert(entry.key.clone(), json(&entry.node));
            }
            Value::Object(map)
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

    fn state() -> SavedState {
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
            ("drain_wait", "fixed"),
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
            requests: BTreeMap::from([
                (None, request("HTTP from 10.0.0.7", 1_700_000_000)),
                (Some("dns".parse().unwrap()), request("\"q\" हि", 0)),
            ]),
            undrained: BTreeSet::from(["web".parse().unwrap()]),
            apps: vec![full, bare],
            passed: BTreeSet::from(["null".parse().unwrap()]),
            services: vec![
                (service("1", &["enable_gocast", "a: b # c", ""]), true),
                (service("null", &[]), false),
            ],
        }
    }

    fn request(by: &str, since: u64) -> DrainRequest {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
        DrainRequest::new(by, since)
    }

    #[test]
    fn a_file_without_drain_requests_loads_and_requests_without_a_drain_are_dropped() {
        let read = |text: &str| SavedState::read(text, &config("")).unwrap().0;
        let old = read("{\"drain_all\": true, \"drains\": [\"dns\"]}");
        assert!(old.drain_all && old.drains.len() == 1 && old.requests.is_empty());
        let long = "x".repeat(200) + "\u{1b}[2J";
        let text = serde_json::json!({"drains": ["dns"], "drain_requests": [
            {"name": "dns", "by": long, "since": u64::MAX},
            {"name": "web", "by": "HTTP", "since": 1}, {"name": null, "by": "HTTP", "since": 1},
        ]});
        let requests = read(&text.to_string()).requests;
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert_eq!(
            requests[&Some("dns".parse().unwrap())].by(),
            "x".repeat(100)
        );
    }

    #[test]
    fn what_is_written_is_read_again() {
        for state in [state(), SavedState::default()] {
            let text = state.to_json();
            let read = SavedState::read(&text, &config(""));
            assert_eq!(read, Ok((state, vec![])), "{text}");
        }
    }

    #[test]
    fn what_is_not_allowed_any_more_is_not_restored() {
        let text = state().to_json();
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
        let (state, problems) = SavedState::read(text, &config("")).unwrap();
        assert_eq!(problems, Vec::<String>::new());
        assert!(state.drain_all && state.drains.len() == 1 && state.passed.len() == 1);
        assert_eq!((state.apps.len(), state.services.len()), (1, 1));
        let app = &state.apps[0];
        assert_eq!((app.attributes.med, app.options.damping()), (Some(0), None));
        assert_eq!(app.monitors.first().unwrap().rise, 2);
        let again = state.to_json();
        assert!(SavedState::is_json(&again));
        assert_eq!(SavedState::read(&again, &config("")), Ok((state, vec![])));
        for bomb in ["[".repeat(64_000), "a: ".to_owned() + &"[".repeat(64_000)] {
            assert!(
                SavedState::read(&bomb, &config(""))
                    .unwrap_err()
                    .contains("brackets")
            );
        }
    }

    /// Its content is treated like a request over HTTP.
    #[test]
    fn the_state_file_is_validated() {
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
            let (state, problems) = SavedState::read(&app(more), &config("")).unwrap();
            assert_eq!(state.apps, []);
            assert!(problems[0].contains(why), "{problems:?}");
        }
        let deeper = app(&format!("\"nats\": {}{}", "[".repeat(200), "]".repeat(200)));
        assert!(SavedState::read(&deeper, &config("")).is_err());
    }

    #[test]
    fn malformed_state_files_are_errors_and_unknown_keys_are_ignored() {
        let config = config("");
        let long = format!(
            "{{\"drains\": [\"{}\"]}}",
            "x".repeat(SavedState::MAX_BYTES)
        );
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
        let whole = state().to_json();
        for end in whole.char_indices().map(|(end, _)| end) {
            let _ = SavedState::read(&whole[..end], &config);
        }
    }
}
