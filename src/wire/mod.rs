//! Messages ⇄ bytes: the layout of every frame, and its limits.
//!
//! A frame is one [`Message`](crate::gossip::Message) and a checksum over it. On a stream it stands behind its
//! length ([`header`], [`body_len`]) and is written by the channel's [`Encoder`] and read by its [`Decoder`],
//! which remember what was said on it; as a datagram it stands alone. `docs/PROTOCOL.md` has the layout of each
//! message in a table.
//!
//! **One form.** Equal messages have equal bytes, and a reader takes no other: after the same frames,
//! `encode(decode(b)?) == b`.
//! Whatever the bytes are, decoding ends without a panic, and allocates no more than some small multiple of
//! the frame, which is at most [`MAX_FRAME`].
//!
//! Version 1 has no optional fields. A later version is spoken only to a peer whose hello names it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)]

mod dictionary;
mod fields;
mod message;
mod reconcile;
mod seals;

pub use dictionary::MAX_NAMES;
pub use fields::{MAX_COUNTER, MAX_GENERATION, MAX_LANES, MAX_RANGES};
#[cfg(feature = "store")]
pub(crate) use fields::{read_counters, write_counters};
pub use message::{Decoder, Encoder, MAX_ENTRIES, MAX_ITEMS, decode, decode_record, encode, encode_record};
pub use reconcile::MAX_ASKED;
#[cfg(feature = "store")]
pub(crate) use seals::{read_list, write_list};

pub use crate::codec::Malformed;

use smallvec::SmallVec;

/// The largest frame, in bytes, without its length. A longer one is refused before it is read.
pub const MAX_FRAME: usize = 1024 * 1024;

/// The bytes that say, at a frame's beginning on a stream, how long it is, or that as many more are to follow.
pub const HEADER_LEN: usize = 2;

/// Set in the first two bytes of a length that needs four.
const LONG: u16 = 1 << 15;

/// What stands before a frame of that many bytes: 15 bits little endian, or 15 bits with the highest set and 16
/// more.
///
/// # Errors
///
/// [`Malformed::OverLimit`] if the frame is over [`MAX_FRAME`]: a state that this version cannot tell.
pub fn header(len: usize) -> Result<SmallVec<[u8; 2 * HEADER_LEN]>, Malformed> {
    let len = checked(len)?;
    let (low, high) = (u16::try_from(len % (1 << 15)).unwrap_or(0), u16::try_from(len >> 15).unwrap_or(0));
    let mut header: SmallVec<[u8; 2 * HEADER_LEN]> = SmallVec::new();
    if high == 0 {
        header.extend(low.to_le_bytes());
    } else {
        header.extend((low | LONG).to_le_bytes());
        header.extend(high.to_le_bytes());
    }
    Ok(header)
}

/// How long the frame is that begins so. `more` are the bytes that follow, once they are asked for.
///
/// # Errors
///
/// [`Malformed`] if it is over [`MAX_FRAME`] or in a longer form than it needs: the peer's fault, nothing must
/// be allocated for it.
pub fn body_len(first: [u8; HEADER_LEN], more: Option<[u8; HEADER_LEN]>) -> Result<Option<usize>, Malformed> {
    let low = u16::from_le_bytes(first);
    match (low & LONG, more.map(u16::from_le_bytes)) {
        (0, _) => Ok(Some(low.into())),
        (_, None) => Ok(None),
        (_, Some(0)) => Err(Malformed::NotCanonical),
        (_, Some(high)) => checked(usize::from(high) << 15 | usize::from(low & !LONG)).map(Some),
    }
}

fn checked(len: usize) -> Result<usize, Malformed> {
    let limit = MAX_FRAME as u64;
    let over = Malformed::OverLimit { what: "a frame's length", found: len as u64, limit };
    if len > MAX_FRAME { Err(over) } else { Ok(len) }
}

#[cfg(test)]
mod tests;
