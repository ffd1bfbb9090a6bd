//! Limits and times of a daemon.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::at_least_one;
use crate::service::{Dialect, NEGOTIATION_TIMEOUT};

/// Limits and times of a daemon. Every value is valid; the comments say what the extremes cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Tunnels in all, authenticated or not. Beyond it newcomers are turned away.
    pub max_tunnels: NonZeroUsize,
    /// Tunnels to one node. Less than two lets a node that lost its address wait for its own ghost to time out.
    pub max_tunnels_per_node: NonZeroUsize,
    /// Streams of one tunnel that peers may have open at a time. Beyond it they wait.
    pub max_streams: NonZeroUsize,
    /// Streams of one tunnel that have not said yet what they are for. Beyond it the next ones wait.
    pub max_undecided_streams: NonZeroUsize,
    /// Streams a second of one tunnel that come to nothing: malformed, refused, reset or failed. Beyond it all streams of
    /// that tunnel wait. Requests that are served do not count.
    pub max_wasted_streams: NonZeroU32,
    /// So many of them may come at once.
    pub wasted_stream_burst: NonZeroU32,
    /// How long a tunnel may take to authenticate. Too short loses peers on bad links.
    pub authentication_timeout: Duration,
    /// How long a stream may take to say what it is for.
    pub negotiation_timeout: Duration,
    /// How long a shutdown waits for streams to end by themselves.
    pub drain_timeout: Duration,
    /// How long a shutdown then waits for the clean-up.
    pub cut_timeout: Duration,
    /// How many events a slow subscriber may be behind before it misses some.
    pub event_capacity: NonZeroUsize,
    /// How streams begin that peers open.
    pub dialect: Dialect,
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            max_tunnels: const { at_least_one(1024) },
            max_tunnels_per_node: const { at_least_one(4) },
            max_streams: const { at_least_one(8192) },
            max_undecided_streams: const { at_least_one(32) },
            max_wasted_streams: const { NonZeroU32::new(200).expect("not zero") },
            wasted_stream_burst: const { NonZeroU32::new(400).expect("not zero") },
            authentication_timeout: Duration::from_secs(5),
            negotiation_timeout: NEGOTIATION_TIMEOUT,
            drain_timeout: Duration::from_secs(10),
            cut_timeout: Duration::from_secs(5),
            event_capacity: const { at_least_one(1024) },
            dialect: Dialect::Native,
        }
    }
}
