//! Who writes what, and when.

use std::collections::{BTreeMap, VecDeque};

use snomesh::crdt::{Dot, Key, Lane, Value};
use snomesh::gossip::{Channel, DialId, LinkId, Mesh};
use snomesh::id::{TunnelId, TunnelName};
use snomesh::replica::{AttributeKey, Attributes, ElementId, Path, WriteError};
use snomesh::time::{Moment, Now};

use super::World;
use crate::checker::{Broken, Checker, WriteId};
use crate::coverage::Point;
use crate::queue::Event;
use crate::random::{self, Generator};
use crate::scenario::{Action, Durable, Operation, Workload, value_of};
use crate::trace::Kind;

/// How many sets there are.
const SETS: u64 = 2;
/// How many names tunnels are registered under.
const NAMES: u64 = 4;

/// What is being written, and what the engine remembers between two events.
#[derive(Debug, Default)]
pub(super) struct Work {
    generators: BTreeMap<usize, Generator>,
    writers: Vec<usize>,
    keys: Vec<AttributeKey>,
    counters: Vec<AttributeKey>,
    /// How many elements sets have at most, all together.
    elements: u64,
    /// What each life has counted on each counter, with each of the writes that said so.
    counted: BTreeMap<AttributeKey, Counts>,
    until: Moment,
    written: u64,
    /// The key that a command is writing at the moment.
    pub(super) writing: Option<Key>,
    /// The key that a command is writing without looking at others' writes.
    pub(super) alone: Option<Key>,
    /// By key: during which split it was written last, and by which side.
    pub(super) sides: BTreeMap<usize, (u64, usize)>,
    /// The attempt that each connection came from.
    pub(super) dials: BTreeMap<usize, DialId>,
    /// On which link a delta was sent last, and when.
    pub(super) last_delta: Option<(LinkId, Moment)>,
    /// Channels that take another frame at once.
    pub(super) roomy: VecDeque<(LinkId, Channel)>,
    /// When each write was made, and by whom.
    pub(super) made: BTreeMap<WriteId, Made>,
    /// What was done, if that is to be known.
    pub(super) done: Option<Vec<Operation>>,
}

/// A life has counted, and wrote how far it has come.
#[derive(Debug)]
struct Counted {
    dot: Dot,
    /// The sum of all that this life has counted so far.
    sum: i128,
    /// How far the node's earlier lives had come as far as this one knew: whoever sees this write learns that with it, also
    /// when the earlier write itself was lost on its way.
    before: BTreeMap<Lane, usize>,
}

/// All that was counted on one counter, by the life that counted, in order.
#[derive(Debug, Default)]
struct Counts(BTreeMap<Lane, Vec<Counted>>);

impl Counts {
    fn push(&mut self, counted: Counted) {
        self.0.entry(counted.dot.lane.clone()).or_default().push(counted);
    }

    /// The sum that a life has counted so far.
    fn sum(&self, life: &Lane) -> i128 {
        self.0.get(life).and_then(|all| all.last()).map_or(0, |last| last.sum)
    }

    /// What lives have counted that have come so far, all together.
    fn total(&self, lives: &BTreeMap<&Lane, usize>) -> i128 {
        lives.iter().map(|(life, place)| self.0[*life][*place].sum).sum()
    }

    /// How far each life has come, by the place of its last write that is known to whoever has seen some of them. What a life
    /// knew of those before it only grows: its last write that was seen says all that any of them does.
    fn known(&self, seen: impl Fn(&Dot) -> bool) -> BTreeMap<&Lane, usize> {
        let mut lives = BTreeMap::new();
        for (life, all) in &self.0 {
            let Some(place) = all.iter().rposition(|counted| seen(&counted.dot)) else { continue };
            let before = all[place].before.iter().map(|(lane, place)| (lane, *place));
            for (lane, place) in before.chain([(life, place)]) {
                let last = lives.entry(lane).or_insert(place);
                *last = place.max(*last);
            }
        }
        lives
    }
}

/// When a write was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) at: Moment,
    /// By whom.
    pub(super) node: usize,
    /// In which of its lives.
    pub(super) life: u32,
}

/// An element of a set, and where it is kept.
fn element_of(set: &AttributeKey, element: &str) -> (Path, Value) {
    let value = value_of(element, 0);
    (Path::Element { set: set.clone(), element: ElementId::of(&value) }, value)
}

impl Work {
    /// Starts with nothing; `remembers` says whether all that is done is to be known in the end.
    pub(super) fn new(remembers: bool) -> Self {
        Self { done: remembers.then(Vec::new), ..Self::default() }
    }
}

impl World<'_> {
    pub(super) fn schedule_work(&mut self, count: usize) {
        let workload = &self.scenario.workload;
        let mut generator = self.seed.generator("workload", &[]);
        let writers = workload.writers.resolve(count, &mut generator).unwrap_or_default();
        self.work.writers = writers.into_iter().collect();
        let keys = workload.keys.draw(&mut generator).max(1);
        let key = |number| format!("mesh/k{number}").parse().expect("a key of the simulator is legal");
        self.work.keys = (0..keys).map(key).collect();
        let counters = workload.counters.draw(&mut generator).max(1);
        let counter = |number| format!("mesh/c{number}").parse().expect("a key of the simulator is legal");
        self.work.counters = (0..counters).map(counter).collect();
        self.work.elements = workload.elements.draw(&mut generator).max(1);
        let from = Moment(0) + workload.from.draw(&mut generator);
        self.work.until =
            workload.until.map_or(self.times.heal, |until| Moment(0) + until.draw(&mut generator));
        for node in self.work.writers.clone() {
            self.work.generators.insert(node, self.seed.generator("writes", &[node as u64]));
            if workload.writes_per_s > 0.0 {
                self.schedule(node, from, workload.writes_per_s, Event::Write { node });
            }
            if workload.registrations_per_s > 0.0 {
                self.schedule(node, from, workload.registrations_per_s, Event::Register { node });
            }
            if workload.counts_per_s > 0.0 {
                self.schedule(node, from, workload.counts_per_s, Event::Count { node });
            }
            if workload.elements_per_s > 0.0 {
                self.schedule(node, from, workload.elements_per_s, Event::Change { node });
            }
        }
        if let Some(burst) = &workload.burst {
            self.queue.push(from + burst.every.draw(&mut generator), Event::Burst);
        }
        if let Some(rewrite) = &workload.rewrite {
            self.queue.push(from + rewrite.every.draw(&mut generator), Event::Rewrite);
        }
        for (number, operation) in self.scenario.operations().iter().enumerate() {
            self.queue.push(Moment(0) + operation.at, Event::Operate { number });
        }
    }

    /// The next of a node's writes, of which all nodes together make so many per second.
    fn schedule(&mut self, node: usize, after: Moment, per_second: f64, event: Event) {
        let each = per_second / self.work.writers.len().max(1) as f64;
        let pause = random::pause(self.generator(node), each);
        if after + pause < self.work.until {
            self.queue.push(after + pause, event);
        }
    }

    fn generator(&mut self, node: usize) -> &mut Generator {
        let seed = self.seed;
        self.work.generators.entry(node).or_insert_with(|| seed.generator("writes", &[node as u64]))
    }

    pub(super) fn write(&mut self, node: usize) {
        self.schedule(node, self.now, self.scenario.workload.writes_per_s, Event::Write { node });
        self.write_once(node);
    }

    /// A node adds something to a counter, or takes it away.
    pub(super) fn tally(&mut self, node: usize) {
        self.schedule(node, self.now, self.scenario.workload.counts_per_s, Event::Count { node });
        let counters = self.work.counters.len();
        let generator = self.generator(node);
        let (counter, by) = (random::index(generator, counters), random::number(generator, 1, 9));
        let by = i64::try_from(by).unwrap_or(1) * if random::chance(generator, 0.2) { -1 } else { 1 };
        self.operate(node, &Action::Count(self.work.counters[counter].clone(), by));
    }

    /// A node adds an element to a set, or removes one.
    pub(super) fn change(&mut self, node: usize) {
        self.schedule(node, self.now, self.scenario.workload.elements_per_s, Event::Change { node });
        let elements = self.work.elements;
        let generator = self.generator(node);
        let number = random::number(generator, 0, elements - 1);
        let (set, element) = (format!("mesh/s{}", number % SETS), format!("e{number}"));
        let set: AttributeKey = set.parse().expect("a key of the simulator is legal");
        let removes = random::chance(generator, 0.4);
        self.operate(node, &if removes { Action::Discard(set, element) } else { Action::Add(set, element) });
    }

    fn increment(&mut self, node: usize, key: &AttributeKey, by: i64) {
        let path = Path::Counter { counter: key.clone(), node: self.nodes[node].id };
        if !self.command(node, &path, false, |mesh, now| mesh.increment(now, key, by)) {
            return;
        }
        let Some(dot) = self.reference.last_write(&path.to_key()).cloned() else { return };
        let Some(process) = &self.nodes[node].process else { return };
        let counted = self.work.counted.entry(key.clone()).or_default();
        let sum = counted.sum(&dot.lane) + i128::from(by);
        let lives = counted.known(|seen| process.seen.knows(&self.reference, seen)).into_iter();
        let own = lives.filter(|(lane, _)| lane.actor().node == dot.lane.actor().node && **lane != dot.lane);
        let before = own.map(|(lane, place)| (lane.clone(), place)).collect();
        counted.push(Counted { dot, sum, before });
    }

    /// A counter at a node that is not what the lives that it has heard of had counted.
    pub(super) fn miscounted(&self) -> Option<(usize, String)> {
        self.running().find_map(|(node, process)| {
            self.work.counted.iter().find_map(|(key, counts)| {
                let lives = counts.known(|dot| process.seen.knows(&self.reference, dot));
                // Of lives that are over somebody may have told what was told to nobody else.
                let claimed = counts.known(|dot| process.seen.claims(&self.reference, dot));
                let expected = counts.total(&lives);
                let found = process.mesh.replica().counter(key).unwrap_or(0);
                let what = || format!("{key} is {found}, what was counted there comes to {expected}");
                (found != expected && lives == claimed).then(|| (node, what()))
            })
        })
    }

    pub(super) fn burst(&mut self) {
        let Some(burst) = &self.scenario.workload.burst else { return };
        let mut generator = self.seed.generator("burst", &[self.now.0]);
        let (size, every) = (burst.size.draw(&mut generator), burst.every.draw(&mut generator));
        if !self.work.writers.is_empty() {
            let node = self.work.writers[random::index(&mut generator, self.work.writers.len())];
            for _ in 0..size {
                self.write_once(node);
            }
        }
        if self.now + every < self.work.until {
            self.queue.push(self.now + every, Event::Burst);
        }
    }

    /// One node writes every key in one moment.
    pub(super) fn rewrite(&mut self) {
        let Some(rewrite) = &self.scenario.workload.rewrite else { return };
        let mut generator = self.seed.generator("rewrite", &[self.now.0]);
        let every = rewrite.every.draw(&mut generator);
        if !self.work.writers.is_empty() {
            let node = self.work.writers[random::index(&mut generator, self.work.writers.len())];
            for key in self.work.keys.clone() {
                let action = if rewrite.same && self.is_set(node, &key) {
                    Action::Repeat(key)
                } else {
                    self.new_value(node, key)
                };
                self.operate(node, &action);
            }
        }
        if self.now + every < self.work.until {
            self.queue.push(self.now + every, Event::Rewrite);
        }
    }

    fn is_set(&self, node: usize, key: &AttributeKey) -> bool {
        self.nodes[node]
            .process
            .as_ref()
            .is_some_and(|process| process.mesh.replica().attribute(key).is_some())
    }

    fn new_value(&mut self, node: usize, key: AttributeKey) -> Action {
        let workload = &self.scenario.workload;
        let len = usize::try_from(workload.value.draw(self.generator(node)).0).unwrap_or(0);
        self.work.written += 1;
        Action::Set { key, text: format!("n{node}#{}.", self.work.written), len }
    }

    fn write_once(&mut self, node: usize) {
        let workload = &self.scenario.workload;
        let keys = self.work.keys.len();
        let generator = self.generator(node);
        let hot = random::chance(generator, workload.hot.0);
        let place = if hot { 0 } else { random::index(generator, keys) };
        let deletes = random::chance(generator, workload.deletes.0);
        let repeats = random::chance(generator, workload.repeats.0);
        let recreates = random::chance(generator, workload.recreates.0);
        let key = self.work.keys[place].clone();
        if deletes || recreates {
            self.operate(node, &Action::Unset(key.clone()));
        }
        if recreates || !deletes {
            let same = repeats && !recreates && self.is_set(node, &key);
            let action = if same { Action::Repeat(key) } else { self.new_value(node, key) };
            self.operate(node, &action);
        }
    }

    /// An operation of the schedule.
    pub(super) fn operate_scheduled(&mut self, number: usize) {
        let scenario = self.scenario;
        let Operation { node, action, .. } = &scenario.operations()[number];
        self.operate(*node, action);
    }

    /// A node does something, if it can; says whether it could.
    fn operate(&mut self, node: usize, action: &Action) -> bool {
        if self.nodes[node].process.is_none() || self.faults.is_frozen(node) {
            return false;
        }
        if let Some(done) = &mut self.work.done {
            let at = self.now.since(Moment(0));
            done.push(Operation { at, node, action: action.clone() });
        }
        match action {
            Action::Set { key, text, len } => {
                self.set(node, key, value_of(text, *len));
            }
            Action::Repeat(key) => {
                let process = self.nodes[node].process.as_ref();
                if let Some(there) = process.and_then(|process| process.mesh.replica().attribute(key)) {
                    self.set(node, key, there.value);
                }
            }
            Action::Unset(key) => {
                self.record(Some(node), Kind::Unset, 0, 0, key.to_string().as_bytes());
                let path = Path::Attribute(key.clone());
                if self.command(node, &path, false, |mesh, now| mesh.unset(now, key)) {
                    self.check_own_write(node, key, None);
                }
            }
            Action::Count(key, by) => {
                self.record(Some(node), Kind::Count, by.unsigned_abs(), 0, key.to_string().as_bytes());
                self.increment(node, key, *by);
            }
            Action::Add(key, element) => {
                self.record(Some(node), Kind::Add, 0, 0, format!("{key} {element}").as_bytes());
                let (path, value) = element_of(key, element);
                self.command(node, &path, false, |mesh, now| mesh.add(now, key, value));
            }
            Action::Discard(key, element) => {
                self.record(Some(node), Kind::Discard, 0, 0, format!("{key} {element}").as_bytes());
                let (path, value) = element_of(key, element);
                self.command(node, &path, false, |mesh, now| mesh.discard(now, key, &value));
            }
            Action::Register(name, tunnel) => {
                self.record(Some(node), Kind::Register, tunnel.0, 0, name.as_str().as_bytes());
                let path = Path::Registration { name: name.clone(), tunnel: *tunnel };
                self.command(node, &path, false, |mesh, now| {
                    mesh.register(now, name, *tunnel, &Attributes::default())
                });
            }
            Action::Deregister(name, tunnel) => {
                self.record(Some(node), Kind::Deregister, tunnel.0, 0, name.as_str().as_bytes());
                let path = Path::Registration { name: name.clone(), tunnel: *tunnel };
                self.command(node, &path, true, |mesh, now| mesh.deregister(now, name, *tunnel));
            }
        }
        true
    }

    fn set(&mut self, node: usize, key: &AttributeKey, value: Value) {
        self.record(Some(node), Kind::Set, 0, value.as_bytes().len() as u64, key.to_string().as_bytes());
        let wanted = value.clone();
        if self.command(node, &Path::Attribute(key.clone()), false, |mesh, now| mesh.set(now, key, value)) {
            self.check_own_write(node, key, Some(&wanted));
        }
    }

    /// Gives a node a command that writes; says whether it made a write.
    fn command<T>(
        &mut self,
        node: usize,
        path: &Path,
        alone: bool,
        act: impl FnOnce(&mut Mesh, Now) -> Result<Option<T>, WriteError>,
    ) -> bool {
        self.work.writing = Some(path.to_key());
        self.work.alone = if alone { Some(path.to_key()) } else { None };
        let result = self.feed(node, act);
        self.work.writing = None;
        self.work.alone = None;
        match result {
            Some(Ok(Some(_))) => {
                self.coverage.hit(Point::Writes);
                true
            }
            Some(Ok(None)) => {
                self.coverage.hit(Point::NoOpWrites);
                false
            }
            Some(Err(WriteError::ClockOff { .. })) => {
                self.coverage.hit(Point::RefusedForClock);
                false
            }
            Some(Err(error)) => {
                let what = format!("a write was refused: {error}");
                self.violated(Some(node), Broken::new(Checker::Causality, what));
                false
            }
            None => false,
        }
    }

    /// A write wins at once over all that its author had seen.
    fn check_own_write(&mut self, node: usize, key: &AttributeKey, wanted: Option<&Value>) {
        if self.scenario.durability == Durable::Disk {
            return;
        }
        let Some(process) = &self.nodes[node].process else { return };
        let found = process.mesh.replica().attribute(key);
        if found.as_ref().map(|found| &found.value) != wanted
            || found.is_some_and(|found| !found.siblings.is_empty())
        {
            let what = format!("{key} does not read as it was just written");
            self.violated(Some(node), Broken::new(Checker::Causality, what));
        }
    }

    pub(super) fn register(&mut self, node: usize) {
        let workload: &Workload = &self.scenario.workload;
        self.schedule(node, self.now, workload.registrations_per_s, Event::Register { node });
        let generator = self.generator(node);
        let name = format!("t{}", random::number(generator, 0, NAMES - 1));
        let tunnel = TunnelId(random::number(generator, 0, u64::MAX));
        let stays = workload.lifetime.draw(generator);
        let name: TunnelName = name.parse().expect("a name of the simulator is legal");
        if self.operate(node, &Action::Register(name.clone(), tunnel)) {
            let life = self.nodes[node].life;
            self.queue.push(self.now + stays, Event::Deregister { node, life, name, tunnel });
        }
    }

    pub(super) fn deregister(&mut self, node: usize, life: u32, name: TunnelName, tunnel: TunnelId) {
        // What still stands when everything has healed stays, so that there is something to agree on.
        if self.lives(node, life) && self.now < self.times.heal {
            self.operate(node, &Action::Deregister(name, tunnel));
        }
    }
}
