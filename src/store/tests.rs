//! A disk in memory that keeps only what was synced, and what is done to it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use redb::{ReadableTableMetadata, StorageBackend};

use super::*;
use crate::crdt::seal_tests::Pen;
use crate::crdt::{Class, Entry, Item, Key, Observed, Register, Store, Value};
use crate::id::{Actor, NodeId};

/// What a disk holds, what it has been told since it last synced, and when it fails.
#[derive(Debug, Default)]
struct Image {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Op>,
    /// Operations until the power goes; none for ever.
    power: Option<u32>,
    /// The largest it may become.
    room: Option<u64>,
    sync_fails: bool,
    published: bool,
}

#[derive(Debug, Clone)]
enum Op {
    Length(u64),
    Write(u64, Vec<u8>),
}

impl Op {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(len) => bytes.resize(place(*len), 0),
            Self::Write(offset, data) => {
                let (from, end) = (place(*offset), place(*offset) + data.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[from..end].copy_from_slice(data);
            }
        }
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl Image {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.power {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn tell(&mut self, op: Op) -> io::Result<()> {
        self.spend()?;
        let end = match &op {
            Op::Length(len) => *len,
            Op::Write(offset, data) => offset + data.len() as u64,
        };
        if self.room.is_some_and(|room| end > room) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        op.apply(&mut self.current);
        self.pending.push(op);
        Ok(())
    }
}

/// A disk. Clones are the same one.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Image>>);

impl Disk {
    fn with<T>(&self, look: impl FnOnce(&mut Image) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    /// The power goes and comes back: of what was not synced any part may be there, and the last write it did may be
    /// torn.
    fn crash(&self, generator: &mut Xoshiro256PlusPlus) {
        self.with(|image| {
            let mut left = image.durable.clone();
            let pending = std::mem::take(&mut image.pending);
            let whole = generator.random_bool(0.3);
            for mut op in pending {
                if !whole && generator.random_bool(0.5) {
                    continue;
                }
                if let Op::Write(_, data) = &mut op
                    && generator.random_bool(0.1)
                {
                    data.truncate(generator.random_range(0..=data.len() / 512) * 512);
                }
                op.apply(&mut left);
            }
            *image = Image {
                durable: left.clone(),
                current: left,
                published: image.published,
                ..Image::default()
            };
        });
    }

    fn open(&self) -> Result<StateFile, StoreError> {
        StateFile::on(Box::new(self.clone()), Expects::Plain)
    }
}

impl Medium for Disk {
    fn path(&self) -> &Path {
        Path::new("memory")
    }

    fn prepare(&self) -> io::Result<bool> {
        Ok(self.with(|image| {
            if !image.published {
                // A new file is begun anew under its temporary name.
                image.current.clear();
                image.durable.clear();
                image.pending.clear();
            }
            image.published
        }))
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.clone()))
    }

    fn publish(&self) -> io::Result<()> {
        self.with(|image| {
            image.spend()?;
            image.published = true;
            Ok(())
        })
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|image| image.current.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|image| {
            let from = place(offset);
            let found = image.current.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(found);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|image| image.tell(Op::Length(len)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|image| {
            image.spend()?;
            if image.sync_fails {
                return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
            }
            image.durable = image.current.clone();
            image.pending.clear();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|image| image.tell(Op::Write(offset, data.into())))
    }
}

fn lane(author: u8) -> Lane {
    let actor = Actor { node: NodeId::from_bytes([author; 32]), generation: Generation(7) };
    Lane::new(actor, Class::Attribute)
}

/// A node that writes a little, and what of it is to be made durable.
struct Author {
    store: Store,
    counters: [u64; 3],
    changed: BTreeSet<Key>,
    generator: Xoshiro256PlusPlus,
}

impl Author {
    fn new(seed: u64) -> Self {
        let generator = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { store: Store::new(), counters: [0; 3], changed: BTreeSet::new(), generator }
    }

    fn write(&mut self) {
        let author = self.generator.random_range(0..3_u8);
        let key: Key = format!("attr/mesh/{}", self.generator.random_range(0..40)).parse().unwrap();
        let lane = lane(author);
        self.counters[usize::from(author)] += 1;
        let counter = self.counters[usize::from(author)];
        let value = vec![author; self.generator.random_range(0..400)];
        let value = self.generator.random_bool(0.8).then(|| Value::try_from(&value[..]).unwrap());
        let observed = match self.store.register(&key) {
            Some(register) if self.generator.random_bool(0.7) => register.observed_by(&lane),
            _ => Observed::default(),
        };
        let entry = Entry::new(&key, lane.dot(counter), observed, Timestamp(counter), value);
        let accounted = CausalContext::from_iter([(lane, RangeSet::from(counter..=counter))]);
        let items = vec![Item { key: key.clone(), entries: [entry].into_iter().collect() }];
        self.store.merge(&Delta { accounted, items, seals: vec![] }).unwrap();
        self.changed.insert(key);
    }

    fn batch(&mut self) -> Batch {
        for _ in 0..self.generator.random_range(1..12) {
            self.write();
        }
        let changed = std::mem::take(&mut self.changed);
        let register = |key: Key| {
            let register = self.store.register(&key).unwrap_or_default();
            (key, register)
        };
        Batch {
            registers: changed.into_iter().map(register).collect(),
            lanes: self.store.context().lanes().map(|(lane, seen)| (lane.clone(), seen.clone())).collect(),
            clock: Timestamp(self.counters.iter().sum()),
            ..Batch::default()
        }
    }
}

fn load(file: &StateFile) -> (Store, Loaded) {
    let mut store = Store::new();
    let loaded = file.load(|record| restore(&mut store, record)).unwrap();
    (store, loaded)
}

/// FEATURES P12.
#[test]
fn what_was_committed_is_there_after_a_power_cut_at_any_moment_and_nothing_is_half_there() {
    let mut cuts = 0;
    for seed in 0..700 {
        let disk = Disk::default();
        let mut author = Author::new(seed);
        let mut power = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0xdead);
        let mut committed = Store::new();
        // A file that nobody could finish making is begun anew.
        let mut file = loop {
            disk.with(|image| image.power = power.random_bool(0.2).then(|| power.random_range(0..30)));
            match disk.open() {
                Ok(file) => break file,
                Err(StoreError::Unusable { .. }) => disk.crash(&mut power),
                Err(error) => panic!("seed {seed}: {error}"),
            }
        };
        for _ in 0..6 {
            disk.with(|image| image.power = Some(power.random_range(0..60)));
            loop {
                let batch = author.batch();
                if file.commit(&batch).is_err() {
                    break;
                }
                committed = author.store.clone();
            }
            cuts += 1;
            drop(file);
            disk.crash(&mut power);
            file = disk.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let (found, _) = load(&file);
            assert!(
                found == committed || found == author.store,
                "seed {seed}: neither what was committed nor what was being committed"
            );
            author.store = found.clone();
            committed = found;
        }
    }
    assert!(cuts >= 4_000, "{cuts}");
}

/// FEATURES P10.
#[test]
fn the_clock_and_the_life_are_there_again() {
    let disk = Disk::default();
    let mut file = disk.open().unwrap();
    file.begin_life(Generation(41)).unwrap();
    let mut author = Author::new(1);
    let batch = author.batch();
    file.commit(&batch).unwrap();
    drop(file);
    let file = disk.open().unwrap();
    let (store, loaded) = load(&file);
    assert_eq!(store, author.store);
    assert_eq!(loaded.clock, batch.clock);
    assert_eq!(loaded.keys, author.store.len());
    assert_eq!(file.last_life(NodeId::from_bytes([9; 32])), Generation(41));
}

/// FEATURES B6: a life that was taken up while running is known to the next start.
#[test]
fn a_life_that_only_its_writes_tell_of_counts() {
    let disk = Disk::default();
    let mut file = disk.open().unwrap();
    file.begin_life(Generation(3)).unwrap();
    file.commit(&Author::new(1).batch()).unwrap();
    assert_eq!(file.last_life(NodeId::from_bytes([0; 32])), Generation(7));
}

#[test]
fn a_full_disk_refuses_and_takes_the_same_batch_when_there_is_room() {
    let disk = Disk::default();
    let mut file = disk.open().unwrap();
    let mut author = Author::new(5);
    file.commit(&author.batch()).unwrap();
    let before = author.store.clone();
    disk.with(|image| image.room = Some(0));
    let batch = author.batch();
    for _ in 0..3 {
        assert_eq!(file.commit(&batch), Err(CommitError::NoRoom));
    }
    assert_eq!(load(&disk_copy(&disk).open().unwrap()).0, before);
    disk.with(|image| image.room = None);
    file.commit(&batch).unwrap();
    drop(file);
    assert_eq!(load(&disk.open().unwrap()).0, author.store);
}

/// The same bytes on another disk that works.
fn disk_copy(disk: &Disk) -> Disk {
    let durable = disk.with(|image| image.durable.clone());
    let image = Image { current: durable.clone(), durable, published: true, ..Image::default() };
    Disk(Arc::new(Mutex::new(image)))
}

#[test]
fn a_failed_sync_is_final() {
    let disk = Disk::default();
    let mut file = disk.open().unwrap();
    let mut author = Author::new(5);
    disk.with(|image| image.sync_fails = true);
    let failed = file.commit(&author.batch());
    assert!(
        matches!(&failed, Err(CommitError::Failed(what)) if what.starts_with("fsync failed")),
        "{failed:?}"
    );
}

#[test]
fn the_keeper_reports_and_ends_as_the_disk_does() {
    let disk = Disk::default();
    let file = disk.open().unwrap();
    let (mut journal, tail) = crate::mesh::journal();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let keeper = std::thread::spawn(move || runtime().block_on(file.keep(tail)));
    let runtime = runtime();
    let mut author = Author::new(5);
    journal.send(author.batch());
    assert_eq!(runtime.block_on(journal.report()), Report::Committed);
    disk.with(|image| image.room = Some(0));
    journal.send(author.batch());
    assert_eq!(runtime.block_on(journal.report()), Report::NoRoom);
    disk.with(|image| image.room = None);
    assert_eq!(
        runtime.block_on(async {
            loop {
                match journal.report().await {
                    Report::NoRoom => {}
                    other => return other,
                }
            }
        }),
        Report::Committed
    );
    disk.with(|image| image.sync_fails = true);
    journal.send(author.batch());
    assert!(matches!(runtime.block_on(journal.report()), Report::Failed(_)));
    keeper.join().unwrap();
    assert!(matches!(runtime.block_on(journal.report()), Report::Failed(_)));
}

fn damaged(disk: &Disk) -> Option<StoreError> {
    let file = match disk.open() {
        Ok(file) => file,
        Err(error) => return Some(error),
    };
    let mut store = Store::new();
    file.load(|record| restore(&mut store, record)).err()
}

/// A file with some hundred writes in it.
fn filled() -> (Disk, Store) {
    let disk = Disk::default();
    let mut file = disk.open().unwrap();
    let mut author = Author::new(11);
    for _ in 0..30 {
        file.commit(&author.batch()).unwrap();
    }
    drop(file);
    (disk, author.store)
}

#[test]
fn a_file_that_was_cut_is_damaged_and_says_what_to_do() {
    let (disk, _) = filled();
    let whole = disk.with(|image| image.current.len());
    for len in [0, 1, 100, 4_096, whole / 2, whole - 4_096, whole - 1] {
        let cut = disk_copy(&disk);
        cut.with(|image| image.current.truncate(len));
        // A file is handled by its medium when nothing is left of it; see the file's own test.
        if len == 0 {
            continue;
        }
        let error = damaged(&cut).unwrap_or_else(|| panic!("cut to {len} of {whole} and not noticed"));
        assert!(matches!(error, StoreError::Damaged { .. }), "{len}: {error}");
        assert!(error.hint().unwrap().contains("--rebuild-from-mesh"));
    }
}

#[test]
fn a_file_that_was_overwritten_is_damaged_or_holds_what_it_held() {
    let (disk, state) = filled();
    let whole = disk.with(|image| image.current.len());
    let mut generator = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut noticed = 0;
    for _ in 0..300 {
        let hurt = disk_copy(&disk);
        hurt.with(|image| {
            let at = generator.random_range(0..whole);
            image.current[at] ^= 1 << generator.random_range(0..8);
        });
        match damaged(&hurt) {
            Some(StoreError::Damaged { .. } | StoreError::InUse { .. }) => noticed += 1,
            Some(error) => panic!("{error}"),
            // A byte that belongs to nothing.
            None => assert_eq!(load(&hurt.open().unwrap()).0, state),
        }
    }
    assert!(noticed > 0);
}

#[test]
fn a_later_format_is_refused() {
    let (disk, _) = filled();
    let file = disk.open().unwrap();
    let write = file.database.as_ref().unwrap().begin_write().unwrap();
    write.open_table(META).unwrap().insert(META_FORMAT, FORMAT + 1).unwrap();
    write.commit().unwrap();
    drop(file);
    assert!(matches!(disk.open(), Err(StoreError::Newer { found, .. }) if found == FORMAT + 1));
}

#[test]
fn a_file_is_made_whole_and_an_empty_one_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let mut file = StateFile::open(&path).unwrap();
    assert!(matches!(StateFile::open(&path), Err(StoreError::InUse { .. })));
    let mut author = Author::new(2);
    file.commit(&author.batch()).unwrap();
    drop(file);
    let names: Vec<PathBuf> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, std::slice::from_ref(&path));
    assert_eq!(load(&StateFile::open(&path).unwrap()).0, author.store);

    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert!(matches!(StateFile::open(&path), Err(StoreError::Damaged { .. })));
    assert_eq!(set_aside(&path).unwrap(), Some(directory.path().join("state.damaged-1")));
    assert_eq!(set_aside(&path).unwrap(), None);
    assert!(load(&StateFile::open(&path).unwrap()).0.is_empty());
}

/// The rows of format 1, byte for byte: a change here makes every file in the world unreadable.
#[test]
fn the_rows_are_those_of_the_golden_files() {
    let key: Key = "attr/mesh/x".parse().unwrap();
    let mut lanes = LaneNumbers::default();
    lanes.insert(lane(1), 4);
    let mut register = Register::default();
    let observed = Observed::new([(lane(2), 300)]);
    let value = Value::try_from(&b"value"[..]).unwrap();
    register.insert(Entry::new(&key, lane(1).dot(5), observed, Timestamp(77), Some(value)), |_| ());
    register.insert(Entry::new(&key, lane(3).dot(1), Observed::default(), Timestamp(9), None), |_| ());
    let row = record::write_register(&register, &[], &mut lanes);
    let mut seen = RangeSet::up_to(5);
    seen.insert_range(9..=700);
    let lane_row = LaneRow { lane: lane(1), seen, head: None };
    let golden = |name: &str| -> Vec<u8> {
        let text = match name {
            "register" => include_str!("golden/register-1.hex"),
            _ => include_str!("golden/lane-1.hex"),
        };
        data_encoding::HEXLOWER.decode(text.trim().as_bytes()).unwrap()
    };
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    assert_eq!(hex(&row), hex(&golden("register")));
    assert_eq!(hex(&lane_row.write()), hex(&golden("lane")));
    assert_eq!(LaneRow::read(&golden("lane")).unwrap(), lane_row);
    let numbers = BTreeMap::from([(4, lane(1)), (5, lane(2)), (6, lane(3))]);
    let (item, _) = record::read_register("attr/mesh/x", &golden("register"), &numbers).unwrap();
    assert_eq!(item.entries.as_slice(), register.entries());
}

proptest! {
    #[test]
    fn no_row_makes_us_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _lane = LaneRow::read(&bytes);
        let numbers = BTreeMap::from([(0, lane(0)), (1, lane(1))]);
        let _register = record::read_register("attr/mesh/x", &bytes, &numbers);
    }
}

fn restore(store: &mut Store, record: &Record) -> Result<(), Corrupt> {
    match record {
        Record::Delta(delta) => store.merge(delta),
        Record::Reconciled(reconciliation) => store.reconcile(reconciliation),
        Record::Collected(_) => Ok(()),
    }
}

/// SCENARIOS G-12: a removal that is gone from the disk too is known by how far was collected.
#[test]
fn what_was_collected_is_still_known_after_a_restart() {
    let mut file = Disk::default().open().unwrap();
    let (mut life, _) = load(&file);
    let key: Key = "attr/mesh/x".parse().unwrap();
    let actor = Actor { node: NodeId::from_bytes([1; 32]), generation: Generation(1) };
    let lane = Lane::new(actor, Class::Attribute);
    for (counter, value) in [(1, Some(b"v")), (2, None)] {
        let value = value.map(|bytes| Value::try_from(&bytes[..]).unwrap());
        let entry = Entry::new(&key, lane.dot(counter), Observed::default(), Timestamp(counter), value);
        let accounted = CausalContext::from_iter([(lane.clone(), RangeSet::from(counter..=counter))]);
        let items = vec![Item { key: key.clone(), entries: [entry].into_iter().collect() }];
        life.merge(&Delta { accounted, items, seals: vec![] }).unwrap();
    }
    assert_eq!(life.collect(usize::MAX, |_| true).len(), 1);
    let lanes = vec![(lane.clone(), life.seen_of(&lane).cloned().unwrap())];
    let registers = vec![(key, Register::default())];
    let (floors, horizon) = (vec![(lane, 2)], life.horizon());
    file.commit(&Batch { registers, lanes, floors, horizon, ..Batch::default() }).unwrap();
    let (restored, _) = load(&file);
    assert_eq!(restored, life);
    assert_eq!((restored.floors(), restored.horizon()), (life.floors(), life.horizon()));
}

impl StateFile {
    /// How many lanes, floors and keys have a row.
    fn row_counts(&self) -> [u64; 3] {
        let read = self.database.as_ref().unwrap().begin_read().unwrap();
        let lanes = read.open_table(LANES).unwrap().len().unwrap();
        let floors = read.open_table(FLOORS).unwrap().len().unwrap();
        [lanes, floors, read.open_table(REGISTERS).unwrap().len().unwrap()]
    }
}

/// SCENARIOS G-08: of 20,000 lives the file keeps one name, and what their writes are called that are still there.
#[test]
fn lanes_that_are_part_of_a_past_and_that_nothing_names_have_no_row() {
    const LIVES: u64 = 20_000;
    let disk = Disk::default();
    let mut file = disk.open().unwrap();
    let [kept, changing]: [Key; 2] = ["attr/mesh/kept", "attr/mesh/changing"].map(|key| key.parse().unwrap());
    let node = NodeId::from_bytes([1; 32]);
    let lane = |life| Lane::new(Actor { node, generation: Generation(life) }, Class::Attribute);
    let written = |key: &Key, life: u64, observed: Option<u64>| {
        let observed = Observed::new(observed.map(|life| (lane(life), 1)));
        let value = Value::try_from(&life.to_le_bytes()[..]).ok();
        let mut register = Register::default();
        register.insert(Entry::new(key, lane(life).dot(1), observed, Timestamp(life), value), |_| ());
        (key.clone(), register)
    };
    for life in 1..=LIVES {
        let mut registers = vec![written(&changing, life, life.checked_sub(1).filter(|before| *before > 0))];
        if life == 7 {
            registers.push(written(&kept, life, None));
        }
        let lanes = vec![(lane(life), RangeSet::up_to(1))];
        file.commit(&Batch { registers, lanes, floors: vec![(lane(life), 1)], ..Batch::default() }).unwrap();
        let lanes = vec![(Lane::past(node, Generation(life - 1)), RangeSet::up_to(1))];
        file.commit(&Batch { lanes, ..Batch::default() }).unwrap();
    }
    // The past, the life that wrote last, the one that this had seen, and the seventh.
    assert_eq!(file.row_counts(), [4, 3, 2]);
    let registers = vec![(changing, Register::default()), (kept, Register::default())];
    file.commit(&Batch { registers, ..Batch::default() }).unwrap();
    assert_eq!(file.row_counts(), [2, 1, 0]);
    drop(file);
    // What an earlier version has left behind goes with the first write.
    let mut file = disk.open().unwrap();
    let lanes = vec![(Lane::past(node, Generation(LIVES)), RangeSet::up_to(1))];
    file.commit(&Batch { lanes, ..Batch::default() }).unwrap();
    assert_eq!(file.row_counts(), [1, 0, 0]);
    let (store, _) = load(&file);
    assert_eq!(store.retired(&node), Generation(LIVES));
}

/// What a relay has of an author that seals, and makes durable.
struct Sealed {
    disk: Disk,
    relay: Store,
}

fn pen(node: u8) -> Arc<Pen> {
    Arc::new(Pen::of(lane(node).actor().node))
}

impl Sealed {
    fn new() -> Self {
        let mut author = Store::new().sealed(pen(1));
        for counter in 1..=40 {
            let key: Key = format!("attr/mesh/{}", counter % 30).parse().unwrap();
            let value = Value::try_from(&[7][..]).ok();
            let entry =
                Entry::new(&key, lane(1).dot(counter), Observed::default(), Timestamp(counter), value);
            let accounted = CausalContext::from_iter([(lane(1), RangeSet::from(counter..=counter))]);
            let items = vec![Item { key, entries: [entry].into_iter().collect() }];
            author.merge_own(&Delta { accounted, items, seals: vec![] });
        }
        author.seal();
        let mut relay = Store::new().sealed(pen(2));
        relay.merge(&author.delta([&lane(1)], &CausalContext::new(), usize::MAX)).unwrap();
        Self { disk: Disk::default(), relay }
    }

    fn open(&self) -> Result<StateFile, StoreError> {
        StateFile::on(Box::new(self.disk.clone()), Expects::Sealed)
    }

    fn batch(&self) -> Batch {
        let rows: Vec<(Key, Register)> =
            self.relay.prefix("").map(|row| (row.key(), row.register())).collect();
        let seals = rows.iter().map(|(key, _)| (key.clone(), self.relay.seals_of(key)));
        let seen = self.relay.seen_of(&lane(1)).cloned().unwrap();
        Batch {
            seals: seals.collect(),
            registers: rows,
            heads: self.relay.head_of(&lane(1)).cloned().into_iter().collect(),
            lanes: vec![(lane(1), seen)],
            ..Batch::default()
        }
    }

    fn load(&self) -> Result<Store, StoreError> {
        let mut store = Store::new().sealed(pen(2));
        self.open()?.load(|record| restore(&mut store, record))?;
        Ok(store)
    }
}

/// FEATURES B7: what was read again can be proved to others, and nothing that was put there by somebody else.
#[test]
fn seals_survive_a_restart_and_what_was_forged_on_the_disk_is_not_read() {
    let sealed = Sealed::new();
    sealed.open().unwrap().commit(&sealed.batch()).unwrap();
    let again = sealed.load().unwrap();
    assert_eq!(again, sealed.relay);
    let mut other = Store::new().sealed(pen(3));
    other.merge(&again.delta([&lane(1)], &CausalContext::new(), usize::MAX)).unwrap();
    assert_eq!(other, sealed.relay);

    let mut forged = sealed.batch();
    let (key, register) = &mut forged.registers[3];
    let Entry { dot, observed, stamp, .. } = register.entries()[0].clone();
    let value = Value::try_from(&b"forged"[..]).ok();
    let (key, entry) = (key.clone(), Entry::new(key, dot, observed, stamp, value));
    *register = Register::default();
    register.insert(entry, |_| ());
    sealed.open().unwrap().commit(&forged).unwrap();
    let told = sealed.load().unwrap_err().to_string();
    assert!(told.contains(key.as_str()) && told.contains("seal of its author"), "{told}");
}

/// FEATURES B7: nobody goes on without seals, or with them, by mistake.
#[test]
fn a_state_that_was_kept_with_seals_is_not_opened_without_nor_the_other_way_round() {
    let sealed = Sealed::new();
    sealed.open().unwrap().commit(&sealed.batch()).unwrap();
    assert!(matches!(sealed.disk.open(), Err(StoreError::Trust { sealed: true, .. })));
    let (plain, _) = filled();
    let opened = StateFile::on(Box::new(plain.clone()), Expects::Sealed);
    assert!(matches!(&opened, Err(StoreError::Trust { sealed: false, .. })));
    assert!(opened.err().and_then(|error| error.hint()).is_some_and(|hint| hint.contains("rebuild")));
    for (disk, is_sealed) in [(plain, false), (sealed.disk, true)] {
        let opened = StateFile::on(Box::new(disk), Expects::Either).unwrap();
        assert_eq!(opened.is_sealed(), is_sealed);
    }
}
