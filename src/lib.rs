#![forbid(unsafe_code)]
pub mod net;
pub mod timer;
pub mod wire;
