//! What the apps of Consul's services are called.

use std::collections::{BTreeMap, BTreeSet};

use crate::app::AppName;
use crate::consul::Service;

/// Which instance goes by which name.
#[derive(Default)]
pub struct Names(BTreeMap<AppName, String>);

/// A service and what its app is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: AppName,
    pub service: Service,
    /// The name it would have, and the id of the service that has it.
    pub taken_by: Option<(AppName, String)>,
}

impl Names {
    /// Every service with the name its app has: the service's own where it is the only one or the first
    /// that was there, `SERVICE@ID` for the others. Of two that would have the same one, it stays with
    /// the one that has it, else goes to the one with the smaller id.
    pub fn give<'s>(&mut self, services: impl Iterator<Item = &'s Service>) -> Vec<Named> {
        let before = std::mem::take(&mut self.0);
        let held = |name: &AppName, service: &Service| before.get(name) == Some(&service.id);
        let mut groups: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
        for service in services {
            groups.entry(&service.name).or_default().push(service);
        }
        let mut wanted: Vec<(AppName, &Service)> = Vec::new();
        let mut spoken_for = BTreeSet::new();
        for (name, group) in groups {
            let own = AppName::resembling(name);
            let holder = group.iter().find(|service| held(&own, service));
            let holder = holder.or(group.first()).map(|service| &service.id);
            for service in &group {
                // Another service may resemble this one.
                let plain = holder == Some(&service.id) && !spoken_for.contains(&own);
                let app = match plain {
                    true => own.clone(),
                    false => AppName::of_instance(name, &service.id),
                };
                spoken_for.insert(app.clone());
                wanted.push((app, service));
            }
        }
        wanted.sort_by_key(|(name, service)| !held(name, service));
        let (mut named, mut clashing) = (Vec::new(), Vec::new());
        for (name, service) in wanted {
            if let Some(holder) = self.0.get(&name) {
                clashing.push((name, holder.clone(), service.clone()));
                continue;
            }
            self.0.insert(name.clone(), service.id.clone());
            named.push(Named {
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
            named.push(Named {
                name,
                service,
                taken_by: Some((wanted, holder)),
            });
        }
        named
    }
}
