//! The subcommands of the `nty` command, one module each.

pub mod http;
pub mod values;
