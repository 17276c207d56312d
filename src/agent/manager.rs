//! What the service manager is told (`sd_notify(3)`): when we are ready, that we are alive, how we are and
//! what we are about to do.

use crate::core::Summary;
use crate::io::notify::Notify;
use std::time::{Duration, Instant};

pub struct Manager {
    notify: Notify,
    watchdog: Option<Watchdog>,
    ready: Readiness,
    /// As it was last told.
    summary: Option<Summary>,
}

/// The next sign of life.
struct Watchdog {
    every: Duration,
    at: Instant,
}

enum Readiness {
    /// To be told at this time at the latest, when some first check has no answer yet.
    Waiting(Instant),
    /// Told, or not true any more.
    Settled,
}

impl Manager {
    /// `watchdog` is half of what is allowed between two signs of life.
    pub fn new(now: Instant, notify: Notify, watchdog: Option<Duration>) -> Self {
        Self {
            notify,
            watchdog: watchdog.map(|every| Watchdog { every, at: now }),
            ready: Readiness::Waiting(now + READY_AT_LATEST),
            summary: None,
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        let ready = match self.ready {
            Readiness::Waiting(at) => Some(at),
            Readiness::Settled => None,
        };
        let watchdog = self.watchdog.as_ref().map(|watchdog| watchdog.at);
        [ready, watchdog].into_iter().flatten().min()
    }

    /// From the loop itself, so that a loop that hangs is noticed. READY comes after the first round of
    /// checks (`known`), or after five seconds; it waits for no session.
    pub fn tick(&mut self, now: Instant, known: impl FnOnce() -> bool) {
        if let Readiness::Waiting(at_latest) = self.ready
            && (now >= at_latest || known())
        {
            self.ready = Readiness::Settled;
            self.notify.send("READY=1");
        }
        if let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.at <= now) {
            watchdog.at = now + watchdog.every;
            self.notify.send("WATCHDOG=1");
        }
    }

    /// For the line in `systemctl status`. Where nobody listens nothing is counted: this is asked in every
    /// turn of the loop.
    pub fn tell(&mut self, summary: impl FnOnce() -> Summary) {
        if !self.notify.is_heard() {
            return;
        }
        let summary = summary();
        if self.summary.replace(summary) != Some(summary) {
            self.notify.send(&format!("STATUS={summary}"));
        }
    }

    pub fn reloading(&self) {
        self.notify.send("RELOADING=1");
    }

    pub fn reloaded(&self) {
        self.notify.send("READY=1");
    }

    pub fn stopping(&mut self) {
        self.ready = Readiness::Settled;
        self.notify.send("STOPPING=1");
    }
}

/// `READY=1` waits no longer for first checks.
const READY_AT_LATEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_told_once_and_never_after_the_end_has_begun() {
        let now = Instant::now();
        let mut manager = Manager::new(now, Notify::new(None), None);
        assert_eq!(manager.deadline(), Some(now + READY_AT_LATEST));
        manager.tick(now, || false);
        assert!(manager.deadline().is_some());
        manager.tick(now, || true);
        assert_eq!(manager.deadline(), None);

        let mut manager = Manager::new(now, Notify::new(None), None);
        manager.stopping();
        assert_eq!(manager.deadline(), None, "nothing is left to wait for");
    }

    #[test]
    fn the_status_line_is_told_when_it_changes() {
        let dir = std::env::temp_dir().join(format!("sidecast-manager-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let heard = || {
            let mut buffer = [0; 128];
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let mut manager = Manager::new(Instant::now(), Notify::new(path.to_str()), None);
        let before = Summary {
            apps: 2,
            up: 1,
            peers: 1,
            established: 0,
        };
        manager.tell(|| before);
        let line = "STATUS=1 of 2 apps up, 0 of 1 sessions established";
        assert_eq!(heard().as_deref(), Some(line));
        manager.tell(|| before);
        assert_eq!(heard(), None);
        manager.tell(|| Summary { up: 2, ..before });
        assert!(heard().is_some_and(|line| line.starts_with("STATUS=2 of 2")));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_watchdog_is_fed_again_and_again() {
        let now = Instant::now();
        let every = Duration::from_secs(2);
        let mut manager = Manager::new(now, Notify::new(None), Some(every));
        manager.tick(now, || true);
        assert_eq!(manager.deadline(), Some(now + every));
        manager.tick(now + every, || true);
        assert_eq!(manager.deadline(), Some(now + every * 2));
    }
}
