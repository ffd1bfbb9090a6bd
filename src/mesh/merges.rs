//! What came of the state that peers sent, and how the ranges were compared that no delta can bring.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::gossip::{Ask, Message, Tell};
use crate::replica::WriteError;

/// The upper bounds of the buckets of [`Merges::took`], in microseconds.
const BOUNDS: [u64; 10] = [10, 25, 50, 100, 250, 1_000, 5_000, 25_000, 100_000, 1_000_000];

/// What came of the state that peers sent, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merges {
    /// How many messages took how long to be taken in: the upper bound in microseconds, each message in one; the last of
    /// all: longer.
    pub took: [(u64, u64); BOUNDS.len() + 1],
    /// All of that together.
    pub sum: Duration,
    /// Pieces of state in which everything was known.
    pub duplicates: u64,
    /// Comparisons of ranges that were begun, from here.
    pub rounds_begun: u64,
    /// Those that came to their end.
    pub rounds_ended: u64,
    /// Entries that were told in them, here and to others.
    pub items: [u64; 2],
    /// Messages that could not be read.
    pub malformed: u64,
    /// Writes of this node that were refused: too many at a time, its clock, and anything else.
    pub refused: [u64; 3],
}

/// The counters behind [`Merges`].
#[derive(Debug, Default)]
pub(super) struct MergeCounters {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
    duplicates: AtomicU64,
    rounds_begun: AtomicU64,
    rounds_ended: AtomicU64,
    items: [AtomicU64; 2],
    malformed: AtomicU64,
    refused: [AtomicU64; 3],
}

impl MergeCounters {
    /// Whether a message brings state, so that it is [`merged`](Self::merged).
    pub(super) fn brings_state(message: &Message) -> bool {
        matches!(message, Message::Delta(_) | Message::Tell { .. })
    }

    /// Something that brings state was taken in.
    pub(super) fn merged(&self, took: Duration, changed: bool) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        add(&self.buckets[BOUNDS.partition_point(|bound| *bound < micros)], 1);
        add(&self.sum_nanos, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        add(&self.duplicates, u64::from(!changed));
    }

    /// A message is about to be taken in.
    pub(super) fn received(&self, message: &Message) {
        match message {
            Message::Tell { tell: Tell::Ranges { items, .. }, .. } => add(&self.items[0], items.len() as u64),
            Message::Tell { tell: Tell::Floors { last: true, .. }, .. } => add(&self.rounds_ended, 1),
            _ => {}
        }
    }

    /// A message is about to be sent.
    pub(super) fn sent(&self, message: &Message) {
        match message {
            Message::Ask { ask: Ask::Context { after: None }, .. } => add(&self.rounds_begun, 1),
            Message::Tell { tell: Tell::Ranges { items, .. }, .. } => add(&self.items[1], items.len() as u64),
            _ => {}
        }
    }

    pub(super) fn malformed(&self) {
        add(&self.malformed, 1);
    }

    /// A write of this node was refused.
    pub(super) fn refused(&self, error: &WriteError) {
        let reason = match error {
            WriteError::Busy { .. } => 0,
            WriteError::ClockOff { .. } | WriteError::Exhausted(_) => 1,
            WriteError::NotHeld | WriteError::Overflow | WriteError::Alive | WriteError::Sealed => 2,
        };
        add(&self.refused[reason], 1);
    }

    pub(super) fn read(&self) -> Merges {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let bound = |at: usize| BOUNDS.get(at).copied().unwrap_or(u64::MAX);
        Merges {
            took: std::array::from_fn(|at| (bound(at), read(&self.buckets[at]))),
            sum: Duration::from_nanos(read(&self.sum_nanos)),
            duplicates: read(&self.duplicates),
            rounds_begun: read(&self.rounds_begun),
            rounds_ended: read(&self.rounds_ended),
            items: std::array::from_fn(|at| read(&self.items[at])),
            malformed: read(&self.malformed),
            refused: std::array::from_fn(|at| read(&self.refused[at])),
        }
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}
