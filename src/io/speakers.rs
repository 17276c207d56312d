//! Other BGP speakers in this network namespace. A router knows a neighbor by its address, and takes one session
//! from each: a second speaker with the same address is refused, or ends the session of the first.

use crate::io::sock_diag::{exchange, open, own_inodes};
use crate::net::Family;
use crate::netlink::sock_diag::{self, IPPROTO_TCP, Socket, TCP_ESTABLISHED};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Another program's session with a peer, from our address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherSpeaker {
    /// Names and process IDs of the BGP speakers in this network namespace that it may be.
    programs: Vec<(String, u32)>,
    /// The user that the program runs as.
    uid: u32,
    /// The local address, which both programs use.
    local: IpAddr,
}

impl fmt::Display for OtherSpeaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let programs = self.programs.iter();
        let programs: Vec<String> = programs
            .map(|(name, id)| format!("{name} (process {id})"))
            .collect();
        match programs.is_empty() {
            true => write!(f, "a program of user {}", self.uid)?,
            false => write!(f, "{}", programs.join(" or "))?,
        }
        write!(f, " on this host has a session with it from {}", self.local)
    }
}

/// Finds the program that has a session with the peer at `remote` from `local`, whichever of both ends opened
/// it. Blocks for a moment: a session that is being closed, perhaps one of our own, is not reported.
/// `None`: there is none, or the kernel does not list sockets.
pub fn find(local: IpAddr, remote: SocketAddr) -> Option<OtherSpeaker> {
    let first = sessions(local, remote).ok()?;
    if first.is_empty() {
        return None;
    }
    std::thread::sleep(LASTING);
    let was_there = |socket: &Socket| first.iter().any(|before| before.cookie == socket.cookie);
    let mut lasting = sessions(local, remote).ok()?.into_iter();
    let socket = lasting.find(was_there)?;
    Some(OtherSpeaker {
        programs: speakers(socket.uid),
        uid: socket.uid,
        local,
    })
}

/// The established connections between the two addresses that are not of this process.
fn sessions(local: IpAddr, remote: SocketAddr) -> Result<Vec<Socket>, Errno> {
    let family = Family::of(remote.ip());
    let port = remote.port();
    let to_peer = sock_diag::dump_connections_to(family, port);
    let from_peer = sock_diag::dump(
        family,
        IPPROTO_TCP,
        1 << TCP_ESTABLISHED,
        &BTreeSet::from([port]),
    );
    let mut sockets = Vec::new();
    let fd = open()?;
    for (request, seq) in [to_peer, from_peer].into_iter().zip(1..) {
        let request = request.map_err(|_| Errno::EMSGSIZE)?;
        exchange(&fd, &request, seq, DATAGRAM, &mut sockets)?;
    }
    let own = own_inodes();
    // If the peer is on this host, the list has its end of the connection too.
    sockets.retain(|socket| {
        let opened = socket.destination_port == port;
        let accepted = socket.source_port == port && local != remote.ip();
        (socket.source, socket.destination) == (local, remote.ip())
            && (opened || accepted)
            && !own.contains(&socket.inode)
    });
    Ok(sockets)
}

/// The BGP speakers of this network namespace that run as this user. The kernel shows which process has a socket
/// only to processes with all of its capabilities, which sidecast drops; every process may read names and network
/// namespaces.
fn speakers(uid: u32) -> Vec<(String, u32)> {
    // The inode of this file is different in each network namespace.
    let network = |process: &Path| Some(fs::metadata(process.join("net/tcp")).ok()?.ino());
    let own = network(Path::new("/proc/self"));
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let speaker = |process: io::Result<fs::DirEntry>| {
        let path = process.ok()?.path();
        let id: u32 = path.file_name()?.to_str()?.parse().ok()?;
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let name = name.trim_end();
        let other = SPEAKERS.contains(&name) && id != std::process::id();
        let here = other && network(&path) == own && fs::metadata(&path).ok()?.uid() == uid;
        let speaks =
            here && (name != "sidecast" || announces(&fs::read(path.join("cmdline")).ok()?));
        speaks.then(|| (name.to_owned(), id))
    };
    let found = processes.take(MAX_PROCESSES).filter_map(speaker);
    found.take(MAX_SPEAKERS).collect()
}

/// Whether a sidecast with this command line (`/proc/PID/cmdline`) is an announcer, which has no command or `run`. The
/// others, `status` or `doctor`, are there for a moment and open no session.
fn announces(command_line: &[u8]) -> bool {
    let mut args = command_line.split(|byte| *byte == 0).skip(1);
    while let Some(arg) = args.next() {
        match arg {
            b"" | b"run" => return true,
            // A flag with a value behind it.
            b"--config" | b"-config" => drop(args.next()),
            flag if flag.starts_with(b"-") => {}
            _ => return false,
        }
    }
    true
}

/// Names of processes (`/proc/PID/comm`) that are BGP speakers.
const SPEAKERS: [&str; 11] = [
    "bird",
    "bird6",
    "bgpd",
    "gobgpd",
    "exabgp",
    "cilium-agent",
    "kube-router",
    "kube-vip",
    "speaker",
    "gocast",
    "sidecast",
];
/// A session is reported only if it is still there after this time.
const LASTING: Duration = Duration::from_millis(100);
/// The kernel fills a page or two at a time.
const DATAGRAM: usize = 32 * 1024;
/// The most entries of /proc that are read, and the most speakers that are named.
const MAX_PROCESSES: usize = 10_000;
const MAX_SPEAKERS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_asks_an_announcer_is_no_speaker() {
        let line = |args: &[&str]| args.join("\0").into_bytes();
        for args in [
            &["sidecast", ""][..],
            &["sidecast", "run", "--config", "doctor", ""],
            &["/bin/sidecast", "-config", "status", ""],
            &["sidecast", "--config=status", "-v", "run", ""],
        ] {
            assert!(announces(&line(args)), "{args:?}");
        }
        for args in [
            &["sidecast", "doctor", ""][..],
            &["sidecast", "--config", "run", "doctor", "--json", ""],
        ] {
            assert!(!announces(&line(args)), "{args:?}");
        }
    }
}
