//! The simulated world: nodes, what is between them, and time.
//!
//! One thread, one queue of events, no clock but the queue's. Every node is the production core; every frame is
//! encoded, carried as bytes and decoded again. After every input the core is drained, what it has merged is
//! compared with the reference, and only then the next event is taken.

mod carry;
mod drive;
mod life;
mod observe;
mod transport;
mod work;

#[cfg(feature = "quic")]
pub(crate) use life::{Stranger, strangers};

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use snomesh::crdt::CausalContext;
use snomesh::gossip::Message;
use snomesh::id::Generation;
#[cfg(feature = "quic")]
use snomesh::id::NodeId;
use snomesh::time::Moment;

use crate::checker::{Broken, Checker, Reference, Resting, Violation, at_rest};
use crate::coverage::{Coverage, Point};
use crate::fault::{Faults, NoSuchNode, Planned, plan};
use crate::network::Network;
use crate::node::{Node, Process};
use crate::queue::{Event, Queue};
use crate::random::Seed;
use crate::scenario::{Drawn, Scenario, Workload};
use crate::subscriber::View;
use crate::trace::{Header, HeaderFault, Keep, Kept, Kind, Record, Trace};
use work::Work;

/// How often it is looked whether the nodes agree.
const SAMPLE: Duration = Duration::from_millis(50);

/// By how many times the time in which all must agree rest may be put off while lives are told to be over.
const MAX_PUT_OFF: u32 = 5;

/// Everything that there is in a run.
#[derive(Debug)]
pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    seed: Seed,
    now: Moment,
    queue: Queue,
    nodes: Vec<Node>,
    network: Network,
    faults: Faults,
    work: Work,
    reference: Reference,
    trace: Trace,
    coverage: Coverage,
    violations: Vec<Violation>,
    events: u64,
    times: Times,
    agreed_at: Option<Moment>,
    /// When it is to be noted next how many states there are.
    noted_at: Moment,
    /// Which node is given an input at the moment.
    feeding: Option<usize>,
    /// Frames that were sent on channels since the deadline, and the last of them.
    noise: (u64, String),
    /// Which machines were started.
    starts: Vec<Started>,
}

/// A machine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Started {
    /// When.
    pub(crate) at: Moment,
    /// Which one.
    pub(crate) node: usize,
    /// How often it has been started by now.
    pub(crate) life: u32,
    /// What it lives as.
    pub(crate) generation: Generation,
}

/// A run of this tier for another tier to repeat.
#[cfg(feature = "quic")]
#[derive(Debug)]
pub(crate) struct Rehearsal {
    /// What it came to, with the operations.
    pub(crate) outcome: Outcome,
    /// Which machines were started.
    pub(crate) starts: Vec<Started>,
    /// What went wrong, and when.
    pub(crate) faults: Vec<Planned>,
    /// How far each machine's clock was off in the beginning.
    pub(crate) skew_millis: Vec<i64>,
    /// How many events the ring of each machine holds.
    pub(crate) rings: Vec<u64>,
    /// When what happens.
    pub(crate) times: Times,
    /// What the first node that runs in the end believes.
    pub(crate) view: View,
}

/// The times at which a run changes its character.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// From then nothing is wrong any more.
    pub(crate) heal: Moment,
    /// Until then all must agree.
    pub(crate) deadline: Moment,
    /// Then it is over.
    pub(crate) end: Moment,
    /// No later than this all must agree, whatever is told of lives that are over.
    latest_deadline: Moment,
}

impl Times {
    fn new(heal: Moment, within: Duration, quiet_for: Duration) -> Self {
        let deadline = heal + within;
        Self { heal, deadline, end: deadline + quiet_for, latest_deadline: deadline + MAX_PUT_OFF * within }
    }

    /// A node has told, or taken back, that lives are over. That is done long after they are, and so it is no sign of unrest;
    /// but what follows from it has to come to rest. Says whether the deadline has moved.
    pub(crate) fn put_off(&mut self, now: Moment, converge_within: Duration) -> bool {
        let deadline = (now + converge_within / 2).min(self.latest_deadline);
        let moves = now >= self.heal && deadline > self.deadline;
        if moves {
            self.end = deadline + self.end.since(self.deadline);
            self.deadline = deadline;
        }
        moves
    }
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Which run.
    pub(crate) seed: Seed,
    /// How many nodes it had.
    pub(crate) nodes: usize,
    /// How long it took, in simulated time.
    pub(crate) simulated: Duration,
    /// How many events there were.
    pub(crate) events: u64,
    /// The hash over all that happened.
    pub(crate) trace_hash: String,
    /// How long after the heal all nodes agreed for good.
    pub(crate) converged_after: Option<Duration>,
    /// What did not hold.
    pub(crate) violations: Vec<Violation>,
    /// What happened.
    pub(crate) coverage: Coverage,
    /// What must have happened more often than it did.
    pub(crate) unmet: Vec<(Point, u64)>,
    /// The last records before the first violation.
    pub(crate) tail: Vec<Record>,
    /// What was asked to be kept.
    pub(crate) kept: Kept,
}

impl<'a> World<'a> {
    /// Draws everything that a seed leaves to draw.
    ///
    /// # Errors
    ///
    /// [`NoSuchNode`] if the scenario speaks of nodes that this run does not have.
    pub(crate) fn new(scenario: &'a Scenario, seed: Seed, keep: &Keep) -> Result<Self, NoSuchNode> {
        let mut generator = seed.generator("scenario", &[]);
        let count = usize::try_from(scenario.nodes.draw(&mut generator)).unwrap_or(usize::MAX);
        let heal = Moment(0) + scenario.duration.draw(&mut generator);
        let within = scenario.expect.converge_within.draw(&mut generator);
        let times = Times::new(heal, within, scenario.expect.quiet_for.draw(&mut generator));
        let planned = plan(scenario, seed, count, heal)?;
        let trace = Trace::new(keep, || header(scenario, seed, count, times, &planned));
        let mut world = Self {
            scenario,
            seed,
            now: Moment(0),
            queue: Queue::default(),
            nodes: (0..count).map(|number| Node::new(number, seed, scenario)).collect(),
            network: Network::new(seed, &scenario.net, count),
            faults: Faults::new(planned),
            work: Work::new(keep.operations),
            reference: Reference::default(),
            trace,
            coverage: Coverage::default(),
            violations: Vec::new(),
            events: 0,
            times,
            agreed_at: None,
            noted_at: Moment(0),
            feeding: None,
            noise: (0, String::new()),
            starts: Vec::new(),
        };
        world.schedule_faults();
        world.schedule_starts();
        world.schedule_work(count);
        world.queue.push(heal, Event::Heal);
        world.schedule_rest();
        Ok(world)
    }

    fn schedule_rest(&mut self) {
        let Times { deadline, end, .. } = self.times;
        self.queue.push(deadline, Event::Deadline);
        self.queue.push(end, Event::End);
    }

    /// A node has told, or taken back, that lives are over.
    fn put_rest_off(&mut self) {
        if self.times.put_off(self.now, self.scenario.expect.converge_within.high()) {
            self.noise = (0, String::new());
            self.schedule_rest();
        }
    }

    /// The scenario of this very run: all that was drawn of numbers, times and faults stands in it. What the nodes
    /// were told to do has to be added by whoever runs it.
    pub(crate) fn explicit(&self) -> Scenario {
        let mut explicit = self.scenario.clone();
        let Times { heal, deadline, end, .. } = self.times;
        explicit.seed = Some(self.seed);
        explicit.nodes = Drawn::fixed(self.nodes.len() as u64);
        explicit.duration = Drawn::fixed(heal.since(Moment(0)));
        explicit.expect.converge_within = Drawn::fixed(deadline.since(heal));
        explicit.expect.quiet_for = Drawn::fixed(end.since(deadline));
        explicit.faults = self.faults.planned().iter().map(Planned::written).collect();
        explicit.workload = Workload::none();
        explicit
    }

    /// Runs to the end, or to the first thing that does not hold.
    pub(crate) fn run(mut self) -> Outcome {
        self.play();
        self.finish()
    }

    /// How many machines there are.
    #[cfg(feature = "quic")]
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Runs with machines of these names, and keeps what another tier needs to do the same.
    #[cfg(feature = "quic")]
    pub(crate) fn rehearse(mut self, ids: &[NodeId]) -> Rehearsal {
        for (machine, id) in self.nodes.iter_mut().zip(ids) {
            machine.id = *id;
        }
        let skew_millis = self.nodes.iter().map(|machine| machine.skew_millis).collect();
        let rings = self.nodes.iter().map(|machine| machine.ring).collect();
        // Before this tier puts anything off.
        let times = self.times;
        self.play();
        let view = self.running().next().map(|(_, process)| View::of(&process.mesh)).unwrap_or_default();
        let faults = self.faults.planned().to_vec();
        let starts = std::mem::take(&mut self.starts);
        Rehearsal { outcome: self.finish(), starts, faults, skew_millis, rings, times, view }
    }

    fn play(&mut self) {
        let watched = catch_unwind(AssertUnwindSafe(|| self.run_events()));
        if let Err(panic) = watched {
            let node = self.feeding;
            self.violated(node, Broken::new(Checker::Panic, panicked(panic.as_ref())));
        }
        self.check_counts();
    }

    fn finish(mut self) -> Outcome {
        let failed = self.violations.len() as u64;
        if self.trace.takes_notes() {
            self.trace.note(self.now, None, Kind::Over, failed, 0);
        }
        let expected = self.scenario.expect.at_least.iter();
        let unmet = expected.filter(|(point, least)| self.coverage.count(**point) < **least);
        let unmet = unmet.map(|(point, least)| (*point, *least)).collect();
        let first = self.violations.first();
        let tail = first.map(|violation| self.trace.tail(violation.node, 16)).unwrap_or_default();
        let (trace_hash, mut kept) = self.trace.finish();
        kept.operations = self.work.done;
        Outcome {
            seed: self.seed,
            nodes: self.nodes.len(),
            simulated: self.now.since(Moment(0)),
            events: self.events,
            trace_hash,
            converged_after: self.agreed_at.map(|at| at.since(self.times.heal)),
            violations: self.violations,
            coverage: self.coverage,
            unmet,
            tail,
            kept,
        }
    }

    fn run_events(&mut self) {
        while self.violations.is_empty() {
            let Some((at, event)) = self.queue.pop() else { break };
            while self.trace.takes_notes() && self.noted_at <= at {
                self.note_digests();
            }
            self.now = at;
            self.events += 1;
            if matches!(event, Event::End) && self.now == self.times.end {
                self.rest();
                break;
            }
            self.handle(event);
        }
    }

    /// Notes how many different states there are.
    fn note_digests(&mut self) {
        let processes = self.nodes.iter_mut().filter_map(|node| node.process.as_mut());
        let mut digests: Vec<[u8; 16]> = processes.map(Process::digest).collect();
        let running = digests.len() as u64;
        digests.sort_unstable();
        digests.dedup();
        self.trace.note(self.noted_at, None, Kind::Digests, digests.len() as u64, running);
        // Some hundred points, whatever the run's length.
        self.noted_at = self.noted_at + (self.times.end.since(Moment(0)) / 400).max(Duration::from_millis(1));
    }

    /// One event.
    fn handle(&mut self, event: Event) {
        match event {
            Event::Start { node } => self.start(node),
            Event::Stop { node, life } => self.stop(node, life),
            Event::Kill { node } => self.kill(node),
            Event::Wake { node, life } => self.wake(node, life),
            Event::Deliver { connection, line, channel } => self.deliver(connection, line, channel),
            Event::Datagram { connection, line, number, bytes } => {
                self.deliver_datagram(connection, line, number, bytes);
            }
            Event::Writable { connection, end, channel } => self.writable(connection, end, channel),
            Event::Handshake { from, life, to, dial, deadline } => {
                self.handshake(from, life, to, dial, deadline);
            }
            Event::DialFailed { node, life, dial } => self.dial_failed(node, life, dial),
            Event::Up { connection, end } => self.up(connection, end),
            Event::Closed { connection, end, reset } => self.closed(connection, end, reset),
            Event::Idle { connection, end } => self.idle(connection, end),
            Event::Persisted { node, life, ticket } => self.persisted(node, life, ticket),
            Event::Write { node } => self.write(node),
            Event::Count { node } => self.tally(node),
            Event::Change { node } => self.change(node),
            Event::Burst => self.burst(),
            Event::Rewrite => self.rewrite(),
            Event::Operate { number } => self.operate_scheduled(number),
            Event::Register { node } => self.register(node),
            Event::Deregister { node, life, name, tunnel } => self.deregister(node, life, name, tunnel),
            Event::Look { node, life, subscriber } => self.look(node, life, subscriber),
            Event::FaultBegins { fault } => self.fault_begins(fault),
            Event::FaultEnds { fault } => self.fault_ends(fault),
            Event::Heal => self.heal(),
            Event::Sample => self.sample(),
            Event::Deadline if self.now == self.times.deadline => self.deadline(),
            // Both were put off.
            Event::Deadline | Event::End => {}
        }
    }

    /// Whether a life of a node still goes on.
    fn lives(&self, node: usize, life: u32) -> bool {
        self.nodes[node].life == life && self.nodes[node].process.is_some()
    }

    /// Gives an event back, unless its node is frozen: then it comes again when the node is not.
    fn unless_frozen(&mut self, node: usize, event: Event) -> Option<Event> {
        if !self.faults.is_frozen(node) {
            return Some(event);
        }
        let until = self.faults.frozen_until(node).unwrap_or(self.now).max(self.now);
        self.coverage.hit(Point::Frozen);
        self.queue.push(until + Duration::from_nanos(1), event);
        None
    }

    fn record(&mut self, node: Option<usize>, kind: Kind, a: u64, b: u64, bytes: &[u8]) {
        self.trace.record(self.now, node, kind, a, b, bytes);
    }

    fn record_message(
        &mut self,
        node: usize,
        kind: Kind,
        peer: usize,
        bytes: &[u8],
        message: Option<&Message>,
    ) {
        let len = bytes.len() as u64;
        self.trace.record_message(self.now, Some(node), (kind, peer as u64, len), bytes, message);
    }

    /// Something does not hold.
    fn violated(&mut self, node: Option<usize>, broken: Broken) {
        let Broken { checker, what } = broken;
        self.record(node, Kind::Violation, checker as u64, 0, format!("{checker}: {what}").as_bytes());
        self.violations.push(Violation { checker, at: self.now, node, what });
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.process.as_ref()?)))
    }

    fn heal(&mut self) {
        self.record(None, Kind::Heal, 0, 0, b"");
        self.queue.push(self.now, Event::Sample);
    }

    /// Do all nodes that run hold the same?
    fn sample(&mut self) {
        // Whoever starts in the moment in which everything heals has started by now.
        if self.now == self.times.heal {
            self.tell_strangers();
        }
        let mut digests = self.nodes.iter_mut().filter_map(|node| node.process.as_mut()).map(Process::digest);
        let first = digests.next();
        let agree = digests.all(|digest| Some(digest) == first);
        drop(digests);
        match (agree, self.agreed_at) {
            (true, None) => {
                self.agreed_at = Some(self.now);
                self.record(None, Kind::Agreed, 0, 0, b"");
            }
            (false, Some(_)) => {
                self.agreed_at = None;
                self.record(None, Kind::Diverged, 0, 0, b"");
            }
            (true, Some(_)) | (false, None) => {}
        }
        self.queue.push(self.now + SAMPLE, Event::Sample);
    }

    fn deadline(&mut self) {
        if self.agreed_at.is_none() {
            let what = self.disagreement();
            self.violated(None, Broken::new(Checker::Convergence, what));
        }
    }

    /// The checks of the end.
    fn rest(&mut self) {
        let (frames, last) = &self.noise;
        if *frames > 0 {
            let what = format!("{frames} frames were sent when all should be at rest, the last {last}");
            self.violated(None, Broken::new(Checker::Silence, what));
        }
        let keys = self.running().map(|(_, process)| process.mesh.replica().store().len() as u64).max();
        self.coverage.raise(Point::KeysAtRest, keys.unwrap_or(0));
        let mut kept = Vec::new();
        for (_, process) in self.running() {
            let (lanes, pasts) = process.mesh.replica().store().lane_counts();
            kept.extend([(Point::LanesAtRest, lanes), (Point::PastsAtRest, pasts)]);
            kept.push((Point::MembersAtRest, process.mesh.members().count()));
        }
        kept.into_iter().for_each(|(point, count)| self.coverage.raise(point, count as u64));
        let lives =
            |node: usize, life: u32| self.nodes[node].life == life && self.nodes[node].process.is_some();
        let owed = self.work.made.iter().filter(|(_, made)| lives(made.node, made.life));
        let owed = owed.map(|(write, _)| *write).collect();
        if let Some((node, what)) = self.miscounted() {
            self.violated(Some(node), Broken::new(Checker::Counters, what));
        }
        for (node, broken) in at_rest(&Resting { nodes: &self.nodes, reference: &self.reference, owed }) {
            self.violated(node, broken);
        }
    }

    /// What may happen only so often.
    fn check_counts(&mut self) {
        let most = self.scenario.expect.at_most.iter();
        let over = most.filter(|(point, most)| self.coverage.count(**point) > **most);
        let over = over.map(|(point, most)| (*point, *most)).collect::<Vec<_>>();
        for (point, most) in over {
            let what = format!("{point} is {}, at most {most} was expected", self.coverage.count(point));
            self.violated(None, Broken::new(Checker::Bounds, what));
        }
    }

    /// In what the nodes differ, for people.
    fn disagreement(&self) -> String {
        let mut running = self.running();
        let Some((first, process)) = running.next() else { return "no node runs".to_owned() };
        let context = process.mesh.replica().store().context();
        let view = View::of(&process.mesh);
        let lacks = |here: &CausalContext, there: &CausalContext| {
            let missing = there.difference(here);
            missing.lanes().next().map(|(lane, counters)| {
                let ranges: Vec<String> = counters.ranges().map(|range| format!("{range:?}")).collect();
                format!("{lane}:{}", ranges.join(","))
            })
        };
        for (other, process) in running {
            let there = process.mesh.replica().store().context();
            if let Some(missing) = lacks(&context, &there) {
                return format!("n{first} lacks {missing}, which n{other} has");
            }
            if let Some(missing) = lacks(&there, &context) {
                return format!("n{other} lacks {missing}, which n{first} has");
            }
            if let Some(difference) = view.first_difference(&View::of(&process.mesh)) {
                return format!("n{first} and n{other} have seen the same, but {difference}");
            }
        }
        "the digests differed until a moment ago".to_owned()
    }
}

pub(crate) fn header(
    scenario: &Scenario,
    seed: Seed,
    nodes: usize,
    times: Times,
    planned: &[Planned],
) -> Header {
    let fault = |planned: &Planned| HeaderFault {
        kind: planned.kind.name().to_owned(),
        at_ns: planned.at.0,
        until_ns: planned.until.map(|until| until.0),
        sides: (0..nodes).map(|node| planned.effect.side(node)).collect(),
    };
    Header {
        schema: Header::SCHEMA,
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        seed,
        token: String::new(),
        nodes,
        heal_ns: times.heal.0,
        deadline_ns: times.deadline.0,
        end_ns: times.end.0,
        faults: planned.iter().map(fault).collect(),
    }
}

thread_local! {
    /// Where the last panic of this thread was.
    static PANICKED_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on a panic is not printed but remembered: it becomes something that did not hold, with its place.
pub(crate) fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PANICKED_AT.with(|at| at.replace(place));
    }));
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
    format!("{text}, at {}", PANICKED_AT.with(RefCell::take))
}

#[cfg(test)]
mod tests;
