//! What both ends of a channel remember of what was said on it, so that nothing long is said twice.
//!
//! A lane is spelled out the first time that a frame names it, or said to be the other one of its actor's if that has been,
//! and is a small number from then on. Counters and stamps are told as distances from the ones before, and keys by what
//! they have in common with the one before. The memory belongs to one direction of one channel: its
//! frames arrive whole and in order, or the link is over. It holds at most [`MAX_NAMES`] lanes; where one more
//! would be too many, both ends forget all of them before that frame, by the same rule and without a word.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use super::fields::{MAX_COUNTER, read_generation, read_ranges, write_ranges};
use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{CausalContext, Class, Dot, Key, Lane, RangeSet};
use crate::id::{Actor, NodeId};
use crate::time::Timestamp;

/// The most lanes that have numbers at a time: more than one frame has room to spell out.
pub const MAX_NAMES: usize = 32_768;

/// From here on a lane's name is that of a past: above all others.
const PAST: u64 = 1 << 62;

const UNKNOWN: Malformed = Malformed::Illegal { what: "number of a lane" };
const A_COUNTER: Malformed = Malformed::Illegal { what: "a counter" };

/// The most bytes of a key that are remembered for each lane.
const MAX_BASE: usize = 64;

/// What the sender of a channel remembers.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// By lane: its number, and the counter that was told of it last: of a write, or of all up to it.
    lanes: BTreeMap<Lane, (u64, u64)>,
    stamp: Timestamp,
    keys: Keys,
}

/// The key that came last, and the beginning of the one that came last alone of each lane, by the lane's number.
#[derive(Debug, Clone, Default)]
struct Keys {
    last: Vec<u8>,
    alone: BTreeMap<u64, Box<[u8]>>,
}

impl Keys {
    /// With what a key has most in common, if it comes alone of that lane.
    fn base(&self, alone_of: Option<u64>) -> &[u8] {
        alone_of.and_then(|lane| self.alone.get(&lane)).map_or(&self.last, |key| key)
    }

    /// A key came, or went.
    fn note(&mut self, alone_of: Option<u64>, key: &[u8]) {
        if let Some(lane) = alone_of {
            self.alone.insert(lane, key[..key.len().min(MAX_BASE)].into());
        }
        self.last.clear();
        self.last.extend_from_slice(key);
    }
}

/// What the receiver of a channel remembers, and which of the frame's new names the frame has used.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    lanes: Vec<(Lane, u64)>,
    /// The same, by lane.
    known: BTreeSet<Lane>,
    stamp: Timestamp,
    keys: Keys,
    /// The first lane that this frame has spelled out.
    new_from: usize,
    used: Vec<bool>,
}

impl Told {
    /// Begins a frame that names these lanes: spells out those that have no number yet, in ascending order.
    pub(super) fn begin<'a>(&mut self, writer: &mut Writer, lanes: impl Iterator<Item = &'a Lane>) {
        let mut lanes: SmallVec<[&Lane; 4]> = lanes.collect();
        lanes.sort_unstable();
        lanes.dedup();
        let unknown = lanes.iter().filter(|lane| !self.lanes.contains_key(**lane)).count();
        if self.lanes.len() + unknown > MAX_NAMES {
            self.lanes.clear();
            self.keys.alone.clear();
        }
        lanes.retain(|lane| unknown > 0 && !self.lanes.contains_key(*lane));
        writer.count(lanes.len());
        for lane in lanes {
            match lane.other().and_then(|other| self.lanes.get(&other)) {
                Some((number, _)) => writer.varint(number + 1),
                None => spell(writer, lane),
            }
            let number = self.lanes.len() as u64;
            self.lanes.insert(lane.clone(), (number, 0));
        }
    }

    /// Whether a lane has a number.
    pub(super) fn knows(&self, lane: &Lane) -> bool {
        self.lanes.contains_key(lane)
    }

    /// A lane of the frame that was begun.
    pub(super) fn lane(&self, writer: &mut Writer, lane: &Lane) {
        writer.varint(self.known(lane).0);
    }

    /// What was seen of a lane.
    pub(super) fn seen(&mut self, writer: &mut Writer, lane: &Lane, counters: &RangeSet) {
        let (number, last) = self.lanes.get_mut(lane).expect("the frame was begun with its lanes");
        writer.varint(*number);
        write_seen(writer, last, counters);
    }

    /// What was seen of many lanes, each once, in the order of their numbers: how many are left out before it, and whether
    /// it is just one counter more than was told last.
    pub(super) fn all_seen(&mut self, writer: &mut Writer, seen: &CausalContext) {
        let mut all: Vec<(u64, &Lane, &RangeSet)> =
            seen.lanes().map(|(lane, counters)| (self.known(lane).0, lane, counters)).collect();
        all.sort_unstable_by_key(|(number, ..)| *number);
        let mut next = 0;
        for (number, lane, counters) in all {
            let (_, last) = self.lanes.get_mut(lane).expect("the frame was begun with its lanes");
            let is_next = is_all_up_to(counters, *last + 1);
            writer.varint((number - next) * 2 + u64::from(is_next));
            if is_next {
                *last += 1;
            } else {
                write_seen(writer, last, counters);
            }
            next = number + 1;
        }
    }

    /// A write, named by its lane and the distance of its counter from the last one of the lane.
    pub(super) fn dot(&mut self, writer: &mut Writer, lane: &Lane, counter: u64) {
        let (number, last) = self.lanes.get_mut(lane).expect("the frame was begun with its lanes");
        writer.varint(*number);
        writer.varint(zigzag(*last, counter));
        *last = counter;
    }

    /// What a write had seen: like a write, and the next distance is not counted from it.
    pub(super) fn observed(&self, writer: &mut Writer, lane: &Lane, counter: u64) {
        let (number, last) = self.known(lane);
        writer.varint(number);
        writer.varint(zigzag(last, counter));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    fn known(&self, lane: &Lane) -> (u64, u64) {
        self.lanes.get(lane).copied().expect("the frame was begun with its lanes")
    }

    /// A stamp: within the last one's millisecond the distance of the counters, else the distance of the
    /// milliseconds, and the counter unless it is 0.
    pub(super) fn stamp(&mut self, writer: &mut Writer, stamp: Timestamp) {
        let (last, (millis, count)) = (split(self.stamp), split(stamp));
        if millis == last.0 {
            writer.varint(zigzag(last.1, count) * 3);
        } else if count == 0 {
            writer.varint(zigzag(last.0, millis) * 3 + 1);
        } else {
            writer.varint(zigzag(last.0, millis) * 3 + 2);
            writer.varint(count);
        }
        self.stamp = stamp;
    }

    /// A key: how many of its first bytes are those of the last one, and the others.
    pub(super) fn key(&mut self, writer: &mut Writer, key: &Key) {
        self.write_key(writer, None, key);
    }

    /// The key of a write that comes alone, of a lane that has a number: as above, by the last such one of the lane.
    pub(super) fn key_of(&mut self, writer: &mut Writer, lane: &Lane, key: &Key) {
        self.write_key(writer, Some(self.known(lane).0), key);
    }

    fn write_key(&mut self, writer: &mut Writer, alone_of: Option<u64>, key: &Key) {
        let bytes = key.as_str().as_bytes();
        let base = self.keys.base(alone_of);
        let common = base.iter().zip(bytes).take_while(|(last, byte)| last == byte).count();
        writer.count(common);
        writer.bytes(&bytes[common..]);
        self.keys.note(alone_of, bytes);
    }
}

/// A lane's name: its actor's node, and in which life and of which class.
fn spell(writer: &mut Writer, lane: &Lane) {
    let Actor { node, generation } = lane.actor();
    writer.varint(0);
    writer.raw(node.as_bytes());
    writer.varint(match lane.class() {
        Class::Registry => generation.0 * 2,
        Class::Attribute => generation.0 * 2 + 1,
        Class::Past => PAST + generation.0,
    });
}

fn read_spelled(reader: &mut Reader<'_>) -> Result<Lane, Malformed> {
    let node = NodeId::from_bytes(reader.array()?);
    let name = reader.varint()?;
    let (name, class) = match name.checked_sub(PAST) {
        Some(generation) => (generation, Class::Past),
        None if name % 2 == 1 => (name / 2, Class::Attribute),
        None => (name / 2, Class::Registry),
    };
    Ok(Lane::new(Actor { node, generation: read_generation(name)? }, class))
}

impl Heard {
    /// Begins a frame: learns the lanes that it spells out.
    pub(super) fn begin(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let count = reader.count(MAX_NAMES, "count of new lanes")?;
        if self.lanes.len() + count > MAX_NAMES {
            self.lanes.clear();
            self.known.clear();
            self.keys.alone.clear();
        }
        self.new_from = self.lanes.len();
        self.used = vec![false; count];
        for _ in 0..count {
            let lane = match reader.varint()?.checked_sub(1) {
                Some(number) => self.other_of(number)?,
                None => read_spelled(reader).and_then(|lane| self.unheard(lane))?,
            };
            let ascends = self.lanes[self.new_from..].last().is_none_or(|(last, _)| *last < lane);
            // A lane that has a number already would get a second one.
            if !ascends || !self.known.insert(lane.clone()) {
                return Err(Malformed::NotCanonical);
            }
            self.lanes.push((lane, 0));
        }
        Ok(())
    }

    /// The other lane of the actor of one that has a number.
    fn other_of(&self, number: u64) -> Result<Lane, Malformed> {
        let known = usize::try_from(number).ok().and_then(|number| self.lanes.get(number));
        let other = known.and_then(|(lane, _)| lane.other());
        other.ok_or(UNKNOWN)
    }

    /// A lane that is spelled out, although it could be told by its actor's other one, would have two forms.
    fn unheard(&self, lane: Lane) -> Result<Lane, Malformed> {
        let could = lane.other().is_some_and(|other| self.known.contains(&other));
        if could { Err(Malformed::NotCanonical) } else { Ok(lane) }
    }

    /// Begins a frame that can spell nothing out.
    pub(super) fn nothing_new(&mut self) {
        self.new_from = self.lanes.len();
        self.used.clear();
    }

    /// Whether the frame has spelled any lane out.
    pub(super) fn has_learned(&self) -> bool {
        !self.used.is_empty()
    }

    /// A lane by its number.
    pub(super) fn lane(&mut self, reader: &mut Reader<'_>) -> Result<Lane, Malformed> {
        self.place(reader).map(|place| self.lanes[place].0.clone())
    }

    /// What was seen of a lane.
    pub(super) fn seen(&mut self, reader: &mut Reader<'_>) -> Result<(Lane, RangeSet), Malformed> {
        let place = self.place(reader)?;
        let (lane, last) = &mut self.lanes[place];
        Ok((lane.clone(), read_seen(reader, last)?))
    }

    /// What was seen of the next one of many lanes, of which those before `next` have been passed.
    pub(super) fn next_seen(
        &mut self,
        reader: &mut Reader<'_>,
        next: &mut u64,
    ) -> Result<(Lane, RangeSet), Malformed> {
        let head = reader.varint()?;
        let number = next.checked_add(head / 2).ok_or(UNKNOWN)?;
        let place = self.place_at(number)?;
        *next = number + 1;
        let (lane, last) = &mut self.lanes[place];
        let following = last.saturating_add(1);
        if head % 2 == 1 {
            *last = Some(following).filter(|end| *end <= MAX_COUNTER).ok_or(A_COUNTER)?;
            return Ok((lane.clone(), RangeSet::up_to(following)));
        }
        let counters = read_seen(reader, last)?;
        if is_all_up_to(&counters, following) {
            return Err(Malformed::NotCanonical);
        }
        Ok((lane.clone(), counters))
    }

    /// The place of a write's lane, and the write's name.
    pub(super) fn dot(&mut self, reader: &mut Reader<'_>) -> Result<(usize, Dot), Malformed> {
        let place = self.place(reader)?;
        let counter = read_counter(reader, self.lanes[place].1)?;
        self.lanes[place].1 = counter;
        Ok((place, self.lanes[place].0.dot(counter)))
    }

    /// What a write had seen.
    pub(super) fn observed(&mut self, reader: &mut Reader<'_>) -> Result<(Lane, u64), Malformed> {
        let place = self.place(reader)?;
        let (lane, last) = &self.lanes[place];
        Ok((lane.clone(), read_counter(reader, *last)?))
    }

    /// A stamp.
    pub(super) fn stamp(&mut self, reader: &mut Reader<'_>) -> Result<Timestamp, Malformed> {
        const ILLEGAL: Malformed = Malformed::Illegal { what: "a stamp" };
        let last = split(self.stamp);
        let head = reader.varint()?;
        let (millis, count) = if head % 3 == 0 {
            (last.0, unzigzag(last.1, head / 3).ok_or(ILLEGAL)?)
        } else {
            let millis = unzigzag(last.0, head / 3).filter(|millis| *millis != last.0).ok_or(ILLEGAL)?;
            let count = if head % 3 == 1 { 0 } else { reader.varint()? };
            (millis, count)
        };
        if head % 3 == 2 && count == 0 {
            return Err(Malformed::NotCanonical);
        }
        if millis >= 1 << 48 || count >= 1 << 16 {
            return Err(ILLEGAL);
        }
        self.stamp = Timestamp(millis << 16 | count);
        Ok(self.stamp)
    }

    /// A key.
    pub(super) fn key(&mut self, reader: &mut Reader<'_>) -> Result<Key, Malformed> {
        self.read_key(reader, None)
    }

    /// The key of a write that comes alone, of the lane at that place.
    pub(super) fn key_of(&mut self, reader: &mut Reader<'_>, place: usize) -> Result<Key, Malformed> {
        self.read_key(reader, Some(place as u64))
    }

    fn read_key(&mut self, reader: &mut Reader<'_>, alone_of: Option<u64>) -> Result<Key, Malformed> {
        const ILLEGAL: Malformed = Malformed::Illegal { what: "a key" };
        let base = self.keys.base(alone_of);
        let common = reader.varint_up_to(base.len() as u64, "a key's beginning")?;
        let common = usize::try_from(common).ok().ok_or(ILLEGAL)?;
        let rest = reader.bytes(Key::MAX_LEN, "a key")?;
        if rest.first().is_some_and(|first| base.get(common) == Some(first)) {
            return Err(Malformed::NotCanonical);
        }
        let bytes = [&base[..common], rest].concat();
        let key = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).ok_or(ILLEGAL)?;
        self.keys.note(alone_of, &bytes);
        Ok(key)
    }

    /// Says that every lane that the frame spelled out was named: one that is not would be a second form of
    /// the same message.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        if self.used.iter().all(|used| *used) { Ok(()) } else { Err(Malformed::NotCanonical) }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    fn place(&mut self, reader: &mut Reader<'_>) -> Result<usize, Malformed> {
        self.place_at(reader.varint()?)
    }

    fn place_at(&mut self, number: u64) -> Result<usize, Malformed> {
        let place = usize::try_from(number).ok().filter(|place| *place < self.lanes.len()).ok_or(UNKNOWN)?;
        if let Some(new) = place.checked_sub(self.new_from) {
            self.used[new] = true;
        }
        Ok(place)
    }
}

/// What was seen of a lane: mostly all up to a counter, told by the distance from the lane's last one; else its ranges.
fn write_seen(writer: &mut Writer, last: &mut u64, counters: &RangeSet) {
    match counters.contiguous() {
        end if is_all_up_to(counters, end) => {
            writer.varint(zigzag(*last, end) * 2);
            *last = end;
        }
        _ => {
            writer.varint(counters.range_count() as u64 * 2 + 1);
            write_ranges(writer, counters);
        }
    }
}

fn read_seen(reader: &mut Reader<'_>, last: &mut u64) -> Result<RangeSet, Malformed> {
    let head = reader.varint()?;
    if head % 2 == 0 {
        *last = counter_from(*last, head / 2)?;
        return Ok(RangeSet::up_to(*last));
    }
    let counters = read_ranges(reader, head / 2)?;
    if is_all_up_to(&counters, counters.contiguous()) {
        return Err(Malformed::NotCanonical);
    }
    Ok(counters)
}

fn is_all_up_to(counters: &RangeSet, end: u64) -> bool {
    end > 0 && counters.contiguous() == end && counters.range_count() == 1
}

fn read_counter(reader: &mut Reader<'_>, last: u64) -> Result<u64, Malformed> {
    counter_from(last, reader.varint()?)
}

fn counter_from(last: u64, way: u64) -> Result<u64, Malformed> {
    let counter = unzigzag(last, way).filter(|counter| (1..=MAX_COUNTER).contains(counter));
    counter.ok_or(A_COUNTER)
}

fn split(stamp: Timestamp) -> (u64, u64) {
    (stamp.0 >> 16, stamp.0 & 0xffff)
}

/// The way from one number to another, both far below 2^62: forward even, backward odd.
fn zigzag(from: u64, to: u64) -> u64 {
    if to >= from { (to - from) * 2 } else { (from - to) * 2 - 1 }
}

fn unzigzag(from: u64, way: u64) -> Option<u64> {
    match way % 2 {
        0 => from.checked_add(way / 2),
        _ => from.checked_sub(way / 2 + 1),
    }
}
