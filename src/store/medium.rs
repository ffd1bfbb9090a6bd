//! What a state file lies on: a file, or memory in simulators and tests; and what the disk said when something failed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;
use redb::backends::FileBackend;
use rustix::io::Errno;

/// Where the bytes of a state are kept.
pub trait Medium: Send + 'static {
    /// What people call it.
    fn path(&self) -> &Path;

    /// Says whether there is something already; if not, makes room for something new.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn prepare(&self) -> io::Result<bool>;

    /// Opens it. Again after the last backend was dropped.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// What is new is complete: it may be found under its name.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn publish(&self) -> io::Result<()>;
}

/// A file. It is made under another name, so that one which is empty or cut short is known to be damaged.
#[derive(Debug)]
pub(super) struct FileMedium {
    path: PathBuf,
    unfinished: PathBuf,
}

impl FileMedium {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.into(), unfinished: path.with_extension("new") }
    }
}

impl Medium for FileMedium {
    fn path(&self) -> &Path {
        &self.path
    }

    fn prepare(&self) -> io::Result<bool> {
        if self.path.try_exists()? {
            return Ok(true);
        }
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.unfinished)?;
        Ok(false)
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let exists = self.path.try_exists()?;
        let path = if exists { &self.path } else { &self.unfinished };
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if exists && file.metadata()?.len() == 0 {
            // redb would begin a new database in it.
            return Ok(Box::new(Emptied));
        }
        let backend = FileBackend::new(file).map_err(|error| match error {
            redb::DatabaseError::Storage(redb::StorageError::Io(error)) => error,
            other => io::Error::other(other),
        })?;
        Ok(Box::new(backend))
    }

    fn publish(&self) -> io::Result<()> {
        std::fs::rename(&self.unfinished, &self.path)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

/// A file that was cut to nothing: holds bytes that are no database.
#[derive(Debug)]
struct Emptied;

impl StorageBackend for Emptied {
    fn len(&self) -> io::Result<u64> {
        Ok(1)
    }

    fn read(&self, _: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(0);
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// What a disk said the first time that something failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no room.
    NoRoom,
    /// What was written may not be there.
    Sync(String),
    /// It cannot be read or written.
    Other(String),
}

/// Remembers the first fault since it was cleared. Clones are the same memory.
#[derive(Debug, Clone, Default)]
pub(super) struct FaultCell(Arc<Mutex<Option<Fault>>>);

impl FaultCell {
    pub(super) fn get(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn note(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }
}

/// A backend whose faults are remembered, for redb only says that something failed.
#[derive(Debug)]
pub(super) struct Watched {
    backend: Box<dyn StorageBackend>,
    fault: FaultCell,
}

impl Watched {
    pub(super) fn new(backend: Box<dyn StorageBackend>, fault: FaultCell) -> Self {
        Self { backend, fault }
    }

    fn noted<T>(&self, outcome: io::Result<T>, of: fn(&io::Error) -> Fault) -> io::Result<T> {
        if let Err(error) = &outcome {
            self.fault.note(of(error));
        }
        outcome
    }
}

fn of_write(error: &io::Error) -> Fault {
    let is_full = [Errno::NOSPC, Errno::DQUOT].map(|errno| Some(errno.raw_os_error()));
    if is_full.contains(&error.raw_os_error()) || error.kind() == io::ErrorKind::StorageFull {
        return Fault::NoRoom;
    }
    Fault::Other(format!("cannot write: {error}"))
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.noted(self.backend.len(), |error| Fault::Other(format!("cannot read: {error}")))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let outcome = self.backend.read(offset, out);
        // A file that ends early is damaged; the disk is not to blame.
        if outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof) {
            return outcome;
        }
        self.noted(outcome, |error| Fault::Other(format!("cannot read: {error}")))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.noted(self.backend.set_len(len), of_write)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.noted(self.backend.sync_data(), |error| Fault::Sync(error.to_string()))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.noted(self.backend.write(offset, data), of_write)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<bool, redb::BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<bool, redb::BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn unlock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<(), redb::BackendError> {
        self.backend.unlock_range(start, end)
    }
}
