//! The layout of each message.

use smallvec::SmallVec;

use super::fields::{
    ActorTable, LaneTable, MAX_COUNTER, MAX_LANES, read_context, read_counters, read_generation,
    write_context, write_counters,
};
use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{Delta, Entry, Item, Key, Lane, Observed, Value};
use crate::gossip::{Message, Versions};
use crate::time::{Timestamp, UnixMillis};

/// The most keys in one delta.
pub const MAX_ITEMS: usize = 65_536;

/// The most entries of one key in one delta.
pub const MAX_ENTRIES: usize = 4_096;

/// The bytes of a frame's checksum, at its end.
const CHECKSUM_LEN: usize = 4;

const HELLO: u8 = 1;
const CONTEXT: u8 = 2;
const WANT: u8 = 3;
const DELTA: u8 = 4;
const HEARTBEAT: u8 = 5;

/// In a delta: its entries bear no signature. Other tags are reserved for modes in which they do.
const UNSIGNED: u8 = 0;

/// Writes a message down, with its checksum.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut frame = encode_body(message);
    frame.extend(checksum(&frame));
    frame
}

/// Reads a message.
///
/// # Errors
///
/// [`Malformed`] if the bytes are not exactly one message in its one form, or were damaged on the way: by the
/// peer or by something behind its encryption. Nothing of it may be used.
pub fn decode(frame: &[u8]) -> Result<Message, Malformed> {
    let (body, expected) = frame.split_last_chunk().ok_or(Malformed::Truncated)?;
    if checksum(body) != *expected {
        return Err(Malformed::Checksum);
    }
    decode_body(body)
}

/// Guards what no entry's checksum covers, foremost the dots that a delta accounts for: one flipped bit there
/// would have a write counted as seen that nobody has made yet.
fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    blake3::hash(body).as_bytes().first_chunk().copied().unwrap_or_default()
}

pub(super) fn encode_body(message: &Message) -> Vec<u8> {
    let mut writer = Writer::new();
    match message {
        Message::Hello { versions, generation, digest, wall } => {
            writer.byte(HELLO);
            writer.byte(versions.min);
            writer.byte(versions.max);
            writer.fixed64(generation.0);
            writer.raw(digest);
            writer.fixed64(wall.0);
        }
        Message::Context { complete, seen } => {
            writer.byte(CONTEXT);
            writer.byte(u8::from(*complete));
            let table = ActorTable::new(seen.lanes().map(|(lane, _)| lane.actor()));
            table.write(&mut writer);
            write_context(&mut writer, &table, seen);
        }
        Message::Want { lanes } => {
            writer.byte(WANT);
            let table = ActorTable::new(lanes.iter().map(|(lane, _)| lane.actor()));
            table.write(&mut writer);
            writer.count(lanes.len());
            for (lane, seen) in lanes {
                writer.varint(table.number(lane));
                write_counters(&mut writer, seen);
            }
        }
        Message::Delta(delta) => {
            writer.byte(DELTA);
            write_delta(&mut writer, delta);
        }
        Message::Heartbeat { digest, asks } => {
            writer.byte(HEARTBEAT);
            writer.raw(digest);
            writer.byte(u8::from(*asks));
        }
    }
    writer.finish()
}

pub(super) fn decode_body(bytes: &[u8]) -> Result<Message, Malformed> {
    let mut reader = Reader::new(bytes);
    let message = match reader.byte()? {
        HELLO => {
            let versions = Versions { min: reader.byte()?, max: reader.byte()? };
            if versions.min > versions.max {
                return Err(Malformed::Illegal { what: "a range of versions" });
            }
            let generation = read_generation(reader.fixed64()?)?;
            let digest = reader.array()?;
            Message::Hello { versions, generation, digest, wall: UnixMillis(reader.fixed64()?) }
        }
        CONTEXT => {
            let complete = reader.flag()?;
            let mut table = LaneTable::read(&mut reader)?;
            let seen = read_context(&mut reader, &mut table)?;
            table.finish()?;
            Message::Context { complete, seen }
        }
        WANT => read_want(&mut reader)?,
        DELTA => Message::Delta(read_delta(&mut reader)?),
        HEARTBEAT => Message::Heartbeat { digest: reader.array()?, asks: reader.flag()? },
        tag => return Err(Malformed::Unknown { what: "message", tag: tag.into() }),
    };
    reader.finish()?;
    Ok(message)
}

fn read_want(reader: &mut Reader<'_>) -> Result<Message, Malformed> {
    let mut table = LaneTable::read(reader)?;
    let mut lanes: Vec<(Lane, _)> = Vec::new();
    for _ in 0..reader.count(MAX_LANES, "count of lanes")? {
        let lane = table.lane(reader)?;
        if lanes.last().is_some_and(|(last, _)| *last >= lane) {
            return Err(Malformed::NotCanonical);
        }
        lanes.push((lane, read_counters(reader)?));
    }
    table.finish()?;
    Ok(Message::Want { lanes })
}

fn write_delta(writer: &mut Writer, delta: &Delta) {
    let entries = || delta.items.iter().flat_map(|item| &item.entries);
    let observed = entries().flat_map(|entry| entry.observed.iter().map(|(lane, _)| lane.actor()));
    let actors = delta.accounted.lanes().map(|(lane, _)| lane.actor());
    let table = ActorTable::new(actors.chain(entries().map(|entry| entry.dot.lane.actor())).chain(observed));
    table.write(writer);
    write_context(writer, &table, &delta.accounted);
    // Stamps of one delta are near each other: their distance to the latest is short.
    let latest = entries().map(|entry| entry.stamp).max().unwrap_or_default();
    writer.fixed64(latest.0);
    writer.count(delta.items.len());
    for item in &delta.items {
        writer.bytes(item.key.as_str().as_bytes());
        writer.count(item.entries.len());
        for entry in &item.entries {
            writer.varint(table.number(&entry.dot.lane));
            writer.varint(entry.dot.counter);
            // Almost no entry has observed anybody, and almost every one has a value: one byte for both.
            writer.varint(entry.observed.iter().len() as u64 * 2 + u64::from(entry.value.is_some()));
            for (lane, counter) in entry.observed.iter() {
                writer.varint(table.number(lane));
                writer.varint(*counter);
            }
            writer.varint(latest.0 - entry.stamp.0);
            if let Some(value) = &entry.value {
                writer.bytes(value.as_bytes());
            }
            writer.fixed32(entry.checksum);
        }
    }
    writer.byte(UNSIGNED);
}

fn read_delta(reader: &mut Reader<'_>) -> Result<Delta, Malformed> {
    let mut table = LaneTable::read(reader)?;
    let accounted = read_context(reader, &mut table)?;
    let latest = reader.fixed64()?;
    let mut items = Vec::new();
    let mut reached = None;
    for _ in 0..reader.count(MAX_ITEMS, "count of keys")? {
        let item = read_item(reader, &mut table, latest)?;
        reached = item.entries.iter().map(|entry| entry.stamp).max().max(reached);
        items.push(item);
    }
    table.finish()?;
    if reached.unwrap_or_default() != Timestamp(latest) {
        return Err(Malformed::NotCanonical);
    }
    match reader.byte()? {
        UNSIGNED => Ok(Delta { accounted, items }),
        tag => Err(Malformed::Unknown { what: "signature", tag: tag.into() }),
    }
}

fn read_item(reader: &mut Reader<'_>, table: &mut LaneTable, latest: u64) -> Result<Item, Malformed> {
    let key: Key =
        reader.text(Key::MAX_LEN, "a key")?.parse().ok().ok_or(Malformed::Illegal { what: "a key" })?;
    let mut entries: SmallVec<[Entry; 1]> = SmallVec::new();
    for _ in 0..reader.count(MAX_ENTRIES, "count of entries")? {
        let entry = read_entry(reader, table, latest)?;
        if entries.last().is_some_and(|last| last.dot >= entry.dot) {
            return Err(Malformed::NotCanonical);
        }
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(Malformed::NotCanonical);
    }
    Ok(Item { key, entries })
}

fn read_entry(reader: &mut Reader<'_>, table: &mut LaneTable, latest: u64) -> Result<Entry, Malformed> {
    let lane = table.lane(reader)?;
    let counter = reader.varint_up_to(MAX_COUNTER, "a counter")?;
    if counter == 0 {
        return Err(Malformed::Illegal { what: "a counter" });
    }
    let head = reader.varint_up_to(Observed::MAX_LANES as u64 * 2 + 1, "count of observed lanes")?;
    let mut observed: Vec<(Lane, u64)> = Vec::new();
    for _ in 0..head / 2 {
        let seen = (table.lane(reader)?, reader.varint_up_to(MAX_COUNTER, "a counter")?);
        let illegal = seen.1 == 0 || seen.0 == lane;
        if illegal || observed.last().is_some_and(|(last, _)| *last >= seen.0) {
            return Err(Malformed::NotCanonical);
        }
        observed.push(seen);
    }
    let stamp = latest.checked_sub(reader.varint()?).ok_or(Malformed::Illegal { what: "a stamp" })?;
    let value = match head % 2 {
        0 => None,
        _ => {
            let bytes = reader.bytes(Value::MAX_LEN, "a value")?;
            Some(Value::try_from(bytes).ok().ok_or(Malformed::Illegal { what: "a value" })?)
        }
    };
    let checksum = reader.fixed32()?;
    let dot = lane.dot(counter);
    Ok(Entry { dot, observed: Observed::new(observed), stamp: Timestamp(stamp), value, checksum })
}
