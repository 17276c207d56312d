//! Wanted state and applied state in, what has to be done out. The ordering rule lives here and
//! nowhere else: a route is announced only when its address and its NAT rules are in the kernel, a
//! withdraw waits for nothing, an address is removed only after its route is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
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
        let there = |prefix: &Prefix| {
            desired.unaddressed || (self.addressed(prefix) && !self.leaving.contains(prefix))
        };
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

    /// The routes that are out once all steps succeeded: those whose address waits for its own removal
    /// have to wait for another round.
    fn possible(&self, desired: &Desired) -> Routes {
        let there = |prefix: &Prefix| {
            let wanted = desired.addresses.contains_key(prefix) || self.foreign.contains(prefix);
            desired.unaddressed || (wanted && !self.leaving.contains(prefix))
        };
        let mut routes = desired.routes.clone();
        routes.retain(|prefix, _| there(prefix));
        routes
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
    let last = applied.possible(desired);
    if last != ready {
        moves.push(Move::Advertise(last));
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

    /// Any wish whose routes have addresses.
    fn desired(chance: &mut Jitter) -> Desired {
        let mut desired = Desired::default();
        for _ in 0..6 {
            let Some(vip) = some(chance) else { continue };
            desired.addresses.insert(vip, spec(chance));
            if chance.below(2) == 0 {
                let med = u32::try_from(chance.below(2)).ok();
                let route = Attributes {
                    med,
                    ..Attributes::default()
                };
                desired.routes.insert(vip, route);
            }
            if chance.below(2) == 0 {
                desired.nat.rules.insert(rule(vip, chance));
            }
        }
        desired
    }

    /// Performs all moves, and holds the ordering rule against each.
    fn perform(applied: &mut Applied, moves: Vec<Move>) {
        for next in moves {
            match next {
                Move::Advertise(routes) => applied.routes = routes,
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
                let moves = steps(&applied, &desired);
                perform(&mut applied, moves);
                assert_eq!(applied.addresses, desired.addresses, "seed {seed}");
                assert_eq!(applied.routes, desired.routes, "seed {seed}");
                assert_eq!(applied.nat, desired.nat, "seed {seed}");
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
            let moves = steps(&applied, &first);
            perform(&mut applied, moves);
            let next = desired(&mut chance);
            let gone = applied
                .routes
                .keys()
                .any(|prefix| !next.routes.contains_key(prefix));
            if gone {
                let moves = steps(&applied, &next);
                let Some(Move::Advertise(routes)) = moves.first() else {
                    panic!("seed {seed}: {moves:?}");
                };
                let stays = |prefix| next.routes.contains_key(prefix);
                assert!(routes.keys().all(stays), "seed {seed}");
            }
        }
    }

    #[test]
    fn new_nat_rules_hold_back_a_new_route_and_not_one_that_is_out() {
        let vip: Prefix = VIPS[0].parse().unwrap();
        let mut chance = Jitter::new(1);
        let mut wish = Desired::default();
        wish.addresses.insert(vip, spec(&mut chance));
        wish.routes.insert(vip, Attributes::default());
        wish.nat.rules.insert(rule(vip, &mut chance));
        let mut applied = Applied::default();
        applied.addresses.clone_from(&wish.addresses);
        let first = steps(&applied, &wish);
        assert!(matches!(
            first[..],
            [Move::Kernel(Step::ReplaceNat(_)), Move::Advertise(_)]
        ));
        perform(&mut applied, first);
        wish.nat.rules.clear();
        wish.nat.rules.insert(NatRule {
            listen: 54,
            ..rule(vip, &mut chance)
        });
        assert!(matches!(
            steps(&applied, &wish)[..],
            [Move::Kernel(Step::ReplaceNat(_))]
        ));
    }

    #[test]
    fn a_foreign_address_serves_and_is_left_alone() {
        let vip: Prefix = VIPS[0].parse().unwrap();
        let mut wish = Desired::default();
        wish.addresses.insert(vip, spec(&mut Jitter::new(1)));
        wish.routes.insert(vip, Attributes::default());
        let mut applied = Applied::default();
        applied.adopt_foreign(vip);
        let moves = steps(&applied, &wish);
        assert!(matches!(moves[..], [Move::Advertise(_)]), "{moves:?}");
        assert_eq!(steps(&applied, &Desired::default()), []);
    }

    #[test]
    fn what_is_being_removed_is_not_announced_again_before_it_is_back() {
        let vip: Prefix = VIPS[0].parse().unwrap();
        let mut wish = Desired::default();
        wish.addresses.insert(vip, spec(&mut Jitter::new(1)));
        wish.routes.insert(vip, Attributes::default());
        let mut applied = Applied::default();
        applied.addresses.clone_from(&wish.addresses);
        applied.leaving.insert(vip);
        assert_eq!(steps(&applied, &wish), []);
        applied.forget(&vip);
        assert_eq!(steps(&applied, &wish).len(), 2);
    }
}
