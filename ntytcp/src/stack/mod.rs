//! The protocol core of one shard.
#![allow(dead_code, unused_imports)] // Until the parts below are joined.

mod cx;
pub mod demux;
mod icmp;
mod ident;
mod interface;
mod limiter;
mod neighbor;
mod outbox;
mod output;
mod records;
mod route;
mod slots;
mod socket;

pub(crate) use cx::{Cx, EventQueue, Pending};
pub(crate) use icmp::{IcmpError, Severity};
pub(crate) use interface::NeighborOutcome;
pub use interface::{InterfaceConfig, InterfaceId};
pub(crate) use limiter::{RateLimiter, RateLimits};
pub(crate) use output::{Blocked, Output, PathCache, PathLimits, Payload};
pub use socket::{Event, Readiness, SocketError, SocketId, SocketKind};
