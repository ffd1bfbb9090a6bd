//! The loop around each core: an input, all outputs, what follows for the reference, the next wake-up.

use snomesh::crdt::Lane;
use snomesh::gossip::{Alarm, Event as Told, LinkId, MemberState, Mesh, Message, Output, Ticket};
use snomesh::id::{Actor, Generation};
use snomesh::time::{Moment, Now};

use super::World;
use crate::checker::{Broken, Checker};
use crate::coverage::Point;
use crate::node::Node;
use crate::queue::Event;
use crate::trace::Kind;

/// How many frames one input may lead to: far more than any state here has.
const MAX_FRAMES: u32 = 20_000;
/// How long nothing must have been wrong with two nodes before a verdict of the one against the other is wrong.
const RECOVERY: std::time::Duration = std::time::Duration::from_secs(20);

impl World<'_> {
    /// Gives a node one input and draws all consequences. Nothing if it does not run.
    pub(super) fn feed<R>(&mut self, node: usize, input: impl FnOnce(&mut Mesh, Now) -> R) -> Option<R> {
        let now = self.nodes[node].now(self.now);
        self.feeding = Some(node);
        self.coverage.add(Point::ClockStood, u64::from(self.nodes[node].clock_stopped_at.is_some()));
        let process = self.nodes[node].process.as_mut()?;
        process.latest_wall.0 = process.latest_wall.0.max(now.wall.0);
        let result = input(&mut process.mesh, now);
        self.drain(node);
        // A channel that had room takes the next frame at once.
        let mut frames = 0;
        while let Some((link, channel)) = self.work.roomy.pop_front() {
            frames += 1;
            if frames > MAX_FRAMES {
                let what = format!("one input made it send more than {MAX_FRAMES} frames");
                self.violated(Some(node), Broken::new(Checker::Discipline, what));
                self.work.roomy.clear();
                break;
            }
            if let Some(process) = self.nodes[node].process.as_mut() {
                process.mesh.link_writable(now, link, channel);
            }
            self.drain(node);
        }
        self.observe(node);
        self.schedule_wake(node);
        self.feeding = None;
        Some(result)
    }

    fn drain(&mut self, node: usize) {
        let now = self.nodes[node].now(self.now);
        while let Some(output) =
            self.nodes[node].process.as_mut().and_then(|process| process.mesh.poll_output(now))
        {
            self.carry_out(node, output);
        }
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        match output {
            Output::Send { link, channel, message } => self.send(node, link, channel, &message),
            Output::Datagram { link, message } => self.send_datagram(node, link, &message),
            Output::Dial { dial, address, .. } => self.dial(node, dial, address.as_str()),
            Output::Close { link, .. } => self.close(node, link),
            Output::Persist { ticket, record } => {
                self.record(Some(node), Kind::Persist, ticket.0, record.items().len() as u64, b"");
                self.learn(node, record.items());
                let life = self.nodes[node].life;
                let mut generator = self.seed.generator("disk", &[node as u64, u64::from(life), ticket.0]);
                let takes = self.scenario.disk.delay.draw(&mut generator);
                let done = self.nodes[node].disk.write(self.now, ticket, record, takes);
                self.queue.push(done, Event::Persisted { node, life, ticket });
            }
            Output::Event(event) => self.told(node, event),
        }
    }

    /// A node tells its subscribers something.
    fn told(&mut self, node: usize, event: Told) {
        let mut text = String::new();
        match &event {
            Told::Attribute { key, value, .. } => {
                text = key.to_string();
                if let Some(value) = value {
                    self.check_shown(node, key, value);
                }
            }
            Told::Registered(registration) => text = format!("+{}", registration.name),
            Told::Deregistered { name, .. } => text = format!("-{name}"),
            Told::Member { node: member, state, .. } => {
                text = format!("{} {state:?}", member.short());
                self.judged(node, member, *state);
            }
            Told::Alarm(Alarm::Corrupt { .. }) => self.coverage.hit(Point::RefusedByCore),
            Told::Alarm(Alarm::Forged { .. }) => self.coverage.hit(Point::RefusedForgery),
            Told::Alarm(Alarm::Drift { .. }) => self.coverage.hit(Point::DriftAlarms),
            Told::Alarm(Alarm::Dead { next, .. }) => {
                self.coverage.hit(Point::TakenForDead);
                self.nodes[node].has_lived(*next);
            }
            Told::Alarm(Alarm::Double { doubled, next }) => self.took_for_double(node, *doubled, *next),
            _ => {}
        }
        self.record(Some(node), Kind::Event, 0, 0, text.as_bytes());
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.ring.publish(event);
            process.published += 1;
        }
        self.wake_subscribers(node);
    }

    /// A node that goes on in another life because of a double has one, or has lived later than it remembers.
    fn took_for_double(&mut self, node: usize, doubled: Actor, next: Generation) {
        let machine = &mut self.nodes[node];
        let was_turned_back = doubled.generation < machine.latest;
        machine.has_lived(next);
        if machine.doubled {
            self.coverage.hit(Point::Doubles);
        } else if !was_turned_back {
            let what = format!("{doubled} took itself for a double, there is none");
            self.violated(Some(node), Broken::new(Checker::Dots, what));
        }
    }

    /// A verdict that a node is down must have a reason.
    fn judged(&mut self, node: usize, member: &snomesh::id::NodeId, state: MemberState) {
        match state {
            MemberState::Suspect => self.coverage.hit(Point::Suspected),
            MemberState::Down => self.coverage.hit(Point::Downs),
            MemberState::Evicted => self.coverage.hit(Point::Evicted),
            MemberState::Alive | MemberState::Left => {}
        }
        let accused = self.nodes.iter().position(|other| other.id == *member);
        let Some(accused) = accused.filter(|_| state == MemberState::Down) else { return };
        if self.is_healthy(node) && self.is_healthy(accused) {
            let what = format!("n{node} takes n{accused} for down, but nothing is wrong with either");
            self.violated(Some(node), Broken::new(Checker::Membership, what));
        }
    }

    /// Whether a node has run for a while with nothing that hit it.
    fn is_healthy(&self, node: usize) -> bool {
        let Node { process: Some(process), touched_at, doubled: false, .. } = &self.nodes[node] else {
            return false;
        };
        let calm_since = process.since.max(*touched_at);
        !process.leaving && !self.faults.touches(node) && self.now.since(calm_since) > RECOVERY
    }

    fn schedule_wake(&mut self, node: usize) {
        let life = self.nodes[node].life;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let Some(due) = process.mesh.next_timeout() else { return };
        let due = due.max(self.now);
        if process.wakes_at.is_none_or(|at| due < at) {
            process.wakes_at = Some(due);
            self.queue.push(due, Event::Wake { node, life });
        }
    }

    pub(super) fn wake(&mut self, node: usize, life: u32) {
        let scheduled = self.nodes[node].process.as_ref().and_then(|process| process.wakes_at);
        if !self.lives(node, life) || scheduled.is_none_or(|at| at > self.now) {
            return;
        }
        if self.unless_frozen(node, Event::Wake { node, life }).is_none() {
            return;
        }
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        // An earlier wake-up may have been for a timer that was moved: then this one is for nothing.
        let due = process.mesh.next_timeout().is_some_and(|due| due <= self.now);
        process.wakes_at = None;
        if due {
            self.record(Some(node), Kind::Timeout, 0, 0, b"");
            self.feed(node, |mesh, now| mesh.handle_timeout(now));
        } else {
            self.schedule_wake(node);
        }
    }

    pub(super) fn persisted(&mut self, node: usize, life: u32, ticket: Ticket) {
        if !self.lives(node, life)
            || self.unless_frozen(node, Event::Persisted { node, life, ticket }).is_none()
        {
            return;
        }
        if let Some(record) = self.nodes[node].disk.confirm(ticket) {
            let entries = record.items().iter().flat_map(|item| &item.entries);
            let own: Vec<(Lane, u64)> =
                entries.map(|entry| (entry.dot.lane.clone(), entry.dot.counter)).collect();
            self.record(Some(node), Kind::Persisted, ticket.0, 0, b"");
            if let Some(process) = self.nodes[node].process.as_mut() {
                for (lane, counter) in own {
                    // What peers send is made durable too, old writes of this node among it.
                    let last = process.durable.entry(lane).or_default();
                    *last = counter.max(*last);
                }
            }
            self.feed(node, |mesh, now| mesh.handle_persisted(now, ticket));
        }
    }

    /// A message comes in; `flipped` if it is not what was sent.
    pub(super) fn receive(&mut self, node: usize, link: LinkId, message: Message, flipped: bool) {
        if let Message::Delta(delta) = &message {
            self.coverage.hit(Point::Deltas);
            let store = self.nodes[node].process.as_ref().map(|process| process.mesh.replica().store());
            let entries = delta.items.iter().flat_map(|item| &item.entries);
            let known = store.map_or(0, |store| entries.filter(|entry| store.seen(&entry.dot)).count());
            self.coverage.add(Point::DuplicateIgnored, known as u64);
        }
        self.feed(node, |mesh, now| mesh.handle_message(now, link, message));
        if flipped {
            // Whatever it broke, it broke because it was not refused.
            for violation in &mut self.violations {
                violation.what = format!("a frame with a flipped bit was taken: {}", violation.what);
                violation.checker = Checker::Corruption;
            }
        }
    }

    /// When each node is started: those that join later not before their fault says so.
    pub(super) fn schedule_starts(&mut self) {
        let joining: Vec<usize> = self.joining();
        let mut nothing = self.seed.generator("absent", &[]);
        let absent = self.scenario.mesh.absent.resolve(self.nodes.len(), &mut nothing).unwrap_or_default();
        for node in absent {
            self.nodes[node].left = true;
        }
        for node in (0..self.nodes.len()).filter(|node| !joining.contains(node)) {
            let mut generator = self.seed.generator("starts", &[node as u64]);
            let at = Moment(0) + self.scenario.mesh.start.draw(&mut generator);
            self.queue.push(at, Event::Start { node });
        }
    }
}
