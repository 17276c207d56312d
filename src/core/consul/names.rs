//! App names of Consul's services.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::AppName;
use crate::consul::Service;

/// App names and the service ids that hold them.
#[derive(Default)]
pub struct AppNames(BTreeMap<AppName, String>);

/// A service and the name of its app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedService {
    pub name: AppName,
    pub service: Service,
    /// The name it should have, and the id of the service that holds it.
    pub taken_by: Option<(AppName, String)>,
}

impl AppNames {
    /// Every service with the name its app has: the service's own where it is the only one or the first
    /// that was there, `SERVICE@ID` for the others. Of two that would have the same one, it stays with
    /// the one that has it, else goes to the one with the smaller id.
    pub fn assign<'s>(&mut self, services: impl Iterator<Item = &'s Service>) -> Vec<NamedService> {
        let before = std::mem::take(&mut self.0);
        let held = |name: &AppName, service: &Service| before.get(name) == Some(&service.id);
        let mut groups: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
        for service in services {
            groups.entry(&service.name).or_default().push(service);
        }
        let mut wanted: Vec<(AppName, &Service)> = Vec::new();
        let mut taken = BTreeSet::new();
        for (name, group) in groups {
            let own = AppName::sanitized(name);
            let holder = group.iter().find(|service| held(&own, service));
            let holder = holder.or(group.first()).map(|service| &service.id);
            for service in &group {
                // Another service's sanitized name may be the same.
                let plain = holder == Some(&service.id) && !taken.contains(&own);
                let app = match plain {
                    true => own.clone(),
                    false => AppName::of_instance(name, &service.id),
                };
                taken.insert(app.clone());
                wanted.push((app, service));
            }
        }
        let (had, wanted): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|(name, service)| held(name, service));
        let (mut named, mut clashing) = (Vec::new(), Vec::new());
        for (name, service) in had.into_iter().chain(wanted) {
            if let Some(holder) = self.0.get(&name) {
                clashing.push((name, holder.clone(), service.clone()));
                continue;
            }
            self.0.insert(name.clone(), service.id.clone());
            named.push(NamedService {
                name,
                service: service.clone(),
                taken_by: None,
            });
        }
        for (wanted, holder, service) in clashing {
            let mut others = (2..).map(|number| AppName::numbered(&wanted, number));
            let free = others.find(|name| !self.0.contains_key(name));
            let name = free.unwrap_or_else(|| wanted.clone());
            self.0.insert(name.clone(), service.id.clone());
            named.push(NamedService {
                name,
                service,
                taken_by: Some((wanted, holder)),
            });
        }
        named
    }
}
