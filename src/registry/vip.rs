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
