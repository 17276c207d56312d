//! The desired state of each VIP: route, address, NAT; and the ports and files to watch for the apps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::Registry;
use crate::app::{App, AppName, NatSpec, Protocol};
use crate::net::{Family, Prefix};
use crate::plan::{AddressSpec, Desired, NatRule};

impl Registry {
    /// The desired state of one VIP, from its app's state. `lifetime` is the addresses' lease.
    pub fn desired(&self, vip: &Prefix, lifetime: Option<Duration>) -> Desired {
        let mut desired = Desired::default();
        // A VIP that cuts the host off must not be there even for the moment until that is known.
        if !self.facts.known {
            return desired;
        }
        let managed = self.agent.vip_interface.is_some();
        let holder = self.claims.holder(vip);
        let entry = holder.and_then(|name| self.apps.get(name));
        if let Some(entry) = entry.filter(|entry| entry.refusal.is_none())
            && let Some(machine) = entry.vip(vip)
        {
            desired.route = machine.route().map(Rc::clone);
            desired.address = entry.is_addressed(vip).then(|| AddressSpec {
                label: self.label(&entry.app, vip),
                lifetime,
            });
            if machine.has_nat() {
                desired.nat = self.nat_rules(*vip, &entry.app.name, &entry.app.nats);
            }
        }
        // The address stays for the clients of the app before, also where the new holder is not up yet.
        if let Some(leaving) = self.released.get(vip) {
            desired.address.get_or_insert_with(|| AddressSpec {
                label: leaving.label.clone(),
                lifetime,
            });
            let holder_has_nat = entry.and_then(|entry| entry.vip(vip));
            if !holder_has_nat.is_some_and(|machine| machine.has_nat()) {
                desired.nat = self.nat_rules(*vip, &leaving.app, &leaving.nats);
            }
        }
        desired.address = desired.address.filter(|_| managed);
        desired
    }

    /// Whether another program manages the addresses: then a route does not wait for its address.
    pub fn addresses_external(&self) -> bool {
        self.agent.vip_interface.is_none()
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

    fn nat_rules(&self, vip: Prefix, app: &AppName, nats: &BTreeSet<NatSpec>) -> BTreeSet<NatRule> {
        let Some(target) = self.facts.nat_target.get(&vip.family()) else {
            return BTreeSet::new();
        };
        let rule = |nat: &NatSpec| NatRule {
            app: app.clone(),
            vip,
            protocol: nat.protocol,
            listen: nat.listen,
            target: *target,
            destination: nat.destination,
        };
        nats.iter().map(rule).collect()
    }

    /// The ports of `port` monitors.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        self.checks.ports()
    }

    /// Whether [`Registry::ports`] has changed since the last call.
    pub fn take_ports_changed(&mut self) -> bool {
        self.checks.take_ports_changed()
    }

    /// The maintenance file of each app that has one.
    pub fn maintenance_files(&self) -> &BTreeMap<AppName, PathBuf> {
        &self.maintenance_files
    }

    /// Apps whose entry in [`Registry::maintenance_files`] changed since the last call, with the new
    /// file.
    pub fn take_maintenance_files_changed(&mut self) -> Vec<(AppName, Option<PathBuf>)> {
        let changed = std::mem::take(&mut self.maintenance_files_changed);
        let files = &self.maintenance_files;
        let with_file = changed.into_iter().map(|app| {
            let file = files.get(&app).cloned();
            (app, file)
        });
        with_file.collect()
    }

    /// Whether [`Registry::vips`] may have changed since the last call.
    pub fn take_vips_changed(&mut self) -> bool {
        std::mem::take(&mut self.vips_changed)
    }

    /// All VIPs that we have or may have on the interface.
    pub fn vips(&self) -> BTreeSet<Prefix> {
        let leaving = self.released.keys();
        self.claims.vips().chain(leaving).copied().collect()
    }

    /// Whether this address is one of our VIPs.
    pub fn is_vip(&self, addr: std::net::IpAddr) -> bool {
        let known = |vip| self.claims.holder(&vip).is_some() || self.released.contains_key(&vip);
        Prefix::covering(addr).any(known)
    }
}
