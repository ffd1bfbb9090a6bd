//! The opener's end of a service.

use std::future::Future;

use super::{AnyError, OpenError, RouteAddress, open};
use crate::tunnel::{TunnelStream, TunnelUplink};

/// Speaks the protocol of some service, on a stream that the service has accepted.
///
/// ```
/// use snomesh::service::{Client, Request, RouteAddress};
/// use snomesh::tunnel::{ArcTunnel, TunnelStream};
///
/// /// Sends a text and takes what comes back.
/// struct Echo(&'static str);
///
/// impl Client for Echo {
///     type Response = Vec<u8>;
///     type Error = std::io::Error;
///
///     async fn handle(self, mut stream: TunnelStream) -> Result<Vec<u8>, std::io::Error> {
///         stream.send.write_all(self.0.as_bytes()).await?;
///         stream.send.finish()?;
///         let mut echoed = Vec::new();
///         tokio::io::AsyncReadExt::read_to_end(&mut stream.recv, &mut echoed).await?;
///         Ok(echoed)
///     }
/// }
///
/// async fn ask(tunnel: &ArcTunnel) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
///     let address: RouteAddress = "/echo".parse()?;
///     Ok(Request::new(address, Echo("hello")).send(tunnel).await?)
/// }
/// ```
pub trait Client: Send {
    /// What comes of it.
    type Response: Send;
    /// How it fails once the stream is open.
    type Error: Into<AnyError> + Send + 'static;

    /// Talks to the service until there is a response. Dropping the future gives the stream up.
    fn handle(self, stream: TunnelStream)
    -> impl Future<Output = Result<Self::Response, Self::Error>> + Send;
}

/// Something to ask of whoever serves an address at the other end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<C> {
    address: RouteAddress,
    client: C,
}

/// A request came to nothing. Except for [`OpenError::Closed`] the tunnel is unharmed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The service was not reached, or said no.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The client failed, as its own error says.
    #[error("the request failed")]
    Client(#[source] AnyError),
}

impl<C: Client> Request<C> {
    /// Prepares a request.
    pub fn new(address: RouteAddress, client: C) -> Self {
        Self { address, client }
    }

    /// Where it goes.
    pub fn address(&self) -> &RouteAddress {
        &self.address
    }

    /// Opens a stream to the service and has the client talk to it.
    ///
    /// # Errors
    ///
    /// [`RequestError`].
    pub async fn send(self, tunnel: &(impl TunnelUplink + Sync)) -> Result<C::Response, RequestError> {
        let stream = open(tunnel, &self.address).await?;
        self.client.handle(stream).await.map_err(|error| RequestError::Client(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{NEGOTIATION_TIMEOUT, Refusal, negotiation};
    use crate::tunnel::TunnelDownlink;
    use crate::tunnel::duplex::DuplexTunnel;

    /// Reads a byte and fails on a zero.
    #[derive(Debug, Clone)]
    struct NotZero;

    impl Client for NotZero {
        type Response = u8;
        type Error = String;

        async fn handle(self, mut stream: TunnelStream) -> Result<u8, String> {
            let mut byte = [0];
            stream.recv.read_exact(&mut byte).await.map_err(|error| error.to_string())?;
            if byte == [0] { Err("zero".into()) } else { Ok(byte[0]) }
        }
    }

    /// FEATURES S15, S19.
    #[tokio::test]
    async fn a_request_gives_the_clients_response_its_error_or_the_refusal() {
        let (near, far) = DuplexTunnel::pair();
        let request = Request::new("/byte".parse().unwrap(), NotZero);
        for byte in [Some(7), Some(0), None] {
            let serve = async {
                let stream = far.incoming().await.unwrap().accept().await.unwrap();
                let deadline = tokio::time::Instant::now() + NEGOTIATION_TIMEOUT;
                let (asked, offered) = negotiation::receive(stream, deadline).await.unwrap();
                assert_eq!(asked, *request.address());
                match byte {
                    Some(byte) => {
                        let mut stream = offered.accept().await.unwrap();
                        stream.send.write_all(&[byte]).await.unwrap();
                        stream.send.finish().unwrap();
                    }
                    None => offered.refuse(Refusal::Busy).await.unwrap(),
                }
            };
            let (outcome, ()) = tokio::join!(request.clone().send(&near), serve);
            match (byte, outcome) {
                (Some(7), Ok(7)) | (None, Err(RequestError::Open(OpenError::Refused(Refusal::Busy)))) => {}
                (Some(0), Err(RequestError::Client(error))) => assert_eq!(error.to_string(), "zero"),
                (_, outcome) => panic!("{byte:?}: {outcome:?}"),
            }
        }
    }
}
