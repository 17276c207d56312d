//! The state machine alone, on a time axis, and two of them in a modeled network.

mod network;
mod sim;
mod transcript;

use super::Peer;

impl Peer {
    /// The wanted set, as text.
    pub fn wanted(&self) -> String {
        format!("{:?}", self.rib.wanted())
    }
}
