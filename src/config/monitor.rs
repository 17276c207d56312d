//! One monitor, as a string or as a map.

use std::time::Duration;

use crate::app::{AcceptQueue, ExecCommand, Monitor, MonitorSpec, Rcode, StatusRanges, Timing};
use crate::schema::kinds::{
    Bool, Check, MASK, Opt, Parsed, Quoted, Text, hold, list, parsed, quoted,
};
use crate::schema::tree::{Node, Place, Tree};
use crate::schema::{At, Context, Fields, Kind, Part, Section, Shape, Split, shown, yaml};
use crate::section;

section! {
    /// The keys of a monitor that is a map.
    pub struct MonitorKeys {
        /// The string form: `port:tcp:80`, `http://127.0.0.1/`…
        monitor: Opt<Quoted<MonitorSpec>>;
        /// In place of `monitor`: a command for a shell, or a list of a program and its arguments.
        exec: Opt<ExecCommand>;
        /// How it is called outside.
        name: Opt<Name>;
        /// In place of the app's.
        timing: Part<Timing>;
        /// What a full accept queue means for a port: `warn`, `fail` or `ignore`.
        accept_queue: Opt<Parsed<AcceptQueue>>;
        /// What is taken from http: `200`, `2xx`, ranges, several; default: 2xx and 3xx.
        status: Opt<StatusRanges>;
        /// What the body from http must hold.
        contains: Opt<Text>;
        /// Sent with http, names and values.
        headers: Headers;
        /// The certificate of https is not verified.
        insecure: Opt<Bool>;
        /// The answer of DNS that passes, in place of NOERROR with an answer.
        rcode: Opt<Parsed<Rcode>>;
    }
}

/// What may be written only for a kind of monitor.
const OPTIONS: &[(&str, &str)] = &[
    ("accept_queue", "port"),
    ("status", "http"),
    ("contains", "http"),
    ("headers", "http"),
    ("insecure", "http"),
    ("rcode", "dns"),
];

/// A monitor as far as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub spec: MonitorSpec,
    pub name: Option<String>,
    timing: Timing,
}

impl Written {
    /// With the app's timing, and the agent's interval, where it has none of its own.
    pub fn monitor(&self, app: &Timing, interval: Duration) -> Monitor {
        let own = &self.timing;
        let interval = own.interval.or(app.interval).unwrap_or(interval);
        let patience = match self.spec {
            MonitorSpec::Exec(_) => interval,
            _ => interval.min(Duration::from_secs(2)),
        };
        Monitor {
            spec: self.spec.clone(),
            name: self.name.clone(),
            interval,
            timeout: own.timeout.or(app.timeout).unwrap_or(patience),
            rise: own.rise.or(app.rise).unwrap_or(1),
            fall: own.fall.or(app.fall).unwrap_or(1),
            fast_interval: own.fast_interval.or(app.fast_interval),
        }
    }
}

impl Kind for Written {
    type Value = Self;
    const SHAPE: Shape = Shape::Either(&Shape::Text, &Shape::Map("monitors"));

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self {
            spec: parsed(text)?,
            name: None,
            timing: Timing::default(),
        })
    }

    fn write(_: &Self) -> Option<String> {
        None
    }

    fn read(cx: &mut Context<'_>, at: &At<'_>) -> Option<Self> {
        let braces = in_braces(cx, at)?;
        let node = braces.as_ref().unwrap_or(&at.node);
        let read = match &node.tree {
            Tree::Map(_) => return from_map(cx, &at.path, node),
            Tree::Scalar(text) => Self::parse(text),
            _ => Err("should be a monitor such as port:tcp:80".to_owned()),
        };
        let told = |message| cx.problem(&at.place, &at.path, &shown(&node.tree), message);
        read.map_err(told).ok()
    }
}

/// A variable may hold maps too: an item in braces is read as one. `None`: it was told why it cannot be.
fn in_braces(cx: &mut Context<'_>, at: &At<'_>) -> Option<Option<Node>> {
    let text = at.node.text().filter(|text| text.starts_with('{'));
    let (Some(text), Place::Env(_)) = (text, &at.place) else {
        return Some(None);
    };
    let node = yaml::parse(text, &|_| at.place.clone());
    // The text is not told: a header may be a secret.
    let told = |error: yaml::YamlError| cx.problem(&at.place, &at.path, "", error.message);
    node.map_err(told).ok().map(Some)
}

fn from_map(cx: &mut Context<'_>, path: &str, node: &Node) -> Option<Written> {
    let f = &Fields::open(cx, path, Some(node), &MonitorKeys::keys());
    let mut keys = MonitorKeys::default();
    keys.read(cx, f);
    let mut spec = match (f.has("monitor"), f.has("exec")) {
        (true, false) => keys.monitor?,
        (false, true) => MonitorSpec::Exec(keys.exec?),
        (true, true) => {
            f.problem(cx, "exec", "stands in place of monitor: write one of them");
            return None;
        }
        (false, false) => {
            let message =
                "is missing: such as port:tcp:80 (or exec with a program and its arguments)";
            cx.problem(&f.place, &f.path("monitor"), "", message);
            return None;
        }
    };
    for (key, kind) in OPTIONS.iter().filter(|(_, kind)| *kind != spec.kind()) {
        if f.has(key) {
            f.problem(cx, key, format!("is only for {kind} monitors"));
        }
    }
    match &mut spec {
        MonitorSpec::Port { accept_queue, .. } => {
            *accept_queue = keys.accept_queue.unwrap_or_default();
        }
        MonitorSpec::Http {
            status,
            contains,
            headers,
            insecure,
            ..
        } => {
            *status = keys.status.unwrap_or_default();
            *contains = keys.contains;
            *headers = keys.headers;
            *insecure = keys.insecure.unwrap_or(false);
        }
        MonitorSpec::Dns { rcode, .. } => *rcode = keys.rcode,
        _ => {}
    }
    Some(Written {
        spec,
        name: keys.name,
        timing: keys.timing,
    })
}

/// All that a monitor says, as keys.
pub(super) fn keys_of(monitor: &Monitor) -> MonitorKeys {
    let mut keys = MonitorKeys {
        name: monitor.name.clone(),
        timing: Timing {
            interval: Some(monitor.interval),
            timeout: Some(monitor.timeout),
            rise: Some(monitor.rise),
            fall: Some(monitor.fall),
            fast_interval: monitor.fast_interval,
        },
        ..MonitorKeys::default()
    };
    match monitor.spec.clone() {
        MonitorSpec::Exec(command @ ExecCommand::Argv(_)) => keys.exec = Some(command),
        spec => keys.monitor = Some(spec),
    }
    match monitor.spec.clone() {
        MonitorSpec::Port { accept_queue, .. } => keys.accept_queue = Some(accept_queue),
        MonitorSpec::Http {
            status,
            contains,
            headers,
            insecure,
            ..
        } => {
            (keys.status, keys.contains) = (Some(status), contains);
            (keys.headers, keys.insecure) = (headers, Some(insecure));
        }
        MonitorSpec::Dns { rcode, .. } => keys.rcode = rcode,
        _ => {}
    }
    keys
}

/// What a monitor may be called.
pub struct Name;

impl Check for Name {
    type Of = Text;

    fn check(name: &String) -> Result<(), String> {
        let fits = name.len() <= 100 && !name.contains(crate::text::misleads);
        hold(fits, "should be a name of at most 100 bytes")
    }
}

/// One text for a shell, or a list: a program and its arguments.
impl Kind for ExecCommand {
    type Value = Self;
    const SHAPE: Shape = Shape::Either(&Shape::Text, &Shape::List(Split::Commas, &Shape::Text));

    fn parse(text: &str) -> Result<Self, String> {
        Self::shell(text).ok_or_else(|| {
            "should be a command, or a list of a program and its arguments".to_owned()
        })
    }

    fn write(command: &Self) -> Option<String> {
        match command {
            Self::Argv(words) => Some(list(words)),
            Self::Shell(text) => Some(quoted(text)),
        }
    }

    fn read(cx: &mut Context<'_>, at: &At<'_>) -> Option<Self> {
        let command = match &at.node.tree {
            Tree::List(items) => {
                let word = |item: &Node| match &item.tree {
                    Tree::Scalar(text) => Some(text.clone()),
                    _ => None,
                };
                let words: Option<Vec<String>> = items.iter().map(word).collect();
                words.and_then(Self::argv)
            }
            _ => at.node.text().and_then(Self::shell),
        };
        if command.is_none() {
            let message = "should be a command, or a list of a program and its arguments";
            cx.problem(&at.place, &at.path, "", message);
        }
        command
    }
}

/// One status, several, or ranges of them.
impl Kind for StatusRanges {
    type Value = Self;
    const SHAPE: Shape = Shape::List(Split::Commas, &Shape::Text);

    fn parse(text: &str) -> Result<Self, String> {
        parsed(text)
    }

    fn write(status: &Self) -> Option<String> {
        Some(quoted(status))
    }

    fn read(cx: &mut Context<'_>, at: &At<'_>) -> Option<Self> {
        let parts = at.items(cx, Split::Commas)?;
        let texts: Vec<&str> = parts.iter().filter_map(|item| item.node.text()).collect();
        let text = texts.join(",");
        let told = |message| cx.problem(&at.place, &at.path, &text, message);
        parsed(&text).map_err(told).ok()
    }
}

/// A map of names and values (RFC 9110 §5). Values may be secret, such as Authorization: they are not told.
pub struct Headers;

impl Kind for Headers {
    type Value = Vec<(String, String)>;
    const SHAPE: Shape = Shape::Texts;

    fn parse(_: &str) -> Result<Self::Value, String> {
        Ok(Vec::new())
    }

    fn write(headers: &Self::Value) -> Option<String> {
        let names = headers
            .iter()
            .map(|(name, _)| format!("{}: {MASK}", quoted(name)));
        let names: Vec<String> = names.collect();
        (!names.is_empty()).then(|| format!("{{{}}}", names.join(", ")))
    }

    fn read(cx: &mut Context<'_>, at: &At<'_>) -> Option<Self::Value> {
        let Tree::Map(entries) = &at.node.tree else {
            cx.problem(
                &at.place,
                &at.path,
                "",
                "should be a map of names and values",
            );
            return None;
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
                let message = "should be a header's name and a single line";
                cx.problem(&header.place, &at.path, name, message);
            }
        }
        Some(headers)
    }
}
