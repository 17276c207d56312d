//! Errors of a host that has run out of something.

use nix::errno::Errno;
use std::io;

/// Whether descriptors, memory or buffers of this host are exhausted, which says nothing about the service.
pub fn is_out_of_resources(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EAGAIN)
    )
}
