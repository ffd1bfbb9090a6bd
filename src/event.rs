//! The bounded broadcast that tells a subscriber exactly what it missed, and how not to miss anything that matters.
//!
//! A [`Ring`] keeps the last events, as many as its capacity says and not one more. A [`Cursor`] is a place in
//! it; publishing never looks at cursors, so that it costs the same however many subscribers there are.
//!
//! # Lagging
//!
//! A cursor that falls out of the ring is told once, by [`Lagged`] with the exact number of events that it
//! missed, and then goes on with the oldest event still held. Tokio's broadcast channel does the same but
//! rounds its capacity up to a power of two; here `n` is exact, which is what the simulator checks.
//!
//! # Resynchronising
//!
//! Events are changes of a state. A [`Feed`] keeps that state beside the ring and changes both in one step, so that a
//! [`Snapshot`] and the cursor made with it have neither a gap nor an overlap. Who has lagged asks for another snapshot
//! with [`Feed::resync`] and goes on from there: whatever the capacity and however slow the reader, it ends up with the
//! very state.
//!
//! # Coalescing
//!
//! Who needs only how things are and not how they came to be subscribes by [`Feed::coalesce`]: it gets the latest state
//! of each key that has changed since it last looked, once, in the order of the first change that it has not seen. It
//! holds at most one state per key and cannot lag.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
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

/// An event that changes a state.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use snomesh::event::{Feed, Published};
///
/// #[derive(Clone, Debug)]
/// struct Moved(&'static str, u32);
///
/// impl Published for Moved {
///     type State = BTreeMap<&'static str, u32>;
///     type Key = &'static str;
///     type Latest = u32;
///
///     fn apply(&self, places: &mut Self::State) {
///         places.insert(self.0, self.1);
///     }
///
///     fn latest(&self, places: &Self::State) -> Option<(&'static str, u32)> {
///         places.get(self.0).map(|place| (self.0, *place))
///     }
/// }
///
/// let mut feed = Feed::new(8.try_into().unwrap());
/// feed.publish(Moved("cart", 3));
/// let (snapshot, mut cursor) = feed.subscribe_with_snapshot();
/// feed.publish(Moved("cart", 4));
/// assert_eq!(snapshot.state["cart"], 3);
/// assert!(matches!(feed.poll(&mut cursor), Ok(Some((_, Moved("cart", 4))))));
/// ```
pub trait Published: Clone {
    /// What the events change, as far as a publisher keeps it for those who come late; `()` if it does not.
    type State: Clone + Default + fmt::Debug;
    /// What a change is a change of.
    type Key: Ord + Clone + fmt::Debug;
    /// How the thing is after the change.
    type Latest: Clone + fmt::Debug;

    /// Makes the change.
    fn apply(&self, state: &mut Self::State);

    /// What has changed, and how it is now, given the state after the change. Nothing for what is no state of a thing.
    fn latest(&self, state: &Self::State) -> Option<(Self::Key, Self::Latest)>;
}

/// A state and the number of the first event that is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot<S> {
    /// The state.
    pub state: S,
    /// All events before this one are in it, this one and later ones are not.
    pub sequence: Sequence,
}

/// How a thing is, after its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<K, L> {
    /// The number of its last change.
    pub sequence: Sequence,
    /// Which thing.
    pub key: K,
    /// How it is.
    pub latest: L,
}

/// Names a coalescing subscription of a [`Feed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoalescingId(u64);

/// Whether a coalescing subscriber wants to know of a key.
pub type Filter<K> = Box<dyn Fn(&K) -> bool + Send>;

/// The last events, the state that all of them have made, and who wants to know the latest only.
#[derive(Debug)]
pub struct Feed<E: Published> {
    ring: Ring<E>,
    state: E::State,
    coalescing: BTreeMap<CoalescingId, Pending<E>>,
    next_id: u64,
}

/// What a coalescing subscriber has not seen.
struct Pending<E: Published> {
    wants: Filter<E::Key>,
    /// By key, how it is after the last change.
    changed: BTreeMap<E::Key, Change<E::Key, E::Latest>>,
    /// By the number of the first unseen change, so that keys which change all the time do not keep others waiting.
    order: BTreeMap<Sequence, E::Key>,
}

impl<E: Published> fmt::Debug for Pending<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("changed", &self.changed).finish_non_exhaustive()
    }
}

impl<E: Published> Pending<E> {
    fn note(&mut self, change: Change<E::Key, E::Latest>) {
        let (sequence, key) = (change.sequence, change.key.clone());
        match self.changed.get_mut(&key) {
            Some(latest) => *latest = change,
            None => {
                self.order.insert(sequence, key.clone());
                self.changed.insert(key, change);
            }
        }
    }

    fn take(&mut self) -> Option<Change<E::Key, E::Latest>> {
        let (_, key) = self.order.pop_first()?;
        self.changed.remove(&key)
    }
}

impl<E: Published> Feed<E> {
    /// Starts with no events and the default state.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self {
            ring: Ring::new(capacity),
            state: E::State::default(),
            coalescing: BTreeMap::new(),
            next_id: 0,
        }
    }

    /// Publishes an event and returns its number.
    pub fn publish(&mut self, event: E) -> Sequence {
        event.apply(&mut self.state);
        let sequence = self.ring.end();
        if !self.coalescing.is_empty()
            && let Some((key, latest)) = event.latest(&self.state)
        {
            for pending in self.coalescing.values_mut().filter(|pending| (pending.wants)(&key)) {
                pending.note(Change { sequence, key: key.clone(), latest: latest.clone() });
            }
        }
        self.ring.publish(event)
    }

    /// A cursor that sees only what is published from now on.
    pub fn subscribe(&self) -> Cursor {
        self.ring.subscribe()
    }

    /// A cursor that wants that event next, whether or not it is still held. One that was never published is taken
    /// for the next one that will be.
    pub fn resume(&self, next: Sequence) -> Cursor {
        self.ring.resume(next)
    }

    /// The state as it is, and a cursor that sees what changes it from now on.
    pub fn subscribe_with_snapshot(&self) -> (Snapshot<E::State>, Cursor) {
        (Snapshot { state: self.state.clone(), sequence: self.ring.end() }, self.ring.subscribe())
    }

    /// The state as it is; the cursor goes on from there. What it has not seen is in the state and lost to it as events.
    pub fn resync(&self, cursor: &mut Cursor) -> Snapshot<E::State> {
        let (snapshot, fresh) = self.subscribe_with_snapshot();
        *cursor = fresh;
        snapshot
    }

    /// The next event of a cursor with its number, or `None` when the cursor is at the end.
    ///
    /// # Errors
    ///
    /// [`Lagged`], once, if events were lost; the cursor then stands at the oldest event still held.
    pub fn poll(&self, cursor: &mut Cursor) -> Result<Option<(Sequence, &E)>, Lagged> {
        self.ring.poll(cursor)
    }

    /// How many events a cursor has yet to see, lost ones included.
    pub fn behind(&self, cursor: &Cursor) -> u64 {
        self.ring.behind(cursor)
    }

    /// Subscribes to the latest state of the keys that `wants` takes, as they change from now on. It costs every publisher
    /// one look at the filter, and memory for one state per key, until it is [cancelled](Self::cancel).
    pub fn coalesce(&mut self, wants: Filter<E::Key>) -> CoalescingId {
        let id = CoalescingId(self.next_id);
        self.next_id += 1;
        self.coalescing.insert(id, Pending { wants, changed: BTreeMap::new(), order: BTreeMap::new() });
        id
    }

    /// The latest state of a key that has changed, if any has that the subscriber has not seen.
    pub fn poll_change(&mut self, id: CoalescingId) -> Option<Change<E::Key, E::Latest>> {
        self.coalescing.get_mut(&id)?.take()
    }

    /// Of how many keys a coalescing subscriber has not seen the latest state.
    pub fn pending(&self, id: CoalescingId) -> usize {
        self.coalescing.get(&id).map_or(0, |pending| pending.changed.len())
    }

    /// Ends a coalescing subscription.
    pub fn cancel(&mut self, id: CoalescingId) {
        self.coalescing.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sets a number, or forgets it; nothing at all for the key 9.
    #[derive(Debug, Clone, PartialEq)]
    struct Set(u8, Option<u8>);

    impl Published for Set {
        type State = BTreeMap<u8, u8>;
        type Key = u8;
        type Latest = Option<u8>;

        fn apply(&self, state: &mut Self::State) {
            match self {
                Self(9, _) => {}
                Self(key, Some(value)) => drop(state.insert(*key, *value)),
                Self(key, None) => drop(state.remove(key)),
            }
        }

        fn latest(&self, state: &Self::State) -> Option<(u8, Option<u8>)> {
            (self.0 != 9).then(|| (self.0, state.get(&self.0).copied()))
        }
    }

    /// What happens to a feed and its readers.
    #[derive(Debug, Clone)]
    enum Step {
        Publish(Set),
        /// Each reader reads so much.
        Read(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let publish = (0u8..5, any::<Option<u8>>()).prop_map(|(key, value)| Step::Publish(Set(key, value)));
        prop::collection::vec(prop_oneof![4 => publish, 1 => (0usize..6).prop_map(Step::Read)], 0..120)
    }

    proptest! {
        /// FEATURES B2, S3. Whatever the capacity and the reader's pace, it ends up with the very state.
        #[test]
        fn a_snapshot_and_the_stream_and_a_resync_after_each_lag_rebuild_the_state(
            capacity in 1usize..6,
            before in prop::collection::vec((0u8..5, any::<Option<u8>>()), 0..9),
            steps in steps(),
        ) {
            let mut feed = Feed::new(NonZeroUsize::new(capacity).unwrap());
            for (key, value) in before {
                feed.publish(Set(key, value));
            }
            let (snapshot, mut cursor) = feed.subscribe_with_snapshot();
            let (mut state, mut next) = (snapshot.state, snapshot.sequence);
            let mut published = next.0;
            for step in steps.into_iter().chain([Step::Read(usize::MAX)]) {
                let read = match step {
                    Step::Publish(event) => {
                        feed.publish(event);
                        published += 1;
                        continue;
                    }
                    Step::Read(read) => read,
                };
                for _ in 0..read.min(1_000) {
                    match feed.poll(&mut cursor) {
                        Ok(Some((sequence, event))) => {
                            // Neither a gap nor an overlap.
                            prop_assert_eq!(sequence, next);
                            next = Sequence(next.0 + 1);
                            event.apply(&mut state);
                        }
                        Ok(None) => {
                            prop_assert_eq!(&state, &feed.state);
                            prop_assert_eq!(next.0, published);
                            break;
                        }
                        Err(Lagged { missed }) => {
                            prop_assert_eq!(next.0 + missed + capacity as u64, published);
                            let snapshot = feed.resync(&mut cursor);
                            (state, next) = (snapshot.state, snapshot.sequence);
                            prop_assert_eq!(next.0, published);
                            prop_assert_eq!(&state, &feed.state);
                        }
                    }
                }
            }
            prop_assert_eq!(&state, &feed.state);
        }

        /// FEATURES B2. It holds one state per key, however much is published, and has them all in the end.
        #[test]
        fn a_coalescing_subscriber_never_lags_and_ends_up_with_the_state(
            capacity in 1usize..6,
            steps in steps(),
        ) {
            let mut feed = Feed::new(NonZeroUsize::new(capacity).unwrap());
            let all = feed.coalesce(Box::new(|_| true));
            let even = feed.coalesce(Box::new(|key| key % 2 == 0));
            let (mut seen, mut seen_even) = (BTreeMap::new(), BTreeMap::new());
            for step in steps.into_iter().chain([Step::Read(usize::MAX)]) {
                let read = match step {
                    Step::Publish(event) => {
                        feed.publish(event);
                        prop_assert!(feed.pending(all) <= 5 && feed.pending(even) <= 3);
                        continue;
                    }
                    Step::Read(read) => read,
                };
                for (id, seen) in [(all, &mut seen), (even, &mut seen_even)] {
                    for _ in 0..read.min(1_000) {
                        let Some(Change { key, latest, .. }) = feed.poll_change(id) else { break };
                        match latest {
                            Some(value) => drop(seen.insert(key, value)),
                            None => drop(seen.remove(&key)),
                        }
                    }
                }
            }
            prop_assert_eq!(&seen, &feed.state);
            seen.retain(|key, _| key % 2 == 0);
            prop_assert_eq!(seen_even, seen);
        }
    }

    /// FEATURES B2.
    #[test]
    fn a_key_that_changes_all_the_time_keeps_no_other_waiting() {
        let mut feed = Feed::new(NonZeroUsize::MIN);
        let id = feed.coalesce(Box::new(|_| true));
        for round in 0..3 {
            feed.publish(Set(0, Some(round)));
            feed.publish(Set(3, Some(round)));
        }
        let mut order = Vec::new();
        for round in 3..6 {
            order.push(feed.poll_change(id).map(|change| (change.key, change.latest)));
            feed.publish(Set(0, Some(round)));
        }
        assert_eq!(order, [Some((0, Some(2))), Some((3, Some(2))), Some((0, Some(4)))]);
        feed.cancel(id);
        feed.publish(Set(0, None));
        assert_eq!((feed.poll_change(id), feed.pending(id)), (None, 0));
    }

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
