//! The protocol core of one shard. Placeholder.

pub mod arp;
pub mod demux;
pub mod keyed;
pub mod limiter;
mod lists;
pub mod neighbor;
pub mod ports;
pub mod reassembly;
pub mod route;
mod socket;

pub use socket::{Event, Readiness, SocketError, SocketId, SocketKind};
