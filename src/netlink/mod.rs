//! Netlink, the kernel's tables as messages: bytes to types and back, no socket.
//!
//! [`attr`] and [`message`] are the ground; over them rtnetlink ([`link`], [`address`], [`route`],
//! [`neighbour`]; `linux/rtnetlink.h`) and nfnetlink.

pub mod address;
pub mod attr;
pub mod conntrack;
#[cfg(test)]
mod golden;
pub mod link;
pub mod message;
pub mod neighbour;
pub mod nftables;
pub mod route;
pub mod sock_diag;

use crate::wire::{TooLong, WireError};
use std::fmt;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetlinkError {
    /// The kernel refused it, or the socket did.
    Errno {
        /// Positive, as in `errno.h`.
        errno: i32,
        /// The kernel's own words (extended ack), where it has any.
        message: Option<String>,
        request: &'static str,
    },
    /// An answer that is not what the headers say.
    Malformed {
        error: WireError,
        request: &'static str,
    },
    /// A request with an attribute too long for its length field.
    TooLong {
        error: TooLong,
        request: &'static str,
    },
    /// No answer in time.
    Timeout { request: &'static str },
    /// The table changed under every one of several dumps.
    Changing { request: &'static str },
}

impl NetlinkError {
    /// The errno, where the kernel or the socket gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Errno { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether trying again cannot help until somebody changes something: rights or support missing.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self.errno(),
            Some(EPERM | EACCES | EOPNOTSUPP | EAFNOSUPPORT | EPROTONOSUPPORT)
        ) || matches!(self, Self::TooLong { .. })
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno {
                errno,
                message,
                request,
            } => {
                write!(f, "cannot {request}: ")?;
                if let Some(message) = message {
                    write!(f, "{message}: ")?;
                }
                write!(f, "{}", std::io::Error::from_raw_os_error(*errno))?;
                if *errno == EPERM && message.is_none() {
                    f.write_str("; the capability CAP_NET_ADMIN is needed")?;
                }
                Ok(())
            }
            Self::Malformed { error, request } => {
                write!(
                    f,
                    "cannot {request}: the kernel's answer is malformed: {error}"
                )
            }
            Self::TooLong { error, request } => write!(f, "cannot {request}: {error}"),
            Self::Timeout { request } => write!(f, "cannot {request}: no answer in time"),
            Self::Changing { request } => {
                write!(
                    f,
                    "cannot {request}: the table keeps changing while it is read"
                )
            }
        }
    }
}

impl std::error::Error for NetlinkError {}

pub const EPERM: i32 = 1;
pub const ENOENT: i32 = 2;
pub const EACCES: i32 = 13;
pub const EEXIST: i32 = 17;
pub const ENODEV: i32 = 19;
pub const EINVAL: i32 = 22;
const EPROTONOSUPPORT: i32 = 93;
pub const EOPNOTSUPP: i32 = 95;
pub const EAFNOSUPPORT: i32 = 97;
pub const EADDRNOTAVAIL: i32 = 99;

pub const AF_UNSPEC: u8 = 0;
pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rights_are_met_with_the_capability_that_is_missing() {
        let error = NetlinkError::Errno {
            errno: EPERM,
            message: None,
            request: "add the address",
        };
        assert!(
            error
                .to_string()
                .ends_with("the capability CAP_NET_ADMIN is needed")
        );
        assert!(error.is_permanent());
    }
}
