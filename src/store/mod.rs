//! The file that a node's state survives in.
//!
//! ```text
//!   Driver ──Batch──▶ journal ──▶ StateFile::keep (a thread) ──▶ redb ──▶ Medium: a file, or what a simulator has
//!          ◀──Report──
//! ```
//!
//! The file holds a copy of the replicated state: per key its register, per lane what was seen of it, and the clock.
//! It takes batches as they come, each in one transaction, and knows nothing of what they mean.
//!
//! **A failed `fsync` is final.** What the kernel then still holds is unknown, and a second `fsync` that succeeds says
//! nothing about the first (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020). A disk
//! that is full is something else: it refuses a write before anything depends on it, so that is tried again.
//!
//! **Damage is found when the file is opened**: redb verifies every page against its checksum, every row here bears
//! one of its own, and a file that is shorter than it was does not open. Nothing is repaired by guessing.

mod medium;
mod record;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::crdt::{CausalContext, Corrupt, Delta, Lane, RangeSet, Reconciliation};
use crate::gossip::Record;
use crate::id::{Generation, NodeId};
use crate::mesh::{Batch, JournalTail, Report};
use crate::time::Timestamp;

pub use self::medium::Medium;
use self::medium::{Fault, FaultCell, FileMedium, Watched};
use self::record::{LaneNumbers, LaneRow};

/// The layout of the file. A later one is refused, an older one will be read for ever.
pub const FORMAT: u64 = 1;

/// The layout of a file whose entries are sealed: the same, with the seals behind what they prove.
const SEALED_FORMAT: u64 = 0x100 | FORMAT;

/// What redb may keep of the file in memory. Rows are read once and then only written.
const CACHE: usize = 32 * 1024 * 1024;
/// How many keys are merged at a time when the file is read.
const PIECE: usize = 4_096;
/// How often a disk that is full is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const LANES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("lanes");
/// How far removals of each lane were collected.
const FLOORS: TableDefinition<'_, u32, u64> = TableDefinition::new("floors");
const REGISTERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("registers");

const META_FORMAT: &str = "format";
const META_CLOCK: &str = "clock";
/// The greatest stamp of what was collected.
const META_HORIZON: &str = "horizon";
const META_LIFE: &str = "life";

/// The state cannot be read. The file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system does not let it be read or made.
    #[error("cannot use {}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("another process has {} open", .path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written: cut off, overwritten, or flipped by the disk.
    #[error("{} is damaged: {what}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        what: String,
    },
    /// Its entries are sealed, and those of the mesh that wants it are not, or the other way round.
    #[error(
        "{} was kept {} seals, and registry.trust asks for the other",
        .path.display(),
        if *sealed { "with" } else { "without" }
    )]
    Trust {
        /// The file.
        path: PathBuf,
        /// Whether its entries are.
        sealed: bool,
    },
    /// A later version of snomesh has written it.
    #[error("{} has format {found}, this version knows {FORMAT}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
}

impl StoreError {
    /// What whoever runs the node can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged { .. } => Some(
                "start it with --rebuild-from-mesh: it sets the file aside and learns the state from its peers; \
                 or restore a backup"
                    .into(),
            ),
            Self::Trust { .. } => Some(
                "set registry.trust as it was; or, to change it for the whole mesh: save the state with snomesh state \
                 export, start every node with --rebuild-from-mesh, and import it at one"
                    .into(),
            ),
            Self::Newer { .. } => Some("run the version of snomesh that wrote it, or a later one".into()),
            Self::Unusable { .. } | Self::InUse { .. } => None,
        }
    }
}

/// Why a batch is not durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommitError {
    /// There is no room for it. It can be tried again.
    #[error("no room on the disk")]
    NoRoom,
    /// The disk, or the file, is broken. Nothing can be tried again.
    #[error("{0}")]
    Failed(String),
}

/// What was in the file beside the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loaded {
    /// The last reading of the clock.
    pub clock: Timestamp,
    /// How many keys there are.
    pub keys: usize,
}

/// Whether the entries of a file have to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    /// They must not be.
    Plain,
    /// They must.
    Sealed,
    /// They may be: what is there says so itself.
    Either,
}

/// The state of a node, in a file.
pub struct StateFile {
    medium: Box<dyn Medium>,
    /// Nothing after the disk was full, until it opens again.
    database: Option<Database>,
    fault: FaultCell,
    lanes: LaneNumbers,
    /// The life that last wrote it.
    life: Option<Generation>,
    expects: Expects,
}

impl StateFile {
    /// Opens the state of a node, or begins one.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::on(Box::new(FileMedium::new(path)), Expects::Plain)
    }

    /// The same for a node of a mesh whose entries are sealed.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open_sealed(path: &Path) -> Result<Self, StoreError> {
        Self::on(Box::new(FileMedium::new(path)), Expects::Sealed)
    }

    /// Opens the state of a node, be its entries [sealed](Self::is_sealed) or not.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open_either(path: &Path) -> Result<Self, StoreError> {
        Self::on(Box::new(FileMedium::new(path)), Expects::Either)
    }

    /// Whether its entries are sealed.
    pub fn is_sealed(&self) -> bool {
        self.expects == Expects::Sealed
    }

    /// Opens the state of a node, or begins one, on something else than a file.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open_on(medium: impl Medium) -> Result<Self, StoreError> {
        Self::on(Box::new(medium), Expects::Plain)
    }

    /// The same for a node of a mesh whose entries are sealed.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub fn open_sealed_on(medium: impl Medium) -> Result<Self, StoreError> {
        Self::on(Box::new(medium), Expects::Sealed)
    }

    fn on(medium: Box<dyn Medium>, expects: Expects) -> Result<Self, StoreError> {
        let path = medium.path().to_owned();
        let exists =
            medium.prepare().map_err(|source| StoreError::Unusable { path: path.clone(), source })?;
        let (fault, lanes) = (FaultCell::default(), LaneNumbers::default());
        let mut state = Self { medium, database: None, fault, lanes, life: None, expects };
        state.connect().map_err(|error| state.explain(&path, error))?;
        if !exists {
            state.medium.publish().map_err(|source| StoreError::Unusable { path, source })?;
        }
        Ok(state)
    }

    /// Opens the database on the medium, and learns the numbers of the lanes.
    fn connect(&mut self) -> Result<(), Broken> {
        self.fault.clear();
        let backend = Watched::new(self.medium.open().map_err(Broken::Io)?, self.fault.clone());
        let expects = self.expects;
        let (database, lanes, life, is) = guarded(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
            let database = builder.create_with_backend(backend)?;
            let mut lanes = LaneNumbers::default();
            let write = database.begin_write()?;
            let (life, is);
            {
                let mut meta = write.open_table(META)?;
                let found = meta.get(META_FORMAT)?.map(|format| format.value());
                is = match found {
                    None if expects == Expects::Sealed => {
                        meta.insert(META_FORMAT, SEALED_FORMAT)?;
                        Expects::Sealed
                    }
                    None => {
                        meta.insert(META_FORMAT, FORMAT)?;
                        Expects::Plain
                    }
                    Some(FORMAT) if expects != Expects::Sealed => Expects::Plain,
                    Some(SEALED_FORMAT) if expects != Expects::Plain => Expects::Sealed,
                    Some(found @ (FORMAT | SEALED_FORMAT)) => return Err(Broken::Trust(found)),
                    Some(found) => return Err(Broken::Newer(found)),
                };
                life = meta.get(META_LIFE)?.map(|life| Generation(life.value()));
                write.open_table(REGISTERS)?;
                write.open_table(FLOORS)?;
                let mut seen = Vec::new();
                for row in write.open_table(LANES)?.iter()? {
                    let (number, row) = row?;
                    let row = LaneRow::read(row.value()).map_err(Broken::row("lane", number.value()))?;
                    lanes.insert(row.lane.clone(), number.value());
                    seen.push((row.lane, row.seen));
                }
                for (lane, seen) in &seen {
                    lanes.note_seen(lane, seen);
                }
                for row in write.open_table(REGISTERS)?.iter()? {
                    let (key, row) = row?;
                    recount(&mut lanes, key.value(), row.value(), true)?;
                }
            }
            write.commit()?;
            Ok((database, lanes, life, is))
        })?;
        self.database = Some(database);
        self.lanes = lanes;
        self.life = life;
        self.expects = is;
        Ok(())
    }

    /// Reads all that is there, handing it to `merge` in pieces: first what keys hold, last what was seen.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`].
    pub fn load(&self, merge: impl FnMut(&Record) -> Result<(), Corrupt>) -> Result<Loaded, StoreError> {
        self.read_all(merge).map_err(|error| self.explain(self.medium.path(), error))
    }

    fn read_all(&self, mut merge: impl FnMut(&Record) -> Result<(), Corrupt>) -> Result<Loaded, Broken> {
        let Some(database) = &self.database else { return Err(Broken::Closed) };
        guarded(|| {
            let read = database.begin_read()?;
            let mut lanes: BTreeMap<u32, Lane> = BTreeMap::new();
            let mut accounted = CausalContext::new();
            let mut heads = Vec::new();
            for row in read.open_table(LANES)?.iter()? {
                let (number, row) = row?;
                let row = LaneRow::read(row.value()).map_err(Broken::row("lane", number.value()))?;
                accounted.insert_all(&row.lane, &row.seen);
                heads.extend(row.head);
                lanes.insert(number.value(), row.lane);
            }
            // How far was collected comes first: nothing may be counted as seen without it.
            let mut floors = CausalContext::new();
            for row in read.open_table(FLOORS)?.iter()? {
                let (number, floor) = row?;
                let lane = lanes.get(&number.value());
                let lane = lane.ok_or_else(|| Broken::Row(format!("floor {:?}", number.value())))?;
                floors.insert_all(lane, &RangeSet::up_to(floor.value()));
            }
            let horizon = read.open_table(META)?.get(META_HORIZON)?.map_or(0, |horizon| horizon.value());
            let collected =
                Reconciliation { floors, horizon: Timestamp(horizon), ..Reconciliation::default() };
            merge(&Record::Reconciled(Box::new(collected))).map_err(Broken::Corrupt)?;
            let mut keys = 0;
            let mut piece = Delta::default();
            for row in read.open_table(REGISTERS)?.iter()? {
                let (key, row) = row?;
                let (item, seals) = record::read_register(key.value(), row.value(), &lanes)
                    .map_err(Broken::row("key", key.value()))?;
                piece.items.push(item);
                piece.seals.extend(seals);
                keys += 1;
                if piece.items.len() >= PIECE {
                    merge(&Record::Delta(in_order(std::mem::take(&mut piece)))).map_err(Broken::Corrupt)?;
                }
            }
            piece.accounted = accounted;
            piece.seals.extend(heads);
            merge(&Record::Delta(in_order(piece))).map_err(Broken::Corrupt)?;
            let meta = read.open_table(META)?;
            let clock = Timestamp(meta.get(META_CLOCK)?.map_or(0, |clock| clock.value()));
            Ok(Loaded { clock, keys })
        })
    }

    /// The latest life of a node that the file knows of.
    pub fn last_life(&self, node: NodeId) -> Generation {
        let noted = self.life.unwrap_or(Generation(0));
        self.lanes.generation(node).map_or(noted, |found| found.max(noted))
    }

    /// Notes which life writes from now on; durable when it returns.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; also if the disk is full.
    pub fn begin_life(&mut self, life: Generation) -> Result<(), StoreError> {
        let begun = match &self.database {
            None => Err(Broken::Closed),
            Some(database) => guarded(|| {
                let write = database.begin_write()?;
                write.open_table(META)?.insert(META_LIFE, life.0)?;
                Ok(write.commit()?)
            }),
        };
        begun.map_err(|error| self.explain(self.medium.path(), error))
    }

    /// Makes a batch durable.
    fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        let outcome = match &self.database {
            Some(_) => Ok(()),
            None => self.connect(),
        };
        let outcome = outcome.and_then(|()| self.write(batch));
        outcome.map_err(|error| {
            // What it has in memory is not what is on the disk: it is opened anew before the next attempt.
            self.database = None;
            match self.fault.get() {
                Some(Fault::NoRoom) => CommitError::NoRoom,
                Some(Fault::Sync(what)) => CommitError::Failed(format!("fsync failed: {what}")),
                Some(Fault::Other(what)) => CommitError::Failed(what),
                None => CommitError::Failed(error.to_string()),
            }
        })
    }

    fn write(&mut self, batch: &Batch) -> Result<(), Broken> {
        let Self { database: Some(database), lanes, .. } = self else { return Err(Broken::Closed) };
        guarded(|| {
            let write = database.begin_write()?;
            {
                let mut registers = write.open_table(REGISTERS)?;
                for (key, register) in &batch.registers {
                    let name = key.as_str();
                    let before = if register.is_empty() {
                        registers.remove(name)?
                    } else {
                        let seals = batch.seals.get(key).map_or(&[][..], Vec::as_slice);
                        let row = record::write_register(register, seals, lanes);
                        recount(lanes, name, &row, true)?;
                        registers.insert(name, &*row)?
                    };
                    if let Some(before) = before {
                        recount(lanes, name, before.value(), false)?;
                    }
                }
                let mut table = write.open_table(LANES)?;
                let mut floors = write.open_table(FLOORS)?;
                for (lane, floor) in &batch.floors {
                    floors.insert(lanes.number(lane), floor)?;
                }
                // Lanes that were named for the first time, without a claim to have seen anything of them.
                for (lane, number) in lanes.take_new() {
                    table.insert(number, &*LaneRow::unseen(lane).write())?;
                }
                for (lane, seen) in &batch.lanes {
                    let number = lanes.number(lane);
                    let head = batch.heads.iter().find(|head| head.lane == *lane).cloned();
                    let row = LaneRow { lane: lane.clone(), seen: seen.clone(), head };
                    table.insert(number, &*row.write())?;
                    lanes.note_seen(lane, seen);
                }
                lanes.take_new();
                for number in lanes.take_forgotten() {
                    table.remove(number)?;
                    floors.remove(number)?;
                }
                let mut meta = write.open_table(META)?;
                meta.insert(META_CLOCK, batch.clock.0)?;
                meta.insert(META_HORIZON, batch.horizon.0)?;
            }
            Ok(write.commit()?)
        })
    }

    /// Takes batches until the mesh ends or the disk fails. Blocks while it writes: for a runtime, or a thread with
    /// one, that has nothing else to do.
    pub async fn keep(mut self, mut tail: JournalTail) {
        while let Some(batch) = tail.next().await {
            loop {
                match self.commit(&batch) {
                    Ok(()) => {
                        tail.report(Report::Committed);
                        break;
                    }
                    Err(CommitError::NoRoom) => {
                        tail.report(Report::NoRoom);
                        if tail.ended_within(RETRY_INTERVAL).await {
                            return;
                        }
                    }
                    Err(CommitError::Failed(what)) => {
                        tail.report(Report::Failed(what.into()));
                        return;
                    }
                }
            }
        }
    }

    fn explain(&self, path: &Path, error: Broken) -> StoreError {
        let path = path.to_owned();
        match (self.fault.get(), error) {
            (_, Broken::Newer(found)) => StoreError::Newer { path, found },
            (_, Broken::Trust(found)) => StoreError::Trust { path, sealed: found == SEALED_FORMAT },
            (_, Broken::Io(source)) => StoreError::Unusable { path, source },
            (_, Broken::Redb(redb::Error::DatabaseAlreadyOpen)) => StoreError::InUse { path },
            (Some(Fault::NoRoom), _) => {
                StoreError::Unusable { path, source: io::ErrorKind::StorageFull.into() }
            }
            (Some(Fault::Sync(what) | Fault::Other(what)), _) => {
                StoreError::Unusable { path, source: io::Error::other(what) }
            }
            (None, error) => StoreError::Damaged { path, what: error.to_string() },
        }
    }
}

/// Counts the lanes that a row names which came, or went.
fn recount(lanes: &mut LaneNumbers, key: &str, row: &[u8], comes: bool) -> Result<(), Broken> {
    let named = record::named_in(row).map_err(Broken::row("key", key))?;
    named.into_iter().for_each(|number| lanes.count(number, comes));
    Ok(())
}

/// With its seals in order, each once: many rows bring the same.
fn in_order(mut piece: Delta) -> Delta {
    piece.seals.sort();
    piece.seals.dedup();
    piece
}

/// Puts a file aside that does not open, so that a new one can begin; says where it is.
///
/// # Errors
///
/// What the system says.
pub fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    if !path.try_exists()? {
        return Ok(None);
    }
    for number in 1_u32.. {
        let aside = path.with_extension(format!("damaged-{number}"));
        if !aside.try_exists()? {
            std::fs::rename(path, &aside)?;
            return Ok(Some(aside));
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

impl fmt::Debug for StateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateFile").field("path", &self.medium.path()).finish_non_exhaustive()
    }
}

/// Something did not work; what that means depends on what the disk had said.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Redb(#[from] redb::Error),
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Corrupt(Corrupt),
    #[error("the row of {0}")]
    Row(String),
    #[error("format {0}")]
    Newer(u64),
    #[error("format {0}, the other was expected")]
    Trust(u64),
    #[error("its pages contradict each other")]
    Panicked,
    #[error("it is closed")]
    Closed,
}

impl Broken {
    fn row<N: fmt::Debug, E: fmt::Display>(what: &str, name: N) -> impl FnOnce(E) -> Self {
        move |error| Self::Row(format!("{what} {name:?}: {error}"))
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for Broken {
            fn from(error: redb::$error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}

from_redb!(CommitError, DatabaseError, StorageError, TableError, TransactionError);

/// Runs what reads pages: some contradictions between pages that all match their checksums make redb panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, Broken>) -> Result<T, Broken> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Broken::Panicked))
}

#[cfg(test)]
mod tests;
