//! The service before the targets that this node has declared.

use std::io;
use std::time::Instant;

use super::datagram::splice_datagrams;
use super::route::RouteTarget;
use super::splice::{SpliceError, splice, splice_vouched};
use super::target::{DialTargetError, Dialled, TargetTable};
use super::{OfferedStream, Refusal, RouteAddress, Service};
use crate::tunnel::{ArcTunnel, WriteError};

/// Forwards streams to the targets that this node has declared: `/target/<name>`, and `/tunnel/<name>/<id or any>`
/// for those that are registered under an id.
///
/// It connects before it accepts, so that the opener of a stream to a dead target is told so.
#[derive(Debug, Clone)]
pub struct TargetService {
    targets: TargetTable,
}

/// A stream was not forwarded to its end. It and the connection are reset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The target could not be reached; the opener was told so.
    #[error(transparent)]
    Dial(#[from] DialTargetError),
    /// The opener did not wait for the answer.
    #[error("cannot answer")]
    Answer(#[from] WriteError),
    /// The connection could not be set up.
    #[error("cannot set up the connection")]
    Setup(#[from] io::Error),
    /// One side broke off.
    #[error(transparent)]
    Splice(#[from] SpliceError),
}

impl TargetService {
    /// Serves the targets of this table, as it is at each moment.
    pub fn new(targets: TargetTable) -> Self {
        Self { targets }
    }
}

impl Service for TargetService {
    type Error = ProxyError;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        match RouteTarget::parse(address.segments()) {
            Some(RouteTarget::Target(..)) => true,
            Some(RouteTarget::Tunnel(name, id, _)) => self
                .targets
                .find(&name)
                .is_some_and(|declared| declared.id.is_some() && (id.is_none() || id == declared.id)),
            Some(RouteTarget::Via(..)) | None => false,
        }
    }

    async fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        _: ArcTunnel,
    ) -> Result<(), ProxyError> {
        let asked = match RouteTarget::parse(address.segments()) {
            Some(RouteTarget::Target(name, kind) | RouteTarget::Tunnel(name, _, kind)) => Some((name, kind)),
            Some(RouteTarget::Via(..)) | None => None,
        };
        let found = asked.and_then(|(name, kind)| Some((self.targets.find(&name)?.target, name, kind)));
        let Some((target, name, kind)) = found else {
            return Ok(stream.refuse(Refusal::NotFound).await?);
        };
        if target.kind() != kind {
            return Ok(stream.refuse(Refusal::OtherKind).await?);
        }
        let (begun, observer) = (Instant::now(), self.targets.observer());
        let dialled = self.targets.dial(&target).await;
        if let Some(observer) = observer {
            observer.dialled(&name, begun.elapsed(), dialled.is_ok());
        }
        let dialled = match dialled {
            Ok(dialled) => dialled,
            Err(error) => {
                let refusal = match error {
                    DialTargetError::Forbidden { .. } => Refusal::Refused,
                    _ => Refusal::TargetUnreachable,
                };
                stream.refuse(refusal).await?;
                return Err(error.into());
            }
        };
        if let Dialled::Stream(socket) = &dialled {
            socket.prepare()?;
        }
        let mut stream = stream.accept().await?;
        if let Some(observer) = observer {
            stream = stream.observed_by(observer.served(&name));
        }
        match dialled {
            Dialled::Stream(socket) => splice(socket, stream).await?,
            Dialled::Program(socket, mut running) => splice_vouched(socket, stream, running.ended()).await?,
            Dialled::Datagrams(socket) => splice_datagrams(&socket, stream).await?,
        }
        Ok(())
    }
}
