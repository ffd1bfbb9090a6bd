//! Rows ⇄ bytes.
//!
//! Entries name lanes by numbers that the file gives them, for a lane's full name is longer than most values. A number
//! is never given twice while the file is open. Lanes that are part of a past go when the last entry that names them has
//! gone. The bytes of a row are the same whatever machine writes it; `tests` holds samples of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{Class, Entry, Item, Key, Lane, Observed, RangeSet, Register, Seal, Value};
use crate::id::{Actor, Generation, NodeId};
use crate::time::Timestamp;
use crate::wire::{MAX_COUNTER, MAX_ENTRIES, read_counters, read_list, write_counters, write_list};

const CHECKSUM_LEN: usize = 4;

/// The numbers by which the file names lanes.
#[derive(Debug, Default)]
pub(super) struct LaneNumbers {
    numbers: BTreeMap<Lane, u32>,
    /// How often entries in the file name the lane of each number.
    names: BTreeMap<u32, Named>,
    /// Up to which life those of a node are part of its past.
    pasts: BTreeMap<NodeId, Generation>,
    /// The lanes that may have to go.
    idle: Vec<Lane>,
    /// Those that the file does not know yet.
    new: Vec<(Lane, u32)>,
    next: u32,
}

#[derive(Debug)]
struct Named {
    lane: Lane,
    times: u64,
}

impl LaneNumbers {
    /// Learns a number from the file.
    pub(super) fn insert(&mut self, lane: Lane, number: u32) {
        self.next = self.next.max(number.saturating_add(1));
        self.names.insert(number, Named { lane: lane.clone(), times: 0 });
        self.numbers.insert(lane, number);
    }

    /// Learns what the file has seen of a lane: if it is a past, the lanes that are part of it are mere names from now on.
    pub(super) fn note_seen(&mut self, lane: &Lane, seen: &RangeSet) {
        if !lane.is_past() || seen.is_empty() {
            return;
        }
        let Actor { node, generation } = lane.actor();
        let upto = self.pasts.entry(node).or_insert(generation);
        *upto = generation.max(*upto);
        let first = Lane::new(Actor { node, generation: Generation(0) }, Class::Registry);
        self.idle.extend(self.numbers.range(first..lane.clone()).map(|(part, _)| part.clone()));
    }

    /// An entry that came into the file, or went, names a lane of that number.
    pub(super) fn count(&mut self, number: u32, comes: bool) {
        let Some(named) = self.names.get_mut(&number) else { return };
        named.times = if comes { named.times + 1 } else { named.times.saturating_sub(1) };
        if named.times == 0 {
            self.idle.push(named.lane.clone());
        }
    }

    /// Forgets the lanes that are part of a past and that nothing names any more. Gives their numbers back.
    pub(super) fn take_forgotten(&mut self) -> Vec<u32> {
        let mut forgotten = Vec::new();
        for lane in std::mem::take(&mut self.idle) {
            let Actor { node, generation } = lane.actor();
            let is_part = |upto: &Generation| generation < *upto || (generation == *upto && !lane.is_past());
            let is_part = self.pasts.get(&node).is_some_and(is_part);
            let is_named = |number: &u32| self.names.get(number).is_some_and(|named| named.times > 0);
            let number = self.numbers.get(&lane).copied().filter(|number| is_part && !is_named(number));
            let Some(number) = number else { continue };
            self.numbers.remove(&lane);
            self.names.remove(&number);
            forgotten.push(number);
        }
        forgotten
    }

    /// The latest life of a node that has a lane.
    pub(super) fn generation(&self, node: NodeId) -> Option<Generation> {
        let first = Lane::new(Actor { node, generation: Generation(0) }, Class::Registry);
        let last = Lane::past(node, Generation(u64::MAX));
        self.numbers.range(first..=last).next_back().map(|(lane, _)| lane.actor().generation)
    }

    /// The number of a lane, given now if it has none.
    pub(super) fn number(&mut self, lane: &Lane) -> u32 {
        if let Some(number) = self.numbers.get(lane) {
            return *number;
        }
        let number = self.next;
        self.new.push((lane.clone(), number));
        self.insert(lane.clone(), number);
        number
    }

    /// The lanes that have a number and no row.
    pub(super) fn take_new(&mut self) -> Vec<(Lane, u32)> {
        std::mem::take(&mut self.new)
    }
}

/// What was seen of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LaneRow {
    pub(super) lane: Lane,
    pub(super) seen: RangeSet,
    /// The seal that proves how far its author came, where entries are sealed.
    pub(super) head: Option<Arc<Seal>>,
}

impl LaneRow {
    pub(super) fn unseen(lane: Lane) -> Self {
        Self { lane, seen: RangeSet::new(), head: None }
    }

    /// `node, 32 | generation, 8 | class, 1 | ranges | checksum, 4`: no entry's checksum guards what was seen. Behind the
    /// ranges may be a seal: `key, 32 | first counter | hashes | signature, 64`.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        let Actor { node, generation } = self.lane.actor();
        writer.raw(node.as_bytes());
        writer.fixed64(generation.0);
        writer.byte(self.lane.class() as u8);
        write_counters(&mut writer, &self.seen);
        if let Some(head) = &self.head {
            write_seal(&mut writer, head);
        }
        let mut row = writer.finish();
        row.extend(checksum(&row));
        row
    }

    pub(super) fn read(row: &[u8]) -> Result<Self, Malformed> {
        let (body, expected) = row.split_last_chunk().ok_or(Malformed::Truncated)?;
        if checksum(body) != *expected {
            return Err(Malformed::Checksum);
        }
        let mut reader = Reader::new(body);
        let actor =
            Actor { node: NodeId::from_bytes(reader.array()?), generation: Generation(reader.fixed64()?) };
        let class = match reader.byte()? {
            0 => Class::Registry,
            1 => Class::Attribute,
            2 => Class::Past,
            tag => return Err(Malformed::Unknown { what: "class", tag: tag.into() }),
        };
        let (lane, seen) = (Lane::new(actor, class), read_counters(&mut reader)?);
        let head = if reader.remaining() > 0 { Some(read_seal(&mut reader, lane.clone())?) } else { None };
        reader.finish()?;
        Ok(Self { lane, seen, head })
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or_default()
}

fn write_seal(writer: &mut Writer, seal: &Seal) {
    writer.raw(&seal.key);
    write_list(writer, seal);
}

fn read_seal(reader: &mut Reader<'_>, lane: Lane) -> Result<Arc<Seal>, Malformed> {
    let key = reader.array()?;
    read_list(reader, lane, key).map(Arc::new)
}

/// `count | entries`, each `lane | counter | observed × 2 + has a value | observed | stamp, 8 | value | checksum, 4`.
///
/// Behind them, where entries are sealed, `count | seals`, each `lane | key, 32 | first counter | hashes | signature, 64`. So
/// a row proves itself, and whichever rows a batch that was cut short has left, there is none without its seals.
pub(super) fn write_register(register: &Register, seals: &[Arc<Seal>], lanes: &mut LaneNumbers) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.count(register.entries().len());
    for entry in register.entries() {
        writer.varint(lanes.number(&entry.dot.lane).into());
        writer.varint(entry.dot.counter);
        writer.varint(entry.observed.iter().len() as u64 * 2 + u64::from(entry.value.is_some()));
        for (lane, counter) in entry.observed.iter() {
            writer.varint(lanes.number(lane).into());
            writer.varint(*counter);
        }
        writer.fixed64(entry.stamp.0);
        if let Some(value) = &entry.value {
            writer.bytes(value.as_bytes());
        }
        writer.fixed32(entry.checksum);
    }
    if !seals.is_empty() {
        writer.count(seals.len());
        for seal in seals {
            writer.varint(lanes.number(&seal.lane).into());
            write_seal(&mut writer, seal);
        }
    }
    writer.finish()
}

/// The numbers of the lanes that the entries of a row name, each as often as it is named.
pub(super) fn named_in(row: &[u8]) -> Result<SmallVec<[u32; 4]>, Malformed> {
    const ILLEGAL: Malformed = Malformed::Illegal { what: "number of a lane" };
    let mut reader = Reader::new(row);
    let mut named = SmallVec::new();
    for _ in 0..reader.count(MAX_ENTRIES, "count of entries")? {
        named.push(u32::try_from(reader.varint()?).ok().ok_or(ILLEGAL)?);
        reader.varint()?;
        let head = reader.varint_up_to(Observed::MAX_LANES as u64 * 2 + 1, "count of observed lanes")?;
        for _ in 0..head / 2 {
            named.push(u32::try_from(reader.varint()?).ok().ok_or(ILLEGAL)?);
            reader.varint()?;
        }
        reader.fixed64()?;
        if head % 2 == 1 {
            reader.bytes(Value::MAX_LEN, "a value")?;
        }
        reader.fixed32()?;
    }
    Ok(named)
}

/// Reads a key's row. That its entries match their checksums, and were sealed, is for whoever merges them to verify.
pub(super) fn read_register(
    key: &str,
    row: &[u8],
    lanes: &BTreeMap<u32, Lane>,
) -> Result<(Item, Vec<Arc<Seal>>), Malformed> {
    let key: Key = key.parse().ok().ok_or(Malformed::Illegal { what: "a key" })?;
    let mut reader = Reader::new(row);
    let mut entries: SmallVec<[Entry; 1]> = SmallVec::new();
    for _ in 0..reader.count(MAX_ENTRIES, "count of entries")? {
        entries.push(read_entry(&mut reader, lanes)?);
    }
    let mut seals = Vec::new();
    if reader.remaining() > 0 {
        for _ in 0..reader.count(2 * MAX_ENTRIES, "count of seals")? {
            let lane = read_lane(&mut reader, lanes)?;
            seals.push(read_seal(&mut reader, lane)?);
        }
    }
    reader.finish()?;
    Ok((Item { key, entries }, seals))
}

fn read_lane(reader: &mut Reader<'_>, lanes: &BTreeMap<u32, Lane>) -> Result<Lane, Malformed> {
    let number = u32::try_from(reader.varint()?).ok();
    let lane = number.and_then(|number| lanes.get(&number));
    lane.cloned().ok_or(Malformed::Illegal { what: "number of a lane" })
}

fn read_entry(reader: &mut Reader<'_>, lanes: &BTreeMap<u32, Lane>) -> Result<Entry, Malformed> {
    let lane = |reader: &mut Reader<'_>| read_lane(reader, lanes);
    let dot = lane(reader)?.dot(reader.varint_up_to(MAX_COUNTER, "a counter")?);
    let head = reader.varint_up_to(Observed::MAX_LANES as u64 * 2 + 1, "count of observed lanes")?;
    let mut observed = Vec::new();
    for _ in 0..head / 2 {
        observed.push((lane(reader)?, reader.varint_up_to(MAX_COUNTER, "a counter")?));
    }
    let stamp = Timestamp(reader.fixed64()?);
    let value = match head % 2 {
        0 => None,
        _ => {
            let bytes = reader.bytes(Value::MAX_LEN, "a value")?;
            Some(Value::try_from(bytes).ok().ok_or(Malformed::Illegal { what: "a value" })?)
        }
    };
    Ok(Entry { dot, observed: Observed::new(observed), stamp, value, checksum: reader.fixed32()? })
}
