//! One simulated machine: the core while it runs, and what outlives it.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use snomesh::crdt::{Lane, Revision};
use snomesh::event::Ring;
use snomesh::gossip::{Config, Durability, Event, Mesh};
use snomesh::id::{Actor, Generation, NodeId};
use snomesh::replica::Address;
use snomesh::time::{Moment, Now, UnixMillis};

use crate::checker::Seen;
use crate::disk::Disk;
use crate::forge::Pen;
use crate::random::Seed;
use crate::scenario::{Durable, Scenario};
use crate::subscriber::{Subscriber, View};

/// When simulated time begins, on every right clock.
pub(crate) const EPOCH_MILLIS: u64 = 1_700_000_000_000;

/// What a node is when it runs.
#[derive(Debug)]
pub(crate) struct Process {
    /// The core under test.
    pub(crate) mesh: Mesh,
    /// What it tells its subscribers.
    pub(crate) ring: Ring<Event>,
    /// How many events it has told.
    pub(crate) published: u64,
    /// Who follows them.
    pub(crate) subscribers: Vec<Subscriber>,
    /// What the reference knows that it has seen.
    pub(crate) seen: Seen,
    /// The change of the context up to which `seen` is true.
    pub(crate) revision: Revision,
    /// The digest of the state at that change.
    digest: Option<(Revision, [u8; 16])>,
    /// The last write of each lane that the disk has confirmed in this life.
    pub(crate) durable: BTreeMap<Lane, u64>,
    /// The earliest time for which a wake-up is scheduled.
    pub(crate) wakes_at: Option<Moment>,
    /// Since when it runs.
    pub(crate) since: Moment,
    /// The latest that its wall clock has shown.
    pub(crate) latest_wall: UnixMillis,
    /// Whether it has said goodbye.
    pub(crate) leaving: bool,
}

impl Process {
    /// The digest of its state, made anew only after the state has changed.
    pub(crate) fn digest(&mut self) -> [u8; 16] {
        let revision = self.mesh.replica().store().revision();
        let known = self.digest.filter(|(of, _)| *of == revision);
        let (_, digest) = *self.digest.insert(known.unwrap_or_else(|| (revision, self.mesh.digest())));
        digest
    }
}

/// One simulated machine.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) id: NodeId,
    /// When a fault that hits it began or ended last.
    pub(crate) touched_at: Moment,
    /// How often it was started.
    pub(crate) life: u32,
    /// The greatest generation that it has lived in, whether its disk knows or not.
    pub(crate) latest: Generation,
    /// How far its wall clock is off.
    pub(crate) skew_millis: i64,
    /// What it has made durable.
    pub(crate) disk: Disk,
    /// What runs, if anything does.
    pub(crate) process: Option<Process>,
    /// Its connections, gone ones included until the next start.
    pub(crate) connections: Vec<usize>,
    /// Whether it has gone for good, having said so.
    pub(crate) left: bool,
    /// How many events its ring holds.
    pub(crate) ring: u64,
    /// Whether another machine has its name.
    pub(crate) doubled: bool,
    /// When its wall clock stopped, if it stands still.
    pub(crate) clock_stopped_at: Option<Moment>,
    /// How many frames it has received while bits flipped.
    pub(crate) received: u64,
    /// Whom its operator told it of, beside the seeds.
    pub(crate) told_of: Option<usize>,
}

impl Node {
    /// A machine that does not run yet.
    pub(crate) fn new(number: usize, seed: Seed, scenario: &Scenario) -> Self {
        let mut bytes = [0; 32];
        let mut generator = seed.generator("node", &[number as u64]);
        rand::Rng::fill_bytes(&mut generator, &mut bytes);
        let skew_millis = scenario.clock.skew.draw(&mut generator).millis;
        let ring = scenario.mesh.ring.draw(&mut generator).max(1);
        Self {
            id: NodeId::from_bytes(bytes),
            touched_at: Moment(0),
            life: 0,
            latest: Generation(0),
            skew_millis,
            disk: Disk::default(),
            process: None,
            connections: Vec::new(),
            left: false,
            ring,
            received: 0,
            doubled: false,
            clock_stopped_at: None,
            told_of: None,
        }
    }

    /// What its clocks show.
    pub(crate) fn now(&self, now: Moment) -> Now {
        let shown = self.clock_stopped_at.unwrap_or(now);
        let wall = (EPOCH_MILLIS + shown.0 / 1_000_000).saturating_add_signed(self.skew_millis);
        Now { monotone: now, wall: UnixMillis(wall) }
    }

    /// Starts it in a new life, with what its disk holds.
    ///
    /// # Errors
    ///
    /// What the core said of the disk's contents.
    pub(crate) fn start(
        &mut self,
        now: Moment,
        number: usize,
        seed: Seed,
        scenario: &Scenario,
    ) -> Result<(), String> {
        self.life += 1;
        let mut generator = seed.generator("start", &[number as u64, u64::from(self.life)]);
        let drawn = u8::try_from(crate::random::number(&mut generator, 0, 0xff)).unwrap_or_default();
        let generation = Generation::after(self.disk.last_life(self.id), self.now(now).wall, drawn);
        self.disk.begin_life(generation);
        let actor = Actor { node: self.id, generation };
        let mut config = config_of(number, scenario, &mut generator);
        config.seeds.extend(self.told_of.map(address_of));
        config.validate().map_err(|error| error.to_string())?;
        let time = self.now(now);
        let mut mesh = Mesh::new(config, actor, crate::random::number(&mut generator, 0, u64::MAX), time);
        if scenario.mesh.sealed {
            mesh = mesh.sealed(Arc::new(Pen(self.id)));
        }
        for record in self.disk.contents() {
            mesh.restore(time, record).map_err(|error| error.to_string())?;
        }
        let capacity =
            usize::try_from(self.ring).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
        let ring = Ring::new(capacity);
        let view = View::of(&mesh);
        let subscribers = scenario.each_subscriber().map(|kind| {
            let pace = kind.pace.draw(&mut generator).max(Duration::from_micros(100));
            let batch = kind.batch.map_or(u64::MAX, |batch| batch.draw(&mut generator).max(1));
            let jitter = Seed(crate::random::number(&mut generator, 0, u64::MAX)).generator("look", &[]);
            Subscriber::new(kind.name.clone(), pace, batch, jitter, &ring, view.clone())
        });
        let subscribers = subscribers.collect();
        self.connections.clear();
        self.process = Some(Process {
            mesh,
            ring,
            published: 0,
            subscribers,
            seen: Seen::default(),
            revision: Revision::default(),
            digest: None,
            durable: BTreeMap::new(),
            wakes_at: None,
            since: now,
            latest_wall: time.wall,
            leaving: false,
        });
        Ok(())
    }

    /// Takes another machine's name and a copy of its disk.
    pub(crate) fn copy(&mut self, other: &Self) {
        self.id = other.id;
        self.disk = other.disk.copy();
        self.doubled = true;
    }

    /// It is known to have lived as that.
    pub(crate) fn has_lived(&mut self, generation: Generation) {
        self.latest = self.latest.max(generation);
    }
}

/// The address of a node.
fn address(number: usize) -> String {
    format!("n{number}.sim:4400")
}

fn address_of(number: usize) -> Address {
    address(number).parse().expect("an address of the simulator is legal")
}

/// The node at an address, if it is the address of one.
pub(crate) fn node_at(address: &str) -> Option<usize> {
    address.strip_prefix('n')?.strip_suffix(".sim:4400")?.parse().ok()
}

/// The settings of a node, drawn for one life.
pub(crate) fn config_of(
    number: usize,
    scenario: &Scenario,
    generator: &mut crate::random::Generator,
) -> Config {
    let mut config = Config {
        label: format!("n{number}"),
        addresses: vec![address_of(number)],
        seeds: (0..usize::try_from(scenario.mesh.seeds).unwrap_or(usize::MAX)).map(address_of).collect(),
        durability: match scenario.durability {
            Durable::Memory => Durability::Memory,
            Durable::Disk => Durability::Disk,
        },
        ..Config::default()
    };
    if let Some(after) = scenario.mesh.collect_after {
        config.collect_after = after.draw(generator);
        config.collect_interval = Duration::from_secs(1);
    }
    if let Some(budget) = scenario.mesh.delta_budget {
        config.delta_budget = usize::try_from(budget.draw(generator).0).unwrap_or(usize::MAX);
    }
    let mesh = &scenario.mesh;
    for (given, interval) in [
        (mesh.announce_interval, &mut config.announce_interval),
        (mesh.want_after, &mut config.want_after),
        (mesh.want_timeout, &mut config.want_timeout),
        (mesh.audit_after, &mut config.audit_after),
    ] {
        if let Some(given) = given {
            *interval = given.draw(generator).max(Duration::from_millis(1));
        }
    }
    if let Some(after) = mesh.evict_after {
        let after = after.draw(generator);
        config.evict_after = Some(after);
        config.forget_after = config.forget_after.min(after);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_to_their_nodes_and_nowhere_else() {
        assert_eq!(node_at(&address(12)), Some(12));
        assert_eq!(node_at("example.org:4400"), None);
    }

    #[test]
    fn a_new_life_has_a_greater_generation_and_clocks_are_off_by_their_skew() {
        let scenario = "schema = 1\nname = \"x\"\nabout = \"x\"\nnodes = 1\nduration = \"1s\"\n[clock]\nskew = \"-2s\"\n[expect]\nconverge_within = \"1s\"\n";
        let scenario = Scenario::parse("x.toml", scenario).unwrap();
        let mut node = Node::new(0, Seed(1), &scenario);
        assert_eq!(node.now(Moment(5_000_000_000)).wall.0, EPOCH_MILLIS + 3_000);
        node.start(Moment(0), 0, Seed(1), &scenario).unwrap();
        let first = node.process.take().unwrap().mesh.actor();
        node.start(Moment(1), 0, Seed(1), &scenario).unwrap();
        assert!(node.process.unwrap().mesh.actor().generation > first.generation);
    }
}
