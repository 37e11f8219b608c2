//! The subcommands of the `nty` command, one module each.

pub mod dns;
