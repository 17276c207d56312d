//! `sidecast doctor` and `GET /doctor`: lines that prove or name a fault, layer by layer, from the kernel up to
//! the announced route. A pure function of the [`Case`], what is known of a running announcer or of a
//! configuration, and the [`Findings`], what was looked at on the host.
//!
//! The host is examined in `io::doctor`.

mod apps;
mod case;
mod consul;
mod findings;
mod host;
mod line;
mod peers;
mod report;

pub use case::{Announcer, AppCase, Case, LeftOut, MonitorCase, PeerCase, SessionCase};
pub use findings::{ConsulNode, Dialed, Findings};
pub use line::{Line, Mark, Topic};
pub use report::{Report, Summary};

#[cfg(test)]
mod tests;
