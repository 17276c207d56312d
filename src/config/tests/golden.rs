//! What `check` prints and the problems that it reports, held as files: a change in how configurations are
//! read shows here as a difference. `SIDECAST_GOLDEN=write` writes them anew; then look at the difference.

use super::*;
use std::fmt::Write as _;
use std::fs;

const JUNK: [&str; 6] = ["x y", "0", "7", "[a, 5s]", "{a: 1}", "''"];

fn holds(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("SIDECAST_GOLDEN").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    let golden = fs::read_to_string(&path).unwrap();
    let pairs = golden.lines().zip(text.lines()).enumerate();
    let other = pairs.filter(|(_, (golden, now))| golden != now).take(8);
    let other: String = other
        .map(|(index, (golden, now))| format!("{name}:{}\n was {golden}\n is  {now}\n", index + 1))
        .collect();
    assert!(other.is_empty(), "\n{other}");
    assert_eq!(golden.lines().count(), text.lines().count(), "{name}");
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Everything that a configuration yields.
fn outcome(text: &str, env: &[(&str, &str)], files: &[(&str, &str)]) -> String {
    match load_with(text, env, files) {
        Ok(loaded) => {
            let warnings = loaded.config.warnings.iter();
            let warnings: String = warnings.map(|w| format!("warning: {w}\n")).collect();
            format!("{warnings}{}", render(&loaded))
        }
        Err(problems) => format!("{problems}\n"),
    }
}

/// An app as `check` would print it.
fn printed(config: &Config, app: App) -> String {
    let mut config = config.clone();
    config.apps = vec![app];
    render(&Loaded {
        config,
        origins: BTreeMap::new(),
        file: None,
    })
}

/// The lines that only the outcome with the change has.
fn difference(base: &str, now: &str) -> String {
    let news = now.lines().filter(|line| !base.lines().any(|b| b == *line));
    let news: String = news.map(|line| format!("    {line}\n")).collect();
    if news.is_empty() {
        "    nothing new\n".to_owned()
    } else {
        news
    }
}

/// Blocks of a Markdown file, and of what cloud-init writes.
fn configurations() -> Vec<(String, String)> {
    let files = [
        "tests/data/config/full.yaml",
        "tests/data/config/peers.yaml",
        "tests/data/config/gocast.yaml",
        "examples/gocast/before.yaml",
        "examples/gocast/after.yaml",
        "examples/systemd/config.yaml",
    ];
    let mut all: Vec<(String, String)> = files.map(|f| (f.to_owned(), read(f))).to_vec();
    for page in ["README.md", "examples/reference.md"] {
        for (index, block) in read(page).split("```yaml\n").skip(1).enumerate() {
            let block = block.split("```").next().unwrap();
            all.push((format!("{page} block {index}"), block.to_owned()));
        }
    }
    let cloud = read("examples/vm/cloud-init.yaml");
    let (_, block) = cloud.split_once("content: |\n").unwrap();
    let block = block.split("  - path:").next().unwrap();
    all.push(("examples/vm/cloud-init.yaml".to_owned(), block.to_owned()));
    all
}

/// The variables of the examples: a name that comes again begins a new environment.
fn environments() -> Vec<(String, Vec<(String, String)>)> {
    let mut all = Vec::new();
    for file in [
        "examples/compose/compose.yaml",
        "examples/kubernetes/daemonset.yaml",
        "examples/kubernetes/deployment.yaml",
        "examples/nomad/dns.nomad.hcl",
    ] {
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        let mut end = |env: &mut BTreeMap<String, String>| {
            let env: Vec<_> = std::mem::take(env).into_iter().collect();
            all.push((format!("{file} environment"), env));
        };
        for line in read(file).lines().filter(|line| !line.contains('#')) {
            let Some((_, rest)) = line.split_once("SIDECAST_") else {
                continue;
            };
            let (name, rest) = rest.split_at(rest.find([':', ' ', ',']).unwrap_or(rest.len()));
            let value = rest.trim_start_matches([':', ' ', ',', '=']);
            let value = value.trim_start_matches("value: ");
            let value = value.trim_end_matches('}').trim_matches('"');
            let name = format!("SIDECAST_{name}");
            if env.contains_key(&name) {
                end(&mut env);
            }
            let value = if value.is_empty() { "10.0.0.1" } else { value };
            let value = value.replace("$(NODE_ADDRESS)", "10.0.0.1");
            env.insert(name, value);
        }
        end(&mut env);
    }
    all
}

#[test]
fn configurations_are_printed_as_before() {
    let mut text = String::new();
    for (name, yaml) in configurations() {
        let outcome = outcome(&yaml, &[("CONSUL_NODE", "n1")], &[]);
        write!(text, "==== {name}\n{outcome}").unwrap();
    }
    for (name, env) in environments() {
        let env: Vec<_> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let outcome = outcome("", &env, &[("/run/secrets/bgp/password", "secret\n")]);
        write!(text, "==== {name}\n{outcome}").unwrap();
    }
    holds("tests/data/config/golden/printed.txt", &text);
}

#[test]
fn problems_of_wrong_configurations_are_as_before() {
    let mut text = String::new();
    for (yaml, _) in wrong_configurations() {
        write!(text, "==== {yaml}{}", outcome(&yaml, &[], &[])).unwrap();
    }
    holds("tests/data/config/golden/problems.txt", &text);
}

/// The line that was changed is reported as `here`: a new key above it is no difference.
fn relative(news: &str, index: usize) -> String {
    let line = index + 1;
    news.replace(&format!("f.yaml:{line}:"), "f.yaml:here:")
        .replace(
            &format!("from f.yaml line {line}\n"),
            "from f.yaml line here\n",
        )
}

/// A line with the value of each of its keys replaced.
fn changed_lines(line: &str, junk: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (at, _) in line.match_indices(": ") {
        let (head, rest) = line.split_at(at + 2);
        let inside = head.contains('{');
        let end = match inside {
            true => rest.find([',', '}']).unwrap_or(rest.len()),
            false => rest.len(),
        };
        all.push(format!("{head}{junk}{}", &rest[end..]));
    }
    all
}

#[test]
fn every_value_in_a_file_is_accepted_or_refused_as_before() {
    let mut text = String::new();
    for (name, yaml) in [("full", FULL), ("peers", PEERS)] {
        let base = outcome(yaml, &[], &[]);
        let lines: Vec<&str> = yaml.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            for changed in JUNK.iter().flat_map(|junk| changed_lines(line, junk)) {
                let mut all = lines.clone();
                all[index] = &changed;
                let now = outcome(&all.join("\n"), &[], &[]);
                let news = relative(&difference(&base, &now), index);
                write!(text, "{name} {}\n{news}", changed.trim()).unwrap();
            }
            // A key with a typing error.
            let Some(colon) = line.find(':').filter(|at| *at > 2) else {
                continue;
            };
            let typo = format!("{}{}", &line[..colon - 1], &line[colon..]);
            let mut all = lines.clone();
            all[index] = &typo;
            let news = difference(&base, &outcome(&all.join("\n"), &[], &[]));
            let news = relative(&news, index);
            write!(text, "{name} {}\n{news}", typo.trim()).unwrap();
        }
    }
    holds("tests/data/config/golden/values.txt", &text);
}

#[test]
fn every_variable_is_accepted_or_refused_as_before() {
    let mut text = String::new();
    let around = [
        ("SIDECAST_BGP_LOCAL_AS", "65001"),
        ("SIDECAST_APP_NAME", "a"),
        ("SIDECAST_APP_VIP", "192.0.2.1/32"),
        ("SIDECAST_APP_MONITORS", "port:tcp:80;http://127.0.0.1/"),
    ];
    let with = |name: &str, value: &str, files: &[(&str, &str)]| {
        let mut env = around.to_vec();
        env.push((name, value));
        difference(&outcome("", &around, &[]), &outcome("", &env, files))
    };
    let mut names = tables::variables();
    names.sort();
    for name in names.iter().filter(|name| name.matches('_').count() > 1) {
        for junk in JUNK.iter().chain(&["[x", "10.0.0.9, 10.0.0.8\n5s"]) {
            let news = with(name, junk, &[]);
            writeln!(text, "{name}={}\n{news}", junk.escape_debug()).unwrap();
        }
        let file = format!("{name}_FILE");
        let news = with(&file, "/f", &[("/f", "5s\n")]);
        let none = with(&file, "/none", &[]);
        let typo = &name[..name.len() - 1];
        let slip = with(typo, "1", &[]);
        writeln!(text, "{file}: 5s\n{news}{none}{typo}\n{slip}").unwrap();
    }
    holds("tests/data/config/golden/variables.txt", &text);
}

#[test]
fn every_parameter_is_accepted_or_refused_as_before() {
    let config = good(&with_app(""));
    let base = [("name", "a"), ("vip", "192.0.2.1/32")];
    let alone = printed(&config, register(&config, &base).unwrap());
    let mut text = String::new();
    for name in "name vip vips monitor monitors nat nats vip_communities communities bgp_communities interval \
                 timeout rise fall fast_interval start_delay drain_time drain_wait hold_down flap_limit vip_presence \
                 peers path_proof \
                 large_communities ext_communities med local_pref as_path_prepend next_hop next_hop6 when_down \
                 when_draining maintenance_file vip_config token wait lage_communities nxt_hop"
        .split_whitespace()
    {
        let more = ["withdraw", "{med: 7}", "{medd: 7}", "5s", "exec:x", "10.0.0.0/8"];
        for junk in JUNK.iter().chain(&more) {
            let mut params: Vec<_> = base.iter().filter(|(n, _)| *n != name).copied().collect();
            params.push((name, junk));
            let report = match register(&config, &params) {
                Ok(app) => difference(&alone, &printed(&config, app)),
                Err(error) => format!("    {error:?}\n"),
            };
            write!(text, "{name}={junk}\n{report}").unwrap();
        }
    }
    for tag in "gocast_vip=192.0.2.9/32 gocast_vip sidecast_vip=x gocast_monitor=port:tcp:1 sidecast_nat=tcp:1 gocast_med \
                gocast_rise=3 sidecast_monitor sidecast_nat gocast_vip_communities gocast_vips gocast_name=x gocast_x=1"
        .split_whitespace()
    {
        let tags = ["gocast_vip=192.0.2.1/32".to_owned(), tag.to_owned()];
        let report = parse_app_from_tags("web".parse().unwrap(), "web-1", &tags, &config);
        let report = match report {
            Ok(app) => difference(&alone, &printed(&config, app)),
            Err(error) => format!("    {error}\n"),
        };
        write!(text, "{tag}\n{report}").unwrap();
    }
    holds("tests/data/config/golden/parameters.txt", &text);
}
