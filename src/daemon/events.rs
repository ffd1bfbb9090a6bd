//! The broadcast of events: [`crate::event::Ring`] with subscribers that wait.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::event::{Cursor, Lagged, Ring, Sequence};
use crate::id::{NodeId, TunnelId, TunnelName};
use crate::tunnel::{Closed, Side};

use super::AuthenticationFailure;

/// What happened to a tunnel. Events name tunnels and never hold them: who subscribes and does not listen keeps
/// nothing alive.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TunnelEvent {
    /// A tunnel stands; who the peer is, is not known yet.
    Connected {
        /// The tunnel.
        id: TunnelId,
        /// Which end of it we are.
        side: Side,
        /// Where the peer is, for people.
        remote: Arc<str>,
    },
    /// The peer is known, and the tunnel is in the peer view. Its registration follows.
    Authenticated {
        /// The tunnel.
        id: TunnelId,
        /// What it is called.
        name: TunnelName,
        /// Who the peer has proved to be.
        node: Option<NodeId>,
        /// Which end of it we are.
        side: Side,
    },
    /// The peer was refused, or did not prove itself in time. [`TunnelEvent::Disconnected`] follows.
    AuthenticationFailed {
        /// The tunnel.
        id: TunnelId,
        /// Why.
        failure: AuthenticationFailure,
    },
    /// The registry refused the tunnel, which goes on unregistered.
    RegistrationFailed {
        /// The tunnel.
        id: TunnelId,
        /// What it is called.
        name: TunnelName,
        /// Why.
        error: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The tunnel has ended and is no longer in the peer view. Follows every [`TunnelEvent::Connected`].
    Disconnected {
        /// The tunnel.
        id: TunnelId,
        /// What it was called, if it ever had a name.
        name: Option<TunnelName>,
        /// Who the peer had proved to be, if the tunnel was authenticated.
        node: Option<NodeId>,
        /// Why.
        closed: Closed,
    },
}

impl TunnelEvent {
    /// The tunnel that it is about.
    pub fn id(&self) -> TunnelId {
        match self {
            Self::Connected { id, .. }
            | Self::Authenticated { id, .. }
            | Self::AuthenticationFailed { id, .. }
            | Self::RegistrationFailed { id, .. }
            | Self::Disconnected { id, .. } => *id,
        }
    }
}

/// Publishes events to any number of subscribers and waits for none of them. Clones publish to the same ones.
#[derive(Debug, Clone)]
pub struct Events<E> {
    publisher: Arc<Publisher<E>>,
}

/// Closes the broadcast when the last [`Events`] goes.
#[derive(Debug)]
struct Publisher<E> {
    shared: Arc<Shared<E>>,
}

#[derive(Debug)]
struct Shared<E> {
    state: Mutex<State<E>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<E> {
    ring: Ring<E>,
    closed: bool,
}

impl<E> Shared<E> {
    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_waiters();
    }
}

impl<E> Drop for Publisher<E> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<E: Clone> Events<E> {
    /// A broadcast that remembers the last `capacity` events.
    pub fn new(capacity: NonZeroUsize) -> Self {
        let state = Mutex::new(State { ring: Ring::new(capacity), closed: false });
        Self { publisher: Arc::new(Publisher { shared: Arc::new(Shared { state, changed: Notify::new() }) }) }
    }

    /// Publishes an event and returns its number.
    pub fn publish(&self, event: E) -> Sequence {
        let shared = &self.publisher.shared;
        let sequence = shared.state().ring.publish(event);
        shared.changed.notify_waiters();
        sequence
    }

    /// Subscribes to what is published from now on.
    pub fn subscribe(&self) -> Subscription<E> {
        let shared = Arc::clone(&self.publisher.shared);
        let cursor = shared.state().ring.subscribe();
        Subscription { shared, cursor }
    }

    /// Subscribes to what was published from that number on, as far as it is still held: what is not, is told as a
    /// lag.
    pub fn subscribe_from(&self, next: Sequence) -> Subscription<E> {
        let shared = Arc::clone(&self.publisher.shared);
        let cursor = shared.state().ring.resume(next);
        Subscription { shared, cursor }
    }

    /// Ends the broadcast: subscribers get what they have not seen yet, and then [`RecvError::Closed`].
    pub fn close(&self) {
        self.publisher.shared.close();
    }
}

/// A place in the broadcast. Dropping it costs nobody anything.
#[derive(Debug)]
pub struct Subscription<E> {
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

impl<E: Clone> Subscription<E> {
    /// Waits for the next event. Safe to cancel.
    ///
    /// # Errors
    ///
    /// [`RecvError::Lagged`] once per lag, [`RecvError::Closed`] at the end.
    pub async fn recv(&mut self) -> Result<(Sequence, E), RecvError> {
        loop {
            let shared = Arc::clone(&self.shared);
            // Made before looking, so that what is published in between wakes it.
            let changed = shared.changed.notified();
            if let Some(event) = self.try_recv()? {
                return Ok(event);
            }
            changed.await;
        }
    }

    /// The next event if there is one already.
    ///
    /// # Errors
    ///
    /// As [`Subscription::recv`].
    pub fn try_recv(&mut self) -> Result<Option<(Sequence, E)>, RecvError> {
        let state = self.shared.state();
        match state.ring.poll(&mut self.cursor)? {
            Some((sequence, event)) => Ok(Some((sequence, event.clone()))),
            None if state.closed => Err(RecvError::Closed),
            None => Ok(None),
        }
    }

    /// The number of the event that it wants next.
    pub fn next(&self) -> Sequence {
        self.cursor.next()
    }

    /// How many events there are that it has not seen, lost ones included.
    pub fn behind(&self) -> u64 {
        self.shared.state().ring.behind(&self.cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(capacity: usize) -> Events<u32> {
        Events::new(NonZeroUsize::new(capacity).unwrap())
    }

    /// FEATURES S3.
    #[tokio::test]
    async fn a_slow_subscriber_lags_once_and_goes_on() {
        let events = events(2);
        let mut slow = events.subscribe();
        for event in 0..5 {
            events.publish(event);
        }
        assert_eq!(slow.behind(), 5);
        assert_eq!(slow.recv().await, Err(RecvError::Lagged(Lagged { missed: 3 })));
        assert_eq!(slow.recv().await, Ok((Sequence(3), 3)));
        assert_eq!(slow.recv().await, Ok((Sequence(4), 4)));
        assert_eq!(slow.try_recv(), Ok(None));
    }

    /// FEATURES S3: who comes back with a number goes on there, and is told exactly what is not held any more.
    #[tokio::test]
    async fn a_subscriber_that_comes_back_goes_on_or_lags() {
        let events = events(2);
        (0..5).for_each(|event| {
            events.publish(event);
        });
        assert_eq!(events.subscribe_from(Sequence(4)).try_recv(), Ok(Some((Sequence(4), 4))));
        assert_eq!(events.subscribe_from(Sequence(5)).try_recv(), Ok(None));
        assert_eq!(events.subscribe_from(Sequence(99)).try_recv(), Ok(None));
        let missed = Lagged { missed: 2 };
        assert_eq!(events.subscribe_from(Sequence(1)).try_recv(), Err(RecvError::Lagged(missed)));
    }

    #[tokio::test]
    async fn a_waiting_subscriber_is_woken() {
        let events = events(1);
        let mut waiting = events.subscribe();
        let woken = tokio::spawn(async move { waiting.recv().await });
        tokio::task::yield_now().await;
        events.publish(7);
        assert_eq!(woken.await.unwrap(), Ok((Sequence(0), 7)));
    }

    #[tokio::test]
    async fn the_end_comes_after_everything_that_was_published() {
        let events = events(4);
        let mut subscription = events.subscribe();
        events.publish(1);
        drop(events);
        assert_eq!(subscription.recv().await, Ok((Sequence(0), 1)));
        assert_eq!(subscription.recv().await, Err(RecvError::Closed));
    }
}
