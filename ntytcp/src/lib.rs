//! A user-space TCP/IP stack.
//!
//! The protocol core ([`wire`], [`stack`], [`tcp`]) does no I/O, reads no clock and draws no entropy of its own:
//! frames, the time and one secret seed come in; frames, events and the next deadline come out. [`device`]
//! brings the frames and `shard` is the only loop that joins the two.

pub mod counters;
pub mod device;
pub mod fifo;
pub mod rng;
#[cfg(feature = "devices")]
pub mod shard;
pub mod stack;
pub mod tcp;
pub mod time;
pub mod wheel;
pub mod wire;
