//! A user-space TCP/IP stack.
//!
//! The protocol core ([`wire`], [`stack`], [`tcp`]) does no I/O, reads no clock and draws no entropy of its own:
//! frames, the time and one secret seed come in; frames, events and the next deadline come out. [`device`]
//! brings the frames and `shard` is the only loop that joins the two.

// The core names no clock, thread, socket or file of the system: see clippy.toml. Its tests may.
#[cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
pub mod counters;
pub mod device;
#[cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
pub mod fifo;
#[cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
pub mod rng;
#[cfg(feature = "devices")]
pub mod shard;
#[cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
pub mod stack;
#[cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
pub mod steering;
#[cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
pub mod tcp;
#[cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
pub mod time;
#[cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
pub mod wheel;
#[cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
pub mod wire;
