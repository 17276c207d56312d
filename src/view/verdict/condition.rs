//! What can be wrong, with an app, a peer or the process.

/// Conditions, by severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    AppDown,
    NotAnnounced,
    /// Announced although it is down, with the least attractive attributes.
    LastResort,
    AppInvalid,
    /// A router has the route and does not forward to this host.
    PathNo,
    NoPeer,
    PeerDown,
    Family,
    SomePeers,
    NoCarrier,
    AppPending,
    HeldDown,
    Consul,
    ReloadFailed,
}

impl Condition {
    /// All conditions, worst first.
    pub const ALL: [Self; 14] = [
        Self::AppDown,
        Self::NotAnnounced,
        Self::LastResort,
        Self::AppInvalid,
        Self::PathNo,
        Self::NoPeer,
        Self::PeerDown,
        Self::Family,
        Self::SomePeers,
        Self::NoCarrier,
        Self::AppPending,
        Self::HeldDown,
        Self::Consul,
        Self::ReloadFailed,
    ];

    /// As the metric's label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AppDown => "app_down",
            Self::LastResort => "last_resort",
            Self::AppInvalid => "app_invalid",
            Self::NotAnnounced => "not_announced",
            Self::PathNo => "path_no",
            Self::NoPeer => "no_peer",
            Self::PeerDown => "peer_down",
            Self::Family => "family",
            Self::SomePeers => "some_peers",
            Self::NoCarrier => "no_carrier",
            Self::AppPending => "app_pending",
            Self::HeldDown => "held_down",
            Self::Consul => "consul",
            Self::ReloadFailed => "reload",
        }
    }

    /// The level it makes, and what it means, for `examples/reference.md`.
    pub fn doc(self) -> &'static str {
        match self {
            Self::AppDown => "Failing: the checks of an app fail.",
            Self::LastResort => {
                "Failing: an app is announced although its checks fail, with the least attractive attributes."
            }
            Self::AppInvalid => {
                "An app is refused, or one of its VIPs cannot be announced. Failing where no peer has any of its VIPs, else degraded."
            }
            Self::NotAnnounced => {
                "Failing: a VIP of an app that should be announced is announced to no peer."
            }
            Self::PathNo => {
                "A peer has the route of a VIP and does not forward to this host: a router says so. Failing where none of the peers forwards, else degraded."
            }
            Self::NoPeer => "Degraded: there is no peer, configured or found.",
            Self::PeerDown => {
                "Degraded: a session is not established, or its peer has acknowledged nothing for 3 s."
            }
            Self::Family => {
                "Degraded: a VIP is not announced to a peer whose session lacks its address family, or for which there is no next hop."
            }
            Self::SomePeers => "Degraded: a VIP is announced to some peers and not yet to others.",
            Self::NoCarrier => "Degraded: the interface to a peer has no carrier.",
            Self::AppPending => "Degraded: the first checks of an app have not ended for 5 s.",
            Self::HeldDown => {
                "Degraded: an app is healthy again, and damping delays its announcement."
            }
            Self::Consul => "Degraded: Consul does not answer; its last answer stays in force.",
            Self::ReloadFailed => {
                "Degraded: the last reload failed; the configuration before it holds."
            }
        }
    }
}
