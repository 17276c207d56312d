//! What the core promises, one sentence a test.

mod bench;
mod bfd;
mod consul;
mod ends;
mod full_pass;
mod kernel;
mod lives;
mod path;
mod policy;
mod proportion;
