//! What `examples/` prints works as printed: configurations and environments pass `sidecast check`, router
//! snippets run with sidecast on the other side, the pod topology carries packets, the programs run.

mod published;
mod routers;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use published::{
    cloud_init_passes_its_schema, kubernetes_objects_pass_the_schema,
    the_kustomization_makes_both_objects_with_the_image_as_named, the_nomad_job_is_understood,
    the_pod_monitor_finds_the_sidecars, the_unit_passes_systemds_judgment,
    the_units_filter_lets_through_what_it_calls,
};
use routers::{
    bird_as_the_examples_have_it, frr_as_the_examples_have_it, gobgp_as_the_examples_have_it,
    openbgpd_as_the_examples_have_it,
};
use serde::Deserialize;
use serde_yaml::Value;
use sidecast_lab::{
    Bird, Child, Lab, Namespace, Service, Sidecast, Site, Transport, VIP4, ask_tcp, attribute,
    binary, expect, until,
};

sidecast_lab::tests! {
    needs ["ip"]:
        configurations_pass_the_check,
        environments_pass_the_check,
        the_static_pod_needs_nothing_of_the_api_server,
        kubernetes_objects_have_what_they_rely_on,
        the_pod_monitor_finds_the_sidecars;
    needs ["kubectl"]:
        the_kustomization_makes_both_objects_with_the_image_as_named;
    needs ["kubernetes-validate"]:
        kubernetes_objects_pass_the_schema;
    needs ["cloud-config.json", "kubernetes-validate"]:
        cloud_init_passes_its_schema;
    needs ["hcl2tojson", "ip"]:
        the_nomad_job_is_understood;
    needs ["systemd-analyze"]:
        the_unit_passes_systemds_judgment;
    needs ["systemd-analyze", "strace", "bird", "birdc", "ip"]:
        the_units_filter_lets_through_what_it_calls;
    needs ["bird", "birdc", "ip"]:
        bird_as_the_examples_have_it,
        two_pods_behind_a_speaker_on_the_node,
        the_program_speaks_to_a_router;
    needs ["bgpd", "zebra", "bfdd", "vtysh", "ip"]:
        frr_as_the_examples_have_it;
    needs ["gobgpd", "gobgp", "ip"]:
        gobgp_as_the_examples_have_it;
    needs ["bgpctl", "ip"]:
        openbgpd_as_the_examples_have_it;
}

fn configurations_pass_the_check() {
    for file in [
        "systemd/config.yaml",
        "gocast/before.yaml",
        "gocast/after.yaml",
        "local-speaker/sidecast.yaml",
    ] {
        let text = read(file);
        check(file, &text, &BTreeMap::new());
    }
    let cloud: Value = serde_yaml::from_str(&read("vm/cloud-init.yaml")).expect("YAML");
    let files = cloud["write_files"].as_sequence().expect("a list");
    let config = files
        .iter()
        .find(|file| file["path"] == "/etc/sidecast/config.yaml")
        .expect("the configuration");
    let text = config["content"].as_str().expect("text");
    check("vm/cloud-init.yaml", text, &BTreeMap::new());
}

fn environments_pass_the_check() {
    let mut compose: Value = serde_yaml::from_str(&read("compose/compose.yaml")).expect("YAML");
    compose.apply_merge().expect("merges");
    for name in ["dns-sidecar", "syslog-sidecar"] {
        let mut service = compose["services"][name].clone();
        service.apply_merge().expect("merges");
        assert_eq!(service["cap_drop"][0], "ALL");
        let networked = service["network_mode"].as_str().unwrap_or_default();
        let shared = networked
            .strip_prefix("service:")
            .expect("a shared network");
        assert!(
            compose["services"][shared]["networks"].is_mapping(),
            "{name}: {shared}"
        );
        let mut env = service["environment"].clone();
        env.apply_merge().expect("merges");
        let env = env.as_mapping().expect("variables").iter();
        let env = env.map(|(name, value)| (text(name), text(value))).collect();
        check(&format!("compose: {name}"), "", &env);
    }
    for (file, container) in sidecars() {
        check(&file, "", &variables(&container));
    }
    let (pod, container) = static_pod();
    assert_eq!(pod["spec"]["hostNetwork"], true);
    check("static pod", "", &variables(&container));
    let cloud: Value = serde_yaml::from_str(&read("vm/control-plane.yaml")).expect("YAML");
    let files = cloud["write_files"].as_sequence().expect("a list").iter();
    let env = { files }.find(|file| file["path"] == "/etc/sidecast/apiserver.env");
    let env = env.expect("variables")["content"].as_str().expect("text");
    let env = env.lines().map(|line| {
        let (name, value) = line.split_once('=').expect("a variable");
        // As systemd reads the file.
        (name.to_owned(), value.trim_matches('\'').to_owned())
    });
    check("vm/control-plane.yaml", "", &env.collect());
}

/// A static pod refers to nothing that the API server would have to hand out (the kubelet refuses that).
fn the_static_pod_needs_nothing_of_the_api_server() {
    let (pod, container) = static_pod();
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(
        container["securityContext"]["capabilities"]["add"][0],
        "NET_ADMIN"
    );
    assert_eq!(container["securityContext"]["runAsUser"], 0);
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    let text = read("kubernetes/control-plane.yaml");
    for of_the_server in [
        "secret:",
        "configMap:",
        "secretKeyRef",
        "configMapKeyRef",
        "serviceAccountName",
    ] {
        assert!(!text.contains(of_the_server), "{of_the_server}");
    }
}

/// The pod of the control plane, and its one container.
fn static_pod() -> (Value, Value) {
    let pod: Value = serde_yaml::from_str(&read("kubernetes/control-plane.yaml")).expect("YAML");
    assert_eq!(pod["kind"], "Pod");
    let containers = pod["spec"]["containers"].as_sequence().expect("containers");
    assert_eq!(containers.len(), 1);
    let container = containers[0].clone();
    (pod, container)
}

fn kubernetes_objects_have_what_they_rely_on() {
    for (file, sidecar) in sidecars() {
        assert_eq!(
            sidecar["restartPolicy"], "Always",
            "{file}: a native sidecar"
        );
        let security = &sidecar["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true, "{file}");
        assert_eq!(security["capabilities"]["drop"][0], "ALL", "{file}");
        assert_eq!(security["capabilities"]["add"][0], "NET_ADMIN", "{file}");
        // Without escalation only root gets the capability.
        assert_eq!(security["allowPrivilegeEscalation"], false, "{file}");
        assert_eq!(security["runAsUser"], 0, "{file}");
        let drain = &sidecar["lifecycle"]["preStop"]["exec"]["command"];
        assert_eq!(
            (&drain[0], &drain[1]),
            (&"/sidecast".into(), &"drain".into()),
            "{file}"
        );
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert!(sidecar[probe].is_mapping(), "{file}: {probe}");
        }
    }
}

/// ```text
/// client ---- router (BIRD) ---- node (BIRD, as in topologies.md) ---- pod1, pod2 with one address
/// ```
fn two_pods_behind_a_speaker_on_the_node() {
    let lab = Lab::new();
    let [client, router, node, pod1, pod2] =
        ["client", "router", "node", "pod1", "pod2"].map(|name| lab.namespace(name));
    lab.cable(
        (&client, "eth0", &["10.0.9.2/24"]),
        (&router, "c0", &["10.0.9.1/24"]),
    );
    lab.cable(
        (&node, "eth0", &["10.0.1.2/24"]),
        (&router, "n0", &["10.0.1.1/24"]),
    );
    lab.cable(
        (&pod1, "eth0", &["10.244.1.2/24"]),
        (&node, "p1", &["10.244.1.1/24"]),
    );
    lab.cable(
        (&pod2, "eth0", &["10.244.2.2/24"]),
        (&node, "p2", &["10.244.2.1/24"]),
    );
    for (network, gateway) in [
        (&client, "10.0.9.1"),
        (&node, "10.0.1.1"),
        (&pod1, "10.244.1.1"),
        (&pod2, "10.244.2.1"),
    ] {
        network.ip(&format!("route add default via {gateway}"));
    }
    router.forward();
    node.forward();
    let page = read("kubernetes/topologies.md");
    let block = page.split("```").nth(1).expect("a block of configuration");
    let on_node = Bird::start(&node, block);
    let _on_router = Bird::start(&router, PEER_OF_THE_NODE);

    let password = lab.dir().join("password");
    let secret = read("kubernetes/deployment.yaml");
    let (_, secret) = secret.split_once("password: ").expect("the secret");
    fs::write(&password, secret.lines().next().expect("a line")).expect("a file");
    let password = password.display().to_string();
    let start = |pod: &Namespace, address: &str| {
        let service = Service::start(pod, Transport::Tcp, 8000);
        let vip = format!("{VIP4}/32");
        let env = [
            ("SIDECAST_BGP_LOCAL_AS", "65001"),
            ("SIDECAST_BGP_PEER_AS", "65000"),
            ("SIDECAST_BGP_PEER_IP", "10.0.1.2"),
            ("SIDECAST_BGP_LOCAL_IP", address),
            ("SIDECAST_BGP_PASSWORD_FILE", &password),
            ("SIDECAST_APP_NAME", "web"),
            ("SIDECAST_APP_VIP", &vip),
            ("SIDECAST_APP_MONITORS", "port:tcp:8000"),
        ];
        (service, Sidecast::launch(pod, &[], &env))
    };
    let (mut first, _sidecar1) = start(&pod1, "10.244.1.2");
    let web = SocketAddr::new(VIP4.parse().expect("an address"), 8000);
    let answered_by = |name: &str| {
        until(
            PATIENCE,
            &format!("{name} answers the client"),
            || match ask_tcp(&client, web) {
                Ok(answer) => expect(answer == name, answer.clone()),
                Err(error) => Err(format!(
                    "{error}\n{}",
                    on_node.ask("show protocols all upstream")
                )),
            },
        )
    };
    answered_by("pod1");
    let (mut second, _sidecar2) = start(&pod2, "10.244.2.2");
    until(PATIENCE, "the node shares the load", || {
        let route = node.ip(&format!("route show {VIP4}"));
        expect(
            route.contains("10.244.1.2") && route.contains("10.244.2.2"),
            route,
        )
    });
    first.kill();
    answered_by("pod2");
    second.kill();
    until(PATIENCE, "the node announces nothing", || {
        expect(router.gateway(VIP4).is_none(), "a route is left")
    });
}

fn the_program_speaks_to_a_router() {
    let site = Site::new();
    let one_prefix = one_prefix();
    let router = Bird::start(&site.router, SPEAKS_TO_THE_PROGRAM);
    let start = |name, program: &Path, network, args: &[&str]| {
        Child::start(network, name, &program.display().to_string(), args, &[])
    };
    let prefix = format!("{VIP4}/32");
    let _speaker = start(
        "one_prefix",
        &one_prefix,
        &site.a.network,
        &["10.0.1.1:179", "65001", &prefix],
    );
    let route = until(PATIENCE, "the router has the prefix", || {
        router.route(&prefix).ok_or("not yet")
    });
    let next_hop = attribute(&route, "BGP.next_hop");
    assert_eq!(next_hop.as_deref(), Some("10.0.1.2"), "{route}");
}

/// The example program; `cargo test` has built them, `cargo test --test examples` has not.
fn one_prefix() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--examples", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .status();
    assert!(built.expect("cargo runs").success());
    let here = std::env::current_exe().expect("a path");
    let folder = here
        .ancestors()
        .nth(2)
        .expect("the target folder")
        .join("examples");
    folder.join("one_prefix")
}

/// `sidecast check` with this file, or none, and these variables; also its warnings are none of ours.
#[track_caller]
fn check(what: &str, config: &str, env: &BTreeMap<String, String>) {
    let lab = Lab::new();
    let mut command = Command::new(binary());
    command
        .arg("check")
        .env_clear()
        .env("CONSUL_NODE", "node1")
        .envs(env);
    if !config.is_empty() {
        let path = lab.dir().join("config.yaml");
        fs::write(&path, config).expect("a file");
        command.arg("--config").arg(path);
    }
    let output = command.output().expect("it runs");
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what}: {report}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("apps:"), "{what}: {printed}");
}

/// The sidecast container of each Kubernetes object.
fn sidecars() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for file in ["kubernetes/deployment.yaml", "kubernetes/daemonset.yaml"] {
        for document in serde_yaml::Deserializer::from_str(&read(file)) {
            let object = Value::deserialize(document).expect("YAML");
            assert!(
                object["apiVersion"].is_string() && object["kind"].is_string(),
                "{file}"
            );
            let pod = &object["spec"]["template"]["spec"];
            if let Some(containers) = pod["initContainers"].as_sequence() {
                assert_eq!(pod["enableServiceLinks"], false, "{file}");
                let sidecar = containers.iter().find(|one| one["name"] == "sidecast");
                found.push((file.to_owned(), sidecar.expect("a sidecar").clone()));
            }
        }
    }
    assert_eq!(found.len(), 2);
    found
}

/// As the kubelet would set them: `$(NAME)` is one that stands before.
fn variables(container: &Value) -> BTreeMap<String, String> {
    let list = container["env"].as_sequence().expect("variables");
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for entry in list {
        let value = match entry["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("status.hostIP") => "10.0.1.2".to_owned(),
            Some("status.podIPs") => "10.244.1.2,fd00:10:244:1::2".to_owned(),
            Some(other) => panic!("what is {other}?"),
            None => text(&entry["value"]),
        };
        let value = all.iter().fold(value, |value, (name, known)| {
            value.replace(&format!("$({name})"), known)
        });
        assert!(!value.contains("$("), "{value}");
        all.insert(text(&entry["name"]), value);
    }
    // The secret is mounted in a pod only.
    all.remove("SIDECAST_BGP_PASSWORD_FILE");
    all
}

#[track_caller]
fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("a string: {value:?}"))
        .to_owned()
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

#[track_caller]
fn read(file: &str) -> String {
    let path = examples().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const SPEAKS_TO_THE_PROGRAM: &str = "
log stderr all;
router id 10.0.1.1;
protocol device { }
protocol bgp program {
  local 10.0.1.1 as 65000;
  neighbor range 10.0.0.0/16 as 65001;
  multihop;
  ipv4 { import all; export none; };
}
";
const PEER_OF_THE_NODE: &str = "
log stderr all;
router id 10.0.1.1;
protocol device { }
protocol kernel { ipv4 { import none; export all; }; }
protocol bgp node {
  local 10.0.1.1 as 65000;
  neighbor 10.0.1.2 as 65000;
  direct;
  ipv4 { import all; export none; };
}
";

const PATIENCE: Duration = Duration::from_secs(20);
