//! Wanted state and applied state of one VIP in, what has to be done out. The ordering rule lives here and
//! nowhere else: a route is announced only when its address and its NAT rules are in the kernel, a
//! withdraw waits for nothing, an address is removed only after its route is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::app::{AppName, Attributes, Protocol};
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NatRule {
    /// Whose it is: its packets count under that name, over all the app's VIPs.
    pub app: AppName,
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
pub type Routes = BTreeMap<Prefix, Rc<Attributes>>;

/// What is wanted for one VIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub route: Option<Rc<Attributes>>,
    /// `None` also where addresses are managed elsewhere.
    pub address: Option<AddressSpec>,
    pub nat: BTreeSet<NatRule>,
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
    /// Those that are being removed: whoever wants one again waits until it is gone.
    pub leaving: BTreeSet<Prefix>,
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

impl Applied {
    pub fn addressed(&self, prefix: &Prefix) -> bool {
        self.addresses.contains_key(prefix) || self.foreign.contains(prefix)
    }

    /// The route of this VIP that may be out now, where one is wanted: its address and its NAT rules are
    /// there. A route that is out already does not go because its NAT rules change, nor for the moment until
    /// an address that vanished is back. `unaddressed`: addresses are managed elsewhere, and a route waits
    /// for none.
    pub fn ready_route(
        &self,
        prefix: &Prefix,
        wanted: &Wanted,
        unaddressed: bool,
    ) -> Option<Rc<Attributes>> {
        let out = self.routes.contains_key(prefix);
        let nat = out || self.has_nat(wanted);
        let vanished = self.lost.contains(prefix) && !out;
        let there = self.addressed(prefix) && !self.leaving.contains(prefix) && !vanished;
        wanted
            .route
            .clone()
            .filter(|_| nat && (unaddressed || there))
    }

    /// Whether all NAT rules that are wanted are there.
    pub fn has_nat(&self, wanted: &Wanted) -> bool {
        wanted.nat.is_subset(&self.nat.rules)
    }

    /// What is to be done with the VIP's address, if anything.
    pub fn address_step(&self, prefix: &Prefix, wanted: &Wanted) -> Option<Step> {
        let lost = self.lost.contains(prefix);
        let held = self.addresses.get(prefix).filter(|_| !lost);
        let foreign = self.foreign.contains(prefix) && !lost;
        match &wanted.address {
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

    /// The address is not there, and nobody is to act as if it were.
    pub fn forget(&mut self, prefix: &Prefix) {
        self.addresses.remove(prefix);
        self.foreign.remove(prefix);
        self.lost.remove(prefix);
        self.leaving.remove(prefix);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::Jitter;

    const VIPS: [&str; 4] = [
        "192.0.2.1/32",
        "192.0.2.2/32",
        "2001:db8::1/128",
        "198.51.100.0/24",
    ];

    fn some(chance: &mut Jitter) -> Option<Prefix> {
        let index = usize::try_from(chance.below(4)).unwrap();
        (chance.below(2) == 0).then(|| VIPS[index].parse().unwrap())
    }

    fn spec(chance: &mut Jitter) -> AddressSpec {
        AddressSpec {
            label: (chance.below(2) == 0).then(|| "lo:a".to_owned()),
            lifetime: Some(Duration::from_secs(180 + chance.below(2))),
        }
    }

    fn rule(vip: Prefix, chance: &mut Jitter) -> NatRule {
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
    type Desired = BTreeMap<Prefix, Wanted>;

    /// One move towards what is wanted.
    #[derive(Clone, Debug, PartialEq)]
    enum Move {
        Advertise(Prefix, Option<Rc<Attributes>>),
        Kernel(Step),
    }

    /// Any wish whose routes have addresses.
    fn desired(chance: &mut Jitter) -> Desired {
        let mut desired = Desired::new();
        for _ in 0..6 {
            let Some(vip) = some(chance) else { continue };
            let wanted = desired.entry(vip).or_default();
            wanted.address = Some(spec(chance));
            if chance.below(2) == 0 {
                let med = u32::try_from(chance.below(2)).ok();
                let route = Attributes {
                    med,
                    ..Attributes::default()
                };
                wanted.route = Some(Rc::new(route));
            }
            if chance.below(2) == 0 {
                wanted.nat.insert(rule(vip, chance));
            }
        }
        desired
    }

    fn nat(desired: &Desired) -> NatTable {
        let rules = desired.values().flat_map(|wanted| wanted.nat.clone());
        NatTable {
            rules: rules.collect(),
        }
    }

    /// The moves of one look at all VIPs, as the core makes them: routes, addresses, NAT, removals.
    fn steps(applied: &Applied, desired: &Desired) -> Vec<Move> {
        let held = applied.addresses.keys().chain(applied.routes.keys());
        let vips: BTreeSet<Prefix> = held.chain(desired.keys()).copied().collect();
        let (mut routes, mut addresses, mut removals) = (Vec::new(), Vec::new(), Vec::new());
        let nothing = Wanted::default();
        for vip in vips {
            let wanted = desired.get(&vip).unwrap_or(&nothing);
            let ready = applied.ready_route(&vip, wanted, false);
            if applied.routes.get(&vip) != ready.as_ref() {
                routes.push(Move::Advertise(vip, ready));
            }
            match applied.address_step(&vip, wanted) {
                Some(step @ Step::RemoveAddress { .. }) => removals.push(Move::Kernel(step)),
                Some(step) => addresses.push(Move::Kernel(step)),
                None => {}
            }
        }
        let table = nat(desired);
        if table != applied.nat {
            addresses.push(Move::Kernel(Step::ReplaceNat(table)));
        }
        [routes, addresses, removals].concat()
    }

    /// Performs moves until there are no more, and holds the ordering rule against each.
    fn reach(applied: &mut Applied, desired: &Desired) {
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
            let mut chance = Jitter::new(seed);
            let mut applied = Applied::default();
            for _ in 0..4 {
                let desired = desired(&mut chance);
                reach(&mut applied, &desired);
                let addresses = desired.iter().filter_map(|(vip, wanted)| {
                    let spec = wanted.address.clone()?;
                    Some((*vip, spec))
                });
                assert_eq!(applied.addresses, addresses.collect(), "seed {seed}");
                let routes = desired.iter().filter_map(|(vip, wanted)| {
                    let route = wanted.route.clone()?;
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
            let mut chance = Jitter::new(seed);
            let mut applied = Applied::default();
            let first = desired(&mut chance);
            reach(&mut applied, &first);
            let next = desired(&mut chance);
            let wanted = |prefix| next.get(prefix).is_some_and(|w| w.route.is_some());
            let gone = applied
                .routes
                .keys()
                .filter(|prefix| !wanted(prefix))
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
        let mut chance = Jitter::new(1);
        let mut wish = Desired::new();
        let wanted = wish.entry(vip).or_default();
        let address = spec(&mut chance);
        wanted.address = Some(address.clone());
        wanted.route = Some(Rc::default());
        wanted.nat.insert(rule(vip, &mut chance));
        let mut applied = Applied::default();
        applied.addresses.insert(vip, address);
        let first = steps(&applied, &wish);
        assert!(matches!(first[..], [Move::Kernel(Step::ReplaceNat(_))]));
        perform(&mut applied, first);
        let second = steps(&applied, &wish);
        assert!(matches!(second[..], [Move::Advertise(..)]));
        perform(&mut applied, second);
        let wanted = wish.entry(vip).or_default();
        wanted.nat = BTreeSet::from([NatRule {
            listen: 54,
            ..rule(vip, &mut chance)
        }]);
        assert!(matches!(
            steps(&applied, &wish)[..],
            [Move::Kernel(Step::ReplaceNat(_))]
        ));
    }

    #[test]
    fn a_foreign_address_serves_and_is_left_alone() {
        let vip: Prefix = VIPS[0].parse().unwrap();
        let wanted = Wanted {
            address: Some(spec(&mut Jitter::new(1))),
            route: Some(Rc::default()),
            ..Wanted::default()
        };
        let wish = Desired::from([(vip, wanted)]);
        let mut applied = Applied::default();
        applied.adopt_foreign(vip);
        let moves = steps(&applied, &wish);
        assert!(matches!(moves[..], [Move::Advertise(..)]), "{moves:?}");
        assert_eq!(steps(&applied, &Desired::default()), []);
    }

    #[test]
    fn what_is_being_removed_is_not_announced_again_before_it_is_back() {
        let vip: Prefix = VIPS[0].parse().unwrap();
        let address = spec(&mut Jitter::new(1));
        let wanted = Wanted {
            address: Some(address.clone()),
            route: Some(Rc::default()),
            ..Wanted::default()
        };
        let wish = Desired::from([(vip, wanted)]);
        let mut applied = Applied::default();
        applied.addresses.insert(vip, address);
        applied.leaving.insert(vip);
        assert_eq!(steps(&applied, &wish), []);
        applied.forget(&vip);
        reach(&mut applied, &wish);
        assert!(applied.addressed(&vip) && applied.routes.contains_key(&vip));
    }
}
