//! Adj-RIB-Out (RFC 4271 §3.2): the routes wanted for a peer, those advertised to it, and the messages
//! that make the second equal to the first. End-of-RIB (RFC 4724 §2), route refresh (RFC 2918, RFC 7313).
//!
//! Left out: MinRouteAdvertisementIntervalTimer (RFC 4271 §9.2.1.1): it limits propagated
//! routes, and ours are originated here, with a damping of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Instant;

use super::{
    AsPath, MAX_LEN, Message, Negotiated, PackedUpdate, Packer, PathAttributes, RefreshKind,
    RouteRefresh, SessionType, end_of_rib, is_sendable, summary,
};
use crate::net::{Family, Prefix};

/// The routes for one peer. The wanted set is kept across sessions; `session` is not.
#[derive(Debug, Default)]
pub struct AdjRibOut {
    wanted: SharedRoutes,
    session: Option<Session>,
    tracing: bool,
}

/// Whole messages in the order in which they are to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct OutgoingMessages {
    pub bytes: Vec<u8>,
    pub updates: u64,
    pub route_refreshes: u64,
    /// The messages as text, if they are traced.
    pub lines: Vec<String>,
    tracing: bool,
}

/// The time of a send, and its offset in the bytes of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    pub now: Instant,
    pub offset: u64,
}

/// A prefix as advertised to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisedRoute {
    /// As sent to the peer.
    pub attributes: PathAttributes,
    /// Time of the first advertisement with these attributes.
    pub since: Instant,
    /// Offset of the end of the UPDATE in the bytes of the connection: the peer has the route once it has
    /// acknowledged them.
    pub end: u64,
}

impl AdjRibOut {
    /// Makes `routes` the whole wanted set. A route that is already advertised with these attributes is not sent
    /// again; of several changes to a route that waits to be sent only the last one is sent.
    pub fn replace(&mut self, routes: Routes) {
        let mut shared = BTreeSet::new();
        let mut wanted = SharedRoutes::new();
        for (prefix, attributes) in routes {
            let attributes = match self.wanted.get(&prefix) {
                Some(known) if **known == attributes => Arc::clone(known),
                _ => intern(&mut shared, attributes),
            };
            wanted.insert(prefix, attributes);
        }
        let before = std::mem::replace(&mut self.wanted, wanted);
        let Some(session) = &mut self.session else {
            return;
        };
        for (prefix, old) in &before {
            if !self.wanted.contains_key(prefix) {
                session.route_changed(*prefix, Some(old), None);
            }
        }
        for (prefix, new) in &self.wanted {
            let old = before.get(prefix);
            if old != Some(new) {
                session.route_changed(*prefix, old, Some(new));
            }
        }
    }

    /// Changes single routes of the wanted set; `None` removes one.
    pub fn update(&mut self, changes: Vec<(Prefix, Option<PathAttributes>)>) {
        // Routes that change together often have equal attributes, equal also to those of unchanged routes.
        let mut shared: BTreeSet<Arc<PathAttributes>> = BTreeSet::new();
        for (prefix, attributes) in changes {
            let before = self.wanted.get(&prefix).cloned();
            let after = attributes.map(|attributes| match &before {
                Some(known) if **known == attributes => Arc::clone(known),
                _ => match self.neighbor_with(&prefix, &attributes) {
                    Some(known) => Arc::clone(known),
                    None => intern(&mut shared, attributes),
                },
            });
            if before == after {
                continue;
            }
            match &after {
                Some(attributes) => self.wanted.insert(prefix, Arc::clone(attributes)),
                None => self.wanted.remove(&prefix),
            };
            if let Some(session) = &mut self.session {
                session.route_changed(prefix, before.as_ref(), after.as_ref());
            }
        }
    }

    /// Equal attributes of the wanted route before or after this prefix: the routes of a host are mostly alike.
    fn neighbor_with(
        &self,
        prefix: &Prefix,
        attributes: &PathAttributes,
    ) -> Option<&Arc<PathAttributes>> {
        let before = self.wanted.range(..prefix).next_back();
        let after = self.wanted.range((Excluded(prefix), Unbounded)).next();
        let neighbors = [before, after].into_iter().flatten();
        let mut known = neighbors.map(|(_, known)| known);
        known.find(|known| ***known == *attributes)
    }

    /// A session is established: all routes and an End-of-RIB for each family are due. With
    /// `hold_end_of_rib` the latter waits for [`AdjRibOut::release_end_of_rib`].
    pub fn begin(&mut self, negotiated: Negotiated, hold_end_of_rib: bool) {
        let mut session = Session::new(negotiated, hold_end_of_rib);
        for (prefix, attributes) in &self.wanted {
            session.route_changed(*prefix, None, Some(attributes));
        }
        self.session = Some(session);
    }

    /// The session is over, and with it all that the peer was advertised.
    pub fn end(&mut self) {
        self.session = None;
    }

    /// Describes every message in [`OutgoingMessages::lines`] from now on, or stops it.
    pub fn set_tracing(&mut self, tracing: bool) {
        self.tracing = tracing;
    }

    /// The wanted set is complete: End-of-RIB may follow it.
    pub fn release_end_of_rib(&mut self) {
        if let Some(session) = &mut self.session {
            session.hold_end_of_rib = false;
        }
    }

    /// The peer requested a route refresh of `family`. Requests during a refresh cause one more after it.
    pub fn refresh(&mut self, family: Family) {
        let table = self
            .session
            .as_mut()
            .and_then(|session| session.table(family));
        let Some(table) = table else { return };
        table.refresh = match table.refresh {
            Refresh::None | Refresh::Waiting => Refresh::Waiting,
            Refresh::Running { .. } => Refresh::Running { again: true },
        };
    }

    /// The next messages, at most `room` bytes of them: withdrawals before everything else, and the
    /// last [`WITHDRAW_RESERVE`] bytes for them alone. If `bytes` is empty, nothing is left to send or nothing
    /// more fits.
    pub fn fill(&mut self, room: usize, at: Position) -> OutgoingMessages {
        let mut outgoing = OutgoingMessages {
            tracing: self.tracing,
            ..OutgoingMessages::default()
        };
        if let Some(session) = &mut self.session {
            session.fill_withdrawals(room, &mut outgoing);
            let room = room.saturating_sub(outgoing.bytes.len() + WITHDRAW_RESERVE);
            // Little room would make short UPDATEs: wait until a full one fits.
            if room >= update_len(&session.negotiated) {
                session.fill_announcements(&self.wanted, room, at, &mut outgoing);
            }
        }
        outgoing
    }

    /// Number of prefixes advertised in this session.
    pub fn announced(&self) -> usize {
        self.tables().map(|table| table.advertised.len()).sum()
    }

    /// Whether the prefix was advertised in this session.
    pub fn is_announced(&self, prefix: &Prefix) -> bool {
        self.tables()
            .any(|table| table.advertised.contains_key(prefix))
    }

    /// The longest prefix with this network address that was advertised in this session.
    pub fn longest_announced(&self, network: IpAddr) -> Option<Prefix> {
        // Prefixes are in the order of their addresses, then of their lengths.
        self.tables().find_map(|table| {
            let mut up_to = table.advertised.range(..=Prefix::host(network));
            let (longest, _) = up_to.next_back()?;
            (longest.addr() == network).then_some(*longest)
        })
    }

    /// `prefix` as advertised in this session.
    pub fn advertised(&self, prefix: &Prefix) -> Option<AdvertisedRoute> {
        let session = self.session.as_ref()?;
        let mut tables = session.tables.iter();
        let (_, table) = tables.find(|(family, _)| *family == prefix.family())?;
        let advertised = table.advertised.get(prefix)?;
        Some(AdvertisedRoute {
            attributes: export(&advertised.attributes, &session.negotiated),
            since: advertised.since,
            end: advertised.end,
        })
    }

    /// Prefixes that were advertised or withdrawn in this session since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<Prefix> {
        let tables = self.session.iter_mut().flat_map(|s| &mut s.tables);
        let changed = tables.flat_map(|(_, table)| std::mem::take(&mut table.changed));
        changed.collect()
    }

    /// Wanted routes that this session cannot carry: its families or the next hop do not allow it.
    pub fn unsendable(&self) -> Option<&BTreeSet<Prefix>> {
        self.session.as_ref().map(|session| &session.unsendable)
    }

    /// Whether no route waits to be sent.
    pub fn is_flushed(&self) -> bool {
        self.tables()
            .all(|table| table.withdraw.is_empty() && table.announce.is_empty())
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        self.session
            .iter()
            .flat_map(|s| s.tables.iter().map(|(_, table)| table))
    }
}

/// Room that announcements leave free, so that a withdrawal need not wait behind them.
pub const WITHDRAW_RESERVE: usize = 2 * MAX_LEN;

/// The longest UPDATE we make, in bytes: as long as negotiated (RFC 8654), but it must leave room for a withdrawal
/// in the send limit of a connection.
fn update_len(negotiated: &Negotiated) -> usize {
    negotiated.max_len().min(LONGEST_UPDATE)
}

const LONGEST_UPDATE: usize = 48 * 1024;

/// Interns equal attributes, so that they are stored once.
fn intern(
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
    tables: Vec<(Family, Table)>,
    unsendable: BTreeSet<Prefix>,
    hold_end_of_rib: bool,
}

/// One family's routes.
#[derive(Debug)]
struct Table {
    advertised: BTreeMap<Prefix, Advertised>,
    /// Advertised or withdrawn since the last [`AdjRibOut::take_changed`].
    changed: BTreeSet<Prefix>,
    withdraw: BTreeSet<Prefix>,
    /// Ordered by attributes, so that adjacent entries share an UPDATE.
    announce: BTreeSet<(Arc<PathAttributes>, Prefix)>,
    end_of_rib_due: bool,
    refresh: Refresh,
}

#[derive(Debug)]
struct Advertised {
    attributes: Arc<PathAttributes>,
    /// Sent before the running refresh, so it is sent again even if it did not change.
    stale: bool,
    /// Since when with these attributes.
    since: Instant,
    /// Offset of the end of the UPDATE in the bytes of the connection.
    end: u64,
}

#[derive(Clone, Copy, Debug)]
enum Refresh {
    None,
    Waiting,
    /// `again`: another request came in, and one more refresh follows.
    Running {
        again: bool,
    },
}

impl Session {
    fn new(negotiated: Negotiated, hold_end_of_rib: bool) -> Self {
        let table = || Table {
            advertised: BTreeMap::new(),
            changed: BTreeSet::new(),
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

    fn table(&mut self, family: Family) -> Option<&mut Table> {
        let (_, table) = self.tables.iter_mut().find(|(of, _)| *of == family)?;
        Some(table)
    }

    /// One wanted route changed; `None` is "no route".
    fn route_changed(
        &mut self,
        prefix: Prefix,
        before: Option<&Arc<PathAttributes>>,
        after: Option<&Arc<PathAttributes>>,
    ) {
        self.unsendable.remove(&prefix);
        let after = after.filter(|attributes| {
            let exported = export(attributes, &self.negotiated);
            let fits = is_sendable(
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
        let Some(table) = self.table(prefix.family()) else {
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

    fn fill_withdrawals(&mut self, room: usize, outgoing: &mut OutgoingMessages) {
        let mut chunk = BTreeSet::new();
        let mut size = 0;
        for prefix in self.tables.iter().flat_map(|(_, table)| &table.withdraw) {
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
            if outgoing.bytes.len() + packed.bytes.len() > room {
                return;
            }
            outgoing.update(&packed, None);
            for prefix in &packed.withdrawn {
                if let Some(table) = self.table(prefix.family()) {
                    table.withdraw.remove(prefix);
                    table.advertised.remove(prefix);
                    table.changed.insert(*prefix);
                }
            }
        }
    }

    fn fill_announcements(
        &mut self,
        wanted: &SharedRoutes,
        room: usize,
        at: Position,
        outgoing: &mut OutgoingMessages,
    ) {
        let limit = outgoing.bytes.len() + room;
        let enhanced = self.negotiated.enhanced_route_refresh;
        for (family, table) in &mut self.tables {
            if table.starts_refresh(wanted) && enhanced {
                outgoing.route_refresh(*family, RefreshKind::Begin);
            }
            let complete = table.fill(&self.negotiated, limit, at, outgoing);
            if !complete || outgoing.bytes.len() + 2 * MARKER_ROOM > limit {
                return;
            }
            if table.end_of_rib_due && !self.hold_end_of_rib {
                table.end_of_rib_due = false;
                outgoing.bytes.extend_from_slice(&end_of_rib(*family));
                outgoing.updates += 1;
                outgoing.line(|| summary::end_of_rib(*family));
            }
            if let Refresh::Running { again } = table.refresh {
                if enhanced {
                    outgoing.route_refresh(*family, RefreshKind::End);
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
const MARKER_ROOM: usize = 32;

impl Table {
    /// Begins a refresh that waits. RFC 7313 §4: not before the End-of-RIB of the first exchange.
    fn starts_refresh(&mut self, wanted: &SharedRoutes) -> bool {
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

    /// Announces as many routes as fit in `limit` bytes; returns whether these were all.
    fn fill(
        &mut self,
        negotiated: &Negotiated,
        limit: usize,
        at: Position,
        outgoing: &mut OutgoingMessages,
    ) -> bool {
        let (mut waiting, routes) = self.next_routes(negotiated, limit);
        let nothing = BTreeSet::new();
        for packed in Packer::new(&nothing, &routes, negotiated, update_len(negotiated)) {
            if outgoing.bytes.len() + packed.bytes.len() > limit {
                return false;
            }
            let attributes = packed.announced.first().and_then(|route| routes.get(route));
            outgoing.update(&packed, attributes);
            let end = at.offset + outgoing.bytes.len() as u64;
            for prefix in packed.announced {
                if let Some(attributes) = waiting.remove(&prefix) {
                    self.announce.remove(&(Arc::clone(&attributes), prefix));
                    self.note_advertised(prefix, attributes, at.now, end);
                }
            }
        }
        self.announce.is_empty()
    }

    /// Records an advertisement; one repeated with the same attributes keeps its time and offset.
    fn note_advertised(
        &mut self,
        prefix: Prefix,
        attributes: Arc<PathAttributes>,
        now: Instant,
        end: u64,
    ) {
        let before = self.advertised.get(&prefix);
        let same = before.filter(|before| before.attributes == attributes);
        let (since, end) = same.map_or((now, end), |before| (before.since, before.end));
        let advertised = Advertised {
            attributes,
            stale: false,
            since,
            end,
        };
        if self.advertised.insert(prefix, advertised).is_none() {
            self.changed.insert(prefix);
        }
    }

    /// The first routes that wait to be sent, about as many as fit in `limit` bytes: before and after export.
    fn next_routes(&self, negotiated: &Negotiated, limit: usize) -> (SharedRoutes, Routes) {
        let mut shared = SharedRoutes::new();
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

type SharedRoutes = BTreeMap<Prefix, Arc<PathAttributes>>;
type Routes = BTreeMap<Prefix, PathAttributes>;

impl OutgoingMessages {
    /// `attributes`: those of the announced routes.
    fn update(&mut self, packed: &PackedUpdate, attributes: Option<&PathAttributes>) {
        self.bytes.extend_from_slice(&packed.bytes);
        self.updates += 1;
        self.line(|| summary::update(packed, attributes));
    }

    fn line(&mut self, line: impl FnOnce() -> String) {
        if self.tracing {
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

/// The attributes as sent to the peer (RFC 4271 §5.1.2, §5.1.5): on eBGP our AS is prepended; on iBGP the AS path
/// is empty and LOCAL_PREF is set.
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
    use crate::bgp::reader::{Decoded, decode};
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

    impl AdjRibOut {
        pub(in crate::bgp) fn wanted(&self) -> &BTreeMap<Prefix, Arc<PathAttributes>> {
            &self.wanted
        }

        fn fill_now(&mut self, room: usize) -> OutgoingMessages {
            let (now, offset) = (Instant::now(), 0);
            self.fill(room, Position { now, offset })
        }
    }

    fn begun() -> AdjRibOut {
        let mut rib = AdjRibOut::default();
        rib.begin(negotiated(65001, 65002), false);
        rib.fill_now(ROOM);
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

    fn read(outgoing: &OutgoingMessages) -> Vec<Decoded> {
        let mut context = DecodeContext::established(&negotiated(65002, 65001));
        context.enhanced_route_refresh = true;
        let mut framer = Framer::new();
        framer.push(&outgoing.bytes);
        let mut messages = Vec::new();
        while let Some(frame) = framer.next(MAX_LEN).unwrap() {
            messages.push(decode(&frame, &context).unwrap());
        }
        assert_eq!(
            outgoing.updates + outgoing.route_refreshes,
            messages.len() as u64
        );
        messages
    }

    /// Announced with their MED, and withdrawn.
    fn advertised_in(outgoing: &OutgoingMessages) -> (Vec<(Prefix, u32)>, Vec<Prefix>) {
        let (mut announced, mut withdrawn) = (Vec::new(), Vec::new());
        for message in read(outgoing) {
            if let Decoded::Update(update) = message {
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
        let (announced, withdrawn) = advertised_in(&rib.fill_now(ROOM));
        assert_eq!(announced, [(prefix(1), 3), (prefix(2), 3)]);
        assert_eq!(withdrawn, []);
        assert_eq!(rib.fill_now(ROOM), OutgoingMessages::default());
        assert!(rib.is_flushed());
    }

    #[test]
    fn equal_attributes_of_routes_that_come_one_by_one_are_stored_once() {
        let mut rib = AdjRibOut::default();
        for number in [5, 1, 9, 3, 7] {
            let new = routes([number], 1).into_iter();
            rib.update(new.map(|(prefix, new)| (prefix, Some(new))).collect());
        }
        let first = &rib.wanted()[&prefix(1)];
        assert!(rib.wanted().values().all(|other| Arc::ptr_eq(first, other)));
    }

    #[test]
    fn a_change_that_is_taken_back_while_it_waits_sends_nothing() {
        let mut rib = begun();
        rib.replace(routes([1], 1));
        rib.fill_now(ROOM);
        rib.replace(routes([1, 2], 2));
        rib.replace(routes([1], 1));
        assert_eq!(rib.fill_now(ROOM), OutgoingMessages::default());
        rib.replace(Routes::new());
        rib.replace(routes([1], 1));
        assert_eq!(rib.fill_now(ROOM), OutgoingMessages::default());
    }

    #[test]
    fn a_withdrawal_jumps_ahead_of_announcements_that_wait_and_has_room_of_its_own() {
        let mut rib = begun();
        rib.replace(routes([1], 1));
        rib.fill_now(ROOM);
        rib.replace(routes(1..20_001, 1));
        let first = rib.fill_now(ROOM);
        assert!(first.bytes.len() <= ROOM - WITHDRAW_RESERVE);
        assert!(!rib.is_flushed());
        rib.replace(routes(2..20_001, 1));
        // The room for announcements is used up: only the withdrawal is sent.
        let (announced, withdrawn) = advertised_in(&rib.fill_now(ROOM - first.bytes.len()));
        assert_eq!((announced, withdrawn), (Vec::new(), vec![prefix(1)]));
        let rest = rib.fill_now(ROOM);
        let (announced, withdrawn) = advertised_in(&rest);
        assert!(!announced.is_empty() && withdrawn.is_empty());
        assert_eq!(rib.announced(), 19_999);
    }

    #[test]
    fn a_route_withdrawn_before_it_was_advertised_is_never_sent() {
        let mut rib = begun();
        rib.replace(routes([1], 1));
        rib.replace(Routes::new());
        assert_eq!(rib.fill_now(ROOM), OutgoingMessages::default());
    }

    #[test]
    fn a_route_changed_and_restored_during_a_refresh_is_still_part_of_it() {
        let mut rib = begun();
        rib.replace(routes(0..15_000, 1));
        while !rib.fill_now(ROOM).bytes.is_empty() {}
        rib.refresh(Family::Ipv4);
        let (mut announced, _) = advertised_in(&rib.fill_now(ROOM));
        let last = 14_999;
        let mut changed = routes(0..15_000, 1);
        changed.extend(routes([last], 2));
        rib.replace(changed);
        rib.replace(routes(0..15_000, 1));
        announced.extend(advertised_in(&rib.fill_now(ROOM)).0);
        assert_eq!(announced.len(), 15_000);
        assert!(announced.contains(&(prefix(last), 1)));
        assert_eq!(
            rib.fill_now(ROOM),
            OutgoingMessages::default(),
            "and it is over"
        );
    }

    #[test]
    fn requests_during_a_refresh_make_one_more_after_it() {
        let mut rib = begun();
        rib.replace(routes(0..15_000, 1));
        while !rib.fill_now(ROOM).bytes.is_empty() {}
        rib.refresh(Family::Ipv4);
        let mut markers = rib.fill_now(ROOM).route_refreshes;
        rib.refresh(Family::Ipv4);
        rib.refresh(Family::Ipv4);
        for _ in 0..10 {
            markers += rib.fill_now(ROOM).route_refreshes;
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
        assert_eq!(read(&rib.fill_now(ROOM)).len(), 1, "the route alone");
        assert_eq!(rib.fill_now(ROOM), OutgoingMessages::default());
        rib.release_end_of_rib();
        assert_eq!(rib.fill_now(ROOM).updates, 2);
        let refresh = rib.fill_now(ROOM);
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
    fn a_route_that_the_session_cannot_carry_is_reported_and_withdrawn_if_advertised() {
        let mut rib = begun();
        rib.replace(routes([1], 1));
        rib.fill_now(ROOM);
        let over_ipv6 = PathAttributes::new("2001:db8::1".parse().unwrap());
        rib.replace(Routes::from([(prefix(1), over_ipv6)]));
        assert_eq!(advertised_in(&rib.fill_now(ROOM)).1, [prefix(1)]);
        assert_eq!(rib.unsendable(), Some(&BTreeSet::from([prefix(1)])));
        rib.replace(routes([1], 1));
        assert_eq!(rib.unsendable(), Some(&BTreeSet::new()));
        assert_eq!(rib.announced(), 0);
        rib.fill_now(ROOM);
        assert_eq!(rib.announced(), 1);
    }

    #[test]
    fn what_was_told_is_shown_as_it_was_sent_and_since_when() {
        let start = Instant::now();
        let mut rib = begun();
        assert_eq!(rib.advertised(&prefix(1)), None);
        rib.replace(routes([1, 2], 1));
        let at = |seconds, offset| Position {
            now: start + std::time::Duration::from_secs(seconds),
            offset,
        };
        let outgoing = rib.fill(ROOM, at(1, 1000));
        let end = 1000 + outgoing.bytes.len() as u64;
        let entry = rib.advertised(&prefix(1)).unwrap();
        assert_eq!(entry.attributes.as_path.to_string(), "65001");
        assert_eq!((entry.since, entry.end), (at(1, 0).now, end));
        // A refresh changes nothing that was advertised.
        rib.refresh(Family::Ipv4);
        rib.fill(ROOM, at(2, 5000));
        assert_eq!(rib.advertised(&prefix(1)), Some(entry));
        rib.replace(routes([1], 2));
        rib.fill(ROOM, at(3, 7000));
        let entry = rib.advertised(&prefix(1)).unwrap();
        assert_eq!((entry.attributes.med, entry.since), (Some(2), at(3, 0).now));
        assert_eq!(rib.advertised(&prefix(2)), None, "withdrawn");
    }
}
