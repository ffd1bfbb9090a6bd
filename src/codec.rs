//! Fields ⇄ bytes: the only place that knows the encoding of numbers, lengths and texts.
//!
//! Numbers are bincode 2 varints (little endian; one byte up to 250, then a marker and 2, 4 or 8 bytes).
//! bincode encodes the fields; what fields there are, in which order and within which limits, is ours and is
//! written out in `wire` and `replica`. There is one encoding for each value: a reader refuses every other.
//!
//! No type derives its encoding and none is recursive, so that no input can make a reader allocate more than
//! the caller's limit or descend deeper than the code does.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)]

use bincode::config::{Configuration, Fixint, LittleEndian, NoLimit, Varint};

const VARINT: Configuration<LittleEndian, Varint, NoLimit> = bincode::config::standard();
const FIXED: Configuration<LittleEndian, Fixint, NoLimit> = bincode::config::legacy();

/// Bytes are not what they should be: the sender's fault, or damage on the way.
///
/// Nothing that they say was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// They end within a field.
    #[error("the bytes end within a field")]
    Truncated,
    /// They go on after the last field.
    #[error("{count} bytes follow the last field")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// They do not match their checksum.
    #[error("the bytes do not match their checksum")]
    Checksum,
    /// A number, a set or a list is written in another way than the one there is.
    #[error("a field is not in its canonical form")]
    NotCanonical,
    /// A length or a number is above what the protocol allows.
    #[error("{what} of {found} is above the limit of {limit}")]
    OverLimit {
        /// Of what.
        what: &'static str,
        /// What it is.
        found: u64,
        /// What it may be at most.
        limit: u64,
    },
    /// A tag that this version of the protocol does not have.
    #[error("{what} {tag} is unknown to this version")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// The tag.
        tag: u64,
    },
    /// A text that breaks its rules.
    #[error("{what} is not legal")]
    Illegal {
        /// Which one.
        what: &'static str,
    },
}

/// Writes fields one after another.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A tag or a flag: one byte.
    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// A number that is mostly small.
    pub fn varint(&mut self, number: u64) {
        bincode::encode_into_std_write(number, &mut self.bytes, VARINT).expect("a vector takes every byte");
    }

    /// A count or a length.
    pub fn count(&mut self, count: usize) {
        self.varint(count as u64);
    }

    /// A number whose bytes are all as likely: 4 bytes.
    pub fn fixed32(&mut self, number: u32) {
        bincode::encode_into_std_write(number, &mut self.bytes, FIXED).expect("a vector takes every byte");
    }

    /// A number whose bytes are all as likely: 8 bytes.
    pub fn fixed64(&mut self, number: u64) {
        bincode::encode_into_std_write(number, &mut self.bytes, FIXED).expect("a vector takes every byte");
    }

    /// Bytes whose number both sides know.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes behind their number.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }
}

/// Reads fields one after another.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts before the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left: a bound on how many elements of at least one byte can follow.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Says that the last field was read.
    ///
    /// # Errors
    ///
    /// [`Malformed::Trailing`] if it was not the last.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Trailing { count: self.rest.len() }) }
    }

    /// A tag or a flag.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`].
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// A number that is mostly small.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if it ends early or a shorter form of it exists.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        // bincode would take a long form of a small number too.
        let (len, least) = match self.rest.first().ok_or(Malformed::Truncated)? {
            0..=250 => (1, 0),
            251 => (3, 251),
            252 => (5, 1 << 16),
            253 => (9, 1 << 32),
            _ => return Err(Malformed::NotCanonical),
        };
        let field = self.raw(len)?;
        let (number, _) =
            bincode::decode_from_slice::<u64, _>(field, VARINT).ok().ok_or(Malformed::Truncated)?;
        if number < least { Err(Malformed::NotCanonical) } else { Ok(number) }
    }

    /// A number up to `limit`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if it is none or above.
    pub fn varint_up_to(&mut self, limit: u64, what: &'static str) -> Result<u64, Malformed> {
        let found = self.varint()?;
        if found > limit { Err(Malformed::OverLimit { what, found, limit }) } else { Ok(found) }
    }

    /// How many elements follow, each of at least one byte: never more than bytes are left.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if there are more than `limit` or than fit.
    pub fn count(&mut self, limit: usize, what: &'static str) -> Result<usize, Malformed> {
        let count = self.varint_up_to(limit as u64, what)?;
        usize::try_from(count).ok().filter(|&count| count <= self.rest.len()).ok_or(Malformed::Truncated)
    }

    /// Four bytes as a number.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`].
    pub fn fixed32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes as a number.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`].
    pub fn fixed64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// So many bytes.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`].
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(field)
    }

    /// As many bytes as the array holds.
    ///
    /// # Errors
    ///
    /// [`Malformed::Truncated`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*field)
    }

    /// Bytes behind their number, which is at most `limit`.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if there are more or fewer.
    pub fn bytes(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let len = self.count(limit, what)?;
        self.raw(len)
    }

    /// A text of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if it is longer, shorter or not UTF-8.
    pub fn text(&mut self, limit: usize, what: &'static str) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes(limit, what)?).ok().ok_or(Malformed::Illegal { what })
    }

    /// A flag: exactly 0 or 1.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for anything else.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

/// The longest value that [`encode_value`] writes and [`decode_value`] reads, in bytes.
#[cfg(feature = "net")]
const MAX_VALUE: usize = 64 * 1024;

/// A value of a program's own type in bincode. None of the mesh's own types is written so.
///
/// # Errors
///
/// [`Malformed::Illegal`] if it is too long or of a kind that has no bincode.
#[cfg(feature = "net")]
pub(crate) fn encode_value<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Malformed> {
    let encoded = bincode::serde::encode_to_vec(value, VARINT.with_limit::<MAX_VALUE>()).ok();
    encoded.filter(|bytes| bytes.len() <= MAX_VALUE).ok_or(Malformed::Illegal { what: "the value" })
}

/// A program's own type from bincode. The limit counts what is claimed before it is allocated.
///
/// # Errors
///
/// [`Malformed`] if the bytes are no such value or more than one.
#[cfg(feature = "net")]
pub(crate) fn decode_value<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let decoded = bincode::serde::decode_from_slice(bytes, VARINT.with_limit::<MAX_VALUE>()).ok();
    let (value, read) = decoded.ok_or(Malformed::Illegal { what: "the value" })?;
    if read < bytes.len() {
        return Err(Malformed::Trailing { count: bytes.len() - read });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_survives_and_has_one_form(number in prop_oneof![any::<u64>(), 0u64..70_000, Just(u64::MAX)]) {
            let mut writer = Writer::new();
            writer.varint(number);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(number));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn what_a_reader_takes_is_what_a_writer_writes(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Ok(number) = reader.varint() {
                let mut writer = Writer::new();
                writer.varint(number);
                prop_assert_eq!(&bytes[..bytes.len() - reader.remaining()], writer.finish());
            }
        }
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        let mut writer = Writer::new();
        writer.varint(u64::MAX);
        let bytes = writer.finish();
        assert!(matches!(Reader::new(&bytes).bytes(1 << 20, "value"), Err(Malformed::OverLimit { .. })));
        let mut writer = Writer::new();
        writer.varint(1_000);
        let bytes = writer.finish();
        assert_eq!(Reader::new(&bytes).bytes(1 << 20, "value"), Err(Malformed::Truncated));
    }

    #[test]
    fn long_forms_of_small_numbers_are_refused() {
        for bytes in [&[251, 250, 0][..], &[252, 1, 0, 0, 0], &[253, 1, 0, 0, 0, 0, 0, 0, 0], &[254], &[255]]
        {
            assert_eq!(Reader::new(bytes).varint(), Err(Malformed::NotCanonical));
        }
    }
}
