//! The order of the keys: their slots, sorted by the names that lie there.
//!
//! A list of sorted runs, each with a copy of a name that separates it from the run before, so that finding the run reads
//! nothing else. Four bytes a key and a name for every hundred of them: a tree of keys would hold each name twice.

use super::Slot;

/// The most slots in a run: what is moved at most when one comes or goes.
const MAX_RUN: usize = 128;

#[derive(Debug, Clone)]
struct Run {
    /// Not above any name in the run, and above all in the runs before. That of the first run is not looked at.
    from: Box<[u8]>,
    slots: Vec<Slot>,
}

/// A place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    run: usize,
    at: usize,
}

/// Slots in the order of the names that lie in them. Whoever asks says which name lies in a slot.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    runs: Vec<Run>,
}

impl Order {
    /// Where the first name is that is not below `name`.
    pub(super) fn position<'a>(&self, name: &[u8], name_in: impl Fn(Slot) -> &'a [u8]) -> Position {
        let others = self.runs.get(1..).unwrap_or_default();
        let run = others.partition_point(|run| &*run.from <= name);
        let slots = self.runs.get(run).map_or(&[][..], |run| &run.slots);
        Position { run, at: slots.partition_point(|slot| name_in(*slot) < name) }
    }

    /// Behind the last name.
    pub(super) fn end(&self) -> Position {
        Position { run: self.runs.len(), at: 0 }
    }

    /// The slots from one place up to another, in order.
    pub(super) fn slots(&self, from: Position, until: Position) -> impl Iterator<Item = Slot> {
        let last = self.runs.len().min(until.run.saturating_add(1));
        let runs = self.runs.get(from.run..last).unwrap_or_default();
        runs.iter().enumerate().flat_map(move |(number, run)| {
            let number = from.run + number;
            let begin = if number == from.run { from.at } else { 0 };
            let end = if number == until.run { until.at } else { run.slots.len() };
            run.slots.get(begin..end).unwrap_or_default().iter().copied()
        })
    }

    /// Adds a slot; the name in it is in no other.
    pub(super) fn insert<'a>(&mut self, slot: Slot, name_in: impl Fn(Slot) -> &'a [u8]) {
        let name = name_in(slot);
        let Position { run: number, at } = self.position(name, &name_in);
        let count = self.runs.len();
        let Some(run) = self.runs.get_mut(number) else {
            return self.runs.push(Run { from: name.into(), slots: vec![slot] });
        };
        if run.slots.len() < MAX_RUN {
            return run.slots.insert(at, slot);
        }
        // Names that come in order, from either end, leave full runs behind.
        if at == run.slots.len() && number + 1 == count {
            return self.runs.push(Run { from: name.into(), slots: vec![slot] });
        }
        if at == 0 && number == 0 {
            run.from = name_in(run.slots[0]).into();
            return self.runs.insert(0, Run { from: name.into(), slots: vec![slot] });
        }
        let mut upper = run.slots.split_off(MAX_RUN / 2);
        run.slots.shrink_to_fit();
        let from = name_in(upper[0]).into();
        match at.checked_sub(MAX_RUN / 2) {
            Some(at) if at > 0 => upper.insert(at, slot),
            _ => run.slots.insert(at, slot),
        }
        self.runs.insert(number + 1, Run { from, slots: upper });
    }

    /// Takes a slot out, by the name in it.
    pub(super) fn remove<'a>(&mut self, name: &[u8], name_in: impl Fn(Slot) -> &'a [u8]) {
        let Position { run: number, at } = self.position(name, name_in);
        let Some(run) = self.runs.get_mut(number).filter(|run| at < run.slots.len()) else { return };
        run.slots.remove(at);
        if run.slots.len() < MAX_RUN / 4 {
            self.join(number);
        }
    }

    /// Says that a name, which still is in its slot, will be in another one.
    pub(super) fn replace<'a>(&mut self, name: &[u8], slot: Slot, name_in: impl Fn(Slot) -> &'a [u8]) {
        let Position { run, at } = self.position(name, name_in);
        if let Some(there) = self.runs.get_mut(run).and_then(|run| run.slots.get_mut(at)) {
            *there = slot;
        }
    }

    /// Joins a short run with a neighbour, if both are one run's worth.
    fn join(&mut self, number: usize) {
        if self.runs[number].slots.is_empty() {
            self.runs.remove(number);
            return;
        }
        let fits = |left: usize| match self.runs.get(left..left + 2) {
            Some([left, right]) => left.slots.len() + right.slots.len() <= MAX_RUN / 2,
            _ => false,
        };
        let left = [Some(number), number.checked_sub(1)].into_iter().flatten().find(|left| fits(*left));
        if let Some(left) = left {
            let right = self.runs.remove(left + 1);
            self.runs[left].slots.extend(right.slots);
        }
        let last = self.runs.len() - 1;
        let run = &mut self.runs[number.min(last)].slots;
        run.shrink_to(run.len() * 2);
    }

    /// Whether the names ascend and the runs keep their bounds.
    #[cfg(test)]
    pub(super) fn is_sorted<'a>(&self, name_in: impl Fn(Slot) -> &'a [u8]) -> bool {
        let names: Vec<&[u8]> = self.slots(Position { run: 0, at: 0 }, self.end()).map(&name_in).collect();
        let bounds = self.runs.iter().skip(1).zip(&self.runs);
        names.is_sorted_by(|left, right| left < right)
            && self.runs.iter().all(|run| !run.slots.is_empty() && run.slots.len() <= MAX_RUN)
            && bounds.into_iter().all(|(run, before)| {
                let last = before.slots.last().map(|slot| name_in(*slot));
                *run.from <= *name_in(run.slots[0]) && last.is_none_or(|last| last < &*run.from)
            })
    }
}
