//! The subcommands of the `nty` command, one module each, and the command line that they share.

pub mod capture;
pub mod cli;
mod clients;
mod device;
mod devices;
pub mod dns;
pub mod echo;
pub mod http;
mod hub;
pub mod perf;
pub mod ping;
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
