//! The protocol core of one shard. Placeholder.

pub mod keyed;
pub mod limiter;
pub mod ports;
pub mod route;
mod socket;

pub use socket::{Event, Readiness, SocketError, SocketId, SocketKind};
