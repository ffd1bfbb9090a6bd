//! The hello: the first stream of a tunnel, on which each side tells what it speaks and hears that it is accepted.
//!
//! The connecting side opens the stream. It sends its hello, reads a verdict and the other's hello, and sends its own
//! verdict; then both count the tunnel as up. TLS alone cannot say so: the dialler's handshake is complete before the
//! listener has judged its certificate.
//!
//! ```text
//! hello    "snom" | u16 length of the rest | u16 oldest | u16 newest version | u16 count | count × attribute
//! attribute  u8 length | key | u16 length | value
//! verdict  u8: 0 accepted, 1 no common version
//! ```
//! Numbers are big-endian.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::{Authenticated, AuthenticationHandler};
use crate::tunnel::{
    ArcTunnel, Closed, ReadExactError, Side, Sided, Tunnel, TunnelDownlink, TunnelStream, TunnelUplink,
    WriteError,
};

const MAGIC: [u8; 4] = *b"snom";
/// The longest hello, in bytes.
pub const MAX_HELLO: usize = 4096;
const ACCEPTED: u8 = 0;
const NO_COMMON_VERSION: u8 = 1;

/// The versions of the mesh's protocol that one side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolVersions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

/// What this build speaks.
pub const PROTOCOL_VERSIONS: ProtocolVersions = ProtocolVersions { oldest: 1, newest: 1 };

impl ProtocolVersions {
    /// The newest version that both sides speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// A peer was not authenticated. The tunnel is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The transport has proved no identity; a tunnel of this kind cannot be authenticated so.
    #[error("the transport proves no identity")]
    NoIdentity,
    /// What this side would tell is longer than a hello may be; the configuration's fault.
    #[error("own hello is longer than {MAX_HELLO} bytes")]
    OwnTooLong,
    /// The peer's first bytes are not a hello, or one that contradicts itself.
    #[error("malformed hello")]
    Malformed,
    /// Nothing both sides speak; one of them has to be upgraded.
    #[error("the peer speaks versions {} to {}", .0.oldest, .0.newest)]
    NoCommonVersion(ProtocolVersions),
    /// The peer refused us.
    #[error("refused by the peer with code {0}")]
    Refused(u8),
    /// The deadline passed; the peer stalls or the network does.
    #[error("no hello in time")]
    TimedOut,
    /// The peer's half of the hello broke off.
    #[error("hello broke off")]
    Read(#[from] ReadExactError),
    /// Our half of the hello broke off.
    #[error("hello broke off")]
    Write(#[from] WriteError),
    /// The tunnel ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Authenticates by the certificate that TLS has proved: the tunnel is called by the peer's node id.
#[derive(Debug, Clone)]
pub struct MutualTls {
    versions: ProtocolVersions,
    attributes: BTreeMap<String, Vec<u8>>,
}

impl Default for MutualTls {
    fn default() -> Self {
        Self::telling(BTreeMap::new())
    }
}

impl MutualTls {
    /// Tells these attributes to every peer; they become the attributes of its tunnel.
    pub fn telling(attributes: BTreeMap<String, Vec<u8>>) -> Self {
        Self { versions: PROTOCOL_VERSIONS, attributes }
    }

    /// Speaks other versions than this build does, for tests of version skew.
    pub fn speaking(mut self, versions: ProtocolVersions) -> Self {
        self.versions = versions;
        self
    }

    async fn exchange(&self, tunnel: &ArcTunnel) -> Result<Authenticated, HelloError> {
        let node = tunnel.identity().ok_or(HelloError::NoIdentity)?;
        let own = encode(self.versions, &self.attributes).ok_or(HelloError::OwnTooLong)?;
        let hello = match tunnel.side() {
            Side::Connect => self.greet(tunnel.open_stream().await?, &own).await?,
            Side::Listen => self.answer(tunnel.incoming().await?.accept().await?, &own).await?,
        };
        let name = node.to_string().parse().expect("a node id is a legal name");
        Ok(Authenticated { name, attributes: Arc::new(hello.attributes) })
    }

    async fn greet(&self, mut stream: TunnelStream, own: &[u8]) -> Result<Hello, HelloError> {
        stream.send.write_all(own).await?;
        read_verdict(&mut stream).await?;
        let hello = read_hello(&mut stream).await?;
        let verdict = self.judge(&hello);
        stream.send.write_all(&[verdict.as_ref().map_or(NO_COMMON_VERSION, |_version| ACCEPTED)]).await?;
        stream.send.finish()?;
        verdict.map(|_version| hello)
    }

    async fn answer(&self, mut stream: TunnelStream, own: &[u8]) -> Result<Hello, HelloError> {
        let hello = read_hello(&mut stream).await?;
        if let Err(refusal) = self.judge(&hello) {
            stream.send.write_all(&[NO_COMMON_VERSION]).await?;
            stream.send.finish()?;
            // The tunnel is about to be closed; wait until the peer has read why.
            let _arrived = stream.send.stopped().await;
            return Err(refusal);
        }
        stream.send.write_all(&[ACCEPTED]).await?;
        stream.send.write_all(own).await?;
        stream.send.finish()?;
        read_verdict(&mut stream).await?;
        Ok(hello)
    }

    fn judge(&self, hello: &Hello) -> Result<u16, HelloError> {
        self.versions.common(hello.versions).ok_or(HelloError::NoCommonVersion(hello.versions))
    }
}

impl AuthenticationHandler for MutualTls {
    type Error = HelloError;

    async fn authenticate(&self, tunnel: &ArcTunnel, deadline: Instant) -> Result<Authenticated, HelloError> {
        tokio::time::timeout_at(deadline, self.exchange(tunnel)).await.unwrap_or(Err(HelloError::TimedOut))
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Hello {
    versions: ProtocolVersions,
    attributes: HashMap<String, Vec<u8>>,
}

async fn read_verdict(stream: &mut TunnelStream) -> Result<(), HelloError> {
    let mut verdict = [0];
    stream.recv.read_exact(&mut verdict).await?;
    match verdict {
        [ACCEPTED] => Ok(()),
        [code] => Err(HelloError::Refused(code)),
    }
}

async fn read_hello(stream: &mut TunnelStream) -> Result<Hello, HelloError> {
    let mut head = [0; 6];
    stream.recv.read_exact(&mut head).await?;
    let [m0, m1, m2, m3, l0, l1] = head;
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if [m0, m1, m2, m3] != MAGIC || length > MAX_HELLO - head.len() {
        return Err(HelloError::Malformed);
    }
    let mut body = vec![0; length];
    stream.recv.read_exact(&mut body).await?;
    decode(&body).ok_or(HelloError::Malformed)
}

fn encode(versions: ProtocolVersions, attributes: &BTreeMap<String, Vec<u8>>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    body.extend(versions.oldest.to_be_bytes());
    body.extend(versions.newest.to_be_bytes());
    body.extend(u16::try_from(attributes.len()).ok()?.to_be_bytes());
    for (key, value) in attributes {
        body.push(u8::try_from(key.len()).ok()?);
        body.extend(key.as_bytes());
        body.extend(u16::try_from(value.len()).ok()?.to_be_bytes());
        body.extend(value);
    }
    let mut hello = MAGIC.to_vec();
    hello.extend(u16::try_from(body.len()).ok()?.to_be_bytes());
    hello.extend(body);
    (hello.len() <= MAX_HELLO).then_some(hello)
}

/// Reads a hello's body; fields that a later version may add behind the attributes are skipped.
fn decode(body: &[u8]) -> Option<Hello> {
    let mut rest = body;
    let oldest = u16::from_be_bytes(*take(&mut rest)?);
    let newest = u16::from_be_bytes(*take(&mut rest)?);
    let count = u16::from_be_bytes(*take(&mut rest)?);
    let mut attributes = HashMap::new();
    for _ in 0..count {
        let [length] = *take(&mut rest)?;
        let key = std::str::from_utf8(rest.split_off(..usize::from(length))?).ok()?;
        let length = usize::from(u16::from_be_bytes(*take(&mut rest)?));
        let value = rest.split_off(..length)?;
        let twice = attributes.insert(key.to_owned(), value.to_vec()).is_some();
        if twice {
            return None;
        }
    }
    (oldest <= newest).then_some(Hello { versions: ProtocolVersions { oldest, newest }, attributes })
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        let versions = |oldest, newest| ProtocolVersions { oldest, newest };
        assert_eq!(versions(1, 3).common(versions(2, 5)), Some(3));
        assert_eq!(versions(2, 5).common(versions(1, 3)), Some(3));
        assert_eq!(versions(1, 1).common(versions(1, 1)), Some(1));
        assert_eq!(versions(1, 1).common(versions(2, 2)), None);
    }

    #[test]
    fn a_hello_has_a_limit() {
        let attributes = |length| BTreeMap::from([("key".to_owned(), vec![0; length])]);
        let overhead = encode(PROTOCOL_VERSIONS, &attributes(0)).unwrap().len();
        assert!(encode(PROTOCOL_VERSIONS, &attributes(MAX_HELLO - overhead)).is_some());
        assert!(encode(PROTOCOL_VERSIONS, &attributes(MAX_HELLO - overhead + 1)).is_none());
        assert!(encode(PROTOCOL_VERSIONS, &BTreeMap::from([("k".repeat(256), Vec::new())])).is_none());
    }

    #[test]
    fn a_later_version_may_say_more_and_nobody_may_contradict_himself() {
        let hello = encode(PROTOCOL_VERSIONS, &BTreeMap::new()).unwrap();
        let body = &hello[6..];
        assert!(decode(&[body, b"more"].concat()).is_some());
        assert!(decode(&body[..body.len() - 1]).is_none());
        assert!(decode(&[0, 2, 0, 1, 0, 0]).is_none());
        let twice = [0, 1, 0, 1, 0, 2, 1, b'k', 0, 0, 1, b'k', 0, 0];
        assert!(decode(&twice).is_none());
    }

    proptest! {
        #[test]
        fn every_hello_survives_its_bytes(attributes in prop::collection::btree_map(
            ".{0,9}", prop::collection::vec(any::<u8>(), 0..50), 0..9,
        )) {
            let hello = encode(PROTOCOL_VERSIONS, &attributes).unwrap();
            let decoded = decode(&hello[6..]).unwrap();
            prop_assert_eq!(decoded.versions, PROTOCOL_VERSIONS);
            prop_assert_eq!(decoded.attributes, attributes.into_iter().collect::<HashMap<_, _>>());
        }

        #[test]
        fn no_bytes_make_us_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _read = decode(&bytes);
        }
    }
}
