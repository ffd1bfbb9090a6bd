//! The `snomesh` command.

fn main() {}
