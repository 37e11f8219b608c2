//! The `nty` command with the Linux kernel and real programs as its peer, over a TAP, and over each other device in [`wires`].
//!
//! Each test runs once more as a process of its own in fresh network and process namespaces ([`world::in_namespace`]), so
//! tests neither see each other nor leave anything behind; that nothing is left is asserted there too. Root only: without
//! root they say so and pass.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // A failed step is a failed test, in helpers too.

mod capture;
mod datagrams;
mod dns;
mod errors;
mod files;
mod fwd;
mod life;
mod load;
mod measure;
mod pktgen;
mod sharing;
mod streams;
mod wires;
mod world;
