//! The shutdown: drain, withdraw, remove, close, exit. Each step has its deadline, so that neither a
//! peer nor the kernel can delay it.

use std::time::{Duration, Instant};

/// The state of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shutdown {
    Running,
    /// Routes are announced or withdrawn as `when_draining` says; the service still answers.
    Draining {
        acknowledged: bool,
        by: Instant,
        until: Instant,
    },
    /// All routes are withdrawn; the peers' acknowledgment is awaited until `by`.
    Withdrawing {
        acknowledged: bool,
        by: Instant,
    },
    /// Addresses and NAT rules are being removed.
    Removing {
        by: Instant,
    },
    Over,
}

impl Shutdown {
    /// The first step: `drain_time` runs.
    pub fn draining(now: Instant, drain_time: Duration) -> Self {
        Self::Draining {
            acknowledged: false,
            by: now + ACKNOWLEDGE_WITHIN,
            until: now + drain_time,
        }
    }

    /// All routes are withdrawn.
    pub fn withdrawing(now: Instant) -> Self {
        Self::Withdrawing {
            acknowledged: false,
            by: now + ACKNOWLEDGE_WITHIN,
        }
    }

    /// Addresses and NAT rules are removed.
    pub fn removing(now: Instant) -> Self {
        Self::Removing {
            by: now + REMOVE_WITHIN,
        }
    }

    /// No shutdown has begun.
    pub fn is_running(&self) -> bool {
        *self == Self::Running
    }

    /// The process is about to exit.
    pub fn is_over(&self) -> bool {
        *self == Self::Over
    }

    /// The peers have what was sent so far.
    pub fn acknowledge(&mut self) {
        if let Self::Draining { acknowledged, .. } | Self::Withdrawing { acknowledged, .. } = self {
            *acknowledged = true;
        }
    }

    /// Whether this step is over at `now`, apart from what the kernel still has to do.
    pub fn is_due(&self, now: Instant) -> bool {
        match *self {
            Self::Running | Self::Over => false,
            Self::Draining {
                acknowledged,
                by,
                until,
            } => (acknowledged || by <= now) && until <= now,
            Self::Withdrawing { acknowledged, by } => acknowledged || by <= now,
            Self::Removing { by } => by <= now,
        }
    }

    /// When the step ends at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match *self {
            Self::Running | Self::Over => None,
            Self::Draining {
                acknowledged: true,
                until,
                ..
            } => Some(until),
            Self::Draining { by, until, .. } => Some(by.max(until)),
            Self::Withdrawing { by, .. } | Self::Removing { by } => Some(by),
        }
    }
}

/// How long acknowledgments are waited for, and how long the removal of addresses and NAT rules may
/// take.
pub(super) const ACKNOWLEDGE_WITHIN: Duration = Duration::from_secs(1);
const REMOVE_WITHIN: Duration = Duration::from_millis(500);
