//! NAT tables in nf_tables with the owner flag, so that the kernel deletes them with the process (Linux 5.12).

use super::socket::Socket;
use crate::net::Family;
use crate::netlink::conntrack::{self, Tuple};
use crate::netlink::message::Message;
use crate::netlink::nftables::{
    self, Counter, IPPROTO_UDP, InstalledTables, ListedRule, NatChange, NatRule, NatTable,
    Ownership, Tables,
};
use crate::netlink::{EINVAL, ENOENT, EOPNOTSUPP, EPERM, NetlinkError};
use nix::sys::socket::SockProtocol;
use std::collections::{BTreeMap, BTreeSet};

/// The NAT tables of this process. They are owned by this socket: closing it deletes them (Linux 5.12).
pub struct Nat {
    socket: Socket,
    /// Our tables, with their actual name.
    tables: Tables,
    /// `tables` may differ from the kernel: the rules are listed before the next change.
    unverified: bool,
    /// Changed UDP rules whose conntrack entries are not deleted yet.
    unflushed: BTreeSet<NatRule>,
    ownership: Ownership,
}

impl Nat {
    /// Opens the nfnetlink socket, which owns the tables.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self::with_socket(Socket::open(
            SockProtocol::NetlinkNetFilter,
        )?))
    }

    pub(super) fn with_socket(socket: Socket) -> Self {
        Self {
            socket,
            tables: Tables::default(),
            unverified: false,
            unflushed: BTreeSet::new(),
            ownership: Ownership::Owner,
        }
    }

    /// Adds and removes rules in one transaction, whose cost does not depend on the number of rules. If that
    /// fails all are replaced. If another process owns a table of that name, ours is named `NAME_PID`. The
    /// conntrack entries of changed UDP rules are deleted, so that existing flows follow the new rules.
    pub async fn update(&mut self, name: &str, change: NatChange) -> Result<(), NetlinkError> {
        let change = self.tables.difference(change);
        if self.tables.is_empty() {
            let wanted = self.tables.after(name, &change);
            let made = self.create(&wanted).await.map_err(explain)?;
            self.tables.replaced(made);
        } else if (self.unverified || !change.is_empty())
            && let Err(error) = self.change_batch(&change).await
        {
            log::debug!("replacing all NAT rules: {error}");
            self.replace_all(name, &change).await?;
        }
        let changed = change.rules().filter(|rule| rule.protocol == IPPROTO_UDP);
        self.unflushed.extend(changed.cloned());
        let rules: Vec<NatRule> = self.unflushed.iter().cloned().collect();
        self.flush_flows(&rules).await?;
        self.unflushed.clear();
        Ok(())
    }

    /// Creates the tables; those of an earlier process are deleted in the same transaction.
    async fn create(&mut self, wanted: &NatTable) -> Result<NatTable, NetlinkError> {
        let (table, stale_families) = self.choose_name(wanted).await?;
        let none = InstalledTables::new();
        match self.send(&table, &none, &stale_families).await {
            Err(error)
                if matches!(error.errno(), Some(EINVAL | EOPNOTSUPP))
                    && self.ownership == Ownership::Owner =>
            {
                // Linux before 5.12 does not know the owner flag. If the error has another cause, the
                // second attempt returns it again.
                self.ownership = Ownership::Unowned;
                let sent = self.send(&table, &none, &stale_families).await;
                if sent.is_err() {
                    self.ownership = Ownership::Owner;
                }
                sent?;
            }
            sent => sent?,
        }
        Ok(table)
    }

    async fn change_batch(&mut self, change: &NatChange) -> Result<(), NetlinkError> {
        // Stays set if the caller drops this future.
        let unverified = std::mem::replace(&mut self.unverified, true);
        if (unverified || !self.tables.has_all_handles()) && !self.take_handles().await? {
            return Err(NetlinkError::Errno {
                errno: ENOENT,
                message: Some("another program changed the table".to_owned()),
                request: "list the NAT rules",
            });
        }
        let changed_batch = self.tables.change_batch(change, self.ownership)?;
        let batch = &changed_batch.batch;
        let mut echoes = Vec::new();
        if !batch.is_empty {
            let mut each = |index: usize, message: &Message<'_>| {
                if nftables::is_rule(message.kind) {
                    echoes.push((index, ListedRule::decode(message.payload)?.handle));
                }
                Ok(())
            };
            let (requests, last) = (&batch.requests, batch.acknowledged);
            self.socket.batch_echoed(requests, last, &mut each).await?;
        }
        self.tables.applied(change, &changed_batch, &echoes);
        self.unverified = false;
        Ok(())
    }

    /// Lists the rules for their handles; `false`: another program changed the table.
    async fn take_handles(&mut self) -> Result<bool, NetlinkError> {
        let families: Vec<Family> = self.tables.installed().keys().copied().collect();
        for family in families {
            let request = self.tables.list(family)?;
            let name = &self.tables.name;
            let each = |kind, payload: &[u8]| {
                let rule = nftables::is_rule(kind).then(|| ListedRule::decode(payload));
                Ok(rule.transpose()?.filter(|rule| rule.is_in(name)))
            };
            let listed = self.socket.collect(&request, each).await?;
            if !self.tables.take_handles(family, &listed) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Replaces all rules by those after `change`.
    async fn replace_all(&mut self, name: &str, change: &NatChange) -> Result<(), NetlinkError> {
        // Stays set if the caller drops this future.
        self.unverified = true;
        let refilled = self.tables.after(&self.tables.name, change);
        let installed = self.tables.installed().clone();
        let table = match self.send(&refilled, &installed, &BTreeSet::new()).await {
            // Another program deleted our table.
            Err(error) if error.errno() == Some(ENOENT) => {
                self.create(&self.tables.after(name, change)).await?
            }
            sent => sent.map(|()| refilled)?,
        };
        self.tables.replaced(table);
        self.unverified = false;
        Ok(())
    }

    /// Whether the tables have no owner, so that other programs can change them.
    pub fn is_unowned(&self) -> bool {
        self.ownership == Ownership::Unowned && !self.tables.is_empty()
    }

    /// Replaces all rules if another program changed them; returns whether it did.
    pub async fn verify(&mut self) -> Result<bool, NetlinkError> {
        if !self.is_unowned() {
            return Ok(false);
        }
        match self.take_handles().await {
            Ok(true) => return Ok(false),
            Err(error) if error.errno() != Some(ENOENT) => return Err(error),
            _ => {}
        }
        let name = self.tables.name.clone();
        self.replace_all(&name, &NatChange::default()).await?;
        Ok(true)
    }

    /// Makes the tables persistent, for the next process to take over (Linux 6.9). They are created anew and
    /// their counters restart: the flag can only be set on creation.
    pub async fn persist(&mut self) -> Result<(), NetlinkError> {
        if self.tables.is_empty() || self.ownership != Ownership::Owner {
            return Ok(());
        }
        let stale_families = self.tables.installed().keys().copied().collect();
        let table = self.tables.after(&self.tables.name, &NatChange::default());
        self.ownership = Ownership::Persistent;
        let sent = self
            .send(&table, &InstalledTables::new(), &stale_families)
            .await;
        match sent {
            Ok(()) => self.tables.replaced(table),
            Err(_) => self.ownership = Ownership::Owner,
        }
        sent
    }

    async fn send(
        &mut self,
        table: &NatTable,
        installed: &InstalledTables,
        stale_families: &BTreeSet<Family>,
    ) -> Result<(), NetlinkError> {
        let batch = nftables::replace(table, installed, stale_families, self.ownership)?;
        if batch.is_empty {
            return Ok(());
        }
        let (requests, last) = (&batch.requests, batch.acknowledged);
        self.socket.batch(requests, last).await
    }

    /// Deletes persistent tables of this name without an owner.
    pub async fn delete_orphans(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut left = BTreeSet::new();
        for family in Family::ALL {
            let request = nftables::find_table(family, name)?;
            let each = |_, payload: &[u8]| nftables::is_orphan(payload).map(Some);
            match self.socket.collect(&request, each).await {
                Ok(answers) if answers.contains(&true) => {
                    left.insert(family);
                }
                Ok(_) => {}
                Err(error) if error.errno() == Some(ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        let batch = nftables::delete(name, &left)?;
        if batch.is_empty {
            return Ok(());
        }
        self.socket.batch(&batch.requests, batch.acknowledged).await
    }

    /// A name that no other process owns, and the families in which a table of that name has no owner.
    async fn choose_name(
        &mut self,
        wanted: &NatTable,
    ) -> Result<(NatTable, BTreeSet<Family>), NetlinkError> {
        let own = format!("{}_{}", wanted.name, std::process::id());
        for name in [wanted.name.clone(), own] {
            if let Some(stale_families) = self.stale_families(&name).await? {
                return Ok((wanted.renamed(name), stale_families));
            }
        }
        Err(NetlinkError::Errno {
            errno: EPERM,
            message: Some("other processes own tables of this name".to_owned()),
            request: "create the NAT table",
        })
    }

    /// The families with a table of this name without an owner; `None` if a process owns one.
    async fn stale_families(
        &mut self,
        name: &str,
    ) -> Result<Option<BTreeSet<Family>>, NetlinkError> {
        let mut stale_families = BTreeSet::new();
        // Port 0 belongs to no socket.
        let port = self.socket.port().unwrap_or(0);
        for family in Family::ALL {
            let request = nftables::find_table(family, name)?;
            let each = |_, payload: &[u8]| nftables::is_owned_by_another(payload, port).map(Some);
            match self.socket.collect(&request, each).await {
                Ok(owned) if owned.contains(&true) => return Ok(None),
                Ok(_) => {
                    stale_families.insert(family);
                }
                Err(error) if error.errno() == Some(ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(stale_families))
    }

    /// Whether the kernel has nf_tables and lets us ask for tables.
    pub async fn check(&mut self, name: &str) -> Result<(), NetlinkError> {
        let found = self.stale_families(name).await;
        found.map(drop).map_err(explain)
    }

    /// Whether a table of this name without an owner exists.
    pub async fn has_stale_table(&mut self, name: &str) -> bool {
        let left = self.stale_families(name).await;
        left.is_ok_and(|left| left.is_some_and(|families| !families.is_empty()))
    }

    /// Packets and bytes by the counter's name, both families together.
    pub async fn counters(&mut self) -> Result<BTreeMap<String, Counter>, NetlinkError> {
        let mut all = BTreeMap::<String, Counter>::new();
        for family in self.tables.installed().keys() {
            let request = nftables::counters(*family, &self.tables.name)?;
            let each = |_, payload: &[u8]| Counter::decode(payload).map(Some);
            for counter in self.socket.collect(&request, each).await? {
                let sum = all.entry(counter.name.clone()).or_default();
                sum.name = counter.name;
                sum.packets = sum.packets.saturating_add(counter.packets);
                sum.bytes = sum.bytes.saturating_add(counter.bytes);
            }
        }
        Ok(all)
    }

    /// Deletes the conntrack entries of these rules.
    async fn flush_flows(&mut self, rules: &[NatRule]) -> Result<(), NetlinkError> {
        for family in Family::ALL {
            let of_family = rules.iter().filter(|rule| rule.vip.family() == family);
            let rules: Vec<&NatRule> = of_family.collect();
            for flow in self.flows(family, &rules).await? {
                match self.socket.acknowledged(&flow.delete()?).await {
                    Err(error) if error.errno() != Some(ENOENT) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Every dump walks the whole conntrack table: a filtered dump for each rule pays off only for a few rules.
    async fn flows(
        &mut self,
        family: Family,
        rules: &[&NatRule],
    ) -> Result<Vec<Tuple>, NetlinkError> {
        let mut flows = Vec::new();
        if rules.len() <= MAX_FILTERED_DUMPS {
            for rule in rules {
                match self.list(family, &[*rule], Some(*rule)).await {
                    Ok(some) => flows.extend(some),
                    // This kernel does not accept our filter.
                    Err(error) if error.errno() == Some(EINVAL) => {
                        flows.extend(self.list(family, &[*rule], None).await?);
                    }
                    Err(error) => return Err(error),
                }
            }
        } else {
            flows.extend(self.list(family, rules, None).await?);
        }
        flows.sort_unstable();
        flows.dedup();
        Ok(flows)
    }

    async fn list(
        &mut self,
        family: Family,
        rules: &[&NatRule],
        only: Option<&NatRule>,
    ) -> Result<Vec<Tuple>, NetlinkError> {
        let ports: BTreeSet<u16> = rules.iter().map(|rule| rule.listen).collect();
        let request = conntrack::dump(family, only)?;
        let each = |_, payload: &[u8]| {
            Ok(Tuple::decode(payload)?.filter(|flow| {
                ports.contains(&flow.destination_port)
                    && rules.iter().any(|rule| flow.matches(rule))
            }))
        };
        match self.socket.collect(&request, each).await {
            // Without conntrack there are no entries.
            Err(error) if error.errno() == Some(EOPNOTSUPP) => Ok(Vec::new()),
            flows => flows,
        }
    }
}

/// Up to this many mappings the kernel is asked for each one's flows, above for all flows once.
const MAX_FILTERED_DUMPS: usize = 4;

/// Explains the errors of a kernel without the NAT modules.
fn explain(error: NetlinkError) -> NetlinkError {
    error.for_lack_of("nf_tables NAT (modules nf_tables, nft_chain_nat, nft_nat)")
}

impl NatTable {
    fn renamed(&self, name: String) -> Self {
        Self {
            name,
            rules: self.rules.clone(),
        }
    }
}
