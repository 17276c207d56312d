//! Private networks for the integration tests: network namespaces tied together by veth pairs, real
//! routers (BIRD, FRR, GoBGP, OpenBGPD, ExaBGP), services that answer with their host's name, the real
//! sidecast, and a harness with "skipped" as a third outcome.
//!
//! A library of its own, so that each scenario uses what it needs and nothing is compiled twice. A
//! namespace is entered by the test's thread (`setns` is per thread), so tests run in parallel, each
//! with its own port 179, and the host's network is never touched. Namespaces have no names and
//! children die with the thread that made them: nothing is left behind, whatever becomes of a test.

#![forbid(unsafe_code)]

mod announcer;
mod bare;
mod bird;
mod child;
mod consul;
mod exabgp;
mod frr;
mod gobgp;
mod harness;
mod http;
mod hung;
mod keeper;
mod lacks;
mod net;
mod openbgpd;
mod probe;
mod routes;
mod service;
mod site;
mod trace;
mod until;
mod watch;

pub use announcer::Sidecast;
pub use bare::{in_namespace, run};
pub use bird::{Bird, BirdSession, attribute};
pub use child::{Child, copy_program};
pub use consul::Consul;
pub use exabgp::Exabgp;
pub use frr::Frr;
pub use gobgp::Gobgp;
pub use harness::{Test, begin, binary, cache, main, program};
pub use http::{Reply, get, request};
pub use hung::HungFolder;
pub use lacks::LACKS;
pub use net::{Lab, Namespace};
pub use openbgpd::Openbgpd;
pub use probe::{ask_tcp, ask_udp, receive};
pub use routes::{Change, Routes};
pub use service::{Service, Transport};
pub use site::{Addresses, Cable, HostLink, Site, VIP4, VIP6};
pub use trace::Trace;
pub use until::{expect, until};
pub use watch::Watch;

/// Lists a target's tests with the programs they need, and makes its `main`.
#[macro_export]
macro_rules! tests {
    ($(needs $tools:tt: $($name:ident),+ ;)+) => {
        fn main() -> std::process::ExitCode {
            $crate::main(
                env!("CARGO_BIN_EXE_sidecast"),
                &[$($($crate::Test::new(stringify!($name), &$tools, $name),)+)+],
            )
        }
    };
}
