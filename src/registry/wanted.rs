//! What is wanted for each VIP: route, address, NAT; and what has to be watched for the apps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::Registry;
use crate::app::{App, AppName, NatSpec, Protocol};
use crate::net::{Family, Prefix};
use crate::plan::{AddressSpec, NatRule, Wanted};

impl Registry {
    /// What is wanted for one VIP, from what its app is now. `lifetime` is the addresses' lease.
    pub fn wanted(&self, vip: &Prefix, lifetime: Option<Duration>) -> Wanted {
        let mut wanted = Wanted::default();
        // A VIP that cuts the host off must not be there even for the moment until that is known.
        if !self.facts.known {
            return wanted;
        }
        let managed = self.agent.vip_interface.is_some();
        let holder = self.claims.holder(vip);
        let entry = holder.and_then(|name| self.apps.get(name));
        if let Some(entry) = entry.filter(|entry| entry.refusal.is_none())
            && let Some(life) = entry.vip(vip)
        {
            wanted.route = life.route().map(Rc::clone);
            wanted.address = entry.is_addressed(vip).then(|| AddressSpec {
                label: self.label(&entry.app, vip),
                lifetime,
            });
            if life.has_nat() {
                wanted.nat = self.nat_rules(*vip, &entry.app.name, &entry.app.nats);
            }
        }
        // Whoever has it now may not want it yet: the clients of the one before are still there.
        if let Some(leaving) = self.leaving.get(vip) {
            wanted.address.get_or_insert_with(|| AddressSpec {
                label: leaving.label.clone(),
                lifetime,
            });
            let holder_has_nat = entry.and_then(|entry| entry.vip(vip));
            if !holder_has_nat.is_some_and(|life| life.has_nat()) {
                wanted.nat = self.nat_rules(*vip, &leaving.app, &leaving.nats);
            }
        }
        wanted.address = wanted.address.filter(|_| managed);
        wanted
    }

    /// Whether addresses are managed elsewhere: then a route waits for none.
    pub fn is_unaddressed(&self) -> bool {
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

    /// The ports that monitors look at.
    pub fn ports(&self) -> BTreeSet<(Protocol, u16)> {
        self.checks.ports()
    }

    /// Whether [`Registry::ports`] is another since this was last asked.
    pub fn take_ports_changed(&mut self) -> bool {
        self.checks.take_ports_changed()
    }

    pub fn maintenance_files(&self) -> &BTreeMap<AppName, PathBuf> {
        &self.maintenance_files
    }

    /// Whether [`Registry::maintenance_files`] are others since this was last asked.
    pub fn take_maintenance_files_changed(&mut self) -> bool {
        std::mem::take(&mut self.maintenance_files_changed)
    }

    /// Whether [`Registry::vips`] may be others since this was last asked.
    pub fn take_vips_changed(&mut self) -> bool {
        std::mem::take(&mut self.vips_changed)
    }

    /// All VIPs that we have or may have on the interface.
    pub fn vips(&self) -> BTreeSet<Prefix> {
        let leaving = self.leaving.keys();
        self.claims.vips().chain(leaving).copied().collect()
    }

    /// Whether this address is one of our VIPs.
    pub fn is_vip(&self, addr: std::net::IpAddr) -> bool {
        let known = |vip| self.claims.holder(&vip).is_some() || self.leaving.contains_key(&vip);
        Prefix::around(addr).any(known)
    }
}
