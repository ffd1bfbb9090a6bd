//! What a mesh as a whole must keep to, measured one after another: loading it, losing a node, being cut in halves.
//!
//! Counts are exact and times are virtual, so one run is as good as many. Links have delays and no limit.

use std::io::{Write, stderr};
use std::time::{Duration, Instant};

use snomesh::gossip::MemberState;

use super::arena::{Arena, FORMING, IDLE, Net, PAYLOAD, Protocol, SETTLING, STEP};
use super::mesh::{Mesh, Message};

/// From how many nodes on it is told how far it is.
const MANY: usize = 300;
/// How many keys are written at once in all, and by each at most.
const BULK: usize = 30_000;
const BULK_EACH: usize = 1_000;
/// How closely it is looked at what has happened.
const LOOK: Duration = Duration::from_millis(10);
/// How long anything may take before it counts as never.
const PATIENCE: Duration = Duration::from_secs(60);
/// A burst must be over after this.
const CALM_AFTER: Duration = Duration::from_secs(5);
/// How long the halves are apart, and how many keys each node writes meanwhile.
const APART: Duration = Duration::from_secs(20);
const WRITES_APART: usize = 2;

/// What was measured among so many nodes.
#[derive(Debug)]
pub(crate) struct Budgets {
    pub(crate) nodes: usize,
    pub(crate) formed_after: Option<Duration>,
    /// How many keys each node wrote at once.
    pub(crate) bulk_each: usize,
    /// Until all had all of them, and all bytes for it over the keys and values that had to be carried.
    pub(crate) loaded_after: Option<Duration>,
    pub(crate) load_bytes: f64,
    /// Bytes per node and second at rest, before it and from five seconds after it on.
    pub(crate) idle_before: f64,
    pub(crate) idle_after: f64,
    /// After a node fell: until all suspected it, and until it was down for all.
    pub(crate) suspected_after: Option<Duration>,
    pub(crate) down_after: Option<Duration>,
    pub(crate) healed: Healed,
}

/// After halves that were apart could reach each other again.
#[derive(Debug, Default)]
pub(crate) struct Healed {
    /// Until everybody was there for everybody.
    pub(crate) one_after: Option<Duration>,
    /// Until all that was written meanwhile was everywhere.
    pub(crate) known_after: Option<Duration>,
    /// Until both was so and all had the same state, to what nodes tell of their new links.
    pub(crate) agreed_after: Option<Duration>,
}

/// Tells those who wait what is going on: many nodes take minutes.
struct Progress {
    nodes: usize,
    began_at: Instant,
}

impl Progress {
    fn new(nodes: usize) -> Self {
        Self { nodes, began_at: Instant::now() }
    }

    fn tell(&self, what: &str) {
        if self.nodes >= MANY {
            let seconds = self.began_at.elapsed().as_secs();
            // Nobody listens: nothing is lost.
            writeln!(stderr(), "{seconds:>4} s  a mesh of {} nodes {what}", self.nodes).ok();
        }
    }
}

impl Arena<Mesh> {
    pub(super) fn budgets(mut self) -> Budgets {
        let nodes = self.net.nodes();
        let progress = Progress::new(nodes);
        progress.tell("forms");
        self.protocol.start(&mut self.net);
        let formed_after = self.wait(STEP, FORMING, |mesh, _| mesh.is_formed());
        self.rest(SETTLING);
        let idle_before = self.idle();

        progress.tell("is loaded");
        let bulk_each = (BULK / nodes).clamp(1, BULK_EACH);
        let (before, began_at) = (self.bytes(), self.net.now);
        self.write_everywhere(bulk_each);
        let loaded_after = self.wait(LOOK, PATIENCE, Mesh::agrees);
        let took = self.net.now.since(began_at).as_secs_f64();
        let said = (self.bytes() - before) as f64 - idle_before * nodes as f64 * took;
        let least = (bulk_each * nodes * (nodes - 1)) as f64 * PAYLOAD as f64;
        self.rest(CALM_AFTER);
        let idle_after = self.idle();

        progress.tell("loses a node");
        let (fallen, fell_at) = (nodes / 2, self.net.now);
        self.net.kill(fallen);
        let judged = |state| move |mesh: &Mesh, net: &Net<Message>| mesh.all_think(net, fallen, state);
        let suspected_after = self.wait(LOOK, PATIENCE, judged(MemberState::Suspect));
        let down_at = self.wait(LOOK, PATIENCE, judged(MemberState::Down)).map(|_| self.net.now);
        let down_after = down_at.map(|at| at.since(fell_at));
        self.rest(SETTLING);

        progress.tell("is cut in halves");
        self.net.cut = true;
        self.rest(APART / 2);
        self.write_everywhere(WRITES_APART);
        self.rest(APART / 2);
        progress.tell("heals");
        let healed = self.heal();
        Budgets {
            nodes,
            formed_after,
            bulk_each,
            loaded_after,
            load_bytes: said / least.max(1.0),
            idle_before,
            idle_after,
            suspected_after,
            down_after,
            healed,
        }
    }

    fn heal(&mut self) -> Healed {
        self.net.cut = false;
        let healed_at = self.net.now;
        let mut healed = Healed::default();
        while healed.agreed_after.is_none() && self.net.now < healed_at + PATIENCE {
            self.rest(LOOK);
            let (mesh, net) = (&self.protocol, &self.net);
            let now = net.now.since(healed_at);
            healed.one_after = healed.one_after.or_else(|| mesh.are_all_there(net).then_some(now));
            healed.known_after = healed.known_after.or_else(|| mesh.has_all(net).then_some(now));
            let is_whole = healed.one_after.is_some() && healed.known_after.is_some();
            healed.agreed_after = (is_whole && mesh.agrees(net)).then_some(now);
        }
        healed
    }

    fn write_everywhere(&mut self, each: usize) {
        for node in (0..self.net.nodes()).filter(|node| !self.net.is_dead(*node)).collect::<Vec<_>>() {
            (0..each).for_each(|_| self.protocol.put(&mut self.net, node));
        }
    }

    fn rest(&mut self, lasts: Duration) {
        self.until(self.net.now + lasts);
    }

    /// Waits until something is so; says how long that took.
    fn wait(
        &mut self,
        step: Duration,
        most: Duration,
        is_so: impl Fn(&Mesh, &Net<Message>) -> bool,
    ) -> Option<Duration> {
        let began_at = self.net.now;
        while self.net.now < began_at + most {
            self.rest(step);
            if is_so(&self.protocol, &self.net) {
                return Some(self.net.now.since(began_at));
            }
        }
        None
    }

    fn bytes(&self) -> u64 {
        self.net.counts.bytes
    }

    /// Bytes per node and second, when nothing happens.
    fn idle(&mut self) -> f64 {
        let before = self.bytes();
        self.rest(IDLE);
        (self.bytes() - before) as f64 / IDLE.as_secs_f64() / self.net.nodes() as f64
    }
}
