//! The "simple ack": the listener says HELO, the connector says it twice. It proves nothing.

use std::sync::Arc;

use tokio::time::Instant;

use crate::auth::{Authenticated, AuthenticationHandler};
use crate::id::TunnelName;
use crate::tunnel::{
    ArcTunnel, Closed, ReadExactError, Side, Sided, Tunnel, TunnelDownlink, TunnelUplink, WriteError,
};

/// The length of either message, zeros included.
const MESSAGE_LEN: usize = 64;
const HELLO: &[u8] = b"HELO";

/// Authenticates as version 0 does, on the first stream, which the listening side opens. The tunnel is called after the
/// peer's address.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimpleAck;

/// The peer did not do its part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
    /// What the peer sent is not what was to be sent, or what it wants repeated cannot be repeated.
    #[error("the peer did not acknowledge")]
    Malformed,
    /// The tunnel ended.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The peer broke off.
    #[error("the acknowledgement broke off")]
    Read(#[from] ReadExactError),
    /// The peer does not read.
    #[error("cannot answer")]
    Write(#[from] WriteError),
}

impl AuthenticationHandler for SimpleAck {
    type Error = AckError;

    async fn authenticate(&self, tunnel: &ArcTunnel, _: Instant) -> Result<Authenticated, AckError> {
        match tunnel.side() {
            Side::Listen => greet(tunnel).await?,
            Side::Connect => acknowledge(tunnel).await?,
        }
        Ok(Authenticated { name: name_of(&tunnel.remote()), attributes: Arc::default() })
    }
}

async fn greet(tunnel: &ArcTunnel) -> Result<(), AckError> {
    let mut stream = tunnel.open_stream().await?;
    stream.send.write_all(&padded(HELLO).ok_or(AckError::Malformed)?).await?;
    let mut answer = [0; MESSAGE_LEN];
    stream.recv.read_exact(&mut answer).await?;
    // The peer may have dropped its end already.
    let _ended = stream.send.finish();
    let expected = padded(&twice(HELLO)).ok_or(AckError::Malformed)?;
    let (head, rest) = answer.split_at(2 * HELLO.len() + 2);
    let matches = head == &expected[..head.len()] && std::str::from_utf8(rest).is_ok();
    if matches { Ok(()) } else { Err(AckError::Malformed) }
}

async fn acknowledge(tunnel: &ArcTunnel) -> Result<(), AckError> {
    let mut stream = tunnel.incoming().await?.accept().await?;
    let mut message = [0; MESSAGE_LEN];
    stream.recv.read_exact(&mut message).await?;
    let end = message.iter().position(|&byte| byte == 0).ok_or(AckError::Malformed)?;
    let answer = padded(&twice(&message[..end])).ok_or(AckError::Malformed)?;
    stream.send.write_all(&answer).await?;
    let _ended = stream.send.finish();
    Ok(())
}

fn twice(text: &[u8]) -> Vec<u8> {
    [text, b"/", text].concat()
}

/// A message with at least one zero at its end; `None` if the text is too long for that.
fn padded(text: &[u8]) -> Option<[u8; MESSAGE_LEN]> {
    let mut message = [0; MESSAGE_LEN];
    let room = message.get_mut(..text.len()).filter(|_| text.len() < MESSAGE_LEN)?;
    room.copy_from_slice(text);
    Some(message)
}

/// `snocat-` and the address, with what names do not have replaced.
fn name_of(remote: &str) -> TunnelName {
    let legal = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' };
    let text: String = format!("snocat-{remote}").chars().map(legal).collect();
    text.parse().unwrap_or_else(|_error| "snocat".parse().expect("a legal name"))
}
