//! The subcommands of the `nty` command, one module each, and the command line that they share.

mod arp;
pub mod capture;
pub mod cli;
mod clients;
mod device;
mod devices;
pub mod dns;
pub mod echo;
pub mod fwd;
pub mod http;
mod hub;
mod pace;
pub mod perf;
pub mod ping;
pub mod pktgen;
pub mod replay;
pub mod run;
#[cfg(test)]
mod testnet;
mod textfile;
pub mod values;

/// What the README shows of embedding is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
