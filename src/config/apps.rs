//! The section `apps`: one app, from any source.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Agent;
use super::agent::warn_long_drain;
use super::monitor::MonitorEntry;
use super::policy::{Policy, Refusal, check_size};
use crate::app::{
    App, AppName, AppOptions, Monitor, NatSpec, Source, Timing, Vip, VipConfig, VipError,
};
use crate::net::PeerName;
use crate::schema::kinds::{ItemList, ListItem, Opt, Parsed, Quoted, quoted, read_text};
use crate::schema::tree::{Node, Place, Tree};
use crate::schema::{
    Context, Custom, ENV, EVERYWHERE, FILE, Fields, Flatten, HTTP, Key, Kind, Section, Shape,
    ValueAt, shown,
};
use crate::section;

section! {
    /// An app as written.
    pub struct AppSpec {
        /// The app's name.
        name: Opt<Quoted<AppName>>, required = true, scope = FILE | ENV | HTTP;
        /// Its addresses with their lengths: `192.0.2.53/32`, `2001:db8::53/128`; host bits are masked with a warning.
        vip: ItemList<Vip, false>, required = true, aliases = &["vips"], params = &["vip", "vips"], scope = EVERYWHERE;
        /// Checks that all have to pass; none: always healthy, with a warning.
        monitors: ItemList<MonitorEntry, true>, params = &["monitor"], scope = EVERYWHERE;
        /// `protocol:listenPort:destinationPort`, or `protocol:port`: the VIP's port goes to that port of the session's
        /// local address, for received and locally generated packets.
        nats: ItemList<Parsed<NatSpec>, true>, params = &["nat"], scope = EVERYWHERE;
        /// Of all its monitors.
        timing: Flatten<Timing>;
        /// What else it may set.
        options: Flatten<AppOptions>;
        /// Path attributes of its routes.
        vip_config: Custom<VipConfig>, shape = Shape::Map("vip_config"), scope = FILE;
    }
}

/// Defaults and policy for reading apps.
pub(super) struct Rules<'p> {
    /// Values of keys that are not set.
    defaults: AppSpec,
    keys: Vec<&'static Key>,
    interval: Duration,
    /// `None`: the policy is applied by the caller.
    policy: Option<&'p Policy>,
}

impl<'p> Rules<'p> {
    /// The agent's defaults, and the policy to apply.
    pub fn new(agent: &Agent, policy: Option<&'p Policy>) -> Self {
        let options = AppOptions {
            drain_time: agent.drain_time,
            drain_wait: agent.drain_wait,
            vip_presence: agent.vip_presence,
            path_proof: agent.path_proof,
            ..AppOptions::default()
        };
        Self {
            defaults: AppSpec {
                options,
                vip_config: VipConfig {
                    when_down: agent.when_down.clone(),
                    ..VipConfig::default()
                },
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

/// Such apps are always announced, as in GoCast, with a warning.
fn warn_unchecked(cx: &mut Context<'_>, apps: &[App]) {
    let unchecked = apps.iter().filter(|app| app.monitors.is_empty());
    let names: Vec<&str> = unchecked.map(|app| app.name.as_str()).collect();
    if !names.is_empty() {
        let message = format!("no monitors, so always announced: {}", names.join(", "));
        cx.warn(&Place::Default, message);
    }
}

/// One app; `None` if name or VIP cannot be read, which was reported.
pub(super) fn app(
    cx: &mut Context<'_>,
    path: &str,
    node: &Node,
    source: Source,
    rules: &Rules<'_>,
) -> Option<App> {
    let f = &Fields::open(cx, path, Some(node), &rules.keys);
    let mut spec = rules.defaults.clone();
    spec.read(cx, f);
    if let Some(at) = f.at(cx, "vip_config") {
        spec.vip_config = at.section(cx, spec.vip_config.clone()).unwrap_or_default();
    }
    if !f.has("name") {
        let message = match &f.place {
            Place::Env(_) => "is missing: SIDECAST_APP_NAME says what it is called",
            _ => "is missing",
        };
        cx.problem(&f.place, &f.path("name"), "", message);
    }
    let vips = vips(cx, f, &spec.vip, source, rules);
    let monitors = monitors(cx, &spec, source, rules);
    peers(cx, f, &spec.options.peers, rules);
    warn_long_drain(cx, f, spec.options.drain_time);
    let nats = nats(cx, &spec.nats);
    Some(App {
        name: spec.name?,
        source,
        vips: vips?.into(),
        monitors: monitors.into(),
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
    found: &[ListItem<Vip>],
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

fn peers(cx: &mut Context<'_>, f: &Fields<'_>, named: &[PeerName], rules: &Rules<'_>) {
    for peer in named {
        let judge = rules.policy.map(|policy| policy.permit_peer(peer));
        if let Some(Err(refusal)) = judge {
            f.problem(cx, "peers", format!("{peer}: {refusal}"));
        }
    }
}

fn refuse<T>(
    cx: &mut Context<'_>,
    item: &ListItem<T>,
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

fn nats(cx: &mut Context<'_>, found: &[ListItem<NatSpec>]) -> BTreeSet<NatSpec> {
    let mut nats: BTreeSet<NatSpec> = BTreeSet::new();
    for item in found {
        let Some(nat) = item.value else { continue };
        let listens =
            |other: &NatSpec| (other.protocol, other.listen) == (nat.protocol, nat.listen);
        let is_second = nats.iter().any(|other| listens(other) && *other != nat);
        nats.insert(nat);
        if is_second {
            let message = "maps a port to a second destination";
            cx.problem(&item.place, &item.path, &item.text, message);
        }
    }
    nats
}

impl Kind for Vip {
    type Value = Self;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: VipError| error.to_string())
    }

    fn write(vip: &Self) -> Option<String> {
        Some(quoted(vip))
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self> {
        let vip = read_text(cx, at, <Self as Kind>::parse)?;
        let text = at.node.text()?;
        if let Ok((_, true)) = Self::parse(text) {
            let message = format!("{}: {text} has host bits set, {vip} is announced", at.path);
            cx.warn(&at.place, message);
        }
        Some(vip)
    }
}
