//! The life of one VIP of an app.
//!
//! ```text
//!             wish: announce  address        nothing        problem   deadline
//! Absent            Announced Addressed      Absent         Blocked   -
//! Addressed         Announced Addressed      Absent         Blocked   -
//! Announced         Announced Lingering      Lingering      Blocked   -
//! Lingering         Announced Lingering      Lingering      Blocked   vip_linger: as from Absent
//! Blocked           Announced as from Absent or Lingering   Blocked   vip_linger: does not linger
//! ```

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::facts::Problem;
use crate::app::Attributes;

#[derive(Debug, Default)]
pub(super) struct VipLife {
    state: State,
    /// NAT rules stay from the first announcement until the app is cleaned up.
    nat: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Absent,
    /// On the interface, without a route (`vip_presence: always`).
    Addressed,
    Announced(Rc<Attributes>),
    /// Withdrawn; the address stays for a while, for clients that are still on the way.
    Lingering {
        since: Instant,
    },
    /// It cannot be announced. Where it was, its address may linger.
    Blocked {
        problem: Problem,
        lingering_since: Option<Instant>,
    },
}

/// What the app wants of a VIP that nothing stands against.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    Announce(Rc<Attributes>),
    Address,
    Nothing,
}

/// How long an address stays after its route was withdrawn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Linger {
    For(Duration),
    /// Until the app is cleaned up; `false` once it is.
    WhileNotCleanedUp(bool),
}

impl VipLife {
    pub fn settle(
        &mut self,
        now: Instant,
        wish: Wish,
        problem: Option<Problem>,
        linger: Linger,
        cleaned_up: bool,
    ) {
        let since = match (&self.state, &wish, &problem) {
            (State::Announced(_), Wish::Announce(_), None) => None,
            (State::Announced(_), ..) => Some(now),
            (State::Lingering { since }, ..) => Some(*since),
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
            Linger::WhileNotCleanedUp(stays) => stays,
        });
        self.state = match (problem, wish, lingering_since) {
            (Some(problem), ..) => State::Blocked {
                problem,
                lingering_since,
            },
            (None, Wish::Announce(attributes), _) => State::Announced(attributes),
            (None, _, Some(since)) => State::Lingering { since },
            (None, Wish::Address, None) => State::Addressed,
            (None, Wish::Nothing, None) => State::Absent,
        };
        let announced = matches!(self.state, State::Announced(_));
        self.nat = announced || (self.nat && !cleaned_up);
    }

    /// The attributes of its route, where one is wanted.
    pub fn route(&self) -> Option<&Rc<Attributes>> {
        match &self.state {
            State::Announced(attributes) => Some(attributes),
            _ => None,
        }
    }

    /// Whether its address is wanted; `always`: as long as nothing forbids it. An address that cannot be
    /// announced must not be there: this host would reach no other site, and no client this one.
    pub fn is_addressed(&self, always: bool) -> bool {
        match &self.state {
            State::Absent => false,
            State::Addressed | State::Announced(_) | State::Lingering { .. } => true,
            State::Blocked {
                problem,
                lingering_since,
            } => !problem.cuts_off() && (always || lingering_since.is_some()),
        }
    }

    /// Whether its NAT rules are wanted.
    pub fn has_nat(&self) -> bool {
        self.nat
            && match &self.state {
                State::Blocked {
                    problem,
                    lingering_since,
                } => lingering_since.is_some() && !problem.cuts_off(),
                _ => true,
            }
    }

    pub fn problem(&self) -> Option<&Problem> {
        match &self.state {
            State::Blocked { problem, .. } => Some(problem),
            _ => None,
        }
    }

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
            Linger::WhileNotCleanedUp(_) => None,
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

    fn name(life: &VipLife) -> String {
        let state = match &life.state {
            State::Absent => "absent",
            State::Addressed => "addressed",
            State::Announced(_) => "announced",
            State::Lingering { .. } => "lingering",
            State::Blocked {
                lingering_since: Some(_),
                ..
            } => "blocked, lingering",
            State::Blocked { .. } => "blocked",
        };
        format!("{state}{}", if life.nat { " +nat" } else { "" })
    }

    /// Every state with every wish, with a problem, and what its deadline brings while nothing is wished.
    #[test]
    fn the_table_of_transitions() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let announce = || Wish::Announce(Rc::default());
        let linger = Linger::For(STAY);
        let reach = |wishes: &[(Wish, bool)]| {
            let mut life = VipLife::default();
            for (wish, problem) in wishes {
                let problem = problem.then(blocked);
                life.settle(now, wish.clone(), problem, linger, false);
            }
            life
        };
        let ways = [
            vec![],
            vec![(Wish::Address, false)],
            vec![(announce(), false)],
            vec![(announce(), false), (Wish::Nothing, false)],
            vec![(Wish::Nothing, true)],
            vec![(announce(), false), (announce(), true)],
        ];
        let mut table = String::new();
        for way in ways {
            table += &format!("{}:", name(&reach(&way)));
            let events = [
                ("announce", announce(), false),
                ("address", Wish::Address, false),
                ("nothing", Wish::Nothing, false),
                ("problem", announce(), true),
            ];
            for (event, wish, problem) in events {
                let mut life = reach(&way);
                life.settle(later, wish, problem.then(blocked), linger, false);
                table += &format!(" {event} -> {};", name(&life));
            }
            let mut life = reach(&way);
            if let Some(at) = life.deadline(linger) {
                assert_eq!(at, now + STAY);
                let problem = life.problem().cloned();
                life.settle(at, Wish::Nothing, problem, linger, false);
                table += &format!(" deadline -> {};", name(&life));
            }
            table += "\n";
        }
        println!("{table}");
        assert_eq!(table, TABLE);
    }

    const TABLE: &str = "\
absent: announce -> announced +nat; address -> addressed; nothing -> absent; problem -> blocked;
addressed: announce -> announced +nat; address -> addressed; nothing -> absent; problem -> blocked;
announced +nat: announce -> announced +nat; address -> lingering +nat; nothing -> lingering +nat; problem -> blocked, lingering +nat;
lingering +nat: announce -> announced +nat; address -> lingering +nat; nothing -> lingering +nat; problem -> blocked, lingering +nat; deadline -> absent +nat;
blocked: announce -> announced +nat; address -> addressed; nothing -> absent; problem -> blocked;
blocked, lingering +nat: announce -> announced +nat; address -> lingering +nat; nothing -> lingering +nat; problem -> blocked, lingering +nat; deadline -> blocked +nat;
";

    #[test]
    fn nat_rules_stay_until_the_app_is_cleaned_up() {
        let now = Instant::now();
        let mut life = VipLife::default();
        let until_cleanup = |stays| Linger::WhileNotCleanedUp(stays);
        life.settle(
            now,
            Wish::Announce(Rc::default()),
            None,
            until_cleanup(true),
            false,
        );
        life.settle(now, Wish::Nothing, None, until_cleanup(true), false);
        assert!(life.has_nat() && life.is_addressed(false));
        life.settle(now, Wish::Nothing, None, until_cleanup(false), true);
        assert!(!life.has_nat() && !life.is_addressed(false));
    }
}
