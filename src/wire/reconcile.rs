//! The layout of what nodes say to each other when one fetches from another, and of what comes of it.

use super::dictionary::{Heard, Told};
use super::fields::{MAX_COUNTER, MAX_LANES, read_context, read_floors, write_context, write_floors};
use super::message::{MAX_ITEMS, lanes_of, read_items, read_key, write_items};
use super::seals;
use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{CausalContext, Delta, Dot, Key, Lane, Reconciliation};
use crate::gossip::{Ask, Outcome, Summary, Tell};
use crate::time::Timestamp;

/// The most ranges in one request.
pub const MAX_ASKED: usize = 65_536;

const CONTEXT: u8 = 1;
const RANGES: u8 = 2;
const FLOORS: u8 = 3;
/// Ranges, with seals.
const SEALED_RANGES: u8 = 4;

const AGREED: u8 = 0;
const HASH: u8 = 1;
const DOTS: u8 = 2;

pub(super) fn write_ask(writer: &mut Writer, told: &mut Told, ask: &Ask) {
    match ask {
        Ask::Context { after } => {
            writer.byte(CONTEXT);
            write_lane(writer, told, after.as_ref());
        }
        Ask::Floors { after } => {
            writer.byte(FLOORS);
            write_lane(writer, told, after.as_ref());
        }
        Ask::Ranges { from, ranges } => {
            writer.byte(RANGES);
            let dots = ranges.iter().filter_map(|(_, summary)| match summary {
                Summary::Dots(dots) => Some(dots),
                Summary::Agreed | Summary::Hash(_) => None,
            });
            told.begin(writer, dots.flat_map(lanes_in));
            write_bound(writer, "", from.as_ref());
            writer.count(ranges.len());
            let mut before = from.as_ref();
            for (until, summary) in ranges {
                write_bound(writer, before.map_or("", Key::as_str), until.as_ref());
                before = until.as_ref();
                match summary {
                    Summary::Agreed => writer.byte(AGREED),
                    Summary::Hash(hash) => {
                        writer.byte(HASH);
                        writer.raw(hash);
                    }
                    Summary::Dots(dots) => {
                        writer.byte(DOTS);
                        context_out(writer, told, dots);
                    }
                }
            }
        }
    }
}

pub(super) fn read_ask(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<Ask, Malformed> {
    match reader.byte()? {
        CONTEXT => Ok(Ask::Context { after: read_lane(reader, heard)? }),
        FLOORS => Ok(Ask::Floors { after: read_lane(reader, heard)? }),
        RANGES => {
            heard.begin(reader)?;
            let from = read_bound(reader, "")?;
            let mut ranges: Vec<(Option<Key>, Summary)> = Vec::new();
            for _ in 0..reader.count(MAX_ASKED, "count of ranges")? {
                let before = ranges.last().map_or(from.as_ref(), |(until, _)| until.as_ref());
                // Nothing follows a range without an end, and each ends behind its beginning.
                if before.is_none() && !ranges.is_empty() {
                    return Err(Malformed::Illegal { what: "a range of keys" });
                }
                let until = read_bound(reader, before.map_or("", Key::as_str))?;
                if until.as_ref().is_some_and(|until| before.is_some_and(|before| until <= before)) {
                    return Err(Malformed::Illegal { what: "a range of keys" });
                }
                let summary = match reader.byte()? {
                    AGREED => Summary::Agreed,
                    HASH => Summary::Hash(reader.array()?),
                    DOTS => Summary::Dots(context_in(reader, heard)?),
                    tag => return Err(Malformed::Unknown { what: "summary of a range", tag: tag.into() }),
                };
                ranges.push((until, summary));
            }
            heard.finish()?;
            Ok(Ask::Ranges { from, ranges })
        }
        tag => Err(Malformed::Unknown { what: "request", tag: tag.into() }),
    }
}

pub(super) fn write_tell(writer: &mut Writer, told: &mut Told, tell: &Tell) {
    match tell {
        Tell::Context { seen, last } => {
            writer.byte(CONTEXT);
            writer.byte(u8::from(*last));
            told.begin(writer, lanes_in(seen));
            context_out(writer, told, seen);
        }
        Tell::Floors { floors, horizon, last } => {
            writer.byte(FLOORS);
            writer.byte(u8::from(*last));
            told.begin(writer, lanes_in(floors));
            write_floors(writer, told, floors);
            writer.fixed64(horizon.0);
        }
        Tell::Ranges { outcomes, items, dead, seals } => {
            writer.byte(if seals.is_empty() { RANGES } else { SEALED_RANGES });
            writer.count(outcomes.len());
            outcomes.iter().for_each(|outcome| writer.byte(*outcome as u8));
            told.begin(writer, lanes_in(dead).chain(lanes_of(items)).chain(seals::lanes_of(seals)));
            context_out(writer, told, dead);
            write_items(writer, told, items);
            if !seals.is_empty() {
                seals::write_seals(writer, told, seals);
            }
        }
    }
}

pub(super) fn read_tell(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<Tell, Malformed> {
    match reader.byte()? {
        CONTEXT => {
            let last = reader.flag()?;
            heard.begin(reader)?;
            let seen = context_in(reader, heard)?;
            heard.finish()?;
            Ok(Tell::Context { seen, last })
        }
        FLOORS => {
            let last = reader.flag()?;
            heard.begin(reader)?;
            let floors = read_floors(reader, heard)?;
            heard.finish()?;
            Ok(Tell::Floors { floors, horizon: Timestamp(reader.fixed64()?), last })
        }
        kind @ (RANGES | SEALED_RANGES) => {
            let mut outcomes = Vec::new();
            for _ in 0..reader.count(MAX_ASKED, "count of outcomes")? {
                outcomes.push(match reader.byte()? {
                    0 => Outcome::Same,
                    1 => Outcome::Differs,
                    2 => Outcome::Told,
                    tag => return Err(Malformed::Unknown { what: "outcome", tag: tag.into() }),
                });
            }
            heard.begin(reader)?;
            let dead = context_in(reader, heard)?;
            let items = read_items(reader, heard, MAX_ITEMS)?;
            let seals = match kind {
                SEALED_RANGES => seals::read_seals(reader, heard)?,
                _ => Vec::new(),
            };
            heard.finish()?;
            Ok(Tell::Ranges { outcomes, items, dead, seals })
        }
        tag => Err(Malformed::Unknown { what: "answer", tag: tag.into() }),
    }
}

/// What came of fetching, as it is made durable: in one piece, whose seals follow if there are some.
pub(super) fn write_reconciliation(writer: &mut Writer, told: &mut Told, reconciliation: &Reconciliation) {
    let Reconciliation { delta, floors, horizon, dead } = reconciliation;
    let contexts = lanes_in(&delta.accounted).chain(lanes_in(floors));
    let dots = dead.iter().map(|(_, dot)| &dot.lane);
    let lanes = contexts.chain(lanes_of(&delta.items)).chain(dots);
    told.begin(writer, lanes.chain(seals::lanes_of(&delta.seals)));
    context_out(writer, told, &delta.accounted);
    write_items(writer, told, &delta.items);
    write_floors(writer, told, floors);
    writer.fixed64(horizon.0);
    writer.count(dead.len());
    for (key, dot) in dead {
        writer.bytes(key.as_str().as_bytes());
        told.lane(writer, &dot.lane);
        writer.varint(dot.counter);
    }
}

pub(super) fn read_reconciliation(
    reader: &mut Reader<'_>,
    heard: &mut Heard,
) -> Result<Reconciliation, Malformed> {
    heard.begin(reader)?;
    let accounted = context_in(reader, heard)?;
    let items = read_items(reader, heard, usize::MAX)?;
    let floors = read_floors(reader, heard)?;
    let horizon = Timestamp(reader.fixed64()?);
    let mut dead: Vec<(Key, Dot)> = Vec::new();
    for _ in 0..reader.count(usize::MAX, "count of entries")? {
        let key = read_key(reader)?;
        let lane = heard.lane(reader)?;
        dead.push((key, lane.dot(reader.varint_up_to(MAX_COUNTER, "a counter")?)));
    }
    Ok(Reconciliation { delta: Delta { accounted, items, seals: Vec::new() }, floors, horizon, dead })
}

fn lanes_in(context: &CausalContext) -> impl Iterator<Item = &Lane> {
    context.lanes().map(|(lane, _)| lane)
}

fn context_out(writer: &mut Writer, told: &mut Told, context: &CausalContext) {
    writer.count(context.lane_count());
    write_context(writer, told, context);
}

fn context_in(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<CausalContext, Malformed> {
    let count = reader.count(MAX_LANES, "count of lanes")?;
    read_context(reader, heard, count)
}

/// One lane or none.
fn write_lane(writer: &mut Writer, told: &mut Told, lane: Option<&Lane>) {
    told.begin(writer, lane.into_iter());
    writer.byte(u8::from(lane.is_some()));
    if let Some(lane) = lane {
        told.lane(writer, lane);
    }
}

fn read_lane(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<Option<Lane>, Malformed> {
    heard.begin(reader)?;
    let lane = if reader.flag()? { Some(heard.lane(reader)?) } else { None };
    heard.finish()?;
    Ok(lane)
}

/// A bound between ranges: how many bytes it shares with the bound before, and the rest. No rest is no bound.
fn write_bound(writer: &mut Writer, before: &str, bound: Option<&Key>) {
    let bound = bound.map_or("", Key::as_str);
    let shared = before.bytes().zip(bound.bytes()).take_while(|(left, right)| left == right).count();
    writer.count(shared);
    writer.bytes(&bound.as_bytes()[shared..]);
}

fn read_bound(reader: &mut Reader<'_>, before: &str) -> Result<Option<Key>, Malformed> {
    let shared = reader.varint_up_to(Key::MAX_LEN as u64, "shared length of a key")?;
    let rest = reader.text(Key::MAX_LEN, "a key")?;
    if shared == 0 && rest.is_empty() {
        return Ok(None);
    }
    let illegal = Malformed::Illegal { what: "a key" };
    let shared = usize::try_from(shared).ok().and_then(|shared| before.get(..shared)).ok_or(illegal)?;
    let goes_on = before.as_bytes().get(shared.len());
    if goes_on.is_some_and(|next| rest.as_bytes().first() == Some(next)) {
        return Err(Malformed::NotCanonical);
    }
    format!("{shared}{rest}").parse().map(Some).ok().ok_or(illegal)
}
