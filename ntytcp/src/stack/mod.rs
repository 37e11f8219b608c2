//! The protocol core of one shard. Placeholder.

pub mod demux;
mod socket;

pub use socket::{Event, Readiness, SocketError, SocketId, SocketKind};
