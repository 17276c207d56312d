//! Words for what the state machine of a BGP peer reports: state changes, failures with their likely cause,
//! and messages, as log lines. A condition is logged once in an outage.

use std::collections::BTreeSet;
use std::fmt;

use log::Level;

use crate::bgp::ProtocolError;
use crate::bgp::peer::{DownReason, LikelyCause, Notice, Output, StateName};

/// The log target of BGP messages, a line for each.
pub const MESSAGES: &str = "sidecast::bgp::messages";

/// Whether messages are logged, so that [`Peer::set_tracing`](crate::bgp::peer::Peer::set_tracing) pays.
pub fn logs_messages() -> bool {
    log::log_enabled!(target: MESSAGES, Level::Debug)
}

/// The log of one peer.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// Conditions logged since the last session that lasted. A router that is down for a night fails in
    /// turns (no answer, no route to host, no answer), each of which is logged once.
    logged: BTreeSet<String>,
    /// The state entered from Established, until [`Output::Down`] has the reason.
    left_for: Option<StateName>,
    /// What one of the two speakers refused in this outage: later attempts often end without a NOTIFICATION.
    refusal: Option<DownReason>,
    cause: Option<LikelyCause>,
}

impl Diagnosis {
    /// The last refusal of this outage by a NOTIFICATION, of the peer or of ours.
    pub fn refusal(&self) -> Option<&DownReason> {
        self.refusal.as_ref()
    }

    /// For which error one of the two speakers rejected the other's OPEN in this outage before the peer ended a
    /// connection without a NOTIFICATION (`reason`), which it most likely did for the same error: BIRD accepts no OPEN
    /// for a while after one.
    pub fn refusal_before(&self, reason: &DownReason) -> Option<&DownReason> {
        let unexplained = matches!(reason, DownReason::ConnectionLost(_));
        let refusal = self.refusal.as_ref().filter(|_| unexplained)?;
        let rejects_open = match refusal {
            DownReason::NotificationReceived(notification) => notification.rejects_open(),
            DownReason::Error(error) => matches!(error, ProtocolError::Open(_)),
            _ => false,
        };
        rejects_open.then_some(refusal)
    }

    /// The last likely cause of this outage.
    pub fn cause(&self) -> Option<LikelyCause> {
        self.cause
    }

    /// Logs what an output means for the operator, if anything.
    pub fn log(&mut self, peer: &str, output: &Output) {
        match output {
            Output::MessageReceived(text) => {
                log::debug!(target: MESSAGES, "peer {peer}: received {text}");
            }
            Output::MessageSent(text) => log::debug!(target: MESSAGES, "peer {peer}: sent {text}"),
            output => {
                if let Some((level, text)) = self.line(output) {
                    log::log!(level, "peer {peer}: {text}");
                }
            }
        }
    }

    fn line(&mut self, output: &Output) -> Option<(Level, String)> {
        match output {
            Output::StateChanged { from, to } if *from == StateName::Established => {
                self.left_for = Some(*to);
                None
            }
            Output::StateChanged { to, .. } if *to == StateName::Established => {
                (self.refusal, self.cause) = (None, None);
                Some((Level::Info, "established".to_owned()))
            }
            // At debug level: the retries of a peer that is down must not fill the log.
            Output::StateChanged { from, to } => Some((Level::Debug, format!("{from} -> {to}"))),
            Output::Down { reason } => {
                let to = self.left_for.take().unwrap_or(StateName::Idle);
                Some((Level::Info, format!("established -> {to}: {reason}")))
            }
            Output::Notice(notice) => self.notice(notice),
            _ => None,
        }
    }

    fn notice(&mut self, notice: &Notice) -> Option<(Level, String)> {
        match notice {
            Notice::NewOutage => {
                self.logged.clear();
                (self.refusal, self.cause) = (None, None);
                None
            }
            Notice::ConnectFailed(error) => {
                self.once(error, Level::Info, format!("connection failed: {error}"))
            }
            Notice::ConnectTimedOut { has_md5_key } => {
                let has_md5_key = *has_md5_key;
                let text = DownReason::ConnectTimedOut { has_md5_key }.to_string();
                self.once(&text.clone(), Level::Warn, text)
            }
            Notice::OpenOverdue => {
                let text = DownReason::OpenOverdue.to_string();
                self.once(&text.clone(), Level::Warn, text)
            }
            Notice::NotEstablished(reason) => {
                self.note_refusal(reason);
                let text = format!("session not established: {reason}");
                self.once(&reason.to_string(), Level::Info, text)
            }
            Notice::LikelyCause { reason, cause } => {
                self.note_refusal(reason);
                if let (LikelyCause::UnknownNeighbor, Some(before)) =
                    (cause, self.refusal_before(reason))
                {
                    // A peer with which OPENs were exchanged has us as a neighbor.
                    let text = format!("{reason}; before that: {before}");
                    return self.once(&cause.to_string(), Level::Warn, text);
                }
                self.cause = Some(*cause);
                let text = format!("{reason}; most likely {cause}");
                self.once(&cause.to_string(), Level::Warn, text)
            }
            Notice::OfferReduced(reason) => {
                let text = format!("{reason}; the next OPEN offers fewer capabilities");
                Some((Level::Warn, text))
            }
            Notice::Unsendable { count, first } => Some((
                Level::Warn,
                format!(
                    "{count} routes are not announced to it, {first} first: the session lacks their \
                     address family, or cannot carry their next hop"
                ),
            )),
            Notice::EncodeFailed { message, error } => {
                Some((Level::Error, format!("cannot encode {message}: {error}")))
            }
        }
    }

    fn note_refusal(&mut self, reason: &DownReason) {
        if matches!(
            reason,
            DownReason::Error(_) | DownReason::NotificationReceived(_)
        ) {
            self.refusal = Some(reason.clone());
        }
    }

    /// The line, unless its condition was logged in this outage, or too many were: a peer may send a different
    /// text each time.
    fn once(&mut self, condition: &str, level: Level, text: String) -> Option<(Level, String)> {
        let is_new = self.logged.len() < MAX_LOGGED && self.logged.insert(condition.to_owned());
        is_new.then_some((level, text))
    }
}

/// Conditions logged in one outage.
const MAX_LOGGED: usize = 16;

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::NotificationReceived(notification) => {
                write!(f, "received NOTIFICATION {notification}")
            }
            Self::ConnectFailed(error) | Self::ConnectionLost(error) => f.write_str(error),
            Self::Stopped => f.write_str("stopped"),
            Self::ConnectTimedOut { has_md5_key: true } => f.write_str(
                "no answer to our SYN; a wrong TCP MD5 password looks like this, and a peer that is down",
            ),
            Self::ConnectTimedOut { has_md5_key: false } => f.write_str(
                "no answer to our SYN; the peer is down, drops our packets, or requires a TCP MD5 password",
            ),
            Self::OpenOverdue => f.write_str(
                "it accepts connections and sends no OPEN: its BGP daemon hangs, or a device on the path \
                 accepts connections in its place",
            ),
            Self::SendHoldTimerExpired => f.write_str("send hold timer expired"),
            Self::PeerRestarted => f.write_str("the peer restarted"),
            Self::PathUnacknowledged => {
                f.write_str("the path to the peer changed, and it has acknowledged nothing since")
            }
            Self::LocalAddressGone => f.write_str("the local address of the session was removed"),
            Self::NoCarrier => f.write_str("no carrier"),
        }
    }
}

impl fmt::Display for LikelyCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrefixLimit => {
                "it accepts fewer prefixes than we announce: raise its prefix limit for this neighbor"
            }
            Self::PeerShutDown => {
                "its operator shut this neighbor down, or its BGP daemon is stopping"
            }
            Self::PeerDeconfigured => {
                "this neighbor was removed from its configuration, or its BGP daemon is stopping"
            }
            Self::PeerReset => "its operator reset this neighbor",
            Self::ConnectionRejected => {
                "it has no such neighbor (compare our address and AS with its configuration), or \
                 another BGP speaker on this address has the session it allows"
            }
            Self::SessionExists => {
                "it has a session with this address already: another BGP speaker runs on this host, or \
                 one has exited without closing its session"
            }
            Self::OutOfResources => "it is out of resources",
            Self::OldSessionHeld => "it has not noticed the end of our previous session yet",
            Self::LoopbackRefused => {
                "it is FRR, which accepts no session at a loopback address: set peer_ip to an address \
                 of one of this host's interfaces and local_ip to the address that it has as neighbor"
            }
            Self::AnotherSpeaker => {
                "another BGP speaker uses this address, and the peer takes each connection for a \
                 restart of the other"
            }
            Self::UnknownNeighbor => {
                "it has no such neighbor, or another BGP speaker on this address has the session it \
                 allows"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::Notification;

    fn failed(diagnosis: &mut Diagnosis, error: &str) -> bool {
        let notice = Notice::ConnectFailed(error.to_owned());
        diagnosis.line(&Output::Notice(notice)).is_some()
    }

    #[test]
    fn a_condition_is_logged_once_in_an_outage() {
        let mut diagnosis = Diagnosis::default();
        let turns = ["no answer", "no route", "no answer", "no route"];
        assert_eq!(
            turns.map(|error| failed(&mut diagnosis, error)),
            [true, true, false, false]
        );
        assert_eq!(diagnosis.line(&Output::Notice(Notice::NewOutage)), None);
        assert!(failed(&mut diagnosis, "no route"));
        let logged = (0..100).filter(|n| failed(&mut diagnosis, &n.to_string()));
        assert!(logged.count() < MAX_LOGGED);
    }

    #[test]
    fn the_end_of_a_session_is_logged_with_its_reason_and_other_changes_for_debugging() {
        let mut diagnosis = Diagnosis::default();
        let mut changed = |from, to| diagnosis.line(&Output::StateChanged { from, to });
        let (level, _) = changed(StateName::Idle, StateName::Connect).unwrap();
        assert_eq!(level, Level::Debug);
        let (level, text) = changed(StateName::OpenConfirm, StateName::Established).unwrap();
        assert_eq!((level, &*text), (Level::Info, "established"));
        assert_eq!(changed(StateName::Established, StateName::Idle), None);
        let reason = DownReason::NoCarrier;
        let (level, text) = diagnosis.line(&Output::Down { reason }).unwrap();
        let line = "established -> idle: no carrier";
        assert_eq!((level, &*text), (Level::Info, line));
    }

    #[test]
    fn connections_closed_after_a_refusal_are_explained_by_it_until_a_session_is_established() {
        let mut diagnosis = Diagnosis::default();
        let closed = || DownReason::ConnectionLost("closed".to_owned());
        let bad_as = Notification::new(2, 2, Vec::new());
        let refused = DownReason::NotificationReceived(bad_as);
        let unknown = |diagnosis: &mut Diagnosis| {
            let (reason, cause) = (closed(), LikelyCause::UnknownNeighbor);
            diagnosis.line(&Output::Notice(Notice::LikelyCause { reason, cause }))
        };
        diagnosis.line(&Output::Notice(Notice::NotEstablished(refused.clone())));
        assert_eq!(diagnosis.refusal_before(&closed()), Some(&refused));
        let unreachable = DownReason::ConnectFailed("no route to host".to_owned());
        assert_eq!(diagnosis.refusal_before(&unreachable), None);
        let (_, text) = unknown(&mut diagnosis).unwrap();
        assert_eq!(text, format!("closed; before that: {refused}"));
        assert_eq!(diagnosis.cause(), None);
        let (from, to) = (StateName::OpenConfirm, StateName::Established);
        diagnosis.line(&Output::StateChanged { from, to });
        assert_eq!(diagnosis.refusal_before(&closed()), None);
        // An outage that begins with a Cease: it says nothing of the connections that the peer closes later.
        diagnosis.line(&Output::Notice(Notice::NewOutage));
        let shutdown = DownReason::NotificationReceived(Notification::new(6, 2, Vec::new()));
        let cause = LikelyCause::PeerShutDown;
        let reason = shutdown.clone();
        diagnosis.line(&Output::Notice(Notice::LikelyCause { reason, cause }));
        assert_eq!(diagnosis.refusal(), Some(&shutdown));
        let (_, text) = unknown(&mut diagnosis).unwrap();
        assert!(
            text.starts_with("closed; most likely it has no such neighbor"),
            "{text}"
        );
    }

    #[test]
    fn a_likely_cause_is_logged_once_whatever_the_text_of_the_notification() {
        let mut diagnosis = Diagnosis::default();
        let mut ended = |data: &[u8]| {
            let notification = Notification::new(6, 2, data.to_vec());
            let reason = DownReason::NotificationReceived(notification);
            let cause = LikelyCause::PeerShutDown;
            diagnosis.line(&Output::Notice(Notice::LikelyCause { reason, cause }))
        };
        let (level, text) = ended(b"\x02hi").unwrap();
        assert_eq!(level, Level::Warn);
        assert_eq!(
            text,
            "received NOTIFICATION Cease / Administrative Shutdown (6/2): \"hi\"; most likely its \
             operator shut this neighbor down, or its BGP daemon is stopping"
        );
        assert_eq!(ended(b"\x02ho"), None);
    }
}
