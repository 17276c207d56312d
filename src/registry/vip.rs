//! The state machine of one VIP of an app.
//!
//! ```text
//!          desired: announce  probe  address        nothing        problem   deadline
//! Absent            Announced Probed Addressed      Absent         Blocked   -
//! Addressed         Announced Probed Addressed      Absent         Blocked   -
//! Probed            Announced Probed as from Absent or Lingering   Blocked   -
//! Announced         Announced Probed Lingering      Lingering      Blocked   -
//! Lingering         Announced Probed Lingering      Lingering      Blocked   vip_linger: as from Absent
//! Blocked           Announced Probed as from Absent or Lingering   Blocked   vip_linger: does not linger
//! ```
//!
//! `Probed` is for the monitors that probe the VIP itself: its address and NAT rules are desired, its route is not.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::facts::Problem;
use crate::plan::Route;

#[derive(Debug, Default)]
pub(super) struct VipMachine {
    state: State,
    /// NAT rules stay from the first announcement, or first second-stage check, until the app is cleaned up.
    nat: bool,
    presence: Presence,
}

/// Whether the kernel has a VIP's address and NAT rules, as reported by the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    #[default]
    Absent,
    /// Some are missing for the moment; the route stays announced meanwhile.
    Changing,
    There,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Absent,
    /// On the interface, without a route (`vip_presence: always`).
    Addressed,
    /// On the interface with its NAT rules, without a route; where it was announced, when it was withdrawn.
    Probed {
        since: Instant,
        withdrawn: Option<Instant>,
    },
    Announced(Rc<Route>),
    /// Withdrawn; the address stays for `vip_linger`, for clients that still send to this host.
    Lingering {
        since: Instant,
    },
    /// It cannot be announced. Where it was, its address may linger.
    Blocked {
        problem: Box<Problem>,
        lingering_since: Option<Instant>,
    },
}

/// The desired state of a VIP that is not blocked.
#[derive(Clone, Debug)]
pub(super) enum DesiredState {
    Announced(Rc<Route>),
    /// Address and NAT rules, for the monitors that probe it.
    Probe,
    Addressed,
    Absent,
}

/// How long an address stays after its route was withdrawn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Linger {
    For(Duration),
    /// Until the app is cleaned up; `false` once it is.
    UntilCleanup(bool),
}

impl VipMachine {
    /// Enters the state of the table above.
    pub fn reconcile(
        &mut self,
        now: Instant,
        desired: DesiredState,
        problem: Option<Problem>,
        linger: Linger,
        cleaned_up: bool,
    ) {
        let since = match (&self.state, &desired, &problem) {
            (State::Announced(_), DesiredState::Announced(_), None) => None,
            (State::Announced(_), ..) => Some(now),
            (State::Lingering { since }, ..) => Some(*since),
            (State::Probed { withdrawn, .. }, ..) => *withdrawn,
            (
                State::Blocked {
                    lingering_since, ..
                },
                ..,
            ) => *lingering_since,
            (State::Absent | State::Addressed, ..) => None,
        };
        let lingering_since = since.filter(|since| match linger {
            Linger::For(stay) => now < *since + stay,
            Linger::UntilCleanup(stays) => stays,
        });
        self.state = match (problem, desired, lingering_since) {
            (Some(problem), ..) => State::Blocked {
                problem: Box::new(problem),
                lingering_since,
            },
            (None, DesiredState::Announced(route), _) => {
                // An equal route is kept, since the applied state shares its `Rc`.
                let known = self.route().filter(|known| **known == route);
                State::Announced(known.cloned().unwrap_or(route))
            }
            (None, DesiredState::Probe, withdrawn) => State::Probed {
                since: self.probed_since().unwrap_or(now),
                withdrawn,
            },
            (None, _, Some(since)) => State::Lingering { since },
            (None, DesiredState::Addressed, None) => State::Addressed,
            (None, DesiredState::Absent, None) => State::Absent,
        };
        let used = matches!(self.state, State::Announced(_) | State::Probed { .. });
        self.nat = used || (self.nat && !cleaned_up);
    }

    /// Records what the kernel has; `false` if nothing changed.
    pub fn set_presence(&mut self, presence: Presence) -> bool {
        std::mem::replace(&mut self.presence, presence) != presence
    }

    /// Whether the second stage may probe it: only in states announced and probed. A standby counts as changing, which
    /// pauses its monitors: it may hold the VIP again soon.
    pub fn presence(&self) -> Presence {
        match &self.state {
            State::Announced(_) | State::Probed { .. } => self.presence,
            State::Blocked { problem, .. } if problem.is_standby() => Presence::Changing,
            _ => Presence::Absent,
        }
    }

    /// Its route, if one is desired.
    pub fn route(&self) -> Option<&Rc<Route>> {
        match &self.state {
            State::Announced(route) => Some(route),
            _ => None,
        }
    }

    /// Since when its route waits for the monitors that probe it.
    pub fn probed_since(&self) -> Option<Instant> {
        match &self.state {
            State::Probed { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// Whether its address is desired; `always`: as long as nothing forbids it. An address that cannot be
    /// announced must not be there: this host would reach no other site, and no client this one.
    pub fn is_addressed(&self, always: bool) -> bool {
        match &self.state {
            State::Absent => false,
            State::Addressed
            | State::Probed { .. }
            | State::Announced(_)
            | State::Lingering { .. } => true,
            State::Blocked {
                problem,
                lingering_since,
            } => !problem.forbids_address() && (always || lingering_since.is_some()),
        }
    }

    /// Whether its NAT rules are desired.
    pub fn has_nat(&self) -> bool {
        self.nat
            && match &self.state {
                State::Blocked {
                    problem,
                    lingering_since,
                } => lingering_since.is_some() && !problem.forbids_address(),
                _ => true,
            }
    }

    /// What blocks the VIP.
    pub fn problem(&self) -> Option<&Problem> {
        match &self.state {
            State::Blocked { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// When the address stops lingering.
    pub fn deadline(&self, linger: Linger) -> Option<Instant> {
        let since = match &self.state {
            State::Lingering { since } => Some(*since),
            State::Blocked {
                lingering_since, ..
            } => *lingering_since,
            _ => None,
        };
        match linger {
            Linger::For(stay) => since.map(|since| since + stay),
            Linger::UntilCleanup(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Family;

    const STAY: Duration = Duration::from_secs(10);

    fn blocked() -> Problem {
        let family = Family::Ipv4;
        Problem::NoNatTarget { family }
    }

    fn name(machine: &VipMachine) -> String {
        let state = match &machine.state {
            State::Absent => "absent",
            State::Addressed => "addressed",
            State::Probed {
                withdrawn: None, ..
            } => "probed",
            State::Probed { .. } => "probed, withdrawn",
            State::Announced(_) => "announced",
            State::Lingering { .. } => "lingering",
            State::Blocked {
                lingering_since: Some(_),
                ..
            } => "blocked, lingering",
            State::Blocked { .. } => "blocked",
        };
        format!("{state}{}", if machine.nat { " +nat" } else { "" })
    }

    /// Every state with every desired state, with a problem, and after its deadline while nothing is desired.
    #[test]
    fn the_table_of_transitions() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let announce = || DesiredState::Announced(Rc::default());
        let linger = Linger::For(STAY);
        let reach = |desired: &[(DesiredState, bool)]| {
            let mut machine = VipMachine::default();
            for (desired, problem) in desired {
                let problem = problem.then(blocked);
                machine.reconcile(now, desired.clone(), problem, linger, false);
            }
            machine
        };
        let ways = [
            vec![],
            vec![(DesiredState::Addressed, false)],
            vec![(DesiredState::Probe, false)],
            vec![(announce(), false), (DesiredState::Probe, false)],
            vec![(announce(), false)],
            vec![(announce(), false), (DesiredState::Absent, false)],
            vec![(DesiredState::Absent, true)],
            vec![(announce(), false), (announce(), true)],
        ];
        let mut table = String::new();
        for way in ways {
            table += &format!("{}:", name(&reach(&way)));
            let events = [
                ("announce", announce(), false),
                ("probe", DesiredState::Probe, false),
                ("address", DesiredState::Addressed, false),
                ("nothing", DesiredState::Absent, false),
                ("problem", announce(), true),
            ];
            for (event, desired, problem) in events {
                let mut machine = reach(&way);
                machine.reconcile(later, desired, problem.then(blocked), linger, false);
                table += &format!(" {event} -> {};", name(&machine));
            }
            let mut machine = reach(&way);
            if let Some(at) = machine.deadline(linger) {
                assert_eq!(at, now + STAY);
                let problem = machine.problem().cloned();
                machine.reconcile(at, DesiredState::Absent, problem, linger, false);
                table += &format!(" deadline -> {};", name(&machine));
            }
            table += "\n";
        }
        println!("{table}");
        assert_eq!(table, TABLE);
    }

    const TABLE: &str = "\
absent: announce -> announced +nat; probe -> probed +nat; address -> addressed; nothing -> absent; problem -> blocked;
addressed: announce -> announced +nat; probe -> probed +nat; address -> addressed; nothing -> absent; problem -> blocked;
probed +nat: announce -> announced +nat; probe -> probed +nat; address -> addressed +nat; nothing -> absent +nat; problem -> blocked +nat;
probed, withdrawn +nat: announce -> announced +nat; probe -> probed, withdrawn +nat; address -> lingering +nat; nothing -> lingering +nat; problem -> blocked, lingering +nat;
announced +nat: announce -> announced +nat; probe -> probed, withdrawn +nat; address -> lingering +nat; nothing -> lingering +nat; problem -> blocked, lingering +nat;
lingering +nat: announce -> announced +nat; probe -> probed, withdrawn +nat; address -> lingering +nat; nothing -> lingering +nat; problem -> blocked, lingering +nat; deadline -> absent +nat;
blocked: announce -> announced +nat; probe -> probed +nat; address -> addressed; nothing -> absent; problem -> blocked;
blocked, lingering +nat: announce -> announced +nat; probe -> probed, withdrawn +nat; address -> lingering +nat; nothing -> lingering +nat; problem -> blocked, lingering +nat; deadline -> blocked +nat;
";

    #[test]
    fn what_the_kernel_has_counts_while_the_app_wants_the_vip_to_be_asked() {
        let now = Instant::now();
        let linger = Linger::For(STAY);
        let standby = || Problem::Standby {
            vip: "192.0.2.1/32".parse().unwrap(),
            by: "b".to_owned(),
        };
        let mut machine = VipMachine::default();
        assert!(machine.set_presence(Presence::There) && !machine.set_presence(Presence::There));
        for (desired, problem, presence) in [
            (DesiredState::Absent, None, Presence::Absent),
            (DesiredState::Addressed, None, Presence::Absent),
            (DesiredState::Probe, None, Presence::There),
            (
                DesiredState::Announced(Rc::default()),
                None,
                Presence::There,
            ),
            (
                DesiredState::Announced(Rc::default()),
                Some(standby()),
                Presence::Changing,
            ),
            (
                DesiredState::Announced(Rc::default()),
                Some(blocked()),
                Presence::Absent,
            ),
            (DesiredState::Absent, None, Presence::Absent),
        ] {
            machine.reconcile(now, desired, problem, linger, false);
            assert_eq!(machine.presence(), presence, "{}", name(&machine));
        }
    }

    #[test]
    fn nat_rules_stay_until_the_app_is_cleaned_up() {
        let now = Instant::now();
        let mut machine = VipMachine::default();
        let until_cleanup = |stays| Linger::UntilCleanup(stays);
        machine.reconcile(
            now,
            DesiredState::Announced(Rc::default()),
            None,
            until_cleanup(true),
            false,
        );
        machine.reconcile(now, DesiredState::Absent, None, until_cleanup(true), false);
        assert!(machine.has_nat() && machine.is_addressed(false));
        machine.reconcile(now, DesiredState::Absent, None, until_cleanup(false), true);
        assert!(!machine.has_nat() && !machine.is_addressed(false));
    }
}
