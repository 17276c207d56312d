#![doc = include_str!("README.md")]
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
pub mod diagnosis;
pub mod discovery;
pub mod dns;
pub mod doctor;
pub mod health;
pub mod io;
pub mod net;
pub mod netlink;
pub mod path_proof;
pub mod plan;
pub mod registry;
pub mod schema;
pub mod small_set;
pub mod text;
pub mod timer;
pub mod view;
pub mod wire;
