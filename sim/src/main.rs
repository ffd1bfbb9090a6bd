//! The `sim` command.

mod baseline;
mod checker;
mod cli;
mod compare;
mod coverage;
mod disk;
mod fault;
mod forge;
mod model;
mod mutants;
mod network;
mod node;
mod progress;
mod queue;
#[cfg(feature = "quic")]
mod quic;
mod random;
mod report;
mod run;
mod scenario;
mod shrink;
mod subscriber;
mod timeline;
mod token;
mod trace;
mod verify;
mod world;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
