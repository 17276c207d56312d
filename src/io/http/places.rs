//! Who holds how many connections: some places are kept for this host, and no other address takes more
//! than its share, so that one client cannot keep the others out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::api::Via;

/// Connections that are served, or briefly answered where there is no place to serve them.
#[derive(Clone, Debug)]
pub(super) struct Places(Rc<RefCell<Held>>);

#[derive(Debug)]
struct Held {
    /// Of each kind at once.
    limit: usize,
    served: usize,
    hurried: usize,
    /// Served ones from elsewhere.
    foreign: usize,
    /// Of both kinds, by address.
    by_address: BTreeMap<IpAddr, usize>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    held: Rc<RefCell<Held>>,
    /// `None`: this host.
    from: Option<IpAddr>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Served,
    /// Only what probes ask is answered.
    Hurried,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self(Rc::new(RefCell::new(Held {
            limit,
            served: 0,
            hurried: 0,
            foreign: 0,
            by_address: BTreeMap::new(),
        })))
    }

    /// `None`: there is none for this caller now.
    pub(super) fn take(&self, via: Via) -> Option<Place> {
        let from = match via {
            Via::Tcp { caller, .. } if !via.is_local() => Some(caller),
            _ => None,
        };
        let kind = self.0.borrow_mut().take(from)?;
        Some(Place {
            held: Rc::clone(&self.0),
            from,
            kind,
        })
    }
}

impl Held {
    fn take(&mut self, from: Option<IpAddr>) -> Option<Kind> {
        let of_address = from.map_or(0, |addr| self.by_address.get(&addr).copied().unwrap_or(0));
        if of_address >= PER_ADDRESS {
            return None;
        }
        let kept = KEPT_FOR_LOCAL.min(self.limit / 2);
        let room = from.is_none() || self.foreign < self.limit - kept;
        let kind = if room && self.served < self.limit {
            self.served += 1;
            self.foreign += usize::from(from.is_some());
            Kind::Served
        } else if self.hurried < self.limit {
            self.hurried += 1;
            Kind::Hurried
        } else {
            return None;
        };
        if let Some(addr) = from {
            self.by_address.insert(addr, of_address + 1);
        }
        Some(kind)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.held.borrow_mut();
        match self.kind {
            Kind::Served => {
                held.served -= 1;
                held.foreign -= usize::from(self.from.is_some());
            }
            Kind::Hurried => held.hurried -= 1,
        }
        let Some(addr) = self.from else { return };
        match held.by_address.get_mut(&addr) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.by_address.remove(&addr)),
        }
    }
}

const KEPT_FOR_LOCAL: usize = 8;
/// Connections that one other address holds at most.
const PER_ADDRESS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> Via {
        Via::Tcp {
            caller: IpAddr::from([10, 0, 0, last]),
            local: IpAddr::from([10, 0, 0, 1]),
        }
    }

    fn kinds(places: &[Place]) -> (usize, usize) {
        let served = places.iter().filter(|place| place.kind == Kind::Served);
        let served = served.count();
        (served, places.len() - served)
    }

    #[test]
    fn one_address_has_sixteen_and_gets_them_back() {
        let places = Places::new(64);
        let take = |last, count: usize| -> Vec<Place> {
            (0..count).filter_map(|_| places.take(from(last))).collect()
        };
        let greedy = take(2, 100);
        assert_eq!(kinds(&greedy), (16, 0));
        assert_eq!(kinds(&take(3, 100)), (16, 0));
        drop(greedy);
        assert_eq!(kinds(&take(2, 100)), (16, 0));
        let held = places.0.borrow();
        assert_eq!(
            (held.served, held.foreign, held.by_address.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn eight_are_kept_for_this_host_and_the_rest_is_hurried() {
        let places = Places::new(64);
        let take = |via: &dyn Fn(u8) -> Via, count: u8| -> Vec<Place> {
            (0..count).filter_map(|n| places.take(via(n))).collect()
        };
        let others = take(&|n| from(n / 10 + 2), 100);
        assert_eq!(kinds(&others), (56, 44));
        let local = take(&|_| Via::Loopback, 30);
        assert_eq!(kinds(&local), (8, 20));
        assert!(places.take(from(99)).is_none());
        drop(others);
        // It may have all of them while nobody else wants one.
        let local = take(&|_| from(1), 200);
        assert_eq!(kinds(&local), (56, 44));
    }

    #[test]
    fn few_places_are_shared_all_the_same() {
        let places = Places::new(1);
        let one = places.take(from(2)).unwrap();
        assert_eq!(one.kind, Kind::Served);
        assert_eq!(places.take(Via::Unix).unwrap().kind, Kind::Hurried);
    }
}
