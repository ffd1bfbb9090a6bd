//! Rows ⇄ bytes.
//!
//! Entries name lanes by numbers that the file gives them, for a lane's full name is longer than most values. A number
//! is never given twice. The bytes of a row are the same whatever machine writes it; `tests` holds samples of them.

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
    /// Those that the file does not know yet.
    new: Vec<(Lane, u32)>,
    next: u32,
}

impl LaneNumbers {
    /// Learns a number from the file.
    pub(super) fn insert(&mut self, lane: Lane, number: u32) {
        self.next = self.next.max(number.saturating_add(1));
        self.numbers.insert(lane, number);
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
