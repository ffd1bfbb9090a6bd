//! Messages ⇄ bytes: the layout of every frame, and its limits.
//!
//! A frame is one [`Message`] and a checksum over it. On a stream it stands behind its length, 4 bytes little endian
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

pub use fields::{MAX_LANES, MAX_RANGES};
pub use message::{MAX_ENTRIES, MAX_ITEMS, decode, encode};

pub use crate::codec::Malformed;

/// The largest frame, in bytes, without its length. A longer one is refused before it is read.
pub const MAX_FRAME: usize = 1024 * 1024;

/// The bytes of a frame's length on a stream.
pub const HEADER_LEN: usize = 4;

/// What stands before a frame of that many bytes.
///
/// # Panics
///
/// If the frame is over [`MAX_FRAME`], which no message of this program is.
pub fn header(len: usize) -> [u8; HEADER_LEN] {
    assert!(len <= MAX_FRAME, "a frame of {len} bytes is over the limit");
    u32::try_from(len).expect("the limit fits into 32 bits").to_le_bytes()
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
