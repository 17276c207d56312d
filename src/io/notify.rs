//! systemd notifications (`sd_notify(3)`): datagrams to the socket in `NOTIFY_SOCKET`.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager, when there is one.
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
}

impl Notify {
    /// `path` is the value of `NOTIFY_SOCKET`: a file, or an abstract name after `@`.
    pub fn new(path: Option<&str>) -> Self {
        let socket = path.filter(|path| !path.is_empty()).and_then(|path| {
            let addr = match path.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(path),
            };
            let socket = UnixDatagram::unbound().and_then(|s| s.set_nonblocking(true).map(|()| s));
            match addr.and_then(|addr| Ok((socket?, addr))) {
                Ok(pair) => Some(pair),
                Err(error) => {
                    log::warn!(
                        "NOTIFY_SOCKET={path}: {error}; systemd gets no READY=1 and no WATCHDOG=1"
                    );
                    None
                }
            }
        });
        Self { socket }
    }

    /// Whether there is a service manager.
    pub fn has_manager(&self) -> bool {
        self.socket.is_some()
    }

    /// Sends lines such as `READY=1`. Failures are ignored.
    pub fn send(&self, state: &str) {
        if let Some((socket, addr)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), addr)
        {
            log::debug!("sd_notify: {error}");
        }
    }
}

/// Half of `WATCHDOG_USEC`, when the variables name this process.
pub fn watchdog(usec: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let own = std::process::id().to_string();
    if pid.is_some_and(|pid| pid != own) {
        return None;
    }
    let usec: u64 = usec?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_arrive_at_the_managers_socket() {
        let dir = std::env::temp_dir().join(format!("sidecast-notify-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("socket");
        let manager = UnixDatagram::bind(&path).unwrap();
        Notify::new(path.to_str()).send("READY=1\nSTATUS=up");
        let mut buffer = [0; 64];
        let n = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"READY=1\nSTATUS=up");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        Notify::new(None).send("READY=1");
        Notify::new(Some("")).send("READY=1");
        Notify::new(Some("/does/not/exist")).send("READY=1");
    }

    #[test]
    fn the_watchdog_is_fed_at_half_its_time_and_only_for_this_process() {
        let own = std::process::id().to_string();
        assert_eq!(
            watchdog(Some("3000000"), Some(&own)),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(watchdog(Some("3000000"), Some("1")), None);
        assert_eq!(watchdog(Some("0"), None), None);
        assert_eq!(watchdog(None, None), None);
    }
}
