//! The state machine alone, on a time axis, and two of them in a modeled network.

mod network;
mod sim;
mod transcript;
