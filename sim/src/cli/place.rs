//! Where reports go: a file that is there as a whole or not at all, or a pipe or device that is written to; `-` is standard
//! output.
//!
//! What a path leads to is what is written: a link stays a link, and only a file is ever replaced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write, stdout};
use std::path::{Path, PathBuf};

use super::CliError;

/// How many links are followed, as many as Linux does.
const MAX_LINKS: usize = 40;
/// How many names are tried for a file that nobody else has.
const MAX_NAMES: u32 = 1_000;

/// Whether a report goes to standard output, so that nothing else may.
pub(super) fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Says whether a file can be written, by making the one beside it from which it will be renamed.
///
/// A pipe or a device is not asked: whoever reads there would notice.
pub(super) fn writable(path: &Path) -> Result<(), CliError> {
    if is_stdout(path) || is_special(path) {
        return Ok(());
    }
    let draft = target(path).and_then(Draft::create);
    draft.map(drop).map_err(|source| CliError::Write { path: path.to_owned(), source })
}

/// Says whether two of a command's files are one, of which only what is written last would be left.
pub(super) fn distinct(files: &[(&'static str, Option<&Path>)]) -> Result<(), CliError> {
    let mut taken: Vec<(&'static str, PathBuf)> = Vec::new();
    for &(name, path) in files {
        // A pipe takes one after the other. What leads nowhere is told when it is to be written.
        let path = path.filter(|path| is_stdout(path) || !is_special(path));
        let place = |path: &Path| if is_stdout(path) { Some(path.to_owned()) } else { target(path).ok() };
        let Some(target) = path.and_then(place) else { continue };
        if let Some((other, path)) = taken.iter().find(|(_, other)| *other == target) {
            return Err(CliError::SamePlace { names: [*other, name], path: path.clone() });
        }
        taken.push((name, target));
    }
    Ok(())
}

/// Writes a file as a whole or not at all; what is no file is written straight.
pub(super) fn write_whole(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), CliError> {
    let write = || {
        let mut bytes = Vec::new();
        content(&mut bytes)?;
        if is_stdout(path) {
            return stdout().write_all(&bytes);
        }
        if is_special(path) {
            return OpenOptions::new().write(true).open(path)?.write_all(&bytes);
        }
        let mut draft = Draft::create(target(path)?)?;
        draft.file.write_all(&bytes)?;
        draft.publish()
    };
    write().map_err(|source| CliError::Write { path: path.to_owned(), source })
}

fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

/// The file at the end of all links. It need not be there, its directory must be.
fn target(path: &Path) -> io::Result<PathBuf> {
    if path.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        match std::fs::read_link(&path) {
            Ok(next) => path = directory.join(next),
            Err(_) => return Ok(directory.canonicalize()?.join(path.file_name().unwrap_or_default())),
        }
    }
    Err(io::Error::other("its links lead nowhere"))
}

/// A file that gets its name only when it is whole. Dropped before that it leaves nothing.
struct Draft {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Draft {
    fn create(path: PathBuf) -> io::Result<Self> {
        let mut number = 0;
        loop {
            let temporary = path.with_file_name(format!(".sim-{}-{number}.part", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(Self { path, temporary, file }),
                // Somebody else's, or left by a process that had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_NAMES => {
                    number += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn publish(self) -> io::Result<()> {
        if let Ok(before) = std::fs::metadata(&self.path) {
            self.file.set_permissions(before.permissions())?;
        }
        std::fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After it has got its name there is nothing to remove.
        std::fs::remove_file(&self.temporary).ok();
    }
}
