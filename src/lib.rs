//! sidecast announces a service's anycast address by BGP while the service is healthy.
//!
//! A pure core, bytes and an `Instant` in, ordered outputs and one next deadline out, stands on three
//! floors; over it lies a thin asynchronous shell on one thread that owns everything and locks
//! nothing. A file uses only its own floor or a lower one; `tests/architecture.rs` holds this.
//!
//! | floor | rooms | knows |
//! | --- | --- | --- |
//! | 4 agent | `main.rs`, [`cli`], [`agent`] | the event loop and the commands |
//! | 3 io | [`io`] | sockets, netlink, processes, files; the only async code below the agent |
//! | 2 domain | [`core`], [`config`], [`schema`], [`app`], [`health`], [`registry`], [`plan`], [`discovery`], [`api`], [`view`] | what should be announced, and what is left to do |
//! | 1 protocols | [`bgp`], [`bfd`], [`netlink`], [`consul`], [`dns`] | bytes to types and back, and RFC 4271 §8 |
//! | 0 ground | [`wire`], [`net`], [`text`], [`timer`] | reading input, routing nouns, texts of others, deadlines |
//!
//! Where to look a standard up: messages and their errors (RFC 4271 §4, §6) in [`bgp::message`] and
//! [`bgp::notification`], received UPDATEs (RFC 7606) in `bgp/inspect.rs`,
//! the state machine (RFC 4271 §8) in [`bgp::peer`], capabilities (RFC 5492 and others) in
//! [`bgp::capability`]; BFD (RFC 5880) in [`bfd`]; what the kernel is asked and told in [`netlink`]; TLS in
//! `io/tls.rs`, over the streams of `io/stream.rs`. A BGP message's line in the log is `bgp/summary.rs`'s.
//!
//! The way of one change: a monitor's result goes to [`core::Core::handle`]; if an app's health
//! changed, [`registry`] says what is desired now, [`plan`] the steps from what is applied, the agent
//! performs them in order and reports each back; only then is it applied.

#![forbid(unsafe_code)]

// `tests/reader` names this crate as everyone outside does.
#[cfg(test)]
extern crate self as sidecast;

pub mod agent;
pub mod api;
pub mod app;
pub mod bfd;
pub mod bgp;
pub mod cli;
pub mod config;
pub mod consul;
pub mod core;
pub mod discovery;
pub mod dns;
pub mod health;
pub mod io;
pub mod net;
pub mod netlink;
pub mod plan;
pub mod registry;
pub mod schema;
pub mod text;
pub mod timer;
pub mod view;
pub mod wire;
