//! Compares the desired with the applied state of one VIP and returns the steps between them. The
//! ordering rule is implemented only here: a route is announced only when its address and its NAT
//! rules are in the kernel, a withdraw waits for nothing, an address is removed only after its route is
//! gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::app::{AppName, Attributes, Protocol};
use crate::net::{PeerName, Prefix};
use crate::small_set::SmallSet;

/// What a VIP's address looks like in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressSpec {
    /// `IFA_LABEL`; IPv4 alone has one.
    pub label: Option<String>,
    /// The lease; `None` is forever.
    pub lifetime: Option<Duration>,
}

/// One destination NAT rule: `vip:listen` goes to `target:destination`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NatRule {
    /// The app, which names the rule's counter, shared by all its VIPs.
    pub app: AppName,
    pub vip: Prefix,
    pub protocol: Protocol,
    pub listen: u16,
    pub target: IpAddr,
    pub destination: u16,
}

/// NAT rules to add and to remove, in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatChange {
    pub add: BTreeSet<NatRule>,
    pub remove: BTreeSet<NatRule>,
}

/// NAT rules by VIP; none has an empty set.
pub type NatRules = BTreeMap<Prefix, BTreeSet<NatRule>>;

/// A VIP's route: what the app and its state add; what a peer adds comes later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    pub attributes: Attributes,
    /// To whom alone it is announced; empty: to all peers.
    pub peers: SmallSet<PeerName>,
}

/// The routes of this host.
pub type Routes = BTreeMap<Prefix, Rc<Route>>;

/// The desired state of one VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    pub route: Option<Rc<Route>>,
    /// `None` also where addresses are managed elsewhere.
    pub address: Option<AddressSpec>,
    pub nat: BTreeSet<NatRule>,
}

/// The applied state: what the kernel and the peers have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Addresses we made or adopted.
    pub addresses: BTreeMap<Prefix, AddressSpec>,
    /// Addresses that another program added: used, but never changed.
    pub foreign: BTreeSet<Prefix>,
    /// Addresses of either kind that were removed by something else. Their routes stay while they are
    /// being added again; if that fails, the routes are withdrawn.
    pub lost: BTreeSet<Prefix>,
    /// Addresses being removed; adding one again waits until it is gone.
    pub removing: BTreeSet<Prefix>,
    pub nat: NatRules,
    pub routes: Routes,
}

/// A change in the kernel, performed by the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddAddress {
        prefix: Prefix,
        label: Option<String>,
        /// `None` is forever.
        lifetime: Option<Duration>,
        /// The address is there already and ours: only its lifetime changes (`NLM_F_REPLACE`).
        replace: bool,
    },
    RemoveAddress {
        prefix: Prefix,
    },
    UpdateNat(NatChange),
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
            Self::UpdateNat(change) => write!(f, "{change}"),
        }
    }
}

impl fmt::Display for NatChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (added, removed) = (self.add.len(), self.remove.len());
        match (added, removed) {
            (_, 0) => write!(f, "add {added} NAT rules"),
            (0, _) => write!(f, "remove {removed} NAT rules"),
            _ => write!(f, "add {added} NAT rules and remove {removed}"),
        }
    }
}

impl NatChange {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Adds the difference between a VIP's applied and desired rules.
    pub fn extend(&mut self, there: &BTreeSet<NatRule>, desired: &BTreeSet<NatRule>) {
        self.add.extend(desired.difference(there).cloned());
        self.remove.extend(there.difference(desired).cloned());
    }

    /// The VIPs whose rules change.
    pub fn vips(&self) -> BTreeSet<Prefix> {
        let rules = self.add.iter().chain(&self.remove);
        rules.map(|rule| rule.vip).collect()
    }

    /// Applies the change to a set of rules.
    pub fn apply(&self, rules: &mut NatRules) {
        for rule in &self.remove {
            if let Some(of_vip) = rules.get_mut(&rule.vip) {
                of_vip.remove(rule);
                if of_vip.is_empty() {
                    rules.remove(&rule.vip);
                }
            }
        }
        for rule in &self.add {
            rules.entry(rule.vip).or_default().insert(rule.clone());
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
    /// What the step changes.
    pub fn subject(&self) -> Subject {
        match self {
            Self::AddAddress { prefix, .. } | Self::RemoveAddress { prefix } => {
                Subject::Address(*prefix)
            }
            Self::UpdateNat(_) => Subject::Nat,
        }
    }
}

impl Applied {
    /// Whether the address is present, whoever added it.
    pub fn addressed(&self, prefix: &Prefix) -> bool {
        self.addresses.contains_key(prefix) || self.foreign.contains(prefix)
    }

    /// The desired route of this VIP, if it may be announced now: its address and its NAT rules are
    /// there. A route that is out already does not go because its NAT rules change, nor for the moment until
    /// an address that vanished is back. `addresses_external`: addresses are managed elsewhere, and a route waits
    /// for none.
    pub fn ready_route(
        &self,
        prefix: &Prefix,
        desired: &Desired,
        addresses_external: bool,
    ) -> Option<Rc<Route>> {
        let out = self.routes.contains_key(prefix);
        let nat = out || self.has_nat(desired);
        let vanished = self.lost.contains(prefix) && !out;
        let there = self.addressed(prefix) && !self.removing.contains(prefix) && !vanished;
        desired
            .route
            .clone()
            .filter(|_| nat && (addresses_external || there))
    }

    /// Whether the address is there and nothing is happening to it. `addresses_external`: addresses are managed elsewhere.
    pub fn is_ready(&self, prefix: &Prefix, addresses_external: bool) -> bool {
        let moves = self.removing.contains(prefix) || self.lost.contains(prefix);
        addresses_external || (self.addressed(prefix) && !moves)
    }

    /// Whether all desired NAT rules are in the kernel.
    pub fn has_nat(&self, desired: &Desired) -> bool {
        let is_there = |rule: &NatRule| {
            let of_vip = self.nat.get(&rule.vip);
            of_vip.is_some_and(|rules| rules.contains(rule))
        };
        desired.nat.iter().all(is_there)
    }

    /// What is to be done with the VIP's address, if anything.
    pub fn address_step(&self, prefix: &Prefix, desired: &Desired) -> Option<Step> {
        let lost = self.lost.contains(prefix);
        let held = self.addresses.get(prefix).filter(|_| !lost);
        let foreign = self.foreign.contains(prefix) && !lost;
        match &desired.address {
            Some(spec) if held != Some(spec) && !foreign => Some(Step::AddAddress {
                prefix: *prefix,
                label: spec.label.clone(),
                lifetime: spec.lifetime,
                replace: held.is_some(),
            }),
            None if held.is_some() => Some(Step::RemoveAddress { prefix: *prefix }),
            _ => None,
        }
    }

    /// The address is gone: clears everything known of it.
    pub fn forget(&mut self, prefix: &Prefix) {
        self.addresses.remove(prefix);
        self.foreign.remove(prefix);
        self.lost.remove(prefix);
        self.removing.remove(prefix);
    }

    /// Another program added the address: it is used, and not sidecast's.
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
            Step::UpdateNat(change) => change.apply(&mut self.nat),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::Rng;

    const VIPS: [&str; 4] = [
        "192.0.2.1/32",
        "192.0.2.2/32",
        "2001:db8::1/128",
        "198.51.100.0/24",
    ];

    fn some(chance: &mut Rng) -> Option<Prefix> {
        let index = usize::try_from(chance.below(4)).unwrap();
        (chance.below(2) == 0).then(|| VIPS[index].parse().unwrap())
    }

    fn spec(chance: &mut Rng) -> AddressSpec {
        AddressSpec {
            label: (chance.below(2) == 0).then(|| "lo:a".to_owned()),
            lifetime: Some(Duration::from_secs(180 + chance.below(2))),
        }
    }

    fn rule(vip: Prefix, chance: &mut Rng) -> NatRule {
        NatRule {
            app: "dns".parse().unwrap(),
            vip,
            protocol: Protocol::Udp,
            listen: 53,
            target: "10.0.0.2".parse().unwrap(),
            destination: if chance.below(2) == 0 { 53 } else { 8053 },
        }
    }

    /// What is wanted, by VIP; a VIP that is missing is not wanted.
    type DesiredByVip = BTreeMap<Prefix, Desired>;

    /// One move toward what is wanted.
    #[derive(Clone, Debug, PartialEq)]
    enum Move {
        Advertise(Prefix, Option<Rc<Route>>),
        Kernel(Step),
    }

    /// A random desired state, in which every route has an address.
    fn desired(chance: &mut Rng) -> DesiredByVip {
        let mut desired = DesiredByVip::new();
        for _ in 0..6 {
            let Some(vip) = some(chance) else { continue };
            let desired = desired.entry(vip).or_default();
            desired.address = Some(spec(chance));
            if chance.below(2) == 0 {
                let med = u32::try_from(chance.below(2)).ok();
                let route = Route {
                    attributes: Attributes {
                        med,
                        ..Attributes::default()
                    },
                    ..Route::default()
                };
                desired.route = Some(Rc::new(route));
            }
            if chance.below(2) == 0 {
                desired.nat.insert(rule(vip, chance));
            }
        }
        desired
    }

    fn nat(desired: &DesiredByVip) -> NatRules {
        let some = desired
            .iter()
            .filter(|(_, desired)| !desired.nat.is_empty());
        some.map(|(vip, desired)| (*vip, desired.nat.clone()))
            .collect()
    }

    /// The moves of one look at all VIPs, as the core makes them: routes, addresses, NAT, removals.
    fn steps(applied: &Applied, desired: &DesiredByVip) -> Vec<Move> {
        let held = applied.addresses.keys().chain(applied.routes.keys());
        let held = held.chain(applied.nat.keys());
        let vips: BTreeSet<Prefix> = held.chain(desired.keys()).copied().collect();
        let (mut routes, mut addresses, mut removals) = (Vec::new(), Vec::new(), Vec::new());
        let (nothing, no_rules) = (Desired::default(), BTreeSet::new());
        let mut change = NatChange::default();
        for vip in vips {
            let desired = desired.get(&vip).unwrap_or(&nothing);
            let ready = applied.ready_route(&vip, desired, false);
            if applied.routes.get(&vip) != ready.as_ref() {
                routes.push(Move::Advertise(vip, ready));
            }
            match applied.address_step(&vip, desired) {
                Some(step @ Step::RemoveAddress { .. }) => removals.push(Move::Kernel(step)),
                Some(step) => addresses.push(Move::Kernel(step)),
                None => {}
            }
            change.extend(applied.nat.get(&vip).unwrap_or(&no_rules), &desired.nat);
        }
        if !change.is_empty() {
            addresses.push(Move::Kernel(Step::UpdateNat(change)));
        }
        [routes, addresses, removals].concat()
    }

    /// Performs moves until there are no more, and holds the ordering rule against each.
    fn reach(applied: &mut Applied, desired: &DesiredByVip) {
        for _ in 0..3 {
            perform(applied, steps(applied, desired));
        }
    }

    fn perform(applied: &mut Applied, moves: Vec<Move>) {
        for next in moves {
            match next {
                Move::Advertise(prefix, Some(route)) => {
                    applied.routes.insert(prefix, route);
                }
                Move::Advertise(prefix, None) => {
                    applied.routes.remove(&prefix);
                }
                Move::Kernel(step) => applied.apply(&step),
            }
            let bare = applied
                .routes
                .keys()
                .find(|prefix| !applied.addressed(prefix));
            assert_eq!(bare, None, "announced without its address");
        }
    }

    #[test]
    fn the_steps_lead_to_what_is_desired_and_never_announce_what_is_not_addressed() {
        for seed in 0..2000 {
            let mut chance = Rng::new(seed);
            let mut applied = Applied::default();
            for _ in 0..4 {
                let desired = desired(&mut chance);
                reach(&mut applied, &desired);
                let addresses = desired.iter().filter_map(|(vip, desired)| {
                    let spec = desired.address.clone()?;
                    Some((*vip, spec))
                });
                assert_eq!(applied.addresses, addresses.collect(), "seed {seed}");
                let routes = desired.iter().filter_map(|(vip, desired)| {
                    let route = desired.route.clone()?;
                    Some((*vip, route))
                });
                assert_eq!(applied.routes, routes.collect(), "seed {seed}");
                assert_eq!(applied.nat, nat(&desired), "seed {seed}");
                assert_eq!(steps(&applied, &desired), [], "seed {seed}");
            }
        }
    }

    #[test]
    fn a_withdraw_comes_before_everything_else() {
        for seed in 0..2000 {
            let mut chance = Rng::new(seed);
            let mut applied = Applied::default();
            let first = desired(&mut chance);
            reach(&mut applied, &first);
            let next = desired(&mut chance);
            let desired = |prefix| next.get(prefix).is_some_and(|w| w.route.is_some());
            let gone = applied
                .routes
                .keys()
                .filter(|prefix| !desired(prefix))
                .count();
            let moves = steps(&applied, &next);
            let before_others = moves
                .iter()
                .take_while(|m| matches!(m, Move::Advertise(..)));
            let withdrawn = before_others.filter(|m| matches!(m, Move::Advertise(_, None)));
            assert_eq!(withdrawn.count(), gone, "seed {seed}: {moves:?}");
        }
    }

    #[test]
    fn new_nat_rules_hold_back_a_new_route_and_not_one_that_is_out() {
        let vip: Prefix = VIPS[0].parse().unwrap();
        let mut chance = Rng::new(1);
        let mut by_vip = DesiredByVip::new();
        let desired = by_vip.entry(vip).or_default();
        let address = spec(&mut chance);
        desired.address = Some(address.clone());
        desired.route = Some(Rc::default());
        desired.nat.insert(rule(vip, &mut chance));
        let mut applied = Applied::default();
        applied.addresses.insert(vip, address);
        let first = steps(&applied, &by_vip);
        assert!(matches!(first[..], [Move::Kernel(Step::UpdateNat(_))]));
        perform(&mut applied, first);
        let second = steps(&applied, &by_vip);
        assert!(matches!(second[..], [Move::Advertise(..)]));
        perform(&mut applied, second);
        let desired = by_vip.entry(vip).or_default();
        desired.nat = BTreeSet::from([NatRule {
            listen: 54,
            ..rule(vip, &mut chance)
        }]);
        assert!(matches!(
            steps(&applied, &by_vip)[..],
            [Move::Kernel(Step::UpdateNat(_))]
        ));
    }

    #[test]
    fn a_foreign_address_serves_and_is_left_alone() {
        let vip: Prefix = VIPS[0].parse().unwrap();
        let desired = Desired {
            address: Some(spec(&mut Rng::new(1))),
            route: Some(Rc::default()),
            ..Desired::default()
        };
        let by_vip = DesiredByVip::from([(vip, desired)]);
        let mut applied = Applied::default();
        applied.adopt_foreign(vip);
        let moves = steps(&applied, &by_vip);
        assert!(matches!(moves[..], [Move::Advertise(..)]), "{moves:?}");
        assert_eq!(steps(&applied, &DesiredByVip::default()), []);
    }

    #[test]
    fn what_is_being_removed_is_not_announced_again_before_it_is_back() {
        let vip: Prefix = VIPS[0].parse().unwrap();
        let address = spec(&mut Rng::new(1));
        let desired = Desired {
            address: Some(address.clone()),
            route: Some(Rc::default()),
            ..Desired::default()
        };
        let by_vip = DesiredByVip::from([(vip, desired)]);
        let mut applied = Applied::default();
        applied.addresses.insert(vip, address);
        applied.removing.insert(vip);
        assert_eq!(steps(&applied, &by_vip), []);
        applied.forget(&vip);
        reach(&mut applied, &by_vip);
        assert!(applied.addressed(&vip) && applied.routes.contains_key(&vip));
    }
}
