//! Whole conversations in virtual time: two stacks, ours or ours and smoltcp, on a link that loses, reorders, duplicates,
//! corrupts, delays and limits.
//!
//! A run is a function of its seed. After every step the wire is checked (see `wire.rs`); every byte that an application reads
//! is compared; at the end both stacks must be empty. A seed that fails prints one line that repeats it and leaves a pcapng.
//! `SIM_MORE=20` tries twenty times as many seeds.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod app;
mod datagrams;
mod failures;
mod host;
mod matrix;
mod peer_smoltcp;
mod random;
mod transfer;
mod wire;
mod world;
