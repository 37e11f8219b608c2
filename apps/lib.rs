//! The subcommands of the `nty` command, one module each, and the command line that they share.

pub mod cli;
mod clients;
pub mod dns;
pub mod echo;
pub mod http;
pub mod perf;
pub mod ping;
pub mod run;
mod slab;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod testnet;
pub mod values;
