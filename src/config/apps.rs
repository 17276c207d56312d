//! The section `apps`: one app, whoever registers it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::agent::warn_long_drain;
use super::monitor::Written;
use super::policy::{Policy, Refusal, check_size};
use super::{Agent, Config, tables};
use crate::app::{
    App, AppName, AppOptions, Monitor, NatSpec, Protocol, Source, Timing, Vip, VipConfig, VipError,
};
use crate::schema::kinds::{Each, Found, Opt, Parsed, Quoted, quoted, read_text};
use crate::schema::tree::{Node, Place, Tree};
use crate::schema::{
    At, Context, ENV, EVERYWHERE, FILE, Fields, HTTP, Key, Kind, Part, Problem, Section, shown,
};
use crate::section;

section! {
    /// An app as it is written.
    pub struct AppSpec {
        /// How it is called.
        name: Opt<Quoted<AppName>>, required = true, scope = FILE | ENV | HTTP;
        /// Its addresses with their lengths: `192.0.2.53/32`, `2001:db8::53/128`.
        vip: Each<Vip, false>, required = true, aliases = &["vips"], params = &["vip", "vips"], scope = EVERYWHERE;
        /// Checks that all have to pass; none: always healthy.
        monitors: Each<Written, true>, params = &["monitor"], scope = EVERYWHERE;
        /// `protocol:listenPort:destinationPort`, or `protocol:port`.
        nats: Each<Parsed<NatSpec>, true>, params = &["nat"], scope = EVERYWHERE;
        /// For all of its monitors.
        timing: Part<Timing>;
        /// What else it may set.
        options: Part<AppOptions>;
        /// How its routes look.
        vip_config: VipConfig, scope = FILE;
    }
}

/// What an app is read with.
pub(super) struct Rules<'p> {
    /// What it gets where it says nothing.
    defaults: AppSpec,
    keys: Vec<&'static Key>,
    interval: Duration,
    /// `None`: whoever takes the app judges it.
    policy: Option<&'p Policy>,
}

impl<'p> Rules<'p> {
    pub fn new(agent: &Agent, policy: Option<&'p Policy>) -> Self {
        let options = AppOptions {
            drain_time: agent.drain_time,
            vip_presence: agent.vip_presence,
            ..AppOptions::default()
        };
        Self {
            defaults: AppSpec {
                options,
                ..AppSpec::default()
            },
            keys: AppSpec::keys(),
            interval: agent.monitor_interval,
            policy,
        }
    }
}

/// Every app of the file, then the one of the environment.
pub(super) fn apps(
    cx: &mut Context<'_>,
    list: Option<&Node>,
    env: Option<&Node>,
    agent: &Agent,
    policy: &Policy,
) -> Vec<App> {
    let rules = &Rules::new(agent, Some(policy));
    let mut nodes: Vec<(Source, &Node)> = Vec::new();
    match list.map(|list| (list, &list.tree)) {
        Some((_, Tree::List(items))) => nodes.extend(items.iter().map(|i| (Source::Config, i))),
        Some((list, tree)) if !list.is_unset() => {
            let message = "should be a list of apps";
            cx.problem(&list.place, "apps", &shown(tree), message);
        }
        _ => {}
    }
    nodes.extend(env.map(|node| (Source::Env, node)));
    let mut apps: Vec<App> = Vec::new();
    let mut holders: BTreeMap<Vip, AppName> = BTreeMap::new();
    let mut names: BTreeSet<AppName> = BTreeSet::new();
    for (index, (source, node)) in nodes.into_iter().enumerate() {
        let path = format!("apps[{index}]");
        let Some(app) = app(cx, &path, node, source, rules) else {
            continue;
        };
        let mut taken = |key: &str, value: &str, message: String| {
            let place = node.entry(key).map_or(&node.place, |entry| &entry.place);
            cx.problem(place, &format!("{path}.{key}"), value, message);
        };
        if !names.insert(app.name.clone()) {
            taken(
                "name",
                app.name.as_str(),
                "is the name of two apps".to_owned(),
            );
        }
        for vip in &app.vips {
            if let Some(holder) = holders.insert(*vip, app.name.clone()) {
                let key = node.entry("vip").map_or("vips", |_| "vip");
                let message = format!("is the VIP of two apps, {holder} and {}", app.name);
                taken(key, &vip.to_string(), message);
            }
        }
        if let Err(refusal) = check_size(&app) {
            let place = node.entry("name").map_or(&node.place, |entry| &entry.place);
            cx.problem(place, &path, app.name.as_str(), refusal);
        }
        apps.push(app);
    }
    if holders.len() > policy.max_vips {
        let (all, most) = (holders.len(), policy.max_vips);
        let message = format!("have {all} VIPs in all, agent.max_vips allows {most}");
        let place = list.map_or(&Place::Default, |list| &list.place);
        cx.problem(place, "apps", "", message);
    }
    warn_unchecked(cx, &apps);
    apps
}

/// As in GoCast, but said.
fn warn_unchecked(cx: &mut Context<'_>, apps: &[App]) {
    let unchecked = apps.iter().filter(|app| app.monitors.is_empty());
    let names: Vec<&str> = unchecked.map(|app| app.name.as_str()).collect();
    if !names.is_empty() {
        let message = format!("no monitors, so always announced: {}", names.join(", "));
        cx.warn(&Place::Default, message);
    }
}

/// An app that stands in no file, and what is wrong with its form. It names no other file to read.
pub(super) fn lone_app(
    node: &Node,
    source: Source,
    config: &Config,
) -> (Option<App>, Vec<Problem>) {
    let mut nothing = |_: &Path| Err(io::ErrorKind::Unsupported.into());
    let mut cx = Context::new(tables::TABLES, &mut nothing);
    let rules = Rules::new(&config.agent, None);
    let app = app(&mut cx, "", node, source, &rules);
    (app, cx.problems)
}

/// One app; `None` where name or VIP cannot be read, which was told then.
fn app(
    cx: &mut Context<'_>,
    path: &str,
    node: &Node,
    source: Source,
    rules: &Rules<'_>,
) -> Option<App> {
    let f = &Fields::open(cx, path, Some(node), &rules.keys);
    let mut spec = rules.defaults.clone();
    spec.read(cx, f);
    if !f.has("name") {
        let message = match &f.place {
            Place::Env(_) => "is missing: SIDECAST_APP_NAME says what it is called",
            _ => "is missing",
        };
        cx.problem(&f.place, &f.path("name"), "", message);
    }
    let vips = vips(cx, f, &spec.vip, source, rules);
    let monitors = monitors(cx, &spec, source, rules);
    warn_long_drain(cx, f, spec.options.drain_time);
    let nats = nats(cx, &spec.nats);
    Some(App {
        name: spec.name?,
        source,
        vips: vips?,
        monitors,
        nats,
        attributes: spec.vip_config.attributes,
        when_down: spec.vip_config.when_down,
        when_draining: spec.vip_config.when_draining,
        options: spec.options,
        instance_id: None,
    })
}

fn vips(
    cx: &mut Context<'_>,
    f: &Fields<'_>,
    found: &[Found<Vip>],
    source: Source,
    rules: &Rules<'_>,
) -> Option<BTreeSet<Vip>> {
    if found.is_empty() {
        let message = match &f.place {
            Place::Env(_) => {
                "is missing: SIDECAST_APP_VIP holds an address with its length, such as 192.0.2.53/32"
            }
            _ => "is missing: an address with its length, such as 192.0.2.53/32",
        };
        f.problem(cx, "vip", message);
    }
    let mut vips = BTreeSet::new();
    for item in found {
        let Some(vip) = item.value else { continue };
        let judge = rules.policy.map(|policy| policy.permit_vip(source, vip));
        refuse(cx, item, &item.text, judge);
        vips.insert(vip);
    }
    (!vips.is_empty()).then_some(vips)
}

fn refuse<T>(
    cx: &mut Context<'_>,
    item: &Found<T>,
    value: &str,
    judge: Option<Result<(), Refusal>>,
) {
    if let Some(Err(refusal)) = judge {
        cx.problem(&item.place, &item.path, value, refusal);
    }
}

fn monitors(
    cx: &mut Context<'_>,
    spec: &AppSpec,
    source: Source,
    rules: &Rules<'_>,
) -> BTreeSet<Monitor> {
    let mut monitors = BTreeSet::new();
    let mut names = BTreeSet::new();
    for item in &spec.monitors {
        let Some(written) = &item.value else { continue };
        let policy = rules.policy;
        let judge = policy.map(|policy| policy.permit_monitor(source, &written.spec));
        refuse(cx, item, written.spec.kind(), judge);
        if let Some(name) = &written.name
            && !names.insert(name)
        {
            let path = format!("{}.name", item.path);
            cx.problem(&item.place, &path, name, "is the name of two monitors");
        }
        monitors.insert(written.monitor(&spec.timing, rules.interval));
    }
    monitors
}

fn nats(cx: &mut Context<'_>, found: &[Found<NatSpec>]) -> BTreeSet<NatSpec> {
    let mut nats: BTreeMap<(Protocol, u16), NatSpec> = BTreeMap::new();
    for item in found {
        let Some(nat) = item.value else { continue };
        let other = nats.insert((nat.protocol, nat.listen), nat);
        if other.is_some_and(|other| other != nat) {
            let message = "sends a port to a second destination";
            cx.problem(&item.place, &item.path, &item.text, message);
        }
    }
    nats.into_values().collect()
}

impl Kind for Vip {
    type Value = Self;

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
            .map(|(vip, _)| vip)
            .map_err(|error| match error {
                VipError::Syntax(error) => format!("should be {}", error.expected),
                VipError::NoMask(addr) => {
                    let host = crate::net::Prefix::host(addr);
                    format!("should be an address with its length: write {host}")
                }
                VipError::Never { what, .. } => format!("can be no VIP: {what}"),
            })
    }

    fn write(vip: &Self) -> Option<String> {
        Some(quoted(vip))
    }

    fn read(cx: &mut Context<'_>, at: &At<'_>) -> Option<Self> {
        let vip = read_text(cx, at, <Self as Kind>::parse)?;
        let text = at.node.text()?;
        if let Ok((_, true)) = Self::parse(text) {
            let message = format!(
                "{}: {text} has bits behind its length, {vip} is announced",
                at.path
            );
            cx.warn(&at.place, message);
        }
        Some(vip)
    }
}
