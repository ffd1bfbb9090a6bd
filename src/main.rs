//! The `snomesh` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    snomesh::node::cli::run()
}
