//! What a node measures of itself, in the text format of Prometheus.
//!
//! Every node has a registry of its own, for several live in one process. What only grows while things happen is
//! counted where it happens, in [`Metrics`]; what the node knows anyway is read when somebody asks
//! ([`scrape`]), so that it costs nothing meanwhile and cannot be out of date.
//!
//! **Invariant:** the number of series is bounded: peers beyond [`MAX_LABELS`] and tunnels beyond it are summed up
//! as `other`.

mod connections;
mod named;
mod page;
mod process;
mod scrape;
mod streams;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use connections::Connections;
pub(super) use connections::Observer as ConnectionObserver;
use named::HealthChecks;
pub(super) use scrape::scrape;
pub(super) use streams::Observer as StreamObserver;
use streams::Streams;

/// How many peers, and how many tunnels, have series of their own.
const MAX_LABELS: usize = 64;

/// What everything beyond [`MAX_LABELS`] is called. No node can have this name: its series would be mixed up with
/// those of the others, and nothing worse.
const OTHER: &str = "other";

/// What is counted while it happens.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// Readers of events that were told that they missed some, by what they read.
    lagged: [AtomicU64; 2],
    /// Readers of events there are now.
    readers: AtomicI64,
    /// Reloads of the configuration, by how they went: taken over, refused.
    reloads: [AtomicU64; 2],
    /// Renewals of the node's certificate, by how they went: renewed, failed.
    renewals: [AtomicU64; 2],
    /// Whether the last reload was refused.
    reload_failed: AtomicU64,
    /// Requests to the admin API that were refused before they were looked at, by reason.
    refused: Mutex<BTreeMap<&'static str, u64>>,
    pub(super) streams: Arc<Streams>,
    pub(super) connections: Arc<Connections>,
    pub(super) health: HealthChecks,
    /// The longest time that the core took for an answer lately, in nanoseconds.
    stall: AtomicU64,
}

/// What a reader of events reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consumer {
    /// All events.
    Events,
    /// A part of the state, and how it changes.
    Watch,
}

impl Metrics {
    pub(super) fn lagged(&self, consumer: Consumer) {
        self.lagged[consumer as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A reader of events has come; it goes when the value does.
    pub(super) fn reader(self: &Arc<Self>) -> Reader {
        self.readers.fetch_add(1, Ordering::Relaxed);
        Reader(Arc::clone(self))
    }

    /// The node's certificate was renewed, or was not.
    pub(super) fn renewed(&self, outcome: Result<(), ()>) {
        self.renewals[usize::from(outcome.is_err())].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reloaded(&self, taken_over: Result<(), ()>) {
        let failed = taken_over.is_err();
        self.reloads[usize::from(failed)].fetch_add(1, Ordering::Relaxed);
        self.reload_failed.store(failed.into(), Ordering::Relaxed);
    }

    /// A request to the admin API was refused before it was looked at.
    pub(super) fn refused(&self, reason: &'static str) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    #[cfg(test)]
    pub(super) fn times_lagged(&self, consumer: Consumer) -> u64 {
        self.lagged[consumer as usize].load(Ordering::Relaxed)
    }

    /// The longest time that the core took for an answer, lately.
    pub(super) fn longest_stall(&self) -> Duration {
        Duration::from_nanos(self.stall.load(Ordering::Relaxed))
    }

    /// The core took that long at worst, lately.
    pub(super) fn stalled(&self, longest: Duration) {
        self.stall.store(u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A reader of events, for as long as it reads.
#[derive(Debug)]
pub(super) struct Reader(Arc<Metrics>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_counts_for_as_long_as_it_reads() {
        let metrics = Arc::new(Metrics::default());
        let (first, second) = (metrics.reader(), metrics.reader());
        assert_eq!(metrics.readers.load(Ordering::Relaxed), 2);
        drop((first, second));
        assert_eq!(metrics.readers.load(Ordering::Relaxed), 0);
    }
}
