//! Netlink codec (rtnetlink, nf_tables, ctnetlink, sock_diag): bytes to types and back, no socket.
//!
//! [`attr`] and [`message`] are common to all families; on top of them rtnetlink ([`link`], [`address`], [`route`],
//! [`neighbor`]; `linux/rtnetlink.h`) and nfnetlink. [`bpf`] has the filters of sockets.

pub mod address;
pub mod attr;
pub mod bpf;
pub mod conntrack;
#[cfg(test)]
mod golden;
pub mod link;
pub mod message;
pub mod neighbor;
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
        /// The text of the extended ack, if any.
        message: Option<String>,
        request: &'static str,
    },
    /// An answer that does not match the format in the kernel headers.
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
    /// Every attempt to dump the table was interrupted by a change (`NLM_F_DUMP_INTR`).
    Changing { request: &'static str },
}

impl NetlinkError {
    /// Explains an errno by which a kernel without the modules of `part` refuses a request of nf_tables, or a socket
    /// for it.
    pub fn for_lack_of(self, part: &str) -> Self {
        match self {
            Self::Errno {
                errno,
                message: None,
                request,
            } if matches!(errno, ENOENT | EINVAL | EOPNOTSUPP | EPROTONOSUPPORT) => Self::Errno {
                errno,
                message: Some(format!("this kernel seems to lack {part}")),
                request,
            },
            error => error,
        }
    }

    /// The errno, where the kernel or the socket gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Errno { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether a retry cannot succeed: a permission or a kernel feature is missing.
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
                    f.write_str("; CAP_NET_ADMIN is required")?;
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
                write!(f, "cannot {request}: the table changed during every dump")
            }
        }
    }
}

impl std::error::Error for NetlinkError {}

/// Operation not permitted.
pub const EPERM: i32 = 1;
/// No such entry.
pub const ENOENT: i32 = 2;
/// Permission denied.
pub const EACCES: i32 = 13;
/// The entry exists.
pub const EEXIST: i32 = 17;
/// No such interface.
pub const ENODEV: i32 = 19;
/// Invalid argument.
pub const EINVAL: i32 = 22;
/// No space left.
pub const ENOSPC: i32 = 28;
const EPROTONOSUPPORT: i32 = 93;
/// Operation not supported.
pub const EOPNOTSUPP: i32 = 95;
/// Address family not supported.
pub const EAFNOSUPPORT: i32 = 97;
/// No such address.
pub const EADDRNOTAVAIL: i32 = 99;

/// Any family.
pub const AF_UNSPEC: u8 = 0;
/// IPv4.
pub const AF_INET: u8 = 2;
/// IPv6.
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
        assert!(error.to_string().ends_with("CAP_NET_ADMIN is required"));
        assert!(error.is_permanent());
    }
}
