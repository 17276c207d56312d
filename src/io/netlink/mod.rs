//! Netlink sockets: requests with their replies in order, dumps that are repeated when the table changed
//! meanwhile, and a subscription to changes.

mod addresses;
mod changes;
mod filter;
mod kernel;
mod nat;
#[cfg(test)]
#[path = "../../../tests/unit/old_kernel.rs"]
mod old_kernel;
mod owner;
mod probes;
mod socket;
mod traffic;
mod vips;

pub use changes::{Change, Changes};
pub use filter::{attach_filter, detach_filter};
pub use kernel::Kernel;
pub use probes::{ProbeCounters, ProbeReadings};
pub use socket::Socket;
pub use traffic::Traffic;
pub use vips::{Added, AddressChange, AddressChanged, Removed, VipAddress};
