//! Wanted state and applied state in, what has to be done out. The ordering rule lives here and
//! nowhere else: a route is announced only when its address and its NAT rules are in the kernel, a
//! withdraw waits for nothing, an address is removed only after its route is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::app::{Attributes, Protocol};
use crate::net::Prefix;

/// What a VIP's address looks like in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressSpec {
    /// `IFA_LABEL`; IPv4 alone has one.
    pub label: Option<String>,
    /// The lease; `None` is for ever.
    pub lifetime: Option<Duration>,
}

/// One destination NAT rule: `vip:listen` goes to `target:destination`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NatRule {
    pub vip: Prefix,
    pub protocol: Protocol,
    pub listen: u16,
    pub target: IpAddr,
    pub destination: u16,
}

/// The whole NAT table, replaced in one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatTable {
    pub rules: BTreeSet<NatRule>,
}

/// The routes of this host, each with what the app and its state add; what a peer adds comes later.
pub type Routes = BTreeMap<Prefix, Attributes>;

/// What the registry wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub addresses: BTreeMap<Prefix, AddressSpec>,
    pub nat: NatTable,
    pub routes: Routes,
    /// Whether addresses are ours to manage: if not, a route waits for none.
    pub unaddressed: bool,
}

/// What is known to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Addresses we made or adopted.
    pub addresses: BTreeMap<Prefix, AddressSpec>,
    /// Addresses somebody else made: they serve, and are left alone.
    pub foreign: BTreeSet<Prefix>,
    /// Of both: those that vanished without our doing. Their routes stay for the moment that putting
    /// them back takes; if that fails they are addressed no more.
    pub lost: BTreeSet<Prefix>,
    pub nat: NatTable,
    pub routes: Routes,
}

/// A change in the kernel, performed by the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddAddress {
        prefix: Prefix,
        label: Option<String>,
        /// `None` is for ever.
        lifetime: Option<Duration>,
        /// The address is there already and ours: only its lifetime changes (`NLM_F_REPLACE`).
        replace: bool,
    },
    RemoveAddress {
        prefix: Prefix,
    },
    ReplaceNat(NatTable),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddAddress {
                prefix, replace, ..
            } => {
                write!(f, "{} {prefix}", if *replace { "renew" } else { "add" })
            }
            Self::RemoveAddress { prefix } => write!(f, "remove {prefix}"),
            Self::ReplaceNat(table) => write!(f, "write {} NAT rules", table.rules.len()),
        }
    }
}

/// What a step touches: two steps on one subject are never under way together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Address(Prefix),
    Nat,
}

impl Step {
    pub fn subject(&self) -> Subject {
        match self {
            Self::AddAddress { prefix, .. } | Self::RemoveAddress { prefix } => {
                Subject::Address(*prefix)
            }
            Self::ReplaceNat(_) => Subject::Nat,
        }
    }
}

/// One move towards what is wanted. Advertising is the core's own and cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// The whole set of routes.
    Advertise(Routes),
    Kernel(Step),
}

impl Applied {
    pub fn addressed(&self, prefix: &Prefix) -> bool {
        self.addresses.contains_key(prefix) || self.foreign.contains(prefix)
    }

    /// The routes of `desired` that may be out now: address and NAT are there. A route that is out
    /// already does not go because its NAT rules change.
    fn ready(&self, desired: &Desired) -> Routes {
        let missing: BTreeSet<Prefix> = desired
            .nat
            .rules
            .difference(&self.nat.rules)
            .map(|rule| rule.vip)
            .collect();
        let there = |prefix: &Prefix| desired.unaddressed || self.addressed(prefix);
        desired
            .routes
            .iter()
            .filter(|(prefix, _)| {
                let nat = !missing.contains(prefix) || self.routes.contains_key(prefix);
                nat && there(prefix)
            })
            .map(|(prefix, attributes)| (*prefix, attributes.clone()))
            .collect()
    }

    /// The address is not there, and nobody is to act as if it were.
    pub fn forget(&mut self, prefix: &Prefix) {
        self.addresses.remove(prefix);
        self.foreign.remove(prefix);
        self.lost.remove(prefix);
    }

    /// The address was there before us: it serves and is not ours.
    pub fn adopt_foreign(&mut self, prefix: Prefix) {
        self.forget(&prefix);
        self.foreign.insert(prefix);
    }

    /// Records a step that succeeded.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::AddAddress {
                prefix,
                label,
                lifetime,
                ..
            } => {
                let spec = AddressSpec {
                    label: label.clone(),
                    lifetime: *lifetime,
                };
                self.addresses.insert(*prefix, spec);
                self.foreign.remove(prefix);
                self.lost.remove(prefix);
            }
            Step::RemoveAddress { prefix } => self.forget(prefix),
            Step::ReplaceNat(table) => self.nat = table.clone(),
        }
    }
}

/// The moves from `applied` to `desired`, in order. The first withdraws what has to go and announces
/// what may be out already; the last announcement is right only after all kernel steps before it
/// succeeded, so that whoever performs them one by one plans again after each.
pub fn steps(applied: &Applied, desired: &Desired) -> Vec<Move> {
    let mut moves = Vec::new();
    let ready = applied.ready(desired);
    if ready != applied.routes {
        moves.push(Move::Advertise(ready.clone()));
    }
    for (prefix, spec) in &desired.addresses {
        let lost = applied.lost.contains(prefix);
        let held = applied.addresses.get(prefix).filter(|_| !lost);
        let foreign = applied.foreign.contains(prefix) && !lost;
        if held != Some(spec) && !foreign {
            moves.push(Move::Kernel(Step::AddAddress {
                prefix: *prefix,
                label: spec.label.clone(),
                lifetime: spec.lifetime,
                replace: held.is_some(),
            }));
        }
    }
    if desired.nat != applied.nat {
        moves.push(Move::Kernel(Step::ReplaceNat(desired.nat.clone())));
    }
    if desired.routes != ready {
        moves.push(Move::Advertise(desired.routes.clone()));
    }
    for prefix in applied.addresses.keys() {
        if applied.lost.contains(prefix) {
            continue;
        }
        if !desired.addresses.contains_key(prefix) {
            moves.push(Move::Kernel(Step::RemoveAddress { prefix: *prefix }));
        }
    }
    moves
}
