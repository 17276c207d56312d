//! One monitor, as a string or as a map.

use std::time::Duration;

use super::apps::Rules;
use super::fields::{Cx, Fields, Split, parsed, shown};
use super::keys;
use super::tree::{self, Node, Tree};
use crate::app::{AcceptQueue, ExecCommand, Monitor, MonitorSpec, Source};
use crate::net::ParseError;

/// How often and how patiently, as far as it is written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    fast_interval: Option<Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
}

impl Timing {
    pub fn read(cx: &mut Cx<'_>, f: &Fields<'_>) -> Self {
        Self {
            interval: f.interval(cx, "interval"),
            timeout: f.interval(cx, "timeout"),
            fast_interval: f.interval(cx, "fast_interval"),
            rise: f.number(cx, "rise", 1, 1000),
            fall: f.number(cx, "fall", 1, 1000),
        }
    }

    fn over(self, base: &Self) -> Self {
        Self {
            interval: self.interval.or(base.interval),
            timeout: self.timeout.or(base.timeout),
            fast_interval: self.fast_interval.or(base.fast_interval),
            rise: self.rise.or(base.rise),
            fall: self.fall.or(base.fall),
        }
    }

    fn monitor(self, spec: MonitorSpec, name: Option<String>, rules: &Rules<'_>) -> Monitor {
        let interval = self.interval.unwrap_or(rules.defaults.interval);
        let patience = match spec {
            MonitorSpec::Exec(_) => interval,
            _ => interval.min(Duration::from_secs(2)),
        };
        Monitor {
            spec,
            name,
            interval,
            timeout: self.timeout.unwrap_or(patience),
            rise: self.rise.unwrap_or(1),
            fall: self.fall.unwrap_or(1),
            fast_interval: self.fast_interval,
        }
    }
}

/// A variable may hold maps too: an item in braces is read as one.
pub(super) fn in_braces(cx: &mut Cx<'_>, path: &str, item: Node) -> Node {
    let tree::Place::Env(_) = item.place else {
        return item;
    };
    let Some(text) = item.text().filter(|text| text.starts_with('{')) else {
        return item;
    };
    let place = item.place.clone();
    tree::parse(text, &|_| place.clone()).unwrap_or_else(|error| {
        // The text is not told: a header may be a secret.
        cx.problem(&place, path, "", error.message);
        Node {
            place: place.clone(),
            tree: Tree::Null,
        }
    })
}

/// `None` where it cannot be read, which was told then.
pub(super) fn monitor(
    cx: &mut Cx<'_>,
    path: &str,
    item: &Node,
    base: &Timing,
    source: Source,
    rules: &Rules<'_>,
) -> Option<Monitor> {
    let (spec, timing, name) = match &item.tree {
        Tree::Map(_) => {
            let f = &Fields::open(cx, path, Some(item), keys::MONITOR);
            let timing = Timing::read(cx, f).over(base);
            let name = f.read(cx, "name", read_name);
            (map_spec(cx, f)?, timing, name)
        }
        Tree::Scalar(text) => match text.parse() {
            Ok(spec) => (spec, *base, None),
            Err(ParseError { expected, .. }) => {
                cx.problem(&item.place, path, text, format!("should be {expected}"));
                return None;
            }
        },
        tree => {
            cx.problem(
                &item.place,
                path,
                &shown(tree),
                "should be a monitor such as port:tcp:80",
            );
            return None;
        }
    };
    judge(cx, path, item, &spec, source, rules);
    Some(timing.monitor(spec, name, rules))
}

fn read_name(text: &str) -> Result<String, String> {
    match text.len() <= 100 && !text.contains(crate::text::misleads) {
        true => Ok(text.to_owned()),
        false => Err("should be a name of at most 100 bytes".to_owned()),
    }
}

/// Says what stands against a monitor that can be read.
fn judge(
    cx: &mut Cx<'_>,
    path: &str,
    item: &Node,
    spec: &MonitorSpec,
    source: Source,
    rules: &Rules<'_>,
) {
    let judge = rules
        .policy
        .map(|policy| policy.permit_monitor(source, spec));
    if let Some(Err(refusal)) = judge {
        cx.problem(&item.place, path, spec.kind(), refusal);
    }
}

/// What a map says is checked.
fn map_spec(cx: &mut Cx<'_>, f: &Fields<'_>) -> Option<MonitorSpec> {
    let mut spec = match (f.has("monitor"), f.has("exec")) {
        (true, false) => f.parse::<MonitorSpec>(cx, "monitor")?,
        (false, true) => MonitorSpec::Exec(exec(cx, f)?),
        (true, true) => {
            let message = "stands in place of monitor: write one of them";
            cx.problem(f.place_of("exec"), &f.path("exec"), "", message);
            return None;
        }
        (false, false) => {
            let message =
                "is missing: such as port:tcp:80 (or exec with a program and its arguments)";
            cx.problem(&f.place, &f.path("monitor"), "", message);
            return None;
        }
    };
    let mut taken: &[&str] = &[];
    match &mut spec {
        MonitorSpec::Port { accept_queue, .. } => {
            taken = &["accept_queue"];
            *accept_queue = f
                .parse::<AcceptQueue>(cx, "accept_queue")
                .unwrap_or_default();
        }
        MonitorSpec::Http {
            status,
            contains,
            headers,
            insecure,
            ..
        } => {
            taken = &["status", "contains", "headers", "insecure"];
            *status = statuses(cx, f).unwrap_or_default();
            *contains = f.string(cx, "contains");
            *headers = read_headers(cx, f);
            *insecure = f.boolean(cx, "insecure").unwrap_or(false);
        }
        MonitorSpec::Dns { rcode, .. } => {
            taken = &["rcode"];
            *rcode = f.parse(cx, "rcode");
        }
        _ => {}
    }
    for (key, kind) in OPTIONS {
        if f.has(key) && !taken.contains(key) {
            let message = format!("is only for {kind} monitors");
            cx.problem(f.place_of(key), &f.path(key), "", message);
        }
    }
    Some(spec)
}

const OPTIONS: &[(&str, &str)] = &[
    ("accept_queue", "port"),
    ("status", "http"),
    ("contains", "http"),
    ("headers", "http"),
    ("insecure", "http"),
    ("rcode", "dns"),
];

/// One text for a shell, or a list: a program and its arguments.
fn exec(cx: &mut Cx<'_>, f: &Fields<'_>) -> Option<ExecCommand> {
    let entry = f.entry(cx, "exec")?;
    let command = match &entry.node.tree {
        Tree::List(items) => {
            let word = |item: &Node| match &item.tree {
                Tree::Scalar(text) => Some(text.clone()),
                _ => None,
            };
            let words: Option<Vec<String>> = items.iter().map(word).collect();
            words.and_then(ExecCommand::argv)
        }
        Tree::Scalar(text) => ExecCommand::shell(text),
        Tree::Null | Tree::Map(_) => None,
    };
    if command.is_none() {
        let message = "should be a command, or a list of a program and its arguments";
        cx.problem(&entry.place, &f.path("exec"), "", message);
    }
    command
}

/// One status, several, or ranges of them.
fn statuses(cx: &mut Cx<'_>, f: &Fields<'_>) -> Option<crate::app::StatusRanges> {
    let parts = f.items(cx, "status", Split::Commas)?;
    let texts: Vec<&str> = parts.iter().filter_map(|(_, item)| item.text()).collect();
    match parsed(&texts.join(",")) {
        Ok(status) => Some(status),
        Err(message) => {
            cx.problem(
                f.place_of("status"),
                &f.path("status"),
                &texts.join(","),
                message,
            );
            None
        }
    }
}

/// A map of names and values (RFC 9110 §5). Values may be secret: they are not reported.
fn read_headers(cx: &mut Cx<'_>, f: &Fields<'_>) -> Vec<(String, String)> {
    let Some(entry) = f.entry(cx, "headers") else {
        return Vec::new();
    };
    let path = f.path("headers");
    let Tree::Map(entries) = &entry.node.tree else {
        cx.problem(
            &entry.place,
            &path,
            "",
            "should be a map of names and values",
        );
        return Vec::new();
    };
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let mut headers = Vec::new();
    for header in entries {
        let name = header.key.as_str();
        let value = header.node.text().unwrap_or_default();
        let clean = !value.chars().any(|c| c.is_control() && c != '\t');
        if !name.is_empty() && name.bytes().all(token) && clean {
            headers.push((name.to_owned(), value.to_owned()));
        } else {
            cx.problem(
                &header.place,
                &path,
                name,
                "should be a header's name and a single line",
            );
        }
    }
    headers
}
