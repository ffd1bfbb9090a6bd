//! The layout of each message.

use smallvec::SmallVec;

use super::dictionary::{Heard, Told};
use super::fields::{MAX_LANES, read_context, read_floors, read_generation, write_context, write_floors};
use super::{reconcile, seals};
use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{CausalContext, Delta, Entry, Item, Key, Lane, Observed, RangeSet, Value};
use crate::gossip::{Message, Record, Versions};
use crate::time::UnixMillis;

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
const NEIGHBOUR: u8 = 6;
const PRUNE: u8 = 7;
const OFFER: u8 = 8;
const ASK: u8 = 9;
const TELL: u8 = 10;

const TAKEN: u8 = 12;

/// Of a record that is no message: keys whose removals went.
const COLLECTED: u8 = 11;

/// In a delta: no seals come along, or some do.
const UNSIGNED: u8 = 0;
const SEALED: u8 = 1;

/// Of a record that is no message: what came of fetching, with seals.
const SEALED_TELL: u8 = 13;

const PROBE: u8 = 14;

/// A delta of a single write, by far the most common: without a checksum of the frame, for the entry has its own over all
/// that is said. No two flipped bits make it of another tag.
const WRITE: u8 = 0xf0;

/// Writes the messages of one channel, in one direction, in the order in which they will be read.
#[derive(Debug, Clone, Default)]
pub struct Encoder {
    told: Told,
}

/// Reads the messages of one channel, in one direction, in the order in which they were written.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    heard: Heard,
}

impl Encoder {
    /// Starts a channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the next message down, with its checksum.
    pub fn encode(&mut self, message: &Message) -> Vec<u8> {
        let mut frame = self.encode_body(message);
        if frame.first() != Some(&WRITE) {
            frame.extend(checksum(&frame));
        }
        frame
    }
}

impl Decoder {
    /// Starts a channel.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next message.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the bytes are not exactly one message in its one form, or were damaged on the way: by the
    /// peer or by something behind its encryption. Nothing of it may be used, and nothing more of the channel.
    pub fn decode(&mut self, frame: &[u8]) -> Result<Message, Malformed> {
        if frame.first() == Some(&WRITE) {
            return self.decode_body(frame);
        }
        let (body, expected) = frame.split_last_chunk().ok_or(Malformed::Truncated)?;
        if checksum(body) != *expected {
            return Err(Malformed::Checksum);
        }
        self.decode_body(body)
    }
}

/// Writes a message down that stands alone, such as a datagram.
pub fn encode(message: &Message) -> Vec<u8> {
    Encoder::new().encode(message)
}

/// Reads a message that stands alone.
///
/// # Errors
///
/// [`Malformed`]; nothing of it may be used.
pub fn decode(frame: &[u8]) -> Result<Message, Malformed> {
    Decoder::new().decode(frame)
}

/// Guards what no entry's checksum covers, foremost the dots that a delta accounts for: one flipped bit there
/// would have a write counted as seen that nobody has made yet. CRC-32 (IEEE 802.3) finds whatever two bits
/// are flipped, or any within 32 adjacent ones, in a frame of the greatest length.
fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    crc32fast::hash(body).to_le_bytes()
}

/// Writes down what is to be made durable, with its checksum. However long: it is no frame.
pub fn encode_record(record: &Record) -> Vec<u8> {
    let (mut writer, mut told) = (Writer::new(), Told::default());
    match record {
        Record::Delta(delta) => {
            writer.byte(DELTA);
            write_long(&mut writer, &mut told, delta);
        }
        Record::Reconciled(reconciliation) => {
            let is_sealed = !reconciliation.delta.seals.is_empty();
            writer.byte(if is_sealed { SEALED_TELL } else { TELL });
            reconcile::write_reconciliation(&mut writer, &mut told, reconciliation);
            if is_sealed {
                seals::write_seals(&mut writer, &told, &reconciliation.delta.seals);
            }
        }
        Record::Collected(keys) => {
            writer.byte(COLLECTED);
            writer.count(keys.len());
            keys.iter().for_each(|key| writer.bytes(key.as_str().as_bytes()));
        }
    }
    let mut bytes = writer.finish();
    bytes.extend(checksum(&bytes));
    bytes
}

/// Reads what was made durable.
///
/// # Errors
///
/// [`Malformed`] if the bytes are not exactly one record in its one form: the disk's fault. Nothing of it may be
/// used.
pub fn decode_record(bytes: &[u8]) -> Result<Record, Malformed> {
    let (body, expected) = bytes.split_last_chunk().ok_or(Malformed::Truncated)?;
    if *expected != checksum(body) {
        return Err(Malformed::Checksum);
    }
    let (mut reader, mut heard) = (Reader::new(body), Heard::default());
    let record = match reader.byte()? {
        DELTA => Record::Delta(read_delta(&mut reader, &mut heard)?),
        tag @ (TELL | SEALED_TELL) => {
            let mut reconciliation = reconcile::read_reconciliation(&mut reader, &mut heard)?;
            if tag == SEALED_TELL {
                reconciliation.delta.seals = seals::read_seals(&mut reader, &mut heard)?;
            }
            heard.finish()?;
            Record::Reconciled(Box::new(reconciliation))
        }
        COLLECTED => {
            let count = reader.count(usize::MAX, "count of keys")?;
            Record::Collected((0..count).map(|_| read_key(&mut reader)).collect::<Result<_, _>>()?)
        }
        tag => return Err(Malformed::Unknown { what: "record", tag: tag.into() }),
    };
    reader.finish()?;
    Ok(record)
}

#[cfg(test)]
impl Encoder {
    pub(super) fn remembered(&self) -> usize {
        self.told.len()
    }
}

#[cfg(test)]
impl Decoder {
    pub(super) fn remembered(&self) -> usize {
        self.heard.len()
    }
}

impl Encoder {
    pub(super) fn encode_body(&mut self, message: &Message) -> Vec<u8> {
        let (mut writer, told) = (Writer::new(), &mut self.told);
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
                told.begin(&mut writer, seen.lanes().map(|(lane, _)| lane));
                writer.count(seen.lane_count());
                write_context(&mut writer, told, seen);
            }
            Message::Want { lanes } => write_want(&mut writer, told, lanes),
            Message::Delta(delta) => write_delta(&mut writer, told, delta),
            Message::Heartbeat { digest, asks } => {
                writer.byte(HEARTBEAT);
                writer.raw(digest);
                writer.byte(u8::from(*asks));
            }
            Message::Taken { weight } => {
                writer.byte(TAKEN);
                writer.varint(*weight);
            }
            Message::Neighbour { wanted } => {
                writer.byte(NEIGHBOUR);
                writer.byte(u8::from(*wanted));
            }
            Message::Prune { lanes } => write_prune(&mut writer, told, lanes),
            Message::Probe { probes } => write_probe(&mut writer, told, probes),
            Message::Offer { floors } => {
                writer.byte(OFFER);
                told.begin(&mut writer, floors.lanes().map(|(lane, _)| lane));
                write_floors(&mut writer, told, floors);
            }
            Message::Ask { number, ask } => {
                writer.byte(ASK);
                writer.varint(*number);
                reconcile::write_ask(&mut writer, told, ask);
            }
            Message::Tell { number, tell } => {
                writer.byte(TELL);
                writer.varint(*number);
                reconcile::write_tell(&mut writer, told, tell);
            }
        }
        writer.finish()
    }
}

impl Decoder {
    pub(super) fn decode_body(&mut self, bytes: &[u8]) -> Result<Message, Malformed> {
        let (mut reader, heard) = (Reader::new(bytes), &mut self.heard);
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
                heard.begin(&mut reader)?;
                let count = reader.count(MAX_LANES, "count of lanes")?;
                let seen = read_context(&mut reader, heard, count)?;
                heard.finish()?;
                Message::Context { complete, seen }
            }
            WANT => {
                let seen = |reader: &mut Reader<'_>, heard: &mut Heard| heard.seen(reader);
                Message::Want { lanes: read_lanes(&mut reader, heard, |(lane, _)| lane, seen)? }
            }
            DELTA => {
                let delta = read_delta(&mut reader, heard)?;
                // No delta can bring what a past stands for.
                if delta.accounted.lanes().any(|(lane, _)| lane.is_past()) {
                    return Err(Malformed::Illegal { what: "a delta" });
                }
                // The short form is the only one where there is one.
                if !heard.has_learned() && single(&delta).is_some() {
                    return Err(Malformed::NotCanonical);
                }
                Message::Delta(delta)
            }
            WRITE => Message::Delta(read_single(&mut reader, heard)?),
            HEARTBEAT => Message::Heartbeat { digest: reader.array()?, asks: reader.flag()? },
            TAKEN => Message::Taken { weight: reader.varint()? },
            NEIGHBOUR => Message::Neighbour { wanted: reader.flag()? },
            PRUNE => {
                let lane = |reader: &mut Reader<'_>, heard: &mut Heard| heard.lane(reader);
                Message::Prune { lanes: read_lanes(&mut reader, heard, |lane| lane, lane)? }
            }
            PROBE => {
                let probe =
                    |reader: &mut Reader<'_>, heard: &mut Heard| Ok((heard.lane(reader)?, reader.varint()?));
                Message::Probe { probes: read_lanes(&mut reader, heard, |(lane, _)| lane, probe)? }
            }
            OFFER => {
                heard.begin(&mut reader)?;
                let floors = read_floors(&mut reader, heard)?;
                heard.finish()?;
                Message::Offer { floors }
            }
            ASK => Message::Ask { number: reader.varint()?, ask: reconcile::read_ask(&mut reader, heard)? },
            TELL => {
                Message::Tell { number: reader.varint()?, tell: reconcile::read_tell(&mut reader, heard)? }
            }
            tag => return Err(Malformed::Unknown { what: "message", tag: tag.into() }),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn write_want(writer: &mut Writer, told: &mut Told, lanes: &[(Lane, RangeSet)]) {
    writer.byte(WANT);
    told.begin(writer, lanes.iter().map(|(lane, _)| lane));
    writer.count(lanes.len());
    lanes.iter().for_each(|(lane, seen)| told.seen(writer, lane, seen));
}

fn write_prune(writer: &mut Writer, told: &mut Told, lanes: &[Lane]) {
    writer.byte(PRUNE);
    told.begin(writer, lanes.iter());
    writer.count(lanes.len());
    lanes.iter().for_each(|lane| told.lane(writer, lane));
}

fn write_probe(writer: &mut Writer, told: &mut Told, probes: &[(Lane, u64)]) {
    writer.byte(PROBE);
    told.begin(writer, probes.iter().map(|(lane, _)| lane));
    writer.count(probes.len());
    for (lane, number) in probes {
        told.lane(writer, lane);
        writer.varint(*number);
    }
}

/// Reads a frame of lanes, ascending, with something about each.
fn read_lanes<T>(
    reader: &mut Reader<'_>,
    heard: &mut Heard,
    lane: impl Fn(&T) -> &Lane,
    read: impl Fn(&mut Reader<'_>, &mut Heard) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    heard.begin(reader)?;
    let mut about: Vec<T> = Vec::new();
    for _ in 0..reader.count(MAX_LANES, "count of lanes")? {
        let next = read(reader, heard)?;
        if about.last().is_some_and(|last| lane(last) >= lane(&next)) {
            return Err(Malformed::NotCanonical);
        }
        about.push(next);
    }
    heard.finish()?;
    Ok(about)
}

fn write_delta(writer: &mut Writer, told: &mut Told, delta: &Delta) {
    if let Some(write) = single(delta).filter(|(_, entry, _)| told.knows(&entry.dot.lane)) {
        writer.byte(WRITE);
        write_single(writer, told, write);
    } else {
        writer.byte(DELTA);
        write_long(writer, told, delta);
    }
}

/// A delta of any kind, behind its tag.
fn write_long(writer: &mut Writer, told: &mut Told, delta: &Delta) {
    let lanes = delta.accounted.lanes().map(|(lane, _)| lane).chain(lanes_of(&delta.items));
    told.begin(writer, lanes.chain(seals::lanes_of(&delta.seals)));
    // Almost always a delta accounts for exactly the dots that it brings.
    if accounts_for_its_entries(delta) {
        writer.count(0);
    } else {
        writer.count(delta.accounted.lane_count() + 1);
        write_context(writer, told, &delta.accounted);
    }
    write_items(writer, told, &delta.items);
    if delta.seals.is_empty() {
        writer.byte(UNSIGNED);
    } else {
        writer.byte(SEALED);
        seals::write_seals(writer, told, &delta.seals);
    }
}

fn read_delta(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<Delta, Malformed> {
    heard.begin(reader)?;
    let lanes = reader.count(MAX_LANES + 1, "count of lanes")?;
    let accounted = match lanes.checked_sub(1) {
        Some(count) => Some(read_context(reader, heard, count)?),
        None => None,
    };
    let items = read_items(reader, heard, MAX_ITEMS)?;
    let seals = match reader.byte()? {
        UNSIGNED => Vec::new(),
        SEALED => seals::read_seals(reader, heard)?,
        tag => return Err(Malformed::Unknown { what: "signature", tag: tag.into() }),
    };
    heard.finish()?;
    let delta = match accounted {
        Some(accounted) => Delta { accounted, items, seals },
        None => Delta { accounted: dots(&items), items, seals },
    };
    // The short form is the only one where there is a short form.
    if lanes > 0 && accounts_for_its_entries(&delta) {
        return Err(Malformed::NotCanonical);
    }
    Ok(delta)
}

/// The write that a delta brings, if it is a single one that sets a value, with no word besides.
fn single(delta: &Delta) -> Option<(&Key, &Entry, &Value)> {
    let [item] = delta.items.as_slice() else { return None };
    let [entry] = item.entries.as_slice() else { return None };
    let is_bare = entry.observed.iter().len() == 0 && delta.seals.is_empty();
    let value = entry.value.as_ref().filter(|_| is_bare && accounts_for_its_entries(delta))?;
    Some((&item.key, entry, value))
}

fn write_single(writer: &mut Writer, told: &mut Told, (key, entry, value): (&Key, &Entry, &Value)) {
    told.dot(writer, &entry.dot.lane, entry.dot.counter);
    told.stamp(writer, entry.stamp);
    told.key_of(writer, &entry.dot.lane, key);
    writer.raw(value.as_bytes());
    writer.fixed32(entry.checksum);
}

fn read_single(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<Delta, Malformed> {
    heard.nothing_new();
    let (place, dot) = heard.dot(reader)?;
    if dot.lane.is_past() {
        return Err(Malformed::Illegal { what: "a lane" });
    }
    let (stamp, key) = (heard.stamp(reader)?, heard.key_of(reader, place)?);
    let len = reader.remaining().checked_sub(CHECKSUM_LEN).ok_or(Malformed::Truncated)?;
    let value = Value::try_from(reader.raw(len)?).ok().ok_or(Malformed::Illegal { what: "a value" })?;
    let checksum = reader.fixed32()?;
    let entry = Entry { dot, observed: Observed::default(), stamp, value: Some(value), checksum };
    if !entry.is_intact(&key) {
        return Err(Malformed::Checksum);
    }
    let mut accounted = CausalContext::new();
    accounted.insert(&entry.dot);
    let entries = [entry].into_iter().collect();
    Ok(Delta { accounted, items: vec![Item { key, entries }], seals: Vec::new() })
}

fn accounts_for_its_entries(delta: &Delta) -> bool {
    let entries: usize = delta.items.iter().map(|item| item.entries.len()).sum();
    let accounted = delta.accounted.lanes().map(|(_, counters)| counters.len());
    // Counting is cheap and mostly decides.
    accounted.fold(0, u64::saturating_add) == entries as u64 && dots(&delta.items) == delta.accounted
}

/// The dots of all entries.
fn dots(items: &[Item]) -> CausalContext {
    let mut dots = CausalContext::new();
    for entry in items.iter().flat_map(|item| &item.entries) {
        dots.insert(&entry.dot);
    }
    dots
}

/// The lanes that items name.
pub(super) fn lanes_of(items: &[Item]) -> impl Iterator<Item = &Lane> {
    let entries = items.iter().flat_map(|item| &item.entries);
    entries.flat_map(|entry| entry.observed.iter().map(|(lane, _)| lane).chain([&entry.dot.lane]))
}

pub(super) fn write_items(writer: &mut Writer, told: &mut Told, items: &[Item]) {
    writer.count(items.len());
    for item in items {
        told.key(writer, &item.key);
        writer.count(item.entries.len());
        for entry in &item.entries {
            told.dot(writer, &entry.dot.lane, entry.dot.counter);
            // Almost no entry has observed anybody, and almost every one has a value: one byte for both.
            writer.varint(entry.observed.iter().len() as u64 * 2 + u64::from(entry.value.is_some()));
            for (lane, counter) in entry.observed.iter() {
                told.observed(writer, lane, *counter);
            }
            told.stamp(writer, entry.stamp);
            if let Some(value) = &entry.value {
                writer.bytes(value.as_bytes());
            }
            writer.fixed32(entry.checksum);
        }
    }
}

pub(super) fn read_items(
    reader: &mut Reader<'_>,
    heard: &mut Heard,
    limit: usize,
) -> Result<Vec<Item>, Malformed> {
    let mut items = Vec::new();
    for _ in 0..reader.count(limit, "count of keys")? {
        items.push(read_item(reader, heard)?);
    }
    Ok(items)
}

pub(super) fn read_key(reader: &mut Reader<'_>) -> Result<Key, Malformed> {
    reader.text(Key::MAX_LEN, "a key")?.parse().ok().ok_or(Malformed::Illegal { what: "a key" })
}

fn read_item(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<Item, Malformed> {
    let key = heard.key(reader)?;
    let mut entries: SmallVec<[Entry; 1]> = SmallVec::new();
    for _ in 0..reader.count(MAX_ENTRIES, "count of entries")? {
        let entry = read_entry(reader, heard)?;
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

fn read_entry(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<Entry, Malformed> {
    let (_, dot) = heard.dot(reader)?;
    let lane = &dot.lane;
    if lane.is_past() {
        return Err(Malformed::Illegal { what: "a lane" });
    }
    let head = reader.varint_up_to(Observed::MAX_LANES as u64 * 2 + 1, "count of observed lanes")?;
    let mut observed: Vec<(Lane, u64)> = Vec::new();
    for _ in 0..head / 2 {
        let seen = heard.observed(reader)?;
        if seen.0 == *lane || observed.last().is_some_and(|(last, _)| *last >= seen.0) {
            return Err(Malformed::NotCanonical);
        }
        // Nobody has left behind a life that it writes in.
        if seen.0.is_past() && (seen.1 != 1 || seen.0.buries(lane)) {
            return Err(Malformed::Illegal { what: "a past" });
        }
        observed.push(seen);
    }
    let stamp = heard.stamp(reader)?;
    let value = match head % 2 {
        0 => None,
        _ => {
            let bytes = reader.bytes(Value::MAX_LEN, "a value")?;
            Some(Value::try_from(bytes).ok().ok_or(Malformed::Illegal { what: "a value" })?)
        }
    };
    let checksum = reader.fixed32()?;
    let count = observed.len();
    let observed = Observed::new(observed);
    if observed.iter().len() != count {
        return Err(Malformed::NotCanonical);
    }
    Ok(Entry { dot, observed, stamp, value, checksum })
}
