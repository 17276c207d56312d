//! NAT tables that go with the process: nf_tables with the owner flag where the kernel has it.

use super::socket::Socket;
use crate::net::Family;
use crate::netlink::conntrack::{self, Tuple};
use crate::netlink::nftables::{
    self, Counter, IPPROTO_UDP, NatRule, NatTable, Ownership, Standing,
};
use crate::netlink::{EINVAL, ENOENT, EOPNOTSUPP, EPERM, NetlinkError};
use nix::sys::socket::SockProtocol;
use std::collections::{BTreeMap, BTreeSet};

/// The NAT tables of one process. They belong to this socket: dropping it removes them, where the
/// kernel is 5.12 or later.
pub struct Nat {
    socket: Socket,
    /// The table as it was last taken by the kernel, under the name that it got.
    applied: NatTable,
    standing: Standing,
    /// Changed UDP mappings whose flows are to be forgotten yet.
    strandable: BTreeSet<NatRule>,
    ownership: Ownership,
}

impl Nat {
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self::over(Socket::open(SockProtocol::NetlinkNetFilter)?))
    }

    pub(super) fn over(socket: Socket) -> Self {
        Self {
            socket,
            applied: NatTable::default(),
            standing: Standing::new(),
            strandable: BTreeSet::new(),
            ownership: Ownership::Owner,
        }
    }

    /// Makes the kernel hold these rules and no others, in one step. Where another process owns a table
    /// of that name, ours gets `_PID` behind it. UDP flows of every mapping that changed are forgotten,
    /// so that their next packets follow it.
    pub async fn replace(&mut self, wanted: &NatTable) -> Result<(), NetlinkError> {
        let table = match self.standing.is_empty() {
            true => self.make(wanted).await.map_err(in_words)?,
            false => self.refill(wanted).await?,
        };
        let changed: Vec<NatRule> = self
            .applied
            .rules
            .symmetric_difference(&table.rules)
            .filter(|rule| rule.protocol == IPPROTO_UDP)
            .cloned()
            .collect();
        self.standing = nftables::standing(&table);
        self.applied = table;
        self.strandable.extend(changed);
        let rules: Vec<NatRule> = self.strandable.iter().cloned().collect();
        self.forget_flows(&rules).await?;
        self.strandable.clear();
        Ok(())
    }

    /// The first rules: what a process that is gone left behind goes in the same step.
    async fn make(&mut self, wanted: &NatTable) -> Result<NatTable, NetlinkError> {
        let (table, leftover) = self.choose(wanted).await?;
        match self.send(&table, &leftover).await {
            Err(error)
                if matches!(error.errno(), Some(EINVAL | EOPNOTSUPP))
                    && self.ownership == Ownership::Owner =>
            {
                // Linux before 5.12 does not know the owner flag. Where it was something else, the
                // second refusal says so.
                self.ownership = Ownership::Ordinary;
                let sent = self.send(&table, &leftover).await;
                if sent.is_err() {
                    self.ownership = Ownership::Owner;
                }
                sent?;
            }
            sent => sent?,
        }
        Ok(table)
    }

    async fn refill(&mut self, wanted: &NatTable) -> Result<NatTable, NetlinkError> {
        let table = wanted.renamed(self.applied.name.clone());
        if table == self.applied {
            return Ok(table);
        }
        match self.send(&table, &BTreeSet::new()).await {
            // Somebody deleted what stood there.
            Err(error) if error.errno() == Some(ENOENT) => {
                self.standing.clear();
                self.make(wanted).await
            }
            sent => sent.map(|()| table),
        }
    }

    /// Lets the tables outlive this process, for the next one to take over (Linux 6.9). Counters begin
    /// anew: the flag can only be given at birth.
    pub async fn persist(&mut self) -> Result<(), NetlinkError> {
        if self.standing.is_empty() || self.ownership != Ownership::Owner {
            return Ok(());
        }
        let leftover = self.standing.keys().copied().collect();
        let ours = (std::mem::take(&mut self.standing), self.ownership);
        self.ownership = Ownership::Persistent;
        let table = self.applied.clone();
        let sent = self.send(&table, &leftover).await;
        if sent.is_err() {
            self.ownership = ours.1;
        }
        self.standing = ours.0;
        sent
    }

    async fn send(
        &mut self,
        table: &NatTable,
        leftover: &BTreeSet<Family>,
    ) -> Result<(), NetlinkError> {
        let batch = nftables::replace(table, &self.standing, leftover, self.ownership)?;
        if batch.is_empty {
            return Ok(());
        }
        let (requests, last) = (&batch.requests, batch.acknowledged);
        self.socket.batch(requests, last).await
    }

    /// Deletes the tables of this name that a process left for the next one and nobody took over.
    pub async fn clear_left(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut left = BTreeSet::new();
        for family in Family::ALL {
            let request = nftables::find_table(family, name)?;
            let each = |_, payload: &[u8]| nftables::is_left(payload).map(Some);
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

    /// The name that is free for us, and the families where a table of that name is left over from a
    /// process that is gone.
    async fn choose(
        &mut self,
        wanted: &NatTable,
    ) -> Result<(NatTable, BTreeSet<Family>), NetlinkError> {
        let own = format!("{}_{}", wanted.name, std::process::id());
        for name in [wanted.name.clone(), own] {
            if let Some(leftover) = self.leftover(&name).await? {
                return Ok((wanted.renamed(name), leftover));
            }
        }
        Err(NetlinkError::Errno {
            errno: EPERM,
            message: Some("other processes own the table's name".to_owned()),
            request: "make the NAT table",
        })
    }

    /// The families that have an unowned table of this name; `None` where a living process owns one.
    async fn leftover(&mut self, name: &str) -> Result<Option<BTreeSet<Family>>, NetlinkError> {
        let mut leftover = BTreeSet::new();
        for family in Family::ALL {
            let request = nftables::find_table(family, name)?;
            let each = |_, payload: &[u8]| nftables::is_owned(payload).map(Some);
            match self.socket.collect(&request, each).await {
                Ok(owned) if owned.contains(&true) => return Ok(None),
                Ok(_) => {
                    leftover.insert(family);
                }
                Err(error) if error.errno() == Some(ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(leftover))
    }

    /// Whether a process that is gone left a table of this name.
    pub async fn is_left(&mut self, name: &str) -> bool {
        let left = self.leftover(name).await;
        left.is_ok_and(|left| left.is_some_and(|families| !families.is_empty()))
    }

    /// Packets and bytes by the counter's name, both families together.
    pub async fn counters(&mut self) -> Result<BTreeMap<String, Counter>, NetlinkError> {
        let mut all = BTreeMap::<String, Counter>::new();
        for family in self.standing.keys() {
            let request = nftables::counters(*family, &self.applied.name)?;
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

    /// Deletes the tracked flows that came for these mappings.
    async fn forget_flows(&mut self, rules: &[NatRule]) -> Result<(), NetlinkError> {
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

    /// The kernel walks its whole table for every list: it is asked for each mapping only while they
    /// are few.
    async fn flows(
        &mut self,
        family: Family,
        rules: &[&NatRule],
    ) -> Result<Vec<Tuple>, NetlinkError> {
        let mut flows = Vec::new();
        if rules.len() <= FEW {
            for rule in rules {
                match self.list(family, &[*rule], Some(*rule)).await {
                    Ok(some) => flows.extend(some),
                    // A kernel that reads filters otherwise than we write them.
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
                ports.contains(&flow.destination_port) && rules.iter().any(|rule| flow.is_for(rule))
            }))
        };
        match self.socket.collect(&request, each).await {
            // Without conntrack there are no flows, nor does NAT stick.
            Err(error) if error.errno() == Some(EOPNOTSUPP) => Ok(Vec::new()),
            flows => flows,
        }
    }
}

/// Up to this many mappings the kernel is asked for each one's flows, above for all flows once.
const FEW: usize = 4;

/// What a kernel without the modules says, in words.
fn in_words(error: NetlinkError) -> NetlinkError {
    match error {
        NetlinkError::Errno {
            errno,
            message: None,
            request,
        } if matches!(errno, ENOENT | EINVAL | EOPNOTSUPP) => NetlinkError::Errno {
            errno,
            message: Some(
                "this kernel seems to have no NAT by nf_tables (modules nf_tables, nft_chain_nat, nft_nat)"
                    .to_owned(),
            ),
            request,
        },
        error => error,
    }
}

impl NatTable {
    fn renamed(&self, name: String) -> Self {
        Self {
            name,
            rules: self.rules.clone(),
        }
    }
}
