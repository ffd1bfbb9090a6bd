//! The parts that messages are made of: lanes behind a table of actors, and sets of counters.

use std::collections::BTreeMap;

use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{CausalContext, Class, Lane, RangeSet};
use crate::id::{Actor, Generation, NodeId};

/// The most lanes in one message. A frame has room for fewer.
pub const MAX_LANES: usize = 65_536;

/// The most ranges of one lane in one message.
pub const MAX_RANGES: usize = 65_536;

/// The greatest counter: a write every microsecond for nine years. Above it nothing can overflow.
pub const MAX_COUNTER: u64 = 1 << 48;

/// The greatest generation: what follows it never overflows.
pub const MAX_GENERATION: u64 = 1 << 60;

/// A number that names a life of a node.
pub(super) fn read_generation(found: u64) -> Result<Generation, Malformed> {
    if found > MAX_GENERATION {
        return Err(Malformed::OverLimit { what: "a generation", found, limit: MAX_GENERATION });
    }
    Ok(Generation(found))
}

/// The actors of a message, each once, in ascending order; lanes are named by their place.
#[derive(Debug, Default)]
pub(super) struct ActorTable {
    actors: Vec<Actor>,
    places: BTreeMap<Actor, usize>,
}

impl ActorTable {
    pub(super) fn new(lanes: impl Iterator<Item = Actor>) -> Self {
        let mut places: BTreeMap<Actor, usize> = lanes.map(|actor| (actor, 0)).collect();
        for (number, place) in places.values_mut().enumerate() {
            *place = number;
        }
        Self { actors: places.keys().copied().collect(), places }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.count(self.actors.len());
        for actor in &self.actors {
            writer.raw(actor.node.as_bytes());
            writer.varint(actor.generation.0);
        }
    }

    /// The number of a lane: twice its actor's place, and one more for attributes.
    pub(super) fn number(&self, lane: &Lane) -> u64 {
        let place = self.places.get(&lane.actor()).expect("the table was made of these lanes");
        (place * 2) as u64 + u64::from(lane.class() == Class::Attribute)
    }
}

/// The lanes that a message's actors can have, made once and shared by its entries.
#[derive(Debug)]
pub(super) struct LaneTable {
    lanes: Vec<[Lane; 2]>,
    used: Vec<bool>,
}

impl LaneTable {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = reader.count(MAX_LANES / 2, "count of actors")?;
        let mut lanes: Vec<[Lane; 2]> = Vec::new();
        for _ in 0..count {
            let node = NodeId::from_bytes(reader.array()?);
            let actor = Actor { node, generation: read_generation(reader.varint()?)? };
            if lanes.last().is_some_and(|[last, _]| last.actor() >= actor) {
                return Err(Malformed::NotCanonical);
            }
            lanes.push([Class::Registry, Class::Attribute].map(|class| Lane::new(actor, class)));
        }
        Ok(Self { used: vec![false; lanes.len()], lanes })
    }

    pub(super) fn lane(&mut self, reader: &mut Reader<'_>) -> Result<Lane, Malformed> {
        let limit = (self.lanes.len() as u64 * 2).saturating_sub(1);
        let number = reader.varint_up_to(limit, "number of a lane")?;
        let place = usize::try_from(number / 2).ok().filter(|place| *place < self.lanes.len());
        let place = place.ok_or(Malformed::Illegal { what: "number of a lane" })?;
        self.used[place] = true;
        Ok(self.lanes[place][usize::from(number % 2 == 1)].clone())
    }

    /// Says that every actor was named: one that is not would be a second form of the same message.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        if self.used.iter().all(|used| *used) { Ok(()) } else { Err(Malformed::NotCanonical) }
    }
}

/// A set of counters: how many ranges, then for each how far it begins behind the last one's end, and how many
/// counters more than one it has.
pub(super) fn write_counters(writer: &mut Writer, counters: &RangeSet) {
    writer.count(counters.range_count());
    let mut end = 0;
    for range in counters.ranges() {
        writer.varint(range.start() - end);
        writer.varint(range.end() - range.start());
        end = *range.end();
    }
}

pub(super) fn read_counters(reader: &mut Reader<'_>) -> Result<RangeSet, Malformed> {
    let mut counters = RangeSet::new();
    let mut end: u64 = 0;
    for number in 0..reader.count(MAX_RANGES, "count of ranges")? {
        let gap = reader.varint()?;
        // Counters begin with 1, and ranges that touch are one.
        if gap < if number == 0 { 1 } else { 2 } {
            return Err(Malformed::NotCanonical);
        }
        let over = Malformed::Illegal { what: "a range of counters" };
        let first = end.checked_add(gap).ok_or(over)?;
        end = first.checked_add(reader.varint()?).filter(|end| *end <= MAX_COUNTER).ok_or(over)?;
        counters.insert_range(first..=end);
    }
    Ok(counters)
}

pub(super) fn write_context(writer: &mut Writer, table: &ActorTable, context: &CausalContext) {
    writer.count(context.lane_count());
    for (lane, counters) in context.lanes() {
        writer.varint(table.number(lane));
        write_counters(writer, counters);
    }
}

pub(super) fn read_context(
    reader: &mut Reader<'_>,
    table: &mut LaneTable,
) -> Result<CausalContext, Malformed> {
    let mut context = CausalContext::new();
    let mut last: Option<Lane> = None;
    for _ in 0..reader.count(MAX_LANES, "count of lanes")? {
        let lane = table.lane(reader)?;
        let counters = read_counters(reader)?;
        if counters.is_empty() || last.is_some_and(|last| last >= lane) {
            return Err(Malformed::NotCanonical);
        }
        context.insert_all(&lane, &counters);
        last = Some(lane);
    }
    Ok(context)
}
