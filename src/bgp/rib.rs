//! Adj-RIB-Out (RFC 4271 §3.2): what a peer shall know, what it has been advertised, and the messages that
//! lead from one to the other. End-of-RIB (RFC 4724 §2), route refresh (RFC 2918, RFC 7313).
//!
//! Left out: MinRouteAdvertisementIntervalTimer (RFC 4271 §9.2.1.1): it limits routes that pass through
//! a speaker, and all of ours are our own, with a damping of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{
    AsPath, MAX_LEN, MESSAGES, Message, Negotiated, Packed, Packer, PathAttributes, RefreshKind,
    RouteRefresh, SessionType, end_of_rib, sendable, summary,
};
use crate::net::{Family, Prefix};

/// The routes for one peer. The wanted set outlives sessions; the rest belongs to one.
#[derive(Debug, Default)]
pub struct AdjRibOut {
    wanted: Shared,
    session: Option<Session>,
}

/// Whole messages in the order in which they are to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filled {
    pub bytes: Vec<u8>,
    pub updates: u64,
    pub route_refreshes: u64,
    /// A line for each message, where the log wants them.
    pub lines: Vec<String>,
}

impl AdjRibOut {
    /// Makes `routes` the whole wanted set; what the peer knows already is not sent again, and of
    /// several changes to a route that waits only the last one is sent.
    pub fn replace(&mut self, routes: Routes) {
        let mut shared = BTreeSet::new();
        let mut wanted = Shared::new();
        for (prefix, attributes) in routes {
            let attributes = match self.wanted.get(&prefix) {
                Some(known) if **known == attributes => Arc::clone(known),
                _ => share(&mut shared, attributes),
            };
            wanted.insert(prefix, attributes);
        }
        let before = std::mem::replace(&mut self.wanted, wanted);
        let Some(session) = &mut self.session else {
            return;
        };
        for (prefix, old) in &before {
            if !self.wanted.contains_key(prefix) {
                session.want(*prefix, Some(old), None);
            }
        }
        for (prefix, new) in &self.wanted {
            let old = before.get(prefix);
            if old != Some(new) {
                session.want(*prefix, old, Some(new));
            }
        }
    }

    /// Changes single routes of the wanted set; `None` removes one.
    pub fn update(&mut self, changes: BTreeMap<Prefix, Option<PathAttributes>>) {
        // Routes that change together often have equal attributes, also with those that stay.
        let mut shared: BTreeSet<Arc<PathAttributes>> = BTreeSet::new();
        for (prefix, attributes) in changes {
            let before = self.wanted.get(&prefix).cloned();
            let after = attributes.map(|attributes| match &before {
                Some(known) if **known == attributes => Arc::clone(known),
                _ => share(&mut shared, attributes),
            });
            if before == after {
                continue;
            }
            match &after {
                Some(attributes) => self.wanted.insert(prefix, Arc::clone(attributes)),
                None => self.wanted.remove(&prefix),
            };
            if let Some(session) = &mut self.session {
                session.want(prefix, before.as_ref(), after.as_ref());
            }
        }
    }

    #[cfg(test)]
    pub(super) fn wanted(&self) -> &BTreeMap<Prefix, Arc<PathAttributes>> {
        &self.wanted
    }

    /// A session begins: the peer knows nothing, End-of-RIB is due for every family. With
    /// `hold_end_of_rib` it waits for [`AdjRibOut::release_end_of_rib`].
    pub fn begin(&mut self, negotiated: Negotiated, hold_end_of_rib: bool) {
        let mut session = Session::new(negotiated, hold_end_of_rib);
        for (prefix, attributes) in &self.wanted {
            session.want(*prefix, None, Some(attributes));
        }
        self.session = Some(session);
    }

    /// The session is over, and with it all that the peer was advertised.
    pub fn end(&mut self) {
        self.session = None;
    }

    /// The wanted set is complete: End-of-RIB may follow it.
    pub fn release_end_of_rib(&mut self) {
        if let Some(session) = &mut self.session {
            session.hold_end_of_rib = false;
        }
    }

    /// The peer wants all of `family` again. Requests during a refresh make one more after it.
    pub fn refresh(&mut self, family: Family) {
        let table = self
            .session
            .as_mut()
            .and_then(|session| session.tables.get_mut(&family));
        let Some(table) = table else { return };
        table.refresh = match table.refresh {
            Refresh::None | Refresh::Waiting => Refresh::Waiting,
            Refresh::Running { .. } => Refresh::Running { again: true },
        };
    }

    /// The next messages, at most `room` bytes of them: withdrawals before everything else, and the
    /// last [`WITHDRAW_RESERVE`] bytes for them alone. Nothing is left to send, or nothing more fits,
    /// where `bytes` is empty.
    pub fn fill(&mut self, room: usize) -> Filled {
        let mut filled = Filled::default();
        if let Some(session) = &mut self.session {
            session.fill_withdrawals(room, &mut filled);
            let room = room.saturating_sub(filled.bytes.len() + WITHDRAW_RESERVE);
            // A short tail of room makes short UPDATEs: wait until a whole one fits.
            if room >= update_len(&session.negotiated) {
                session.fill_announcements(&self.wanted, room, &mut filled);
            }
        }
        filled
    }

    /// How many prefixes the peer has been told of.
    pub fn announced(&self) -> usize {
        self.tables().map(|table| table.advertised.len()).sum()
    }

    pub fn is_announced(&self, prefix: &Prefix) -> bool {
        self.tables()
            .any(|table| table.advertised.contains_key(prefix))
    }

    /// Wanted routes that this session cannot carry: its families or the next hop do not allow it.
    pub fn unsendable(&self) -> Option<&BTreeSet<Prefix>> {
        self.session.as_ref().map(|session| &session.unsendable)
    }

    /// Nothing waits for room.
    pub fn is_flushed(&self) -> bool {
        self.tables()
            .all(|table| table.withdraw.is_empty() && table.announce.is_empty())
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        self.session.iter().flat_map(|s| s.tables.values())
    }
}

/// Room that announcements leave free, so that a withdrawal need not wait behind them.
pub const WITHDRAW_RESERVE: usize = 2 * MAX_LEN;

/// The longest UPDATE we make: as long as negotiated (RFC 8654), but a withdrawal must still find room
/// behind it in what a connection may hold unsent.
fn update_len(negotiated: &Negotiated) -> usize {
    negotiated.max_len().min(LONGEST_UPDATE)
}

const LONGEST_UPDATE: usize = 48 * 1024;

/// Equal attributes are kept once.
fn share(
    shared: &mut BTreeSet<Arc<PathAttributes>>,
    attributes: PathAttributes,
) -> Arc<PathAttributes> {
    if let Some(known) = shared.get(&attributes) {
        return Arc::clone(known);
    }
    let attributes = Arc::new(attributes);
    shared.insert(Arc::clone(&attributes));
    attributes
}

#[derive(Debug)]
struct Session {
    negotiated: Negotiated,
    tables: BTreeMap<Family, Table>,
    unsendable: BTreeSet<Prefix>,
    hold_end_of_rib: bool,
}

/// One family's routes.
#[derive(Debug)]
struct Table {
    advertised: BTreeMap<Prefix, Advertised>,
    withdraw: BTreeSet<Prefix>,
    /// Ordered by attributes, so that neighbours share an UPDATE.
    announce: BTreeSet<(Arc<PathAttributes>, Prefix)>,
    end_of_rib_due: bool,
    refresh: Refresh,
}

#[derive(Debug)]
struct Advertised {
    attributes: Arc<PathAttributes>,
    /// Before the refresh that runs; it has to be said again though it did not change.
    stale: bool,
}

#[derive(Clone, Copy, Debug)]
enum Refresh {
    None,
    Waiting,
    /// Another request came in: it starts anew when this one is done.
    Running {
        again: bool,
    },
}

impl Session {
    fn new(negotiated: Negotiated, hold_end_of_rib: bool) -> Self {
        let table = || Table {
            advertised: BTreeMap::new(),
            withdraw: BTreeSet::new(),
            announce: BTreeSet::new(),
            end_of_rib_due: true,
            refresh: Refresh::None,
        };
        Self {
            tables: negotiated.families.iter().map(|f| (*f, table())).collect(),
            negotiated,
            unsendable: BTreeSet::new(),
            hold_end_of_rib,
        }
    }

    /// One wanted route changed; `None` is "no route".
    fn want(
        &mut self,
        prefix: Prefix,
        before: Option<&Arc<PathAttributes>>,
        after: Option<&Arc<PathAttributes>>,
    ) {
        self.unsendable.remove(&prefix);
        let after = after.filter(|attributes| {
            let exported = export(attributes, &self.negotiated);
            let fits = sendable(
                &prefix,
                &exported,
                &self.negotiated,
                update_len(&self.negotiated),
            );
            if !fits {
                self.unsendable.insert(prefix);
            }
            fits
        });
        let Some(table) = self.tables.get_mut(&prefix.family()) else {
            return;
        };
        if let Some(before) = before {
            table.announce.remove(&(Arc::clone(before), prefix));
        }
        table.withdraw.remove(&prefix);
        match (table.advertised.get(&prefix), after) {
            (Some(advertised), Some(after))
                if !advertised.stale && advertised.attributes == *after => {}
            (_, Some(after)) => {
                table.announce.insert((Arc::clone(after), prefix));
            }
            (Some(_), None) => {
                table.withdraw.insert(prefix);
            }
            (None, None) => {}
        }
    }

    fn fill_withdrawals(&mut self, room: usize, filled: &mut Filled) {
        let mut chunk = BTreeSet::new();
        let mut size = 0;
        for prefix in self.tables.values().flat_map(|table| &table.withdraw) {
            size += wire_size(prefix);
            if size > room {
                break;
            }
            chunk.insert(*prefix);
        }
        if chunk.is_empty() {
            return;
        }
        let nothing = BTreeMap::new();
        let longest = update_len(&self.negotiated);
        for packed in Packer::new(&chunk, &nothing, &self.negotiated, longest) {
            if filled.bytes.len() + packed.bytes.len() > room {
                return;
            }
            filled.update(&packed, None);
            for prefix in &packed.withdrawn {
                if let Some(table) = self.tables.get_mut(&prefix.family()) {
                    table.withdraw.remove(prefix);
                    table.advertised.remove(prefix);
                }
            }
        }
    }

    fn fill_announcements(&mut self, wanted: &Shared, room: usize, filled: &mut Filled) {
        let limit = filled.bytes.len() + room;
        let enhanced = self.negotiated.enhanced_route_refresh;
        for (family, table) in &mut self.tables {
            if table.starts_refresh(wanted) && enhanced {
                filled.route_refresh(*family, RefreshKind::Begin);
            }
            let complete = table.fill(&self.negotiated, limit, filled);
            if !complete || filled.bytes.len() + 2 * MARKERS > limit {
                return;
            }
            if table.end_of_rib_due && !self.hold_end_of_rib {
                table.end_of_rib_due = false;
                filled.bytes.extend_from_slice(&end_of_rib(*family));
                filled.updates += 1;
                filled.line(|| summary::end_of_rib(*family));
            }
            if let Refresh::Running { again } = table.refresh {
                if enhanced {
                    filled.route_refresh(*family, RefreshKind::End);
                }
                table.refresh = if again {
                    Refresh::Waiting
                } else {
                    Refresh::None
                };
            }
        }
    }
}

/// More than an End-of-RIB (29 bytes) or a ROUTE-REFRESH (23 bytes) takes.
const MARKERS: usize = 32;

impl Table {
    /// Begins a refresh that waits. RFC 7313 §4: not before the End-of-RIB of the first exchange.
    fn starts_refresh(&mut self, wanted: &Shared) -> bool {
        if !matches!(self.refresh, Refresh::Waiting) || self.end_of_rib_due {
            return false;
        }
        self.refresh = Refresh::Running { again: false };
        for (prefix, advertised) in &mut self.advertised {
            advertised.stale = true;
            let kept = wanted.get(prefix);
            if let Some(attributes) = kept.filter(|_| !self.withdraw.contains(prefix)) {
                self.announce.insert((Arc::clone(attributes), *prefix));
            }
        }
        true
    }

    /// Announces as much as fits below `limit`; says whether that was all.
    fn fill(&mut self, negotiated: &Negotiated, limit: usize, filled: &mut Filled) -> bool {
        let (mut waiting, routes) = self.next_routes(negotiated, limit);
        let nothing = BTreeSet::new();
        for packed in Packer::new(&nothing, &routes, negotiated, update_len(negotiated)) {
            if filled.bytes.len() + packed.bytes.len() > limit {
                return false;
            }
            let attributes = packed.announced.first().and_then(|route| routes.get(route));
            filled.update(&packed, attributes);
            for prefix in packed.announced {
                if let Some(attributes) = waiting.remove(&prefix) {
                    self.announce.remove(&(Arc::clone(&attributes), prefix));
                    let stale = false;
                    self.advertised
                        .insert(prefix, Advertised { attributes, stale });
                }
            }
        }
        self.announce.is_empty()
    }

    /// The first routes that wait, about as many as `limit` bytes hold: as they are kept, and as the
    /// peer is to see them.
    fn next_routes(&self, negotiated: &Negotiated, limit: usize) -> (Shared, Routes) {
        let mut shared = Shared::new();
        let mut routes = Routes::new();
        let mut size = 0;
        let mut last: Option<(&Arc<PathAttributes>, PathAttributes)> = None;
        for (attributes, prefix) in &self.announce {
            size += wire_size(prefix);
            if size > limit {
                break;
            }
            let exported = match last {
                Some((known, exported)) if Arc::ptr_eq(known, attributes) => exported,
                _ => export(attributes, negotiated),
            };
            shared.insert(*prefix, Arc::clone(attributes));
            routes.insert(*prefix, exported.clone());
            last = Some((attributes, exported));
        }
        (shared, routes)
    }
}

type Shared = BTreeMap<Prefix, Arc<PathAttributes>>;
type Routes = BTreeMap<Prefix, PathAttributes>;

impl Filled {
    /// `attributes`: of the routes that it announces.
    fn update(&mut self, packed: &Packed, attributes: Option<&PathAttributes>) {
        self.bytes.extend_from_slice(&packed.bytes);
        self.updates += 1;
        self.line(|| summary::update(packed, attributes));
    }

    fn line(&mut self, line: impl FnOnce() -> String) {
        if log::log_enabled!(target: MESSAGES, log::Level::Debug) {
            self.lines.push(line());
        }
    }

    fn route_refresh(&mut self, family: Family, kind: RefreshKind) {
        let family = family.into();
        let message = Message::RouteRefresh(RouteRefresh { family, kind });
        // Four bytes of body always fit.
        if let Ok(bytes) = message.encode() {
            self.bytes.extend_from_slice(&bytes);
            self.route_refreshes += 1;
            self.line(|| message.to_string());
        }
    }
}

/// As the peer is to see it (RFC 4271 §5.1.2, §5.1.5): our AS in front towards another AS; within our
/// own no path, and a preference.
fn export(attributes: &PathAttributes, negotiated: &Negotiated) -> PathAttributes {
    let mut exported = attributes.clone();
    match negotiated.session {
        SessionType::Ebgp => {
            exported.as_path.prepend(negotiated.local_as, 1);
            exported.local_pref = None;
        }
        SessionType::Ibgp => {
            exported.as_path = AsPath::default();
            exported.local_pref.get_or_insert(DEFAULT_LOCAL_PREF);
        }
    }
    exported
}

const DEFAULT_LOCAL_PREF: u32 = 100;

/// Bytes of a prefix in an UPDATE (RFC 4271 §4.3).
fn wire_size(prefix: &Prefix) -> usize {
    1 + usize::from(prefix.len().div_ceil(8))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::bgp::reader::{Heard, decode};
    use crate::bgp::{Capability, DecodeContext, Framer, Open};
    use crate::net::{Asn, RouterId};

    const ROOM: usize = 64 * 1024;

    fn negotiated(local_as: u32, peer_as: u32) -> Negotiated {
        let open = |asn, id| {
            let mut capabilities: Vec<_> = Family::ALL
                .map(|family| Capability::Multiprotocol(family.into()))
                .into();
            capabilities.push(Capability::EnhancedRouteRefresh);
            let router_id = RouterId::new(Ipv4Addr::new(10, 0, 0, id)).unwrap();
            Open::new(Asn::new(asn).unwrap(), 90, router_id, capabilities)
        };
        Negotiated::new(&open(local_as, 1), &open(peer_as, 2)).unwrap()
    }

    fn begun() -> AdjRibOut {
        let mut rib = AdjRibOut::default();
        rib.begin(negotiated(65001, 65002), false);
        rib.fill(ROOM);
        rib
    }

    fn prefix(number: u32) -> Prefix {
        Prefix::host(Ipv4Addr::from_bits(0xc000_0000 + number).into())
    }

    fn routes(numbers: impl IntoIterator<Item = u32>, med: u32) -> Routes {
        let mut attributes = PathAttributes::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)));
        attributes.med = Some(med);
        let numbers = numbers.into_iter();
        numbers.map(|n| (prefix(n), attributes.clone())).collect()
    }

    fn read(filled: &Filled) -> Vec<Heard> {
        let mut context = DecodeContext::established(&negotiated(65002, 65001));
        context.enhanced_route_refresh = true;
        let mut framer = Framer::new();
        framer.push(&filled.bytes);
        let mut messages = Vec::new();
        while let Some(frame) = framer.next(MAX_LEN).unwrap() {
            messages.push(decode(&frame, &context).unwrap());
        }
        assert_eq!(
            filled.updates + filled.route_refreshes,
            messages.len() as u64
        );
        messages
    }

    /// Announced with their MED, and withdrawn.
    fn told(filled: &Filled) -> (Vec<(Prefix, u32)>, Vec<Prefix>) {
        let (mut announced, mut withdrawn) = (Vec::new(), Vec::new());
        for message in read(filled) {
            if let Heard::Update(update) = message {
                withdrawn.extend(update.withdrawn);
                for one in update.announced {
                    let med = one.attributes.med.unwrap();
                    announced.extend(one.prefixes.into_iter().map(|prefix| (prefix, med)));
                }
            }
        }
        (announced, withdrawn)
    }

    #[test]
    fn a_route_that_changes_while_it_waits_is_sent_once_in_its_last_form() {
        let mut rib = begun();
        rib.replace(routes([1], 1));
        rib.replace(routes([1], 2));
        rib.replace(routes([1, 2], 3));
        assert!(!rib.is_flushed());
        let (announced, withdrawn) = told(&rib.fill(ROOM));
        assert_eq!(announced, [(prefix(1), 3), (prefix(2), 3)]);
        assert_eq!(withdrawn, []);
        assert_eq!(rib.fill(ROOM), Filled::default());
        assert!(rib.is_flushed());
    }

    #[test]
    fn a_change_that_is_taken_back_while_it_waits_sends_nothing() {
        let mut rib = begun();
        rib.replace(routes([1], 1));
        rib.fill(ROOM);
        rib.replace(routes([1, 2], 2));
        rib.replace(routes([1], 1));
        assert_eq!(rib.fill(ROOM), Filled::default());
        rib.replace(Routes::new());
        rib.replace(routes([1], 1));
        assert_eq!(rib.fill(ROOM), Filled::default());
    }

    #[test]
    fn a_withdrawal_jumps_ahead_of_announcements_that_wait_and_has_room_of_its_own() {
        let mut rib = begun();
        rib.replace(routes([1], 1));
        rib.fill(ROOM);
        rib.replace(routes(1..20_001, 1));
        let first = rib.fill(ROOM);
        assert!(first.bytes.len() <= ROOM - WITHDRAW_RESERVE);
        assert!(!rib.is_flushed());
        rib.replace(routes(2..20_001, 1));
        // As much is unsent as announcements may use: only the withdrawal goes out.
        let (announced, withdrawn) = told(&rib.fill(ROOM - first.bytes.len()));
        assert_eq!((announced, withdrawn), (Vec::new(), vec![prefix(1)]));
        let rest = rib.fill(ROOM);
        let (announced, withdrawn) = told(&rest);
        assert!(!announced.is_empty() && withdrawn.is_empty());
        assert_eq!(rib.announced(), 19_999);
    }

    #[test]
    fn a_route_withdrawn_before_it_was_told_is_never_mentioned() {
        let mut rib = begun();
        rib.replace(routes([1], 1));
        rib.replace(Routes::new());
        assert_eq!(rib.fill(ROOM), Filled::default());
    }

    #[test]
    fn a_route_changed_and_restored_during_a_refresh_is_still_part_of_it() {
        let mut rib = begun();
        rib.replace(routes(0..15_000, 1));
        while !rib.fill(ROOM).bytes.is_empty() {}
        rib.refresh(Family::Ipv4);
        let (mut announced, _) = told(&rib.fill(ROOM));
        let last = 14_999;
        let mut changed = routes(0..15_000, 1);
        changed.extend(routes([last], 2));
        rib.replace(changed);
        rib.replace(routes(0..15_000, 1));
        announced.extend(told(&rib.fill(ROOM)).0);
        assert_eq!(announced.len(), 15_000);
        assert!(announced.contains(&(prefix(last), 1)));
        assert_eq!(rib.fill(ROOM), Filled::default(), "and it is over");
    }

    #[test]
    fn requests_during_a_refresh_make_one_more_after_it() {
        let mut rib = begun();
        rib.replace(routes(0..15_000, 1));
        while !rib.fill(ROOM).bytes.is_empty() {}
        rib.refresh(Family::Ipv4);
        let mut markers = rib.fill(ROOM).route_refreshes;
        rib.refresh(Family::Ipv4);
        rib.refresh(Family::Ipv4);
        for _ in 0..10 {
            markers += rib.fill(ROOM).route_refreshes;
        }
        assert_eq!(markers, 4, "two begins and two ends");
        assert!(rib.is_flushed());
    }

    #[test]
    fn a_refresh_waits_for_the_end_of_the_first_exchange() {
        let mut rib = AdjRibOut::default();
        rib.replace(routes([1], 1));
        rib.begin(negotiated(65001, 65002), true);
        rib.refresh(Family::Ipv4);
        assert_eq!(read(&rib.fill(ROOM)).len(), 1, "the route alone");
        assert_eq!(rib.fill(ROOM), Filled::default());
        rib.release_end_of_rib();
        assert_eq!(rib.fill(ROOM).updates, 2);
        let refresh = rib.fill(ROOM);
        assert_eq!((refresh.updates, refresh.route_refreshes), (1, 2));
    }

    #[test]
    fn another_as_sees_ours_in_front_and_our_own_sees_a_preference() {
        let attributes = PathAttributes {
            as_path: AsPath::sequence(Asn::new(65001)),
            ..PathAttributes::new(Ipv4Addr::new(10, 0, 0, 9).into())
        };
        let ebgp = export(&attributes, &negotiated(65001, 65002));
        assert_eq!(ebgp.as_path.to_string(), "65001 65001");
        assert_eq!(ebgp.local_pref, None);
        let ibgp = export(&attributes, &negotiated(65001, 65001));
        assert_eq!(ibgp.as_path, AsPath::default());
        assert_eq!(ibgp.local_pref, Some(100));
    }

    #[test]
    fn a_route_that_the_session_cannot_carry_is_named_and_one_told_before_is_withdrawn() {
        let mut rib = begun();
        rib.replace(routes([1], 1));
        rib.fill(ROOM);
        let over_ipv6 = PathAttributes::new("2001:db8::1".parse().unwrap());
        rib.replace(Routes::from([(prefix(1), over_ipv6)]));
        assert_eq!(told(&rib.fill(ROOM)).1, [prefix(1)]);
        assert_eq!(rib.unsendable(), Some(&BTreeSet::from([prefix(1)])));
        rib.replace(routes([1], 1));
        assert_eq!(rib.unsendable(), Some(&BTreeSet::new()));
        assert_eq!(rib.announced(), 0);
        rib.fill(ROOM);
        assert_eq!(rib.announced(), 1);
    }
}
