//! Floor 3: the only place, with the commands above it, that knows sockets, smol and nix.

pub mod bfd;
pub mod bgp;
pub mod bgp_listen;
pub mod blocking;
pub mod client;
pub mod consul;
pub mod http;
pub mod launch;
pub mod monitor;
pub mod netlink;
pub mod notify;
pub mod places;
pub mod privilege;
pub mod process;
pub mod reaper;
pub mod router_advert;
pub mod signal;
pub mod sock_events;
pub mod sockopt;
pub mod state_file;
pub mod stderr;
