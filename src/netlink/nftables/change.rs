//! Adds and removes single rules, at a cost that does not depend on the number of rules.
//!
//! Rules are deleted, and positioned, by the handle that the kernel assigned, which it returns in the echo of the
//! request (`NLM_F_ECHO`). Rules of a chain are in the order of [`NatRule`] whatever was added first, since one
//! VIP may contain another and the first matching rule decides.

use super::super::NetlinkError;
use super::super::attr::Attrs;
use super::super::message::Request;
use super::{
    BTreeMap, BTreeSet, Batch, CHAINS, Family, InstalledTables, NFNL_MSG_BATCH_BEGIN,
    NFT_MSG_DELRULE, NFT_MSG_GETRULE, NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_TABLE,
    NLM_F_DUMP, NLM_F_ECHO, NatRule, NatTable, Ownership, Reader, WireError, batch_marker,
    delete_counter, delete_table, new_counter, new_rule, new_table_with_chains, of_family, request,
};

/// Rules to add and rules to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatChange {
    pub add: BTreeSet<NatRule>,
    pub remove: BTreeSet<NatRule>,
}

/// Our tables as the kernel last accepted them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub name: String,
    /// `None`: the handles of the rule are not known yet.
    rules: BTreeMap<NatRule, Option<Handles>>,
    installed: InstalledTables,
    /// Number of rules whose handles are not known.
    without_handles: usize,
}

/// The handle of a rule in each of [`CHAINS`].
type Handles = [u64; CHAINS.len()];

/// The batch of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeBatch {
    pub batch: Batch,
    /// By index of the request: the rule that it adds, and to which of [`CHAINS`].
    added_rules: BTreeMap<usize, (NatRule, usize)>,
}

impl NatChange {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// All rules of the change.
    pub fn rules(&self) -> impl Iterator<Item = &NatRule> {
        self.remove.iter().chain(&self.add)
    }
}

impl Tables {
    /// Whether we have no table.
    pub fn is_empty(&self) -> bool {
        self.installed.is_empty()
    }

    /// The installed tables.
    pub fn installed(&self) -> &InstalledTables {
        &self.installed
    }

    /// The part of a change that is not applied yet.
    pub fn difference(&self, mut change: NatChange) -> NatChange {
        change.add.retain(|rule| !self.rules.contains_key(rule));
        change.remove.retain(|rule| self.rules.contains_key(rule));
        change
    }

    /// All rules after a change, under this name.
    pub fn after(&self, name: &str, change: &NatChange) -> NatTable {
        let stay = self.rules.keys();
        let stay = stay.filter(|rule| !change.remove.contains(*rule));
        NatTable {
            name: name.to_owned(),
            rules: stay.chain(&change.add).cloned().collect(),
        }
    }

    /// The kernel accepted this table; its handles are not known yet.
    pub fn replaced(&mut self, table: NatTable) {
        self.installed = super::installed(&table);
        self.without_handles = table.rules.len();
        self.name = table.name;
        self.rules = table.rules.into_iter().map(|rule| (rule, None)).collect();
    }

    /// Whether the handles of all rules are known.
    pub fn has_all_handles(&self) -> bool {
        self.without_handles == 0
    }

    /// The batch of a change; all handles must be known. A family's table is created with its first rule and
    /// deleted with its last.
    pub fn change_batch(
        &self,
        change: &NatChange,
        ownership: Ownership,
    ) -> Result<ChangeBatch, NetlinkError> {
        let mut requests = vec![batch_marker(NFNL_MSG_BATCH_BEGIN)?];
        let mut added_rules = BTreeMap::new();
        for family in Family::ALL {
            let of = |rule: &&NatRule| of_family(rule, family);
            let part = FamilyChange {
                family,
                add: change.add.iter().filter(of).collect(),
                remove: change.remove.iter().filter(of).collect(),
            };
            if !part.add.is_empty() || !part.remove.is_empty() {
                self.family_change(&part, ownership, &mut requests, &mut added_rules)?;
            }
        }
        if added_rules.len() <= MAX_ECHOES {
            for index in added_rules.keys() {
                if let Some(request) = requests.get_mut(*index) {
                    request.flags |= NLM_F_ECHO;
                }
            }
        }
        let batch = Batch::end(requests)?;
        Ok(ChangeBatch { batch, added_rules })
    }

    fn family_change(
        &self,
        part: &FamilyChange<'_>,
        ownership: Ownership,
        requests: &mut Vec<Request>,
        added_rules: &mut BTreeMap<usize, (NatRule, usize)>,
    ) -> Result<(), NetlinkError> {
        let (family, name) = (part.family, &self.name);
        let installed = self.installed.get(&family);
        let counters = part.counters(installed);
        let left = installed.is_some_and(|all| {
            all.iter()
                .any(|(name, _)| !counters.contains_key(name.as_str()))
        });
        if !left && counters.values().all(|(_, after)| *after == 0) {
            requests.push(delete_table(family, name)?);
            return Ok(());
        }
        if installed.is_none() {
            new_table_with_chains(requests, family, name, ownership)?;
        }
        for rule in &part.remove {
            let handles = self.rules.get(*rule).copied().flatten();
            for ((chain, _), handle) in CHAINS.iter().zip(handles.unwrap_or_default()) {
                requests.push(delete_rule(family, name, chain, handle)?);
            }
        }
        let changed = |from_none: bool| {
            let all = counters.iter();
            all.filter(move |(_, (before, after))| {
                (*before == 0) == from_none && (*after == 0) != from_none
            })
        };
        for (counter, _) in changed(true) {
            requests.push(new_counter(family, name, counter)?);
        }
        for (index, (chain, _)) in CHAINS.iter().enumerate() {
            for rule in &part.add {
                let before = self.successor(rule, part).map(|handles| handles[index]);
                added_rules.insert(requests.len(), ((*rule).clone(), index));
                requests.push(new_rule(family, name, chain, rule, before)?);
            }
        }
        for (counter, _) in changed(false) {
            requests.push(delete_counter(family, name, counter)?);
        }
        Ok(())
    }

    /// The next installed rule that stays. Other new rules before it are added in order.
    fn successor(&self, rule: &NatRule, part: &FamilyChange<'_>) -> Option<Handles> {
        let behind = (std::ops::Bound::Excluded(rule), std::ops::Bound::Unbounded);
        let mut behind = self.rules.range(behind);
        let next = behind.find(|(other, _)| !part.remove.contains(other));
        let (_, handles) = next.filter(|(other, _)| of_family(other, part.family))?;
        *handles
    }

    /// The kernel applied the batch; `echoes` are the handles by the index of their request.
    pub fn applied(
        &mut self,
        change: &NatChange,
        changed_batch: &ChangeBatch,
        echoes: &[(usize, u64)],
    ) {
        for rule in &change.remove {
            if let Some(handles) = self.rules.remove(rule) {
                self.without_handles -= usize::from(handles.is_none());
                self.count(rule, false);
            }
        }
        let mut handles = BTreeMap::<&NatRule, Handles>::new();
        for (index, handle) in echoes {
            if let Some((rule, chain)) = changed_batch.added_rules.get(index) {
                handles.entry(rule).or_default()[*chain] = *handle;
            }
        }
        for rule in &change.add {
            let handles = handles.get(rule).copied();
            let handles = handles.filter(|all| all.iter().all(|handle| *handle != 0));
            self.without_handles += usize::from(handles.is_none());
            self.rules.insert(rule.clone(), handles);
            self.count(rule, true);
        }
    }

    fn count(&mut self, rule: &NatRule, one_more: bool) {
        let family = rule.vip.family();
        let counters = self.installed.entry(family).or_default();
        let count = counters.entry(rule.counter.clone()).or_default();
        *count = match one_more {
            true => *count + 1,
            false => count.saturating_sub(1),
        };
        if *count == 0 {
            counters.remove(&rule.counter);
        }
        if counters.is_empty() {
            self.installed.remove(&family);
        }
    }

    /// Lists the rules of a family's table.
    pub fn list(&self, family: Family) -> Result<Request, NetlinkError> {
        let (name, kind) = ("list the NAT rules", NFT_MSG_GETRULE);
        request(name, kind, NLM_F_DUMP, family, |w| {
            w.text(NFTA_RULE_TABLE, &self.name);
        })
    }

    /// Stores the handles of all rules of a family from a list. Returns `false` if known handles or the number of
    /// rules differ: another program changed the table.
    pub fn take_handles(&mut self, family: Family, listed: &[ListedRule]) -> bool {
        let in_chain = |chain: &str| {
            let here = listed.iter().filter(move |rule| rule.chain == chain);
            here.map(|rule| rule.handle).collect::<Vec<_>>()
        };
        let mut columns = CHAINS.map(|(chain, _)| in_chain(chain).into_iter());
        let of = |rule: &NatRule| of_family(rule, family);
        for (_, known) in self.rules.iter_mut().filter(|(rule, _)| of(rule)) {
            let mut handles = Handles::default();
            for (handle, column) in handles.iter_mut().zip(&mut columns) {
                let Some(next) = column.next() else {
                    return false;
                };
                *handle = next;
            }
            match known {
                Some(known) if *known != handles => return false,
                Some(_) => {}
                None => {
                    *known = Some(handles);
                    self.without_handles -= 1;
                }
            }
        }
        columns.iter().all(|column| column.len() == 0)
    }
}

fn delete_rule(
    family: Family,
    table: &str,
    chain: &str,
    handle: u64,
) -> Result<Request, NetlinkError> {
    request("delete the NAT rule", NFT_MSG_DELRULE, 0, family, |w| {
        w.text(NFTA_RULE_TABLE, table);
        w.text(NFTA_RULE_CHAIN, chain);
        w.bytes(NFTA_RULE_HANDLE, &handle.to_be_bytes());
    })
}

/// One family's share of a change.
struct FamilyChange<'a> {
    family: Family,
    add: BTreeSet<&'a NatRule>,
    remove: BTreeSet<&'a NatRule>,
}

impl<'a> FamilyChange<'a> {
    /// The number of rules of each affected counter, before and after.
    fn counters(
        &self,
        installed: Option<&BTreeMap<String, usize>>,
    ) -> BTreeMap<&'a str, (usize, usize)> {
        let mut counters = BTreeMap::new();
        let before = |name: &str| {
            installed
                .and_then(|all| all.get(name))
                .copied()
                .unwrap_or(0)
        };
        let added = self.add.iter().map(|rule| (rule, true));
        for (rule, comes) in added.chain(self.remove.iter().map(|rule| (rule, false))) {
            let name = rule.counter.as_str();
            let count = counters
                .entry(name)
                .or_insert_with(|| (before(name), before(name)));
            count.1 = match comes {
                true => count.1 + 1,
                false => count.1.saturating_sub(1),
            };
        }
        counters
    }
}

/// A rule as listed or echoed by the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedRule {
    table: String,
    chain: String,
    pub handle: u64,
}

impl ListedRule {
    /// Kernels before 4.7 list the rules of other tables too.
    pub fn is_in(&self, table: &str) -> bool {
        self.table == table
    }

    /// From the answers to [`Tables::list`], or the echo of a new rule.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        r.take(4)?;
        let mut rule = Self::default();
        for attr in Attrs::new(r.rest()) {
            let attr = attr?;
            match attr.kind {
                NFTA_RULE_TABLE => rule.table = attr.text(),
                NFTA_RULE_CHAIN => rule.chain = attr.text(),
                NFTA_RULE_HANDLE => rule.handle = attr.u64_be()?,
                _ => {}
            }
        }
        Ok(rule)
    }
}

/// The number of new rules of a batch up to which echoes are requested. More echoes might overflow the receive
/// buffer; then the handles are listed when they are needed.
const MAX_ECHOES: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::super::golden::{attrs, golden, message, truncations};
    use super::super::*;
    use super::*;
    use crate::timer::Rng;

    fn rule(vip: &str, listen: u16, app: &str) -> NatRule {
        let vip: Prefix = vip.parse().unwrap();
        let target = match vip.family() {
            Family::Ipv4 => "10.0.0.2",
            Family::Ipv6 => "2001:db8:1::2",
        };
        NatRule {
            vip,
            protocol: IPPROTO_UDP,
            listen,
            target: target.parse().unwrap(),
            destination: 8053,
            counter: counter_name(app, IPPROTO_UDP, listen),
        }
    }

    /// Family and name.
    type Name = (u8, String);

    /// A kernel that does what a batch says, or refuses it as nf_tables would.
    #[derive(Default)]
    struct Model {
        /// The rules' handles and expressions.
        chains: BTreeMap<Name, Vec<(u64, Vec<u8>)>>,
        counters: BTreeSet<Name>,
        last: u64,
    }

    impl Model {
        /// The handles that are echoed.
        fn perform(&mut self, batch: &Batch) -> Vec<(usize, u64)> {
            let mut echoes = Vec::new();
            for (index, request) in batch.requests.iter().enumerate() {
                let bytes = request.encode(1);
                let payload = message(&bytes).payload;
                let family = payload[0];
                let all = attrs(payload, 4);
                let text = |kind: u16| {
                    let text = String::from_utf8(all[&kind].clone()).unwrap();
                    text.trim_end_matches('\0').to_owned()
                };
                let number = |kind: u16| {
                    let bytes = all.get(&kind)?.as_slice();
                    Some(u64::from_be_bytes(bytes.try_into().unwrap()))
                };
                match request.kind & 0xff {
                    NFT_MSG_NEWCHAIN => {
                        let chain = (family, text(NFTA_CHAIN_NAME));
                        assert!(self.chains.insert(chain, Vec::new()).is_none());
                    }
                    NFT_MSG_DELTABLE => {
                        self.chains.retain(|(of, _), _| *of != family);
                        self.counters.retain(|(of, _)| *of != family);
                    }
                    NFT_MSG_NEWOBJ => {
                        let counter = (family, text(NFTA_OBJ_NAME));
                        assert!(self.counters.insert(counter), "twice");
                    }
                    NFT_MSG_DELOBJ => {
                        let counter = (family, text(NFTA_OBJ_NAME));
                        assert!(self.counters.remove(&counter), "ENOENT");
                    }
                    NFT_MSG_DELRULE => {
                        let chain = (family, text(NFTA_RULE_CHAIN));
                        let chain = self.chains.get_mut(&chain).expect("ENOENT");
                        let handle = number(NFTA_RULE_HANDLE).unwrap();
                        let at = chain.iter().position(|(h, _)| *h == handle);
                        chain.remove(at.expect("ENOENT"));
                    }
                    NFT_MSG_NEWRULE => {
                        let chain = (family, text(NFTA_RULE_CHAIN));
                        let chain = self.chains.get_mut(&chain).expect("ENOENT");
                        let before = number(NFTA_RULE_POSITION);
                        let at = before.map_or(chain.len(), |before| {
                            let at = chain.iter().position(|(h, _)| *h == before);
                            at.expect("ENOENT")
                        });
                        self.last += 1;
                        chain.insert(at, (self.last, all[&NFTA_RULE_EXPRESSIONS].clone()));
                        if request.flags & NLM_F_ECHO != 0 {
                            echoes.push((index, self.last));
                        }
                    }
                    _ => {}
                }
            }
            echoes
        }

        fn list(&self, family: Family) -> Vec<ListedRule> {
            let chains = self
                .chains
                .iter()
                .filter(|((of, _), _)| *of == code(family));
            chains
                .flat_map(|((_, chain), rules)| {
                    rules.iter().map(|(handle, _)| ListedRule {
                        table: "sidecast".to_owned(),
                        chain: chain.clone(),
                        handle: *handle,
                    })
                })
                .collect()
        }

        /// What packets see: the rules of each chain in order, and the counters.
        fn seen(&self) -> (BTreeMap<&Name, Vec<&[u8]>>, &BTreeSet<Name>) {
            let chains = self.chains.iter().map(|(chain, rules)| {
                let all = rules.iter().map(|(_, bytes)| bytes.as_slice());
                (chain, all.collect())
            });
            (chains.collect(), &self.counters)
        }
    }

    fn change(tables: &mut Tables, model: &mut Model, change: NatChange) -> usize {
        let change = tables.difference(change);
        if !tables.has_all_handles() {
            for family in tables.installed().clone().keys() {
                assert!(tables.take_handles(*family, &model.list(*family)));
            }
        }
        let changed_batch = tables.change_batch(&change, Ownership::Owner).unwrap();
        let echoes = model.perform(&changed_batch.batch);
        tables.applied(&change, &changed_batch, &echoes);
        changed_batch.batch.requests.len()
    }

    fn fresh(table: &NatTable) -> Model {
        let mut model = Model::default();
        let none = (InstalledTables::new(), BTreeSet::new());
        let batch = replace(table, &none.0, &none.1, Ownership::Owner).unwrap();
        model.perform(&batch);
        model
    }

    /// Also with VIPs that contain each other, where the order of the rules decides.
    #[test]
    fn any_row_of_changes_ends_in_what_one_replacement_makes() {
        let vips = [
            "192.0.2.0/24",
            "192.0.2.53/32",
            "192.0.2.54/32",
            "2001:db8::53/128",
            "2001:db8::/64",
        ];
        for seed in 0..60 {
            let mut chance = Rng::new(seed);
            let (mut tables, mut model) = (Tables::default(), Model::default());
            tables.name = "sidecast".to_owned();
            for step in 0..30 {
                let mut next = NatChange::default();
                // Sometimes more rules than are echoed.
                let many = if chance.below(8) == 0 { 60 } else { 4 };
                for _ in 0..chance.below(many) {
                    let vip = vips[usize::try_from(chance.below(5)).unwrap()];
                    let port = u16::try_from(53 + chance.below(many)).unwrap();
                    let app = ["dns", "web"][usize::try_from(chance.below(2)).unwrap()];
                    let rule = rule(vip, port, app);
                    match chance.below(2) {
                        0 if !next.remove.contains(&rule) => drop(next.add.insert(rule)),
                        _ if !next.add.contains(&rule) => drop(next.remove.insert(rule)),
                        _ => {}
                    }
                }
                let wanted = tables.after("sidecast", &tables.difference(next.clone()));
                change(&mut tables, &mut model, next);
                let (ours, replaced) = (model.seen(), fresh(&wanted));
                assert_eq!(ours, replaced.seen(), "seed {seed}, step {step}");
                assert_eq!(tables.installed(), &installed(&wanted), "seed {seed}");
                assert!(tables.rules.keys().eq(&wanted.rules));
            }
        }
    }

    /// The bytes and messages of one changed mapping, with so many others.
    fn one_among(count: u16) -> [(usize, usize); 3] {
        let vip = |i: u16| format!("198.18.{}.{}/32", i / 250, i % 250);
        let all = (0..count).map(|i| rule(&vip(i), 53, "dns"));
        let table = NatTable {
            name: "sidecast".to_owned(),
            rules: all.collect(),
        };
        let mut model = fresh(&table);
        let mut tables = Tables::default();
        tables.replaced(table);
        change(&mut tables, &mut model, NatChange::default());
        let (old, new) = (rule(&vip(7), 53, "dns"), rule("198.18.0.7/32", 54, "dns"));
        let mut moved = new.clone();
        moved.destination = 9053;
        [
            (vec![new.clone()], vec![]),
            (vec![moved.clone()], vec![new]),
            (vec![], vec![moved]),
        ]
        .map(|(add, remove)| {
            let next = NatChange {
                add: add.into_iter().collect(),
                remove: remove.into_iter().collect(),
            };
            assert!(tables.rules.contains_key(&old));
            let changed_batch = tables.change_batch(&next, Ownership::Owner).unwrap();
            let requests = &changed_batch.batch.requests;
            let bytes = requests.iter().map(|request| request.encode(1).len()).sum();
            let echoes = model.perform(&changed_batch.batch);
            tables.applied(&next, &changed_batch, &echoes);
            assert!(
                tables.has_all_handles(),
                "nothing has to be listed for the next"
            );
            (requests.len(), bytes)
        })
    }

    #[test]
    fn one_changed_mapping_costs_the_same_among_ten_and_among_a_thousand() {
        let [added, changed, removed] = one_among(1000);
        assert_eq!(one_among(10), [added, changed, removed]);
        println!("messages and bytes: {added:?} added, {changed:?} changed, {removed:?} removed");
        // The beginning, the end, a counter that comes or goes, and a rule in each chain.
        assert_eq!((added.0, changed.0, removed.0), (5, 6, 5));
        assert!(changed.1 < 2048, "{changed:?} bytes");
    }

    #[test]
    fn a_rule_goes_before_another_as_nft_inserts_it() {
        let golden = golden("nft-insert-rule");
        let requests = golden.requests();
        let tool = requests.iter().find(|m| is_rule(m.kind)).unwrap();
        let ours = rule("192.0.2.54/32", 53, "dns");
        let v4 = Family::Ipv4;
        let mut ours = new_rule(v4, "sidecast", "prerouting", &ours, Some(6)).unwrap();
        ours.flags |= NLM_F_ECHO;
        let bytes = ours.encode(1);
        let ours = message(&bytes);
        assert_eq!(ours.flags, tool.flags);
        assert_eq!(attrs(ours.payload, 4), attrs(tool.payload, 4));
        let answers = golden.answers();
        let echo = answers.iter().find(|m| is_rule(m.kind)).unwrap();
        assert_eq!(ListedRule::decode(echo.payload).unwrap().handle, 8);
        truncations(echo.payload, ListedRule::decode);
    }

    #[test]
    fn a_rule_is_deleted_by_its_handle_as_with_nft() {
        let golden = golden("nft-delete-rule");
        let requests = golden.requests();
        let ours = delete_rule(Family::Ipv4, "sidecast", "prerouting", 6).unwrap();
        let tool = requests.iter().find(|m| m.kind == ours.kind).unwrap();
        let bytes = ours.encode(1);
        let ours = message(&bytes);
        assert_eq!(
            (ours.flags, attrs(ours.payload, 4)),
            (tool.flags, attrs(tool.payload, 4))
        );
    }

    #[test]
    fn listed_rules_tell_their_handles_in_order() {
        let golden = golden("nft-list-chain");
        let requests = golden.requests();
        let tables = Tables {
            name: "sidecast".to_owned(),
            ..Tables::default()
        };
        let ours = tables.list(Family::Ipv4).unwrap();
        let tool = requests.iter().find(|m| m.kind == ours.kind).unwrap();
        // `nft` asks for one chain.
        let mut asked = attrs(tool.payload, 4);
        asked.remove(&NFTA_RULE_CHAIN);
        let bytes = ours.encode(1);
        assert_eq!(attrs(message(&bytes).payload, 4), asked);
        let answers = golden.answers();
        let rules = answers.iter().filter(|m| is_rule(m.kind));
        let rules: Vec<ListedRule> = rules
            .map(|m| ListedRule::decode(m.payload).unwrap())
            .collect();
        assert!(rules.iter().all(|rule| rule.is_in("sidecast")));
        let handles: Vec<u64> = rules.iter().map(|rule| rule.handle).collect();
        assert_eq!(handles, [5, 8, 6]);
    }

    #[test]
    fn rules_that_others_took_away_or_brought_are_noticed() {
        let table = NatTable {
            name: "sidecast".to_owned(),
            rules: [53, 54]
                .map(|port| rule("192.0.2.53/32", port, "dns"))
                .into(),
        };
        let v4 = Family::Ipv4;
        let listed = fresh(&table).list(v4);
        let mut known = Tables::default();
        known.replaced(table);
        let mut fewer = known.clone();
        assert!(!fewer.take_handles(v4, &listed[1..]));
        assert!(known.take_handles(v4, &listed) && known.has_all_handles());
        assert!(known.take_handles(v4, &listed), "the same once more");
        let mut other = listed.clone();
        other[0].handle = 99;
        assert!(!known.clone().take_handles(v4, &other));
        let mut more = listed.clone();
        more.push(listed[0].clone());
        assert!(!known.clone().take_handles(v4, &more));
    }
}
