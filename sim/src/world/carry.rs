//! What passes between nodes while a connection lives: frames and datagrams.

use snomesh::gossip::{Channel, LinkId, Message, Tell};
use snomesh::wire;

use super::World;
use crate::checker::{Broken, Checker};
use crate::coverage::Point;
use crate::forge;
use crate::network::{EndState, Sent, end_of, link_of, place};
use crate::queue::Event;
use crate::random;
use crate::trace::Kind;

impl World<'_> {
    /// The core hands a frame over.
    pub(super) fn send(&mut self, node: usize, link: LinkId, channel: Channel, message: &Message) {
        let Some((connection, end)) = self.open_end(node, link) else {
            let what = format!("a frame was sent on {link:?}, which is not up");
            self.violated(Some(node), Broken::new(Checker::Discipline, what));
            return;
        };
        if !self.network.connections[connection].lines[end].pipes[place(channel)].writable {
            let what = format!("a frame was sent on {channel:?} of {link:?} before there was room");
            self.violated(Some(node), Broken::new(Checker::Discipline, what));
            return;
        }
        if let Message::Delta(delta) = message
            && delta.items.is_empty()
            && delta.accounted.lane_count() == 0
        {
            let what = format!("a delta was sent on {link:?} that brings nothing and accounts for nothing");
            self.violated(Some(node), Broken::new(Checker::Discipline, what));
            return;
        }
        let forged = self.forge(node, message);
        let message = forged.as_ref().unwrap_or(message);
        let pipe = &mut self.network.connections[connection].lines[end].pipes[place(channel)];
        let bytes = pipe.encoder.encode(message);
        let peer = self.network.connections[connection].ends[1 - end].node;
        self.count_sent(node, link, message);
        self.coverage.hit(Point::FramesSent);
        self.coverage.add(Point::BytesSent, bytes.len() as u64);
        if matches!(message, Message::Hello { .. }) {
            self.coverage.raise(Point::LargestHello, bytes.len() as u64);
        }
        if self.now >= self.times.deadline
            && !matches!(message, Message::Heartbeat { .. } | Message::Hello { .. })
        {
            self.noise.0 += 1;
            self.noise.1 = format!("from n{node} to n{peer}: {message:?}");
        }
        self.record_message(node, Kind::Send, peer, &bytes, Some(message));
        self.refresh(connection, end);
        let sent = self.network.send(self.now, connection, end, channel, bytes);
        let Sent { arrives_at, has_room, lost, dropped } = sent;
        self.coverage.add(Point::QueueDropped, u64::from(dropped));
        self.coverage.add(Point::Lost, lost);
        self.queue.push(arrives_at, Event::Deliver { connection, line: end, channel });
        if has_room {
            self.network.connections[connection].lines[end].pipes[place(channel)].writable = true;
            self.work.roomy.push_back((link, channel));
        } else {
            self.coverage.hit(Point::SendBlocked);
        }
    }

    /// What a relay makes of a message, if it is one that forges.
    fn forge(&mut self, node: usize, message: &Message) -> Option<Message> {
        let rate = self.faults.forging(node);
        if rate <= 0.0 {
            return None;
        }
        let sent = self.coverage.count(Point::FramesSent);
        let mut generator = self.seed.generator("forge", &[node as u64, sent]);
        if !random::chance(&mut generator, rate) {
            return None;
        }
        let relay = self.nodes[node].id;
        let (point, forged) = if random::chance(&mut generator, 0.5) {
            (Point::Forged, forge::forged(message, relay, &mut generator)?)
        } else {
            (Point::Overstated, forge::overstated(message, relay, &mut generator)?)
        };
        self.coverage.hit(point);
        Some(forged)
    }

    fn count_sent(&mut self, node: usize, link: LinkId, message: &Message) {
        match message {
            Message::Delta(delta) => {
                let this = Some((link, self.now));
                if std::mem::replace(&mut self.work.last_delta, this) == this {
                    self.coverage.hit(Point::DeltaCut);
                }
                let own = self.nodes[node].id;
                if delta.accounted.lanes().any(|(lane, _)| lane.actor().node != own) {
                    self.coverage.hit(Point::Relayed);
                }
            }
            Message::Context { seen, complete } => {
                self.coverage.add(Point::WholeContexts, u64::from(*complete));
                if seen.lanes().any(|(_, counters)| counters.range_count() > 1) {
                    self.coverage.hit(Point::Gaps);
                }
            }
            Message::Want { .. } => self.coverage.hit(Point::Wants),
            Message::Offer { .. } => self.coverage.hit(Point::Offers),
            Message::Tell { tell: Tell::Floors { last: true, .. }, .. } => self.coverage.hit(Point::Fetched),
            Message::Tell { tell: Tell::Ranges { dead, .. }, .. } if !dead.is_empty() => {
                self.coverage.hit(Point::DeadTold);
            }
            Message::Hello { .. }
            | Message::Heartbeat { .. }
            | Message::Taken { .. }
            | Message::Neighbour { .. }
            | Message::Prune { .. }
            | Message::Probe { .. }
            | Message::Ask { .. }
            | Message::Tell { .. } => {}
        }
    }

    /// The core sends a datagram.
    pub(super) fn send_datagram(&mut self, node: usize, link: LinkId, message: &Message) {
        let Some((connection, end)) = self.open_end(node, link) else {
            let what = format!("a datagram was sent on {link:?}, which is not up");
            self.violated(Some(node), Broken::new(Checker::Discipline, what));
            return;
        };
        let bytes = wire::encode(message);
        let peer = self.network.connections[connection].ends[1 - end].node;
        self.coverage.hit(Point::DatagramsSent);
        self.coverage.add(Point::DatagramBytes, bytes.len() as u64);
        self.coverage.raise(Point::LargestHeartbeat, bytes.len() as u64);
        self.record_message(node, Kind::Datagram, peer, &bytes, Some(message));
        self.refresh(connection, end);
        let flight = self.network.datagram(self.now, connection, end, bytes.len());
        let Some(arrives_at) = flight.arrives_at else {
            self.coverage.hit(Point::DatagramsLost);
            self.coverage.add(Point::QueueDropped, u64::from(flight.dropped));
            return;
        };
        let (line, number, bytes) = (end, flight.number, bytes.into_boxed_slice());
        if let Some(again_at) = flight.again_at {
            self.coverage.hit(Point::Duplicated);
            let bytes = bytes.clone();
            self.queue.push(again_at, Event::Datagram { connection, line, number, bytes });
        }
        self.queue.push(arrives_at, Event::Datagram { connection, line, number, bytes });
    }

    fn refresh(&mut self, connection: usize, line: usize) {
        let faults = &self.faults;
        self.network.refresh(connection, line, faults.epoch(), |one, other| faults.weather(one, other));
    }

    /// Whether something that travels a line arrives; both ends then have heard of each other.
    fn arrives(&mut self, connection: usize, line: usize) -> bool {
        let ends = &self.network.connections[connection].ends;
        let (from, to) = (ends[line].node, ends[1 - line].node);
        if let Some(blocked) = self.faults.blocked(from, to) {
            self.count_blocked(blocked);
            return false;
        }
        let answered = self.faults.blocked(to, from).is_none();
        let ends = &mut self.network.connections[connection].ends;
        ends[1 - line].heard_at = self.now;
        if answered && ends[1 - line].state != EndState::Gone {
            ends[line].heard_at = self.now;
        }
        true
    }

    /// The node that reads a line. If it is not there, its machine says so as soon as it can.
    fn reader(&mut self, connection: usize, line: usize) -> Option<usize> {
        let ends = &self.network.connections[connection].ends;
        let (reader, writer) = (&ends[1 - line], &ends[line]);
        let (node, to) = (reader.node, writer.node);
        let lives = self.lives(node, reader.life);
        match reader.state {
            EndState::Up if lives => return Some(node),
            EndState::Coming if lives => return None,
            EndState::Up | EndState::Coming | EndState::Gone => {}
        }
        if self.nodes[node].process.is_some() && !writer.closing && writer.state != EndState::Gone {
            let at = self.now + self.network.delay(node, to);
            self.queue.push(at, Event::Closed { connection, end: line, reset: true });
            self.network.connections[connection].ends[line].closing = true;
        }
        let lost = self.network.drop_all(connection, line);
        self.coverage.add(Point::InFlightLost, lost);
        None
    }

    pub(super) fn deliver(&mut self, connection: usize, line: usize, channel: Channel) {
        let pipe = &self.network.connections[connection].lines[line].pipes[place(channel)];
        let due = pipe.frames.front().is_some_and(|frame| frame.arrives_at <= self.now);
        if pipe.stalled_at.is_some() || !due {
            return;
        }
        if !self.arrives(connection, line) {
            self.network.stall(self.now, connection, line, channel);
            return;
        }
        let reader = &self.network.connections[connection].ends[1 - line];
        let (node, lives) = (reader.node, self.lives(reader.node, reader.life));
        if lives && self.unless_frozen(node, Event::Deliver { connection, line, channel }).is_none() {
            return;
        }
        let Some(node) = self.reader(connection, line) else { return };
        if self.faults.is_slow_reader(node) {
            self.coverage.hit(Point::UnreadFrames);
            self.network.stall(self.now, connection, line, channel);
            self.network.connections[connection].lines[line].pipes[place(channel)].unread = true;
            return;
        }
        let Some((bytes, has_room)) = self.network.take(self.now, connection, line, channel) else { return };
        if has_room {
            self.tell_writer(connection, line, channel);
        }
        self.hand_over(node, link_of(connection, 1 - line), Some(channel), bytes);
    }

    /// A writer that waited has room again, if the news reaches it.
    pub(super) fn tell_writer(&mut self, connection: usize, line: usize, channel: Channel) {
        let ends = &self.network.connections[connection].ends;
        let (writer, reader) = (ends[line].node, ends[1 - line].node);
        if self.faults.blocked(reader, writer).is_some() {
            self.network.stalled.push((connection, line, channel));
            return;
        }
        let at = self.now + self.network.delay(writer, reader);
        self.queue.push(at, Event::Writable { connection, end: line, channel });
    }

    pub(super) fn writable(&mut self, connection: usize, end: usize, channel: Channel) {
        let link = link_of(connection, end);
        let node = self.network.connections[connection].ends[end].node;
        if self.open_end(node, link).is_none() {
            return;
        }
        if self.unless_frozen(node, Event::Writable { connection, end, channel }).is_none() {
            return;
        }
        let pipe = &mut self.network.connections[connection].lines[end].pipes[place(channel)];
        if !std::mem::replace(&mut pipe.writable, true) {
            self.record(Some(node), Kind::Writable, 0, link.0, b"");
            self.feed(node, |mesh, now| mesh.link_writable(now, link, channel));
        }
    }

    pub(super) fn deliver_datagram(&mut self, connection: usize, line: usize, number: u64, bytes: Box<[u8]>) {
        if !self.arrives(connection, line) {
            self.coverage.hit(Point::DatagramsLost);
            return;
        }
        let Some(node) = self.reader(connection, line) else { return };
        let datagram = Event::Datagram { connection, line, number, bytes };
        let Some(Event::Datagram { bytes, .. }) = self.unless_frozen(node, datagram) else { return };
        let last = &mut self.network.connections[connection].lines[line].last_datagram;
        if number < *last {
            self.coverage.hit(Point::Reordered);
        }
        *last = number.max(*last);
        self.hand_over(node, link_of(connection, 1 - line), None, bytes.into_vec());
    }

    /// Bytes come in: perhaps not as they were sent. Without a channel they are a datagram.
    pub(super) fn hand_over(
        &mut self,
        node: usize,
        link: LinkId,
        channel: Option<Channel>,
        mut bytes: Vec<u8>,
    ) {
        let rate = self.faults.corruption(node);
        let flipped = rate > 0.0 && self.flip(node, rate, &mut bytes);
        let Some((connection, end)) = end_of(link) else { return };
        let peer = self.network.connections[connection].ends[1 - end].node;
        let line = &mut self.network.connections[connection].lines[1 - end];
        // What is read is written again by somebody who remembers the same.
        let (read, again) = match channel {
            Some(channel) => {
                let pipe = &mut line.pipes[place(channel)];
                let read = pipe.decoder.decode(&bytes);
                let again = read.as_ref().ok().map(|message| pipe.shadow.encode(message));
                (read, again)
            }
            None => {
                let read = wire::decode(&bytes);
                let again = read.as_ref().ok().map(wire::encode);
                (read, again)
            }
        };
        let kind = if channel.is_some() { Kind::Deliver } else { Kind::Heard };
        self.record_message(node, kind, peer, &bytes, read.as_ref().ok());
        match read {
            Ok(message) if !flipped && again.as_ref() != Some(&bytes) => {
                let what = format!("{message:?} is written in two ways");
                self.violated(Some(node), Broken::new(Checker::Wire, what));
            }
            Ok(message) => self.receive(node, link, message, flipped),
            Err(_) if flipped => {
                self.coverage.hit(Point::RefusedByCodec);
                self.record(Some(node), Kind::Malformed, 0, bytes.len() as u64, b"");
                self.feed(node, |mesh, now| mesh.handle_malformed(now, link));
            }
            Err(malformed) => {
                let what = format!("a frame of {} bytes cannot be read: {malformed}", bytes.len());
                self.violated(Some(node), Broken::new(Checker::Wire, what));
            }
        }
    }

    fn flip(&mut self, node: usize, rate: f64, bytes: &mut [u8]) -> bool {
        self.nodes[node].received += 1;
        let mut generator = self.seed.generator("flip", &[node as u64, self.nodes[node].received]);
        if bytes.is_empty() || !random::chance(&mut generator, rate) {
            return false;
        }
        let at = random::index(&mut generator, bytes.len());
        bytes[at] ^= 1 << random::number(&mut generator, 0, 7);
        self.coverage.hit(Point::Corrupted);
        true
    }
}
