//! The layout of seals, in deltas, in answers of a comparison and in what is made durable.

use std::sync::Arc;

use super::dictionary::{Heard, Told};
use super::fields::MAX_COUNTER;
use crate::codec::{Malformed, Reader, Writer};
use crate::crdt::{Lane, Seal};

/// The lanes that seals name.
pub(super) fn lanes_of(seals: &[Arc<Seal>]) -> impl Iterator<Item = &Lane> {
    seals.iter().map(|seal| &seal.lane)
}

/// Seals in their order, of which there is at least one. The key stands with the first of each lane.
pub(super) fn write_seals(writer: &mut Writer, told: &Told, seals: &[Arc<Seal>]) {
    writer.count(seals.len());
    let mut before: Option<&Seal> = None;
    for seal in seals {
        told.lane(writer, &seal.lane);
        if before.is_none_or(|before| before.lane != seal.lane) {
            writer.raw(&seal.key);
        }
        write_list(writer, seal);
        before = Some(seal);
    }
}

pub(super) fn read_seals(reader: &mut Reader<'_>, heard: &mut Heard) -> Result<Vec<Arc<Seal>>, Malformed> {
    let mut seals: Vec<Arc<Seal>> = Vec::new();
    for _ in 0..reader.count(usize::MAX, "count of seals")? {
        let lane = heard.lane(reader)?;
        if lane.is_past() {
            return Err(Malformed::Illegal { what: "a seal" });
        }
        let key = match seals.last().filter(|before| before.lane == lane) {
            Some(before) => before.key,
            None => reader.array()?,
        };
        let seal = Arc::new(read_list(reader, lane, key)?);
        if seals.last().is_some_and(|before| *before >= seal) {
            return Err(Malformed::NotCanonical);
        }
        seals.push(seal);
    }
    if seals.is_empty() {
        return Err(Malformed::NotCanonical);
    }
    Ok(seals)
}

/// What a seal says besides lane and key.
pub(crate) fn write_list(writer: &mut Writer, seal: &Seal) {
    writer.varint(seal.first);
    writer.count(seal.hashes.len());
    seal.hashes.iter().for_each(|hash| writer.raw(hash));
    writer.raw(&seal.signature);
}

pub(crate) fn read_list(reader: &mut Reader<'_>, lane: Lane, key: [u8; 32]) -> Result<Seal, Malformed> {
    let first = reader.varint_up_to(MAX_COUNTER, "a counter")?;
    let count = reader.count(Seal::MAX_ENTRIES, "count of hashes")?;
    let hashes: Box<[[u8; 16]]> = (0..count).map(|_| reader.array()).collect::<Result<_, _>>()?;
    let seal = Seal { lane, first, hashes, key, signature: reader.array()? };
    if first == 0 || count == 0 || seal.last() > MAX_COUNTER {
        return Err(Malformed::Illegal { what: "a seal" });
    }
    Ok(seal)
}
