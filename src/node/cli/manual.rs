//! `snomesh man`: manual pages, from the same description of the command line.

use std::path::Path;

use clap::CommandFactory;

use super::Cli;
use super::failure::{Exit, Failure};
use super::screen::Screen;

/// Prints the page of the program, or writes those of all its commands.
pub(super) fn print(directory: Option<&Path>, screen: &mut Screen) -> Result<Exit, Failure> {
    let Some(directory) = directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        screen.raw(&page)?;
        return Ok(Exit::Success);
    };
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)?;
    screen.done(format!("the pages are in {}", directory.display()))?;
    Ok(Exit::Success)
}
