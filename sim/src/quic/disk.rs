//! The disks of this tier: pages in memory, and what a kill does to them.
//!
//! Above them everything is the product's: the driver that gathers, the [`StateFile`] that keeps, and redb. What is
//! simulated is time, for a batch lies before the disk as long as the scenario says before it is written, and what a
//! process that is killed leaves: a batch on its way is written, torn, or not there; what was confirmed is there, less
//! what the scenario takes away.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;
use snomesh::crdt::{Class, Dot, Lane, Notary, RangeSet, Store};
use snomesh::id::{Actor, Generation};
use snomesh::mesh::{Driver, DriverConfig, JournalTail, Report, journal};
use snomesh::store::{Medium, StateFile};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::machine::{life_after, sealed};
use crate::random::{self, Generator};
use crate::scenario::{DiskFate, Drawn};

/// The unit in which copies of a disk share what they have in common.
const PAGE: usize = 4_096;
/// What a disk writes in one go or not at all.
const SECTOR: usize = 512;
/// The most confirmed batches that a disk which lied takes back.
const LIES: usize = 8;
/// How many operations of the batch under way a disk gets done at most before the power goes: more than any needs.
const SPARK: u64 = 48;

/// What was confirmed to be seen, by lane.
type Confirmed = BTreeMap<Lane, RangeSet>;

/// The disk of one machine. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    image: Arc<Mutex<Image>>,
}

/// What is on it.
#[derive(Debug, Default)]
struct Image {
    /// As the process reads it.
    pages: Pages,
    /// What the next process finds for certain.
    synced: Pages,
    /// What was written since, in order.
    unsynced: Vec<Op>,
    /// Which life may use it.
    plugged: u32,
    /// How many operations it gets done before the power goes; none for ever.
    power: Option<u64>,
    /// The file has its name.
    published: bool,
    /// A batch lies before it.
    is_busy: bool,
    confirmed: Confirmed,
    /// The last states that were confirmed.
    last: VecDeque<Copy>,
    /// How many there were before, and any of them, each as likely.
    before: u64,
    old: Option<Copy>,
    /// What a kill has left to be done, when it is known what the process got written.
    killed: Option<(DiskFate, Generator)>,
}

/// The disk as it was once.
#[derive(Debug, Clone, Default)]
struct Copy {
    pages: Pages,
    confirmed: Confirmed,
}

/// Bytes of which copies are cheap.
#[derive(Debug, Clone, Default)]
struct Pages {
    len: u64,
    pages: Vec<Arc<[u8; PAGE]>>,
}

/// What a disk is told to do.
#[derive(Debug, Clone)]
enum Op {
    Length(u64),
    Write(u64, Vec<u8>),
}

/// What a kill did to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage {
    /// Whether a batch was on its way.
    pub(super) caught: bool,
    /// Whether there was anything that had been confirmed.
    pub(super) held: bool,
}

/// A life's way to its disk.
#[derive(Debug)]
pub(super) struct Plug {
    /// In which life.
    pub(super) generation: Generation,
    disk: Disk,
    killed: CancellationToken,
}

impl Disk {
    /// Makes the mesh of a life of what is there. The keeper must be run beside it.
    ///
    /// # Errors
    ///
    /// What is not as it must be.
    pub(super) fn open(
        &self,
        life: u32,
        mut config: DriverConfig,
        notary: Option<Arc<dyn Notary>>,
        delay: Drawn<Duration>,
        mut generator: Generator,
    ) -> Result<(Driver, Plug, Keeper), String> {
        self.settle(life);
        let drive = Drive { disk: self.clone(), life };
        let opened =
            if notary.is_some() { StateFile::open_sealed_on(drive) } else { StateFile::open_on(drive) };
        let mut state = opened.map_err(|error| error.to_string())?;
        // One that met its double, or was taken for dead, has gone on in a life that the script does not know.
        let generation = life_after(state.last_life(config.actor.node), &config, &mut generator);
        config.actor.generation = generation;
        state.begin_life(generation).map_err(|error| error.to_string())?;
        let (journal, tail) = journal();
        let driver = Driver::durable(config, journal).map_err(|error| error.to_string())?;
        let mut driver = sealed(driver, notary);
        let loaded = state.load(|record| driver.restore(record)).map_err(|error| error.to_string())?;
        driver.restore_clock(loaded.clock);
        self.lock().copy(&mut generator);
        let killed = CancellationToken::new();
        let plug = Plug { generation, disk: self.clone(), killed: killed.clone() };
        Ok((driver, plug, Keeper { disk: self.clone(), life, delay, generator, killed, state, tail }))
    }

    /// Another disk with all that this one holds at this moment, as a copy of the machine would have it.
    pub(super) fn copied(&self) -> Self {
        let image = self.lock();
        let copy = Image {
            pages: image.pages.clone(),
            synced: image.pages.clone(),
            published: image.published,
            confirmed: image.confirmed.clone(),
            ..Image::default()
        };
        Self { image: Arc::new(Mutex::new(copy)) }
    }

    /// What of that which was confirmed a node has not seen; what a node says of its own life need not outlive it.
    pub(super) fn lost(&self) -> impl Fn(&Store) -> Option<String> + Send + use<> {
        let confirmed = self.lock().confirmed.clone();
        move |store| {
            let durable = confirmed.iter().filter(|(lane, _)| lane.class() == Class::Attribute);
            let mut live = durable.filter(|(lane, _)| !store.is_retired(lane));
            let nothing = RangeSet::new();
            live.find_map(|(lane, seen)| {
                let missing = seen.difference(store.seen_of(lane).unwrap_or(&nothing));
                Some(lane.dot(missing.first()?).to_string())
            })
        }
    }

    /// What a node has seen of that life of a machine, and of those it took up since, that its disk had not confirmed: a node
    /// takes up another one when it has been taken for dead. Up to `before` are lives of which a disk that was turned back
    /// knows nothing any more.
    pub(super) fn hasty(
        &self,
        since: Actor,
        before: Generation,
    ) -> impl Fn(&Store) -> Option<String> + Send + use<> {
        let confirmed = self.lock().confirmed.clone();
        move |store| {
            let of_now = |lane: &&Lane| {
                let generation = lane.actor().generation;
                let is_now = generation == since.generation || generation > since.generation.max(before);
                lane.class() == Class::Attribute && is_now
            };
            let nothing = RangeSet::new();
            store.lanes_of(&since.node).filter(of_now).find_map(|lane| {
                let hasty = store.seen_of(lane)?.difference(confirmed.get(lane).unwrap_or(&nothing));
                Some(lane.dot(hasty.first()?).to_string())
            })
        }
    }

    /// Whether a write after that one is confirmed.
    pub(super) fn has_confirmed(&self, after: &Dot) -> bool {
        let lane = &after.lane;
        let image = self.lock();
        image.confirmed.iter().any(|(other, seen)| {
            let later = other.actor().generation > lane.actor().generation;
            let same = other == lane && seen.last() > Some(after.counter);
            other.actor().node == lane.actor().node && other.class() == lane.class() && (later || same)
        })
    }

    /// Lets a new life use it, and does what the last kill has left to be done.
    fn settle(&self, life: u32) {
        let mut image = self.lock();
        if let Some((fate, mut generator)) = image.killed.take() {
            image.lose_power(&mut generator);
            image.suffer(fate, &mut generator);
        }
        (image.plugged, image.power, image.is_busy) = (life, None, false);
    }

    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plug {
    /// Kills the life: from now on the disk takes nothing of it, but for what it may get done of a batch on its way.
    pub(super) fn pull(&self, fate: DiskFate, mut generator: Generator) -> Damage {
        let mut image = self.disk.lock();
        let damage = Damage { caught: image.is_busy, held: !image.confirmed.is_empty() };
        image.power = Some(if image.is_busy && random::chance(&mut generator, 0.7) {
            random::number(&mut generator, 0, SPARK)
        } else {
            0
        });
        image.killed = Some((fate, generator));
        drop(image);
        self.killed.cancel();
        damage
    }
}

/// Keeps what a life writes, after the disk's delay.
pub(super) struct Keeper {
    disk: Disk,
    life: u32,
    delay: Drawn<Duration>,
    generator: Generator,
    killed: CancellationToken,
    state: StateFile,
    tail: JournalTail,
}

impl Keeper {
    /// Runs until the mesh ends or is killed.
    pub(super) async fn run(self) {
        let Self { disk, life, delay, mut generator, killed, state, mut tail } = self;
        let (mut journal, kept) = journal();
        let relay = async move {
            loop {
                let batch = tokio::select! {
                    biased;
                    () = killed.cancelled() => break,
                    batch = tail.next() => batch,
                };
                let Some(batch) = batch else { return };
                disk.lock().is_busy = true;
                let seen = batch.lanes.clone();
                let is_killed = tokio::select! {
                    biased;
                    () = killed.cancelled() => true,
                    () = sleep(delay.draw(&mut generator)) => false,
                };
                journal.send(batch);
                let report = journal.report().await;
                if is_killed {
                    break;
                }
                let mut image = disk.lock();
                image.is_busy = false;
                if report == Report::Committed {
                    image.confirmed.extend(seen);
                    image.copy(&mut generator);
                }
                drop(image);
                tail.report(report);
            }
            let mut image = disk.lock();
            // Unless another life uses it already.
            if image.plugged == life {
                image.plugged = 0;
            }
        };
        tokio::join!(biased; relay, state.keep(kept));
    }
}

impl Image {
    /// Remembers what is confirmed, to be found by who finds less than that one day.
    fn copy(&mut self, generator: &mut Generator) {
        self.last.push_back(Copy { pages: self.synced.clone(), confirmed: self.confirmed.clone() });
        if self.last.len() > LIES + 1 {
            let oldest = self.last.pop_front();
            self.before += 1;
            if random::number(generator, 1, self.before) == 1 {
                self.old = oldest;
            }
        }
    }

    /// Of what was not synced any part may be there, and of any write a part.
    fn lose_power(&mut self, generator: &mut Generator) {
        let whole = random::chance(generator, 0.3);
        for mut op in std::mem::take(&mut self.unsynced) {
            if !whole && random::chance(generator, 0.5) {
                continue;
            }
            if let Op::Write(_, data) = &mut op
                && random::chance(generator, 0.1)
            {
                data.truncate(random::index(generator, data.len() / SECTOR + 1) * SECTOR);
            }
            self.synced.apply(&op);
        }
        self.pages = self.synced.clone();
    }

    /// What the scenario says becomes of it.
    fn suffer(&mut self, fate: DiskFate, generator: &mut Generator) {
        let earlier = self.last.len().saturating_sub(1);
        match fate {
            DiskFate::Keep => {}
            DiskFate::Tail => {
                let lied = random::index(generator, earlier.clamp(1, LIES)) + 1;
                self.last.truncate(self.last.len().saturating_sub(lied).max(1));
                self.turn_back();
            }
            DiskFate::Stale => {
                let place = random::number(generator, 0, (self.before + earlier as u64).saturating_sub(1));
                match (place.checked_sub(self.before), self.old.take()) {
                    (None, Some(old)) => self.last = VecDeque::from([old]),
                    (place, _) => {
                        let place = place.and_then(|place| usize::try_from(place).ok());
                        self.last.truncate(place.unwrap_or(0) + 1);
                    }
                }
                self.before = 0;
                self.turn_back();
            }
            DiskFate::Lose => *self = Self::default(),
        }
    }

    /// To the last copy that is left.
    fn turn_back(&mut self) {
        let Some(Copy { pages, confirmed }) = self.last.back().cloned() else { return };
        (self.pages, self.synced, self.confirmed) = (pages.clone(), pages, confirmed);
    }

    /// Gets one operation done, unless the power is gone.
    fn spend(&mut self, life: u32) -> io::Result<()> {
        let left = self.power.unwrap_or(u64::MAX);
        if self.plugged != life || left == 0 {
            return Err(io::Error::other("the machine is off"));
        }
        self.power = self.power.map(|left| left - 1);
        Ok(())
    }

    fn write(&mut self, life: u32, op: Op) -> io::Result<()> {
        self.spend(life)?;
        self.pages.apply(&op);
        self.unsynced.push(op);
        Ok(())
    }
}

impl Pages {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Length(len) => self.resize(*len),
            Op::Write(offset, data) => {
                self.resize(self.len.max(offset + data.len() as u64));
                let mut rest = data.as_slice();
                for (page, range) in pieces(*offset, data.len()) {
                    let (here, others) = rest.split_at(range.len());
                    Arc::make_mut(&mut self.pages[page])[range].copy_from_slice(here);
                    rest = others;
                }
            }
        }
    }

    fn resize(&mut self, len: u64) {
        let count = usize::try_from(len.div_ceil(PAGE as u64)).expect("a disk fits into memory");
        self.pages.resize_with(count, || Arc::new([0; PAGE]));
        let used = usize::try_from(len % PAGE as u64).unwrap_or(0);
        if len < self.len && used > 0 {
            Arc::make_mut(&mut self.pages[count - 1])[used..].fill(0);
        }
        self.len = len;
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = out;
        for (page, range) in pieces(offset, rest.len()) {
            let (here, others) = rest.split_at_mut(range.len());
            here.copy_from_slice(&self.pages[page][range]);
            rest = others;
        }
        Ok(())
    }
}

/// The pages that so many bytes from an offset on lie in, and where in each.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let from = usize::try_from(offset).expect("a disk fits into memory");
    let to = from + len;
    (from / PAGE..to.div_ceil(PAGE)).map(move |page| {
        let begin = page * PAGE;
        (page, from.max(begin) - begin..to.min(begin + PAGE) - begin)
    })
}

/// A disk as one life has it.
#[derive(Debug, Clone)]
struct Drive {
    disk: Disk,
    life: u32,
}

impl Medium for Drive {
    fn path(&self) -> &Path {
        Path::new("simulated disk")
    }

    fn prepare(&self) -> io::Result<bool> {
        Ok(self.disk.lock().published)
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.clone()))
    }

    fn publish(&self) -> io::Result<()> {
        self.disk.lock().published = true;
        Ok(())
    }
}

impl StorageBackend for Drive {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().pages.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.lock().pages.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.lock().write(self.life, Op::Length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.disk.lock();
        image.spend(self.life)?;
        image.synced = image.pages.clone();
        image.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.lock().write(self.life, Op::Write(offset, data.to_vec()))
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("life", &self.life).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;
    use snomesh::crdt::{CausalContext, Delta};
    use snomesh::id::{Generation, NodeId};

    use super::*;
    use crate::random::Seed;

    const ACTOR: Actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(7) };

    /// A store that has seen so many writes of a life.
    fn seen(actor: Actor, writes: u64) -> Store {
        let lane = Lane::new(actor, Class::Attribute);
        let accounted = CausalContext::from_iter([(lane, RangeSet::up_to(writes))]);
        let mut store = Store::new();
        store.merge(&Delta { accounted, ..Delta::default() }).unwrap();
        store
    }

    #[test]
    fn what_is_lost_and_what_is_told_too_early_is_found() {
        let disk = Disk::default();
        let lane = Lane::new(ACTOR, Class::Attribute);
        disk.lock().confirmed.insert(lane.clone(), RangeSet::up_to(2));
        assert_eq!(disk.lost()(&seen(ACTOR, 1)), Some(lane.dot(2).to_string()));
        assert_eq!(disk.lost()(&seen(ACTOR, 2)), None);
        assert_eq!(disk.hasty(ACTOR, Generation(0))(&seen(ACTOR, 2)), None);
        assert_eq!(disk.hasty(ACTOR, Generation(0))(&seen(ACTOR, 3)), Some(lane.dot(3).to_string()));
        let reborn = Actor { generation: Generation(8), ..ACTOR };
        assert!(disk.hasty(ACTOR, Generation(0))(&seen(reborn, 1)).is_some());
        assert_eq!(disk.hasty(ACTOR, reborn.generation)(&seen(reborn, 1)), None, "it was lost with the disk");
        assert_eq!(disk.hasty(reborn, Generation(0))(&seen(ACTOR, 9)), None);
        assert!(disk.has_confirmed(&lane.dot(1)) && !disk.has_confirmed(&lane.dot(2)));
    }

    #[test]
    fn pages_hold_what_was_written_and_copies_stay_as_they_were() {
        let mut generator = Seed(1).generator("test", &[]);
        let (mut pages, mut bytes) = (Pages::default(), Vec::new());
        let (mut copy, mut then) = (pages.clone(), bytes.clone());
        for step in 0..200 {
            let op = if random::chance(&mut generator, 0.1) {
                Op::Length(random::number(&mut generator, 0, 40_000))
            } else {
                let mut data = vec![0; random::index(&mut generator, 9_000)];
                generator.fill_bytes(&mut data);
                Op::Write(random::number(&mut generator, 0, 30_000), data)
            };
            pages.apply(&op);
            match op {
                Op::Length(len) => bytes.resize(usize::try_from(len).unwrap(), 0),
                Op::Write(offset, data) => {
                    let from = usize::try_from(offset).unwrap();
                    bytes.resize(bytes.len().max(from + data.len()), 0);
                    bytes[from..from + data.len()].copy_from_slice(&data);
                }
            }
            for (pages, bytes) in [(&pages, &bytes), (&copy, &then)] {
                let mut read = vec![1; bytes.len()];
                pages.read(0, &mut read).unwrap();
                assert!(read == *bytes && pages.len == bytes.len() as u64);
                assert!(pages.read(1, &mut read).is_err() || bytes.is_empty());
            }
            if step % 17 == 0 {
                (copy, then) = (pages.clone(), bytes.clone());
            }
        }
    }

    /// A disk whose pages say after how many batches they were confirmed.
    fn confirmed(batches: u64, generator: &mut Generator) -> Image {
        let mut image = Image::default();
        for batch in 0..=batches {
            image.pages.apply(&Op::Write(0, batch.to_be_bytes().to_vec()));
            image.synced = image.pages.clone();
            image.copy(generator);
        }
        image
    }

    #[test]
    fn each_fate_leaves_what_it_says() {
        let mut generator = Seed(1).generator("test", &[]);
        let mut after = |batches, fate| {
            let mut image = confirmed(batches, &mut generator);
            image.suffer(fate, &mut generator);
            let mut read = [0; 8];
            image.pages.read(0, &mut read).ok().map(|()| u64::from_be_bytes(read))
        };
        let mut stale = Vec::new();
        for _ in 0..400 {
            assert_eq!(after(40, DiskFate::Keep), Some(40));
            assert!(after(40, DiskFate::Tail).is_some_and(|left| (32..40).contains(&left)));
            assert_eq!(after(0, DiskFate::Tail), Some(0));
            assert!(after(3, DiskFate::Stale).is_some_and(|left| left < 3));
            stale.extend(after(40, DiskFate::Stale));
            assert_eq!(after(40, DiskFate::Lose), None);
        }
        stale.sort_unstable();
        stale.dedup();
        assert_eq!(stale, (0..40).collect::<Vec<_>>(), "every old copy is found one day");
    }

    #[test]
    fn of_what_was_not_synced_anything_may_be_left() {
        let mut generator = Seed(1).generator("test", &[]);
        let mut left = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut image = confirmed(0, &mut generator);
            for place in 1..=2 {
                image.write(0, Op::Write(place * 1_024, vec![1; 1_024])).unwrap();
            }
            image.lose_power(&mut generator);
            let mut read = vec![0; 3 * 1_024];
            let len = usize::try_from(image.pages.len).unwrap();
            image.pages.read(0, &mut read[..len]).unwrap();
            left.insert([read[1_024], read[1_536], read[2_048], read[2_560]]);
        }
        assert!(
            left.is_superset(&[[0; 4], [1; 4], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 1]].into()),
            "{left:?}"
        );
    }
}
