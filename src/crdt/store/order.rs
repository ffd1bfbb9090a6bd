//! The order of the keys: their slots, sorted by the names that lie there.
//!
//! A list of sorted runs, each with a copy of a name that separates it from the run before, so that finding the run reads
//! nothing else. Eight bytes a key and a name for every hundred of them: a tree of keys would hold each name twice.

use super::Slot;

/// The most slots in a run: what is moved at most when one comes or goes.
const MAX_RUN: usize = 128;

/// A piece of the order.
///
/// What its names have in common stands here once, and of what follows in each the first four bytes: these mostly tell where
/// a name belongs, without a look at names that lie anywhere in memory.
#[derive(Debug, Clone)]
struct Run {
    /// What all its names begin with.
    shared: Box<[u8]>,
    tails: Vec<u32>,
    slots: Vec<Slot>,
}

impl Run {
    /// Slots in the order of their names; there is at least one.
    fn new<'a>(slots: Vec<Slot>, name_in: &impl Fn(Slot) -> &'a [u8]) -> Self {
        let (first, last) = (name_in(slots[0]), name_in(slots[slots.len() - 1]));
        let mut run = Self { shared: Box::default(), tails: Vec::new(), slots };
        run.share(common(first, last), name_in);
        run
    }

    /// Tells the names apart by what follows after some bytes that all have in common.
    fn share<'a>(&mut self, shared: &[u8], name_in: &impl Fn(Slot) -> &'a [u8]) {
        self.tails.clear();
        self.tails.extend(self.slots.iter().map(|slot| tail(name_in(*slot), shared.len())));
        self.shared = shared.into();
    }

    /// How many names are below that one.
    fn position<'a>(&self, name: &[u8], name_in: &impl Fn(Slot) -> &'a [u8]) -> usize {
        if !name.starts_with(&self.shared) {
            return if name < &*self.shared { 0 } else { self.slots.len() };
        }
        let tail = tail(name, self.shared.len());
        let begin = self.tails.partition_point(|other| *other < tail);
        let alike = self.tails[begin..].iter().take_while(|other| **other == tail).count();
        let alike = &self.slots[begin..begin + alike];
        begin + alike.partition_point(|slot| name_in(*slot) < name)
    }

    fn insert<'a>(&mut self, at: usize, slot: Slot, name_in: &impl Fn(Slot) -> &'a [u8]) {
        let name = name_in(slot);
        self.slots.insert(at, slot);
        if name.starts_with(&self.shared) {
            self.tails.insert(at, tail(name, self.shared.len()));
        } else {
            let shared = Box::<[u8]>::from(common(name, &self.shared));
            self.share(&shared, name_in);
        }
    }

    fn shrink(&mut self) {
        self.slots.shrink_to(self.slots.len() * 2);
        self.tails.shrink_to(self.slots.len() * 2);
    }
}

/// What two names begin with.
fn common<'a>(one: &'a [u8], other: &[u8]) -> &'a [u8] {
    let len = one.iter().zip(other).take_while(|(left, right)| left == right).count();
    &one[..len]
}

/// The four bytes of a name from one place on, as a number of the same order.
fn tail(name: &[u8], from: usize) -> u32 {
    let mut tail = [0; 4];
    for (byte, of) in tail.iter_mut().zip(name.get(from..).unwrap_or_default()) {
        *byte = *of;
    }
    u32::from_be_bytes(tail)
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
    /// For each run a name: not above any in it, and above all in the runs before. The first one is not looked at.
    bounds: Vec<Box<[u8]>>,
    /// Each by itself, for a new one moves all that come after it.
    #[allow(clippy::vec_box, reason = "what is moved is to be small")]
    runs: Vec<Box<Run>>,
}

impl Order {
    /// Where the first name is that is not below `name`.
    pub(super) fn position<'a>(&self, name: &[u8], name_in: impl Fn(Slot) -> &'a [u8]) -> Position {
        let run = self.bounds.get(1..).unwrap_or_default().partition_point(|bound| &**bound <= name);
        Position { run, at: self.runs.get(run).map_or(0, |run| run.position(name, &name_in)) }
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
            return self.add(0, name, Run::new(vec![slot], &name_in));
        };
        if run.slots.len() < MAX_RUN {
            return run.insert(at, slot, &name_in);
        }
        // Names that come in order, from either end, leave full runs behind.
        if at == run.slots.len() && number + 1 == count {
            return self.add(count, name, Run::new(vec![slot], &name_in));
        }
        if at == 0 && number == 0 {
            self.bounds[0] = name_in(run.slots[0]).into();
            return self.add(0, name, Run::new(vec![slot], &name_in));
        }
        let upper = run.slots.split_off(MAX_RUN / 2);
        let mut upper = Run::new(upper, &name_in);
        // Fewer names have more in common.
        let mut lower = Run::new(std::mem::take(&mut run.slots), &name_in);
        lower.shrink();
        let bound = name_in(upper.slots[0]);
        match at.checked_sub(MAX_RUN / 2) {
            Some(at) if at > 0 => upper.insert(at, slot, &name_in),
            _ => lower.insert(at, slot, &name_in),
        }
        **run = lower;
        self.add(number + 1, bound, upper);
    }

    fn add(&mut self, number: usize, bound: &[u8], run: Run) {
        self.bounds.insert(number, bound.into());
        self.runs.insert(number, Box::new(run));
    }

    /// Takes a slot out, by the name in it.
    pub(super) fn remove<'a>(&mut self, name: &[u8], name_in: impl Fn(Slot) -> &'a [u8]) {
        let Position { run: number, at } = self.position(name, &name_in);
        let Some(run) = self.runs.get_mut(number).filter(|run| at < run.slots.len()) else { return };
        run.slots.remove(at);
        run.tails.remove(at);
        if run.slots.len() < MAX_RUN / 4 {
            self.join(number, &name_in);
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
    fn join<'a>(&mut self, number: usize, name_in: &impl Fn(Slot) -> &'a [u8]) {
        if self.runs[number].slots.is_empty() {
            self.runs.remove(number);
            self.bounds.remove(number);
            return self.trim();
        }
        let fits = |left: usize| match self.runs.get(left..left + 2) {
            Some([left, right]) => left.slots.len() + right.slots.len() <= MAX_RUN / 2,
            _ => false,
        };
        let left = [Some(number), number.checked_sub(1)].into_iter().flatten().find(|left| fits(*left));
        let Some(left) = left else { return self.runs[number].shrink() };
        let right = self.runs.remove(left + 1);
        self.bounds.remove(left + 1);
        let run = &mut self.runs[left];
        run.slots.extend(right.slots);
        let mut joined = Run::new(std::mem::take(&mut run.slots), name_in);
        joined.shrink();
        **run = joined;
        self.trim();
    }

    /// Gives the memory back that many more runs had needed.
    fn trim(&mut self) {
        if self.runs.capacity() > 4 * self.runs.len() + 64 {
            self.runs.shrink_to(2 * self.runs.len());
            self.bounds.shrink_to(2 * self.bounds.len());
        }
    }

    /// Whether the names ascend and the runs keep their bounds.
    #[cfg(test)]
    pub(super) fn is_sorted<'a>(&self, name_in: impl Fn(Slot) -> &'a [u8]) -> bool {
        let names: Vec<&[u8]> = self.slots(Position { run: 0, at: 0 }, self.end()).map(&name_in).collect();
        let bounds = self.runs.iter().zip(&self.bounds).skip(1).zip(&self.runs);
        names.is_sorted_by(|left, right| left < right)
            && self.runs.iter().all(|run| !run.slots.is_empty() && run.slots.len() <= MAX_RUN)
            && self.runs.iter().all(|run| {
                let of = |slot: &Slot| tail(name_in(*slot), run.shared.len());
                run.slots.iter().all(|slot| name_in(*slot).starts_with(&run.shared))
                    && run.slots.iter().map(of).eq(run.tails.iter().copied())
            })
            && self.bounds.len() == self.runs.len()
            && bounds.into_iter().all(|((run, bound), before)| {
                let last = before.slots.last().map(|slot| name_in(*slot));
                **bound <= *name_in(run.slots[0]) && last.is_none_or(|last| last < &**bound)
            })
    }
}
