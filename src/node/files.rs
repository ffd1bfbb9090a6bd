//! Files that matter: secrets that only their owner may read, and small files that are never half written.
//!
//! A secret that others can read is refused, not repaired: whoever could read it may have done so already.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// The longest file that is read here: many times a key, a certificate or a list of forwards.
const MAX_LEN: u64 = 1024 * 1024;
/// The permissions that let somebody else read, write or list.
const OTHERS: u32 = 0o077;

/// A file of the node cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be opened or read, for the reason that the system gives.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be written; what was there before is still there.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a symbolic link, which could lead anywhere.
    #[error("{} is a symbolic link", .path.display())]
    Link {
        /// Which one.
        path: PathBuf,
    },
    /// It is no regular file, or no text of a sensible length.
    #[error("{} is not a text file of at most {max} bytes", .path.display())]
    NotText {
        /// Which one.
        path: PathBuf,
        /// How long it may be.
        max: u64,
    },
    /// Others may read it.
    #[error("{} is accessible to others (mode {mode:04o})", .path.display())]
    Exposed {
        /// Which one.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// The permissions that it should have.
        wanted: u32,
    },
    /// Somebody else owns it, and could replace it.
    #[error("{} belongs to user {owner}, this process runs as user {us}", .path.display())]
    NotOurs {
        /// Which one.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
}

impl FileError {
    /// What whoever runs the node can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { path, wanted, .. } => Some(format!("chmod {wanted:04o} {}", path.display())),
            Self::NotOurs { path, us, .. } => {
                Some(format!("chown {us} {}, or run as its owner", path.display()))
            }
            Self::Link { path } => Some(format!("name the file that {} points to", path.display())),
            Self::Read { .. } | Self::Write { .. } | Self::NotText { .. } => None,
        }
    }
}

/// Reads a text that anybody may know. Nothing if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, FileError> {
    read_up_to(path, MAX_LEN)
}

/// Like [`read`], for a file that may have so many bytes.
pub(super) fn read_up_to(path: &Path, max: u64) -> Result<Option<String>, FileError> {
    let failed = |source| FileError::Read { path: path.into(), source };
    match File::open(path) {
        Ok(file) => text_of(path, file, max).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Reads a text that nobody else may know. Nothing if there is no such file.
pub(super) fn read_secret(path: &Path) -> Result<Option<String>, FileError> {
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).expect("flags of open are an int");
    let file = match OpenOptions::new().read(true).custom_flags(no_follow).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(FileError::Link { path: path.into() });
        }
        Err(source) => return Err(FileError::Read { path: path.into(), source }),
    };
    // Of the open file, so that nobody can exchange it between the judgement and the reading.
    let metadata = file.metadata().map_err(|source| FileError::Read { path: path.into(), source })?;
    judge(path, metadata.uid(), metadata.mode(), 0o600)?;
    text_of(path, file, MAX_LEN).map(Some)
}

/// Writes a file as a whole or not at all; it has survived a crash when this returns.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let mut draft = Draft::create(path, mode)?;
    let written = draft.write_all(text.as_bytes());
    written.map_err(|source| FileError::Write { path: path.into(), source })?;
    draft.publish()
}

/// A file that gets its name only when it is whole. Dropped before that it leaves nothing, and what was there before is
/// still there.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    is_published: bool,
}

impl Draft {
    /// Begins to write.
    pub(super) fn create(path: &Path, mode: u32) -> Result<Self, FileError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = directory_of(path).join(format!(".{name}.new"));
        let attempt = || -> io::Result<File> {
            if let Err(error) = std::fs::remove_file(&temporary)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)
        };
        let file = attempt().map_err(|source| FileError::Write { path: path.into(), source })?;
        Ok(Self { path: path.into(), temporary, file: BufWriter::new(file), is_published: false })
    }

    /// Gives it its name; it has survived a crash when this returns.
    pub(super) fn publish(mut self) -> Result<(), FileError> {
        let mut attempt = || -> io::Result<()> {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            std::fs::rename(&self.temporary, &self.path)?;
            self.is_published = true;
            File::open(directory_of(&self.path))?.sync_all()
        };
        let published = attempt();
        published.map_err(|source| FileError::Write { path: self.path.clone(), source })
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published {
            // What cannot be removed is removed by whoever writes there next.
            std::fs::remove_file(&self.temporary).ok();
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Makes a directory that only its owner can look into, or checks that it is one.
pub(super) fn private_directory(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError::Write { path: path.into(), source };
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let metadata = std::fs::metadata(path).map_err(failed)?;
    let is_empty = std::fs::read_dir(path).map_err(failed)?.next().is_none();
    if is_empty && metadata.uid() == our_user() {
        // Made for us a moment ago, with nothing in it that could have been read.
        return std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed);
    }
    judge(path, metadata.uid(), metadata.mode(), 0o700)
}

/// The user that this process acts as.
pub(super) fn our_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn judge(path: &Path, owner: u32, mode: u32, wanted: u32) -> Result<(), FileError> {
    let (us, mode) = (our_user(), mode & 0o7777);
    if owner != us {
        return Err(FileError::NotOurs { path: path.into(), owner, us });
    }
    if mode & OTHERS != 0 {
        return Err(FileError::Exposed { path: path.into(), mode, wanted });
    }
    Ok(())
}

fn text_of(path: &Path, file: File, max: u64) -> Result<String, FileError> {
    let failed = |source| FileError::Read { path: path.into(), source };
    let not_text = || FileError::NotText { path: path.into(), max };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(not_text());
    }
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(not_text());
    }
    String::from_utf8(bytes).ok().ok_or_else(not_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_draft_that_is_not_finished_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copy");
        write(&path, "old", 0o600).unwrap();
        let mut draft = Draft::create(&path, 0o600).unwrap();
        draft.write_all(b"half").unwrap();
        drop(draft);
        assert_eq!(read(&path).unwrap().as_deref(), Some("old"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let mut draft = Draft::create(&path, 0o600).unwrap();
        draft.write_all(b"whole").unwrap();
        draft.publish().unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("whole"));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_is_written_for_its_owner_alone_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert_eq!(read_secret(&path).unwrap(), None);
        write(&path, "first", 0o600).unwrap();
        write(&path, "second", 0o600).unwrap();
        assert_eq!(read_secret(&path).unwrap().as_deref(), Some("second"));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused_with_the_command_that_helps() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write(&path, "secret", 0o600).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            chmod(&path, mode);
            let error = read_secret(&path).unwrap_err();
            assert!(matches!(error, FileError::Exposed { .. }), "{error}");
            assert_eq!(error.hint().unwrap(), format!("chmod 0600 {}", path.display()));
        }
        assert_eq!(read(&path).unwrap().as_deref(), Some("secret"));
    }

    #[test]
    fn a_secret_of_somebody_else_is_refused() {
        let path = Path::new("key");
        assert!(matches!(judge(path, our_user() + 1, 0o600, 0o600), Err(FileError::NotOurs { .. })));
        assert!(judge(path, our_user(), 0o100_600, 0o600).is_ok());
    }

    #[test]
    fn a_secret_behind_a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("key"), directory.path().join("link"));
        write(&path, "secret", 0o600).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read_secret(&link), Err(FileError::Link { .. })));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(matches!(
            read_secret(directory.path()),
            Err(FileError::Exposed { .. } | FileError::NotText { .. })
        ));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read(&path), Err(FileError::NotText { .. })));
        std::fs::write(&path, vec![b'x'; 1024 * 1024 + 1]).unwrap();
        assert!(matches!(read(&path), Err(FileError::NotText { .. })));
    }

    #[test]
    fn a_directory_with_something_in_it_is_not_made_private_behind_its_owners_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        private_directory(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        chmod(&path, 0o755);
        private_directory(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        std::fs::write(path.join("something"), "").unwrap();
        chmod(&path, 0o755);
        assert!(matches!(private_directory(&path), Err(FileError::Exposed { wanted: 0o700, .. })));
    }
}
