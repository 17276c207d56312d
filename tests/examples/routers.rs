//! The router configurations of `examples/router`, each run whole by its daemon with sidecast on the other side.

use sidecast_lab::{
    Bird, Frr, Gobgp, Openbgpd, Service, Sidecast, Site, VIP4, VIP6, attribute, expect, until,
};

use crate::{PATIENCE, read};

pub fn bird_as_the_examples_have_it() {
    let site = Site::new();
    let router = Bird::start(&site.router, &read("router/bird.conf"));
    let host = Host::start(&site);
    site.answered_by("a", PATIENCE);
    takes_whole_hosts_of_the_range_and_ranks_leaving_ones_last(&host, &router, "0");
}

pub fn frr_as_the_examples_have_it() {
    let site = Site::new();
    let router = Frr::start_with_bfd(&site.router, &read("router/frr.conf"), "");
    let host = Host::start(&site);
    site.answered_by("a", PATIENCE);
    takes_whole_hosts_of_the_range_and_ranks_leaving_ones_last(&host, &router, "0");
}

pub fn gobgp_as_the_examples_have_it() {
    let site = Site::new();
    let router = Gobgp::start(&site.router, &read("router/gobgp.toml"));
    let host = Host::start(&site);
    takes_whole_hosts_of_the_range_and_ranks_leaving_ones_last(&host, &router, "1");
}

pub fn openbgpd_as_the_examples_have_it() {
    let site = Site::new();
    let router = Openbgpd::start(&site.router, &read("router/openbgpd.conf"));
    let host = Host::start(&site);
    takes_whole_hosts_of_the_range_and_ranks_leaving_ones_last(&host, &router, "0");
}

/// What a router ranks a route by first: its local preference, where it has the route.
trait Router {
    fn preference(&self, prefix: &str) -> Option<String>;
    /// All that it has, for when something is missing.
    fn table(&self) -> String;
}

fn takes_whole_hosts_of_the_range_and_ranks_leaving_ones_last(
    host: &Host<'_>,
    router: &impl Router,
    last: &str,
) {
    let (four, six) = (format!("{VIP4}/32"), format!("{VIP6}/128"));
    for (prefix, preference) in [
        (four.as_str(), "100"),
        (&six, "100"),
        ("192.0.2.77/32", last),
        ("2001:db8:53::77/128", last),
    ] {
        until(PATIENCE, &format!("{prefix} has {preference}"), || {
            let found = router.preference(prefix);
            let right = found.as_deref() == Some(preference);
            expect(right, format!("{found:?}\n{}", router.table()))
        });
    }
    // What is not there was sent all the same.
    until(PATIENCE, "the rest is acknowledged", || {
        let app = host.sidecast.app(&host.site.a.network, "elsewhere");
        let vips = app["vip_status"].as_array().into_iter().flatten();
        let sent = vips.filter(|vip| vip["routes"][0]["acknowledged"] == true);
        expect(sent.count() == 3, app)
    });
    for prefix in ["192.0.2.96/31", "203.0.113.1/32", "2001:db8:99::1/128"] {
        assert_eq!(router.preference(prefix), None, "{prefix}");
    }
}

/// Sidecast on host A with what the router takes and what it does not.
struct Host<'a> {
    site: &'a Site,
    _services: (Service, Service),
    sidecast: Sidecast,
}

impl<'a> Host<'a> {
    fn start(site: &'a Site) -> Self {
        let leaving = "vip_config: {bgp_communities: [graceful-shutdown]}";
        let more = format!(
            "  - {{name: elsewhere, vips: [203.0.113.1/32, \"2001:db8:99::1/128\", 192.0.2.96/31]}}\n  \
             - {{name: leaving, vips: [192.0.2.77/32, \"2001:db8:53::77/128\"], {leaving}}}\n"
        );
        let config = site.a.config("hold_time: 9s", "") + &more;
        Self {
            site,
            _services: site.a.services(),
            sidecast: Sidecast::start(&site.a.network, &config),
        }
    }
}

impl Router for Bird {
    fn preference(&self, prefix: &str) -> Option<String> {
        attribute(&self.route(prefix)?, "BGP.local_pref")
    }

    fn table(&self) -> String {
        self.ask("show route all")
    }
}

impl Router for Frr {
    fn preference(&self, prefix: &str) -> Option<String> {
        let paths = self.paths(prefix);
        // Shown where it is set: else it is ranked by the default of 100.
        let preference = paths.first()?["locPrf"].as_u64().unwrap_or(100);
        Some(preference.to_string())
    }

    fn table(&self) -> String {
        self.ask("show bgp all")
    }
}

impl Router for Gobgp<'_> {
    fn preference(&self, prefix: &str) -> Option<String> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let table = self.json(&["global", "rib", "-a", family]);
        let path = table.get(prefix)?.as_array()?.first()?;
        // LOCAL_PREF (RFC 4271 §5.1.5) where it is set: else it is ranked by the default of 100.
        let mut attributes = path["attrs"].as_array()?.iter();
        let preference = attributes.find(|attribute| attribute["type"] == 5);
        let preference = preference.and_then(|attribute| attribute["value"].as_u64());
        Some(preference.unwrap_or(100).to_string())
    }

    fn table(&self) -> String {
        let families = ["ipv4", "ipv6"];
        let tables = families.map(|family| self.json(&["global", "rib", "-a", family]));
        format!("{tables:?}")
    }
}

impl Router for Openbgpd {
    fn preference(&self, prefix: &str) -> Option<String> {
        let table = self.json("show rib");
        let mut routes = table["rib"].as_array()?.iter();
        let route = routes.find(|route| route["prefix"] == prefix)?;
        Some(route["localpref"].to_string())
    }

    fn table(&self) -> String {
        self.json("show rib").to_string() + &self.json("show neighbor").to_string()
    }
}
