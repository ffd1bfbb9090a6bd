//! What may be changed of a daemon while it runs: how many there may be of what, and places that follow that.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::DaemonConfig;

/// The limits that a daemon can be given while it runs. What is there when one is lowered stays and ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// See [`DaemonConfig::max_tunnels`].
    pub max_tunnels: NonZeroUsize,
    /// See [`DaemonConfig::max_tunnels_per_node`].
    pub max_tunnels_per_node: NonZeroUsize,
    /// See [`DaemonConfig::max_streams`].
    pub max_streams: NonZeroUsize,
    /// See [`DaemonConfig::drain_timeout`].
    pub drain_timeout: Duration,
}

impl From<&DaemonConfig> for Limits {
    fn from(config: &DaemonConfig) -> Self {
        let DaemonConfig { max_tunnels, max_tunnels_per_node, max_streams, drain_timeout, .. } = *config;
        Self { max_tunnels, max_tunnels_per_node, max_streams, drain_timeout }
    }
}

/// How many of something there are, against a limit that may change.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: AtomicUsize,
    freed: Notify,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

impl Places {
    /// Takes a place, if there are fewer than that.
    pub(super) fn try_take(self: &Arc<Self>, limit: NonZeroUsize) -> Option<Place> {
        let more = |taken| (taken < limit.get()).then(|| taken + 1);
        let taken = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.is_ok().then(|| Place(Arc::clone(self)))
    }

    /// Waits for a place, as many as there may be by then. Of several who wait, one hears of a place that is freed.
    pub(super) async fn take(
        self: &Arc<Self>,
        limits: &mut watch::Receiver<Limits>,
        limit: impl Fn(&Limits) -> NonZeroUsize,
    ) -> Place {
        loop {
            let now = limit(&limits.borrow_and_update());
            if let Some(place) = self.try_take(now) {
                return place;
            }
            tokio::select! {
                () = self.freed.notified() => {}
                changed = limits.changed() => if changed.is_err() {
                    // Nobody changes them any more.
                    self.freed.notified().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_streams: usize) -> Limits {
        let max_streams = max_streams.try_into().unwrap();
        Limits { max_streams, ..Limits::from(&DaemonConfig::default()) }
    }

    /// FEATURES P1.
    #[tokio::test]
    async fn places_follow_the_limit_up_and_down() {
        let (set, mut now) = watch::channel(limits(1));
        let places = Arc::new(Places::default());
        let first = places.take(&mut now, |limits| limits.max_streams).await;
        let take = |mut now: watch::Receiver<Limits>| {
            let places = Arc::clone(&places);
            tokio::spawn(async move { places.take(&mut now, |limits| limits.max_streams).await })
        };
        let waiting = take(now.clone());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        set.send_replace(limits(2));
        let second = waiting.await.unwrap();
        // Of two that are there, one has to go before one place is free of one.
        set.send_replace(limits(1));
        let waiting = take(now.clone());
        drop(first);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        drop(second);
        let third = waiting.await.unwrap();
        let waiting = take(now);
        drop(set);
        drop(third);
        drop(waiting.await.unwrap());
        assert_eq!(places.taken.load(Ordering::Relaxed), 0);
    }
}
