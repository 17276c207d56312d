//! `sidecast schema` against `check`: what is taken validates; what is refused does not, as far as a schema can
//! say it. The validator is python3-jsonschema over a reader of YAML 1.2.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use sidecast::config::TABLES;
use sidecast_lab::{Lab, binary, cache};

sidecast_lab::tests! {
    needs ["jsonschema"]:
        what_is_shipped_validates,
        schema_and_check_say_the_same_of_every_key;
}

fn what_is_shipped_validates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("it is there");
    let files = [
        "tests/data/config/full.yaml",
        "tests/data/config/peers.yaml",
        "tests/data/config/gocast.yaml",
        "examples/gocast/before.yaml",
        "examples/gocast/after.yaml",
        "examples/systemd/config.yaml",
    ];
    let mut texts: Vec<String> = files.map(read).to_vec();
    for page in ["README.md", "examples/reference.md"] {
        let page = read(page);
        let blocks = page.split("```yaml\n").skip(1);
        texts.extend(blocks.filter_map(|rest| rest.split("\n```").next().map(str::to_owned)));
    }
    assert!(texts.len() > files.len());
    // A slip of the pen is found: the schema does look.
    texts.push(texts[0].replace("local_as:", "lokal_as:"));
    let valid = validate(&texts);
    let wrong = valid.iter().zip(&texts).filter(|(valid, _)| !**valid);
    let wrong: Vec<&String> = wrong.map(|(_, text)| text).collect();
    assert_eq!(wrong, [texts.last().expect("the slip")]);
}

fn schema_and_check_say_the_same_of_every_key() {
    let mut cases: Vec<(String, &str, String)> = Vec::new();
    for table in TABLES {
        for key in (table.keys)() {
            for name in key.names_in(table.name) {
                for value in VALUES {
                    let text = document(table.name, name, value);
                    cases.push((format!("{}.{name}", table.name), value, text));
                }
            }
        }
    }
    assert!(cases.len() > 4000, "{}", cases.len());
    let texts: Vec<String> = cases.iter().map(|(_, _, text)| text.clone()).collect();
    let valid = validate(&texts);
    let (mut taken, mut wrong) = (0, Vec::new());
    let mut stricter: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for ((key, value, text), valid) in cases.iter().zip(valid) {
        let problem = check(text).err();
        taken += u32::from(problem.is_none());
        match (problem, valid) {
            (None, false) => wrong.push(format!("{key}: {value} is taken and not valid")),
            (Some(_), true) => stricter.entry(key).or_default().push(value),
            _ => {}
        }
    }
    assert!(taken > 500, "{taken}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let known: BTreeSet<&str> = CHECK_ALONE
        .iter()
        .flat_map(|(_, keys)| *keys)
        .copied()
        .collect();
    let found: BTreeSet<&str> = stricter.keys().copied().collect();
    let new: Vec<_> = stricter
        .iter()
        .filter(|(key, _)| !known.contains(*key))
        .collect();
    assert!(new.is_empty(), "valid, and refused by check: {new:#?}");
    let stale: Vec<_> = known.difference(&found).collect();
    assert!(stale.is_empty(), "the schema says it too by now: {stale:?}");
}

/// A configuration in which one key has one value.
fn document(table: &str, name: &str, value: &str) -> String {
    let bgp = "bgp: {local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}\n";
    let app = |rest: String| format!("{bgp}apps:\n- name: a\n  vip: 192.0.2.1/32\n{rest}");
    match table {
        "agent" => format!("{bgp}agent:\n  {name}: {value}\n"),
        "bgp" if name == "local_as" => format!("bgp:\n  local_as: {value}\n"),
        "bgp" => format!("bgp:\n  local_as: 65001\n  {name}: {value}\n"),
        "apps" if name == "name" => {
            format!("{bgp}apps:\n- vip: 192.0.2.1/32\n  name: {value}\n")
        }
        "apps" if name.starts_with("vip") && name.len() < 5 => {
            format!("{bgp}apps:\n- name: a\n  {name}: {value}\n")
        }
        "apps" => app(format!("  {name}: {value}\n")),
        "path_proof" => format!("{bgp}agent:\n  path_proof:\n    {name}: {value}\n"),
        "vip_config" => app(format!("  vip_config:\n    {name}: {value}\n")),
        "when_down" => app(format!(
            "  vip_config:\n    when_down:\n      {name}: {value}\n"
        )),
        "monitors" if name == "monitor" || name == "exec" => {
            app(format!("  monitors:\n  - {name}: {value}\n"))
        }
        "monitors" => {
            let kind = match name {
                "status" | "contains" | "headers" | "insecure" => "http://127.0.0.1/",
                "rcode" => "dns:example.com",
                _ => "port:tcp:80",
            };
            app(format!(
                "  monitors:\n  - monitor: {kind}\n    {name}: {value}\n"
            ))
        }
        "bgp.bfd" => format!("bgp:\n  local_as: 65001\n  bfd:\n    {name}: {value}\n"),
        "bgp.peers" if name == "peer_ip" => {
            format!("bgp:\n  local_as: 65001\n  peers:\n  - {name}: {value}\n")
        }
        "bgp.peers" => {
            format!(
                "bgp:\n  local_as: 65001\n  peers:\n  - peer_ip: 10.0.0.1\n    {name}: {value}\n"
            )
        }
        other => panic!("no document for the table {other}"),
    }
}

fn check(text: &str) -> Result<(), String> {
    let env = BTreeMap::from([("SIDECAST_CONFIG_YAML".to_owned(), text.to_owned())]);
    let mut read = |_: &Path| Ok("s3cret".to_owned());
    let loaded = sidecast::config::load(None, &env, &mut read);
    loaded.map(drop).map_err(|problems| problems.to_string())
}

/// Whether each text validates.
fn validate(texts: &[String]) -> Vec<bool> {
    let lab = Lab::new();
    let schema = Command::new(binary())
        .arg("schema")
        .output()
        .expect("it runs");
    let [schema_file, texts_file] = ["schema.json", "texts.json"].map(|name| lab.dir().join(name));
    fs::write(&schema_file, schema.stdout).expect("ours");
    fs::write(&texts_file, serde_json::to_vec(texts).expect("texts")).expect("ours");
    let output = Command::new(cache().join("venv/bin/python"))
        .args(["-c", VALIDATE])
        .args([&schema_file, &texts_file])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    let valid: Vec<bool> = serde_json::from_slice(&output.stdout).expect("a list");
    assert_eq!(valid.len(), texts.len());
    valid
}

const VALIDATE: &str = r#"
import json, jsonschema, multiprocessing, sys
from ruamel.yaml import YAML
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
def valid(text):
    try:
        return validator.is_valid(YAML(typ='safe', pure=True).load(text))
    except Exception:
        return False
with multiprocessing.Pool() as pool:
    json.dump(pool.map(valid, json.load(open(sys.argv[2])), chunksize=100), sys.stdout)
"#;

/// What one key or the other takes, and what none does.
const VALUES: &[&str] = &[
    "x y",
    "''",
    "null",
    "0",
    "'0'",
    "1",
    "'7'",
    "64",
    "4000",
    "-1",
    "1.5",
    "70000",
    "99999999999",
    "1x",
    "true",
    "yes",
    "'off'",
    "none",
    "10",
    "0s",
    "1ns",
    "5s",
    "10s",
    "1m30s",
    "1.5h",
    "500ms",
    "-1s",
    "[]",
    "[a, 5s]",
    "{a: 1}",
    "[[a]]",
    "10.0.0.1",
    "'10.0.0.1,10.0.0.3'",
    "[10.0.0.1, 10.0.0.3]",
    "2001:db8::1",
    "'%eth0'",
    "'fe80::1%eth0'",
    "192.0.2.0/24",
    "192.0.2.1/32",
    "2001:db8::1/128",
    "'192.0.2.1/32, 192.0.2.2/32'",
    "192.0.2.1",
    "'65001:100'",
    "no-export",
    "'65001:1:2'",
    "'rt:65001:1'",
    "'0x0002fde800000001'",
    "igp",
    "unknown",
    "healthy",
    "always",
    "ipv4",
    "[ipv4, ipv6]",
    "'ipv4,ipv6'",
    "withdraw",
    "last_resort",
    "'5/60s'",
    "lo",
    "config",
    "[config, http]",
    "warn",
    "fail",
    "pass",
    "/a/file",
    "'port:tcp:80'",
    "['port:udp:53', consul]",
    "'exec:true'",
    "'http://127.0.0.1/'",
    "'dns:example.com'",
    "'heartbeat:5s'",
    "'udp:53'",
    "'udp:53:8053'",
    "'icmp:1'",
    "':8080'",
    "'unix:/run/s'",
    "'[::1]:179'",
    "'127.0.0.1:80'",
    "{med: 1000}",
    "{interval: 300ms}",
    "2xx",
    "200",
    "'200-299'",
    "NXDOMAIN",
    "{a: b}",
    "[{peer_ip: 10.0.0.1}]",
    "[{monitor: 'port:tcp:80', rise: 2}]",
];

/// What `check` refuses and the schema does not, with why.
const CHECK_ALONE: &[(&str, &[&str])] = &[
    (
        "how long a duration may be: it is a text",
        &[
            "agent.cleanup_timer",
            "agent.consul_grace",
            "agent.consul_query_interval",
            "agent.monitor_interval",
            "agent.path_proof",
            "agent.vip_lease",
            "apps.fast_interval",
            "apps.hold_down",
            "apps.interval",
            "apps.path_proof",
            "apps.timeout",
            "bgp.bfd.interval",
            "bgp.connect_retry",
            "bgp.graceful_restart",
            "bgp.hold_time",
            "bgp.peers.connect_retry",
            "bgp.peers.graceful_restart",
            "bgp.peers.hold_time",
            "monitors.fast_interval",
            "monitors.interval",
            "monitors.timeout",
            "path_proof.interval",
        ],
    ),
    (
        "which names are known, in capitals or not, with - or _",
        &[
            "bgp.communities",
            "bgp.peers.communities",
            "vip_config.bgp_communities",
            "when_down.bgp_communities",
            "monitors.rcode",
        ],
    ),
    (
        "how many there may be, of which family",
        &[
            "bgp.families",
            "bgp.local_ip",
            "bgp.peer_ip",
            "bgp.peers",
            "bgp.peers.families",
            "bgp.peers.local_ip",
            "bgp.peers.peer_ip",
            "monitors.status",
        ],
    ),
    (
        "what another key must say: listen, consul_addr, monitor, exec, or the peers of bgp",
        &[
            "apps.monitors",
            "apps.peers",
            "bgp.passive",
            "bgp.peers.passive",
            "monitors.exec",
            "monitors.monitor",
        ],
    ),
    (
        "which characters a number may have where it is a text",
        &["agent.api_token", "agent.instance"],
    ),
];
