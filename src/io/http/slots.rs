//! Connection slots: some are reserved for this host, and every other address has a limit, so that one
//! client cannot exclude the others.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::api::ListenerScope;

/// Slots for served connections, and for those above the limit, which are only answered briefly.
#[derive(Clone, Debug)]
pub(super) struct ConnectionSlots(Rc<RefCell<SlotCounts>>);

#[derive(Debug)]
struct SlotCounts {
    /// Slots of each kind.
    limit: usize,
    served: usize,
    over_limit: usize,
    /// Served connections from other hosts.
    remote: usize,
    /// Of both kinds, by address.
    by_address: BTreeMap<IpAddr, usize>,
}

/// One slot, freed when dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    held: Rc<RefCell<SlotCounts>>,
    /// `None`: this host.
    from: Option<IpAddr>,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Served,
    /// Only health probes are answered.
    OverLimit,
}

impl ConnectionSlots {
    pub(super) fn new(limit: usize) -> Self {
        Self(Rc::new(RefCell::new(SlotCounts {
            limit,
            served: 0,
            over_limit: 0,
            remote: 0,
            by_address: BTreeMap::new(),
        })))
    }

    /// `None`: no slot is free for this caller.
    pub(super) fn take(&self, via: ListenerScope) -> Option<ConnectionSlot> {
        let from = match via {
            ListenerScope::Tcp { caller, .. } if !via.is_local() => Some(caller),
            _ => None,
        };
        let kind = self.0.borrow_mut().take(from)?;
        Some(ConnectionSlot {
            held: Rc::clone(&self.0),
            from,
            kind,
        })
    }
}

impl SlotCounts {
    fn take(&mut self, from: Option<IpAddr>) -> Option<Kind> {
        let of_address = from.map_or(0, |addr| self.by_address.get(&addr).copied().unwrap_or(0));
        if of_address >= PER_ADDRESS {
            return None;
        }
        let kept = RESERVED_FOR_LOCAL.min(self.limit / 2);
        let room = from.is_none() || self.remote < self.limit - kept;
        let kind = if room && self.served < self.limit {
            self.served += 1;
            self.remote += usize::from(from.is_some());
            Kind::Served
        } else if self.over_limit < self.limit {
            self.over_limit += 1;
            Kind::OverLimit
        } else {
            return None;
        };
        if let Some(addr) = from {
            self.by_address.insert(addr, of_address + 1);
        }
        Some(kind)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut held = self.held.borrow_mut();
        match self.kind {
            Kind::Served => {
                held.served -= 1;
                held.remote -= usize::from(self.from.is_some());
            }
            Kind::OverLimit => held.over_limit -= 1,
        }
        let Some(addr) = self.from else { return };
        match held.by_address.get_mut(&addr) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.by_address.remove(&addr)),
        }
    }
}

const RESERVED_FOR_LOCAL: usize = 8;
/// Connections that one other address holds at most.
const PER_ADDRESS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> ListenerScope {
        ListenerScope::Tcp {
            caller: IpAddr::from([10, 0, 0, last]),
            local: IpAddr::from([10, 0, 0, 1]),
        }
    }

    fn kinds(places: &[ConnectionSlot]) -> (usize, usize) {
        let served = places.iter().filter(|place| place.kind == Kind::Served);
        let served = served.count();
        (served, places.len() - served)
    }

    #[test]
    fn one_address_has_sixteen_and_gets_them_back() {
        let places = ConnectionSlots::new(64);
        let take = |last, count: usize| -> Vec<ConnectionSlot> {
            (0..count).filter_map(|_| places.take(from(last))).collect()
        };
        let greedy = take(2, 100);
        assert_eq!(kinds(&greedy), (16, 0));
        assert_eq!(kinds(&take(3, 100)), (16, 0));
        drop(greedy);
        assert_eq!(kinds(&take(2, 100)), (16, 0));
        let held = places.0.borrow();
        assert_eq!((held.served, held.remote, held.by_address.len()), (0, 0, 0));
    }

    #[test]
    fn eight_are_kept_for_this_host_and_the_rest_is_hurried() {
        let places = ConnectionSlots::new(64);
        let take = |via: &dyn Fn(u8) -> ListenerScope, count: u8| -> Vec<ConnectionSlot> {
            (0..count).filter_map(|n| places.take(via(n))).collect()
        };
        let others = take(&|n| from(n / 10 + 2), 100);
        assert_eq!(kinds(&others), (56, 44));
        let local = take(&|_| ListenerScope::Loopback, 30);
        assert_eq!(kinds(&local), (8, 20));
        assert!(places.take(from(99)).is_none());
        drop(others);
        // It may have all of them while no other host wants one.
        let local = take(&|_| from(1), 200);
        assert_eq!(kinds(&local), (56, 44));
    }

    #[test]
    fn few_places_are_shared_all_the_same() {
        let places = ConnectionSlots::new(1);
        let one = places.take(from(2)).unwrap();
        assert_eq!(one.kind, Kind::Served);
        assert_eq!(
            places.take(ListenerScope::Unix).unwrap().kind,
            Kind::OverLimit
        );
    }
}
