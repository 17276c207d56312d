//! The services of a node, and the node's name.

use serde_json::Value;

use super::{Response, ResponseError};

/// One registered instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Unique on the node.
    pub id: String,
    /// The name of the service, which its instances share.
    pub name: String,
    pub tags: Vec<String>,
}

/// The answer of `/v1/catalog/node/NODE` or `/v1/catalog/node-services/NODE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// In the order of their ids.
    pub services: Vec<Service>,
    /// `false`: a service that is not in it may exist all the same.
    pub complete: bool,
}

impl Catalog {
    /// Reads an answer about `node`, which must be in it.
    pub fn read(answer: &Response, node: &str) -> Result<Self, ResponseError> {
        const WANTED: ResponseError = ResponseError::Malformed("the services of a node as JSON");
        answer.check()?;
        let value: Value = serde_json::from_slice(&answer.body).map_err(|_| WANTED)?;
        let named = match &value {
            Value::Null => return Err(ResponseError::NoNode),
            Value::Object(_) => value.pointer("/Node/Node").and_then(Value::as_str),
            _ => return Err(WANTED),
        };
        // Consul compares the names of nodes without case.
        if !named.is_some_and(|named| named.eq_ignore_ascii_case(node)) {
            return Err(ResponseError::NoNode);
        }
        let mut complete = !answer.is_filtered();
        let mut services = Vec::new();
        let mut take = |id: Option<&str>, value: &Value| match service(id, value) {
            Some(service) => services.push(service),
            // An unreadable entry may be a service that is already registered.
            None => complete = false,
        };
        match value.get("Services") {
            Some(Value::Object(map)) => map.iter().for_each(|(id, value)| take(Some(id), value)),
            Some(Value::Array(list)) => list.iter().for_each(|value| take(None, value)),
            // A node without services has `{}` here; null is malformed.
            _ => return Err(WANTED),
        }
        services.sort_unstable();
        services.dedup_by(|a, b| a.id == b.id);
        Ok(Self { services, complete })
    }
}

fn service(key: Option<&str>, value: &Value) -> Option<Service> {
    let text = |name| {
        value
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let id = text("ID").or(key)?;
    let tags = match value.get("Tags") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tags)) => tags.iter().map(tag).collect::<Option<_>>()?,
        Some(_) => return None,
    };
    Some(Service {
        id: id.to_owned(),
        name: text("Service")?.to_owned(),
        tags,
    })
}

/// `None` for a tag that is not a string: it might configure the app, so the service counts as unreadable.
fn tag(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The name of the agent's node, from `/v1/agent/self`.
pub fn node_name(answer: &Response) -> Result<String, ResponseError> {
    const WANTED: ResponseError = ResponseError::Malformed("an agent's description of itself");
    answer.check()?;
    let value: Value = serde_json::from_slice(&answer.body).map_err(|_| WANTED)?;
    let name = value.pointer("/Config/NodeName").and_then(Value::as_str);
    match name {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(WANTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Catalog, ResponseError> {
        Catalog::read(&ok(body), "n1")
    }

    fn ok(body: &str) -> Response {
        Response {
            status: 200,
            body: body.into(),
            ..Response::default()
        }
    }

    fn service(id: &str, name: &str, tags: &[&str]) -> Service {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Service {
            id: id.into(),
            name: name.into(),
            tags,
        }
    }

    /// From Consul 1.8.7, shortened.
    const NODE: &str = r#"{"Node": {"ID": "aca2", "Node": "n1", "Address": "127.0.0.1", "Meta": {"a": ""}},
        "Services": {
          "consul": {"ID": "consul", "Service": "consul", "Tags": [], "Port": 8300},
          "w1": {"ID": "w1", "Service": "web", "Tags": ["enable_gocast", "a=b=c"], "Meta": null}}}"#;

    #[test]
    fn services_are_read_by_id_with_their_tags() {
        let catalog = read(NODE).unwrap();
        let want = [
            service("consul", "consul", &[]),
            service("w1", "web", &["enable_gocast", "a=b=c"]),
        ];
        assert_eq!(catalog.services, want);
        assert!(catalog.complete);
        let list = r#"{"Node": {"Node": "N1"}, "Services": [{"ID": "w1", "Service": "web", "Tags": null}]}"#;
        assert_eq!(read(list).unwrap().services, [service("w1", "web", &[])]);
        let none = r#"{"Node": {"Node": "n1"}, "Services": {}}"#;
        assert_eq!(read(none).unwrap().services, []);
    }

    #[test]
    fn a_response_without_the_node_is_rejected() {
        for body in [
            "null",
            "{}",
            r#"{"Services": {}}"#,
            r#"{"Node": null, "Services": {}}"#,
            r#"{"Node": {"Node": "n2"}, "Services": {}}"#,
            r#"{"Node": {"Node": 1}, "Services": {}}"#,
        ] {
            assert_eq!(read(body), Err(ResponseError::NoNode), "{body}");
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for end in 0..NODE.len() {
            assert!(read(&NODE[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn odd_json_is_refused_or_leaves_the_answer_incomplete() {
        for body in [
            "",
            "[]",
            "1",
            "\"x\"",
            "{",
            "<html>",
            "\u{feff}{}",
            r#"{"Node": {"Node": "n1"}}"#,
            r#"{"Node": {"Node": "n1"}, "Services": null}"#,
            r#"{"Node": {"Node": "n1"}, "Services": 7}"#,
            &"[".repeat(100_000),
        ] {
            assert!(read(body).is_err(), "{body:.30}");
        }
        for odd in [
            "1",
            "null",
            "[]",
            r#"{"ID": 3}"#,
            r#"{"Service": ["web"]}"#,
            r#"{"Service": ""}"#,
            r#"{"Service": "web", "Tags": "enable_gocast"}"#,
            r#"{"Service": "web", "Tags": [1]}"#,
        ] {
            let body = format!(
                r#"{{"Node": {{"Node": "n1"}}, "Services": {{"odd": {odd}, "x": {{"Service": "x"}}}}}}"#
            );
            let catalog = read(&body).unwrap();
            assert_eq!(catalog.services, [service("x", "x", &[])], "{odd}");
            assert!(!catalog.complete, "{odd}");
        }
    }

    #[test]
    fn filtered_results_are_incomplete() {
        let mut answer = ok(NODE);
        answer
            .headers
            .set("x-consul-results-filtered-by-acls", "true");
        assert!(!Catalog::read(&answer, "n1").unwrap().complete);
        answer.status = 500;
        assert!(Catalog::read(&answer, "n1").is_err());
    }

    #[test]
    fn the_agent_says_its_name() {
        assert_eq!(
            node_name(&ok(r#"{"Config": {"NodeName": "n1"}, "Member": {}}"#)).unwrap(),
            "n1"
        );
        for body in [
            "null",
            "{}",
            r#"{"Config": {"NodeName": ""}}"#,
            r#"{"Config": {"NodeName": 1}}"#,
            "x",
        ] {
            assert!(node_name(&ok(body)).is_err(), "{body}");
        }
    }
}
