//! The machine alone, on a time axis, and two of them in a modelled network.

mod network;
mod sim;
mod transcript;
