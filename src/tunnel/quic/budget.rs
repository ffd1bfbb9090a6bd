//! What the connections of an endpoint may buffer together for readers, and which streams give way when that is used up.
//!
//! A window is a promise: as much the peer may send before anybody reads. Promises are shared out here, so that many
//! connections cannot pin what one may. A promise that was made cannot be taken back, QUIC has no way to; so connections
//! take their new share with their next stream.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::config::STREAM_WINDOW;

/// What a connection gets in any case, once its peer has authenticated.
const MIN_WINDOW: u64 = STREAM_WINDOW as u64;
/// A stream that stalls goes after so long if those that stall pin more than half of what there is.
const PATIENCE: Duration = Duration::from_secs(60);
/// And after so long if they pin seven eighths of it: of the last eighth the peer may not have been told, see
/// [`SPARE_STREAMS`](super::tunnel), so that all others are about to stand still.
const HASTE: Duration = Duration::from_secs(5);

/// Receive windows, shared out among connections.
#[derive(Debug)]
pub(super) struct Budget {
    total: u64,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    connections: u64,
    granted: u64,
    /// What streams that stall may hold of it.
    pinned: u64,
}

impl Budget {
    pub(super) fn new(total: u64) -> Self {
        Self { total, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection in, with its first window.
    pub(super) fn enter(&self, window: u32) {
        let mut books = self.books();
        books.connections += 1;
        books.granted += u64::from(window);
    }

    /// Counts a connection out that had such a window and pinned so much.
    pub(super) fn leave(&self, window: u32, pinned: u64) {
        let mut books = self.books();
        books.connections -= 1;
        books.granted -= u64::from(window);
        books.pinned -= pinned;
    }

    /// Changes a window into as much of what is wanted as the others leave, but no less than an equal share, nor than what
    /// it has to keep; says how much that is. So all together have at most twice the total, and a mebibyte each.
    pub(super) fn share(&self, window: u32, wanted: u32, kept: u32) -> u32 {
        let mut books = self.books();
        let others = books.granted - u64::from(window);
        let left = self.total.saturating_sub(others);
        let equal = self.total / books.connections.max(1);
        let share = u64::from(wanted).min(left.max(equal).max(MIN_WINDOW)).max(kept.into());
        books.granted = others + share;
        u32::try_from(share).unwrap_or(wanted)
    }

    /// Takes note of what a connection's stalled streams pin now instead of before.
    pub(super) fn pin(&self, before: u64, now: u64) {
        let mut books = self.books();
        books.pinned = books.pinned - before + now;
    }

    /// How long a stream may stall with regard to all connections together.
    pub(super) fn patience(&self) -> Option<Duration> {
        patience(self.books().pinned, self.total)
    }
}

/// How long a stream may stall where streams that stall pin so much of so much; `None`: as long as it likes.
pub(super) fn patience(pinned: u64, size: u64) -> Option<Duration> {
    if pinned >= size / 8 * 7 {
        Some(HASTE)
    } else if pinned > size / 2 {
        Some(PATIENCE)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    #[test]
    fn connections_get_what_the_others_leave_and_never_less_than_an_equal_share() {
        let budget = Budget::new(12 * u64::from(MIB));
        (0..3).for_each(|_| budget.enter(0));
        assert_eq!(budget.share(0, 6 * MIB, 0), 6 * MIB);
        assert_eq!(budget.share(0, 9 * MIB, 0), 6 * MIB, "what is left");
        assert_eq!(budget.share(0, 9 * MIB, 0), 4 * MIB, "nothing is left: an equal share");
        // Whoever has more than that gives it back with the next change.
        assert_eq!(budget.share(6 * MIB, 6 * MIB, 0), 4 * MIB);
        assert_eq!(budget.share(6 * MIB, MIB, 0), MIB);
        assert_eq!(budget.share(4 * MIB, 9 * MIB, 0), 7 * MIB);
        assert_eq!(budget.share(7 * MIB, MIB, 7 * MIB), 7 * MIB, "what it has to keep");
        budget.leave(7 * MIB, 0);
        assert_eq!(budget.share(MIB, 9 * MIB, 0), 8 * MIB);
    }

    #[test]
    fn of_very_many_connections_each_gets_a_mebibyte() {
        let budget = Budget::new(12 * u64::from(MIB));
        (0..100).for_each(|_| budget.enter(0));
        for _ in 0..100 {
            budget.share(0, 12 * MIB, 0);
        }
        assert_eq!(budget.share(MIB, 12 * MIB, 0), MIB);
    }

    #[test]
    fn streams_may_stall_as_long_as_there_is_as_much_beside_them() {
        let budget = Budget::new(16 * u64::from(MIB));
        let of = |mib: u64| patience(mib << 20, 16 << 20);
        assert_eq!([8, 9, 13, 14].map(of), [None, Some(PATIENCE), Some(PATIENCE), Some(HASTE)]);
        budget.enter(0);
        budget.pin(0, 9 << 20);
        assert_eq!(budget.patience(), Some(PATIENCE));
        budget.pin(9 << 20, 8 << 20);
        assert_eq!(budget.patience(), None);
        budget.leave(0, 8 << 20);
        budget.enter(0);
        budget.pin(0, 14 << 20);
        assert_eq!(budget.patience(), Some(HASTE));
    }
}
