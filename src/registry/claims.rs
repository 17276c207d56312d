//! Which app holds which VIP. Other claimants of a VIP wait for it, in order of their names.

use std::collections::BTreeMap;

use crate::app::AppName;
use crate::net::Prefix;

#[derive(Debug, Default)]
pub(super) struct Claims {
    vips: BTreeMap<Prefix, Claim>,
}

#[derive(Debug)]
struct Claim {
    holder: AppName,
    /// All claimants, the holder included, in order.
    claimants: Vec<AppName>,
}

impl Claims {
    /// The app that holds the VIP.
    pub fn holder(&self, vip: &Prefix) -> Option<&AppName> {
        self.vips.get(vip).map(|claim| &claim.holder)
    }

    /// Whether the app holds the VIP.
    pub fn holds(&self, app: &AppName, vip: &Prefix) -> bool {
        self.holder(vip) == Some(app)
    }

    /// All claimants of this VIP.
    pub fn claimants(&self, vip: &Prefix) -> &[AppName] {
        let claim = self.vips.get(vip);
        claim.map_or(&[], |claim| claim.claimants.as_slice())
    }

    /// Adds a claim. Returns `true` if the app now holds the VIP, because no other app does.
    pub fn add(&mut self, app: &AppName, vip: Prefix) -> bool {
        // Mostly it stays the only one.
        let claim = self.vips.entry(vip).or_insert_with(|| Claim {
            holder: app.clone(),
            claimants: vec![app.clone()],
        });
        if let Err(at) = claim.claimants.binary_search(app) {
            claim.claimants.insert(at, app.clone());
        }
        claim.claimants.len() == 1
    }

    /// Removes a claim; if the app held the VIP, the next claimant holds it.
    pub fn remove(&mut self, app: &AppName, vip: &Prefix) {
        let Some(claim) = self.vips.get_mut(vip) else {
            return;
        };
        claim.claimants.retain(|other| other != app);
        match claim.claimants.first() {
            None => {
                self.vips.remove(vip);
            }
            Some(next) if claim.holder == *app => claim.holder = next.clone(),
            Some(_) => {}
        }
    }

    /// Passes the VIP from its holder to another claimant.
    pub fn transfer(&mut self, vip: &Prefix, to: AppName) {
        if let Some(claim) = self.vips.get_mut(vip) {
            claim.holder = to;
        }
    }

    /// Renames an app in its claims.
    pub fn rename(&mut self, old: &AppName, new: &AppName, vips: impl Iterator<Item = Prefix>) {
        for vip in vips {
            let held = self.holds(old, &vip);
            self.remove(old, &vip);
            self.add(new, vip);
            if held {
                self.transfer(&vip, new.clone());
            }
        }
    }

    /// How many VIPs there are.
    pub fn len(&self) -> usize {
        self.vips.len()
    }

    /// All claimed VIPs.
    pub fn vips(&self) -> impl Iterator<Item = &Prefix> {
        self.vips.keys()
    }
}
