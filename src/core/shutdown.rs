//! The end of the process, step by step: drain, withdraw, remove, close, exit. Each step has its
//! deadline, so that no peer and no kernel can hold it up.

use std::time::{Duration, Instant};

/// How far the shutdown of the process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shutdown {
    Running,
    /// Routes are out as `when_draining` says; the service still answers.
    Draining {
        acknowledged: bool,
        by: Instant,
        until: Instant,
    },
    /// All routes are withdrawn; `by` then the peers have heard of it.
    Withdrawing {
        acknowledged: bool,
        by: Instant,
    },
    /// Addresses and NAT go.
    Removing {
        by: Instant,
    },
    Over,
}

impl Shutdown {
    pub fn draining(now: Instant, drain_time: Duration) -> Self {
        Self::Draining {
            acknowledged: false,
            by: now + ACKNOWLEDGE,
            until: now + drain_time,
        }
    }

    pub fn withdrawing(now: Instant) -> Self {
        Self::Withdrawing {
            acknowledged: false,
            by: now + ACKNOWLEDGE,
        }
    }

    pub fn removing(now: Instant) -> Self {
        Self::Removing { by: now + REMOVE }
    }

    pub fn is_running(&self) -> bool {
        *self == Self::Running
    }

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

/// How long acknowledgements are waited for, and how long the kernel may take to remove things.
pub(super) const ACKNOWLEDGE: Duration = Duration::from_secs(1);
const REMOVE: Duration = Duration::from_millis(500);
