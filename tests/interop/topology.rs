//! A router and hosts, each host on a cable of its own and with VIPs of its own.
//!
//! ```text
//! router h1 ---- eth0 host 1
//!        h2 ---- eth0 host 2   …
//! ```

use std::net::IpAddr;

use sidecast_lab::{Lab, Namespace};

pub struct Topology {
    pub router: Namespace,
    pub nodes: Vec<Node>,
    /// Last, so that the folder outlives what is written into it.
    lab: Lab,
}

pub struct Node {
    pub network: Namespace,
    pub number: usize,
}

impl Topology {
    pub fn new(nodes: usize) -> Self {
        let topology = Self::unnumbered(nodes);
        for node in &topology.nodes {
            let device = node.device();
            let network = &node.network;
            network.ip(&format!("addr add {}/24 dev eth0", node.host4()));
            network.ip(&format!("addr add {}/64 dev eth0", node.host6()));
            let router = &topology.router;
            router.ip(&format!("addr add {}/24 dev {device}", node.router4()));
            router.ip(&format!("addr add {}/64 dev {device}", node.router6()));
        }
        topology
    }

    /// Cables with nothing but link-local addresses on them.
    pub fn unnumbered(nodes: usize) -> Self {
        let lab = Lab::new();
        let router = lab.namespace("router");
        router.forward();
        let node = |number| {
            let network = lab.namespace(&format!("host{number}"));
            let node = Node { network, number };
            let device = node.device();
            lab.cable((&node.network, "eth0", &[]), (&router, &device, &[]));
            node
        };
        let nodes = (1..=nodes).map(node).collect();
        Self { router, nodes, lab }
    }

    /// Another router, 10.0.9.1 and 2001:db8:9::1, on a second cable of the first node (`.2`).
    pub fn second_router(&self) -> Namespace {
        let (router, node) = (self.lab.namespace("router2"), &self.node().network);
        router.forward();
        self.lab.cable((node, "eth1", &[]), (&router, "h1", &[]));
        for (network, device, end) in [(node, "eth1", 2), (&router, "h1", 1)] {
            network.ip(&format!("addr add 10.0.9.{end}/24 dev {device}"));
            network.ip(&format!("addr add 2001:db8:9::{end}/64 dev {device}"));
        }
        router
    }

    /// The only one.
    pub fn node(&self) -> &Node {
        &self.nodes[0]
    }
}

impl Node {
    /// The router's interface toward it.
    pub fn device(&self) -> String {
        format!("h{}", self.number)
    }

    pub fn router4(&self) -> String {
        format!("10.0.{}.1", self.number)
    }

    pub fn host4(&self) -> String {
        format!("10.0.{}.2", self.number)
    }

    pub fn router6(&self) -> String {
        format!("2001:db8:{}::1", self.number)
    }

    pub fn host6(&self) -> String {
        format!("2001:db8:{}::2", self.number)
    }

    pub fn vip4(&self) -> String {
        format!("192.0.2.{}/32", self.number)
    }

    pub fn vip6(&self) -> String {
        format!("2001:db8:53::{}/128", self.number)
    }

    /// `apps:` with both VIPs, and nothing that could fail.
    pub fn apps(&self, options: &str) -> String {
        let (vip4, vip6) = (self.vip4(), self.vip6());
        format!("apps: [{{name: dns, vips: [{vip4}, \"{vip6}\"]{options}}}]\n")
    }

    /// A sidecast with one eBGP session over IPv4; `options` are further keys of the peer.
    pub fn config(&self, options: &str) -> String {
        format!(
            "bgp: {{local_as: 65001, peer_as: 65000, peer_ip: {}{options}}}\n{}",
            self.router4(),
            self.apps("")
        )
    }

    /// The link-local address of an interface.
    pub fn link_local(network: &Namespace, device: &str) -> Option<IpAddr> {
        let links = network.ip_json(&format!("-6 addr show dev {device} scope link"));
        let info = links[0]["addr_info"].as_array()?.first()?.clone();
        info["local"].as_str()?.parse().ok()
    }
}
