//! The bounded broadcast that tells a subscriber exactly what it missed.
//!
//! A [`Ring`] keeps the last events, as many as its capacity says and not one more. A [`Cursor`] is a place in
//! it; publishing never looks at cursors, so that it costs the same however many subscribers there are.
//!
//! # Lagging
//!
//! A cursor that falls out of the ring is told once, by [`Lagged`] with the exact number of events that it
//! missed, and then goes on with the oldest event still held. Tokio's broadcast channel does the same but
//! rounds its capacity up to a power of two; here `n` is exact, which is what the simulator checks.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

/// The number of an event: how many were published before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

/// A subscriber fell behind by this many events, which it will never see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("missed {missed} events")]
pub struct Lagged {
    /// How many, exactly.
    pub missed: u64,
}

/// A subscriber's place in a [`Ring`]: the number of the event that it wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    next: Sequence,
}

impl Cursor {
    /// The number of the event that it wants next.
    pub fn next(&self) -> Sequence {
        self.next
    }
}

/// The last `capacity` events.
#[derive(Debug)]
pub struct Ring<E> {
    events: VecDeque<E>,
    capacity: NonZeroUsize,
    /// The number of the event that will be published next.
    end: Sequence,
}

impl<E> Ring<E> {
    /// Starts an empty ring that holds exactly `capacity` events.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { events: VecDeque::new(), capacity, end: Sequence(0) }
    }

    /// Appends an event, letting the oldest one go if the ring is full, and returns its number.
    pub fn publish(&mut self, event: E) -> Sequence {
        if self.events.len() == self.capacity.get() {
            self.events.pop_front();
        }
        self.events.push_back(event);
        let sequence = self.end;
        self.end = Sequence(sequence.0 + 1);
        sequence
    }

    /// A cursor that sees only what is published from now on.
    pub fn subscribe(&self) -> Cursor {
        Cursor { next: self.end }
    }

    /// A cursor that wants that event next, whether or not it is still held. One that was never published is taken
    /// for the next one that will be.
    pub fn resume(&self, next: Sequence) -> Cursor {
        Cursor { next: next.min(self.end) }
    }

    /// The number that the next event will bear.
    pub fn end(&self) -> Sequence {
        self.end
    }

    /// How many events a cursor has yet to see, lost ones included.
    pub fn behind(&self, cursor: &Cursor) -> u64 {
        self.end.0 - cursor.next.0
    }

    /// The next event of a cursor with its number, or `None` when the cursor is at the end.
    ///
    /// # Errors
    ///
    /// [`Lagged`], once, if events were lost; the cursor then stands at the oldest event still held.
    pub fn poll(&self, cursor: &mut Cursor) -> Result<Option<(Sequence, &E)>, Lagged> {
        let oldest = self.end.0 - self.events.len() as u64;
        if cursor.next.0 < oldest {
            let missed = oldest - cursor.next.0;
            cursor.next = Sequence(oldest);
            return Err(Lagged { missed });
        }
        let Some(event) = usize::try_from(cursor.next.0 - oldest).ok().and_then(|at| self.events.get(at))
        else {
            return Ok(None);
        };
        let sequence = cursor.next;
        cursor.next = Sequence(sequence.0 + 1);
        Ok(Some((sequence, event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(capacity: usize) -> Ring<u64> {
        Ring::new(NonZeroUsize::new(capacity).unwrap())
    }

    /// FEATURES S3.
    #[test]
    fn a_lagging_cursor_learns_the_exact_number_once_and_goes_on_with_the_oldest() {
        for capacity in [1, 3, 10] {
            let mut ring = ring(capacity);
            let mut cursor = ring.subscribe();
            for event in 0..12 {
                ring.publish(event);
            }
            let missed = 12 - capacity as u64;
            assert_eq!(ring.poll(&mut cursor), Err(Lagged { missed }));
            for event in missed..12 {
                assert_eq!(ring.poll(&mut cursor), Ok(Some((Sequence(event), &event))));
            }
            assert_eq!(ring.poll(&mut cursor), Ok(None));
        }
    }

    #[test]
    fn a_cursor_that_keeps_up_never_lags() {
        let mut ring = ring(1);
        let mut cursor = ring.subscribe();
        for event in 0..5 {
            ring.publish(event);
            assert_eq!(ring.poll(&mut cursor), Ok(Some((Sequence(event), &event))));
        }
    }

    #[test]
    fn exactly_the_capacity_is_no_lag() {
        let mut ring = ring(3);
        let mut cursor = ring.subscribe();
        for event in 0..3 {
            ring.publish(event);
        }
        assert_eq!(ring.behind(&cursor), 3);
        assert_eq!(ring.poll(&mut cursor), Ok(Some((Sequence(0), &0))));
    }
}
