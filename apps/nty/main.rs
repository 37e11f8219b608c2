//! The `nty` command.

fn main() {}
