//! The effective configuration as YAML, each value with where it came from. What is printed can be
//! read again; only secrets are masked.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Loaded, Place, monitor};
use crate::app::App;
use crate::schema::kinds::{list, quoted};
use crate::schema::{Line, Section, braces};

/// What `sidecast check` prints.
pub fn render(loaded: &Loaded) -> String {
    let mut page = Page {
        text: String::new(),
        origins: &loaded.origins,
    };
    let config = &loaded.config;
    page.heading("agent:");
    page.lines(2, &["agent"], config.agent.lines());
    page.lines(
        2,
        &["agent"],
        config.agent.consul.iter().flat_map(Section::lines),
    );
    page.heading("bgp:");
    page.lines(2, &["bgp"], config.bgp.lines());
    if config.bgp.discover {
        page.heading("  # peer_ip: the default gateways");
        page.lines(
            2,
            &["bgp"],
            config.bgp.peers.iter().flat_map(Section::lines),
        );
    } else {
        page.heading("  peers:");
    }
    for (index, peer) in config
        .bgp
        .peers
        .iter()
        .enumerate()
        .filter(|_| !config.bgp.discover)
    {
        let path = format!("bgp.peers[{index}]");
        let paths = [format!("{path}.peer_ip"), "bgp.peer_ip".to_owned()];
        page.line(4, "- peer_ip", &paths, &quoted(&peer.remote));
        page.lines(6, &[&path, "bgp"], peer.lines());
    }
    if config.apps.is_empty() {
        page.line(0, "apps", &["apps".to_owned()], "[]");
    } else {
        page.heading("apps:");
    }
    page.apps(&config.apps);
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
    fn line(&mut self, indent: usize, key: &str, paths: &[String], value: &str) {
        let origin = match paths.iter().find_map(|path| self.origins.get(path)) {
            Some(Place::File(file, line)) => format!("from {} line {line}", file.escape_debug()),
            Some(Place::Env(name)) => format!("environment {name}"),
            Some(Place::Flag) => "flag".to_owned(),
            Some(Place::Default) | None => "default".to_owned(),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "{:indent$}{key}: {value}  # {origin}", "");
    }

    /// The keys of a section, which may be written in one place or in another around it.
    fn lines(&mut self, indent: usize, sections: &[&str], lines: impl IntoIterator<Item = Line>) {
        for Line { key, text } in lines {
            let names = |path: &&str| {
                let path = (*path).to_owned();
                key.names_in(&path)
                    .map(move |name| format!("{path}.{name}"))
            };
            let paths: Vec<String> = sections.iter().flat_map(names).collect();
            let name = key.name_in(sections.first().unwrap_or(&""));
            self.line(indent, name, &paths, &text);
        }
    }

    fn apps(&mut self, apps: &[App]) {
        for (index, app) in apps.iter().enumerate() {
            self.app(&format!("apps[{index}]"), app);
        }
    }

    fn app(&mut self, path: &str, app: &App) {
        let at = |name: &str| format!("{path}.{name}");
        self.line(2, "- name", &[at("name")], &quoted(&app.name));
        self.line(4, "vips", &[at("vips"), at("vip")], &list(&app.vips));
        if app.monitors.is_empty() {
            self.line(4, "monitors", &[at("monitors")], "[]");
        } else {
            self.heading("    monitors:");
        }
        for one in &app.monitors {
            let map = braces(&monitor::lines(one), "monitors");
            let (key, rest) = map.split_once(": ").unwrap_or((&map, ""));
            self.line(6, &format!("- {key}"), &[at("monitors")], rest);
        }
        self.line(4, "nats", &[at("nats")], &list(&app.nats));
        let mut options = app.options.lines();
        // Without damping its limit says nothing.
        options.retain(|line| line.key.name != "flap_limit" || app.options.damping().is_some());
        self.lines(4, &[path, "agent"], options);
        self.heading("    vip_config:");
        self.lines(6, &[&at("vip_config")], app.vip_config().lines());
    }
}
