//! The address of the Kubernetes control plane: the static pod's environment, a TLS server in the API server's
//! place, and a router.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_yaml::Value;
use sidecast_lab::{
    Bird, Change, Child, Namespace, Routes, Sidecast, Site, expect, request, until,
};

sidecast_lab::tests! {
    needs ["bird", "birdc", "ip", "python3", "openssl", "curl"]:
        the_static_pod_follows_the_api_server,
        the_api_servers_certificate_is_verified_where_its_authority_is_named;
}

fn the_static_pod_follows_the_api_server() {
    let site = Site::new();
    let host = &site.a.network;
    let pod = Pod::read();
    let _router = Bird::router(&site.router, &[site.a.session("node")]);
    let api = ApiServer::new(host);
    // As kubeadm's: without 127.0.0.1.
    api.certify("authority1", "IP:10.0.1.2,IP:192.0.2.6");
    let mut sidecast = Sidecast::launch(host, &[], &pod.env());
    until(PATIENCE, "it runs without an API server", || {
        sidecast.must_run();
        let state = pod.app(host)?["state"].clone();
        expect(state == "down", state)
    });
    assert_eq!(site.router.gateway(&pod.vip), None);
    assert_eq!(host.addresses("lo"), [""; 0]);
    let mut server = api.start(host);
    // It listens, and is not ready.
    until(PATIENCE, "the check says so", || {
        let app = pod.app(host)?;
        expect(
            app["why"]
                .as_str()
                .is_some_and(|why| why.contains("status 500")),
            app,
        )
    });
    assert_eq!(site.router.gateway(&pod.vip), None);
    api.set_ready(true);
    pod.announced(&site);
    let routes = Routes::listen(&site.router);
    let vip: IpAddr = pod.vip.parse().expect("an address");
    for authority in ["authority1", "authority2"] {
        api.certify(authority, "IP:10.0.1.2,IP:192.0.2.6");
        pod.checked(host);
    }
    assert_eq!(routes.seen(vip), [], "renewed in place, and withdrawn");
    pod.announced(&site);
    let mut deaths = Vec::new();
    for not_ready in [false, false, false, true] {
        let since = Instant::now();
        match not_ready {
            true => api.set_ready(false),
            false => server.kill(),
        }
        let what = if not_ready {
            "not ready any more"
        } else {
            "death of the API server"
        };
        let gone = routes
            .wait(Change::Removed, vip, PATIENCE)
            .duration_since(since);
        println!("    {what} to the route's end in the router's kernel: {gone:.1?}");
        // Two checks a second apart, how long the first is away, and what a busy machine needs.
        assert!(gone < Duration::from_secs(15), "{what}: {gone:?}");
        until(PATIENCE, "the address leaves lo", || {
            let vips = host.addresses("lo");
            expect(vips.is_empty(), format!("{vips:?}"))
        });
        if !not_ready {
            deaths.push(gone);
            server = api.start(host);
            pod.announced(&site);
        }
    }
    // By the kernel's report. What a busy machine does besides shows in all but the best.
    let best = deaths.iter().min();
    assert!(best < Some(&Duration::from_secs(1)), "{deaths:?}");
    sidecast.must_run();
}

fn the_api_servers_certificate_is_verified_where_its_authority_is_named() {
    let site = Site::new();
    let host = &site.a.network;
    let pod = Pod::read();
    let _router = Bird::router(&site.router, &[site.a.session("node")]);
    let api = ApiServer::new(host);
    let san = "IP:127.0.0.1,IP:192.0.2.6";
    api.certify("authority1", san);
    api.set_ready(true);
    let trusted = host.dir().join("ca.crt");
    fs::copy(api.dir.join("authority1.crt"), &trusted).expect("a copy");
    let trusted_path = trusted.display().to_string();
    let mut env = pod.env();
    env.retain(|(name, _)| *name != "SIDECAST_APP_MONITORS");
    env.push(("SIDECAST_APP_MONITORS", "https://127.0.0.1:6443/readyz"));
    env.push(("SSL_CERT_FILE", &trusted_path));
    let _server = api.start(host);
    let _sidecast = Sidecast::launch(host, &[], &env);
    pod.announced(&site);
    let routes = Routes::listen(&site.router);
    let vip: IpAddr = pod.vip.parse().expect("an address");
    api.certify("authority1", san);
    pod.checked(host);
    assert_eq!(routes.seen(vip), [], "renewed in place, and withdrawn");
    // Of an authority that nobody named.
    api.certify("authority2", san);
    routes.wait(Change::Removed, vip, PATIENCE);
    let why = pod.app(host).expect("an app")["why"].to_string();
    assert!(why.contains("certificate"), "{why}");
    // The authority's file is renewed in place too.
    fs::copy(api.dir.join("authority2.crt"), &trusted).expect("a copy");
    pod.announced(&site);
}

/// The example, as the kubelet reads it.
struct Pod {
    variables: Vec<(String, String)>,
    /// Without its length.
    vip: String,
}

impl Pod {
    #[track_caller]
    fn read() -> Self {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes/control-plane.yaml");
        let text = fs::read_to_string(file).expect("the example");
        let pod: Value = serde_yaml::from_str(&text).expect("YAML");
        let list = pod["spec"]["containers"][0]["env"]
            .as_sequence()
            .expect("variables");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let variables: Vec<(String, String)> = list
            .iter()
            .map(|entry| (text(&entry["name"]), text(&entry["value"])))
            .collect();
        let vip = variables
            .iter()
            .find(|(name, _)| name == "SIDECAST_APP_VIP");
        let vip = vip
            .and_then(|(_, vip)| vip.strip_suffix("/32"))
            .expect("a VIP");
        Self {
            vip: vip.to_owned(),
            variables,
        }
    }

    fn env(&self) -> Vec<(&str, &str)> {
        let variables = self.variables.iter();
        variables
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    /// What its API says of the app.
    fn app(&self, host: &Namespace) -> Result<serde_json::Value, String> {
        let api = self
            .variables
            .iter()
            .find(|(name, _)| name == "SIDECAST_AGENT_LISTEN_ADDR");
        let api = api.expect("an address").1.parse().expect("an address");
        let reply = request(host, api, "GET", "/apps/apiserver", "");
        Ok(reply.map_err(|error| error.to_string())?.json())
    }

    /// Waits until the router has the route, and a client beyond it gets the API server's answer.
    #[track_caller]
    fn announced(&self, site: &Site) {
        until(PATIENCE, "the router has the route", || {
            let gateway = site.router.gateway(&self.vip);
            let right = gateway.as_deref() == Some(site.a.addresses.host4);
            expect(right, format!("{:?}", self.app(&site.a.network)))
        });
        let url = format!("https://{}:6443/readyz", self.vip);
        until(PATIENCE, "a client is answered", || {
            let ask = || Command::new("curl").args(["-skm2", &url]).output();
            let output = site.client.enter(ask).map_err(|error| error.to_string())?;
            let body = String::from_utf8_lossy(&output.stdout).into_owned();
            expect(body == "ok", body)
        });
        assert_eq!(site.a.network.addresses("lo"), [format!("{}/32", self.vip)]);
    }

    /// Waits until the API server was asked three more times, with what it now presents.
    #[track_caller]
    fn checked(&self, host: &Namespace) {
        let before = asked(host);
        until(PATIENCE, "it is asked again", || {
            expect(asked(host) >= before + 3, format!("{:?}", self.app(host)))
        });
    }
}

/// How often the server was asked from the host itself.
fn asked(host: &Namespace) -> usize {
    let log = fs::read_to_string(host.dir().join("apiserver.log")).unwrap_or_default();
    log.lines()
        .filter(|line| line.starts_with("127.0.0.1 "))
        .count()
}

/// A TLS server that reads its certificate for each connection, as kube-apiserver follows its file.
struct ApiServer {
    dir: PathBuf,
}

impl ApiServer {
    fn new(host: &Namespace) -> Self {
        let dir = host.dir().join("pki");
        fs::create_dir(&dir).expect("a folder");
        Self { dir }
    }

    fn set_ready(&self, ready: bool) {
        let path = self.dir.join("ready");
        match ready {
            true => fs::write(path, "").expect("a file"),
            false => fs::remove_file(path).expect("it was there"),
        }
    }

    /// A new key and certificate in the place of the ones before, signed by an authority, which is made when it is
    /// first named.
    #[track_caller]
    fn certify(&self, authority: &str, san: &str) {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let (ca, ca_key) = (
            path(&format!("{authority}.crt")),
            path(&format!("{authority}.key")),
        );
        if !Path::new(&ca).exists() {
            let subject = format!("/CN={authority}");
            certificate(&[
                "-days",
                "2",
                "-subj",
                &subject,
                "-keyout",
                &ca_key,
                "-out",
                &ca,
                "-addext",
                "keyUsage=critical,keyCertSign,digitalSignature",
            ]);
        }
        let new = path("new.pem");
        let (key, cert) = (path("new.key"), path("new.crt"));
        let san = format!("subjectAltName={san}");
        certificate(&[
            "-days",
            "1",
            "-subj",
            "/CN=kube-apiserver",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-addext",
            &san,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            &key,
            "-out",
            &cert,
        ]);
        let both = [&key, &cert].map(|file| fs::read_to_string(file).expect("it was made"));
        fs::write(&new, both.concat()).expect("a file");
        fs::rename(&new, path("server.pem")).expect("renewed");
    }

    fn start(&self, host: &Namespace) -> Child {
        let (cert, ready) = (self.dir.join("server.pem"), self.dir.join("ready"));
        let (cert, ready) = (cert.display().to_string(), ready.display().to_string());
        Child::start(
            host,
            "apiserver",
            "python3",
            &["-uc", SERVER, &cert, &ready],
            &[],
        )
    }
}

/// Makes a key and its certificate.
#[track_caller]
fn certificate(args: &[&str]) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(args)
        .output()
        .expect("openssl runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
}

/// Answers each request like /readyz.
const SERVER: &str = r#"
import os, socket, ssl, sys, threading
def serve(connection, client):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    try:
        with context.wrap_socket(connection, server_side=True) as stream:
            stream.recv(4096)
            print(client[0], "asks")
            status, body = ("200 OK", "ok") if os.path.exists(sys.argv[2]) else ("500 Not Ready", "[-]etcd failed")
            stream.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
    except OSError as error:
        print(error)
listener = socket.create_server(("", 6443))
while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
"#;

const PATIENCE: Duration = Duration::from_secs(20);
