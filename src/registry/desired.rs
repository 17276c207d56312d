//! From the apps to what shall be: routes, addresses, NAT, and what has to be watched for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::Registry;
use super::entry::Entry;
use crate::app::{App, AppName, MonitorSpec, NatSpec, Protocol};
use crate::net::{Family, Prefix};
use crate::plan::{AddressSpec, Desired, NatRule};

impl Registry {
    /// What shall be. `lifetime` is the addresses' lease.
    pub fn desired(&self, lifetime: Option<Duration>) -> Desired {
        let mut desired = Desired {
            unaddressed: self.agent.vip_interface.is_none(),
            ..Desired::default()
        };
        // A VIP that cuts the host off must not be there even for the moment until that is known.
        if !self.facts.known {
            return desired;
        }
        for (name, entry) in &self.apps {
            for vip in entry
                .vips()
                .filter(|vip| self.claims.get(vip) == Some(name))
            {
                if let Some(attributes) = entry.route(&vip) {
                    desired.routes.insert(vip, attributes.clone());
                }
                if entry.addressed(&vip) {
                    want_address(&mut desired, vip, self.label(&entry.app, &vip), lifetime);
                }
                if entry.nat(&vip) {
                    self.want_nat(&mut desired, vip, name, &entry.app.nats);
                }
            }
        }
        // Whoever has it now may not want it yet: the clients of the one before are still there.
        for (vip, leaving) in &self.leaving {
            want_address(&mut desired, *vip, leaving.label.clone(), lifetime);
            let holder = self.claims.get(vip).and_then(|name| self.apps.get(name));
            if !holder.is_some_and(|entry| entry.nat(vip)) {
                self.want_nat(&mut desired, *vip, &leaving.app, &leaving.nats);
            }
        }
        desired
    }

    /// GoCast's label: `lo:NAME` in the 15 bytes that IFA_LABEL has room for, the same for all instances
    /// of a service. IPv6 has none.
    pub(super) fn label(&self, app: &App, vip: &Prefix) -> Option<String> {
        let interface = self.agent.vip_interface.as_ref()?;
        if vip.family() == Family::Ipv6 {
            return None;
        }
        let mut label = format!("{interface}:{}", app.service());
        while label.len() > 15 {
            label.pop();
        }
        Some(label)
    }

    fn want_nat(
        &self,
        desired: &mut Desired,
        vip: Prefix,
        app: &AppName,
        nats: &BTreeSet<NatSpec>,
    ) {
        let Some(target) = self.facts.nat_target.get(&vip.family()) else {
            return;
        };
        desired.nat.rules.extend(nats.iter().map(|nat| NatRule {
            app: app.clone(),
            vip,
            protocol: nat.protocol,
            listen: nat.listen,
            target: *target,
            destination: nat.destination,
        }));
    }

    /// The ports that monitors look at.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        let checks = self.entries().flat_map(|entry| &entry.checks);
        checks
            .filter_map(|check| match check.monitor.spec {
                MonitorSpec::Port { protocol, port, .. } => Some((protocol, port)),
                _ => None,
            })
            .collect()
    }

    pub fn maintenance_files(&self) -> BTreeMap<AppName, PathBuf> {
        let apps = self.entries().map(|entry| &entry.app);
        apps.filter_map(|app| Some((app.name.clone(), app.maintenance_file.clone()?)))
            .collect()
    }

    /// All VIPs that we have or may have on the interface.
    pub fn vips(&self) -> BTreeSet<Prefix> {
        let leaving = self.leaving.keys().copied();
        self.entries()
            .flat_map(Entry::vips)
            .chain(leaving)
            .collect()
    }
}

fn want_address(
    desired: &mut Desired,
    vip: Prefix,
    label: Option<String>,
    lifetime: Option<Duration>,
) {
    if !desired.unaddressed {
        desired
            .addresses
            .entry(vip)
            .or_insert(AddressSpec { label, lifetime });
    }
}
