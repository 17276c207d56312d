//! What others publish about their formats: the Kubernetes schemas, cloud-init's, Nomad's language, systemd's
//! own opinion of a unit and its lists of system calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_yaml::Value;
use sidecast_lab::{Bird, Child, Lab, Site, binary, cache, expect, program, until};

use crate::{PATIENCE, check, examples, read, text, variables};

pub fn kubernetes_objects_pass_the_schema() {
    let lab = Lab::new();
    let files = ["deployment.yaml", "daemonset.yaml", "control-plane.yaml"];
    let objects = files.map(|file| examples().join("kubernetes").join(file));
    for version in [OLDEST, NEWEST] {
        let (success, report) = kubernetes(&objects, version);
        assert!(success, "{version}: {report}");
    }
    // The schema does look: a slip of the pen is found in each of them.
    let slips = files.map(|file| {
        let slip = read(&format!("kubernetes/{file}")).replace("restartPolicy:", "restartPolice:");
        let path = lab.dir().join(file);
        fs::write(&path, slip).expect("a file");
        path
    });
    let (success, report) = kubernetes(&slips, OLDEST);
    assert!(!success, "{report}");
    for path in slips {
        let error = format!("ERROR {} did not validate", path.display());
        assert!(report.contains(&error), "{error}: {report}");
    }
}

/// Whether all are valid, and what is said of each. One process for all: most of its time goes into reading the schema.
fn kubernetes(objects: &[PathBuf], version: &str) -> (bool, String) {
    let output = Command::new(cache().join("venv/bin/kubernetes-validate"))
        .args(["--strict", "--kubernetes-version", version])
        .args(objects)
        .output()
        .expect("it runs");
    let report = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&report).into_owned(),
    )
}

/// As `kubectl apply -k` would take it, and with the image where one pushed it.
pub fn the_kustomization_makes_both_objects_with_the_image_as_named() {
    let lab = Lab::new();
    let folder = lab.dir().join("kubernetes");
    fs::create_dir(&folder).expect("a folder");
    let mut kustomization = read("kubernetes/kustomization.yaml");
    for file in ["deployment.yaml", "daemonset.yaml"] {
        fs::write(folder.join(file), read(&format!("kubernetes/{file}"))).expect("a file");
    }
    let pushed = "    newName: registry.example/sidecast";
    kustomization = kustomization.replace("    # newName: registry.example/sidecast", pushed);
    assert!(kustomization.contains(pushed));
    fs::write(folder.join("kustomization.yaml"), kustomization).expect("a file");
    for (folder, image) in [
        (examples().join("kubernetes"), "sidecast:0.1.0"),
        (folder, "registry.example/sidecast:0.1.0"),
    ] {
        let mut command = Command::new(program("kubectl").expect("the test needs it"));
        let output = command.arg("kustomize").arg(&folder).output();
        let output = output.expect("it runs");
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{report}");
        let objects = objects(&String::from_utf8_lossy(&output.stdout));
        let kinds: BTreeSet<String> = objects.iter().map(|o| text(&o["kind"])).collect();
        let expected = ["ConfigMap", "DaemonSet", "Deployment", "Secret"].map(str::to_owned);
        assert_eq!(kinds, BTreeSet::from(expected));
        let sidecars = objects.iter().filter_map(|o| {
            let pod = &o["spec"]["template"]["spec"];
            Some(text(&pod["initContainers"].as_sequence()?[0]["image"]))
        });
        assert_eq!(sidecars.collect::<Vec<_>>(), [image, image]);
    }
}

/// The selector takes the pods of both examples, and the port is one of the sidecar's.
pub fn the_pod_monitor_finds_the_sidecars() {
    let monitor = &objects(&read("prometheus/podmonitor.yaml"))[0];
    let rule = &monitor["spec"]["selector"]["matchExpressions"][0];
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(
        (text(&rule["key"]), text(&rule["operator"])),
        ("app".into(), "In".into())
    );
    let values = rule["values"].as_sequence().expect("values");
    let mut found = 0;
    for file in ["kubernetes/deployment.yaml", "kubernetes/daemonset.yaml"] {
        for object in objects(&read(file)) {
            let template = &object["spec"]["template"];
            let Some(containers) = template["spec"]["initContainers"].as_sequence() else {
                continue;
            };
            let app = &template["metadata"]["labels"]["app"];
            assert!(values.contains(app), "{file}: {app:?}");
            let port = &containers[0]["ports"][0];
            assert_eq!(port["name"], endpoint["port"], "{file}");
            let variables = variables(&containers[0]);
            let address = &variables["SIDECAST_AGENT_METRICS_ADDR"];
            let number = port["containerPort"].as_u64().expect("a number");
            assert!(
                address.ends_with(&format!(":{number}")),
                "{file}: {address}"
            );
            // Not on this host alone, where nothing else could scrape it.
            assert!(!address.starts_with("127."), "{file}: {address}");
            found += 1;
        }
    }
    assert_eq!(found, values.len());
}

fn objects(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let objects = documents.map(|document| Value::deserialize(document).expect("YAML"));
    objects.collect()
}

pub fn cloud_init_passes_its_schema() {
    let lab = Lab::new();
    let path = lab.dir().join("cloud-init.yaml");
    for file in ["vm/cloud-init.yaml", "vm/control-plane.yaml"] {
        let good = read(file);
        fs::write(&path, &good).expect("a file");
        assert_eq!(cloud_init(&path), "", "{file}");
        fs::write(&path, good.replace("runcmd:", "runcmds:")).expect("a file");
        assert!(cloud_init(&path).contains("runcmds"), "{file}");
    }
}

/// What the schema has against it.
fn cloud_init(path: &Path) -> String {
    python(
        "import json, jsonschema, sys, yaml\n\
         schema, data = (json.load(open(sys.argv[1])), yaml.safe_load(open(sys.argv[2])))\n\
         for error in jsonschema.Draft4Validator(schema).iter_errors(data): print(error.message)",
        &[&cache().join("bin/cloud-config.json"), path],
    )
}

/// Nomad itself is not to be had where these tests run: its language is, and what the job relies on.
pub fn the_nomad_job_is_understood() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nomad/dns.nomad.hcl");
    let json = python(
        "import hcl2, json, sys\n\
         options = hcl2.SerializationOptions(strip_string_quotes=True, explicit_blocks=False)\n\
         print(json.dumps(hcl2.load(open(sys.argv[1]), serialization_options=options)))",
        &[&path],
    );
    let job: Value = serde_yaml::from_str(&json).expect("JSON");
    let group = &job["job"][0]["dns"]["group"][0]["dns"];
    let task = |name: &str| {
        let tasks = group["task"].as_sequence().expect("tasks");
        let found = tasks.iter().find_map(|task| task.get(name));
        found.unwrap_or_else(|| panic!("{name}: {json}")).clone()
    };
    let sidecast = task("sidecast");
    // The leader ends before the others get their signal: the route goes first.
    assert_eq!(sidecast["leader"], true, "{json}");
    assert!(task("dns")["leader"].is_null(), "{json}");
    let docker = &sidecast["config"][0];
    assert_eq!(
        (&docker["cap_drop"][0], &docker["cap_add"][0]),
        (&"all".into(), &"net_admin".into())
    );
    let env = sidecast["env"][0].as_mapping().expect("variables").iter();
    let env: BTreeMap<String, String> =
        env.map(|(name, value)| (text(name), text(value))).collect();
    assert!(env.len() > 5, "{env:?}");
    check("nomad", "", &env);
}

fn python(script: &str, args: &[&Path]) -> String {
    let output = Command::new(cache().join("venv/bin/python"))
        .args(["-c", script])
        .args(args)
        .output()
        .expect("it runs");
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{report}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn the_unit_passes_systemds_judgment() {
    let lab = Lab::new();
    let unit = read("systemd/sidecast.service");
    let here = lab.dir().join("sidecast.service");
    fs::write(&here, unit.replace("/usr/local/bin/sidecast", &binary())).expect("a file");
    let here = here.display().to_string();
    // Its manual is the package's.
    let report = analyze(&["verify", "--man=no", &here]);
    assert_eq!(report, "");
    // From 0 (locked up) to 10; what announces needs the network and a capability.
    let threshold = format!("--threshold={EXPOSURE}");
    analyze(&[
        "security",
        "--offline=true",
        "--no-pager",
        &threshold,
        &here,
    ]);
}

#[track_caller]
fn analyze(args: &[&str]) -> String {
    let output = Command::new("systemd-analyze").args(args).output();
    let output = output.expect("it runs");
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {report}\n{listed}");
    match args[0] {
        "syscall-filter" => listed,
        _ => report,
    }
}

/// The whole way from start to end makes no system call that the unit's filter answers with a kill.
pub fn the_units_filter_lets_through_what_it_calls() {
    let site = Site::new();
    let _services = site.a.services();
    let _router = Bird::start(&site.router, &read("router/bird.conf"));
    let config = site
        .a
        .config("hold_time: 9s\nbfd: true", "nats: [\"tcp:81:8000\"]")
        + "  - {name: script, vip: 192.0.2.99/32, monitors: [\"exec:true\", \"http://127.0.0.1:9/\"]}\n";
    let dir = site.lab.dir();
    let file = dir.join("traced.yaml");
    fs::write(&file, config).expect("a file");
    let calls = dir.join("calls");
    let [file, calls] = [file, calls].map(|path| path.display().to_string());
    let program = binary();
    let args = [
        "-f", "-qq", "-o", &calls, &program, "run", "--config", &file,
    ];
    let mut traced = Child::start(&site.a.network, "traced", "strace", &args, &[]);
    site.answered_by("a", PATIENCE);
    let pid = until(PATIENCE, "its first system call", || {
        let text = fs::read_to_string(&calls).map_err(|error| error.to_string())?;
        let first = text.split_whitespace().next().map(str::to_owned);
        first.and_then(|word| word.parse().ok()).ok_or(text)
    });
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, Signal::SIGHUP).expect("it runs");
    until(PATIENCE, "the configuration is read again", || {
        let log = traced.output();
        expect(log.contains("reload"), log)
    });
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("it runs");
    assert!(traced.wait(PATIENCE).success(), "{}", traced.output());

    let allowed = allowed(&read("systemd/sidecast.service"));
    let called = fs::read_to_string(&calls).expect("what was called");
    let called: BTreeSet<&str> = called.lines().filter_map(called_in).collect();
    assert!(called.len() > 30, "{called:?}");
    let refused: Vec<_> = called
        .iter()
        .filter(|name| !allowed.contains(**name))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
}

/// `PID name(arguments…`; a line may also be the rest of a call or a signal.
fn called_in(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(' ')?;
    let (name, _) = rest.trim_start().split_once('(')?;
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain.then_some(name)
}

/// What the lines `SystemCallFilter=` add up to, in their order.
fn allowed(unit: &str) -> BTreeSet<String> {
    let listed = analyze(&["syscall-filter", "--no-pager"]);
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut group = "";
    for line in listed
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
    {
        match line.strip_prefix("    ") {
            Some(member) => groups.entry(group).or_default().push(member.trim()),
            None => group = line.trim(),
        }
    }
    let mut allowed: BTreeSet<String> = members(&groups, "@default").collect();
    for line in unit.lines() {
        let Some(words) = line.strip_prefix("SystemCallFilter=") else {
            continue;
        };
        let (refuses, words) = words
            .strip_prefix('~')
            .map_or((false, words), |words| (true, words));
        for name in words
            .split_whitespace()
            .flat_map(|word| members(&groups, word))
        {
            if refuses {
                allowed.remove(&name);
            } else {
                allowed.insert(name);
            }
        }
    }
    assert!(allowed.len() > 100, "{allowed:?}");
    allowed
}

/// The calls in a group, those of its groups included.
fn members(groups: &BTreeMap<&str, Vec<&str>>, word: &str) -> Box<dyn Iterator<Item = String>> {
    let found: Vec<String> = match groups.get(word) {
        Some(list) => list.iter().flat_map(|word| members(groups, word)).collect(),
        None => vec![word.to_owned()],
    };
    Box::new(found.into_iter())
}

/// Native sidecars are there since 1.29, a `sleep` as a hook since 1.30.
const OLDEST: &str = "1.30";
const NEWEST: &str = "1.37";
const EXPOSURE: &str = "20";
