//! The counters of the path's probes in nf_tables, in a table of their own beside those of NAT.

use super::socket::Socket;
use crate::net::Family;
use crate::netlink::nftables::probes::{self, Counted, Probe, ProbeError, ProbeTable, RULES};
use crate::netlink::nftables::{self, Batch, Ownership};
use crate::netlink::{EINVAL, ENOENT, EOPNOTSUPP, EPERM, NetlinkError};
use nix::sys::socket::SockProtocol;
use std::collections::BTreeSet;

/// The table in which the kernel counts probes. It is owned by this socket: closing it deletes the table
/// (Linux 5.12).
pub struct ProbeCounters {
    socket: Socket,
    ownership: Ownership,
    /// The table as last accepted by the kernel.
    table: Option<ProbeTable>,
    counted: Counted,
}

/// What was counted since the counters were created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeReadings {
    /// For each probe that is counted: how many came back.
    pub returned: Vec<(Probe, u64)>,
    /// ICMP errors; those that were not repeated for ten minutes have expired.
    pub errors: Vec<ProbeError>,
}

impl ProbeCounters {
    /// Opens the nfnetlink socket, which will own the table.
    ///
    /// # Errors
    /// The socket cannot be opened: the kernel has no nfnetlink.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter).map_err(explain)?;
        Ok(Self::with_socket(socket))
    }

    pub(super) fn with_socket(socket: Socket) -> Self {
        Self {
            socket,
            ownership: Ownership::Owner,
            table: None,
            counted: Counted::new(),
        }
    }

    /// Stops counting the probes in `remove` and counts those in `add` from 0, in one transaction. The first call
    /// creates the table `name`, or `NAME_PID` if another process owns that; a call with another token creates it
    /// again.
    ///
    /// # Errors
    /// The kernel's; nothing was changed then, unless it is `ENOENT`: another program deleted the table, and
    /// nothing is counted any more.
    pub async fn count(
        &mut self,
        name: &str,
        token: u64,
        add: &Counted,
        remove: &BTreeSet<Probe>,
    ) -> Result<(), NetlinkError> {
        let known = |probe: &&Probe| self.counted.contains_key(*probe);
        let gone = remove.iter().chain(add.keys()).filter(known);
        let gone: BTreeSet<Probe> = gone.copied().collect();
        match self.table.clone() {
            Some(table) if table.token == token => {
                let forgotten = self.forget_errors(&table, &gone).await;
                let changed = match forgotten {
                    Ok(()) => {
                        let batch = table.change(&self.counted, &gone, add)?;
                        self.send(&batch).await
                    }
                    Err(error) => Err(error),
                };
                if changed.as_ref().is_err_and(|e| e.errno() == Some(ENOENT)) {
                    self.forget();
                }
                changed?;
                // Changed by entry: there may be thousands of others.
                for probe in &gone {
                    self.counted.remove(probe);
                }
                self.counted.extend(add);
            }
            old => {
                let mut counted = self.counted.clone();
                counted.retain(|probe, _| !gone.contains(probe));
                counted.extend(add);
                if old.is_some() {
                    self.remove().await?;
                }
                self.create(name, token, &counted).await.map_err(explain)?;
                self.counted = counted;
            }
        }
        Ok(())
    }

    /// Reads all counters.
    ///
    /// # Errors
    /// The kernel's; `ENOENT` where another program deleted the table or its rules. Nothing is counted any
    /// more then.
    pub async fn read(&mut self) -> Result<ProbeReadings, NetlinkError> {
        let Some(table) = &self.table else {
            return Ok(ProbeReadings::default());
        };
        let name = table.name.clone();
        let each = |_, payload: &[u8]| probes::returned(payload);
        let request = probes::counters(&name)?;
        let mut returned = self.socket.collect(&request, each).await?;
        returned.retain(|(probe, _)| self.counted.contains_key(probe));
        if returned.len() < self.counted.len() || !self.has_all_rules(&name).await? {
            self.remove().await?;
            return Err(deleted());
        }
        let mut errors = self.errors(&name).await?;
        errors.retain(|error| self.counted.contains_key(&error.probe));
        Ok(ProbeReadings { returned, errors })
    }

    /// Deletes the table.
    ///
    /// # Errors
    /// The kernel's. A table that does not exist is no error.
    pub async fn remove(&mut self) -> Result<(), NetlinkError> {
        let Some(table) = self.forget() else {
            return Ok(());
        };
        match self.send(&table.delete()?).await {
            Err(error) if error.errno() == Some(ENOENT) => Ok(()),
            sent => sent,
        }
    }

    fn forget(&mut self) -> Option<ProbeTable> {
        self.counted.clear();
        self.table.take()
    }

    async fn create(
        &mut self,
        name: &str,
        token: u64,
        counted: &Counted,
    ) -> Result<(), NetlinkError> {
        let (name, stale) = self.choose_name(name).await?;
        let table = ProbeTable { name, token };
        let batch = table.create(counted, stale, self.ownership)?;
        match self.send(&batch).await {
            // Linux before 5.12 does not know the owner flag. If the error has another cause, the second
            // attempt returns it again.
            Err(error)
                if matches!(error.errno(), Some(EINVAL | EOPNOTSUPP))
                    && self.ownership == Ownership::Owner =>
            {
                let batch = table.create(counted, stale, Ownership::Unowned)?;
                self.send(&batch).await?;
                self.ownership = Ownership::Unowned;
            }
            sent => sent?,
        }
        self.table = Some(table);
        Ok(())
    }

    /// A name that no other process owns, and whether a table of that name without an owner exists.
    async fn choose_name(&mut self, name: &str) -> Result<(String, bool), NetlinkError> {
        // Port 0 belongs to no socket.
        let port = self.socket.port().unwrap_or(0);
        for name in [name.to_owned(), format!("{name}_{}", std::process::id())] {
            let request = probes::find(&name)?;
            let each = |_, payload: &[u8]| nftables::is_owned_by_another(payload, port).map(Some);
            match self.socket.collect(&request, each).await {
                Ok(owned) if owned.contains(&true) => {}
                Ok(_) => return Ok((name, true)),
                Err(error) if error.errno() == Some(ENOENT) => return Ok((name, false)),
                Err(error) => return Err(error),
            }
        }
        Err(NetlinkError::Errno {
            errno: EPERM,
            message: Some("other processes own tables of this name".to_owned()),
            request: "create the table of the probes",
        })
    }

    /// Deletes the errors of probes that are no longer counted: if such a probe is counted again, its old errors would
    /// be taken for new ones.
    async fn forget_errors(
        &mut self,
        table: &ProbeTable,
        gone: &BTreeSet<Probe>,
    ) -> Result<(), NetlinkError> {
        if gone.is_empty() {
            return Ok(());
        }
        for _ in 0..FORGET_ATTEMPTS {
            let mut errors = self.errors(&table.name).await?;
            errors.retain(|error| gone.contains(&error.probe));
            let batch = table.forget_errors(&errors)?;
            match self.send(&batch).await {
                // One of them has expired meanwhile.
                Err(error) if error.errno() == Some(ENOENT) => {}
                sent => return sent,
            }
        }
        Ok(())
    }

    async fn errors(&mut self, name: &str) -> Result<Vec<ProbeError>, NetlinkError> {
        let mut errors = Vec::new();
        for family in Family::ALL {
            let request = probes::errors(name, family)?;
            let each = |_, payload: &[u8]| ProbeError::decode(family, payload).map(Some);
            let found = self.socket.collect(&request, each).await?;
            errors.extend(found.into_iter().flatten());
        }
        Ok(errors)
    }

    /// A table without an owner can be changed by other programs.
    async fn has_all_rules(&mut self, name: &str) -> Result<bool, NetlinkError> {
        if self.ownership == Ownership::Owner {
            return Ok(true);
        }
        let each = |kind, _: &[u8]| Ok(nftables::is_rule(kind).then_some(()));
        let request = probes::list_rules(name)?;
        let rules = self.socket.collect(&request, each).await?;
        Ok(rules.len() == RULES)
    }

    async fn send(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        if batch.is_empty {
            return Ok(());
        }
        self.socket.batch(&batch.requests, batch.acknowledged).await
    }
}

fn deleted() -> NetlinkError {
    NetlinkError::Errno {
        errno: ENOENT,
        message: Some("another program deleted the table or its rules".to_owned()),
        request: "read the counters of the probes",
    }
}

/// Explains the errors of a kernel without the modules.
fn explain(error: NetlinkError) -> NetlinkError {
    error.for_lack_of(
        "a part of nf_tables (modules nf_tables with the family inet, nft_ct, nft_objref, nft_counter)",
    )
}

/// An attempt fails only if an entry expires between the dump and the deletion.
const FORGET_ATTEMPTS: usize = 3;
