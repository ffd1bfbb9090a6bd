//! The state of one key as it lies in memory.
//!
//! Almost every key has one entry that has observed nobody or one or two other lanes. Its name, what the entry observed and
//! its value lie behind one another in one allocation; the rest of the entry stands beside it. What does not fit that
//! form, several entries above all, lies elsewhere as a [`Register`](crate::crdt::Register), and then only the name is here.

use super::lanes::{LaneNumber, Lanes};
use crate::crdt::entry::digest;
use crate::crdt::{Entry, Key, Observed, Value};
use crate::time::Timestamp;

/// How many lanes a packed entry may have observed.
const MAX_OBSERVED: usize = 255;
/// What an observed lane takes: its number and a counter.
const OBSERVED_LEN: usize = 12;

/// The entry is a removal.
const REMOVAL: u32 = 1;
/// What it observed follows the name.
const OBSERVED: u32 = 2;
/// There is more than one entry, or one that does not fit: they lie elsewhere.
const ELSEWHERE: u32 = 4;
/// How many flags there are.
const FLAGS: u32 = 3;

/// A key and its only entry.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    /// The name behind its length less one; how many lanes were observed, if any, and these; the value.
    bytes: Box<[u8]>,
    counter: u64,
    stamp: Timestamp,
    /// The number of the entry's lane above the flags.
    head: u32,
    checksum: u32,
}

impl Packed {
    /// A key whose entries lie elsewhere.
    pub(super) fn elsewhere(name: &str) -> Self {
        let bytes = pack(name, &[], &[]);
        Self { bytes, counter: 0, stamp: Timestamp::default(), head: ELSEWHERE, checksum: 0 }
    }

    /// A key and its only entry, if it fits.
    pub(super) fn new(name: &str, entry: &Entry, lanes: &mut Lanes) -> Option<Self> {
        if entry.observed.iter().len() > MAX_OBSERVED {
            return None;
        }
        let lane = lanes.meet(&entry.dot.lane);
        let observed = entry.observed.iter().map(|(lane, counter)| (lanes.meet(lane), *counter));
        let observed: smallvec::SmallVec<[(LaneNumber, u64); 2]> = observed.collect();
        let value = entry.value.as_ref().map_or(&[][..], Value::as_bytes);
        let mut packed = Self {
            bytes: pack(name, &observed, value),
            counter: entry.dot.counter,
            stamp: entry.stamp,
            head: lane.bits() << FLAGS,
            checksum: entry.checksum,
        };
        packed.flag(REMOVAL, entry.value.is_none());
        packed.flag(OBSERVED, !observed.is_empty());
        Some(packed)
    }

    fn flag(&mut self, flag: u32, set: bool) {
        self.head = if set { self.head | flag } else { self.head & !flag };
    }

    fn has(&self, flag: u32) -> bool {
        self.head & flag != 0
    }

    /// Whether its entries lie elsewhere.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.has(ELSEWHERE)
    }

    /// The name of the key.
    pub(super) fn name(&self) -> &[u8] {
        let (len, rest) = self.bytes.split_first().expect("a name is packed first");
        &rest[..usize::from(*len) + 1]
    }

    /// The key.
    pub(super) fn key(&self) -> Key {
        Key::again(std::str::from_utf8(self.name()).expect("a key's characters are ASCII"))
    }

    /// The number of the entry's lane.
    pub(super) fn lane(&self) -> LaneNumber {
        LaneNumber::from_bits(self.head >> FLAGS)
    }

    /// The numbers of all lanes that its entry names; none if its entries lie elsewhere.
    pub(super) fn named(&self) -> impl Iterator<Item = LaneNumber> {
        let own = (!self.is_elsewhere()).then(|| self.lane());
        own.into_iter().chain(self.observed().map(|(lane, _)| lane))
    }

    pub(super) fn counter(&self) -> u64 {
        self.counter
    }

    pub(super) fn stamp(&self) -> Timestamp {
        self.stamp
    }

    pub(super) fn checksum(&self) -> u32 {
        self.checksum
    }

    pub(super) fn digest(&self, lanes: &Lanes) -> u128 {
        digest(&lanes[self.lane()].lane, self.counter, self.checksum)
    }

    /// The value, unless the entry is a removal.
    pub(super) fn value(&self) -> Option<&[u8]> {
        (!self.has(REMOVAL)).then(|| &self.bytes[self.observed_end()..])
    }

    /// What the entry observed, in the order of the lanes' names.
    pub(super) fn observed(&self) -> impl ExactSizeIterator<Item = (LaneNumber, u64)> {
        let end = self.observed_end();
        let begin = if self.has(OBSERVED) { self.name_end() + 1 } else { end };
        self.bytes[begin..end].chunks_exact(OBSERVED_LEN).map(|seen| {
            let (lane, counter) = seen.split_first_chunk().expect("a number and a counter");
            let counter = counter.first_chunk().expect("a counter");
            (LaneNumber::from_bits(u32::from_le_bytes(*lane)), u64::from_le_bytes(*counter))
        })
    }

    /// The only entry.
    pub(super) fn entry(&self, lanes: &Lanes) -> Entry {
        let observed = self.observed().map(|(lane, counter)| (lanes[lane].lane.clone(), counter));
        Entry {
            dot: lanes[self.lane()].lane.dot(self.counter),
            observed: if self.has(OBSERVED) {
                Observed::again(observed.collect())
            } else {
                Observed::default()
            },
            stamp: self.stamp,
            value: self.value().map(Value::again),
            checksum: self.checksum,
        }
    }

    /// Whether `entry`, of that lane, takes the place of this one by being later in the same lane, neither having observed
    /// anybody else: the common case of [`Entry::replaces`].
    pub(super) fn precedes(&self, lane: LaneNumber, entry: &Entry) -> bool {
        self.is_plain()
            && entry.observed.is_empty()
            && self.lane() == lane
            && self.counter < entry.dot.counter
    }

    /// Whether there is one entry, which has observed nobody: then the key covers nothing but its dot.
    pub(super) fn is_plain(&self) -> bool {
        self.head & (OBSERVED | ELSEWHERE) == 0
    }

    /// Puts `entry`, which this one [precedes](Self::precedes), into its place.
    pub(super) fn overwrite(&mut self, entry: &Entry) {
        let value = entry.value.as_ref().map_or(&[][..], Value::as_bytes);
        let begin = self.name_end();
        if self.bytes.len() - begin == value.len() {
            self.bytes[begin..].copy_from_slice(value);
        } else {
            self.bytes = [&self.bytes[..begin], value].concat().into();
        }
        self.flag(REMOVAL, entry.value.is_none());
        (self.counter, self.stamp, self.checksum) = (entry.dot.counter, entry.stamp, entry.checksum);
    }

    fn name_end(&self) -> usize {
        1 + self.name().len()
    }

    fn observed_end(&self) -> usize {
        let begin = self.name_end();
        if self.has(OBSERVED) { begin + 1 + usize::from(self.bytes[begin]) * OBSERVED_LEN } else { begin }
    }
}

fn pack(name: &str, observed: &[(LaneNumber, u64)], value: &[u8]) -> Box<[u8]> {
    let head = if observed.is_empty() { 0 } else { 1 + observed.len() * OBSERVED_LEN };
    let mut bytes = Vec::with_capacity(1 + name.len() + head + value.len());
    bytes.push(u8::try_from(name.len() - 1).expect("a key has 1 to 256 bytes"));
    bytes.extend_from_slice(name.as_bytes());
    if !observed.is_empty() {
        bytes.push(u8::try_from(observed.len()).expect("more are not packed"));
    }
    for (lane, counter) in observed {
        bytes.extend_from_slice(&lane.bits().to_le_bytes());
        bytes.extend_from_slice(&counter.to_le_bytes());
    }
    bytes.extend_from_slice(value);
    bytes.into()
}
