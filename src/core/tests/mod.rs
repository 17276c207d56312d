//! What the core promises, one sentence a test.

mod app_peers;
mod bench;
mod bfd;
mod consul;
mod drain;
mod history;
mod kernel;
mod last_resort;
mod last_resort_changes;
mod lifecycle;
mod operator;
mod path;
mod path_proof;
mod pending_peers;
mod policy;
mod proportion;
mod resync;
mod second_stage;
mod shutdown;
mod standby;
