//! The control packet (RFC 5880 §4.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       My Discriminator                        |
//! |                      Your Discriminator                       |
//! |                    Desired Min TX Interval                    |
//! |                   Required Min RX Interval                    |
//! |                 Required Min Echo RX Interval                 |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use crate::wire::{Reader, WireError, Writer};
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// Session state (RFC 5880 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    AdminDown,
    Down,
    Init,
    Up,
}

impl State {
    fn from_code(code: u8) -> Self {
        match code & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

/// Why the sender last left Up (RFC 5880 §4.1); unknown codes are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// No diagnostic.
    pub const NONE: Self = Self(0);
    /// Control detection time expired.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// Neighbor signaled session down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// Administratively down.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("no diagnostic"),
            1 => f.write_str("control detection time expired"),
            2 => f.write_str("echo function failed"),
            3 => f.write_str("neighbor signaled session down"),
            4 => f.write_str("forwarding plane reset"),
            5 => f.write_str("path down"),
            6 => f.write_str("concatenated path down"),
            7 => f.write_str("administratively down"),
            8 => f.write_str("reverse concatenated path down"),
            code => write!(f, "diagnostic {code}"),
        }
    }
}

/// One control packet that passed the checks of RFC 5880 §6.8.6. We neither send nor use C, A, D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub diagnostic: Diagnostic,
    pub state: State,
    pub poll: bool,
    pub r#final: bool,
    /// The sender asks not to be sent packets periodically (RFC 5880 §6.6).
    pub demand: bool,
    pub detect_mult: u8,
    pub my_discriminator: NonZeroU32,
    /// Zero: not known yet.
    pub your_discriminator: u32,
    /// Microseconds.
    pub desired_min_tx: u32,
    /// Microseconds; zero: send nothing periodically.
    pub required_min_rx: u32,
}

/// Why a packet is dropped (RFC 5880 §6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketError {
    Wire(WireError),
    Version(u8),
    /// The Length field is below the minimum or exceeds the payload.
    Length(u8),
    ZeroDetectMult,
    Multipoint,
    ZeroMyDiscriminator,
    /// Your Discriminator is zero in a state other than Down and AdminDown.
    ZeroYourDiscriminator,
    /// The A bit, where no authentication is configured.
    Authentication,
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => error.fmt(f),
            Self::Version(version) => write!(f, "version {version}"),
            Self::Length(length) => write!(f, "length {length}"),
            Self::ZeroDetectMult => f.write_str("detect mult 0"),
            Self::Multipoint => f.write_str("multipoint bit"),
            Self::ZeroMyDiscriminator => f.write_str("my discriminator 0"),
            Self::ZeroYourDiscriminator => f.write_str("your discriminator 0"),
            Self::Authentication => f.write_str("authentication, which is not configured"),
        }
    }
}

impl std::error::Error for PacketError {}

impl From<WireError> for PacketError {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl Packet {
    /// Checks in the order of RFC 5880 §6.8.6. Bytes of the payload behind Length are no error.
    pub fn decode(payload: &[u8]) -> Result<Self, PacketError> {
        let mut r = Reader::new(payload);
        let [first, flags, detect_mult, length] = r.array()?;
        if first >> 5 != VERSION {
            return Err(PacketError::Version(first >> 5));
        }
        let authenticated = flags & FLAG_AUTH != 0;
        let least = if authenticated { LEN + 2 } else { LEN };
        if usize::from(length) < least || usize::from(length) > payload.len() {
            return Err(PacketError::Length(length));
        }
        if detect_mult == 0 {
            return Err(PacketError::ZeroDetectMult);
        }
        if flags & FLAG_MULTIPOINT != 0 {
            return Err(PacketError::Multipoint);
        }
        let my_discriminator = NonZeroU32::new(r.u32()?).ok_or(PacketError::ZeroMyDiscriminator)?;
        let your_discriminator = r.u32()?;
        let state = State::from_code(flags >> 6);
        if your_discriminator == 0 && matches!(state, State::Init | State::Up) {
            return Err(PacketError::ZeroYourDiscriminator);
        }
        if authenticated {
            return Err(PacketError::Authentication);
        }
        Ok(Self {
            diagnostic: Diagnostic(first & 0x1f),
            state,
            poll: flags & FLAG_POLL != 0,
            r#final: flags & FLAG_FINAL != 0,
            demand: flags & FLAG_DEMAND != 0,
            detect_mult,
            my_discriminator,
            your_discriminator,
            desired_min_tx: r.u32()?,
            required_min_rx: r.u32()?,
        })
    }

    /// The 24 bytes of the packet.
    pub fn encode(&self) -> Vec<u8> {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let mut w = Writer::new();
        w.u8(VERSION << 5 | self.diagnostic.0 & 0x1f);
        w.u8(self.state.code() << 6
            | flag(self.poll, FLAG_POLL)
            | flag(self.r#final, FLAG_FINAL)
            | flag(self.demand, FLAG_DEMAND));
        w.u8(self.detect_mult);
        w.u8(24);
        w.u32(self.my_discriminator.get());
        w.u32(self.your_discriminator);
        w.u32(self.desired_min_tx);
        w.u32(self.required_min_rx);
        w.u32(0);
        // No length field is written that could overflow.
        w.finish().unwrap_or_default()
    }
}

/// A duration in microseconds, at most some 71 minutes.
pub(super) fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

const VERSION: u8 = 1;
/// Without authentication.
const LEN: usize = 24;
const FLAG_POLL: u8 = 0x20;
const FLAG_FINAL: u8 = 0x10;
const FLAG_AUTH: u8 = 0x04;
const FLAG_DEMAND: u8 = 0x02;
const FLAG_MULTIPOINT: u8 = 0x01;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Packet {
        Packet {
            diagnostic: Diagnostic::NEIGHBOR_SIGNALED_DOWN,
            state: State::Up,
            poll: true,
            r#final: false,
            demand: false,
            detect_mult: 3,
            my_discriminator: NonZeroU32::new(0x1122_3344).unwrap(),
            your_discriminator: 0x5566_7788,
            desired_min_tx: 300_000,
            required_min_rx: 300_000,
        }
    }

    /// Written by hand from the diagram of RFC 5880 §4.1.
    const GOLDEN: [u8; 24] = [
        0x23, 0xe0, 3, 24, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x00, 0x04, 0x93, 0xe0,
        0x00, 0x04, 0x93, 0xe0, 0, 0, 0, 0,
    ];

    #[test]
    fn a_packet_reads_and_writes_as_the_diagram_says() {
        assert_eq!(sample().encode(), GOLDEN);
        assert_eq!(Packet::decode(&GOLDEN), Ok(sample()));
    }

    #[test]
    fn every_truncation_is_refused() {
        for n in 0..GOLDEN.len() {
            assert!(Packet::decode(&GOLDEN[..n]).is_err(), "{n} bytes");
        }
        let longer = [&GOLDEN[..], &[0; 8]].concat();
        assert_eq!(
            Packet::decode(&longer),
            Ok(sample()),
            "padding behind Length is allowed"
        );
    }

    /// RFC 5880 §6.8.6, one row for each "MUST be discarded".
    #[test]
    fn packets_are_dropped_as_rfc_5880_6_8_6_asks() {
        let with = |changes: &[(usize, u8)]| {
            let mut bytes = GOLDEN;
            for (at, byte) in changes {
                bytes[*at] = *byte;
            }
            Packet::decode(&bytes)
        };
        for (changes, want) in [
            (&[(0, 0x03)][..], PacketError::Version(0)),
            (&[(0, 0x43)], PacketError::Version(2)),
            (&[(3, 23)], PacketError::Length(23)),
            (&[(1, 0xe4), (3, 24)], PacketError::Length(24)),
            (&[(3, 25)], PacketError::Length(25)),
            (&[(2, 0)], PacketError::ZeroDetectMult),
            (&[(1, 0xe1)], PacketError::Multipoint),
            (
                &[(4, 0), (5, 0), (6, 0), (7, 0)],
                PacketError::ZeroMyDiscriminator,
            ),
            (
                &[(8, 0), (9, 0), (10, 0), (11, 0)],
                PacketError::ZeroYourDiscriminator,
            ),
        ] {
            assert_eq!(with(changes), Err(want), "{changes:?}");
        }
        let mut authenticated = [&GOLDEN[..], &[1, 2]].concat();
        authenticated[1] |= FLAG_AUTH;
        authenticated[3] = 26;
        assert_eq!(
            Packet::decode(&authenticated),
            Err(PacketError::Authentication)
        );
        let zero_your = |state: u8| with(&[(1, state << 6), (8, 0), (9, 0), (10, 0), (11, 0)]);
        assert!(zero_your(0).is_ok() && zero_your(1).is_ok());
        assert!(zero_your(2).is_err());
    }

    #[test]
    fn no_bytes_panic() {
        let mut rng = crate::timer::Rng::new(5880);
        for _ in 0..20_000 {
            let len = usize::try_from(rng.below(40)).unwrap();
            let mut bytes: Vec<u8> = (0..len).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
            if let Some(first) = bytes.first_mut() {
                *first = *first & 0x1f | 0x20;
            }
            if let Ok(packet) = Packet::decode(&bytes) {
                assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
        }
    }
}
