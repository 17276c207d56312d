//! What the core promises, one sentence a test.

mod bench;
mod bfd;
mod consul;
mod ends;
mod lives;
mod policy;
