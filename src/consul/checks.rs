//! The checks of a node, and the health of a service that follows from them.

use serde_json::Value;

use super::{Response, ResponseError};

/// One check of a service or of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub id: String,
    pub name: String,
    pub status: Status,
    /// Empty: a check of the node itself, such as `serfHealth` and the node's maintenance mode.
    pub service_id: String,
    pub service_name: String,
    /// The first line of its last output.
    pub output: String,
}

/// The status of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Passing,
    Warning,
    /// Also an unknown status.
    Critical,
    /// Critical only because the agent has just started and has not run it yet.
    NotRun,
}

impl Check {
    /// An operator has put the service or its node into maintenance mode.
    fn is_maintenance(&self) -> bool {
        self.id == NODE_MAINTENANCE || self.id.starts_with(SERVICE_MAINTENANCE)
    }
}

/// The checks of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    pub all: Vec<Check>,
    /// `false`: there may be more.
    pub complete: bool,
}

/// Reads `/v1/health/node/NODE`. A node with an agent has at least the check `serfHealth`, so an empty
/// list is rejected.
pub fn node_checks(answer: &Response) -> Result<Checks, ResponseError> {
    const WANTED: ResponseError = ResponseError::Malformed("the checks of a node as JSON");
    answer.check()?;
    match serde_json::from_slice(&answer.body).map_err(|_| WANTED)? {
        Value::Array(list) if !list.is_empty() => Ok(collect(answer, list.iter())),
        Value::Array(_) | Value::Null => Err(ResponseError::NoChecks),
        _ => Err(WANTED),
    }
}

/// The checks of an agent as the agent itself has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentChecks {
    /// The name of the agent's node, from its checks; `None` without checks.
    pub node: Option<String>,
    pub checks: Checks,
}

/// Reads `/v1/agent/checks`. An agent without checks of its own is an ordinary one.
pub fn agent_checks(answer: &Response) -> Result<AgentChecks, ResponseError> {
    const WANTED: ResponseError = ResponseError::Malformed("an agent's checks as JSON");
    answer.check()?;
    match serde_json::from_slice(&answer.body).map_err(|_| WANTED)? {
        Value::Object(map) => {
            let named = |check: &Value| check.get("Node")?.as_str().map(str::to_owned);
            let mut nodes = map.values().filter_map(named);
            Ok(AgentChecks {
                node: nodes.find(|node| !node.is_empty()),
                checks: collect(answer, map.values()),
            })
        }
        _ => Err(WANTED),
    }
}

fn collect<'v>(answer: &Response, values: impl Iterator<Item = &'v Value>) -> Checks {
    let mut checks = Checks {
        all: Vec::new(),
        complete: !answer.is_filtered(),
    };
    for value in values {
        match check(value) {
            Some(check) => checks.all.push(check),
            None => checks.complete = false,
        }
    }
    checks
}

fn check(value: &Value) -> Option<Check> {
    let object = value.as_object()?;
    let text = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Some(""),
        Some(value) => value.as_str(),
    };
    let output = text("Output")?.trim();
    let kind = text("Type")?;
    let id = text("CheckID").filter(|id| !id.is_empty())?;
    let status = match text("Status")? {
        "passing" => Status::Passing,
        "warning" => Status::Warning,
        // These types always have output once they ran; a script or a TTL check need not.
        "critical" if output.is_empty() && TYPES_WITH_OUTPUT.contains(&kind) => Status::NotRun,
        _ => Status::Critical,
    };
    Some(Check {
        id: id.to_owned(),
        name: text("Name")
            .filter(|name| !name.is_empty())
            .unwrap_or(id)
            .to_owned(),
        status,
        service_id: text("ServiceID")?.to_owned(),
        service_name: text("ServiceName")?.to_owned(),
        output: output
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(MAX_OUTPUT)
            .collect(),
    })
}

/// The health of a service by its checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceHealth {
    Pass,
    Fail(String),
    /// The service or its node is in maintenance mode.
    Maintenance(String),
    /// The service has no check of its own, which counts as failing.
    NoCheck,
    /// The health cannot be determined, with the reason.
    Unknown(&'static str),
}

/// The health of a service by its own checks and the node's: all must pass, and there must be at
/// least one of its own. `complete`: no check is missing from `checks`.
pub fn service_health<'c>(
    checks: impl Iterator<Item = &'c Check>,
    complete: bool,
    warning_passes: bool,
) -> ServiceHealth {
    let (mut own, mut node, mut not_run) = (false, false, false);
    let mut failed = None;
    for check in checks {
        let of_node = check.service_id.is_empty();
        let word = match check.status {
            Status::Warning if !warning_passes => "warning",
            Status::Critical => "critical",
            Status::NotRun => {
                not_run = true;
                own |= !of_node;
                continue;
            }
            Status::Passing | Status::Warning => {
                own |= !of_node;
                node |= of_node;
                continue;
            }
        };
        let maintenance = check.is_maintenance();
        if failed.is_some() && !maintenance {
            continue;
        }
        let Check { name, output, .. } = check;
        let detail = if output.is_empty() {
            String::new()
        } else {
            format!(": {output}")
        };
        let why = format!("Consul's check {name} is {word}{detail}");
        if maintenance {
            return ServiceHealth::Maintenance(why);
        }
        failed = Some(why);
    }
    if let Some(why) = failed {
        return ServiceHealth::Fail(why);
    }
    match (own, not_run) {
        (_, true) => ServiceHealth::Unknown("Consul's agent has not run all checks yet"),
        (true, _) if complete || node => ServiceHealth::Pass,
        (false, _) if complete => ServiceHealth::NoCheck,
        _ => ServiceHealth::Unknown("Consul's token cannot read all checks"),
    }
}

/// Ids of the checks that Consul's maintenance mode registers: of a node, and of a service, followed by its id.
const NODE_MAINTENANCE: &str = "_node_maintenance";
const SERVICE_MAINTENANCE: &str = "_service_maintenance:";
/// Types of checks whose failures always have output.
const TYPES_WITH_OUTPUT: [&str; 6] = ["http", "tcp", "grpc", "udp", "h2ping", "alias"];
const MAX_OUTPUT: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(body: &str) -> Response {
        Response {
            status: 200,
            body: body.into(),
            ..Response::default()
        }
    }

    /// From Consul 1.8.7, shortened.
    const NODE: &str = r#"[{"Node": "n1", "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing",
        "Output": "Agent alive and reachable", "ServiceID": "", "ServiceName": "", "ServiceTags": [], "Type": ""},
      {"Node": "n1", "CheckID": "service:w1", "Name": "Service 'web' check", "Status": "critical", "Notes": "",
        "Output": "dial tcp 127.0.0.1:1: refused\nmore", "ServiceID": "w1", "ServiceName": "web", "Type": "tcp"}]"#;

    #[test]
    fn a_nodes_checks_are_read() {
        let checks = node_checks(&ok(NODE)).unwrap();
        assert!(checks.complete);
        assert_eq!(
            checks.all[1],
            Check {
                id: "service:w1".into(),
                name: "Service 'web' check".into(),
                status: Status::Critical,
                service_id: "w1".into(),
                service_name: "web".into(),
                output: "dial tcp 127.0.0.1:1: refused".into(),
            }
        );
        for end in 0..NODE.len() {
            assert!(node_checks(&ok(&NODE[..end])).is_err(), "{end}");
        }
    }

    #[test]
    fn nothing_at_all_is_not_believed_of_a_node_but_of_an_agent() {
        for body in ["[]", "null"] {
            assert_eq!(node_checks(&ok(body)), Err(ResponseError::NoChecks));
        }
        for body in ["{}", "1", "\"passing\"", "", "[", "not json"] {
            assert!(node_checks(&ok(body)).is_err(), "{body}");
        }
        assert_eq!(
            agent_checks(&ok("{}")).unwrap(),
            AgentChecks {
                node: None,
                checks: Checks {
                    all: vec![],
                    complete: true
                },
            }
        );
        for body in ["[]", "null", "1", "", "{", r#"{"a": "#] {
            assert!(agent_checks(&ok(body)).is_err(), "{body}");
        }
    }

    #[test]
    fn an_agents_checks_say_whose_it_is() {
        let of = |body: &str| agent_checks(&ok(body)).unwrap().node;
        let named = r#"{"a": {"CheckID": "a", "Node": ""}, "b": {"CheckID": "b", "Node": "n1"}}"#;
        assert_eq!(of(named).as_deref(), Some("n1"));
        assert_eq!(of(r#"{"a": {"CheckID": "a"}, "b": {"Node": 7}}"#), None);
    }

    #[test]
    fn a_check_that_cannot_be_read_may_be_the_one_that_fails() {
        for odd in [
            "1",
            "null",
            "[]",
            "{}",
            r#"{"CheckID": 1}"#,
            r#"{"CheckID": "c", "Status": []}"#,
            r#"{"CheckID": "c", "Status": "passing", "ServiceID": {}}"#,
        ] {
            let agent = agent_checks(&ok(&format!(r#"{{"c": {odd}}}"#))).unwrap();
            assert_eq!(
                agent.checks,
                Checks {
                    all: vec![],
                    complete: false
                },
                "{odd}"
            );
        }
    }

    #[test]
    fn only_checks_that_speak_when_they_fail_can_be_not_run_yet() {
        let status = |kind: &str, status: &str, output: &str| {
            let body = format!(
                r#"{{"c": {{"CheckID": "c", "Status": "{status}", "Output": "{output}", "Type": "{kind}"}}}}"#
            );
            agent_checks(&ok(&body)).unwrap().checks.all[0].status
        };
        assert_eq!(status("tcp", "critical", ""), Status::NotRun);
        assert_eq!(status("http", "critical", "500"), Status::Critical);
        assert_eq!(status("ttl", "critical", ""), Status::Critical);
        assert_eq!(status("", "critical", ""), Status::Critical);
        assert_eq!(status("", "maintenance", ""), Status::Critical);
        assert_eq!(status("", "", ""), Status::Critical);
    }

    fn check(service: &str, status: Status) -> Check {
        Check {
            id: "c".into(),
            name: "c".into(),
            status,
            service_id: service.into(),
            service_name: service.trim_end_matches(char::is_numeric).into(),
            output: String::new(),
        }
    }

    fn verdict(checks: &[(&str, Status)], complete: bool, warning_passes: bool) -> ServiceHealth {
        let checks: Vec<Check> = checks
            .iter()
            .map(|(service, status)| check(service, *status))
            .collect();
        let concern = |c: &&Check| c.service_id.is_empty() || c.service_id == "w1";
        let concerning = checks.iter().filter(concern);
        service_health(concerning, complete, warning_passes)
    }

    #[test]
    fn all_own_checks_and_the_nodes_must_pass() {
        use Status::{Critical, NotRun, Passing, Warning};
        let of = |checks: &[_]| verdict(checks, true, false);
        assert_eq!(
            of(&[("", Passing), ("w1", Passing), ("w2", Critical)]),
            ServiceHealth::Pass
        );
        assert!(matches!(
            of(&[("w1", Passing), ("w1", Critical)]),
            ServiceHealth::Fail(_)
        ));
        assert!(matches!(
            of(&[("", Critical), ("w1", Passing)]),
            ServiceHealth::Fail(_)
        ));
        assert!(matches!(of(&[("w1", Warning)]), ServiceHealth::Fail(_)));
        assert_eq!(verdict(&[("w1", Warning)], true, true), ServiceHealth::Pass);
        assert_eq!(
            of(&[("", Passing), ("w2", Passing)]),
            ServiceHealth::NoCheck
        );
        assert!(matches!(
            of(&[("w1", NotRun), ("", Passing)]),
            ServiceHealth::Unknown(_)
        ));
        assert!(matches!(
            of(&[("w1", NotRun), ("", Critical)]),
            ServiceHealth::Fail(_)
        ));
    }

    #[test]
    fn what_may_be_hidden_is_unknown_unless_it_fails_already() {
        use Status::{Critical, Passing};
        let of = |checks: &[_]| verdict(checks, false, false);
        assert!(matches!(of(&[]), ServiceHealth::Unknown(_)));
        assert!(matches!(of(&[("w1", Passing)]), ServiceHealth::Unknown(_)));
        assert!(matches!(of(&[("w1", Critical)]), ServiceHealth::Fail(_)));
        assert_eq!(of(&[("", Passing), ("w1", Passing)]), ServiceHealth::Pass);
    }
}
