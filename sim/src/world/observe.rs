//! What each step of a node means for the reference: what it wrote, what it has seen, what it must hold.

use snomesh::crdt::{Class, Dot, Entry, Item, Key, Lane, Value};
use snomesh::gossip::Config;
use snomesh::replica::{AttributeKey, Path};
use snomesh::time::{Timestamp, UnixMillis};

use super::World;
use super::work::Made;
use crate::checker::{Basis, Broken, Checker, News, WriteId};
use crate::coverage::Point;
use crate::random;
use crate::scenario::Durable;
use crate::trace::Kind;

impl World<'_> {
    /// A node has made something durable: what in it is its own and new, it has written just now.
    pub(super) fn learn(&mut self, node: usize, items: &[Item]) {
        let id = self.nodes[node].id;
        for item in items {
            for entry in item.entries.iter().filter(|entry| entry.dot.lane.actor().node == id) {
                if self.reference.find(&entry.dot).is_none() {
                    self.author(node, &item.key, entry);
                }
            }
        }
    }

    fn author(&mut self, node: usize, key: &Key, entry: &Entry) -> Option<WriteId> {
        let basis = if self.work.alone.as_ref() == Some(key) {
            Basis::Own
        } else if self.work.writing.as_ref() == Some(key) {
            Basis::Seen
        } else {
            Basis::Told
        };
        if matches!(Path::of(key), Some(Path::Retirement(_))) {
            self.put_rest_off();
        }
        let process = self.nodes[node].process.as_ref()?;
        if basis == Basis::Seen
            && let Err(broken) =
                self.reference.check_observed(&process.seen, process.mesh.replica(), key, entry)
        {
            self.violated(Some(node), broken);
            return None;
        }
        match self.reference.author(&process.seen, key, entry, basis) {
            Ok(write) => {
                if basis != Basis::Told {
                    self.check_stamp(node, write, entry);
                }
                let made = Made { at: self.now, node, life: self.nodes[node].life };
                self.work.made.insert(write, made);
                self.count_authored(node, write);
                Some(write)
            }
            Err(broken) => {
                self.violated(Some(node), broken);
                None
            }
        }
    }

    /// A stamp is at most so far ahead of its author's clock as peers may push it, or just after what it had seen.
    fn check_stamp(&mut self, node: usize, write: WriteId, entry: &Entry) {
        let Some(process) = &self.nodes[node].process else { return };
        let drift = u64::try_from(Config::default().max_drift.as_millis()).unwrap_or(u64::MAX);
        let bound = UnixMillis(process.latest_wall.0.saturating_add(drift + 1));
        let reason = self.reference.latest_seen_by(write);
        // A key that is new, or gone, is written after all removals that were let go here.
        let horizon = process.mesh.replica().store().horizon();
        let is_explained =
            Some(entry.stamp) <= reason.successor() || entry.stamp.to_wall() <= horizon.to_wall();
        if entry.stamp > Timestamp::from_wall(bound) && !is_explained {
            let what = format!(
                "{} bears {}, far ahead of its author's clock and of {reason}, the latest that it had seen",
                entry.dot, entry.stamp
            );
            self.violated(Some(node), Broken::new(Checker::Causality, what));
        }
    }

    fn count_authored(&mut self, node: usize, write: WriteId) {
        let key = self.reference.key_of(write);
        if !self.reference.key_name(key).as_str().starts_with("attr/") {
            return;
        }
        let removes = !self.reference.is_value(write);
        if removes {
            self.coverage.hit(Point::Removals);
        }
        let Some(group) = self.faults.group(node) else { return };
        let epoch = self.faults.epoch();
        let sides = self.work.sides.entry(key).or_insert((epoch, group));
        if *sides == (epoch, group) || sides.0 != epoch {
            *sides = (epoch, group);
        } else {
            self.coverage.hit(Point::WrittenOnBothSides);
        }
        if removes {
            self.coverage.hit(Point::RemovedWhileApart);
        }
    }

    /// After every input: what the node has newly seen, and whether its registers are as they must be.
    pub(super) fn observe(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let store = process.mesh.replica().store();
        if store.revision() == process.revision {
            return;
        }
        let changed = store.context_since(process.revision);
        let retired = changed.lanes().filter(|(lane, _)| lane.is_past()).count();
        self.coverage.add(Point::Retired, retired as u64);
        process.revision = store.revision();
        let news = match self.reference.follow(&mut process.seen, &changed) {
            Ok(news) => news,
            Err(broken) => {
                self.violated(Some(node), broken);
                return;
            }
        };
        let News { mut keys, writes, claimed, unknown } = news;
        let mut really = News::default();
        for write in claimed {
            let (key, dot) = (self.reference.key_of(write), self.reference.dot(write));
            let register = process.mesh.replica().store().register(self.reference.key_name(key));
            let entries = register.as_ref().map_or(&[][..], |register| register.entries());
            if entries.iter().any(|entry| entry.dot == *dot) {
                self.reference.learn(&mut process.seen, write);
                self.reference.see(&mut process.seen, write, &mut really);
            } else if entries.iter().any(|entry| entry.covers(dot)) {
                self.reference.outdo(&mut process.seen, write);
            }
        }
        keys.extend(really.keys);
        self.note_seen(node, &writes);
        for dot in unknown {
            keys.extend(self.discover(node, &dot));
        }
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            self.check_key(node, key);
        }
        if self.scenario.durability == Durable::Disk && !self.nodes[node].doubled {
            self.check_durable(node);
        }
    }

    /// Notes how long after their making writes of others were seen by a node that ran all the time.
    fn note_seen(&mut self, node: usize, writes: &[WriteId]) {
        if !self.trace.takes_notes() {
            return;
        }
        let since = self.nodes[node].process.as_ref().map_or(self.now, |process| process.since);
        for write in writes {
            let of_a_node =
                self.reference.key_name(self.reference.key_of(*write)).as_str().starts_with("node/");
            let made =
                self.work.made.get(write).filter(|made| made.node != node && made.at >= since && !of_a_node);
            if let Some(made) = made {
                let delay = random::nanos(self.now.since(made.at));
                self.trace.note(self.now, Some(node), Kind::Seen, delay, 0);
            }
        }
    }

    /// An event shows no value that its node knew to be removed or replaced already.
    pub(super) fn check_shown(&mut self, node: usize, key: &AttributeKey, value: &Value) {
        let Some(process) = &self.nodes[node].process else { return };
        let key = Path::Attribute(key.clone()).to_key();
        if let Err(broken) = self.reference.check_shown(&process.seen, &key, value) {
            self.violated(Some(node), broken);
        }
    }

    /// A write takes effect when the disk has confirmed it, and not before. What a node says of its own life need not
    /// outlive it.
    fn check_durable(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let replica = process.mesh.replica();
        let durable = |lane: &&Lane| lane.class() == Class::Attribute;
        let hasty = replica.own_lanes().into_iter().filter(durable).find_map(|lane| {
            let last = replica.store().seen_of(lane)?.last()?;
            let confirmed = process.durable.get(lane).copied().unwrap_or(0);
            (last > confirmed).then(|| lane.dot(last))
        });
        if let Some(dot) = hasty {
            let what = format!("{dot} took effect before the disk had confirmed it");
            self.violated(Some(node), Broken::new(Checker::Durability, what));
        }
    }

    /// A node has seen a write that the reference does not know: it made it itself just now, or nobody did.
    fn discover(&mut self, node: usize, dot: &Dot) -> Vec<usize> {
        let mut news = News::default();
        if let Some((key, entry)) = self.find_own(node, dot)
            && let Some(write) = self.author(node, &key, &entry)
        {
            if let Some(process) = self.nodes[node].process.as_mut() {
                self.reference.see(&mut process.seen, write, &mut news);
            }
        } else if self.violations.is_empty() {
            let what = format!("it claims to have seen {dot}, which nobody wrote");
            self.violated(Some(node), Broken::new(Checker::Context, what));
        }
        news.keys
    }

    fn find_own(&self, node: usize, dot: &Dot) -> Option<(Key, Entry)> {
        let id = self.nodes[node].id;
        if dot.lane.actor().node != id {
            return None;
        }
        let store = self.nodes[node].process.as_ref()?.mesh.replica().store();
        let likely = [self.work.writing.clone(), Some(Path::Node(id).to_key())];
        let found = |key: &Key| Some((key.clone(), store.row(key)?.entry(dot)?));
        likely.iter().flatten().find_map(found).or_else(|| store.prefix("").find_map(|row| found(&row.key())))
    }

    fn check_key(&mut self, node: usize, key: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        match self.reference.check_key(&mut process.seen, process.mesh.replica(), key) {
            Ok(values) if values > 1 => self.coverage.hit(Point::Siblings),
            Ok(_) => {}
            Err(broken) => self.violated(Some(node), broken),
        }
    }
}
