//! A node's disk: what survives its process.
//!
//! A write is on its way for a while and is then confirmed. A kill leaves what was confirmed and, by chance,
//! a beginning of what was on its way; a lying disk, an old copy and a lost disk leave less.

use std::collections::VecDeque;

use snomesh::gossip::{Record, Ticket};
use snomesh::id::{Generation, NodeId};
use snomesh::time::Moment;

use crate::random::{self, Generator};
use crate::scenario::DiskFate;

/// What one node has made durable.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    confirmed: Vec<Record>,
    writing: VecDeque<(Ticket, Record)>,
    /// The lives that it was noted to begin, each with how many records were confirmed by then.
    lives: Vec<(usize, Generation)>,
    /// When the last write will be through: a disk does one after another.
    free_at: Moment,
}

/// What a kill did to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    /// How many writes were on their way.
    pub(crate) caught: usize,
    /// How many confirmed writes are gone.
    pub(crate) forgotten: usize,
}

impl Disk {
    /// What another machine finds that got a copy of it.
    pub(crate) fn copy(&self) -> Self {
        Self { confirmed: self.confirmed.clone(), lives: self.lives.clone(), ..Self::default() }
    }

    /// Notes that a life begins: confirmed before the life writes.
    pub(crate) fn begin_life(&mut self, generation: Generation) {
        self.lives.push((self.confirmed.len(), generation));
    }

    /// The latest life of a node that it knows of, be it noted or taken up since.
    pub(crate) fn last_life(&self, node: NodeId) -> Generation {
        let entries = self.confirmed.iter().flat_map(Record::items).flat_map(|item| &item.entries);
        let authors = entries.map(|entry| entry.dot.lane.actor()).filter(|author| author.node == node);
        let noted = self.lives.iter().map(|(_, generation)| *generation);
        noted.chain(authors.map(|author| author.generation)).max().unwrap_or(Generation(0))
    }

    /// Begins a write; says when it will be confirmed.
    pub(crate) fn write(
        &mut self,
        now: Moment,
        ticket: Ticket,
        record: Record,
        takes: std::time::Duration,
    ) -> Moment {
        self.writing.push_back((ticket, record));
        self.free_at = self.free_at.max(now) + takes;
        self.free_at
    }

    /// Confirms the write of that ticket. Nothing if a kill came in between.
    pub(crate) fn confirm(&mut self, ticket: Ticket) -> Option<&Record> {
        if self.writing.front()?.0 != ticket {
            return None;
        }
        let (_, record) = self.writing.pop_front()?;
        self.confirmed.push(record);
        self.confirmed.last()
    }

    /// What is there for the next life, in the order of writing.
    pub(crate) fn contents(&self) -> &[Record] {
        &self.confirmed
    }

    /// Kills the writer and does to the disk what the scenario says.
    pub(crate) fn kill(&mut self, fate: DiskFate, generator: &mut Generator) -> Damage {
        let caught = self.writing.len();
        let mut through = random::number(generator, 0, caught as u64);
        while let Some((_, record)) = self.writing.pop_front().filter(|_| through > 0) {
            self.confirmed.push(record);
            through -= 1;
        }
        self.writing.clear();
        let before = self.confirmed.len();
        let mut draw = |low: usize, high: usize| {
            usize::try_from(random::number(generator, low as u64, high as u64)).unwrap_or(high)
        };
        let kept = match fate {
            DiskFate::Keep => before,
            DiskFate::Tail => before - draw(1.min(before), before.min(8)),
            DiskFate::Stale => draw(0, before.saturating_sub(1)),
            DiskFate::Lose => 0,
        };
        self.confirmed.truncate(kept);
        if fate == DiskFate::Lose {
            self.lives.clear();
        }
        self.lives.retain(|(after, _)| *after <= kept);
        Damage { caught, forgotten: before - kept }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::random::Seed;

    fn empty() -> Record {
        Record::Delta(snomesh::crdt::Delta::default())
    }

    fn written(count: u64, confirmed: u64) -> Disk {
        let mut disk = Disk::default();
        for ticket in 0..count {
            disk.write(Moment(0), Ticket(ticket), empty(), Duration::from_millis(1));
        }
        for ticket in 0..confirmed {
            assert!(disk.confirm(Ticket(ticket)).is_some());
        }
        disk
    }

    #[test]
    fn writes_are_confirmed_one_after_another() {
        let mut disk = Disk::default();
        let takes = Duration::from_millis(1);
        assert_eq!(disk.write(Moment(0), Ticket(0), empty(), takes), Moment(1_000_000));
        assert_eq!(disk.write(Moment(0), Ticket(1), empty(), takes), Moment(2_000_000));
        assert!(disk.confirm(Ticket(1)).is_none());
        assert!(disk.confirm(Ticket(0)).is_some());
        assert_eq!(disk.contents().len(), 1);
    }

    #[test]
    fn each_fate_leaves_what_it_says() {
        let mut generator = Seed(1).generator("test", &[]);
        let mut after = |fate| {
            let mut disk = written(20, 15);
            let damage = disk.kill(fate, &mut generator);
            assert_eq!(damage.caught, 5);
            (disk.contents().len(), damage.forgotten)
        };
        assert!(after(DiskFate::Keep).0 >= 15 && after(DiskFate::Keep).1 == 0);
        assert!((1..=8).contains(&after(DiskFate::Tail).1));
        assert!(after(DiskFate::Stale).1 >= 1);
        assert_eq!(after(DiskFate::Lose).0, 0);
    }
}
