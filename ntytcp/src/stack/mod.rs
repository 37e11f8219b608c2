//! The protocol core of one shard. Placeholder.

mod socket;

pub use socket::{Event, Readiness, SocketError, SocketId, SocketKind};
