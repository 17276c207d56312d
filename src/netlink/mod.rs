//! Netlink: bytes to types and back, no socket.
