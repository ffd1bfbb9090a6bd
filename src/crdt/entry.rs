//! One write: what it put where, and what it had seen there.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Dot, Lane};
use crate::time::Timestamp;

/// The name of a value: 1 to 256 of `A-Z a-z 0-9 . _ : / @ -`, with no `/` at its beginning and no `..`.
///
/// The limits are constants of the protocol version, the same at the writer and at every receiver.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 256;

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Says whether a text is a key.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it is none.
    pub(crate) fn check(text: &str) -> Result<(), KeyError> {
        // Neither a dot may follow a dot nor may a slash stand at the beginning. Without branches, for each key that arrives
        // is looked at.
        let (mut is_legal, mut was_dot) = (!text.starts_with('/') && !text.is_empty(), false);
        for byte in text.bytes() {
            let is_dot = byte == b'.';
            is_legal &= LEGAL[usize::from(byte)] & !(is_dot & was_dot);
            was_dot = is_dot;
        }
        if !is_legal {
            return Err(KeyError::Illegal);
        }
        if text.len() > Self::MAX_LEN {
            return Err(KeyError::TooLong { len: text.len() });
        }
        Ok(())
    }

    /// A text that was a key before.
    pub(super) fn again(text: &str) -> Self {
        Self(text.into())
    }
}

/// The characters of keys.
const LEGAL: [bool; 256] = {
    let mut legal = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let other = matches!(byte, b'.' | b'_' | b':' | b'/' | b'@' | b'-');
        legal[byte as usize] = byte.is_ascii_alphanumeric() || other;
        byte += 1;
    }
    legal
};

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Why a text is no [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is empty or has a character that keys do not have.
    #[error(
        "a key is made of A-Z, a-z, 0-9, '.', '_', ':', '/', '@' and '-', does not begin with '/' and has no '..'"
    )]
    Illegal,
    /// The text is over [`Key::MAX_LEN`].
    #[error("the key has {len} bytes, at most {} are allowed", Key::MAX_LEN)]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
}

/// What a write puts: up to 64 KiB of anything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Arc<[u8]>);

impl Value {
    /// The longest value, in bytes: a constant of the protocol version.
    pub const MAX_LEN: usize = 64 * 1024;

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Bytes that were a value before.
    pub(super) fn again(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl TryFrom<&[u8]> for Value {
    type Error = ValueError;

    fn try_from(bytes: &[u8]) -> Result<Self, ValueError> {
        if bytes.len() > Self::MAX_LEN {
            return Err(ValueError { len: bytes.len() });
        }
        Ok(Self(bytes.into()))
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} B)", self.0.len())
    }
}

/// The bytes are over [`Value::MAX_LEN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value has {len} bytes, at most {} are allowed", Value::MAX_LEN)]
pub struct ValueError {
    /// How many there are.
    pub len: usize,
}

/// What a write had seen on its own key: for each *other* lane the highest counter.
///
/// Of its own lane a write has always seen everything before it. Sorted by lane, one counter each; empty for
/// a key with one writer. A [past](Lane::past) stands for all lanes that are part of it, of which none is named beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Observed(Box<[(Lane, u64)]>);

impl Observed {
    /// The most lanes that one write can have seen on a key: a constant of the protocol version.
    pub const MAX_LANES: usize = 4_096;

    /// Sorts what was seen, keeping the highest counter of each lane.
    pub fn new(seen: impl IntoIterator<Item = (Lane, u64)>) -> Self {
        let mut lanes: Vec<(Lane, u64)> = seen.into_iter().collect();
        lanes.sort_by(|(lane, counter), (other, greater)| lane.cmp(other).then(greater.cmp(counter)));
        lanes.dedup_by(|(lane, _), (kept, _)| lane == kept);
        if lanes.iter().any(|(lane, _)| lane.is_past()) {
            let pasts: Vec<Lane> =
                lanes.iter().map(|(lane, _)| lane).filter(|lane| lane.is_past()).cloned().collect();
            lanes.retain(|(lane, _)| !pasts.iter().any(|past| past != lane && past.buries(lane)));
        }
        Self(lanes.into())
    }

    /// What was sorted before.
    pub(super) fn again(lanes: Vec<(Lane, u64)>) -> Self {
        Self(lanes.into())
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all that a lane can have was seen, for it is part of a past that was.
    pub fn buries(&self, lane: &Lane) -> bool {
        self.0.iter().any(|(seen, _)| seen.buries(lane))
    }

    /// The highest counter seen of `lane`, zero if none.
    pub fn counter(&self, lane: &Lane) -> u64 {
        self.0.binary_search_by(|(seen, _)| seen.cmp(lane)).map_or(0, |at| self.0[at].1)
    }

    /// The lanes in their order, each with its counter.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &(Lane, u64)> {
        self.0.iter()
    }
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub dot: Dot,
    /// What it had seen on its key.
    pub observed: Observed,
    /// When it was made, greater than the stamp of everything that it had seen.
    pub stamp: Timestamp,
    /// What it put, or nothing: then it is a removal of all that it had seen.
    pub value: Option<Value>,
    /// What its origin computed over all of the above and the key; every hop verifies it.
    pub checksum: u32,
}

impl Entry {
    /// Makes an entry as its origin does, with the checksum that belongs to it.
    pub fn new(key: &Key, dot: Dot, observed: Observed, stamp: Timestamp, value: Option<Value>) -> Self {
        let mut entry = Self { dot, observed, stamp, value, checksum: 0 };
        entry.checksum = entry.hash(key);
        entry
    }

    /// Whether its checksum is the one that belongs to it under `key`.
    pub fn is_intact(&self, key: &Key) -> bool {
        self.checksum == self.hash(key)
    }

    /// Whether this write supersedes the one named by `dot`, given that both are on one key.
    pub fn covers(&self, dot: &Dot) -> bool {
        if self.dot.lane == dot.lane {
            return self.dot.counter > dot.counter;
        }
        self.observed.counter(&dot.lane) >= dot.counter || self.observed.buries(&dot.lane)
    }

    /// Whether this write takes the place of another of its key: it supersedes it and knows all that it knew.
    ///
    /// Mostly the first brings the second along. But an author that has let a removal go knows no more what that
    /// had covered, and what it writes next is nevertheless later in the same lane. Whoever still has the removal
    /// keeps it beside the write: otherwise what it covers would be dead there and nothing would tell of it.
    pub fn replaces(&self, other: &Self) -> bool {
        let knows =
            |(lane, counter): &(Lane, u64)| self.covers(&Dot { lane: lane.clone(), counter: *counter });
        self.covers(&other.dot) && other.observed.iter().all(knows)
    }

    /// What orders concurrent values when one of them must be picked: total, and blind to arrival.
    pub fn rank(&self) -> (Timestamp, &Dot, &Option<Value>) {
        (self.stamp, &self.dot, &self.value)
    }

    /// The checksum that belongs to it under `key`.
    pub(super) fn hash(&self, key: &Key) -> u32 {
        checksum_of(&self.fingerprint(key))
    }

    /// Hashes everything that the entry says of `key`: what its author seals. It begins with the checksum.
    pub(super) fn fingerprint(&self, key: &Key) -> Fingerprint {
        // Put together first, for hashing many small pieces costs more than the hash. Mostly there is room on the stack.
        let value = self.value.as_ref().map_or(&[][..], Value::as_bytes);
        let len = DOT_LEN * (1 + self.observed.iter().len()) + 25 + key.as_str().len() + value.len();
        let (mut short, mut long) = ([0; 384], Vec::new());
        let bytes = match short.get_mut(..len) {
            Some(bytes) => bytes,
            None => {
                long.resize(len, 0);
                &mut long[..]
            }
        };
        self.write_hashed(key, value, bytes);
        blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or_default()
    }

    /// Writes down what is hashed: exactly as many bytes as there is room for.
    fn write_hashed(&self, key: &Key, value: &[u8], room: &mut [u8]) {
        let mut rest = room;
        let mut dots = self.observed.iter().map(|(lane, counter)| (lane, *counter));
        let mut dot = Some((&self.dot.lane, self.dot.counter));
        while let Some((lane, counter)) = dot {
            let (node, generation) = lane.name();
            rest = put(rest, node.as_bytes());
            rest = put(rest, &generation.0.to_le_bytes());
            rest = put(rest, &[lane.class() as u8]);
            rest = put(rest, &counter.to_le_bytes());
            dot = dots.next();
        }
        rest = put(rest, &(self.observed.iter().len() as u64).to_le_bytes());
        rest = put(rest, &self.stamp.0.to_le_bytes());
        rest = put(rest, &(key.as_str().len() as u64).to_le_bytes());
        rest = put(rest, key.as_str().as_bytes());
        rest = put(rest, &[u8::from(self.value.is_some())]);
        put(rest, value);
    }

    /// What stands for the entry in sums over sets of them: its name and its checksum, spread over 128 bits.
    ///
    /// The checksum was verified against the content when the entry came, so that the content need not be
    /// hashed again whenever a sum changes. Spread by two rounds of multiplying and folding, each of which loses
    /// nothing: two entries of one lane never have the same digest.
    pub(super) fn digest(&self) -> u128 {
        digest(&self.dot.lane, self.dot.counter, self.checksum)
    }
}

/// A hash of all that an entry says, long enough to stand for it under a signature.
pub(super) type Fingerprint = [u8; 16];

/// The checksum that a fingerprint begins with.
pub(super) fn checksum_of(fingerprint: &Fingerprint) -> u32 {
    u32::from_le_bytes(fingerprint.first_chunk().copied().unwrap_or_default())
}

/// What the name of one write takes where it is hashed: node, generation, class and counter.
const DOT_LEN: usize = 32 + 8 + 1 + 8;

/// Writes a field down; returns the room behind it.
fn put<'a>(room: &'a mut [u8], field: &[u8]) -> &'a mut [u8] {
    let (place, rest) = room.split_at_mut(field.len());
    place.copy_from_slice(field);
    rest
}

/// The [digest](Entry::digest) of an entry, by what it is made of.
pub(super) fn digest(lane: &Lane, counter: u64, checksum: u32) -> u128 {
    const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let name = u128::from(counter) << 64 | u128::from(checksum);
    let mut digest = (lane.tag() ^ name).wrapping_mul(ODD);
    digest = (digest ^ (digest >> 67)).wrapping_mul(ODD);
    digest ^ (digest >> 61)
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::lane;
    use super::*;

    #[test]
    fn keys_have_an_alphabet_and_a_length() {
        for good in ["a", "attr/mesh/x_1.y:z@w-v", &"k".repeat(256)] {
            assert_eq!(good.parse::<Key>().unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a..b", "a b", "a\n", "ä"] {
            assert_eq!(bad.parse::<Key>(), Err(KeyError::Illegal), "{bad:?}");
        }
        assert_eq!("k".repeat(257).parse::<Key>(), Err(KeyError::TooLong { len: 257 }));
    }

    #[test]
    fn values_end_at_the_limit() {
        assert!(Value::try_from(&[0; Value::MAX_LEN][..]).is_ok());
        assert_eq!(
            Value::try_from(&[0; Value::MAX_LEN + 1][..]),
            Err(ValueError { len: Value::MAX_LEN + 1 })
        );
    }

    #[test]
    fn a_write_covers_what_it_observed_and_its_own_past() {
        let key = "k".parse().unwrap();
        let observed = Observed::new([(lane(1), 3), (lane(1), 2)]);
        let entry = Entry::new(&key, lane(0).dot(5), observed, Timestamp(1), None);
        assert!(entry.covers(&lane(0).dot(4)) && entry.covers(&lane(1).dot(3)));
        assert!(
            !entry.covers(&lane(0).dot(5))
                && !entry.covers(&lane(1).dot(4))
                && !entry.covers(&lane(2).dot(1))
        );
    }

    #[test]
    fn a_write_replaces_another_only_if_it_knows_all_that_it_knew() {
        let key = "k".parse().unwrap();
        let make = |counter, observed: &[(Lane, u64)]| {
            let observed = Observed::new(observed.iter().cloned());
            Entry::new(&key, lane(0).dot(counter), observed, Timestamp(counter), None)
        };
        let (plain, knowing) = (make(3, &[]), make(3, &[(lane(1), 2)]));
        let (earlier, other) = (make(2, &[(lane(1), 2)]), make(2, &[(lane(2), 1)]));
        assert!(plain.covers(&earlier.dot) && !plain.replaces(&earlier));
        assert!(knowing.replaces(&earlier) && !knowing.replaces(&other) && knowing.replaces(&make(1, &[])));
    }

    #[test]
    fn the_checksum_sees_every_field() {
        let key: Key = "k".parse().unwrap();
        let make = |dot, observed, stamp, value: Option<&[u8]>| {
            Entry::new(&key, dot, observed, Timestamp(stamp), value.map(|bytes| bytes.try_into().unwrap()))
        };
        let base = make(lane(0).dot(1), Observed::default(), 7, Some(b"v"));
        let others = [
            make(lane(1).dot(1), Observed::default(), 7, Some(b"v")),
            make(lane(0).dot(2), Observed::default(), 7, Some(b"v")),
            make(lane(0).dot(1), Observed::new([(lane(1), 1)]), 7, Some(b"v")),
            make(lane(0).dot(1), Observed::default(), 8, Some(b"v")),
            make(lane(0).dot(1), Observed::default(), 7, Some(b"w")),
            make(lane(0).dot(1), Observed::default(), 7, Some(b"")),
            make(lane(0).dot(1), Observed::default(), 7, None),
        ];
        for other in others {
            assert_ne!(other.checksum, base.checksum, "{other:?}");
        }
        assert_ne!(base.hash(&"l".parse().unwrap()), base.checksum);
    }
}
