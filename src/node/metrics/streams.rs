//! Streams: those that this node opens for its visitors, and those that it serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::named::{Named, Times};
use crate::id::TunnelName;
use crate::mesh::{RouteError, RouteObserver};
use crate::service::{OpenError, Refusal, TargetObserver};
use crate::tunnel::{StreamObserver, TunnelStream};

/// What goes over the streams of one tunnel now, counted by those who move it.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) active: AtomicI64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// The streams of one tunnel, in one direction.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) flow: Arc<Flow>,
    /// How attempts to open them went.
    pub(super) results: BTreeMap<&'static str, u64>,
    /// How long those took that were opened.
    pub(super) open: Times,
    /// How long they lived that have ended.
    pub(super) lived: Times,
}

/// The visitors of one bind.
#[derive(Debug, Clone, Default)]
pub(super) struct Visits {
    pub(super) accepted: u64,
    pub(super) errors: BTreeMap<&'static str, u64>,
}

/// Streams, by tunnel.
#[derive(Debug, Default)]
pub(in crate::node) struct Streams {
    /// Opened for a visitor of this node, by the destination that he asked for.
    pub(super) opened: Named<Tally>,
    /// To a target of this node.
    pub(super) served: Named<Tally>,
    /// How long targets took to be connected to.
    pub(super) connects: Named<Times>,
    pub(super) binds: Named<Visits>,
    /// Lookups of destinations: somebody found, nobody found, found and not reached.
    pub(super) resolved: [AtomicU64; 3],
    pub(super) resolving: std::sync::Mutex<Times>,
}

/// A stream that lives.
#[derive(Debug)]
struct Living {
    flow: Arc<Flow>,
    begun: Instant,
    ended: Ended,
}

/// Where its end is noted.
#[derive(Debug)]
struct Ended {
    streams: Arc<Streams>,
    tunnel: String,
    served: bool,
}

impl StreamObserver for Living {
    fn sent(&self, bytes: usize) {
        self.flow.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn received(&self, bytes: usize) {
        self.flow.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.flow.active.fetch_sub(1, Ordering::Relaxed);
        let Ended { streams, tunnel, served } = &self.ended;
        let named = if *served { &streams.served } else { &streams.opened };
        named.change(tunnel, |tally| tally.lived.add(self.begun.elapsed()));
    }
}

/// How an attempt went, in a word.
fn result_of(opened: &Result<TunnelStream, RouteError>) -> &'static str {
    match opened {
        Ok(_) => "ok",
        Err(RouteError::NotFound { .. }) => "not_found",
        Err(RouteError::NoWay { .. }) => "no_route",
        Err(
            RouteError::NotPermitted { .. } | RouteError::Open(OpenError::Refused(Refusal::NotPermitted)),
        ) => "acl",
        Err(
            RouteError::Unhealthy { .. } | RouteError::Open(OpenError::Refused(Refusal::TargetUnreachable)),
        ) => "target_error",
        Err(RouteError::Open(OpenError::Refused(_))) => "refused",
        Err(RouteError::Open(OpenError::TimedOut)) => "timeout",
        Err(RouteError::Open(_)) => "reset",
        Err(RouteError::Stopped(_)) => "stopped",
    }
}

impl Streams {
    /// A visitor has come to a bind.
    pub(in crate::node) fn accepted(&self, bind: &str) {
        self.binds.change(bind, |visits| visits.accepted += 1);
    }

    /// How many streams targets of this node serve now.
    pub(in crate::node) fn serving(&self) -> u64 {
        let active = |tally: &Tally| tally.flow.active.load(Ordering::Relaxed);
        let active: i64 = self.served.read().values().map(active).sum();
        u64::try_from(active).unwrap_or(0)
    }

    /// That bind is no more.
    pub(in crate::node) fn forget_bind(&self, bind: &str) {
        self.binds.forget(bind);
    }

    /// A stream was opened, or was not; for a visitor of a bind, if it has one.
    pub(in crate::node) fn opened(
        self: &Arc<Self>,
        tunnel: &str,
        bind: Option<&str>,
        took: Duration,
        opened: Result<TunnelStream, RouteError>,
    ) -> Result<TunnelStream, RouteError> {
        let result = result_of(&opened);
        if let (Some(bind), Err(_)) = (bind, &opened) {
            self.binds.change(bind, |visits| *visits.errors.entry(result).or_default() += 1);
        }
        self.opened.change(tunnel, |tally| {
            *tally.results.entry(result).or_default() += 1;
            if opened.is_ok() {
                tally.open.add(took);
            }
        });
        Ok(opened?.observed_by(self.living(tunnel, false)))
    }

    fn living(self: &Arc<Self>, tunnel: &str, served: bool) -> Arc<dyn StreamObserver> {
        let named = if served { &self.served } else { &self.opened };
        let mut flow = Arc::default();
        named.change(tunnel, |tally| flow = Arc::clone(&tally.flow));
        flow.active.fetch_add(1, Ordering::Relaxed);
        let ended = Ended { streams: Arc::clone(self), tunnel: tunnel.to_owned(), served };
        Arc::new(Living { flow, begun: Instant::now(), ended })
    }
}

/// The streams of a node, for those who open and serve them.
#[derive(Debug)]
pub(in crate::node) struct Observer(pub(in crate::node) Arc<Streams>);

impl TargetObserver for Observer {
    fn dialled(&self, name: &TunnelName, took: Duration, reached: bool) {
        if reached {
            self.0.connects.change(name.as_str(), |times| times.add(took));
        }
    }

    fn served(&self, name: &TunnelName) -> Arc<dyn StreamObserver> {
        self.0.living(name.as_str(), true)
    }
}

impl RouteObserver for Observer {
    fn resolved(&self, took: Duration, found: bool) {
        self.0.resolved[usize::from(!found)].fetch_add(1, Ordering::Relaxed);
        self.0.resolving.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(took);
    }

    fn stale(&self) {
        self.0.resolved[2].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_counts_while_it_lives_and_its_bytes_stay() {
        let streams = Arc::new(Streams::default());
        let (first, second) = (streams.living("web", true), streams.living("web", true));
        first.sent(3);
        second.received(4);
        let flow = Arc::clone(&streams.served.read()["web"].flow);
        let read = || {
            let counted = (flow.sent.load(Ordering::Relaxed), flow.received.load(Ordering::Relaxed));
            (flow.active.load(Ordering::Relaxed), counted)
        };
        assert_eq!((read(), streams.serving()), ((2, (3, 4)), 2));
        drop((first, second));
        assert_eq!((read(), streams.serving()), ((0, (3, 4)), 0));
        let lived: u64 = streams.served.read()["web"].lived.buckets().iter().map(|(_, count)| count).sum();
        assert_eq!(lived, 2);
        assert!(streams.opened.read().is_empty());
    }
}
