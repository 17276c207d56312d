//! Who holds which VIP. Apps that want one which another holds wait for it, in order of their names.

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
    /// All apps that want it, the holder too, in order.
    wanted_by: Vec<AppName>,
}

impl Claims {
    pub fn holder(&self, vip: &Prefix) -> Option<&AppName> {
        self.vips.get(vip).map(|claim| &claim.holder)
    }

    pub fn holds(&self, app: &AppName, vip: &Prefix) -> bool {
        self.holder(vip) == Some(app)
    }

    /// All apps that want this VIP.
    pub fn wanted_by(&self, vip: &Prefix) -> &[AppName] {
        let claim = self.vips.get(vip);
        claim.map_or(&[], |claim| claim.wanted_by.as_slice())
    }

    /// The app wants the VIP; it holds it if nobody else does, and then `true` is returned.
    pub fn add(&mut self, app: &AppName, vip: Prefix) -> bool {
        let claim = self.vips.entry(vip).or_insert_with(|| Claim {
            holder: app.clone(),
            wanted_by: Vec::new(),
        });
        if let Err(at) = claim.wanted_by.binary_search(app) {
            claim.wanted_by.insert(at, app.clone());
        }
        claim.wanted_by.len() == 1
    }

    /// The app wants the VIP no more; if it held it, the next one does.
    pub fn remove(&mut self, app: &AppName, vip: &Prefix) {
        let Some(claim) = self.vips.get_mut(vip) else {
            return;
        };
        claim.wanted_by.retain(|other| other != app);
        match claim.wanted_by.first() {
            None => {
                self.vips.remove(vip);
            }
            Some(next) if claim.holder == *app => claim.holder = next.clone(),
            Some(_) => {}
        }
    }

    /// The VIP goes from its holder to another app that wants it.
    pub fn hand_over(&mut self, vip: &Prefix, to: AppName) {
        if let Some(claim) = self.vips.get_mut(vip) {
            claim.holder = to;
        }
    }

    pub fn rename(&mut self, old: &AppName, new: &AppName, vips: impl Iterator<Item = Prefix>) {
        for vip in vips {
            let held = self.holds(old, &vip);
            self.remove(old, &vip);
            self.add(new, vip);
            if held {
                self.hand_over(&vip, new.clone());
            }
        }
    }

    /// How many VIPs there are.
    pub fn len(&self) -> usize {
        self.vips.len()
    }

    pub fn vips(&self) -> impl Iterator<Item = &Prefix> {
        self.vips.keys()
    }
}
