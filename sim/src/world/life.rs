//! How nodes begin and end, and how faults do.

use std::time::Duration;

use snomesh::time::Moment;

use super::{Started, World};
use crate::checker::{Broken, Checker};
use crate::coverage::Point;
use crate::disk::Damage;
use crate::fault::Effect;
use crate::network::EndState;
use crate::queue::Event;
use crate::scenario::DiskFate;
use crate::subscriber::{Subscriber, View};
use crate::trace::Kind;

/// How long a node that said goodbye stays to be heard.
const GOODBYE: Duration = Duration::from_secs(1);

/// A node that cannot find the others, nor they it, and one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stranger {
    pub(crate) node: usize,
    pub(crate) host: usize,
}

/// One of each group of nodes that know nobody else who runs and are known to nobody else, for their seeds have all gone for
/// good; but of the largest, where the host of all is.
pub(crate) fn strangers(
    running: impl Iterator<Item = usize>,
    knows: impl Fn(usize, usize) -> bool,
) -> Vec<Stranger> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for node in running {
        let is_related =
            |group: &Vec<usize>| group.iter().any(|other| knows(node, *other) || knows(*other, node));
        let (related, mut apart): (Vec<_>, Vec<_>) = groups.into_iter().partition(is_related);
        apart.push(related.into_iter().flatten().chain([node]).collect());
        groups = apart;
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let mut firsts = groups.iter().filter_map(|group| group.first().copied());
    let Some(host) = firsts.next() else { return Vec::new() };
    firsts.map(|node| Stranger { node, host }).collect()
}

impl World<'_> {
    pub(super) fn schedule_faults(&mut self) {
        for (fault, planned) in self.faults.planned().iter().enumerate() {
            self.queue.push(planned.at, Event::FaultBegins { fault });
            if let Some(until) = planned.until {
                self.queue.push(until, Event::FaultEnds { fault });
            }
        }
    }

    /// The nodes that are not there from the beginning.
    pub(super) fn joining(&self) -> Vec<usize> {
        let joins = self.faults.planned().iter().filter_map(|planned| match &planned.effect {
            Effect::Join(nodes) => Some(nodes.as_slice()),
            Effect::Clone { to, .. } => Some(std::slice::from_ref(to)),
            _ => None,
        });
        joins.flatten().copied().collect()
    }

    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() || self.nodes[node].left {
            return;
        }
        if let Err(what) = self.nodes[node].start(self.now, node, self.seed, self.scenario) {
            self.violated(Some(node), Broken::new(Checker::Durability, what));
            return;
        }
        let life = self.nodes[node].life;
        if let Some(process) = &self.nodes[node].process {
            let generation = process.mesh.actor().generation;
            self.starts.push(Started { at: self.now, node, life, generation });
            self.coverage.add(Point::EarlierLives, u64::from(generation < self.nodes[node].latest));
            self.nodes[node].has_lived(generation);
        }
        self.record(Some(node), Kind::Start, u64::from(life), 0, b"");
        if life > 1 {
            self.coverage.hit(Point::Restarts);
        } else if self.now > Moment(0) && self.joining().contains(&node) {
            self.coverage.hit(Point::Joins);
        }
        self.check_restored(node);
        self.feed(node, |_, _| ());
        let paces: Vec<Duration> = match &mut self.nodes[node].process {
            Some(process) => process.subscribers.iter_mut().map(Subscriber::pace).collect(),
            None => Vec::new(),
        };
        for (subscriber, pace) in paces.into_iter().enumerate() {
            self.queue.push(self.now + pace, Event::Look { node, life, subscriber });
        }
    }

    /// What the disk had confirmed is there.
    fn check_restored(&mut self, node: usize) {
        let machine = &self.nodes[node];
        let Some(process) = &machine.process else { return };
        let store = process.mesh.replica().store();
        let entries =
            machine.disk.contents().iter().flat_map(|record| record.items()).flat_map(|item| &item.entries);
        let lost = entries.map(|entry| &entry.dot).find(|dot| !store.seen(dot));
        if let Some(dot) = lost {
            let what = format!("{dot} was confirmed by the disk and is not there after the restart");
            self.violated(Some(node), Broken::new(Checker::Durability, what));
        }
    }

    /// A node that said goodbye goes, closing its connections.
    pub(super) fn stop(&mut self, node: usize, life: u32) {
        if !self.lives(node, life) {
            return;
        }
        for connection in std::mem::take(&mut self.nodes[node].connections) {
            for end in 0..2 {
                let this = &self.network.connections[connection].ends[end];
                if this.node == node && this.state != EndState::Gone {
                    self.hang_up(connection, end);
                }
            }
        }
        self.record(Some(node), Kind::Left, u64::from(life), 0, b"");
        self.nodes[node].process = None;
        self.nodes[node].left = true;
        self.coverage.hit(Point::Leaves);
    }

    /// A node is killed: its memory is gone, and its connections say nothing.
    fn crash(&mut self, node: usize, fate: DiskFate) {
        let life = self.nodes[node].life;
        if self.nodes[node].process.take().is_none() {
            return;
        }
        for connection in std::mem::take(&mut self.nodes[node].connections) {
            for end in 0..2 {
                if self.network.connections[connection].ends[end].node == node {
                    self.network.connections[connection].ends[end].state = EndState::Gone;
                    let lost = self.network.cut(connection, end);
                    self.coverage.add(Point::InFlightLost, lost);
                }
            }
        }
        let mut generator = self.seed.generator("crash", &[node as u64, u64::from(life)]);
        let before = self.nodes[node].disk.contents().len();
        let Damage { caught, forgotten } = self.nodes[node].disk.kill(fate, &mut generator);
        self.record(Some(node), Kind::Crash, caught as u64, forgotten as u64, b"");
        self.coverage.hit(Point::Crashes);
        if caught > 0 {
            self.coverage.hit(Point::CrashWithUnsyncedWrite);
        }
        match (fate, before) {
            (_, 0) => {}
            (DiskFate::Keep, _) => self.coverage.hit(Point::RestartFromKeptDisk),
            (DiskFate::Lose, _) => self.coverage.hit(Point::WipedRejoin),
            (DiskFate::Tail | DiskFate::Stale, _) => self.coverage.hit(Point::RestartFromStaleDisk),
        }
    }

    /// An operator starts strangers again with the address of one that runs.
    pub(super) fn tell_strangers(&mut self) {
        let seeds = usize::try_from(self.scenario.mesh.seeds).unwrap_or(usize::MAX);
        let knows = |one: usize, other: usize| {
            let process = self.nodes[one].process.as_ref();
            let mut members = process.into_iter().flat_map(|process| process.mesh.members());
            other < seeds || members.any(|member| member.node == self.nodes[other].id)
        };
        let found = strangers(self.running().map(|(node, _)| node), knows);
        for Stranger { node, host } in found {
            self.crash(node, DiskFate::Keep);
            self.nodes[node].told_of = Some(host);
            self.start(node);
        }
    }

    pub(super) fn fault_begins(&mut self, fault: usize) {
        let planned = self.faults.planned()[fault].clone();
        self.record(None, Kind::FaultBegins, fault as u64, 0, planned.kind.name().as_bytes());
        self.touch(fault);
        match planned.effect {
            Effect::Crash { nodes, disk, down } => {
                for node in nodes {
                    self.crash(node, disk);
                    if let Some(down) = down {
                        self.queue.push(self.now + down, Event::Start { node });
                    }
                }
            }
            Effect::Join(nodes) => {
                for node in nodes {
                    self.start(node);
                }
            }
            Effect::Leave(nodes) => {
                for node in nodes {
                    let life = self.nodes[node].life;
                    self.feed(node, |mesh, now| mesh.leave(now));
                    if let Some(process) = self.nodes[node].process.as_mut() {
                        process.leaving = true;
                        self.queue.push(self.now + GOODBYE, Event::Stop { node, life });
                    }
                }
            }
            Effect::ClockJump(nodes, millis) => {
                for node in nodes {
                    self.nodes[node].skew_millis += millis;
                    self.coverage.hit(Point::ClockJumps);
                    self.coverage.add(Point::ClockWentBack, u64::from(millis < 0));
                }
            }
            Effect::Block { from, to, again, .. } => {
                let ends = |number: usize| &self.network.connections[number].ends;
                let stands = |number: usize| {
                    let [one, other] = ends(number);
                    let between = (from[one.node] && to[other.node]) || (from[other.node] && to[one.node]);
                    between && one.state == EndState::Up && other.state == EndState::Up
                };
                if again && (0..self.network.connections.len()).any(stands) {
                    self.coverage.hit(Point::Flaps);
                }
                self.faults.begin(fault);
            }
            Effect::Reset(nodes) => self.reset(&nodes),
            Effect::Panic(nodes) => nodes.into_iter().for_each(|node| self.restart_subscribers(node)),
            Effect::Clone { from, to, lives } => self.start_clone(from, to, lives),
            Effect::ClockFreeze(_) => {
                self.faults.begin(fault);
                self.stop_clocks();
            }
            Effect::Split(_)
            | Effect::Ring(_)
            | Effect::Refuse(_)
            | Effect::Freeze(_)
            | Effect::SlowReader(_)
            | Effect::Weather(..)
            | Effect::Corrupt(..)
            | Effect::Forge(..)
            | Effect::Stall(_) => self.faults.begin(fault),
        }
    }

    pub(super) fn fault_ends(&mut self, fault: usize) {
        self.faults.end(fault);
        self.stop_clocks();
        self.touch(fault);
        self.record(None, Kind::FaultEnds, fault as u64, 0, self.kind_of(fault).as_bytes());
        self.resume();
    }

    /// Wall clocks stand still or go on, as the faults have it.
    fn stop_clocks(&mut self) {
        for node in 0..self.nodes.len() {
            self.nodes[node].clock_stopped_at = self.faults.clock_stands_since(node);
        }
    }

    /// Both ends of each connection of these nodes lose it at once.
    fn reset(&mut self, nodes: &[usize]) {
        for connection in 0..self.network.connections.len() {
            let ends = &mut self.network.connections[connection].ends;
            let stands = ends.iter().all(|end| end.state == EndState::Up);
            if !stands || !ends.iter().any(|end| nodes.contains(&end.node)) {
                continue;
            }
            ends.iter_mut().for_each(|end| end.closing = true);
            self.coverage.hit(Point::LinkResets);
            for end in 0..2 {
                self.queue.push(self.now, Event::Closed { connection, end, reset: true });
            }
        }
    }

    /// All subscribers of a node but the first die in the middle of what they do, and begin anew.
    fn restart_subscribers(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let view = View::of(&process.mesh);
        for subscriber in process.subscribers.iter_mut().skip(1) {
            subscriber.restart(&process.ring, view.clone());
            self.coverage.hit(Point::SubscriberPanics);
        }
    }

    /// A machine is started with the name and a copy of the disk of another, and killed after a while.
    fn start_clone(&mut self, from: usize, to: usize, lives: Duration) {
        if self.nodes[to].process.is_some() || self.nodes[from].life == 0 {
            return;
        }
        let [original, copy] = self.nodes.get_disjoint_mut([from, to]).expect("they are two of the nodes");
        original.doubled = true;
        copy.copy(original);
        self.coverage.hit(Point::Clones);
        self.start(to);
        self.queue.push(self.now + lives, Event::Kill { node: to });
    }

    /// The machine that was a clone is switched off, in whichever of its lives it is.
    pub(super) fn kill(&mut self, node: usize) {
        self.crash(node, DiskFate::Keep);
        self.nodes[node].left = true;
    }

    fn touch(&mut self, fault: usize) {
        let effect = &self.faults.planned()[fault].effect;
        let hit = self.nodes.iter_mut().enumerate().filter(|(number, _)| effect.touches(*number));
        hit.for_each(|(_, node)| node.touched_at = self.now);
    }

    fn kind_of(&self, fault: usize) -> &'static str {
        self.faults.planned()[fault].kind.name()
    }

    /// A subscriber looks at its node's ring.
    pub(super) fn look(&mut self, node: usize, life: u32, subscriber: usize) {
        if !self.lives(node, life) {
            return;
        }
        if let Some(pace) = self.look_once(node, subscriber) {
            self.queue.push(self.now + pace, Event::Look { node, life, subscriber });
        }
    }

    /// An event was published: whoever waits for one looks after a while.
    pub(super) fn wake_subscribers(&mut self, node: usize) {
        let life = self.nodes[node].life;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let waiting = process.subscribers.iter_mut().enumerate().filter(|(_, one)| one.waits);
        for (subscriber, one) in waiting {
            one.waits = false;
            self.queue.push(self.now + one.pace(), Event::Look { node, life, subscriber });
        }
    }

    /// Lets a subscriber look; says after how long it looks again, unless it waits for the next event.
    fn look_once(&mut self, node: usize, subscriber: usize) -> Option<Duration> {
        let capacity = self.nodes[node].ring;
        let stalled = self.faults.is_stalled(node) && subscriber > 0;
        let process = self.nodes[node].process.as_mut()?;
        let follower = process.subscribers.get_mut(subscriber)?;
        let pace = follower.pace();
        // The first subscriber of a node always looks, so that a stall is seen to be the subscriber's.
        if stalled {
            return Some(pace);
        }
        let mesh = &process.mesh;
        let limit = if self.now >= self.times.heal { u64::MAX } else { follower.batch };
        let look = follower.look(&process.ring, capacity, process.published, limit, || View::of(mesh));
        follower.waits = follower.is_up_to_date(process.published);
        let again = if follower.waits { None } else { Some(pace) };
        if look.lagged {
            self.record(Some(node), Kind::Lagged, subscriber as u64, look.taken, b"");
        } else if look.taken > 0 {
            self.record(Some(node), Kind::Look, subscriber as u64, look.taken, b"");
        }
        self.coverage.add(Point::Lagged, u64::from(look.lagged));
        self.coverage.add(Point::LaggedTwice, u64::from(look.lagged_again));
        if let Some(what) = look.broken {
            self.violated(Some(node), Broken::new(Checker::Lag, what));
        }
        again
    }
}
