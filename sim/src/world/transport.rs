//! How connections begin and end.

use std::time::Duration;

use snomesh::gossip::{DialId, LinkId, Side};
use snomesh::time::Moment;

use super::World;
use crate::coverage::Point;
use crate::fault::Blocked;
use crate::network::{DIAL_TIMEOUT, EndState, HANDSHAKE_RETRY, IDLE_TIMEOUT, end_of, link_of, place};
use crate::node::node_at;
use crate::queue::Event;
use crate::random;
use crate::trace::Kind;

impl World<'_> {
    /// The core calls somebody.
    pub(super) fn dial(&mut self, node: usize, dial: DialId, address: &str) {
        let life = self.nodes[node].life;
        let deadline = self.now + DIAL_TIMEOUT;
        let target = node_at(address).filter(|target| *target < self.nodes.len());
        self.record(Some(node), Kind::Dial, target.map_or(u64::MAX, |target| target as u64), dial.0, b"");
        let Some(to) = target else {
            self.queue.push(deadline, Event::DialFailed { node, life, dial });
            return;
        };
        let weather = self.faults.weather(node, to);
        let mut takes = self.network.delay_in(node, to, &weather) * 2;
        let mut generator = self.seed.generator("dial", &[node as u64, u64::from(life), dial.0]);
        while takes < DIAL_TIMEOUT && random::chance(&mut generator, self.network.loss_in(&weather)) {
            self.coverage.hit(Point::Lost);
            takes += HANDSHAKE_RETRY;
        }
        self.queue.push(self.now + takes, Event::Handshake { from: node, life, to, dial, deadline });
    }

    pub(super) fn handshake(&mut self, from: usize, life: u32, to: usize, dial: DialId, deadline: Moment) {
        if !self.lives(from, life) {
            return;
        }
        let blocked = self.faults.blocked(from, to).or_else(|| self.faults.blocked(to, from));
        if let Some(blocked) = blocked {
            self.count_blocked(blocked);
        }
        if from != to && (self.faults.refuses(from) || self.faults.refuses(to)) {
            self.coverage.hit(Point::Refused);
            self.queue.push(self.now, Event::DialFailed { node: from, life, dial });
            return;
        }
        if self.nodes[to].process.is_none() || blocked.is_some() {
            let again = self.now + HANDSHAKE_RETRY;
            let event = if again >= deadline {
                Event::DialFailed { node: from, life, dial }
            } else {
                Event::Handshake { from, life, to, dial, deadline }
            };
            self.queue.push(again.min(deadline), event);
            return;
        }
        let there = self.now + self.network.delay_in(from, to, &self.faults.weather(from, to));
        let ends = [(from, life), (to, self.nodes[to].life)];
        let connection = self.network.connect(ends, [self.now, there]);
        let doubles = self.nodes[from].connections.iter().any(|number| {
            let ends = &self.network.connections[*number].ends;
            ends.iter().any(|end| end.node == to) && ends.iter().all(|end| end.state != EndState::Gone)
        });
        if from != to && doubles {
            self.coverage.hit(Point::SimultaneousDials);
        }
        self.work.dials.insert(connection, dial);
        self.nodes[from].connections.push(connection);
        if from != to {
            self.nodes[to].connections.push(connection);
        }
        self.queue.push(there, Event::Up { connection, end: 1 });
        self.up(connection, 0);
    }

    pub(super) fn dial_failed(&mut self, node: usize, life: u32, dial: DialId) {
        if self.lives(node, life)
            && self.unless_frozen(node, Event::DialFailed { node, life, dial }).is_some()
        {
            self.coverage.hit(Point::DialsFailed);
            self.record(Some(node), Kind::DialFailed, 0, dial.0, b"");
            self.feed(node, |mesh, now| mesh.dial_failed(now, dial));
        }
    }

    pub(super) fn up(&mut self, connection: usize, end: usize) {
        let ends = &self.network.connections[connection].ends;
        let (node, life, peer) = (ends[end].node, ends[end].life, ends[1 - end].node);
        if !self.lives(node, life) || ends[end].state != EndState::Coming {
            return;
        }
        if self.unless_frozen(node, Event::Up { connection, end }).is_none() {
            return;
        }
        let this = &mut self.network.connections[connection].ends[end];
        this.state = EndState::Up;
        this.heard_at = self.now;
        self.queue.push(self.now + IDLE_TIMEOUT, Event::Idle { connection, end });
        let side = match self.work.dials.get(&connection) {
            Some(dial) if end == 0 => Side::Connect(*dial),
            _ => Side::Listen,
        };
        let (link, id) = (link_of(connection, end), self.nodes[peer].id);
        self.record(Some(node), Kind::LinkUp, peer as u64, link.0, b"");
        self.feed(node, |mesh, now| mesh.link_up(now, link, id, side));
    }

    /// The end of a link that its node may use.
    pub(super) fn open_end(&self, node: usize, link: LinkId) -> Option<(usize, usize)> {
        let (connection, end) = end_of(link)?;
        let this = &self.network.connections.get(connection)?.ends[end];
        let open = this.node == node && this.state == EndState::Up && this.life == self.nodes[node].life;
        open.then_some((connection, end))
    }

    pub(super) fn count_blocked(&mut self, blocked: Blocked) {
        self.coverage.hit(match blocked {
            Blocked::BothWays => Point::BlockedByPartition,
            Blocked::OneWay => Point::BlockedOneWay,
        });
    }

    /// The core closes a link.
    pub(super) fn close(&mut self, node: usize, link: LinkId) {
        let Some((connection, end)) = self.open_end(node, link) else { return };
        let peer = self.network.connections[connection].ends[1 - end].node;
        self.record(Some(node), Kind::Close, peer as u64, link.0, b"");
        self.hang_up(connection, end);
    }

    /// An end goes and tells the other.
    pub(super) fn hang_up(&mut self, connection: usize, end: usize) {
        let lost = self.network.cut(connection, end);
        self.coverage.add(Point::InFlightLost, lost);
        let ends = &mut self.network.connections[connection].ends;
        ends[end].state = EndState::Gone;
        ends[1 - end].closing = true;
        let (node, peer) = (ends[end].node, ends[1 - end].node);
        let at = self.now + self.network.delay(node, peer) + Duration::from_micros(1);
        self.queue.push(at, Event::Closed { connection, end: 1 - end, reset: false });
    }

    pub(super) fn closed(&mut self, connection: usize, end: usize, reset: bool) {
        let ends = &self.network.connections[connection].ends;
        let (node, life, peer) = (ends[end].node, ends[end].life, ends[1 - end].node);
        if self.faults.blocked(peer, node).is_some() {
            // The news is lost; the next packet from here will bring it again.
            self.network.connections[connection].ends[end].closing = false;
        } else if self.lives(node, life)
            && self.unless_frozen(node, Event::Closed { connection, end, reset }).is_some()
        {
            self.coverage.add(Point::Resets, u64::from(reset));
            self.lose(connection, end);
        }
    }

    /// An end is gone, and its node learns of it.
    fn lose(&mut self, connection: usize, end: usize) {
        let lost = self.network.cut(connection, end);
        self.coverage.add(Point::InFlightLost, lost);
        let ends = &mut self.network.connections[connection].ends;
        let (node, peer) = (ends[end].node, ends[1 - end].node);
        let before = std::mem::replace(&mut ends[end].state, EndState::Gone);
        if before == EndState::Up {
            let link = link_of(connection, end);
            self.record(Some(node), Kind::LinkDown, peer as u64, link.0, b"");
            self.feed(node, |mesh, now| mesh.link_down(now, link));
        }
    }

    pub(super) fn idle(&mut self, connection: usize, end: usize) {
        let this = &self.network.connections[connection].ends[end];
        if this.state != EndState::Up || !self.lives(this.node, this.life) {
            return;
        }
        let (node, due) = (this.node, this.heard_at + IDLE_TIMEOUT);
        if self.now < due {
            self.queue.push(due, Event::Idle { connection, end });
        } else if self.unless_frozen(node, Event::Idle { connection, end }).is_some() {
            self.coverage.hit(Point::IdleTimeouts);
            self.lose(connection, end);
        }
    }

    /// The faults have changed: what stood still may move.
    pub(super) fn resume(&mut self) {
        for (connection, line, channel) in std::mem::take(&mut self.network.stalled) {
            let ends = &self.network.connections[connection].ends;
            let (from, to) = (ends[line].node, ends[1 - line].node);
            let pipe = &self.network.connections[connection].lines[line].pipes[place(channel)];
            let (stalled, writable) = (pipe.stalled_at.is_some(), pipe.writable);
            if self.faults.blocked(from, to).is_some() || self.faults.is_slow_reader(to) {
                self.network.stalled.push((connection, line, channel));
            } else if stalled {
                for at in self.network.resume(self.now, connection, line, channel) {
                    self.queue.push(at, Event::Deliver { connection, line, channel });
                }
            } else if !writable && self.network.has_room(connection, line, channel) {
                self.tell_writer(connection, line, channel);
            }
        }
    }
}
