//! What the mesh makes durable, and what it hears back. The disk at the other end is not this module's business.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;

use crate::crdt::{Key, Lane, RangeSet, Register, Seal};
use crate::time::Timestamp;

/// Changes that become durable together or not at all.
///
/// Of a round of several batches the last one alone has lanes: what was seen is never durable before its effect is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The state of keys; of one without entries nothing is left.
    pub registers: Vec<(Key, Register)>,
    /// Where entries are sealed: the seals of these keys' entries, those of own writes that nobody was told of excepted.
    pub seals: BTreeMap<Key, Vec<Arc<Seal>>>,
    /// Where entries are sealed: for some of the lanes the seal that reaches furthest.
    pub heads: Vec<Arc<Seal>>,
    /// All that was seen of lanes.
    pub lanes: Vec<(Lane, RangeSet)>,
    /// The last reading of the clock.
    pub clock: Timestamp,
    /// How far removals were collected, of the lanes of which that has changed. Never written later than the keys
    /// whose removals went.
    pub floors: Vec<(Lane, u64)>,
    /// The greatest stamp of what was collected.
    pub horizon: Timestamp,
}

/// What became of the last batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// It is durable.
    Committed,
    /// There is no room. It is tried again until there is; nothing else is taken meanwhile.
    NoRoom,
    /// It never will be, nor will any other: what is on the disk is not known any more.
    Failed(Arc<str>),
}

/// How it goes with the durability of a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// Nothing is kept; a restart learns the state from the peers.
    Memory,
    /// What is acknowledged is durable.
    Durable,
    /// The disk is full: durable writes are refused until it is not.
    NoRoom,
    /// The disk failed and the mesh has ended.
    Failed(Arc<str>),
}

/// The end of a journal that the driver writes to. At most one batch is under way.
#[derive(Debug)]
pub struct Journal {
    batches: UnboundedSender<Batch>,
    reports: UnboundedReceiver<Report>,
}

/// The end of a journal that belongs to a disk.
pub struct JournalTail {
    batches: UnboundedReceiver<Batch>,
    reports: UnboundedSender<Report>,
}

/// Makes a journal; the tail is for whatever keeps the batches.
pub fn journal() -> (Journal, JournalTail) {
    let (batches, taken) = mpsc::unbounded_channel();
    let (reports, heard) = mpsc::unbounded_channel();
    (Journal { batches, reports: heard }, JournalTail { batches: taken, reports })
}

impl Journal {
    /// Hands a batch over. If nobody takes it any more, [`report`](Self::report) says so.
    pub fn send(&self, batch: Batch) {
        self.batches.send(batch).ok();
    }

    /// What became of the last batch.
    pub async fn report(&mut self) -> Report {
        let gone = || Report::Failed("the writer of the disk has ended".into());
        self.reports.recv().await.unwrap_or_else(gone)
    }
}

impl JournalTail {
    /// Waits for a batch; `None` when the mesh has ended.
    pub async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }

    /// The next batch, if it is there already.
    pub fn try_next(&mut self) -> Option<Batch> {
        self.batches.try_recv().ok()
    }

    /// Waits a while for the mesh to end, and says whether it has.
    pub async fn ended_within(&mut self, patience: Duration) -> bool {
        matches!(timeout(patience, self.batches.recv()).await, Ok(None))
    }

    /// Says what became of a batch.
    pub fn report(&self, report: Report) {
        // The mesh may have ended; then nobody waits for it.
        self.reports.send(report).ok();
    }
}

impl fmt::Debug for JournalTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JournalTail")
    }
}
