//! The checks of one answer, indexed by node, service id and service name.

use std::collections::BTreeMap;

use crate::app::App;
use crate::consul::{Check, Checks};

/// The checks of one answer, indexed.
pub struct CheckIndex {
    checks: Checks,
    /// Their indexes in `checks`, ascending.
    of_node: Vec<usize>,
    by_id: BTreeMap<String, Vec<usize>>,
    by_name: BTreeMap<String, Vec<usize>>,
}

impl CheckIndex {
    /// Indexes the checks of an answer.
    pub fn new(checks: Checks) -> Self {
        let mut check_index = Self {
            checks: Checks::default(),
            of_node: Vec::new(),
            by_id: BTreeMap::new(),
            by_name: BTreeMap::new(),
        };
        for (index, check) in checks.all.iter().enumerate() {
            if check.service_id.is_empty() {
                check_index.of_node.push(index);
                continue;
            }
            let of_id = check_index.by_id.entry(check.service_id.clone());
            of_id.or_default().push(index);
            let of_name = check_index.by_name.entry(check.service_name.clone());
            of_name.or_default().push(index);
        }
        check_index.checks = checks;
        check_index
    }

    /// The answer held all checks.
    pub fn is_complete(&self) -> bool {
        self.checks.complete
    }

    /// The checks of the app's service, or of the one instance of it that the app is.
    fn checks_of(&self, app: &App) -> &[usize] {
        let found = match &app.instance_id {
            Some(id) => self.by_id.get(id),
            None => self.by_name.get(app.service()),
        };
        found.map_or(&[], Vec::as_slice)
    }

    /// Whether there is a check of the app's service.
    pub fn has_checks_of(&self, app: &App) -> bool {
        !self.checks_of(app).is_empty()
    }

    /// The node's own checks.
    pub fn of_node(&self) -> impl Iterator<Item = &Check> {
        self.of_node
            .iter()
            .filter_map(|at| self.checks.all.get(*at))
    }

    /// The checks that decide on an app: the node's and its own, in Consul's order.
    pub fn deciding(&self, app: &App) -> impl Iterator<Item = &Check> {
        let mut all: Vec<usize> = self
            .of_node
            .iter()
            .chain(self.checks_of(app))
            .copied()
            .collect();
        all.sort_unstable();
        all.into_iter().filter_map(|at| self.checks.all.get(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consul::Status;

    #[test]
    fn an_apps_checks_are_the_nodes_and_its_own_in_their_order() {
        let check = |id: &str, service_id: &str, service_name: &str| Check {
            id: id.to_owned(),
            name: id.to_owned(),
            status: Status::Passing,
            service_id: service_id.to_owned(),
            service_name: service_name.to_owned(),
            output: String::new(),
        };
        let all = vec![
            check("a", "web-2", "web"),
            check("serf", "", ""),
            check("b", "web-1", "web"),
            check("c", "log-1", "log"),
            check("full", "", ""),
        ];
        let check_index = CheckIndex::new(Checks {
            all,
            complete: true,
        });
        let app = |instance: Option<&str>| {
            let name = "web".parse().unwrap();
            let mut app = crate::core::services::app_without_definition(name, "");
            app.instance_id = instance.map(str::to_owned);
            app
        };
        let of = |instance| {
            let app = app(instance);
            let ids = check_index.deciding(&app).map(|check| check.id.as_str());
            (
                check_index.has_checks_of(&app),
                ids.collect::<Vec<_>>().join(" "),
            )
        };
        assert_eq!(of(Some("web-1")), (true, "serf b full".to_owned()));
        assert_eq!(of(None), (true, "a serf b full".to_owned()));
        assert_eq!(of(Some("web-9")), (false, "serf full".to_owned()));
    }
}
