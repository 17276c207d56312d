//! `path_proof`: whether and how it is proven that the routers forward to the app's VIPs.

use crate::schema::kinds::{Number, Within, quoted, read_text};
use crate::schema::{Context, Kind, Section, Shape, ValueAt};
use crate::section;

section! {
    /// How VIPs are probed.
    #[derive(Copy, PartialOrd, Ord)]
    pub struct Probing {
        /// One probe for each VIP and peer in this time, 1 s to 1 h.
        interval: Within<1_000, 3_600_000>, default = "30s";
        /// The share that came back is that of so many probes, each from a source port of its own.
        probes: Number<u16, 1, 64>, default = "16";
        /// The UDP port that probes are sent to.
        port: Number<u16, 1, 65535>, default = "9";
    }
}

/// Whether an app's VIPs are probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathProof {
    /// With the defaults, where the process has CAP_NET_ADMIN.
    #[default]
    Auto,
    Off,
    On(Probing),
}

impl PathProof {
    /// `None`: it is off.
    pub fn probing(&self) -> Option<Probing> {
        match self {
            Self::Auto => Some(Probing::default()),
            Self::Off => None,
            Self::On(probing) => Some(*probing),
        }
    }
}

impl Kind for PathProof {
    type Value = Self;
    const SHAPE: Shape = Shape::Either(&Shape::Words(&["auto", "off"]), &Shape::Map("path_proof"));

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Err("should be auto, off, or a map of interval, probes and port".to_owned()),
        }
    }

    fn write(value: &Self) -> Option<String> {
        Some(match value {
            Self::Auto => "auto".to_owned(),
            Self::Off => quoted("off"),
            Self::On(probing) => probing.in_braces("path_proof"),
        })
    }

    fn read(cx: &mut Context<'_>, at: &ValueAt<'_>) -> Option<Self> {
        match at.is_map() {
            true => at.section(cx, Probing::default()).map(Self::On),
            false => read_text(cx, at, Self::parse),
        }
    }
}
