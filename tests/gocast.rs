//! Drop-in: GoCast's own command line, file and HTTP calls, and its answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use sidecast_lab::{
    Bird, BirdSession, Lab, Namespace, Reply, Service, Sidecast, Transport, attribute, expect, get,
    request, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip"]:
        the_shipped_example_runs_as_it_is,
        register_and_unregister_answer_as_gocast,
        info_has_the_keys_of_gobgp,
        bad_requests_get_a_reason_and_hurt_nobody;
}

fn the_shipped_example_runs_as_it_is() {
    let rack = Rack::new();
    let vip = "1.1.1.1/32";
    until(PATIENCE, "the app's route arrives", || {
        rack.router.route(vip).ok_or_else(|| rack.sidecast.log())
    });
    let route = rack.router.route(vip).expect("it just was there");
    let of = |name| attribute(&route, name).unwrap_or_default();
    assert_eq!(of("BGP.as_path"), "12345", "{route}");
    assert_eq!(of("BGP.origin"), "IGP", "{route}");
    assert_eq!(of("BGP.next_hop"), "10.10.10.2", "{route}");
    for community in ["(12345,100)", "(12345,200)", "(12345,300)"] {
        assert!(of("BGP.community").contains(community), "{route}");
    }
    // GoCast's label tells an operator whose address it is.
    let lo = rack.host.ip("addr show dev lo");
    let line = lo.lines().find(|line| line.contains(vip));
    assert!(line.is_some_and(|line| line.contains("lo:app1")), "{lo}");
}

fn register_and_unregister_answer_as_gocast() {
    let rack = Rack::new();
    for method in ["GET", "POST", "PUT"] {
        let reply = rack.call(
            method,
            "/register?name=web&vip=203.0.113.7/32&monitor=port:tcp:5000&vip_communities=1:2,3:4",
        );
        assert_eq!((reply.status, &*reply.body), (200, ""), "{reply:?}");
    }
    let route = until(PATIENCE, "the registered route arrives", || {
        rack.router.route("203.0.113.7/32").ok_or("no route")
    });
    let communities = attribute(&route, "BGP.community").unwrap_or_default();
    for community in ["(12345,100)", "(12345,200)", "(1,2)", "(3,4)"] {
        assert!(communities.contains(community), "{route}");
    }
    for name in ["web", "nobody-knows-me"] {
        let reply = rack.call("GET", &format!("/unregister?name={name}"));
        assert_eq!((reply.status, &*reply.body), (200, ""), "{reply:?}");
    }
    until(PATIENCE, "the route goes", || {
        expect(rack.router.route("203.0.113.7/32").is_none(), "still there")
    });
    // The app of the file is untouched.
    assert!(
        rack.router.route("1.1.1.1/32").is_some(),
        "another app's route"
    );
}

fn info_has_the_keys_of_gobgp() {
    let rack = Rack::new();
    let info = until(PATIENCE, "the session is up", || {
        let info = rack.call("GET", "/info").json();
        if info["state"]["session_state"] == 6 {
            Ok(info)
        } else {
            Err(info)
        }
    });
    assert_eq!(info["conf"]["neighbor_address"], "10.10.10.1", "{info}");
    assert_eq!(info["conf"]["peer_as"], 6789, "{info}");
    assert_eq!(info["conf"]["local_as"], 12345, "{info}");
    assert_eq!(info["state"]["peer_as"], 6789, "{info}");
    assert_eq!(info["state"]["router_id"], "10.255.0.1", "{info}");
    assert!(info["state"]["messages"].is_object(), "{info}");
    assert!(info["afi_safis"].is_array(), "{info}");
    let uptime = &info["timers"]["state"]["uptime"]["seconds"];
    assert!(uptime.is_number() || uptime.is_string(), "{info}");
}

/// Where GoCast panics, closes the connection, or takes nonsense with a 200.
fn bad_requests_get_a_reason_and_hurt_nobody() {
    let rack = Rack::new();
    until(PATIENCE, "the app's route arrives", || {
        rack.router.route("1.1.1.1/32").ok_or("no route")
    });
    let good = "name=x&vip=203.0.113.8/32";
    let bad = [
        ("/register", "name"),
        ("/register?name=x", "vip"),
        ("/register?vip=203.0.113.8/32", "Invalid app name"),
        ("/register?name=x&vip=", "vip"),
        (
            "/register?name=x&vip=203.0.113.8",
            "Invalid VIP specified, need ip/mask",
        ),
        (
            "/register?name=x&vip=nonsense/32",
            "Invalid VIP specified, need ip/mask",
        ),
        (&format!("/register?{good}&monitor="), "monitor"),
        (
            &format!("/register?{good}&monitor=port:tcp"),
            "Invalid port monitor, must specify proto:port",
        ),
        (&format!("/register?{good}&monitor=port:tcp:70000"), "70000"),
        (&format!("/register?{good}&monitor=sctp:1"), "sctp"),
        (&format!("/register?{good}&nat=tcp:1:2:3:4"), "nat"),
        (&format!("/register?{good}&nat=tcp:0"), "nat"),
        (
            &format!("/register?{good}&vip_communities=65000:70000"),
            "70000",
        ),
        (&format!("/register?{good}&vip_communities=bogus"), "bogus"),
        ("/register?name=x&vip=0.0.0.0/0", "0.0.0.0/0"),
        ("/register?name=x&vip=127.0.0.1/32", "127.0.0.1"),
        ("/register?name=x&vip=10.10.10.1/32", "10.10.10.1"),
        ("/unregister", "Invalid request, need app name specified"),
        (
            "/unregister?name=",
            "Invalid request, need app name specified",
        ),
    ];
    let mut wrong = Vec::new();
    for (path, reason) in bad {
        let reply = rack.call("GET", path);
        let body = reply.body.to_lowercase();
        if reply.status != 400 || !body.contains(&reason.to_lowercase()) {
            wrong.push(format!(
                "{path}: {} {:?}, wanted {reason:?}",
                reply.status, reply.body
            ));
        }
    }
    // A command over HTTP needs a policy; an address in use belongs to whoever has it.
    for (path, status) in [
        (format!("/register?{good}&monitor=exec:true"), 403),
        ("/register?name=x&vip=1.1.1.1/32".to_owned(), 409),
        ("/no-such-page".to_owned(), 404),
    ] {
        let reply = rack.call("GET", &path);
        if reply.status != status || reply.body.is_empty() {
            wrong.push(format!(
                "{path}: {} {:?}, wanted {status}",
                reply.status, reply.body
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        rack.router.route("1.1.1.1/32").is_some(),
        "the good app's route"
    );
    assert!(
        rack.router.route("203.0.113.8/32").is_none(),
        "a refused app's route"
    );
}

/// A host at `10.10.10.2` and a router at `10.10.10.1`, as the example's addresses want.
struct Rack {
    sidecast: Sidecast,
    router: Bird,
    _service: Service,
    host: Namespace,
    _lab: Lab,
}

impl Rack {
    /// Everything running, started by GoCast's own command line.
    #[track_caller]
    fn new() -> Self {
        let lab = Lab::new();
        let (host, top) = (lab.namespace("host"), lab.namespace("router"));
        lab.cable(
            (&host, "eth0", &["10.10.10.2/24"]),
            (&top, "h0", &["10.10.10.1/24"]),
        );
        host.ip("route add default via 10.10.10.1");
        let session = BirdSession {
            name: "host",
            local: Ipv4Addr::new(10, 10, 10, 1).into(),
            neighbor: Ipv4Addr::new(10, 10, 10, 2).into(),
            local_as: 6789,
            peer_as: 12345,
            preference: 100,
            options: "",
        };
        let router = Bird::router(&top, &[session]);
        let service = Service::start(&host, Transport::Tcp, 5000);
        let config = Sidecast::write(&host, EXAMPLE);
        let args = [
            "-config",
            &config.to_string_lossy(),
            "-logtostderr=true",
            "-v=2",
        ];
        let mut sidecast = Sidecast::launch(&host, &args, &[]);
        until(PATIENCE, "the API answers", || {
            sidecast.must_run();
            get(&host, api(), "/info")
        });
        Self {
            sidecast,
            router,
            _service: service,
            host,
            _lab: lab,
        }
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str) -> Reply {
        request(&self.host, api(), method, path, "")
            .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.sidecast.log()))
    }
}

/// `:8080`, as the example says.
fn api() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))
}

/// The keys and values of the file GoCast ships, with numbers where it has placeholders. Its Consul is
/// not there, and it says `remote_as`, which GoCast ignores.
const EXAMPLE: &str = "
agent:
  # http server listen addr
  listen_addr: :8080
  # Interval for health check
  monitor_interval: 10s
  # Time to flush out inactive apps
  cleanup_timer: 15m
  # Consul api addr for dynamic discovery
  consul_addr: https://consul
  # interval to query consul for app discovery
  consul_query_interval: 5m
  consul_token: 00000000-0000-0000-0000-000000000000

bgp:
  local_as: 12345
  remote_as: 6789
  # override the peer IP to use instead of auto discovering
  peer_ip: 10.10.10.1
  communities:
    - 12345:100
    - 12345:200
  origin: igp

# optional list of apps to register on startup
apps:
  - name: app1
    vip: 1.1.1.1/32
    vip_config:
      # additional per VIP BGP communities
      bgp_communities: [ 12345:300 ]
    monitors:
      - port:tcp:5000
";

/// How long the lab may need to come up.
const PATIENCE: Duration = Duration::from_secs(20);
