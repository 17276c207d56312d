//! Services that announce themselves: a real Consul agent, the real sidecast, and BIRD as the router
//! whose kernel table tells what is announced. Where a real Consul cannot be made to give an answer, a
//! small server gives it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sidecast_lab::{Bird, Consul, Routes, Sidecast, Site, expect, until};

sidecast_lab::tests! {
    needs ["consul", "bird", "birdc", "ip"]:
        tags_and_checks_decide_what_is_announced;
}

/// Register, checks, tags, maintenance, deregister: each acts within a second.
fn tags_and_checks_decide_what_is_announced() {
    let town = Town::new(&json!({}));
    let sidecast = town.sidecast("");
    let web = [
        "enable_gocast",
        "gocast_vip=192.0.2.1/32",
        "gocast_monitor=consul",
    ];
    town.consul()
        .register(town.host(), "web", "web-1", &web, "critical");
    town.state(&sidecast, "web", "down");
    town.check("pass", "web-1");
    town.routed("192.0.2.1");
    for verb in ["fail", "warn"] {
        town.check(verb, "web-1");
        town.unrouted("192.0.2.1");
        town.check("pass", "web-1");
        town.routed("192.0.2.1");
    }
    for path in ["service/maintenance/web-1", "maintenance"] {
        let put = |on: bool| {
            let path = format!("/v1/agent/{path}?enable={on}");
            town.consul().put(town.host(), &path, &Value::Null);
        };
        put(true);
        town.unrouted("192.0.2.1");
        put(false);
        town.routed("192.0.2.1");
    }
    // A tag is edited: what both definitions have in common never goes away.
    let vips = Routes::listen(&town.site.router);
    let more = [
        &web[..],
        &["gocast_vip=192.0.2.2/32", "gocast_vip_communities=65001:7"],
    ]
    .concat();
    town.consul()
        .register(town.host(), "web", "web-1", &more, "passing");
    town.routed("192.0.2.2");
    until(SOON, "the community arrives", || {
        let route = town.router.route("192.0.2.1/32").unwrap_or_default();
        expect(route.contains("(65001,7)"), route)
    });
    drop(vips);
    town.consul()
        .register(town.host(), "web", "web-1", &web, "passing");
    town.unrouted("192.0.2.2");
    town.routed("192.0.2.1");
    town.consul().deregister(town.host(), "web-1");
    town.unrouted("192.0.2.1");
    until(SOON, "the app is forgotten", || {
        let reply = sidecast.get(town.host(), "/apps/web");
        expect(reply.status == 404, reply.body)
    });
}

/// A site with a router, a host with Consul on it, and what is asked of both.
struct Town {
    consul: Option<Consul>,
    router: Bird,
    site: Site,
}

impl Town {
    #[track_caller]
    fn new(consul: &Value) -> Self {
        let site = Site::new();
        let router = Bird::router(&site.router, &[site.a.session("a")]);
        let consul = Some(Consul::start(&site.a.network, consul));
        Self {
            consul,
            router,
            site,
        }
    }

    fn host(&self) -> &sidecast_lab::Namespace {
        &self.site.a.network
    }

    fn consul(&self) -> &Consul {
        self.consul.as_ref().expect("this test has one")
    }

    #[track_caller]
    fn check(&self, verb: &str, id: &str) {
        self.consul().check(self.host(), verb, id);
    }

    /// A sidecast that discovers by the agent on its host; `agent` are further lines of that section.
    #[track_caller]
    fn sidecast(&self, agent: &str) -> Sidecast {
        let mut sidecast = self.launch(&self.config(agent), &[("CONSUL_NODE", Consul::NODE)]);
        sidecast.wait_for_api(self.host());
        sidecast
    }

    fn launch(&self, config: &str, env: &[(&str, &str)]) -> Sidecast {
        let path = Sidecast::write(self.host(), config);
        Sidecast::launch(
            self.host(),
            &["run", "--config", &path.to_string_lossy()],
            env,
        )
    }

    fn config(&self, agent: &str) -> String {
        let addr = if agent.contains("consul_addr") {
            String::new()
        } else {
            "  consul_addr: http://127.0.0.1:8500\n".to_owned()
        };
        let lines: String = agent.lines().map(|line| format!("  {line}\n")).collect();
        format!(
            "agent:\n  monitor_interval: 1s\n{addr}{lines}bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}}}\n",
            self.site.a.addresses.router4
        )
    }

    #[track_caller]
    fn state(&self, sidecast: &Sidecast, app: &str, state: &str) -> Value {
        until(SOON, &format!("{app} is {state}"), || {
            let reply = sidecast.get(self.host(), &format!("/apps/{app}"));
            let json = if reply.status == 200 {
                reply.json()
            } else {
                Value::Null
            };
            expect(json["state"] == state, &reply.body).map(|()| json)
        })
    }

    fn is_routed(&self, addr: &str) -> bool {
        self.site.router.gateway(addr).is_some()
    }

    /// Waits until the router's kernel sends packets for `addr` to the host.
    #[track_caller]
    fn routed(&self, addr: &str) -> Duration {
        self.until_routed(addr, true)
    }

    #[track_caller]
    fn unrouted(&self, addr: &str) -> Duration {
        self.until_routed(addr, false)
    }

    #[track_caller]
    fn until_routed(&self, addr: &str, wanted: bool) -> Duration {
        let begun = Instant::now();
        let what = format!("{addr} is {}routed", if wanted { "" } else { "no longer " });
        until(SOON, &what, || {
            expect(self.is_routed(addr) == wanted, self.router.session("a"))
        });
        begun.elapsed()
    }
}

/// Far more than a change may take: labs run on machines that have other things to do.
const SOON: Duration = Duration::from_secs(15);
