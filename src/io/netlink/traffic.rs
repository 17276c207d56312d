//! When packets for VIPs last arrived by a real interface, in a table of nf_tables that exists while VIPs are watched.

use super::socket::Socket;
use crate::net::{Family, Prefix};
use crate::netlink::nftables::seen::{self, MAX_SEEN, SeenAddress};
use crate::netlink::{EEXIST, ENOSPC, EPERM, NetlinkError};
use nix::sys::socket::SockProtocol;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

/// The VIPs that are watched. The table is owned by this socket: the kernel deletes it when that closes (Linux 5.12; on
/// older kernels there is none, since nothing would delete it after a `kill -9`).
pub struct Traffic {
    socket: Socket,
    table: String,
    watched: BTreeSet<Prefix>,
}

impl Traffic {
    /// Opens the nfnetlink socket. Where another process owns a table of this name, ours is named `NAME_PID`.
    pub fn open(table: &str) -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::open(SockProtocol::NetlinkNetFilter)?,
            table: table.to_owned(),
            watched: BTreeSet::new(),
        })
    }

    /// Watches these VIPs and no others.
    pub async fn watch(&mut self, vips: BTreeSet<Prefix>) -> Result<(), NetlinkError> {
        let begins = self.watched.is_empty();
        match self.change(&vips).await {
            Err(error) if begins && matches!(error.errno(), Some(EPERM | EEXIST)) => {
                self.table = format!("{}_{}", self.table, std::process::id());
                // Without the permission this is the same error again.
                self.change(&vips).await?;
            }
            changed => changed?,
        }
        self.watched = vips;
        Ok(())
    }

    async fn change(&mut self, vips: &BTreeSet<Prefix>) -> Result<(), NetlinkError> {
        let batch = seen::watch(&self.table, &self.watched, vips)?;
        if batch.is_empty {
            return Ok(());
        }
        self.socket.batch(&batch.requests, batch.acknowledged).await
    }

    /// The addresses of watched VIPs that got packets within the last minute, in order, and when the last one arrived.
    pub async fn read(&mut self) -> Result<Vec<(IpAddr, Instant)>, NetlinkError> {
        let mut all = Vec::new();
        for family in Family::ALL {
            if !self.watched.iter().any(|vip| vip.family() == family) {
                continue;
            }
            let request = seen::seen(family, &self.table)?;
            let each = |_, payload: &[u8]| SeenAddress::decode(payload).map(Some);
            let messages = self.socket.collect(&request, each).await?;
            let now = Instant::now();
            let seen = messages.into_iter().flatten();
            let before = all.len();
            all.extend(seen.filter_map(|seen| Some((seen.addr, now.checked_sub(seen.ago)?))));
            if all.len() - before >= MAX_SEEN {
                return Err(NetlinkError::Errno {
                    errno: ENOSPC,
                    message: Some(format!("{MAX_SEEN} addresses of VIPs got packets")),
                    request: request.name,
                });
            }
        }
        all.sort_unstable();
        Ok(all)
    }
}
