//! What happened in a run, counted: the faults that bit and the rare paths that were taken.
//!
//! A fault that is written in a scenario and blocks nothing is no test. Scenarios say how often which of these
//! must have happened (`expect.at_least`), and the plain `sim` wants each of [`Point::REQUIRED`] at least once.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub(crate) enum Point {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Point {
            /// All of them, in the order of reports.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// How it is written in scenarios and reports.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it counts, in one line.
            pub(crate) fn about(self) -> &'static str {
                match self { $(Self::$variant => [$($doc),+][0].trim_ascii(),)+ }
            }
        }
    };
}

points! {
    /// Frames and datagrams that a partition, a cut or a flapping link held up or dropped.
    BlockedByPartition = "blocked_by_partition",
    /// Frames and datagrams that went into a direction that was closed while the other was open.
    BlockedOneWay = "blocked_one_way",
    /// Links that went down again after they had come back.
    Flaps = "flaps",
    /// Nodes that were killed.
    Crashes = "crashes",
    /// Nodes that were started again.
    Restarts = "restarts",
    /// Nodes that were started after all others.
    Joins = "joins",
    /// Nodes that said that they go, and went.
    Leaves = "leaves",
    /// Kills that caught a write before its disk had answered.
    CrashWithUnsyncedWrite = "crash_with_unsynced_write",
    /// Restarts that found all that was confirmed.
    RestartFromKeptDisk = "restart_from_kept_disk",
    /// Restarts that found less than was confirmed.
    RestartFromStaleDisk = "restart_from_stale_disk",
    /// Restarts that found nothing although there had been something.
    WipedRejoin = "wiped_rejoin",
    /// Inputs that a frozen node had to wait for.
    Frozen = "frozen",
    /// Frames that a reader left lying.
    UnreadFrames = "unread_frames",
    /// Frames after which a channel made its writer wait.
    SendBlocked = "send_blocked",
    /// Packets that were lost: streams repeated them.
    Lost = "lost",
    /// Datagrams that never arrived.
    DatagramsLost = "datagrams_lost",
    /// Datagrams that arrived twice.
    Duplicated = "duplicated",
    /// Datagrams that arrived before one that was sent earlier.
    Reordered = "reordered",
    /// Frames in which a bit was flipped.
    Corrupted = "corrupted",
    /// Frames with a flipped bit that could not be decoded.
    RefusedByCodec = "refused_by_codec",
    /// Frames with a flipped bit that the core closed the link for.
    RefusedByCore = "refused_by_core",
    /// Frames in which a relay has changed an entry of another node.
    Forged = "forged",
    /// Frames in which a relay has accounted for what another node has not written.
    Overstated = "overstated",
    /// Entries without a seal of their author's that the core closed the link for.
    RefusedForgery = "refused_forgery",
    /// Wall clocks that jumped.
    ClockJumps = "clock_jumps",
    /// Packets for which there was no room in front of a connection's bandwidth.
    QueueDropped = "queue_dropped",
    /// Connections that were reset by a fault.
    LinkResets = "link_resets",
    /// Handshakes that failed at once.
    Refused = "refused",
    /// Machines that were started with the disk of another.
    Clones = "clones",
    /// Subscribers that died and began anew.
    SubscriberPanics = "subscriber_panics",
    /// Inputs that a node handled while its clock stood still.
    ClockStood = "clock_stood",
    /// Wall clocks that jumped back.
    ClockWentBack = "clock_went_back",
    /// Lives that were begun earlier than one that had been lived: the disk had been turned back, and so had the clock.
    EarlierLives = "earlier_lives",
    /// Alarms about a peer's clock.
    DriftAlarms = "drift_alarms",
    /// Writes that a node refused because its clock is off against its peers'.
    RefusedForClock = "refused_for_clock",
    /// Connections that died of silence.
    IdleTimeouts = "idle_timeouts",
    /// Connections that a restarted or closed end reset.
    Resets = "resets",
    /// Frames that were in flight on a connection when it died.
    InFlightLost = "in_flight_lost",
    /// Attempts to connect that failed.
    DialsFailed = "dials_failed",
    /// Pairs of nodes that connected to each other twice.
    SimultaneousDials = "simultaneous_dials",
    /// Subscribers that were told that they lagged.
    Lagged = "lagged",
    /// Subscribers that lagged again after they had caught up.
    LaggedTwice = "lagged_twice",
    /// Frames that were sent on streams.
    FramesSent = "frames_sent",
    /// Bytes of frames that were sent on streams.
    BytesSent = "bytes_sent",
    /// Datagrams that were sent.
    DatagramsSent = "datagrams_sent",
    /// Bytes of datagrams that were sent.
    DatagramBytes = "datagram_bytes",
    /// Deltas merged.
    Deltas = "deltas",
    /// Deltas with writes of others than the sender.
    Relayed = "relayed",
    /// Deltas that were cut at the budget: the next followed at once.
    DeltaCut = "delta_cut",
    /// Entries that came although they had been seen.
    DuplicateIgnored = "duplicate_ignored",
    /// Requests for what was missing.
    Wants = "wants",
    /// Contexts that were told as a whole.
    WholeContexts = "whole_contexts",
    /// Bytes of the largest heartbeat.
    LargestHeartbeat = "largest_heartbeat",
    /// Bytes of the largest hello.
    LargestHello = "largest_hello",
    /// News that what a peer lacks was collected.
    Offers = "offers",
    /// Comparisons with a peer that came to their end.
    Fetched = "fetched",
    /// Frames that told of entries whose removal was collected.
    DeadTold = "dead_told",
    /// Contexts with a hole in a lane.
    Gaps = "gaps",
    /// Writes of attributes and registrations that made a dot.
    Writes = "writes",
    /// Writes that changed nothing.
    NoOpWrites = "no_op_writes",
    /// Removals.
    Removals = "removals",
    /// Reads of a key with siblings: one of them had to win.
    Siblings = "siblings",
    /// Keys that were written on two sides that did not reach each other.
    WrittenOnBothSides = "written_on_both_sides",
    /// Removals on one side of what the other side had not heard was removed.
    RemovedWhileApart = "removed_while_apart",
    /// Nodes that found that somebody else lives under their name, and went on in a new life.
    Doubles = "doubles",
    /// Keys that a store has at rest, those of removed values among them; the most of any node.
    KeysAtRest = "keys_at_rest",
    /// Verdicts that a node is suspect.
    Suspected = "suspected",
    /// Verdicts that a node is down.
    Downs = "downs",
    /// Nodes that were evicted and heard of it, and went on in a new life.
    TakenForDead = "taken_for_dead",
    /// Nodes that were evicted, by those who noticed.
    Evicted = "evicted",
    /// Lives of a node that were over, put down under one name; at each node.
    Retired = "retired",
    /// Lanes of which something was seen at rest, those that are retired not counted; the most of any node.
    LanesAtRest = "lanes_at_rest",
    /// Nodes of which one number stands for all lives that are over, at rest; the most of any node.
    PastsAtRest = "pasts_at_rest",
    /// Members at rest, of any node.
    MembersAtRest = "members_at_rest",
}

impl Point {
    /// Whether it counts what a fault did, and not what the mesh did.
    pub(crate) fn is_fault(self) -> bool {
        self <= Self::ClockWentBack
    }

    /// What the plain `sim` must have seen, or it has tested too little.
    pub(crate) const REQUIRED: &[Self] = &[
        Self::BlockedByPartition,
        Self::BlockedOneWay,
        Self::Flaps,
        Self::Crashes,
        Self::Restarts,
        Self::CrashWithUnsyncedWrite,
        Self::RestartFromKeptDisk,
        Self::WipedRejoin,
        Self::UnreadFrames,
        Self::SendBlocked,
        Self::Lost,
        Self::Duplicated,
        Self::Reordered,
        Self::ClockWentBack,
        Self::Resets,
        Self::DialsFailed,
        Self::Lagged,
        Self::LaggedTwice,
        Self::Relayed,
        Self::DeltaCut,
        Self::DuplicateIgnored,
        Self::Wants,
        Self::Fetched,
        Self::DeadTold,
        Self::NoOpWrites,
        Self::Removals,
        Self::Siblings,
        Self::WrittenOnBothSides,
        Self::RemovedWhileApart,
        Self::Suspected,
        Self::Downs,
    ];
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often each [`Point`] was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coverage {
    counts: [u64; Point::ALL.len()],
}

impl Default for Coverage {
    fn default() -> Self {
        Self { counts: [0; Point::ALL.len()] }
    }
}

impl Coverage {
    /// Counts one.
    pub(crate) fn hit(&mut self, point: Point) {
        self.add(point, 1);
    }

    /// Counts up to a level.
    pub(crate) fn raise(&mut self, point: Point, level: u64) {
        let count = &mut self.counts[point as usize];
        *count = level.max(*count);
    }

    /// Counts several.
    pub(crate) fn add(&mut self, point: Point, count: u64) {
        self.counts[point as usize] += count;
    }

    /// How often it was reached.
    pub(crate) fn count(&self, point: Point) -> u64 {
        self.counts[point as usize]
    }

    /// Adds another run's counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// All points with their counts, in the order of reports.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Point, u64)> + '_ {
        Point::ALL.iter().map(|point| (*point, self.count(*point)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_counted_apart_and_added_up() {
        let mut coverage = Coverage::default();
        coverage.hit(Point::Lagged);
        let mut sum = coverage.clone();
        sum.merge(&coverage);
        assert_eq!(sum.count(Point::Lagged), 2);
        assert_eq!(sum.iter().map(|(_, count)| count).sum::<u64>(), 2);
    }

    #[test]
    fn names_are_those_of_scenario_files() {
        for point in Point::ALL {
            assert_eq!(serde_json::to_value(point).unwrap(), point.name());
        }
    }
}
