//! The kernel's tables over netlink sockets: requests answered in order, dumps made again when the table
//! changed under them, and a stream of changes.

mod changes;
mod kernel;
mod nat;
#[cfg(test)]
#[path = "../../../tests/unit/old_kernel.rs"]
mod old_kernel;
mod socket;

pub use changes::{Change, Changes, Watched};
pub use kernel::{Added, Kernel, Removed, VipAddress};
pub use socket::Socket;
