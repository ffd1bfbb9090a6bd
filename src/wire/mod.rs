//! Messages ⇄ bytes: the layout of every frame, and its limits.
//!
//! A frame is one [`Message`](crate::gossip::Message) and a checksum over it. On a stream it stands behind its length, 4 bytes little endian
//! ([`HEADER_LEN`], [`header`], [`body_len`]); as a datagram it stands alone. `docs/PROTOCOL.md` has the layout
//! of each message in a table.
//!
//! **One form.** Equal messages have equal bytes, and [`decode`] takes no other: `encode(decode(b)?) == b`.
//! Whatever the bytes are, decoding ends without a panic, and allocates no more than some small multiple of
//! the frame, which is at most [`MAX_FRAME`].
//!
//! Version 1 has no optional fields. A later version is spoken only to a peer whose hello names it.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)]

mod fields;
mod message;

pub use fields::{MAX_COUNTER, MAX_GENERATION, MAX_LANES, MAX_RANGES};
pub use message::{MAX_ENTRIES, MAX_ITEMS, decode, encode};

pub use crate::codec::Malformed;

/// The largest frame, in bytes, without its length. A longer one is refused before it is read.
pub const MAX_FRAME: usize = 1024 * 1024;

/// The bytes of a frame's length on a stream.
pub const HEADER_LEN: usize = 4;

/// What stands before a frame of that many bytes.
///
/// # Errors
///
/// [`Malformed::OverLimit`] if the frame is over [`MAX_FRAME`]: a state that this version cannot tell.
pub fn header(len: usize) -> Result<[u8; HEADER_LEN], Malformed> {
    let fits = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME);
    let limit = MAX_FRAME as u64;
    Ok(fits.ok_or(Malformed::OverLimit { what: "a frame's length", found: len as u64, limit })?.to_le_bytes())
}

/// How long the frame behind this header is.
///
/// # Errors
///
/// [`Malformed::OverLimit`] if it is over [`MAX_FRAME`]: the peer's fault, nothing must be allocated for it.
pub fn body_len(header: [u8; HEADER_LEN]) -> Result<usize, Malformed> {
    let len = u32::from_le_bytes(header) as usize;
    if len > MAX_FRAME {
        return Err(Malformed::OverLimit {
            what: "a frame's length",
            found: len as u64,
            limit: MAX_FRAME as u64,
        });
    }
    Ok(len)
}

#[cfg(test)]
mod tests;
