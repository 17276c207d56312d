//! The section `apps`: one app, whoever registers it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use super::agent::warn_long_drain;
use super::bgp::attributes;
use super::fields::{Cx, Fields, Split, parsed, read_duration, shown};
use super::policy::{Policy, check_size};
use super::problem::Problem;
use super::tree::{Node, Place, Tree};
use super::{Agent, Config, keys, monitor};
use crate::app::{
    App, AppDefaults, AppName, Attributes, Damping, Monitor, NatSpec, Protocol, Reaction, Source,
    Vip, VipError,
};

/// What an app is read with.
pub(super) struct Rules<'p> {
    pub defaults: AppDefaults,
    /// `None`: whoever takes the app judges it.
    pub policy: Option<&'p Policy>,
}

/// Every app of the file, then the one of the environment.
pub(super) fn apps(
    cx: &mut Cx<'_>,
    list: Option<&Node>,
    env: Option<&Node>,
    agent: &Agent,
    policy: &Policy,
) -> Vec<App> {
    let rules = &Rules {
        defaults: agent.app_defaults(),
        policy: Some(policy),
    };
    let mut nodes: Vec<(Source, &Node)> = Vec::new();
    match list.map(|list| (list, &list.tree)) {
        Some((_, Tree::List(items))) => nodes.extend(items.iter().map(|i| (Source::Config, i))),
        Some((list, tree)) if !list.is_unset() => {
            cx.problem(
                &list.place,
                "apps",
                &shown(tree),
                "should be a list of apps",
            );
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
        let line = |key: &str| node.entry(key).map_or(&node.place, |entry| &entry.place);
        if !names.insert(app.name.clone()) {
            let value = app.name.to_string();
            cx.problem(
                line("name"),
                &format!("{path}.name"),
                &value,
                "is the name of two apps",
            );
        }
        for vip in &app.vips {
            let Some(holder) = holders.insert(*vip, app.name.clone()) else {
                continue;
            };
            let key = if node.entry("vip").is_some() {
                "vip"
            } else {
                "vips"
            };
            let message = format!("is the VIP of two apps, {holder} and {}", app.name);
            cx.problem(
                line(key),
                &format!("{path}.{key}"),
                &vip.to_string(),
                message,
            );
        }
        if let Err(refusal) = check_size(&app) {
            cx.problem(line("name"), &path, app.name.as_str(), refusal);
        }
        apps.push(app);
    }
    if holders.len() > policy.max_vips {
        let message = format!(
            "have {} VIPs in all, agent.max_vips allows {}",
            holders.len(),
            policy.max_vips
        );
        let place = list.map_or(&Place::Default, |list| &list.place);
        cx.problem(place, "apps", "", message);
    }
    warn_unchecked(cx, &apps);
    apps
}

/// As in GoCast, but said.
fn warn_unchecked(cx: &mut Cx<'_>, apps: &[App]) {
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
    let mut cx = Cx {
        problems: Vec::new(),
        warnings: Vec::new(),
        origins: BTreeMap::new(),
        read_file: &mut nothing,
    };
    let rules = Rules {
        defaults: config.agent.app_defaults(),
        policy: None,
    };
    let app = app(&mut cx, "", node, source, &rules);
    (app, cx.problems)
}

/// One app; `None` where name or VIP cannot be read, which was told then.
fn app(cx: &mut Cx<'_>, path: &str, node: &Node, source: Source, rules: &Rules<'_>) -> Option<App> {
    let f = &Fields::open(cx, path, Some(node), keys::APP);
    let name: Option<AppName> = f.parse(cx, "name");
    if !f.has("name") {
        let message = match &f.place {
            Place::Env(_) => "is missing: SIDECAST_APP_NAME says what it is called",
            _ => "is missing",
        };
        cx.problem(&f.place.clone(), &f.path("name"), "", message);
    }
    let vips = vips(cx, f, source, rules);
    let monitors = monitors(cx, f, source, rules);
    let nats = nats(cx, f);
    let drain_time = f.duration(cx, "drain_time");
    warn_long_drain(cx, f, drain_time);
    let (own, when_down, when_draining) = vip_config(cx, f);
    let app = App {
        name: name?,
        source,
        vips: vips?,
        monitors,
        nats,
        attributes: own,
        when_down,
        when_draining,
        start_delay: f.duration(cx, "start_delay").unwrap_or_default(),
        drain_time: drain_time.unwrap_or(rules.defaults.drain_time),
        damping: damping(cx, f),
        maintenance_file: f.path_buf(cx, "maintenance_file"),
        vip_presence: f
            .parse(cx, "vip_presence")
            .unwrap_or(rules.defaults.vip_presence),
        instance_id: None,
    };
    Some(app)
}

fn vips(
    cx: &mut Cx<'_>,
    f: &Fields<'_>,
    source: Source,
    rules: &Rules<'_>,
) -> Option<BTreeSet<Vip>> {
    let mut vips = BTreeSet::new();
    let mut complete = true;
    for key in ["vip", "vips"] {
        for (path, item) in f.items(cx, key, Split::Commas).unwrap_or_default() {
            match vip(cx, &path, &item, source, rules) {
                Some(vip) => {
                    vips.insert(vip);
                }
                None => complete = false,
            }
        }
    }
    if vips.is_empty() && complete {
        let message = match &f.place {
            Place::Env(_) => {
                "is missing: SIDECAST_APP_VIP holds an address with its length, such as 192.0.2.53/32"
            }
            _ => "is missing: an address with its length, such as 192.0.2.53/32",
        };
        cx.problem(f.place_of("vip"), &f.path("vip"), "", message);
        return None;
    }
    (!vips.is_empty()).then_some(vips)
}

fn vip(cx: &mut Cx<'_>, path: &str, item: &Node, source: Source, rules: &Rules<'_>) -> Option<Vip> {
    let text = shown(&item.tree);
    match Vip::parse(&text) {
        Ok((vip, masked)) => {
            if masked {
                let message =
                    format!("{path}: {text} has bits behind its length, {vip} is announced");
                cx.warn(&item.place, message);
            }
            let judge = rules.policy.map(|policy| policy.permit_vip(source, vip));
            if let Some(Err(refusal)) = judge {
                cx.problem(&item.place, path, &text, refusal);
            }
            Some(vip)
        }
        Err(error) => {
            let message = match error {
                VipError::Syntax(error) => format!("should be {}", error.expected),
                VipError::NoMask(addr) => {
                    let host = crate::net::Prefix::host(addr);
                    format!("should be an address with its length: write {host}")
                }
                VipError::Never { what, .. } => format!("can be no VIP: {what}"),
            };
            cx.problem(&item.place, path, &text, message);
            None
        }
    }
}

fn monitors(
    cx: &mut Cx<'_>,
    f: &Fields<'_>,
    source: Source,
    rules: &Rules<'_>,
) -> BTreeSet<Monitor> {
    let timing = monitor::Timing::read(cx, f);
    let mut monitors = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (path, item) in f
        .items(cx, "monitors", Split::Semicolons)
        .unwrap_or_default()
    {
        let item = monitor::in_braces(cx, &path, item);
        let Some(monitor) = monitor::monitor(cx, &path, &item, &timing, source, rules) else {
            continue;
        };
        if let Some(name) = monitor
            .name
            .as_ref()
            .filter(|name| !names.insert((*name).clone()))
        {
            cx.problem(
                &item.place,
                &format!("{path}.name"),
                name,
                "is the name of two monitors",
            );
        }
        monitors.insert(monitor);
    }
    monitors
}

fn nats(cx: &mut Cx<'_>, f: &Fields<'_>) -> BTreeSet<NatSpec> {
    let mut nats: BTreeMap<(Protocol, u16), NatSpec> = BTreeMap::new();
    for (path, item) in f.items(cx, "nats", Split::Semicolons).unwrap_or_default() {
        let text = shown(&item.tree);
        match parsed::<NatSpec>(&text) {
            Ok(nat) => {
                let other = nats.insert((nat.protocol, nat.listen), nat);
                if other.is_some_and(|other| other != nat) {
                    cx.problem(
                        &item.place,
                        &path,
                        &text,
                        "sends a port to a second destination",
                    );
                }
            }
            Err(message) => cx.problem(&item.place, &path, &text, message),
        }
    }
    nats.into_values().collect()
}

fn damping(cx: &mut Cx<'_>, f: &Fields<'_>) -> Option<Damping> {
    let default = Damping::default();
    let hold_down = f.read(cx, "hold_down", |text| match text {
        "off" => Ok(Duration::ZERO),
        _ => match read_duration(text).map_err(|e| format!("{e}, or off"))? {
            long if long > Damping::LONGEST => Err("should be at most 1m".to_owned()),
            hold_down => Ok(hold_down),
        },
    });
    let limit = f.read(cx, "flap_limit", |text| {
        let error = || "should be a number and a duration such as 5/60s".to_owned();
        let (limit, window) = text.split_once('/').ok_or_else(error)?;
        let limit = crate::net::decimal::<u32>(limit).ok_or_else(error)?;
        let window = read_duration(window)?;
        match limit == 0 || window.is_zero() {
            true => Err(error()),
            false => Ok((limit, window)),
        }
    });
    let hold_down = hold_down.unwrap_or(default.hold_down);
    let (flap_limit, flap_window) = limit.unwrap_or((default.flap_limit, default.flap_window));
    (!hold_down.is_zero()).then_some(Damping {
        hold_down,
        flap_limit,
        flap_window,
    })
}

fn vip_config(cx: &mut Cx<'_>, f: &Fields<'_>) -> (Attributes, Reaction, Reaction) {
    let entry = f.entry(cx, "vip_config");
    let node = entry.map(|entry| &entry.node);
    let f = &Fields::open(cx, &f.path("vip_config"), node, &keys::vip_config());
    let own = attributes(cx, f, "bgp_communities");
    (
        own,
        reaction(cx, f, "when_down"),
        reaction(cx, f, "when_draining"),
    )
}

fn reaction(cx: &mut Cx<'_>, f: &Fields<'_>, key: &str) -> Reaction {
    let Some(entry) = f.entry(cx, key) else {
        return Reaction::Withdraw;
    };
    let path = f.path(key);
    match &entry.node.tree {
        Tree::Map(_) => {
            let f = &Fields::open(cx, &path, Some(&entry.node), keys::REACTION);
            Reaction::Announce(attributes(cx, f, "bgp_communities"))
        }
        Tree::Scalar(text) if text == "withdraw" => Reaction::Withdraw,
        tree => {
            let message = "should be withdraw, or a map such as {med: 1000}";
            cx.problem(&entry.place, &path, &shown(tree), message);
            Reaction::Withdraw
        }
    }
}
