//! Identifiers of connections.

use std::fmt;

/// One TCP connection or one attempt to make one. A state machine numbers its own attempts from 1; the
/// caller numbers accepted connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    origin: Origin,
    /// Which of the successive state machines of the peer made the attempt; 0 within that machine.
    generation: u64,
    number: u64,
}

/// Who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Origin {
    Outgoing,
    Accepted,
}

impl ConnId {
    /// An attempt of the state machine.
    pub const fn outgoing(number: u64) -> Self {
        Self {
            origin: Origin::Outgoing,
            generation: 0,
            number,
        }
    }

    /// An accepted connection.
    pub fn accepted(number: u64) -> Self {
        Self {
            origin: Origin::Accepted,
            generation: 0,
            number,
        }
    }

    /// Whether the peer opened the connection.
    pub fn is_accepted(self) -> bool {
        self.origin == Origin::Accepted
    }

    /// The number among connections of the same origin.
    pub fn number(self) -> u64 {
        self.number
    }

    /// The generation of the state machine that made the attempt.
    pub fn generation(self) -> u64 {
        self.generation
    }

    /// The same attempt with the generation of its state machine, which makes it unique among all attempts to a
    /// peer. An accepted connection is unique without.
    #[must_use]
    pub fn of_generation(self, generation: u64) -> Self {
        match self.origin {
            Origin::Outgoing => Self { generation, ..self },
            Origin::Accepted => self,
        }
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Outgoing => write!(f, "#{}", self.number),
            Origin::Accepted => write!(f, "#{} (accepted)", self.number),
        }
    }
}
