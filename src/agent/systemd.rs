//! Notifications to systemd (`sd_notify(3)`): READY, WATCHDOG, STATUS, RELOADING and STOPPING.

use crate::io::notify::Notify;
use std::time::{Duration, Instant};

/// The state of the notifications to systemd.
pub struct SystemdNotifier {
    notify: Notify,
    watchdog: Option<Watchdog>,
    ready: Ready,
    status: Status,
}

/// The status line.
#[derive(Default)]
struct Status {
    /// As last sent.
    line: String,
    /// When it was last computed.
    made_at: Option<Instant>,
    /// When it is to be computed again.
    due: Option<Instant>,
}

/// The next WATCHDOG=1.
struct Watchdog {
    every: Duration,
    at: Instant,
}

enum Ready {
    /// READY=1 is sent at this time at the latest, even if a first check has no result yet.
    Pending(Instant),
    /// Sent, or the process is stopping.
    Sent,
}

impl SystemdNotifier {
    /// `watchdog` is the interval of WATCHDOG=1: half of `WATCHDOG_USEC`.
    pub fn new(now: Instant, notify: Notify, watchdog: Option<Duration>) -> Self {
        Self {
            notify,
            watchdog: watchdog.map(|every| Watchdog { every, at: now }),
            ready: Ready::Pending(now + READY_AT_LATEST),
            status: Status::default(),
        }
    }

    /// When READY=1 or WATCHDOG=1 is due.
    pub fn deadline(&self) -> Option<Instant> {
        let ready = match self.ready {
            Ready::Pending(at) => Some(at),
            Ready::Sent => None,
        };
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.at);
        [ready, watchdog, self.status.due]
            .into_iter()
            .flatten()
            .min()
    }

    /// Called from the event loop itself, so that a hanging loop is noticed. READY=1 is sent after the
    /// first checks (`known`), or after five seconds; it waits for no session.
    pub fn tick(&mut self, now: Instant, known: impl FnOnce() -> bool) {
        if let Ready::Pending(at_latest) = self.ready
            && (now >= at_latest || known())
        {
            self.ready = Ready::Sent;
            self.notify.send("READY=1");
        }
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.at <= now) {
            watchdog.at = now + watchdog.every;
            self.notify.send("WATCHDOG=1");
        }
    }

    /// Sends the line shown by `systemctl status`. It is computed at most once a second: after an event (`may_have_changed`),
    /// or when `line`'s second result, the time until its text changes without an event, has passed. Without
    /// `NOTIFY_SOCKET` it is not computed.
    pub fn send_status(
        &mut self,
        now: Instant,
        may_have_changed: bool,
        line: impl FnOnce() -> (String, Option<Duration>),
    ) {
        if !self.notify.has_manager() {
            return;
        }
        let status = &mut self.status;
        if may_have_changed {
            let earliest = status.made_at.map_or(now, |at| at + SAVE_INTERVAL);
            let due = status.due.map_or(earliest, |due| due.min(earliest));
            status.due = Some(due.max(now));
        }
        if status.due.is_none_or(|due| due > now) {
            return;
        }
        let (line, again_in) = line();
        status.made_at = Some(now);
        status.due = again_in.map(|wait| now + wait.max(SAVE_INTERVAL));
        if status.line != line {
            self.notify.send(&format!("STATUS={line}"));
            status.line = line;
        }
    }

    /// A reload begins.
    pub fn reloading(&self) {
        self.notify.send("RELOADING=1");
    }

    /// A reload has ended.
    pub fn reloaded(&self) {
        self.notify.send("READY=1");
    }

    /// The shutdown begins; READY=1 is not sent any more.
    pub fn stopping(&mut self) {
        self.ready = Ready::Sent;
        self.notify.send("STOPPING=1");
    }
}

/// The shortest time between two status lines.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time that `READY=1` waits for first checks.
const READY_AT_LATEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_sent_once_and_never_after_the_shutdown_began() {
        let now = Instant::now();
        let mut systemd = SystemdNotifier::new(now, Notify::new(None), None);
        assert_eq!(systemd.deadline(), Some(now + READY_AT_LATEST));
        systemd.tick(now, || false);
        assert!(systemd.deadline().is_some());
        systemd.tick(now, || true);
        assert_eq!(systemd.deadline(), None);

        let mut systemd = SystemdNotifier::new(now, Notify::new(None), None);
        systemd.stopping();
        assert_eq!(systemd.deadline(), None, "nothing is left to wait for");
    }

    #[test]
    fn the_status_line_is_sent_when_it_changes() {
        let dir = std::env::temp_dir().join(format!("sidecast-manager-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let received = || {
            let mut buffer = [0; 128];
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let now = Instant::now();
        let mut systemd = SystemdNotifier::new(now, Notify::new(path.to_str()), None);
        systemd.tick(now, || true);
        assert_eq!(received().as_deref(), Some("READY=1"));
        let says = |line: &str| (line.to_owned(), None);
        systemd.send_status(now, false, || panic!("nothing has happened"));
        systemd.send_status(now, true, || {
            ("starting".to_owned(), Some(Duration::from_secs(3)))
        });
        assert_eq!(received().as_deref(), Some("STATUS=starting"));
        systemd.send_status(now, true, || panic!("too soon"));
        let now = now + SAVE_INTERVAL;
        assert_eq!(systemd.deadline(), Some(now));
        systemd.send_status(now, false, || says("starting"));
        assert_eq!(received(), None, "it is the same");
        assert_eq!(systemd.deadline(), None);
        systemd.send_status(now + SAVE_INTERVAL, true, || says("ok"));
        assert_eq!(received().as_deref(), Some("STATUS=ok"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_watchdog_is_fed_again_and_again() {
        let now = Instant::now();
        let every = Duration::from_secs(2);
        let mut systemd = SystemdNotifier::new(now, Notify::new(None), Some(every));
        systemd.tick(now, || true);
        assert_eq!(systemd.deadline(), Some(now + every));
        systemd.tick(now + every, || true);
        assert_eq!(systemd.deadline(), Some(now + every * 2));
    }
}
