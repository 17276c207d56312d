//! The kernel's tables over netlink sockets.
