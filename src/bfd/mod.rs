//! Bidirectional forwarding detection: asynchronous mode over one hop or several.
//!
//! RFC 5880 (packets and the state machine), RFC 5881 (one hop), RFC 5883 (several hops). Left out:
//! demand mode, the echo function and authentication; a packet with the A bit is discarded, as RFC
//! 5880 §6.8.6 requires where no authentication is in use.

mod packet;
mod session;

pub use packet::{Diagnostic, Packet, PacketError, State};
pub use session::{Config, Event, Output, Session, Timer};
