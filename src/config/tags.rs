//! The tags of a Consul service, as parameters of an app.

use super::{Config, Refusal, parse_app_from_params};
use crate::app::{App, AppName, Source};

/// Whether these tags ask for an announcement.
pub fn is_tagged(tags: &[String], match_tag: &str) -> bool {
    tags.iter()
        .any(|tag| tag == match_tag || tag == SIDECAST_TAG)
}

/// The app that the tags of one instance describe; else what is wrong with them.
pub fn parse_app_from_tags(
    name: AppName,
    id: &str,
    tags: &[String],
    config: &Config,
) -> Result<App, Refusal> {
    let mut params = params(tags).map_err(Refusal::Invalid)?;
    params.push(("name".to_owned(), name.to_string()));
    let mut app = parse_app_from_params(&params, Source::Consul, config)?;
    app.instance_id = Some(id.to_owned());
    Ok(app)
}

/// The value is all that follows the first `=`. A `sidecast_` tag replaces the `gocast_` tag of the same
/// key.
fn params(tags: &[String]) -> Result<Vec<(String, String)>, String> {
    let ours = with_prefix(tags, "sidecast_")?;
    let mut all = with_prefix(tags, "gocast_")?;
    all.retain(|(key, _)| !ours.iter().any(|(other, _)| other == key));
    all.extend(ours);
    Ok(all)
}

fn with_prefix(tags: &[String], prefix: &str) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    for tag in tags {
        let Some(rest) = tag.strip_prefix(prefix) else {
            continue;
        };
        match rest.split_once('=') {
            // Consul knows the name.
            Some(("name", _)) => return Err(format!("{tag}: the name is the service's")),
            Some((key, value)) => found.push((key.to_owned(), value.to_owned())),
            // A monitor tag without a value is an error: the app would go unchecked.
            None if VALUE_REQUIRED.contains(&rest) => return Err(format!("{tag}: has no value")),
            None => {}
        }
    }
    Ok(found)
}

const SIDECAST_TAG: &str = "enable_sidecast";
const VALUE_REQUIRED: [&str; 5] = ["vip", "vips", "monitor", "nat", "vip_communities"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Policy;
    use std::collections::BTreeMap;

    fn config() -> Config {
        let text = "agent: {consul_addr: 'http://localhost:8500'}\n\
                    bgp: {local_as: 65001, peer_as: 65000, peer_ip: 10.0.0.1}\n";
        let mut read = |_: &std::path::Path| Ok(text.to_owned());
        super::super::load(Some("f.yaml"), &BTreeMap::new(), &mut read)
            .unwrap()
            .config
    }

    /// The app, if the policy permits it; else the reason.
    fn parse(tags: &[&str]) -> Result<App, String> {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let config = config();
        let policy = Policy::new(&config.agent, &config.bgp);
        parse_app_from_tags("web".parse().unwrap(), "web-1", &tags, &config)
            .and_then(|app| policy.permit(&app).map(|()| app))
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn gocasts_tags_make_an_app() {
        let app = parse(&[
            "enable_gocast",
            "gocast_vip=192.0.2.1/32",
            "gocast_vip=2001:db8::1/128",
            "gocast_monitor=consul",
            "gocast_monitor=http://localhost:80/?a=b",
            "gocast_nat=tcp:80:8080",
            "gocast_vip_communities=65001:1,65001:2",
            "other=1",
            "gocast",
        ])
        .unwrap();
        assert_eq!(
            (app.source, app.instance_id.as_deref()),
            (Source::Consul, Some("web-1"))
        );
        assert_eq!(
            (app.vips.len(), app.monitors.len(), app.nats.len()),
            (2, 2, 1)
        );
        assert_eq!(app.attributes.communities.len(), 2);
        let specs: Vec<String> = app.monitors.iter().map(|m| m.spec.to_string()).collect();
        assert!(
            specs.iter().any(|spec| spec.ends_with("?a=b")),
            "monitors of a tag: {specs:?}"
        );
    }

    #[test]
    fn sidecast_tags_replace_gocast_tags() {
        let app = parse(&[
            "gocast_vip=192.0.2.1/32",
            "sidecast_vip=192.0.2.2/32",
            "gocast_monitor=port:tcp:80",
            "sidecast_interval=1s",
            "sidecast_rise=3",
            "sidecast_fall=2",
            "sidecast_timeout=500ms",
            "sidecast_drain_time=4s",
            "sidecast_med=7",
            "sidecast_peers=10.0.0.1",
        ])
        .unwrap();
        let vips: Vec<String> = app.vips.iter().map(ToString::to_string).collect();
        assert_eq!(vips, ["192.0.2.2/32"]);
        let monitor = app.monitors.first().unwrap();
        assert_eq!(
            (monitor.rise, monitor.fall, monitor.interval.as_secs()),
            (3, 2, 1)
        );
        assert_eq!(
            (app.options.drain_time.as_secs(), app.attributes.med),
            (4, Some(7))
        );
        assert_eq!(app.options.peers, ["10.0.0.1".parse().unwrap()].into());
    }

    #[test]
    fn tags_that_do_not_parse_say_why() {
        let vip = "gocast_vip=192.0.2.1/32";
        for (tags, why) in [
            (vec!["enable_gocast"], "need ip/mask"),
            (vec!["gocast_vip=192.0.2.1"], "need ip/mask"),
            (vec!["gocast_vip=127.0.0.1/32"], "cannot be a VIP"),
            (vec!["gocast_vip=192.0.2.0/24"], "set agent.allowed_vips"),
            (vec!["gocast_vip=10.0.0.1/32"], "a BGP peer"),
            (
                vec![vip, "gocast_monitor=exec:/bin/true"],
                "set agent.allow_exec",
            ),
            (
                vec![vip, "gocast_monitor=exec:/x --a=1"],
                "set agent.allow_exec",
            ),
            (vec![vip, "gocast_monitor="], "monitor"),
            (vec![vip, "gocast_monitor"], "has no value"),
            (
                vec![vip, "gocast_monitr=port:tcp:80"],
                "did you mean `monitor`?",
            ),
            (
                vec![vip, "sidecast_monitr=port:tcp:80"],
                "did you mean `monitor`?",
            ),
            (vec![vip, "sidecast_peers=10.0.0.9"], "is no peer of ours"),
            (vec![vip, "sidecast_peers=x"], "should be a peer"),
            (vec![vip, "gocast_name=x"], "the name is the service's"),
            (
                vec![vip, "gocast_nat=tcp"],
                "protocol:listenPort:destinationPort",
            ),
        ] {
            let report = parse(&tags).expect_err(why);
            assert!(report.contains(why), "{tags:?}: {report}");
        }
    }

    #[test]
    fn only_the_enabling_tags_ask_for_an_announcement() {
        let tagged = |tags: &[&str]| {
            let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
            is_tagged(&tags, "enable_gocast")
        };
        assert!(tagged(&["a", "enable_gocast"]) && tagged(&["enable_sidecast"]));
        assert!(!tagged(&[]) && !tagged(&["enable_gocast=1", "gocast_vip=192.0.2.1/32"]));
    }
}
