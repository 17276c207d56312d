//! Listening sockets. They are opened without the reactor, before the first thread starts and privileges
//! are dropped.

use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, sockopt};

/// A listening socket; the file of a unix socket is removed with it.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Socket,
    name: String,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    pub address: String,
    pub cause: io::Error,
}

impl ListenError {
    fn is_file(&self) -> bool {
        self.address.starts_with("unix:")
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.cause)?;
        match self.cause.kind() {
            io::ErrorKind::AddrInUse => f.write_str("; another process listens there"),
            io::ErrorKind::PermissionDenied if !self.is_file() => {
                f.write_str("; ports below 1024 need CAP_NET_BIND_SERVICE")
            }
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
                if self.is_file() =>
            {
                f.write_str(
                    "; its directory must exist and be writable for this user: in a container use a \
                     tmpfs or a volume",
                )
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ListenError {}

impl Listener {
    /// `[::]` takes IPv4 as well, and becomes `0.0.0.0` on a host without IPv6.
    pub fn tcp(addr: SocketAddr) -> Result<Self, ListenError> {
        let bound = bind_tcp(addr).or_else(|e| {
            let no_ipv6 = matches!(
                e.raw_os_error(),
                Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL)
            );
            if no_ipv6 && addr.is_ipv6() && addr.ip().is_unspecified() {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, addr.port()))
            } else {
                Err(e)
            }
        });
        // The standard library's backlog of 128 is full after 50 ms of a flood: take `somaxconn`.
        let bound = bound.and_then(|socket| {
            socket::listen(&socket, Backlog::MAXALLOWABLE)?;
            Ok(socket)
        });
        let socket = bound.map_err(|cause| ListenError {
            address: addr.to_string(),
            cause,
        })?;
        let name = socket
            .local_addr()
            .map_or_else(|_| addr.to_string(), |a| a.to_string());
        Ok(Self {
            socket: Socket::Tcp(socket),
            name,
        })
    }

    /// A socket file of mode 0660. An existing one is replaced only if no process listens on it.
    pub fn unix(path: &Path) -> Result<Self, ListenError> {
        let name = format!("unix:{}", path.display());
        let made = check_vacant(path).and_then(|()| bind_unix(path));
        match made {
            Ok((socket, file)) => Ok(Self {
                socket: Socket::Unix(socket, file),
                name,
            }),
            Err(cause) => Err(ListenError {
                address: name,
                cause,
            }),
        }
    }

    /// The TCP address that was bound, with its real port.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(..) => None,
        }
    }

    /// Bound to a loopback address.
    pub(super) fn is_loopback(&self) -> bool {
        self.local_addr()
            .is_some_and(|addr| addr.ip().to_canonical().is_loopback())
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// As the standard library does, but `[::]` takes IPv4 whatever `net.ipv6.bindv6only` says: so does
/// Go, and GoCast's `:8080` with it.
fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let SocketAddr::V6(v6) = addr else {
        return TcpListener::bind(addr);
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(AddressFamily::Inet6, SockType::Stream, flags, None)?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    socket::setsockopt(&fd, sockopt::Ipv6V6Only, &!v6.ip().is_unspecified())?;
    socket::bind(fd.as_raw_fd(), &SockaddrIn6::from(v6))?;
    Ok(TcpListener::from(fd))
}

/// Ok if the path does not exist, or is a socket without a listener.
fn check_vacant(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path exists and is not a socket",
        ));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        // Connected, or its backlog is full: a process listens there.
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::AddrInUse.into()),
        Err(e) => Err(e),
    }
}

/// Binds under a temporary name and renames: the path never has other permissions and is never missing
/// while a stale socket is replaced.
fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary);
    let socket = UnixListener::bind(&temporary)?;
    let placed = fs::set_permissions(&temporary, fs::Permissions::from_mode(0o660))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| fs::symlink_metadata(path));
    match placed {
        Ok(meta) => Ok((
            socket,
            SocketFile {
                path: path.to_owned(),
                inode: (meta.dev(), meta.ino()),
            },
        )),
        Err(e) => {
            let _ = fs::remove_file(&temporary);
            Err(e)
        }
    }
}

/// Removes the file when dropped, if it is still ours.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sidecast-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_socket_file_has_its_mode_and_goes_with_its_listener() {
        let folder = Folder::new("mode");
        let path = folder.0.join("s");
        let listener = Listener::unix(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(UnixStream::connect(&path).is_ok());
        drop(listener);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = Folder::new("stale");
        let path = folder.0.join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = Listener::unix(&path).unwrap();
        let second = Listener::unix(&path).unwrap_err();
        assert_eq!(second.cause.kind(), io::ErrorKind::AddrInUse);
        assert!(second.to_string().contains("another process"), "{second}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(first);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = Folder::new("file");
        let path = folder.0.join("s");
        fs::write(&path, "precious").unwrap();
        assert!(Listener::unix(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_missing_folder_is_told_with_what_to_do() {
        let folder = Folder::new("missing");
        let error = Listener::unix(&folder.0.join("no/s")).unwrap_err();
        assert!(error.to_string().contains("a tmpfs or a volume"), "{error}");
        fs::write(folder.0.join("s"), "precious").unwrap();
        let error = Listener::unix(&folder.0.join("s")).unwrap_err();
        assert!(!error.to_string().contains("tmpfs"), "{error}");
    }

    #[test]
    fn the_wildcard_takes_both_families() {
        let listener = Listener::tcp("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(!listener.is_loopback());
    }

    #[test]
    fn many_connections_wait_in_the_backlog() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let listener = Listener::tcp(addr.parse().unwrap()).unwrap();
            let addr = listener.local_addr().unwrap();
            let patience = std::time::Duration::from_millis(500);
            let connect = |_| std::net::TcpStream::connect_timeout(&addr, patience).unwrap();
            let waiting: Vec<_> = (0..300).map(connect).collect();
            assert_eq!(waiting.len(), 300);
        }
    }

    #[test]
    fn a_taken_port_is_told_from_other_errors() {
        let first = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = first.local_addr().unwrap();
        let second = Listener::tcp(addr).unwrap_err();
        assert_eq!(second.cause.kind(), io::ErrorKind::AddrInUse);
        assert!(first.to_string().starts_with("127.0.0.1:"));
    }
}
