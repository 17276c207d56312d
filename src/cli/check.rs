//! `sidecast check`: the effective configuration, or all of its problems; and the apps registered by HTTP or
//! Consul that it refuses.

use super::client::{Client, Lookup};
use super::command::Global;
use super::status::counted;
use super::{Failure, output, run};
use crate::app::Source;
use crate::config::{self, Config, Loaded, Policy, Remote, SavedState, parse_app_from_params};
use crate::io::state_file;
use serde_json::Value;
use std::io::{self, Write};
use std::time::Duration;

/// Prints the configuration as YAML, each value with its origin, and a last line with counts; `quiet`:
/// only warnings.
///
/// # Errors
/// Every problem, one a line, with exit code 2; a device that is full, with 1.
pub fn check(global: &Global, quiet: bool) -> Result<u8, Failure> {
    let mut loaded = run::load(global)?;
    let forbidden = forbidden(global, &loaded.config);
    loaded.config.warnings.extend(forbidden);
    report(
        &loaded,
        quiet,
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
    )?;
    Ok(0)
}

/// Warnings and counts go to standard error, so that the output can be read again.
fn report(
    loaded: &Loaded,
    quiet: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> Result<(), Failure> {
    let written = match quiet {
        true => Ok(true),
        false => output::write(out, &config::render(loaded)),
    };
    let warnings = &loaded.config.warnings;
    let mut message: String = warnings.iter().map(|w| format!("warning: {w}\n")).collect();
    if !quiet && written.is_ok() {
        message += &format!("{}\n", counts(&loaded.config));
    }
    // Errors of standard error are ignored.
    let _ = err.write_all(message.as_bytes()).and_then(|()| err.flush());
    written.map(drop)
}

/// `ok: 1 app, 1 peer, 2 warnings`.
fn counts(config: &Config) -> String {
    let peers = &config.bgp.peers;
    let by_gateway = |peer: &config::PeerSettings| peer.remote == Remote::Gateway;
    let peers = match peers.iter().any(by_gateway) {
        true => "the default gateways as peers".to_owned(),
        false => counted(peers.len(), "peer"),
    };
    let apps = counted(config.apps.len(), "app");
    let warnings = counted(config.warnings.len(), "warning");
    format!("ok: {apps}, {peers}, {warnings}")
}

/// Apps of HTTP and Consul that this configuration refuses: those of the running announcer, else of the
/// state file.
fn forbidden(global: &Global, config: &Config) -> Vec<String> {
    if let Some(apps) = running(global) {
        let policy = Policy::new(&config.agent, &config.bgp);
        let apps = apps.iter();
        return apps.filter_map(|app| judge(app, config, &policy)).collect();
    }
    let path = config.agent.state_file.as_deref();
    let text = path.and_then(|path| state_file::read(path, SavedState::MAX_BYTES).ok().flatten());
    let memory = text.and_then(|text| SavedState::read(&text, config).ok());
    let problems = memory.map(|(_, problems)| problems).unwrap_or_default();
    let not_taken =
        |why| format!("agent.state_file: would not be restored at the next start: {why}");
    problems.into_iter().map(not_taken).collect()
}

/// The apps of the running announcer.
fn running(global: &Global) -> Option<Vec<Value>> {
    let found = Client::find(global.addr.as_deref(), global.config.as_deref());
    let Ok(Lookup::Client(client)) = found else {
        return None;
    };
    let answer = client.call("GET", "/apps", &[], TIMEOUT).ok()?;
    match answer.json().filter(|_| answer.is_ok())? {
        Value::Array(apps) => Some(apps),
        _ => None,
    }
}

/// Applies the policy to an app as shown by `/apps`, which does not show commands.
fn judge(app: &Value, config: &Config, policy: &Policy) -> Option<String> {
    let text = |key: &str| app.get(key).and_then(Value::as_str);
    let source: Source = text("source")?.parse().ok()?;
    if !source.is_remote() {
        return None;
    }
    let name = text("name")?;
    let param = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut params = vec![param("name", name)];
    let seconds = app.get("drain_time").and_then(Value::as_f64);
    params.extend(seconds.map(|seconds| param("drain_time", &format!("{seconds}s"))));
    let items = |key: &str| app.get(key).and_then(Value::as_array).into_iter().flatten();
    let peers: Vec<&str> = items("peers").filter_map(Value::as_str).collect();
    params.extend((!peers.is_empty()).then(|| param("peers", &peers.join(","))));
    params.extend(items("vips").filter_map(|vip| Some(param("vip", vip.as_str()?))));
    params.extend(items("monitors").filter_map(
        |monitor| match monitor.get("monitor")?.as_str()? {
            "exec" => Some(param("monitor", "exec:true")),
            "consul" => Some(param("monitor", "consul")),
            _ => None,
        },
    ));
    let app = parse_app_from_params(&params, source, config).ok()?;
    let refusal = policy.permit(&app).err()?;
    Some(format!(
        "app {name}, registered by {source}, would be withdrawn by a reload: {refusal}"
    ))
}

/// How long the running announcer may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn warnings_do_not_mix_with_what_is_printed() {
        let env = BTreeMap::from([("SIDECAST_BGP_LOCAL_AS".to_owned(), "65001".to_owned())]);
        let loaded = config::load(None, &env, &mut |_| Ok(String::new())).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        report(&loaded, false, &mut out, &mut err).unwrap();
        let (out, err) = (
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        );
        assert!(
            out.contains("  local_as: 65001  # environment SIDECAST_BGP_LOCAL_AS\n"),
            "{out}"
        );
        assert!(!out.contains("warning"), "{out}");
        assert!(
            err.starts_with("warning: ") && err.contains("any AS is accepted"),
            "{err}"
        );
        let last = err.lines().next_back().unwrap();
        let warnings = counted(err.lines().count() - 1, "warning");
        let want = format!("ok: 0 apps, the default gateways as peers, {warnings}");
        assert_eq!(last, want);
    }

    fn message(yaml: &str, quiet: bool) -> (String, String) {
        let env = BTreeMap::from([("SIDECAST_CONFIG_YAML".to_owned(), yaml.to_owned())]);
        let loaded = config::load(None, &env, &mut |_| Ok(String::new())).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        report(&loaded, quiet, &mut out, &mut err).unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(out), text(err))
    }

    #[test]
    fn it_ends_with_how_much_there_is() {
        let yaml = "\
bgp: {local_as: 65001, peer_as: 65000, peer_ip: [10.0.0.1, 10.0.0.3]}
apps: [{name: dns, vip: 192.0.2.53/32, monitors: ['port:udp:53']}]
";
        assert_eq!(message(yaml, false).1, "ok: 1 app, 2 peers, 0 warnings\n");
        assert_eq!(message(yaml, true), (String::new(), String::new()));
        let unchecked = yaml.replace(", monitors: ['port:udp:53']", "");
        let (_, err) = message(&unchecked, false);
        assert!(err.ends_with("\nok: 1 app, 2 peers, 1 warning\n"), "{err}");
        let (out, err) = message(&unchecked, true);
        assert!(
            out.is_empty() && err.starts_with("warning: ") && !err.contains("ok:"),
            "{err}"
        );
    }
}
