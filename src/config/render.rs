//! The effective configuration as YAML, each value with where it came from. What is printed can be
//! read again; only secrets are masked.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

use super::{Agent, Bfd, Bgp, Consul, Lease, Listen, Loaded, PeerSettings, Place, Secret};
use crate::app::duration::Shown;
use crate::app::{App, Attributes, ExecCommand, Monitor, MonitorSpec, Reaction};

/// What `sidecast check` prints.
pub fn render(loaded: &Loaded) -> String {
    let mut page = Page {
        text: String::new(),
        origins: &loaded.origins,
    };
    agent(&mut page, &loaded.config.agent);
    bgp(&mut page, &loaded.config.bgp);
    if loaded.config.apps.is_empty() {
        page.line(0, "apps", &["apps"], "[]");
    } else {
        page.heading("apps:");
    }
    for (index, one) in loaded.config.apps.iter().enumerate() {
        app(&mut page, index, one);
    }
    page.text
}

struct Page<'l> {
    text: String,
    origins: &'l BTreeMap<String, Place>,
}

impl Page<'_> {
    fn heading(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// One key; the first of `paths` that was written tells the origin.
    fn line(&mut self, indent: usize, key: &str, paths: &[&str], value: impl Display) {
        let written = paths.iter().find_map(|path| self.origins.get(*path));
        let origin = match written {
            Some(Place::File(file, line)) => format!("from {} line {line}", file.escape_debug()),
            Some(Place::Env(name)) => format!("environment {name}"),
            Some(Place::Flag) => "flag".to_owned(),
            Some(Place::Default) | None => "default".to_owned(),
        };
        self.raw(indent, key, value, &origin);
    }

    fn raw(&mut self, indent: usize, key: &str, value: impl Display, comment: &str) {
        let space = " ".repeat(indent);
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "{space}{key}: {value}  # {comment}");
    }
}

/// The keys of one section, which may be written in one place or in another around it.
struct Section<'p, 'l> {
    page: &'p mut Page<'l>,
    indent: usize,
    paths: Vec<String>,
    /// The first line of a list's item bears the dash.
    dash: bool,
}

impl Section<'_, '_> {
    fn key(&mut self, key: &str, value: impl Display) {
        self.alias(key, &[key], value);
    }

    /// A key that may be written under other names.
    fn alias(&mut self, key: &str, names: &[&str], value: impl Display) {
        let all = self
            .paths
            .iter()
            .flat_map(|path| names.iter().map(move |n| format!("{path}.{n}")));
        let all: Vec<String> = all.collect();
        let paths: Vec<&str> = all.iter().map(String::as_str).collect();
        let (indent, key) = match std::mem::take(&mut self.dash) {
            true => (self.indent - 2, format!("- {key}")),
            false => (self.indent, key.to_owned()),
        };
        self.page.line(indent, &key, &paths, value);
    }

    /// A key that the agent has too.
    fn inherited(&mut self, key: &str, value: impl Display) {
        self.paths.push("agent".to_owned());
        self.key(key, value);
        self.paths.pop();
    }

    fn optional<T: Display>(&mut self, key: &str, value: Option<T>) {
        if let Some(value) = value {
            self.key(key, value);
        }
    }

    fn secret(&mut self, key: &str, secret: Option<&Secret>) {
        if secret.is_some() {
            let file = format!("{key}_file");
            self.alias(key, &[key, &file], MASK);
        }
    }
}

/// Stands for a secret of any length.
const MASK: &str = "\"********\"";

fn agent(page: &mut Page<'_>, agent: &Agent) {
    page.heading("agent:");
    let s = &mut Section {
        page,
        indent: 2,
        paths: vec!["agent".to_owned()],
        dash: false,
    };
    s.key("listen_addr", listen(&agent.listen));
    s.key("metrics_addr", listen(&agent.metrics));
    s.key("monitor_interval", Shown(agent.monitor_interval));
    s.key("cleanup_timer", Shown(agent.cleanup_timer));
    s.key("vip_linger", or_off(agent.vip_linger));
    s.key("vip_presence", agent.vip_presence);
    let lease = match agent.vip_lease {
        Lease::Auto => "0".to_owned(),
        Lease::Off => "\"off\"".to_owned(),
        Lease::Fixed(lease) => Shown(lease).to_string(),
    };
    s.key("vip_lease", lease);
    s.key(
        "vip_interface",
        quoted(agent.vip_interface.as_deref().unwrap_or("none")),
    );
    s.key("drain_time", Shown(agent.drain_time));
    s.secret("api_token", agent.api_token.as_ref());
    s.key("api_allow", list(&agent.api_allow));
    s.key("allow_exec", list(&agent.allow_exec));
    s.optional("allowed_vips", agent.allowed_vips.as_ref().map(list));
    s.key("max_http_apps", agent.max_http_apps);
    s.key("max_vips", agent.max_vips);
    s.key("max_drain", Shown(agent.max_drain));
    s.key("max_connections", agent.max_connections);
    s.key("check_threads", agent.check_threads);
    s.optional(
        "state_file",
        agent.state_file.as_ref().map(|p| quoted(p.display())),
    );
    s.optional("instance", agent.instance.as_ref().map(quoted));
    s.optional("user", agent.user.as_ref().map(quoted));
    s.optional("exec_user", agent.exec_user.as_ref().map(quoted));
    s.key("on_change", list(&agent.on_change));
    if let Some(settings) = &agent.consul {
        consul(s, settings);
    }
}

fn consul(s: &mut Section<'_, '_>, consul: &Consul) {
    s.key("consul_addr", quoted(&consul.addr));
    s.key("consul_query_interval", Shown(consul.query_interval));
    s.secret("consul_token", consul.token.as_ref());
    for (key, path) in [
        ("consul_ca_file", &consul.ca_file),
        ("consul_cert_file", &consul.cert_file),
        ("consul_key_file", &consul.key_file),
    ] {
        s.optional(key, path.as_ref().map(|path| quoted(path.display())));
    }
    s.optional("consul_datacenter", consul.datacenter.as_ref().map(quoted));
    s.optional("consul_namespace", consul.namespace.as_ref().map(quoted));
    s.key("consul_match_tag", quoted(&consul.match_tag));
    s.key("consul_grace", Shown(consul.grace.unwrap_or_default()));
    s.key(
        "consul_warning",
        if consul.warning_passes {
            "pass"
        } else {
            "fail"
        },
    );
}

fn bgp(page: &mut Page<'_>, bgp: &Bgp) {
    page.heading("bgp:");
    let s = &mut Section {
        page,
        indent: 2,
        paths: vec!["bgp".to_owned()],
        dash: false,
    };
    s.key("local_as", bgp.local_as);
    s.optional("router_id", bgp.router_id);
    local_ip(s, bgp.local_ip4, bgp.local_ip6);
    attributes(s, "communities", &bgp.attributes);
    s.key("origin", bgp.origin);
    s.optional("listen", bgp.listen.map(quoted));
    if bgp.discover {
        for settings in &bgp.peers {
            s.page.heading("  # peer_ip: the default gateways");
            session(s, settings);
        }
        return;
    }
    page.heading("  peers:");
    for (index, settings) in bgp.peers.iter().enumerate() {
        let s = &mut Section {
            page,
            indent: 6,
            paths: vec![format!("bgp.peers[{index}]"), "bgp".to_owned()],
            dash: true,
        };
        s.key("peer_ip", quoted(&settings.remote));
        session(s, settings);
        s.paths.truncate(1);
        local_ip(s, settings.local_ip4, settings.local_ip6);
        attributes(s, "communities", &settings.attributes);
        s.optional("origin", settings.origin);
    }
}

fn session(s: &mut Section<'_, '_>, peer: &PeerSettings) {
    if let Some(peer_as) = peer.peer_as {
        s.alias("peer_as", &["peer_as", "remote_as"], peer_as);
    }
    s.key("hold_time", format_args!("{}s", peer.hold_time));
    s.key("connect_retry", Shown(peer.connect_retry));
    s.key("port", peer.port);
    s.secret("password", peer.password.as_ref());
    s.optional("multihop", peer.multihop);
    s.optional("ttl_security", peer.ttl_security);
    s.key("families", list(&peer.families));
    s.key("passive", peer.passive);
    s.key(
        "graceful_restart",
        format_args!("{}s", peer.graceful_restart),
    );
    match peer.bfd {
        None => s.key("bfd", false),
        Some(Bfd {
            interval,
            multiplier,
            multihop,
        }) => {
            let interval = Shown(interval);
            let value =
                format!("{{interval: {interval}, multiplier: {multiplier}, multihop: {multihop}}}");
            s.key("bfd", value);
        }
    }
}

fn local_ip<A: Display, B: Display>(s: &mut Section<'_, '_>, ip4: Option<A>, ip6: Option<B>) {
    let all = ip4.iter().map(quoted).chain(ip6.iter().map(quoted));
    let all: Vec<String> = all.collect();
    if !all.is_empty() {
        s.key("local_ip", format_args!("[{}]", all.join(", ")));
    }
}

fn attributes(s: &mut Section<'_, '_>, communities: &str, attributes: &Attributes) {
    for (key, value) in pairs(communities, attributes) {
        s.key(key, value);
    }
}

/// What is set, as keys and values.
fn pairs<'k>(communities: &'k str, a: &Attributes) -> Vec<(&'k str, String)> {
    let number = |n: Option<u32>| n.map(|n| n.to_string());
    let some = |texts: String| (texts != "[]").then_some(texts);
    let all = [
        (communities, some(list(&a.communities))),
        ("large_communities", some(list(&a.large_communities))),
        ("ext_communities", some(list(&a.ext_communities))),
        ("med", number(a.med)),
        ("local_pref", number(a.local_pref)),
        ("as_path_prepend", number(a.as_path_prepend.map(u32::from))),
        ("next_hop", a.next_hop.map(quoted)),
        ("next_hop6", a.next_hop6.map(quoted)),
    ];
    let set = all
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    set.collect()
}

fn app(page: &mut Page<'_>, index: usize, app: &App) {
    let path = format!("apps[{index}]");
    let s = &mut Section {
        page,
        indent: 4,
        paths: vec![path.clone()],
        dash: true,
    };
    s.key("name", quoted(&app.name));
    s.alias("vips", &["vips", "vip"], list(&app.vips));
    if app.monitors.is_empty() {
        s.key("monitors", "[]");
    } else {
        let written = format!("{path}.monitors");
        s.page.heading("    monitors:");
        for one in &app.monitors {
            let (key, rest) = monitor(one);
            s.page.line(
                6,
                &format!("- {{{key}"),
                &[&written],
                format_args!("{rest}}}"),
            );
        }
    }
    s.key("nats", list(&app.nats));
    s.key("start_delay", Shown(app.start_delay));
    s.inherited("drain_time", Shown(app.drain_time));
    s.optional(
        "maintenance_file",
        app.maintenance_file.as_ref().map(|p| quoted(p.display())),
    );
    match app.damping {
        None => s.key("hold_down", "\"off\""),
        Some(damping) => {
            s.key("hold_down", Shown(damping.hold_down));
            let limit = format!("{}/{}", damping.flap_limit, Shown(damping.flap_window));
            s.key("flap_limit", quoted(limit));
        }
    }
    s.inherited("vip_presence", app.vip_presence);
    s.page.heading("    vip_config:");
    let s = &mut Section {
        page,
        indent: 6,
        paths: vec![format!("{path}.vip_config")],
        dash: false,
    };
    attributes(s, "bgp_communities", &app.attributes);
    s.key("when_down", reaction(&app.when_down));
    s.key("when_draining", reaction(&app.when_draining));
}

fn reaction(reaction: &Reaction) -> String {
    match reaction {
        Reaction::Withdraw => "withdraw".to_owned(),
        Reaction::Announce(attributes) => {
            let pairs = pairs("bgp_communities", attributes).into_iter();
            let pairs: Vec<String> = pairs
                .map(|(key, value)| format!("{key}: {value}"))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// A monitor as a map in braces: its first key, and the rest of the line.
fn monitor(monitor: &Monitor) -> (&'static str, String) {
    let (key, mut rest) = match &monitor.spec {
        MonitorSpec::Exec(ExecCommand::Argv(words)) => ("exec", list(words)),
        spec => ("monitor", quoted(spec)),
    };
    let mut add = |key: &str, value: &dyn Display| {
        let _ = write!(rest, ", {key}: {value}");
    };
    if let Some(name) = &monitor.name {
        add("name", &quoted(name));
    }
    add("interval", &Shown(monitor.interval));
    add("timeout", &Shown(monitor.timeout));
    add("rise", &monitor.rise);
    add("fall", &monitor.fall);
    if let Some(fast) = monitor.fast_interval {
        add("fast_interval", &Shown(fast));
    }
    match &monitor.spec {
        MonitorSpec::Port { accept_queue, .. } => add("accept_queue", accept_queue),
        MonitorSpec::Http {
            status,
            contains,
            headers,
            insecure,
            ..
        } => {
            add("status", &quoted(status));
            if let Some(contains) = contains {
                add("contains", &quoted(contains));
            }
            // Such as Authorization: what it holds is nobody's business.
            let names: Vec<String> = headers
                .iter()
                .map(|(n, _)| format!("{}: {MASK}", quoted(n)))
                .collect();
            if !names.is_empty() {
                add("headers", &format_args!("{{{}}}", names.join(", ")));
            }
            add("insecure", insecure);
        }
        MonitorSpec::Dns {
            rcode: Some(rcode), ..
        } => add("rcode", rcode),
        _ => {}
    }
    (key, rest)
}

fn listen(listen: &Listen) -> String {
    if listen.is_off() {
        "\"off\"".to_owned()
    } else {
        list(&listen.addrs)
    }
}

fn or_off(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "\"off\"".to_owned(), |d| Shown(d).to_string())
}

fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(quoted).collect();
    format!("[{}]", values.join(", "))
}

/// In double quotes, as JSON and YAML both read them.
fn quoted(value: impl Display) -> String {
    let text = value.to_string();
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if crate::text::misleads(c) && u32::from(c) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
