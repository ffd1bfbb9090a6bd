//! What the mesh does later, and the single next time at which it wants to be woken.

use crate::time::Moment;

/// The things that are done at a time. Each is due at most once at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// Say on every link that this node lives.
    Heartbeat,
    /// Give up links that were silent for too long.
    Silence,
    /// Tell on every link what was seen.
    Announce,
    /// Ask for what is missing.
    Want,
    /// Judge who can be reached.
    Verdict,
    /// Choose with whom to be linked.
    Choose,
    /// Publish this node's own record.
    Record,
    /// Try to reach nodes.
    Dial,
    /// Let removals go.
    Collect,
    /// Give up fetching from a peer that does not answer, and serving one that does not ask.
    Reconcile,
    /// Send what has gathered.
    Gather,
}

impl Timer {
    const ALL: [Self; 11] = [
        Self::Heartbeat,
        Self::Silence,
        Self::Announce,
        Self::Want,
        Self::Verdict,
        Self::Choose,
        Self::Record,
        Self::Dial,
        Self::Collect,
        Self::Reconcile,
        Self::Gather,
    ];
}

/// When each timer is due.
#[derive(Debug, Default)]
pub(super) struct TimerTable {
    due: [Option<Moment>; Timer::ALL.len()],
}

impl TimerTable {
    /// Sets a timer, whatever it was set to.
    pub(super) fn set(&mut self, timer: Timer, at: Option<Moment>) {
        self.due[timer as usize] = at;
    }

    /// Sets a timer unless it is due earlier already.
    pub(super) fn set_by(&mut self, timer: Timer, at: Moment) {
        let due = &mut self.due[timer as usize];
        *due = Some(due.map_or(at, |due| due.min(at)));
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.due.iter().flatten().min().copied()
    }

    #[cfg(test)]
    pub(super) fn next_of(&self, timer: Timer) -> Option<Moment> {
        self.due[timer as usize]
    }

    /// Takes one that is due, in the order of their declaration.
    pub(super) fn take_due(&mut self, now: Moment) -> Option<Timer> {
        let due = |timer: &Timer| self.due[*timer as usize].is_some_and(|at| at <= now);
        let timer = Timer::ALL.into_iter().find(due)?;
        self.due[timer as usize] = None;
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_taken_once_when_due() {
        let mut table = TimerTable::default();
        table.set_by(Timer::Dial, Moment(20));
        table.set_by(Timer::Dial, Moment(10));
        table.set_by(Timer::Dial, Moment(30));
        table.set(Timer::Record, Some(Moment(5)));
        assert_eq!(table.next(), Some(Moment(5)));
        assert_eq!(table.take_due(Moment(4)), None);
        assert_eq!(table.take_due(Moment(10)), Some(Timer::Record));
        assert_eq!(table.take_due(Moment(10)), Some(Timer::Dial));
        assert_eq!(table.take_due(Moment(99)), None);
        assert_eq!(table.next(), None);
    }
}
