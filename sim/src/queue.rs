//! What will happen, by time and, at one time, in the order in which it was decided.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use snomesh::gossip::{Channel, DialId, Ticket};
use snomesh::id::{TunnelId, TunnelName};
use snomesh::time::Moment;

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A node is started.
    Start { node: usize },
    /// A node that said goodbye goes.
    Stop { node: usize, life: u32 },
    /// A node is killed for good.
    Kill { node: usize },
    /// A node wanted to be woken.
    Wake { node: usize, life: u32 },
    /// The oldest frame of a pipe arrives.
    Deliver { connection: usize, line: usize, channel: Channel },
    /// A datagram arrives.
    Datagram { connection: usize, line: usize, number: u64, bytes: Box<[u8]> },
    /// A writer learns that its channel has room again.
    Writable { connection: usize, end: usize, channel: Channel },
    /// A handshake is through, or repeats its packets.
    Handshake { from: usize, life: u32, to: usize, dial: DialId, deadline: Moment },
    /// Nobody has answered.
    DialFailed { node: usize, life: u32, dial: DialId },
    /// An end of a connection is up.
    Up { connection: usize, end: usize },
    /// The news that a connection is closed arrives at an end.
    Closed { connection: usize, end: usize, reset: bool },
    /// An end may have heard nothing for too long.
    Idle { connection: usize, end: usize },
    /// A disk is done.
    Persisted { node: usize, life: u32, ticket: Ticket },
    /// A node writes an attribute.
    Write { node: usize },
    /// A node adds to a counter.
    Count { node: usize },
    /// A node adds an element to a set, or removes one.
    Change { node: usize },
    /// Some node writes many.
    Burst,
    /// Some node writes all keys.
    Rewrite,
    /// An operation of the scenario's schedule.
    Operate { number: usize },
    /// A node registers a tunnel.
    Register { node: usize },
    /// A node takes a tunnel back.
    Deregister { node: usize, life: u32, name: TunnelName, tunnel: TunnelId },
    /// A subscriber looks.
    Look { node: usize, life: u32, subscriber: usize },
    /// A fault begins.
    FaultBegins { fault: usize },
    /// A fault is over.
    FaultEnds { fault: usize },
    /// Everything has healed.
    Heal,
    /// Do the nodes agree?
    Sample,
    /// All nodes must agree by now.
    Deadline,
    /// The run is over.
    End,
}

#[derive(Debug)]
struct Scheduled {
    at: Moment,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, as the heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// All that will happen.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Scheduled>,
    sequence: u64,
}

impl Queue {
    /// Something will happen at that time.
    pub(crate) fn push(&mut self, at: Moment, event: Event) {
        self.sequence += 1;
        self.heap.push(Scheduled { at, sequence: self.sequence, event });
    }

    /// What happens next.
    pub(crate) fn pop(&mut self) -> Option<(Moment, Event)> {
        self.heap.pop().map(|scheduled| (scheduled.at, scheduled.event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_their_making() {
        let mut queue = Queue::default();
        for (at, node) in [(2, 0), (1, 1), (2, 2), (1, 3)] {
            queue.push(Moment(at), Event::Start { node });
        }
        let order: Vec<usize> = std::iter::from_fn(|| queue.pop())
            .filter_map(|(_, event)| if let Event::Start { node } = event { Some(node) } else { None })
            .collect();
        assert_eq!(order, [1, 3, 0, 2]);
    }
}
