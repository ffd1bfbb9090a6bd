//! The broadcast of events: [`crate::event::Feed`] with subscribers that wait.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::event::{Change, CoalescingId, Cursor, Feed, Lagged, Published, Sequence, Snapshot};

/// Publishes events to any number of subscribers and waits for none of them. Clones publish to the same ones.
#[derive(Debug, Clone)]
pub struct Events<E: Published> {
    publisher: Arc<Publisher<E>>,
}

/// Closes the broadcast when the last [`Events`] goes.
#[derive(Debug)]
struct Publisher<E: Published> {
    shared: Arc<Shared<E>>,
}

#[derive(Debug)]
struct Shared<E: Published> {
    state: Mutex<State<E>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<E: Published> {
    feed: Feed<E>,
    closed: bool,
}

impl<E: Published> Shared<E> {
    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_waiters();
    }

    /// Waits until `poll` gives something.
    async fn wait<T>(&self, mut poll: impl FnMut() -> Result<Option<T>, RecvError>) -> Result<T, RecvError> {
        loop {
            // Made before looking, so that what is published in between wakes it.
            let changed = self.changed.notified();
            if let Some(found) = poll()? {
                return Ok(found);
            }
            changed.await;
        }
    }
}

impl<E: Published> Drop for Publisher<E> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<E: Published> Events<E> {
    /// A broadcast that remembers the last `capacity` events.
    pub fn new(capacity: NonZeroUsize) -> Self {
        let state = Mutex::new(State { feed: Feed::new(capacity), closed: false });
        Self { publisher: Arc::new(Publisher { shared: Arc::new(Shared { state, changed: Notify::new() }) }) }
    }

    /// Publishes an event and returns its number.
    pub fn publish(&self, event: E) -> Sequence {
        let shared = &self.publisher.shared;
        let sequence = shared.state().feed.publish(event);
        shared.changed.notify_waiters();
        sequence
    }

    /// Subscribes to what is published from now on.
    pub fn subscribe(&self) -> Subscription<E> {
        let shared = Arc::clone(&self.publisher.shared);
        let cursor = shared.state().feed.subscribe();
        Subscription { shared, cursor }
    }

    /// Subscribes to what was published from that number on, as far as it is still held: what is not, is told as a
    /// lag.
    pub fn subscribe_from(&self, next: Sequence) -> Subscription<E> {
        let shared = Arc::clone(&self.publisher.shared);
        let cursor = shared.state().feed.resume(next);
        Subscription { shared, cursor }
    }

    /// The state that all events so far have made, and a subscription to those that follow: no gap, no overlap.
    pub fn subscribe_with_snapshot(&self) -> (Snapshot<E::State>, Subscription<E>) {
        let shared = Arc::clone(&self.publisher.shared);
        let (snapshot, cursor) = shared.state().feed.subscribe_with_snapshot();
        (snapshot, Subscription { shared, cursor })
    }

    /// Subscribes to the latest state of the keys that `wants` takes, as they change from now on. Cannot lag.
    pub fn coalesce(&self, wants: impl Fn(&E::Key) -> bool + Send + 'static) -> Coalescing<E> {
        let shared = Arc::clone(&self.publisher.shared);
        let id = shared.state().feed.coalesce(Box::new(wants));
        Coalescing { shared, id }
    }

    /// Ends the broadcast: subscribers get what they have not seen yet, and then [`RecvError::Closed`].
    pub fn close(&self) {
        self.publisher.shared.close();
    }
}

/// A place in the broadcast. Dropping it costs nobody anything.
#[derive(Debug)]
pub struct Subscription<E: Published> {
    shared: Arc<Shared<E>>,
    cursor: Cursor,
}

/// There is no next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The subscriber was too slow and missed events; it goes on with the oldest one still held.
    #[error(transparent)]
    Lagged(#[from] Lagged),
    /// The broadcast has ended and everything was seen.
    #[error("no more events")]
    Closed,
}

impl<E: Published> Subscription<E> {
    /// Waits for the next event. Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] once per lag, [`RecvError::Closed`] at the end.
    pub async fn recv(&mut self) -> Result<(Sequence, E), RecvError> {
        let shared = Arc::clone(&self.shared);
        shared.wait(|| self.try_recv()).await
    }

    /// The next event if there is one already.
    ///
    /// # Errors
    ///
    /// As [`Subscription::recv`].
    pub fn try_recv(&mut self) -> Result<Option<(Sequence, E)>, RecvError> {
        let state = self.shared.state();
        match state.feed.poll(&mut self.cursor)? {
            Some((sequence, event)) => Ok(Some((sequence, event.clone()))),
            None if state.closed => Err(RecvError::Closed),
            None => Ok(None),
        }
    }

    /// After [`RecvError::Lagged`]: the state that all events so far have made. The subscription goes on from there.
    ///
    /// Of publishers that keep no state beside their events, such as the mesh, ask the publisher.
    pub fn resync(&mut self) -> Snapshot<E::State> {
        self.shared.state().feed.resync(&mut self.cursor)
    }

    /// How many events there are that it has not seen, lost ones included.
    pub fn behind(&self) -> u64 {
        self.shared.state().feed.behind(&self.cursor)
    }

    /// The number of the event that it wants next.
    pub fn next(&self) -> Sequence {
        self.cursor.next()
    }
}

/// The latest state of each key that changes, once, in the order of the first change that was not seen.
///
/// It holds one state per key at most and cannot lag. Dropping it costs nobody anything.
pub struct Coalescing<E: Published> {
    shared: Arc<Shared<E>>,
    id: CoalescingId,
}

impl<E: Published> fmt::Debug for Coalescing<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalescing").field("pending", &self.pending()).finish_non_exhaustive()
    }
}

impl<E: Published> Drop for Coalescing<E> {
    fn drop(&mut self) {
        self.shared.state().feed.cancel(self.id);
    }
}

impl<E: Published> Coalescing<E> {
    /// Waits for a key that has changed; nothing when the broadcast has ended and everything was seen. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Change<E::Key, E::Latest>> {
        let shared = Arc::clone(&self.shared);
        shared
            .wait(|| {
                let mut state = shared.state();
                match state.feed.poll_change(self.id) {
                    None if state.closed => Err(RecvError::Closed),
                    change => Ok(change),
                }
            })
            .await
            .ok()
    }

    /// A key that has changed, if there is one already.
    pub fn try_recv(&mut self) -> Option<Change<E::Key, E::Latest>> {
        self.shared.state().feed.poll_change(self.id)
    }

    /// Of how many keys it has not seen the latest state.
    pub fn pending(&self) -> usize {
        self.shared.state().feed.pending(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is the state.
    #[derive(Debug, Clone, PartialEq)]
    struct Is(u32);

    impl Published for Is {
        type State = u32;
        type Key = ();
        type Latest = u32;

        fn apply(&self, state: &mut u32) {
            *state = self.0;
        }

        fn latest(&self, state: &u32) -> Option<((), u32)> {
            Some(((), *state))
        }
    }

    fn events(capacity: usize) -> Events<Is> {
        Events::new(NonZeroUsize::new(capacity).unwrap())
    }

    /// FEATURES S3.
    #[tokio::test]
    async fn a_slow_subscriber_lags_once_and_goes_on() {
        let events = events(2);
        let mut slow = events.subscribe();
        for event in 0..5 {
            events.publish(Is(event));
        }
        assert_eq!(slow.behind(), 5);
        assert_eq!(slow.recv().await, Err(RecvError::Lagged(Lagged { missed: 3 })));
        assert_eq!(slow.recv().await, Ok((Sequence(3), Is(3))));
        assert_eq!(slow.recv().await, Ok((Sequence(4), Is(4))));
        assert_eq!(slow.try_recv(), Ok(None));
    }

    /// FEATURES S3: who comes back with a number goes on there, and is told exactly what is not held any more.
    #[tokio::test]
    async fn a_subscriber_that_comes_back_goes_on_or_lags() {
        let events = events(2);
        (0..5).for_each(|event| {
            events.publish(Is(event));
        });
        assert_eq!(events.subscribe_from(Sequence(4)).try_recv(), Ok(Some((Sequence(4), Is(4)))));
        assert_eq!(events.subscribe_from(Sequence(5)).try_recv(), Ok(None));
        assert_eq!(events.subscribe_from(Sequence(99)).try_recv(), Ok(None));
        let missed = Lagged { missed: 2 };
        assert_eq!(events.subscribe_from(Sequence(1)).try_recv(), Err(RecvError::Lagged(missed)));
    }

    /// FEATURES B2, S3.
    #[tokio::test]
    async fn a_subscriber_that_lagged_gets_the_state_and_goes_on_from_there() {
        let events = events(2);
        events.publish(Is(7));
        let (snapshot, mut slow) = events.subscribe_with_snapshot();
        assert_eq!(snapshot, Snapshot { state: 7, sequence: Sequence(1) });
        for event in 0..5 {
            events.publish(Is(event));
        }
        assert_eq!(slow.recv().await, Err(RecvError::Lagged(Lagged { missed: 3 })));
        assert_eq!(slow.resync(), Snapshot { state: 4, sequence: Sequence(6) });
        assert_eq!(slow.try_recv(), Ok(None));
        events.publish(Is(9));
        assert_eq!(slow.recv().await, Ok((Sequence(6), Is(9))));
    }

    /// FEATURES B2.
    #[tokio::test]
    async fn a_coalescing_subscriber_is_woken_gets_the_latest_and_then_the_end() {
        let events = events(1);
        let mut latest = events.coalesce(|()| true);
        let woken = tokio::spawn(async move { (latest.recv().await.map(|change| change.latest), latest) });
        tokio::task::yield_now().await;
        events.publish(Is(1));
        let (first, mut latest) = woken.await.unwrap();
        assert_eq!(first, Some(1));
        for event in 2..9 {
            events.publish(Is(event));
        }
        drop(events);
        let change = latest.recv().await.unwrap();
        assert_eq!((change.sequence, change.latest), (Sequence(7), 8));
        assert_eq!(latest.recv().await, None);
    }

    #[tokio::test]
    async fn a_coalescing_subscriber_that_goes_leaves_nothing_behind() {
        let events = events(1);
        let latest = events.coalesce(|()| true);
        let id = latest.id;
        events.publish(Is(1));
        drop(latest);
        assert_eq!(events.publisher.shared.state().feed.pending(id), 0);
    }

    #[tokio::test]
    async fn a_waiting_subscriber_is_woken() {
        let events = events(1);
        let mut waiting = events.subscribe();
        let woken = tokio::spawn(async move { waiting.recv().await });
        tokio::task::yield_now().await;
        events.publish(Is(7));
        assert_eq!(woken.await.unwrap(), Ok((Sequence(0), Is(7))));
    }

    #[tokio::test]
    async fn the_end_comes_after_everything_that_was_published() {
        let events = events(4);
        let mut subscription = events.subscribe();
        events.publish(Is(1));
        drop(events);
        assert_eq!(subscription.recv().await, Ok((Sequence(0), Is(1))));
        assert_eq!(subscription.recv().await, Err(RecvError::Closed));
    }
}
