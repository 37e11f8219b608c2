//! The subcommands of the `nty` command, one module each.
