//! Invitations as text: what a machine needs to become a node, on one line.
//!
//! ```text
//! mesh1 | base32 of: version, 1 | mesh, 16 | secret, 16 | expiry in seconds, 8 | count, 1
//!                    | count × (length, 1 | address) | checksum, 4
//! ```

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;

use crate::codec::{Malformed, Reader, Writer};
use crate::id::NodeId;
use crate::replica::Address;
use crate::time::UnixMillis;

const PREFIX: &str = "mesh1";
const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 4;
/// The longest text that is looked at.
const MAX_LEN: usize = 2_048;

/// How much of a mesh's id a token has: enough that nobody finds another authority with the same.
pub const MESH_LEN: usize = 16;
/// The length of a secret, in bytes.
pub const SECRET_LEN: usize = 16;

/// Says that its bearer may become a node. Whoever has it may, so it is not printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The beginning of the hash of the authority's public key: whom to believe.
    pub mesh: [u8; MESH_LEN],
    /// What proves the bearer's right.
    pub secret: [u8; SECRET_LEN],
    /// Until when.
    pub expires_at: UnixMillis,
    /// Where to go, best first.
    pub addresses: Vec<Address>,
}

/// A text is no invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It does not begin as one does.
    #[error("an invitation begins with {PREFIX}")]
    NoToken,
    /// A character is missing, was added or mistyped.
    #[error("the invitation is incomplete or has a typing error")]
    Damaged,
    /// A later version of snomesh made it.
    #[error("the invitation is of a later version")]
    Newer,
}

impl Token {
    /// The most addresses of one token.
    pub const MAX_ADDRESSES: usize = 3;

    /// The part of a mesh's id that tokens have.
    pub fn fingerprint(mesh: NodeId) -> [u8; MESH_LEN] {
        mesh.as_bytes().first_chunk().copied().expect("an id is longer than a fingerprint")
    }

    fn decode(bytes: &[u8]) -> Result<Self, TokenError> {
        let (body, expected) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(TokenError::Damaged)?;
        if checksum(body) != *expected {
            return Err(TokenError::Damaged);
        }
        let mut reader = Reader::new(body);
        if reader.byte().ok() != Some(VERSION) {
            return Err(TokenError::Newer);
        }
        Self::read(&mut reader).ok().ok_or(TokenError::Damaged)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (mesh, secret) = (reader.array()?, reader.array()?);
        let expires_at = UnixMillis(reader.fixed64()?.saturating_mul(1_000));
        let mut addresses = Vec::new();
        for _ in 0..reader.count(Self::MAX_ADDRESSES, "count of addresses")? {
            let text = reader.text(255, "an address")?;
            addresses.push(text.parse().ok().ok_or(Malformed::Illegal { what: "an address" })?);
        }
        Ok(Self { mesh, secret, expires_at, addresses })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut writer = Writer::new();
        writer.byte(VERSION);
        writer.raw(&self.mesh);
        writer.raw(&self.secret);
        writer.fixed64(self.expires_at.0.div_ceil(1_000));
        let addresses: Vec<_> = self.addresses.iter().take(Self::MAX_ADDRESSES).collect();
        writer.count(addresses.len());
        for address in addresses {
            writer.bytes(address.as_str().as_bytes());
        }
        let mut bytes = writer.finish();
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        // As it comes out of a mail: with spaces around it, or in capitals.
        let text = text.trim().to_ascii_lowercase();
        if text.len() > MAX_LEN {
            return Err(TokenError::Damaged);
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::NoToken)?;
        let bytes = BASE32_NOPAD.decode(encoded.to_ascii_uppercase().as_bytes());
        Self::decode(&bytes.ok().ok_or(TokenError::Damaged)?)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            mesh: [1; MESH_LEN],
            secret: [2; SECRET_LEN],
            expires_at: UnixMillis(1_700_000_000_000),
            addresses: vec!["192.0.2.10:7667".parse().unwrap(), "a.example.org:1".parse().unwrap()],
        }
    }

    #[test]
    fn a_token_survives_its_text_and_the_ways_of_mail() {
        let text = token().to_string();
        assert!(text.len() < 160, "{}", text.len());
        for sent in [text.clone(), format!("  {text}\n"), text.to_ascii_uppercase()] {
            assert_eq!(sent.parse(), Ok(token()));
        }
    }

    #[test]
    fn every_single_typing_error_is_noticed() {
        let text = token().to_string();
        for at in PREFIX.len()..text.len() {
            let mut typed = text.clone().into_bytes();
            typed[at] = if typed[at] == b'a' { b'b' } else { b'a' };
            let typed = String::from_utf8(typed).unwrap();
            assert_eq!(typed.parse::<Token>(), Err(TokenError::Damaged), "{typed}");
            assert!(text[..at].parse::<Token>().is_err());
        }
        assert_eq!("hello".parse::<Token>(), Err(TokenError::NoToken));
    }

    #[test]
    fn a_secret_is_not_printed_by_accident() {
        assert!(!format!("{:?}", token()).contains("2, 2"));
    }

    proptest! {
        #[test]
        fn no_text_makes_us_panic(text in "mesh1[a-z2-7]{0,300}") {
            let _read = text.parse::<Token>();
        }
    }
}
