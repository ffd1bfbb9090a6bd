//! The parts that messages are made of: generations, sets of counters, contexts.

use super::dictionary::{Heard, Told};
use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{CausalContext, Lane, RangeSet};
use crate::id::Generation;

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

/// A set of counters: how many ranges, then for each how far it begins behind the last one's end, and how many
/// counters more than one it has.
#[cfg(feature = "store")]
pub(crate) fn write_counters(writer: &mut Writer, counters: &RangeSet) {
    writer.count(counters.range_count());
    write_ranges(writer, counters);
}

pub(super) fn write_ranges(writer: &mut Writer, counters: &RangeSet) {
    let mut end = 0;
    for range in counters.ranges() {
        writer.varint(range.start() - end);
        writer.varint(range.end() - range.start());
        end = *range.end();
    }
}

#[cfg(feature = "store")]
pub(crate) fn read_counters(reader: &mut Reader<'_>) -> Result<RangeSet, Malformed> {
    let count = reader.varint()?;
    read_ranges(reader, count)
}

pub(super) fn read_ranges(reader: &mut Reader<'_>, count: u64) -> Result<RangeSet, Malformed> {
    let limit = MAX_RANGES as u64;
    if count > limit {
        return Err(Malformed::OverLimit { what: "count of ranges", found: count, limit });
    }
    // Each takes two bytes at least.
    if count > reader.remaining() as u64 {
        return Err(Malformed::Truncated);
    }
    let mut counters = RangeSet::new();
    let mut end: u64 = 0;
    for number in 0..count {
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

/// The lanes of a context with their counters. How many there are was written before.
pub(super) fn write_context(writer: &mut Writer, told: &mut Told, context: &CausalContext) {
    told.all_seen(writer, context);
}

pub(super) fn read_context(
    reader: &mut Reader<'_>,
    heard: &mut Heard,
    count: usize,
) -> Result<CausalContext, Malformed> {
    let (mut context, mut next) = (CausalContext::new(), 0);
    for _ in 0..count {
        let (lane, counters) = heard.next_seen(reader, &mut next)?;
        if counters.is_empty() {
            return Err(Malformed::NotCanonical);
        }
        if lane.is_past() && counters != RangeSet::up_to(1) {
            return Err(Malformed::Illegal { what: "a past" });
        }
        context.insert_all(&lane, &counters);
    }
    // What is part of a past is not named beside it.
    if context.lane_count() != count {
        return Err(Malformed::NotCanonical);
    }
    Ok(context)
}

/// Sets of counters that all begin with 1, by where they end.
pub(super) fn write_floors(writer: &mut Writer, told: &Told, floors: &CausalContext) {
    writer.count(floors.lane_count());
    for (lane, counters) in floors.lanes() {
        told.lane(writer, lane);
        writer.varint(counters.contiguous());
    }
}

pub(super) fn read_floors(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<CausalContext, Malformed> {
    let mut floors = CausalContext::new();
    let mut last: Option<Lane> = None;
    let count = reader.count(MAX_LANES, "count of lanes")?;
    for _ in 0..count {
        let lane = heard.lane(reader)?;
        let floor = reader.varint_up_to(if lane.is_past() { 1 } else { MAX_COUNTER }, "a counter")?;
        if floor == 0 || last.is_some_and(|last| last >= lane) {
            return Err(Malformed::NotCanonical);
        }
        floors.insert_all(&lane, &RangeSet::up_to(floor));
        last = Some(lane);
    }
    if floors.lane_count() != count {
        return Err(Malformed::NotCanonical);
    }
    Ok(floors)
}
