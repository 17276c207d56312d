//! Who may register what: refusals name the cause, and where there is one the key that would allow it.

use std::fmt;

use crate::app::{App, MonitorSpec, Source, Vip};
use crate::config::Agent;

/// Why an app was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A setting forbids it; `key` is the one to change.
    Policy { key: &'static str, message: String },
    /// Another app, or a higher source, stands in the way.
    Conflict(String),
    /// It can never work as it is.
    Invalid(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { key, message } => write!(f, "{message} (set {key} to allow it)"),
            Self::Conflict(message) | Self::Invalid(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Refusal {}

/// Checks an app against the agent's settings alone.
pub(super) fn permit(app: &App, agent: &Agent) -> Result<(), Refusal> {
    let runs_commands = |spec: &MonitorSpec| matches!(spec, MonitorSpec::Exec(_));
    let exec = app.monitors.iter().any(|m| runs_commands(&m.spec));
    if exec && !agent.allow_exec.contains(&app.source) {
        return Err(Refusal::Policy {
            key: "agent.allow_exec",
            message: format!("exec monitors from {} are not run", app.source),
        });
    }
    let consul = app.monitors.iter().any(|m| m.spec == MonitorSpec::Consul);
    if consul && agent.consul.is_none() {
        return Err(Refusal::Invalid(
            "a consul monitor needs Consul: set agent.consul_addr".to_owned(),
        ));
    }
    app.vips
        .iter()
        .try_for_each(|vip| permit_vip(app, vip, agent))
}

fn permit_vip(app: &App, vip: &Vip, agent: &Agent) -> Result<(), Refusal> {
    let prefix = vip.prefix();
    let covers = |allowed: &[crate::net::Prefix]| allowed.iter().any(|a| a.covers(&prefix));
    let message = match &agent.allowed_vips {
        Some(allowed) if covers(allowed) => return Ok(()),
        Some(_) => format!("VIP {vip} is not allowed"),
        None => {
            let trusted = !matches!(app.source, Source::Http | Source::Consul);
            if trusted || prefix.is_host() {
                return Ok(());
            }
            format!(
                "VIP {vip} is more than one address, which {} may not register",
                app.source
            )
        }
    };
    Err(Refusal::Policy {
        key: "agent.allowed_vips",
        message,
    })
}
