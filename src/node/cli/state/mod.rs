//! `snomesh state`: a copy of what the mesh keeps, as lines of JSON.

mod copy;
mod export;
mod import;

use std::ffi::OsString;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use super::Global;
use super::failure::{Exit, Failure};
use super::screen::Screen;
use crate::node::Client;

#[derive(Debug, Subcommand)]
pub(super) enum State {
    /// Write attributes, counters, sets, revocations and the policy down, a line of JSON each
    #[command(after_help = "\
Examples:
  snomesh state export mesh.jsonl              written as a whole or not at all
  snomesh state export | gzip > mesh.jsonl.gz  the last line says that it is whole
  snomesh state export --prefix mesh/limits/
  snomesh state export --offline mesh.jsonl    from the directory of a node that does not run")]
    Export(Export),
    /// Put what was exported back: into this mesh, or another one
    ///
    /// All lines are looked at before the first is written. Attributes and counters take the value of their line,
    /// elements are added to their sets; nothing is removed. Doing it twice is doing it once. Siblings are not put
    /// back, nor proofs of another mesh's authority.
    #[command(after_help = "\
Examples:
  snomesh state import --dry-run mesh.jsonl    what would become of it
  snomesh state import --keep mesh.jsonl       only what is not set
  zcat mesh.jsonl.gz | snomesh state import -
  snomesh state import --offline mesh.jsonl    into the directory of a node that does not run")]
    Import(Import),
}

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// Where to; - is standard output
    #[arg(default_value = "-", hide_default_value = true, value_name = "FILE")]
    file: OsString,
    /// Only attributes, counters and sets whose full names begin so, like mesh/ or tunnel/web/
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Read the directory of a node that does not run
    #[arg(long)]
    offline: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// Where from; - is standard input
    #[arg(value_name = "FILE")]
    file: OsString,
    /// Say what would become of it, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave attributes and counters alone that have another value
    #[arg(long)]
    keep: bool,
    /// Write to the directory of a node that does not run
    #[arg(long)]
    offline: bool,
}

/// Does what needs no node that runs.
pub(super) fn offline(global: &Global, state: &State, screen: &mut Screen) -> Option<Result<Exit, Failure>> {
    match state {
        State::Export(export) if export.offline => Some(export::offline(global, export, screen)),
        State::Import(import) if import.offline => Some(import::offline(global, import, screen)),
        State::Export(_) | State::Import(_) => None,
    }
}

/// Does what one of the commands says.
pub(super) async fn run(client: &Client, screen: &mut Screen, state: State) -> Result<Exit, Failure> {
    match state {
        State::Export(export) => export::online(client, screen, &export).await?,
        State::Import(import) => import::online(client, screen, &import).await?,
    }
    Ok(Exit::Success)
}

/// A bar on standard error, where a person sees it, for `of` bytes or for nobody knows how many.
fn progress(screen: &Screen, of: Option<u64>) -> ProgressBar {
    if screen.is_quiet() {
        return ProgressBar::hidden();
    }
    // It hides itself where standard error is no terminal.
    match of {
        Some(length) => ProgressBar::new(length).with_style(
            ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left  {msg}")
                .expect("the template is legal"),
        ),
        None => ProgressBar::new_spinner().with_style(
            ProgressStyle::with_template("{spinner} {bytes}  {msg}").expect("the template is legal"),
        ),
    }
}
