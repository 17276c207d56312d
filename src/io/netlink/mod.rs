//! The kernel's tables over netlink sockets: requests answered in order, dumps made again when the table
//! changed under them, and a stream of changes.
