//! `sidecast check`: the effective configuration, or everything that is wrong with it; and what others
//! registered that it forbids.

use super::args::Global;
use super::client::{Client, Found};
use super::{Failure, run};
use crate::app::Source;
use crate::config::{self, Config, Loaded, Policy, SavedState, parse_app_from_params};
use crate::io::state_file;
use serde_json::Value;
use std::io::{self, Write};
use std::time::Duration;

/// Prints the configuration as YAML, each value with where it came from.
///
/// # Errors
/// Every problem, one a line, with exit code 2.
pub fn check(global: &Global) -> Result<u8, Failure> {
    let mut loaded = run::load(global)?;
    let forbidden = forbidden(global, &loaded.config);
    loaded.config.warnings.extend(forbidden);
    // Whoever closed the output has seen enough; the verdict is the exit code.
    let _ = report(&loaded, &mut io::stdout().lock(), &mut io::stderr().lock());
    Ok(0)
}

/// The warnings go another way, so that what is printed can be read again.
fn report(loaded: &Loaded, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<()> {
    out.write_all(config::render(loaded).as_bytes())?;
    out.flush()?;
    for warning in &loaded.config.warnings {
        writeln!(err, "warning: {warning}")?;
    }
    err.flush()
}

/// What HTTP and Consul registered and this configuration forbids: of a sidecast that runs here, else of what
/// it remembered when it ended. Where there is neither, there is nothing to say.
fn forbidden(global: &Global, config: &Config) -> Vec<String> {
    if let Some(apps) = running(global) {
        let policy = Policy::new(&config.agent, &config.bgp);
        let apps = apps.iter();
        return apps.filter_map(|app| judge(app, config, &policy)).collect();
    }
    let path = config.agent.state_file.as_deref();
    let text = path.and_then(|path| state_file::read(path, SavedState::LONGEST).ok().flatten());
    let memory = text.and_then(|text| SavedState::read(&text, config).ok());
    let problems = memory.map(|(_, problems)| problems).unwrap_or_default();
    let not_taken = |why| format!("agent.state_file: not taken at the next start: {why}");
    problems.into_iter().map(not_taken).collect()
}

/// The apps of the one that runs.
fn running(global: &Global) -> Option<Vec<Value>> {
    let found = Client::find(global.addr.as_deref(), global.config.as_deref());
    let Ok(Found::Client(client)) = found else {
        return None;
    };
    let answer = client.call("GET", "/apps", &[], PATIENCE).ok()?;
    match answer.json().filter(|_| answer.is_ok())? {
        Value::Array(apps) => Some(apps),
        _ => None,
    }
}

/// What the policy says of an app as `/apps` shows it. Of commands only that they are some.
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

/// How long a sidecast that runs here may take to say its apps.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn warnings_do_not_mix_with_what_is_printed() {
        let env = BTreeMap::from([("SIDECAST_BGP_LOCAL_AS".to_owned(), "65001".to_owned())]);
        let loaded = config::load(None, &env, &mut |_| Ok(String::new())).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        report(&loaded, &mut out, &mut err).unwrap();
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
    }
}
