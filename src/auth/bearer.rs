//! Bearer tokens: the connecting side shows a secret, and the listening side knows whose it is.
//!
//! ```text
//! token      "tokn" | u8 version | u8 length | token
//! verdict    u8: 0 accepted, 1 refused
//! ```
//!
//! Made for tunnels whose transport already proves the listener and hides what is said, such as QUIC: a token tells who
//! knows it to whoever hears it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use ring::digest::{SHA256, digest};
use tokio::time::Instant;

use super::{Authenticated, AuthenticationHandler};
use crate::id::TunnelName;
use crate::tunnel::{
    ArcTunnel, Closed, ReadExactError, Side, Sided, TunnelDownlink, TunnelStream, TunnelUplink, WriteError,
};

const MAGIC: [u8; 5] = *b"tokn\x01";
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;

/// A secret of 16 to 255 bytes. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct BearerSecret(Arc<[u8]>);

impl BearerSecret {
    /// The shortest token, in bytes: what nobody guesses.
    pub const MIN_LEN: usize = 16;
    /// The longest token, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Takes a secret.
    ///
    /// # Errors
    ///
    /// [`SecretLength`] if it is too short to be one, or too long.
    pub fn new(secret: impl Into<Vec<u8>>) -> Result<Self, SecretLength> {
        let secret = secret.into();
        if !(Self::MIN_LEN..=Self::MAX_LEN).contains(&secret.len()) {
            return Err(SecretLength { len: secret.len() });
        }
        Ok(Self(secret.into()))
    }

    /// What is compared: who measures how long that takes learns of a hash, not of a token.
    fn digest(&self) -> [u8; 32] {
        digest(&SHA256, &self.0).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

impl fmt::Debug for BearerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerSecret(..)")
    }
}

/// A secret is no [`BearerSecret`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token has {} to {} bytes, not {len}", BearerSecret::MIN_LEN, BearerSecret::MAX_LEN)]
pub struct SecretLength {
    /// How many it has.
    pub len: usize,
}

/// What the holder of a token is to those whom it shows it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What its tunnels are called.
    pub name: TunnelName,
    /// What is known of it.
    pub attributes: Arc<HashMap<String, Vec<u8>>>,
}

/// Authenticates by tokens: shows one where it has connected, and asks for one where it listens.
///
/// Clones share the tokens that are known, which may change at any time; a tunnel that was authenticated by a token stays
/// when the token goes.
#[derive(Debug, Clone)]
pub struct BearerToken {
    shown: Option<(BearerSecret, TunnelName)>,
    known: Arc<RwLock<HashMap<[u8; 32], Grant>>>,
}

impl BearerToken {
    /// Knows no token and shows none: refuses everybody.
    pub fn new() -> Self {
        Self { shown: None, known: Arc::default() }
    }

    /// Shows this token to listeners, and calls their tunnels `name`.
    #[must_use]
    pub fn showing(mut self, token: BearerSecret, name: TunnelName) -> Self {
        self.shown = Some((token, name));
        self
    }

    /// Accepts a token from now on. Gives back what it stood for before.
    pub fn grant(&self, token: &BearerSecret, grant: Grant) -> Option<Grant> {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(token.digest(), grant)
    }

    /// Accepts a token no longer. Gives back what it stood for.
    pub fn revoke(&self, token: &BearerSecret) -> Option<Grant> {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&token.digest())
    }

    async fn show(&self, tunnel: &ArcTunnel) -> Result<Authenticated, BearerError> {
        let (token, name) = self.shown.as_ref().ok_or(BearerError::NoToken)?;
        let mut stream = tunnel.open_stream().await?;
        let length = u8::try_from(token.0.len()).expect("a token has at most 255 bytes");
        stream.send.write_all(&[&MAGIC[..], &[length], &token.0].concat()).await?;
        stream.send.finish()?;
        let mut verdict = [REFUSED];
        stream.recv.read_exact(&mut verdict).await?;
        match verdict {
            [ACCEPTED] => Ok(Authenticated { name: name.clone(), attributes: Arc::default() }),
            _ => Err(BearerError::Refused),
        }
    }

    async fn ask(&self, tunnel: &ArcTunnel) -> Result<Authenticated, BearerError> {
        let mut stream = tunnel.incoming().await?.accept().await?;
        let token = read(&mut stream).await;
        let grant = token.as_ref().ok().and_then(|token| {
            self.known.read().unwrap_or_else(PoisonError::into_inner).get(&token.digest()).cloned()
        });
        stream.send.write_all(&[if grant.is_some() { ACCEPTED } else { REFUSED }]).await?;
        stream.send.finish()?;
        let Some(Grant { name, attributes }) = grant else {
            // The tunnel is about to be closed; wait until the peer has read why.
            let _arrived = stream.send.stopped().await;
            return Err(token.err().unwrap_or(BearerError::Unknown));
        };
        Ok(Authenticated { name, attributes })
    }
}

impl Default for BearerToken {
    fn default() -> Self {
        Self::new()
    }
}

async fn read(stream: &mut TunnelStream) -> Result<BearerSecret, BearerError> {
    let mut head = [0; MAGIC.len() + 1];
    stream.recv.read_exact(&mut head).await?;
    let [magic @ .., length] = head;
    if magic != MAGIC {
        return Err(BearerError::Malformed);
    }
    let mut secret = vec![0; length.into()];
    stream.recv.read_exact(&mut secret).await?;
    BearerSecret::new(secret).map_err(|_length| BearerError::Malformed)
}

impl AuthenticationHandler for BearerToken {
    type Error = BearerError;

    async fn authenticate(
        &self,
        tunnel: &ArcTunnel,
        deadline: Instant,
    ) -> Result<Authenticated, BearerError> {
        let authenticated = async {
            match tunnel.side() {
                Side::Connect => self.show(tunnel).await,
                Side::Listen => self.ask(tunnel).await,
            }
        };
        tokio::time::timeout_at(deadline, authenticated).await.unwrap_or(Err(BearerError::TimedOut))
    }
}

/// A peer was not authenticated. The tunnel is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BearerError {
    /// This side has connected and has no token to show; the configuration's fault.
    #[error("no token to show")]
    NoToken,
    /// The listener does not accept the token that was shown.
    #[error("token refused by the peer")]
    Refused,
    /// The peer showed a token that nobody here knows, or that was revoked.
    #[error("unknown token")]
    Unknown,
    /// What the peer showed is no token.
    #[error("malformed token")]
    Malformed,
    /// The deadline passed; the peer stalls or the network does.
    #[error("no token in time")]
    TimedOut,
    /// The peer broke off.
    #[error("token broke off")]
    Read(#[from] ReadExactError),
    /// The peer does not read.
    #[error("token broke off")]
    Write(#[from] WriteError),
    /// The tunnel ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tunnel::duplex::DuplexTunnel;

    fn token(text: &str) -> BearerSecret {
        BearerSecret::new(text).unwrap()
    }

    fn grant(name: &str) -> Grant {
        Grant {
            name: name.parse().unwrap(),
            attributes: Arc::new([("site".into(), b"north".to_vec())].into()),
        }
    }

    /// What both sides make of each other.
    async fn meet(
        connecting: &BearerToken,
        listening: &BearerToken,
    ) -> [Result<Authenticated, BearerError>; 2] {
        let (near, far) = DuplexTunnel::pair();
        let (near, far) = (ArcTunnel::new(near), ArcTunnel::new(far));
        let deadline = Instant::now() + Duration::from_secs(5);
        tokio::join!(connecting.authenticate(&near, deadline), listening.authenticate(&far, deadline)).into()
    }

    /// FEATURES S1, S4.
    #[tokio::test]
    async fn a_token_names_its_holder_until_it_is_revoked() {
        let listening = BearerToken::new();
        let secret = token("0123456789abcdef");
        listening.grant(&secret, grant("edge-7"));
        let connecting = BearerToken::new().showing(secret.clone(), "hub".parse().unwrap());
        let [near, far] = meet(&connecting, &listening).await;
        assert_eq!(near.unwrap().name.as_str(), "hub");
        let far = far.unwrap();
        assert_eq!((far.name.as_str(), &far.attributes), ("edge-7", &grant("edge-7").attributes));
        assert_eq!(listening.clone().revoke(&secret), Some(grant("edge-7")));
        assert_eq!(
            meet(&connecting, &listening).await,
            [Err(BearerError::Refused), Err(BearerError::Unknown)]
        );
    }

    /// FEATURES S4.
    #[tokio::test]
    async fn who_shows_another_token_or_none_is_refused() {
        let listening = BearerToken::new();
        listening.grant(&token("0123456789abcdef"), grant("edge-7"));
        for wrong in ["0123456789abcdeg", "0123456789abcdef0", "0123456789abcdee"] {
            let connecting = BearerToken::new().showing(token(wrong), "hub".parse().unwrap());
            assert_eq!(
                meet(&connecting, &listening).await,
                [Err(BearerError::Refused), Err(BearerError::Unknown)]
            );
        }
        let (near, _far) = DuplexTunnel::pair();
        let deadline = Instant::now() + Duration::from_secs(5);
        let nothing = BearerToken::new().authenticate(&ArcTunnel::new(near), deadline).await;
        assert_eq!(nothing, Err(BearerError::NoToken));
    }

    /// FEATURES S4. Failure 5 of the original: what a peer sent while authenticating made this side panic.
    #[tokio::test]
    async fn noise_in_place_of_a_token_is_refused() {
        let long = [&MAGIC[..], &[200], &[1; 100]].concat();
        for (noise, error) in [
            (&[0xff; 64][..], BearerError::Malformed),
            (&[&MAGIC[..], &[15], &[7; 15]].concat(), BearerError::Malformed),
            (&long, BearerError::Read(ReadExactError::Ended)),
            (b"", BearerError::Read(ReadExactError::Ended)),
        ] {
            let (near, far) = DuplexTunnel::pair();
            let mut stream = near.open_stream().await.unwrap();
            stream.send.write_all(noise).await.unwrap();
            stream.send.finish().unwrap();
            let refused = async {
                let mut verdict = [0];
                stream.recv.read_exact(&mut verdict).await.unwrap();
                verdict
            };
            let deadline = Instant::now() + Duration::from_secs(5);
            let (listening, far) = (BearerToken::new(), ArcTunnel::new(far));
            let (judged, verdict) = tokio::join!(listening.authenticate(&far, deadline), refused);
            assert_eq!((judged, verdict), (Err(error), [REFUSED]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_shows_nothing_is_not_waited_for() {
        let (_silent, far) = DuplexTunnel::pair();
        let deadline = Instant::now() + Duration::from_secs(5);
        let judged = BearerToken::new().authenticate(&ArcTunnel::new(far), deadline).await;
        assert_eq!(judged, Err(BearerError::TimedOut));
    }

    #[test]
    fn a_token_has_a_length_and_is_never_printed() {
        for (len, legal) in [(15, false), (16, true), (255, true), (256, false)] {
            assert_eq!(BearerSecret::new(vec![b'x'; len]).is_ok(), legal, "{len}");
        }
        let printed =
            format!("{:?}", BearerToken::new().showing(token("0123456789abcdef"), "h".parse().unwrap()));
        assert!(!printed.contains("0123"), "{printed}");
    }
}
